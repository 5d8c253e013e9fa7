"""What was met last, within a limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Recent(Generic[K, V]):
    """Values by their keys; those that were not asked for the longest go first.

    ``limit`` is how much all of them may weigh.  For several threads.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.forget()

    def forget(self) -> None:
        """Know nothing; a fork must, where a thread that it does not have may hold the lock."""
        self._lock = Lock()
        self._weight = 0
        self._known: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """Return a value; None if it is not known any more."""
        with self._lock:
            if key not in self._known:
                return None
            self._known.move_to_end(key)
            return self._known[key][0]

    def put(self, key: K, value: V, weight: int = 1) -> None:
        """Note a value; one that weighs more than the limit is not."""
        if weight > self._limit:
            return
        with self._lock:
            self._weight += weight - self._known.pop(key, (value, 0))[1]
            self._known[key] = value, weight
            while self._weight > self._limit:
                self._weight -= self._known.popitem(last=False)[1][1]
