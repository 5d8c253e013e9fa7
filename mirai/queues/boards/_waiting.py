"""Waiting for tasks of a board to end, without asking it too often."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from enum import Enum, auto

from dispatcher.boards import Store, Tally, TaskState
from mirai._errors import BoardError
from mirai.queues.boards._crew import Crew
from mirai.queues.boards._view import SLICE

LOOK = 1.0
"""Seconds between two looks, at most: workers may be lost without a word."""
STEP = 0.001
PAUSE = 0.05
"""Seconds between two looks, at least: a step more each time, and so nothing for who waits for one
task, up to this, for who waits while thousands end."""
QUIET = 0.1
"""Seconds without a change after which it is nothing again."""


class Outlook(Enum):
    """What is to be expected."""

    OPEN = auto()
    ENDED = auto()
    HOPELESS = auto()
    """No worker runs, and none is on its way from here."""


class Watch:
    """Somebody who waits for tasks: ``look``, and where that is open, ``rest``."""

    def __init__(
        self,
        store: Store,
        crews: Collection[Crew],
        detect_lost: Callable[[], object],
        keys: Collection[str] | None,
    ) -> None:
        """``keys``: the tasks; None: all that are queued or running, and those that a loop of
        ``crews`` may make.  Raises BoardError for one that is not there.
        """
        self._store = store
        self._crews = crews
        self._detect_lost = detect_lost
        self._pending = None if keys is None else set(keys)
        self._position = 0
        self._changes = 0
        self._tasks = 0  # how many there were, in any state
        self._looks = 0
        self._due = 0.0  # when to find those that are lost
        if self._pending:
            self._check_there(self._pending)

    def look(self) -> Outlook:
        """Say what is to be expected now.

        Raises BoardError for a task that is forgotten, and where the board is.
        """
        # These first: what they have done until they ended is then in the counts.  And all before
        # those with loops: else the last could leave in between, as if it had left work behind.
        coming = any(crew.ids for crew in self._crews)
        loops = any(crew.ids for crew in self._crews if crew.is_own)
        tally = self._store.tally()
        self._compare(tally)
        open = tally.queued + tally.running
        if self._pending is None:
            if not loops and not open:
                return Outlook.ENDED
        else:
            self._strike(self._pending)
            if len(self._pending) > open:  # somebody has reset the board
                self._check_there(self._pending)
            if not self._pending:
                return Outlook.ENDED
        return Outlook.OPEN if tally.workers or coming else Outlook.HOPELESS

    def _compare(self, tally: Tally) -> None:
        """Raise BoardError if the board was forgotten since the last look.

        Only then there are fewer changes: a reset is one more.  Where a server that comes back has
        not kept the last of them, but has all tasks, these go on from there.
        """
        states = (tally.queued, tally.running, tally.finished, tally.failed, tally.lost)
        changes, tasks = self._changes, self._tasks
        self._changes, self._tasks = tally.changes, sum(states)
        if tally.changes < changes and (not tally.changes or self._tasks < tasks):
            raise BoardError(
                f"the board was forgotten: it had {tasks:,} tasks, and has {self._tasks:,} now; "
                "its server was flushed, or has come back with less than it had"
            )

    def rest(self, until: float = math.inf) -> None:
        """Wait until something has changed, or for some time; then find those that are lost."""
        self.pause(until)
        begun = time.monotonic()
        self._store.wait(self._changes, max(0.0, min(LOOK, until - begun)))
        if time.monotonic() - begun > QUIET:
            self._looks = 0
        if time.monotonic() >= self._due:
            self._detect_lost()
            self._due = time.monotonic() + LOOK

    def pause(self, until: float = math.inf) -> None:
        """Let some time pass, more each time that there was something new."""
        pause = min(self._looks * STEP, PAUSE, max(0.0, until - time.monotonic()))
        self._looks += 1
        if pause:
            time.sleep(pause)

    def _strike(self, pending: set[str]) -> None:
        """Take those that have ended from ``pending``."""
        while True:
            keys, self._position = self._store.ended(self._position, SLICE)
            pending.difference_update(keys)
            if len(keys) < SLICE:
                return

    def _check_there(self, pending: set[str]) -> None:
        """Take those that have ended from ``pending``; raise BoardError if one is not there."""
        asked = list(pending)
        for start in range(0, len(asked), SLICE):
            some = asked[start : start + SLICE]
            for key, row in zip(some, self._store.rows(some), strict=True):
                if row is None:
                    raise BoardError(f"the board does not have a task {key} (any more)")
                if row.state not in (TaskState.QUEUED, TaskState.RUNNING):
                    pending.discard(key)
