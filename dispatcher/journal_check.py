"""Looking at a journal without changing it, also while a dispatcher has it."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dispatcher.journal_data import Data
from dispatcher.journal_file import (
    JournalError,
    Mark,
    Marked,
    check_schema,
    connect_to_read,
    explained,
    is_there,
    mark_path,
    missing,
    read_mark,
)
from dispatcher.journal_rows import (
    FORMAT,
    GONE,
    TABLES,
    BegunRow,
    Damage,
    FunctionRow,
    JobRow,
    OutcomeRow,
    RunRow,
    Stretch,
    columns,
    verified,
)
from dispatcher.messages import Kind

__all__ = ["JobView", "JournalError", "RunView", "View", "check", "look", "user"]

SAID = 20
"""How much that is wrong is said of each table; more would help nobody."""


def user(path: str) -> int:
    """Return the process that has the journal open for writing; 0: none, -1: it is not known."""
    with suppress(OSError):
        if os.path.exists(mark_path(path)):
            try:
                Mark(path).close(remove=False)
            except JournalError:
                return read_mark(path).pid or -1
    return 0


@contextmanager
def opened(path: str) -> Iterator[sqlite3.Connection]:
    """Open a journal to read it as it is now.  Raises JournalError if there is none."""
    with explained(path):
        if not is_there(path):
            raise missing(path)
        with closing(connect_to_read(path)) as db:
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("BEGIN")  # all that is read is of one moment
            yield db


# ── check ────────────────────────────────────────────────────────────────────────────────


def check(path: str) -> Iterator[str]:
    """Yield what is wrong with a journal.  Raises JournalError if there is none."""
    marked = read_mark(path)  # before anything else: the journal may go on meanwhile
    yield from _mark_wrong(path)
    with opened(path) as db:
        yield from dict.fromkeys(_wrong(db, marked.commits))  # each once


def _wrong(db: sqlite3.Connection, marked: int) -> Iterator[str]:
    yield from _structure_wrong(db)
    yield from _schema_wrong(db)
    yield from _whole_wrong(db, marked)
    for kind in (JobRow, FunctionRow, RunRow, BegunRow, OutcomeRow):
        yield from _rows_wrong(db, kind)
    yield from _pieces_wrong(db)


def _mark_wrong(path: str) -> Iterator[str]:
    with suppress(FileNotFoundError), open(mark_path(path), "rb") as file:
        try:
            Marked.read(file.read())
        except Damage as error:
            yield str(error)


def _structure_wrong(db: sqlite3.Connection) -> Iterator[str]:
    try:
        for (line,) in db.execute("PRAGMA integrity_check").fetchall():
            if line != "ok":
                yield f"SQLite says: {line}"
    except sqlite3.DatabaseError as error:
        yield f"SQLite says: {error}"


def _schema_wrong(db: sqlite3.Connection) -> Iterator[str]:
    try:
        check_schema(db)
    except (Damage, sqlite3.DatabaseError, UnicodeDecodeError) as error:
        yield str(error)


def _whole_wrong(db: sqlite3.Connection, marked: int) -> Iterator[str]:
    """Yield what does not fit together: missing transactions, and missing rows."""
    try:
        data = Data(db)
        commits = data.meta().commits
        if commits < marked:
            yield f"{marked - commits} transactions are missing that were acknowledged"
        for _ in data.load():
            pass
    except (Damage, sqlite3.DatabaseError, UnicodeDecodeError) as error:
        yield str(error)


def _rows_wrong(db: sqlite3.Connection, kind: type[Any]) -> Iterator[str]:
    """Yield which rows are not what was written, and whose data is not."""
    said = 0
    data = Data(db)
    try:
        for found in db.execute(f"SELECT {columns(kind)} FROM {TABLES[kind]}"):
            try:
                row = verified(kind, found)
                _read_data(data, row)
            except (Damage, sqlite3.DatabaseError) as error:
                said += 1
                if said <= SAID:
                    yield str(error)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        yield f"{TABLES[kind]}: {error}"
    if said > SAID:
        yield f"{said - SAID} more of {TABLES[kind]}"


def _read_data(data: Data, row: Any) -> None:
    if isinstance(row, RunRow):
        data.enlisted(row)
    elif isinstance(row, FunctionRow):
        data.function(row)
    elif isinstance(row, OutcomeRow) and row.crc != GONE:
        data.outcome(row)


def _pieces_wrong(db: sqlite3.Connection) -> Iterator[str]:
    """Yield which blobs are of nothing."""
    for kind in (FunctionRow, RunRow, OutcomeRow):
        table, key = TABLES[kind], kind._fields[0]
        sql = (
            "SELECT DISTINCT number FROM pieces WHERE owner = ?"
            f" AND number NOT IN (SELECT {key} FROM {table} WHERE pieces > 0)"
        )
        with suppress(sqlite3.DatabaseError):  # said already
            for (number,) in db.execute(sql, (table,)).fetchmany(SAID):
                yield f"a blob is of row {number} of {table}, which has none"


# ── look ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class RunView:
    """Tasks of a run that are in the same state."""

    first: int
    count: int
    function: str
    state: str


@dataclass(slots=True)
class JobView:
    """One job: its tasks, and how many are in which state."""

    number: int
    name: str
    at: float
    states: Counter[str] = field(default_factory=Counter)
    runs: list[RunView] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class View:
    """What is in a journal."""

    format: int
    commits: int
    bytes: int
    functions: int
    jobs: list[JobView]


def look(path: str) -> View:
    """Return what is in a journal.  Raises JournalError if it is damaged, or none."""
    with opened(path) as db:
        check_schema(db)
        data = Data(db)
        names = {row.number: data.function(row).function.name for row in data.rows(FunctionRow)}
        jobs = {row.number: JobView(*row) for row in data.rows(JobRow)}
        for run in data.rows(RunRow):
            job = jobs.setdefault(run.job, JobView(run.job, "", 0.0))
            for span, state in _states(data, run):
                job.states[state] += span.end - span.first
                name = names.get(run.function, "")
                job.runs.append(RunView(span.first, span.end - span.first, name, state))
        size = sum(os.path.getsize(name) for name in _files(path))
        return View(FORMAT, data.meta().commits, size, len(names), [*jobs.values()])


def _files(path: str) -> Iterator[str]:
    return (name for name in (path, f"{path}-wal") if os.path.exists(name))


def _states(data: Data, run: RunRow) -> Iterator[tuple[Stretch, str]]:
    """Yield the parts of a run that are in one state, and which."""
    states = ["waiting"] * run.tasks
    for begun in data.begun_in(Stretch(run.first, run.end)):
        _paint(states, run, begun, "begun")
    for outcome in data.outcomes_in(Stretch(run.first, run.end)):
        state = Kind(outcome.kind).name.lower()
        _paint(states, run, outcome, f"{state} (fetched)" if outcome.crc == GONE else state)
    first = 0
    for place in range(1, run.tasks + 1):
        if place == run.tasks or states[place] != states[first]:
            yield Stretch(run.first + first, run.first + place), states[first]
            first = place


def _paint(states: list[str], run: RunRow, row: BegunRow | OutcomeRow, state: str) -> None:
    first, end = max(run.first, row.first), min(run.end, row.end)
    states[first - run.first : end - run.first] = [state] * (end - first)
