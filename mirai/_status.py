"""What ``status()`` returns."""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.messages import PoolReport


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """One daemon.  ``since`` is in seconds since it joined."""

    id: int
    host: str
    pid: int
    state: str
    tasks: int
    done: int
    since: float


@dataclass(frozen=True, slots=True)
class Status:
    """A pool at one moment; ``print`` shows it as a small table.

    ``connections`` is how many daemons are there now, and ``cumulative`` how many have ever been.
    ``awaiting``, ``executing`` and ``completed`` count tasks; ``rejected`` counts illegal
    messages.
    """

    profile: str
    url: str
    connections: int
    cumulative: int
    awaiting: int
    executing: int
    completed: int
    rejected: int
    daemons: tuple[DaemonStatus, ...]

    @classmethod
    def of(cls, profile: str, url: str, report: PoolReport) -> Status:
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
            daemons=tuple(
                DaemonStatus(d.id, d.host, d.pid, d.state, d.tasks, d.done, d.since)
                for d in report.daemons
            ),
        )

    def __str__(self) -> str:
        lines = [
            f"{self.profile}: {self.connections} daemons at {self.url}",
            f"tasks: {self.awaiting} awaiting, {self.executing} executing,"
            f" {self.completed} completed",
        ]
        if self.daemons:
            lines.append(f"{'id':>4}  {'host':<16} {'pid':>8}  {'state':<5} {'done':>9}  since")
        lines += [
            f"{d.id:>4}  {d.host:<16} {d.pid:>8}  {d.state:<5} {d.done:>9}  {d.since:.0f} s"
            for d in self.daemons
        ]
        return "\n".join(lines)
