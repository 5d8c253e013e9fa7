"""The story of a task, as far as the dispatcher knows it: in words, for people.  Pure.

What everybody can expect is not noted: that a task was sent to a daemon, and answered.  A job
keeps a few words only of what is unusual: that a daemon was lost, or has handed it back.  Whoever
is told the story is told with it where the job is now, or where it ended.
"""

from __future__ import annotations

from signal import Signals
from typing import TYPE_CHECKING

from dispatcher.messages import Crash, Kind, Outcome, Step

if TYPE_CHECKING:  # clients tell stories, too, and know neither
    from dispatcher.jobs import Job
    from dispatcher.peers import Daemon

SLOW = 0.01
"""A task that takes longer, in seconds, tells its story: that costs nothing beside it."""
KEPT = 20
"""How many steps of a job are kept, the last ones."""
_HOST = 64
"""How many characters of a host's name are shown: a peer may send what it likes."""

Note = tuple[float, str]
"""When, by the core's clock, and what."""


def note(job: Job, daemon: Daemon, now: float, what: str) -> None:
    """Keep in mind why a job leaves a daemon's hand without an answer."""
    job.story = (*job.story, _sent(job, daemon), (now, what))[-KEPT:]


def steps(job: Job, now: float, *last: Note) -> tuple[Step, ...]:
    """Return what is kept of a job, and ``last``, as it is told now."""
    return tuple(Step(now - then, what) for then, what in (*job.story, *last))


def ended(job: Job, daemon: Daemon, outcome: Outcome, now: float) -> tuple[Step, ...]:
    """Return the story of a job that a daemon has answered."""
    how = f"{_ENDINGS.get(outcome.kind, 'ended')} there, after {seconds(job, outcome, now)}"
    return steps(job, now, _sent(job, daemon), (now, how))


def whereabouts(
    job: Job, key: int, daemon: Daemon | None, others: int, now: float
) -> tuple[Step, ...]:
    """Return the story of a job's task that a daemon has in hand, or that waits beside ``others``.

    ``key`` is the dispatcher's number for the task.
    """
    if daemon is None:
        tags = f" with {', '.join(map(repr, job.task.tags))}" if job.task.tags else ""
        return steps(job, now, (now, f"waits for a daemon{tags}, as do {others:,} others"))
    before = list(daemon.hand).index(key)
    if before >= daemon.width:
        where = f"has not begun there: {before:,} are before it"
    else:
        since = daemon.began if daemon.width == 1 else job.given
        where = f"runs there, for {now - since:.3f} s"
        where += ", and waits for tasks of its own" if daemon.lending else ""
    return steps(job, now, _sent(job, daemon), (now, where))


def seconds(job: Job, outcome: Outcome, now: float) -> str:
    """Return how long a daemon was busy with a job, by its own account if that can be true."""
    return f"{max(0.0, min(now - job.given, outcome.seconds)):.3f} s"  # whatever it says, or NaN


def cause(crash: Crash) -> str:
    """Return why somebody was lost."""
    if crash.exit is None:
        return crash.reason
    word = "with" if signal_name(crash.exit) is None else "of"
    return f"{crash.reason} {word} {ending(crash.exit)}"


def ending(status: int | None) -> str:
    """Return how a process ended, by its exit status as ``subprocess`` has it."""
    return signal_name(status) or f"exit code {status}"


def signal_name(status: int | None) -> str | None:
    """Return the name of the signal that ended a process; None if none did."""
    if status is None or status >= 0:
        return None
    try:
        return Signals(-status).name
    except ValueError:
        return f"signal {-status}"


def title(daemon: Daemon) -> str:
    """Return what a daemon is called."""
    host = daemon.hello.host[:_HOST]
    return f"daemon {daemon.peer} (process {daemon.hello.pid} on {host})"


_ENDINGS = {Kind.VALUE: "ended", Kind.ERROR: "failed", Kind.CANCELLED: "stopped"}


def _sent(job: Job, daemon: Daemon) -> Note:
    return job.given, f"sent to {title(daemon)}"
