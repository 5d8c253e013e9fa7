"""``mirai queue``: work on a queue's file, and look at it."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mirai._arguments import duration, parser, some
from mirai.queues.files._crew import Crew
from mirai.queues.files._queue import Queue
from mirai.queues.files._table import Table
from mirai.queues.files._work import TTL

if TYPE_CHECKING:
    from collections.abc import Iterator

DESCRIPTION = """\
Work on a queue, which is one file, or look at it. There is no server: any number of these, and of
programs that have the file open, may work on it at once, and come and go.

  join     work on it until it is empty. Ctrl-C ends the workers at once, what they were at is
           abandoned; SIGTERM lets them finish what they are at, and leave
  status   print how many tasks there are in each state, and which were abandoned
  requeue  let abandoned tasks run again: they may have run before, in part or whole
  retry    let failed tasks run again
  check    look through the whole file for damage"""

EPILOG = """\
exit status of join: 0 when all tasks are done, or run elsewhere; 1 when some have failed, were
abandoned, or wait

times are in seconds, or like 90s, 5m, 2h, 1d"""

SHOWN = 20
"""How many abandoned tasks are printed."""


def main(argv: Sequence[str]) -> int:
    """Do what is asked; return the status."""
    command = parser("queue", DESCRIPTION, EPILOG)
    command.add_argument("action", choices=ACTIONS, help="what to do")
    command.add_argument("file", metavar="FILE", help="the queue")
    command.add_argument(
        "-n", type=some, default=1, metavar="N", help="join by so many processes (default: 1)"
    )
    command.add_argument(
        "--ttl",
        type=duration,
        default=TTL,
        metavar="TIME",
        help=f"its tasks are abandoned after so long without a sign of life (default: {TTL:g})",
    )
    chosen = command.parse_args(argv)
    return ACTIONS[chosen.action](chosen)


def _join(chosen: argparse.Namespace) -> int:
    table = Table(chosen.file, create=False)
    with Queue(table) as queue:
        crew = Crew(table, chosen.n, chosen.ttl)
        with _on_sigterm(crew.drain):
            crew.run()
        counts = queue.counts()
    print(counts)
    return int(counts.done + counts.running < counts.total)


def _status(chosen: argparse.Namespace) -> int:
    with Queue.open(chosen.file, create=False) as queue:
        print(queue.counts())
        lost = queue.abandoned()
        for each in lost[:SHOWN]:
            print(f"task {each.key} ({each.name}): {each.error}")
        if len(lost) > SHOWN:
            print(f"and {len(lost) - SHOWN:,} others")
    return 0


def _requeue(chosen: argparse.Namespace) -> int:
    with Queue.open(chosen.file, create=False) as queue:
        print(f"{queue.requeue_expired():,} tasks wait again")
    return 0


def _retry(chosen: argparse.Namespace) -> int:
    with Queue.open(chosen.file, create=False) as queue:
        print(f"{queue.retry():,} tasks wait again")
    return 0


def _check(chosen: argparse.Namespace) -> int:
    with Queue.open(chosen.file, create=False) as queue:
        queue.check()
        print(f"{queue.path} is whole: {queue.counts()}")
    return 0


@contextmanager
def _on_sigterm(drain: Callable[[Callable[[], None]], None]) -> Iterator[None]:
    """Drain at the first signal; a second one ends this process, and with it the workers."""

    def handle(*_: object) -> None:
        signal.signal(signal.SIGTERM, former)
        drain(say)

    def say() -> None:
        print("running tasks are finished; a second signal ends them", file=sys.stderr)

    former = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, former)


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {
    "join": _join,
    "status": _status,
    "requeue": _requeue,
    "retry": _retry,
    "check": _check,
}
