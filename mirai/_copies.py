"""Shared copies of large objects that are passed again and again, such as an array.

Of an object that is passed a second time the copy is kept, as long as the object lives and the
budget lasts.  From then on it is compared with its copy instead of being copied, which is several
times as fast, and all tasks that are given it share the same memory.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import Any

from dispatcher.messages import Buffer
from dispatcher.shared import Shared

WORTHWHILE = 1 << 20
"""From this size on, in bytes, it is worth while."""
BUDGET = 1 << 30
"""How many bytes of copies are kept; those used longest ago are dropped."""


class _Copy:
    """The copy of one object, once there is one."""

    def __init__(self, owner: weakref.ref[Any]) -> None:
        self.owner = owner
        self.shared: Shared | None = None
        self._bytes: Buffer = None  # of the copy, mapped

    @property
    def size(self) -> int:
        return 0 if self.shared is None else self.shared.size

    def is_of(self, view: memoryview) -> bool:
        """Whether these are still the same bytes."""
        if self.shared is None or self.shared.size != view.nbytes or view.readonly:
            return False
        if self._bytes is None:
            self._bytes = self.shared.map()
        return _are_same(view, self._bytes)


class Copies:
    """Those of one process.  For any thread."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._copies: OrderedDict[int, _Copy] = OrderedDict()  # by the object's address
        self._lock = threading.RLock()  # an object may die in a thread that holds it

    def share(self, view: memoryview) -> Shared | None:
        """Return a copy of these bytes, made now or before; None if memory is short."""
        owner = view.obj
        if view.nbytes < WORTHWHILE or view.nbytes > self._budget or not _is_observable(owner):
            return Shared.copy(view)
        with self._lock:
            known = self._copies.get(id(owner))
            if known is not None:
                self._copies.move_to_end(id(owner))
        if known is not None and known.is_of(view):
            return known.shared
        shared = Shared.copy(view)
        if known is None:
            self._note(owner)
        elif shared is not None:
            self._keep(known, shared)
        return shared

    def kept(self) -> int:
        """Return how many bytes of copies are kept."""
        with self._lock:
            return sum(copy.size for copy in self._copies.values())

    def _note(self, owner: Any) -> None:
        """Know this object when it comes again."""
        key = id(owner)
        copy = _Copy(weakref.ref(owner, lambda _: self._forget(key, copy)))
        with self._lock:
            self._copies[key] = copy

    def _keep(self, known: _Copy, shared: Shared) -> None:
        kept = _Copy(known.owner)
        kept.shared = shared
        with self._lock:
            for key, copy in self._copies.items():
                if copy is known:
                    self._copies[key] = kept
                    break
            while self.kept() > self._budget:
                self._copies.popitem(last=False)

    def _forget(self, key: int, copy: _Copy) -> None:
        with self._lock:
            known = self._copies.get(key)
            if known is not None and known.owner is copy.owner:
                del self._copies[key]


def _is_observable(owner: object) -> bool:
    """Whether it can be known when the object dies; another may have its address then."""
    return getattr(type(owner), "__weakrefoffset__", 0) > 0


def _are_same(one: memoryview, other: Buffer) -> bool:
    """Compare bytes as fast as memory is read; other threads run meanwhile."""
    import ctypes  # slow to load, and rarely needed

    compare = ctypes.CDLL(None).memcmp
    compare.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    first = ctypes.c_char.from_buffer(one)
    second = ctypes.c_char.from_buffer(other)
    return not compare(ctypes.addressof(first), ctypes.addressof(second), one.nbytes)
