"""When a daemon leaves of its own accord."""

from __future__ import annotations

import math
import re
from dataclasses import astuple, dataclass

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


@dataclass(frozen=True, slots=True)
class Limits:
    """How long a daemon stays, in seconds, and for how many tasks; None for no limit."""

    idle_time: float | None = None
    wall_time: float | None = None
    max_tasks: int | None = None

    def deadline(self, born: float, idle_since: float | None) -> float | None:
        """Return when to leave, if no task comes or goes until then; None for never.

        ``idle_since`` is None while the daemon has a task.
        """
        deadlines = []
        if self.wall_time is not None:
            deadlines.append(born + self.wall_time)
        if self.idle_time is not None and idle_since is not None:
            deadlines.append(idle_since + self.idle_time)
        return min(deadlines, default=None)

    def is_idle(self, now: float, idle_since: float | None) -> bool:
        """Return whether it has had nothing to do for as long as it may."""
        if self.idle_time is None or idle_since is None:
            return False
        return now >= idle_since + self.idle_time

    def within(self, others: Limits) -> Limits:
        """Return these and the others: of each kind the smaller one."""
        both = zip(astuple(self), astuple(others), strict=True)
        return Limits(*(min(filter(None, pair), default=None) for pair in both))

    def reached(self, tasks: int) -> bool:
        """Return whether it has done as many tasks as it may."""
        return self.max_tasks is not None and tasks >= self.max_tasks


NO_LIMITS = Limits()


class Stay:
    """How long a daemon has been there, and how long without a task.  Time is an argument."""

    def __init__(self, limits: Limits, now: float) -> None:
        self._limits = limits
        self._born = now
        self._idle_since: float | None = now

    def look(self, now: float, *, idle: bool) -> bool:
        """Take in whether there is no task now; return whether it is time to leave."""
        if not idle:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = now
        deadline = self.deadline()
        return deadline is not None and now >= deadline

    def deadline(self) -> float | None:
        """Return when to leave, if no task comes or goes until then; None for never."""
        return self._limits.deadline(self._born, self._idle_since)

    def is_idle(self, now: float) -> bool:
        """Return whether it has had nothing to do for as long as it may."""
        return self._limits.is_idle(now, self._idle_since)


def seconds(name: str, value: float | str) -> float:
    """Return a time in seconds, given as a number of them or as in ``"5m"`` or ``"1.5h"``.

    Raises TypeError or ValueError for what is not a positive time.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", value)
        if match is None:
            raise ValueError(f'{name} must be like 90, "90s", "5m", "2h" or "1d", not {value!r}')
        value = float(match[1]) * _UNITS[match[2]]
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number of seconds or a str, not {type(value).__name__}")
    if not (value > 0 and math.isfinite(value)):
        raise ValueError(f"{name} must be positive and finite: {value}")
    return float(value)


def limits_of(
    idle_time: float | str | None, wall_time: float | str | None, max_tasks: int | None
) -> Limits:
    """Return limits, given as users do.  Raises TypeError or ValueError."""
    if max_tasks is not None:
        if not isinstance(max_tasks, int) or isinstance(max_tasks, bool):
            raise TypeError(f"max_tasks must be an int, not {type(max_tasks).__name__}")
        if max_tasks < 1:
            raise ValueError(f"max_tasks must be positive: {max_tasks}")
    return Limits(
        None if idle_time is None else seconds("idle_time", idle_time),
        None if wall_time is None else seconds("wall_time", wall_time),
        max_tasks,
    )
