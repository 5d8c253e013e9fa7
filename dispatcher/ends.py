"""Ends of pairs of sockets, for a child to inherit: nobody else can ever be at the other end."""

from __future__ import annotations

import _socket  # socket makes enums, slowly
import contextlib

LEAST = 3
"""The least number of a descriptor that a child can keep: it has a use for 0, 1 and 2."""

ROOM = 1 << 20
"""How many bytes may be on a line on their way, if the system can be moved to that."""


def pair(kind: int, room: int = 0) -> tuple[int, int]:
    """Return the descriptors of both ends of a pair of local sockets of this kind.

    No program that is started has them unless they are passed on.  ``room``: how many bytes may
    be on the way, if the system can be moved to that.  Raises OSError.
    """
    ends = _socket.socketpair(_socket.AF_UNIX, kind)
    try:
        for end in ends if room else ():
            with contextlib.suppress(OSError):  # it is more than the system gives anyone
                end.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, room)
        one = another(ends[0].fileno(), LEAST)
        try:
            return one, another(ends[1].fileno(), LEAST)
        except OSError:
            _socket.close(one)
            raise
    finally:
        for end in ends:
            end.close()


def stream_pair() -> tuple[int, int]:
    """Return the descriptors of both ends of what a line needs.  Raises OSError."""
    return pair(_socket.SOCK_STREAM, room=ROOM)


def above_streams(fd: int) -> int:
    """Return it, or another in its place if our own streams are closed and it has their number."""
    if fd >= LEAST:
        return fd
    high = another(fd, LEAST)
    _socket.close(fd)
    return high


def another(fd: int, least: int) -> int:
    """Return one more descriptor of the same thing, with at least this number."""
    from fcntl import F_DUPFD_CLOEXEC, fcntl

    return fcntl(fd, F_DUPFD_CLOEXEC, least)
