"""The memory budget: how many bytes of payloads may be submitted and not answered.

A task's bytes are a ``Load``, taken before the task is sent and given back when its mirai is
settled, in whatever way: in ``Mirai.settle`` and nowhere else.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from mirai._answer import Value
from mirai._future import Mirai


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory budget at one moment, in bytes.

    ``used`` is what the payloads of tasks amount to that are not answered yet, and ``peak`` the
    most that it has been; ``waiting`` is how many callers wait for room.
    """

    used: int
    peak: int
    capacity: int
    waiting: int = 0


class Load:
    """What one task takes of a budget; nothing, before it is taken and once it is given back."""

    __slots__ = ("_budget", "_size")

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._size = 0

    def take(self, size: int) -> bool:
        """Take ``size`` bytes if the budget is not used up; return whether it was not.

        So a load that is larger than the whole budget is let in, too.
        """
        budget = self._budget
        with budget._lock:
            if budget.used >= budget.capacity:
                return False
            # No call in between: Ctrl-C comes before all of this, or after it.
            self._size = size
            budget._used += size
            if budget._used > budget.peak:
                budget.peak = budget._used
        if not budget.is_full():
            budget.ring()  # there may be room for the next one
        return True

    def give_back(self) -> None:
        """Give back what was taken, once.  ``ring`` is to be called afterwards.

        It takes no lock, since it is called under that of a mirai, by whichever thread.
        """
        size, self._size = self._size, 0
        if size:
            self._budget._given.append(size)

    def ring(self) -> None:
        """Wake whoever waits for what was given back."""
        self._budget.ring()


class Budget:
    """How many bytes there are in all, how many are taken, and who waits for some."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.peak = 0
        self._used = 0
        self._given: deque[int] = deque()  # given back, and still counted in ``_used``
        self._bells: deque[Mirai[None]] = deque()  # of those who wait, oldest first
        self._lock = threading.RLock()  # held by those who take

    @property
    def used(self) -> int:
        """How many bytes are taken now."""
        with self._lock:
            while self._given:
                self._used -= self._given[0]  # no call in between, as above
                del self._given[0]
            return self._used

    def is_full(self) -> bool:
        """Whether nothing more can be taken now."""
        return self.used >= self.capacity

    def memory(self) -> Memory:
        """Return what is to be told of it."""
        return Memory(self.used, self.peak, self.capacity, len(self._bells))

    def ring(self) -> None:
        """Wake the one who has waited longest.  One that has gone away meanwhile is passed over."""
        while self._bells:
            try:
                bell = self._bells.popleft()
            except IndexError:  # another thread has woken it
                return
            if bell.settle(Value(None)):
                return

    def wait(self) -> None:
        """Block until there may be room; whether there is, ``Load.take`` will tell."""
        bell: Mirai[None] = Mirai()
        try:
            self._hang(bell)
            bell.result()
        except BaseException:
            self._leave(bell)
            raise

    async def room(self) -> None:
        """Wait, on asyncio or trio, until there may be room."""
        bell: Mirai[None] = Mirai()
        try:
            self._hang(bell)
            await bell
        except BaseException:
            self._leave(bell)
            raise

    def _hang(self, bell: Mirai[None]) -> None:
        self._bells.append(bell)
        if not self.is_full():  # what was given back in between has rung for nobody
            self.ring()

    def _leave(self, bell: Mirai[None]) -> None:
        """Wait no longer.  If the bell has rung by now, that is for the next one."""
        bell.cancel()
        self.ring()
