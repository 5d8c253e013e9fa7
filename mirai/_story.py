"""What ``Mirai.story()`` returns."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from dispatcher.log import printable
from dispatcher.messages import Step


class Event(NamedTuple):
    """One thing that has happened to a task."""

    time: float
    """When, in seconds since the epoch."""
    what: str


@dataclass(frozen=True, slots=True)
class Story:
    """The life of one task, oldest event first; ``print`` shows it as a few lines.

    Each of its ``events`` has a ``time``, in seconds since the epoch and by this machine's clock,
    and says in words ``what`` has happened; see ``Mirai.story``.
    """

    id: int
    name: str
    events: tuple[Event, ...]

    def __str__(self) -> str:
        if not self.events:
            return f"task {self.id} ({printable(self.name)})"
        start = self.events[0].time
        when = datetime.fromtimestamp(start).isoformat(" ", "milliseconds")
        lines = [f"task {self.id} ({self.name}), {when}"]
        lines += [f"{event.time - start:>10.3f} s  {event.what}" for event in self.events]
        return "\n".join(map(printable, lines))


def events(steps: Iterable[Step], now: float) -> tuple[Event, ...]:
    """Return what the dispatcher has told, at ``now``."""
    return tuple(Event(now - step.ago, step.what) for step in steps)
