"""``mirai jobs``: the durable jobs of a dispatcher."""

from __future__ import annotations

import os
from collections.abc import Sequence

from dispatcher.log import printable
from mirai import Daemons, MiraiError, connect
from mirai._arguments import parser
from mirai._job import Job, JobStatus

DESCRIPTION = """\
Print the durable jobs of a dispatcher that keeps a journal: how many of the tasks of each wait,
run, are done and have failed.

FILE is the dispatcher's connection file. Of a journal whose dispatcher does not run, see
`mirai journal show`."""

HEAD = ("job", "done", "failed", "running", "waiting", "since")


def main(argv: Sequence[str]) -> int:
    """Print a table, or do something with a job."""
    command = parser("jobs", DESCRIPTION)
    command.add_argument("file", metavar="FILE", help="where the dispatcher is, and the keys")
    act = command.add_mutually_exclusive_group()
    act.add_argument("--delete", metavar="JOB", help="forget a job, and stop what it runs")
    act.add_argument("--retry", metavar="JOB", help="run its tasks again that have failed")
    chosen = command.parse_args(argv)
    with connect(chosen.file, os.path.basename(chosen.file)) as pool:
        if chosen.delete is not None:
            _known(pool, chosen.delete).delete()
        elif chosen.retry is not None:
            _known(pool, chosen.retry).retry()
        print(table(pool.jobs()))
        journal = pool.journal()
        print(f"{printable(journal.path)}: {journal.size / 1e6:,.1f} MB")
    return 0


def _known(pool: Daemons, name: str) -> Job:
    """Return a job that is there.  Raises MiraiError for any other: its name is mistyped."""
    if all(job.name != name for job in pool.jobs()):
        raise MiraiError(f"no job {name!r}")
    return pool.job(name)


def table(jobs: Sequence[JobStatus]) -> str:
    """Return jobs as lines of text."""
    if not jobs:
        return "no jobs"
    rows = [HEAD, *map(_row, jobs)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column in (0, 5) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _row(job: JobStatus) -> tuple[str, ...]:
    counts = (job.done, job.failed, job.running, job.waiting)
    return printable(job.name), *map("{:,}".format, counts), f"{job.made:%Y-%m-%d %H:%M:%S}"
