"""LSF: ``bsub``, ``bjobs`` and ``bkill``, as of its manual for 10.1 and later.

Not tried on a real cluster: there is none to be had.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import BatchLauncher, from_shell, mebibytes, option
from mirai.launchers._submit import end, portions, run

_PHASES = {
    "PEND": Phase.PENDING,
    "PROV": Phase.PENDING,
    "PSUSP": Phase.PENDING,
    "WAIT": Phase.PENDING,
    "RUN": Phase.RUNNING,
    "SSUSP": Phase.RUNNING,
    "USUSP": Phase.RUNNING,
    "DONE": Phase.ENDED,
    "EXIT": Phase.FAILED,
    "ZOMBI": Phase.FAILED,
}
"""LSF's name of a state -> what it means."""
_REASONS = {
    "TERM_RUNLIMIT": Phase.TIMEOUT,
    "TERM_CPULIMIT": Phase.TIMEOUT,
    "TERM_DEADLINE": Phase.TIMEOUT,
    "TERM_MEMLIMIT": Phase.MEMORY,
    "TERM_SWAP": Phase.MEMORY,
    "TERM_PREEMPT": Phase.PREEMPTED,
    "TERM_RC_RECLAIM": Phase.PREEMPTED,
    "TERM_REMOVE_HUNG_JOB": Phase.PREEMPTED,
    "TERM_WINDOW": Phase.PREEMPTED,
    "TERM_LOAD": Phase.PREEMPTED,
    "TERM_REQUEUE_OWNER": Phase.PREEMPTED,
    "TERM_REQUEUE_ADMIN": Phase.PREEMPTED,
    "TERM_ZOMBIE": Phase.PREEMPTED,
    "TERM_OWNER": Phase.CANCELLED,
    "TERM_ADMIN": Phase.CANCELLED,
    "TERM_FORCE_OWNER": Phase.CANCELLED,
    "TERM_FORCE_ADMIN": Phase.CANCELLED,
}
"""What LSF says of a job's end -> what it means."""
_FIELDS = "jobid jobindex stat exit_code exit_reason pend_reason"
_FINE = (
    r"is being terminated|is being signaled|already finished|is not found|No (matching|unfinished)"
)


@dataclass(frozen=True, kw_only=True)
class LSFLauncher(BatchLauncher):
    """Daemons as jobs of LSF.

    ``queue``, ``project`` and ``app``, an application profile, are what it calls so; ``account``
    is its group of users, by which it shares out.  ``gpus`` is a number, or all of what LSF calls
    ``-gpu`` (``"num=2:mode=shared"``); ``resources`` is one more of what it calls ``-R``.
    Its times are whole minutes: ``walltime`` is rounded up.  The other options are those of
    ``BatchLauncher``.
    """

    queue: str | None = None
    project: str | None = None
    app: str | None = None
    gpus: int | str | None = None
    resources: str | None = None

    prefix: ClassVar[str] = "#BSUB"
    job: ClassVar[str] = "$LSB_JOBID"
    job_of_array: ClassVar[str] = "${LSB_JOBID}[${LSB_JOBINDEX}]"
    submission: ClassVar[tuple[str, ...]] = ("bsub",)
    id: ClassVar[re.Pattern[str]] = re.compile(r"^Job <(\d+)> is submitted", re.MULTILINE)
    special: ClassVar[str] = "%"

    def directives(self, order: Order) -> list[str]:
        """Return the options of bsub."""
        memory, time = self.memory_bytes(), self.walltime_seconds()
        several = order.count > 1
        size = None if memory is None else f"{mebibytes(memory)}MB"
        gpus = f"num={self.gpus}" if isinstance(self.gpus, int) else self.gpus
        minutes = None if time is None else -(-time // 60)
        wanted: list[tuple[str, object]] = [
            ("-J", f"{order.name}[1-{order.count}]" if several else order.name),
            ("-o", self.log_path(order, "%J[%I]" if several else "%J")),
            ("-n", self.cpus),
            ("-R", "span[hosts=1]"),
            ("-R", None if size is None else f"rusage[mem={size}]"),
            ("-M", size),
            ("-W", None if minutes is None else f"{minutes // 60}:{minutes % 60:02}"),
            ("-gpu", gpus),
            ("-R", self.resources),
            ("-q", self.queue),
            ("-P", self.project),
            ("-app", self.app),
            ("-G", self.account),
        ]
        options = [
            f"{name} {option(value, name=name)}" for name, value in wanted if value is not None
        ]
        return [*options, "-rn"]

    def log_path(self, order: Order, id: str) -> str:
        """Return where the output of a job goes; an array's id has brackets, its log has none."""
        plain = id.replace("[", ".").rstrip("]")
        return os.path.join(self.log_directory(order), f"{order.name}.{plain}.log")

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7[1]", "7[2]", …]``."""
        return [f"{id}[{index}]" for index in range(1, count + 1)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask bjobs about all of them."""
        known: dict[str, State] = {}
        for some in portions(sorted({handle.id.partition("[")[0] for handle in handles})):
            known |= parse_jobs(_asked(some))
        return states(handles, known)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Kill them."""
        end(["bkill"], [handle.id for handle in handles], _FINE)

    def recall(self, name: str) -> None:
        """Kill all jobs of this name, 0 being all of them: no other launch has it."""
        end(["bkill", "-J", name], ["0"], _FINE)


def _asked(ids: Sequence[str]) -> str:
    done = run(["bjobs", "-a", "-json", "-o", _FIELDS, *ids])
    wrong = [line for line in done.stderr.splitlines() if line and not re.search(_FINE, line)]
    if done.returncode and wrong:
        raise LaunchError(f"`bjobs` ended with exit code {done.returncode}, and said: {wrong}")
    return done.stdout


def parse_jobs(text: str) -> dict[str, State]:
    """Return what ``bjobs -json`` tells of jobs, by id; nothing where it is not understood."""
    found = {}
    try:
        records: Any = json.loads(text, strict=False)["RECORDS"]
        for said in records:
            id, index = str(said.get("JOBID", "")), str(said.get("JOBINDEX", "0"))
            if id and "STAT" in said:
                array = id.partition("[")[0]  # some sites have the index in there
                found[id if index in ("", "0", "-") else f"{array}[{index}]"] = _state(said)
    except (ValueError, LookupError, TypeError, AttributeError):
        return found
    return found


def _state(said: Mapping[str, Any]) -> State:
    name, code, why, waits = (
        str(said.get(field) or "").strip(" -;")
        for field in ("STAT", "EXIT_CODE", "EXIT_REASON", "PEND_REASON")
    )
    phase = _PHASES.get(name, Phase.UNKNOWN)
    term = re.search(r"\bTERM_\w+", why)
    if phase is Phase.FAILED and term:
        phase = _REASONS.get(term[0], phase)
    reason = waits if phase is Phase.PENDING else why
    exit = 0 if phase is Phase.ENDED else None  # DONE is only said of such
    if code.isdigit() and phase.is_over:
        exit = from_shell(int(code))
    return State(phase, f"{name} ({reason})" if reason else name, exit)
