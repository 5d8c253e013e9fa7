"""The file of a queue: one SQLite database, and transactions that are whole or not at all.

All processes that work on a queue are equals; what keeps them apart is the file's lock, which is
held for the time of one transaction.  Nobody is woken when it is free: who waits looks again.

Where SQLite keeps a write-ahead log, and finds it damaged after a crash, it takes what comes before
the damage for all that there was, and removes the rest.  So transactions are counted, the count is
noted in another file as well, and a file is looked at before it is opened for writing.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import random
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from zlib import crc32

from mirai._errors import StoreError
from mirai.queues.files._place import BESIDE, check_kind, check_owner, journal_mode

APPLICATION = 0x6D697131
"""By which a file says that it is a queue."""
VERSION = 1
PATIENCE = 60.0
"""Seconds to wait for the file while others have it."""
SHORT, LONG = 0.0003, 0.05
"""How soon to look again whether it is free, in seconds: at first, and after a while."""

LOOKED_THROUGH = 64 << 20
"""A file up to this size, in bytes, is looked through when it is opened: in less than a second."""

SCHEMA = (
    "CREATE TABLE about (identity BLOB NOT NULL, commits INTEGER NOT NULL)",
    "CREATE TABLE functions (id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE,"
    " name TEXT NOT NULL, path TEXT NOT NULL, fresh INTEGER NOT NULL, payload BLOB NOT NULL,"
    " sum INTEGER NOT NULL)",
    "CREATE TABLE tasks (id INTEGER PRIMARY KEY AUTOINCREMENT, function INTEGER NOT NULL,"
    " name TEXT NOT NULL, priority INTEGER NOT NULL, retries INTEGER NOT NULL,"
    " pushed REAL NOT NULL, state TEXT NOT NULL, attempt INTEGER NOT NULL, worker TEXT NOT NULL,"
    " host TEXT NOT NULL, pid INTEGER NOT NULL, deadline REAL NOT NULL, reason TEXT NOT NULL,"
    " exit INTEGER, output TEXT NOT NULL, dropped INTEGER NOT NULL, sum INTEGER NOT NULL)",
    "CREATE TABLE calls (id INTEGER PRIMARY KEY, payload BLOB NOT NULL, sum INTEGER NOT NULL)",
    "CREATE TABLE answers (id INTEGER PRIMARY KEY, ok INTEGER NOT NULL, seconds REAL NOT NULL,"
    " log TEXT NOT NULL, payload BLOB NOT NULL, sum INTEGER NOT NULL)",
    "CREATE INDEX waiting ON tasks (priority DESC, id) WHERE state = 'waiting'",
    "CREATE INDEX running ON tasks (worker) WHERE state = 'running'",
)

_opening = threading.Lock()  # a file that is made is closed again, and that lets go of all locks


MARK = "-mark"
"""What the name of the file ends with that has the count of transactions."""


class Mark:
    """How many transactions are known to be on disk, in a file beside the queue's.

    It is written after each of them, and may be behind, but never ahead.
    """

    _FORM = struct.Struct("<8sQI")

    def __init__(self, path: str, identity: bytes) -> None:
        """For the queue in this file."""
        self._path = path
        self._identity = identity

    def set(self, commits: int) -> None:
        """Note a count, if it is higher than what is noted, and the queue still there."""
        noted, count = self.read(self._path)
        if noted == self._identity and count >= commits:
            return  # others were faster
        with contextlib.suppress(OSError):  # the disk is full, say: then it is behind
            flags = os.O_WRONLY | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
            fd = os.open(self._path + MARK, flags, 0o600)
            try:
                os.write(fd, self._form(self._identity, commits))
            finally:
                os.close(fd)
            if not os.path.lexists(self._path):  # it was deleted meanwhile, and the mark with it
                os.unlink(self._path + MARK)

    @classmethod
    def read(cls, path: str) -> tuple[bytes, int]:
        """Return the identity of the queue that a mark is of, and its count; 0 without one."""
        try:
            with open(path + MARK, "rb") as file:
                return cls._parse(file.read(cls._FORM.size))
        except OSError:
            return b"", 0

    @classmethod
    def _form(cls, identity: bytes, commits: int) -> bytes:
        return cls._FORM.pack(identity, commits, crc32(identity + commits.to_bytes(8, "little")))

    @classmethod
    def _parse(cls, data: bytes) -> tuple[bytes, int]:
        if len(data) != cls._FORM.size:
            return b"", 0
        identity, commits, _ = cls._FORM.unpack(data)
        return (identity, commits) if data == cls._form(identity, commits) else (b"", 0)


class File:
    """A queue's file, open in this process.  For any thread, one at a time."""

    def __init__(
        self, path: str | os.PathLike[str], *, create: bool = True, look: bool = True
    ) -> None:
        """Open it, or make it, for this user only; ``look`` whether it is whole.

        Raises StoreError: it cannot be opened, is no queue, is damaged, belongs to others, or lies
        where it cannot be locked safely.
        """
        check_kind(os.fspath(path))
        given = os.path.abspath(path)
        self.path = os.path.realpath(given)  # where SQLite keeps other files beside it
        mode = journal_mode(self.path)
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._mark: Mark | None = None
        with _opening:
            self._check_not_lost()
            if create:
                self._make()
            self._stamp = check_owner(given)
            if look and mode == "wal":
                self._look_first()
            with self._errors():
                self._db = self._connect("rw")
        try:
            with self._errors():
                self._set_up(mode)
                if look and mode != "wal":
                    self._look(self._db)
                self._note_commits(mode)
        except BaseException:
            self.close()
            raise

    def _check_not_lost(self) -> None:
        """Raise StoreError if nothing is left of a queue but its mark: it would pass for a new one.

        There is a mark once a transaction is on disk, and by then the file is not empty.
        """
        mark = self.path + MARK
        if not os.path.lexists(mark):  # first: others may make the queue meanwhile
            return
        anew = f"to begin anew, remove {mark} too"
        try:
            size = os.path.getsize(self.path)
        except FileNotFoundError:
            raise StoreError(
                f"{self.path} is gone, and {mark} is left of it: bring it back, or, {anew}"
            ) from None
        except OSError:
            return  # it is said when it is opened
        if not size:
            raise damaged(self.path, f"it is empty, and was not when {mark} was written ({anew})")

    def _make(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        try:
            os.close(os.open(self.path, flags, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreError(f"{self.path} cannot be made: {error.strerror}") from None

    def _connect(self, mode: str) -> sqlite3.Connection:
        url = f"{pathlib.Path(self.path).as_uri()}?mode={mode}"
        db = sqlite3.connect(
            url, uri=True, timeout=PATIENCE, isolation_level=None, check_same_thread=False
        )
        for setting in ("trusted_schema = OFF", "temp_store = MEMORY", "cell_size_check = ON"):
            db.execute(f"PRAGMA {setting}")
        return db

    def _look_first(self) -> None:
        """Look at it by a connection that cannot change it."""
        with self._errors(), contextlib.closing(self._connect("ro")) as db:
            try:
                self._look(db)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_READONLY:
                    raise
                # It has a journal, by which its last transaction is first to be undone.

    def _look(self, db: sqlite3.Connection) -> None:
        """Raise StoreError if it is not as it was left, as far as that is soon seen."""
        marked = Mark.read(self.path)  # first: others may go on meanwhile
        if not self._is_ours(db):
            return
        if os.path.getsize(self.path) <= LOOKED_THROUGH:
            self._check(db)
        identity, commits = db.execute("SELECT identity, commits FROM about").fetchone()
        if marked[0] == identity and marked[1] > commits:
            count = marked[1] - commits
            what = f"the last {count:,} transactions are missing, which were on disk"
            raise damaged(self.path, f"{what} (or it is an older copy: then remove the -mark file)")

    def _is_ours(self, db: sqlite3.Connection) -> bool:
        """Return whether it is a queue; False for one that is empty.

        Raises StoreError if it is something else.
        """
        (application,) = db.execute("PRAGMA application_id").fetchone()
        (version,) = db.execute("PRAGMA user_version").fetchone()
        (tables,) = db.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not (application or version or tables):
            return False
        if application != APPLICATION:
            raise StoreError(f"{self.path} is no queue: nothing in there was changed")
        if version != VERSION:
            raise StoreError(f"{self.path} is of version {version} of queues, not {VERSION}")
        return True

    def _set_up(self, mode: str) -> None:
        self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction("BEGIN IMMEDIATE") as db:
            if not self._is_ours(db):
                for statement in SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO about VALUES (?, 0)", (os.urandom(8),))
                db.execute(f"PRAGMA application_id = {APPLICATION}")
                db.execute(f"PRAGMA user_version = {VERSION}")
        # After that, so that a lost log cannot make it look as if it were new:
        (found,) = self._patiently(f"PRAGMA journal_mode = {mode}").fetchone()
        if found != mode:
            raise StoreError(f"{self.path} cannot be kept in journal mode {mode}, only in {found}")
        if mode == "wal":  # then one waits only for a transaction to begin, and we look sooner
            self._db.execute("PRAGMA busy_timeout = 0")

    def _note_commits(self, mode: str) -> None:
        """From now on, note how many transactions there were, where that is of use."""
        if mode == "wal":
            with self.read() as db:
                (identity,) = db.execute("SELECT identity FROM about").fetchone()
            self._mark = Mark(self.path, identity)

    @contextlib.contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Be alone with the file; what is done is kept if the block ends well.

        When it has ended, the disk has it.  Raises StoreError.
        """
        commits = 0
        with self._transaction("BEGIN IMMEDIATE") as db:
            self._check_is_there()
            before = db.total_changes
            yield db
            if db.total_changes > before:
                counted = db.execute("UPDATE about SET commits = commits + 1 RETURNING commits")
                (commits,) = counted.fetchone()
        if commits and self._mark is not None:
            self._mark.set(commits)

    @contextlib.contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """See the file as it is now for the time of the block.  Raises StoreError."""
        with self._transaction("BEGIN") as db:
            self._patiently("SELECT 1 FROM tasks LIMIT 1")  # with a journal, writers keep it away
            yield db

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, self._errors():
            if self._pid != os.getpid():
                raise StoreError(f"this process was forked: it must open {self.path} itself")
            try:
                if self._db.in_transaction:  # Ctrl-C came before its block was entered
                    self._db.rollback()
                self._patiently(begin)
                yield self._db
                self._patiently("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    self._db.rollback()
                raise

    def _patiently(self, statement: str) -> sqlite3.Cursor:
        """Execute it as soon as others let us."""
        until, pause = time.monotonic() + PATIENCE, SHORT
        while True:
            try:
                return self._db.execute(statement)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
                if time.monotonic() > until:
                    raise StoreError(
                        f"{self.path} was not free for {PATIENCE:g} s: another process is in the"
                        " middle of a transaction; is it stopped, or very slow?"
                    ) from None
            time.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(LONG, 1.5 * pause)

    def _check_is_there(self) -> None:
        """Raise StoreError if what is written now would be seen by nobody."""
        try:
            found = os.stat(self.path)
        except OSError:
            raise StoreError(f"{self.path} has been deleted") from None
        if (found.st_dev, found.st_ino) != self._stamp:
            raise StoreError(f"another file has taken the place of {self.path}: open it again")

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Say which file it is, and what is the matter, in our own errors."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            if "closed" not in str(error):
                raise
            raise StoreError(f"{self.path} has been closed here") from None
        except sqlite3.OperationalError as error:
            raise StoreError(f"{self.path} does not answer: {error}") from error
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise damaged(self.path, str(error)) from error

    def check(self) -> None:
        """Look through all of it.  Raises StoreError if it is damaged."""
        with self.read() as db:
            self._check(db)

    def _check(self, db: sqlite3.Connection) -> None:
        complaints = [row[0] for row in db.execute("PRAGMA integrity_check(5)")]
        if complaints != ["ok"]:
            raise damaged(self.path, "; ".join(complaints))

    def unlink(self) -> None:
        """Remove it from the disk, in a transaction: others then see that it is gone."""
        with contextlib.suppress(OSError):
            os.unlink(self.path + MARK)  # first: without its file it would tell of a loss
        os.unlink(self.path)

    def clear(self) -> None:
        """Close it here, and remove what SQLite keeps beside it, once it is unlinked."""
        self.close()
        for extra in BESIDE:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path + extra)

    def close(self) -> None:
        """Close it here.  Idempotent."""
        with self._lock:
            if self._pid == os.getpid():
                self._db.close()


def damaged(path: str, what: str) -> StoreError:
    """Return the error for a file that does not hold what was written to it."""
    return StoreError(
        f"{path} is damaged: {what}; a copy of the file, and of the one called so with -wal if"
        " there is one, is what is left to look at"
    )
