"""Why tasks wait while nothing runs them: told from what is known of a pool.  Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from enum import Enum

from dispatcher.messages import Crash, PoolReport
from dispatcher.story import ending
from mirai._budget import Memory

LOOK = 4.0
"""Seconds between looks at what unanswered tasks wait for; at the second one it is told."""


class Cause(Enum):
    """What tasks may wait for."""

    UNREACHABLE = "the dispatcher does not answer"
    DAEMONS = "no daemon is there"
    TAGS = "no daemon carries their tags"
    STALLED = "all daemons are stalled"
    MEMORY = "the memory budget is used up"


Reasons = Mapping[Cause, str]
"""Cause -> what is to be said of it."""


def unreachable(url: str, seconds: float) -> Reasons:
    """Say that the dispatcher owes an answer."""
    return {
        Cause.UNREACHABLE: f"the dispatcher at {url} has not answered for {seconds:g} s: it hangs,"
        " is overloaded, or cannot be reached"
    }


def reasons(report: PoolReport, memory: Memory | None = None) -> Reasons:
    """Say what tasks wait for, other than their turn; nothing where none does.

    ``memory`` is the caller's budget.
    """
    found = {}
    staying = [each for each in report.daemons if each.state != "leaving"]
    if report.wanted and (not staying or () in report.wanted):
        found[Cause.DAEMONS] = _missing(report, len(staying))
    if tags := [_quoted(tags) for tags in report.wanted if tags]:
        found[Cause.TAGS] = f"no daemon carries {' or '.join(tags)}, which tasks want"
    if staying and report.awaiting and all(each.state == "stalled" for each in staying):
        found[Cause.STALLED] = (
            f"{_all(len(staying))} stalled: in a call that keeps the interpreter's lock, or stopped"
        )
    idle = any(each.state == "idle" for each in staying)
    if memory is not None and memory.waiting and (found or idle):
        found[Cause.MEMORY] = (
            f"the memory budget of {memory.capacity:,} bytes is used up by tasks that are not"
            f" answered, and {memory.waiting} more wait to be submitted"
        )
    return found


def _missing(report: PoolReport, staying: int) -> str:
    """Say which daemons are not there, and what is known of why."""
    if staying:
        text = f"{staying} of {report.kept} daemons have joined, and a call is for every one"
    elif report.daemons:
        text = f"{_all(len(report.daemons))} leaving"
    else:
        text = "no daemon is left" if report.cumulative else "no daemon has joined yet"
    starting = report.kept - staying
    if starting > 0:
        text += f"; {starting} local {'one is' if starting == 1 else 'ones are'} to come"
    elif not staying:
        text += ", and none is kept here: daemons have to join from elsewhere"
    return text if report.failure is None else f"{text}; {_end(report.failure)}"


def _end(crash: Crash) -> str:
    """Say how a daemon ended that could not join."""
    text = f"the last one to fail ended with {ending(crash.exit)}"
    return f"{text} and printed:\n{crash.tail}" if crash.tail else f"{text} and printed nothing"


def _all(count: int) -> str:
    return "the only daemon is" if count == 1 else f"all {count} daemons are"


def _quoted(tags: Iterable[str]) -> str:
    """Return a set of tags in words."""
    names = [f'"{tag}"' for tag in tags]
    return f"the tag {names[0]}" if len(names) == 1 else f"the tags {' and '.join(names)}"


class Watch:
    """When a channel asks what its tasks wait for, and what of the answer is news.

    It looks now and then while a task is pending.  A cause is told once, when it was there at
    two looks in a row and nothing has moved in between; again only after it was gone, or no task
    was pending, or where it is of other tags.
    """

    def __init__(self) -> None:
        self._due = math.inf  # when to look next; inf: nothing is pending
        self._asked: float | None = None  # when the dispatcher was asked that has not answered
        self._before: frozenset[Cause] = frozenset()  # what was there at the last look
        self._joined = self._completed = 0  # how many daemons had joined then, and tasks ended
        self._told: dict[Cause, str] = {}

    def patience(self, pending: bool, now: float) -> float | None:
        """Return for how many seconds to sleep at most; None: for ever."""
        if not pending:
            self._due, self._before = math.inf, frozenset()
            self._told.clear()
            return None
        if self._due == math.inf:
            self._due = now + LOOK
        return max(0.0, self._due - now)

    def is_due(self, now: float) -> bool:
        """Whether it is time to look."""
        return now >= self._due

    def look(self, url: str, now: float) -> tuple[bool, list[str]]:
        """Return whether to ask the dispatcher, and, if it owes an answer, what is news of that."""
        self._due = now + LOOK
        if self._asked is not None:
            return False, self._news(unreachable(url, now - self._asked))
        self._asked = now
        return True, []

    def answered(self, report: PoolReport, memory: Memory | None) -> list[str]:
        """Return what is news in the dispatcher's answer."""
        self._asked = None
        if report.cumulative != self._joined:
            self._before = frozenset()  # daemons come, and may go as fast
        if report.completed != self._completed:
            self._before -= {Cause.MEMORY}  # there was room
        self._joined, self._completed = report.cumulative, report.completed
        found = reasons(report, memory)
        self._told = {cause: text for cause, text in self._told.items() if cause in found}
        return self._news(found)

    def _news(self, found: Reasons) -> list[str]:
        news = [cause for cause in found if cause in self._before and self._is_new(cause, found)]
        self._told |= {cause: found[cause] for cause in news}
        self._before = frozenset(found)
        return [found[cause] for cause in news]

    def _is_new(self, cause: Cause, found: Reasons) -> bool:
        told = self._told.get(cause)
        return told is None or (cause is Cause.TAGS and told != found[cause])
