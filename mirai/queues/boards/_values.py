"""What tasks hold: pickles on a board, of which large parts are kept once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from mirai._answer import error_of, unpickled
from mirai._errors import StoreError
from mirai._evaluate import tell
from mirai._serialize import pack_whole, unpack
from mirai.controllers._frames import plain
from mirai.controllers._recent import Recent

THRESHOLD = 256 * 1024
"""From more bytes than this on, a value is kept beside its task."""
KEPT = 64 * 1024 * 1024
"""How many bytes of large values a process keeps that it has read."""
LONGEST = 1_000
"""How many characters of an exception's message its line shows."""

Get = Callable[[str], bytes | None]
Put = Callable[[str, bytes], None]


@dataclass(frozen=True, slots=True)
class Large:
    """A value that lies on the board beside its task, under its digest."""

    digest: str
    size: int
    """Bytes of its pickle."""

    def __repr__(self) -> str:
        return f"<Large {self.digest[:8]}: {self.size:,} bytes>"

    @property
    def name(self) -> str:
        """What the board knows it by."""
        return f"large:{self.digest}"


class Values:
    """Packs what goes onto a board, and unpacks what comes from it.

    Whoever can write to a board can have whoever reads it run any code: they are pickles.
    """

    def __init__(self, get: Get, put: Put, threshold: int = THRESHOLD) -> None:
        self._get = get
        self._put = put
        self._threshold = threshold
        self._read: Recent[str, bytes] = Recent(KEPT)

    def pack(self, values: Mapping[str, Any], kept: set[str] | None = None) -> bytes:
        """Return their pickle; what is large is put onto the board.

        ``kept``: the digests of what was put there before by the same call, which is not again.
        Raises SerializationError and StoreError.
        """
        data = pack_whole(dict(values))
        if len(data) <= self._threshold:
            return data
        kept = set() if kept is None else kept
        return pack_whole({name: self._stow(value, kept) for name, value in values.items()})

    def unpack(self, data: bytes, *, load: bool = False) -> dict[str, Any]:
        """Return what was packed; what is large as a Large, or with ``load`` as it was.

        Raises SerializationError, and StoreError if a large value is not there.
        """
        values: dict[str, Any] = unpickled(data, what="data") if data else {}
        return {name: self.load(value) for name, value in values.items()} if load else values

    def load(self, value: Any) -> Any:
        """Return what a Large stands for, and others as they are.  Raises as ``unpack`` does."""
        if not isinstance(value, Large):
            return value
        data = self._read.get(value.digest)
        if data is None:
            data = self._get(value.name)
            if data is None:
                raise StoreError(f"the board does not have {value} any more")
            self._read.put(value.digest, data, len(data))
        return unpickled(data, what="data")

    def _stow(self, value: Any, kept: set[str]) -> Any:
        if isinstance(value, Large):
            return value
        data = pack_whole(value)
        if len(data) <= self._threshold:
            return value
        large = Large(blake2b(data, digest_size=16).hexdigest(), len(data))
        if large.digest not in kept:
            self._put(large.name, data)
            kept.add(large.digest)
        return large


def pack_error(error: BaseException) -> bytes:
    """Return an exception as a task that has failed holds it."""
    return pack_whole(tell(error))


def unpack_error(data: bytes) -> Exception:
    """Return the exception again, with where it arose as its cause."""
    return error_of(*unpack(data, ()))


def in_words(error: BaseException) -> str:
    """Return an exception in one line, which is not too long."""
    kind, message, *_ = tell(error)
    first = message[:LONGEST].partition("\n")[0]
    return plain(f"{kind}: {first}" if first else kind)
