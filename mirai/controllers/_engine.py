"""What a controller does: it sends tasks, tries them again, and has workers for them.

The book knows the tasks, ``scaling`` how many workers there are to be, the pool does the rest.
One thread looks after what takes time: attempts that are due, and workers that are not needed.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from mirai._answer import Failure
from mirai._errors import MiraiError, TaskCancelled
from mirai._future import Mirai
from mirai._limits import seconds
from mirai._streams import Streams
from mirai.controllers._book import Book, Summary
from mirai.controllers._crews import Crews
from mirai.controllers._describe import describe, name_of
from mirai.controllers._enclosed import Enclosed
from mirai.controllers._options import SEED_BYTES, Push, Recruits
from mirai.controllers._result import TaskResult
from mirai.controllers._retry import Retry, rung
from mirai.controllers._status import Status
from mirai.controllers._task import NOTHING, Task, failed_attempt, frozen, result_of
from mirai.controllers._upkeep import Upkeep
from mirai.controllers._waiters import Waiters

if TYPE_CHECKING:
    from mirai._profiles import PoolSettings
    from mirai.controllers._keeping import Keeping
    from mirai.controllers._metrics import MetricsLog

KNOWN = 256
"""How many functions are remembered as they are sent."""


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
        self.crews = Crews(settings, self._call)
        self._streams = Streams(settings.seed)
        self._keys = itertools.count(1)
        self._starting = threading.RLock()  # held while the pool starts or ends
        self._lock = threading.RLock()  # guards what follows, up to the blank line
        self.book = Book()
        self._demand: Counter[tuple[str, ...]] = Counter()  # attempts that have no end yet
        self._functions: dict[int, Enclosed] = {}  # by the function's id
        self._due: list[tuple[float, int, Task]] = []  # what is to be tried again, and when
        self._is_new = False  # whether tasks were sent since the last look

        self._upkeep: Upkeep | None = None
        self._started_backup = False

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
            upkeep, self._upkeep = self._upkeep, None
            if upkeep is not None:
                upkeep.end()
            self.crews.end()
            if upkeep is not None:
                upkeep.join()
            self._drop_due()
            if self._started_backup and self.settings.backup is not None:
                self.settings.backup.close()

    @property
    def is_started(self) -> bool:
        """Whether it has a pool."""
        return self._upkeep is not None

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, push: Push) -> Task:
        """Send a task; see ``Controller.push``."""
        if not callable(push.fn):
            raise TypeError(f"the first argument must be callable, not {type(push.fn).__name__}")
        self.crews.check(push.options.tags)
        self.start()
        task = self._enter(push)
        try:
            kept = self.crews.stow(push.args, push.kwargs)
            if task.retry:
                kept = (frozen(*kept, self.crews.reducer()),), {}
            task.call = (task.name, *kept[0]), kept[1]
            self._attempt(task, self._place_of(task))
        except BaseException:
            with self._lock:
                self.book.withdraw(task)
            raise
        if not task.retry:
            task.call = NOTHING  # the pool has it
        return task

    def _enter(self, push: Push) -> Task:
        """Write a task into the book."""
        options = push.options
        command = describe(push.fn, push.args, push.kwargs)
        with self._lock:
            name = options.name or self.book.draw_name(name_of(push.fn))
            task = Task(
                name,
                f"{self.name}/{next(self._keys)}",
                command,
                self._enclosed(push.fn),
                options,
                self.settings.retry if options.retry is None else options.retry,
                self._stream(options.seed),
                push.is_claimed,
                Mirai(0, name, self.name),
            )
            self.book.add(task)
        mirai = task.mirai
        mirai._cancel_hook = partial(self._stop, task)
        mirai._recount_hook = partial(_recount, task)
        mirai._submitted = task.submitted
        return task

    def _stream(self, seed: int | None) -> bytes:
        """Return what a task draws its random numbers from; empty without a seed."""
        return self._streams.next() if seed is None else seed.to_bytes(SEED_BYTES, "big")

    def _enclosed(self, fn: Callable[..., Any]) -> Enclosed:
        """Return what is sent for a function: the same thing for the same function."""
        known = self._functions.get(id(fn))
        if known is not None and known.__wrapped__ is fn:
            return known
        if len(self._functions) >= KNOWN:
            self._functions.clear()
        enclosed = self._functions[id(fn)] = Enclosed(fn, self.crews.depot)
        return enclosed

    def _place_of(self, task: Task) -> Engine:
        """Return which controller of the chain has its turn.

        Raises MiraiError if the task has crashed too often with each.
        """
        crashes = self.book.crashes.get(task.name, 0)
        if not crashes:
            return self
        chain = self._chain()
        index = rung(crashes, [engine.settings.crashes_max for engine in chain])
        if index is None:
            raise MiraiError(
                f"task {task.name!r} has crashed {crashes} times in a row: that is crashes_max"
            )
        return chain[index]

    def _chain(self) -> list[Engine]:
        """Return this one, its backup, the backup's backup, and so on."""
        chain: list[Engine] = [self]
        while (backup := chain[-1].settings.backup) is not None:
            chain.append(backup)
        return chain

    def _attempt(self, task: Task, engine: Engine) -> None:
        """Send a task to the pool of a controller of the chain."""
        if engine is not self:  # which its caller has started, and may be ending by now
            self._started_backup = self._started_backup or not engine.is_started
            engine.start()
        task.where = engine.name
        inner = engine.send(task)
        task.inner = inner
        task.mirai.id = inner.id
        inner.add_done_callback(partial(self._ended, task, engine))
        if task.is_cancelled:
            inner.cancel()

    def send(self, task: Task) -> Mirai[Any]:
        """Give a task, ours or another controller's, to this one's pool."""
        tags = task.options.tags
        self._count(tags, 1)
        args, kwargs = task.call
        try:
            inner = self.crews.pool.submit(task.fn, args, kwargs, task.options.task(task.stream))
        except BaseException:
            self._count(tags, -1)
            raise
        return inner

    def _count(self, tags: tuple[str, ...], change: int) -> None:
        """Know of one more or one fewer; have the thread look if that may matter to it."""
        with self._lock:
            demand = self._demand
            demand[tags] += change
            if not demand[tags]:
                del demand[tags]
            self._is_new = self._is_new or change > 0
            few = demand[tags] <= self.crews.most  # more of the same are the same to the crews
        if few:
            self._call()

    def _ended(self, task: Task, engine: Engine, inner: Any) -> None:
        """An attempt has an answer."""
        engine._count(task.options.tags, -1)
        if not inner._failed():
            self._resolve(task, Status.SUCCESS)
            return
        error = inner.exception()
        attempt = failed_attempt(error, engine.name, inner.log)
        with self._lock:
            task.attempts.append(attempt)
            self.book.failed_once(task, attempt.status)
        if not task.is_cancelled and self._upkeep is not None:
            pause = task.retry.pause(task.ends(), attempt.error)
            if pause is not None and self._may_go_on(task):
                self._try_later(task, pause)
                return
        task.has_failed = True
        self._resolve(task, attempt.status)

    def _may_go_on(self, task: Task) -> bool:
        limits = [engine.settings.crashes_max for engine in self._chain()]
        return rung(self.book.crashes[task.name], limits) is not None

    def _resolve(self, task: Task, status: Status) -> None:
        """A task is over: tell everybody."""
        task.finished = time.time()
        task.call = NOTHING
        with self._lock:
            self.book.resolve(task, status)
        inner = task.inner
        if inner is not None:
            task.mirai.annotate(inner.log, inner._told)
        if task.has_failed:
            error = task.attempts[-1].error
            assert error is not None, "it has failed"
            task.mirai.settle(Failure(error), cancelled=status is Status.CANCEL)
        else:
            assert inner is not None, "it has succeeded"
            task.mirai.settle(_Inside(inner, self.crews.fetch))
        self.waiters.ring()

    def _stop(self, task: Task, _: object) -> None:
        """The task's caller has cancelled it."""
        with self._lock:
            task.is_cancelled = True
            inner = task.inner
        if inner is not None and inner.cancel():
            return
        self._give_up(task)

    def _give_up(self, task: Task) -> None:
        """Resolve as cancelled a task that waits to be tried again, if it does."""
        with self._lock:
            waiting = [entry for entry in self._due if entry[2] is task]
            for entry in waiting:
                self._due.remove(entry)
            heapq.heapify(self._due)
        if waiting:
            error = TaskCancelled(f"task {task.name!r} was cancelled")
            task.attempts.append(failed_attempt(error, task.where, ""))
            task.has_failed = True
            self._resolve(task, Status.CANCEL)

    def _drop_due(self) -> None:
        with self._lock:
            tasks = [task for _, _, task in self._due]
        for task in tasks:
            self._give_up(task)

    def _try_later(self, task: Task, pause: float) -> None:
        with self._lock:
            task.inner = None
            entry = (time.monotonic() + pause, next(self._keys), task)
            heapq.heappush(self._due, entry)
        self._call()

    # ── what has ended ───────────────────────────────────────────────────────────────────

    def take(self) -> TaskResult[Any] | None:
        """Return what has ended first and was not taken; None if there is none."""
        with self._lock:
            task = self.book.take()
        if task is None:
            return None
        assert isinstance(task, Task)
        self.waiters.ring()
        return self.look_at(task)

    def look_at(self, task: Task) -> TaskResult[Any]:
        """Return the result of a task that is over."""
        result = result_of(task)
        with self._lock:
            self.book.looked_at(result.seconds, len(result.warnings))
        return result

    def cancel(self, names: tuple[str, ...] | None) -> int:
        """Cancel those of these names, or all (None); return how many that were.

        Raises KeyError for a name that no task has.
        """
        with self._lock:
            known = self.book.names
            found = list(known.values()) if names is None else [known[name] for name in names]
        tasks = [task for task in found if isinstance(task, Task)]
        return sum(not task.mirai.done() and task.mirai.cancel() for task in tasks)

    def unresolved(self) -> int:
        """Return how many tasks have not ended."""
        return self.book.unresolved

    def unpopped(self) -> int:
        """Return how many have ended and were not taken."""
        return len(self.book.unpopped)

    def resolved(self) -> int:
        """Return how many have ended so far."""
        with self._lock:
            return self.book.resolved()

    def most(self) -> int:
        """Return how many workers there can be."""
        return self.crews.most

    def crashes(self, name: str) -> int:
        """Return how often a task has crashed since it last ended otherwise."""
        with self._lock:
            return self.book.crashes.get(name, 0)

    def push_backlog(self, name: str) -> None:
        """Remember a name."""
        with self._lock:
            self.book.backlog.append(name)

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
        with self._lock:
            return self.book.pop_backlog(room)

    def has(self, name: str) -> bool:
        """Whether a task has this name that was not taken."""
        return name in self.book.names

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def descale(self) -> None:
        """Let idle workers go now."""
        self.crews.descale()

    def shutdown(self, tags: tuple[str, ...]) -> None:
        """Let those workers go that carry these tags; tasks bring others."""
        self.crews.shutdown(tags)
        self._call()

    def dismiss(self, tags: tuple[str, ...]) -> int:
        """Have the crews no more that carry these tags; return how many those were."""
        count = self.crews.dismiss(tags)
        self._call()
        return count

    def restart_stuck(self, after: float | str) -> int:
        """End the workers that are stuck, and have others."""
        return self.crews.restart_stuck(seconds("after", after) if after else 0.0)

    def summary(self) -> Summary:
        """Return the counts."""
        with self._lock:
            return self.book.summary(self.name)

    # ── what takes time ──────────────────────────────────────────────────────────────────

    def _call(self) -> None:
        """Have the thread look."""
        upkeep = self._upkeep
        if upkeep is not None:
            upkeep.call()

    def _turn(self) -> float | None:
        """Do what is due; return when to do so again."""
        now = time.monotonic()
        self._try_again(now)
        with self._lock:
            demand, is_new = dict(self._demand), self._is_new
            self._is_new = False
            due = self._due[0][0] if self._due else None
        again = self.crews.follow(demand, now, anew=is_new)
        return min([each for each in (again, due) if each is not None], default=None)

    def _try_again(self, now: float) -> None:
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > now:
                    return
                _, _, task = heapq.heappop(self._due)
            try:
                self._attempt(task, self._place_of(task))
            except Exception as error:
                task.attempts.append(failed_attempt(error, task.where, ""))
                task.has_failed = True
                self._resolve(task, task.attempts[-1].status)


class _Inside:
    """The answer of a task, which is in that of its last attempt."""

    is_error = False

    def __init__(self, inner: Mirai[Any], fetch: Callable[[Any], Any]) -> None:
        self._inner = inner
        self._fetch = fetch

    def read(self) -> Any:
        """Return the value.  Raises what reading it raises."""
        _, value = self._inner.result()
        return self._fetch(value)


def _recount(task: Task, _: object) -> Any:
    inner = task.inner
    return () if inner is None or inner._recount_hook is None else inner._recount_hook(inner)
