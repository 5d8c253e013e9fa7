"""Where a queue may lie: only where nobody else writes, and where locks are to be trusted."""

from __future__ import annotations

import contextlib
import os
import stat

from dispatcher.filesystems import is_network, kind_in, mounts_for, options_in
from mirai._connection import check_way
from mirai._errors import MiraiError, StoreError

COHERENT = ("gpfs", "lustre")
"""File systems of several machines where a lock that one of them takes is seen by the others."""


def journal_mode(path: str, mountinfo: str | None = None) -> str:
    """Return how SQLite must keep a file there: with a write-ahead log, or with a journal.

    ``path`` is an absolute one; ``mountinfo`` is what the system tells of its mounts, by default
    now.  A log's index is shared memory, and so for processes of one machine; a journal
    (``delete``) is slower, and needs no more than locks.  Raises StoreError where files cannot be
    locked safely.
    """
    mounts = mounts_for(path) if mountinfo is None else mountinfo
    whole = os.path.realpath(path)
    kind = kind_in(mounts, whole)
    if not is_network(kind):
        return "wal"
    if kind not in COHERENT:
        raise StoreError(_refusal(path, kind, "whose locks cannot be trusted between machines"))
    if kind == "lustre" and "flock" not in options_in(mounts, whole):
        raise StoreError(_refusal(path, kind, "mounted without the option flock"))
    return "delete"


def _refusal(path: str, kind: str, why: str) -> str:
    return (
        f"{path} lies in a file system of several machines ({kind}), {why}, so that a queue could"
        " lose tasks there or run them twice; put it on a local disk, or on Lustre (mounted with"
        " flock) or GPFS; or keep the tasks with a dispatcher: `mirai dispatcher --journal job.db`"
        " on one machine, with job.db on its own disk, and `mirai daemon` on the others"
    )


def check_kind(path: str) -> None:
    """Raise StoreError if no queue can be there: it is the name of something else, or of nothing.

    Nothing of that is opened, nor is it said how to make it safe: a device may have to be as it is.
    """
    if not path:
        raise StoreError("the name of a queue's file is empty")
    if "\0" in path:
        raise StoreError(f"the name of a queue's file cannot have a null byte in it: {path!r}")
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return  # it is to be made, or it is said when it is opened
    if stat.S_ISDIR(mode):
        raise StoreError(f"{path} is a folder: name a file in it")
    if not stat.S_ISREG(mode):
        raise StoreError(f"{path} is no regular file: name another")


BESIDE = ("-wal", "-shm", "-journal", "-mark")
"""What the names of the files end with that belong to a queue's."""


def check_owner(path: str) -> tuple[int, int]:
    """Return which file it is: the numbers of its device and its inode.

    Raises StoreError if anybody else can write there, since what lies in a queue is code; so may be
    what others put beside it.  The file is looked at and not opened: to close it again would let
    go of SQLite's locks.
    """
    try:
        found = os.stat(path)
        if os.name == "posix":
            real = os.path.realpath(path)
            _check(real, found)
            _check_beside(real)
            check_way(path)
            _check_folder(os.path.dirname(real))
            _check_writable(real)
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from None
    except StoreError:
        raise
    except MiraiError as error:
        raise StoreError(str(error)) from None
    return found.st_dev, found.st_ino


def _check(path: str, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StoreError(f"{path} belongs to another user, whose code would be run here: refused")
    if stat.S_IMODE(found.st_mode) & 0o022:
        raise StoreError(
            f"{path} can be written by others, whose code would be run here; if nobody has:"
            f" chmod go-w {path}"
        )


def _check_beside(path: str) -> None:
    for suffix in BESIDE:
        with contextlib.suppress(FileNotFoundError):
            _check(path + suffix, os.lstat(path + suffix))


def _check_folder(folder: str) -> None:
    """Even where nobody can replace a file, a log could be laid beside it: in /tmp, say."""
    if os.stat(folder).st_mode & stat.S_IWOTH:
        raise StoreError(
            f"{folder} is where every user may put files, and so what a queue takes for its own:"
            " refused; keep it in a folder of your own"
        )


def _check_writable(path: str) -> None:
    for each in (path, os.path.dirname(path)):
        if not os.access(each, os.W_OK):
            raise StoreError(
                f"{each} is read-only here, and whoever opens a queue, if only to look at it, must"
                " be able to write to its file, and to put others beside it"
            )
