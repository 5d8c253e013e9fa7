"""The local daemons: started, watched, buried, replaced, and kept at the number that is wanted.

A daemon has ended when its process has *and* its connection has.  Of the process's end we hear
from a descriptor where the system has such (Linux), else from ``SIGCHLD`` where the server can
catch it, else by looking several times a second.
"""

from __future__ import annotations

import json
import logging
import selectors
import socket
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from msgspec import structs

from dispatcher.messages import Crash, Slot
from dispatcher.processes import PIDFD, POSIX, Plan, Process, Replacement, StandIns, open_output

logger = logging.getLogger("dispatcher")

PATIENCE = 0.5
"""Seconds between the two signs of a daemon's end (exit and hang-up) before we insist."""
FAREWELL = 1.0
"""Seconds that daemons have to leave when the pool is torn down."""
PAUSE = 1.0
"""Seconds after which it is tried again to start a daemon where the system would not; times the
failures in a row.  All the tries last longer than strangers can hold our descriptors."""
GLANCE = 0.25
"""Seconds between looks at processes whose end nothing tells us."""
_HOST = socket.gethostname()


class Parent(Protocol):
    """The server, as the nursery sees it."""

    def introduce(self, process: Process) -> dict[str, Any]:
        """Let a daemon in, and return what it must know to connect."""

    def disown(self, process: Process, crash: Crash) -> None:
        """A daemon is gone for good, and all that it sent has been read."""

    def retire(self, processes: Sequence[Process], count: int) -> None:
        """Let so many of these daemons go."""

    def give_up(self, crash: Crash) -> None:
        """No daemon is there, and none will be started."""


class Nursery:
    """Owns the local daemons' processes."""

    def __init__(self, plan: Plan, parent: Parent) -> None:
        """Own no process yet: they are adopted, or started by ``fill_up``.  Raises OSError."""
        self._plan = plan
        self._parent = parent
        self._processes: list[Process] = []
        self._bereft: list[int] = []  # the kinds of those that are to be replaced
        self._ending: dict[Process, float] = {}  # died or hung up; when to insist on the other
        self._stand_ins = StandIns()
        self._again_at: float | None = None  # when to try to start those that are missing
        self._replacement = Replacement()
        self._dormant = False  # daemons have left for idleness; work brings new ones
        self._told_of_deaths = False
        self._file = None if plan.output is None else open_output(plan.output)
        self._selector = selectors.DefaultSelector()

    # ── what the server's loop must know and do ──────────────────────────────────────────

    def fileno(self) -> int:
        """Return what becomes readable when ``tend`` has something to do.  Not on Windows."""
        return self._selector.fileno()

    def tend(self) -> None:
        """Take in what daemons print, and who has died."""
        for key, _ in self._selector.select(0):
            key.data()

    def told_of_deaths(self) -> None:
        """From now on ``look_for_dead`` is called whenever a process has ended."""
        self._told_of_deaths = True

    def must_look(self) -> bool:
        """Whether ``look_for_dead`` must be called now and then."""
        return not (PIDFD or self._told_of_deaths)

    def look_for_dead(self) -> None:
        """Look at each process, where no descriptor tells of its end."""
        for process in [] if PIDFD else self._processes:
            if process not in self._ending and process.reap() is not None:
                self._has_died(process)

    def deadline(self) -> float | None:
        """When ``bury`` or a look is due even if nothing happens; None if never."""
        deadlines = list(self._ending.values())
        deadlines += [
            each for each in (self._stand_ins.deadline(), self._again_at) if each is not None
        ]
        if self._processes and self.must_look():
            deadlines.append(time.monotonic() + GLANCE)
        return min(deadlines, default=None)

    # ── one daemon ───────────────────────────────────────────────────────────────────────

    def adopt(self, process: Process) -> None:
        """Take on a daemon that was started, and tell it where to connect."""
        self._processes.append(process)
        process.copy_output(self._file)
        self._watch(process.output, partial(self._read_output, process))
        self._watch(process.sentinel, partial(self._has_died, process))
        introduction = self._parent.introduce(process)
        introduction |= {
            "watermark": process.child_fd,
            "hatch": process.child_hatch,
            "line": process.child_line,
            "log": (process.child_log, self._plan.log),
            "options": self._plan.options,
            "tags": self._plan.tags(process.kind),
        }
        process.configure(json.dumps(introduction).encode() + b"\n")

    def joined(self, process: Process) -> None:
        """A daemon has said Hello."""
        process.joined = process.connected = True
        self._replacement.joined()
        self.fill_up()  # those that were not replaced while no daemon could start

    def hung_up(self, process: Process, now: float) -> None:
        """A daemon's connection has ended, and all that it sent has been read."""
        process.connected = False
        self._ending.setdefault(process, now + PATIENCE)

    def _has_died(self, process: Process) -> None:
        self._unwatch(process.sentinel)
        self._ending.setdefault(process, time.monotonic() + PATIENCE)

    def _read_output(self, process: Process) -> None:
        if not process.read_output():
            self._unwatch(process.output)

    def _watch(self, fd: int, act: partial[None]) -> None:
        if fd >= 0:
            self._selector.register(fd, selectors.EVENT_READ, act)

    def _unwatch(self, fd: int) -> None:
        if fd >= 0 and fd in self._selector.get_map():
            self._selector.unregister(fd)

    def _discard(self, process: Process) -> None:
        self._unwatch(process.output)
        self._unwatch(process.sentinel)
        process.close()

    # ── their number ─────────────────────────────────────────────────────────────────────

    def bury(self, now: float) -> None:
        """Bury those that have ended, and start others; make sure of those that seem to have."""
        for process, deadline in list(self._ending.items()):
            if process.reap() is None:
                if now >= deadline:
                    process.kill()
                    self._ending[process] = now + PATIENCE
            elif now >= deadline or not process.connected:
                self._bury(process)
        if self._stand_ins.dismiss(now):
            self._shrink()
        if self._again_at is not None and now >= self._again_at:
            self._again_at = None
            self.fill_up()

    def _bury(self, process: Process) -> None:
        del self._ending[process]
        self._processes.remove(process)
        crash = Crash("the daemon died", process.exit_code, _HOST, process.pid, tail=process.tail())
        self._parent.disown(process, crash)
        self._discard(process)
        may_replace = self._replacement.ended(process.joined)
        self._dormant = self._dormant or process.left_idle
        missing = self._target() - self._have()
        if not missing or process.left_idle:
            return
        if may_replace:
            self._bereft.append(process.kind)
        elif not self._processes or self._stand_ins.kinds:  # else others may still join
            reason = f"{self._replacement.failures} daemons in a row died before they could join"
            self._parent.give_up(structs.replace(crash, reason=reason))

    def replace(self) -> None:
        """Start others in the place of those that were buried.

        Apart from that, since it takes a while, and the tasks' clients are to be told before.
        """
        bereft, self._bereft = self._bereft, []
        for kind in bereft:
            if missing := self._target() - self._have():
                self._start_another(kind if kind in missing else next(iter(missing)))

    def keep(self, count: int, slots: Sequence[Slot] | None) -> None:
        """Keep so many from now on: start more, or let those go that have least to do.

        ``slots`` says what each is given; None leaves that as it is.
        """
        if slots is not None:
            self._plan = replace(self._plan, slots=[(slot.env, slot.tags) for slot in slots])
        self._plan = replace(self._plan, count=count)
        self._replacement = Replacement()
        self._dormant = False
        self._again_at = None
        self.fill_up()
        self._shrink()

    def lend(self, processes: Iterable[Process], now: float) -> None:
        """Have others stand in for these, whose tasks wait."""
        self._stand_ins.need((process.kind for process in processes), now)
        self.fill_up()

    def _have(self) -> Counter[int]:
        return Counter(process.kind for process in self._processes)

    def _target(self) -> Counter[int]:
        return self._plan.kinds() + self._stand_ins.kinds if self._plan.count else Counter()

    def _shrink(self) -> None:
        for kind, excess in (self._have() - self._target()).items():
            alike = [process for process in self._processes if process.kind == kind]
            for process in [process for process in alike if not process.joined][:excess]:
                process.unwanted = True
                process.kill()
                excess -= 1
            if excess:
                self._parent.retire(alike, excess)

    def work_waits(self) -> None:
        """There is work for daemons that have left for idleness."""
        if self._dormant:
            self._dormant = False
            self.fill_up()

    def fill_up(self) -> None:
        """Start the daemons that are missing, but for those that left for idleness."""
        if self._dormant:
            return
        for kind in (self._target() - self._have()).elements():
            if not self._start_another(kind):
                return

    def _start_another(self, kind: int) -> bool:
        """Start one; return whether that worked.  If not, it is tried again a little later."""
        if self._again_at is not None:  # many that are missing at once are one failure, not many
            return False
        try:
            process = self._plan.start(kind)
        except OSError as error:
            self._could_not_start(error)
            return False
        self.adopt(process)
        return True

    def _could_not_start(self, error: OSError) -> None:
        """Try again later, while tasks wait: what is short may be there then; or give up."""
        reason = f"no daemon can be started: {error}"
        if not self._replacement.ended(joined=False):
            self._parent.give_up(Crash(reason))
            return
        pause = PAUSE * self._replacement.failures
        self._again_at = time.monotonic() + pause
        logger.warning("%s; it is tried again in %g s", reason, pause)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def end(self) -> None:
        """End all of them: those that are connected have been told, and may leave by themselves."""
        for process in self._processes:
            if not (process.joined and process.connected):
                process.kill()
        until = time.monotonic() + FAREWELL
        while any(process.reap() is None for process in self._processes):
            left = until - time.monotonic()
            if left <= 0:
                break
            self._rest(left)
        for process in self._processes:
            process.kill()
            process.wait()
            self._discard(process)
        self._selector.close()
        if self._file is not None:
            self._file.close()

    def _rest(self, seconds: float) -> None:
        """Wait until a process may have ended, or for so long."""
        if PIDFD:
            self._selector.select(seconds)
        else:
            time.sleep(min(seconds, 0.01))
        if POSIX:
            self.tend()
