"""What a keeper knows of durable jobs: their runs of tasks, and what has become of each task."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby

from dispatcher.messages import KEY_BYTES, Function, FunctionReport, JobReport, Kind, Span
from dispatcher.records import Enlisted, FunctionMade

# What a byte says of a task; one that has ended says ENDED and its kind.
WAITING, BEGUN, HELD, GONE, ENDED = 0, 1, 2, 3, 16
VALUE = ENDED + Kind.VALUE
CANCELLED = ENDED + Kind.CANCELLED
UNBEGUN = ENDED + 15  # cancelled, and no daemon ever had it


class KeptFunction:
    """A function that tasks of the journal call."""

    __slots__ = ("definition", "digest", "uses", "version")

    def __init__(self, made: FunctionMade) -> None:
        self.definition = made.function
        self.digest = made.digest
        self.version = made.version
        self.uses = 0  # runs that need it

    @property
    def number(self) -> int:
        return self.definition.number


@dataclass(slots=True, eq=False)
class KeptJob:
    """A job: to the core, the client with the negative of its number."""

    number: int
    name: str
    made: float
    keys: dict[bytes, int] = field(default_factory=dict)  # key -> serial
    runs: dict[int, KeptRun] = field(default_factory=dict)  # by their first serials
    uses: Counter[int] = field(default_factory=Counter)  # function -> runs that the core knows
    counts: Counter[int] = field(default_factory=Counter)  # state -> tasks

    @property
    def peer(self) -> int:
        return -self.number


class KeptRun:
    """Tasks that came together, and what has become of each."""

    __slots__ = (
        "ended",
        "first",
        "function",
        "job",
        "keys",
        "listeners",
        "states",
        "stays",
        "submitted",
    )

    def __init__(self, job: KeptJob, function: KeptFunction, enlisted: Enlisted) -> None:
        self.job = job
        self.function = function
        self.first = enlisted.task.id
        self.keys = enlisted.keys
        self.stays = enlisted.stays
        self.states = bytearray(enlisted.task.count)
        # Who waits for a task: clients, and what they call it.
        self.listeners: dict[int, tuple[tuple[int, int], ...]] = {}
        self.ended = 0.0  # when the last of them has ended
        self.submitted = False  # the core has been given any of it

    @property
    def serials(self) -> range:
        return range(self.first, self.first + len(self.states))

    def state(self, serial: int) -> int:
        return self.states[serial - self.first]

    def is_gone(self) -> bool:
        """Whether nothing of it need be kept."""
        return self.states.count(GONE) == len(self.states)

    def listen(self, peer: int, id: int, serial: int) -> None:
        """Have a client hear how a task ends, which it calls ``id``."""
        self.listeners[serial] = (*self.listeners.get(serial, ()), (peer, id))

    def forgo(self, peer: int, id: int, serial: int) -> None:
        """Have a client not hear of it any more under this id."""
        left = tuple(each for each in self.listeners[serial] if each != (peer, id))
        if left:
            self.listeners[serial] = left
        else:
            del self.listeners[serial]

    def forsake(self, peer: int) -> None:
        """Have a client hear of nothing any more."""
        for serial, those in [*self.listeners.items()]:
            left = tuple(each for each in those if each[0] != peer)
            if left:
                self.listeners[serial] = left
            else:
                del self.listeners[serial]

    def told(self, first: int, count: int) -> Iterator[tuple[int, int, int, int]]:
        """Yield who listens for these tasks, and let them listen no more.

        That is a client, its id of a task, how many of these come before that one, and of how many
        that follow one another this is so.
        """
        ranges: dict[int, tuple[int, int, int]] = {}
        for start in range(count):
            for peer, id in self.listeners.pop(first + start, ()):
                known = ranges.get(peer)
                if known is not None and (known[0] + known[2], known[1] + known[2]) == (id, start):
                    ranges[peer] = (*known[:2], known[2] + 1)
                    continue
                if known is not None:
                    yield (peer, *known)
                ranges[peer] = (id, start, 1)
        for peer, known in ranges.items():
            yield (peer, *known)

    def is_over(self) -> bool:
        """Whether nothing more will happen by itself."""
        return all(state >= GONE for state in self.states)

    def spans(self, some: Span | None = None) -> Iterator[tuple[int, Span]]:
        """Yield the states of its tasks, or ``some``, and whose they are, as they are now."""
        first, count = (self.first, len(self.states)) if some is None else (some.first, some.count)
        start = first - self.first
        for state, group in groupby(bytes(self.states[start : start + count])):
            length = len([*group])
            yield state, Span(first, length)
            first += length


@dataclass(slots=True, eq=False)
class KeptClient:
    """A client, and what it calls things."""

    functions: dict[int, Function] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)  # of those functions that tasks need
    serials: dict[int, int] = field(default_factory=dict)  # of the tasks that it waits for
    unfetched: dict[int, int] = field(default_factory=dict)  # of those that it was told of

    def is_free(self, ids: range) -> bool:
        """Whether it waits for nothing under these."""
        few = ids if len(ids) <= len(self.serials) else self.serials
        return not any(id in ids and id in self.serials for id in few)


def has_failed(state: int) -> bool:
    """Whether a task has ended without a value."""
    return state >= ENDED and state != VALUE


def keys_of(keys: bytes) -> list[bytes]:
    """Return the keys in a row of them."""
    return [keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)]


def report_of(job: KeptJob, *, tasks: bool) -> JobReport:
    """Return what there is of a job; with ``tasks``, also which they are."""
    counts = job.counts
    calls: Counter[tuple[str, bytes]] = Counter()
    there: list[tuple[Span, str]] = []
    for run in job.runs.values():
        name = run.function.definition.name
        calls[name, run.function.version] += len(run.states) - run.states.count(GONE)
        if tasks:
            there += ((span, name) for state, span in run.spans() if state != GONE)
    return JobReport(
        name=job.name,
        made=job.made,
        waiting=counts[WAITING] + counts[HELD],
        running=counts[BEGUN],
        done=counts[VALUE],
        failed=sum(count for state, count in counts.items() if has_failed(state)),
        functions=tuple(
            FunctionReport(name, version, count)
            for (name, version), count in calls.items()
            if count
        ),
        tasks=tuple(there),
    )
