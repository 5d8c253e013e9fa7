"""``mirai journal``: what a dispatcher keeps on the disk."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime

from dispatcher.journal import Journal, JournalError
from dispatcher.journal_check import JobView, check, look, user
from dispatcher.journal_repair import repair
from mirai._arguments import parser

DESCRIPTION = """\
Look into the journal in which a dispatcher keeps durable jobs, and mend it.

  mirai journal check FILE     looks for damage in all of it, and changes nothing
  mirai journal show FILE      prints which jobs are there, and how far they are
  mirai journal repair FILE    saves what can be saved into a new file, and says what is lost;
                               the damaged one is kept as FILE.damaged-1
  mirai journal compact FILE   makes the file as small as can be

The first two also work while a dispatcher has the journal. None of them opens what tasks were
called with, or what came of them."""

EPILOG = "exit status: 0 if all is well, 1 if something is damaged, lost or in use."


def main(argv: Sequence[str]) -> int:
    """Do it, and tell."""
    command = parser("journal", DESCRIPTION, EPILOG)
    command.add_argument("action", choices=ACTIONS, help="what to do")
    command.add_argument("file", metavar="FILE", help="the journal")
    command.add_argument("--tasks", action="store_true", help="show: list the tasks, too")
    chosen = command.parse_args(argv)
    try:
        return ACTIONS[chosen.action](chosen.file, chosen.tasks)
    except JournalError as error:
        print(f"mirai journal: {error}", file=sys.stderr)
        return 1


def _check(path: str, tasks: bool) -> int:
    wrong = 0
    for line in check(path):
        wrong += 1
        print(f"wrong: {line}", flush=True)
    if wrong:
        print(f"{path} is damaged; `mirai journal repair {path}` saves what can be saved")
        return 1
    _show(path, tasks)
    print("nothing is wrong")
    return 0


def _show(path: str, tasks: bool) -> int:
    view = look(path)
    print(
        f"{path}: format {view.format}, {view.commits} transactions, {_size(view.bytes)},"
        f" jobs: {len(view.jobs)}, functions: {view.functions}"
    )
    if pid := user(path):
        print(f"in use by process {pid}" if pid > 0 else "in use by another process")
    for job in view.jobs:
        _show_job(job, tasks)
    return 0


def _show_job(job: JobView, tasks: bool) -> None:
    made = datetime.fromtimestamp(job.at).astimezone().isoformat(" ", "seconds")
    states = ", ".join(f"{count} {state}" for state, count in sorted(job.states.items()))
    print(f"job {job.number} {job.name!r}, made {made}: {states or 'no tasks'}")
    for run in job.runs if tasks else ():
        last = f" to {run.first + run.count - 1}" if run.count > 1 else ""
        print(f"  {run.first}{last}  {run.function}  {run.state}")


def _size(bytes: int) -> str:
    return f"{bytes / 1e6:.1f} MB"


def _repair(path: str, tasks: bool) -> int:
    *lost, kept = repair(path)
    for line in lost:
        print(line)
    print(kept)
    _show(path, tasks)
    return int(bool(lost))


def _compact(path: str, _tasks: bool) -> int:
    journal = Journal(path, make=False)
    try:
        before = journal.size()
        for _ in journal.load():  # nothing that is damaged is written anew
            pass
        journal.compact()
    finally:
        journal.close()
    print(f"{path}: {_size(before)} before, {_size(journal.size())} now")
    return 0


ACTIONS: dict[str, Callable[[str, bool], int]] = {
    "check": _check,
    "repair": _repair,
    "show": _show,
    "compact": _compact,
}
