"""The files of a journal: the journal itself, SQLite's beside it, and the mark.

The mark, ``FILE-mark``, is there for two things.

Who has the journal open for writing has the mark locked, and its process's number stands in it.

After each transaction the number of that is written there.  SQLite drops the tail of its log
without a word where a part of it is damaged: the journal then knows of fewer transactions than the
mark, and what was acknowledged is missed.  The number is written when the transaction is on the
disk, and not before.  So, wherever a kill or a power failure falls, the mark is right or too low,
or, if the power failed, empty: then it only finds less.  It need not be on the disk itself, which
makes it cheap.  (Without ``synchronous`` it may survive a power failure that transactions did
not; but then it is right that they are missing.)

Closing removes the mark, and SQLite's files: the journal alone is all then, and may be copied.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple
from urllib.parse import quote
from zlib import crc32

from dispatcher.filesystems import is_network, kind_of
from dispatcher.journal_rows import APPLICATION, FORMAT, SCHEMA, Damage, MetaRow, insertion, sealed

try:
    from fcntl import LOCK_EX, LOCK_NB, flock

    def _lock(fd: int) -> None:
        """Lock a file until it is closed.  Raises OSError if another has it."""
        flock(fd, LOCK_EX | LOCK_NB)

except ImportError:
    import msvcrt

    def _lock(fd: int) -> None:
        os.lseek(fd, 1 << 30, os.SEEK_SET)  # nobody could read what is locked: far behind it
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]


CACHE_PAGES = 4_000
"""After how many pages SQLite's log is taken into the journal: 16 MB."""
LOG_BYTES = 64 << 20
"""How much of its log SQLite keeps on the disk at most when it has been taken in."""
BESIDE = ("-wal", "-shm", "-journal", "-mark")
"""What the names of the files end with that are read together with a journal."""
_BINARY = getattr(os, "O_BINARY", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_POSIX = os.name == "posix"
_HEADER = 100
_MAGIC = b"SQLite format 3\0"


class JournalError(OSError):
    """A journal cannot be used, or not any more: which, why, and what can be done."""


def missing(path: str) -> JournalError:
    """Return what is said where there is no journal to look at."""
    if os.path.exists(path):
        return JournalError(f"there is no journal in {path}: the file is empty")
    return JournalError(f"there is no journal {path}")


def damaged(path: str, why: object) -> JournalError:
    """Return what is said of a journal that is not as it was written."""
    return JournalError(
        f"the journal {path} is damaged: {why}. `mirai journal check {path}` says what is wrong,"
        f" `mirai journal repair {path}` saves what can be saved"
    )


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Have whatever goes wrong with a journal raised as a JournalError."""
    try:
        yield
    except JournalError:
        raise
    except Damage as error:
        raise damaged(path, error) from None
    except OSError as error:
        raise JournalError(f"the journal {path}: {error}") from None
    except (UnicodeDecodeError, sqlite3.ProgrammingError, sqlite3.InternalError) as error:
        raise damaged(path, error) from error
    except sqlite3.Error as error:
        raise _why(path, error) from error


def _why(path: str, error: sqlite3.Error) -> JournalError:
    name = getattr(error, "sqlite_errorname", "")
    if name == "SQLITE_FULL":
        return JournalError(f"the journal {path} could not be written: its disk is full")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return JournalError(f"the journal {path} is in use by another program: {error}")
    if name.startswith(("SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return JournalError(f"the journal {path} could not be read or written: {error} ({name})")
    return damaged(path, error)


# ── the mark ─────────────────────────────────────────────────────────────────────────────


class Marked(NamedTuple):
    """What stands in a mark."""

    commits: int = 0
    pid: int = 0

    def text(self) -> bytes:
        """Return it as it is written."""
        line = f"commits {self.commits:020} pid {self.pid:010}"
        return f"{line} sum {crc32(line.encode()):08x}\n".encode()

    @classmethod
    def read(cls, data: bytes) -> Marked:
        """Return what was written; nothing if that never reached the disk.  Raises Damage."""
        if not data.strip(b"\0"):
            return cls()
        words = data.split()
        with suppress(ValueError, IndexError):
            marked = cls(int(words[1]), int(words[3]))
            if marked.text() == data:
                return marked
        raise Damage("its mark is not what was written")


class Mark:
    """The mark of a journal, locked until it is closed."""

    def __init__(self, path: str) -> None:
        """Take it.  Raises JournalError if another has it, and OSError."""
        self._journal = path
        self._path = mark_path(path)
        self._fd = self._take()

    def _take(self) -> int:
        while True:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | _BINARY | _NO_LINK, 0o600)
            try:
                _lock(fd)
            except OSError:
                os.close(fd)
                raise in_use(self._journal, read_mark(self._journal)) from None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(self._path)):
                    return fd
            os.close(fd)  # who had it has removed it meanwhile

    def read(self) -> Marked:
        """Return what stands there.  Raises Damage."""
        os.lseek(self._fd, 0, os.SEEK_SET)
        return Marked.read(os.read(self._fd, 1_000))

    def write(self, commits: int) -> None:
        """Write that there were so many transactions.  If it fails, it finds less later."""
        with suppress(OSError):
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, Marked(commits, os.getpid()).text())

    def is_empty(self) -> bool:
        """Whether nothing was ever written."""
        return not os.fstat(self._fd).st_size

    def close(self, remove: bool) -> None:
        """Let others have it; remove it first if the journal is complete without it."""
        if remove and _POSIX:
            _remove(self._path)
        os.close(self._fd)
        if remove and not _POSIX:  # nobody can remove what is open
            _remove(self._path)


def mark_path(path: str) -> str:
    """Return where the mark of a journal is."""
    return f"{path}-mark"


def read_mark(path: str) -> Marked:
    """Return what stands in the mark of a journal; nothing if there is none, or no sense in it."""
    with suppress(OSError, Damage), open(mark_path(path), "rb") as file:
        return Marked.read(file.read(1_000))
    return Marked()


def in_use(path: str, marked: Marked) -> JournalError:
    """Return what is said of a journal that another process has."""
    who = f"process {marked.pid}" if marked.pid else "another process"
    return JournalError(f"the journal {path} is in use by {who}: only one dispatcher can have it")


def _remove(path: str) -> None:
    with suppress(OSError):
        os.unlink(path)


# ── the journal ──────────────────────────────────────────────────────────────────────────


def check_place(path: str) -> None:
    """Raises JournalError where no journal should be."""
    if os.path.isdir(path):
        raise JournalError(f"the journal {path} is a directory: name a file in it")
    if not os.path.isdir(os.path.dirname(path) or "."):
        raise JournalError(f"the journal {path} cannot be: there is no such directory")
    if os.path.isfile(path) and os.stat(path).st_nlink > 1:
        raise JournalError(
            f"the journal {path} has another name (a hard link), by which a second dispatcher"
            " could have it, too: make a copy of its own"
        )
    kind = kind_of(path)
    if is_network(kind):
        raise JournalError(
            f"the journal {path} would be on a network file system ({kind}), whose locks and"
            " writes cannot be trusted: put it on a disk of this machine, and copy it away when"
            " it is closed"
        )
    if _POSIX:
        _check_folder(path)
        for suffix in BESIDE:
            with suppress(FileNotFoundError):
                _check_owner(path + suffix, os.lstat(path + suffix))


def _check_folder(path: str) -> None:
    """Even where nobody can replace the journal, a log could be laid beside it: in /tmp, say."""
    folder = os.path.dirname(path) or "."
    if os.stat(folder).st_mode & stat.S_IWOTH:
        raise JournalError(
            f"the journal {path} would be where every user may put files, and so what it takes for"
            " its own: keep it in a directory of your own"
        )


def _check_owner(path: str, found: os.stat_result) -> None:
    """Raises JournalError for a file that is not ours alone to write: what is in it is run."""
    others = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if found.st_uid != os.geteuid() or others or not stat.S_ISREG(found.st_mode):
        raise JournalError(
            f"{path}, of a journal, is another's, or others may write it: they could run code"
            " on the daemons"
        )


def is_there(path: str) -> bool:
    """Whether there is a journal.  Raises JournalError for any other file, and OSError."""
    if os.path.exists(path) and not os.path.isfile(path):  # a pipe would have us wait for ever
        raise JournalError(f"{path} is no file, and not a journal: name another")
    try:
        with open(path, "rb") as file:
            header = file.read(_HEADER)
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    if not header and not found.st_size:
        return False
    _check_header(path, header)
    if _POSIX:
        _check_owner(path, found)
    return True


def _check_header(path: str, header: bytes) -> None:
    format = int.from_bytes(header[60:64], "big")
    if header[:16] != _MAGIC or header[68:72] != APPLICATION.to_bytes(4, "big"):
        raise JournalError(
            f"{path} is not a journal, or its first bytes are damaged: name another file, or see"
            f" whether `mirai journal repair {path}` can read it"
        )
    if format != FORMAT:
        raise JournalError(
            f"the journal {path} has format {format}, and this version of mirai reads {FORMAT}:"
            " use the version that wrote it; if that is this one, its first bytes are damaged:"
            f" `mirai journal repair {path}`"
        )


def make_journal(path: str) -> None:
    """Make an empty journal, which is there as a whole or not at all.  Raises OSError."""
    new = f"{path}-new"
    for left in (new, f"{new}-journal"):
        _remove(left)
    os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o600))
    try:
        _fill(new)
        os.replace(new, path)
    except BaseException:
        _remove(new)
        raise
    sync_directory(path)


def _fill(path: str) -> None:
    """Make the tables in an empty file."""
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("BEGIN")
        db.execute(f"PRAGMA application_id = {APPLICATION}")
        db.execute(f"PRAGMA user_version = {FORMAT}")
        for statement in SCHEMA:
            db.execute(statement)
        db.execute(insertion(MetaRow), sealed(MetaRow()))
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL")
    finally:
        db.close()


def sync_directory(path: str) -> None:
    """Have the names in the directory of ``path`` reach the disk."""
    if _POSIX:
        fd = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def connect(path: str, synchronous: bool) -> sqlite3.Connection:
    """Open a journal for writing.  Raises Damage, and sqlite3.Error."""
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
    try:
        db.execute(f"PRAGMA synchronous = {'FULL' if synchronous else 'NORMAL'}")
        db.execute(f"PRAGMA fullfsync = {int(synchronous)}")
        db.execute(f"PRAGMA wal_autocheckpoint = {CACHE_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        db.execute("PRAGMA trusted_schema = OFF")
    except BaseException:
        db.close()
        raise
    return db


def connect_to_read(path: str) -> sqlite3.Connection:
    """Open a journal to look at it, without changing it.  Raises sqlite3.Error.

    One that was closed needs no log: none is made for it then.
    """
    closed = not os.path.exists(f"{path}-wal") and not os.path.exists(mark_path(path))
    mode = "immutable=1" if closed else "mode=ro"
    uri = f"file:{quote(os.path.abspath(path))}?{mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=1.0)


def check_schema(db: sqlite3.Connection) -> None:
    """Raises Damage unless the tables are those that were made."""
    db.execute("PRAGMA trusted_schema = OFF")
    found = db.execute("SELECT sql FROM sqlite_master ORDER BY rowid").fetchall()
    if [sql for (sql,) in found] != list(SCHEMA):
        raise Damage("its tables are not those of a journal")


def check_structure(db: sqlite3.Connection) -> None:
    """Raises Damage if SQLite finds something wrong with how the file is built."""
    found = [line for (line,) in db.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise Damage("; ".join(map(str, found)))
