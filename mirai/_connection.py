"""Connection files: where a dispatcher is, and the keys to join it.

Whoever can read one can use the pool, so it is written with mode 0600, and one that others can
read is refused.  Whoever can put another in its place can have us talk to a dispatcher of theirs,
so one of another user, behind another user's link, or where every user may write, is refused too.
"""

from __future__ import annotations

import json
import os
import re
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zmq.utils import z85

from dispatcher.keys import KeyPair
from dispatcher.messages import Role
from mirai._errors import MiraiError

VERSION = 1
MAX_BYTES = 1 << 26
"""A connection file is smaller, also where the ``init`` of launched daemons is in it."""
KEY = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
"""A key in Z85."""

Stamp = tuple[int, int]
"""Which file it is: the numbers of its device and of its inode."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a dispatcher is, and the keys of the roles that the reader may take."""

    url: str
    server: str
    """The dispatcher's public key."""
    keys: Mapping[Role, KeyPair]
    server_secret: str = ""
    """Only in the file that ``mirai dispatcher --keys`` reads."""
    others: tuple[str, ...] = ()
    """More URLs where the dispatcher may be reached, to be tried in turn."""
    daemon: Mapping[str, Any] | None = None
    """What daemons of a launch are told besides: see ``mirai._launched``."""

    def __repr__(self) -> str:  # without the secrets
        return f"Connection(url={self.url!r}, roles={[role.value for role in self.keys]})"

    @classmethod
    def new(cls, url: str) -> Connection:
        """Draw fresh keys: the server's, and one pair for each role."""
        pair = KeyPair.new()
        return cls(url, pair.public, {role: KeyPair.new() for role in Role}, pair.secret)

    def at(self, url: str) -> Connection:
        """Return the same keys at another place."""
        return Connection(url, self.server, self.keys, self.server_secret, (), self.daemon)

    def only(self, *roles: Role) -> Connection:
        """Return what the peers of these roles need: never the server's secret."""
        keys = {role: self.keys[role] for role in roles}
        return Connection(self.url, self.server, keys, "", self.others)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where to try to reach the dispatcher, one after the other."""
        return (self.url, *self.others)

    def pair(self, role: Role) -> KeyPair:
        """Return the keys of a role.  Raises MiraiError if they are not in here."""
        try:
            return self.keys[role]
        except KeyError:
            raise MiraiError(f"this connection file holds no key of a {role.value}") from None

    # ── files ────────────────────────────────────────────────────────────────────────────

    def write(self, path: str | os.PathLike[str]) -> Stamp:
        """Write it in one step, in the place of what was there, readable by this user only.

        Raises MiraiError.
        """
        data = json.dumps(_to_json(self), indent=2).encode() + b"\n"
        return write_secret(path, data)

    def text(self) -> str:
        """Return it in one line, keys and all."""
        return json.dumps(_to_json(self)) + "\n"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Connection:
        """Read one.  Raises MiraiError if that cannot be done, or should not."""
        data = read_secret(path)
        return cls.parse(data, os.fspath(path))

    @classmethod
    def parse(cls, data: str | bytes, what: str) -> Connection:
        """Return what was written as text; ``what`` names that in errors.  Raises MiraiError."""
        try:
            return _from_json(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise MiraiError(f"{what} is no connection file") from None
        except MiraiError as error:
            raise MiraiError(f"{what}: {error}") from None


def write_secret(path: str | os.PathLike[str], data: bytes) -> Stamp:
    """Write a file in one step, in the place of what was there, readable by this user only.

    Raises MiraiError.
    """
    path = os.path.abspath(path)
    new = f"{path}.{os.urandom(6).hex()}"
    try:
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                found = os.fstat(file.fileno())
            os.replace(new, path)
        except BaseException:
            os.unlink(new)
            raise
    except OSError as error:
        raise MiraiError(f"{path} cannot be written: {error.strerror}") from None
    return found.st_dev, found.st_ino


def read_secret(path: str | os.PathLike[str]) -> bytes:
    """Read a file that is for this user only.  Raises MiraiError if it is for others too."""
    try:
        with open(path, "rb") as file:
            _check_access(path, os.fstat(file.fileno()))
            check_way(path)
            return file.read(MAX_BYTES)
    except OSError as error:
        raise MiraiError(f"{path} cannot be read: {error.strerror}") from None


def remove(path: str | os.PathLike[str], stamp: Stamp) -> None:
    """Remove the file that was written there, unless another has taken its place."""
    try:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) == stamp:
            os.unlink(path)
    except OSError:
        pass  # it is gone already, or its directory


def _check_access(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if os.name != "posix":
        return
    if found.st_uid != os.geteuid():
        raise MiraiError(f"{path} belongs to another user, who may know its keys: refused")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise MiraiError(f"{path} can be read by others; if nobody has: chmod 600 {path}")


def check_way(path: str | os.PathLike[str]) -> None:
    """Raise MiraiError if another user could have led us to a file that is not meant."""
    if os.name != "posix":
        return
    if os.lstat(path).st_uid not in (os.geteuid(), 0):
        raise MiraiError(f"{path} is a link that another user has made: refused")
    for directory in {
        os.path.dirname(os.path.abspath(path)),
        os.path.dirname(os.path.realpath(path)),
    }:
        mode = os.stat(directory).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise MiraiError(
                f"{path} is where every user may put another file in its place: refused;"
                f" keep it in a directory of your own, or: chmod o-w {directory}"
            )


def _to_json(connection: Connection) -> dict[str, Any]:
    pairs = {
        role.value: {"public": pair.public, "secret": pair.secret}
        for role, pair in connection.keys.items()
    }
    more: dict[str, Any] = {}
    if connection.server_secret:
        more["server_secret"] = connection.server_secret
    if connection.others:
        more["others"] = connection.others
    if connection.daemon is not None:
        more["daemon"] = connection.daemon
    return {
        "mirai": VERSION,
        "url": connection.url,
        "server": connection.server,
        "keys": pairs,
        **more,
    }


def _from_json(data: Any) -> Connection:
    if data["mirai"] != VERSION:
        raise MiraiError(f"version {data['mirai']} of connection files, wanted {VERSION}")
    keys = {
        Role(role): KeyPair(_key(pair["public"]), _key(pair["secret"]))
        for role, pair in data["keys"].items()
    }
    secret = data.get("server_secret", "")
    others, daemon = tuple(data.get("others", ())), data.get("daemon")
    for url in (data["url"], *others):
        if not isinstance(url, str) or not url.startswith(("tcp://", "ipc://")):
            raise ValueError(url)
    if daemon is not None and not isinstance(daemon, dict):
        raise ValueError(daemon)
    server = _key(data["server"])
    return Connection(data["url"], server, keys, secret and _key(secret), others, daemon)


def _key(text: Any) -> str:
    if not isinstance(text, str) or not KEY.fullmatch(text):
        raise ValueError("not a key")
    try:
        z85.decode(text)
    except struct.error:  # five letters can stand for more than four bytes hold
        raise ValueError("not a key") from None
    return text
