"""Messages to frames and back.

The first frame is the message in MessagePack.  A blob stands there as its number, and its bytes
are the frame with that number, passed on as they are.  One in shared memory stands there as its
serial in the hatch and its size, if there is a hatch.  Whatever does not decode to exactly one of
the expected messages is a ``ProtocolError``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from types import UnionType
from typing import Any, TypeVar, cast

import msgspec

from dispatcher.hatch import Hatch
from dispatcher.messages import (
    VERSION,
    Blob,
    Buffer,
    Function,
    Kind,
    Message,
    Outcome,
    ProtocolError,
    Task,
)
from dispatcher.shared import Shared, contents

MAX_FRAMES = 65_536
MAX_HEADER = 256 << 20
"""Limits on one message: how many frames, and how many bytes in the first of them."""

BATCH_TASKS = 1_000
BATCH_BLOBS = 1_000
BATCH_BYTES = 1 << 20
"""How much a sender puts into one message at most, unless a single task is larger."""
RUN_BYTES = 1 << 16
"""How many bytes of payloads a sender puts into one run at most."""
RUN_SECONDS = 0.001
"""How long the tasks have taken, at most, whose values a daemon puts into one run."""

_Part = TypeVar("_Part", Task, Function, Outcome)


def encode(message: Message, hatch: Hatch | None = None) -> list[Buffer]:
    """Return the frames of ``message``: the header, then its blobs in order.

    Those in shared memory are put into the ``hatch`` if there is room.
    """
    frames: list[Buffer] = [b""]

    def number(blob: Any) -> int | tuple[int, int]:
        if not isinstance(blob, Blob):
            raise TypeError(f"{type(blob).__name__} has no place in a message")
        data = blob.data
        if hatch is not None and isinstance(data, Shared) and (serial := hatch.hand(data)):
            return serial, data.size
        frames.append(contents(data))
        return len(frames) - 1

    frames[0] = msgspec.msgpack.encode(message, enc_hook=number)
    return frames


class Reader:
    """Turns frames into messages of the kinds that one side may send.  For one thread."""

    def __init__(self, expected: UnionType | type[Any]) -> None:
        self._frames: Sequence[Buffer] = ()
        self._used = 0  # frames of the message in hand that have found their place
        self._hatch: Hatch | None = None
        self._decoder = msgspec.msgpack.Decoder(expected, dec_hook=self._blob)

    def read(self, frames: Sequence[Buffer], hatch: Hatch | None = None) -> Message:
        """Return the message in ``frames``, with what it says is in the ``hatch``.

        Raises ProtocolError if it is not one of those expected, if a limit is passed, or if a
        blob is missing, left over or used twice.
        """
        if not 1 <= len(frames) <= MAX_FRAMES:
            raise ProtocolError(f"a message of {len(frames)} frames")
        if len(frames[0]) > MAX_HEADER:
            raise ProtocolError(f"a header of {len(frames[0])} bytes")
        self._frames, self._used, self._hatch = frames, 0, hatch
        try:
            message = self._decoder.decode(frames[0])
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ProtocolError(_why_not(frames[0], error)) from None
        finally:
            self._frames, self._hatch = (), None
        if self._used != len(frames) - 1:
            raise ProtocolError(f"{len(frames) - 1 - self._used} blobs that belong to nothing")
        return cast(Message, message)

    def _blob(self, kind: type, number: Any) -> Blob:
        if isinstance(number, list):
            return self._shared(*number)
        self._used += 1
        if kind is not Blob or number != self._used or number >= len(self._frames):
            raise ValueError(f"blob {number!r} is not where it should be")
        return Blob(self._frames[number])

    def _shared(self, *reference: Any) -> Blob:
        if self._hatch is None or [*map(type, reference)] != [int, int]:
            raise ValueError(f"blob {reference!r} is nowhere")
        return Blob(self._hatch.take(*reference))


class _Greeting(msgspec.Struct, array_like=True, tag="Hello", gc=False):
    """What a Hello begins with in every version."""

    version: int


def _why_not(header: Buffer, error: Exception) -> str:
    """Say why a header is no message; of a Hello of another version, that it is one."""
    with suppress(msgspec.MsgspecError, ValueError, RecursionError):
        version = msgspec.msgpack.decode(header, type=_Greeting).version
        if version != VERSION:
            return f"protocol version {version}, wanted {VERSION}"
    return f"not a message: {error}"


def decode(frames: Sequence[Buffer], expected: UnionType | type[Any]) -> Message:
    """Return the message in ``frames``, as ``Reader`` does; for one that comes alone."""
    return Reader(expected).read(frames)


def batches(parts: Sequence[_Part]) -> Iterator[tuple[_Part, ...]]:
    """Split ``parts`` into batches that each fit into one message."""
    if len(parts) == 1:
        yield (parts[0],)
        return
    batch: list[_Part] = []
    tasks = size = blobs = 0
    for part in parts:
        count, length = _extent(part)
        tasks += count
        size += length
        blobs += len(part.blobs)
        if batch and (tasks > BATCH_TASKS or size > BATCH_BYTES or blobs > BATCH_BLOBS):
            yield tuple(batch)
            batch, tasks, size, blobs = [], count, length, len(part.blobs)
        batch.append(part)
    if batch:
        yield tuple(batch)


def _extent(part: Task | Function | Outcome) -> tuple[int, int]:
    """Return how many things a part is, and how many bytes besides its blobs."""
    if isinstance(part, Function) or not part.following:
        return 1, len(part.payload)
    return part.count, len(part.payload) + sum(map(len, part.following))


def runs(outcomes: Iterable[Outcome]) -> Iterator[Outcome]:
    """Yield outcomes of single tasks again, those that make a run as one."""
    run: list[Outcome] = []
    room = following = 0  # bytes that the run may grow by, and the id that would follow
    for outcome in outcomes:
        small = (
            outcome.seconds < RUN_SECONDS
            and outcome.kind is Kind.VALUE
            and not (outcome.blobs or outcome.log)
        )
        room -= len(outcome.payload)
        if run and not (small and outcome.id == following and room >= 0):
            yield _run(run)
            run = []
        if not run:
            room = RUN_BYTES - len(outcome.payload)
        run.append(outcome)
        following = outcome.id + 1 if small else 0
    if run:
        yield _run(run)


def _run(outcomes: Sequence[Outcome]) -> Outcome:
    first, *others = outcomes
    if not others:
        return first
    seconds = sum(outcome.seconds for outcome in outcomes)
    following = tuple(outcome.payload for outcome in others)
    return Outcome(first.id, first.kind, first.payload, seconds=seconds, following=following)


def work(
    tasks: Sequence[Task], functions: Sequence[Function]
) -> Iterator[tuple[tuple[Task, ...], tuple[Function, ...]]]:
    """Split tasks, and the functions that they need, into batches that each fit into one message.

    No function comes after a task that needs it.
    """
    if not functions:
        yield from ((batch, ()) for batch in batches(tasks))
        return
    *early, last = [*batches(functions)] or [()]
    for some in early:
        yield (), some
    for batch in [*batches(tasks)] or [()]:
        if batch or last:
            yield batch, last
        last = ()
