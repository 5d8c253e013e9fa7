"""What managers and workers of a board have in common: they push tasks, and read all."""

from __future__ import annotations

import threading
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from time import monotonic
from typing import Any

from dispatcher.boards import Row, Store, Tally, TaskState, Worker
from mirai._answer import unpickled
from mirai._errors import StoreError
from mirai._serialize import pack_whole
from mirai.controllers._frames import Frame
from mirai.queues.boards._rows import NOBODY, TaskRow, frame_of
from mirai.queues.boards._values import THRESHOLD, Values

SLICE = 10_000
"""How many tasks are pushed or read at once: others want the board too."""
PORTION = 16 << 20
"""How many bytes are pushed at once, unless a single task has more: requests have their limits."""

Xs = Mapping[str, Any]
States = Iterable[TaskState | str] | TaskState | str | None


class View:
    """See ``Board`` and ``BoardWorker``."""

    def __init__(self, store: Store, threshold: int = THRESHOLD) -> None:
        self._store = store
        self._values = Values(store.get, store.put, threshold)
        self._known: dict[str, Worker] = {}
        self._position = 0  # up to which those that have ended were fetched
        self._unread: deque[TaskRow] = deque()  # those of them that nobody was given yet
        self._fetching = threading.Lock()

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, xs: Xs | Iterable[Xs], *, priority: int = 0, to: str = "") -> list[str]:
        """Add a task, or one for each of several dicts; return their keys.

        ``xs`` are the arguments of the workers' function, by name.  Higher priorities go first,
        then first in first out.  ``to`` is the id of the worker that they are for; where it does
        not run (any more), they are for all.

        Raises TypeError or ValueError for what is no task, SerializationError and StoreError.
        """
        if not isinstance(priority, int) or not isinstance(to, str):
            raise TypeError(f"priority must be an int, and to a str, not {priority!r} and {to!r}")
        if abs(priority) >= 2**31:
            raise ValueError(f"priority is out of range: {priority}")
        kept: set[str] = set()
        rows = [
            Row(new_key(), self._values.pack(each, kept), worker=to, priority=priority)
            for each in _tasks(xs)
        ]
        for some in _slices(rows):
            self._store.push(some)
        return [row.key for row in rows]

    def rows(self, keys: Iterable[str] | None = None, states: States = None) -> list[TaskRow]:
        """Return these tasks (None: all, as they were pushed) as far as they are in these states.

        Of ``keys``, those that are not there are left out.
        """
        wanted, chosen = _states(states), listed(keys)
        found = self._read(self._store.keys(wanted) if chosen is None else chosen)
        return [row for row in found if row.state in wanted]

    def frame(self, states: States = None, kind: Frame = "pandas", *, load: bool = False) -> Any:
        """Return a DataFrame of pandas or polars, or an Arrow Table: one row a task.

        Columns are the key, the state, what the tasks were called with (xs) and what came of them
        (ys) by their own names, condition, worker, pid, priority, tries, and when it was pushed,
        started and ended.  Where something is called so already, it is ``xs.NAME`` or ``ys.NAME``.
        Large values are what stands for them, unless it is to ``load`` them.

        Raises ImportError if the package is not installed, and ValueError for another ``kind``.
        """
        return frame_of(self.rows(states=states), self._values, kind, load=load)

    def fetch_new(self, timeout: float = 0.0) -> list[TaskRow]:
        """Return the tasks that have ended since this was asked last, in that order.

        Where there is none, it waits for one, for so many seconds.
        """
        until = monotonic() + timeout
        while True:
            changes = self._store.tally().changes
            self._fetch()
            found = list(iter(self._next, None))
            left = until - monotonic()
            if found or left <= 0:
                return found
            self._store.wait(changes, left)

    def tally(self) -> Tally:
        """Return how many tasks are queued, running, finished, failed and lost, and the workers."""
        return self._store.tally()

    def _fetch(self) -> bool:
        """Read what has ended since; return whether there is anything that nobody was given yet."""
        with self._fetching:
            while True:
                keys, position = self._store.ended(self._position, SLICE)
                self._unread.extend(self._read(keys))
                self._position = position  # now: they are asked for again if they were not read
                if len(keys) < SLICE:
                    return bool(self._unread)

    def _next(self) -> TaskRow | None:
        """Give out one of those; None if there is none."""
        try:
            return self._unread.popleft()
        except IndexError:
            return None

    def _read(self, keys: Sequence[str]) -> list[TaskRow]:
        found: list[TaskRow] = []
        for start in range(0, len(keys), SLICE):
            rows = [row for row in self._store.rows(keys[start : start + SLICE]) if row is not None]
            if any(row.worker and row.worker not in self._known for row in rows):
                self._known = {worker.id: worker for worker in self._store.workers()}
            found += [
                TaskRow(row, self._known.get(row.worker, NOBODY), self._values) for row in rows
            ]
        return found

    # ── objects ──────────────────────────────────────────────────────────────────────────

    def share(self, name: str, value: Any) -> None:
        """Keep an object on the board for everybody, in the place of what had the name."""
        self._store.put(f"shared:{name}", pack_whole(value))

    def shared(self, name: str) -> Any:
        """Return an object that somebody has shared.  Raises StoreError if nobody has."""
        data = self._store.get(f"shared:{name}")
        if data is None:
            raise StoreError(f"nobody has shared {name!r} on this board")
        return unpickled(data, what="data")

    def load(self, value: Any) -> Any:
        """Return what stands behind a ``Large``, a value that is kept beside its task.

        Others are returned as they are.  Raises StoreError if it is not there any more.
        """
        return self._values.load(value)


def new_key() -> str:
    """Return a name that nothing else has."""
    return uuid.uuid4().hex


def listed(names: Iterable[str] | None) -> list[str] | None:
    """Return names as a list; one alone need not be in one."""
    return None if names is None else [names] if isinstance(names, str) else list(names)


def _tasks(xs: Xs | Iterable[Xs]) -> list[Xs]:
    """Return tasks as a list.  Raises TypeError."""
    tasks = [xs] if isinstance(xs, Mapping) else list(xs)
    for each in tasks:
        if not isinstance(each, Mapping):
            raise TypeError(f"a task is a dict of arguments, not {type(each).__name__}")
        for name in each:
            if not isinstance(name, str):
                raise TypeError(f"arguments of a task are named by strings, not {name!r}")
    return tasks


def _slices(rows: Sequence[Row]) -> Iterator[list[Row]]:
    """Yield tasks in order, as many at once as a store takes: ``SLICE``, of ``PORTION`` bytes."""
    some: list[Row] = []
    size = 0
    for row in rows:
        if some and (len(some) == SLICE or size + len(row.xs) > PORTION):
            yield some
            some, size = [], 0
        some.append(row)
        size += len(row.xs)
    if some:
        yield some


def _states(states: States) -> list[TaskState]:
    """Return states, given as such or by name.  Raises ValueError."""
    if states is None:
        return list(TaskState)
    return [TaskState(each) for each in ([states] if isinstance(states, str) else states)]
