"""A batch scheduler, workers and tasks, all simulated: what a rule of scaling makes of them.

Time is simulated, so that an hour takes a moment.  A job waits in a queue, then is a worker until
it is let go; it may also be refused, die before it is one, die at work, or reach its wall time.
A task that was lost with its worker is done again.  The fleet is the one that launches for real.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from mirai._fleet import Fleet
from mirai.controllers.scaling import Past, Policy, choose
from mirai.launchers import Handle, Phase, State

Rule = Callable[[int, int, float], tuple[int, float | None]]
"""(tasks, workers, now) -> how many workers there are to be, and when to ask again."""
PAUSE = 5.0
"""Seconds until what was refused, or has failed, is tried once more."""


def follow(policy: Policy) -> Rule:
    """Return the rule that controllers have."""
    past = Past()

    def decide(tasks: int, workers: int, now: float) -> tuple[int, float | None]:
        nonlocal past
        choice = choose(tasks, workers, now, policy, past)
        past = choice.past
        return choice.count, choice.again

    return decide


def obey(most: int) -> Rule:
    """Return the rule that has as many workers as there are tasks at the moment."""
    return lambda tasks, _workers, _now: (min(tasks, most), None)


def have(most: int) -> Rule:
    """Return the rule that has all workers all the time."""
    return lambda _tasks, _workers, _now: (most, None)


@dataclass(frozen=True)
class Cluster:
    """What jobs go through; probabilities from 0 to 1, times in seconds."""

    wait: float = 60.0
    """In the queue, give or take a half."""
    wall_time: float | None = None
    """From when on a worker begins no task any more."""
    refuses: float = 0.0
    """How likely a launch is refused."""
    loses: float = 0.0
    """How likely a job ends before it joins."""
    kills: float = 0.0
    """How likely a worker dies at a task."""


@dataclass(eq=False)
class Task:
    """One, which takes so many seconds."""

    came: float
    length: float
    began: float | None = None
    """When it was first begun."""


@dataclass(eq=False)
class Worker:
    """A job, and what it does once it has joined."""

    handle: Handle
    joined: float | None = None
    task: Task | None = None
    free_since: float = 0.0
    is_leaving: bool = False
    is_gone: bool = False


@dataclass
class Record:
    """What has happened."""

    jobs: int = 0
    """How many were launched."""
    launches: int = 0
    """By how many calls of the platform."""
    vain: int = 0
    """How many jobs were ended before they joined."""
    lost: int = 0
    """How many ended otherwise than because they were let go."""
    paid: float = 0.0
    """Seconds of workers, from when they joined until they left."""
    idle: float = 0.0
    """And of those, the ones in which they had nothing to do."""
    makespan: float = 0.0
    """When the last task was done."""
    waits: list[float] = field(default_factory=list)
    """How many seconds each task has waited until it was begun."""
    line: list[tuple[float, int, int, int]] = field(default_factory=list)
    """At each change: when, and how many tasks, pending jobs and workers there were."""


class Simulation:
    """One rule, one cluster, and tasks of which is known when they come."""

    def __init__(
        self, rule: Rule, cluster: Cluster, tasks: Sequence[tuple[float, float]], seed: int
    ) -> None:
        """``tasks``: when each comes, and how many seconds it takes."""
        self.record = Record()
        self.fleet = Fleet(float("inf"))
        self.workers: dict[str, Worker] = {}
        self.now = 0.0
        self._rule = rule
        self._cluster = cluster
        self._draw = Random(seed)
        self._numbers = itertools.count(1)
        self._waiting: deque[Task] = deque()
        self._left = len(tasks)
        self._tries_at = 0.0  # before that nothing is launched
        self._looks_at: float | None = None
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        for when, length in tasks:
            self._plan(when, self._come, Task(when, length))

    def run(self) -> Record:
        """Let everything happen; return what has."""
        while self._events and not self._is_forever():
            self.now = self._events[0][0]
            while self._events and self._events[0][0] == self.now:
                _, _, happen, args = heapq.heappop(self._events)
                happen(*args)
            self._hand_out()
            self._look()
            self._note()
        for worker in list(self.workers.values()):
            self._leave(worker, Phase.CANCELLED)
        return self.record

    def _is_forever(self) -> bool:
        """Whether all is done, and the rule lets nobody go."""
        return not self._left and self._looks_at is None and self.fleet.wanted > 0

    def _plan(self, when: float, happen: Callable[..., None], *args: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), happen, args))

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def _come(self, task: Task) -> None:
        self._waiting.append(task)
        self.fleet.failing = False  # it is worth trying once more

    def _hand_out(self) -> None:
        for worker in self.workers.values():
            if not self._waiting:
                return
            if worker.joined is not None and worker.task is None and not worker.is_leaving:
                self._begin(worker, self._waiting.popleft())

    def _begin(self, worker: Worker, task: Task) -> None:
        if task.began is None:
            task.began = self.now
            self.record.waits.append(self.now - task.came)
        self._count_idle(worker)
        worker.task = task
        if self._draw.random() < self._cluster.kills:
            self._plan(self.now + task.length / 2, self._die, worker)
        else:
            self._plan(self.now + task.length, self._done, worker)

    def _done(self, worker: Worker) -> None:
        worker.task, worker.free_since = None, self.now
        self._left -= 1
        self.record.makespan = self.now
        if worker.is_leaving:
            self._leave(worker, Phase.ENDED)

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def _join(self, worker: Worker) -> None:
        if worker.is_gone:
            return
        if self._draw.random() < self._cluster.loses:
            self._die(worker)
            return
        worker.joined = worker.free_since = self.now
        if self._cluster.wall_time is not None:
            self._plan(self.now + self._cluster.wall_time, self._let_go, worker, True)

    def _die(self, worker: Worker) -> None:
        if worker.task is not None:
            self._waiting.appendleft(worker.task)
            worker.task, worker.free_since = None, self.now
        self.record.lost += 1
        self._leave(worker, Phase.FAILED)

    def _let_go(self, worker: Worker, is_over: bool = False) -> None:
        """Have one leave once it has ended its task; ``is_over``: its time is."""
        if worker.is_gone or worker.is_leaving:
            return
        worker.is_leaving = True
        self.record.lost += is_over
        if worker.task is None:
            self._leave(worker, Phase.ENDED)

    def _leave(self, worker: Worker, phase: Phase) -> None:
        if worker.joined is None:
            self.record.vain += phase is Phase.CANCELLED
        else:
            self._count_idle(worker)
            self.record.paid += self.now - worker.joined
        worker.is_gone = True
        del self.workers[worker.handle.id]
        self._tell_who_is_there()
        self.fleet.told({worker.handle: State(phase)}, self.now)
        self.fleet.finished(self.now)

    def _count_idle(self, worker: Worker) -> None:
        if worker.task is None:
            self.record.idle += self.now - worker.free_since

    # ── their number ─────────────────────────────────────────────────────────────────────

    def _tell_who_is_there(self) -> None:
        self.fleet.there([each.handle.id for each in self._joined()], ())

    def _joined(self) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.joined is not None]

    def demand(self) -> int:
        """Return how many tasks have no answer yet, of those that have come."""
        return len(self._waiting) + sum(each.task is not None for each in self.workers.values())

    def _look(self) -> None:
        self._tell_who_is_there()
        if self.fleet.is_hopeless() and self._waiting:
            self.fleet.failing, self._tries_at = False, self.now + PAUSE
        there = len(self.fleet.staying())
        self.fleet.wanted, again = self._rule(self.demand(), there, self.now)
        self._dismiss(there - self.fleet.wanted)
        if missing := self.fleet.missing():
            again = self._launch(missing) or again
        self._looks_at = again
        if again is not None:
            self._plan(again, lambda: None)

    def _dismiss(self, excess: int) -> None:
        idle = {each.handle.id for each in self._joined() if each.task is None}
        pending, there = self.fleet.dismiss(excess, idle)
        for handle in there:
            self._let_go(self.workers[handle.id])
        for handle in pending:
            self._leave(self.workers[handle.id], Phase.CANCELLED)

    def _launch(self, count: int) -> float | None:
        """Launch so many; return when to try again if that cannot be."""
        if self.now < self._tries_at:
            return self._tries_at
        self.record.launches += 1
        if self._draw.random() < self._cluster.refuses:
            self._tries_at = self.now + PAUSE
            return self._tries_at
        name = f"launch-{self.record.launches}"
        handles = [Handle(f"{name}-{index}", name) for index in range(count)]
        self.fleet.add(handles, self.now)
        self.record.jobs += count
        for handle in handles:
            worker = self.workers[handle.id] = Worker(handle)
            wait = self._cluster.wait * self._draw.uniform(0.5, 1.5)
            self._plan(self.now + wait, self._join, worker)
        return None

    def _note(self) -> None:
        joined = len(self._joined())
        counts = self.demand(), len(self.workers) - joined, joined
        if not self.record.line or self.record.line[-1][1:] != counts:
            self.record.line.append((self.now, *counts))
