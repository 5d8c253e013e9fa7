"""What can be said about a controller, its crews and its tasks, each in one frozen object."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

from mirai._limits import Limits, limits_of, seconds
from mirai._options import TaskOptions
from mirai._pool_options import check_count, check_each, check_seed, check_tags, is_text
from mirai.controllers._retry import Retry
from mirai.controllers.scaling import Policy

if TYPE_CHECKING:
    from mirai.launchers import Launcher

IDLE_TIME = 300.0
"""Seconds for which a worker may have nothing to do, unless its crew says otherwise."""
SEED_BYTES = 24
"""How long a task's stream of random numbers is written."""

Seconds = float | str


@dataclass(frozen=True, slots=True)
class Recruits:
    """The workers of one crew; see ``Controller.recruit``.  Raises TypeError or ValueError."""

    workers: int
    launcher: Launcher | None = None
    tags: tuple[str, ...] = ()
    min_workers: int = 0
    idle_time: Seconds = IDLE_TIME
    wall_time: Seconds | None = None
    max_tasks: int | None = None
    launch_timeout: Seconds | None = None
    each: int = 1

    def __post_init__(self) -> None:
        from mirai.launchers import Launcher

        if self.launcher is not None and not isinstance(self.launcher, Launcher):
            raise TypeError(f"launcher must be a Launcher, not {type(self.launcher).__name__}")
        if check_each(self.each) > 1 and self.launcher is None:
            raise ValueError("each is for workers that a launcher starts")
        if check_count(self.workers) < 1:
            raise ValueError(f"workers must be positive: {self.workers}")
        if check_count(self.min_workers) > self.workers:
            raise ValueError(f"min_workers must not be more than workers: {self.min_workers}")
        object.__setattr__(self, "tags", check_tags(self.tags))
        self.policy(), self.limits(), self.patience()

    def limits(self) -> Limits:
        """Return when each of its workers leaves by itself; how long one may idle is for us."""
        return limits_of(None, self.wall_time, self.max_tasks)

    def patience(self) -> float | None:
        """Return how many seconds each has to join; None: as many as is usual."""
        timeout = self.launch_timeout
        return None if timeout is None else seconds("launch_timeout", timeout)

    def policy(self) -> Policy:
        """Return how its number follows demand: arrays of jobs fill for a moment before."""
        gather = 0.0 if self.launcher is None else min(1.0, self.launcher.interval / 10)
        idle_time = seconds("idle_time", self.idle_time)
        return Policy(self.workers, self.min_workers, idle_time, gather)


class PushKeywords(TypedDict, total=False):
    """What ``options`` takes."""

    name: str | None
    timeout: Seconds | None
    priority: int
    tags: tuple[str, ...]
    retry: Retry | None
    seed: int | None
    controller: str | None
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class PushOptions:
    """What can be said about a task; see ``options``.  Raises TypeError or ValueError."""

    name: str | None = None
    timeout: Seconds | None = None
    priority: int = 0
    tags: tuple[str, ...] = ()
    retry: Retry | None = None
    seed: int | None = None
    controller: str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    plain: TaskOptions = field(init=False, repr=False)
    """What mirai is told of a task of which nothing else is to be told."""

    def __post_init__(self) -> None:
        for name in ("name", "controller"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, str) and value):
                raise TypeError(f"{name} must be a str, and not be empty: {value!r}")
            if value is not None and not is_text(value):
                raise ValueError(f"{name} must be text: {value!r}")
        if self.retry is not None and not isinstance(self.retry, Retry):
            raise TypeError(f"retry must be a Retry, not {type(self.retry).__name__}")
        check_seed(self.seed)
        if self.seed is not None and not 0 <= self.seed < 2 ** (8 * SEED_BYTES):
            raise ValueError(f"seed must be from 0 to 2**{8 * SEED_BYTES}: {self.seed}")
        check_resources(self.resources)
        timeout = None if self.timeout is None else seconds("timeout", self.timeout)
        tags = check_tags(self.tags)
        object.__setattr__(self, "tags", tags)
        plain = TaskOptions(timeout, priority=self.priority, name=self.name, tags=tags)
        object.__setattr__(self, "plain", plain)

    def task(self, stream: bytes) -> TaskOptions:
        """Return what mirai is told of a task that draws random numbers from this stream."""
        return replace(self.plain, stream=stream) if stream else self.plain


class Push(NamedTuple):
    """A call that is to be pushed, and what is said about it."""

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: PushOptions
    is_claimed: bool = False
    """Whether somebody waits for this very one: then it is for no ``pop``."""


def check_resources(resources: Mapping[str, float]) -> dict[str, float]:
    """Return resources as a dict.  Raises TypeError or ValueError."""
    if not isinstance(resources, Mapping):
        raise TypeError(f"resources must be a dict, not {type(resources).__name__}")
    for name, amount in resources.items():
        if not isinstance(name, str) or not isinstance(amount, (int, float)):
            raise TypeError(f"resources must be numbers by name, not {name!r}: {amount!r}")
        if not (amount >= 0 and math.isfinite(amount)):
            raise ValueError(f"resources must be finite, and not negative: {name}={amount}")
    return dict(resources)


def suffices(offered: Mapping[str, float], wanted: Mapping[str, float]) -> bool:
    """Whether workers that have these resources can do a task that wants those."""
    return all(offered.get(name, 0.0) >= amount for name, amount in wanted.items())
