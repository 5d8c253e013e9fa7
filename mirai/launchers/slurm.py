"""Slurm: ``sbatch``, ``squeue`` and ``scancel``, as of its manual for 22.05 and later."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from shlex import quote
from typing import ClassVar

from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import BatchLauncher, mebibytes
from mirai.launchers._submit import ask, end, run

_PHASES = {
    "PENDING": Phase.PENDING,
    "CONFIGURING": Phase.PENDING,
    "REQUEUED": Phase.PENDING,
    "REQUEUE_HOLD": Phase.PENDING,
    "REQUEUE_FED": Phase.PENDING,
    "SPECIAL_EXIT": Phase.PENDING,
    "RESV_DEL_HOLD": Phase.PENDING,
    "RUNNING": Phase.RUNNING,
    "COMPLETING": Phase.RUNNING,
    "SIGNALING": Phase.RUNNING,
    "STAGE_OUT": Phase.RUNNING,
    "RESIZING": Phase.RUNNING,
    "STOPPED": Phase.RUNNING,
    "SUSPENDED": Phase.RUNNING,
    "COMPLETED": Phase.ENDED,
    "CANCELLED": Phase.CANCELLED,
    "REVOKED": Phase.CANCELLED,
    "TIMEOUT": Phase.TIMEOUT,
    "DEADLINE": Phase.TIMEOUT,
    "OUT_OF_MEMORY": Phase.MEMORY,
    "PREEMPTED": Phase.PREEMPTED,
    "NODE_FAIL": Phase.PREEMPTED,
    "BOOT_FAIL": Phase.FAILED,
    "FAILED": Phase.FAILED,
}
"""Slurm's name of a state -> what it means."""


@dataclass(frozen=True, kw_only=True)
class SlurmLauncher(BatchLauncher):
    """Daemons as jobs of Slurm.

    ``partition``, ``qos``, ``constraint`` and ``gpus`` (a number, or like ``"a100:2"``) are what
    Slurm calls by these names; the other options are those of ``BatchLauncher``.
    """

    partition: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int | str | None = None

    prefix: ClassVar[str] = "#SBATCH"
    job: ClassVar[str] = "$SLURM_JOB_ID"
    job_of_array: ClassVar[str] = "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
    submission: ClassVar[tuple[str, ...]] = ("sbatch", "--parsable")
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+)(?:;\S+)?\s*$", re.MULTILINE)
    special: ClassVar[str] = "%\\"
    interval: ClassVar[float] = 5.0

    def directives(self, order: Order) -> list[str]:
        """Return the options of sbatch."""
        memory, time = self.memory_bytes(), self.walltime_seconds()
        pattern = "%j" if order.count == 1 else "%A_%a"
        wanted: list[tuple[str, object]] = [
            ("job-name", order.name),
            ("array", f"1-{order.count}" if order.count > 1 else None),
            ("output", self.log_path(order, pattern)),
            ("ntasks", 1),
            ("cpus-per-task", self.cpus),
            ("mem", None if memory is None else f"{mebibytes(memory)}M"),
            ("time", None if time is None else _clock(time)),
            ("partition", self.partition),
            ("account", self.account),
            ("qos", self.qos),
            ("constraint", self.constraint),
            ("gpus", self.gpus),
        ]
        options = [quote(f"--{name}={value}") for name, value in wanted if value is not None]
        return [*options, "--no-requeue"]

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7_1", "7_2", …]``."""
        return [f"{id}_{index}" for index in range(1, count + 1)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask squeue about all of them; and scontrol about those that it has forgotten."""
        names = {handle.launch for handle in handles}
        known = _queue(names) if names else {}
        missing = sorted({_array(h.id) for h in handles if h.id not in known})
        for id in missing:
            done = run(["scontrol", "--oneliner", "show", "job", id])
            known |= parse_jobs(done.stdout)
        for handle in handles:  # an array that was cancelled before it began is told as one
            if handle.id not in known and (whole := known.get(_array(handle.id))) is not None:
                known[handle.id] = whole
        return states(handles, known)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Cancel them, by as many calls of scancel as command lines of bearable length need."""
        end(["scancel", "--quiet"], [handle.id for handle in handles])

    def recall(self, name: str) -> None:
        """Cancel all jobs of this name: no other launch has it."""
        ask(["scancel", "--quiet", f"--name={name}", "--me"])


def _queue(names: set[str]) -> dict[str, State]:
    argv = ["squeue", "--noheader", "--states=all", "--array", "--format=%i|%T|%r"]
    return parse_queue(ask([*argv, f"--name={','.join(sorted(names))}"]))


def parse_queue(text: str) -> dict[str, State]:
    """Return what squeue tells of jobs, by id: lines of ``id|STATE|reason``."""
    found = {}
    for line in text.splitlines():
        id, state, reason = (*line.strip().split("|"), "", "")[:3]
        if id and state:
            found[id] = _state(state, reason)
    return found


def parse_jobs(text: str) -> dict[str, State]:
    """Return what ``scontrol --oneliner show job`` tells of jobs, by id."""
    found = {}
    for line in text.splitlines():
        said = dict(re.findall(r"(\S+?)=(\S*)", line))
        if "JobState" not in said:
            continue
        state = _state(said["JobState"], said.get("Reason", ""), said.get("ExitCode", ""))
        found[said["JobId"]] = state
        array, tasks = said.get("ArrayJobId"), said.get("ArrayTaskId", "")
        for task in _tasks(tasks) if array else ():
            found[f"{array}_{task}"] = state
    return found


def _state(name: str, reason: str, exit: str = "") -> State:
    told = name if reason in ("", "None") else f"{name} ({reason})"
    code, _, signal = exit.partition(":")
    number = None
    if code.isdigit() and _PHASES.get(name, Phase.UNKNOWN).is_over:
        number = -int(signal) if signal.isdigit() and int(signal) else int(code)
    return State(_PHASES.get(name, Phase.UNKNOWN), told, number)


def _tasks(text: str) -> list[int]:
    """Return the numbers in what Slurm calls ``"3"``, ``"1-3,7"`` or ``"1-3%2"``."""
    parts = text.partition("%")[0].split(",")
    spans = (part.partition("-") for part in parts if part.replace("-", "").isdigit())
    return list(chain.from_iterable(range(int(a), int(b or a) + 1) for a, _, b in spans))


def _array(id: str) -> str:
    return id.partition("_")[0]


def _clock(seconds: int) -> str:
    """Return a time as Slurm writes it: ``"1-02:03:04"``."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return f"{days}-{hour:02}:{minute:02}:{second:02}"
