"""The worker's side of a board: it takes tasks, makes some itself, and says that it is alive."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypedDict, Unpack

from msgspec import structs

from dispatcher.boards import End, Row, Store, TaskState, Worker, WorkerState
from dispatcher.log import Guarded
from mirai._errors import BoardError, MiraiError, NotRunning, SerializationError, StoreError
from mirai._limits import limits_of, seconds
from mirai.controllers._frames import plain
from mirai.queues.boards._places import Place
from mirai.queues.boards._values import THRESHOLD, in_words, pack_error
from mirai.queues.boards._view import View, Xs, new_key

logger = Guarded("mirai")

LOOK = 1.0
"""Seconds that one question for a task waits at most."""
MISSED = 3.0
"""A worker is lost after so many heartbeats that have not come."""


HEARTBEAT = 5.0
"""Seconds between two signs of life, unless it is said otherwise."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What workers do, and how."""

    loop: Callable[[BoardWorker], object]
    heartbeat: float = HEARTBEAT
    """Seconds between two signs of life."""
    log: int = logging.WARNING
    """From which level on what it logs is kept on the board."""
    idle_time: float | None = None
    """Seconds without a task after which it leaves."""
    max_tasks: int | None = None
    threshold: int = THRESHOLD
    tries: int = 1
    """How often a task is taken at most, where workers go and have not ended it."""


class BoardTask:
    """A task that this worker runs."""

    def __init__(self, board: BoardWorker, key: str, xs: dict[str, Any], tries: int) -> None:
        self.key = key
        self.xs = xs
        """What it is called with."""
        self.tries = tries
        """How often it was taken, this time included."""
        self._board = board

    def __repr__(self) -> str:
        return f"<BoardTask {self.key}>"

    def finish(self, ys: Any = None) -> bool:
        """Say what has come of it: a dict, or one value, which is called ``y``.

        Return whether that counts: not if it has ended already, or if this worker was declared
        lost meanwhile.  Raises SerializationError, BoardError if it is too much for the board, and
        StoreError.
        """
        named = ys if isinstance(ys, Mapping) else {"y": ys}
        return self._board._end(End(self.key, TaskState.FINISHED, self._board._values.pack(named)))

    def fail(self, error: BaseException | str) -> bool:
        """Say why nothing has come of it; return whether that counts, like ``finish``."""
        if isinstance(error, str):
            return self._board._end(End(self.key, TaskState.FAILED, b"", plain(error)))
        told = End(self.key, TaskState.FAILED, pack_error(error), in_words(error))
        try:
            return self._board._end(told)
        except BoardError:  # it is too large
            return self._board._end(structs.replace(told, ys=b""))


class BoardWorker(View):
    """A worker's view of its board."""

    def __init__(self, store: Store, id: str, duty: Duty) -> None:
        super().__init__(store, duty.threshold)
        self.id = id
        self._duty = duty
        self._taken = 0
        self._is_to_leave = threading.Event()

    def __repr__(self) -> str:
        return f"<BoardWorker {self.id}>"

    @property
    def goes_on(self) -> bool:
        """Whether the worker shall go on: nobody has asked it to leave, or taken it for lost."""
        most = self._duty.max_tasks
        return not self._is_to_leave.is_set() and (most is None or self._taken < most)

    def pop(self, timeout: float | None = None) -> BoardTask | None:
        """Take the next task, and wait for one for so many seconds, or None: for ever.

        Return None where there was none in time, or where the worker is not to go on.  Raises
        StoreError where the board does not answer.
        """
        until = None if timeout is None else monotonic() + timeout
        while self.goes_on:
            left = LOOK if until is None else until - monotonic()
            try:
                row = self._store.pop(self.id, max(0.0, min(left, LOOK)))
            except NotRunning:
                self._is_to_leave.set()
                break
            if row is not None:
                task = self._taken_on(row)
                if task is not None:
                    return task
            elif until is not None and monotonic() >= until:
                break
        return None

    def tasks(self) -> Iterator[BoardTask]:
        """Take one task after the other, until the worker is not to go on, or is idle for too long.

        What was not ended when the next is asked for stays running.
        """
        while (task := self.pop(self._duty.idle_time)) is not None:
            yield task

    def create(self, xs: Xs) -> BoardTask:
        """Make a task that this worker runs itself, from now on.

        Raises NotRunning if the worker was declared lost, SerializationError and StoreError.
        """
        key = new_key()
        self._store.create(self.id, [Row(key, self._values.pack(xs))])
        self._taken += 1
        return BoardTask(self, key, dict(xs), 1)

    def stop(self) -> None:
        """Do not go on after the task at hand."""
        self._is_to_leave.set()

    def _taken_on(self, row: Row) -> BoardTask | None:
        """Return a task that was popped; None if it cannot be read, and so has failed."""
        self._taken += 1
        task = BoardTask(self, row.key, {}, row.tries)
        try:
            task.xs = self._values.unpack(row.xs, load=True)
        except MiraiError as error:
            task.fail(error)
            return None
        return task

    def _end(self, end: End) -> bool:
        (counts,) = self._store.end(self.id, [end])
        if not counts:
            logger.warning(
                "worker %s has %s task %s, which is not its own any more", self.id, *end_words(end)
            )
        return counts


def end_words(end: End) -> tuple[str, str]:
    """Return how a task was to end, and which, for logs."""
    return str(end.state), end.key


@dataclass(frozen=True, slots=True)
class Calls:
    """The usual worker's loop: it calls a function, and says what it returns or raises."""

    fn: Callable[..., Any]

    def __call__(self, board: BoardWorker) -> None:
        for task in board.tasks():
            try:
                ys = self._evaluate(task)
            except KeyboardInterrupt:  # the worker is stopped
                raise
            except BaseException as error:  # SystemExit, too, ends nothing but the task
                task.fail(error)
                continue
            try:
                task.finish(ys)
            except (SerializationError, BoardError) as error:
                task.fail(error)

    def _evaluate(self, task: BoardTask) -> Any:
        ys = self.fn(**task.xs)
        return asyncio.run(ys) if inspect.iscoroutine(ys) else ys


class DutySettings(TypedDict, total=False):
    """See ``Board.start_workers``."""

    heartbeat: float | str
    idle_time: float | str | None
    max_tasks: int | None
    log: int | str


def duty_of(
    fn: Callable[..., Any] | None,
    loop: Callable[[BoardWorker], object] | None,
    threshold: int,
    tries: int,
    **settings: Unpack[DutySettings],
) -> Duty:
    """Return what workers are told; either ``fn`` or ``loop``.  Raises TypeError or ValueError."""
    if (fn is None) == (loop is None):
        raise TypeError("workers need a function, or a loop of your own")
    if not callable(fn or loop):
        raise TypeError(f"workers cannot call {fn or loop!r}")
    limits = limits_of(settings.get("idle_time"), None, settings.get("max_tasks"))
    return Duty(
        Calls(fn) if loop is None else loop,  # type: ignore[arg-type]
        seconds("heartbeat", settings.get("heartbeat", HEARTBEAT)),
        _level(settings.get("log", logging.WARNING)),
        limits.idle_time,
        limits.max_tasks,
        threshold,
        tries,
    )


def _level(log: int | str) -> int:
    """Return a level of logging, given as such or by name.  Raises TypeError or ValueError."""
    if not isinstance(log, int | str):
        raise TypeError(f"log must be a level of logging, not {type(log).__name__}")
    level = logging.getLevelNamesMapping().get(log.upper()) if isinstance(log, str) else log
    if level is None:
        raise ValueError(f"{log!r} is no level of logging")
    return level


def work(place: Place, id: str, duty: Duty, on_worker: Callable[..., None] | None = None) -> None:
    """Be a worker, until it is not to go on.  Raises what its loop raises, and MiraiError.

    ``on_worker`` is told the BoardWorker.
    """
    store = place.open(patient=True)
    try:
        patience = duty.heartbeat * MISSED
        store.enter(Worker(id, socket.gethostname(), os.getpid(), patience=patience))
        board = BoardWorker(store, id, duty)
        if on_worker is not None:
            on_worker(board)
        with _leaving(store, id, duty.tries), _alive(board), _logging(store, id, duty.log):
            duty.loop(board)
    finally:
        store.close()


@contextmanager
def _leaving(store: Store, id: str, tries: int) -> Iterator[None]:
    """Say at the end that the worker has left, and why."""
    reason, state = "", WorkerState.TERMINATED
    try:
        yield
    except Exception as error:
        reason = in_words(error)
        raise
    except BaseException as error:  # it is stopped from outside
        reason, state = in_words(error), WorkerState.KILLED
        raise
    finally:
        with suppress(StoreError):  # then it is lost
            store.leave(id, state, reason, most=tries)


@contextmanager
def _alive(board: BoardWorker) -> Iterator[None]:
    """Say every now and then that the worker is alive, and hear whether it is to leave."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(board._duty.heartbeat):
            try:
                if not board._store.beat(board.id):
                    board.stop()
            except StoreError as error:
                logger.warning("worker %s cannot say that it is alive: %s", board.id, error)

    thread = threading.Thread(target=beat, name="mirai-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class _BoardHandler(logging.Handler):
    """Keeps what is logged on the board."""

    def __init__(self, store: Store, id: str, level: int) -> None:
        super().__init__(level)
        self._store = store
        self._id = id
        self._busy = threading.local()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self._busy, "logs", False):  # the store itself has something to say
            return
        self._busy.logs = True
        try:
            self._store.log(self._id, [plain(self.format(record))])
        except Exception:  # nobody's work ends because it cannot be told of
            self.handleError(record)
        finally:
            self._busy.logs = False


@contextmanager
def _logging(store: Store, id: str, level: int) -> Iterator[None]:
    """Keep what this process logs on the board, from this level on."""
    root = logging.getLogger()
    handler, before = _BoardHandler(store, id, level), root.level
    root.addHandler(handler)
    if before > level:
        root.setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(before)
