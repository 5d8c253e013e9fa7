"""A thread that looks after something whenever it is called, or when a time has come."""

from __future__ import annotations

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
        self._change = threading.Condition()  # guards what follows
        self._called = True
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin with a turn."""
        self._thread.start()

    def call(self) -> None:
        """Have it take a turn soon."""
        if self._called:
            return
        with self._change:
            self._called = True
            self._change.notify()

    def end(self) -> None:
        """Let there be no more turns once that is over which is being taken."""
        with self._change:
            self._ended = True
            self._change.notify()

    def join(self) -> None:
        """Wait until it has ended; not in its own turn."""
        if self._thread is not threading.current_thread():
            self._thread.join()

    def _run(self) -> None:
        again: float | None = None
        while self._wait(again):
            again = self._take_turn()
            self._rest()

    def _take_turn(self) -> float | None:
        try:
            return self._turn()
        except Exception:  # a launcher may be anybody's; we come back
            logger.exception("a look at a controller's workers has failed")
            return time.monotonic() + AGAIN

    def _rest(self) -> None:
        """Let more gather for the next turn."""
        with self._change:
            self._change.wait_for(lambda: self._ended, SPACING)

    def _wait(self, again: float | None) -> bool:
        """Wait until it is time for a turn; return False at the end."""
        with self._change:
            left = None if again is None else max(0.0, again - time.monotonic())
            self._change.wait_for(lambda: self._called or self._ended, left)
            self._called = False
            return not self._ended
