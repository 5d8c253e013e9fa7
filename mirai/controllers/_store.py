"""Stores: where values live that are too large to travel in messages.

A store holds *objects*: bytes by the name of their digest, so that what is under a name never
changes.  It is told by a URL or a path, and is small: it travels to the daemons, which read and
write by themselves.  Credentials do not travel with it: they are what the process that reads or
writes finds around it (its environment, its platform's role, a configuration file).
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mirai._errors import StoreError

Data: TypeAlias = bytes | bytearray | memoryview

_OBJECT = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\.[0-9a-f]{64}-\w+")
"""What an object is called while it is being written, or if that was never finished."""
_BELOW = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//|:)?")  # one letter alone is a drive


class Store(ABC):
    """Holds objects; it is picklable, hashable, and equal to any other of the same place.

    Whoever can read there can read the values of tasks.  All of its methods raise StoreError
    where the place cannot be had or refuses, and those that take a name ValueError if it is none.
    """

    @abstractmethod
    def __str__(self) -> str:
        """Return where it is, without secrets."""

    @abstractmethod
    def write(self, name: str, data: Data) -> None:
        """Write an object: whoever reads finds all of it or nothing.

        To write one that is there does no harm.
        """

    @abstractmethod
    def read(self, name: str) -> bytes:
        """Return an object.  Raises StoreError if it is not there."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Return whether an object is there, all of it."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; it does no harm if there is none."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """Yield the names of the objects, without those of stores below."""

    @abstractmethod
    def destroy(self) -> None:
        """Remove all objects, those of stores below, and what crashes have left of any.

        Whatever else somebody keeps there stays; folders go if they are empty then.
        """

    @abstractmethod
    def below(self, name: str) -> Store:
        """Return the store of that name in this one, such as that of a run."""

    def _missing(self, name: str) -> StoreError:
        return StoreError(f"{self} has no object {name}")

    @contextmanager
    def _errors(self, doing: str) -> Iterator[None]:
        """Turn whatever is raised while ``doing`` something into StoreErrors."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:  # those of the packages behind it have no tree in common
            said = f"{type(error).__name__}: {error}"
            raise StoreError(f"{self}: {doing}: {said}") from error


@dataclass(frozen=True)
class FolderStore(Store):
    """A folder, on this machine or shared by those of a cluster; for this user only.

    Folders that it makes and files are readable by nobody else.  A path is taken from here, also
    by processes elsewhere.
    """

    path: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", os.path.abspath(os.path.expanduser(self.path)))

    def __str__(self) -> str:
        return self.path

    def write(self, name: str, data: Data) -> None:
        path = self._path(name)
        if os.path.exists(path):
            return
        with self._errors(f"writing {name}"):
            part = self._write_part(name, data)
            try:
                os.replace(part, path)
            except BaseException:
                _remove(part)
                raise

    def read(self, name: str) -> bytes:
        path = self._path(name)
        with self._errors(f"reading {name}"):
            try:
                with open(path, "rb") as file:
                    return file.read()
            except FileNotFoundError:
                raise self._missing(name) from None

    def exists(self, name: str) -> bool:
        return os.path.exists(self._path(name))

    def delete(self, name: str) -> None:
        path = self._path(name)
        with self._errors(f"deleting {name}"):
            _remove(path)

    def names(self) -> Iterator[str]:
        with self._errors("listing"):
            found = os.listdir(self.path) if os.path.exists(self.path) else []
        yield from filter(is_object, found)

    def destroy(self) -> None:
        with self._errors("destroying"):
            for folder, _, files in os.walk(self.path, topdown=False):
                for file in filter(is_ours, files):
                    _remove(os.path.join(folder, file))
                with contextlib.suppress(OSError):  # somebody keeps something else there
                    os.rmdir(folder)

    def below(self, name: str) -> FolderStore:
        return FolderStore(os.path.join(self.path, check_below(name)))

    def _path(self, name: str) -> str:
        return os.path.join(self.path, check_object(name))

    def _write_part(self, name: str, data: Data) -> str:
        """Write an object under another name, down to the disk; return its path."""
        _make(self.path)
        number, part = tempfile.mkstemp(prefix=f".{name}-", dir=self.path)
        try:
            with open(number, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(number)  # or the name might outlive the bytes when the machine goes down
        except BaseException:
            _remove(part)
            raise
        return part


def open_store(where: str | os.PathLike[str] | Store | None) -> Store | None:
    """Return the store that is meant; None where values travel in messages.

    None and ``"memory"`` mean messages; a path, or ``"file:///path"``, a folder; and any other
    URL, such as ``"s3://bucket/prefix"``, the place that it names.  Raises TypeError and
    ValueError for what is none of these, and StoreError where a package is not installed.
    """
    if where is None or isinstance(where, Store):
        return where
    if not isinstance(where, (str, os.PathLike)) or not isinstance(os.fspath(where), str):
        raise TypeError(f"a store is a path, a URL, or None, not {where!r}")
    if isinstance(where, os.PathLike):
        return FolderStore(os.fspath(where))
    if where == "memory":
        return None
    if not where:
        raise ValueError("a store cannot be an empty path")
    scheme = _SCHEME.match(where)
    if scheme is None:
        return FolderStore(where)
    if not scheme[2]:
        raise ValueError(f"{where!r} is not a URL: {scheme[1]}://… is meant, or ./{where}")
    return _open_url(scheme[1].lower(), where)


def _open_url(scheme: str, url: str) -> Store:
    match scheme:
        case "file" | "local":
            parts = urlsplit(url)
            if parts.netloc not in ("", "localhost") or not parts.path:
                raise ValueError(f"{url!r} is not of this machine: file:///path is meant")
            return FolderStore(url2pathname(parts.path))
        case "memory":
            raise ValueError("daemons do not share this process's memory; 'memory' means messages")
        case "s3":
            from mirai.controllers._s3_store import S3Store

            return S3Store(url)
        case _:
            from mirai.controllers._fsspec_store import FsspecStore

            return FsspecStore(url)


def check_object(name: str) -> str:
    """Return the name of an object.  Raises ValueError for what is no digest."""
    if not is_object(name):
        raise ValueError(f"objects of a store are named by digests, not {name!r}")
    return name


def check_below(name: str) -> str:
    """Return the name of a store in another.  Raises ValueError for what cannot be one."""
    if not _BELOW.fullmatch(name):
        raise ValueError(
            f"a store below another is named by letters, digits, - and _, not {name!r}"
        )
    return name


def is_object(name: str) -> bool:
    """Return whether an object may be called so."""
    return _OBJECT.fullmatch(name) is not None


def is_ours(name: str) -> bool:
    """Return whether a file called so is an object, or what a crash has left of one."""
    return is_object(name) or _PART.fullmatch(name) is not None


def _make(folder: str) -> None:
    """Make a folder, and those that it is in; new ones are for this user only."""
    path = Path(folder)
    if path.is_dir():
        return
    for each in (*reversed(path.parents), path):
        each.mkdir(mode=0o700, exist_ok=True)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
