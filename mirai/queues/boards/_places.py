"""Where a board is: its URL, and the secrets that get one in."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from urllib.parse import quote, urlsplit, urlunsplit

from dispatcher.boards import Store
from dispatcher.messages import Role
from mirai._connection import Connection, read_secret, write_secret
from mirai._errors import MiraiError

PASSWORD = "MIRAI_BOARD_PASSWORD"
"""The variable of the environment that a password is taken from, where a URL has none."""
DISPATCHER = "mirai://"
REDIS = ("redis", "rediss", "unix")
EXTRA = "Redis is asked by redis-py, which is not installed: pip install 'mirai-zmq[redis]'"
NO_URL = (
    "is no URL of Redis, like redis://:password@host:6379/0: in a password, others than letters "
    "and digits are written like %2F, and after a question mark come options of redis-py"
)
HOST = re.compile(r"([\w.-]*|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]*)?")
"""What follows the ``@`` in a URL of Redis: a host, its port, and the number of a database."""
FROM_ENVIRONMENT = "env:"
VERSION = 1


@dataclass(frozen=True, slots=True, repr=False)
class Place:
    """A board's place: it is a secret, travels to workers, and does not print what is secret."""

    url: str
    name: str
    connection: str = ""
    """What the file of a dispatcher says: workers elsewhere do not have that file."""

    def __post_init__(self) -> None:
        for what, value in (("url", self.url), ("name", self.name)):
            if not isinstance(value, str):
                raise TypeError(f"the {what} of a board must be a str, not {type(value).__name__}")
        if not self.name or set(self.name) & set("{}\n"):
            raise ValueError(f"a board cannot be called {self.name!r}")
        scheme = self.url.partition("://")[0]
        if scheme not in (*REDIS, "mirai"):
            raise ValueError(
                f"a board is at redis://…, rediss://…, unix://… or mirai://FILE, not at {self}"
            )
        password = os.environ.get(PASSWORD)
        if password and scheme in REDIS:
            try:
                object.__setattr__(self, "url", with_password(self.url, password))
            except ValueError:  # which shows the URL
                raise ValueError(f"{self} {NO_URL}") from None
        if scheme == "mirai" and not self.is_here and not self.connection:
            path = os.path.expanduser(self.url.removeprefix(DISPATCHER))
            found = Connection.read(path)
            found.pair(Role.CLIENT)  # or say now that there is none
            object.__setattr__(self, "connection", found.only(Role.CLIENT).text())

    @property
    def is_here(self) -> bool:
        """Whether it is on the dispatcher of the pool at hand, in a task the daemon's own."""
        return self.url == DISPATCHER

    def __str__(self) -> str:
        return without_secrets(self.url)

    def __repr__(self) -> str:
        return f"<Place {self.name!r} at {self}>"

    def open(self, *, patient: bool = False) -> Store:
        """Return a connection to it; ``patient``: also to a server that is away just now.

        Raises MiraiError where a package is not installed, and StoreError where there is nobody.
        """
        if self.url.startswith(DISPATCHER):
            from mirai.queues.boards._dispatcher_store import DispatcherStore

            if self.is_here:
                return DispatcherStore.open(self.url, self.name)
            return DispatcherStore.at(Connection.parse(self.connection, str(self)), self.name)
        try:
            from mirai.queues.boards._redis_store import RedisStore
        except ImportError:
            raise MiraiError(EXTRA) from None
        store = RedisStore(self.url, self.name, shown=str(self))
        if not patient:
            store.check()
        return store

    def write(self, path: str | os.PathLike[str], duty: str) -> None:
        """Write a file for workers, which only this user can read; ``duty``: what they do.

        Raises MiraiError.
        """
        if self.is_here:
            raise MiraiError("the pool at hand is only here: give the board its connection file")
        told = {"board": VERSION, "url": self.url, "name": self.name, "duty": duty}
        told["connection"] = self.connection
        write_secret(path, json.dumps(told).encode() + b"\n")


def read_place(source: str) -> tuple[Place, str]:
    """Return what ``Place.write`` has written; ``env:NAME``: to a variable of the environment.

    Raises MiraiError for a file that others can read, and for what is none of ours.
    """
    if source.startswith(FROM_ENVIRONMENT):
        data = os.environ.get(source.removeprefix(FROM_ENVIRONMENT), "").encode()
    else:
        data = read_secret(source)
    try:
        told = json.loads(data)
        if told["board"] != VERSION:
            raise MiraiError(f"version {told['board']} of files of boards, wanted {VERSION}")
        return Place(told["url"], told["name"], told["connection"]), told["duty"]
    except (ValueError, KeyError, TypeError):
        raise MiraiError(f"{source} does not say where a board is") from None


def with_password(url: str, password: str) -> str:
    """Return a URL with this password, unless it has one."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if ":" in user or "password=" in parts.query:
        return url
    return urlunsplit(parts._replace(netloc=f"{user if at else ''}:{quote(password, '')}@{host}"))


def without_secrets(url: str) -> str:
    """Return where a URL leads, without what proves that one may go there."""
    scheme, separator, rest = url.partition("://")
    if not (separator and scheme.isalpha()):
        return "…" if set(url) & set(":@?") else url
    place, _, query = rest.partition("?")
    where = place.rpartition("@")[2]
    if "@" in query or not _is_place(scheme, where):  # or it may be a password, or a part of one
        where = "…"
    return f"{scheme}{separator}{where}"


def _is_place(scheme: str, where: str) -> bool:
    """Whether this is the path of a file, or a host, and no password whose ``@`` was forgotten."""
    if scheme in ("mirai", "unix"):
        return scheme == "mirai" or where.startswith("/")
    match = HOST.fullmatch(where)
    return match is not None and int(match["port"] or 0) < 2**16
