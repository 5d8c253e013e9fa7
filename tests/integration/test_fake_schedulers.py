"""Schedulers that cannot be had here: programs of their names, in their place, really run jobs.

See ``tests/infra/fakes``.  Whether they behave as the schedulers' own do is not tested here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from clusters import INFRA, SEARCHED, Site, phase_of, state_of
from conftest import wait_until

from mirai import DaemonCrashed, daemons, everywhere, mirai
from mirai._errors import LaunchError
from mirai.launchers import (
    BatchLauncher,
    Handle,
    HTCondorLauncher,
    LSFLauncher,
    PBSLauncher,
    Phase,
    TorqueLauncher,
)

pytestmark = pytest.mark.servers


@dataclass(frozen=True)
class Kind:
    """A scheduler, and how to have it refuse jobs, or hold them back."""

    name: str
    launcher: type[BatchLauncher]
    strangers: tuple[str, ...]
    refused: dict[str, Any]
    refusal: str
    held: dict[str, Any]
    pending: str
    walltime: str | None = "3s"
    """What it ends a job after; None where that takes too long for a test."""


QUEUES: dict[str, dict[str, Any]] = {"refused": {"queue": "nosuch"}, "held": {"queue": "hold"}}
KINDS = [
    Kind(
        "pbs",
        PBSLauncher,
        ("999.fake", "998[1].fake"),
        refusal="Unknown queue",
        pending="Queue not started",
        **QUEUES,
    ),
    Kind(
        "torque",
        TorqueLauncher,
        ("999.fake", "998[1].fake"),
        refusal="cannot locate queue",
        pending="Q",
        **QUEUES,
    ),
    Kind(
        "lsf",
        LSFLauncher,
        ("999", "998[1]"),
        refusal="nosuch: No such queue",
        pending="The queue is inactivated",
        walltime=None,
        **QUEUES,
    ),
    Kind(
        "htcondor",
        HTCondorLauncher,
        ("999.0", "998.1"),
        refused={"account": "nosuch"},
        refusal="ERROR: nosuch",
        held={"requirements": "false"},
        pending="idle",
    ),
]


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kind:
    found: Kind = request.param
    programs = INFRA / "fakes" / found.name
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SCHEDULER", str(tmp_path / "scheduler"))
    monkeypatch.setenv("PYTHONPATH", SEARCHED)
    return found


@pytest.fixture
def site(kind: Kind, tmp_path: Path) -> Iterator[Site]:
    assert kind.name
    directory = tmp_path / "a launch's"
    directory.mkdir()
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        yield Site(pool, directory)


def job() -> str:
    return os.environ["MIRAI_JOB"]


def nap(begun: str) -> None:
    new = Path(f"{begun}.new")
    new.write_text(job())
    new.rename(begun)
    time.sleep(600)


def all_over(launcher: BatchLauncher, handles: list[Handle]) -> bool:
    return all(state.phase.is_over for state in launcher.poll(handles).values())


def test_an_array_runs_tasks(kind: Kind, site: Site) -> None:
    launcher = kind.launcher()
    handles = launcher.launch(site.order(3, "mirai-array"))
    site.pool.wait(3, 60)
    assert set(everywhere(job).collect()) == {handle.id for handle in handles}
    assert everywhere(os.getcwd).collect() == [os.getcwd()] * 3
    assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
    assert all("1 for tcp://" in launcher.log(handle) for handle in handles)
    launcher.terminate(handles)
    wait_until(lambda: all_over(launcher, handles))
    assert {state.phase for state in launcher.poll(handles).values()} == {Phase.CANCELLED}
    launcher.terminate(handles)


def test_a_single_job(kind: Kind, site: Site) -> None:
    launcher = kind.launcher()
    (handle,) = launcher.launch(site.order(1, "mirai-single"))
    assert mirai(job).result(60) == handle.id
    assert "1 for tcp://" in launcher.log(handle)
    site.pool.shutdown()
    wait_until(lambda: phase_of(launcher, handle) is Phase.ENDED)
    assert state_of(launcher, handle).exit == 0


def test_arrays_are_cut_to_what_the_site_allows(kind: Kind, site: Site) -> None:
    launcher = kind.launcher(max_array=2)
    handles = launcher.launch(site.order(3, "mirai-parts"))
    assert len(set(handles)) == len({handle.log for handle in handles}) == 3
    site.pool.wait(3, 60)
    launcher.terminate(handles)
    wait_until(lambda: all_over(launcher, handles))


def test_a_job_that_is_ended_takes_its_task_along(kind: Kind, site: Site, tmp_path: Path) -> None:
    launcher = kind.launcher()
    handles = launcher.launch(site.order(2, "mirai-end"))
    site.pool.wait(2, 60)
    begun = tmp_path / "begun"
    task = mirai(nap, str(begun))
    wait_until(begun.exists)
    victim = next(handle for handle in handles if handle.id == begun.read_text())
    launcher.terminate([victim])
    with pytest.raises(DaemonCrashed):
        task.result(60)
    wait_until(lambda: phase_of(launcher, victim) is Phase.CANCELLED)
    (other,) = (handle for handle in handles if handle != victim)
    assert phase_of(launcher, other) is Phase.RUNNING
    launcher.terminate([other])
    wait_until(lambda: all_over(launcher, handles))


def test_a_refusal_has_the_words_of_the_scheduler(kind: Kind, site: Site) -> None:
    with pytest.raises(LaunchError, match=kind.refusal):
        kind.launcher(**kind.refused).launch(site.order(3, "mirai-refused"))


def test_a_job_that_never_starts_says_why(kind: Kind, site: Site) -> None:
    launcher = kind.launcher(**kind.held)
    handles = launcher.launch(site.order(2, "mirai-never"))
    state = state_of(launcher, handles[0])
    assert state.phase is Phase.PENDING and kind.pending in state.detail
    launcher.recall("mirai-never")
    assert all_over(launcher, handles)
    launcher.recall("mirai-never")


def test_a_job_at_its_time_limit(kind: Kind, site: Site, tmp_path: Path) -> None:
    if kind.walltime is None:
        pytest.skip("its times are whole minutes")
    launcher = kind.launcher(walltime=kind.walltime)
    (handle,) = launcher.launch(site.order(1, "mirai-limit"))
    begun = tmp_path / "begun"
    task = mirai(nap, str(begun))
    with pytest.raises(DaemonCrashed):
        task.result(60)
    wait_until(lambda: phase_of(launcher, handle) is Phase.TIMEOUT)


def test_a_script_that_fails_says_so(kind: Kind, site: Site) -> None:
    launcher = kind.launcher(prologue=["echo no module called python >&2", "exit 7"])
    (handle,) = launcher.launch(site.order(1, "mirai-fails"))
    wait_until(lambda: phase_of(launcher, handle).is_over)
    state = state_of(launcher, handle)
    assert (state.phase, state.exit) == (Phase.FAILED, 7)
    assert launcher.log(handle) == "no module called python"


def test_a_launch_can_be_recalled_by_its_name(kind: Kind, site: Site) -> None:
    launcher = kind.launcher()
    handles = launcher.launch(site.order(2, "mirai-recalled"))
    others = launcher.launch(site.order(1, "mirai-other"))
    site.pool.wait(3, 60)
    launcher.recall("mirai-recalled")
    wait_until(lambda: all_over(launcher, handles))
    assert phase_of(launcher, others[0]) is Phase.RUNNING
    launcher.terminate(others)
    wait_until(lambda: all_over(launcher, others))


def test_what_is_not_known_is_unknown_and_can_be_ended(kind: Kind, site: Site) -> None:
    launcher = kind.launcher()
    (handle,) = launcher.launch(site.order(1, "mirai-known"))
    strangers = [replace(handle, id=id) for id in kind.strangers]
    site.pool.wait(1, 60)
    told = launcher.poll([*strangers, handle])
    assert [told[each].phase for each in strangers] == [Phase.UNKNOWN] * len(strangers)
    assert told[handle].phase is Phase.RUNNING
    launcher.terminate([*strangers, handle])
    wait_until(lambda: all_over(launcher, [handle]))
