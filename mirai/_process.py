"""The dispatcher's process: started with its keys, asked where it listens, ended."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from dispatcher.ends import stream_pair
from dispatcher.hatch import Hatch
from dispatcher.line import Line
from dispatcher.story import ending
from mirai._errors import MiraiError

START_TIMEOUT = 60.0
"""Seconds that a dispatcher has to start listening."""
STOP_TIMEOUT = 5.0
"""Seconds that it has to end its daemons and itself; then it is killed."""

# Where the line is not whole, whoever was to send it has died meanwhile.
_BOOT = (
    r"import sys; p = sys.stdin.buffer.readline(); p[-1:] == b'\n' or sys.exit();"
    r" sys.path[:] = p[:-1].decode('utf-8', 'surrogateescape').split('\0');"
    " from {module} import main; main()"
)


def boot_argv(module: str) -> list[str]:
    """Return the command that runs ``main()`` of a module, once it is told where to find it.

    Raises MiraiError where this interpreter does not know its own path.
    """
    if not sys.executable:
        raise MiraiError("sys.executable is not set, so no process can be started")
    return [sys.executable, "-P", "-c", _BOOT.format(module=module)]


def search_path(more: Sequence[str] = ()) -> str:
    """Return this process's sys.path in one line; relative entries are made absolute.

    There are ``more`` entries behind, as far as they are not in it.
    """
    entries = []
    for entry in [*sys.path, *(each for each in more if each not in sys.path)]:
        with contextlib.suppress(OSError, TypeError):  # the working directory may be gone
            entries.append(os.path.abspath(entry))
    return "\0".join(entries) + "\n"


@contextlib.contextmanager
def _passed_on(streams: tuple[int, int] | None) -> Iterator[tuple[int, int] | None]:
    """Have descriptors under numbers that a child can keep, since it has a use for 0, 1 and 2."""
    if streams is None:
        yield None
        return
    import fcntl

    with contextlib.ExitStack() as stack:
        copies = []
        for stream in streams:
            copies.append(fcntl.fcntl(stream, fcntl.F_DUPFD_CLOEXEC, 3))
            stack.callback(os.close, copies[-1])
        yield copies[0], copies[1]


class DispatcherProcess:
    """A dispatcher in a session of its own, which ends when this process does."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Start it.  ``config`` is what ``dispatcher.server.Config`` says."""
        self.hatch: Hatch | None = None
        """Beside the connection to it, where memory can be shared."""
        self.line: Line | None = None
        """The connection to it, if that is a line."""
        try:
            self._start(config)
            self._tell(config)
        except BaseException:  # Ctrl-C, say: nobody else knows of what has been started
            if hasattr(self, "_popen"):
                self.end()
            self._close_ends()
            raise

    def _start(self, config: dict[str, Any]) -> None:
        with contextlib.ExitStack() as stack:
            streams = stack.enter_context(_passed_on(config["plan"]["streams"]))
            config["plan"]["streams"] = streams
            inherited = [*(streams or ())]
            if (ends := Hatch.pair()) is not None:
                self.hatch = Hatch(ends[0])
                stack.callback(os.close, ends[1])
                inherited.append(ends[1])
                config["hatch"] = ends[1]
            if config["plan"]["lines"]:
                ours, theirs = stream_pair()
                self.line = Line(ours)
                stack.callback(os.close, theirs)
                inherited.append(theirs)
                config["line"] = theirs
            self._popen = subprocess.Popen(
                boot_argv("dispatcher.__main__"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=inherited,
                start_new_session=True,
            )

    def _tell(self, config: dict[str, Any]) -> None:
        assert self._popen.stdin is not None
        with contextlib.suppress(OSError):  # if it has died, reading its answer will tell
            self._popen.stdin.write(os.fsencode(search_path()))
            self._popen.stdin.write(json.dumps(config).encode() + b"\n")
            self._popen.stdin.flush()

    @property
    def pid(self) -> int:
        return self._popen.pid

    def listening_url(self) -> str:
        """Wait until it listens, and return where.  Raises MiraiError if it cannot."""
        assert self._popen.stdout is not None
        timer = threading.Timer(START_TIMEOUT, self._popen.kill)
        timer.daemon = True
        timer.start()
        try:
            line = self._popen.stdout.readline()
        finally:
            timer.cancel()
        answer = json.loads(line) if line else {"error": f"it ended with {self._ending()}"}
        if "error" in answer:
            raise MiraiError(f"the dispatcher could not start: {answer['error']}")
        return str(answer["url"])

    def how_it_ended(self, timeout: float) -> str | None:
        """Say how it ended; None if it has not after ``timeout`` seconds."""
        try:
            self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        return self._ending()

    def _ending(self) -> str:
        return ending(self._popen.wait())

    def release(self) -> None:
        """Close our ends of all between us; the end of its standard input tells it to leave."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._close_ends()

    def _close_ends(self) -> None:
        if self.line is not None:
            self.line.close()
        if self.hatch is not None:
            self.hatch.close()

    def end(self) -> None:
        """Tell it to leave, and wait until it has cleaned up.  Idempotent."""
        self.release()
        self._popen.terminate()  # where a forked child of ours holds the pipe too
        try:
            self._popen.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()
