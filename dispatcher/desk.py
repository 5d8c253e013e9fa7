"""Where peers are reported, whichever way they come: over a line, over the router, or from here.

The server is the desk.  A way knows how to reach a peer and when it is gone, and nothing of what
it says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from dispatcher.events import Denial, Role
from dispatcher.hatch import Hatch
from dispatcher.messages import Buffer, Hello, Message
from dispatcher.processes import Process


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose key, or whose line, it is."""

    role: Role
    process: Process | None = None
    own_hatch: Hatch | None = None
    is_host: bool = False
    """Whether it is the process that the pool belongs to."""

    @property
    def hatch(self) -> Hatch | None:
        """The hatch beside its connection."""
        return self.own_hatch if self.process is None else self.process.hatch


class Way(Protocol):
    """How one peer is reached."""

    def send(self, message: Message, hatch: Hatch | None) -> bool:
        """Send without waiting; return False if nobody is there, and nothing more will come."""

    def bar(self, who: str, why: str) -> None:
        """Listen no more to a peer that was told why, and end its connection."""

    def leave(self) -> None:
        """Nothing more is to be sent to it: it is lost."""


@dataclass(slots=True, eq=False)
class Peer:
    """Who is at the other end of a way."""

    number: int
    owner: Owner
    way: Way
    address: str = "here"
    joined: bool = False
    """Whether it has said Hello."""


class Desk(Protocol):
    """The server, as the ways see it."""

    def enter(self, owner: Owner, way: Way, address: str = "here") -> Peer:
        """Know a peer from now on."""

    def greet(self, peer: Peer, hello: Hello) -> None:
        """A peer has said Hello."""

    def take(self, peer: Peer, frames: list[Buffer]) -> None:
        """A peer has sent a message: Hello, if it has not said that yet."""

    def object(self, peer: Peer | None, why: str) -> None:
        """A peer has sent what is no message, or somebody has who is none."""

    def hang_up(self, peer: Peer) -> None:
        """A peer's connection has ended."""

    def deny(self, what: Denial, who: str, why: str) -> None:
        """Somebody was refused: count it, and say so."""
