"""The programs of LSF, by its manual."""

from __future__ import annotations

import json
import re
import sys

from jobs import Job, clock, directives, fail, jobs, spans, submit


def bsub(_: list[str]) -> None:
    """Take a script from standard input."""
    script = sys.stdin.read()
    options = dict(directives(script, "#BSUB"))
    queue = options.get("-q", "normal")
    if queue not in ("normal", "hold"):
        fail(f"{queue}: No such queue. Job not submitted.", 255)
    name, _, indices = options["-J"].rstrip("]").partition("[")
    id = submit(
        script,
        spans(indices) if indices else [0],
        name,
        lambda job, task: {"LSB_JOBID": str(job), "LSB_JOBINDEX": str(task)},
        log=options["-o"],
        seconds=clock(f"{options['-W']}:00") if "-W" in options else 0,
        held=queue == "hold",
    )
    print(
        f"Job <{id}> is submitted to {'queue' if '-q' in options else 'default queue'} <{queue}>."
    )


def matching(id: str) -> list[Job]:
    """Return the jobs that an id, or an array's, names."""
    return [job for job in jobs() if id in (str(job.id), f"{job.id}[{job.task}]")]


def bjobs(argv: list[str]) -> None:
    """Tell of jobs in JSON."""
    found, status = [], 0
    for id in (word for word in argv if re.match(r"\d", word)):
        named = matching(id)
        found += list(map(told, named))
        if not named:
            print(f"Job <{id}> is not found", file=sys.stderr)
            status = 255
    print(json.dumps({"COMMAND": "bjobs", "JOBS": len(found), "RECORDS": found}, indent=2))
    sys.exit(status)


def told(job: Job) -> dict[str, str]:
    """Return what is told of a job."""
    stat, code, why = {"waits": "PEND", "runs": "RUN", "over": "EXIT"}[job.phase], "", ""
    if job.phase == "over":
        if job.exit == 0 and not job.has("deleted"):
            stat = "DONE"
        elif job.exit is not None:
            code = str(128 - job.exit if job.exit < 0 else job.exit)
        if job.has("limit"):
            why = "TERM_RUNLIMIT: job killed after reaching LSF run time limit"
        elif job.has("deleted"):
            why = "TERM_OWNER: job killed by owner"
    return {
        "JOBID": str(job.id),
        "JOBINDEX": str(job.task),
        "STAT": stat,
        "EXIT_CODE": code,
        "EXIT_REASON": why,
        "PEND_REASON": "The queue is inactivated;" if stat == "PEND" else "",
    }


def bkill(argv: list[str]) -> None:
    """Kill jobs, by their ids or by their name."""
    status = 0
    if argv[0] == "-J":
        named = [job for job in jobs() if job.options["name"] == argv[1] and job.phase != "over"]
        if not named:
            fail(f"Job <{argv[1]}> is not found", 255)
        argv = sorted({str(job.id) for job in named})
    for id in argv:
        found = matching(id)
        if not found:
            print(f"Job <{id}>: No matching job found", file=sys.stderr)
            status = 255
        elif all(job.phase == "over" for job in found):
            print(f"Job <{id}>: Job has already finished", file=sys.stderr)
            status = 255
        else:
            print(f"Job <{id}> is being terminated")
            for job in found:
                job.mark("deleted")
    sys.exit(status)
