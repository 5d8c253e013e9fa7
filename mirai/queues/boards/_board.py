"""``Board``: the manager's side of a shared table of tasks."""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from hashlib import blake2b
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, Unpack

from dispatcher.boards import TaskState, Worker, WorkerState
from dispatcher.log import Guarded
from mirai._errors import BoardError, StoreError
from mirai._limits import seconds
from mirai._pool import beside, shielded
from mirai._pool_options import check_count
from mirai._profiles import PoolSettings, options_of, require_pool, start
from mirai._serialize import pack_whole
from mirai.controllers._frames import Frame
from mirai.queues.boards import _snapshots
from mirai.queues.boards._crew import Crew
from mirai.queues.boards._places import Place
from mirai.queues.boards._rows import TaskRow, Workers
from mirai.queues.boards._values import THRESHOLD
from mirai.queues.boards._view import SLICE, View, listed
from mirai.queues.boards._waiting import LOOK, Outlook, Watch
from mirai.queues.boards._worker import HEARTBEAT, BoardWorker, DutySettings, duty_of

if TYPE_CHECKING:
    from mirai.launchers import Launcher

logger = Guarded("mirai")

T = TypeVar("T")

WITHDRAWN = "it was withdrawn from the queue"

Timeout = float | str | None
"""Seconds, or like ``"5m"``; None: for ever."""


class Board(View):
    """A table of tasks that many share: managers push tasks, workers take them, all read it.

    It lies on a server and outlives whoever uses it: any number of managers and workers come and
    go.  What is pushed and returned is pickled, so whoever can write to the board can have its
    readers run any code: give it to nobody whom you would not give your account.

    As a context manager, also an asynchronous one, it ends the workers that were started by it:
    after the task that they are on, or, if the block is left by an exception, at once.
    """

    def __init__(
        self, url: str, name: str = "board", *, tries: int = 1, threshold: int = THRESHOLD
    ) -> None:
        """Open a board, a new one if there is none with this name.

        ``url`` is ``"redis://user:password@host:6379/0"``, with TLS ``"rediss://…"``,
        ``"unix://:password@/path/of/socket"``.  Where it has no password, that is taken from the
        environment variable ``MIRAI_BOARD_PASSWORD``.  Without a server, ``"mirai://FILE"`` is a
        board in the memory of the dispatcher that this connection file leads to, and
        ``"mirai://"`` of the one of the pool at hand: it lives as long as that.

        A task whose worker is lost, killed or leaves it undone is queued again until it was taken
        ``tries`` times; then it is lost.  A value of more than ``threshold`` bytes is kept beside
        its task, where workers read it, and tables do not.

        Raises TypeError or ValueError for what is no board, MiraiError where a package is not
        installed, and StoreError if there is nobody or the password is not accepted.
        """
        if not isinstance(tries, int) or tries < 1:
            raise ValueError(f"tries must be a positive int, not {tries!r}")
        if not isinstance(threshold, int) or threshold < 0:
            raise ValueError(f"threshold must be an int and not negative, not {threshold!r}")
        self._place = Place(url, name)
        super().__init__(self._place.open(), threshold)
        self._threshold = threshold
        self._tries = tries
        self._crews: list[Crew] = []

    @property
    def name(self) -> str:
        """What the board is called."""
        return self._place.name

    def __repr__(self) -> str:
        return f"<Board {self.name!r} at {self._place}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Board stays where it was made; workers are given one of their own")

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def start_workers(
        self,
        fn: Callable[..., Any] | None = None,
        n: int = 1,
        *,
        loop: Callable[[BoardWorker], object] | None = None,
        launcher: Launcher | None = None,
        url: str | None = None,
        heartbeat: float | str = HEARTBEAT,
        idle_time: float | str | None = None,
        max_tasks: int | None = None,
        restarts: int = 3,
        log: int | str = logging.WARNING,
        seed: int | None = None,
        **settings: Unpack[PoolSettings],
    ) -> list[str]:
        """Start ``n`` workers, here or by a ``launcher``; return their ids at once.

        Each calls ``fn(**xs)`` for one task after the other: what it returns, a dict or one value,
        are the task's ys, and what it raises fails the task.  Or it calls ``loop(worker)`` once,
        a function of your own, which takes tasks, makes some itself and reads those of others: see
        ``BoardWorker``.

        A worker says every ``heartbeat`` seconds that it is alive; when three are missing it may be
        taken for lost.  It leaves when it had no task for ``idle_time``, or after ``max_tasks``.
        Of those that crash, are lost, or end because the board did not answer, ``restarts`` are
        replaced in all.  What it logs from the level ``log`` on is kept on the board.

        ``launcher``, ``url``, ``seed`` and the rest are as ``daemons()`` has them: each worker is
        one task of a pool of their own, which ends with the board.  Where the board is on the pool
        at hand, each is a task of that, and takes one of its daemons.  Raises what ``daemons()``
        raises, and TypeError or ValueError.
        """
        duty = duty_of(
            fn,
            loop,
            self._threshold,
            self._tries,
            heartbeat=heartbeat,
            idle_time=idle_time,
            max_tasks=max_tasks,
            log=log,
        )
        check_count(n)
        check_count(restarts, "restarts")
        is_here = self._place.is_here
        if is_here and (launcher or url or settings or seed is not None):
            raise ValueError("workers of mirai:// are tasks of the pool at hand: set it there")
        if is_here:
            pool = require_pool(None)
        else:
            options = options_of(n, url, launcher=launcher, seed=seed, **settings)
            pool = start(f"board {self.name}", options)
        crew = Crew(
            pool,
            self._store,
            self._place,
            duty,
            restarts=restarts,
            tries=self._tries,
            owned=not is_here,
        )
        self._crews.append(crew)
        return crew.start(n)

    def worker_script(
        self,
        path: str | os.PathLike[str],
        fn: Callable[..., Any] | None = None,
        *,
        loop: Callable[[BoardWorker], object] | None = None,
        **settings: Unpack[DutySettings],
    ) -> str:
        """Return a shell script that is one worker, for any machine that reads the file ``path``.

        The file is written: it says where the board is, with its password, and only its user can
        read it; there are no secrets in the script.  The rest is as in ``start_workers``.
        """
        duty = pack_whole(duty_of(fn, loop, self._threshold, self._tries, **settings))
        name = f"duty:{blake2b(duty, digest_size=16).hexdigest()}"
        self._store.put(name, duty)
        self._place.write(path, name)
        where = shlex.quote(os.path.abspath(path))
        return f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m mirai board worker {where}\n"

    def workers(self) -> Workers:
        """Return all workers that there have been, in the order in which they came.

        They print as a table, and ``to_frame()`` makes a data frame of them.
        """
        return Workers(self._store.workers())

    def wait_for_workers(self, n: int = 1, timeout: Timeout = None) -> bool:
        """Wait until ``n`` workers run; return whether they do.

        Returns before its time where none is on its way from here that could make it so many.
        """
        until = _deadline(timeout)
        while (tally := self.tally()).workers < n:
            if monotonic() >= until:
                return False
            tally = self._store.wait(tally.changes, min(LOOK, until - monotonic()))
            if self._crews and not self._coming() and self.tally().workers < n:
                return self._nobody(f"{n} workers will not run")
        return True

    def detect_lost(self, *, restart: bool = True) -> list[str]:
        """Declare workers lost that were not heard of for three heartbeats; return their ids.

        Their tasks are queued again where they have ``tries`` left, and lost otherwise.  Those that
        were started here and are lost, whoever has noticed, are ended, and replaced if they are to
        ``restart``.  Whoever waits for tasks does this too.
        """
        lost = self._store.find_lost(most=self._tries)
        for id in lost:
            logger.warning("worker %s was not heard of in time, and is lost", id)
        if self._coming():
            for worker in self.workers():
                if worker.state is WorkerState.LOST:
                    for crew in self._crews:
                        crew.kill(worker.id, replace=restart)
        return lost

    def stop_workers(
        self, ids: Iterable[str] | None = None, *, kill: bool = False, timeout: Timeout = None
    ) -> bool:
        """Have workers (None: all of the board, whoever has started them) leave; return whether
        they have, after at most ``timeout``.

        They end the task that they are on; with ``kill``, those that were started here are ended at
        once, and what others are on does not count any more.
        """
        chosen = listed(ids)
        ids = [*self._running(), *self._own()] if chosen is None else chosen
        if kill:
            for id in dict.fromkeys(ids):
                self._store.leave(id, WorkerState.KILLED, "it was stopped", most=self._tries)
                for crew in self._crews:
                    crew.kill(id)
            return True
        until = _deadline(timeout)
        while True:
            tally = self.tally()
            self._call_off(ids)
            self._store.ask_to_leave(ids)  # those too that have just come
            if not {*self._running(), *self._own()} & set(ids):
                return True
            if monotonic() >= until:
                return False
            self._store.wait(tally.changes, min(LOOK, until - monotonic()))

    def _call_off(self, ids: Iterable[str]) -> None:
        """Have those of these never come that were started here and are on their way.

        They may wait for days in the queue of a cluster.  Who has entered the name of one that is
        not there yet can be sure that it takes no task any more: it cannot enter itself.
        """
        for id in {*self._own()} & {*ids} - {each.id for each in self.workers()}:
            try:
                self._store.enter(Worker(id, patience=HEARTBEAT))
            except BoardError:
                continue  # it has just come
            self._store.leave(id, WorkerState.TERMINATED, "it was stopped before it came")
            for crew in self._crews:
                crew.kill(id)

    def logs(self, worker: str | None = None, last: int = 100) -> list[tuple[float, str, str]]:
        """Return the last lines that workers have logged: when, who, and what."""
        return self._store.logged(worker, last)

    def _running(self) -> list[str]:
        return [each.id for each in self.workers() if each.state is WorkerState.RUNNING]

    def _own(self) -> list[str]:
        """Return the workers that were started here and are at work, or on their way."""
        return [id for crew in self._crews for id in crew.ids]

    def _coming(self) -> bool:
        """Whether there is such a worker."""
        return bool(self._own())

    def _nobody(self, what: str) -> bool:
        """Say that there is no worker."""
        reasons = [crew.reason for crew in self._crews if crew.reason]
        why = f": {reasons[-1]}" if reasons else ""
        logger.warning("%s: no worker of board %r runs%s", what, self.name, why)
        return False

    # ── waiting ──────────────────────────────────────────────────────────────────────────

    def wait(self, keys: Iterable[str] | None = None, timeout: Timeout = None) -> bool:
        """Wait until these tasks have ended; return whether they have.

        None: until nothing is queued or running, nor a worker with a loop of its own at work that
        was started here.  Where no worker runs and none is on its way from here, nothing could end
        them, so it does not wait; it logs a warning that says so.

        Raises BoardError for a task that the board does not have (any more), and where the board
        was forgotten by its server.  Where somebody has reset it, nothing is queued or running, so
        that without ``keys`` it returns True.
        """
        until, watch = _deadline(timeout), self._watch(listed(keys))
        while (outlook := watch.look()) is Outlook.OPEN and monotonic() < until:
            watch.rest(until)
        return self._judge(outlook)

    async def wait_async(self, keys: Iterable[str] | None = None, timeout: Timeout = None) -> bool:
        """Like ``wait``, while the event loop goes on; on asyncio and on trio."""
        until, chosen = _deadline(timeout), listed(keys)
        watch = await _beside(lambda: self._watch(chosen))
        while (outlook := await _beside(watch.look)) is Outlook.OPEN and monotonic() < until:
            await _beside(lambda: watch.rest(until))
        return self._judge(outlook)

    def stream(self) -> Iterator[TaskRow]:
        """Yield tasks as they end, those that ``fetch_new`` has not returned.

        It ends where ``wait()`` would return, and raises what that raises.  What it has not yielded
        when it is left before is still new.
        """
        watch = self._watch(None)
        while self._goes_on(watch):
            yield from iter(self._next, None)

    async def new(self) -> AsyncIterator[TaskRow]:
        """Yield tasks like ``stream``, while the event loop goes on; on asyncio and on trio."""
        watch = self._watch(None)
        while await _beside(lambda: self._goes_on(watch)):
            for row in iter(self._next, None):
                yield row

    def _watch(self, keys: list[str] | None) -> Watch:
        return Watch(self._store, self._crews, self.detect_lost, keys)

    def _goes_on(self, watch: Watch) -> bool:
        """Read what has ended since, after some time perhaps nothing; return False at the end.

        What was read is given out by ``_next``, and not returned: who waits may be cancelled.
        """
        outlook = watch.look()
        if self._fetch():
            watch.pause()
        elif outlook is Outlook.OPEN:
            watch.rest()
        else:
            self._judge(outlook)
            return False
        return True

    def _judge(self, outlook: Outlook) -> bool:
        """Return whether tasks have ended, and say it where they never will."""
        if outlook is Outlook.HOPELESS:
            self._nobody("tasks will not end")
        return outlook is Outlook.ENDED

    # ── the whole board ──────────────────────────────────────────────────────────────────

    def withdraw(self, keys: Iterable[str] | None = None) -> int:
        """Fail tasks that are queued (None: all of them); return how many."""
        return self._store.withdraw(listed(keys), WITHDRAWN)

    def reset(self) -> None:
        """Forget everything on the board, after its workers were ended: those of others leave."""
        self.stop_workers(kill=True)
        self._store.reset()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all tasks to a file, which only this user can read, in the place of what was there.

        Raises OSError, StoreError, and SerializationError for what cannot be read.
        """
        rows = []
        keys = self._store.keys(list(TaskState))
        for begin in range(0, len(keys), SLICE):
            found = self._store.rows(keys[begin : begin + SLICE])
            rows += [row for row in found if row is not None]
        _snapshots.write(path, rows, self.workers(), self._store.get)

    @staticmethod
    def load_frame(path: str | os.PathLike[str], kind: Frame = "pandas") -> Any:
        """Return what ``save`` has written, as ``frame(load=True)`` does.

        What tasks hold is unpickled, so whoever wrote the file can run any code here.  Raises
        OSError, ValueError for a file of something else, SerializationError or StoreError for one
        that was changed, and ImportError.
        """
        return _snapshots.frame(path, kind)

    def close(self, *, kill: bool = True) -> None:
        """End the workers that were started here, and let go of the board.  Idempotent.

        With ``kill=False`` they end the task that they are on.
        """
        crews, self._crews = self._crews, []
        try:
            if not kill and any(crew.ids for crew in crews):
                self._crews = crews
                self.stop_workers(self._own())
        except StoreError as error:
            logger.warning("workers cannot be asked to leave, and are ended: %s", error)
        finally:
            self._crews = []
            for crew in crews:
                crew.close()
            self._store.close()

    def __enter__(self) -> Board:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close(kill=kind is not None)

    async def __aenter__(self) -> Board:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await shielded(beside(lambda: self.close(kill=kind is not None)))


async def _beside(do: Callable[[], T]) -> T:
    """Do something that blocks while the event loop goes on."""

    def step() -> T:
        return do()

    return await beside(step)


def _deadline(timeout: Timeout) -> float:
    if timeout is None:
        return math.inf
    return monotonic() + (seconds("timeout", timeout) if isinstance(timeout, str) else timeout)
