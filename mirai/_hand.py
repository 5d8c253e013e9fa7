"""The tasks that a daemon has, and has not begun."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable

from dispatcher.messages import Task


class Hand:
    """The tasks that a daemon has, between the thread that receives and the one that evaluates.

    A task leaves ``waiting`` once: it starts, is handed back, or is dropped.
    """

    def __init__(self, on_empty: Callable[[], None] | None = None) -> None:
        """``on_empty`` is called by ``take`` before it waits for a task."""
        self._on_empty = on_empty
        self._waiting: deque[Task] = deque()
        self._lock = threading.Lock()
        self._change = threading.Condition(self._lock)
        self._closed = False
        self._stopped = False
        self.current = 0
        """The id of the task that was taken last; 0 while there is none."""

    def add(self, tasks: Iterable[Task]) -> None:
        """Evaluate these after all others."""
        with self._change:
            for task in tasks:
                self._waiting.extend(task.each())
            self._change.notify()

    def take(self, timeout: float | None = None) -> Task | None:
        """Start the next task, waiting for one if need be; None once stopped.

        Raises TimeoutError if none comes within ``timeout`` seconds.
        """
        with self._lock:
            if self._waiting and not (self._closed or self._stopped):  # as it is most often
                task = self._waiting.popleft()
                self.current = task.id
                return task
            self.current = 0
            if self._on_empty is not None and not self._waiting:
                self._on_empty()
            while (self._closed or not self._waiting) and not self._stopped:
                if not self._change.wait(timeout):
                    raise TimeoutError
            if self._stopped:
                return None
            task = self._waiting.popleft()
            self.current = task.id  # under the lock: a task is always either waiting or current
            return task

    def withdraw(self, ids: Iterable[int]) -> list[int]:
        """Remove those of these tasks that have not started, and return their ids."""
        wanted = set(ids)
        with self._change:
            gone = [task.id for task in self._waiting if task.id in wanted]
            if gone:
                self._waiting = deque(task for task in self._waiting if task.id not in wanted)
        return gone

    def close(self) -> None:
        """Start no more; what waits is to be withdrawn."""
        with self._change:
            self._closed = True

    def has_waiting(self) -> bool:
        """Whether there are tasks that have not started."""
        return bool(self._waiting)

    def is_empty(self) -> bool:
        """Whether there is no task, neither waiting nor running."""
        with self._change:
            return not self._waiting and not self.current

    def stop(self) -> None:
        """Make ``take`` return None from now on."""
        with self._change:
            self._stopped = True
            self._change.notify()
