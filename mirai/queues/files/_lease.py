"""A task of a queue that was taken by hand."""

from __future__ import annotations

import time
from bdb import BdbQuit
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dispatcher.log import Guarded
from mirai._errors import LeaseLost
from mirai._evaluate import Evaluator
from mirai._serialize import pack, unpack
from mirai.queues.files._parcel import flat, read, unflat
from mirai.queues.files._row import Row, Who
from mirai.queues.files._table import Answer, Table
from mirai.queues.files._work import Heart, Workshop, failure

if TYPE_CHECKING:
    from types import TracebackType

logger = Guarded("mirai")

INTERRUPTED = "it was interrupted where it was worked on"


def evaluator_here() -> Evaluator:
    """Return what evaluates in the user's own process, and lets Ctrl-C and debuggers through."""
    return Evaluator((KeyboardInterrupt, BdbQuit), lasting=False, seeds=False)


class Lease:
    """A task that is ours until it is answered, put back, or until the lease ends.

    As a context manager it renews the lease while the block runs.  A block that ends without an
    answer puts the task back; one that ends by an exception lets it fail with that, or, with
    ``put_back``, puts it back too; and Ctrl-C leaves it abandoned.
    """

    def __init__(
        self,
        table: Table,
        who: Who,
        claim: tuple[Row, bytes],
        *,
        ttl: float,
        put_back: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._who = who
        self._row, self._call = claim
        self._puts_back = put_back
        self._heart = Heart(table, who, ttl, clock)
        self._over = False

    def __repr__(self) -> str:
        return f"<Lease of task {self.key} {self.name}: {'over' if self._over else 'held'}>"

    @property
    def key(self) -> int:
        """The task's key."""
        return self._row.id

    @property
    def name(self) -> str:
        """What it calls, or what it was called by its caller."""
        return self._row.name

    @property
    def attempt(self) -> int:
        """Which run of the task this is, from 1."""
        return self._row.attempt

    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and keywords of the call.  Raises what their unpickling raises."""
        args, kwargs, *_ = unpack(*unflat(self._call))
        return args, kwargs

    def __call__(self) -> Any:
        """Run the task here and answer it; return what it returns, or raise its error.

        Raises LeaseLost if somebody else has it by now.
        """
        self._check_held()
        workshop = Workshop(self._table, evaluator_here())
        answer = workshop.evaluate(self._row, self._call)
        self._settle(answer)
        return read(answer)

    def finish(self, value: object = None) -> None:
        """Answer the task by a value.  Raises SerializationError, and LeaseLost."""
        self._check_held()
        self._settle(Answer(ok=True, payload=flat(pack(value))))

    def fail(self, error: BaseException) -> None:
        """Answer the task by an error.  Raises LeaseLost."""
        self._check_held()
        self._settle(failure(error))

    def put_back(self) -> None:
        """Let the task wait again, as if it had never been taken.  Raises LeaseLost."""
        self._check_held()
        self._over = True
        if not self._table.put_back(self._row, self._who):
            raise self._lost()

    def _settle(self, answer: Answer) -> None:
        self._over = True
        if not self._table.settle(self._row, self._who, answer):
            raise self._lost()

    def _check_held(self) -> None:
        if self._over:
            raise RuntimeError(f"task {self.key} ({self.name}) has been answered or put back")

    def _lost(self) -> LeaseLost:
        return LeaseLost(
            f"task {self.key} ({self.name}) was taken back from us while we had it: its lease had"
            " ended; what we had to say about it was dropped"
        )

    def __enter__(self) -> Lease:
        self._heart.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._heart.__exit__(kind, error, at)
        if self._over:
            return
        if error is None:
            self.put_back()
            return
        try:
            self._leave_by(error)
        except LeaseLost as lost:
            logger.warning("%s", lost)

    def _leave_by(self, error: BaseException) -> None:
        if not isinstance(error, Exception):
            self._over = True
            self._table.bury(self._who.id, self.key, INTERRUPTED)
        elif self._puts_back:
            self.put_back()
        else:
            self.fail(error)
