"""A KeyboardInterrupt in a thread that is not the main one, and never in another task than meant.

The interpreter raises it when that thread next runs Python code, wherever that is.  So it is sent
only during a call, once, and what was sent and not raised by the call's end is taken back.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Strike:
    """Interrupts what one thread does by ``call``."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all of this
        self._target = 0  # what is to be stopped
        self._armed = 0  # what can be
        self._thread = 0
        self.is_sent = False
        """Whether the last call was interrupted, or is about to be."""

    def call(self, id: int, do: Callable[[], T]) -> T:
        """Return what ``do`` returns; ``at`` this id stops it.  Raises what it raises.

        It raises KeyboardInterrupt where it was stopped, maybe before it has begun; not later.
        """
        try:
            self._arm(id)
            return do()
        finally:
            self._disarm()  # or it is struck in there, by the only one that is sent

    def at(self, id: int) -> None:
        """Stop the call of this id, which has begun or is the next.  For any thread."""
        with self._lock:
            self._target = id
            if self._armed == id and not self.is_sent:
                self.is_sent = True
                _raise_in(self._thread, KeyboardInterrupt)

    def _arm(self, id: int) -> None:
        with self._lock:
            self._thread = threading.get_ident()
            self.is_sent = self._target == id
            if not self.is_sent:
                self._armed = id
                return
        raise KeyboardInterrupt

    def _disarm(self) -> None:
        with self._lock:
            was_armed, self._armed = self._armed, 0
            if was_armed and self.is_sent:
                _raise_in(self._thread, None)


def _raise_in(thread: int, kind: type[BaseException] | None) -> None:
    """Have this raised in a thread; with None, raise nothing that was not raised yet."""
    what = None if kind is None else ctypes.py_object(kind)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), what)
