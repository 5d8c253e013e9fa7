"""The queue of waiting jobs: deepest first, fair between clients, then by priority, then by age.

A job is deeper than the one that has submitted it from inside a daemon: that one waits for it.
Clients take turns, one job a turn, so that a million tasks of one do not starve another's one.
A job that comes back (its daemon died, or it was recalled) takes its old place, since its key
never changes and keys grow with age.  A job with tags is only for those who carry them all.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

from dispatcher.jobs import Job

NO_TAGS: frozenset[str] = frozenset()


class _Lane:
    """The waiting jobs of one client with one priority and the same tags."""

    __slots__ = ("fresh", "priority", "returned", "tags")

    def __init__(self, priority: int, tags: tuple[str, ...]) -> None:
        self.priority = priority
        self.tags = tags
        self.fresh: deque[Job] = deque()
        self.returned: list[tuple[int, Job]] = []

    def head(self) -> Job | None:
        """Return the oldest job that still waits; drop those that were discarded."""
        fresh, returned = self.fresh, self.returned
        while fresh or returned:
            later = returned and (not fresh or returned[0][0] < fresh[0].key)
            job = returned[0][1] if later else fresh[0]
            if job.waiting:
                return job
            self.drop_head()
        return None

    def drop_head(self) -> None:
        """Remove the oldest job."""
        if self.returned and (not self.fresh or self.returned[0][0] < self.fresh[0].key):
            heappop(self.returned)
        else:
            self.fresh.popleft()

    def compact(self) -> None:
        self.fresh = deque(job for job in self.fresh if job.waiting)
        self.returned = [entry for entry in self.returned if entry[1].waiting]
        self.returned.sort()


class _Line:
    """The waiting jobs of one client at one depth."""

    __slots__ = ("dead", "lanes", "live", "order")

    def __init__(self) -> None:
        self.lanes: dict[tuple[int, tuple[str, ...]], _Lane] = {}
        self.order: list[_Lane] = []  # highest priority first
        self.live = 0  # jobs that wait
        self.dead = 0  # discarded jobs that are still in a lane

    def lane(self, priority: int, tags: tuple[str, ...]) -> _Lane:
        lane = self.lanes.get((priority, tags))
        if lane is None:
            lane = self.lanes[priority, tags] = _Lane(priority, tags)
            self.order = sorted(self.lanes.values(), key=lambda lane: -lane.priority)
        return lane

    def pop(self, carried: frozenset[str] | None) -> Job | None:
        best: Job | None = None
        chosen: _Lane | None = None
        for lane in self.order:
            if chosen is not None and lane.priority < chosen.priority:
                break
            job = lane.head()
            if job is None:
                self._remove(lane)
            elif (best is None or job.key < best.key) and _fits(lane, carried):
                best, chosen = job, lane
        if chosen is not None:
            chosen.drop_head()
        return best

    def _remove(self, lane: _Lane) -> None:
        del self.lanes[lane.priority, lane.tags]
        self.order = [each for each in self.order if each is not lane]


def _fits(lane: _Lane, carried: frozenset[str] | None) -> bool:
    return not lane.tags or carried is None or carried.issuperset(lane.tags)


class _Level:
    """All waiting jobs of one depth."""

    def __init__(self) -> None:
        self.lines: dict[int, _Line] = {}
        self.turns: deque[int] = deque()  # clients in self.lines, next first

    def line(self, client: int) -> _Line:
        line = self.lines.get(client)
        if line is None:
            line = self.lines[client] = _Line()
            self.turns.append(client)
        return line

    def pop(self, carried: frozenset[str] | None) -> Job | None:
        for _ in range(len(self.turns)):
            client = self.turns[0]
            line = self.lines[client]
            job = line.pop(carried)
            if job is not None:
                line.live -= 1
            self.turns.rotate(-1)
            if job is not None:
                return job
        return None

    def tidy(self, client: int) -> None:
        """Forget the client if nothing of it waits."""
        if not self.lines[client].live:
            del self.lines[client]
            self.turns.remove(client)


class Queue:
    """All waiting jobs."""

    def __init__(self) -> None:
        self._levels: dict[int, _Level] = {}
        self._depths: list[int] = []  # of the levels, deepest first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[Job]:
        """Iterate over the waiting jobs, in no order."""
        for level in self._levels.values():
            for line in level.lines.values():
                for lane in line.order:
                    yield from (job for job in lane.fresh if job.waiting)
                    yield from (job for _, job in lane.returned if job.waiting)

    def push(self, job: Job) -> None:
        """Add a job that is younger than all before it."""
        self._line(job).lane(job.task.priority, job.task.tags).fresh.append(job)

    def put_back(self, job: Job) -> None:
        """Add a job that has been in the queue before, at its old place."""
        lane = self._line(job).lane(job.task.priority, job.task.tags)
        heappush(lane.returned, (job.key, job))

    def discard(self, job: Job) -> None:
        """Take a waiting job out, wherever it stands."""
        job.waiting = False
        self._size -= 1
        line = self._levels[job.depth].lines[job.client]
        line.live -= 1
        line.dead += 1
        if line.dead > line.live:  # seldom enough to cost each job no more than a constant
            for lane in line.lanes.values():
                lane.compact()
            line.dead = 0
        self._tidy(job)

    def pop(self, carried: frozenset[str] | None = NO_TAGS, *, nested: bool = False) -> Job | None:
        """Take out the next job for a daemon that carries these tags (None: all there are).

        With ``nested``, only one that another job may be waiting for.  None if nothing fits.
        """
        for depth in self._depths:
            if nested and not depth:
                break
            job = self._levels[depth].pop(carried)
            if job is not None:
                job.waiting = False
                self._size -= 1
                self._tidy(job)
                return job
        return None

    def has_nested(self) -> bool:
        """Whether a job waits that another job may be waiting for."""
        return bool(self._depths) and self._depths[0] > 0

    def _tidy(self, job: Job) -> None:
        """Keep nothing in which nothing waits."""
        level = self._levels[job.depth]
        level.tidy(job.client)
        if not level.lines:
            del self._levels[job.depth]
            self._depths = sorted(self._levels, reverse=True)

    def _line(self, job: Job) -> _Line:
        level = self._levels.get(job.depth)
        if level is None:
            level = self._levels[job.depth] = _Level()
            self._depths = sorted(self._levels, reverse=True)
        line = level.line(job.client)
        job.waiting = True
        line.live += 1
        self._size += 1
        return line
