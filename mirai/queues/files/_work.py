"""Work on a queue, one task after the other: in a worker's process, or in whoever joins alone."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dispatcher.log import Guarded
from mirai._errors import SerializationError, StoreError
from mirai._evaluate import Evaluator, tell
from mirai._here import evaluate_here
from mirai._serialize import pack
from mirai.queues.files._parcel import answer_of, flat, function_of, task_of
from mirai.queues.files._row import Row, Who
from mirai.queues.files._table import MOST, Answer, Table

if TYPE_CHECKING:
    from types import TracebackType

logger = Guarded("mirai")

TTL = 60.0
"""Seconds for which a lease is given, and renewed: more than clocks of machines differ."""
RENEWALS = 3
"""How often it is renewed in this time."""
SOON, LATER = 0.2, 1.0
"""How soon a worker looks again for tasks to come back, in seconds: at first, and after a while."""


def new_worker() -> Who:
    """Return who we are, as a worker that there has not been before."""
    return Who(os.urandom(8).hex(), socket.gethostname(), os.getpid())


def failure(error: BaseException) -> Answer:
    """Return the answer of a task that has raised this."""
    return Answer(ok=False, payload=flat(pack(tell(error))))


class Workshop:
    """Evaluates tasks of a queue in this thread."""

    def __init__(self, table: Table, evaluator: Evaluator) -> None:
        self._table = table
        self._evaluator = evaluator
        self._known: set[int] = set()

    def evaluate(self, row: Row, call: bytes, log: Callable[[], str] = str) -> Answer:
        """Return what comes of a task; ``log`` returns what it has printed.

        Raises what the evaluator lets through, and StoreError.
        """
        if row.function not in self._known:
            self._learn(row.function)
        answer = answer_of(evaluate_here(self._evaluator, task_of(row, call)), log())
        if len(answer.payload) <= MOST:
            return answer
        size = f"{len(answer.payload):,} bytes"
        return failure(SerializationError(f"{size} do not fit into a queue: return a file's name"))

    def _learn(self, number: int) -> None:
        definition = self._table.function(number)
        have = {os.path.abspath(entry) for entry in sys.path}
        sys.path += [entry for entry in definition.path.split("\0") if entry and entry not in have]
        self._evaluator.learn((function_of(number, definition),), ())
        self._known.add(number)


class Worker:
    """Takes task after task until there is nothing left to do."""

    def __init__(
        self,
        table: Table,
        who: Who,
        evaluator: Evaluator,
        *,
        ttl: float,
        begins: Callable[[int], None] = lambda _: None,
        log: Callable[[], str] = str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``begins`` is told of each task before it begins, and of 0 once its answer is kept.

        ``log`` returns what the last one has printed.
        """
        self._table = table
        self._who = who
        self._evaluator = evaluator
        self._workshop = Workshop(table, evaluator)
        self._ttl = ttl
        self._begins = begins
        self._log = log
        self._clock = clock
        self.is_leaving = False
        """Whether it is to take no more tasks."""

    def run(self) -> None:
        """Work until no task waits, and none that runs could come back; or until it is to leave.

        Raises StoreError, and what the evaluator lets through.
        """
        claim = self._find()
        while claim is not None:
            claim = self._turn(*claim) or self._find()

    def _turn(self, row: Row, call: bytes) -> tuple[Row, bytes] | None:
        """Do a task; return the next one, if there is one at once."""
        self._begins(row.id)
        answer = self._workshop.evaluate(row, call, self._log)
        kept, claim = self._table.turn(
            *(row, self._who, answer, self._clock(), self._ttl), more=not self.is_leaving
        )
        self._begins(0)
        if not kept:
            logger.warning(
                "task %d (%s) was taken from us while it ran: what it gave is dropped",
                *(row.id, row.name),
            )
        self._evaluator.clean_up(hurry=claim is not None)
        return claim

    def _find(self) -> tuple[Row, bytes] | None:
        """Wait for a task, and return it; None when there is nothing to wait for."""
        pause = SOON
        while not self.is_leaving:
            now = self._clock()
            claim = self._table.claim(self._who, now, self._ttl)
            if claim is not None:
                return claim
            if not self._table.requeue(now, allowed=True):
                if self._table.is_over():
                    break
                time.sleep(pause)  # nobody tells of a change in a file
                pause = min(LATER, 1.3 * pause)
        return None


class Heart:
    """Renews a lease for the time of a block, from a thread of its own.

    Code that keeps all other threads from running for longer than a lease lasts loses it.
    """

    def __init__(self, table: Table, who: Who, ttl: float, clock: Callable[[], float]) -> None:
        self._table = table
        self._who = who
        self._ttl = ttl
        self._clock = clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="mirai-lease", daemon=True)

    def __enter__(self) -> Heart:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _beat(self) -> None:
        while not self._over.wait(self._ttl / RENEWALS):
            try:
                self._table.renew([self._who.id], self._clock(), self._ttl)
            except StoreError as error:
                logger.warning("a lease could not be renewed: %s", error)
