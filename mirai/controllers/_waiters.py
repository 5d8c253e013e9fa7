"""Those who wait for something to become true, in threads and on event loops."""

from __future__ import annotations

import threading
from collections.abc import Callable
from weakref import WeakMethod

from mirai._answer import Value
from mirai._future import Mirai


class Waiters:
    """Mirais that are settled once their condition holds.  For any thread."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._waiting: list[tuple[Callable[[], bool], Mirai[bool]]] = []
        self._listeners: list[WeakMethod[Callable[[], None]]] = []

    def until(self, holds: Callable[[], bool]) -> Mirai[bool]:
        """Return a mirai that is settled once ``holds()``; cancel it to forget it."""
        waiter: Mirai[bool] = Mirai(0, "wait")
        with self._guard:
            self._waiting.append((holds, waiter))
        self.ring()  # it may hold already
        return waiter

    def listen(self, listener: Callable[[], None]) -> None:
        """Have a method called, too, whenever something may have become true.

        It is forgotten with its object.
        """
        with self._guard:
            self._listeners = [each for each in self._listeners if each() is not None]
            self._listeners.append(WeakMethod(listener))

    def ring(self) -> None:
        """Something may have become true."""
        if self._waiting:
            with self._guard:
                met = [waiter for holds, waiter in self._waiting if waiter.done() or holds()]
                if met:
                    self._waiting = [each for each in self._waiting if each[1] not in met]
            for waiter in met:
                waiter.settle(Value(True))
        for reference in tuple(self._listeners):
            if (listener := reference()) is not None:
                listener()
