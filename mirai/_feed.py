"""Calls of one function that are sent bit by bit, as far as there is room for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from msgspec.structs import replace

from mirai._budget import Budget, Load
from mirai._future import Mirai
from mirai._options import Call, TaskOptions
from mirai._outbox import Outbox, Parcel
from mirai._serialize import Packed, size_of

Send = Callable[[Parcel], list[Mirai[Any]]]
Forget = Callable[[int], None]


class Feed:
    """Reads calls, pickles them and sends them, no more than a budget allows at a time.

    The function is pickled and sent once.  While the budget is used up, no call is pickled, and
    none is read before those until then are sent: to read the next one may take its time, or
    need room itself.
    """

    def __init__(
        self,
        outbox: Outbox,
        send: Send,
        forget: Forget,
        budget: Budget | None,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions,
    ) -> None:
        """``send`` adds a parcel to the outbox, and ``forget`` the number of its function.

        Raises SerializationError.
        """
        self._outbox = outbox
        self._send = send
        self._forget = forget
        self._budget = budget
        self._calls = iter(calls)
        self._call: Call | None = None  # read, and not sent
        self._payload: Packed | None = None  # that call, pickled
        self._parcel = outbox.parcel(fn, (), options)
        if self._parcel.function is not None and self._parcel.function[1]:
            self._parcel = replace(self._parcel, number=outbox.next_number())

    def send(self, limit: int | None = None) -> list[Mirai[Any]]:
        """Send calls, ``limit`` at most, while there is room; return their mirais.

        Raises what the calls raise, SerializationError, and why the channel has ended; then
        nothing is sent.
        """
        loads: list[Load] = []
        keys: list[bytes] = []
        try:
            payloads = list(islice(self._payloads(loads, keys), limit))
            if not payloads:
                return []
            mirais = self._send(replace(self._parcel, payloads=payloads, keys=keys, loads=loads))
        except BaseException:
            for load in loads:
                load.give_back()
                load.ring()
            raise
        if self._parcel.number:
            self._parcel = replace(self._parcel, function=None)  # it is known from now on
        return mirais

    def has_more(self) -> bool:
        """Whether there are calls left; reads the next one."""
        if self._call is None:
            self._call = next(self._calls, None)
        return self._call is not None

    def wait(self) -> None:
        """Block until there may be room."""
        if self._budget is not None:
            self._budget.wait()

    async def room(self) -> None:
        """Wait, on asyncio or trio, until there may be room."""
        if self._budget is not None:
            await self._budget.room()

    def close(self) -> None:
        """Send no more: the function is needed no longer, nor is room.  Idempotent."""
        if self._parcel.number and self._parcel.function is None:
            self._forget(self._parcel.number)
            self._parcel = replace(self._parcel, number=0)
        if self._budget is not None and not self._budget.is_full():
            self._budget.ring()  # it may have been let in, and not come

    def _payloads(self, loads: list[Load], keys: list[bytes]) -> Iterator[Packed]:
        """Read calls and pickle them while there is room; take their loads, and make their keys."""
        budget, options = self._budget, self._parcel.options
        while (budget is None or not budget.is_full()) and self.has_more():
            assert self._call is not None
            payload = self._payload or self._outbox.pack(self._call, options)
            if budget is not None:
                self._payload = payload  # kept, if another thread is faster now
                size = size_of(payload) + (0 if loads else self._function_size())
                loads.append(Load(budget))  # first: it is given back if Ctrl-C comes now
                if not loads[-1].take(size):
                    loads.pop()
                    return
                self._payload = None
            if (key := self._outbox.key(self._call, options)) is not None:
                keys.append(key)
            self._call = None
            yield payload

    def _function_size(self) -> int:
        """Large buffers of the function count with the task that brings them along."""
        function = self._parcel.function
        return size_of(function) if function is not None and function[1] else 0
