"""Job scripts: pure, the same for every scheduler but for what its directives are called.

A script is read by people too, and may be logged: there is no secret in it.  It runs under a plain
``/bin/sh``, forwards SIGTERM to the daemon, and ends with the daemon's exit status.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RUN = """\
{command} &
child=$!
trap '{forward}' TERM INT
wait "$child"
status=$?
while kill -0 "$child" 2>/dev/null; do wait "$child"; status=$?; done
trap - TERM INT"""
"""A shell that waits for a child in the foreground would hear of a signal too late; one that has
no trap would leave the child behind."""
FORWARD = 'kill -TERM "$child" 2>/dev/null'
LEAVE = """\
again=
leave() {{
    kill -TERM "$child" 2>/dev/null
    (
        trap 'kill "$nap" 2>/dev/null; exit' TERM
        sleep {grace} &
        nap=$!
        wait "$nap"
        kill -TERM "$child" 2>/dev/null
    ) &
    again=$!
}}"""
"""The second signal does not let running tasks finish."""
CALL_OFF = '[ -z "$again" ] || kill "$again" 2>/dev/null'


@dataclass(frozen=True, slots=True)
class Script:
    """What a job script says."""

    directives: Sequence[str]
    """Whole lines, such as ``"#SBATCH --cpus-per-task=2"``."""
    job: str
    """What the shell expands to the job's id, such as ``"$SLURM_JOB_ID"``."""
    command: str
    prologue: Sequence[str] = ()
    epilogue: Sequence[str] = ()
    grace: int | None = None
    """Seconds that running tasks have to finish after a SIGTERM; None for as long as they need,
    or until the scheduler kills them."""

    def text(self) -> str:
        """Return it."""
        lines = [
            "#!/bin/sh",
            *self.directives,
            f'export MIRAI_JOB="{self.job}"',
            *self.prologue,
            *self._run(),
            *self.epilogue,
            'exit "$status"',
        ]
        return "\n".join(lines) + "\n"

    def _run(self) -> list[str]:
        if self.grace is None:
            return [RUN.format(command=self.command, forward=FORWARD)]
        run = RUN.format(command=self.command, forward="leave")
        return [LEAVE.format(grace=self.grace), run, CALL_OFF]


def directives(prefix: str, wanted: Sequence[str], skip: Sequence[str]) -> list[str]:
    """Return lines of these directives, but for those that begin with one to be skipped."""
    kept = [each for each in wanted if not any(each.startswith(start) for start in skip)]
    return [f"{prefix} {each}".lstrip() for each in kept]
