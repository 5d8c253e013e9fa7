"""The mirais that have been sent and not answered, by task id.

One thread owns an instance.  A mirai leaves it exactly once: with its outcome, because it was
cancelled, or because the connection is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import time
from typing import Any

from dispatcher.messages import Crash, Kind, Outcome
from mirai._answer import Failure, Pickled
from mirai._errors import (
    DaemonCrashed,
    DispatcherLost,
    MiraiError,
    TaskCancelled,
    TaskTimeout,
    again,
)
from mirai._future import Mirai
from mirai._story import events

_DECLINED = "the dispatcher is shutting down, and takes no more tasks"


class Pending:
    """Task id -> mirai."""

    def __init__(self) -> None:
        self._mirais: dict[int, Mirai[Any]] = {}

    def __len__(self) -> int:
        return len(self._mirais)

    def add(self, mirai: Mirai[Any]) -> None:
        """Wait for this mirai's outcome."""
        self._mirais[mirai.id] = mirai

    def get(self, id: int) -> Mirai[Any] | None:
        """Return a mirai that is waited for; None if it is not."""
        return self._mirais.get(id)

    def remove(self, id: int) -> bool:
        """Wait for it no longer; return whether it was waited for."""
        return self._mirais.pop(id, None) is not None

    def since(self, id: int) -> list[Mirai[Any]]:
        """Return the mirais that are younger than this id."""
        return [mirai for number, mirai in self._mirais.items() if number > id]

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Settle the mirais of these outcomes.  Unknown ids are late answers, and dropped."""
        now = time()
        for outcome in outcomes:
            if outcome.following:
                self._settle_run(outcome, now)
                continue
            mirai = self._mirais.pop(outcome.id, None)
            if mirai is None:
                continue
            if outcome.log:
                mirai._log = outcome.log
            if outcome.story:
                mirai._told = events(outcome.story, now)
            if outcome.kind is Kind.VALUE and not outcome.blobs:
                mirai.settle(outcome.payload, now)
            elif outcome.kind is Kind.VALUE or outcome.kind is Kind.ERROR:
                mirai.settle(Pickled(outcome.kind, outcome.payload, outcome.blobs), now)
            elif outcome.kind is Kind.CANCELLED:
                mirai.settle(
                    Failure(TaskCancelled(f"task {mirai.id} ({mirai.name}) was cancelled")),
                    cancelled=True,
                )
            elif outcome.kind is Kind.TIMEOUT:
                late = TaskTimeout(f"task {mirai.id} ({mirai.name}) did not end in time")
                mirai.settle(_with_story(late, mirai))
            elif outcome.kind is Kind.DECLINED:
                mirai.settle(Failure(DispatcherLost(f"{mirai!r}: {_DECLINED}")))
            else:
                crash = _crashed(outcome.crash or Crash("the daemon died"))
                mirai.settle(_with_story(crash, mirai))

    def _settle_run(self, outcome: Outcome, now: float) -> None:
        """Settle the mirais of a run, all with values."""
        for id, payload in enumerate((outcome.payload, *outcome.following), outcome.id):
            if (mirai := self._mirais.pop(id, None)) is not None:
                mirai.settle(payload, now)

    def lose(self, error: MiraiError, *, cancelled: bool = False) -> None:
        """Settle all of them with ``error``."""
        mirais, self._mirais = self._mirais, {}
        for mirai in mirais.values():
            mirai.settle(Failure(again(error)), cancelled=cancelled)


def _with_story(error: MiraiError, mirai: Mirai[Any]) -> Failure:
    """Return the answer of a mirai that fails with this, which tells how it came to that."""
    error.add_note(str(mirai.story_with(mirai._told)))
    return Failure(error)


def _crashed(crash: Crash) -> DaemonCrashed:
    return DaemonCrashed(
        crash.reason,
        exit_status=crash.exit,
        host=crash.host,
        pid=crash.pid,
        attempt=crash.attempt,
        output=crash.tail,
    )
