"""The programs of HTCondor, by its manual."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from jobs import Job, fail, jobs, submit


def condor_submit(_: list[str]) -> None:
    """Take a description from standard input."""
    text = sys.stdin.read()
    wanted = dict(re.findall(r"^(\S+) = (.*)$", text, re.MULTILINE))
    if "nosuch" in wanted.get("accounting_group", ""):
        fail("ERROR: Failed to commit job submission into the queue.\nERROR: nosuch", 1)
    count = int(text.splitlines()[-1].removeprefix("queue "))
    argument = wanted["arguments"].strip("\"'").replace("''", "'")
    limit = re.search(r"JobCurrentStartDate > (\d+)", wanted["periodic_remove"])
    id = submit(
        Path(argument).read_text(),
        range(1, count + 1),
        wanted["batch_name"],
        lambda job, task: {"MIRAI_JOB": f"{job}.{task - 1}"},
        seconds=float(limit[1]) if limit else 0,
        held=wanted.get("requirements") == "false",
        log=wanted["output"].replace("$(ClusterId)", "%J").replace("$(ProcId)", "%P"),
    )
    print(f"{id}.0 - {id}.{count - 1}")


def name_of(job: Job) -> str:
    """Return a job's id as HTCondor writes it."""
    return f"{job.id}.{job.task - 1}"


def told(job: Job) -> dict[str, object]:
    """Return what is told of a job."""
    number = {"waits": 1, "runs": 2, "over": 4}[job.phase]
    more: dict[str, object] = {}
    if job.has("limit"):
        reason = 'The job attribute PeriodicRemove expression "..." evaluated to TRUE'
        more = {"RemoveReason": reason, "LastJobStatus": 2}
    elif job.has("deleted"):
        more = {"RemoveReason": "via condor_rm (by user me)", "LastJobStatus": 2}
    elif job.exit is not None and job.exit < 0:
        more = {"ExitBySignal": True, "ExitSignal": -job.exit}
    elif job.exit is not None:
        more = {"ExitBySignal": False, "ExitCode": job.exit}
    status = 3 if number == 4 and "RemoveReason" in more else number
    return {"ClusterId": job.id, "ProcId": job.task - 1, "JobStatus": status, **more}


def _tell(argv: list[str], *, over: bool) -> None:
    clusters = set(map(int, re.findall(r"ClusterId == (\d+)", argv[-1])))
    found = [job for job in jobs() if job.id in clusters and (job.phase == "over") is over]
    if found:
        print(json.dumps(list(map(told, found)), indent=2))


def condor_q(argv: list[str]) -> None:
    """Tell of jobs in the queue."""
    _tell(argv, over=False)


def condor_history(argv: list[str]) -> None:
    """Tell of jobs that have left it."""
    _tell(argv, over=True)


def condor_rm(argv: list[str]) -> None:
    """Remove jobs, by their ids or by their name."""
    status, alive = 0, {name_of(job): job for job in jobs() if job.phase != "over"}
    if argv[0] == "-constraint":
        name = argv[1].split('"')[1]
        argv = [id for id, job in alive.items() if job.options["name"] == name]
        if not argv:
            fail(
                f'Couldn\'t find/remove all jobs matching constraint (JobBatchName == "{name}")', 1
            )
    for id in argv:
        if id in alive:
            alive[id].mark("deleted")
            print(f"Job {id} marked for removal")
        else:
            print(f"Job {id} not found", file=sys.stderr)
            status = 1
    sys.exit(status)
