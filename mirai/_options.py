"""What can be said about a task besides what it calls."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from mirai._limits import seconds
from mirai._pool_options import check_tags

Seconds = float

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments and keywords of one call."""


Key = Callable[[Call, Any], bytes]
"""Returns by what a call is known again; the other argument is a ``Reducer``, or None."""


@dataclass(frozen=True, slots=True)
class Durable:
    """What is said about tasks that a journal keeps."""

    job: str
    stays: bool = False
    """Whether their results stay when they have been fetched."""
    version: bytes = b""
    """Of the function's code."""
    key: Key | None = None
    """Returns by what a call is known again; None: none ever is."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """The options of one task; see ``mirai.options``.  Raises TypeError or ValueError."""

    timeout: Seconds | None = None
    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()
    priority: int = 0
    name: str | None = None
    profile: str | None = None
    tags: tuple[str, ...] = ()
    stream: bytes = b""
    """What the task's random numbers are drawn from; empty: as the pool's seed has it."""
    durable: Durable | None = None
    """The job that it belongs to; None: the one of its pool, if that keeps a journal."""

    def __post_init__(self) -> None:
        if self.timeout is not None:
            _number("timeout", self.timeout)
            if not (self.timeout > 0 and math.isfinite(self.timeout)):
                raise ValueError(f"timeout must be a positive number of seconds: {self.timeout}")
        for name in ("retries", "priority"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if abs(value) >= 2**31:
                raise ValueError(f"{name} is out of range: {value}")
        if self.retries < 0:
            raise ValueError(f"retries must not be negative: {self.retries}")
        for kind in self.retry_on:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"retry_on must hold classes of exceptions, not {kind!r}")
        if self.retry_on and not self.retries:
            raise ValueError("retry_on needs retries: how often the task may run again")
        for name in ("name", "profile"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{name} must be a str, not {type(value).__name__}")
        # What may travel: plain numbers and strings, whatever subclass of them was given.
        for field, plain in (
            ("timeout", None if self.timeout is None else float(self.timeout)),
            ("retries", int(self.retries)),
            ("priority", int(self.priority)),
            ("name", None if self.name is None else "".join(self.name)),
            ("tags", check_tags(self.tags)),
        ):
            object.__setattr__(self, field, plain)


def _number(name: str, value: object) -> None:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")


def check_callable(fn: object) -> None:
    """Raise TypeError for what cannot be called."""
    if not callable(fn):
        raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")


def task_options(
    timeout: Seconds | str | None,
    retries: int,
    retry_on: tuple[type[BaseException], ...] | type[BaseException],
    priority: int,
    name: str | None,
    profile: str | None,
    tags: Iterable[str],
) -> TaskOptions:
    """Return options, given as users do.  Raises TypeError or ValueError."""
    limit = seconds("timeout", timeout) if isinstance(timeout, str) else timeout
    kinds = kinds_of(retry_on)
    return TaskOptions(limit, retries, kinds, priority, name, profile, check_tags(tags))


def kinds_of(
    retry_on: tuple[type[BaseException], ...] | type[BaseException],
) -> tuple[type[BaseException], ...]:
    """Return classes of exceptions, of which a single one may be given alone; not checked yet."""
    return tuple(retry_on) if isinstance(retry_on, (tuple, list)) else (retry_on,)


DEFAULTS = TaskOptions()
