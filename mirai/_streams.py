"""Random numbers: one stream for each task of a seeded pool.

The host makes a stream of the pool's seed and the task's number, so that it depends on nothing
else; whoever evaluates the task seeds ``random`` and ``numpy.random`` with it.  Without a seed
nothing is seeded, and each process draws numbers of its own.
"""

from __future__ import annotations

import contextlib
import random
import sys
import threading
from collections.abc import Iterator, Sequence
from itertools import count
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

import msgspec

from mirai._errors import MiraiError

if TYPE_CHECKING:
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec  # these are slow to import

    import numpy as np

NUMPY = "numpy.random"


class Streams:
    """The streams of one pool's tasks, in the order of submission."""

    def __init__(self, seed: int | None) -> None:
        self._root = b"" if seed is None else _digest(f"{seed:x}".encode(), 16)
        self._numbers = count()

    def are_drawn(self) -> bool:
        """Whether ``next`` returns anything for a task that is submitted here and now."""
        return bool(self._root or (running.draws is not None and running.draws.stream))

    def next(self) -> bytes:
        """Return the next task's stream; empty without a seed.

        Inside a task, it depends on that one's stream, and on how many it has submitted before.
        """
        draws = running.draws
        if draws is not None and draws.stream:
            draws.submitted += 1
            return _digest(draws.stream + draws.submitted.to_bytes(8, "big"), 24)
        return self.fresh()

    def fresh(self) -> bytes:
        """Return the next one of this seed, wherever that is asked for; empty without a seed."""
        return self._root and self._root + next(self._numbers).to_bytes(8, "big")


def _digest(data: bytes, size: int) -> bytes:
    from hashlib import blake2b  # slow to import, and rarely needed

    return blake2b(data, digest_size=size).digest()


# ── the running task ─────────────────────────────────────────────────────────────────────


class Draws(msgspec.Struct):
    """What one run of a task draws from."""

    stream: bytes
    generator: Any = None  # once it was asked for
    submitted: int = 0  # tasks of its own


class _Running(threading.local):
    """What the task draws from that this thread evaluates; None if there is none."""

    draws: Draws | None = None


running = _Running()


def task_generator() -> np.random.Generator:
    """Return the running task's own ``numpy.random.Generator``: the same one during a task.

    In a pool with a ``seed`` it depends on that and on the task alone; without one it is seeded
    freshly.  It is for the task's own thread (and its coroutines): hand it on to others.

    Raises MiraiError outside of a task, and ImportError where there is no numpy.
    """
    draws = running.draws
    if draws is None:
        raise MiraiError("task_generator() is for the inside of a task, in the task's own thread")
    if draws.generator is None:
        import numpy as np

        entropy = int.from_bytes(draws.stream, "big") if draws.stream else None
        draws.generator = np.random.default_rng(np.random.SeedSequence(entropy))
    return cast("np.random.Generator", draws.generator)


def seed(stream: bytes) -> None:
    """Seed ``random`` now, and ``numpy.random`` now or when the task imports it."""
    random.seed(stream)
    _seed_numpy(stream)


def seeded() -> None:
    """The task that ``seed`` was for has ended."""
    _SeedOnImport.remove()


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Restore the states of ``random`` and ``numpy.random`` after the block."""
    state, numpy = random.getstate(), _numpy()
    numpy_state = None if numpy is None else numpy.get_state(legacy=False)
    try:
        yield
    finally:
        random.setstate(state)
        if numpy is not None:
            numpy.set_state(numpy_state)
        elif (numpy := _numpy()) is not None:
            numpy.seed()  # first imported in the block


def freshen() -> None:
    """Seed ``random`` and ``numpy.random`` with what nobody knows."""
    random.seed()
    if (numpy := _numpy()) is not None:
        numpy.seed()


# ── numpy, where it is imported ──────────────────────────────────────────────────────────


def _numpy() -> Any:
    """Return ``numpy.random`` if it is imported, and not just on its way."""
    module = sys.modules.get(NUMPY)
    return module if hasattr(module, "seed") else None


def _seed_numpy(stream: bytes) -> None:
    """Seed numpy's global state, now or when it is first imported."""
    numpy = _numpy()
    if numpy is not None:
        words = (stream[start : start + 4] for start in range(0, len(stream), 4))
        numpy.seed([int.from_bytes(word, "big") for word in words])
    else:
        _SeedOnImport.remove()
        sys.meta_path.insert(0, _SeedOnImport(stream))


class _SeedOnImport:
    """Waits for the import of ``numpy.random``: what a daemon ran before must not matter."""

    def __init__(self, stream: bytes) -> None:
        self._stream = stream

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if name != NUMPY:
            return None
        from importlib.util import find_spec

        self.remove()
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = cast("Loader", _SeedingLoader(spec.loader, self._stream))
        return spec

    @staticmethod
    def remove() -> None:
        """Wait no longer."""
        for finder in sys.meta_path[:]:
            if isinstance(finder, _SeedOnImport):
                sys.meta_path.remove(finder)


class _SeedingLoader:
    """Loads a module as its own loader does, and then seeds it."""

    def __init__(self, loader: Loader, stream: bytes) -> None:
        self._loader = loader
        self._stream = stream

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _seed_numpy(self._stream)
