"""What can be said about a task besides what it calls."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mirai._pool_options import check_tags

Seconds = float


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


DEFAULTS = TaskOptions()
