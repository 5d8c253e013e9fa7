"""What a launched daemon is told besides where the dispatcher is, and where it is told that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from dispatcher.messages import MAX_WIDTH
from mirai._errors import MiraiError
from mirai._pool_options import GRACE

if TYPE_CHECKING:
    from mirai._connection import Connection

STDIN = "-"
"""Where the keys come by standard input, whose end is also the daemon's."""
VARIABLE = "env:"
"""Where they come by a variable of the environment, whose name follows."""
AWS_SECRET = "aws-secret:"
"""Where they come by a secret of AWS, whose id follows."""
JOB_NAMES = ("MIRAI_JOB", "AWS_BATCH_JOB_ID")
"""The variables of the environment that say which job of its platform a process is."""


class Launched(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the daemons of a launch are told."""

    options: dict[str, Any] = {}
    """As local daemons are told them: see ``mirai._plan``."""
    tags: tuple[str, ...] = ()
    path: tuple[str, ...] = ()
    """Where modules are looked for that are found nowhere else, as far as it is there."""
    cwd: str | None = None
    env: dict[str, str] = {}
    log: str = ""
    """The level at which they log; empty: not at all."""
    each: Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)] = 1
    """With more than 1 they are relays, each with so many daemons."""
    grace: float = GRACE
    """Seconds that an interrupted task of a relay has to leave before its daemon is killed."""


def read_source(source: str) -> Connection:
    """Read keys from where ``mirai daemon`` is told that they are.

    That is a file, or ``-`` for the first line of standard input, or ``env:NAME`` for a variable
    of the environment, which is removed from there, or ``aws-secret:ID``.  Raises MiraiError.
    """
    # This loads ZeroMQ, which most hosts do without.
    from mirai._connection import MAX_BYTES, Connection

    if source == STDIN:
        return Connection.parse(_first_line(MAX_BYTES), "what came by standard input")
    if source.startswith(VARIABLE):
        name = source.removeprefix(VARIABLE)
        text = os.environ.pop(name, None)
        if text is None:
            raise MiraiError(f"the environment has no variable {name!r}")
        return Connection.parse(text, f"what the variable {name!r} holds")
    if source.startswith(AWS_SECRET):
        from mirai.launchers import _aws_secret  # type: ignore[attr-defined,unused-ignore]

        id = source.removeprefix(AWS_SECRET)
        return Connection.parse(_aws_secret.read(id), f"the secret {id!r}")
    return Connection.read(source)


def launched(connection: Connection) -> Launched | None:
    """Return what is told to the daemons of a launch; None if it is of none.

    Raises MiraiError.
    """
    if connection.daemon is None:
        return None
    try:
        return msgspec.convert(connection.daemon, Launched)
    except msgspec.ValidationError as error:
        raise MiraiError(f"what a launched daemon is told makes no sense: {error}") from None


def job_of_this_process() -> str:
    """Return what the platform calls us; empty if it has not launched us."""
    names = (os.environ.get(name, "") for name in JOB_NAMES)
    return next(filter(None, names), "")


def _first_line(most: int) -> str:
    """Read the first line of standard input, of ``most`` bytes; what follows means nothing."""
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = os.read(0, 65_536)
        if not piece:
            raise MiraiError("standard input ended before the keys were read")
        data += piece
        if len(data) > most:
            raise MiraiError("standard input holds no keys")
    return data.decode(errors="replace")
