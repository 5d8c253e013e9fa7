"""A supervisor: it keeps daemons joined to a dispatcher that may be far away.

One thread, one loop.  What comes after a daemon's end is decided by its ``Place``.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from dispatcher.messages import Role
from dispatcher.processes import ECHO, POSIX, Process
from mirai._comeback import Over, Place
from mirai._connection import Connection
from mirai._ending import Ending, ending_of
from mirai._launched import Launched, job_of_this_process
from mirai._limits import NO_LIMITS, Limits
from mirai._log import level
from mirai._process import boot_argv, search_path

_MEMBERS = (Ending.STOPPED, Ending.LEFT, Ending.LOST, Ending.REPLACED)
"""How those end that have joined."""
_CLEAR = (Ending.STOPPED, Ending.LEFT, Ending.LOST, Ending.UNREACHED)
"""Endings that need no more words."""
LAUNCHED_ECHO = 5.0
"""The same as ``ECHO`` for a job: the platform tells all its processes, and its script tells us."""
GLANCE = 0.25
"""How often to look for daemons that have ended where no signal tells, in seconds."""
SIGNALLED = 128
"""What shells add to the number of the signal that has ended a program."""


@dataclass(slots=True, eq=False)
class _Seat:
    """One place, and who is there."""

    place: Place
    due: float
    process: Process | None = None
    over: Over | None = None


class Supervisor:
    """``count`` daemons, until the dispatcher stops them or they need not come back."""

    def __init__(
        self,
        find: Callable[[], Connection],
        count: int,
        *,
        say: Callable[[str], None],
        limits: Limits = NO_LIMITS,
        tags: tuple[str, ...] = (),
        launched: Launched | None = None,
        lifeline: bool = False,
        each: int = 1,
    ) -> None:
        """``find`` returns where the dispatcher is now; ``say`` tells the user what happens.

        ``launched`` is what was told to the daemons of a launch; they do not come back once they
        have lost the dispatcher.  ``lifeline``: the end of standard input ends them.  With ``each``
        above 1 they are relays, each with so many daemons.
        """
        self._find = find
        self._say = say
        self._tags = tags
        self._launched = launched or Launched()
        self._each = each
        self._job = job_of_this_process()
        self._cwd = self._launched.cwd
        if self._cwd is not None and not os.path.isdir(self._cwd):
            say(f"there is no directory {self._cwd} here; daemons stay in {os.getcwd()}")
            self._cwd = None
        now = time.monotonic()
        ways = len(find().urls)
        place = partial(Place, now, now, limits, launched is not None, ways)
        self._echo = ECHO if launched is None else LAUNCHED_ECHO
        self._seats = [_Seat(place(), now) for _ in range(count)]
        self._signals: list[int] = []
        self._signalled = -ECHO  # when the last one came
        self._heeded = 0  # how many of them have been acted on
        self._argv = boot_argv("mirai._daemon" if each == 1 else "mirai._relay")
        self._lead = os.fsencode(search_path(self._launched.path))
        self._said = ""
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        if POSIX:
            self._selector.register(self._wake_out, selectors.EVENT_READ, self._drain_wakes)
        if lifeline:
            self._watch_lifeline()

    def run(self) -> int:
        """Keep the daemons; return the exit status.  To be called in the main thread, once."""
        former = self._catch_signals()
        try:
            while any(seat.over is None for seat in self._seats):
                self._start_due()
                self._wait()
                self._heed_signals()
                self._look_for_dead()
        finally:
            self._close()
            for number, handler in former.items():
                signal.signal(number, handler)
        if len(self._signals) > 1:
            return SIGNALLED + self._signals[-1]
        return max((seat.over.status for seat in self._seats if seat.over), default=0)

    # ── signals ──────────────────────────────────────────────────────────────────────────

    def _catch_signals(self) -> dict[int, Any]:
        handlers: dict[int, Any] = {
            number: lambda number, _: self._on_signal(number)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        if POSIX:
            handlers[signal.SIGCHLD] = lambda *_: None
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        return {number: signal.signal(number, handler) for number, handler in handlers.items()}

    def _on_signal(self, number: int) -> None:
        now = time.monotonic()
        if now - self._signalled > self._echo:
            self._signals.append(number)
        self._signalled = now

    def _heed_signals(self) -> None:
        """Drain at the first one, end at the second."""
        if len(self._signals) == self._heeded:
            return
        self._heeded = len(self._signals)
        if self._heeded == 1:
            self._say("running tasks are finished; a second signal ends them")
        for seat in self._seats:
            if seat.process is None or self._heeded > 1:
                seat.over = seat.over or Over("told to leave")
            elif self._heeded == 1:
                seat.process.terminate()

    def _watch_lifeline(self) -> None:
        """End as by a second signal when standard input does: whoever has started us is gone."""

        def wait() -> None:
            with contextlib.suppress(OSError):
                while os.read(0, 4_096):
                    pass
            self._signals += [signal.SIGHUP if POSIX else signal.SIGTERM] * 2
            with contextlib.suppress(OSError):  # closed: it ends already
                self._wake_in.send(b"\0")

        threading.Thread(target=wait, name="mirai-lifeline", daemon=True).start()

    # ── daemons ──────────────────────────────────────────────────────────────────────────

    def _start_due(self) -> None:
        now = time.monotonic()
        for seat in self._seats:
            if seat.process is None and seat.over is None and seat.due <= now:
                self._start(seat, now)

    def _start(self, seat: _Seat, now: float) -> None:
        try:
            process = Process(
                self._argv,
                self._lead,
                env=self._launched.env,
                cwd=self._cwd,
                log=bool(self._level()),
            )
        except OSError as error:
            following = seat.place.next(None, 1, joined=False, now=now, chance=0.0)
            self._follow(seat, following, str(error))
            return
        seat.process = process
        if process.output >= 0:
            read = partial(self._read_output, process)
            self._selector.register(process.output, selectors.EVENT_READ, read)
        introduction = self._introduction(process, seat.place, now)
        process.configure(json.dumps(introduction).encode() + b"\n", lifeline=True)

    def _level(self) -> str:
        return level() or self._launched.log

    def _introduction(self, process: Process, place: Place, now: float) -> dict[str, Any]:
        connection = self._find()
        urls = connection.urls
        pair, inner = connection.pair(Role.DAEMON), connection.keys.get(Role.CLIENT)
        return {
            "url": urls[place.attempts % len(urls)],
            "server": connection.server,
            "public": pair.public,
            "secret": pair.secret,
            "watermark": process.child_fd,
            "log": (process.child_log, self._level()),
            "options": self._launched.options | {"limits": asdict(place.limits_now(now))},
            "tags": self._tags,
            "job": self._job,
            "inner": None if inner is None else asdict(inner),
            "lifeline": True,
            "each": self._each,
            "grace": self._launched.grace,
        }

    def _look_for_dead(self) -> None:
        for seat in self._seats:
            if seat.process is not None and (code := seat.process.reap()) is not None:
                self._bury(seat, seat.process, code)

    def _bury(self, seat: _Seat, process: Process, code: int) -> None:
        seat.process = None
        mark = process.started()
        ending = ending_of(mark, code)
        joined = bool(mark) if ending is None else ending in _MEMBERS
        tail = process.tail()
        self._discard(process)
        if self._signals:
            seat.over = seat.over or Over("told to leave")
            return
        now, chance = time.monotonic(), random.random()
        following = seat.place.next(
            ending, code, joined=joined, now=now, chance=chance, pid=process.pid
        )
        self._follow(seat, following, "" if ending in _CLEAR else tail)

    def _follow(self, seat: _Seat, following: Any, tail: str) -> None:
        text = following.reason
        if isinstance(following, Over):
            seat.over = following
        else:
            seat.due = time.monotonic() + following.delay
            text += "; trying again" if following.delay else ""
        if tail:
            text += f"; the last it printed:\n{tail}"
        if text != self._said:  # many daemons have the same to tell
            self._said = text
            self._say(text)

    # ── waiting ──────────────────────────────────────────────────────────────────────────

    def _wait(self) -> None:
        """Wait for a signal, for output, or for the time to start a daemon."""
        waiting = [s.due for s in self._seats if s.process is None and s.over is None]
        timeout = max(0.0, min(waiting) - time.monotonic()) if waiting else None
        if not POSIX:
            time.sleep(GLANCE if timeout is None else min(timeout, GLANCE))
            return
        for key, _ in self._selector.select(timeout):
            key.data()

    def _drain_wakes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_out.recv(4_096)

    def _read_output(self, process: Process) -> None:
        if not process.read_output():
            self._unwatch(process)

    def _unwatch(self, process: Process) -> None:
        if process.output in self._selector.get_map():
            self._selector.unregister(process.output)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def _discard(self, process: Process) -> None:
        self._unwatch(process)
        process.close()

    def _close(self) -> None:
        for seat in self._seats:
            if (process := seat.process) is not None:
                process.kill()
                process.wait()
                self._discard(process)
        signal.set_wakeup_fd(-1)
        for thing in (self._selector, self._wake_in, self._wake_out):
            thing.close()
