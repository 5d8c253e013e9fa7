"""A task's row, and what becomes of it: pure functions from one row to the next.

A task waits, is leased to a worker, and is done or has failed.  A lease ends at its deadline, by
the clocks of all who look, unless it is renewed.  A task whose lease has ended is *abandoned*: it
may have run, in part or whole, so that only its caller may have it run again: by retries that he
has allowed beforehand, or by saying so.  What surely has not begun is put back where it was.

Whoever has lost his lease to another has no say any more: the number of the attempt tells.
"""

from __future__ import annotations

from typing import NamedTuple
from zlib import crc32

from mirai.queues.files._result import State


class Who(NamedTuple):
    """A worker, or whoever else holds leases."""

    id: str
    """Unlike any other's."""
    host: str
    pid: int


class Row(NamedTuple):
    """A task as it stands; ``sum`` is of all the rest."""

    id: int
    function: int
    name: str
    priority: int
    retries: int
    pushed: float
    state: str = State.WAITING.value
    attempt: int = 0
    """How often it was leased and may have begun."""
    worker: str = ""
    host: str = ""
    pid: int = 0
    deadline: float = 0.0
    """When its lease ends, in seconds since the epoch; 0: it has ended."""
    reason: str = ""
    """Why its worker has ended, if it has."""
    exit: int | None = None
    output: str = ""
    dropped: int = 0
    """How many answers came from workers that had lost it."""
    sum: int = 0

    def is_abandoned(self, now: float) -> bool:
        """Whether its lease has ended."""
        return self.state == State.RUNNING and self.deadline <= now

    def may_run_again(self) -> bool:
        """Whether its caller has allowed it to run once more than it has."""
        return self.attempt <= self.retries

    def is_of(self, who: Who, attempt: int) -> bool:
        """Whether this attempt holds its lease, or has let it end without losing it."""
        return self.state == State.RUNNING and (self.worker, self.attempt) == (who.id, attempt)

    def seen(self, now: float) -> State:
        """Return its state as people are told."""
        return State.ABANDONED if self.is_abandoned(now) else State(self.state)

    def summed(self) -> Row:
        """Return it with its sum."""
        return self._replace(sum=crc32(repr(self[:-1]).encode()))

    def is_whole(self) -> bool:
        """Whether it is as it was written."""
        return self.sum == crc32(repr(self[:-1]).encode())


def leased(row: Row, who: Who, now: float, ttl: float) -> Row:
    """It is a worker's now, for ``ttl`` seconds."""
    return row._replace(
        state=State.RUNNING.value,
        attempt=row.attempt + 1,
        worker=who.id,
        host=who.host,
        pid=who.pid,
        deadline=now + ttl,
        reason="",
        exit=None,
        output="",
    )


def ended(row: Row, *, ok: bool) -> Row:
    """It has an answer."""
    return row._replace(state=(State.DONE if ok else State.FAILED).value, deadline=0.0)


def waiting(row: Row) -> Row:
    """It may be leased again."""
    return row._replace(state=State.WAITING.value, worker="", deadline=0.0)


def put_back(row: Row) -> Row:
    """It has not begun: as if it had never been leased."""
    return waiting(row)._replace(attempt=row.attempt - 1)


def unheard(row: Row) -> Row:
    """A worker that had lost it has answered it."""
    return row._replace(dropped=row.dropped + 1)


def lapsed(row: Row, reason: str, exit: int | None, output: str) -> Row:
    """Its worker has ended in the middle of it."""
    return row._replace(deadline=0.0, reason=reason, exit=exit, output=output)
