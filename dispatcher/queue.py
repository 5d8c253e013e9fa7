"""The queue of waiting jobs: fair between depths and clients, then by priority, then by age.

A job is deeper than the one that has submitted it from inside a daemon: that one waits for it.
The deepest and the outermost take turns.
Clients take turns of so much time, or one task, so that a million tasks of one do not starve
another's one; who takes out a run of tasks, and has no use for all of them, puts the rest back.
A job that comes back (its daemon died, or it was recalled) takes its old place, since its key
never changes and keys grow with age.  A job with tags is only for those who carry them all.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from heapq import heappop, heappush

from dispatcher.jobs import Job

NO_TAGS: frozenset[str] = frozenset()


class _Lane:
    """The waiting jobs of one client with one priority and the same tags."""

    __slots__ = ("fresh", "priority", "returned", "tags")

    def __init__(self, priority: int, tags: tuple[str, ...]) -> None:
        # A job in there may have lost its first tasks since: then its key is larger by now.
        self.priority = priority
        self.tags = tags
        self.fresh: deque[Job] = deque()
        self.returned: list[tuple[int, int, Job]] = []

    def pop(self) -> Job | None:
        """Take out the oldest job that still waits; drop those that were discarded."""
        fresh, returned = self.fresh, self.returned
        while fresh or returned:
            if returned and (not fresh or returned[0][0] < fresh[0].key):
                key, _, job = heappop(returned)
                if key < job.key:
                    self.push_back(job)
                    continue
            else:
                job = fresh.popleft()
            if job.waiting:
                return job
        return None

    def head(self) -> Job | None:
        """Return the oldest job that still waits, and leave it there."""
        job = self.pop()
        if job is not None:
            self.push_back(job)
        return job

    def push_back(self, job: Job) -> None:
        """Add a job that is not the youngest."""
        heappush(self.returned, (job.key, id(job), job))

    def compact(self) -> None:
        self.fresh = deque(job for job in self.fresh if job.waiting)
        jobs = [job for _, _, job in self.returned if job.waiting]
        self.returned = sorted((job.key, id(job), job) for job in jobs)


def _rank(lane: _Lane) -> int:
    return -lane.priority


class _Backlog:
    """The waiting jobs of one client at one depth."""

    __slots__ = ("dead", "lanes", "live", "order", "spent")

    def __init__(self) -> None:
        self.spent = 0.0  # seconds of its client's turn
        self.lanes: dict[tuple[int, tuple[str, ...]], _Lane] = {}
        self.order: list[_Lane] = []  # highest priority first
        self.live = 0  # jobs that wait
        self.dead = 0  # discarded jobs that are still in a lane

    def lane(self, priority: int, tags: tuple[str, ...]) -> _Lane:
        lane = self.lanes.get((priority, tags))
        if lane is None:
            lane = self.lanes[priority, tags] = _Lane(priority, tags)
            insort(self.order, lane, key=_rank)
        return lane

    def pop(self, carried: frozenset[str] | None) -> Job | None:
        """Take out the oldest of those with the highest priority, for who carries these tags."""
        order = self.order
        if len(order) == 1 and not order[0].tags:  # as it is most often
            return order[0].pop()
        chosen: list[tuple[int, _Lane]] = []
        for lane in order:
            if chosen and lane.priority < chosen[0][1].priority:
                break
            if not lane.tags or carried is None or carried.issuperset(lane.tags):
                job = lane.head()
                if job is not None:
                    chosen.append((job.key, lane))
        if not chosen:
            return None
        _, lane = min(chosen, key=lambda entry: entry[0])
        job = lane.pop()
        if not (lane.fresh or lane.returned):
            del self.lanes[lane.priority, lane.tags]
            order.pop(order.index(lane, bisect_left(order, _rank(lane), key=_rank)))
        return job


class _Level:
    """All waiting jobs of one depth."""

    def __init__(self) -> None:
        self.backlogs: dict[int, _Backlog] = {}
        self.turns: deque[int] = deque()  # clients in self.backlogs, next first

    def backlog(self, client: int) -> _Backlog:
        backlog = self.backlogs.get(client)
        if backlog is None:
            backlog = self.backlogs[client] = _Backlog()
            self.turns.append(client)
        return backlog

    def pop(self, carried: frozenset[str] | None) -> Job | None:
        for _ in range(len(self.turns)):
            client = self.turns[0]
            backlog = self.backlogs[client]
            job = backlog.pop(carried)
            if job is not None:
                backlog.live -= 1
                return job
            self.turns.rotate(-1)
        return None

    def charge(self, client: int, seconds: float, turn: float) -> None:
        """Note what a client was given; when its turn is over, it is the next one's."""
        backlog = self.backlogs.get(client)
        if backlog is None:
            return
        backlog.spent += seconds
        if backlog.spent >= turn:
            backlog.spent = 0.0
            if self.turns[0] == client:
                self.turns.rotate(-1)

    def forget(self, client: int) -> None:
        """Forget a client of which nothing waits."""
        del self.backlogs[client]
        self.turns.remove(client)


class Queue:
    """All waiting jobs."""

    def __init__(self, turn: float = 0.0) -> None:
        """``turn``: how many seconds of work a client's turn is; 0: one job."""
        self._turn = turn
        self._levels: dict[int, _Level] = {}
        self._depths: list[int] = []  # of the levels, deepest first
        self._size = 0
        self._outer_turn = False  # the outermost were not the first ones last time

    def __len__(self) -> int:
        """Return how many tasks wait."""
        return self._size

    def __iter__(self) -> Iterator[Job]:
        """Iterate over the waiting jobs, in no order."""
        for level in self._levels.values():
            for backlog in level.backlogs.values():
                for lane in backlog.order:
                    yield from (job for job in lane.fresh if job.waiting)
                    yield from (job for _, _, job in lane.returned if job.waiting)

    def push(self, job: Job) -> None:
        """Add a job that is younger than all before it."""
        self._size += job.count
        self._backlog(job).lane(job.task.priority, job.task.tags).fresh.append(job)

    def put_back(self, job: Job) -> None:
        """Add a job that has been in the queue before, at its old place."""
        self._size += job.count
        self.add_head(job)

    def add_head(self, job: Job) -> None:
        """Add what was the head of a job that waits."""
        self._backlog(job).lane(job.task.priority, job.task.tags).push_back(job)

    def has_rivals(self, job: Job) -> bool:
        """Whether other clients wait too, with tasks as deep as this one."""
        level = self._levels.get(job.depth)
        return level is not None and len(level.backlogs) > (job.client in level.backlogs)

    def charge(self, job: Job, seconds: float) -> None:
        """Note that a job, which should take so long, was given to a daemon."""
        level = self._levels.get(job.depth)
        if level is not None:
            level.charge(job.client, seconds, self._turn)

    def discard(self, job: Job) -> None:
        """Take a waiting job out, wherever it stands."""
        job.waiting = False
        self._size -= job.count
        backlog = self._levels[job.depth].backlogs[job.client]
        backlog.live -= 1
        backlog.dead += 1
        if backlog.dead > backlog.live:  # seldom enough to cost each job no more than a constant
            for lane in backlog.lanes.values():
                lane.compact()
            backlog.dead = 0
        if not backlog.live:
            self._tidy(job)

    def pop(self, carried: frozenset[str] | None = NO_TAGS, *, nested: bool = False) -> Job | None:
        """Take out the next job for a daemon that carries these tags (None: all there are).

        With ``nested``, only one that another job may be waiting for.  None if nothing fits.
        """
        for depth in self._order_of_depths(nested):
            job = self._levels[depth].pop(carried)
            if job is not None:
                job.waiting = False
                self._size -= job.count
                if not self._levels[depth].backlogs[job.client].live:
                    self._tidy(job)
                return job
        return None

    def _order_of_depths(self, nested: bool) -> list[int]:
        """Return where to look: the deepest first, but every other time the outermost.

        So few wait at a time, and one client's nested tasks do not starve another's plain ones.
        """
        depths = self._depths
        if not depths or depths[-1] > 0:
            return depths
        if nested:
            return depths[:-1]
        self._outer_turn = not self._outer_turn
        return depths if self._outer_turn else [0, *depths[:-1]]

    def wanted(self) -> set[tuple[str, ...]]:
        """Return the tags of the jobs that wait, each set once; looks at no job but the oldest."""
        backlogs = (
            backlog for level in self._levels.values() for backlog in level.backlogs.values()
        )
        return {
            lane.tags for backlog in backlogs for lane in backlog.order if lane.head() is not None
        }

    def has_nested(self) -> bool:
        """Whether a job waits that another job may be waiting for."""
        return bool(self._depths) and self._depths[0] > 0

    def _tidy(self, job: Job) -> None:
        """Keep nothing in which nothing waits: this was its client's last job there."""
        level = self._levels[job.depth]
        level.forget(job.client)
        if not level.backlogs:
            del self._levels[job.depth]
            self._depths = sorted(self._levels, reverse=True)

    def _backlog(self, job: Job) -> _Backlog:
        level = self._levels.get(job.depth)
        if level is None:
            level = self._levels[job.depth] = _Level()
            self._depths = sorted(self._levels, reverse=True)
        backlog = level.backlog(job.client)
        job.waiting = True
        backlog.live += 1
        return backlog
