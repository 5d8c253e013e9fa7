"""The tables of a journal, and how records change them.

Whoever calls this holds a transaction around it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

from dispatcher.journal_data import Data, reaching
from dispatcher.journal_rows import (
    GONE,
    TABLES,
    TOTAL,
    BegunRow,
    FunctionRow,
    JobRow,
    MetaRow,
    OutcomeRow,
    Packed,
    RunRow,
    Stretch,
    cut,
    insertion,
    merged,
    packed,
    piece_rows,
    recounted,
    sealed,
)
from dispatcher.messages import Done, Outcome, Run
from dispatcher.records import (
    Again,
    Begun,
    Ended,
    Enlisted,
    FunctionDropped,
    FunctionMade,
    JobDropped,
    JobMade,
    LetGo,
    Record,
    Retired,
    Unbegun,
)

Spanning = Begun | Unbegun | LetGo | Again


class Writer:
    """Changes the tables.  What that changes of the whole is written by ``commit``."""

    def __init__(self, db: sqlite3.Connection, data: Data) -> None:
        self._db = db
        self._data = data
        self._writers: dict[type[Any], Callable[[Iterable[Any]], None]] = {
            JobMade: self._make_jobs,
            JobDropped: self._drop_jobs,
            FunctionMade: self._make_functions,
            FunctionDropped: self._drop_functions,
            Enlisted: self._enlist,
            Begun: self._begin,
            Unbegun: self._unbegin,
            Ended: self._end,
            Again: self._run_again,
            LetGo: self._fetch,
            Retired: self._retire,
        }
        self.meta = data.meta()
        """As it was committed last."""
        self._start_over()

    def _start_over(self) -> None:
        self._total = self.meta.total
        self._job, self._function, self._serial = self.meta[3:]

    def apply(self, records: Iterable[Record]) -> None:
        """Write records in their order, those of one kind that follow one another at once."""
        self._start_over()  # whatever was applied and not committed before
        for kind, some in groupby(records, type):
            self._writers[kind](some)

    def commit(self, commits: int) -> MetaRow:
        """Write what has changed of the whole; return it."""
        total = self._total % TOTAL
        meta = MetaRow(0, commits, total, self._job, self._function, self._serial)
        self._db.execute(
            "UPDATE meta SET commits = ?, total = ?, job = ?, function = ?, serial = ?, sum = ?",
            sealed(meta)[1:],
        )
        return meta

    def reserve(self, job: int, function: int, serial: int, commits: int) -> None:
        """Have numbers up to these count as used, from the next transaction on."""
        old = self.meta
        self.meta = old._replace(
            commits=max(commits, old.commits),
            job=max(job, old.job),
            function=max(function, old.function),
            serial=max(serial, old.serial),
        )

    def _insert(self, kind: type[Any], rows: list[tuple[Any, ...]]) -> None:
        """Insert rows with their checksums, and data if they have some."""
        place = len(kind._fields)
        self._total += sum(row[place] for row in rows)
        self._db.executemany(insertion(kind), rows)

    def _delete(self, kind: type[Any], rows: list[Any]) -> None:
        """Delete rows, and their blobs."""
        table, key = TABLES[kind], kind._fields[0]
        self._total -= sum(sealed(row)[-1] for row in rows)
        self._db.executemany(f"DELETE FROM {table} WHERE {key} = ?", [row[:1] for row in rows])
        big = [(table, row[0]) for row in rows if getattr(row, "pieces", 0)]
        self._db.executemany("DELETE FROM pieces WHERE owner = ? AND number = ?", big)

    def _keep_blobs(self, kind: type[Any], number: int, data: Packed) -> None:
        for row in piece_rows(kind, number, data.blobs):
            self._db.execute("INSERT INTO pieces VALUES (?, ?, ?, ?, ?, ?)", row)

    def _make_jobs(self, records: Iterable[JobMade]) -> None:
        rows = [JobRow(job.number, job.name, float(job.at)) for job in records]
        self._job = max(self._job, *(row.number for row in rows))
        self._insert(JobRow, [sealed(row) for row in rows])

    def _drop_jobs(self, records: Iterable[JobDropped]) -> None:
        for job in records:
            self._delete(JobRow, [*self._data.rows(JobRow, "WHERE number = ?", job.number)])
            self._forget([*self._data.rows(RunRow, "WHERE job = ?", job.number)])

    def _make_functions(self, records: Iterable[FunctionMade]) -> None:
        for made in records:
            number = made.function.number
            data = packed(Run((), (made.function,)))
            row = FunctionRow(number, made.digest, made.version, data.pieces, data.crc)
            self._function = max(self._function, number)
            self._insert(FunctionRow, [(*sealed(row), data.frame)])
            self._keep_blobs(FunctionRow, number, data)

    def _drop_functions(self, records: Iterable[FunctionDropped]) -> None:
        for dropped in records:
            rows = self._data.rows(FunctionRow, "WHERE number = ?", dropped.number)
            self._delete(FunctionRow, [*rows])

    def _enlist(self, records: Iterable[Enlisted]) -> None:
        rows = []
        for record in records:
            task = record.task
            data = packed(Run((task,)))
            numbers = task.id, task.count, record.job, task.function, int(record.stays)
            at = float(record.at)
            row = RunRow(*numbers, at, data.pieces, data.crc, record.keys)
            if row.first <= self._serial:
                raise ValueError(f"serial {row.first} was used before")
            rows.append((*sealed(row), data.frame))
            self._serial = max(self._serial, row.end - 1)
            self._keep_blobs(RunRow, task.id, data)
        self._insert(RunRow, rows)

    def _begin(self, records: Iterable[Begun]) -> None:
        spans = [*_spans(records)]
        for span in spans:
            self._check_enlisted(span)
        self._recount(spans, lambda times: times + 1)

    def _unbegin(self, records: Iterable[Unbegun]) -> None:
        self._recount(_spans(records), lambda times: times - 1)

    def _recount(self, spans: Iterable[Stretch], change: Callable[[int], int]) -> None:
        for span in spans:
            # those beside it, too, with which it may become one
            old = self._data.begun_in(Stretch(span.first - 1, span.end + 1))
            self._delete(BegunRow, old)
            self._insert(BegunRow, [sealed(row) for row in recounted(old, span, change)])

    def _end(self, records: Iterable[Ended]) -> None:
        ended = [(record.outcome, float(record.at)) for record in records]
        self._keep_outcomes(ended)
        spans = sorted(Stretch(outcome.id, outcome.id + outcome.count) for outcome, _ in ended)
        for span in merged(spans):
            self._check_enlisted(span)
            if sum(row.tasks for row in self._data.outcomes_in(span)) != span.end - span.first:
                raise ValueError(f"of the tasks from {span.first} on, some had ended before")

    def _check_enlisted(self, span: Stretch) -> None:
        """Raises ValueError unless these tasks are there."""
        where, *values = reaching("runs", span.first, span.end)
        runs = self._db.execute(f"SELECT first, first + tasks FROM runs {where}", values)
        there = sum(max(0, min(span.end, end) - max(span.first, first)) for first, end in runs)
        if there != span.end - span.first:
            raise ValueError(f"of the tasks from {span.first} on, some are not there")

    def _keep_outcomes(self, outcomes: Iterable[tuple[Outcome, float]]) -> None:
        rows = []
        for outcome, at in outcomes:
            data = packed(Done((outcome,)))
            numbers = outcome.id, outcome.count, int(outcome.kind)
            row = OutcomeRow(*numbers, at, data.pieces, data.crc)
            rows.append((*sealed(row), data.frame))
            self._keep_blobs(OutcomeRow, outcome.id, data)
        self._insert(OutcomeRow, rows)

    def _run_again(self, records: Iterable[Again]) -> None:
        for span in _spans(records):
            self._take_out(span)
            self._recount([span], lambda _: 0)

    def _fetch(self, records: Iterable[LetGo]) -> None:
        for span in _spans(records):
            rows = []
            for row in self._take_out(span):
                first, end = max(row.first, span.first), min(row.end, span.end)
                bare = OutcomeRow(first, end - first, row.kind, row.at, 0, GONE)
                rows.append((*sealed(bare), None))
            self._insert(OutcomeRow, rows)

    def _take_out(self, span: Stretch) -> list[OutcomeRow]:
        """Remove what there is of these tasks' outcomes; return the rows where that was."""
        old = self._data.outcomes_in(span)
        whole = [row for row in old if span.first <= row.first and row.end <= span.end]
        self._delete(OutcomeRow, whole)
        for row in old:
            if row.first < span.first or row.end > span.end:
                self._cut_out(row, span)
        return old

    def _cut_out(self, row: OutcomeRow, span: Stretch) -> None:
        """Write a row again without these tasks, of which it has others besides."""
        remains = [
            Stretch(first, end)
            for first, end in ((row.first, span.first), (span.end, row.end))
            if first < end
        ]
        if row.crc == GONE:
            self._delete(OutcomeRow, [row])
            rows = [row._replace(first=first, tasks=end - first) for first, end in remains]
            self._insert(OutcomeRow, [(*sealed(part), None) for part in rows])
            return
        outcome = self._data.outcome(row)
        self._delete(OutcomeRow, [row])
        self._keep_outcomes((cut(outcome, *remain), row.at) for remain in remains)

    def _retire(self, records: Iterable[Retired]) -> None:
        rows: list[RunRow] = []
        for record in records:
            rows += self._data.rows(RunRow, "WHERE first = ?", record.first)
        self._forget(rows)

    def _forget(self, runs: list[RunRow]) -> None:
        """Remove these runs, and whatever has become of them."""
        self._delete(RunRow, runs)
        spans = (Stretch(run.first, run.end) for run in runs)
        for span in merged(spans):
            self._take_out(span)
            self._recount([span], lambda _: 0)


def _spans(records: Iterable[Spanning]) -> Iterator[Stretch]:
    return merged(Stretch(record.first, record.first + record.count) for record in records)
