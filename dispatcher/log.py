"""Logging: one line on standard error for each record, where a pool is asked to show them.

There are two loggers, and by default ``dispatcher`` is quiet; ``mirai`` has a few warnings, which
Python shows like any other library's: that tasks wait for what may never come.  ``show`` lets one
of them write to a descriptor.  That may be a pipe that nobody reads, and a pool must not come
to a stop for that: so a thread writes, which lives only while there is something to write, and
lines that cannot be written soon are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections import deque
from functools import cache
from typing import TYPE_CHECKING, Any

LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
STDERR = 2
ROOM = 10_000
"""How many lines may wait for being written."""
LINE = 2_000
"""How many bytes of a line are shown: a pipe takes so much in one piece."""
FAREWELL = 1.0
"""How long the end of a process waits for its last lines, in seconds."""


if TYPE_CHECKING:
    _Adapter = logging.LoggerAdapter[logging.Logger]
else:
    _Adapter = logging.LoggerAdapter


# Held for moments.  Re-entrant, since a signal handler may log too.
_guard = threading.RLock()


class Guarded(_Adapter):
    """A logger whose handlers, which are the user's, cannot raise into a pool that must go on."""

    def __init__(self, name: str) -> None:
        super().__init__(logging.getLogger(name), {})

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Log it, as ``Logger.log`` does, but for what handlers raise."""
        with contextlib.suppress(Exception):
            super().log(level, msg, *args, stacklevel=2, **kwargs)


class Lines(logging.Handler):
    """Writes each record as one line that says when, and which process it is from."""

    def __init__(self, who: str, fd: int) -> None:
        """``who`` is what the process is called."""
        super().__init__()
        self.who = who
        self._fd = fd
        # Guarded by _guard, and not by the handler's own lock, which is held while it flushes:
        self._lines: deque[bytes] = deque()
        self._dropped = 0
        self._thread: threading.Thread | None = None  # while there is something to write
        self._pid = os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record.  What peers have sent cannot look like another line."""
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        head = f"{clock}.{int(record.msecs):03d} {self.who} {os.getpid()}"
        return printable(f"{head} {record.levelname}: {record.getMessage()}")

    def emit(self, record: logging.LogRecord) -> None:
        """Have a line written soon."""
        try:
            line = self.format(record).encode("utf-8", "backslashreplace")
        except Exception:
            self.handleError(record)
            return
        with _guard:
            self._add(line[:LINE] + b"\n")

    def _add(self, line: bytes) -> None:
        if self._pid != os.getpid():  # a forked child: what is left is its parent's to write
            self._pid, self._dropped, self._thread = os.getpid(), 0, None
            self._lines.clear()
        if len(self._lines) >= ROOM:
            self._dropped += 1
            return
        if self._dropped:
            missing = f"[{self.who} {os.getpid()}: {self._dropped:,} lines are not shown]\n"
            self._lines.append(missing.encode())
            self._dropped = 0
        self._lines.append(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._write, name="mirai-log", daemon=True)
            try:
                self._thread.start()
            except RuntimeError:  # the interpreter is about to end, or the system has no more
                self._thread = None

    def flush(self) -> None:
        """Wait until all is written, but not for ever."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread() and thread.is_alive():
            thread.join(FAREWELL)

    def _write(self) -> None:
        while (line := self._next()) is not None:
            self._put(line)

    def _next(self) -> bytes | None:
        """Return the next line; None, and the thread ends, where there is none."""
        with _guard:
            if self._lines:
                return self._lines.popleft()
            self._thread = None
            return None

    def _put(self, line: bytes) -> None:
        with contextlib.suppress(OSError):  # it is closed: nobody wants to know
            while line:
                line = line[os.write(self._fd, line) :]


def show(name: str, who: str, level: str, fd: int = -1) -> None:
    """Write what the logger ``name`` is told, at this level and above, to ``fd`` and only there.

    Without ``fd`` that is our standard error.  With no ``level``, let it be quiet again.
    """
    logger = logging.getLogger(name)
    shown = [handler for handler in logger.handlers if isinstance(handler, Lines)]
    if not level:
        for handler in shown:
            logger.removeHandler(handler)
        if shown:
            logger.setLevel(logging.NOTSET)
            logger.propagate = True
        return
    if not shown:
        logger.addHandler(Lines(who, _standard_error() if fd < 0 else fd))
    logger.setLevel(LEVELS[level])
    logger.propagate = False


@cache
def _standard_error() -> int:
    """Return a descriptor of our own for it, which stays what it is; -1: it is closed."""
    return descriptor() if os.name == "posix" else STDERR


def rename(name: str, who: str) -> None:
    """Call this process otherwise from now on."""
    for handler in logging.getLogger(name).handlers:
        if isinstance(handler, Lines):
            handler.who = who


def descriptor() -> int:
    """Return one more descriptor of our standard error, for a child to inherit; -1: none."""
    if os.name != "posix" or sys.__stderr__ is None:  # another file may have its number
        return -1
    import fcntl

    try:
        return fcntl.fcntl(STDERR, fcntl.F_DUPFD_CLOEXEC, 3)
    except OSError:  # it is closed
        return -1


def printable(text: str) -> str:
    """Replace what would do something to a terminal: others choose their names."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _renew_guard() -> None:
    """In a forked child: whoever held it is not here."""
    global _guard
    _guard = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_guard)
logging.getLogger("dispatcher").addHandler(logging.NullHandler())
