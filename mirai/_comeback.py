"""What comes after a daemon of a supervisor's: another one, now or later, or none."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mirai._ending import Ending
from mirai._limits import NO_LIMITS, Limits

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0
"""Seconds before the first attempt to come back, and before any later one, on average."""
MAX_FAILURES = 5
"""How many daemons in a row may crash before they have joined."""
MAX_UNPROVED = 10
"""How many in a row may meet a dispatcher that does not prove its key: more, since one that hangs
or is overloaded looks the same, and that may pass."""


REACH = 60.0
"""Seconds after which a launched daemon does not try any more to reach the dispatcher."""


@dataclass(frozen=True, slots=True)
class Again:
    """Start another daemon after so many seconds."""

    delay: float
    reason: str


@dataclass(frozen=True, slots=True)
class Over:
    """Start no more; ``status`` is the exit status that this deserves."""

    reason: str
    status: int = 0


@dataclass(slots=True)
class Place:
    """The place of one daemon, who takes it, and how often that has gone wrong.

    Time and chance are arguments.  ``free_since`` is when the last daemon that had joined left.
    One that was ``launched`` for a pool ends with it: it does not come back.
    """

    born: float
    free_since: float
    limits: Limits = NO_LIMITS
    launched: bool = False
    ways: int = 1
    """At how many addresses it tries to reach the dispatcher, one after the other."""
    crashes: int = 0
    unproved: int = 0
    attempts: int = 0

    def next(
        self,
        ending: Ending | None,
        code: int,
        *,
        joined: bool,
        now: float,
        chance: float,
        pid: int = 0,
    ) -> Again | Over:
        """Return what to do after a daemon, process ``pid``, has ended; ``chance`` is in [0, 1).

        ``ending`` is what it has said; without that it has crashed, and ``code`` tells how.
        """
        if joined:
            self.crashes = self.unproved = self.attempts = 0
            self.free_since = now
        match ending:
            case Ending.STOPPED:
                return Over("the pool has stopped")
            case Ending.LEFT:
                return Over("a limit is reached")
            case Ending.REFUSED:
                return Over("the dispatcher refuses us", status=3)
            case Ending.UNPROVED:
                self.unproved += 1
                if self.unproved >= MAX_UNPROVED:
                    return Over("the dispatcher does not prove the key that we expect", status=3)
                return self._later("the dispatcher has not proved its key", now, chance)
            case Ending.LOST:
                return self._later("the connection to the dispatcher was lost", now, chance)
            case Ending.UNREACHED:
                return self._later("the dispatcher cannot be reached", now, chance)
            case Ending.BARREN:
                return Over("a relay cannot start its daemons", status=1)
            case Ending.REPLACED:
                return Again(0.0, "a daemon did not leave a task, and is replaced")
        self.crashes += not joined
        if self.crashes >= MAX_FAILURES:
            return Over(f"{self.crashes} daemons in a row died before they could join", status=1)
        return Again(0.0, f"process {pid} died {_how(code)}, and is replaced")

    def limits_now(self, now: float) -> Limits:
        """Return the limits of a daemon that starts now: the wall time is the place's."""
        if self.limits.wall_time is None:
            return self.limits
        left = max(0.001, self.born + self.limits.wall_time - now)
        return Limits(self.limits.idle_time, left, self.limits.max_tasks)

    def _later(self, reason: str, now: float, chance: float) -> Again | Over:
        """Come back after a while: twice as long each time, and not all at the same moment."""
        if self.launched and (self.free_since > self.born or now - self.born > REACH):
            return Over(reason, status=1)
        rounds = self.attempts // self.ways
        delay = min(LONGEST_DELAY, FIRST_DELAY * 2.0**rounds) * (0.5 + chance)
        self.attempts += 1
        deadline = self.limits.deadline(self.born, self.free_since)
        if deadline is not None and now + delay >= deadline:
            return Over(f"{reason}, and a limit is reached")
        return Again(delay, reason)


def exit_told(text: str, pid: int) -> int | None:
    """Return how a process ended, where a supervisor has said so: its exit code, or -signal."""
    found = re.search(rf"process {pid} died (with exit code|of signal) (\d+),", text)
    if found is None:
        return None
    return int(found[2]) if found[1] == "with exit code" else -int(found[2])


def _how(code: int) -> str:
    return f"of signal {-code}" if code < 0 else f"with exit code {code}"
