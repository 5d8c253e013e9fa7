"""What tasks print, in their host: written to ``sys.stdout`` by a thread of its own.

A terminal that blocks must not block results; so what cannot be written soon is dropped.
"""

from __future__ import annotations

import contextlib
import sys
import threading

LIMIT = 1 << 20
"""How many characters may wait for being written."""
FAREWELL = 2.0
"""How long ``close`` waits for what is left to be written, in seconds."""


class Printer:
    """Writes tagged lines.  Its thread is started when there is something to write."""

    def __init__(self) -> None:
        self._change = threading.Condition()  # guards what follows
        self._texts: list[str] = []
        self._size = 0
        self._dropped = 0  # lines
        self._writing = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def add(self, tag: str, text: str) -> None:
        """Write lines of text, each after its tag."""
        with self._change:
            if self._size > LIMIT:
                self._dropped += text.count("\n")
                return
            text = tagged(tag, text)
            self._texts.append(text)
            self._size += len(text)
            self._writing = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="mirai-print", daemon=True)
                with contextlib.suppress(RuntimeError):  # the interpreter is about to end
                    self._thread.start()
            self._change.notify_all()

    def flush(self) -> None:
        """Wait until all is written that was added before, but not for ever."""
        with self._change:
            self._change.wait_for(lambda: not self._writing, FAREWELL)

    def close(self) -> None:
        """Wait until all is written, but not for ever."""
        with self._change:
            self._closed = True
            self._change.notify_all()
            thread = self._thread
        if thread is not None and thread.is_alive():
            thread.join(FAREWELL)

    def _run(self) -> None:
        while text := self._take():
            with contextlib.suppress(Exception):  # whatever the user's stream is: it is closed
                stream = sys.stdout
                encoding = getattr(stream, "encoding", None) or "utf-8"
                stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
                stream.flush()

    def _take(self) -> str:
        """Wait for something to write, and return it; return nothing when all is written."""
        with self._change:
            if not self._texts:
                self._writing = False
                self._change.notify_all()
            self._change.wait_for(lambda: self._texts or self._closed)
            text = "".join(self._texts)
            if self._dropped:
                text += f"[mirai: {self._dropped:,} more lines are not shown]\n"
            self._texts.clear()
            self._size = self._dropped = 0
            return text


def tag(name: str, id: int) -> str:
    """Return what a task is called in front of its lines: no module, but its id."""
    last = name.rpartition(".")[2]
    short = last if last.isidentifier() or last.startswith("<") else name
    return f"[{short} {id}]"


def tagged(tag: str, text: str) -> str:
    """Return the lines of ``text``, each after its tag."""
    lines = text.removesuffix("\n").split("\n")
    return "".join(f"{tag} {line}\n" for line in lines)
