"""Daemons on a real Grid Engine of three slots."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import PATIENCE, Site, phase_of, prologue, state_of
from conftest import wait_until

from mirai import DaemonCrashed, daemons, everywhere, mirai
from mirai._errors import LaunchError
from mirai.launchers import Handle, Phase, SGELauncher

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE + 60)]
SLOTS = 3


def queue() -> list[str]:
    """Return the ids of the jobs that wait or run."""
    return [line.split()[0] for line in ask("qstat").splitlines()[2:]]


def ask(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def site(sge: Path, tmp_path: Path) -> Iterator[Site]:
    assert sge.exists()
    directory = tmp_path / "a launch"
    directory.mkdir()
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        yield Site(pool, directory)
        subprocess.run(["qdel", "-u", "*"], capture_output=True)
        wait_until(lambda: not queue(), 30)


@pytest.fixture
def launcher(mark: str) -> SGELauncher:
    assert mark
    return SGELauncher(prologue=prologue())


def job() -> str:
    return os.environ["MIRAI_JOB"]


def nap(begun: str) -> None:
    Path(begun).write_text(job())
    time.sleep(600)


def test_an_array_of_three_runs_tasks(site: Site, launcher: SGELauncher) -> None:
    handles = launcher.launch(site.order(3, "mirai-array"))
    assert [handle.id.partition(".")[2] for handle in handles] == ["1", "2", "3"]
    site.pool.wait(3, 60)
    assert set(everywhere(job).collect()) == {handle.id for handle in handles}
    assert everywhere(os.getcwd).collect() == [os.getcwd()] * 3
    assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
    assert all("1 for tcp://" in launcher.log(handle) for handle in handles)
    launcher.terminate(handles)
    wait_until(lambda: not queue(), 30)
    wait_until(
        lambda: {each.phase for each in launcher.poll(handles).values()} == {Phase.CANCELLED}
    )
    launcher.terminate(handles)


def test_a_single_job_needs_no_array(site: Site, launcher: SGELauncher) -> None:
    (handle,) = launcher.launch(site.order(1, "mirai-single"))
    assert handle.id.isdigit()
    assert mirai(job).result(60) == handle.id
    assert "1 for tcp://" in launcher.log(handle)
    site.pool.shutdown()
    wait_until(lambda: phase_of(launcher, handle) is Phase.ENDED)
    assert state_of(launcher, handle).exit == 0


def test_a_job_that_is_deleted_takes_its_task_along(
    site: Site, launcher: SGELauncher, tmp_path: Path
) -> None:
    handles = launcher.launch(site.order(3, "mirai-delete"))
    site.pool.wait(3, 60)
    begun = tmp_path / "begun"
    task = mirai(nap, str(begun))
    wait_until(lambda: begun.exists() and begun.read_text())
    victim = next(handle for handle in handles if handle.id == begun.read_text())
    ask("qdel", victim.id)
    with pytest.raises(DaemonCrashed):
        task.result(60)
    wait_until(lambda: phase_of(launcher, victim) is Phase.CANCELLED)
    others = [handle for handle in handles if handle is not victim]
    assert {state.phase for state in launcher.poll(others).values()} == {Phase.RUNNING}


def test_a_refusal_has_the_words_of_grid_engine(site: Site) -> None:
    with pytest.raises(LaunchError, match='job requests unknown queue "nosuch"'):
        SGELauncher(queue="nosuch").launch(site.order(3, "mirai-refused"))
    with pytest.raises(LaunchError, match='parallel environment "smp" does not exist'):
        SGELauncher(cpus=2).launch(site.order(1, "mirai-refused"))
    with pytest.raises(LaunchError, match='unknown resource "gpu"'):
        SGELauncher(gpus=1).launch(site.order(1, "mirai-refused"))
    assert queue() == []


def test_a_job_at_its_time_limit(site: Site, mark: str, tmp_path: Path) -> None:
    assert mark
    launcher = SGELauncher(prologue=prologue(), walltime=5)
    (handle,) = launcher.launch(site.order(1, "mirai-limit"))
    begun = tmp_path / "begun"
    task = mirai(nap, str(begun))
    wait_until(begun.exists)
    with pytest.raises(DaemonCrashed):
        task.result(60)
    wait_until(lambda: phase_of(launcher, handle) is Phase.TIMEOUT)
    assert "enforced h_rt" in state_of(launcher, handle).detail


def test_jobs_that_have_no_place_wait(site: Site, launcher: SGELauncher) -> None:
    handles = launcher.launch(site.order(SLOTS + 2, "mirai-many"))
    site.pool.wait(SLOTS, 60)
    states = launcher.poll(handles)
    assert [str(states[handle]) for handle in handles[SLOTS:]] == ["pending: qw"] * 2
    launcher.terminate(handles)
    wait_until(lambda: not queue(), 30)


def test_a_job_in_error_says_why(
    site: Site, launcher: SGELauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that a node does not have; the job would stay in the queue."""
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    order = site.order(1, "mirai-error")
    hold = SGELauncher(prologue=prologue(), directives_extra=["-h"])
    (handle,) = hold.launch(order)
    assert str(state_of(launcher, handle)) == "pending: hqw"
    gone.rmdir()
    monkeypatch.chdir(tmp_path)
    ask("qrls", handle.id)
    wait_until(lambda: phase_of(launcher, handle) is Phase.FAILED)
    assert "can't chdir to" in state_of(launcher, handle).detail
    launcher.terminate([handle])
    assert queue() == []


def test_a_launch_can_be_recalled_by_its_name(site: Site, launcher: SGELauncher) -> None:
    launcher.launch(site.order(3, "mirai-recalled"))
    (other,) = launcher.launch(site.order(1, "mirai-other"))
    launcher.recall("mirai-recalled")
    wait_until(lambda: set(queue()) == {other.id}, 30)
    launcher.recall("mirai-nothing")
    launcher.terminate([other])


def test_what_grid_engine_does_not_know_is_unknown_and_can_be_ended(
    sge: Path, launcher: SGELauncher
) -> None:
    assert sge.exists()
    strangers = [Handle("999999", "mirai-stranger"), Handle("999998.1", "mirai-stranger")]
    assert {state.phase for state in launcher.poll(strangers).values()} == {Phase.UNKNOWN}
    launcher.terminate(strangers)


def test_a_script_that_fails_says_so(site: Site) -> None:
    launcher = SGELauncher(prologue=["echo no module called python >&2", "exit 7"])
    (handle,) = launcher.launch(site.order(1, "mirai-fails"))
    wait_until(lambda: phase_of(launcher, handle) is Phase.FAILED)
    assert state_of(launcher, handle).exit == 7
    assert launcher.log(handle) == "no module called python"


def test_a_server_that_is_not_there(
    sge: Path, launcher: SGELauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sge.exists()
    monkeypatch.setenv("SGE_QMASTER_PORT", "1")
    with pytest.raises(LaunchError, match="unable to send message to qmaster"):
        launcher.poll([Handle("1", "mirai-x")])
