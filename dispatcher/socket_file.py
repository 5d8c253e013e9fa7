"""A socket that has a name in the file system: where it may be, and how it is removed.

ZeroMQ unlinks whatever has that name before it listens, even another's socket or no socket at all.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat

from dispatcher.processes import POSIX

IPC = "ipc://"


class SocketFile:
    """The file of a socket that listens at a path, or will."""

    def __init__(self, path: str) -> None:
        """Make sure that ZeroMQ may listen at ``path``.  Raises OSError.

        Its directory must be one in which nobody else can put another socket in its place, and
        nobody may listen there already.  What a dead process has left is for ZeroMQ to replace.
        """
        self.path = os.path.abspath(path)
        self._file: tuple[int, int] | None = None
        _check_directory(os.path.dirname(self.path))
        _check_vacant(self.path)

    @staticmethod
    def at(url: str) -> SocketFile | None:
        """Return that of a URL, if it has one that is not ZeroMQ's own.  Raises OSError."""
        if not POSIX or not url.startswith(IPC) or url.startswith(f"{IPC}@") or url == f"{IPC}*":
            return None
        return SocketFile(url.removeprefix(IPC))

    @property
    def url(self) -> str:
        """Where it is, wherever one may be."""
        return IPC + self.path

    def listens(self) -> None:
        """Take note that the file is there, and is ours."""
        self._file = self._identity()

    def remove(self) -> None:
        """Remove it, if it is still the same; call this while the socket still listens.

        Until then nobody who looks whether the address is vacant replaces it, and no other file
        is given its number.
        """
        with contextlib.suppress(OSError):
            if self._file is not None and self._identity() == self._file:
                os.unlink(self.path)

    def _identity(self) -> tuple[int, int]:
        found = os.lstat(self.path)
        return found.st_dev, found.st_ino


def _check_directory(directory: str) -> None:
    """Raise OSError if another user could replace what is in there.

    In one like /tmp nobody can replace what others have put there (it is "sticky"), but its owner.
    """
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode):
        why = "a socket must be in a directory, and not in a link"
        raise NotADirectoryError(errno.ENOTDIR, why, directory)
    if found.st_uid not in (os.geteuid(), 0):
        why = "another user's directory, who could replace a socket in it: refused"
        raise PermissionError(errno.EACCES, why, directory)
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and not found.st_mode & stat.S_ISVTX:
        why = "others can write in this directory, and replace a socket in it: refused (chmod go-w)"
        raise PermissionError(errno.EACCES, why, directory)


def _check_vacant(path: str) -> None:
    """Raise OSError if somebody listens there, or if it is the name of anything but a socket."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise FileExistsError(errno.EEXIST, "this is no socket, and is not replaced", path)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # its queue may be full
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # whoever listened is dead
        except OSError:
            pass  # whoever it is, and whatever is in the way
    raise OSError(errno.EADDRINUSE, "the address is in use", path)
