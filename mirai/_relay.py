"""A relay: one daemon to the dispatcher above, with a pool of its own below that does the work.

So a host has as many connections as there are relays, however many daemons they have: what comes
from many is told in few messages.  The main thread turns the dispatcher below, whose daemons end
with it, and decides; another thread owns the connection upwards.  What tasks submit themselves
stays below.

It says once how many tasks it does at the same time: where a daemon has died, a task may wait here
until another has taken its place, though one elsewhere is free.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from dispatcher import PYTHON, __version__, descriptors, wire
from dispatcher.log import Guarded, rename, show
from dispatcher.messages import (
    VERSION,
    Ask,
    Done,
    Hello,
    Leave,
    Message,
    Refused,
    Report,
    Stop,
    Welcome,
)
from dispatcher.processes import JOINED, Watermark
from mirai._beginning import begin, connect, watermark_of
from mirai._channel import Carrier
from mirai._ending import Ending, why_lost
from mirai._hello import hello
from mirai._inproc import InProcess
from mirai._limits import Limits, Stay
from mirai._process import boot_argv, search_path
from mirai._relayed import Relayed

logger = Guarded("mirai")

COMPANY = 0.001
"""How long answers wait for others, in seconds, where the daemons have more to do."""


class _Mailbox:
    """The connection upwards, and the thread that owns it."""

    def __init__(self, link: Carrier, wake: Callable[[], None]) -> None:
        """Take over ``link``; ``wake`` is called, in that thread, when something has come."""
        self.arrived: deque[Message] = deque()
        self.ending: Ending | None = None
        """Why the connection has ended, once it has."""
        self.failed = False
        """Whether the thread has, or the dispatcher above has sent what is no message."""
        self._link = link
        self._wake = wake
        self._leaving: deque[Message] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="mirai-relay", daemon=True)
        self._thread.start()

    def send(self, *messages: Message) -> None:
        """Have messages sent soon."""
        if messages:
            self._leaving.extend(messages)
            self._link.ring()

    def close(self) -> None:
        """Send what is left, and end the connection."""
        self._closed = True
        self._link.ring()
        self._thread.join()
        self._link.close()

    def _run(self) -> None:
        try:
            while self.ending is None and not self._closed:
                self._link.wait(None)
                self._turn()
            if self.ending is None:
                self._send()  # also what came after the last look
        except BaseException:
            traceback.print_exc()
            self.failed = True
        self._wake()

    def _send(self) -> None:
        while self._leaving:
            self._link.send(self._leaving.popleft())

    def _turn(self) -> None:
        self._send()
        ended = self._link.ended  # before we read: what has arrived by now is all there is
        self.arrived.extend(self._link.receive())
        if ended:
            self.ending = why_lost(self._link)
        elif self.arrived:
            self._wake()


class Relay:
    """One relay process."""

    def __init__(
        self,
        link: Carrier,
        below: InProcess,
        width: int,
        limits: Limits,
        *,
        watermark: Watermark | None = None,
        tags: tuple[str, ...] = (),
        job: str = "",
    ) -> None:
        """Take over the ``link`` upwards, and the pool ``below``, of ``width`` daemons.

        ``limits`` are those of the relay as a whole; ``job`` is what it is for the platform that
        has launched it.
        """
        self._below = below
        self._width = width
        self._limits = limits
        self._watermark = watermark
        self._tags = tags
        self._job = job
        self._relayed = Relayed(width)
        self._mailbox = _Mailbox(link, below.ring)
        self._stay = Stay(limits, time.monotonic())
        self._gathers_since = 0.0  # when the first of the answers came that are to be sent
        self._complete = False  # all daemons have joined, and the dispatcher above knows of us
        self._leaving = False  # wants to leave
        self._told = False  # has said so
        self._over = False
        self._ending: Ending | None = None  # why it ends; None: of a failure

    def run(self) -> int:
        """Pass on until told to leave; return the exit status.  For the main thread."""
        signal.signal(signal.SIGTERM, self._on_terminate)
        signal.signal(signal.SIGINT, lambda *_: None)  # that is for tasks
        self._below.send(Hello(VERSION, socket.gethostname(), python=PYTHON, package=__version__))
        self._below.send(Ask(1, self._width))
        try:
            while not self._over:
                self._turn()
        finally:
            self._mailbox.close()
            self._below.close()
        return self._last_word()

    def _on_terminate(self, _number: int, _frame: object) -> None:
        """Leave when the running tasks have ended."""
        self._leaving = True
        self._below.ring()

    def _turn(self) -> None:
        """Wait, and do what there is to do."""
        self._below.wait(self._pause())
        for message in self._below.receive():
            self._hear_from_below(message)
        ended = self._mailbox.failed or self._mailbox.ending is not None
        while self._mailbox.arrived:  # if it has ended, that is all there is
            self._hear_from_above(self._mailbox.arrived.popleft())
        for message in self._relayed.downwards:
            self._below.send(message)
        self._relayed.downwards.clear()
        self._send()
        self._look_at_daemons()
        self._look_at_limits()
        if ended:
            self._end(self._mailbox.ending)
        elif self._leaving and not self._complete:
            self._end(Ending.LEFT)  # it need not wait to be let go

    def _hear_from_below(self, message: Message) -> None:
        match message:
            case Report():
                self._join()
            case Refused(reason):  # as for a client: it would never answer what it has
                sys.stderr.write(f"the relay's own dispatcher refused it: {reason}\n")
                self._end(None)
            case _:
                self._relayed.hear_from_below(message)

    def _join(self) -> None:
        """Now that all daemons are there, tell the dispatcher above."""
        self._mailbox.send(hello(os.getpid(), self._tags, self._job, self._limits, self._width))
        self._complete = True

    def _hear_from_above(self, message: Message) -> None:
        match message:
            case Welcome(number):
                rename("mirai", f"relay {number}")
                logger.info("it has joined, with %d daemons", self._width)
                if self._watermark is not None:
                    self._watermark.set(JOINED)
            case Stop(replace):
                ending = Ending.LEFT if self._told else Ending.STOPPED
                self._end(Ending.REPLACED if replace else ending)
            case Refused(reason):
                sys.stderr.write(f"the dispatcher refused this relay: {reason}\n")
                self._end(Ending.REFUSED)
            case _:
                self._relayed.hear_from_above(message)

    # ── answers ──────────────────────────────────────────────────────────────────────────

    def _send(self) -> None:
        """Send answers at once where a place is free; else a little later, with others."""
        self._mailbox.send(*self._relayed.upwards)  # first: what tasks print is before their ends
        self._relayed.upwards.clear()
        now = time.monotonic()
        outcomes = self._relayed.outcomes
        if outcomes and not self._gathers_since:
            self._gathers_since = now
        if outcomes and self._answers_due() <= now:
            self._mailbox.send(*(Done(batch) for batch in wire.batches(outcomes)))
            outcomes.clear()
            self._gathers_since = 0.0

    def _answers_due(self) -> float:
        return self._gathers_since + COMPANY if len(self._relayed) > self._width else 0.0

    def _pause(self) -> float | None:
        """Return how long to wait at most: until answers are to be sent, or a limit is reached."""
        deadline = None
        if self._complete and not self._told:
            deadline = self._stay.deadline()
        if self._relayed.outcomes:
            due = self._answers_due()
            deadline = due if deadline is None else min(due, deadline)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def _look_at_daemons(self) -> None:
        """Leave where no daemon can be had, so that no task comes in vain."""
        crash = self._below.barren
        if crash is None or self._leaving:
            return
        tail = f"; the last it printed:\n{crash.tail}" if crash.tail else ""
        sys.stderr.write(f"the relay has no daemons: {crash.reason}{tail}\n")
        if self._complete:
            self._leaving = True
        else:
            self._end(Ending.BARREN)

    def _look_at_limits(self) -> None:
        now = time.monotonic()
        due = self._stay.look(now, idle=self._complete and not self._relayed)
        if (due or self._leaving) and self._complete and not self._told:
            self._told = True
            self._mailbox.send(Leave(idle=self._stay.is_idle(now)))

    def _end(self, ending: Ending | None) -> None:
        if not self._over:
            self._over = True
            self._ending = Ending.BARREN if self._below.barren else ending

    def _last_word(self) -> int:
        """Say why it ends; return the exit status."""
        how = "of a failure" if self._ending is None else self._ending.name.lower()
        logger.info("it leaves: %s", how)
        if self._ending is None:
            return 1
        if self._watermark is not None:
            self._watermark.set(self._ending.mark)
        return self._ending


def main() -> None:
    """Be a relay: what it must know arrives on standard input, as one line of JSON."""
    config = begin()
    if config is None:
        return
    descriptors.raise_limit()
    _log_below(*config["log"])
    limits = Limits(**config["options"]["limits"])
    relay = Relay(
        connect(config),
        InProcess(_pool_below(config, limits)),
        config["each"],
        replace(limits, max_tasks=None),
        watermark=watermark_of(config),
        tags=tuple(config["tags"]),
        job=config["job"],
    )
    sys.exit(relay.run())


def _log_below(fd: int, level: str) -> None:
    """Have the dispatcher below and its daemons log to the same descriptor."""
    if fd >= 0:
        os.dup2(fd, 2)
        show("dispatcher", "dispatcher", level, fd)


def _pool_below(config: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """Return a ``dispatcher.server.Config`` of daemons that are as one would be instead of us.

    What limits them is only after how many tasks another takes their place.
    """
    fd, level = config["log"]
    own = Limits(max_tasks=limits.max_tasks)
    return {
        "url": "ipc",
        "public": "",
        "secret": "",
        "client": "",
        "grace": config["grace"],
        "plan": {
            "count": config["each"],
            "argv": boot_argv("mirai._daemon"),
            "lead": search_path(),
            "options": config["options"] | {"limits": asdict(own)},
            "slots": [({}, config["tags"])],
            "log": level if fd >= 0 else "",
            "lines": os.name == "posix",
        },
    }
