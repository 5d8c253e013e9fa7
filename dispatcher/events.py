"""What the shell tells the core, and what the core tells the shell, besides peers' messages."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from dispatcher.messages import Crash, Hello, Message, Slot
from dispatcher.messages import Role as Role

# ── what the shell tells the core besides messages ───────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer has said Hello."""

    role: Role
    hello: Hello


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer is gone, and nothing more will come from it.

    ``started`` is the key of the last task that a daemon began (0: none); None where that cannot
    be known, so that every task in its hand may have begun.
    """

    crash: Crash
    started: int | None = None


@dataclass(frozen=True, slots=True)
class Stillborn:
    """A local daemon has ended before it could join, in this way."""

    crash: Crash


@dataclass(frozen=True, slots=True)
class Barren:
    """No daemon is there or will be started, for this reason; until one joins nevertheless."""

    crash: Crash


@dataclass(frozen=True, slots=True)
class Retire:
    """Let so many of these daemons go: the idle ones first, and those that leave already."""

    peers: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new tasks, and halt once those that are there have been answered."""


@dataclass(frozen=True, slots=True)
class Illegal:
    """A peer has sent what is no message that it may send."""

    reason: str


class Denial(Enum):
    """What the shell refuses by itself."""

    KEY = "key"
    """A connection with a key that may not connect."""
    STRANGER = "stranger"
    """A connection that has ended before anyone in it had proved a key and said Hello."""
    PEER = "peer"
    """A peer that broke the protocol: it was told, and its connection is ended."""


@dataclass(frozen=True, slots=True)
class Denied:
    """The shell has refused something: to be counted."""

    what: Denial


Event = Message | Joined | Lost | Stillborn | Barren | Retire | Drain | Illegal | Denied

# ── what the core tells the shell ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message to this peer."""

    peer: int
    message: Message


class Turn(Enum):
    """What has become of a durable task that has not ended."""

    BEGUN = "begun"
    """It is given to a daemon, and may have started as soon as that one hears of it."""
    BACK = "back"
    """It surely did not start there, and waits again."""
    AGAIN = "again"
    """That run has ended, and another is to follow; it waits again."""


@dataclass(frozen=True, slots=True)
class Moved:
    """What has become of these tasks of a durable job: to be saved before anything is sent."""

    peer: int
    first: int
    count: int
    turn: Turn


@dataclass(frozen=True, slots=True)
class Kill:
    """End this daemon if it is still busy with one of these tasks, which it does not leave."""

    peer: int
    keys: range


@dataclass(frozen=True, slots=True)
class CutOff:
    """Listen no more to this peer, which broke the protocol (it has been told)."""

    peer: int
    reason: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this many local daemons from now on; tell each what is in its slot, if there are any.

    Without ``slots`` they stay as they were.
    """

    count: int
    slots: tuple[Slot, ...] | None = None


@dataclass(frozen=True, slots=True)
class Lend:
    """Have another local daemon in the stead of each of these, whose tasks wait."""

    peers: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Halt:
    """Tell everyone to stop, and leave: the pool is drained."""


Command = Send | Moved | Kill | CutOff | Keep | Lend | Halt
