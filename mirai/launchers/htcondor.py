"""HTCondor: ``condor_submit``, ``condor_q``, ``condor_history`` and ``condor_rm``, from 9.0 on.

It reads a description of the jobs, which names the script: the script lies in the launch's
directory, on the file system that its machines share with us.

Not tried on a real cluster: there is none to be had.  HTCondor's own parser has read the
descriptions.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import SHOWN, BatchLauncher, mebibytes
from mirai.launchers._submit import ask, end

_PHASES = {
    1: Phase.PENDING,
    2: Phase.RUNNING,
    3: Phase.CANCELLED,
    4: Phase.ENDED,
    5: Phase.FAILED,
    6: Phase.RUNNING,
    7: Phase.RUNNING,
}
"""HTCondor's number of a state -> what it means."""
_NAMES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held", 6: "transferring"}
_NAMES |= {7: "suspended"}
_MEMORY = 34
"""Why a job is held: it went over its memory."""
_TIMES = (46, 47)
"""Why a job is held: it went over its time."""
_HELD = 600
"""How long a job that is held stays in the queue, for people to see why, in seconds."""
_ATTRIBUTES = (
    "ClusterId",
    "ProcId",
    "JobStatus",
    "LastJobStatus",
    "HoldReason",
    "HoldReasonCode",
    "RemoveReason",
    "ExitCode",
    "ExitBySignal",
    "ExitSignal",
    "RemoteWallClockTime",
    "NumJobStarts",
)


@dataclass(frozen=True, kw_only=True)
class HTCondorLauncher(BatchLauncher):
    """Daemons as jobs of HTCondor.

    ``gpus`` and ``requirements``, an expression of its own (``'Machine == "n1"'``), are what it
    calls so; ``account`` is its ``accounting_group``.  ``directives_extra`` are lines of its
    description, such as ``"priority = 5"``.  A daemon that was evicted does not come back.  The
    other options are those of ``BatchLauncher``.
    """

    gpus: int | None = None
    requirements: str | None = None

    prefix: ClassVar[str] = ""
    job: ClassVar[str] = "$MIRAI_JOB"
    job_of_array: ClassVar[str] = "$MIRAI_JOB"
    submission: ClassVar[tuple[str, ...]] = ("condor_submit", "-terse", "-")
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+\.0)(?: - \d+\.\d+)?\s*$", re.MULTILINE)
    special: ClassVar[str] = "\\"

    def directives(self, order: Order) -> list[str]:
        """Return the lines of a description of the jobs."""
        memory, time = self.memory_bytes(), self.walltime_seconds()
        log = _plain(self.log_path(order, "\0")).replace("\0", "$(ClusterId).$(ProcId)")
        wanted: list[tuple[str, object]] = [
            ("batch_name", order.name),
            ("universe", "vanilla"),
            ("executable", "/bin/sh"),
            ("transfer_executable", "false"),
            ("arguments", _argument(_script_path(order))),
            ("environment", '"MIRAI_JOB=$(ClusterId).$(ProcId)"'),
            ("should_transfer_files", "NO"),
            ("output", log),
            ("error", log),
            ("request_cpus", self.cpus),
            ("request_memory", None if memory is None else mebibytes(memory)),
            ("request_gpus", self.gpus),
            ("requirements", self.requirements),
            ("accounting_group", None if self.account is None else _plain(self.account)),
            ("+MaxRuntime", time),
            ("periodic_remove", _removal(time)),
        ]
        return [f"{name} = {value}" for name, value in wanted if value is not None]

    def description(self, order: Order) -> str:
        """Return what condor_submit reads."""
        return "\n".join([*self.lines(order), f"queue {order.count}"]) + "\n"

    def script(self, order: Order) -> str:
        """Return the script that each of the jobs runs."""
        return self.body(order, ())

    def job_script(self, n: int = 1) -> str:
        """Return the description of ``n`` jobs, and their script after it."""
        order = dataclasses.replace(SHOWN, count=n)
        return f"{self.description(order)}\n# {_script_path(order)}:\n{self.script(order)}"

    def submit(self, order: Order) -> list[Handle]:
        """Submit one cluster of jobs, whose script is written first."""
        with open(_script_path(order), "w", encoding="utf-8") as file:
            file.write(self.script(order))
        return super().submit(order)

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7.0", "7.1", …]``."""
        return [f"{_cluster(id)}.{number}" for number in range(count)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask condor_q about all of them; and condor_history about those that are gone."""
        if not handles:
            return {}
        known = parse_jobs(_asked("condor_q", {_cluster(handle.id) for handle in handles}))
        gone = [handle.id for handle in handles if handle.id not in known]
        if gone:
            clusters = {_cluster(id) for id in gone}
            most = sum(_cluster(handle.id) in clusters for handle in handles)
            known |= parse_jobs(_asked("condor_history", clusters, "-match", str(most)))
        return states(handles, known)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Remove them."""
        end(["condor_rm"], [handle.id for handle in handles], _FINE)

    def recall(self, name: str) -> None:
        """Remove all jobs of this name: no other launch has it."""
        end(["condor_rm", "-constraint"], [f'JobBatchName == "{name}"'], _FINE)


_FINE = r"marked for removal|not found|already|Couldn't find|There are no jobs"


def _removal(time: int | None) -> str:
    """Return when HTCondor is to remove a job by itself."""
    reasons = [
        "(JobStatus == 1 && NumJobStarts > 0)",  # it was evicted
        f"(JobStatus == 5 && time() - EnteredCurrentStatus > {_HELD})",
    ]
    if time is not None:
        reasons.append(f"(JobStatus == 2 && time() - JobCurrentStartDate > {time})")
    return " || ".join(reasons)


def _script_path(order: Order) -> str:
    return os.path.join(order.directory, f"{order.name}.sh")


def _plain(text: str) -> str:
    """Return a value of a description that means just what it says."""
    return text.replace("$", "$(DOLLAR)")


def _argument(text: str) -> str:
    """Return one argument of a program, as a description has it."""
    quoted = text.replace("'", "''").replace('"', '""')
    return f"\"'{_plain(quoted)}'\""


def _cluster(id: str) -> str:
    return id.partition(".")[0]


def _asked(program: str, clusters: set[str], *options: str) -> str:
    wanted = " || ".join(f"ClusterId == {cluster}" for cluster in sorted(clusters))
    fields = ",".join(_ATTRIBUTES)
    return ask([program, "-json", "-attributes", fields, *options, "-constraint", wanted])


def parse_jobs(text: str) -> dict[str, State]:
    """Return what condor_q or condor_history tells of jobs, by id; nothing if it is garbled."""
    found = {}
    try:
        for said in _records(text):
            found[f"{said['ClusterId']}.{said['ProcId']}"] = _state(said)
    except (ValueError, LookupError, TypeError, AttributeError):
        return found
    return found


def _records(text: str) -> Iterator[dict[str, Any]]:
    """Yield all records: HTCondor prints a list for each of its queues, and none for no job."""
    decoder, place = json.JSONDecoder(strict=False), 0
    while (text := text[place:].lstrip()) != "":
        records, place = decoder.raw_decode(text)
        yield from records


def _state(said: Mapping[str, Any]) -> State:
    number = int(said.get("JobStatus", 0))
    phase = _PHASES.get(number, Phase.UNKNOWN)
    why, exit = str(said.get("RemoveReason", "")), None
    if number == 5:
        phase, why = _held(said), str(said.get("HoldReason", ""))
    elif number == 3:
        phase = _removed(said)
    elif number == 4:
        exit = -int(said["ExitSignal"]) if said.get("ExitBySignal") else said.get("ExitCode")
        phase = Phase.FAILED if exit else Phase.ENDED
    name = _NAMES.get(number, str(number))
    return State(phase, f"{name} ({why})" if why else name, exit)


def _held(said: Mapping[str, Any]) -> Phase:
    code = said.get("HoldReasonCode")
    if code == _MEMORY:
        return Phase.MEMORY
    return Phase.TIMEOUT if code in _TIMES else Phase.FAILED


def _removed(said: Mapping[str, Any]) -> Phase:
    """Return why it was removed: by somebody, or by its own ``periodic_remove``."""
    if "PeriodicRemove" not in str(said.get("RemoveReason", "")):
        return Phase.CANCELLED
    last = said.get("LastJobStatus")
    if last == 5:
        return _held({"HoldReasonCode": said.get("HoldReasonCode")})
    return Phase.TIMEOUT if last == 2 else Phase.PREEMPTED
