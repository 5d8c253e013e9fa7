"""The accepted connections, by descriptor, and those whose peers broke the protocol.

A monitor tells only descriptors, and those are used again while what came from the former
connection is still to be read.  So a connection has a serial number, which is not; and whoever is
barred is known by the routing id, which no other connection is given.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dispatcher.sockets import address_of, end_connection

PARTING = 1.0
"""Seconds that a barred peer has to read why; then its connection is ended."""


@dataclass(slots=True, eq=False)
class Connection:
    """One that is there."""

    serial: int
    fd: int
    address: str
    heard: bool = False
    """Whether anything has been read from it."""


@dataclass(slots=True)
class _Bar:
    connection: int
    due: float  # when to end it


class Connections:
    """Those that are there, by descriptor."""

    def __init__(self) -> None:
        self._open: dict[int, Connection] = {}
        self._last = 0

    def accepted(self, fd: int) -> None:
        """One has been accepted, and has this descriptor."""
        self._last += 1
        self._open[fd] = Connection(self._last, fd, address_of(fd))

    def closed(self, fd: int) -> Connection | None:
        """Return the connection that has ended; None if it is unknown."""
        return self._open.pop(fd, None)

    def at(self, fd: int) -> Connection | None:
        """Return the connection that has this descriptor now."""
        return self._open.get(fd)

    def find(self, serial: int) -> Connection | None:
        """Return the connection with this serial number, if it is still there."""
        return next((each for each in self._open.values() if each.serial == serial), None)


class Bars:
    """Routing ids of peers that are not listened to any more, until their connections end."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._bars: dict[bytes, _Bar] = {}

    def __contains__(self, route: bytes) -> bool:
        return route in self._bars

    def add(self, route: bytes, connection: int, now: float) -> bool:
        """Bar a peer on a connection that is there; return whether it was not barred before."""
        if not connection or route in self._bars:
            return False
        self._bars[route] = _Bar(connection, now + PARTING)
        return True

    def discard(self, connection: int) -> None:
        """Forget who was on a connection that has ended."""
        for route in [route for route, bar in self._bars.items() if bar.connection == connection]:
            del self._bars[route]

    def deadline(self) -> float | None:
        """When ``end`` must be called even if nothing happens; None if never."""
        due = min((bar.due for bar in self._bars.values()), default=math.inf)
        return due if due < math.inf else None

    def end(self, now: float, look: Callable[[], None]) -> None:
        """End the connections of those who have had time enough.

        ``look`` is to tell the connections, and this, what has ended by now.
        """
        for bar in [bar for bar in self._bars.values() if now >= bar.due]:
            connection = self._connections.find(bar.connection)
            if connection is None or end_connection(
                connection.fd, partial(self._is_there, bar.connection, look)
            ):
                bar.due = math.inf
            else:
                bar.due = now + PARTING

    def _is_there(self, connection: int, look: Callable[[], None]) -> bool:
        look()
        return self._connections.find(connection) is not None
