"""Saving from a damaged journal what can be saved.

It is written into a new file, and the damaged one is kept.  What cannot be read is never made up:
a result that is lost becomes an error that says so.  No task that may have run is run again as if
it had not: where it is not certain what had begun, all that has not ended counts as begun.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import count, islice
from typing import Any, TypeVar

from dispatcher.journal import Highest, Journal
from dispatcher.journal_data import Data
from dispatcher.journal_file import (
    JournalError,
    Mark,
    connect_to_read,
    explained,
    is_there,
    mark_path,
    missing,
    sync_directory,
)
from dispatcher.journal_rows import (
    APPLICATION,
    FORMAT,
    GONE,
    SCHEMA,
    TABLES,
    TOTAL,
    BegunRow,
    Damage,
    FunctionRow,
    JobRow,
    MetaRow,
    OutcomeRow,
    Row,
    RunRow,
    columns,
    lost,
    sealed,
    verified,
)
from dispatcher.messages import Function, Kind, Outcome, Task
from dispatcher.records import (
    Begun,
    Ended,
    Enlisted,
    FunctionMade,
    JobMade,
    LetGo,
    Record,
)

Spread = TypeVar("Spread", BegunRow, OutcomeRow)
Spans = TypeVar("Spans", RunRow, BegunRow, OutcomeRow)

BATCH_RUNS = 1_000
"""How many runs are written at once."""
TRIES = 10_000
"""How often it reads on behind a place that cannot be read."""
PAGE = 4096
"""The size of a journal's pages, in bytes; its tables are described in the first one."""
SIZE_AT = 28
"""Where it says how many pages there are; with 0, SQLite takes the size of the file."""
HEADER = (
    (0, b"SQLite format 3\0"),
    (16, PAGE.to_bytes(2, "big") + b"\2\2\0\x40\x20\x20"),
    (44, b"\0\0\0\4"),
    (56, b"\0\0\0\1"),
    (60, FORMAT.to_bytes(4, "big")),
    (68, APPLICATION.to_bytes(4, "big")),
)
"""What any journal begins with: where, and which bytes."""
UNREADABLE = (sqlite3.Error, Damage, UnicodeDecodeError, OverflowError)


def repair(path: str) -> list[str]:
    """Write a journal anew; return in words what is lost, and last where the old one is.

    Raises JournalError if it is in use, or if there is nothing to be read.
    """
    path = os.path.realpath(path)
    new, copy = f"{path}-repaired", f"{path}-mended"
    with explained(path):
        mend = _has_wrong_header(path)
        if not mend and not is_there(path):
            raise missing(path)
        mark = Mark(path)
    try:
        with explained(path):
            try:
                marked = mark.read().commits
            except Damage:
                marked = -1
            # what an interrupted repair has left
            _remove(new, f"{new}-wal", f"{new}-shm", mark_path(new))
            with (
                _mended(path, copy) if mend else nullcontext(path) as readable,
                closing(connect_to_read(readable)) as db,
            ):
                said = _rewrite(db, marked, new)
            if mend:
                said.insert(0, "its first bytes do not fit the rest, which was read without them")
            kept = _put_aside(path)
            os.replace(new, path)
            sync_directory(path)
    except BaseException:
        mark.close(remove=mark.is_empty())
        raise
    mark.close(remove=True)
    return [*said, f"the damaged journal is kept as {kept}"]


def _has_wrong_header(path: str) -> bool:
    """Whether it is a journal, by the tables that are described there, but for its first bytes.

    By a single flipped bit in there, it can seem to be no journal, or one without a row.
    """
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        start = file.read(PAGE)
    if not all(sql.encode() in start for sql in SCHEMA):
        return False
    if any(start[at : at + len(right)] != right for at, right in HEADER):
        return True
    pages = int.from_bytes(start[SIZE_AT : SIZE_AT + 4], "big")
    has_log = os.path.exists(f"{path}-wal")  # which has the number, then
    return not has_log and pages * PAGE != os.path.getsize(path)


@contextmanager
def _mended(path: str, copy: str) -> Iterator[str]:
    """Make a copy of a journal for the time of the block, with first bytes as they should be.

    Raises JournalError if the journal is another's.
    """
    every = copy, f"{copy}-wal", f"{copy}-shm"
    _remove(*every)
    try:
        _copy(path, copy)
        if os.name == "posix":
            os.chown(copy, os.stat(path).st_uid, -1)  # so that it is asked whose it is
        if os.path.exists(f"{path}-wal"):
            _copy(f"{path}-wal", f"{copy}-wal")
        with open(copy, "r+b") as file:
            for at, right in (*HEADER, (SIZE_AT, bytes(4))):
                file.seek(at)
                file.write(right)
        try:
            is_there(copy)
        except JournalError as error:
            raise JournalError(str(error).replace(copy, path)) from None
        yield copy
    finally:
        _remove(*every)


def _copy(path: str, copy: str) -> None:
    """Copy a file, which others cannot read meanwhile."""
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    shutil.copy(path, copy)


def _rewrite(db: sqlite3.Connection, marked: int, new: str) -> list[str]:
    """Write a new journal of what can be read; return what is lost."""
    rescue = Rescue(db, marked)
    journal = Journal(new, synchronous=False)
    try:
        journal.save(rescue.beginning())
        runs = iter(rescue.runs)
        while some := [*islice(runs, BATCH_RUNS)]:
            journal.save(rescue.of_runs(some))
        journal.reserve(rescue.highest(), rescue.commits)
        journal.save([])
    finally:
        journal.close()
    return rescue.said


def _put_aside(path: str) -> str:
    """Rename a journal and what belongs to it; return its new name."""
    kept = next(
        name for name in (f"{path}.damaged-{n}" for n in count(1)) if not os.path.lexists(name)
    )
    log = f"{path}-wal"
    with suppress(FileNotFoundError):
        if os.path.getsize(log):
            os.replace(log, f"{kept}-wal")  # first: no new journal may find it
    _remove(log, f"{path}-shm")
    os.replace(path, kept)
    return kept


def _remove(*paths: str) -> None:
    """Remove files, if they are there."""
    for path in paths:
        with suppress(FileNotFoundError):
            os.unlink(path)


class Rescue:
    """What can be read of a journal, and what is said of the rest."""

    def __init__(self, db: sqlite3.Connection, marked: int) -> None:
        """Read all rows.  ``marked`` is how many transactions there were; -1: not known."""
        self.said: list[str] = []
        self._db = db
        self._data = Data(db)
        self._jobs = {row.number: row for row in self._rows(JobRow)}
        self._functions = {row.number: row for row in self._rows(FunctionRow)}
        self.runs = [*self._apart(self._rows(RunRow))]
        self._begun = [*self._apart(self._rows(BegunRow))]
        self._outcomes = [*self._apart(self._rows(OutcomeRow))]
        self._lost_functions: set[int] = set()
        self._meta = next(iter(self._rows(MetaRow)), MetaRow())
        self.commits = max(self._meta.commits, marked)
        """How many transactions there were: the new one goes on from there, since a power failure
        may bring back the old one's mark."""
        self._unsure = not self._is_whole(marked)
        if orphans := self._orphans():
            self.said.append(f"{orphans} results are of tasks that are lost, and lost with them")
        if not self._jobs and not self.runs and self._unsure:
            self.said.append("no job could be read")
        if self._unsure:
            self.said.append(
                "it is not certain which tasks had begun: those that have not ended count as begun"
            )

    def _is_whole(self, marked: int) -> bool:
        """Whether all rows are there, so that it is certain what had begun and ended."""
        missing = marked - self._meta.commits
        if missing > 0:
            self.said.append(f"{missing} transactions that were acknowledged are lost")
        rows: list[Any] = [
            *self._jobs.values(),
            *self._functions.values(),
            *self.runs,
            *self._begun,
            *self._outcomes,
        ]
        total = sum(sealed(row)[-1] for row in rows)
        return marked >= 0 and missing <= 0 and total % TOTAL == self._meta.total

    def _orphans(self) -> int:
        """Return how many tasks have ended that are in no run."""
        spans = (_clip(row, run) for run in self.runs for row in _within(self._outcomes, run))
        known = sum(end - first for first, end in spans)
        return sum(row.tasks for row in self._outcomes) - known

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def _rows(self, kind: type[Row]) -> list[Row]:
        """Return the rows that are as they were written, in their order."""
        rows: dict[int, Row] = {}
        wrong = 0
        for found in self._found(kind):
            try:
                row = verified(kind, found)
                rows[row[0]] = row
            except Damage:
                wrong += 1
        if wrong:
            self.said.append(f"{wrong} rows of {TABLES[kind]} are lost")
        return [rows[key] for key in sorted(rows)]

    def _found(self, kind: type[Row]) -> Iterator[tuple[object, ...]]:
        """Yield rows as they are found; where some cannot be read, those around them."""
        ranges, tries = [(-1, 1 << 62)], 0
        while ranges and tries < TRIES:
            first, end = ranges.pop()
            tries += 1
            sql = (
                f"SELECT {columns(kind)} FROM {TABLES[kind]}"
                f" WHERE {kind._fields[0]} >= ? AND {kind._fields[0]} < ?"
            )
            at = first
            try:
                for found in self._db.execute(sql, (first, end)):
                    yield found
                    at = found[0] + 1 if isinstance(found[0], int) else at
            except UNREADABLE:
                if end - at > 1:
                    middle = (at + end) // 2
                    ranges += [(middle, end), (at, middle)]
        if tries > 1:
            self.said.append(f"a part of {TABLES[kind]} cannot be read")

    def _apart(self, rows: Iterable[Spans]) -> Iterator[Spans]:
        """Yield spans but those that overlap one before: they are of another time."""
        at = 0
        for row in rows:
            if row.first >= at:
                at = row.end
                yield row

    def highest(self) -> Highest:
        """Return the largest numbers that are known to have been used."""
        spans: tuple[RunRow | BegunRow | OutcomeRow, ...]
        spans = *self.runs, *self._begun, *self._outcomes
        serials = [row.end - 1 for row in spans]
        jobs = [*self._jobs, *(run.job for run in self.runs)]
        functions = [*self._functions, *(run.function for run in self.runs)]
        return Highest(
            max(self._meta.job, *jobs, 0, 0),
            max(self._meta.function, *functions, 0, 0),
            max(self._meta.serial, *serials, 0, 0),
        )

    # ── writing ──────────────────────────────────────────────────────────────────────────

    def beginning(self) -> Iterator[Record]:
        """Yield the jobs and functions, and others in the place of those that are lost."""
        for number in sorted({*self._jobs, *(run.job for run in self.runs)}):
            if job := self._jobs.get(number):
                yield JobMade(*job)
            else:
                self.said.append(f"the name of job {number} is lost: now it is repaired-{number}")
                yield JobMade(number, f"repaired-{number}", 0.0)
        for number in sorted({*self._functions, *(run.function for run in self.runs)}):
            yield self._function(number)

    def _function(self, number: int) -> FunctionMade:
        with suppress(*UNREADABLE):
            if row := self._functions.get(number):
                return self._data.function(row)
        self.said.append(f"function {number} is lost")
        self._lost_functions.add(number)
        return FunctionMade(Function(number, "lost", b""), b"", b"")

    def of_runs(self, runs: Iterable[RunRow]) -> Iterator[Record]:
        """Yield runs, and what has become of their tasks."""
        for run in runs:
            yield from self._of_run(run)

    def _of_run(self, run: RunRow) -> Iterator[Record]:
        where = f"of job {self._name(run.job)}"
        can_run = "its function was" if run.function in self._lost_functions else ""
        try:
            yield self._data.enlisted(run)
        except UNREADABLE:
            can_run = "its arguments were"
            self.said.append(f"the arguments of {_named(run.first, run.end)} {where} are lost")
            following = (b"",) * (run.tasks - 1)
            task = Task(run.first, run.function, b"", following=following)
            yield Enlisted(run.job, task, run.keys, bool(run.stays), run.at)
        begun, ended = bytearray(run.tasks), bytearray(run.tasks)
        for row in _within(self._begun, run):
            first, end = _clip(row, run)
            begun[first - run.first : end - run.first] = b"\1" * (end - first)
            for _ in range(row.times):
                yield Begun(first, end - first)
        for outcome in _within(self._outcomes, run):
            first, end = _clip(outcome, run)
            ended[first - run.first : end - run.first] = b"\1" * (end - first)
            yield from self._ended(outcome, first, end, where)
        yield from self._open(run, begun, ended, can_run)

    def _open(
        self, run: RunRow, begun: bytearray, ended: bytearray, missing: str
    ) -> Iterator[Record]:
        """Yield what is to be said of the tasks of a run that have not ended."""
        for place in range(run.tasks):
            if ended[place]:
                continue
            if missing:
                yield Ended(lost(run.first + place, missing))
            elif self._unsure and not begun[place]:
                yield Begun(run.first + place, 1)

    def _ended(self, row: OutcomeRow, first: int, end: int, where: str) -> Iterator[Record]:
        if row.crc == GONE:
            following = (b"",) * (end - first - 1)
            yield Ended(Outcome(first, Kind(row.kind), following=following), row.at)
            yield LetGo(first, end - first)
            return
        try:
            outcome = self._data.outcome(row)
            if (first, end) != (row.first, row.end):
                raise Damage("it is of two runs")
        except UNREADABLE:
            self.said.append(f"the results of {_named(first, end)} {where} are lost")
            for serial in range(first, end):
                yield Ended(lost(serial, "its result was"), row.at)
            return
        yield Ended(outcome, row.at)

    def _name(self, number: int) -> str:
        return self._jobs[number].name if number in self._jobs else f"repaired-{number}"


def _within(rows: Sequence[Spread], run: RunRow) -> Iterator[Spread]:
    """Yield the rows of which a part is of this run."""
    place = bisect_right(rows, run.first, key=lambda row: row.end)
    while place < len(rows) and rows[place].first < run.end:
        yield rows[place]
        place += 1


def _clip(row: BegunRow | OutcomeRow, run: RunRow) -> tuple[int, int]:
    """Return which of a run's tasks a row is of."""
    return max(row.first, run.first), min(row.end, run.end)


def _named(first: int, end: int) -> str:
    return f"task {first}" if end - first == 1 else f"tasks {first} to {end - 1}"
