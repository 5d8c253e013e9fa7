"""Workers that measure themselves, and do all else as ever."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import processes_marked, wait_until

from mirai import MiraiError
from mirai.controllers import Controller, MetricsLog, Sample

pytest.importorskip("psutil")

MIB = 2**20


def stay(gate: str, size: int = 0) -> int:
    """Have so many bytes until a file is there."""
    held = bytes(range(256)) * (size // 256)
    while not os.path.exists(gate):
        time.sleep(0.002)
    return len(held)


def seen(log: MetricsLog, matches: Callable[[Sample], object]) -> bool:
    """Whether there is such a sample by now."""
    return os.path.exists(log.directory) and any(map(matches, log.read()))


def last_of(log: MetricsLog, worker: str) -> Sample:
    """Return the latest sample of a worker."""
    return [each for each in log.read() if each.worker == worker][-1]


def sampled(directory: str) -> int:
    """Return the number of the process that this is called by, once it was sampled."""
    wait_until(lambda: seen(MetricsLog(directory), lambda each: each.pid == os.getpid()))
    return os.getpid()


def samplers() -> list[threading.Thread]:
    """Return the threads of this process that take samples."""
    return [each for each in threading.enumerate() if each.name == "mirai-metrics"]


@pytest.fixture
def log(tmp_path: Path) -> MetricsLog:
    return MetricsLog(tmp_path / "metrics", interval=0.05)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


def test_each_worker_tells_what_it_takes_and_for_which_task(
    log: MetricsLog, gate: Path, mark: str
) -> None:
    with Controller(workers=2, metrics=log) as controller:
        controller.options(name="small").push(stay, str(gate))
        controller.options(name="large").push(stay, str(gate), size=200 * MIB)
        wait_until(lambda: seen(log, lambda each: each.task == "small"))
        wait_until(lambda: seen(log, lambda e: e.task == "large" and e.resident > 200 * MIB))
        wait_until(lambda: seen(log, lambda each: each.worker.startswith("host/")))
        gate.touch()
        workers = {result.worker for result in controller.collect(wait=True)}
        for worker in workers:
            wait_until(lambda worker=worker: last_of(log, worker).task == "")
    assert samplers() == []
    wait_until(lambda: not processes_marked(mark))

    samples = log.read()
    assert {each.worker for each in samples if each.task} == workers
    assert {each.worker for each in samples} == {*workers, f"host/{samples[0].host}/{os.getpid()}"}
    assert all(each.resident > MIB and each.virtual > each.resident for each in samples)
    assert {each.pid for each in samples if each.worker.startswith("host/")} == {os.getpid()}

    summary = log.summary()
    assert {each.name for each in summary.tasks} == {"small", "large"}
    large = max(summary.tasks, key=lambda each: each.resident_max)
    assert large.name == "large" and large.resident_max > 200 * MIB
    assert "large" in str(summary)


@pytest.fixture(scope="module")
def fonts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have matplotlib open its font, which it does once: that is no leak of a test."""
    pytest.importorskip("matplotlib")
    MetricsLog(tmp_path_factory.mktemp("nothing")).plot(tmp_path_factory.mktemp("a") / "a.png")


@pytest.mark.thorough
@pytest.mark.usefixtures("fonts")
def test_they_are_drawn(log: MetricsLog, gate: Path, tmp_path: Path) -> None:
    with Controller(metrics=log) as controller:
        controller.options(name="task").push(stay, str(gate))
        wait_until(lambda: seen(log, lambda each: each.task == "task"))
        gate.touch()
    figure = log.plot(tmp_path / "metrics.png")
    assert {line.get_label() for line in figure.axes[0].lines} == {e.worker for e in log.read()}
    assert (tmp_path / "metrics.png").stat().st_size > 1_000


def test_init_is_still_called(log: MetricsLog, tmp_path: Path) -> None:
    with Controller(metrics=log, init=(tmp_path / "called").touch) as controller:
        controller.push(sampled, log.directory)
    assert (tmp_path / "called").exists()


def test_a_directory_that_cannot_be_does_no_harm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    log = MetricsLog(tmp_path / "file" / "metrics", interval=0.05)
    with Controller(metrics=log) as controller:
        controller.push(os.getpid)
        controller.push(os.getpid)
        assert all(result.ok for result in controller.collect(wait=True))
    assert len(caplog.records) == 1
    assert samplers() == []


def test_a_task_that_forks_does_so_in_peace(log: MetricsLog) -> None:
    with Controller(metrics=log, min_workers=1) as controller:
        controller.push(_fork, log.directory)
        result = controller.pop(timeout=None)
        assert result is not None and result.unwrap() == 0
    assert len({each.pid for each in log.read()}) == 2


def _fork(directory: str) -> int:
    """Return how a child has ended that ends as interpreters do, once its parent was sampled."""
    sampled(directory)
    child = os.fork()
    if not child:
        import atexit

        atexit._run_exitfuncs()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_without_workers_the_host_is_measured(log: MetricsLog) -> None:
    with Controller(metrics=log, sync=True) as controller:
        controller.options(name="task").push(sampled, log.directory)
        result = controller.pop()
    assert result is not None and result.unwrap() == os.getpid()
    assert {each.worker for each in log.read()} == {f"host/{result.host}/{os.getpid()}"}
    assert samplers() == []


def test_a_host_that_is_not_wanted_is_not_measured(log: MetricsLog) -> None:
    log = MetricsLog(log.directory, log.interval, host=False)
    with Controller(metrics=log) as controller:
        controller.push(sampled, log.directory)
        result = controller.pop(timeout=None)
        assert samplers() == []
    assert result is not None
    assert {each.pid for each in log.read()} == {result.unwrap()}


def test_a_worker_that_ends_in_peace_has_a_last_sample(log: MetricsLog) -> None:
    rare = MetricsLog(log.directory, interval="1h")
    with Controller(metrics=rare) as controller:
        controller.push(sampled, log.directory)
    assert [each.samples for each in rare.summary().workers] == [2, 2]


def test_a_controller_that_begins_anew_is_measured_again(log: MetricsLog) -> None:
    controller = Controller(metrics=log)
    for _ in range(2):
        controller.push(sampled, log.directory)
        result = controller.pop(timeout=None)
        assert result is not None and result.ok
        controller.terminate()
        assert samplers() == []
    assert len({each.pid for each in log.read()}) == 3


def test_a_host_without_psutil_cannot_begin_and_can_once_it_has_it(
    log: MetricsLog, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = Controller(metrics=log, min_workers=1)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "psutil", None)
        with pytest.raises(MiraiError, match="psutil"):
            controller.push(os.getpid)
        wait_until(lambda: not processes_marked(mark))
    with controller:
        controller.push(sampled, log.directory)
        assert controller.collect(wait=True).ok
    assert samplers() == []
