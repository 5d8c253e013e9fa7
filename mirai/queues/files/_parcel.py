"""Objects to bytes for a file, and back: the pickle and its buffers in one piece."""

from __future__ import annotations

import os
import struct
import sys
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from dispatcher.messages import Blob, Function, Kind, Outcome, Task
from mirai._answer import Pickled
from mirai._serialize import FunctionPickles, Packed, pack, pack_calls
from mirai.queues.files._options import QueueOptions
from mirai.queues.files._row import Row
from mirai.queues.files._table import Answer, Definition, digest_of

Call = tuple[tuple[Any, ...], dict[str, Any]]

_COUNT = struct.Struct("<I")
_SIZE = struct.Struct("<Q")


def flat(packed: Packed) -> bytes:
    """Return a pickle and its blobs as one piece."""
    payload, blobs = packed
    parts = [memoryview(payload), *(memoryview(blob.data).cast("B") for blob in blobs)]
    sizes = b"".join(_SIZE.pack(len(part)) for part in parts)
    return b"".join([_COUNT.pack(len(parts)), sizes, *parts])


def unflat(data: bytes) -> Packed:
    """Return the pickle and its blobs again; those are copies, which may be written to."""
    (count,) = _COUNT.unpack_from(data)
    sizes = [_SIZE.unpack_from(data, _COUNT.size + i * _SIZE.size)[0] for i in range(count)]
    at = _COUNT.size + count * _SIZE.size
    parts = []
    for size in sizes:
        parts.append(memoryview(data)[at : at + size])
        at += size
    payload, *blobs = parts
    return bytes(payload), tuple(Blob(bytearray(blob)) for blob in blobs)


class Functions:
    """Functions on their way into a file."""

    def __init__(self) -> None:
        self._pickles = FunctionPickles()

    def define(self, fn: Callable[..., Any]) -> Definition:
        """Return what is kept of a function.  Raises SerializationError."""
        pickle = self._pickles.find(fn)
        payload, path = flat(pickle.packed), _path()
        return Definition(digest_of(payload, path), pickle.name, path, pickle.changes, payload)


def _path() -> str:
    """Return from where this process imports, besides Python's own library."""
    return _joined(tuple(sys.path), os.getcwd() if "" in sys.path else "")


@cache
def _joined(path: tuple[str, ...], directory: str) -> str:
    entries = [os.path.join(directory, each) for each in path if isinstance(each, str)]
    inside = (sys.prefix, sys.base_prefix)
    own = [each for each in entries if os.path.isabs(each) and not each.startswith(inside)]
    return "\0".join(own).encode("utf-8", "replace").decode()


def flat_calls(calls: Iterable[Call], options: QueueOptions) -> list[bytes]:
    """Return the calls as they are kept.  Raises SerializationError."""
    if not options.retry_on:
        return [flat(packed) for packed in pack_calls(calls)]
    return [flat(pack((*call, options.retry_on))) for call in calls]


def function_of(number: int, definition: Definition) -> Function:
    """Return a function as an evaluator knows it."""
    payload, blobs = unflat(definition.payload)
    return Function(number, definition.name, payload, blobs, fresh=definition.fresh)


def task_of(row: Row, call: bytes) -> Task:
    """Return a task as an evaluator knows it."""
    return Task(row.id, row.function, *unflat(call))


def answer_of(outcome: Outcome, log: str = "") -> Answer:
    """Return an evaluator's outcome as it is kept."""
    payload = flat((outcome.payload, outcome.blobs))
    ok = outcome.kind is Kind.VALUE
    return Answer(ok, payload, outcome.seconds, log, again=outcome.again)


def read(answer: Answer) -> Any:
    """Return a task's value, or raise its error, with where it arose as its cause."""
    return Pickled(Kind.VALUE if answer.ok else Kind.ERROR, *unflat(answer.payload)).read()
