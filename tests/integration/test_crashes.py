"""Daemons that die, tasks that are cancelled: every future resolves, nothing runs twice."""

from __future__ import annotations

import contextlib
import ctypes
import operator
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until

from mirai import (
    DaemonCrashed,
    Mirai,
    MiraiError,
    TaskCancelled,
    daemons,
    everywhere,
    mirai,
    status,
)


def kill_self() -> None:
    print("the last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def leave() -> None:
    print("going", file=sys.stderr)
    os._exit(7)


def segfault() -> None:
    ctypes.string_at(0)


def running(pid: int) -> bool:
    """Return whether a process lives that is not a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


@pytest.mark.usefixtures("dispatchers")
class TestADaemonDies:
    @pytest.mark.parametrize(
        ("function", "exit_code", "signal_name", "output"),
        [
            (kill_self, None, "SIGKILL", "the last words"),
            (leave, 7, None, "going"),
            (segfault, None, "SIGSEGV", "Segmentation fault"),
        ],
    )
    def test_the_error_names_the_cause(
        self,
        function: Callable[[], None],
        exit_code: int | None,
        signal_name: str | None,
        output: str,
    ) -> None:
        with daemons(1):
            pid = mirai(os.getpid).result()
            error = mirai(function).exception(timeout=20)
            assert isinstance(error, DaemonCrashed)
            assert (error.exit_code, error.signal, error.pid) == (exit_code, signal_name, pid)
            assert output in error.output
            assert output in str(error)
            assert error.attempt == 1
            assert mirai(os.getpid).result(timeout=20) != pid
            assert status().cumulative == 2

    def test_what_had_not_started_runs_elsewhere_in_its_old_place(self, tmp_path: Path) -> None:
        """Tiny tasks are given out by the hundred; one in the middle kills the daemon."""
        log = tmp_path / "log"

        def note(i: int) -> int:
            with log.open("a") as file:
                file.write(f"{i}\n")
            if i == 700:
                os._exit(1)
            return i

        with daemons(1):
            futures = [mirai(note, i) for i in range(1_500)]
            errors = [i for i, f in enumerate(futures) if f.exception(timeout=30) is not None]
        ran = [int(line) for line in log.read_text().split()]
        assert ran == list(range(1_500))  # each once, and in order
        assert 700 in errors
        # Those that had ended, but whose answers had not left yet, are lost with their daemon.
        assert errors == list(range(errors[0], 701))

    def test_a_kill_from_outside_while_tasks_fly(self, tmp_path: Path) -> None:
        def note(i: int) -> int:
            with (tmp_path / str(os.getpid())).open("a") as file:
                file.write(f"{i}\n")
            return i

        rng = random.Random(1)
        with daemons(2):
            futures = [mirai(note, i) for i in range(4_000)]
            for _ in range(5):
                wait_until(lambda: status().connections >= 1)
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(rng.choice(status().daemons).pid, signal.SIGKILL)
            outcomes = [f.exception(timeout=30) for f in futures]
        ran = Counter(line for file in tmp_path.iterdir() for line in file.read_text().split())
        assert max(ran.values()) == 1
        for i, error in enumerate(outcomes):
            assert error is None or isinstance(error, DaemonCrashed)
            assert error is not None or ran[str(i)] == 1

    def test_its_children_die_with_it(self) -> None:
        def spawn() -> int:
            return subprocess.Popen(["sleep", "1000"]).pid

        with daemons(1):
            child = mirai(spawn).result()
            mirai(leave).exception(timeout=20)
            wait_until(lambda: not Path(f"/proc/{child}").exists())

    def test_a_forked_child_that_comes_back_is_no_second_daemon(self) -> None:
        with daemons(1):
            children = [mirai(os.fork).result(timeout=20) for _ in range(3)]
            assert all(children)
            for child in children:
                wait_until(lambda child=child: not running(child))

    def test_a_forked_child_does_not_keep_its_task_alive(self) -> None:
        def fork_and_die() -> None:
            if os.fork() == 0:
                os.setsid()
                time.sleep(2)
                os._exit(0)
            os._exit(9)

        with daemons(1):
            error = mirai(fork_and_die).exception(timeout=20)
            assert isinstance(error, DaemonCrashed)
            assert error.exit_code == 9

    def test_daemons_that_cannot_start(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("mirai._process._BOOT", _BROKEN_BOOT)
        with daemons(2):
            error = mirai(abs, -1).exception(timeout=30)
            assert isinstance(error, DaemonCrashed)
            assert "daemons in a row died before they could join" in str(error)
            assert "the module is broken" in error.output
            assert isinstance(mirai(abs, -1).exception(timeout=30), DaemonCrashed)

    def test_killing_every_daemon_again_and_again(self, tmp_path: Path) -> None:
        def work(begun: Path) -> None:
            begun.touch()
            time.sleep(600)

        with daemons(2):
            for i in range(5):
                begun = tmp_path / str(i)
                future = mirai(work, begun)
                wait_until(begun.exists)
                for daemon in status().daemons:
                    os.kill(daemon.pid, signal.SIGKILL)
                assert isinstance(future.exception(timeout=20), DaemonCrashed)
            assert mirai(abs, -1).result(timeout=20) == 1


_BROKEN_BOOT = (
    "import sys; module = '{module}'\n"
    "if 'daemon' in module: raise ImportError('the module is broken')\n"
    "r = sys.stdin.buffer.readline\n"
    r"sys.path[:] = r()[:-1].decode().split('\0')" + "\n"
    "from dispatcher.__main__ import main; main()\n"
)


def started(function: Callable[..., Any], *args: Any) -> Mirai[Any]:
    """Send a task, and return when it runs."""
    future = mirai(function, *args)
    wait_until(lambda: status().executing == 1)
    return future


@pytest.mark.usefixtures("dispatchers")
class TestCancel:
    def test_a_running_task_is_interrupted(self, tmp_path: Path) -> None:
        def work() -> None:
            try:
                (tmp_path / "begun").touch()
                time.sleep(600)
            except KeyboardInterrupt:
                (tmp_path / "interrupted").touch()
                raise

        with daemons(1):
            pid = mirai(os.getpid).result()
            future = mirai(work)
            wait_until((tmp_path / "begun").exists)
            assert future.cancel()
            assert future.cancelled()
            assert future.cancel()
            with pytest.raises(TaskCancelled):
                future.result()
            assert mirai(os.getpid).result(timeout=20) == pid
            assert (tmp_path / "interrupted").exists()

    @pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
    def test_a_call_that_begins_to_wait_as_the_signal_comes(self, tmp_path: Path) -> None:
        """No call is interrupted that comes after the signal and before the next bytecode."""

        def work() -> None:
            pause = ctypes.CDLL(None).pause  # which ends when a signal has come
            wait = partial(time.sleep, 600)
            (tmp_path / "begun").touch()
            deque(map(operator.call, [pause, wait]), maxlen=0)

        with daemons(1):
            pid = mirai(os.getpid).result()
            future = mirai(work)
            wait_until((tmp_path / "begun").exists)
            future.cancel()
            assert mirai(os.getpid).result(timeout=20) == pid

    def test_a_waiting_task_is_dropped(self, tmp_path: Path) -> None:
        with daemons(1):
            blocker = started(time.sleep, 600)
            waiting = mirai((tmp_path / "ran").touch)
            assert waiting.cancel()
            assert blocker.cancel()
            assert mirai(abs, -1).result(timeout=20) == 1
        assert not (tmp_path / "ran").exists()

    def test_a_task_that_has_ended(self) -> None:
        with daemons(1):
            future = mirai(abs, -1)
            assert future.result() == 1
            assert not future.cancel()
            assert future.result() == 1

    def test_a_coroutine(self, tmp_path: Path) -> None:
        async def work() -> None:
            import asyncio

            try:
                (tmp_path / "begun").touch()
                await asyncio.sleep(600)
            finally:
                (tmp_path / "left").touch()

        async def answer() -> int:
            return 42

        with daemons(1):
            pid = mirai(os.getpid).result()
            future = mirai(work)
            wait_until((tmp_path / "begun").exists)
            future.cancel()
            assert mirai(answer).result(timeout=20) == 42
            assert mirai(os.getpid).result() == pid
            assert (tmp_path / "left").exists()

    @pytest.mark.parametrize("by", ["handler", "except"])
    def test_one_that_does_not_leave_is_killed(self, by: str, tmp_path: Path) -> None:
        def ignore() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            (tmp_path / "begun").touch()
            time.sleep(600)

        def catch() -> None:
            while True:
                try:
                    (tmp_path / "begun").touch()
                    while True:
                        pass
                except BaseException:
                    (tmp_path / "caught").touch()
                    continue

        with daemons(1, grace=0.2):
            pid = mirai(os.getpid).result()
            future = mirai(ignore if by == "handler" else catch)
            wait_until((tmp_path / "begun").exists)
            future.cancel()
            assert mirai(os.getpid).result(timeout=20) != pid
            assert status().cumulative == 2
        assert (tmp_path / "caught").exists() == (by == "except")

    def test_the_interrupt_never_hits_the_next_task(self) -> None:
        """Cancel tasks at every moment of their short lives; the others must all succeed."""

        def spin() -> int:
            return sum(range(2_000))

        rng = random.Random(3)
        with daemons(2) as pool:
            pool.wait(2)
            for _ in range(30):
                futures = [mirai(spin) for _ in range(100)]
                doomed = rng.sample(futures, 30)
                for future in doomed:
                    future.cancel()
                for future in futures:
                    if not future.cancelled():
                        assert future.result(timeout=20) == spin()
            assert status().cumulative == 2

    def test_a_signal_that_is_for_no_task_stops_none(self) -> None:
        """Such as one that was meant for the task before."""
        with daemons(1):
            assert mirai(signal.raise_signal, signal.SIGINT).result(timeout=20) is None

    def test_one_that_has_not_begun_is_cancelled_alone(self, tmp_path: Path) -> None:
        def work() -> int:
            (tmp_path / "begun").touch()
            while not (tmp_path / "end").exists():
                time.sleep(0.001)
            return 42

        with daemons(1):
            future = mirai(work)
            wait_until((tmp_path / "begun").exists)
            behind = everywhere(abs, -1)  # which is not taken back from its daemon
            wait_until(lambda: status().daemons[0].tasks == 2)
            behind.cancel()
            wait_until(lambda: status().daemons[0].tasks == 1)
            (tmp_path / "end").touch()
            assert future.result(timeout=20) == 42

    @pytest.mark.parametrize("cleanup", [True, False])
    def test_after_a_task_has_taken_over_the_signal(self, tmp_path: Path, cleanup: bool) -> None:
        def take_over() -> None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)

        def work() -> None:
            (tmp_path / "begun").touch()
            time.sleep(600)

        with daemons(1, cleanup=cleanup):
            pid = mirai(os.getpid).result()
            mirai(take_over).result()
            future = mirai(work)
            wait_until((tmp_path / "begun").exists)
            future.cancel()
            assert mirai(os.getpid).result(timeout=20) == pid

    def test_cancelling_everything_frees_the_daemons(self) -> None:
        with daemons(2):
            futures = [mirai(time.sleep, 600) for _ in range(50)]
            for future in futures:
                future.cancel()
            assert mirai(abs, -1).result(timeout=20) == 1
            report = status()
            assert (report.awaiting, report.executing) == (0, 0)

    def test_cancel_from_many_threads(self) -> None:
        with daemons(1):
            future = started(time.sleep, 600)
            answers: list[bool] = []
            threads = [
                threading.Thread(target=lambda: answers.append(future.cancel())) for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert answers == [True] * 8


class TestBalance:
    def test_a_long_task_does_not_hold_up_those_behind_it(self, tmp_path: Path) -> None:
        """The same function, quick a thousand times and then slow once."""

        def maybe_slow(i: int) -> int:
            if i == 1_500:
                while not (tmp_path / "go").exists():
                    time.sleep(0.001)
            return i

        with daemons(2):
            futures = [mirai(maybe_slow, i) for i in range(3_000)]
            for i, future in enumerate(futures):
                if i != 1_500:
                    assert future.result(timeout=20) == i
            assert not futures[1_500].done()
            (tmp_path / "go").touch()
            assert futures[1_500].result(timeout=20) == 1_500

    def test_status_while_busy(self) -> None:
        with daemons(1):
            futures = [mirai(time.sleep, 600) for _ in range(3)]
            wait_until(lambda: status().executing == 1)
            report = status()
            assert (report.awaiting, report.executing, report.completed) == (2, 1, 0)
            assert report.daemons[0].state == "busy"
            assert "2 awaiting, 1 executing" in str(report)
            for future in futures:
                future.cancel()

    def test_a_task_of_a_pool_that_is_gone(self) -> None:
        pool = daemons(1)
        daemons(0)
        with pytest.raises(MiraiError, match="shut down"):
            pool.submit(abs, (-1,), {})
