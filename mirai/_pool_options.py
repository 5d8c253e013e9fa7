"""What can be said about a pool, in one frozen object that is passed on whole."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dispatcher.messages import MAX_WIDTH
from mirai._limits import NO_LIMITS, Limits
from mirai._serial import SerialConfig

if TYPE_CHECKING:
    from mirai.launchers import Launcher

GRACE = 5.0
"""Seconds that a cancelled task has to leave before its daemon is killed."""
MAX_DAEMONS = 10_000

Env = Mapping[str, str] | Callable[[int], Mapping[str, str]]
Tags = tuple[str, ...] | Callable[[int], tuple[str, ...]]

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """The options of one pool; see ``daemons``.  Raises TypeError or ValueError."""

    count: int
    url: str = "ipc"
    dispatcher: bool = True
    sync: bool = False
    seed: int | None = None
    memory: int | None = None
    """Bytes."""
    serial: tuple[SerialConfig, ...] = ()
    limits: Limits = NO_LIMITS
    cleanup: bool = True
    output: str | None = None
    init: Callable[[], object] | None = None
    env: Env | None = None
    cwd: str | None = None
    python: str | None = None
    tags: Tags = ()
    grace: float = GRACE
    launcher: Launcher | None = None
    launched: int = 0
    """How many daemons are to be launched."""
    patience: float | None = None
    """Seconds that a launched daemon has to join."""
    journal: str | None = None
    """The absolute path of the file in which tasks and their results are kept."""
    time_to_live: float | None = None
    """How long it keeps results, in seconds; None: for ever."""
    each: int = 1
    """With more than 1, those that are launched are relays, each with so many daemons."""

    def __post_init__(self) -> None:
        _check_flags(self)
        check_seed(self.seed)
        if self.init is not None and not callable(self.init):
            raise TypeError(f"init must be callable, not {type(self.init).__name__}")
        if not isinstance(self.grace, (int, float)) or isinstance(self.grace, bool):
            raise TypeError(f"grace must be a number of seconds, not {type(self.grace).__name__}")
        if not (self.grace >= 0 and math.isfinite(self.grace)):
            raise ValueError(f"grace must be finite and not negative: {self.grace}")
        if self.cwd is not None and not os.path.isdir(self.cwd):
            raise ValueError(f"cwd is no directory: {self.cwd!r}")
        if self.python is not None and not os.access(self.python, os.X_OK):
            raise ValueError(f"python is no program: {self.python!r}")
        if self.output is not None and not isinstance(self.output, str):
            raise TypeError(f"output must be a str, not {type(self.output).__name__}")
        if not callable(self.env) and self.env is not None:
            check_env(self.env)
        if not callable(self.tags):
            check_tags(self.tags)
        check_each(self.each)
        if self.launcher is not None:
            _check_launched(self)
        elif self.each > 1:
            raise ValueError("each is for daemons that a launcher starts")

    @property
    def has_lines(self) -> bool:
        """Whether the processes of the pool that its host has started talk over lines."""
        return os.name == "posix" and self.url.startswith("ipc") and self.launcher is None


def _check_flags(options: PoolOptions) -> None:
    for name in ("dispatcher", "sync", "cleanup"):
        value = getattr(options, name)
        if not isinstance(value, bool):
            raise TypeError(f"{name} must be True or False, not {value!r}")


def _check_launched(options: PoolOptions) -> None:
    """Refuse what makes sense for local daemons only."""
    from mirai.launchers import Launcher

    if not isinstance(options.launcher, Launcher):
        kind = type(options.launcher).__name__
        raise TypeError(f"launcher must be a Launcher, not {kind}")
    if options.sync:
        raise ValueError("sync=True has no daemons that could be launched")
    if callable(options.env) or callable(options.tags):
        raise ValueError("the env and the tags of launched daemons are the same for all")
    if options.output not in (None, "stream"):
        raise ValueError("the output of launched daemons goes to their job's log")
    if options.python is not None:
        raise ValueError("python is an option of the launcher")


def check_count(n: object, name: str = "n") -> int:
    """Return ``n``, which must be a number of daemons.  Raises TypeError or ValueError.

    ``name``: what errors call it.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"{name} must be an int, not {type(n).__name__}")
    if not 0 <= n <= MAX_DAEMONS:
        raise ValueError(f"{name} must be from 0 to 10,000 and not negative: {n}")
    return n


def check_each(each: object) -> int:
    """Return ``each``, a number of daemons behind one relay.  Raises TypeError or ValueError."""
    if not isinstance(each, int) or isinstance(each, bool):
        raise TypeError(f"each must be an int, not {type(each).__name__}")
    if not 1 <= each <= MAX_WIDTH:
        raise ValueError(f"each must be from 1 to {MAX_WIDTH:,}: {each}")
    return each


def check_seed(seed: object) -> None:
    """Raise TypeError for what is no seed, and not None."""
    if seed is not None and (not isinstance(seed, int) or isinstance(seed, bool)):
        raise TypeError(f"seed must be an int, not {type(seed).__name__}")


def check_url(url: object) -> str:
    """Return ``url``, where a dispatcher can listen.  Raises TypeError or ValueError."""
    if not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    if "\0" in url or not url.startswith(("tcp://", "ipc://")):
        raise ValueError(f"url must begin with tcp:// or ipc://, not {url!r}")
    if url.startswith("tcp://"):
        port = re.fullmatch(r"tcp://.+:(\d+|\*)", url)
        if port is None or (port[1] != "*" and int(port[1]) > 65_535):
            raise ValueError(f"url must be like tcp://address:port, port 0 to 65535, not {url!r}")
    return url


def check_env(env: object) -> dict[str, str]:
    """Return environment variables as a dict.  Raises TypeError or ValueError."""
    if not isinstance(env, Mapping):
        raise TypeError(f"env must be a dict, or a function of one, not {type(env).__name__}")
    for name, value in env.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise TypeError(f"env must hold strings, not {name!r}: {value!r}")
        if not name or "=" in name or "\0" in name + value or not is_text(name + value):
            raise ValueError(f"env cannot hold {name!r}: {value!r}")
    return dict(env)


def check_tags(tags: object) -> tuple[str, ...]:
    """Return tags as a tuple.  Raises TypeError or ValueError."""
    if isinstance(tags, str) or not isinstance(tags, (tuple, list, set, frozenset)):
        raise TypeError(f"tags must be a tuple of strings, not {tags!r}")
    for tag in tags:
        if not isinstance(tag, str):
            raise TypeError(f"tags must be strings, not {type(tag).__name__}")
        if not tag or not is_text(tag):
            raise ValueError(f"a tag must be text, and not be empty: {tag!r}")
    return tuple(sorted({"".join(tag) for tag in tags}))


def is_text(value: str) -> bool:
    """Whether it can be sent: not all that Python calls a str can."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def size_in_bytes(name: str, value: int | str) -> int:
    """Return a size in bytes, given as a number of them or as in ``"500MB"`` or ``"1.5GiB"``.

    Raises TypeError or ValueError for what is not a positive size.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT]?i?B?)\s*", value)
        if match is None or match[2].upper() not in _UNITS:
            raise ValueError(f'{name} must be like 5_000_000, "500MB" or "2GiB", not {value!r}')
        value = int(float(match[1]) * _UNITS[match[2].upper()])
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of bytes or a str, not {type(value).__name__}")
    if value <= 0:
        raise ValueError(f"{name} must be positive: {value}")
    return value
