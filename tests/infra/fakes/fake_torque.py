"""The programs of Torque, by its manual."""

from __future__ import annotations

import re
import sys
from xml.sax.saxutils import escape

from fake_pbs import NO_QUEUE, SERVER, UNKNOWN, environment, matching, name_of, qselect
from jobs import Job, clock, directives, fail, spans, submit

__all__ = ["qdel", "qselect", "qstat", "qsub"]


def qsub(_: list[str]) -> None:
    """Take a script from standard input."""
    script = sys.stdin.read()
    wanted = directives(script, "#PBS")
    options = dict(wanted)
    if "-J" in options:
        fail("qsub: invalid option -- 'J'", 2)
    if options.get("-q", "batch") not in ("batch", "hold"):
        fail("qsub: submit error (Unknown queue MSG=cannot locate queue)", NO_QUEUE)
    walltime = re.search(r"walltime=([\d:]+)", " ".join(v for k, v in wanted if k == "-l"))
    id = submit(
        script,
        spans(options["-t"]) if "-t" in options else [0],
        options["-N"],
        environment,
        seconds=clock(walltime[1] if walltime else "0"),
        held=options.get("-q") == "hold",
    )
    print(f"{id}[].{SERVER}" if "-t" in options else f"{id}.{SERVER}")


def qstat(argv: list[str]) -> None:
    """Tell of jobs in XML."""
    status, found = 0, ""
    for id in (word for word in argv if word[0].isdigit()):
        named = matching(id)
        if not named:
            print(f"qstat: Unknown Job Id Error {id}", file=sys.stderr)
            status = UNKNOWN
        found += "".join(map(told, named))
    if found:
        print(f"<Data>{found}</Data>")
    sys.exit(status)


def told(job: Job) -> str:
    """Return what is told of a job."""
    letter = {"waits": "Q", "runs": "R", "over": "C"}[job.phase]
    more = ""
    if job.exit is not None:
        status = 256 - job.exit if job.exit < 0 else job.exit
        status = -11 if job.has("limit") else 271 if job.has("deleted") else status
        more = f"<exit_status>{status}</exit_status>"
    name = escape(job.options["name"])
    return (
        f"<Job><Job_Id>{name_of(job)}</Job_Id><Job_Name>{name}</Job_Name>"
        f"<job_state>{letter}</job_state>{more}</Job>"
    )


def qdel(argv: list[str]) -> None:
    """Delete jobs."""
    status = 0
    for id in argv:
        named = matching(id)
        if not named:
            print(f"qdel: Unknown Job Id Error {id}", file=sys.stderr)
            status = UNKNOWN
        elif all(job.phase == "over" for job in named):
            text = "Request invalid for state of job MSG=invalid state for job - COMPLETE"
            print(f"qdel: {text} {id}", file=sys.stderr)
            status = NO_QUEUE
        for job in named:
            job.mark("deleted")
    sys.exit(status)
