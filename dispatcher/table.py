"""One board as the dispatcher holds it: its tasks, workers, logs and objects.

No socket, no clock, no thread: time is an argument, in seconds since the epoch, and nothing here
waits.  A task is in exactly one state; one that is running is in the hand of one worker; one that
is queued has exactly one place, among those for all or among those for one worker that is running.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from itertools import islice

from msgspec import structs

from dispatcher.blob import Buffer
from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState
from dispatcher.requests import LARGEST

ROW_BYTES = 500
"""About how much memory a task takes, besides what it holds."""
WORKER_BYTES = 1_500
LINE_BYTES = 200
OBJECT_BYTES = 300
MOST_ROWS = 1_000_000
MOST_WORKERS = 50_000
MOST_LINES = 10_000
"""How much a board keeps: tasks, workers, and lines of logs, of which the oldest go first."""
LONGEST_NAME = 1_000
"""How many bytes a key, or another name, may have."""
MOST_NAMES = 60_000_000
"""How many characters of keys one answer has at most."""
LONGEST_LINE = 4_000
LONGEST_TEXT = 400
"""How many characters are kept of a line, and of what a worker says of itself."""

ENDS = (TaskState.FINISHED, TaskState.FAILED, TaskState.LOST)
_WORDS = {
    WorkerState.TERMINATED: "its worker has left",
    WorkerState.KILLED: "its worker was killed",
    WorkerState.LOST: "its worker was lost",
}

Place = tuple[int, int, str]
"""Where a queued task stands: minus its priority, its number in the order of pushing, its key."""


class Refusal(Exception):
    """A board does not do what it was asked to, for this reason, and nothing has changed."""


class NotRunning(Refusal):
    """The worker has left, is to leave, was declared lost, or has never entered."""


class Table:
    """The state of one board."""

    def __init__(self, changes: int = 0) -> None:
        """``changes`` is where to go on counting them."""
        self.changes = changes
        """How many changes of tasks and workers there have been."""
        self.size = 0
        """About how many bytes it takes."""
        self._rows: dict[str, Row] = {}
        self._counts: Counter[TaskState] = Counter()
        self._last = 0  # the number of the task that was pushed last
        self._shared: list[Place] = []  # a heap; what was withdrawn is still there
        self._pinned: dict[str, list[Place]] = {}  # the same for one worker each
        self._ended: list[str] = []  # keys in the order in which they ended
        self._before = changes  # no fewer than had ended on the tables before this one
        self._workers: dict[str, Worker] = {}
        self._hands: dict[str, dict[str, int]] = {}  # running worker -> key -> number of its tasks
        self._heard: dict[str, float] = {}  # when each of them was heard of last
        self._leaving: set[str] = set()  # those of them that were asked to leave
        self._lines: deque[tuple[float, str, str]] = deque()
        self._objects: dict[str, Buffer] = {}

    @property
    def is_empty(self) -> bool:
        """Whether nothing is known of it."""
        return not (self._rows or self._workers or self._lines or self._objects)

    @property
    def has_queued(self) -> bool:
        """Whether a task waits for some worker."""
        return self._counts[TaskState.QUEUED] > 0

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, rows: Sequence[Row], now: float) -> None:
        """Add tasks, queued; see ``boards.Store``.  Raises Refusal, as do those below."""
        self._check_new(rows)
        for row in rows:
            worker = row.worker if row.worker in self._hands else ""
            new = Row(row.key, row.xs, worker=worker, priority=row.priority, pushed=now)
            self._set(new)
            self._line_up(new, self._number())

    def create(self, worker: str, rows: Sequence[Row], now: float) -> None:
        """Add tasks that this worker is running already."""
        hand = self._hand(worker)
        self._check_new(rows)
        self._heard[worker] = now
        for row in rows:
            new = Row(
                row.key,
                row.xs,
                TaskState.RUNNING,
                worker=worker,
                priority=row.priority,
                tries=1,
                pushed=now,
                started=now,
            )
            self._set(new)
            hand[row.key] = self._number()

    def pop(self, worker: str, now: float) -> Row | None:
        """Give this worker the next task; None if there is none for it now."""
        hand = self._hand(worker)
        if worker in self._leaving:
            raise NotRunning(f"worker {worker} was asked to leave")
        queues = (self._pinned.get(worker), self._shared)
        queue = next((each for each in queues if each and self._tidy(each)), None)
        if queue is None:
            return None
        _, number, key = heappop(queue)
        row = self._rows[key]
        row = structs.replace(
            row, state=TaskState.RUNNING, worker=worker, tries=row.tries + 1, started=now
        )
        self._set(row)
        hand[key] = number
        return row

    def end(self, worker: str, ends: Sequence[End], now: float) -> tuple[bool, ...]:
        """End tasks of this worker; return which of them it still had."""
        for end in ends:
            if end.state not in ENDS:
                raise Refusal(f"{end.state.value} is not how a task ends")
            _check_size(end.ys)
        if worker in self._hands:
            self._heard[worker] = now
        return tuple([self._end(worker, end, now) for end in ends])

    def withdraw(self, keys: Iterable[str] | None, condition: str, now: float) -> int:
        """Fail tasks that are queued, or all that are; return how many."""
        rows = map(self._rows.get, self._rows if keys is None else keys)
        # as a list: a key may be there twice, and then is queued only once
        queued = {row.key: row for row in rows if row is not None and _is_queued(row)}
        for row in queued.values():
            self._close(row, TaskState.FAILED, b"", condition, now)
        return len(queued)

    def rows(self, keys: Iterable[str], most: int) -> tuple[Row | None, ...]:
        """Return these tasks; only the first of them if all are larger than so many bytes."""
        found: list[Row | None] = []
        size = 0
        for key in keys:
            row = self._rows.get(key)
            size += 1 if row is None else _size(row)
            if found and size > most:
                break
            found.append(row)
        return tuple(found)

    def keys(self, states: Iterable[TaskState]) -> tuple[str, ...]:
        """Return the keys of the tasks in these states, in the order in which they were pushed."""
        wanted = set(states)
        return _few([key for key, row in self._rows.items() if row.state in wanted])

    def ended(self, start: int, count: int) -> tuple[tuple[str, ...], int]:
        """Return keys in the order in which the tasks ended, and where to go on."""
        at = max(0, start - self._before)
        keys = _few(self._ended[at : at + max(0, count)])
        return keys, self._before + at + len(keys)

    def tally(self) -> Tally:
        """Return the counts."""
        counts = self._counts
        return Tally(
            counts[TaskState.QUEUED],
            counts[TaskState.RUNNING],
            counts[TaskState.FINISHED],
            counts[TaskState.FAILED],
            counts[TaskState.LOST],
            len(self._hands),
            self.changes,
        )

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def enter(self, worker: Worker, now: float) -> None:
        """Know a worker from now on."""
        _check_name(worker.id)
        if not worker.id:
            raise Refusal("a worker has an id")
        if worker.id in self._workers:
            raise Refusal(f"there is, or was, a worker {worker.id} already")
        if len(self._workers) >= MOST_WORKERS:
            raise Refusal(f"a board has at most {MOST_WORKERS:,} workers")
        if not worker.patience >= 0:
            raise Refusal("patience cannot be less than nothing")
        self._workers[worker.id] = Worker(
            worker.id,
            worker.host[:LONGEST_TEXT],
            worker.pid,
            patience=worker.patience,
            started=now,
        )
        self._hands[worker.id] = {}
        self._heard[worker.id] = now
        self.size += WORKER_BYTES
        self.changes += 1

    def beat(self, worker: str, now: float) -> bool:
        """Note that this worker is alive; return whether it shall go on."""
        if worker not in self._hands:
            return False
        self._heard[worker] = now
        return worker not in self._leaving

    def leave(self, worker: str, state: WorkerState, reason: str, most: int, now: float) -> bool:
        """Note that a worker has ended; return whether it ran.

        Its tasks are queued again where they were taken less than ``most`` times, or lost.
        """
        if state is WorkerState.RUNNING:
            raise Refusal("who runs has not ended")
        if worker not in self._hands:
            return False
        self._bury(worker, state, reason, most, now)
        return True

    def ask_to_leave(self, workers: Iterable[str] | None) -> None:
        """Have these workers leave, or all."""
        asked = self._hands.keys() & set(self._hands if workers is None else workers)
        if not asked <= self._leaving:
            self._leaving |= asked
            self.changes += 1

    def find_lost(self, most: int, now: float) -> tuple[str, ...]:
        """Declare those lost that were not heard of in time; return their ids."""
        workers = (self._workers[id] for id in self._hands)
        lost = [
            worker.id
            for worker in workers
            if worker.patience and now - self._heard[worker.id] > worker.patience
        ]
        for id in lost:
            reason = f"not heard of for {now - self._heard[id]:.1f} s"
            self._bury(id, WorkerState.LOST, reason, most, now)
        return tuple(lost)

    def workers(self) -> tuple[Worker, ...]:
        """Return all workers that there have been, in the order in which they came."""
        return tuple(
            [
                structs.replace(worker, heard=self._heard[id]) if id in self._heard else worker
                for id, worker in self._workers.items()
            ]
        )

    # ── logs and objects ─────────────────────────────────────────────────────────────────

    def log(self, worker: str, lines: Iterable[str], now: float) -> None:
        """Keep lines that a worker has logged, and let go of the oldest ones."""
        _check_name(worker)
        for line in lines:
            self._lines.append((now, worker, line[:LONGEST_LINE]))
            self.size += LINE_BYTES + len(self._lines[-1][2])
            if len(self._lines) > MOST_LINES:
                self.size -= LINE_BYTES + len(self._lines.popleft()[2])

    def logged(self, worker: str | None, last: int) -> tuple[tuple[float, str, str], ...]:
        """Return the last lines, of one worker or of all."""
        lines = (line for line in reversed(self._lines) if worker is None or line[1] == worker)
        return tuple(islice(lines, min(max(0, last), MOST_LINES)))[::-1]

    def put(self, name: str, data: Buffer) -> None:
        """Keep an object, in the place of what had the name."""
        _check_name(name)
        former = self._objects.get(name)
        if former is not None:
            self.size -= OBJECT_BYTES + len(former)
        self._objects[name] = data
        self.size += OBJECT_BYTES + len(data)

    def get(self, name: str) -> Buffer | None:
        """Return an object; None if there is none with this name."""
        return self._objects.get(name)

    # ── inside ───────────────────────────────────────────────────────────────────────────

    def _check_new(self, rows: Sequence[Row]) -> None:
        if len(self._rows) + len(rows) > MOST_ROWS:
            raise Refusal(f"a board has at most {MOST_ROWS:,} tasks")
        keys = {row.key for row in rows}
        if len(keys) < len(rows) or not keys.isdisjoint(self._rows):
            known = [row.key for row in rows if row.key in self._rows]
            raise Refusal(f"there is a task {known[0]} already" if known else "a key comes twice")
        for row in rows:
            _check_name(row.key)
            _check_size(row.xs)

    def _hand(self, worker: str) -> dict[str, int]:
        """Return the tasks that a worker is running, which must be there."""
        hand = self._hands.get(worker)
        if hand is not None:
            return hand
        if (known := self._workers.get(worker)) is None:
            raise NotRunning(f"there is no worker {worker}")
        raise NotRunning(f"worker {worker} is {known.state.value}")

    def _number(self) -> int:
        self._last += 1
        return self._last

    def _line_up(self, row: Row, number: int) -> None:
        """Give a queued task its place."""
        queue = self._pinned.setdefault(row.worker, []) if row.worker else self._shared
        heappush(queue, (-row.priority, number, row.key))

    def _tidy(self, queue: list[Place]) -> bool:
        """Remove from a queue's head what was withdrawn; return whether anything is left."""
        while queue and not _is_queued(self._rows[queue[0][2]]):
            heappop(queue)
        return bool(queue)

    def _set(self, row: Row) -> None:
        """Enter a task, or put it into the place of what it was."""
        former = self._rows.get(row.key)
        if former is not None:
            self._counts[former.state] -= 1
            self.size -= _size(former)
        self._rows[row.key] = row
        self._counts[row.state] += 1
        self.size += _size(row)
        self.changes += 1

    def _end(self, worker: str, end: End, now: float) -> bool:
        row = self._rows.get(end.key)
        if row is None or row.state is not TaskState.RUNNING or row.worker != worker:
            return False
        del self._hands[worker][end.key]
        self._close(row, end.state, end.ys, end.condition, now)
        return True

    def _close(self, row: Row, state: TaskState, ys: bytes, condition: str, now: float) -> None:
        """End a task for good."""
        condition = condition[:LONGEST_LINE]
        self._set(structs.replace(row, state=state, ys=ys, condition=condition, ended=now))
        self._ended.append(row.key)

    def _bury(self, id: str, state: WorkerState, reason: str, most: int, now: float) -> None:
        """End a worker; what was pinned to it is for all."""
        reason = reason[:LONGEST_TEXT]
        self._workers[id] = structs.replace(
            self._workers[id], state=state, heard=self._heard.pop(id), ended=now, reason=reason
        )
        self._leaving.discard(id)
        self.changes += 1
        condition = f"{_WORDS[state]}: {reason}" if reason else _WORDS[state]
        for key, number in self._hands.pop(id).items():
            row = self._rows[key]
            if row.tries < most:
                self._free(row, number)
            else:
                self._close(row, TaskState.LOST, b"", condition, now)
        for _, number, key in self._pinned.pop(id, ()):
            if _is_queued(self._rows[key]):
                self._free(self._rows[key], number)

    def _free(self, row: Row, number: int) -> None:
        """Queue a task for all, in its old place."""
        row = structs.replace(row, state=TaskState.QUEUED, worker="", started=0.0)
        self._set(row)
        self._line_up(row, number)

    def check(self) -> None:
        """Raise AssertionError if what is here does not fit together; for tests."""
        rows = self._rows.values()
        assert +self._counts == Counter(row.state for row in rows)
        queued = {row.key: row.worker for row in rows if _is_queued(row)}
        queues = {"": self._shared, **self._pinned}
        places = [(key, who) for who, queue in queues.items() for _, _, key in queue]
        assert len(places) == len(dict(places))
        assert queued == {key: who for key, who in places if key in queued}
        running = {row.key: row.worker for row in rows if row.state is TaskState.RUNNING}
        assert running == {key: who for who, hand in self._hands.items() for key in hand}
        assert len(self._ended) == len(set(self._ended))
        assert set(self._ended) == {row.key for row in rows if row.state in ENDS}
        active = {id for id, each in self._workers.items() if each.state is WorkerState.RUNNING}
        assert active == self._hands.keys() == self._heard.keys()
        assert self._leaving <= active and self._pinned.keys() <= active
        assert self.size == (
            sum(map(_size, rows))
            + WORKER_BYTES * len(self._workers)
            + sum(LINE_BYTES + len(line) for _, _, line in self._lines)
            + sum(OBJECT_BYTES + len(data) for data in self._objects.values())
        )


def _is_queued(row: Row) -> bool:
    return row.state is TaskState.QUEUED


def _size(row: Row) -> int:
    """Return about how many bytes a task takes."""
    return ROW_BYTES + len(row.xs) + len(row.ys) + len(row.condition)


def _check_name(name: str) -> None:
    if len(name) > LONGEST_NAME or len(name.encode()) > LONGEST_NAME:
        raise Refusal(f"a name has at most {LONGEST_NAME:,} bytes")


def _check_size(data: bytes) -> None:
    if len(data) > LARGEST:
        raise Refusal(f"{len(data):,} bytes in one task, where {LARGEST:,} are the most: put them")


def _few(keys: list[str]) -> tuple[str, ...]:
    """Return these keys if they fit into one answer."""
    if sum(map(len, keys)) > MOST_NAMES:
        raise Refusal(f"{len(keys):,} keys are too much to tell at once")
    return tuple(keys)
