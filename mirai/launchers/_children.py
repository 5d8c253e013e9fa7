"""Programs that run here for a launcher: started, kept, asked how they do, and ended.

A launcher has no state, but a process can be waited for only by the one who holds it.  So they are
kept here, by the ids of their handles, until they have ended and been asked about.  Nobody needs
to come back for them: where their keys came by standard input, the end of this process is theirs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

from dispatcher.story import signal_name
from mirai._errors import LaunchError
from mirai.launchers._base import Handle, Order, Phase, State, tail_of

GRACE = 5.0
"""Seconds that a program has to end after each thing that tells it to."""
REMEMBERED = 10_000
"""How many programs that have ended are remembered."""


@dataclass(slots=True, eq=False)
class Child:
    """A program that was started for a daemon."""

    handle: Handle
    process: subprocess.Popen[bytes]
    is_told: bool = field(default=False)
    """Whether its end was asked for."""

    def feed(self, keys: str) -> None:
        """Write the keys to its standard input, which stays open: its end is a daemon's end.

        A program that has ended meanwhile hears nothing; that is told by its state.
        """
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.write(keys.encode() + b"\n")

    def read_line(self) -> bytes:
        """Return the next line of its standard output, if that is a pipe; empty at its end."""
        assert self.process.stdout is not None
        return self.process.stdout.readline(65_536)

    def close_output(self) -> None:
        """Read no more of its standard output."""
        if self.process.stdout is not None:
            self.process.stdout.close()

    def close_input(self) -> bool:
        """Let go of its lifeline; return whether there was one."""
        stdin = self.process.stdin
        if stdin is None or stdin.closed:
            return False
        with contextlib.suppress(OSError):
            stdin.close()
        return True

    def signal(self, number: int) -> None:
        """Send a signal to it, and to whatever it has started in its session."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.name == "posix":
                os.killpg(self.process.pid, number)  # it leads a session of its own
            else:
                self.process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with all of its session."""
        self.signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)

    def state(self) -> State:
        """Return how it stands; reap it if it has ended."""
        code = self.process.poll()
        if code is None:
            return State(Phase.RUNNING, f"process {self.process.pid}")
        self.close_input()
        return State(self._phase(code), self._detail(code), code)

    def _phase(self, code: int) -> Phase:
        if self.is_told:
            return Phase.CANCELLED
        return Phase.FAILED if code else Phase.ENDED

    def _detail(self, code: int) -> str:
        text = signal_name(code) if code < 0 else f"exit code {code}"
        last = tail_of(self.handle.log, 1_000).rpartition("\n")[2] if code > 0 else ""
        return f"{text}: {last}" if last else f"{text}"


_guard = threading.Lock()
_living: dict[str, Child] = {}
_ended: OrderedDict[str, State] = OrderedDict()


def handles(order: Order) -> list[Handle]:
    """Return a handle of each daemon of a launch that runs here, with a log file of its own."""
    names = [f"{order.name}-{index}" for index in range(order.count)]
    return [Handle(n, order.name, os.path.join(order.directory, f"{n}.log")) for n in names]


def start(
    handle: Handle,
    argv: Sequence[str] | str,
    *,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
    lifeline: bool = True,
    reads: bool = False,
    log: IO[bytes] | None = None,
) -> Child:
    """Start a program, whose output goes to the handle's log, or to ``log``.

    A str is a line for a shell.

    With ``lifeline`` its standard input is a pipe, for ``feed``; else it is empty.  With
    ``reads`` its standard output is a pipe, for ``read_line``.  ``env`` is what its environment
    has besides ours.  Raises LaunchError.
    """
    try:
        with _opened(handle.log) if log is None else contextlib.nullcontext(log) as output:
            process = subprocess.Popen(
                argv,
                bufsize=0,  # what holds nothing can be closed in a forked process too
                shell=isinstance(argv, str),
                stdin=subprocess.PIPE if lifeline else subprocess.DEVNULL,
                stdout=subprocess.PIPE if reads else output,
                stderr=output,
                env={**os.environ, **(env or {})},
                cwd=cwd,
                start_new_session=True,  # Ctrl-C is for us
            )
    except OSError as error:
        name = argv if isinstance(argv, str) else argv[0]
        raise LaunchError(f"`{name}` cannot be run: {error.strerror}") from None
    child = Child(handle, process)
    with _guard:
        _living[handle.id] = child
    return child


def _opened(path: str) -> IO[bytes]:
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    return open(path, "wb")


def poll(handles: Sequence[Handle]) -> dict[Handle, State]:
    """Return how these stand."""
    return {handle: _state(handle) for handle in handles}


def _state(handle: Handle) -> State:
    with _guard:
        child = _living.get(handle.id)
        if child is None:
            return _ended.get(handle.id, State(Phase.UNKNOWN, "no program of this process"))
    state = child.state()
    if state.phase.is_over:
        _bury(child, state)
    return state


def _bury(child: Child, state: State) -> None:
    """Keep only how it has ended."""
    with _guard:
        if _living.pop(child.handle.id, None) is not None:
            _ended[child.handle.id] = state
        while len(_ended) > REMEMBERED:
            _ended.popitem(last=False)


def end(handles: Sequence[Handle], grace: float = GRACE) -> None:
    """End these, and wait until they have."""
    with _guard:
        found = [_living[handle.id] for handle in handles if handle.id in _living]
    end_children(found, grace)


def end_launch(name: str, grace: float = GRACE) -> None:
    """End all of a launch."""
    with _guard:
        found = [child for child in _living.values() if child.handle.launch == name]
    end_children(found, grace)


def end_children(children: Sequence[Child], grace: float = GRACE) -> None:
    """End these: by the end of standard input, by SIGTERM, and by SIGKILL, one after another.

    For each of them, they have ``grace`` seconds.
    """
    for child in children:
        child.is_told = True
    waiting = [child for child in children if child.close_input()]
    left = _wait(waiting, grace) + [child for child in children if child not in waiting]
    for child in left:
        child.signal(signal.SIGTERM)
    _wait(left, grace)
    for child in left:
        child.kill()  # and what it has left behind, as a shell does
    for child in children:
        child.process.wait()
        child.close_output()
        _bury(child, child.state())


def _wait(children: Iterable[Child], grace: float) -> list[Child]:
    """Wait so long in all; return those that have not ended."""
    until = time.monotonic() + grace
    left = []
    for child in children:
        try:
            child.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            left.append(child)
    return left


def _forget_all() -> None:
    """In a forked process: they are our parent's, and live as long as it holds their lifelines."""
    global _guard
    _guard = threading.Lock()
    for child in _living.values():
        child.close_input()
        child.close_output()
        child.process.returncode = 0  # or it would be waited for, as if it were our child
    _living.clear()
    _ended.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
