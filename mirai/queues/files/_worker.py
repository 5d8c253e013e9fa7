"""The process of a worker: it takes tasks from the file itself, and tells nobody but the file.

Whoever has started it renews its lease, since it lives, and looks after its death: eight bytes of
memory, shared with it, say which task it was at.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from dispatcher.processes import JOINED, Watermark
from mirai._beginning import begin, watermark_of
from mirai._cleanup import Cleanup
from mirai._errors import StoreError
from mirai._evaluate import Evaluator
from mirai._printed import Printout, record
from mirai.queues.files._row import Who
from mirai.queues.files._table import Table
from mirai.queues.files._work import Worker

BETWEEN = JOINED - 1
"""What the watermark shows when the worker is at no task, and has done some."""


def begun(mark: int | None) -> int | None:
    """Return the task that a worker is at, 0 if at none, by its watermark; None if unknown."""
    return 0 if mark in (JOINED, BETWEEN) else mark


class _Place:
    """Where this process is: at which task, if at any."""

    def __init__(self, watermark: Watermark | None) -> None:
        self._watermark = watermark
        self._pid = os.getpid()
        self._task = 0
        self._printout = Printout(lambda: self._task)
        record(self._printout.add)

    def begin(self, task: int) -> None:
        """The worker begins a task, or, with 0, has ended one."""
        self._task = task
        if self._watermark is not None:
            self._watermark.set(task or BETWEEN)

    def log(self) -> str:
        """Return what the task has printed, once it has ended."""
        if os.getpid() != self._pid:
            os._exit(0)  # the task has forked, and this is the child: it is no worker
        return self._printout.take(self._task) if self._printout.tails else ""


def main() -> None:
    """Be a worker: what it must know arrives on standard input, as one line of JSON."""
    config = begin()
    if config is None:
        return
    try:
        _work(config)
    except StoreError as error:
        sys.exit(str(error))


def _work(config: dict[str, Any]) -> None:
    watermark = watermark_of(config)
    table = Table(config["path"], create=False, look=False)
    place = _Place(watermark)
    evaluator = Evaluator(cleanup=Cleanup(), seeds=False)
    worker = Worker(
        table,
        Who(config["worker"], config["host"], os.getpid()),
        evaluator,
        ttl=config["ttl"],
        begins=place.begin,
        log=place.log,
        clock=time.time,
    )
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: setattr(worker, "is_leaving", True))
    evaluator.keep()
    if watermark is not None:
        watermark.set(JOINED)
    try:
        worker.run()
    finally:
        evaluator.close()
        table.close()
