"""Tasks of a board as their readers see them: one by one, and as a table."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from dispatcher.boards import Row, TaskState, Worker
from mirai._errors import BoardError
from mirai.controllers._frames import Frame, as_frame, as_text, plain
from mirai.queues.boards._values import Values, unpack_error

BEFORE = ("key", "state")
BEHIND = (
    *("condition", "worker", "pid", "priority", "tries"),
    *("pushed", "started", "ended"),
)
SHOWN = ("id", "state", "host", "pid", "started", "heard", "ended", "reason")
"""What a table for people shows of workers."""
NOBODY = Worker("")


class Workers(list[Worker]):
    """Workers: it prints as a table, and becomes a data frame."""

    def to_frame(self, kind: Frame = "pandas") -> Any:
        """Return a DataFrame of pandas or of polars, or a Table of Arrow: one row a worker.

        Raises ImportError if the package is not installed, and ValueError for another ``kind``.
        """
        names = Worker.__struct_fields__
        columns = {name: [_plain(getattr(each, name)) for each in self] for name in names}
        return as_frame(columns, kind)

    def __str__(self) -> str:
        return as_text(SHOWN, [_cells(each) for each in self], len(self))


def _cells(worker: Worker) -> list[str]:
    cells = []
    for name in SHOWN:
        value = getattr(worker, name)
        if isinstance(value, float):
            value = time.strftime("%H:%M:%S", time.localtime(value)) if value else ""
        cells.append(plain(str(value)))
    return cells


class TaskRow:
    """One task: where it stands, and what it holds, which is unpickled when it is asked for.

    Times are seconds since the epoch by the board's clock, 0 for what has not been.
    """

    def __init__(self, row: Row, worker: Worker, values: Values) -> None:
        self._row = row
        self._values = values
        self.key = row.key
        self.state = row.state
        self.condition = row.condition
        """Why it has failed or was lost, in words."""
        self.worker = row.worker
        """Who has or had it; of one that is queued, for whom it is pinned, or empty."""
        self.host = worker.host
        self.pid = worker.pid
        """The worker's process; 0 where none has had it."""
        self.priority = row.priority
        self.tries = row.tries
        self.pushed = row.pushed
        self.started = row.started
        self.ended = row.ended

    @cached_property
    def xs(self) -> dict[str, Any]:
        """What it is called with; of large values what stands for them: see ``Board.load``."""
        return self._values.unpack(self._row.xs)

    @cached_property
    def ys(self) -> dict[str, Any]:
        """What came of it, like ``xs``; empty where nothing has, yet or at all."""
        return self._values.unpack(self._row.ys if self.ok else b"")

    @cached_property
    def error(self) -> Exception | None:
        """Why it has not finished: what it has raised, or BoardError; None if it has or may."""
        if self.state not in (TaskState.FAILED, TaskState.LOST):
            return None
        return unpack_error(self._row.ys) if self._row.ys else BoardError(self.condition)

    @property
    def ok(self) -> bool:
        """Whether it has finished."""
        return self.state is TaskState.FINISHED

    def __repr__(self) -> str:
        told = f": {self.condition}" if self.condition else ""
        return f"<TaskRow {self.key}, {self.state}{told}>"


def frame_of(rows: Sequence[TaskRow], values: Values, kind: Frame, *, load: bool = False) -> Any:
    """Return a table with a row for each task: see ``Board.frame``.

    ``xs`` and ``ys`` are columns of their own names; one that something else is called too is
    ``xs.NAME`` or ``ys.NAME``.  Of a task that holds what cannot be unpickled here, the condition
    says so.
    """
    own: dict[str, list[Any]] = {}
    unread: dict[int, str] = {}
    for part in ("xs", "ys"):
        found = _columns([_held(row, part, index, unread) for index, row in enumerate(rows)])
        for name, column in found.items():
            clear = plain(str(name))  # who returns a dict may have keys of any type
            while clear in own or clear in BEFORE or clear in BEHIND:
                clear = f"{part}.{clear}"
            own[clear] = [values.load(value) for value in column] if load else column
    before = {name: [_plain(getattr(row, name)) for row in rows] for name in BEFORE}
    behind = {name: [_plain(getattr(row, name)) for row in rows] for name in BEHIND}
    for index, why in unread.items():
        behind["condition"][index] = behind["condition"][index] or why
    return as_frame({**before, **own, **behind}, kind, anything=own.keys())


def _held(row: TaskRow, part: str, index: int, unread: dict[int, str]) -> dict[str, Any]:
    """Return what a task holds; nothing, and note why, where that cannot be unpickled here."""
    try:
        found: dict[str, Any] = getattr(row, part)
    except Exception as error:  # whatever a class that is not here, or is another, raises
        unread[index] = plain(f"its {part} cannot be read: {type(error).__name__}: {error}")
        return {}
    return found


def _columns(dicts: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Return the values by their names, in the order in which these appear; None for none."""
    names = dict.fromkeys(name for each in dicts for name in each)
    return {name: [each.get(name) for each in dicts] for name in names}


def _plain(value: Any) -> Any:
    return plain(str(value)) if isinstance(value, str) else value
