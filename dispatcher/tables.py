"""All boards of a dispatcher, and who waits for something to happen on them.

No socket, no clock, no thread.  The shell hands over what clients ask, and gets back what to tell
them.  Whoever asks for a task when there is none, or waits for a change, is answered when there is
one or when its time is up, in the order of asking.  A client that is lost waits for nothing more;
that its connection has ended says nothing of the workers that it has entered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush

from dispatcher.blob import Blob, Buffer
from dispatcher.messages import Consult, Objected, Reply
from dispatcher.requests import (
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
from dispatcher.shared import contents
from dispatcher.table import (
    LINE_BYTES,
    LONGEST_NAME,
    OBJECT_BYTES,
    ROW_BYTES,
    WORKER_BYTES,
    NotRunning,
    Refusal,
    Table,
)

MOST_BOARDS = 1_000
MOST_BYTES = 4 << 30
"""How much all boards together may hold, in bytes; whatever would make it more is refused."""
MOST_WAITERS = 100_000
PORTION = 16 << 20
"""How many bytes of tasks one answer has at most, unless a single one is larger."""
COPIED = 1 << 16
"""Objects of fewer bytes are copied out of the message that they came in."""
SLACK = 100
"""How many deadlines of those who were answered are kept, besides as many as there are waiters."""
LONGEST = 366 * 86_400.0
"""How long anybody waits at most, in seconds."""

DEPARTURES = Depart | AskToLeave | FindLost | Reset
"""After these, some who wait for a task may wait no more."""

_Number = tuple[int, int]
"""A peer, and its number for what it has asked."""


@dataclass(slots=True)
class _Waiter:
    """Who is answered later."""

    request: Pop | Wait
    due: float


@dataclass(slots=True)
class _Board:
    """A table, and who waits at it, in the order of asking."""

    table: Table
    pops: dict[_Number, _Waiter] = field(default_factory=dict)
    waits: dict[_Number, _Waiter] = field(default_factory=dict)

    def waiters(self, request: Pop | Wait) -> dict[_Number, _Waiter]:
        """Return those who wait for what this asks for."""
        return self.pops if isinstance(request, Pop) else self.waits


class Tables:
    """The boards, by their names."""

    def __init__(self, epoch: float = 0.0, *, most_bytes: int = MOST_BYTES) -> None:
        """``epoch`` is what to add to ``now`` to have seconds since the epoch."""
        self._epoch = epoch
        self._most_bytes = most_bytes
        self._boards: dict[str, _Board] = {}
        self._size = 0  # what all tables take, in bytes
        self._changes = 0  # as many as any table had that is gone
        self._inbox: list[tuple[int, Consult]] = []
        self._posts: list[tuple[int, Reply | Objected]] = []
        self._deadlines: list[tuple[float, _Number, str]] = []  # a heap, also of those answered
        self._waiting = 0

    def take(self, peer: int, consult: Consult) -> None:
        """Note what a client asks, until the next turn."""
        self._inbox.append((peer, consult))

    def lose(self, peer: int) -> None:
        """Forget what a client waits for, which is gone; else what it has asked is done."""
        self._inbox = [
            (number, consult)
            for number, consult in self._inbox
            if number != peer or not isinstance(consult.request, Pop | Wait)
        ]
        for name, board in list(self._boards.items()):
            for waiters in (board.pops, board.waits):
                for number in [number for number in waiters if number[0] == peer]:
                    self._forget(waiters, number)
            self._sweep(name)

    def turn(self, now: float) -> list[tuple[int, Reply | Objected]]:
        """Do what was asked; return what to tell whom, also those whose time is up."""
        inbox, self._inbox = self._inbox, []
        for peer, consult in inbox:
            self._consult(peer, consult, now)
        self._expire(now)
        posts, self._posts = self._posts, []
        return posts

    def next_deadline(self) -> float | None:
        """When ``turn`` must be called even if nothing more is asked; None if never."""
        if self._inbox:
            return -math.inf
        while self._deadlines and self._waiter(self._deadlines[0]) is None:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    # ── one request ──────────────────────────────────────────────────────────────────────

    def _consult(self, peer: int, consult: Consult, now: float) -> None:
        name, request = consult.board, consult.request
        try:
            board = self._board(name)
            self._check_room(request)
            changes, size = board.table.changes, board.table.size
            answer = self._answer(board, request, now)
            if answer is None:
                assert isinstance(request, Pop | Wait)
                self._park((peer, consult.number), name, request, now)
            else:
                self._posts.append((peer, Reply(consult.number, answer)))
        except Refusal as refusal:
            self._object((peer, consult.number), refusal)
        else:
            self._size += board.table.size - size
            if board.table.changes != changes:
                self._serve(board, now, all=isinstance(request, DEPARTURES))
        self._sweep(name)

    def _board(self, name: str) -> _Board:
        """Return a board, which is there from now on."""
        board = self._boards.get(name)
        if board is None:
            if len(name) > LONGEST_NAME:
                raise Refusal(f"the name of a board has at most {LONGEST_NAME:,} characters")
            if len(self._boards) >= MOST_BOARDS:
                raise Refusal(f"a dispatcher has at most {MOST_BOARDS:,} boards")
            board = self._boards[name] = _Board(Table(self._changes))
        return board

    def _check_room(self, request: Request) -> None:
        if self._size + _weight(request) > self._most_bytes:
            raise Refusal(f"the boards of a dispatcher hold at most {self._most_bytes:,} bytes")

    def _answer(self, board: _Board, request: Request, now: float) -> Answer | None:
        """Do what is asked; return None where the answer is to come later."""
        table, stamp = board.table, self._epoch + now
        match request:  # the most frequent ones first
            case Pop(worker, timeout):
                table.beat(worker, stamp)  # here only: to be given a task later is no sign of life
                row = table.pop(worker, stamp)
                return None if row is None and timeout > 0 else Given((row,))
            case Finish(worker, ends):
                return Truths(table.end(worker, ends, stamp))
            case Push(rows):
                table.push(rows, stamp)
            case Create(worker, rows):
                table.create(worker, rows, stamp)
            case Wait(changes, timeout):
                later = changes == table.changes and timeout > 0
                return None if later else Counted(table.tally())
            case Read(keys):
                return Given(table.rows(keys, PORTION))
            case Ended(start, count):
                return Named(*table.ended(start, count))
            case Beat(worker):
                return Truths((table.beat(worker, stamp),))
            case Log(worker, lines):
                table.log(worker, lines, stamp)
            case Withdraw(keys, condition):
                return Count(table.withdraw(keys, condition, stamp))
            case Keys(states):
                return Named(table.keys(states))
            case Enter(newcomer):
                table.enter(newcomer, stamp)
            case Depart(worker, state, reason, most):
                return Truths((table.leave(worker, state, reason, most, stamp),))
            case AskToLeave(workers):
                table.ask_to_leave(workers)
            case FindLost(most):
                return Named(table.find_lost(most, stamp))
            case ListWorkers():
                return Crew(table.workers())
            case Logged(who, last):
                return Lines(table.logged(who, last))
            case Put(name, data):
                table.put(name, _kept(data))
            case Get(name):
                found = table.get(name)
                return Object(None if found is None else Blob(found))
            case Reset():
                board.table = Table(table.changes + 1)
        return Truths()

    # ── who waits ────────────────────────────────────────────────────────────────────────

    def _park(self, number: _Number, name: str, request: Pop | Wait, now: float) -> None:
        """Answer this later."""
        waiters = self._boards[name].waiters(request)
        if number in waiters:
            raise Refusal(f"number {number[1]} is in use")
        if self._waiting >= MOST_WAITERS:
            raise Refusal(f"at most {MOST_WAITERS:,} can wait at the boards of a dispatcher")
        waiter = waiters[number] = _Waiter(request, now + min(request.timeout, LONGEST))
        self._waiting += 1
        heappush(self._deadlines, (waiter.due, number, name))
        if len(self._deadlines) > 2 * self._waiting + SLACK:
            self._deadlines = [each for each in self._deadlines if self._waiter(each) is not None]
            heapify(self._deadlines)

    def _serve(self, board: _Board, now: float, *, all: bool) -> None:
        """Answer those who have waited for what has changed; ``all``: some may not pop any more."""
        if board.pops and (all or board.table.has_queued):
            for number, waiter in list(board.pops.items()):
                if not (all or board.table.has_queued):
                    break
                self._try_again(board, number, waiter, now)
        if board.waits:
            counted = Counted(board.table.tally())
            for number in list(board.waits):
                self._settle(board.waits, number, counted)

    def _try_again(self, board: _Board, number: _Number, waiter: _Waiter, now: float) -> None:
        """Give who has waited a task, if there is one now."""
        assert isinstance(waiter.request, Pop)
        try:
            row = board.table.pop(waiter.request.worker, self._epoch + now)
        except Refusal as refusal:
            self._forget(board.pops, number)
            self._object(number, refusal)
            return
        if row is not None:
            self._settle(board.pops, number, Given((row,)))

    def _expire(self, now: float) -> None:
        """Answer those whose time is up."""
        while self._deadlines and self._deadlines[0][0] <= now:
            deadline = heappop(self._deadlines)
            waiter, (_, number, name) = self._waiter(deadline), deadline
            if waiter is None:
                continue
            board = self._boards[name]
            is_pop = isinstance(waiter.request, Pop)
            answer = Given((None,)) if is_pop else Counted(board.table.tally())
            self._settle(board.waiters(waiter.request), number, answer)
            self._sweep(name)

    def _waiter(self, deadline: tuple[float, _Number, str]) -> _Waiter | None:
        """Return whose deadline it is; None if he does not wait any more."""
        due, number, name = deadline
        board = self._boards.get(name)
        if board is None:
            return None
        found = (board.pops.get(number), board.waits.get(number))
        return next((each for each in found if each is not None and each.due == due), None)

    def _settle(self, waiters: dict[_Number, _Waiter], number: _Number, answer: Answer) -> None:
        self._forget(waiters, number)
        self._posts.append((number[0], Reply(number[1], answer)))

    def _object(self, number: _Number, refusal: Refusal) -> None:
        gone = isinstance(refusal, NotRunning)
        self._posts.append((number[0], Objected(number[1], str(refusal), gone)))

    def _forget(self, waiters: dict[_Number, _Waiter], number: _Number) -> None:
        del waiters[number]
        self._waiting -= 1

    def _sweep(self, name: str) -> None:
        """Drop a board of which nothing is known, and at which nobody waits."""
        board = self._boards.get(name)
        if board is not None and board.table.is_empty and not (board.pops or board.waits):
            self._changes = max(self._changes, board.table.changes)
            del self._boards[name]

    def check(self) -> None:
        """Raise AssertionError if what is here does not fit together; for tests."""
        boards = self._boards.values()
        for board in boards:
            board.table.check()
        assert self._size == sum(board.table.size for board in boards)
        assert self._waiting == sum(len(board.pops) + len(board.waits) for board in boards)
        waiting = {(n, name) for name, b in self._boards.items() for n in (*b.pops, *b.waits)}
        known = {(each[1], each[2]) for each in self._deadlines if self._waiter(each) is not None}
        assert waiting == known


def _weight(request: Request) -> int:
    """Return about how many bytes more a board has to keep if it does this."""
    match request:
        case Push(rows) | Create(_, rows):
            return sum([ROW_BYTES + len(row.xs) for row in rows])
        case Finish(_, ends):
            return sum([len(end.ys) + len(end.condition) for end in ends])
        case Put(_, data):
            return OBJECT_BYTES + len(data.data)
        case Log(_, lines):
            return sum([LINE_BYTES + len(line) for line in lines])
        case Enter():
            return WORKER_BYTES
        case _:
            return 0


def _kept(blob: Blob) -> Buffer:
    """Return what a blob holds; of a small one a copy, which keeps nothing else alive."""
    data = contents(blob.data)
    return bytes(memoryview(data)) if len(data) < COPIED else data
