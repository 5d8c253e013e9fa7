"""What can be said about a task of a queue besides what it calls."""

from __future__ import annotations

from dataclasses import dataclass

from mirai._options import TaskOptions


@dataclass(frozen=True, slots=True)
class QueueOptions:
    """The options of one task; see ``Queue.options``.  Raises TypeError or ValueError."""

    retries: int = 0
    retry_on: tuple[type[BaseException], ...] = ()
    priority: int = 0
    name: str | None = None

    def __post_init__(self) -> None:
        TaskOptions(
            retries=self.retries,
            retry_on=self.retry_on,
            priority=self.priority,
            name=self.name,
        )


DEFAULTS = QueueOptions()
