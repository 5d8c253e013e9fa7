"""What a controller knows of its tasks: who has which name, what has ended, what was taken.  Pure.

It is for one thread at a time; whoever has it has a lock.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar

from mirai.controllers._status import Status


class Named(Protocol):
    """A task, as far as it matters here."""

    name: str
    is_claimed: bool
    """Whether somebody waits for this one: then it is for no ``pop``."""
    is_drawn: bool
    """Whether its name was drawn: then no other will ever have it."""
    is_over: bool
    """Whether it has ended, or was withdrawn."""


class Counts(NamedTuple):
    """How many tasks stand how, all at one moment."""

    unresolved: int
    """Those that have not ended."""
    unpopped: int
    """Those that have ended and were not taken."""
    resolved: int
    """Those that have ended so far."""


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


N = TypeVar("N", bound=Named)


@dataclass(slots=True)
class Book(Generic[N]):
    """The tasks of one controller.

    Ctrl-C may come in the middle of ``add`` and of ``remove``, and leaves them done or not done.
    """

    names: dict[str, N] = field(default_factory=dict)
    """Those that were pushed and not taken."""
    unpopped: deque[N] = field(default_factory=deque)
    """Those of them that have ended, in the order of their ends."""
    ends: Counter[Status] = field(default_factory=Counter)
    crashes: Counter[str] = field(default_factory=Counter)
    """How often a task of this name has crashed since it last ended otherwise."""
    backlog: deque[str] = field(default_factory=deque)
    seconds: float = 0.0
    warnings: int = 0
    _drawn: int = 0

    def add(self, task: N) -> None:
        """A task is pushed.  Raises ValueError if another one has its name."""
        if task.name in self.names:
            raise ValueError(
                f"a task {task.name!r} is there already; its name is free once it was popped"
            )
        self.names[task.name] = task

    def withdraw(self, task: N) -> None:
        """It could not be sent after all, or nobody knows of it."""
        if self.names.get(task.name) is task and not task.is_over:
            task.is_over = True
            del self.names[task.name]

    def draw_name(self, stem: str) -> str:
        """Return a name that nobody has."""
        while True:
            self._drawn += 1
            name = f"{stem}-{self._drawn}"
            if name not in self.names:
                return name

    def failed_once(self, task: N, status: Status) -> None:
        """An attempt has not succeeded."""
        if status is Status.CRASH:
            self.crashes[task.name] += 1
        else:
            self.crashes.pop(task.name, None)

    def resolve(self, task: N, status: Status) -> None:
        """A task has ended, once and for all; of one that was withdrawn nobody is told."""
        if task.is_over:
            return
        task.is_over = True
        self.ends[status] += 1
        if task.is_drawn or status is not Status.CRASH:
            self.crashes.pop(task.name, None)
        if task.is_claimed:
            self.names.pop(task.name, None)
        else:
            self.unpopped.append(task)

    def first(self) -> N | None:
        """Return what has ended first and was not taken; None if there is none."""
        return self.unpopped[0] if self.unpopped else None

    def remove(self, task: N) -> bool:
        """Take what is the first; return False if somebody else has."""
        if self.first() is not task:
            return False
        self.names.pop(task.name, None)
        self.unpopped.popleft()
        return True

    def looked_at(self, seconds: float, warnings: int, *, unreadable: bool = False) -> None:
        """Somebody has a result now; it was a success that is ``unreadable`` here."""
        self.seconds += seconds
        self.warnings += warnings
        if unreadable:
            self.ends[Status.SUCCESS] -= 1
            self.ends[Status.ERROR] += 1

    def counts(self) -> Counts:
        """Return how many there are."""
        unpopped = len(self.unpopped)
        return Counts(len(self.names) - unpopped, unpopped, self.ends.total())

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
        return [self.backlog.popleft() for _ in range(min(max(0, room), len(self.backlog)))]

    def summary(self, controller: str) -> Summary:
        """Return what has become of them."""
        counts = self.counts()
        ends = {str(status): self.ends[status] for status in Status}
        return Summary(
            controller,
            counts.resolved,
            **ends,
            seconds=self.seconds,
            warnings=self.warnings,
            unresolved=counts.unresolved,
        )
