"""What is in a journal's tables, read and checked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Generic, TypeVar
from zlib import crc32

from dispatcher.journal_rows import (
    GONE,
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
    Stretch,
    Unpacker,
    columns,
    joined,
    piece_sum,
    sealed,
    verified,
)
from dispatcher.messages import Buffer, Kind, Outcome
from dispatcher.records import Begun, Enlisted, FunctionMade, JobMade, LetGo, Loaded, Past


class Data:
    """Reads the tables.  Whatever is not as it was written raises Damage, or sqlite3.Error."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._unpacker = Unpacker()

    def meta(self) -> MetaRow:
        """Return what is known of the whole.  Raises Damage, as all that read do."""
        rows = [*self.rows(MetaRow)]
        if len(rows) != 1:
            raise Damage("nothing is known of the whole")
        return rows[0]

    def rows(self, kind: type[Row], where: str = "", *values: int) -> Iterator[Row]:
        """Yield rows, in the order of their numbers."""
        sql = f"SELECT {columns(kind)} FROM {TABLES[kind]} {where} ORDER BY {kind._fields[0]}"
        for found in self._db.execute(sql, values):
            yield verified(kind, found)

    def load(self) -> Iterator[Loaded]:
        """Yield all that there is, but the outcomes' data."""
        total, meta = 0, self.meta()

        def seen(kind: type[Row]) -> Iterator[Row]:
            nonlocal total
            for row in self.rows(kind):
                total += sealed(row)[-1]
                yield row

        for job in seen(JobRow):
            yield JobMade(*job)
        for made in seen(FunctionRow):
            yield self.function(made)
        begun, ended = Along(seen(BegunRow)), Along(seen(OutcomeRow))
        for run in seen(RunRow):
            yield self.enlisted(run)
            for first, count, row in begun.within(run):
                for _ in range(row.times):
                    yield Begun(first, count)
            for first, count, outcome in ended.within(run):
                yield Past(first, count, Kind(outcome.kind), outcome.at)
                if outcome.crc == GONE:
                    yield LetGo(first, count)
        begun.finish()
        ended.finish()
        if total % TOTAL != meta.total:
            raise Damage("rows are missing, or there are some that were removed")

    def function(self, row: FunctionRow) -> FunctionMade:
        """Return a function as it was made."""
        function = self._unpacker.function(row, self.frames(row))
        return FunctionMade(function, row.digest, row.version)

    def enlisted(self, run: RunRow) -> Enlisted:
        """Return a run as it was enlisted."""
        task = self._unpacker.task(run, self.frames(run))
        return Enlisted(run.job, task, run.keys, bool(run.stays), run.at)

    def outcome(self, row: OutcomeRow) -> Outcome:
        """Return the outcome whose data is still there."""
        return self._unpacker.outcome(row, self.frames(row))

    def frames(self, row: FunctionRow | RunRow | OutcomeRow) -> list[Buffer]:
        """Return a row's data: the message and its blobs."""
        table, key = TABLES[type(row)], row._fields[0]
        sql = f"SELECT frame FROM {table} WHERE {key} = ?"
        (frame,) = self._db.execute(sql, (row[0],)).fetchone() or (None,)
        if not isinstance(frame, bytes) or crc32(frame) != row.crc:
            raise Damage(f"the data of row {row[0]} of {table} is not what was written")
        if not row.pieces:
            return [frame]
        return [frame, *joined(self._pieces(table, row[0], row.pieces))]

    def _pieces(self, table: str, number: int, count: int) -> Iterator[tuple[int, bytes]]:
        sql = (
            "SELECT blob, piece, sum, data FROM pieces WHERE owner = ? AND number = ?"
            " ORDER BY blob, piece"
        )
        for blob, piece, sum, data in self._db.execute(sql, (table, number)):
            if piece_sum((table, number, blob, piece), data or b"") != sum:
                raise Damage(f"a blob of row {number} of {table} is not what was written")
            count -= 1
            yield blob, data or b""
        if count:
            raise Damage(f"row {number} of {table} has not all its blobs")

    def outcomes_in(self, span: Stretch) -> list[OutcomeRow]:
        """Return the rows of the outcomes of which a part is of these tasks."""
        rows = self.rows(OutcomeRow, *reaching("outcomes", span.first, span.end))
        return [row for row in rows if row.end > span.first]

    def begun_in(self, span: Stretch) -> list[BegunRow]:
        """Return the rows of which a part is of these tasks that were begun."""
        rows = self.rows(BegunRow, *reaching("begun", span.first, span.end))
        return [row for row in rows if row.end > span.first]


T = TypeVar("T", BegunRow, OutcomeRow)


class Along(Generic[T]):
    """Rows of spans in their order, given out run by run."""

    def __init__(self, rows: Iterator[T]) -> None:
        self._rows: Iterator[T] = rows
        self._row: T | None = next(rows, None)
        self._at = 0  # up to here all has been given out

    def within(self, run: RunRow) -> Iterator[tuple[int, int, T]]:
        """Yield from where on how many tasks of ``run`` are in which rows.

        Raises Damage if tasks before it are in none of the runs that were asked for.
        """
        while (row := self._row) is not None and row.first < run.end:
            first, end = max(row.first, self._at), min(row.end, run.end)
            if first < run.first or end <= first:
                raise Damage(f"row {row.first} of {TABLES[type(row)]} is of no run, or of two")
            yield first, end - first, row
            self._at = end
            if row.end > run.end:
                return
            self._row = next(self._rows, None)

    def finish(self) -> None:
        """Raises Damage if anything is left."""
        if (row := self._row) is not None:
            raise Damage(f"row {row.first} of {TABLES[type(row)]} is of no run")


def reaching(table: str, first: int, end: int) -> tuple[str, int, int, int]:
    """Return what selects the rows from the last that begins before ``first`` on to ``end``."""
    before = f"SELECT max(first) FROM {table} WHERE first < ?"
    return f"WHERE first >= ifnull(({before}), ?) AND first < ?", first, first, end
