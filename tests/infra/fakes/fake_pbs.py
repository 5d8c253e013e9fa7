"""The programs of PBS: what a real OpenPBS 23.06 did was looked at."""

from __future__ import annotations

import json
import os
import re
import sys

from jobs import Job, clock, directives, fail, jobs, spans, submit

SERVER = "fake"
UNKNOWN, FINISHED, NO_QUEUE = 153, 35, 170


def name_of(job: Job) -> str:
    """Return a job's id as PBS writes it."""
    return f"{job.id}[{job.task}].{SERVER}" if job.task else f"{job.id}.{SERVER}"


def environment(id: int, task: int) -> dict[str, str]:
    """Return what a job finds in its environment."""
    job = f"{id}[{task}].{SERVER}" if task else f"{id}.{SERVER}"
    return {"PBS_JOBID": job, "PBS_O_WORKDIR": os.getcwd()}


def qsub(_: list[str]) -> None:
    """Take a script from standard input."""
    script = sys.stdin.read()
    wanted = directives(script, "#PBS")
    options = dict(wanted)
    if options.get("-q", "workq") not in ("workq", "hold"):
        fail("qsub: Unknown queue", NO_QUEUE)
    if "-J" in options and options.get("-r") == "n":
        fail("qsub:  cannot submit non-rerunable Array Job", 1)
    tasks = spans(options["-J"]) if "-J" in options else [0]
    if "-J" in options and len(tasks) < 2:
        fail("qsub: illegal -J value", 2)
    limits = " ".join(value for key, value in wanted if key == "-l")
    walltime = re.search(r"walltime=([\d:]+)", limits)
    id = submit(
        script,
        tasks,
        options["-N"],
        environment,
        seconds=clock(walltime[1] if walltime else "0"),
        held=options.get("-q") == "hold",
    )
    print(f"{id}[].{SERVER}" if "-J" in options else f"{id}.{SERVER}")


def matching(id: str) -> list[Job]:
    """Return the jobs that an id, or an array's, names."""
    return [job for job in jobs() if id in (name_of(job), f"{job.id}[].{SERVER}")]


def qstat(argv: list[str]) -> None:
    """Tell of jobs in JSON."""
    status, found = 0, {}
    for id in (word for word in argv if word[0].isdigit()):
        named = matching(id)
        if not named:
            print(f"qstat: Unknown Job Id {id}", file=sys.stderr)
            status = UNKNOWN
        elif "-x" not in argv and all(job.phase == "over" for job in named):
            print(f"qstat: {id} Job has finished, use -x or -H", file=sys.stderr)
            status = FINISHED
        else:
            found |= {name_of(job): told(job) for job in named}
    print(json.dumps({"timestamp": 1, "pbs_version": "23.06.06", "Jobs": found}, indent=4))
    sys.exit(status)


def told(job: Job) -> dict[str, object]:
    """Return what is told of a job."""
    if job.phase == "waits":
        return {"job_state": "Q", "comment": "Not Running: Queue not started."}
    if job.phase == "runs":
        return {"job_state": "R", "substate": 42, "comment": "Job run at now on (n1:ncpus=1)"}
    if job.exit is None:
        return {"job_state": "F", "substate": 91, "comment": "Job was deleted"}
    status = 256 - job.exit if job.exit < 0 else job.exit
    substate = 91 if job.has("deleted") else 93 if status else 92
    return {
        "job_state": "F",
        "substate": substate,
        "Exit_status": -29 if job.has("limit") else status,
        "comment": "Job run at now on (n1:ncpus=1) and finished",
    }


def qdel(argv: list[str]) -> None:
    """Delete jobs."""
    status = 0
    for id in argv:
        named = matching(id)
        if not named:
            print(f"qdel: Unknown Job Id {id}", file=sys.stderr)
            status = UNKNOWN
        elif all(job.phase == "over" for job in named):
            print(f"qdel: Job has finished {id}", file=sys.stderr)
            status = FINISHED
        for job in named:
            job.mark("deleted")
    sys.exit(status)


def qselect(argv: list[str]) -> None:
    """Name the jobs of a name that have not ended."""
    wanted = argv[argv.index("-N") + 1]
    found = [job for job in jobs() if job.options["name"] == wanted and job.phase != "over"]
    for id in sorted({f"{job.id}[]" if job.task else f"{job.id}" for job in found}):
        print(f"{id}.{SERVER}")
