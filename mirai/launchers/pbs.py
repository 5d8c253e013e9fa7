"""PBS Professional and OpenPBS: ``qsub``, ``qstat`` and ``qdel``, as of their manual for 19 on.

Torque has programs of these names too, but other resources and arrays: see ``TorqueLauncher``.
It was tried by hand on a real OpenPBS 23.06; the tests have only a pretended one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mirai.launchers._base import Order, Phase, State
from mirai.launchers._batch import clock, mebibytes
from mirai.launchers._qsub import QsubLauncher, exit_of, named, told
from mirai.launchers._submit import run

_TIMES = (-29, -28)
"""Exit codes of jobs that the scheduler has ended, for their walltime or the processor's time."""
_MEMORY = (-27, -26)
_AGAIN = (-20, -18, -16, -15, -14, -12, -11, -6, -3)
"""Those of jobs that lost their place, and would run again."""
_DELETED = "91"
"""The substate of a job that was ended by somebody."""


@dataclass(frozen=True, kw_only=True)
class PBSLauncher(QsubLauncher):
    """Daemons as jobs of PBS Professional or OpenPBS.

    ``queue`` and ``project`` are what it calls so; ``gpus`` are its ``ngpus``; ``chunk`` is added
    to what each daemon's place must have (``"host=n1"``).  The other options are those of
    ``BatchLauncher``.
    """

    project: str | None = None
    chunk: str | None = None

    special: ClassVar[str] = "^:,"

    def directives(self, order: Order) -> list[str]:
        """Return the options of qsub."""
        time = self.walltime_seconds()
        several = order.count > 1
        return named(
            ("-N", order.name),
            ("-J", f"1-{order.count}" if several else None),
            # What the job prints goes to its log at once; here is what PBS has to say of it.
            ("-o", f"{self.log_directory(order)}/"),
            ("-j", "oe"),
            ("-S", "/bin/sh"),
            ("-r", None if several else "n"),  # an array must be one that may run again
            ("-l", f"select={self._select()}"),
            ("-l", None if time is None else f"walltime={clock(time)}"),
            ("-q", self.queue),
            ("-P", self.project),
            ("-A", self.account),
        )

    def _select(self) -> str:
        memory = self.memory_bytes()
        parts = ["1", f"ncpus={self.cpus}"]
        parts += [] if memory is None else [f"mem={mebibytes(memory)}mb"]
        parts += [] if self.gpus is None else [f"ngpus={self.gpus}"]
        return ":".join([*parts, *([] if self.chunk is None else [self.chunk])])

    def ask_about(self, ids: Sequence[str]) -> dict[str, State]:
        """Ask qstat, of those that have ended too where the site remembers them."""
        argv = ["-t", "-f", "-F", "json", *ids]
        done = run(["qstat", "-x", *argv])
        if done.returncode and "history" in done.stderr:
            done = run(["qstat", *argv])
        return parse_queue(told(done))


def parse_queue(text: str) -> dict[str, State]:
    """Return what ``qstat -f -F json`` tells of jobs, by id; nothing where it is not understood."""
    try:
        # Control characters of a user's variables are in there as they are.
        jobs: Any = json.loads(text, strict=False)["Jobs"]
        return {id: _state(said) for id, said in jobs.items() if isinstance(said, dict)}
    except (ValueError, LookupError, TypeError, AttributeError):
        return {}


def _state(said: Mapping[str, Any]) -> State:
    letter, why = str(said.get("job_state", "")), str(said.get("comment", ""))
    detail = f"{letter}: {why}" if why else letter
    if letter in ("Q", "H", "W", "T", "M"):
        return State(Phase.PENDING, detail)
    if letter in ("B", "R", "E", "S", "U"):
        return State(Phase.RUNNING, detail)
    if letter not in ("F", "X"):
        return State(Phase.UNKNOWN, detail)
    status = said.get("Exit_status")
    if not isinstance(status, int):  # it never ran
        return State(Phase.CANCELLED, detail)
    phase = phase_of(status, deleted=str(said.get("substate")) == _DELETED)
    return State(phase, f"{detail}; exit status {status}", exit_of(status))


def phase_of(status: int, *, deleted: bool) -> Phase:
    """Return how a job has ended, by its exit status."""
    if status in _TIMES:
        return Phase.TIMEOUT
    if status in _MEMORY:
        return Phase.MEMORY
    if status in _AGAIN:
        return Phase.PREEMPTED
    if deleted:
        return Phase.CANCELLED
    return Phase.FAILED if status else Phase.ENDED
