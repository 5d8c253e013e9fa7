"""``Queue``: calls in one file, worked on by whoever opens it, without a server."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ParamSpec

from mirai._answer import Failure, Value
from mirai._constant import Constant
from mirai._errors import DaemonCrashed
from mirai._future import Mirai
from mirai._limits import seconds
from mirai._map import elements_of
from mirai._options import check_callable, kinds_of
from mirai._pool_options import check_count
from mirai.queues.files._crew import Crew
from mirai.queues.files._lease import INTERRUPTED, Lease, evaluator_here
from mirai.queues.files._options import DEFAULTS, QueueOptions
from mirai.queues.files._parcel import Functions, flat_calls, read
from mirai.queues.files._result import Counts, QueueResult, State
from mirai.queues.files._row import Row
from mirai.queues.files._table import Answer, Table
from mirai.queues.files._work import LATER, SOON, TTL, Heart, Worker, new_worker

if TYPE_CHECKING:
    from types import TracebackType

P = ParamSpec("P")

LEAST_TTL = 0.05
"""The shortest lease, in seconds."""
LAPSED = "the worker's lease has ended: it is gone, or stopped, or its clock is another"
PAGE = 1_000
"""How many results are read at a time."""


class Queue:
    """Calls in a file, in the order of their priorities and of pushing, and what came of them.

    Any number of processes may have it open, push tasks, and work on it, and come and go as they
    like; on a file system that has coherent locks, on several machines.  Each task runs once: one
    whose worker was lost is *abandoned*, and runs again only if that was allowed, by ``retries``
    when it was pushed or by ``requeue_expired``.  To open the file again is to resume.

    A worker has a task by a lease, which it renews.  There is no server, so a lease ends by the
    clocks of all who look: those must differ by less than ``ttl``.

    A file holds pickles, which are code: it is made for this user only, and one that others can
    write to is refused.  What is damaged in it is noticed, and raises StoreError, as does whatever
    else keeps it from being read or written.
    """

    def __init__(
        self,
        table: Table,
        options: QueueOptions = DEFAULTS,
        clock: Callable[[], float] = time.time,
        functions: Functions | None = None,
    ) -> None:
        """For ``open`` and ``options``."""
        self._table = table
        self._options = options
        self._clock = clock
        self._functions = functions or Functions()

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool = True) -> Queue:
        """Open a queue's file, or make it if it is not there and ``create``.

        Raises StoreError, also where the file system cannot lock files safely.
        """
        return cls(Table(path, create=create))

    @property
    def path(self) -> str:
        """Where the file is."""
        return self._table.path

    def __repr__(self) -> str:
        return f"Queue.open({self.path!r})"

    def __reduce__(self) -> Any:
        return Queue.open, (self.path,)

    def __len__(self) -> int:
        """Return how many tasks there are, in whatever state."""
        return self.counts().total

    # ── tasks come ───────────────────────────────────────────────────────────────────────

    def options(
        self,
        *,
        retries: int = 0,
        retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        priority: int = 0,
        name: str | None = None,
    ) -> Queue:
        """Return the same queue, with these options for what is pushed by it.

        ``retries``: how often a task may run again, after its worker was lost or after an
        exception in ``retry_on``.  Higher ``priority`` first.  Raises TypeError or ValueError.
        """
        chosen = QueueOptions(retries, kinds_of(retry_on), priority, name)
        return type(self)(self._table, chosen, self._clock, self._functions)

    def push(self, fn: Callable[P, Any], /, *args: P.args, **kwargs: P.kwargs) -> int:
        """Add the call ``fn(*args, **kwargs)``, pickled now; return the task's key.

        Keys are numbers, in the order of pushing.  When this returns, the task is on disk.
        Raises TypeError if ``fn`` cannot be called, SerializationError and StoreError.
        """
        check_callable(fn)
        return self._push(fn, iter([(args, kwargs)]))[0]

    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> range:
        """Add ``fn(element, *args, **kwargs)`` for each element, all or none; return the keys.

        Several iterables are gone through side by side, and must be of the same length; the rows
        of a DataFrame are given as keywords.  Raises what ``push`` raises, and ValueError.
        """
        check_callable(fn)
        function = Constant(fn, tuple(args), kwargs or {}) if args or kwargs else fn
        return self._push(function, elements_of(iterables))

    def _push(self, fn: Callable[..., Any], calls: Iterator[Any]) -> range:
        packed = flat_calls(calls, self._options)
        return self._table.push(self._functions.define(fn), packed, self._options, self._clock())

    # ── tasks are worked on ──────────────────────────────────────────────────────────────

    def join(self, workers: int = 1, *, ttl: float | str = TTL) -> Counts:
        """Work on the queue until it is empty; return how it stands then.

        Each of the ``workers`` is a process of its own, which ends with this one; with 0, tasks
        run here, one after the other, for debuggers.  Others may work on the same queue at the
        same time.  A worker that dies is replaced; its task is abandoned, or, with retries left,
        waits again.

        It ends when no task waits, and none that runs elsewhere may come back by itself.  Ctrl-C
        ends the workers at once: what they have not begun waits again, and the rest is abandoned.

        ``ttl``: after how many seconds without a sign of life the tasks of a machine are abandoned.
        Raises StoreError, and MiraiError if workers do not start.
        """
        if check_count(workers):
            Crew(self._table, workers, _ttl(ttl), self._clock).run()
        else:
            self._join_here(_ttl(ttl))
        return self.counts()

    async def ajoin(self, workers: int = 1, *, ttl: float | str = TTL) -> Counts:
        """Do the same as ``join`` on an event loop (asyncio or trio), with one worker at least.

        If it is cancelled, the workers are ended as by Ctrl-C.
        """
        if not check_count(workers):
            raise ValueError("on an event loop there must be workers: at least 1")
        crew = Crew(self._table, workers, _ttl(ttl), self._clock)
        over: Mirai[None] = Mirai(0, "join")
        thread = threading.Thread(target=_run, args=(crew, over), name="mirai-join", daemon=True)
        thread.start()
        try:
            await over
        finally:
            crew.stop()
            thread.join()
        return self.counts()

    def _join_here(self, ttl: float) -> None:
        who, evaluator, at = new_worker(), evaluator_here(), [0]

        def begin(task: int) -> None:
            at[0] = task

        worker = Worker(self._table, who, evaluator, ttl=ttl, begins=begin, clock=self._clock)
        try:
            with Heart(self._table, who, ttl, self._clock):
                worker.run()
        except BaseException:
            self._table.bury(who.id, at[0], INTERRUPTED)
            raise

    def lease(self, ttl: float | str = TTL, *, put_back: bool = False) -> Lease:
        """Take the next task by hand; ``with`` renews the lease for the time of the block.

        ``put_back``: a block that raises an exception puts the task back instead of letting it
        fail.  Raises ``queue.Empty`` if no task waits.
        """
        who, for_ = new_worker(), _ttl(ttl)
        claim = self._table.claim(who, self._clock(), for_)
        if claim is None:
            raise queue.Empty(f"no task waits in {self.path}")
        return Lease(self._table, who, claim, ttl=for_, put_back=put_back, clock=self._clock)

    # ── tasks run again ──────────────────────────────────────────────────────────────────

    def abandoned(self) -> list[QueueResult]:
        """Return the tasks whose workers are gone, which may have run in part or whole."""
        now = self._clock()
        return [self._result(row, None, now) for row in self._table.abandoned(now)]

    def requeue_expired(self) -> int:
        """Let abandoned tasks run again; return how many there were."""
        return self._table.requeue(self._clock())

    def retry(self) -> int:
        """Let failed tasks run again, whose errors are forgotten; return how many there were."""
        return self._table.retry()

    # ── looking ──────────────────────────────────────────────────────────────────────────

    def counts(self) -> Counts:
        """Return how many tasks there are in each state."""
        return self._table.counts(self._clock())

    def peek(self) -> QueueResult | None:
        """Return the next task that waits, without taking it; None if none does."""
        row = self._table.peek()
        return None if row is None else self._result(row, None, self._clock())

    def results(self) -> Iterator[QueueResult]:
        """Yield the tasks that are done, failed or abandoned, in the order of pushing."""
        now, ids = self._clock(), self._table.ids()
        for at in range(0, len(ids), PAGE):
            for row, answer in self._table.tasks(ids[at : at + PAGE]):
                if row.seen(now).is_over:
                    yield self._result(row, answer, now)

    def find(self, key: int) -> QueueResult:
        """Return a task, however it stands.  Raises KeyError if there is none with this key."""
        found = self._table.task(key)
        if found is None:
            raise KeyError(key)
        return self._result(*found, self._clock())

    def result(self, key: int, timeout: float | None = 0.0) -> Any:
        """Return what a task has returned, or raise its error.

        ``timeout``: how many seconds to wait for it, while others work on it; None for ever.
        Raises TimeoutError, KeyError for an unknown key, and for an abandoned task DaemonCrashed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for pause in _pauses(until):
            found = self.find(key)
            if found.state.is_over or not pause:
                break
            time.sleep(pause)
        return found.unwrap()

    def collect(self, timeout: float | None = 0.0) -> list[Any]:
        """Return what all tasks have returned, in the order of pushing, or raise the first error.

        ``timeout``: how many seconds to wait for what others work on; None for ever.  Raises
        TimeoutError, and for an abandoned task DaemonCrashed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        for pause in _pauses(until):
            counts = self.counts()
            if not counts.waiting + counts.running:
                break
            if not pause:
                raise TimeoutError(f"not all tasks have ended: {counts}")
            time.sleep(pause)
        return [found.unwrap() for found in self.results()]

    def check(self) -> None:
        """Look through the whole file.  Raises StoreError if anything in it is damaged."""
        self._table.check()

    def _result(self, row: Row, answer: Answer | None, now: float) -> QueueResult:
        value, error, state = None, None, row.seen(now)
        if answer is not None:
            try:
                value = read(answer)
            except Exception as raised:
                error = raised
        elif state is State.ABANDONED:
            error = _crash(row)
        return QueueResult(
            key=row.id,
            name=row.name,
            state=state,
            value=value,
            error=error,
            attempt=row.attempt,
            host=row.host,
            pid=row.pid,
            seconds=answer.seconds if answer else 0.0,
            dropped=row.dropped,
            log=answer.log if answer else row.output,
        )

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def delete(self) -> None:
        """Delete the file, with all results.  Raises StoreError while tasks are running."""
        self._table.remove(self._clock())

    def close(self) -> None:
        """Close the file here.  Idempotent."""
        self._table.close()

    def __enter__(self) -> Queue:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


def _run(crew: Crew, over: Mirai[None]) -> None:
    try:
        crew.run()
    except BaseException as error:  # whatever it is, somebody waits
        over.settle(Failure(error))
    else:
        over.settle(Value(None))


def _crash(row: Row) -> DaemonCrashed:
    return DaemonCrashed(
        row.reason or LAPSED,
        exit_status=row.exit,
        host=row.host,
        pid=row.pid,
        attempt=row.attempt,
        output=row.output,
    )


def _ttl(ttl: float | str) -> float:
    return max(LEAST_TTL, seconds("ttl", ttl))


def _pauses(until: float | None) -> Iterator[float]:
    """Yield how long to sleep before looking again, in seconds; at last 0: no longer."""
    pause = SOON
    while until is None or time.monotonic() < until:
        yield pause if until is None else min(pause, max(0.001, until - time.monotonic()))
        pause = min(LATER, 1.3 * pause)
    yield 0.0
