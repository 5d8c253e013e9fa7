"""Daemons that are threads of this process."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, wait_until
from orders import launched, order_of, reaches, remote_pool

from mirai import (
    DaemonCrashed,
    LaunchError,
    RemoteError,
    TaskTimeout,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    on_daemon,
    status,
    task_generator,
)
from mirai.launchers import Order, Phase, ThreadLauncher

THREADS = ThreadLauncher()
gate = threading.Event()
"""Tasks are in this process: they can wait for a thing of it."""
begun = threading.Event()


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    gate.clear()
    begun.clear()
    yield
    gate.set()


def hold(x: int = 0) -> int:
    """Wait in C for the gate, if ``x`` is 0."""
    if x == 0:
        begun.set()
        gate.wait(60)
    return x


def loop() -> None:
    begun.set()
    while True:
        pass


async def nap() -> None:
    begun.set()
    await asyncio.sleep(600)


async def later(x: int) -> int:
    await asyncio.sleep(0)
    return x


def where() -> tuple[int, str, bool]:
    return os.getpid(), threading.current_thread().name, on_daemon()


def _names() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@pytest.mark.usefixtures("dispatchers")
def test_a_pool_of_threads_and_its_end() -> None:
    before = threading.enumerate()
    with daemons(2, launcher=THREADS) as pool:
        pool.wait(2, 15)
        jobs = {handle.id for handle in pool.launched()}
        pid, name, inside = mirai(where).result(15)
        assert (pid, name in jobs, inside) == (os.getpid(), True, True)
        assert not on_daemon()
        assert {daemon.job for daemon in status().daemons} == jobs
        assert mirai_map(abs, range(-2_000, 0)).collect() == list(range(2_000, 0, -1))
        assert {name for _, name, _ in everywhere(where).collect()} == jobs
        assert mirai(later, 7).result(15) == 7
    assert threading.enumerate() == before


def test_an_error_has_its_traceback() -> None:
    with daemons(1, launcher=THREADS):
        with pytest.raises(ValueError, match="invalid literal") as caught:
            mirai(int, "seven").result(15)
        assert "invalid literal" in str(caught.value.__cause__)
        with pytest.raises(RemoteError, match="SystemExit: 3"):
            mirai(_exit).result(15)
        assert mirai(abs, -1).result(15) == 1


def _exit() -> None:
    raise SystemExit(3)


@pytest.mark.usefixtures("dispatchers")
@pytest.mark.parametrize("task", [loop, nap])
def test_a_task_that_runs_is_interrupted_and_the_next_is_not(task: Any) -> None:
    with daemons(1, launcher=THREADS, grace=30):
        m, following = mirai(task), mirai(abs, -1)
        assert begun.wait(15)
        thread = [name for name in _names() if name.endswith("-0")]
        assert m.cancel()
        assert following.result(15) == 1
        assert mirai(later, 2).result(15) == 2
        assert [name for name in _names() if name.endswith("-0")] == thread


def test_timeout() -> None:
    with daemons(1, launcher=THREADS, grace=30):
        with pytest.raises(TaskTimeout):
            mirai.options(timeout=0.2)(loop).result(15)
        assert mirai(abs, -1).result(15) == 1


def test_many_short_tasks_some_of_which_are_cancelled() -> None:
    with daemons(2, launcher=THREADS, grace=30):
        tasks = [mirai(abs, -i) for i in range(2_000)]
        cancelled = {i for i in range(0, 2_000, 7) if tasks[i].cancel()}
        for i, task in enumerate(tasks):
            if i not in cancelled:
                assert task.result(15) == i


def test_what_waits_behind_a_long_task_is_handed_to_others() -> None:
    with daemons(1, launcher=THREADS) as pool:
        mirai_map(hold, range(1, 1_000)).collect()
        tasks = [mirai(hold, i) for i in range(50)]
        assert begun.wait(15)
        pool.launch(1)
        assert [task.result(15) for task in tasks[1:]] == list(range(1, 50))
        gate.set()
        assert tasks[0].result(15) == 0


@pytest.mark.thorough
def test_a_task_that_does_not_leave_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    with daemons(1, launcher=THREADS, grace=0.1) as pool:
        [first] = pool.launched()
        m = mirai(hold)
        assert begun.wait(15)
        m.cancel()
        assert mirai(where).result(15)[1] != first.id  # another has taken its place
        state = THREADS.poll([first])[first]
        assert (state.phase, state.detail) == (
            Phase.FAILED,
            "its task did not leave in time, and is left behind",
        )
        assert first.id in _names()
    assert first.id in _names()
    assert f"the thread {first.id} is left behind" in caplog.text
    gate.set()
    wait_until(lambda: first.id not in _names())


def test_the_end_of_a_pool_with_tasks_that_run(caplog: pytest.LogCaptureFixture) -> None:
    pool = daemons(2, launcher=THREADS)
    first = mirai(loop)
    assert begun.wait(15)
    begun.clear()
    second = mirai(hold)
    assert begun.wait(15)
    jobs = {handle.id for handle in pool.launched()}
    daemons(0)
    assert first.cancelled() and second.cancelled()
    left = jobs & set(_names())
    assert len(left) == 1
    assert f"the thread {left.pop()} is left behind" in caplog.text
    gate.set()
    wait_until(lambda: not jobs & set(_names()))


@pytest.mark.thorough
def test_limits() -> None:
    with daemons(1, launcher=THREADS, max_tasks=1) as pool:
        [first] = pool.launched()
        assert mirai(where).result(15)[1] == first.id
        assert mirai(where).result(15)[1] != first.id
        assert THREADS.poll([first])[first].phase is Phase.ENDED
    with daemons(1, launcher=THREADS, idle_time=0.1) as pool:
        [first] = pool.launched()
        wait_until(lambda: THREADS.poll([first])[first].phase is Phase.ENDED)
        assert mirai(abs, -1).result(15) == 1
    with daemons(1, launcher=THREADS, wall_time=0.3) as pool:
        [first] = pool.launched()
        wait_until(lambda: THREADS.poll([first])[first].phase is Phase.ENDED)


prepared: list[str] = []


def prepare() -> None:
    prepared.append(threading.current_thread().name)


def test_init_is_called_once_in_each() -> None:
    prepared.clear()
    with daemons(2, launcher=THREADS, init=prepare) as pool:
        pool.wait(2, 15)
        assert sorted(prepared) == sorted(handle.id for handle in pool.launched())
        mirai_map(abs, range(10)).collect()
    assert len(prepared) == 2


def fail() -> None:
    raise OSError("no such device")


def test_init_that_raises_fails_the_tasks_with_that() -> None:
    with daemons(1, launcher=THREADS, init=fail):
        with pytest.raises(DaemonCrashed, match="OSError: no such device") as caught:
            mirai(abs, -1).result(15)
        assert "in fail" in (caught.value.output or "")


def test_init_that_takes_for_ever_does_not_hold_up_the_end() -> None:
    before = threading.enumerate()
    daemons(1, launcher=THREADS, init=loop)
    assert begun.wait(15)
    daemons(0)
    assert threading.enumerate() == before


def test_a_task_draws_from_its_own_stream_and_leaves_ours_alone() -> None:
    state = random.getstate()
    drawn = []
    for count in (1, 2):
        with daemons(count, launcher=THREADS, seed=7):
            drawn.append(mirai_map(_draw, range(10)).collect())
    assert drawn[0] == drawn[1]
    assert random.getstate() == state


def _draw(_: int) -> float:
    return float(task_generator().random())


def test_tasks_of_tasks_use_the_pools_of_this_process() -> None:
    with daemons(2, launcher=THREADS), daemons(1, launcher=THREADS, profile="other"):
        assert mirai(_nested, -3, None).result(15) == 3
        assert mirai(_nested, -4, "other").result(15) == 4


def _nested(x: int, profile: str | None) -> int:
    m: Any = mirai.options(profile=profile)(abs, x)
    return int(m.result(15))


def test_a_client_that_comes_later_is_not_taken_for_a_task(tmp_path: Path) -> None:
    from mirai import connect

    with daemons(1, launcher=THREADS) as pool:
        pool.wait(1, 15)
        pool.connection_file(tmp_path / "client.json", role="client")
        with connect(tmp_path / "client.json", profile="guest"):
            first = mirai.options(profile="guest")(hold)
            assert begun.wait(15)
            second = mirai.options(profile="guest")(abs, -1)
            # As a task of the first, it would have failed: its only daemon waits for it.
            wait_until(lambda: second.done() or status("guest").awaiting == 1)
            gate.set()
            assert (first.result(15), second.result(15)) == (0, 1)


def test_tags() -> None:
    with daemons(1, launcher=THREADS, tags=("here",)):
        assert mirai.options(tags=("here",))(abs, -1).result(15) == 1


def _fork() -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return "the parent" if pid else "the child"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_task_that_forks_is_answered_once() -> None:
    with daemons(1, launcher=THREADS):
        assert mirai(_fork).result(15) == "the parent"
        assert mirai(abs, -1).result(15) == 1


@pytest.mark.parametrize("options", [{"env": {"A": "b"}}, {"cwd": "/"}])
def test_what_only_a_process_has_is_refused(options: dict[str, Any]) -> None:
    before = threading.enumerate()
    with pytest.raises(LaunchError, match="no env and no cwd"):
        daemons(1, launcher=THREADS, **options)
    assert threading.enumerate() == before


# ── the launcher alone ───────────────────────────────────────────────────────────────────


def test_states(tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 2)
        with launched(THREADS, order) as handles:
            pool.wait(2, 15)
            assert {state.phase for state in THREADS.poll(handles).values()} == {Phase.RUNNING}
            THREADS.terminate(handles[:1])
            assert THREADS.poll(handles)[handles[0]].phase is Phase.CANCELLED
            pool.shutdown()
            state = reaches(THREADS, handles[1], lambda state: state.phase.is_over)
            assert state.phase is Phase.ENDED
        THREADS.terminate(handles)  # once more does no harm


def test_a_launch_is_recalled_by_its_name(tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 2)
        handles = ThreadLauncher().launch(order)
        pool.wait(2, 15)
        ThreadLauncher().recall(order.name)
        assert not {handle.id for handle in handles} & set(_names())


def test_nobody_there_is_told(tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path)
        pool.shutdown()
        with launched(THREADS, order) as [handle]:
            state = reaches(THREADS, handle, lambda state: state.phase.is_over)
            assert (state.phase, state.detail) == (
                Phase.FAILED,
                "the dispatcher cannot be reached",
            )


def test_bad_keys_are_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="no connection file"):
        THREADS.launch(Order(1, "mirai-bad", '{"mirai": 1}', str(tmp_path)))


EXITS = """
from mirai import daemons, mirai, status
from mirai.launchers import ThreadLauncher
def loop():
    while True:
        pass
daemons(2, launcher=ThreadLauncher())
assert mirai(abs, -1).result(20) == 1
m = mirai(loop)
while status().executing != 1:
    pass
print("done", flush=True)
"""


def test_the_end_of_the_program_is_not_held_up(script: Script) -> None:
    program = script(EXITS)
    said, errors = program.communicate(timeout=30)
    assert (program.returncode, said.strip(), errors) == (0, "done", "")
