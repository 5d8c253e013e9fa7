"""The accepted connections, and those whose peers broke the protocol.

A monitor tells only descriptors, and a message only the descriptor that it came through.  Those
are used again while what came from the former connection is still to be read, so that a message
may seem to be of a newcomer that is not.  Routing ids are not used again: whoever is barred is
known by that, and whoever speaks through a descriptor is the one with the youngest routing id.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dispatcher.security import HANDSHAKE_MS
from dispatcher.sockets import address_of, end_connection

PARTING = 1.0
"""Seconds that a barred peer has to read why; then its connection is ended."""
SETTLING = HANDSHAKE_MS / 1_000
"""Seconds after which a newcomer has spoken; until then it is not ended for what was said."""


@dataclass(slots=True, eq=False)
class Connection:
    """One that is there."""

    serial: int
    fd: int
    address: str
    since: float
    speaker: bytes = b""
    """The routing id of who has spoken in it; empty: nobody yet."""

    def claim(self, route: bytes) -> bool:
        """Hear who seems to speak in it; return False if he spoke in a former connection."""
        if self.speaker and route != self.speaker and not _is_younger(route, self.speaker):
            return False
        self.speaker = route
        return True


def _is_younger(route: bytes, other: bytes) -> bool:
    """Compare routing ids, which libzmq counts; one that its peer chose is never the younger."""
    if route[:1] != b"\0" or other[:1] != b"\0":
        return route[:1] == b"\0"
    ahead = int.from_bytes(route[1:], "big") - int.from_bytes(other[1:], "big")
    return ahead % 2**32 < 2**31


@dataclass(slots=True)
class _Bar:
    connection: int
    due: float  # when to end it


class Connections:
    """Those that are there, by descriptor."""

    def __init__(self) -> None:
        self._open: dict[int, Connection] = {}  # by descriptor
        self._serials: dict[int, Connection] = {}
        self._last = 0

    def accepted(self, fd: int, now: float) -> None:
        """One has been accepted, and has this descriptor."""
        self.closed(fd)  # if its end was not told
        self._last += 1
        found = Connection(self._last, fd, address_of(fd), now)
        self._open[fd] = self._serials[self._last] = found

    def closed(self, fd: int) -> Connection | None:
        """Return the connection that has ended; None if it is unknown."""
        found = self._open.pop(fd, None)
        if found is not None:
            del self._serials[found.serial]
        return found

    def at(self, fd: int) -> Connection | None:
        """Return the connection that has this descriptor now."""
        return self._open.get(fd)

    def find(self, serial: int) -> Connection | None:
        """Return the connection with this serial number, if it is still there."""
        return self._serials.get(serial)


class Bars:
    """Routing ids of peers that are not listened to any more, until their connections end."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._bars: dict[bytes, _Bar] = {}

    def __contains__(self, route: bytes) -> bool:
        return route in self._bars

    def add(self, route: bytes, serial: int, now: float) -> bool:
        """Bar a peer; return False if it is barred already, or its connection is not there."""
        connection = self._connections.find(serial)
        if connection is None or route in self._bars:
            return False
        due = max(now, connection.since + SETTLING) + PARTING
        self._bars[route] = _Bar(serial, due)
        return True

    def spare(self, serial: int) -> None:
        """Do not end this connection after all: those who are barred were in a former one."""
        for bar in self._bars.values():
            if bar.connection == serial:
                bar.due = math.inf

    def discard(self, serial: int) -> None:
        """Forget who was barred in a connection that has ended."""
        for route in [route for route, bar in self._bars.items() if bar.connection == serial]:
            del self._bars[route]

    def deadline(self) -> float | None:
        """When ``end`` must be called even if nothing happens; None if never."""
        if not self._bars:
            return None
        due = min(bar.due for bar in self._bars.values())
        return due if due < math.inf else None

    def end(self, now: float, look: Callable[[], None]) -> None:
        """End the connections of those who have had time enough.

        ``look`` is to tell the connections, and this, what has ended by now.
        """
        if not self._bars:
            return
        for bar in [bar for bar in self._bars.values() if now >= bar.due]:
            connection = self._connections.find(bar.connection)
            if connection is None or end_connection(
                connection.fd, partial(self._is_there, bar.connection, look)
            ):
                bar.due = math.inf
            else:
                bar.due = now + PARTING

    def _is_there(self, serial: int, look: Callable[[], None]) -> bool:
        look()
        return self._connections.find(serial) is not None
