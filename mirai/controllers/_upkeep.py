"""A thread that looks after something whenever it is called, or when a time has come.

Ctrl-C may come after any call of whoever calls it, so there is no Condition here: in ``with
condition`` it can come when the lock is held and the block is not entered yet.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable

from dispatcher.log import Guarded

logger = Guarded("mirai")

SPACING = 0.02
"""Seconds between two looks, at least."""
AGAIN = 1.0
"""Seconds until the next look after one that has failed."""


class Upkeep:
    """Takes ``turn`` again and again; that returns when to do so next, None: when it is called."""

    def __init__(self, name: str, turn: Callable[[], float | None]) -> None:
        self._turn = turn
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._end: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a turn."""
        self.call()
        self._thread.start()

    def call(self) -> None:
        """Have it take a turn soon."""
        if self._calls.empty():  # or else it is to take one already, and has not begun
            self._calls.put(None)

    def end(self) -> None:
        """Let there be no more turns once that is over which is being taken."""
        self._end.put(None)
        self._calls.put(None)

    def join(self) -> None:
        """Wait until it has ended; not in its own turn."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        again: float | None = None
        while self._end.empty():
            with contextlib.suppress(queue.Empty):
                self._calls.get(timeout=_until(again))
            if self._end.empty():
                again = self._take_turn()
                _rest(self._end)

    def _take_turn(self) -> float | None:
        try:
            return self._turn()
        except Exception:  # a launcher may be anybody's; we come back
            logger.exception("a look at a controller's workers has failed")
            return time.monotonic() + AGAIN


def _until(moment: float | None) -> float | None:
    """Return how many seconds that is from now; None: for ever."""
    return None if moment is None else max(0.0, moment - time.monotonic())


def _rest(end: queue.SimpleQueue[None]) -> None:
    """Let more gather for the next turn, unless it is to end."""
    with contextlib.suppress(queue.Empty):
        end.get(timeout=SPACING)
        end.put(None)
