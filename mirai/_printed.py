"""What tasks print, on their daemon: the last of it for their mirais, all of it for a spool.

Any thread may print at any time, also a signal handler in the middle of a print, or a forked
child.  So nothing here takes a lock: texts go into deques and come out of them, one at a time,
and the counts beside them, which bound them, need not be exact.
"""

from __future__ import annotations

import io
import sys
import threading
from collections import deque
from collections.abc import Callable, Collection
from typing import TypeVar

T = TypeVar("T")

LOG_BYTES = 8_192
"""How much of a task's output its mirai shows."""
CUT = "[... the beginning is not kept]\n"
SPOOL = 65_536
"""How many characters may wait for being sent; after that,"""
LATE, LATE_TEXT = 64, 1_024
"""the last so many texts are kept, and of each so many characters."""
LINE = 8_192
"""An unfinished line that is longer is sent nevertheless."""


class _Owner(threading.local):
    """The task in which this thread has first printed; 0: in none; None: not yet, or ours."""

    task: int | None = None


def _is_ours() -> bool:
    """Whether this thread is one of mirai's own, such as that which prints for nested tasks."""
    return threading.current_thread().name.startswith("mirai-")


class Printout:
    """Knows what the running task has printed.  Other than a task's output is not its concern.

    What a thread prints is of the task in which it first did, so that one that is left behind
    says nothing in another's name.  Mirai's own threads speak for the task that runs.
    """

    def __init__(self, current: Callable[[], int], spool: Spool | None = None) -> None:
        """For the tasks of this thread.

        ``current`` returns the running task's id, or 0; ``spool`` is told of everything.
        """
        self._current = current
        self._spool = spool
        self._thread = threading.get_ident()
        self._owner = _Owner()
        self.tails: dict[int, Tail] = {}
        """By task; empty if nothing was printed."""

    def add(self, text: str) -> None:
        """This thread prints."""
        id = self._current()
        if threading.get_ident() != self._thread:
            if self._owner.task is None and not _is_ours():
                self._owner.task = id
            id = id if self._owner.task in (id, None) else 0
        if id and text:
            (self.tails.get(id) or self.tails.setdefault(id, Tail())).add(text)
            if self._spool is not None:
                self._spool.add(id, text)

    def take(self, id: int) -> str:
        """Return the last that a task has printed, and forget it and all before it."""
        tail = self.tails.pop(id, None)
        self.tails.clear()  # a thread may have been late
        return "" if tail is None else tail.take()


class Tail:
    """The end of a text that comes in pieces."""

    def __init__(self) -> None:
        self._texts: deque[str] = deque()
        self._size = 0  # of these
        self._cut = False

    def add(self, text: str) -> None:
        """Add a piece."""
        self._cut = self._cut or len(text) > LOG_BYTES
        text = text[-LOG_BYTES:]
        self._texts.append(text)
        self._size += len(text)
        while self._size > 2 * LOG_BYTES and self._texts:
            self._size -= len(self._texts.popleft())
            self._cut = True

    def take(self) -> str:
        """Return the end."""
        return shorten("".join(drain(self._texts)), cut=self._cut)


def shorten(text: str, *, cut: bool = False) -> str:
    """Return the last lines of ``text``, at most LOG_BYTES, marked where something is missing.

    ``cut``: something is missing already.
    """
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= LOG_BYTES and not cut:
        return data.decode()
    end = data[len(CUT) - LOG_BYTES :].decode("utf-8", "ignore")
    lines = end.partition("\n")[2]
    return CUT + (lines or end)


class Spool:
    """Text on its way from the threads that print to the one that sends.

    If they are faster than it is, the middle is dropped, and a line says how much that was.
    """

    def __init__(self, notify: Callable[[], None]) -> None:
        """``notify`` is called when something comes after ``take``."""
        self._notify = notify
        self._texts: deque[tuple[int, str]] = deque()
        self._size = 0  # of these
        self._late: deque[tuple[int, str]] = deque(maxlen=LATE)
        self._late_size = 0  # of these, before they were cut and dropped
        self._unfinished: dict[int, str] = {}  # lines; only the one that sends knows of them
        self.waits = False
        """Whether there may be something to take."""

    def add(self, id: int, text: str) -> None:
        """A task prints."""
        room = max(0, SPOOL - self._size)
        soon, late = text[:room], text[room:]
        if soon:
            self._texts.append((id, soon))
            self._size += len(soon)
        if late:
            self._late.append((id, late[-LATE_TEXT:]))
            self._late_size += len(late)
        if not self.waits:
            self.waits = True
            self._notify()

    def take(self, ended: Collection[int] = ()) -> list[tuple[int, str]]:
        """Return whole lines, by task; of the tasks that have ended, all that is left."""
        self.waits = False  # first: what comes from now on is notified again
        texts, late = drain(self._texts), drain(self._late)
        dropped = self._late_size - sum(len(text) for _, text in late)
        self._size = self._late_size = 0
        if late and dropped > 0:
            texts.append((late[0][0], f"\n[... {dropped:,} characters are not shown]\n"))
        for id, text in texts + late:
            self._unfinished[id] = self._unfinished.get(id, "") + text
        lines = [(id, self._finish(id, id in ended)) for id in list(self._unfinished)]
        return [(id, text) for id, text in lines if text]

    def _finish(self, id: int, ended: bool) -> str:
        """Return the lines of a task, and keep the last one if it is not finished."""
        text = self._unfinished.pop(id).encode("utf-8", "backslashreplace").decode()
        end = text.rfind("\n") + 1
        if end == len(text):
            return text
        if ended or len(text) - end > LINE:
            return text + "\n"
        self._unfinished[id] = text[end:]
        return text[:end]


class Recorder(io.TextIOWrapper):
    """A text stream in the place of another, which says what is written to it."""

    def __init__(self, stream: io.TextIOWrapper, note: Callable[[str], None]) -> None:
        encoding, errors = stream.encoding, stream.errors
        super().__init__(stream.detach(), encoding, errors, line_buffering=True)
        self.mode = "w"  # type: ignore[misc]  # as of the interpreter's own
        self._note = note

    def write(self, text: str, /) -> int:
        count = super().write(text)
        self._note(text)
        return count

    def close(self) -> None:
        """Stay open: it is there for others too."""
        self.flush()


def record(note: Callable[[str], None]) -> None:
    """Have ``note`` called with all that is written to ``sys.stdout`` and ``sys.stderr``."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            recorder = Recorder(stream, note)
            setattr(sys, name, recorder)
            setattr(sys, f"__{name}__", recorder)


def drain(items: deque[T]) -> list[T]:
    """Take out what is there now; more may come meanwhile."""
    return [items.popleft() for _ in range(len(items))]
