"""Where other threads leave what an event loop has to wake: one call of the loop for many.

What lands at once is woken in slices, one a turn of the loop, so that ten thousand results that
arrive together do not keep everything else on the loop waiting.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable

SLICE = 100
"""How many are woken in one turn of the loop; each costs it some 10 µs."""


class Landing:
    """What is to be woken on one event loop, in the order in which it came."""

    def __init__(self, call: Callable[[Callable[[], None]], object]) -> None:
        """``call`` makes the loop call a function in its next turn; it works in any thread."""
        self._call = call
        self._landed: deque[Callable[[], object]] = deque()
        self._guard = threading.RLock()

    def add(self, wake: Callable[[], object]) -> None:
        """Have the loop call ``wake`` soon."""
        with self._guard:
            self._landed.append(wake)
            if len(self._landed) > 1:
                return  # the loop has been called already
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._call(self._clear)

    def _clear(self) -> None:
        with self._guard:
            slice = [self._landed.popleft() for _ in range(min(SLICE, len(self._landed)))]
            more = bool(self._landed)
        if more:
            self._ring()
        for wake in slice:
            wake()
