"""``everywhere``: once on each daemon now, and on each that joins later."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest
from conftest import wait_until

from mirai import (
    DaemonCrashed,
    DispatcherLost,
    MiraiError,
    SerializationError,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    status,
)


def setup(value: str) -> int:
    os.environ["MIRAI_TEST"] = value
    return os.getpid()


def value() -> tuple[int, str | None]:
    return os.getpid(), os.environ.get("MIRAI_TEST")


def test_it_runs_once_on_each_daemon() -> None:
    with daemons(2):
        pids = everywhere(setup, "here").collect()
        assert sorted(pids) == sorted(daemon.pid for daemon in status().daemons)
        found = {mirai(value).result() for _ in range(10)}
        assert found <= {(pid, "here") for pid in pids}


def test_it_runs_on_later_daemons_before_their_first_task(tmp_path: Path) -> None:
    with daemons(1) as pool:
        (pid,) = everywhere(setup, "here").collect()
        with pytest.raises(DaemonCrashed):
            mirai(os._exit, 3).result()
        later, found = mirai(value).result()
        assert (later != pid, found) == (True, "here")
        pool.scale(3)
        pool.wait(3)

        def meet(name: str) -> tuple[int, str | None]:
            (tmp_path / name).touch()
            while len(list(tmp_path.iterdir())) < 3:
                time.sleep(0.01)
            return value()

        met = dict(mirai_map(meet, ["a", "b", "c"]).collect())
        assert (len(met), set(met.values())) == (3, {"here"})


def test_calls_are_made_in_order_and_before_the_tasks_that_follow() -> None:
    with daemons(2):
        first = everywhere(setup, "first")
        second = everywhere(setup, "second")
        assert {mirai(value).result()[1] for _ in range(10)} == {"second"}
        assert sorted(first.collect()) == sorted(second.collect())


def test_its_error_is_the_mirais() -> None:
    with daemons(2):
        with pytest.raises(ZeroDivisionError):
            everywhere(divmod, 1, 0).collect()
        assert mirai(abs, -1).result() == 1


def test_daemons_that_go_before_they_have_answered() -> None:
    with daemons(2):
        errors = [m.exception() for m in everywhere(os._exit, 7)]
        assert [type(error) for error in errors] == [DaemonCrashed] * 2


def test_a_task_that_is_running_is_not_disturbed(tmp_path: Path) -> None:
    def work() -> str | None:
        (tmp_path / "begun").touch()
        while not (tmp_path / "end").exists():
            time.sleep(0.01)
        return os.environ.get("MIRAI_TEST")

    with daemons(1):
        task = mirai(work)
        wait_until((tmp_path / "begun").exists)
        done = everywhere(setup, "here")
        assert not done[0].done()
        (tmp_path / "end").touch()
        assert task.result() is None
        assert len(done.collect()) == 1


def test_fewer_daemons_than_answers() -> None:
    """What will not be answered because the pool has shrunk is cancelled: nobody waits for ever."""
    with daemons(2) as pool:
        pool.wait(2)
        answers = everywhere(time.sleep, 0)
        pool.scale(0)
        assert all(answer.exception() is None or answer.cancelled() for answer in answers)


def test_it_wakes_daemons_that_have_left_for_idleness() -> None:
    with daemons(1, idle_time=0.05) as pool:
        pool.wait(1)
        wait_until(lambda: status().connections == 0)
        assert len(everywhere(setup, "here").collect()) == 1


def test_it_can_be_awaited() -> None:
    async def main() -> int:
        async with daemons(2):
            return len(await everywhere(setup, "here"))

    assert asyncio.run(main()) == 2


def test_in_sync_mode_the_caller_is_the_only_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAI_TEST", "")
    with daemons(sync=True):
        assert everywhere(setup, "here").collect() == [os.getpid()]
        assert mirai(value).result() == (os.getpid(), "here")


class TestRefusals:
    def test_without_daemons(self) -> None:
        with pytest.raises(MiraiError, match="no daemons are set"):
            everywhere(abs, 1)

    def test_what_cannot_be_called(self) -> None:
        with pytest.raises(TypeError, match="must be callable"):
            everywhere(3)  # type: ignore[call-overload]

    def test_what_cannot_be_pickled(self) -> None:
        with daemons(1), pytest.raises(SerializationError):
            everywhere(print, threading.Lock())

    def test_inside_a_task(self) -> None:
        with daemons(1), pytest.raises(MiraiError, match="inside a task"):
            mirai(everywhere, abs, 1).result()

    def test_too_many_different_calls(self) -> None:
        with daemons(1):
            for number in range(1_000):
                everywhere(abs, number)
            with pytest.raises(MiraiError, match="different calls"):
                everywhere(abs, -1)
            assert mirai(abs, -2).result() == 2

    def test_after_the_end(self) -> None:
        pool = daemons(1)
        daemons(0)
        with pytest.raises(DispatcherLost):
            pool.everywhere(abs, (1,), {})


def test_a_daemon_that_is_leaving_is_not_waited_for(tmp_path: Path) -> None:
    def work() -> None:
        while not (tmp_path / "end").exists():
            time.sleep(0.01)

    with daemons(2) as pool:
        pool.wait(2)
        for _ in range(2):
            mirai(work)
        wait_until(lambda: status().executing == 2)
        pool.scale(1)
        wait_until(lambda: any(daemon.state == "leaving" for daemon in status().daemons))
        answers = everywhere(os.getpid)
        (tmp_path / "end").touch()
        assert len(answers.collect()) == 1


def test_the_same_call_may_be_made_again_and_again() -> None:
    with daemons(1):
        for _ in range(1_100):
            answers = everywhere(abs, -1)
        assert answers.collect() == [1]
