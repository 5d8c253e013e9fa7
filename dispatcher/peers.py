"""What the core knows of each peer."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

from dispatcher.jobs import Estimate, FunctionEntry, Job
from dispatcher.messages import Function, Hello, Message, Outcome, Printed, Task
from dispatcher.queue import NO_TAGS


@dataclass(slots=True, eq=False)
class Standing:
    """A call for every daemon, for as long as its client is there."""

    client: int
    function: FunctionEntry
    call: Task
    ids: deque[int]  # the client's numbers for answers of daemons that have not joined yet


@dataclass(slots=True, eq=False)
class Client:
    """A client, and what it has asked for."""

    peer: int
    last: int = 0  # the largest task id so far
    lowest: float = math.inf  # the lowest priority so far
    jobs: dict[int, Job] = field(default_factory=dict)  # by its own id of each task; unanswered
    functions: dict[int, FunctionEntry] = field(default_factory=dict)  # by its own number
    standing: list[Standing] = field(default_factory=list)
    daemon: int = 0  # the daemon in whose process it is, whose tasks it serves
    estimates: dict[str, Estimate] = field(default_factory=dict)  # by the function's name

    def drop(self, job: Job) -> None:
        """Forget a job."""
        jobs = self.jobs
        for id in job.ids:
            del jobs[id]
        if not jobs:
            jobs.clear()  # which gives back the memory of those that were there


@dataclass(slots=True, eq=False)
class Daemon:
    """A daemon, and what it has in hand."""

    peer: int
    hello: Hello
    since: float
    ends: float = math.inf  # when it ends for certain, whatever it does
    # By the key of each task, in the order of evaluation.
    hand: dict[int, Job] = field(default_factory=dict)
    load: float = 0.0  # seconds that the hand should take
    began: float = 0.0  # when it should have begun the first task in its hand
    recalled: bool = False  # asked to hand back, and has not done so
    lending: bool = False  # its task waits for tasks of its own
    leaving: bool = False  # gets nothing more, and is stopped when its hand is empty
    overdue: bool = False  # has been silent for too long, and has not answered a task since
    knows: set[FunctionEntry] = field(default_factory=set)
    forget: list[int] = field(default_factory=list)  # to tell it with its next tasks
    pinged: float | None = None  # since when it owes an answer to a Ping
    done: int = 0
    clients: set[int] = field(default_factory=set)  # those in its process
    tags: frozenset[str] = NO_TAGS
    reach: float = 0.0  # how many seconds of work it is given in advance
    width: int = 1  # its places: how many tasks it does at once
    weight: int = 1  # for how many places it stands on the bench where it is

    def jobs(self) -> list[Job]:
        """Return the jobs in the hand, in the order of evaluation."""
        return list(dict.fromkeys(self.hand.values()))

    def spare(self, most: int) -> list[Job]:
        """Return the jobs of the tasks behind those that should be running; of so many."""
        return list(dict.fromkeys(islice(self.hand.values(), self.width, self.width + most)))

    def drop(self, job: Job) -> None:
        """Remove a job from the hand."""
        for key in job.keys:
            del self.hand[key]
        job.daemon = 0
        self.load = self.load - job.cost * job.count if self.hand else 0.0


class Bench:
    """Daemons that may be given work, by their tags, and among those in the order of their turn.

    Each counts for its free places; with none of them free, for all.
    """

    def __init__(self) -> None:
        self._rows: dict[frozenset[str], OrderedDict[int, Daemon]] = {}
        self._size = 0

    def __len__(self) -> int:
        """Return how many places there are."""
        return self._size

    def __contains__(self, daemon: Daemon) -> bool:
        return daemon.peer in self._rows.get(daemon.tags, ())

    def __iter__(self) -> Iterator[Daemon]:
        for row in self._rows.values():
            yield from row.values()

    def add(self, daemon: Daemon, *, first: bool = False) -> None:
        """Add a daemon that is not there: it is the last one's turn, or the next one's."""
        row = self._rows.setdefault(daemon.tags, OrderedDict())
        row[daemon.peer] = daemon
        if first:
            row.move_to_end(daemon.peer, last=False)
        free = daemon.width - len(daemon.hand)
        daemon.weight = free if free > 0 else daemon.width
        self._size += daemon.weight

    def discard(self, daemon: Daemon) -> None:
        """Remove a daemon if it is there."""
        row = self._rows.get(daemon.tags)
        if row is not None and row.pop(daemon.peer, None) is not None:
            self._size -= daemon.weight
            if not row:
                del self._rows[daemon.tags]

    def next(self, without: Collection[frozenset[str]]) -> Daemon | None:
        """Return whose turn it is, of those that do not carry just these tags."""
        for tags, row in self._rows.items():
            if tags not in without:
                return next(iter(row.values()))
        return None

    def fits(self, tags: Iterable[str]) -> bool:
        """Whether one of them carries all these tags."""
        return any(carried.issuperset(tags) for carried in self._rows)

    def count(self, without: Collection[frozenset[str]]) -> int:
        """Return how many places there are of those that do not carry just these tags."""
        rows = [self._rows[tags] for tags in without if tags in self._rows]
        return self._size - sum(daemon.weight for row in rows for daemon in row.values())


@dataclass(slots=True)
class Mail:
    """What one call of ``handle`` has to tell one peer."""

    first: list[Message] = field(default_factory=list)
    recall: list[int] = field(default_factory=list)
    interrupt: list[int] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    printed: list[Printed] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
