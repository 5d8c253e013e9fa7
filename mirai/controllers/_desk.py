"""What a controller and a group of them have in common, for the faces that users see."""

from __future__ import annotations

from typing import Any, Protocol

from mirai.controllers._book import Counts
from mirai.controllers._options import Push
from mirai.controllers._result import TaskResult
from mirai.controllers._task import Task
from mirai.controllers._waiters import Waiters


class Desk(Protocol):
    """Where tasks are pushed, and results are taken."""

    name: str
    waiters: Waiters

    def start(self) -> None:
        """Start what is not started."""

    def close(self) -> None:
        """End all."""

    def push(self, push: Push) -> Task:
        """Send a task."""

    def take(self) -> TaskResult[Any] | None:
        """Return what has ended first and was not taken; None if there is none."""

    def counts(self) -> Counts:
        """Return how many tasks stand how, at one moment."""

    def cancel(self, names: tuple[str, ...] | None) -> int:
        """Cancel those of these names, or all; return how many that were."""

    def most(self) -> int:
        """Return how many workers there can be."""

    def crashes(self, name: str) -> int:
        """Return how often a task has crashed since it last ended otherwise."""

    def push_backlog(self, name: str) -> None:
        """Remember a name."""

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
