"""The local daemons' processes: started, watched, named when they die, replaced.

A daemon is a fresh interpreter in a session of its own.  It is given its keys on its standard
input; its output comes through a pipe, of which the last lines are kept; and it says in eight
bytes of memory shared with us which task it has begun, so that after its death we know which
tasks surely had not.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import IO, Any

from dispatcher import descriptors
from dispatcher.ends import above_streams, stream_pair
from dispatcher.hatch import Hatch
from dispatcher.log import descriptor
from dispatcher.shared import AVAILABLE, sized

TAIL_BYTES = 8_192
"""How much of a daemon's output is kept."""
TAIL_LINES = 30
"""How many of its last lines an error shows."""
MAX_FAILURES = 5
"""How many daemons in a row may die before they have joined until no more are started."""
SPARE = 32
"""How many daemons may stand in for daemons that wait."""
LULL = 2.0
"""Seconds for which they stay when they are not needed any more."""
ECHO = 0.1
"""A signal that comes so soon after another, in seconds, is the same: timeout(1) sends two."""
JOINED = 2**64 - 1
"""What a watermark shows when the daemon has joined and begun no task yet."""
ENDINGS = 2**64 - 256
"""From here up to ``JOINED``: what a supervisor's daemon shows when it ends, instead of a key."""
POSIX = os.name == "posix"


def _tells_of_deaths() -> bool:
    """Whether a descriptor can tell of a process's end: not everywhere, and not in every jail."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError):
        return False
    return True


PIDFD = _tells_of_deaths()


def open_output(path: str) -> IO[bytes]:
    """Open a file to append to it; one that is new is for its owner only.  Raises OSError."""
    return open(path, "ab", buffering=0, opener=lambda path, flags: os.open(path, flags, 0o600))


class Watermark:
    """The key of the task that a daemon began last, in memory that survives it."""

    def __init__(self, fd: int) -> None:
        self._map = mmap.mmap(fd, 8)
        self._view = memoryview(self._map).cast("Q")

    def get(self) -> int:
        return self._view[0]

    def set(self, key: int) -> None:
        self._view[0] = key

    def close(self) -> None:
        self._view.release()
        self._map.close()

    @staticmethod
    def create() -> int:
        """Return a descriptor of eight zero bytes that have no name in any file system."""
        if AVAILABLE:
            return above_streams(sized("mirai-watermark", 8))
        import tempfile  # slow, and rarely needed

        with tempfile.TemporaryFile() as file:
            os.ftruncate(file.fileno(), 8)
            return above_streams(os.dup(file.fileno()))


class Process:
    """One local daemon, from its start until it is reaped."""

    def __init__(
        self,
        argv: Sequence[str],
        lead: bytes,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        streams: tuple[int, int] | None = None,
        share: bool = False,
        line: bool = False,
        log: bool = False,
    ) -> None:
        """Start it and write ``lead``, which is no secret, to its standard input.

        ``env`` is added to our own environment.  ``streams`` are the descriptors to which it
        prints; without them, what it prints comes to us.  ``share``: give it a hatch, where
        memory can be shared.  ``line``: give it an end of a line.  ``log``: give it our standard
        error besides, to log to.
        """
        self.kind = 0  # what it was given, besides what all are given: see ``Plan.kind``
        self.joined = False  # it has said Hello once
        self.connected = False  # its connection has not ended yet
        self.unwanted = False  # it was ended because fewer are to be kept
        self.left_idle = False  # it has said that it leaves because it had nothing to do
        self.key = ""  # its public key
        self.inner_key = ""  # the public key of the client that its tasks may be
        self._tail = bytearray()
        self._copy: IO[bytes] | None = None
        self.child_fd = Watermark.create() if POSIX else -1
        self._watermark: Watermark | None = None
        self.hatch: Hatch | None = None
        self.child_hatch = -1
        self.line = self.child_line = -1  # descriptors of both ends; ours is the server's to close
        self.child_log = descriptor() if log else -1
        captured = (subprocess.PIPE if POSIX else subprocess.DEVNULL), subprocess.STDOUT
        stdout, stderr = streams or captured
        try:
            if POSIX:
                self._watermark = Watermark(self.child_fd)
            if share and (ends := Hatch.pair()) is not None:
                self.hatch, self.child_hatch = Hatch(ends[0]), ends[1]
            if line:
                self.line, self.child_line = stream_pair()
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=stderr,
                env={**os.environ, **env} if env else None,
                cwd=cwd,
                pass_fds=[fd for fd in self._for_the_child() if fd >= 0],
                start_new_session=POSIX,
            )
        except BaseException:
            self._release()
            raise
        finally:
            for fd in self._for_the_child():
                if fd >= 0:
                    os.close(fd)
        self.pid = self._popen.pid
        descriptors.give_back(self.pid)
        self.output = -1
        if self._popen.stdout is not None:
            self.output = self._popen.stdout.fileno()
            os.set_blocking(self.output, False)
        self.sentinel = -1  # a descriptor that becomes readable at its end
        if PIDFD:
            try:
                self.sentinel = os.pidfd_open(self.pid)
            except BaseException:
                self.kill()
                self.wait()
                self.close()
                raise
        self._write(lead)

    def _for_the_child(self) -> tuple[int, ...]:
        return self.child_fd, self.child_hatch, self.child_line, self.child_log

    def configure(self, line: bytes, *, lifeline: bool = False) -> None:
        """Give it its keys and options, and close its standard input.

        As a ``lifeline`` that stays open for as long as we live.
        """
        self._write(line)
        if lifeline:
            return
        with contextlib.suppress(OSError):
            assert self._popen.stdin is not None
            self._popen.stdin.close()

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # it is dead already: its exit will be noticed
            assert self._popen.stdin is not None
            self._popen.stdin.write(data)
            self._popen.stdin.flush()

    def started(self) -> int | None:
        """Return the key of the last task that it began, None if unknown.

        Without one, it is 0 before the daemon has joined, and ``JOINED`` after.
        """
        return None if self._watermark is None else self._watermark.get()

    def copy_output(self, file: IO[bytes] | None) -> None:
        """From now on write to ``file``, which is unbuffered, whatever ``read_output`` reads."""
        self._copy = file

    def read_output(self) -> bool:
        """Keep what it has printed; return False once there will be no more."""
        try:
            data = os.read(self.output, 65_536)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if self._copy is not None:
            with contextlib.suppress(OSError):  # the disk is full
                self._copy.write(data)
        self._tail += data
        del self._tail[:-TAIL_BYTES]
        return bool(data)

    def tail(self) -> str:
        """Return its last lines."""
        lines = self._tail.decode(errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:])

    def reap(self) -> int | None:
        """Return its exit code, or minus its signal, once it has ended; and end its children."""
        if self._popen.returncode is None:
            if not self._has_ended():
                return None
            self._kill_group()  # before the wait, while the number is still its own
            self._popen.wait()
            for _ in range(8):  # all that a pipe holds; a process left over may write for ever
                if self.output < 0 or not self.read_output():
                    break
        return self._popen.returncode

    def _has_ended(self) -> bool:
        if not hasattr(os, "waitid"):
            return self._popen.poll() is not None
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        try:
            return os.waitid(os.P_PID, self.pid, flags) is not None
        except ChildProcessError:
            return True

    def wait(self) -> None:
        """Wait for its end, which must be certain."""
        self._popen.wait()

    def terminate(self) -> None:
        """Tell it to leave: it ends the task that it runs, and hands back the rest."""
        with contextlib.suppress(ProcessLookupError):
            if self._popen.returncode is None:
                self._popen.terminate()

    def kill(self) -> None:
        """End it and the processes that it started, at once; once it is reaped, do nothing."""
        if self._popen.returncode is None:
            self._kill_group()

    def _kill_group(self) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if POSIX:
                os.killpg(self.pid, signal.SIGKILL)
            else:
                self._popen.kill()

    def kill_if_busy_with(self, keys: range) -> None:
        """End it, unless it has left these tasks in the meantime.

        It is stopped while we look, so that the blow never falls on the next task.
        """
        if self._popen.returncode is not None:
            return
        if not POSIX:
            self.kill()
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGSTOP)
            self._wait_until_stopped()
            if self.started() in keys:
                self.kill()
            else:
                os.kill(self.pid, signal.SIGCONT)

    def _wait_until_stopped(self) -> None:
        for _ in range(50):
            if hasattr(os, "waitid"):
                flags = os.WSTOPPED | os.WEXITED | os.WNOHANG | os.WNOWAIT
                if os.waitid(os.P_PID, self.pid, flags) is not None:
                    return
            time.sleep(0.001)

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or minus the number of its signal; None until it is reaped."""
        return self._popen.returncode

    def close(self) -> None:
        """Give back what we hold of it, once it is reaped."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        if self.sentinel >= 0:
            os.close(self.sentinel)
        self.output = self.sentinel = -1
        self._release()

    def _release(self) -> None:
        if self._watermark is not None:
            self._watermark.close()
            self._watermark = None
        if self.hatch is not None:
            self.hatch.close()
            self.hatch = None
        if self.line >= 0:
            os.close(self.line)
            self.line = -1


@dataclass(frozen=True, slots=True)
class Plan:
    """The local daemons that a dispatcher keeps, and how they are started."""

    count: int
    argv: list[str]
    lead: str
    """What a daemon must read before it can import anything."""
    options: dict[str, Any]
    """Passed on to each daemon, unread."""

    slots: list[tuple[dict[str, str], tuple[str, ...]]] = field(default_factory=list)
    """What each is given besides: variables of its environment, and tags."""
    cwd: str | None = None
    output: str | None = None
    """The file to which what they print is appended."""
    streams: tuple[int, int] | None = None
    """The descriptors to which they print, if it does not come to the dispatcher."""
    log: str = ""
    """The level at which they and the dispatcher log; empty: not at all."""
    lines: bool = False
    """Whether each has a line to us, instead of connecting to where we listen."""

    def kind(self, number: int) -> int:
        """Return the kind of daemon that has this number: the first number with the same slot."""
        return self.slots.index(self.slots[number % len(self.slots)]) if self.slots else 0

    def kinds(self) -> Counter[int]:
        """Return how many of each kind are kept."""
        return Counter(map(self.kind, range(self.count)))

    def start(self, kind: int) -> Process:
        """Start one of this kind.  Raises OSError."""
        env = self.slots[kind][0] if self.slots else {}
        lead = os.fsencode(self.lead)
        process = Process(
            self.argv,
            lead,
            env=env,
            cwd=self.cwd,
            streams=self.streams,
            share=True,
            line=self.lines,
            log=bool(self.log),
        )
        process.kind = kind
        return process

    def tags(self, kind: int) -> tuple[str, ...]:
        """Return the tags of those of a kind."""
        return self.slots[kind][1] if self.slots else ()


@dataclass(slots=True)
class StandIns:
    """How many daemons, of which kinds, stand in for those whose tasks wait.  Pure.

    They come at once; those that are not needed any more stay for a while, since a task that has
    waited once is likely to wait again.
    """

    kinds: Counter[int] = field(default_factory=Counter)
    _needed: Counter[int] = field(default_factory=Counter)
    _since: float = 0.0  # since when fewer are needed

    def need(self, kinds: Iterable[int], now: float) -> None:
        """Daemons of these kinds wait from now on."""
        self._needed = Counter(islice(kinds, SPARE))
        both = self.kinds | self._needed
        self.kinds = both if both.total() <= SPARE else self._needed
        self._since = now

    def deadline(self) -> float | None:
        """When ``dismiss`` has something to do; None if never."""
        if not self.kinds:  # they are never fewer than those that are needed
            return None
        return self._since + LULL if self.kinds != self._needed else None

    def dismiss(self, now: float) -> bool:
        """Let go those that have not been needed for a while; return whether there are any."""
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return False
        self.kinds = self._needed
        return True


@dataclass(slots=True)
class Replacement:
    """Whether a daemon that ended is replaced.  Pure, so that it can be tested alone."""

    failures: int = 0

    def joined(self) -> None:
        """A daemon has joined: starting them works."""
        self.failures = 0

    def ended(self, joined: bool) -> bool:
        """A daemon has ended; return whether to start another."""
        self.failures = 0 if joined else self.failures + 1
        return self.failures < MAX_FAILURES
