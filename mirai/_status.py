"""What ``status()`` returns."""

from __future__ import annotations

from dataclasses import astuple, dataclass, field

from dispatcher.messages import DaemonReport, PoolReport, Refusals
from mirai._budget import Memory


@dataclass(frozen=True, slots=True)
class Status:
    """A pool at one moment; ``print`` shows it as a small table.

    ``connections`` is how many daemons are there now, and ``cumulative`` how many have ever been.
    ``awaiting``, ``executing`` and ``completed`` count tasks; ``rejected`` counts illegal
    messages, and ``refusals`` what else the dispatcher has refused: ``keys``, ``strangers`` who
    had proved none, and ``peers`` that were cut off.  ``memory`` is what the memory budget looks
    like, None where there is none.
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
    refusals: Refusals = field(default_factory=Refusals)

    @classmethod
    def of(cls, profile: str, url: str, report: PoolReport, memory: Memory | None = None) -> Status:
        """Make one of the dispatcher's report."""
        fields = {name: getattr(report, name) for name in report.__struct_fields__}
        return cls(profile=profile, url=url, memory=memory, **fields)

    def __str__(self) -> str:
        lines = [
            f"{self.profile}: {self.connections} daemons at {self.url}",
            f"tasks: {self.awaiting} awaiting, {self.executing} executing,"
            f" {self.completed} completed",
        ]
        if self.memory is not None:
            used, peak, capacity = map(_megabytes, astuple(self.memory))
            lines.append(f"memory: {used} of {capacity} used, {peak} at most")
        refused = self.refusals
        if self.rejected or refused != Refusals():
            lines.append(
                f"refused: {refused.keys} keys, {refused.strangers} strangers,"
                f" {self.rejected} messages; {refused.peers} peers cut off"
            )
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


def running(daemon: DaemonReport) -> str:
    """Say what a daemon runs, and for how long."""
    if not daemon.task:
        return ""
    name, _, _ = daemon.task.partition(":")  # without the line of its code
    return printable(f"{name} ({daemon.seconds:.1f} s)")


def printable(text: str) -> str:
    """Replace what would do something to a terminal: others choose their names."""
    return "".join(each if each.isprintable() else "?" for each in text)
