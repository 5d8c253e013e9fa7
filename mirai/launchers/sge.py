"""Grid Engine: ``qsub``, ``qstat``, ``qacct`` and ``qdel``, as of Son of Grid Engine 8.1.9."""

from __future__ import annotations

import getpass
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirai.launchers._base import Handle, Order, Phase, State, states
from mirai.launchers._batch import BatchLauncher, from_shell, mebibytes, option
from mirai.launchers._submit import ask, end, run

_AT_ITS_LIMIT = "37"
"""Of ``failed``: it went over its h_rt, h_cpu or h_vmem."""
_KILLED = "100"
"""Of ``failed``: it was ended by a signal, whoever sent that."""
_RESCHEDULED = ("24", "25", "99")
"""Of ``failed``: its place was wanted for another, and it would run again."""
_NEAR = 0.98
"""How much of a limit counts as all of it."""
_UNITS = {"B": 1.0, "K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


@dataclass(frozen=True, kw_only=True)
class SGELauncher(BatchLauncher):
    """Daemons as jobs of Grid Engine.

    ``queue`` and ``project`` are what it calls so.  ``parallel_environment`` is asked for more
    than one of ``cpus``, its slots; it must keep a job on one machine.  ``memory`` and ``gpus``
    are asked for by resources whose names are the site's own: ``memory_resource``, of which each
    slot gets its share, and ``gpu_resource``.  The other options are those of ``BatchLauncher``.
    """

    queue: str | None = None
    project: str | None = None
    parallel_environment: str = "smp"
    gpus: int | None = None
    memory_resource: str = "h_vmem"
    gpu_resource: str = "gpu"

    prefix: ClassVar[str] = "#$"
    job: ClassVar[str] = "$JOB_ID"
    job_of_array: ClassVar[str] = "$JOB_ID.$SGE_TASK_ID"
    submission: ClassVar[tuple[str, ...]] = ("qsub", "-terse")
    id: ClassVar[re.Pattern[str]] = re.compile(r"^(\d+)(?:\.\S+)?\s*$", re.MULTILINE)
    special: ClassVar[str] = "$:,'\""

    def directives(self, order: Order) -> list[str]:
        """Return the options of qsub."""
        memory, time = self.memory_bytes(), self.walltime_seconds()
        share = None if memory is None else f"{mebibytes(-(-memory // self.cpus))}M"
        pattern = "$JOB_ID" if order.count == 1 else "$JOB_ID.$TASK_ID"
        wanted: list[tuple[str, object]] = [
            ("-N", order.name),
            ("-t", f"1-{order.count}" if order.count > 1 else None),
            ("-o", self.log_path(order, pattern)),
            ("-j", "y"),
            ("-S", "/bin/sh"),
            ("-r", "n"),
            ("-l", None if share is None else f"{self.memory_resource}={share}"),
            ("-l", None if time is None else f"h_rt={time}"),
            ("-l", None if self.gpus is None else f"{self.gpu_resource}={self.gpus}"),
            ("-q", self.queue),
            ("-P", self.project),
            ("-A", self.account),
        ]
        options = [
            f"{name} {option(value, name=name, nested=False)}"
            for name, value in wanted
            if value is not None
        ]
        slots = [f"-pe {option(self.parallel_environment)} {self.cpus}"] if self.cpus > 1 else []
        return [*options, *slots, "-cwd"]

    def ids(self, id: str, count: int) -> list[str]:
        """Return ``["7.1", "7.2", …]``."""
        return [f"{id}.{index}" for index in range(1, count + 1)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask qstat about all our jobs; and qacct about those that it has forgotten."""
        if not handles:
            return {}
        known = parse_queue(ask(["qstat", "-xml", "-u", getpass.getuser()]))
        for id in sorted({_array(h.id) for h in handles if h.id not in known}):
            told = self.parse_account(run(["qacct", "-j", id]).stdout)
            known = told | known  # a rerun of a job is in both
        for id in sorted({_array(h.id) for h in handles if _is_stuck(known.get(h.id))}):
            why = parse_error(run(["qstat", "-j", id]).stdout)
            stuck = [each for each in known if _array(each) == id and _is_stuck(known[each])]
            known |= {each: State(Phase.FAILED, f"{known[each].detail}{why}") for each in stuck}
        return states(handles, known)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Delete them."""
        end(["qdel"], [handle.id for handle in handles], _FINE)

    def recall(self, name: str) -> None:
        """Delete all jobs of this name: no other launch has it."""
        end(["qdel"], [name], _FINE)

    def parse_account(self, text: str) -> dict[str, State]:
        """Return what ``qacct -j`` tells of jobs that have ended, by id."""
        found: dict[str, State] = {}
        for part in re.split(r"^=+\s*$", text, flags=re.MULTILINE):
            said = dict(re.findall(r"^(\w+)[ \t]+(.*?)[ \t]*$", part, re.MULTILINE))
            id, task = said.get("jobnumber", ""), said.get("taskid", "")
            if id:
                found[f"{id}.{task}" if task.isdigit() else id] = self._ending(said)
        return found

    def _ending(self, said: Mapping[str, str]) -> State:
        failed, status = said.get("failed", ""), said.get("exit_status", "")
        code = _number(failed)
        exit = from_shell(int(number)) if (number := _number(status)) else None
        detail = ", ".join(f"{name} {said[name]}" for name in _TOLD if said.get(name))
        return State(self._phase(code, exit, said), " ".join(detail.split()), exit)

    def _phase(self, failed: str, exit: int | None, said: Mapping[str, str]) -> Phase:
        if failed == "0" and exit is not None:
            return Phase.FAILED if exit else Phase.ENDED
        if failed in _RESCHEDULED:
            return Phase.PREEMPTED
        if failed in (_AT_ITS_LIMIT, _KILLED):
            time, memory = self.walltime_seconds(), self.memory_bytes()
            if time is not None and amount(said.get("ru_wallclock", "")) >= time * _NEAR:
                return Phase.TIMEOUT
            if memory is not None and amount(said.get("maxvmem", "")) >= memory * _NEAR:
                return Phase.MEMORY
            return Phase.CANCELLED if failed == _KILLED else Phase.FAILED
        return Phase.FAILED


_TOLD = ("failed", "exit_status", "ru_wallclock", "maxvmem")
_FINE = r"registered the job|already in deletion|does not exist|has deleted job"


def parse_queue(text: str) -> dict[str, State]:
    """Return what ``qstat -xml`` tells of jobs, by id; nothing where it is not understood."""
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return {}
    found: dict[str, State] = {}
    for job in root.iter("job_list"):
        id, state = job.findtext("JB_job_number", ""), job.findtext("state", "")
        if id and state:
            told = _state(state)
            found |= {f"{id}.{task}": told for task in _tasks(job.findtext("tasks", ""))} or {
                id: told
            }
    return found


def _state(letters: str) -> State:
    """Return what letters like ``"qw"`` say: each is a state of its own."""
    if "E" in letters:
        return State(Phase.FAILED, letters)
    waits = "q" in letters or "w" in letters
    return State(Phase.PENDING if waits else Phase.RUNNING, letters)


def _is_stuck(state: State | None) -> bool:
    """Whether it is in error, and waits in the queue for somebody to clear that."""
    return state is not None and state.phase is Phase.FAILED and "E" in state.detail.split()[0]


def parse_error(text: str) -> str:
    """Return why a job is in error, as ``qstat -j`` tells, as ``": the reason"``; or nothing."""
    match = re.search(r"^error reason[^:]*:\s*(.*)$", text, re.MULTILINE)
    return f": {match[1].strip()}" if match else ""


def _tasks(text: str) -> Iterator[int]:
    """Yield the numbers in what Grid Engine calls ``"3"``, ``"1-3:1"`` or ``"1,4-8:2"``."""
    for first, last, step in re.findall(r"(\d+)(?:-(\d+)(?::(\d+))?)?", text):
        yield from range(int(first), int(last or first) + 1, max(1, int(step or 1)))


def _number(text: str) -> str:
    match = re.match(r"\s*(\d+)", text)
    return match[1] if match else ""


def amount(text: str) -> float:
    """Return an amount like ``"31s"`` or ``"3.453MB"`` in seconds or bytes; 0 if it is none."""
    match = re.match(r"\s*(\d+(?:\.\d+)?)([KMGT]?)", text)
    return float(match[1]) * _UNITS[match[2] or "B"] if match else 0.0


def _array(id: str) -> str:
    return id.partition(".")[0]
