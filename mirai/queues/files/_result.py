"""What there is to know of a queue and its tasks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """How a task stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its worker is gone: it may have run, in part or whole."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens to it by itself."""
        return self in (State.DONE, State.FAILED, State.ABANDONED)


@dataclass(frozen=True, slots=True)
class Counts:
    """How many tasks of a queue there are in each state."""

    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    abandoned: int = 0
    """Their workers are gone; ``Queue.requeue_expired`` puts them back."""

    @property
    def total(self) -> int:
        """How many there are."""
        return self.waiting + self.running + self.done + self.failed + self.abandoned

    def __str__(self) -> str:
        return (
            f"{self.waiting:,} waiting, {self.running:,} running, {self.done:,} done,"
            f" {self.failed:,} failed, {self.abandoned:,} abandoned"
        )


@dataclass(frozen=True, slots=True)
class QueueResult:
    """A task of a queue, and what has come of it."""

    key: int
    name: str
    """What it calls, or what it was called by its caller."""
    state: State
    value: Any = field(default=None, repr=False)
    """What it has returned; None where it has not."""
    error: BaseException | None = None
    """What it has raised, or the DaemonCrashed that says how its worker was lost."""
    attempt: int = 0
    """How often it has begun."""
    host: str = ""
    """Where it ran last, or runs."""
    pid: int = 0
    seconds: float = 0.0
    """For how long it ran; 0: not known."""
    dropped: int = 0
    """How many answers were dropped, since they came from workers that had lost it to others."""
    log: str = field(default="", repr=False)
    """The last 8 KiB of what it has printed; of an abandoned one, the last that its worker has."""

    @property
    def ok(self) -> bool:
        """Whether it has returned something."""
        return self.state is State.DONE

    def unwrap(self) -> Any:
        """Return what it has returned, or raise its error.

        Raises TimeoutError where it has not ended yet.
        """
        if self.error is not None:
            raise self.error
        if not self.state.is_over:
            raise TimeoutError(f"task {self.key} ({self.name}) has not ended: it is {self.state}")
        return self.value
