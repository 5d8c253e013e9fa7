"""Connection files: where a dispatcher is, and the keys to join it.

Whoever can read one can use the pool, so it is written with mode 0600, and one that others can
read is refused.  Whoever can put another in its place can have us talk to a dispatcher of theirs,
so one of another user, behind another user's link, or where every user may write, is refused too.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from zmq.utils import z85

from dispatcher.events import Role
from dispatcher.keys import KeyPair
from mirai._errors import MiraiError

VERSION = 1
MAX_BYTES = 65_536
KEY = re.compile(r"[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]{40}")
"""A key in Z85."""
ANYWHERE = ("0.0.0.0", "*", "[::]")
"""What stands in a URL for all addresses of a machine."""
UNROUTED = ("192.0.2.1", 9)
"""An address of documentation (RFC 5737): to see which way out is taken; nothing is sent."""

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

    def __repr__(self) -> str:  # without the secrets
        return f"Connection(url={self.url!r}, roles={[role.value for role in self.keys]})"

    @classmethod
    def new(cls, url: str) -> Connection:
        """Draw fresh keys: the server's, and one pair for each role."""
        pair = KeyPair.new()
        return cls(url, pair.public, {role: KeyPair.new() for role in Role}, pair.secret)

    @classmethod
    def of(cls, url: str, server: str, pairs: Mapping[str, KeyPair]) -> Connection:
        """Make one of the keys of roles that are given by name."""
        return cls(url, server, {Role(name): pair for name, pair in pairs.items()})

    def at(self, url: str) -> Connection:
        """Return the same keys at another place."""
        return Connection(url, self.server, self.keys, self.server_secret)

    def only(self, *roles: Role) -> Connection:
        """Return what the peers of these roles need: never the server's secret."""
        return Connection(self.url, self.server, {role: self.keys[role] for role in roles})

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

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Connection:
        """Read one.  Raises MiraiError if that cannot be done, or should not."""
        try:
            with open(path, "rb") as file:
                _check_access(path, os.fstat(file.fileno()))
                _check_way(path)
                data = file.read(MAX_BYTES)
        except OSError as error:
            raise MiraiError(f"{path} cannot be read: {error.strerror}") from None
        try:
            return _from_json(json.loads(data))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise MiraiError(f"{path} is no connection file") from None
        except MiraiError as error:
            raise MiraiError(f"{path}: {error}") from None


def remove(path: str | os.PathLike[str], stamp: Stamp) -> None:
    """Remove the file that was written there, unless another has taken its place."""
    try:
        found = os.stat(path)
        if (found.st_dev, found.st_ino) == stamp:
            os.unlink(path)
    except OSError:
        pass  # it is gone already, or its directory


def advertised(url: str, host: str | None = None) -> str:
    """Return the URL at which others reach what listens at ``url``.

    ``host`` is what they call this machine.  Without it the address stands as it is; one that
    means all addresses becomes this machine's primary one.
    """
    scheme, _, address = url.partition("://")
    name, _, port = address.rpartition(":")
    if host is None:
        if name not in ANYWHERE:
            return url
        host = primary_address()
    return f"{scheme}://{host}:{port}"


def primary_address() -> str:
    """Return the address that this machine uses towards others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(UNROUTED)
            return str(probe.getsockname()[0])
        except OSError:  # there is no way out
            return "127.0.0.1"


def _check_access(path: str | os.PathLike[str], found: os.stat_result) -> None:
    if os.name != "posix":
        return
    if found.st_uid != os.geteuid():
        raise MiraiError(f"{path} belongs to another user, who may know its keys: refused")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise MiraiError(f"{path} can be read by others; if nobody has: chmod 600 {path}")


def _check_way(path: str | os.PathLike[str]) -> None:
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
    secret = {"server_secret": connection.server_secret} if connection.server_secret else {}
    return {
        "mirai": VERSION,
        "url": connection.url,
        "server": connection.server,
        "keys": pairs,
        **secret,
    }


def _from_json(data: Any) -> Connection:
    if data["mirai"] != VERSION:
        raise MiraiError(f"version {data['mirai']} of connection files, wanted {VERSION}")
    keys = {
        Role(role): KeyPair(_key(pair["public"]), _key(pair["secret"]))
        for role, pair in data["keys"].items()
    }
    secret = data.get("server_secret", "")
    if not isinstance(data["url"], str) or not data["url"].startswith(("tcp://", "ipc://")):
        raise ValueError(data["url"])
    return Connection(data["url"], _key(data["server"]), keys, secret and _key(secret))


def _key(text: Any) -> str:
    if not isinstance(text, str) or not KEY.fullmatch(text):
        raise ValueError("not a key")
    try:
        z85.decode(text)
    except struct.error:  # five letters can stand for more than four bytes hold
        raise ValueError("not a key") from None
    return text
