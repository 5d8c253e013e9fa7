"""A board in the memory of a dispatcher: it lives as long as that.

A request is a message on the connection that a pool has anyway, and takes the same way as those
for its status.  Calls of several threads are under way at once, also where some of them wait.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Any, TypeVar

import msgspec

from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState
from dispatcher.messages import Blob, Consult
from dispatcher.requests import (
    MANY,
    Answer,
    AskToLeave,
    Beat,
    Count,
    Counted,
    Create,
    Crew,
    Depart,
    Ended,
    Enter,
    FindLost,
    Finish,
    Get,
    Given,
    Keys,
    Lines,
    ListWorkers,
    Log,
    Logged,
    Named,
    Object,
    Pop,
    Push,
    Put,
    Read,
    Request,
    Reset,
    Truths,
    Wait,
    Withdraw,
)
from dispatcher.wire import MAX_HEADER, encode
from mirai._connection import Connection
from mirai._errors import BoardError, BoardLost, DispatcherLost, MiraiError, ProtocolError
from mirai._future import Mirai
from mirai._pool import Daemons
from mirai._profiles import join, require_pool

SCHEME = "mirai://"
ANSWER = 10.0
"""Seconds that a dispatcher has to welcome us."""
PORTION = 10_000
"""How many tasks are read with one request."""

A = TypeVar("A", bound=Answer)

_decoder = msgspec.msgpack.Decoder(Consult, dec_hook=lambda *_: Blob(b""))


class DispatcherStore:
    """The ``Store`` of one board on a dispatcher.

    Calls raise BoardLost where that is gone, and the board with it.

    What is too much is a BoardError: 1,000,000 tasks on a board, 100,000 in one request, 100 MiB in
    one task, 1,000 boards, or 4 GiB on all of them.  Objects may be as large as there is room.
    While it does one request, a dispatcher does nothing else: some µs, or half a second for the
    largest.
    """

    def __init__(self, pool: Daemons, name: str, *, owned: bool = False) -> None:
        """Use a pool that is there; if it is ``owned``, ``close`` ends it."""
        self._pool = pool
        self._name = name
        self._owned = owned
        # By worker: what calls of ``pop`` have asked for that were interrupted meanwhile.
        self._left: dict[str, list[Mirai[Any]]] = {}

    @classmethod
    def open(cls, url: str, name: str) -> DispatcherStore:
        """Use the board of that name on the dispatcher at ``mirai://FILE``, a connection file.

        ``mirai://`` alone is the pool at hand: the current profile's, or in a task the daemon's
        own; behind a relay, that is the relay's.

        Raises ValueError for another URL, BoardLost where nobody answers or our key is not
        accepted, and MiraiError if the file cannot be used, or there is no pool.
        """
        if not url.startswith(SCHEME):
            raise ValueError(f"{url!r} does not begin with {SCHEME}")
        path = os.path.expanduser(url.removeprefix(SCHEME))
        if not path:
            return cls(require_pool(None), name)
        return cls.at(Connection.read(path), name)

    @classmethod
    def at(cls, connection: Connection, name: str) -> DispatcherStore:
        """Use the board of that name where a connection leads; raises as ``open`` does."""
        with _or_lost():
            return cls(join(connection, "board", ANSWER), name, owned=True)

    def __repr__(self) -> str:
        return f"<DispatcherStore {self._name!r} at {self._pool.url}>"

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, rows: Sequence[Row]) -> None:
        """See ``Store``, also for what follows."""
        self._consult(Push(tuple(rows)), Truths)

    def create(self, worker: str, rows: Sequence[Row]) -> None:
        self._consult(Create(worker, tuple(rows)), Truths)

    def pop(self, worker: str, timeout: float = 0.0) -> Row | None:
        until = monotonic() + timeout
        while (asked := self._interrupted(worker)) is not None:
            row = self._popped(worker, asked, max(0.0, until - monotonic()))
            if row is not None or not asked.done():
                return row
        return self._popped(worker, self._ask(Pop(worker, max(0.0, until - monotonic()))), None)

    def _interrupted(self, worker: str) -> Mirai[Any] | None:
        """Return what a call of ``pop`` has asked for that has not ended as usual, if any."""
        with contextlib.suppress(LookupError):
            return self._left[worker].pop()
        return None

    def _popped(self, worker: str, asked: Mirai[Any], timeout: float | None) -> Row | None:
        """Return what a request for a task has brought.

        Where it has brought nothing yet, the next call asks for it: else a task might be given to
        nobody.
        """
        try:
            with _or_lost():
                answer = asked.result(timeout)
        except MiraiError:
            raise
        except BaseException as error:  # time is up, or Ctrl-C
            self._left.setdefault(worker, []).append(asked)
            if isinstance(error, TimeoutError):
                return None
            raise
        return _expected(answer, Given).rows[0]

    def end(self, worker: str, ends: Sequence[End]) -> list[bool]:
        return [*self._consult(Finish(worker, tuple(ends)), Truths).each]

    def withdraw(self, keys: Sequence[str] | None, condition: str) -> int:
        return self._consult(Withdraw(_several(keys), condition), Count).count

    def rows(self, keys: Sequence[str]) -> list[Row | None]:
        """As ``Store`` has it; many are read in portions, each of which is of one moment."""
        found: list[Row | None] = []
        while len(found) < len(keys):
            some = tuple(keys[len(found) : len(found) + PORTION])
            given = self._consult(Read(some), Given).rows
            if not 1 <= len(given) <= len(some):
                raise ProtocolError("the dispatcher has not told of the tasks that were asked for")
            found += given
        return found

    def keys(self, states: Sequence[TaskState]) -> list[str]:
        return [*self._consult(Keys(tuple(set(states))), Named).names]

    def ended(self, start: int, count: int) -> tuple[list[str], int]:
        named = self._consult(Ended(start, count), Named)
        return [*named.names], named.position

    def tally(self) -> Tally:
        return self._consult(Wait(-1), Counted).tally

    def wait(self, changes: int, timeout: float) -> Tally:
        return self._consult(Wait(changes, timeout), Counted).tally

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def enter(self, worker: Worker) -> None:
        self._consult(Enter(worker), Truths)

    def beat(self, worker: str) -> bool:
        return self._consult(Beat(worker), Truths).each[0]

    def leave(self, worker: str, state: WorkerState, reason: str = "", *, most: int = 0) -> bool:
        return self._consult(Depart(worker, state, reason, most), Truths).each[0]

    def ask_to_leave(self, workers: Sequence[str] | None) -> None:
        self._consult(AskToLeave(_several(workers)), Truths)

    def find_lost(self, *, most: int = 0) -> list[str]:
        return [*self._consult(FindLost(most), Named).names]

    def workers(self) -> list[Worker]:
        return [*self._consult(ListWorkers(), Crew).workers]

    # ── logs and objects ─────────────────────────────────────────────────────────────────

    def log(self, worker: str, lines: Sequence[str]) -> None:
        self._consult(Log(worker, tuple(lines)), Truths)

    def logged(self, worker: str | None, last: int) -> list[tuple[float, str, str]]:
        return [*self._consult(Logged(worker, last), Lines).lines]

    def put(self, name: str, data: bytes) -> None:
        self._consult(Put(name, Blob(data)), Truths)

    def get(self, name: str) -> bytes | None:
        found = self._consult(Get(name), Object).data
        return None if found is None else bytes(memoryview(found.data))

    def reset(self) -> None:
        self._consult(Reset(), Truths)

    def close(self) -> None:
        if self._owned:
            self._pool.shutdown()

    # ── the way there ────────────────────────────────────────────────────────────────────

    def _consult(self, request: Request, kind: type[A]) -> A:
        asked = self._ask(request)
        with _or_lost():
            return _expected(asked.result(), kind)

    def _ask(self, request: Request) -> Mirai[Any]:
        self._check(request)
        with _or_lost():
            return self._pool.ask_board(self._name, request)

    def _check(self, request: Request) -> None:
        """Raise BoardError if it is none for the dispatcher, which would listen to us no more."""
        try:
            frames = encode(Consult(0, self._name, request))
            if len(frames[0]) > MAX_HEADER:
                raise BoardError(f"{len(frames[0]):,} bytes are too much for one request")
            _decoder.decode(frames[0])
        except (msgspec.MsgspecError, ValueError, TypeError, OverflowError) as error:
            reason = f"{type(request).__name__} of at most {MANY:,} things: {error}"
            raise BoardError(f"this cannot be asked of a board: {reason}") from None


@contextlib.contextmanager
def _or_lost() -> Iterator[None]:
    """Have it raised as BoardLost that the dispatcher is."""
    try:
        yield
    except DispatcherLost as error:
        raise BoardLost(str(error)) from None


def _expected(answer: object, kind: type[A]) -> A:
    if not isinstance(answer, kind):
        raise ProtocolError(f"the dispatcher has answered with a {type(answer).__name__}")
    return answer


def _several(names: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if names is None else tuple(names)
