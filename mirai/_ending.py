"""Why a daemon ended, as its exit code tells."""

from enum import IntEnum


class Ending(IntEnum):
    """Why a daemon ended: its exit code.  Any other code, or a signal, is a crash."""

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
