"""What a controller knows of its tasks: who has which name, what has ended, what was taken.  Pure.

It is for one thread at a time; whoever has it has a lock.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Protocol

from mirai.controllers._status import Status


class Named(Protocol):
    """A task, as far as it matters here."""

    name: str
    is_claimed: bool
    """Whether somebody waits for this one: then it is for no ``pop``."""


@dataclass(frozen=True, slots=True)
class Summary:
    """How many tasks of a controller have ended, in which way.

    ``tasks`` have ended, of which ``success error crash cancel timeout`` say how; ``seconds`` is
    how long those ran, and ``warnings`` how many they raised, whose results were looked at.
    """

    controller: str
    tasks: int = 0
    success: int = 0
    error: int = 0
    crash: int = 0
    cancel: int = 0
    timeout: int = 0
    seconds: float = 0.0
    warnings: int = 0
    unresolved: int = 0

    def __str__(self) -> str:
        ends = ", ".join(f"{getattr(self, each)} {each}" for each in Status if getattr(self, each))
        text = f"{self.controller}: {self.tasks} tasks have ended"
        text += f" ({ends})" if ends else ""
        text += f" after {self.seconds:.3g} s of work"
        text += f", with {self.warnings} warnings" if self.warnings else ""
        return text + (f"; {self.unresolved} to come" if self.unresolved else "")


@dataclass(slots=True)
class Book:
    """The tasks of one controller."""

    names: dict[str, Named] = field(default_factory=dict)
    """Those that were pushed and not taken."""
    unpopped: deque[Named] = field(default_factory=deque)
    """Those that have ended, in the order of their ends, and wait to be taken."""
    unresolved: int = 0
    ends: Counter[Status] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    """How often a task of this name has crashed since it last ended otherwise."""
    backlog: deque[str] = field(default_factory=deque)
    seconds: float = 0.0
    warnings: int = 0
    _drawn: int = 0

    def add(self, task: Named) -> None:
        """A task is pushed.  Raises ValueError if another one has its name."""
        if task.name in self.names:
            raise ValueError(
                f"a task {task.name!r} is there already; its name is free once it was popped"
            )
        self.names[task.name] = task
        self.unresolved += 1

    def withdraw(self, task: Named) -> None:
        """It could not be sent after all."""
        del self.names[task.name]
        self.unresolved -= 1

    def draw_name(self, stem: str) -> str:
        """Return a name that nobody has."""
        while True:
            self._drawn += 1
            name = f"{stem}-{self._drawn}"
            if name not in self.names:
                return name

    def failed_once(self, task: Named, status: Status) -> None:
        """An attempt has not succeeded."""
        if status is Status.CRASH:
            self.crashes[task.name] += 1
        else:
            self.crashes.pop(task.name, None)

    def resolve(self, task: Named, status: Status) -> None:
        """A task has ended, once and for all."""
        self.unresolved -= 1
        self.ends[status] += 1
        if status is not Status.CRASH:
            self.crashes.pop(task.name, None)
        if task.is_claimed:
            self.names.pop(task.name, None)
        else:
            self.unpopped.append(task)

    def take(self) -> Named | None:
        """Return what has ended first and was not taken; None if there is none."""
        if not self.unpopped:
            return None
        task = self.unpopped.popleft()
        del self.names[task.name]
        return task

    def looked_at(self, seconds: float, warnings: int) -> None:
        """Somebody has looked at a result."""
        self.seconds += seconds
        self.warnings += warnings

    def size(self) -> int:
        """Return how many were pushed and not taken."""
        return self.unresolved + len(self.unpopped)

    def resolved(self) -> int:
        """Return how many have ended so far."""
        return self.ends.total()

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
        return [self.backlog.popleft() for _ in range(min(max(0, room), len(self.backlog)))]

    def summary(self, controller: str) -> Summary:
        """Return the counts."""
        ends = {str(status): self.ends[status] for status in Status}
        return Summary(
            controller,
            self.resolved(),
            **ends,
            seconds=self.seconds,
            warnings=self.warnings,
            unresolved=self.unresolved,
        )
