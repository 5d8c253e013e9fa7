"""Daemons that are in a task and do not answer: stalled, and not dead."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import wait_until

from dispatcher import core
from mirai import TaskCancelled, daemons, mirai, status

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes")


def hold(pipe: str) -> int:
    """Keep the interpreter's lock, in a call in C, until somebody writes into the pipe."""
    fd = os.open(pipe, os.O_RDWR)
    Path(pipe + " is read").touch()
    ctypes.PyDLL(None).read(fd, ctypes.create_string_buffer(1), 1)
    os.close(fd)
    return os.getpid()


def hold_for(seconds: int) -> int:
    ctypes.PyDLL(None).sleep(seconds)
    return os.getpid()


def is_in_state(state: str) -> Callable[[], bool]:
    return lambda: [daemon.state for daemon in status().daemons] == [state]


@pytest.fixture
def pipe(tmp_path: Path) -> str:
    os.mkfifo(tmp_path / "pipe")
    return str(tmp_path / "pipe")


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have dispatchers in this process look often, and be impatient."""
    monkeypatch.setattr(core, "LOOK", 0.1)
    monkeypatch.setattr(core, "STALL", 0.1)


@pytest.mark.usefixtures("soon")
def test_a_daemon_that_holds_the_lock_is_stalled_and_lives(pipe: str) -> None:
    with daemons(1, dispatcher=False):
        held, waiting = mirai(hold, pipe), mirai(os.getpid)
        wait_until(is_in_state("stalled"))
        look = status()
        assert (look.executing, look.awaiting) == (1, 1)
        assert look.daemons[0].task.startswith("test_stalled.hold")
        assert look.why[0].startswith("the only daemon is stalled")
        Path(pipe).write_bytes(b"x")
        pid = look.daemons[0].pid
        assert (held.result(), waiting.result()) == (pid, pid)
        assert is_in_state("idle")()
        assert status().why == ()


@pytest.mark.usefixtures("soon")
def test_one_that_is_heard_again_is_not_stalled_any_more() -> None:
    with daemons(1, dispatcher=False):
        sleeping = mirai(time.sleep, 600)
        wait_until(is_in_state("busy"))
        pid = status().daemons[0].pid
        os.kill(pid, signal.SIGSTOP)
        wait_until(is_in_state("stalled"))
        os.kill(pid, signal.SIGCONT)
        wait_until(is_in_state("busy"))  # it answers in the middle of its task
        sleeping.cancel()


@pytest.mark.usefixtures("soon")
def test_a_cancelled_task_is_killed_with_its_daemon_after_the_grace_time(pipe: str) -> None:
    with daemons(1, dispatcher=False, grace=0.3):
        held = mirai(hold, pipe)
        wait_until(Path(pipe + " is read").exists)  # before, it may be slow as well
        wait_until(is_in_state("stalled"))
        pid = status().daemons[0].pid
        assert held.cancel()
        with pytest.raises(TaskCancelled):
            held.result()
        assert mirai(os.getpid).result(20) != pid
        assert not Path(f"/proc/{pid}").exists()


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_a_minute_in_c_is_survived() -> None:
    with daemons(1):
        held = mirai(hold_for, 60)
        wait_until(is_in_state("stalled"), 30)
        pid = status().daemons[0].pid
        assert held.result() == pid
        wait_until(is_in_state("idle"))
        assert (status().daemons[0].pid, status().cumulative) == (pid, 1)
