"""Processes that work on a queue: started, kept alive on paper, buried, replaced.

One thread, one loop, for the time of one ``join``.  Workers take tasks themselves; whoever keeps
them only sees to their leases and their deaths.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from dispatcher.processes import JOINED, MAX_FAILURES, POSIX, Process
from mirai._bell import Bell
from mirai._errors import MiraiError
from mirai._log import level
from mirai._process import boot_argv, search_path
from mirai.queues.files._table import Table
from mirai.queues.files._work import RENEWALS
from mirai.queues.files._worker import begun

TICK = 1.0
"""How often to look whether tasks have come for more workers, in seconds."""
GLANCE = 0.25
"""How often to look for workers that have ended where nothing tells, in seconds."""
DIED = "the worker died"
ENDED = "the worker was ended in the middle of it, since whoever had joined was interrupted"


@dataclass(slots=True, eq=False)
class _Member:
    """A worker's process."""

    id: str
    process: Process


class Crew:
    """Up to ``count`` workers, until there is nothing left to do for them."""

    def __init__(
        self,
        table: Table,
        count: int,
        ttl: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._table = table
        self._count = count
        self._ttl = ttl
        self._clock = clock
        self._lead = os.fsencode(search_path(table.paths()))
        self._members: list[_Member] = []
        self._failures = 0  # workers in a row that have ended before they had a task
        self._last = ""  # what the last of them has printed
        self._tick = min(TICK, ttl / RENEWALS)
        self._looks_at = self._renews_at = 0.0
        self._is_draining = self._is_stopped = False
        self._say: Callable[[], None] | None = None
        self._selector = selectors.DefaultSelector()
        self._bell = Bell()
        if POSIX:
            self._selector.register(self._bell, selectors.EVENT_READ, self._bell.silence)

    def run(self) -> None:
        """Work until the queue is empty; once.

        When this ends, however it does, no worker lives.  Raises StoreError, and MiraiError where
        workers cannot be started.
        """
        try:
            self._look_after()
            while self._members and not self._is_stopped:
                self._wait()
                self._bury_dead()
                self._look_after()
        finally:
            self._close()

    def drain(self, say: Callable[[], None] | None = None) -> None:
        """Have the workers leave when they have done what they are at.  In any thread.

        ``say`` is called once they all have been told so.
        """
        self._say = say
        self._is_draining = True
        self._bell.ring()

    def stop(self) -> None:
        """End the workers at once.  In any thread."""
        self._is_stopped = True
        self._bell.ring()

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def _look_after(self) -> None:
        """Renew leases, and start workers, if it is time for that."""
        now = time.monotonic()
        if self._is_draining:
            self._tell_to_leave()
        elif now >= self._looks_at:
            self._looks_at = now + self._tick
            self._table.requeue(self._clock(), allowed=True)
            for _ in range(min(self._count - len(self._members), self._wanted())):
                self._start()
        if now >= self._renews_at:
            self._renews_at = now + self._ttl / RENEWALS
            self._table.renew([each.id for each in self._members], self._clock(), self._ttl)

    def _tell_to_leave(self) -> None:
        for member in self._members:
            member.process.terminate()
        if self._say is not None:
            self._say()
            self._say = None

    def _wanted(self) -> int:
        """Return how many more workers would have something to do."""
        waiting = self._table.waiting()
        if waiting or self._members or self._table.is_over():
            return waiting
        return 1  # others run what may come back

    def _start(self) -> None:
        if self._failures >= MAX_FAILURES:
            raise MiraiError(f"workers do not start; the last of them printed:\n{self._last}")
        process = Process(boot_argv("mirai.queues.files._worker"), self._lead, log=bool(level()))
        member = _Member(os.urandom(8).hex(), process)
        self._members.append(member)
        if process.output >= 0:
            read = partial(self._read_output, process)
            self._selector.register(process.output, selectors.EVENT_READ, read)
        if process.sentinel >= 0:
            self._selector.register(process.sentinel, selectors.EVENT_READ, int)
        config = {
            "path": self._table.path,
            "worker": member.id,
            "host": socket.gethostname(),
            "ttl": self._ttl,
            "watermark": process.child_fd,
            "log": (process.child_log, level()),
            "lifeline": True,
        }
        process.configure(json.dumps(config).encode() + b"\n", lifeline=True)

    def _bury_dead(self) -> None:
        for member in list(self._members):
            if (code := member.process.reap()) is not None:
                mark, output = member.process.started(), member.process.tail()
                self._members.remove(member)
                self._discard(member.process)
                self._count_failure(mark, code, output)
                self._table.bury(member.id, begun(mark), DIED, code, output)
                self._looks_at = 0.0

    def _count_failure(self, mark: int | None, code: int, output: str) -> None:
        """Note whether a worker has ended without having had a task, though it was to."""
        if code and mark in (0, JOINED):
            self._failures += 1
            self._last = output
        else:
            self._failures = 0

    # ── waiting ──────────────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        """Wait for a death, for output, or until there is something to look after."""
        until = self._renews_at if self._is_draining else min(self._looks_at, self._renews_at)
        timeout = max(0.0, until - time.monotonic())
        if not all(member.process.sentinel >= 0 for member in self._members):
            timeout = min(timeout, GLANCE)
        if not POSIX:
            time.sleep(timeout)
            return
        for key, _ in self._selector.select(timeout):
            key.data()

    def _read_output(self, process: Process) -> None:
        if not process.read_output():
            self._unwatch(process.output)

    def _unwatch(self, fd: int) -> None:
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def _discard(self, process: Process) -> None:
        self._unwatch(process.output)
        self._unwatch(process.sentinel)
        process.close()

    def _close(self) -> None:
        """End whoever is left: what they were at is abandoned, unless they had not begun it."""
        for member in self._members:
            member.process.kill()
        for member in self._members:
            member.process.wait()
            mark, output = member.process.started(), member.process.tail()
            self._discard(member.process)
            with contextlib.suppress(MiraiError):  # then their leases end by themselves
                self._table.bury(member.id, begun(mark), ENDED, None, output)
        self._selector.close()
        self._bell.close()
