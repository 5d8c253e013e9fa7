"""Task options: timeout, retries, priority, names and profiles."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until

from mirai import (
    DaemonCrashed,
    MiraiError,
    TaskTimeout,
    daemons,
    mirai,
    on_daemon,
    status,
    use_profile,
)


@pytest.mark.usefixtures("dispatchers")
class TestTimeout:
    def test_a_running_task_is_stopped(self) -> None:
        with daemons(1):
            pid = mirai(os.getpid).result()
            future = mirai.options(timeout=0.1, name="nap")(time.sleep, 600)
            with pytest.raises(TaskTimeout, match="nap"):
                future.result(timeout=20)
            assert isinstance(future.exception(), TimeoutError)
            assert mirai(os.getpid).result(timeout=20) == pid

    def test_it_counts_from_submission(self, tmp_path: Path) -> None:
        with daemons(1):
            blocker = mirai(time.sleep, 600)
            future = mirai.options(timeout=0.1)((tmp_path / "ran").touch)
            assert isinstance(future.exception(timeout=20), TaskTimeout)
            blocker.cancel()
            assert mirai(abs, -1).result(timeout=20) == 1
        assert not (tmp_path / "ran").exists()

    def test_a_task_that_ends_in_time(self) -> None:
        with daemons(1):
            assert mirai.options(timeout=30)(abs, -1).result() == 1

    def test_a_coroutine_and_await(self) -> None:
        async def main() -> None:
            async with daemons(1):
                with pytest.raises(TaskTimeout):
                    await mirai.options(timeout=0.1)(asyncio.sleep, 600)
                assert await mirai(abs, -1) == 1

        asyncio.run(main())


def fail_until(path: Path, runs: int, how: Callable[[], Any]) -> int:
    """Fail in the way ``how`` in all runs before the last; return the number of this run."""
    with path.open("a") as file:
        file.write("x")
    run = len(path.read_text())
    if run < runs:
        how()
    return run


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_key_error() -> None:
    raise KeyError("not yet")


class TestRetries:
    @pytest.mark.thorough
    def test_after_the_daemon_died(self, tmp_path: Path) -> None:
        with daemons(1):
            task = mirai.options(retries=2)
            assert task(fail_until, tmp_path / "a", 3, kill_self).result(timeout=30) == 3
            error = task(fail_until, tmp_path / "b", 9, kill_self).exception(timeout=30)
            assert isinstance(error, DaemonCrashed)
            assert error.attempt == 3
            assert len((tmp_path / "b").read_text()) == 3

    def test_after_an_exception_that_is_named(self, tmp_path: Path) -> None:
        with daemons(2):
            task = mirai.options(retries=2, retry_on=LookupError)
            assert task(fail_until, tmp_path / "a", 3, raise_key_error).result(timeout=30) == 3
            error = task(fail_until, tmp_path / "b", 9, raise_key_error).exception(timeout=30)
            assert isinstance(error, KeyError)
            assert len((tmp_path / "b").read_text()) == 3

    def test_not_after_another_exception(self, tmp_path: Path) -> None:
        with daemons(1):
            task = mirai.options(retries=5, retry_on=(OSError, ValueError))
            error = task(fail_until, tmp_path / "a", 3, raise_key_error).exception(timeout=30)
            assert isinstance(error, KeyError)
            assert len((tmp_path / "a").read_text()) == 1

    def test_not_without_leave(self, tmp_path: Path) -> None:
        with daemons(1):
            error = mirai(fail_until, tmp_path / "a", 3, kill_self).exception(timeout=30)
            assert isinstance(error, DaemonCrashed)
            assert len((tmp_path / "a").read_text()) == 1


def test_priority(tmp_path: Path) -> None:
    def note(what: str) -> None:
        with (tmp_path / "log").open("a") as file:
            file.write(what)

    with daemons(1):
        blocker = mirai(time.sleep, 600)
        wait_until(lambda: status().executing == 1)
        for what, priority in [("c", 0), ("a", 9), ("d", -1), ("b", 9)]:
            mirai.options(priority=priority)(note, what)
        wait_until(lambda: status().awaiting == 4)
        blocker.cancel()
    assert (tmp_path / "log").read_text() == "abcd"


class TestProfiles:
    def test_two_pools_at_once(self) -> None:
        with daemons(1, profile="gpu") as gpu, daemons(1) as cpu:
            on_gpu = mirai.options(profile="gpu")
            gpu_pid, cpu_pid = on_gpu(os.getpid).result(), mirai(os.getpid).result()
            assert gpu_pid == gpu.status().daemons[0].pid
            assert cpu_pid == cpu.status().daemons[0].pid
            with use_profile("gpu"):
                assert mirai(os.getpid).result() == gpu_pid
                assert status().profile == "gpu"
                assert on_gpu.options(profile="default")(os.getpid).result() == cpu_pid
            assert mirai(os.getpid).result() == cpu_pid

    def test_daemons_inside_a_profile(self) -> None:
        with use_profile("mine"), daemons(1) as pool:
            assert pool.profile == "mine"
            assert mirai(abs, -1).profile == "mine"

    def test_each_thread_and_each_coroutine_has_its_own(self) -> None:
        async def pid_on(profile: str) -> int:
            with use_profile(profile):
                await asyncio.sleep(0)
                return await mirai(os.getpid)

        async def main() -> list[int]:
            return await asyncio.gather(pid_on("a"), pid_on("b"), pid_on("a"))

        with daemons(1, profile="a") as a, daemons(1, profile="b") as b:
            first, second, third = asyncio.run(main())
            assert first == third == a.status().daemons[0].pid
            assert second == b.status().daemons[0].pid
            seen: list[str] = []
            with use_profile("a"):
                thread = threading.Thread(target=lambda: seen.append(mirai(abs, 1).profile))
                with daemons(1, profile="default"):
                    thread.start()
                    thread.join()
            assert seen == ["default"]


class TestInsideATask:
    def test_it_knows_where_it_is(self) -> None:
        with daemons(1):
            assert mirai(on_daemon).result() is True
        assert on_daemon() is False

    def test_a_task_may_send_a_task_of_its_own(self) -> None:
        with daemons(1):
            assert mirai(lambda: mirai(abs, -3).result()).result(timeout=30) == 3

    def test_a_pool_inside_a_task_must_be_named(self) -> None:
        def unnamed() -> None:
            daemons(1)

        def named() -> int:
            with daemons(1, profile="inner"):
                return mirai.options(profile="inner")(abs, -4).result()

        with daemons(1):
            with pytest.raises(MiraiError, match="name the profile"):
                mirai(unnamed).result(timeout=30)
            assert mirai(named).result(timeout=30) == 4


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"timeout": 0}, ValueError),
        ({"timeout": -1}, ValueError),
        ({"timeout": float("nan")}, ValueError),
        ({"timeout": float("inf")}, ValueError),
        ({"timeout": "5"}, ValueError),
        ({"retries": -1}, ValueError),
        ({"retries": 1.5}, TypeError),
        ({"retries": 2**40}, ValueError),
        ({"retry_on": (KeyError,)}, ValueError),
        ({"retries": 1, "retry_on": ("KeyError",)}, TypeError),
        ({"priority": None}, TypeError),
        ({"name": 3}, TypeError),
        ({"profile": 3}, TypeError),
    ],
)
def test_what_makes_no_sense(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match=next(reversed(options))):
        mirai.options(**options)


def test_numbers_and_strings_may_be_of_any_subclass() -> None:
    """Only plain ones can travel; an odd one must not end the connection of all."""

    class Text(str):
        pass

    class Number(int):
        pass

    odd = mirai.options(
        timeout=np.float64(50),
        priority=Number(1),
        retries=Number(2),
        name=Text("t"),
        tags=[Text("a")],
    )
    with daemons(1, tags=[Text("a")]):
        assert odd(abs, -1).result() == 1
        assert mirai.options(timeout=10**20)(abs, -1).result() == 1
        assert mirai.options(timeout="50s")(abs, -1).result() == 1
