"""Interrupts for a thread that is not the main one."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator

import pytest

from mirai._strike import Strike


@pytest.fixture
def eager() -> Iterator[None]:
    """Have threads take turns much more often than usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(usual)


def test_what_is_to_be_stopped_before_it_begins() -> None:
    strike, done = Strike(), []
    strike.at(1)
    with pytest.raises(KeyboardInterrupt):
        strike.call(1, lambda: done.append(1))
    strike.call(2, lambda: done.append(2))
    assert done == [2]
    assert not strike.is_sent


def test_what_has_ended_is_not_stopped() -> None:
    strike = Strike()
    assert strike.call(1, lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        strike.call(2, lambda: 1 // 0)
    strike.at(2)
    assert not strike.is_sent


def test_it_strikes_once() -> None:
    strike, struck, again = Strike(), threading.Event(), threading.Event()

    def swallow() -> str:
        try:
            while True:
                strike.at(1)
        except KeyboardInterrupt:
            struck.set()
        again.wait(15)
        return "done"

    told: list[str] = []
    thread = threading.Thread(target=lambda: told.append(strike.call(1, swallow)))
    thread.start()
    assert struck.wait(15)
    strike.at(1)
    again.set()
    thread.join()
    assert told == ["done"]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("error", [None, ValueError])
def test_it_hits_its_call_or_nothing(error: type[Exception] | None) -> None:
    strike, enough = Strike(), 30
    current, wanted, stopped, astray = [0], set(), set(), []

    def task() -> None:
        sum(range(300))
        if error is not None:
            raise error

    def run(id: int) -> None:
        """Do as a daemon does with a task."""
        current[0] = id
        try:
            strike.call(id, task)
        except KeyboardInterrupt:
            stopped.add(id)
        except ValueError:
            sum(range(10))

    def work() -> None:
        for id in itertools.count(1):
            try:
                run(id)
                if len(stopped) >= enough:
                    return
            except KeyboardInterrupt:
                astray.append(id)
                return

    thread = threading.Thread(target=work)
    thread.start()
    while thread.is_alive():
        id = current[0]
        wanted.add(id)
        strike.at(id)
        sum(range(100))
    assert astray == []
    assert stopped <= wanted
