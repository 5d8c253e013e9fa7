"""Awaiting a mirai on trio."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import trio

from mirai._landing import Landing

if TYPE_CHECKING:
    from mirai._future import Mirai

_landings: trio.lowlevel.RunVar[Landing] = trio.lowlevel.RunVar("mirai_landing")


def wait(mirai: Mirai[Any]) -> Generator[Any, None, None]:
    """Wait until ``mirai`` is settled; cancel it if the waiting is cancelled."""
    return _wait(mirai).__await__()


async def _wait(mirai: Mirai[Any]) -> None:
    landing, done = _landing(), trio.Event()
    mirai.add_done_callback(lambda _: landing.add(done.set))
    try:
        await done.wait()
    except (trio.Cancelled, KeyboardInterrupt):  # trio raises the latter where the main task waits
        mirai.cancel()
        raise


def _landing() -> Landing:
    """Return that of the running trio.  Raises RuntimeError if none is running."""
    token = trio.lowlevel.current_trio_token()
    try:
        return _landings.get()
    except LookupError:
        landing = Landing(token.run_sync_soon)
        _landings.set(landing)
        return landing


def is_running() -> bool:
    """Return whether this is trio's thread, inside ``trio.run``."""
    return trio.lowlevel.in_trio_run()


async def give_way() -> None:
    """Let trio turn to others once."""
    await trio.lowlevel.checkpoint()


async def shielded(mirai: Mirai[Any]) -> None:
    """Wait until ``mirai`` is settled, also in a scope that is cancelled."""
    with trio.CancelScope(shield=True):
        await mirai
