"""The synchronous mode: the same code, evaluated by the caller."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Script, processes_marked

from mirai import (
    MiraiError,
    RemoteError,
    SerializationError,
    TaskTimeout,
    daemons,
    mirai,
    mirai_map,
    race,
    status,
)


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    with daemons(sync=True):
        yield


def program() -> list[Any]:
    """A piece of code that gives the same with and without daemons."""

    def boom() -> None:
        raise LookupError("here")

    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    error = mirai(boom).exception()
    leave = mirai(sys.exit, 3).exception()
    tries = mirai.options(retries=2, retry_on=LookupError)(boom).exception()
    return [
        mirai(pow, 2, 10).result(),
        mirai(double, 4).result(),
        mirai_map(lambda x, y: x + y, [1, 2], args=(10,)).collect(),
        race([mirai(abs, -1)]).result(),
        (type(error), str(error), "in boom" in str(error.__cause__)),
        (type(leave), str(leave).splitlines()[0]),
        type(tries),
    ]


def test_the_same_as_with_daemons() -> None:
    here = program()
    with daemons(2):
        assert program() == here


def test_it_happens_here_and_now(mark: str) -> None:
    seen: list[tuple[int, str]] = []

    def note() -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    future = mirai(note)
    assert future.done()
    seen.append(future.result())
    assert seen == [(os.getpid(), threading.current_thread().name)]
    assert not processes_marked(mark)
    assert (status().completed, status().url) == (1, "sync")


def test_arguments_and_results_are_copies() -> None:
    def change(numbers: list[int]) -> list[int]:
        numbers.append(3)
        return numbers

    mine = [1, 2]
    assert mirai(change, mine).result() == [1, 2, 3]
    assert mine == [1, 2]
    with pytest.raises(SerializationError):
        mirai(change, threading.Lock())
    assert isinstance(mirai(threading.Lock).exception(), SerializationError)


def test_a_timeout_is_noticed_at_the_end() -> None:
    future = mirai.options(timeout=0.01)(time.sleep, 0.02)
    assert isinstance(future.exception(), TaskTimeout)


def test_ctrl_c_is_the_callers() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirai(interrupt)
    assert mirai(abs, -1).result() == 1


def test_a_task_may_send_tasks() -> None:
    assert mirai(lambda: mirai(abs, -3).result() + 1).result() == 4


def test_on_an_event_loop() -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def main() -> tuple[int, int]:
        async with daemons(4, sync=True):
            return await mirai(double, 4), await mirai(abs, -1)

    assert asyncio.run(main()) == (8, 1)


def test_afterwards_it_is_closed() -> None:
    pool = daemons(sync=True, profile="other")
    pool.shutdown()
    with pytest.raises(MiraiError):
        pool.submit(abs, (-1,))
    with pytest.raises(MiraiError, match="no daemons"):
        status("other")


def test_a_breakpoint(script: Script) -> None:
    process = script(
        "from mirai import mirai, daemons\n"
        "def f(x):\n    y = x + 1\n    breakpoint()\n    return y\n"
        "with daemons(sync=True): print('got', mirai(f, 41).result())\n"
    )
    out, err = process.communicate("p y\nc\n", timeout=30)
    assert "42" in out
    assert out.rstrip().endswith("got 42")
    assert err == ""


def test_errors_that_are_told_are_told_here_too() -> None:
    def fail() -> None:
        raise BaseException("no exception")

    assert isinstance(mirai(fail).exception(), RemoteError)
