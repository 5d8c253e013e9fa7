"""Awaiting a mirai on trio."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import trio

if TYPE_CHECKING:
    from mirai._future import Mirai


def wait(mirai: Mirai[Any]) -> Generator[Any, None, None]:
    """Wait until ``mirai`` is settled; cancel it if the waiting is cancelled."""
    return _wait(mirai).__await__()


async def _wait(mirai: Mirai[Any]) -> None:
    token = trio.lowlevel.current_trio_token()
    done = trio.Event()

    def wake(_: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # nobody waits any more
            token.run_sync_soon(done.set)

    mirai.add_done_callback(wake)
    try:
        await done.wait()
    except trio.Cancelled:
        mirai.cancel()
        raise


def is_running() -> bool:
    """Return whether this is trio's thread, inside ``trio.run``."""
    return trio.lowlevel.in_trio_run()


async def shielded(mirai: Mirai[Any]) -> None:
    """Wait until ``mirai`` is settled, also in a scope that is cancelled."""
    with trio.CancelScope(shield=True):
        await mirai
