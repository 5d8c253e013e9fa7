"""What ``status()`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field

from dispatcher.log import printable
from dispatcher.messages import DaemonReport, PoolReport, Refusals
from mirai._budget import Memory
from mirai._why import reasons, unreachable


@dataclass(frozen=True, slots=True)
class Status:
    """A pool at one moment; ``print`` shows it as a small table.

    ``connections`` is how many daemons are there now, and ``cumulative`` how many have ever been;
    a relay is one, whose ``width`` is how many tasks it does at once.
    ``awaiting``, ``executing`` and ``completed`` count tasks; ``rejected`` counts illegal
    messages, and ``refusals`` what else the dispatcher has refused: ``keys``, ``strangers`` who
    had proved none, and ``peers`` that were cut off.  ``memory`` is what the memory budget looks
    like, None where there is none.

    The ``state`` of one of the ``daemons`` is ``"idle"``, ``"busy"``, ``"leaving"``, or
    ``"stalled"``: it has been on its task for some seconds and does not answer, since a call in C
    keeps the interpreter's lock, say.  That task may still end, and can be cancelled.

    ``why`` says what tasks wait for, other than their turn, each cause in a sentence; it is empty
    where none does.  The causes: no daemon has joined yet (with the exit and the last output of
    one that could not), or none is left; no daemon carries the tags that tasks want; all daemons
    are stalled; the memory budget is used up; the dispatcher does not answer.  What has been so
    for some seconds is also logged once, as a warning of the logger ``"mirai"``.
    """

    profile: str
    url: str
    connections: int
    cumulative: int
    awaiting: int
    executing: int
    completed: int
    rejected: int
    daemons: tuple[DaemonReport, ...]
    memory: Memory | None = None
    why: tuple[str, ...] = ()
    refusals: Refusals = field(default_factory=Refusals)

    @classmethod
    def of(cls, profile: str, url: str, report: PoolReport, memory: Memory | None = None) -> Status:
        """Make one of the dispatcher's report."""
        return cls(
            profile=profile,
            url=url,
            connections=report.connections,
            cumulative=report.cumulative,
            awaiting=report.awaiting,
            executing=report.executing,
            completed=report.completed,
            rejected=report.rejected,
            daemons=report.daemons,
            memory=memory,
            refusals=report.refusals,
            why=tuple(reasons(report, memory).values()),
        )

    @classmethod
    def unanswered(
        cls, profile: str, url: str, seconds: float, pending: int, memory: Memory | None
    ) -> Status:
        """Make one of what is known without the dispatcher, which has not answered for so long."""
        why = tuple(unreachable(url, seconds).values())
        return cls(profile, url, 0, 0, pending, 0, 0, 0, (), memory, why)

    def __str__(self) -> str:
        lines = [
            f"{self.profile}: {self.connections} daemons at {self.url}",
            f"tasks: {self.awaiting} awaiting, {self.executing} executing,"
            f" {self.completed} completed",
        ]
        if self.memory is not None:
            sizes = (self.memory.used, self.memory.capacity, self.memory.peak)
            lines.append("memory: {} of {} used, {} at most".format(*map(_megabytes, sizes)))
        refused = self.refusals
        if self.rejected or refused != Refusals():
            lines.append(
                f"refused: {refused.keys} keys, {refused.strangers} strangers,"
                f" {self.rejected} messages; {refused.peers} peers cut off"
            )
        lines += waiting(self)
        if self.daemons:
            lines.append(
                f"{'id':>4}  {'host':<16} {'pid':>8}  {'state':<7} {'done':>9} {'since':>8}  runs"
            )
        lines += [
            f"{d.id:>4}  {d.host:<16} {d.pid:>8}  {d.state:<7} {d.done:>9} {d.since:>6.0f} s"
            f"  {running(d)}".rstrip()
            for d in self.daemons
        ]
        return "\n".join(map(printable, lines))


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


def waiting(status: Status) -> list[str]:
    """Return lines that say what tasks wait for."""
    lines = []
    for reason in status.why:
        first, *others = reason.split("\n")
        lines += [f"waiting: {first}", *(f"    {other}" for other in others)]
    return lines


def running(daemon: DaemonReport) -> str:
    """Say what a daemon runs, and for how long; before that, how wide it is, if it is a relay."""
    text = ""
    if daemon.task:
        name, _, _ = daemon.task.partition(":")  # without the line of its code
        text = f"{name} ({daemon.seconds:.1f} s)"
    if daemon.width == 1:
        return text
    return f"{min(daemon.tasks, daemon.width)} of {daemon.width} {text}".rstrip()
