"""Torque: ``qsub``, ``qstat`` and ``qdel``, as of its manual for 4 and later.

Not tried on a real cluster: there is none to be had.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirai._errors import LaunchError
from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import BatchLauncher, clock, mebibytes
from mirai.launchers._submit import AT_ONCE, ask, end, run
from mirai.launchers.pbs import FINE, SIGNALLED, array_of, beginning, exit_of, named

_TIMES = (-12, -11)
"""The exit statuses of jobs that have used up the processor's time or their walltime."""
_MEMORY = -10
_AGAIN = (-6, -3)
"""Those of jobs that lost their place, and would run again."""


@dataclass(frozen=True, kw_only=True)
class TorqueLauncher(BatchLauncher):
    """Daemons as jobs of Torque.

    ``queue`` is what it calls so; ``gpus`` and ``constraint``, a property of nodes such as
    ``"bigmem"``, are part of what it calls ``nodes``.  The other options are those of
    ``BatchLauncher``.
    """

    queue: str | None = None
    gpus: int | None = None
    constraint: str | None = None

    prefix: ClassVar[str] = "#PBS"
    job: ClassVar[str] = "$PBS_JOBID"
    job_of_array: ClassVar[str] = "$PBS_JOBID"
    submission: ClassVar[tuple[str, ...]] = ("qsub",)
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+(?:\[\])?\.\S+)\s*$", re.MULTILINE)
    special: ClassVar[str] = "$:,"

    # A job is over for PBS when its outermost shell is: nobody would kill what is left of it.
    grace: ClassVar[int | None] = 10

    def directives(self, order: Order) -> list[str]:
        """Return the options of qsub."""
        memory, time = self.memory_bytes(), self.walltime_seconds()
        return named(
            ("-N", order.name),
            ("-t", f"1-{order.count}" if order.count > 1 else None),
            ("-o", f"{self.log_directory(order)}/"),
            ("-j", "oe"),
            ("-S", "/bin/sh"),
            ("-r", "n"),
            ("-l", f"nodes={self._nodes()}"),
            ("-l", None if memory is None else f"mem={mebibytes(memory)}mb"),
            ("-l", None if time is None else f"walltime={clock(time)}"),
            ("-q", self.queue),
            ("-A", self.account),
        )

    def _nodes(self) -> str:
        parts = ["1", f"ppn={self.cpus}"]
        parts += [] if self.gpus is None else [f"gpus={self.gpus}"]
        return ":".join([*parts, *([] if self.constraint is None else [self.constraint])])

    def opening(self, order: Order) -> list[str]:
        """Torque begins at home, and keeps what a job prints to itself until that has ended."""
        return beginning(self.log_path(order, "\0"))

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7[1].server", "7[2].server", …]``."""
        return [id.replace("[]", f"[{index}]") for index in range(1, count + 1)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask qstat about all of them."""
        known: dict[str, State] = {}
        ids = sorted({array_of(handle.id) for handle in handles})
        for first in range(0, len(ids), AT_ONCE):
            known |= parse_queue(_asked(ids[first : first + AT_ONCE]))
        return states(handles, known)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Delete them."""
        end(["qdel"], [handle.id for handle in handles], FINE)

    def recall(self, name: str) -> None:
        """Delete all jobs of this name: no other launch has it."""
        end(["qdel"], ask(["qselect", "-N", name]).split(), FINE)


def _asked(ids: Sequence[str]) -> str:
    done = run(["qstat", "-t", "-x", *ids])
    wrong = [line for line in done.stderr.splitlines() if line and not re.search(FINE, line)]
    if done.returncode and (wrong or not done.stderr.strip()):
        raise LaunchError(f"`qstat` ended with exit code {done.returncode}, and said: {wrong}")
    return done.stdout


def parse_queue(text: str) -> dict[str, State]:
    """Return what ``qstat -x`` tells of jobs, by id; nothing where it is not understood."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found = {}
    for job in root.iter("Job"):
        id = job.findtext("Job_Id", "").strip()
        if id:
            found[id] = _state(job)
    return found


def _state(job: ElementTree.Element) -> State:
    letter, why = job.findtext("job_state", "").strip(), job.findtext("comment", "").strip()
    detail = f"{letter}: {why}" if why else letter
    if letter in ("Q", "H", "W", "T"):
        return State(Phase.PENDING, detail)
    if letter in ("R", "E", "S"):
        return State(Phase.RUNNING, detail)
    if letter != "C":
        return State(Phase.UNKNOWN, detail)
    said = job.findtext("exit_status", "").strip()
    if not re.fullmatch(r"-?\d+", said):  # it never ran
        return State(Phase.CANCELLED, detail)
    status = int(said)
    return State(_phase(status), f"{detail}; exit status {status}", exit_of(status))


def _phase(status: int) -> Phase:
    if status in _TIMES:
        return Phase.TIMEOUT
    if status == _MEMORY:
        return Phase.MEMORY
    if status in _AGAIN:
        return Phase.PREEMPTED
    if status in (SIGNALLED + 15, SIGNALLED + 9):
        return Phase.CANCELLED
    return Phase.FAILED if status else Phase.ENDED
