"""What comes of a task: ``TaskResult``, and ``Results``, a list of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from mirai._errors import MiraiError, StoreError
from mirai.controllers._frames import SHOWN, Frame, as_frame, as_text, plain
from mirai.controllers._status import Status

if TYPE_CHECKING:
    from mirai.controllers._refs import Ref

T = TypeVar("T")

COLUMNS = (
    "name",
    "status",
    "seconds",
    "worker",
    "attempts",
    "error",
)
"""What a table for people shows."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One run of a task, or what was to be one."""

    status: Status
    error: BaseException | None = None
    controller: str = ""
    worker: str = ""
    """The job that the worker is for its platform, or its host and process."""
    host: str = ""
    pid: int = 0
    started: float = 0.0
    """When it began, by the worker's clock, in seconds since the epoch; 0: not known."""
    seconds: float = 0.0
    """For how long it ran; 0: not known."""
    exit_reason: str = ""
    """Why the worker has ended, if it has crashed."""
    log: str = field(default="", repr=False)
    """The last that it has printed."""
    warnings: tuple[str, ...] = ()
    peak_memory: int = 0


@dataclass(frozen=True)
class TaskResult(Generic[T]):
    """What has come of a task.

    ``result`` is what it has returned (None where it has not), read from the store if it is there;
    ``error`` the exception that it has raised, or that says why there is no result.
    """

    name: str
    key: str
    """Unlike any other task's."""
    command: str
    """The call, in one line."""
    status: Status
    value: T | Ref[T] | None = field(default=None, repr=False)
    """What it has returned, or where that lies in the store: to be passed on without reading it."""
    error: BaseException | None = None
    trace: str = field(default="", repr=False)
    """Where the error arose, on its worker."""
    warnings: tuple[str, ...] = ()
    """Those that the task has raised, 50 at most."""
    seconds: float = 0.0
    """For how long its last attempt ran; 0: not known."""
    seed: int | None = None
    """What its random numbers were drawn from; ``options(seed=...)`` gives the same again."""
    controller: str = ""
    """That whose worker it ran on last."""
    worker: str = ""
    """The job that its worker is for its platform, or its host and process."""
    host: str = ""
    pid: int = 0
    attempts: tuple[Attempt, ...] = ()
    """How it was tried, the last one included."""
    exit_reason: str = ""
    """Why its worker has ended, if it has crashed."""
    log: str = field(default="", repr=False)
    """The last 8 KiB of what it has printed; of a crash, the last that its worker has."""
    submitted: float = 0.0
    """When it was pushed, by this machine's clock, in seconds since the epoch."""
    started: float = 0.0
    """When its last attempt began, by the worker's clock; 0: not known."""
    finished: float = 0.0
    """When its answer came, by this machine's clock."""
    peak_memory: int = 0
    """Bytes that its worker has had at most until it had ended; 0: not known."""
    tags: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it has returned something."""
        return self.status is Status.SUCCESS

    @property
    def attempt(self) -> int:
        """Which attempt was the last, from 1."""
        return len(self.attempts)

    @property
    def result(self) -> T | None:
        """What it has returned; None where it has not.

        Raises StoreError where that lies in a store, and is not there any more.
        """
        return cast("T | None", _read(self.value))

    def unwrap(self) -> T:
        """Return what it has returned, or raise its error."""
        if self.error is not None:
            raise self.error
        return cast("T", _read(self.value))

    def row(self) -> dict[str, Any]:
        """Return it as a row of a table."""
        row: dict[str, Any] = {
            name: getattr(self, name)
            for name in (
                *("name", "key", "command"),
                *("seconds", "controller", "worker", "host", "pid", "attempt", "exit_reason"),
                *("log", "submitted", "started", "finished", "peak_memory"),
            )
        }
        row["status"] = str(self.status)
        row["result"] = self.value
        row["error"] = _error_in_words(self)
        row["trace"] = self.trace
        row["warnings"] = "\n".join(self.warnings)
        row["seed"] = None if self.seed is None else str(self.seed)
        row["tags"] = ",".join(self.tags)
        return {
            name: plain(value) if type(value) is str and name != "result" else value
            for name, value in row.items()
        }


def _read(value: Any) -> Any:
    from mirai.controllers._refs import Ref  # it loads what few have a use for

    if not isinstance(value, Ref):
        return value
    try:
        return value.get()
    except StoreError as error:
        error.add_note(
            "what a controller has stored goes with it: read it before, or have keep_store=True"
        )
        raise


class Results(list[TaskResult[T]], Generic[T]):
    """A list of results: it prints as a table, and becomes a data frame."""

    def values(self) -> list[T]:
        """Return what the tasks have returned, in order.  Raises the first error."""
        return [each.unwrap() for each in self]

    @property
    def ok(self) -> bool:
        """Whether all have returned something."""
        return all(each.ok for each in self)

    def failures(self) -> Results[T]:
        """Return those that have not returned anything."""
        return Results(each for each in self if not each.ok)

    def to_frame(self, kind: Frame = "pandas") -> Any:
        """Return a DataFrame of pandas or of polars, or a Table of Arrow: one row a task.

        What tasks have returned is the column ``result``: as it is in a frame of pandas, and in the
        others as it is too where Arrow knows a type for all of them, or else in words (``repr``).
        Raises ImportError if the package is not installed, and ValueError for another ``kind``.
        """
        rows = [each.row() for each in self]
        names = list(rows[0] if rows else TaskResult("", "", "", Status.SUCCESS).row())
        columns = {name: [row[name] for row in rows] for name in names}
        return as_frame(columns, kind, anything=("result",))

    def __repr__(self) -> str:
        counts = Counter(str(each.status) for each in self)
        told = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
        return f"<Results of {len(self)}: {told}>" if self else "<Results of 0>"

    def __str__(self) -> str:
        return as_text(COLUMNS, [_cells(each) for each in self[:SHOWN]], len(self))

    def __rich__(self) -> Any:
        """Return a table of rich's."""
        table = import_module("rich.table").Table(*COLUMNS)
        escape = import_module("rich.markup").escape
        for each in self[:SHOWN]:
            table.add_row(*map(escape, _cells(each)))
        if len(self) > SHOWN:
            table.caption = f"and {len(self) - SHOWN} more"
        return table


def _error_in_words(result: TaskResult[Any]) -> str:
    return "" if result.error is None else f"{type(result.error).__name__}: {result.error}"


def _cells(result: TaskResult[Any]) -> tuple[str, ...]:
    first = _error_in_words(result).partition("\n")[0]
    return (
        result.name,
        str(result.status),
        f"{result.seconds:.3g}" if result.started else "",
        result.worker,
        str(result.attempt),
        first if len(first) <= 60 else f"{first[:57]}...",
    )


class TasksFailed(ExceptionGroup[Exception]):
    """Some tasks of a map have failed: their errors, and all results in ``results``.

    ``except*`` and ``split`` work on it as on any ExceptionGroup.
    """

    results: Results[Any]

    def __new__(
        cls, message: str, errors: Iterable[Exception], results: Results[Any] | None = None
    ) -> TasksFailed:
        self = super().__new__(cls, message, list(errors))
        self.results = Results() if results is None else results
        return self

    def derive(self, errors: Iterable[Exception]) -> ExceptionGroup[Exception]:  # type: ignore[override]
        """Return a like group of these errors."""
        return TasksFailed(self.message, errors, self.results)


def failed(results: Results[Any]) -> TasksFailed:
    """Return the error that tells of all failures of a map."""
    failures = results.failures()
    errors = []
    for each in failures:
        error = each.error
        assert error is not None
        error.add_note(f"it is task {each.name!r}: {each.command}")
        errors.append(error if isinstance(error, Exception) else MiraiError(str(error)))
    return TasksFailed(f"{len(failures)} of {len(results)} tasks have failed", errors, results)
