"""Daemons as calls of executors of several kinds."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any

import pytest
from conftest import MARK, Script, processes_marked, wait_until
from orders import connected, launched, order_of, reaches, remote_pool

from mirai import DaemonCrashed, LaunchError, daemons, mirai, mirai_map
from mirai.launchers import ExecutorLauncher, Order, Phase
from mirai.launchers._resident import Charge
from mirai.launchers.executor import run_daemon

pytestmark = pytest.mark.usefixtures("launch_home")


def _spawn(n: int) -> Executor:
    return ProcessPoolExecutor(n, mp_context=multiprocessing.get_context("spawn"))


def _loky(n: int) -> Executor:
    from loky import ProcessPoolExecutor  # type: ignore[import-untyped,unused-ignore]

    executor: Executor = ProcessPoolExecutor(n)
    return executor


KINDS = [
    pytest.param(ThreadPoolExecutor, id="threads"),
    pytest.param(_spawn, id="spawn", marks=pytest.mark.servers),
    pytest.param(_loky, id="loky", marks=pytest.mark.servers),
]


@pytest.fixture(autouse=True, scope="module")
def trackers() -> None:
    """Start the processes that are there for all executors of this one, and stay."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(MARK)
        resource_tracker.ensure_running()
        if importlib.util.find_spec("loky") is not None:
            from loky.backend import resource_tracker as other

            other.ensure_running()


@pytest.fixture(params=KINDS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    """Return an executor with two places."""
    if request.param is _loky and importlib.util.find_spec("loky") is None:
        pytest.skip("loky is not installed")
    with request.param(2) as executor:
        yield executor


def test_tasks_run_and_the_executor_is_left_as_it_was(executor: Executor) -> None:
    launcher = ExecutorLauncher(executor, env={"MIRAI_TEST_ANSWER": "42"})
    with daemons(2, url="tcp://127.0.0.1:0", launcher=launcher) as pool:
        pool.wait(2, 30)
        jobs = {handle.id for handle in pool.launched()}
        assert mirai(os.getenv, "MIRAI_JOB").result(10) in jobs
        assert mirai(os.getenv, "MIRAI_TEST_ANSWER").result(10) == "42"
        assert mirai_map(abs, range(-100, 0)).collect() == list(range(100, 0, -1))
        with pytest.raises(DaemonCrashed, match="SIGKILL"):
            mirai(_die).result(30)
        assert mirai(abs, -1).result(30) == 1
    assert list(executor.map(abs, [-1, -2, -3])) == [1, 2, 3]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_it_ends_what_it_has_started(executor: Executor, tmp_path: Path) -> None:
    launcher = ExecutorLauncher(executor)
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 4)
        with launched(launcher, order) as handles:
            pool.wait(2, 30)
            first, *others = [h for h in handles if launcher.poll([h])[h].phase is Phase.RUNNING]
            launcher.terminate([first])  # and one that has waited gets the place
            assert launcher.poll([first])[first].phase is Phase.CANCELLED
            wait_until(lambda: connected(pool) == 2, 30)
            assert launcher.poll(others)[others[0]].phase is Phase.RUNNING
            launcher.recall(order.name)
            phases = {state.phase for state in launcher.poll(handles).values()}
            assert phases == {Phase.CANCELLED}
            wait_until(lambda: connected(pool) == 0)
        order = order_of(pool, tmp_path)
        with launched(launcher, order) as [handle]:
            pool.wait(1, 30)
            pool.shutdown()
            state = reaches(launcher, handle, lambda state: state.phase.is_over)
            assert (state.phase, state.exit) == (Phase.ENDED, 0)


def test_scale_down() -> None:
    with (
        ThreadPoolExecutor(2) as executor,
        daemons(2, launcher=ExecutorLauncher(executor)) as pool,
    ):
        pool.wait(2, 30)
        pool.scale(1)
        wait_until(lambda: len(pool.status().daemons) == 1)
        assert executor.submit(abs, -1).result(30) == 1


@pytest.mark.servers
def test_a_worker_that_is_killed_takes_its_daemon_with_it() -> None:
    with (
        _spawn(1) as executor,
        daemons(1, launcher=ExecutorLauncher(executor)) as pool,
    ):
        pool.wait(1, 30)
        [handle] = pool.launched()
        m = mirai(_hang)
        wait_until(lambda: pool.status().executing == 1)
        [worker] = multiprocessing.active_children()
        worker.kill()
        with pytest.raises(DaemonCrashed, match=f"its job {handle.id} has ended, failed: Broken"):
            m.result(30)
        with pytest.raises(DaemonCrashed, match=r"no others can be launched: .*BrokenProcessPool"):
            mirai(abs, -1).result(30)


def _hang() -> None:
    threading.Event().wait(600)


def test_an_executor_that_takes_no_more_is_an_error_at_once() -> None:
    executor = ThreadPoolExecutor(1)
    executor.shutdown()
    with pytest.raises(LaunchError, match="cannot schedule new futures after shutdown"):
        daemons(1, launcher=ExecutorLauncher(executor))


def test_calls_for_which_there_is_no_place_are_cancelled_at_once(tmp_path: Path) -> None:
    free = threading.Event()
    with remote_pool() as pool, ThreadPoolExecutor(1) as executor:
        executor.submit(free.wait, 60)
        launcher = ExecutorLauncher(executor)
        with launched(launcher, order_of(pool, tmp_path, 2)) as handles:
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.PENDING}
            launcher.terminate(handles)  # not while the place is taken, which is for ever
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.CANCELLED}
        free.set()


def test_what_cannot_be_pickled_is_told(tmp_path: Path) -> None:
    class Strange(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(TypeError("cannot pickle"))
            return future

    launcher = ExecutorLauncher(Strange())
    order = Order(1, "mirai-strange", "SECRET", str(tmp_path))
    with launched(launcher, order) as [handle]:
        state = launcher.poll([handle])[handle]
        assert (state.phase, state.detail) == (Phase.FAILED, "TypeError: cannot pickle")


def test_what_gives_no_future_is_an_error(tmp_path: Path) -> None:
    class Strange:
        def submit(self, *_: Any) -> int:
            return 7

    order = Order(1, "mirai-strange", "SECRET", str(tmp_path))
    with pytest.raises(LaunchError, match=r"no concurrent\.futures\.Future, but 7"):
        ExecutorLauncher(Strange()).launch(order)
    with pytest.raises(TypeError, match="must have a method submit"):
        ExecutorLauncher(7)
    with pytest.raises(TypeError, match="env must hold strings"):
        ExecutorLauncher(Strange(), env={"A": 1})  # type: ignore[dict-item]


def test_a_worker_that_does_not_see_our_files_runs_a_daemon(tmp_path: Path) -> None:
    charge = Charge("mirai-far-0", '{"mirai": 1}')
    end = run_daemon(charge, str(tmp_path / "nowhere" / "sign"), str(tmp_path / "nowhere" / "log"))
    assert (end.exit, end.error) == (1, "")
    assert "no connection file" in end.said


def test_one_that_was_told_to_end_before_it_has_begun(tmp_path: Path) -> None:
    end = run_daemon(Charge("mirai-late-0", "SECRET"), str(tmp_path / "sign"), "")
    assert end.error == "it was told to end before it had begun"


EXITS = """
import multiprocessing, warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from mirai import daemons, mirai
from mirai.launchers import ExecutorLauncher
if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of forks in a process with threads
    executor = {executor}
    pool = daemons(2, launcher=ExecutorLauncher(executor))
    pool.wait(2, 30)
    assert mirai(abs, -1).result(30) == 1
    print("done", flush=True)
"""
METHODS = multiprocessing.get_all_start_methods()
EXECUTORS = [
    pytest.param("ThreadPoolExecutor(2)", id="threads"),
    *(
        pytest.param(
            f"ProcessPoolExecutor(2, multiprocessing.get_context({method!r}))",
            id=method,
            marks=pytest.mark.servers,
        )
        for method in METHODS
    ),
]


@pytest.mark.parametrize("executor", EXECUTORS)
def test_the_end_of_the_program_is_not_held_up(executor: str, script: Script, mark: str) -> None:
    program = script(EXITS.format(executor=executor))
    said, errors = program.communicate(timeout=50)
    assert (program.returncode, said.strip(), errors) == (0, "done", "")
    wait_until(lambda: not processes_marked(mark))
