"""What a controller does: it sends tasks, tries them again, and has workers for them.

The book knows the tasks, ``scaling`` how many workers there are to be, the pool does the rest.
One thread looks after what takes time: attempts that are due, and workers that are not needed.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import BuiltinFunctionType, FunctionType
from typing import TYPE_CHECKING, Any

from mirai._future import Mirai
from mirai._options import check_callable
from mirai._streams import Streams
from mirai.controllers._attempts import Attempts
from mirai.controllers._book import Book, Counts, Summary
from mirai.controllers._crews import Crews
from mirai.controllers._describe import describe, name_of
from mirai.controllers._enclosed import Enclosed
from mirai.controllers._options import SEED_BYTES, Push, PushOptions, Recruits, suffices
from mirai.controllers._result import TaskResult
from mirai.controllers._retry import Retry
from mirai.controllers._task import NOTHING, Task, frozen, result_of
from mirai.controllers._upkeep import Upkeep
from mirai.controllers._waiters import Waiters

if TYPE_CHECKING:
    from mirai._profiles import PoolSettings
    from mirai.controllers._keeping import Keeping
    from mirai.controllers._metrics import MetricsLog

KNOWN = 256
"""How many functions are remembered as they are sent."""
LASTING = (FunctionType, BuiltinFunctionType, type)
"""What of those is no copy of something else, such as a bound method is."""


@dataclass(frozen=True, slots=True)
class Settings:
    """All that is said about a controller; see there."""

    name: str
    recruits: tuple[Recruits, ...]
    retry: Retry
    crashes_max: int
    backup: Engine | None
    seed: int | None
    url: str | None
    pool: PoolSettings
    resources: Mapping[str, float] = field(default_factory=dict)
    store: Keeping | None = None
    metrics: MetricsLog | None = None


class Engine:
    """The works of one controller.  For any thread."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.name = settings.name
        self.waiters = Waiters()
        self.crews = Crews(settings, self.call)
        self._streams = Streams(settings.seed)
        self._keys = itertools.count(1)
        self._starting = threading.RLock()  # held while the pool starts or ends
        self.lock = threading.RLock()  # guards what follows, up to the blank line, and all tasks
        self.book: Book[Task] = Book()
        self._flying: dict[Task, tuple[str, ...]] = {}  # attempts without an end, and their tags
        self._demand: Counter[tuple[str, ...]] = Counter()  # how many of them have the same
        self._functions: dict[int, Enclosed] = {}  # by the function's id
        self._is_new = False  # whether tasks were sent since the last look
        self._upkeep: Upkeep | None = None  # while it is started

        self._attempts = Attempts(self)

    # ── its life ─────────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the dispatcher, and the workers that are always to be there; if need be.

        Raises like ``daemons``.
        """
        if self._upkeep is not None:
            return
        with self._starting:
            if self._upkeep is not None:
                return
            self.crews.start()
            self._functions.clear()  # they know the store of the former pool
            self._upkeep = Upkeep(f"mirai-{self.name}", self._turn)
            self._upkeep.start()

    def close(self) -> None:
        """Cancel what has not ended, and end all processes.  Idempotent."""
        with self._starting:
            with self.lock:
                upkeep, self._upkeep = self._upkeep, None
            if upkeep is not None:
                upkeep.end()
            try:
                self.cancel(None)  # also what a backup has, which may be others' too
                self.crews.end()
            finally:
                if upkeep is not None:
                    upkeep.join()
                self._attempts.close()

    @property
    def is_started(self) -> bool:
        """Whether it has a pool."""
        return self._upkeep is not None

    def is_used(self) -> bool:
        """Whether there is a task here that has not ended, its own or another controller's."""
        with self.lock:
            return bool(self._flying) or self.book.counts().unresolved > 0

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, push: Push) -> Task:
        """Send a task; see ``Controller.push``."""
        check_callable(push.fn)
        self._check(push.options)
        self.start()
        task = self._task_of(push)
        try:
            self._enter(task, push)
            kept = self.crews.stow(push.args, push.kwargs)
            if task.retry:
                kept = (frozen(*kept, self.crews.reducer),), {}
            task.call = (task.name, *kept[0]), kept[1]
            self._attempts.begin(task)
        except BaseException:  # Ctrl-C may come when it was sent already
            with self.lock:
                self.book.withdraw(task)
            self._attempts.stop(task)
            self.land(task)
            raise
        if not task.retry:
            task.call = NOTHING  # the pool has it
        return task

    def _check(self, options: PushOptions) -> None:
        """Raise ValueError for a task that is not for this controller."""
        self.crews.check(options.tags)
        if options.controller not in (None, self.name):
            raise ValueError(f"this is the controller {self.name!r}, not {options.controller!r}")
        if not suffices(self.settings.resources, options.resources):
            raise ValueError(f"the workers of {self.name!r} do not have {dict(options.resources)}")

    def _task_of(self, push: Push) -> Task:
        options = push.options
        task = Task(
            f"{self.name}/{next(self._keys)}",
            describe(push.fn, push.args, push.kwargs),
            self._enclosed(push.fn),
            options,
            self.settings.retry if options.retry is None else options.retry,
            self._stream(options.seed),
            push.is_claimed,
            self,
        )
        mirai = task.mirai
        mirai.profile = self.name
        mirai._cancel_hook = partial(_stop, self._attempts, task)
        mirai._submitted = task.submitted
        return task

    def _enter(self, task: Task, push: Push) -> None:
        """Write a task into the book.  Raises ValueError if its name is taken."""
        with self.lock:
            name = push.options.name
            task.is_drawn = name is None
            task.name = self.book.draw_name(name_of(push.fn)) if name is None else name
            task.mirai.name = task.name
            self.book.add(task)

    def _stream(self, seed: int | None) -> bytes:
        """Return what a task draws its random numbers from; empty without a seed."""
        return self._streams.next() if seed is None else seed.to_bytes(SEED_BYTES, "big")

    def _enclosed(self, fn: Callable[..., Any]) -> Enclosed:
        """Return what is sent for a function: the same thing for the same function.

        Only what holds nothing else is remembered.
        """
        if type(fn) not in LASTING or getattr(fn, "__closure__", None):
            return Enclosed(fn, self.crews.depot)
        known = self._functions.get(id(fn))
        if known is not None and known.__wrapped__ is fn:
            return known
        if len(self._functions) >= KNOWN:
            self._functions.clear()
        enclosed = self._functions[id(fn)] = Enclosed(fn, self.crews.depot)
        return enclosed

    def send(self, task: Task, *, may_wait: bool) -> Mirai[Any] | None:
        """Give a task, ours or another controller's, to this one's pool.

        Returns None, unless it ``may_wait``, if the memory budget is used up.
        """
        pool = self.crews.pool
        submit = pool.submit if may_wait else pool.try_submit
        args, kwargs = task.call
        inner: Mirai[Any] | None = None
        self._take_off(task)
        try:
            inner = submit(task.fn, args, kwargs, task.options.task(task.stream))
        finally:
            if inner is None:
                self.land(task)
        return inner

    def _take_off(self, task: Task) -> None:
        """A task is about to have an attempt here."""
        tags = task.options.tags
        with self.lock:
            self._flying[task] = tags
            self._demand[tags] += 1
            self._is_new = True
        self._look(tags)

    def land(self, task: Task) -> None:
        """A task has no attempt here any more, if it had one."""
        with self.lock:
            tags = self._flying.pop(task, None)
            if tags is None:
                return
            self._demand[tags] -= 1
            if not self._flying:
                self._demand.clear()  # whatever Ctrl-C has kept from being counted
        self._look(tags)

    def _look(self, tags: tuple[str, ...]) -> None:
        """Have the thread look if the number of tasks with these tags may matter to it."""
        if self._demand[tags] <= self.crews.most:  # more of the same are the same to the crews
            self.call()

    # ── what has ended ───────────────────────────────────────────────────────────────────

    def take(self) -> TaskResult[Any] | None:
        """Return what has ended first and was not taken; None if there is none.

        It is taken once its result is there: what Ctrl-C interrupts is not lost.
        """
        while True:
            with self.lock:
                task = self.book.first()
            if task is None:
                return None
            _await(task)
            result = result_of(task)
            with self.lock:
                is_ours = self.book.remove(task)
                if is_ours:
                    self._note(task, result)
            if is_ours:
                self.waiters.ring()
                return result

    def hand_over(self, task: Task) -> TaskResult[Any]:
        """Return the result of a task that is over, and that somebody has waited for."""
        result = result_of(task)
        with self.lock:
            self._note(task, result)
        return result

    def _note(self, task: Task, result: TaskResult[Any]) -> None:
        """Count what a task took; under the lock."""
        unreadable = not (task.has_failed or result.ok)
        self.book.looked_at(result.seconds, len(result.warnings), unreadable=unreadable)

    def cancel(self, names: tuple[str, ...] | None) -> int:
        """Cancel those of these names, or all (None); return how many that were.

        Raises KeyError for a name that no task has.
        """
        with self.lock:
            known = self.book.names
            tasks = list(known.values()) if names is None else [known[name] for name in names]
        return sum(not task.mirai.done() and task.mirai.cancel() for task in tasks)

    def counts(self) -> Counts:
        """Return how many tasks stand how, at one moment."""
        with self.lock:
            return self.book.counts()

    def most(self) -> int:
        """Return how many workers there can be."""
        return self.crews.most

    def crashes(self, name: str) -> int:
        """Return how often a task has crashed since it last ended otherwise."""
        with self.lock:
            return self.book.crashes.get(name, 0)

    def push_backlog(self, name: str) -> None:
        """Remember a name."""
        with self.lock:
            self.book.backlog.append(name)

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
        with self.lock:
            return self.book.pop_backlog(room)

    def has(self, name: str) -> bool:
        """Whether a task has this name that was not taken."""
        return name in self.book.names

    def summary(self) -> Summary:
        """Return the counts."""
        with self.lock:
            return self.book.summary(self.name)

    # ── what takes time ──────────────────────────────────────────────────────────────────

    def call(self) -> None:
        """Have the thread look."""
        upkeep = self._upkeep
        if upkeep is not None:
            upkeep.call()

    def _turn(self) -> float | None:
        """Do what is due; return when to do so again."""
        now = time.monotonic()
        due = self._attempts.take_turn(now)
        with self.lock:
            demand = {tags: count for tags, count in self._demand.items() if count > 0}
            is_new = self._is_new
            self._is_new = False
        again = self.crews.follow(demand, now, anew=is_new)
        return min([each for each in (again, due) if each is not None], default=None)


def _stop(attempts: Attempts, task: Task, _: object) -> None:
    attempts.stop(task)


def _await(task: Task) -> None:
    """Wait for those microseconds in which a task is in the book as over, and not yet settled."""
    if not task.mirai.done():
        with contextlib.suppress(RuntimeError, TimeoutError):  # in a done-callback: it is about to
            task.mirai.exception(1.0)
