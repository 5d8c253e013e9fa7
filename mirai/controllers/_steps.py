"""One way of waiting, written once, for threads and for event loops.

What waits is a generator that yields a ``Wait`` for each thing it waits for, and is sent whether
that has come in time; ``run`` blocks a thread for it, ``arun`` awaits it.  Where it is at work for
long it yields None now and then, so that an event loop can turn to others.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

from mirai._answer import Value
from mirai._future import Mirai, give_way

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a mirai to be settled, in whatever way; for so many seconds (None: for ever)."""

    mirai: Mirai[Any]
    timeout: float | None = None


Steps = Generator[Wait | None, bool, T]


def run(steps: Steps[T]) -> T:
    """Take the steps, blocking this thread."""
    try:
        wait = next(steps)
        while True:
            wait = steps.send(_block(steps, wait))
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


def _block(steps: Steps[Any], wait: Wait | None) -> bool:
    if wait is None:
        return True
    try:
        wait.mirai.exception(wait.timeout)
    except TimeoutError:
        return wait.mirai.done()
    except BaseException as error:  # Ctrl-C
        steps.throw(error)
        raise
    return True


async def arun(steps: Steps[T]) -> T:
    """Take the steps on the running event loop, asyncio's or trio's."""
    try:
        wait = next(steps)
        while True:
            wait = steps.send(await _await(steps, wait))
    except StopIteration as end:
        value: T = end.value
        return value
    finally:
        steps.close()


async def _await(steps: Steps[Any], wait: Wait | None) -> bool:
    import anyio

    try:
        if wait is None:
            await give_way()
            return True
        if wait.timeout is None:
            await _settled(wait.mirai)
            return True
        with anyio.move_on_after(wait.timeout):
            await _settled(wait.mirai)
        return wait.mirai.done() and not wait.mirai.cancelled()
    except BaseException as error:  # the waiting task is cancelled
        steps.throw(error)
        raise


async def _settled(mirai: Mirai[Any]) -> None:
    """Wait until a mirai is settled, without cancelling it if the waiting ends before."""
    proxy: Mirai[None] = Mirai(0, "settled")
    mirai.add_done_callback(lambda _: proxy.settle(Value(None)))
    await proxy
