"""The journal: what has become of durable tasks, on the disk.

It is a file of SQLite's, which several records are written to at once.  What was saved is there
when ``save`` returns, whatever happens afterwards; what the disk or others have damaged is found
when it is read, and said.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from dispatcher.journal_data import Data
from dispatcher.journal_file import (
    JournalError,
    Mark,
    Marked,
    check_place,
    check_schema,
    check_structure,
    connect,
    connect_to_read,
    explained,
    is_there,
    make_journal,
    mark_path,
    missing,
)
from dispatcher.journal_rows import GONE, Damage, RunRow, Stretch, cut
from dispatcher.journal_tables import Writer
from dispatcher.messages import Outcome, Task
from dispatcher.records import Loaded, Record

__all__ = ["Highest", "Journal", "JournalError"]

TIDY_PAGES = 1_000
"""How many free pages are given back at once: 4 MB."""


class Highest(NamedTuple):
    """The largest numbers that were ever used."""

    job: int
    function: int
    serial: int


class Journal:
    """A journal that is open.  For one thread at a time, and not for a forked process."""

    def __init__(
        self, path: str | os.PathLike[str], *, synchronous: bool = True, make: bool = True
    ) -> None:
        """Open the journal at ``path``, or ``make`` one.  Raises JournalError.

        Without ``synchronous`` what was saved survives a kill, but not a power failure.
        """
        self.path = os.path.realpath(path)
        self._broken = ""
        self._is_closed = False
        with explained(self.path):
            check_place(self.path)
            there = is_there(self.path)  # a file that is none of ours gets no mark
            if not there and not make:
                raise missing(self.path)
            self._mark = Mark(self.path)
        try:
            with explained(self.path):
                self._open(synchronous)
        except BaseException:
            self._mark.close(remove=self._mark.is_empty())
            raise

    def _open(self, synchronous: bool) -> None:
        marked = self._mark.read()
        if not is_there(self.path):
            if marked.commits or os.path.exists(f"{self.path}-wal"):
                raise JournalError(
                    f"the journal {self.path} is gone, and only what belongs to it is left:"
                    f" bring it back, or remove {mark_path(self.path)} and"
                    f" {self.path}-wal to begin with none"
                )
            make_journal(self.path)
        found = self._checked(marked)
        self._db = connect(self.path, synchronous)
        try:
            there = os.stat(self.path)
            self._stamp = there.st_dev, there.st_ino
            self._data = Data(self._db)
            self._writer = Writer(self._db, self._data)
            self._mark.write(found)
        except BaseException:
            self._db.close()
            raise

    def _checked(self, marked: Marked) -> int:
        """Return how many transactions there were, if none is missing.  Raises Damage.

        Nothing is changed by it: a connection that may write would take the log into the journal
        as far as it can be read, and remove the rest.
        """
        unclean = bool(marked.commits) or os.path.exists(f"{self.path}-wal")
        with closing(connect_to_read(self.path)) as db:
            check_schema(db)
            if unclean:
                check_structure(db)
            found = Data(db).meta().commits
        if found < marked.commits:
            raise Damage(
                f"{marked.commits - found} transactions are missing that were acknowledged"
            )
        return found

    def highest(self) -> Highest:
        """Return the largest numbers that were ever used, also by what is gone."""
        return Highest(*self._writer.meta[3:])

    def reserve(self, highest: Highest, commits: int = 0) -> None:
        """Have numbers up to these count as used, from the next ``save`` on."""
        self._writer.reserve(*highest, commits)

    def load(self) -> Generator[Loaded, None, None]:
        """Yield what there is, in an order in which what is needed comes first.

        Raises JournalError, also at the very end, when it is known whether anything was missing.
        """
        with explained(self.path):
            yield from self._data.load()

    def save(self, records: Iterable[Record]) -> None:
        """Write ``records``, which are on the disk when it returns.

        Raises JournalError if that could not be; then nothing of them is there.  Only if the disk
        fails when all is written may they be there nevertheless; then it takes nothing more.
        Raises ValueError, and writes nothing, if they do not follow from what was saved before.
        """
        if self._broken:
            raise JournalError(self._broken)
        with explained(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._check_there()
                self._writer.apply(records)
                meta = self._writer.commit(self._writer.meta.commits + 1)
                self._db.execute("COMMIT")
            except BaseException as error:
                self._undo(error)
                if isinstance(error, sqlite3.IntegrityError):
                    raise ValueError(f"a number is used twice: {error}") from None
                raise
        self._writer.meta = meta
        self._mark.write(meta.commits)

    def _check_there(self) -> None:
        """Raise JournalError if somebody has removed the file, into which all would be lost."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != self._stamp:
            self._broken = f"the journal {self.path} was removed or replaced while it was in use"
            raise JournalError(self._broken)

    def _undo(self, error: BaseException) -> None:
        with suppress(sqlite3.Error):  # SQLite may have done it already
            self._db.execute("ROLLBACK")
        if getattr(error, "sqlite_errorname", "") == "SQLITE_IOERR_FSYNC":
            # what the system has not written it may have forgotten
            self._broken = f"the disk of the journal {self.path} has failed: look at it first"

    def read(self, first: int, count: int) -> Iterator[Outcome]:
        """Yield the outcomes of these tasks that have ended, as far as they are kept, in order.

        Raises JournalError where one is damaged.
        """
        with explained(self.path):
            for row in self._data.outcomes_in(Stretch(first, first + count)):
                if row.crc != GONE:
                    yield cut(self._data.outcome(row), first, first + count)

    def task(self, first: int) -> Task:
        """Return the run that was enlisted with this serial first.  Raises JournalError."""
        with explained(self.path):
            for run in self._data.rows(RunRow, "WHERE first = ?", first):
                return self._data.enlisted(run).task
            raise Damage(f"the tasks from {first} on are missing")

    def size(self) -> int:
        """Return how many bytes it takes on the disk, with SQLite's log."""
        return sum(map(_size, (self.path, f"{self.path}-wal")))

    def tidy(self) -> None:
        """Give back some of the room that nothing needs, if that is much of it.

        Call it now and then: it does little at a time.
        """
        with explained(self.path):
            (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
            (pages,) = self._db.execute("PRAGMA page_count").fetchone()
            if free > max(TIDY_PAGES, pages // 4):
                # it is a step for each page, of which only a script makes all
                self._db.executescript(f"PRAGMA incremental_vacuum({TIDY_PAGES})")

    def compact(self) -> None:
        """Write the file anew, without any room that nothing needs.  Raises JournalError."""
        with explained(self.path):
            self._db.execute("VACUUM")

    def close(self) -> None:
        """Write all into the one file, and let others have it.  Idempotent.  Raises JournalError.

        Where that fails, everything is still there, with SQLite's log and the mark.
        """
        if self._is_closed:
            return
        self._is_closed = True
        complete = False
        try:
            with explained(self.path):
                busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
                complete = not busy and not self._broken
        finally:
            self._db.close()
            self._mark.close(remove=complete and not _size(f"{self.path}-wal"))


def _size(path: str) -> int:
    """Return how many bytes a file has; 0 if there is none."""
    with suppress(OSError):
        return os.stat(path).st_size
    return 0
