"""Tasks and their functions, while the dispatcher has them."""

from __future__ import annotations

import math
from heapq import heapify, heappop, heappush

from msgspec import structs

from dispatcher.messages import Function, Task


class Estimate:
    """The mean time of a function's calls, in seconds; None until one has ended."""

    __slots__ = ("count", "long", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.count = 0
        self.long = 0.0
        """How long those take that take longer than they count for; 0: none has."""

    def learn(self, seconds: float, count: int = 1) -> None:
        """Take so many more durations into the mean: all alike at first, the recent ones later."""
        self.count += count
        if self.seconds is None:
            self.seconds = seconds
        else:
            weight = 0.1 if count == 1 else 1 - 0.9**count
            self.seconds += (seconds - self.seconds) * max(weight, count / self.count)

    def learn_long(self, seconds: float) -> None:
        """Take in how long a call has really taken that counts as a shorter one."""
        self.long += (seconds - self.long) * (0.5 if self.long else 1.0)


class FunctionEntry:
    """A function while a client may use it or a job needs it."""

    __slots__ = ("definition", "estimate", "forgotten", "holders", "uses")

    def __init__(self, definition: Function, estimate: Estimate) -> None:
        self.definition = definition  # numbered by the dispatcher, not by the client
        self.estimate = estimate
        self.uses = 0  # tasks that need it
        self.forgotten = False  # the client will not name it again
        self.holders: set[int] = set()  # daemons that have it


class Job:
    """A task, or a run of tasks, while the dispatcher has it.

    The tasks of a run have numbers that follow one another: the client's, and the dispatcher's.
    Whatever befalls only some of them, these are made a job of their own first, by ``behead``.
    """

    __slots__ = (
        "attempt",
        "cancelled",
        "client",
        "cost",
        "count",
        "daemon",
        "deadline",
        "depth",
        "function",
        "given",
        "id",
        "losses",
        "pinned",
        "story",
        "task",
        "waiting",
    )

    def __init__(self, id: int, client: int, function: FunctionEntry, task: Task) -> None:
        self.id = id  # the client's number; of a run the first one's, as everywhere here
        self.client = client
        self.function = function
        self.task = task  # as sent to a daemon; its id is the job's key
        self.count = task.count  # how many tasks it is
        self.waiting = False  # in the queue
        self.daemon = 0  # the peer that has it in hand, or 0
        self.given = 0.0  # when that one was given it
        self.cost = 0.0  # seconds that each was expected to take when it was given away
        self.deadline = math.inf  # when it is given up
        self.attempt = 1  # which run of it this is
        self.losses = 0  # daemons that died with it in hand, and had begun nothing of what they had
        self.cancelled = False  # its client has its answer already
        self.depth = 0  # how many jobs there are around it, each of which may wait for the next
        self.pinned = False  # for this daemon and no other
        self.story: tuple[tuple[float, str], ...] = ()  # what is unusual in it: when, and what

    @property
    def key(self) -> int:
        """The dispatcher's number for it: older jobs have smaller ones."""
        return self.task.id

    @property
    def ids(self) -> range:
        """The client's numbers of its tasks."""
        return range(self.id, self.id + self.count)

    @property
    def keys(self) -> range:
        """The dispatcher's numbers of its tasks."""
        return range(self.task.id, self.task.id + self.count)

    def behead(self, count: int) -> Job:
        """Keep all but the first ``count`` tasks; return a job of those."""
        task = self.task
        head = self._like(self.id, task.part(0, count))
        self.id += count
        self.count -= count
        self.task = task.part(count, self.count)
        return head

    def _like(self, id: int, task: Task) -> Job:
        """Return a job of some of its tasks, to which has happened what has happened to it."""
        job = Job(id, self.client, self.function, task)
        for name in _SHARED:
            setattr(job, name, getattr(self, name))
        return job

    def may_retry(self) -> bool:
        """Whether its client lets it run once more."""
        return self.attempt <= self.task.retries

    def retry(self, key: int) -> None:
        """Make it a new run, with a key of its own: what is said of the old run is not of it."""
        self.attempt += 1
        self.task = structs.replace(self.task, id=key)


_SHARED = set(Job.__slots__) - {"id", "client", "function", "task", "count"}
"""What the parts of a job have in common."""


class Timeouts:
    """When jobs are given up.  Those that ended before are dropped lazily, but not late."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Job]] = []
        self._live: set[Job] = set()
        self._count = 0  # to order jobs with the same deadline

    def add(self, job: Job) -> None:
        """Give ``job`` up at its deadline, if it has one."""
        if job.deadline < math.inf:
            self._count += 1
            self._live.add(job)
            heappush(self._heap, (job.deadline, self._count, job))

    def discard(self, job: Job) -> None:
        """Forget the job, if it is here."""
        self._live.discard(job)
        if len(self._heap) > 2 * len(self._live):
            self._heap = [entry for entry in self._heap if entry[2] in self._live]
            heapify(self._heap)

    def first(self) -> float | None:
        """Return the next deadline; None if there is none."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Job]:
        """Remove and return the jobs whose deadline has come."""
        jobs = []
        while self._heap and self._heap[0][0] <= now:
            job = heappop(self._heap)[2]
            if job in self._live:
                self._live.discard(job)
                jobs.append(job)
        return jobs
