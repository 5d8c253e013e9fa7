"""How the tasks of one controller are sent, are tried again, and end.

A task changes under the lock of its engine, and nothing is waited for under it.  It ends once,
whoever comes first: an attempt that has an answer, its caller who cancels it, or the end of all.
"""

from __future__ import annotations

import heapq
import itertools
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from mirai._errors import MiraiError, TaskCancelled
from mirai._future import Mirai
from mirai.controllers._retry import rung
from mirai.controllers._status import Status
from mirai.controllers._task import NOTHING, End, Task, end_of, original

if TYPE_CHECKING:
    from mirai.controllers._engine import Engine

ROOM = 0.05
"""Seconds until it is looked again whether the memory budget has room for a task."""


class Attempts:
    """Those of one engine's tasks.  For any thread."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = engine.lock
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Task]] = []  # and what is over meanwhile
        self._started: list[Engine] = []  # backups that were not there before

    def begin(self, task: Task) -> None:
        """Send a task for the first time.  Raises like ``Controller.push``."""
        self._send(task, self._place_of(task))

    def close(self) -> None:
        """No task has an attempt any more, nor will have one: end what was started for them."""
        with self._lock:
            due = [task for _, _, task in self._due]
        for task in due:
            self._give_up(task)
        started, self._started = self._started, []
        for engine in started:
            if not engine.is_used():
                engine.close()

    # ── one attempt ──────────────────────────────────────────────────────────────────────

    def _chain(self, task: Task) -> list[Engine]:
        """Return the controller, its backup, that one's, and so on: those that can do the task."""
        engine: Engine | None = self._engine
        chain = []
        while engine is not None:
            if engine.crews.carry(task.options.tags):
                chain.append(engine)
            engine = engine.settings.backup
        return chain

    def _turn_of(self, task: Task) -> Engine | None:
        """Return whose turn it is; None if nobody can do it who has not seen it crash too often."""
        crashes = self._engine.book.crashes.get(task.name, 0)
        if not crashes and self._engine.crews.carry(task.options.tags):
            return self._engine
        chain = self._chain(task)
        index = rung(crashes, [engine.settings.crashes_max for engine in chain])
        return None if index is None else chain[index]

    def _place_of(self, task: Task) -> Engine:
        engine = self._turn_of(task)
        if engine is None:
            crashes = self._engine.book.crashes.get(task.name, 0)
            if not crashes:
                raise MiraiError(f"nobody carries the tags {list(task.options.tags)} any more")
            raise MiraiError(
                f"task {task.name!r} has crashed {crashes} times in a row: that is crashes_max"
            )
        return engine

    def _send(self, task: Task, engine: Engine, *, may_wait: bool = True) -> bool:
        """Send a task to the pool of one of the chain; return False if it has no room now."""
        if engine is not self._engine:  # which its caller has started, and may be ending by now
            if not engine.is_started:
                self._started.append(engine)
            engine.start()
        task.where = engine.name
        inner = engine.send(task, may_wait=may_wait)
        if inner is None:
            return False
        task.inner = inner
        task.mirai.id = inner.id
        task.mirai._recount_hook = inner._recount_hook
        inner.add_done_callback(partial(self._ended, task, engine))
        if task.is_cancelled:
            inner.cancel()
        return True

    def _ended(self, task: Task, engine: Engine, inner: Any) -> None:
        """An attempt has an answer."""
        engine.land(task)
        if not inner._failed():
            self._resolve(task, Status.SUCCESS)
            return
        end = end_of(inner.exception(), engine.name, inner.log)
        with self._lock:
            task.ends.append(end)
            self._engine.book.failed_once(task, end.status)
        if not self._goes_on(task, end):
            task.has_failed = True
            self._resolve(task, end.status)

    def _goes_on(self, task: Task, end: End) -> bool:
        """Have a task tried again, if it may be; return whether it is."""
        error = original(end.error) if task.retry.errors else end.error
        pause = task.retry.pause([each.status for each in task.ends], error)
        if pause is None or self._turn_of(task) is None:
            return False
        return self._try_later(task, pause)

    # ── those that wait ──────────────────────────────────────────────────────────────────

    def _try_later(self, task: Task, pause: float) -> bool:
        """Have a task wait for so long; return False if its time is over."""
        with self._lock:
            if task.is_cancelled or not self._engine.is_started:
                return False
            task.inner, task.is_due = None, True
            heapq.heappush(self._due, (time.monotonic() + pause, next(self._numbers), task))
        self._engine.call()
        return True

    def take_turn(self, now: float) -> float | None:
        """Try again what is due; return when to do so next, None if nothing waits."""
        while True:
            with self._lock:
                if not self._due or self._due[0][0] > now:
                    return self._due[0][0] if self._due else None
                task = heapq.heappop(self._due)[2]
                if not task.is_due:
                    continue  # it has been cancelled
                task.is_due = False
            self._try_again(task)

    def _try_again(self, task: Task) -> None:
        """Send a task that was due; without waiting, since that is for others to end."""
        try:
            if self._send(task, self._place_of(task), may_wait=False):
                return
            if self._try_later(task, ROOM):
                return
            error: BaseException = _cancelled(task)
        except Exception as trouble:
            error = trouble
        self._fail(task, error)

    def stop(self, task: Task) -> None:
        """The task's caller has cancelled it."""
        with self._lock:
            task.is_cancelled = True
            inner = task.inner
        if inner is None or not inner.cancel():
            self._give_up(task)

    def _give_up(self, task: Task) -> None:
        """Resolve as cancelled a task that waits to be tried again, if it does."""
        with self._lock:
            was_due, task.is_due = task.is_due, False
        if was_due:
            self._fail(task, _cancelled(task))

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def _fail(self, task: Task, error: BaseException) -> None:
        end = end_of(error, task.where)
        task.ends.append(end)
        task.has_failed = True
        self._resolve(task, end.status)

    def _resolve(self, task: Task, status: Status) -> None:
        """A task is over: tell everybody."""
        task.finished = time.time()
        task.call = NOTHING
        with self._lock:
            self._engine.book.resolve(task, status)
        inner, mirai = task.inner, task.mirai
        if inner is not None:
            mirai.annotate(inner.log, inner._told)
        if task.has_failed:
            answer: _Failed | _Inside = _Failed(task.ends[-1].error)
        else:
            assert inner is not None, "it has succeeded"
            answer = _Inside(inner, self._engine)
        if mirai.settle(answer, cancelled=status is Status.CANCEL):
            mirai._cancel_hook = None  # which knows the task: its value is to go with it
        self._engine.waiters.ring()


def _cancelled(task: Task) -> TaskCancelled:
    return TaskCancelled(f"task {task.name!r} was cancelled")


class _Failed:
    """The answer of a task that has failed, which is unpickled by whoever reads it."""

    is_error = True

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def read(self) -> Any:
        """Raise the task's error."""
        raise original(self._error)


class _Inside:
    """The answer of a task, which is in that of its last attempt."""

    is_error = False

    def __init__(self, inner: Mirai[Any], engine: Engine) -> None:
        self._inner = inner
        self._engine = engine

    def read(self) -> Any:
        """Return the value.  Raises what reading it raises."""
        _, value = self._inner.result()
        return self._engine.crews.fetch(value)
