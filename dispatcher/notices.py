"""What the log is told of refusals: a few of a kind at a time, however many there are.

Whoever cannot get in must not fill a disk either, so that of a flood only the beginning is told,
and how much more there was.  A reason may quote a stranger: it is made harmless, and cut short.
No key and no payload is ever told.
"""

from __future__ import annotations

from dispatcher.log import printable

BURST = 5
"""How many of a kind are told in one interval."""
INTERVAL = 10.0
"""Seconds after which more of a kind are told."""
WIDTH = 200
"""How much is told of a reason, in characters."""


class Notices:
    """Decides what the log is told."""

    def __init__(self) -> None:
        self._kinds: dict[str, _Tally] = {}

    def text(self, kind: str, who: str, why: str, now: float) -> str | None:
        """Return what to tell of a refusal, at ``now`` seconds on any clock; None: nothing."""
        tally = self._kinds.setdefault(kind, _Tally(now))
        untold = tally.untold
        if not tally.count(now):
            return None
        more = f" ({untold} more like this were not told)" if untold and not tally.untold else ""
        return f"{kind} refused: {harmless(who)}: {harmless(why)}{more}"


class _Tally:
    """How many of one kind there were since the interval began."""

    __slots__ = ("since", "told", "untold")

    def __init__(self, since: float) -> None:
        self.since = since
        self.told = self.untold = 0

    def count(self, now: float) -> bool:
        """Count one; return whether it is to be told."""
        if now - self.since >= INTERVAL:
            self.since, self.told, self.untold = now, 0, 0
        if self.told == BURST:
            self.untold += 1
            return False
        self.told += 1
        return True


def harmless(text: str) -> str:
    """Return it in one line, without what would do something to a terminal, and not too long."""
    text = printable(text[: WIDTH + 1])
    return text if len(text) <= WIDTH else f"{text[:WIDTH]}…"
