"""What runs in daemons that are struck: a task that comes to a moment of its life, and waits there.

The test and the task meet in a directory, the *room*: the task notes in ``log`` what it does and
in which process, and waits for the file ``go``; then it strikes, if it is to do so from inside.
Daemons import this module by its name, so it imports nothing slow.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from pickle import PickleBuffer

PIECE = 200_000
"""Bytes of what is too small for shared memory, and large enough for a frame of its own."""
PIECES = 160
"""So many are more than the system holds of what was sent and not received."""
HEADROOM = 256 << 20
"""Bytes that a process may still get under the limit of ``starve``: a few of malloc's arenas."""
HUGE = 1 << 30
"""Bytes that it may not get."""


def note(room: str, what: str) -> None:
    """Write a line, and this process, to the room's log: whole, whoever writes at the same time."""
    log = os.open(f"{room}/log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(log, f"{what} {os.getpid()}\n".encode())
    os.close(log)


def notes(room: str, what: str) -> list[int]:
    """Return the processes that have noted this, in the order of time."""
    path = Path(room, "log")
    lines = path.read_text().splitlines() if path.exists() else []
    return [int(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == what]


def wait_for(room: str, name: str) -> None:
    while not os.path.exists(f"{room}/{name}"):
        time.sleep(0.001)


# ── ways to strike from inside ───────────────────────────────────────────────────────────


class Unpicklable(Exception):
    """An error that refuses to be pickled, or to be looked at."""

    def __reduce__(self) -> tuple[object, ...]:
        raise TypeError("no pickle of this")

    def __str__(self) -> str:
        raise ValueError("no text of this")


class Rude(BaseException):
    """An error that nobody expects."""


def starve(bytes_left: int = HEADROOM) -> None:
    """Let this process have only so much more memory from now on."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + bytes_left
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


def want_too_much() -> None:
    starve()
    bytearray(HUGE)


def devour() -> None:
    """Take memory until there is not a byte left, and keep it."""
    starve()
    held: list[object] = []
    size = HEADROOM
    while size > 16:
        try:
            held.append(bytearray(size))
        except MemoryError:
            size //= 2
    while True:
        held.append(object())


def raise_unpicklable() -> None:
    raise Unpicklable


def raise_rude() -> None:
    raise Rude("as rude as can be")


INSIDE: dict[str, Callable[[], object]] = {
    "segfault": lambda: ctypes.string_at(0),
    "os._exit": lambda: os._exit(7),
    "MemoryError": want_too_much,
    "last byte": devour,
    "unpicklable": raise_unpicklable,
    "BaseException": raise_rude,
    "SystemExit": lambda: sys.exit(7),
}


def spring(room: str, way: str) -> str:
    """Say that the moment has come, wait, and strike; but only in the first process that comes."""
    note(room, "here")
    if notes(room, "here")[0] != os.getpid():
        return "sprung"
    wait_for(room, "go")
    INSIDE.get(way, str)()
    return "sprung"


# ── tasks ────────────────────────────────────────────────────────────────────────────────


class Bait:
    """Springs the trap when it is unpickled."""

    def __init__(self, room: str, way: str) -> None:
        self.trap = room, way

    def __reduce__(self) -> tuple[object, ...]:
        return spring, self.trap


class Catch:
    """A result that springs the trap when it is pickled."""

    def __init__(self, room: str, way: str) -> None:
        self.trap = room, way

    def __reduce__(self) -> tuple[object, ...]:
        return str, (spring(*self.trap),)


class Freight:
    """What fills a connection: many pieces, each in a frame of its own."""

    def __init__(self, pieces: int = PIECES) -> None:
        self.pieces = pieces

    def __reduce_ex__(self, _: object) -> tuple[object, ...]:
        return count, tuple(PickleBuffer(bytes(PIECE)) for _ in range(self.pieces))


def count(*pieces: object) -> int:
    return len(pieces)


def work(room: str, name: str, moment: str = "", way: str = "", bait: object = None) -> object:
    """Note that this was called; be struck at the moment; return ``name`` or the like."""
    note(room, name)
    match moment:
        case "running":
            spring(room, way)
        case "pickling":
            return [name, Catch(room, way)]
        case "sending":
            haunt(room, way)
            wait_for(room, "stopped")
            return Freight()
        case "idle":
            haunt(room, way)
        case "exiting":
            atexit.register(spring, room, way)
    return name if bait is None else [name, bait]


def haunt(room: str, way: str) -> None:
    """Leave a thread behind that strikes when the task has long ended."""
    threading.Thread(target=spring, args=(room, way), daemon=True).start()
