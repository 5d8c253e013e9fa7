"""What a daemon does with an interrupt, without a dispatcher."""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Iterator

import pytest

from dispatcher.ends import stream_pair
from dispatcher.line import Line
from dispatcher.messages import Function, Kind, Stop, Task, ToDaemon
from mirai._daemon import Daemon
from mirai._line_link import LineLink


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    former = signal.getsignal(signal.SIGINT)
    ours, theirs = stream_pair()
    it = Daemon(LineLink(Line(ours), "ipc://@mirai-test-nobody", ToDaemon), cleanup=False)
    it._evaluator.learn((Function(1, "abs", pickle.dumps(abs)),), ())
    yield it
    signal.signal(signal.SIGINT, former)
    it._link.close()
    os.close(theirs)


@pytest.mark.parametrize("target", [4, 5, 6])
def test_an_interrupt_that_comes_before_the_task_has_begun(daemon: Daemon, target: int) -> None:
    """It stops the task that it is meant for, and no other."""
    daemon._target = target
    outcome = daemon._evaluate(Task(5, 1, pickle.dumps(((-1,), {}))))
    assert outcome.kind is (Kind.CANCELLED if target == 5 else Kind.VALUE)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("news", ["mail", "leave"])
def test_it_does_not_sleep_over_what_the_main_thread_has_left(daemon: Daemon, news: str) -> None:
    """It was rung for, it may be, before it slept."""
    if news == "mail":
        daemon._mail.append(Stop())
        assert not daemon._turn()
    else:
        daemon._leaving = daemon._welcome = True
        assert daemon._turn()
        assert daemon._told
