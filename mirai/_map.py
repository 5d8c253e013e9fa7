"""``mirai_map``: one task for each element."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import (
    AsyncIterator,
    Generator,
    Iterable,
    Iterator,
    Sequence,
)
from functools import partial
from itertools import chain, count, repeat
from typing import Any, Generic, Protocol, TypeVar, cast

from mirai._answer import Value
from mirai._errors import SerializationError
from mirai._feed import Feed
from mirai._future import Mirai, give_way
from mirai._landing import SLICE
from mirai._lot import Lot
from mirai._options import Call

T = TypeVar("T")
K = TypeVar("K")
R = TypeVar("R")


class Progress(Protocol):
    """Something that shows how many elements are done."""

    def advance(self) -> None:
        """One more is done."""

    def close(self) -> None:
        """No more will come."""


class _Mirais(Generic[T, K, R]):
    """Mirais in the order of their elements, each with the key of its element."""

    def __init__(self, mirais: Sequence[Mirai[T]], keys: Sequence[K]) -> None:
        self._mirais = mirais
        self._keys = keys

    def __len__(self) -> int:
        return len(self._mirais)

    def _lot(self) -> Lot[T] | None:
        """Return the lot that nobody has looked into yet, if it is one."""
        mirais = self._mirais
        return mirais if isinstance(mirais, Lot) and mirais.is_sealed() else None

    def __iter__(self) -> Iterator[Mirai[T]]:
        """Iterate over the mirais, in order."""
        return iter(self._mirais)

    def __repr__(self) -> str:
        lot = self._lot()
        done = sum(mirai.done() for mirai in self._mirais) if lot is None else lot.answered()
        return f"<{type(self).__name__} of {len(self)}, {done} done>"

    def cancel(self) -> int:
        """Cancel what has not ended; return how many that were."""
        return sum([not mirai.done() and mirai.cancel() for mirai in self._mirais])

    def collect(self, *, progress: bool = False, stop: bool = False, flat: bool = False) -> R:
        """Wait for all, and return their values in order.

        ``progress`` shows a bar (with rich or tqdm, whichever is there).  ``flat`` joins values
        that are iterable into one list.  An error is raised once all have ended, with a note
        that says which element it was; with ``stop``, it is raised at once, and what has not
        ended is cancelled.
        """
        lot = None if progress or stop else self._lot()
        if lot is not None:
            lot.wait()
            if (read := _read_all(lot)) is not None:
                return self._joined(read, flat)
        bar = _bar(len(self)) if progress else None
        try:
            if bar is not None or stop:
                finished = _Finished(zip(self._keys, self._mirais, strict=True))
                for _ in range(len(self)):
                    self._note_one(finished.next(), bar, stop)
            for mirai in self._mirais:
                mirai.exception()
        except BaseException:
            if stop:
                self.cancel()
            raise
        finally:
            if bar is not None:
                bar.close()
        return self._values(flat)

    def __await__(self) -> Generator[Any, None, R]:
        """Wait like ``collect``, on asyncio or trio."""
        return self._wait().__await__()

    async def _wait(self) -> R:
        values = []
        try:
            if (lot := self._lot()) is not None:
                await lot.ended()
                if (read := await _read_slowly(lot)) is not None:
                    return self._shape(read)
            for index, mirai in enumerate(self._mirais):
                await _ended(index, mirai)
                if mirai.exception() is None:
                    values.append(mirai.result())
        except BaseException:  # the waiting was cancelled
            self.cancel()
            raise
        if len(values) < len(self):
            return self._values(flat=False)  # it raises the first error
        return self._shape(values)

    def as_completed(self) -> Completed[K, T]:
        """Iterate, with ``for`` or ``async for``, over (key, value) as they end.

        The key is the element's index, or its key in a dict.  An error is raised where it
        appears, with a note that says which element it was; iterating on is possible.
        """
        pairs = list(zip(self._keys, self._mirais, strict=True))
        return Completed(_Finished(pairs), len(pairs))

    async def __aiter__(self) -> AsyncIterator[tuple[K, T]]:
        """Iterate over (key, value) in order."""
        for index, (key, mirai) in enumerate(zip(self._keys, self._mirais, strict=True)):
            await _ended(index, mirai)
            yield key, _value(key, mirai)

    def _note_one(self, pair: tuple[K, Mirai[T]], bar: Progress | None, stop: bool) -> None:
        key, mirai = pair
        if bar is not None:
            bar.advance()
        if stop:
            _value(key, mirai)

    def _values(self, flat: bool) -> R:
        values = [_value(*pair) for pair in zip(self._keys, self._mirais, strict=True)]
        return self._joined(values, flat)

    def _joined(self, values: list[T], flat: bool) -> R:
        if flat:
            return cast(R, list(chain.from_iterable(cast(Any, values))))
        return self._shape(values)

    def _shape(self, values: list[T]) -> R:
        raise NotImplementedError


class MiraiMap(_Mirais[T, int, list[T]]):
    """The mirais of a map over a sequence: ``collect()`` or ``await`` it for the list of values.

    It has a length, an index (``m[3]`` is a mirai), and iterates over its mirais, so that
    ``concurrent.futures.wait(m)`` and ``asyncio.gather(*m)`` work.  ``async for i, value in m``
    goes in order, ``m.as_completed()`` as they end.
    """

    def __getitem__(self, index: int) -> Mirai[T]:
        return self._mirais[index]

    def _shape(self, values: list[T]) -> list[T]:
        return values


class MiraiDict(_Mirais[T, K, dict[K, T]], Generic[K, T]):
    """The mirais of a map over a dict's values: like ``MiraiMap``, with the dict's keys."""

    def __init__(self, mirais: Sequence[Mirai[T]], keys: Sequence[K]) -> None:
        super().__init__(mirais, keys)
        self._places = {key: index for index, key in enumerate(keys)}

    def __getitem__(self, key: K) -> Mirai[T]:
        return self._mirais[self._places[key]]

    def _shape(self, values: list[T]) -> dict[K, T]:
        return dict(zip(self._keys, values, strict=True))


class MiraiStream(Generic[T]):
    """A map over an input that need not fit into memory; see ``max_in_flight``.

    It is iterated over once, with ``for`` or ``async for``: over (index, value) in order, or as
    they end with ``as_completed()``.  At most ``max_in_flight`` elements are taken from the
    input ahead of what has been consumed; fewer, where the pool's memory budget says so.
    Leaving the loop, also by an error, cancels the rest.
    """

    def __init__(self, feed: Feed, max_in_flight: int) -> None:
        self._feed = feed
        self._indices = count()
        self._room = max_in_flight
        self._flying: dict[int, Mirai[T]] = {}

    def __iter__(self) -> Generator[tuple[int, T], None, None]:
        """Iterate over (index, value) in order."""
        try:
            while self._more():
                index, mirai = next(iter(self._flying.items()))
                mirai.exception()
                del self._flying[index]
                yield index, _value(index, mirai)
        finally:
            self._cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, T]]:
        """Iterate over (index, value) in order."""
        try:
            while await self._more_async():
                index, mirai = next(iter(self._flying.items()))
                await _ended(index, mirai)
                del self._flying[index]
                yield index, _value(index, mirai)
        finally:
            self._cancel()

    def as_completed(self) -> StreamCompleted[T]:
        """Iterate, with ``for`` or ``async for``, over (index, value) as they end."""
        return StreamCompleted(self)

    def _more(self) -> list[tuple[int, Mirai[T]]] | bool:
        """Send more; return what is new, or whether anything flies.

        Only where nothing does, so that no value comes meanwhile, it waits for memory.
        """
        while not (new := self._refill()) and self._feed.has_more():
            self._feed.wait()
        return new

    async def _more_async(self) -> list[tuple[int, Mirai[T]]] | bool:
        while not (new := self._refill()) and self._feed.has_more():
            await self._feed.room()
        return new

    def _refill(self) -> list[tuple[int, Mirai[T]]] | bool:
        """Send as much as there is room for; return what is new, or whether anything flies."""
        room = self._room - len(self._flying)
        if room < max(1, self._room // 2) and self._flying:
            return True  # wait until a batch is worth it
        new = [(next(self._indices), mirai) for mirai in self._feed.send(room)]
        self._flying.update(new)
        return new or bool(self._flying)

    def _cancel(self) -> None:
        for mirai in self._flying.values():
            mirai.cancel()
        self._flying.clear()
        self._feed.close()


class Completed(Generic[K, T]):
    """What ``MiraiMap.as_completed`` returns."""

    def __init__(self, finished: _Finished[K, T], count: int) -> None:
        self._finished = finished
        self._left = count

    def __iter__(self) -> Completed[K, T]:
        return self

    def __next__(self) -> tuple[K, T]:
        if not self._left:
            raise StopIteration
        self._left -= 1
        key, mirai = self._finished.next()
        return key, _value(key, mirai)

    def __aiter__(self) -> Completed[K, T]:
        return self

    async def __anext__(self) -> tuple[K, T]:
        if not self._left:
            raise StopAsyncIteration
        key, mirai = await self._finished.anext()
        self._left -= 1
        return key, _value(key, mirai)


class StreamCompleted(Generic[T]):
    """What ``MiraiStream.as_completed`` returns."""

    def __init__(self, stream: MiraiStream[T]) -> None:
        self._stream = stream
        self._finished: _Finished[int, T] = _Finished(())

    def __iter__(self) -> Generator[tuple[int, T], None, None]:
        try:
            while self._watch(self._stream._more()):
                index, mirai = self._finished.next()
                del self._stream._flying[index]
                yield index, _value(index, mirai)
        finally:
            self._stream._cancel()

    async def __aiter__(self) -> AsyncIterator[tuple[int, T]]:
        try:
            while self._watch(await self._stream._more_async()):
                index, mirai = await self._finished.anext()
                del self._stream._flying[index]
                yield index, _value(index, mirai)
        finally:
            self._stream._cancel()

    def _watch(self, new: list[tuple[int, Mirai[T]]] | bool) -> bool:
        if isinstance(new, list):
            self._finished.add(new)
        return bool(new)


class _Finished(Generic[K, T]):
    """Mirais in the order in which they end, with their keys."""

    def __init__(self, pairs: Iterable[tuple[K, Mirai[T]]]) -> None:
        self._ended: deque[tuple[K, Mirai[T]]] = deque()
        self._lock = threading.RLock()
        self._bell: Mirai[None] = Mirai()  # settled when something ends
        self._home: Mirai[None] = Mirai()  # never settled, but in a forked child it fails
        self._taken = 0
        self.add(pairs)

    def add(self, pairs: Iterable[tuple[K, Mirai[T]]]) -> None:
        """Watch these too."""
        for key, mirai in pairs:
            mirai.add_done_callback(partial(self._end, key))

    def _end(self, key: K, mirai: Any) -> None:
        with self._lock:
            self._ended.append((key, mirai))
            bell = self._bell
        bell.settle(Value(None))

    def next(self) -> tuple[K, Mirai[T]]:
        """Wait for the next one to end."""
        while (pair := self._take()) is None:
            self._bell.result()
        return pair

    async def anext(self) -> tuple[K, Mirai[T]]:
        """Wait for the next one to end, on asyncio or trio."""
        self._taken += 1
        if self._taken % SLICE == 0:  # where many have ended, others must have their turn
            await give_way()
        while (pair := self._take()) is None:
            await self._bell
        return pair

    def _take(self) -> tuple[K, Mirai[T]] | None:
        with self._lock:
            if self._ended:
                return self._ended.popleft()
            if self._home.done():
                self._home.result()
            self._bell = Mirai()
            return None


def elements_of(iterables: tuple[Any, ...]) -> Iterator[Call]:
    """Return the calls that a map over these makes.

    The rows of a DataFrame (pandas, polars, Arrow) become keywords; all else is iterated over,
    several iterables side by side.  Raises TypeError for what cannot be iterated over, or is a
    DataFrame and not alone; ValueError for one with columns of the same name, and, on the way,
    if an iterable is shorter than the others.
    """
    if not iterables:
        raise TypeError("mirai_map needs something to map over")
    if tables := [rows for side in iterables if (rows := _rows(side)) is not None]:
        if len(iterables) > 1:
            raise TypeError("a DataFrame is mapped over alone: join it with the others first")
        return (((), row) for row in tables[0])
    sides = [iter(side) for side in iterables]
    return zip(zip(*sides, strict=True), repeat({}))  # the other one has no end


def _rows(table: Any) -> Iterable[dict[str, Any]] | None:
    """Return the rows of a DataFrame by its own iterator; None for what is none."""
    if hasattr(table, "iter_rows"):  # polars
        return cast("Iterable[dict[str, Any]]", table.iter_rows(named=True))
    if hasattr(table, "itertuples"):  # pandas
        names = _keywords(table.columns)
        rows = table.itertuples(index=False, name=None)
        return (dict(zip(names, row, strict=True)) for row in rows)
    if hasattr(table, "to_pylist") and hasattr(table, "schema"):  # Arrow
        _keywords(table.schema.names)
        batches = table.to_batches() if hasattr(table, "to_batches") else [table]
        return (row for batch in batches for row in batch.to_pylist())
    return None


def _keywords(columns: Iterable[object]) -> list[str]:
    """Return the keywords for these columns.  Raises ValueError if two would be the same."""
    names = [str(column) for column in columns]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise ValueError(f"columns of the same name: {', '.join(map(repr, twice))}")
    return names


def _read_all(lot: Lot[T]) -> list[T] | None:
    """Return all values of a lot that have been answered; None if it has to be opened for that."""
    values = lot.values()
    try:
        return None if values is None else lot.keep(list(values))
    except SerializationError:  # when it is opened, that says in which element
        return None


async def _read_slowly(lot: Lot[T]) -> list[T] | None:
    """Do what ``_read_all`` does, and let others have their turn at times."""
    read = []
    try:
        for value in lot.values() or ():
            read.append(value)
            if len(read) % SLICE == 0:
                await give_way()
    except SerializationError:
        return None
    return lot.keep(read) if lot.is_sealed() else None


def _value(key: object, mirai: Mirai[T]) -> T:
    """Return its value, or raise its error with a note that says which element it was."""
    error = mirai.exception()
    if error is None:
        return mirai.result()
    note = f"in element {key!r} of mirai_map"
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
    raise error


async def _ended(index: int, mirai: Mirai[Any]) -> None:
    """Wait until it has ended, however; where many have, let others have their turn at times."""
    if mirai.done():
        if index % SLICE == SLICE - 1:
            await give_way()
        return
    bell: Mirai[None] = Mirai()
    mirai.add_done_callback(lambda _: bell.settle(Value(None)))
    await bell


def _bar(total: int) -> Progress:
    from mirai._progress import bar

    return bar(total)
