"""References: what travels instead of a large value, which lies in a store."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain
from typing import Any, Generic, TypeVar

from mirai._errors import StoreError
from mirai._profiles import on_daemon
from mirai._serialize import Reducer, pack_whole, unpack
from mirai.controllers._recent import Recent
from mirai.controllers._store import Store

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

THRESHOLD = 1024 * 1024
"""From more than this on, in bytes, a value goes to the store, unless it is said otherwise."""
KEPT = 64 * 1024 * 1024
"""How many bytes of what it has read a process keeps, for tasks that read the same."""

_read: Recent[str, bytes] = Recent(KEPT)
"""Pickles by their digests, not objects: one task must not see what another does to its own."""
_written: Recent[tuple[Store, str], bool] = Recent(10_000)
"""What is known to be in its store."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_read.forget)
    os.register_at_fork(after_in_child=_written.forget)


@dataclass(frozen=True, slots=True, repr=False)
class Ref(Generic[T_co]):
    """A value that lies in a store: ``digest`` names its pickle there, of ``size`` bytes.

    The digest is looked at before anything is unpickled: who can only write to the store cannot
    have a value of theirs read.  A Ref from somebody is like a pickle from them: it may run any
    code.
    """

    store: Store
    digest: str
    size: int

    def __repr__(self) -> str:
        return f"<Ref {self.digest[:8]}: {self.size:,} bytes in {self.store}>"

    def get(self) -> T_co:
        """Read the value.

        Raises StoreError if it is not there or damaged, and whatever its unpickling raises.
        """
        # as results are on the host, and as arguments are on daemons
        value: T_co = unpack(self._data(), (), keep_classes=not on_daemon())
        return value

    def _data(self) -> bytes:
        data = _read.get(self.digest)
        if data is None:
            data = self.store.read(self.digest)
            if _digest(data) != self.digest:
                raise StoreError(
                    f"{self.store}: {self.digest} is damaged: {len(data):,} bytes are there that"
                    f" are not the {self.size:,} that were written"
                )
            _read.put(self.digest, data, len(data))
        return data


@dataclass(frozen=True, slots=True)
class Depot:
    """A run's own store, and from how many bytes on values go there.

    The store must be of this run alone, as ``Store.below`` gives one: with it all go that were
    written, also those whose reference never arrived anywhere because a process had died.
    While the run is on, nothing is removed singly.
    """

    store: Store
    threshold: int = THRESHOLD

    def put(self, value: T, reducer: Reducer | None = None) -> Ref[T]:
        """Store a value, and return what stands for it; the same pickle is stored once.

        ``reducer`` knows how to pickle some objects.  Raises SerializationError and StoreError.
        """
        return self._put(pack_whole(value, reducer))

    def stow(self, value: T, reducer: Reducer | None = None) -> T | Ref[T]:
        """Store a value whose pickle has more bytes than the threshold; return others as they are.

        A Ref is one of the others.  Raises SerializationError and StoreError.
        """
        if isinstance(value, Ref) or _size_at_most(value, self.threshold) <= self.threshold:
            return value
        data = pack_whole(value, reducer)
        return self._put(data) if len(data) > self.threshold else value

    @staticmethod
    def fetch(value: Any) -> Any:
        """Return the value that a Ref stands for, of any depot, and others as they are.

        What is inside of a value is not looked at: a Ref there stays one, for the task to read.
        Raises what ``Ref.get`` raises.
        """
        return value.get() if isinstance(value, Ref) else value

    def destroy(self) -> None:
        """Remove all that the run has stored.  Raises StoreError.

        No process may be at work on the run then: what it wrote afterwards would stay.
        """
        _written.forget()
        _read.forget()
        self.store.destroy()

    def _put(self, data: bytes) -> Ref[Any]:
        digest = _digest(data)
        if not _written.get((self.store, digest)):
            if not self.store.exists(digest):
                self.store.write(digest, data)
            _written.put((self.store, digest), True)
        return Ref(self.store, digest, len(data))


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=32).hexdigest()


def _size_at_most(value: Any, limit: float = math.inf, depth: int = 3) -> float:
    """Return how many bytes its pickle has at most; infinity where only pickling can tell.

    Past the limit it is not looked any further.
    """
    kind = type(value)
    if kind in (float, complex, bool, type(None)):
        return 64.0
    if kind is int:
        return float(value.bit_length() // 8 + 32)
    if kind in (bytes, bytearray):
        return float(len(value) + 64)
    if kind is str:
        return float(4 * len(value) + 32)
    if kind in (tuple, list, set, frozenset) and depth:
        return _sum_at_most(value, limit, depth - 1)
    if kind is dict and depth:
        return _sum_at_most(chain.from_iterable(value.items()), limit, depth - 1)
    if kind.__module__ == "numpy" and kind.__name__ == "ndarray" and value.dtype.kind in "biufcmM":
        return float(value.nbytes + 1024)
    return math.inf


def _sum_at_most(parts: Iterable[Any], limit: float, depth: int) -> float:
    total = 64.0
    for part in parts:
        total += _size_at_most(part, limit - total, depth)
        if total > limit or total == math.inf:
            return math.inf
    return total
