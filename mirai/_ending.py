"""Why a daemon ended: it says so in its watermark, since any task can imitate an exit code."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from dispatcher.processes import ENDINGS

if TYPE_CHECKING:
    from mirai._channel import Carrier


class Ending(IntEnum):
    """Why a daemon ended, in its own words, and the exit code that it ends with."""

    STOPPED = 0
    """The dispatcher said so."""
    LEFT = 91
    """It has reached a limit, or was told to by a signal."""
    LOST = 92
    """It had joined, and the connection was lost."""
    UNREACHED = 93
    """Nobody was there to join."""
    UNPROVED = 94
    """Somebody was there who did not prove the dispatcher's key."""
    REFUSED = 95
    """The dispatcher does not accept the daemon's key, or what it says."""
    REPLACED = 96
    """The dispatcher wants another in its place, since it did not leave a task."""
    BARREN = 97
    """It is a relay, and its own daemons cannot start."""

    @property
    def mark(self) -> int:
        """What the watermark shows then."""
        return ENDINGS + self


def ending_of(mark: int | None, code: int) -> Ending | None:
    """Return what a daemon has said that it ended of; None if it has not: that is a crash.

    Where there is no watermark, its exit code must do.
    """
    try:
        return Ending(code if mark is None else mark - ENDINGS)
    except ValueError:
        return None


def why_lost(link: Carrier) -> Ending:
    """Return what a daemon ends of whose connection has ended."""
    if link.denied:
        return Ending.REFUSED
    if not link.reached:
        return Ending.UNREACHED
    return Ending.LOST if link.proved else Ending.UNPROVED
