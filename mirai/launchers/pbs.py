"""PBS Professional and OpenPBS: ``qsub``, ``qstat`` and ``qdel``, as of their manual for 19 on.

Torque has programs of these names too, but other resources and arrays: see ``TorqueLauncher``.
It was tried by hand on a real OpenPBS 23.06; the tests have only a pretended one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import BatchLauncher, clock, from_shell, mebibytes, option
from mirai.launchers._submit import AT_ONCE, ask, end, run

SIGNALLED = 256
"""What PBS adds to the number of the signal that has ended a job."""
FINE = r"Unknown Job|has finished|Request invalid for state of job|COMPLETE"
"""What qdel says of jobs that are no more."""
_TIMES = (-29, -28)
"""Exit codes of jobs that the scheduler has ended, for their walltime or the processor's time."""
_MEMORY = (-27, -26)
_AGAIN = (-20, -18, -16, -15, -14, -12, -11, -6, -3)
"""Those of jobs that lost their place, and would run again."""
_DELETED = "91"
"""The substate of a job that was ended by somebody."""


@dataclass(frozen=True, kw_only=True)
class PBSLauncher(BatchLauncher):
    """Daemons as jobs of PBS Professional or OpenPBS.

    ``queue`` and ``project`` are what it calls so; ``gpus`` are its ``ngpus``; ``chunk`` is added
    to what each daemon's place must have (``"host=n1"``).  The other options are those of
    ``BatchLauncher``.
    """

    queue: str | None = None
    project: str | None = None
    gpus: int | None = None
    chunk: str | None = None

    prefix: ClassVar[str] = "#PBS"
    job: ClassVar[str] = "$PBS_JOBID"
    job_of_array: ClassVar[str] = "$PBS_JOBID"
    submission: ClassVar[tuple[str, ...]] = ("qsub",)
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+(?:\[\])?\.\S+)\s*$", re.MULTILINE)
    special: ClassVar[str] = "^:,"

    # A job is over for PBS when its outermost shell is: nobody would kill what is left of it.
    grace: ClassVar[int | None] = 10

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

    def opening(self, order: Order) -> list[str]:
        """PBS begins at home, and keeps what a job prints to itself until that has ended."""
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


def named(*wanted: tuple[str, object]) -> list[str]:
    """Return options with their values, as both kinds of PBS read them."""
    return [f"{name} {option(value, name=name)}" for name, value in wanted if value is not None]


def beginning(log: str) -> list[str]:
    """Return how a script begins: at the place of its submission, with a log of its own.

    ``log`` is the path with a null character where the job's id is to be.
    """
    head, _, tail = log.partition("\0")
    return ['cd "$PBS_O_WORKDIR"', f'exec >{quote(head)}"$PBS_JOBID"{quote(tail)} 2>&1']


def array_of(id: str) -> str:
    """Return the id of the array that a job is of, or its own."""
    return re.sub(r"\[\d+\]", "[]", id)


def _asked(ids: Sequence[str]) -> str:
    """Return what qstat says of jobs, those that have ended too where the site remembers them."""
    argv = ["-t", "-f", "-F", "json", *ids]
    done = run(["qstat", "-x", *argv])
    if done.returncode and "history" in done.stderr:
        done = run(["qstat", *argv])
    wrong = [line for line in done.stderr.splitlines() if line and not re.search(FINE, line)]
    if done.returncode and (wrong or not done.stderr.strip()):
        raise LaunchError(f"`qstat` ended with exit code {done.returncode}, and said: {wrong}")
    return done.stdout


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


def exit_of(status: int) -> int | None:
    """Return the exit code, or minus the signal, in what PBS calls an exit status."""
    if status < 0:  # of the scheduler, not of the job
        return None
    return SIGNALLED - status if status >= SIGNALLED else from_shell(status)
