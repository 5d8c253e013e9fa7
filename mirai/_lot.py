"""The tasks of one map: mirais are made of them only where somebody asks for one.

Most maps are collected, and nobody looks at the mirai of a single element.  Until somebody does,
a lot keeps the answers as they came, in a list, and is *sealed*; then it is *opened*: it makes all
its mirais, and from then on passes on to them whatever comes.  Whoever has waited for the lot waits
for the mirais from then on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar, overload

from mirai._answer import Answer, Failure, Value, unpickled
from mirai._future import Mirai, guard
from mirai._story import Event

T = TypeVar("T")


class Lot(Sequence[Mirai[T]]):
    """The mirais of a map, in the order of their elements; to look at one opens the lot."""

    def __init__(self, id: int, count: int, make: Callable[[int], Mirai[T]]) -> None:
        """The tasks have the ids from ``id`` on; ``make`` makes the mirai of one."""
        self.id = id
        self._count = count
        self._left = count  # how many have not been answered
        self._make = make
        self._answers: list[bytes | None] = [None] * count  # while it is sealed
        self._notes: dict[int, tuple[str, tuple[Event, ...]]] = {}  # by index, where there are any
        self._heard: list[tuple[int, int, float]] = []  # which answers came when: from, to, time
        self._values: list[T] | None = None  # once they were read
        self._mirais: list[Mirai[T]] | None = None  # once it was opened
        # Settled when all have been answered, or when it is opened.
        self._end: Mirai[None] = Mirai(0, "map")

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Mirai[T]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Mirai[T]]: ...
    def __getitem__(self, index: int | slice) -> Mirai[T] | list[Mirai[T]]:
        return self.open()[index]

    def __iter__(self) -> Iterator[Mirai[T]]:
        return iter(self.open())

    def is_sealed(self) -> bool:
        """Whether nobody has asked for a mirai yet."""
        return self._mirais is None

    def answered(self) -> int:
        """Return how many tasks have been answered."""
        return self._count - self._left

    def open(self) -> list[Mirai[T]]:
        """Return the mirais, made now or before."""
        if self._mirais is None:
            mirais = [self._make(id) for id in range(self.id, self.id + self._count)]
            with guard():
                if self._mirais is None:
                    self._fill(mirais)
                    self._mirais, self._answers, self._values = mirais, [], None
            self._end.settle(Value(None))
        return self._mirais

    def _fill(self, mirais: list[Mirai[T]]) -> None:
        """Settle new mirais of those tasks that have been answered already."""
        for index, (log, told) in self._notes.items():
            mirais[index].annotate(log, told)
        for begin, end, now in self._heard:
            for index in range(begin, end):
                mirais[index].settle(self._answer(index), now)
        if self._end.done() and (lost := self._end.exception()) is not None:
            for mirai in mirais:  # in a forked child: nobody will answer
                mirai.settle(Failure(lost))

    def _answer(self, index: int) -> Answer | bytes:
        if self._values is not None:
            return Value(self._values[index])
        answer = self._answers[index]
        assert answer is not None
        return answer

    # ── for whoever settles ──────────────────────────────────────────────────────────────

    def settle(
        self,
        id: int,
        values: Sequence[bytes],
        now: float,
        log: str = "",
        told: tuple[Event, ...] = (),
    ) -> None:
        """Take the pickled values of the tasks from ``id`` on, with what else is told of them."""
        with guard():
            mirais = self._mirais
            if mirais is None:
                start = id - self.id
                end = start + len(values)
                self._answers[start:end] = values
                self._heard.append((start, end, now))
                self._left -= len(values)
                if log or told:
                    self._notes[start] = log, told
        if mirais is not None:
            for index, value in enumerate(values, id - self.id):
                mirais[index].annotate(log, told)
                mirais[index].settle(value, now)
        elif not self._left:
            self._end.settle(Value(None))

    def find(self, id: int) -> Mirai[T]:
        """Return the mirai of a task."""
        return self.open()[id - self.id]

    # ── for whoever collects ─────────────────────────────────────────────────────────────

    def wait(self) -> None:
        """Block until all have been answered, or it is opened.  Raises like ``Mirai.result``."""
        self._end.result()

    async def ended(self) -> None:
        """Wait, on asyncio or trio, until all have been answered, or it is opened."""
        bell: Mirai[None] = Mirai()
        self._end.add_done_callback(lambda _: bell.settle(Value(None)))
        await bell

    def values(self) -> Iterator[T] | None:
        """Return the values, all of which have come; None if the lot was opened.

        To iterate raises SerializationError for one that cannot be read.
        """
        with guard():
            answers, values, opened = self._answers, self._values, self._mirais is not None
        if opened:
            return None
        return iter(values) if values is not None else (unpickled(each or b"") for each in answers)

    def keep(self, values: list[T]) -> list[T]:
        """Keep what has been read, and return what was kept first: all get the same objects."""
        with guard():
            if self._mirais is not None:
                return [mirai.result() for mirai in self._mirais]
            if self._values is None:
                self._values, self._answers = values, []
            return self._values.copy()
