"""``mirai board``: a worker of a board, started by hand, and a look at one."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from types import FrameType

from mirai._arguments import parser
from mirai._errors import StoreError

DESCRIPTION = """\
`worker` takes tasks of a board until it is told to leave; `status` prints how many tasks and
workers there are.

FILE was written by Board.worker_script: it says where the board is and what its workers do. It
must be yours and readable by you only (chmod 600). It may also be env:NAME, for a variable of the
environment that says what such a file does.

SIGTERM and Ctrl-C let the worker end the task that it is on; a second one ends it at once."""


def main(argv: Sequence[str]) -> int:
    """Do one of both."""
    command = parser("board", DESCRIPTION)
    command.add_argument("action", choices=("worker", "status"))
    command.add_argument("file", metavar="FILE", help="where the board is, and its password")
    chosen = command.parse_args(argv)
    return _work(chosen.file) if chosen.action == "worker" else _show(chosen.file)


def _work(source: str) -> int:
    from mirai._answer import unpickled
    from mirai.queues.boards._places import read_place
    from mirai.queues.boards._view import new_key
    from mirai.queues.boards._worker import BoardWorker, Duty, work

    place, name = read_place(source)
    store = place.open()
    try:
        data = store.get(name)
    finally:
        store.close()
    if data is None:
        raise StoreError(f"{place} does not know any more what these workers are to do")
    duty: Duty = unpickled(data, what="duty")

    def ready(worker: BoardWorker) -> None:
        def leave(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
            worker.stop()
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, signal.default_int_handler)

        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, leave)
        print(f"mirai board: {worker.id} takes tasks of {place.name!r}", file=sys.stderr)

    work(place, f"{socket.gethostname()}-{os.getpid()}-{new_key()[:6]}", duty, ready)
    return 0


def _show(source: str) -> int:
    from mirai.queues.boards._places import read_place

    place, _ = read_place(source)
    store = place.open()
    try:
        tally = store.tally()
    finally:
        store.close()
    print(f"board {place.name!r} at {place}: {tally.workers} workers run")
    for state in ("queued", "running", "finished", "failed", "lost"):
        print(f"{state:>9} {getattr(tally, state):>9,}")
    return 0
