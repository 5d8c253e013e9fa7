"""Boards: shared tables of tasks that workers pull from, add to and read.

What is here is common to all stores of boards: the rows, the states, and what a store can do.
Times are seconds since the epoch, on the store's own clock, so that workers' clocks do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Protocol

import msgspec


class TaskState(StrEnum):
    """Where a task is.  The last three are ends: the first writer wins, and nothing follows."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    LOST = "lost"
    """Its worker is gone, so that nobody knows how far it came."""


class WorkerState(StrEnum):
    """What has become of a worker."""

    RUNNING = "running"
    TERMINATED = "terminated"
    """It has left by itself, or because it was asked to."""
    KILLED = "killed"
    """It was ended from outside, on purpose."""
    LOST = "lost"
    """It has not been heard of in time."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One task.  What it holds is opaque to a store."""

    key: str
    xs: bytes
    state: TaskState = TaskState.QUEUED
    ys: bytes = b""
    """What came of it; of one that failed, its error."""
    condition: str = ""
    """Why it failed or was lost, in words."""
    worker: str = ""
    """Who has or had it; of one that is queued, for whom it is pinned, or empty: for all."""
    priority: int = 0
    """Higher ones first, then first in first out."""
    tries: int = 0
    """How often it was taken."""
    pushed: float = 0.0
    started: float = 0.0
    ended: float = 0.0


class End(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How a task that is running is to end."""

    key: str
    state: TaskState
    ys: bytes = b""
    condition: str = ""


class Worker(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One worker, as it introduced itself, and what has become of it."""

    id: str
    host: str = ""
    pid: int = 0
    state: WorkerState = WorkerState.RUNNING
    patience: float = 0.0
    """After how many seconds without a sign of life it is lost; 0: never."""
    heard: float = 0.0
    started: float = 0.0
    ended: float = 0.0
    reason: str = ""


class Tally(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How many tasks and workers are in each state, at one moment."""

    queued: int = 0
    running: int = 0
    finished: int = 0
    failed: int = 0
    lost: int = 0
    workers: int = 0
    """Those that are running."""
    changes: int = 0
    """A number that grows with every change of a task or a worker, so that one can wait for one."""


class Store(Protocol):
    """What every store of a board can do.  Each call is atomic, and may be made from any thread.

    What it refuses is a BoardError of ``mirai``, NotRunning where a worker is not (any more), and
    changes nothing.  Where it cannot be reached, calls raise StoreError.
    """

    def push(self, rows: Sequence[Row]) -> None:
        """Add tasks, queued; one with a ``worker`` only for that one, which must be running.

        Those whose ``worker`` is not running are for all.  Raises BoardError if a key is there
        already, or twice among these.
        """

    def create(self, worker: str, rows: Sequence[Row]) -> None:
        """Add tasks that this worker is running already: it has made them itself.

        Raises NotRunning if the worker is not (it was declared lost, say), and BoardError if a key
        is there already.
        """

    def pop(self, worker: str, timeout: float = 0.0) -> Row | None:
        """Give this worker the next task, which is running from now on; None: none in time.

        Those that are pinned to it come before those that are for all; among each, higher
        priorities first, then first in first out.  It is taken and marked at once: no task can be
        lost in between.  ``timeout`` in seconds.  Raises NotRunning, also while it waits, if the
        worker is to leave, was declared lost or has ended.
        """

    def end(self, worker: str, ends: Sequence[End]) -> list[bool]:
        """End tasks of this worker; return which of them it still had, and so have ended.

        What it has not (any more) is left as it is.
        """

    def withdraw(self, keys: Sequence[str] | None, condition: str) -> int:
        """Fail tasks that are queued (None: all), for this reason; return how many."""

    def rows(self, keys: Sequence[str]) -> list[Row | None]:
        """Return these tasks; None for those that are not there."""

    def keys(self, states: Sequence[TaskState]) -> list[str]:
        """Return the keys of the tasks in these states, in the order in which they were pushed."""

    def ended(self, start: int, count: int) -> tuple[list[str], int]:
        """Return the keys of so many tasks at most, in the order in which they ended.

        They are those from ``start`` on: 0 for the first, and then what was returned beside the
        keys.  Who has read some before a ``reset`` gets all that have ended since.
        """

    def tally(self) -> Tally:
        """Return the counts."""

    def wait(self, changes: int, timeout: float) -> Tally:
        """Wait until ``Tally.changes`` is not this any more, for so many seconds; return it."""

    def enter(self, worker: Worker) -> None:
        """Know a worker from now on, as running.  Raises BoardError if its id was used before."""

    def beat(self, worker: str) -> bool:
        """Say that this worker is alive; return whether it shall go on."""

    def leave(self, worker: str, state: WorkerState, reason: str = "", *, most: int = 0) -> bool:
        """Note that a worker has ended; return whether it ran.

        What it was running is queued again at its old place where it was taken less than ``most``
        times, and lost otherwise.  What was pinned to it is for all.
        """

    def ask_to_leave(self, workers: Sequence[str] | None) -> None:
        """Have these (None: all) leave after the task that they are on.

        ``beat`` tells them, and ``pop`` raises.
        """

    def find_lost(self, *, most: int = 0) -> list[str]:
        """Declare those lost that were not heard of in time; return their ids.

        What becomes of their tasks is as in ``leave``.
        """

    def workers(self) -> list[Worker]:
        """Return all workers that there have been, in the order in which they came."""

    def log(self, worker: str, lines: Sequence[str]) -> None:
        """Keep lines that a worker has logged: the last thousands of them."""

    def logged(self, worker: str | None, last: int) -> list[tuple[float, str, str]]:
        """Return the last lines, of one worker or of all: when, by whom, and what."""

    def put(self, name: str, data: bytes) -> None:
        """Keep an object for everybody, in the place of what had the name."""

    def get(self, name: str) -> bytes | None:
        """Return an object; None if there is none with this name."""

    def reset(self) -> None:
        """Forget everything: tasks, workers, logs and objects.

        ``Tally.changes`` grows nevertheless.
        """

    def close(self) -> None:
        """Give back connections.  Idempotent."""
