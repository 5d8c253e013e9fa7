"""What the rows of a journal's tables are, and the checksums by which damage is found.

Every row has a checksum of all its numbers, and among these one of its large data, so that the
numbers can be trusted where the data is not read.  The sum of all checksums is kept besides: a
row that is gone without having been removed is missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar
from zlib import crc32

import msgspec
from msgspec.structs import replace

from dispatcher import wire
from dispatcher.messages import (
    Buffer,
    Crash,
    Done,
    Function,
    Kind,
    Outcome,
    ProtocolError,
    Run,
    Task,
)

FORMAT = 1
"""Raised whenever an older version could not read what is written, or would read it wrongly."""
APPLICATION = int.from_bytes(b"mirj", "big")
"""By this SQLite's files tell whose they are."""
PIECE = 16 << 20
"""How many bytes of a blob are in one row at most: SQLite has a limit, and copies each once."""
TOTAL = 1 << 62
"""The sum of all checksums is kept modulo this."""
GONE = -1
"""In the place of data's checksum: there is none any more."""

SCHEMA = (
    "CREATE TABLE meta (id INTEGER PRIMARY KEY, commits INTEGER, total INTEGER,"
    " job INTEGER, function INTEGER, serial INTEGER, sum INTEGER)",
    "CREATE TABLE jobs (number INTEGER PRIMARY KEY, name TEXT, at REAL, sum INTEGER)",
    "CREATE TABLE functions (number INTEGER PRIMARY KEY, digest BLOB, version BLOB,"
    " pieces INTEGER, crc INTEGER, sum INTEGER, frame BLOB)",
    "CREATE TABLE runs (first INTEGER PRIMARY KEY, tasks INTEGER, job INTEGER, function INTEGER,"
    " stays INTEGER, at REAL, pieces INTEGER, crc INTEGER, keys BLOB, sum INTEGER, frame BLOB)",
    "CREATE TABLE begun (first INTEGER PRIMARY KEY, tasks INTEGER, times INTEGER, sum INTEGER)",
    "CREATE TABLE outcomes (first INTEGER PRIMARY KEY, tasks INTEGER, kind INTEGER, at REAL,"
    " pieces INTEGER, crc INTEGER, sum INTEGER, frame BLOB)",
    "CREATE TABLE pieces (owner TEXT, number INTEGER, blob INTEGER, piece INTEGER, sum INTEGER,"
    " data BLOB)",
    "CREATE UNIQUE INDEX places ON pieces (owner, number, blob, piece)",
)


class Damage(Exception):
    """Something is not what was written."""


# ── rows, without their checksum and their large data ────────────────────────────────────


class MetaRow(NamedTuple):
    """What is known of the whole."""

    id: int = 0
    commits: int = 0
    """How many transactions there have been."""
    total: int = 0
    job: int = 0
    function: int = 0
    serial: int = 0
    """The largest numbers that were ever used; none of them is used again."""


class JobRow(NamedTuple):
    """A job."""

    number: int
    name: str
    at: float


class FunctionRow(NamedTuple):
    """A function; its data is a Run with it alone."""

    number: int
    digest: bytes
    version: bytes
    pieces: int
    crc: int


class RunRow(NamedTuple):
    """Tasks that were enlisted together; the data is a Run with them alone."""

    first: int
    tasks: int
    job: int
    function: int
    stays: int
    at: float
    pieces: int
    crc: int
    keys: bytes

    @property
    def end(self) -> int:
        """The serial after its last one."""
        return self.first + self.tasks


class BegunRow(NamedTuple):
    """Tasks that were given away so many times and not handed back."""

    first: int
    tasks: int
    times: int

    @property
    def end(self) -> int:
        """The serial after its last one."""
        return self.first + self.tasks


class OutcomeRow(NamedTuple):
    """Tasks that have ended; the data is a Done with their outcome, until it is fetched."""

    first: int
    tasks: int
    kind: int
    at: float
    pieces: int
    crc: int

    @property
    def end(self) -> int:
        """The serial after its last one."""
        return self.first + self.tasks


Row = TypeVar("Row", MetaRow, JobRow, FunctionRow, RunRow, BegunRow, OutcomeRow)

TABLES: dict[type[Any], str] = {
    MetaRow: "meta",
    JobRow: "jobs",
    FunctionRow: "functions",
    RunRow: "runs",
    BegunRow: "begun",
    OutcomeRow: "outcomes",
}
FRAMED: tuple[type[Any], ...] = (FunctionRow, RunRow, OutcomeRow)
"""Those that have data."""


def columns(kind: type[Any]) -> str:
    """Return the columns of a row of this kind and of its checksum, as SQL has them."""
    return ", ".join((*kind._fields, "sum"))


def insertion(kind: type[Any]) -> str:
    """Return the statement that puts rows as ``sealed`` returns them into their table."""
    count = len(kind._fields) + 1 + (kind in FRAMED)
    return f"INSERT INTO {TABLES[kind]} VALUES ({', '.join('?' * count)})"


def checksum(row: Row) -> int:
    """Return the checksum of a row's numbers, which is another one in each table."""
    return crc32(msgspec.msgpack.encode((TABLES[type(row)], *row)))


def sealed(row: Row) -> tuple[Any, ...]:
    """Return the row with its checksum."""
    return (*row, checksum(row))


def verified(kind: type[Row], found: Sequence[Any]) -> Row:
    """Return the row that was ``found`` with its checksum.  Raises Damage."""
    row = kind(*found[:-1])
    if found[-1] != checksum(row):
        raise Damage(f"row {found[0]!r} of {TABLES[kind]} is not what was written")
    return row


# ── large data ───────────────────────────────────────────────────────────────────────────


class Packed(NamedTuple):
    """A message, ready to be stored."""

    frame: bytes
    crc: int
    blobs: list[memoryview]

    @property
    def pieces(self) -> int:
        """How many rows its blobs take."""
        return sum(max(1, -(-blob.nbytes // PIECE)) for blob in self.blobs)


def packed(message: Run | Done) -> Packed:
    """Return ``message`` with its blobs apart, which are not copied."""
    frame, *blobs = wire.encode(message)
    return Packed(frame, crc32(frame), [memoryview(blob).cast("B") for blob in blobs])


def piece_rows(kind: type[Any], number: int, blobs: list[memoryview]) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of ``pieces`` that hold the blobs of a row."""
    for blob, data in enumerate(blobs):
        for piece, start in enumerate(range(0, max(1, data.nbytes), PIECE)):
            part = data[start : start + PIECE]
            place = TABLES[kind], number, blob, piece
            yield *place, piece_sum(place, part), part


def piece_sum(place: tuple[Any, ...], data: Buffer) -> int:
    """Return the checksum of a piece."""
    return crc32(data, crc32(msgspec.msgpack.encode((*place, len(data)))))


def joined(pieces: Iterable[tuple[int, bytes]]) -> list[Buffer]:
    """Return the blobs that consist of these pieces, each with its blob's number, in order."""
    blobs: list[list[bytes]] = []
    for blob, data in pieces:
        if blob == len(blobs):
            blobs.append([])
        elif blob != len(blobs) - 1:
            raise Damage("a blob is missing")
        blobs[-1].append(data)
    return [parts[0] if len(parts) == 1 else b"".join(parts) for parts in blobs]


class Unpacker:
    """Turns what was packed into what it was."""

    def __init__(self) -> None:
        self._reader = wire.Reader(Run | Done)

    def task(self, row: RunRow, frames: Sequence[Buffer]) -> Task:
        """Return the tasks of a run.  Raises Damage, as the others do."""
        message = self._read(frames)
        if not isinstance(message, Run) or len(message.tasks) != 1:
            raise Damage(f"run {row.first} has no task")
        task = message.tasks[0]
        if (task.id, task.count, task.function) != (row.first, row.tasks, row.function):
            raise Damage(f"run {row.first} has another's tasks")
        return task

    def function(self, row: FunctionRow, frames: Sequence[Buffer]) -> Function:
        """Return a function."""
        message = self._read(frames)
        if not isinstance(message, Run) or len(message.functions) != 1:
            raise Damage(f"function {row.number} is none")
        if message.functions[0].number != row.number:
            raise Damage(f"function {row.number} is another one")
        return message.functions[0]

    def outcome(self, row: OutcomeRow, frames: Sequence[Buffer]) -> Outcome:
        """Return the outcome of tasks."""
        message = self._read(frames)
        if not isinstance(message, Done) or len(message.outcomes) != 1:
            raise Damage(f"the outcome of task {row.first} is none")
        outcome = message.outcomes[0]
        if (outcome.id, outcome.count, outcome.kind) != (row.first, row.tasks, row.kind):
            raise Damage(f"the outcome of task {row.first} is another's")
        return outcome

    def _read(self, frames: Sequence[Buffer]) -> Any:
        try:
            return self._reader.read(frames)
        except ProtocolError as error:
            raise Damage(str(error)) from None


def cut(outcome: Outcome, first: int, end: int) -> Outcome:
    """Return the part of ``outcome`` that is of the tasks from ``first`` on, before ``end``."""
    start, stop = max(first, outcome.id), min(end, outcome.id + outcome.count)
    part = outcome.part(start, start - outcome.id, stop - start, outcome.story)
    return replace(part, crash=outcome.crash) if outcome.crash else part


def lost(serial: int, what: str) -> Outcome:
    """Return what is said of a task of which ``what`` cannot be read any more."""
    crash = Crash(f"{what} lost when the journal was repaired")
    return Outcome(serial, Kind.CRASHED, crash=crash)


# ── spans ────────────────────────────────────────────────────────────────────────────────


class Stretch(NamedTuple):
    """Serials that follow one another."""

    first: int
    end: int


def merged(spans: Iterable[Stretch]) -> Iterator[Stretch]:
    """Yield spans again, as one those that follow one another."""
    last: Stretch | None = None
    for span in spans:
        if last is not None and last.end == span.first:
            last = Stretch(last.first, span.end)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def recounted(
    rows: Iterable[BegunRow], span: Stretch, change: Callable[[int], int]
) -> Iterator[BegunRow]:
    """Yield how often tasks were begun once ``change`` is made of the count of those in ``span``.

    ``rows`` do not overlap; nor do those that are yielded, and none of these could be one.
    """
    steps: dict[int, int] = {span.first: 0, span.end: 0}
    for row in rows:
        steps[row.first] = steps.get(row.first, 0) + row.times
        steps[row.end] = steps.get(row.end, 0) - row.times
    now, last = 0, BegunRow(0, 0, 0)
    for first, end in pairwise(sorted(steps)):
        now += steps[first]
        times = max(0, change(now)) if span.first <= first < span.end else now
        if (times, first) == (last.times, last.end):
            last = BegunRow(last.first, end - last.first, times)
            continue
        if last.times:
            yield last
        last = BegunRow(first, end - first, times)
    if last.times:
        yield last
