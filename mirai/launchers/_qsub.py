"""What PBS and Torque have in common: programs, names of jobs, and how their scripts begin."""

from __future__ import annotations

import re
import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import ClassVar

from mirai._errors import LaunchError
from mirai.launchers._base import Handle, Order, State, states
from mirai.launchers._batch import BatchLauncher, from_shell, option
from mirai.launchers._submit import ask, end, portions

SIGNALLED = 256
"""What PBS adds to the number of the signal that has ended a job."""
FINE = r"Unknown Job|has finished|Request invalid for state of job|COMPLETE"
"""What qdel says of jobs that are no more."""


@dataclass(frozen=True, kw_only=True)
class QsubLauncher(BatchLauncher):
    """Daemons as jobs of one of them."""

    queue: str | None = None
    gpus: int | None = None

    prefix: ClassVar[str] = "#PBS"
    job: ClassVar[str] = "$PBS_JOBID"
    job_of_array: ClassVar[str] = "$PBS_JOBID"
    submission: ClassVar[tuple[str, ...]] = ("qsub",)
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+(?:\[\])?\.\S+)\s*$", re.MULTILINE)

    # A job is over for PBS when its outermost shell is: nobody would kill what is left of it.
    grace: ClassVar[int | None] = 10

    def opening(self, order: Order) -> list[str]:
        """A job begins at home, and what it prints would be kept from us until it has ended."""
        return beginning(self.log_path(order, "\0"))

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7[1].server", "7[2].server", …]``."""
        return [id.replace("[]", f"[{index}]") for index in range(1, count + 1)]

    @abstractmethod
    def ask_about(self, ids: Sequence[str]) -> dict[str, State]:
        """Ask about these jobs and arrays at once; return what is told, by job id."""

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask qstat about all of them."""
        known: dict[str, State] = {}
        for some in portions(sorted({array_of(handle.id) for handle in handles})):
            known |= self.ask_about(some)
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


def told(done: subprocess.CompletedProcess[str]) -> str:
    """Return what qstat has printed, which may not know jobs that have ended.

    Raises LaunchError.
    """
    wrong = [line for line in done.stderr.splitlines() if line and not re.search(FINE, line)]
    if done.returncode and (wrong or not done.stderr.strip()):
        raise LaunchError(f"`qstat` ended with exit code {done.returncode}, and said: {wrong}")
    return done.stdout


def exit_of(status: int) -> int | None:
    """Return the exit code, or minus the signal, in what PBS calls an exit status."""
    if status < 0:  # of the scheduler, not of the job
        return None
    return SIGNALLED - status if status >= SIGNALLED else from_shell(status)
