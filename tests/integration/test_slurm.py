"""Daemons on a real Slurm of three nodes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import PATIENCE, SEARCHED, Site, ask, phase_of, queue, state_of
from conftest import wait_until
from test_readme import PRINTS, README, examples, run

from mirai import DaemonCrashed, daemons, everywhere, mirai, mirai_map
from mirai._errors import LaunchError
from mirai.controllers import Controller, Retry
from mirai.launchers import Handle, Phase, SlurmLauncher

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE + 60)]


@pytest.fixture
def site(slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    assert slurm.exists()
    monkeypatch.setenv("PYTHONPATH", SEARCHED)  # Slurm gives jobs our environment
    directory = tmp_path / "a launch's"
    directory.mkdir()
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        yield Site(pool, directory)
        ask("scancel", f"--user={os.getuid()}")
    wait_until(lambda: not queue())


def node() -> str:
    return os.environ["SLURMD_NODENAME"]


def job() -> str:
    return os.environ["MIRAI_JOB"]


def nap(begun: str) -> None:
    Path(begun).touch()
    time.sleep(600)


def test_an_array_of_three_runs_tasks_on_the_nodes(site: Site) -> None:
    launcher = SlurmLauncher(cpus=4)
    handles = launcher.launch(site.order(3, "mirai-array"))
    assert [handle.id.partition("_")[2] for handle in handles] == ["1", "2", "3"]
    site.pool.wait(3, 60)
    assert set(everywhere(node).collect()) == {"n1", "n2", "n3"}
    assert set(everywhere(job).collect()) == {handle.id for handle in handles}
    assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
    assert all("1 for tcp://" in launcher.log(handle) for handle in handles)
    launcher.terminate(handles)
    wait_until(lambda: not queue())


def test_a_single_job_needs_no_array(site: Site) -> None:
    launcher = SlurmLauncher()
    (handle,) = launcher.launch(site.order(1, "mirai-single"))
    assert handle.id.isdigit()
    assert mirai(job).result(60) == handle.id
    launcher.terminate([handle])
    wait_until(lambda: phase_of(launcher, handle).is_over)


def test_arrays_are_cut_to_what_the_site_allows(site: Site) -> None:
    launcher = SlurmLauncher(max_array=2)
    handles = launcher.launch(site.order(5, "mirai-parts"))
    assert len({handle.id.partition("_")[0] for handle in handles}) == 3
    assert len({handle.log for handle in handles}) == 5
    assert mirai_map(abs, [-1, -2, -3]).collect() == [1, 2, 3]
    launcher.terminate(handles)
    wait_until(lambda: not queue())


def test_a_job_that_is_cancelled_takes_its_task_along(site: Site, tmp_path: Path) -> None:
    launcher = SlurmLauncher()
    handles = launcher.launch(site.order(3, "mirai-cancel"))
    site.pool.wait(3, 60)
    begun = tmp_path / "begun"

    def where() -> str:
        begun.write_text(os.environ["MIRAI_JOB"])
        time.sleep(600)
        return ""

    task = mirai(where)
    wait_until(lambda: begun.exists() and begun.read_text())
    victim = next(handle for handle in handles if handle.id == begun.read_text())
    ask("scancel", "--signal=KILL", "--full", victim.id)
    with pytest.raises(DaemonCrashed):
        task.result(30)
    wait_until(lambda: phase_of(launcher, victim).is_over)
    others = [handle for handle in handles if handle is not victim]
    assert {state.phase for state in launcher.poll(others).values()} == {Phase.RUNNING}
    launcher.terminate(handles)


def test_scancel_is_told_as_such(site: Site) -> None:
    launcher = SlurmLauncher()
    (handle,) = launcher.launch(site.order(1, "mirai-told"))
    site.pool.wait(1, 60)
    ask("scancel", handle.id)
    wait_until(lambda: phase_of(launcher, handle) is Phase.CANCELLED)


def test_a_refusal_has_the_words_of_slurm(site: Site) -> None:
    with pytest.raises(LaunchError, match="invalid partition specified: nosuch"):
        SlurmLauncher(partition="nosuch").launch(site.order(3, "mirai-refused"))
    assert queue() == []


def test_a_part_that_is_refused_takes_the_others_back(
    site: Site, slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second array is refused, by an sbatch that is Slurm's own the first time only."""
    real = ask("sh", "-c", "command -v sbatch").strip()
    wrapper = tmp_path / "bin" / "sbatch"
    wrapper.parent.mkdir()
    mark = tmp_path / "once"
    wrapper.write_text(
        f'#!/bin/sh\n[ -e "{mark}" ] && exec {real} --parsable --partition=nosuch\n'
        f'touch "{mark}"\nexec {real} "$@"\n'
    )
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    with pytest.raises(LaunchError, match="nosuch"):
        SlurmLauncher(max_array=1).launch(site.order(2, "mirai-half"))
    assert mark.exists()
    wait_until(lambda: not queue())
    assert slurm.exists()


def test_a_job_at_its_time_limit(site: Site, tmp_path: Path) -> None:
    launcher = SlurmLauncher(walltime="1h")
    (handle,) = launcher.launch(site.order(1, "mirai-limit"))
    begun = tmp_path / "begun"
    task = mirai(nap, str(begun))
    wait_until(begun.exists)
    # Slurm counts in minutes, but for this; it looks every half a minute.
    ask("scontrol", "update", f"JobId={handle.id}", "EndTime=now")
    with pytest.raises(DaemonCrashed):
        task.result(60)
    wait_until(lambda: phase_of(launcher, handle) is Phase.TIMEOUT)


def test_a_job_that_never_starts_says_why(site: Site) -> None:
    launcher = SlurmLauncher()
    name = "mirai-never"
    ask("scontrol", "update", "PartitionName=debug", "State=DOWN")
    try:
        (handle,) = launcher.launch(site.order(1, name))
        wait_until(lambda: "PartitionDown" in state_of(launcher, handle).detail)
        assert phase_of(launcher, handle) is Phase.PENDING
        launcher.terminate([handle])
        wait_until(lambda: phase_of(launcher, handle) is Phase.CANCELLED)
    finally:
        ask("scontrol", "update", "PartitionName=debug", "State=UP")


def test_a_launch_can_be_recalled_by_its_name(site: Site) -> None:
    launcher = SlurmLauncher()
    launcher.launch(site.order(3, "mirai-recalled"))
    other = launcher.launch(site.order(1, "mirai-other"))
    launcher.recall("mirai-recalled")
    wait_until(lambda: queue() == [other[0].id])
    launcher.recall("mirai-nothing")
    launcher.terminate(other)


def test_what_slurm_does_not_know_is_unknown_and_can_be_ended(slurm: Path) -> None:
    assert slurm.exists()
    launcher = SlurmLauncher()
    stranger = Handle("999999", "mirai-stranger")
    assert phase_of(launcher, stranger) is Phase.UNKNOWN
    launcher.terminate([stranger])


def test_a_script_that_fails_says_so(site: Site) -> None:
    launcher = SlurmLauncher(prologue=["echo no module called python >&2", "exit 7"])
    (handle,) = launcher.launch(site.order(1, "mirai-fails"))
    wait_until(lambda: phase_of(launcher, handle) is Phase.FAILED)
    assert launcher.log(handle) == "no module called python"
    (state,) = launcher.poll([handle]).values()
    assert state.phase is Phase.FAILED


def test_a_server_that_is_not_there(
    slurm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert slurm.exists()
    wrong = tmp_path / "slurm.conf"
    wrong.write_text("Nonsense=1\n")
    monkeypatch.setenv("SLURM_CONF", str(wrong))
    with pytest.raises(LaunchError, match="unrecognized key: Nonsense"):
        SlurmLauncher().poll([Handle("1", "mirai-x")])


def test_a_controller_as_the_readme_has_it(site: Site, tmp_path: Path) -> None:
    assert site.pool.url
    [example] = [each for each in examples(README) if "slurm" in each.needs]
    done = run(example.code, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == PRINTS.findall(example.code)
    wait_until(lambda: not queue())


def test_a_controller_has_as_many_jobs_as_there_is_work(site: Site) -> None:
    assert site.pool.url
    launcher = SlurmLauncher()
    with Controller(launcher, workers=3, idle_time=1.0) as controller:
        controller.walk(time.sleep, [0.5] * 6)
        wait_until(lambda: len(queue()) == 3, 30)
        arrays = {handle.id.partition("_")[0] for handle in controller.launched()}
        assert len(arrays) == 1, "the jobs were not gathered into one array"
        assert controller.wait(timeout=60)
        workers = {result.worker for result in controller.collect()}
        assert workers <= {f"{next(iter(arrays))}_{index}" for index in (1, 2, 3)}
        wait_until(lambda: not queue(), 60)  # they have had nothing to do
        assert controller.push(node).result(60) in {"n1", "n2", "n3"}


def test_a_controllers_jobs_that_slurm_refuses_fail_its_tasks(site: Site) -> None:
    assert site.pool.url
    with Controller(SlurmLauncher(partition="nowhere"), workers=2) as controller:
        error = controller.push(node).exception(60)
        assert isinstance(error, DaemonCrashed)
        assert "partition" in str(error)


def test_a_controllers_pending_jobs_are_cancelled_when_nobody_needs_them(site: Site) -> None:
    assert site.pool.url
    launcher = SlurmLauncher(directives_extra=("--begin=now+1hour",))
    with Controller(launcher, workers=2, idle_time=0.5) as controller:
        future = controller.push(node)
        wait_until(lambda: len(queue()) == 1, 30)
        future.cancel()
        wait_until(lambda: not queue(), 60)


def test_a_job_that_is_cancelled_by_another_is_told_and_the_task_tried_again(
    site: Site, tmp_path: Path
) -> None:
    assert site.pool.url
    with Controller(SlurmLauncher(), workers=1, retry=Retry(crashes=1)) as controller:
        future = controller.push(nap_once, str(tmp_path / "begun"))
        wait_until((tmp_path / "begun").exists, 60)
        [handle] = controller.launched()
        ask("scancel", handle.id)
        assert future.result(60) == "again"
        result = controller.pop()
        assert result is not None
        assert "cancelled" in result.attempts[0].exit_reason
        assert result.worker != result.attempts[0].worker


def nap_once(begun: str) -> str:
    if Path(begun).exists():
        return "again"
    nap(begun)
    return "once"
