"""Torque: ``qsub``, ``qstat`` and ``qdel``, as of its manual for 4 and later.

Not tried on a real cluster: there is none to be had.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirai.launchers._base import Order, Phase, State
from mirai.launchers._batch import clock, mebibytes
from mirai.launchers._qsub import SIGNALLED, QsubLauncher, exit_of, named, told
from mirai.launchers._submit import run

_TIMES = (-12, -11)
"""The exit statuses of jobs that have used up the processor's time or their walltime."""
_MEMORY = -10
_AGAIN = (-6, -3)
"""Those of jobs that lost their place, and would run again."""


@dataclass(frozen=True, kw_only=True)
class TorqueLauncher(QsubLauncher):
    """Daemons as jobs of Torque.

    ``queue`` is what it calls so; ``gpus`` and ``constraint``, a property of nodes such as
    ``"bigmem"``, are part of what it calls ``nodes``.  The other options are those of
    ``BatchLauncher``.
    """

    constraint: str | None = None

    special: ClassVar[str] = "$:,"

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

    def ask_about(self, ids: Sequence[str]) -> dict[str, State]:
        """Ask qstat."""
        return parse_queue(told(run(["qstat", "-t", "-x", *ids])))


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
