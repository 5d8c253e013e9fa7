"""The queue of waiting jobs: fair between clients, then by priority, then by age.

Clients take turns, one job a turn, so that a million tasks of one do not starve another's one.
A job that comes back (its daemon died, or it was recalled) takes its old place, since its key
never changes and keys grow with age.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from dispatcher.jobs import Job


class _Lane:
    """The waiting jobs of one client with one priority."""

    __slots__ = ("fresh", "returned")

    def __init__(self) -> None:
        self.fresh: deque[Job] = deque()
        self.returned: list[tuple[int, Job]] = []

    def pop(self) -> Job | None:
        """Return the oldest job that still waits; skip those that were discarded."""
        fresh, returned = self.fresh, self.returned
        while fresh or returned:
            if returned and (not fresh or returned[0][0] < fresh[0].key):
                job = heappop(returned)[1]
            else:
                job = fresh.popleft()
            if job.waiting:
                return job
        return None

    def compact(self) -> None:
        self.fresh = deque(job for job in self.fresh if job.waiting)
        self.returned = [entry for entry in self.returned if entry[1].waiting]
        self.returned.sort()


class _Line:
    """The waiting jobs of one client."""

    __slots__ = ("dead", "lanes", "live", "order")

    def __init__(self) -> None:
        self.lanes: dict[int, _Lane] = {}
        self.order: list[int] = []  # priorities, highest first
        self.live = 0  # jobs that wait
        self.dead = 0  # discarded jobs that are still in a lane

    def lane(self, priority: int) -> _Lane:
        lane = self.lanes.get(priority)
        if lane is None:
            lane = self.lanes[priority] = _Lane()
            self.order = sorted(self.lanes, reverse=True)
        return lane

    def pop(self) -> Job | None:
        while self.order:
            job = self.lanes[self.order[0]].pop()
            if job is not None:
                return job
            del self.lanes[self.order.pop(0)]
        return None


class Queue:
    """All waiting jobs."""

    def __init__(self) -> None:
        self._lines: dict[int, _Line] = {}
        self._turns: deque[int] = deque()  # clients in self._lines, next first
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def push(self, job: Job) -> None:
        """Add a job that is younger than all before it."""
        self._line(job).lane(job.task.priority).fresh.append(job)

    def put_back(self, job: Job) -> None:
        """Add a job that has been in the queue before, at its old place."""
        heappush(self._line(job).lane(job.task.priority).returned, (job.key, job))

    def discard(self, job: Job) -> None:
        """Take a waiting job out, wherever it stands."""
        job.waiting = False
        self._size -= 1
        line = self._lines[job.client]
        line.live -= 1
        line.dead += 1
        if line.dead > line.live:  # seldom enough to cost each job no more than a constant
            for lane in line.lanes.values():
                lane.compact()
            line.dead = 0

    def pop(self) -> Job | None:
        """Take the next job out; None if nothing waits."""
        while self._turns:
            client = self._turns[0]
            job = self._lines[client].pop()
            if job is not None:
                self._turns.rotate(-1)
                self._lines[client].live -= 1
                job.waiting = False
                self._size -= 1
                return job
            self._turns.popleft()
            del self._lines[client]
        return None

    def _line(self, job: Job) -> _Line:
        line = self._lines.get(job.client)
        if line is None:
            line = self._lines[job.client] = _Line()
            self._turns.append(job.client)
        job.waiting = True
        line.live += 1
        self._size += 1
        return line
