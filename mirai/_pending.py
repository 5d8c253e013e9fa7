"""The mirais that have been sent and not answered, by task id.

One thread owns an instance.  A mirai leaves it exactly once: with its outcome, because it was
cancelled, or because the connection is lost.  For those of a lot the lot stands in, as long as
nobody has asked for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
from mirai._future import Mirai, settle_values
from mirai._lot import Lot
from mirai._story import events

Inquire = Callable[[Crash, Callable[[Crash], None]], None]
"""Asks a platform why a job of its has ended, and calls the function with what is known then."""

_DECLINED = "the dispatcher is shutting down, and takes no more tasks"


class Pending:
    """Task id -> mirai."""

    def __init__(self, inquire: Inquire | None = None) -> None:
        """``inquire`` is asked about the crash of a daemon that is a job, before that is told."""
        self._inquire = inquire
        self._mirais: dict[int, Mirai[Any] | Lot[Any]] = {}

    def __len__(self) -> int:
        return len(self._mirais)

    def add(self, mirai: Mirai[Any]) -> None:
        """Wait for this mirai's outcome."""
        self._mirais[mirai.id] = mirai

    def add_lot(self, lot: Lot[Any]) -> None:
        """Wait for the outcomes of all its tasks."""
        self._mirais.update(dict.fromkeys(range(lot.id, lot.id + len(lot)), lot))

    def get(self, id: int) -> Mirai[Any] | None:
        """Return a mirai that is waited for; None if it is not."""
        found = self._mirais.get(id)
        return found.find(id) if isinstance(found, Lot) else found

    def pop(self, id: int) -> Mirai[Any] | None:
        """Return a mirai that was waited for, and wait for it no longer; None if it was not."""
        found = self._mirais.pop(id, None)
        return found.find(id) if isinstance(found, Lot) else found

    def since(self, id: int) -> list[Mirai[Any]]:
        """Return the mirais that are younger than this id."""
        young = (self.get(number) for number in self._mirais if number > id)
        return [mirai for mirai in young if mirai is not None]

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Settle the mirais of these outcomes.  Unknown ids are late answers, and dropped."""
        now = time()
        for outcome in outcomes:
            if outcome.kind is Kind.VALUE and not outcome.blobs:
                self._settle_values(outcome, now)
                continue
            mirai = self.pop(outcome.id)
            if mirai is None:
                continue
            mirai.annotate(outcome.log, events(outcome.story, now))
            if outcome.kind is Kind.VALUE or outcome.kind is Kind.ERROR:
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
                self._crash(mirai, outcome.crash or Crash("the daemon died"))

    def _crash(self, mirai: Mirai[Any], crash: Crash) -> None:
        """Settle a mirai whose daemon has died: at once, or when the platform has told why."""

        def settle(crash: Crash) -> None:
            mirai.settle(_with_story(_crashed(crash), mirai))

        if crash.job and self._inquire is not None:
            self._inquire(crash, settle)
        else:
            settle(crash)

    def _settle_values(self, outcome: Outcome, now: float) -> None:
        """Settle one mirai, or those of a run, all with values."""
        log, told = outcome.log, events(outcome.story, now)
        payloads = (outcome.payload, *outcome.following)
        ids = range(outcome.id, outcome.id + len(payloads))
        pop = self._mirais.pop
        found = [pop(id, None) for id in ids]
        if not self._mirais:
            self._mirais.clear()  # which gives back the memory of those that were there
        first = found[0]
        if isinstance(first, Lot) and found.count(first) == len(found):
            first.settle(outcome.id, payloads, now, log, told)
            return
        values = []
        for id, mirai, payload in zip(ids, found, payloads, strict=True):
            if isinstance(mirai, Lot):
                mirai.settle(id, (payload,), now, log, told)
            elif mirai is not None:
                mirai.annotate(log, told)
                values.append((mirai, payload))
        settle_values(values, now)

    def lose(self, error: MiraiError, *, cancelled: bool = False) -> None:
        """Settle all of them with ``error``."""
        lost = [mirai for id in list(self._mirais) if (mirai := self.pop(id)) is not None]
        for mirai in lost:
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
        job=crash.job,
    )
