"""A board's tasks in a file: MessagePack, with what tasks hold as it was pickled."""

from __future__ import annotations

import os
from typing import Any

import msgspec

from dispatcher.boards import Row, Worker
from mirai._connection import write_secret
from mirai.controllers._frames import Frame
from mirai.queues.boards._rows import NOBODY, TaskRow, frame_of
from mirai.queues.boards._values import Get, Large, Values

VERSION = 1


class Snapshot(msgspec.Struct, frozen=True):
    """What is in a file."""

    mirai_board: int
    rows: list[Row]
    workers: list[Worker]
    objects: dict[str, bytes]
    """The large values of the tasks."""


def write(path: str | os.PathLike[str], rows: list[Row], workers: list[Worker], get: Get) -> None:
    """Write a snapshot in one step.  Raises MiraiError."""
    values = Values(get, _refuse)
    objects = {}
    for row in rows:
        for data in (row.xs, row.ys):
            if Large.__name__.encode() not in data:
                continue  # most are small, and need not be unpickled
            for value in values.unpack(data).values():
                if isinstance(value, Large) and (found := get(value.name)) is not None:
                    objects[value.name] = found
    data = msgspec.msgpack.encode(Snapshot(VERSION, rows, workers, objects))
    write_secret(path, data)


def frame(path: str | os.PathLike[str], kind: Frame) -> Any:
    """Return a snapshot as a table.  Raises OSError, ValueError and ImportError."""
    with open(path, "rb") as file:
        data = file.read()
    try:
        snapshot = msgspec.msgpack.decode(data, type=Snapshot)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{os.fspath(path)!r} is no snapshot of a board: {error}") from None
    if snapshot.mirai_board != VERSION:
        raise ValueError(f"version {snapshot.mirai_board} of snapshots, wanted {VERSION}")
    values = Values(snapshot.objects.get, _refuse)
    known = {worker.id: worker for worker in snapshot.workers}
    rows = [TaskRow(row, known.get(row.worker, NOBODY), values) for row in snapshot.rows]
    return frame_of(rows, values, kind, load=True)


def _refuse(name: str, data: bytes) -> None:
    raise AssertionError(f"a snapshot is read, and {name} ({len(data)} bytes) is written to it")
