"""Any file system that fsspec knows as a store: Google's, Azure's, SFTP, and many more."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from mirai._errors import StoreError
from mirai.controllers._store import Data, Store, check_below, check_object, is_object, is_ours

EXTRAS = {
    **dict.fromkeys(("gs", "gcs"), "gcs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "azure"),
    **dict.fromkeys(("sftp", "ssh"), "sftp"),
}
"""Scheme -> the extra by which what it needs is installed; others need a package of their own."""
OBJECT_STORES = frozenset({"gs", "gcs", "az", "abfs", "abfss", "adl", "s3", "s3a", "oss"})
"""Schemes where a file is there once all of it is, and where there are no folders."""


@dataclass(frozen=True)
class FsspecStore(Store):
    """What a URL of fsspec's names: ``"gs://bucket/prefix"``, ``"sftp://host/folder"``.

    ``options`` are what fsspec takes for that kind of file system.  They travel with the store
    and thus to the daemons: secrets do not belong there, but into what each process has of its
    own, such as fsspec's configuration (``FSSPEC_SFTP_PASSWORD`` in the environment, or a file).
    SFTP refuses hosts that ssh does not know; ``{"host_key_policy": "auto_add"}`` trusts all.

    Files are written under another name first where there are folders, and renamed; if a file
    system can only copy instead, a file that is read too early is taken for damaged, never for
    right.  Raises ValueError for what is no URL of fsspec's, and for one with a password;
    StoreError if a package is not installed.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url.rpartition("::")[2])  # of a chain, where it ends
        if parts.password:
            raise ValueError("a password does not belong in the URL of a store, which is shown")
        if "://" not in self.url or set(self.url) & set("*?[]"):
            raise ValueError(f"{self.url!r} is not a URL of a store")
        object.__setattr__(self, "url", self.url.rstrip("/") if parts.path else self.url)
        _check_installed(self._scheme)

    def __str__(self) -> str:
        return self.url

    def write(self, name: str, data: Data) -> None:
        check_object(name)
        with self._place(f"writing {name}") as (files, root):
            path = f"{root}/{name}"
            if self._scheme in OBJECT_STORES:
                files.pipe_file(path, bytes(data))
            elif not files.exists(path):
                _make(files, root)
                part = f"{root}/.{name}-{os.urandom(6).hex()}"
                _write(files, part, data)
                files.mv(part, path)

    def read(self, name: str) -> bytes:
        check_object(name)
        with self._place(f"reading {name}") as (files, root):
            try:
                return _read(files, f"{root}/{name}")
            except FileNotFoundError:
                raise self._missing(name) from None

    def exists(self, name: str) -> bool:
        check_object(name)
        with self._place(f"looking for {name}") as (files, root):
            try:
                files.info(f"{root}/{name}")  # "exists" would take any trouble for a no
            except FileNotFoundError:
                return False
            return True

    def delete(self, name: str) -> None:
        check_object(name)
        with self._place(f"deleting {name}") as (files, root), suppress(FileNotFoundError):
            files.rm_file(f"{root}/{name}")

    def names(self) -> Iterator[str]:
        found: list[str] = []
        with self._place("listing") as (files, root), suppress(FileNotFoundError):
            found = files.ls(root, detail=False)  # "find" of Azure's takes no depth
        yield from filter(is_object, map(_last, found))

    def destroy(self) -> None:
        with self._place("destroying") as (files, root):
            ours = [path for path in files.find(root) if is_ours(_last(path))]
            if ours:
                files.rm(ours)
            if self._scheme not in OBJECT_STORES:
                files.invalidate_cache()
                _remove_folders(files, root)

    def below(self, name: str) -> FsspecStore:
        return FsspecStore(f"{self.url.rstrip('/')}/{check_below(name)}", self.options)

    @property
    def _scheme(self) -> str:
        return self.url.partition("://")[0].rpartition("::")[2]

    @contextmanager
    def _place(self, doing: str) -> Iterator[tuple[Any, str]]:
        """Have the file system, and our path there; what it knew of other times is forgotten."""
        from fsspec.core import url_to_fs

        with self._errors(doing):
            files, root = url_to_fs(self.url, **{**_defaults(self._scheme), **self.options})
            files.invalidate_cache()
            try:
                yield files, root.rstrip("/")
            except (StoreError, FileNotFoundError):
                raise
            except Exception:
                files.clear_instance_cache()  # it would keep a connection that is lost
                raise


def _check_installed(scheme: str) -> None:
    """Raise StoreError if a package is missing, and ValueError for what fsspec does not know."""
    extra = EXTRAS.get(scheme, "store")
    try:
        from fsspec import get_filesystem_class

        get_filesystem_class(scheme)
    except ImportError as error:
        said = (
            f"{scheme}:// wants a package that is not installed: pip install 'mirai-zmq[{extra}]'"
        )
        raise StoreError(f"{said} ({error})") from None


def _defaults(scheme: str) -> dict[str, Any]:
    """Return options that hold unless others are given."""
    if EXTRAS.get(scheme) != "sftp":
        return {}
    from mirai.controllers._known_hosts import KnownHosts

    return {"host_key_policy": KnownHosts()}  # fsspec's own trusts whoever answers


def _write(files: Any, path: str, data: Data) -> None:
    client: Any = getattr(files, "ftp", None)
    if hasattr(client, "putfo"):  # paramiko's, which else waits for an answer to each 32 KiB
        client.putfo(BytesIO(data), path)
    else:
        files.pipe_file(path, bytes(data))


def _read(files: Any, path: str) -> bytes:
    client: Any = getattr(files, "ftp", None)
    if not hasattr(client, "getfo"):
        return bytes(files.cat_file(path))
    with BytesIO() as file:
        client.getfo(path, file)
        return file.getvalue()


def _make(files: Any, folder: str) -> None:
    """Make a folder, as another process may at the same time."""
    try:
        files.makedirs(folder, exist_ok=True)
    except OSError:
        if not files.isdir(folder):
            raise


def _remove_folders(files: Any, root: str) -> None:
    """Remove a folder and those in it, as far as they are empty."""
    found = files.find(root, withdirs=True, detail=True)
    folders = [path for path, what in found.items() if what["type"] == "directory"]
    for folder in sorted({*folders, root}, key=len, reverse=True):
        with suppress(OSError):  # somebody keeps something else there
            files.rmdir(folder)


def _last(path: str) -> str:
    return path.rpartition("/")[2]
