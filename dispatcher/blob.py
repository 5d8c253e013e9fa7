"""What travels beside a message, as it is."""

from __future__ import annotations

from typing import Any

Buffer = Any
"""Whatever has the buffer protocol: bytes, a bytearray, a memoryview, a frame of ZeroMQ's.

Where a blob has it, it may also be memory that processes share: ``dispatcher.shared.Shared``.
"""


class Blob:
    """A large piece of a payload, which travels beside its message and is never copied."""

    __slots__ = ("data",)

    def __init__(self, data: Buffer) -> None:
        self.data = data

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Blob) and memoryview(self.data) == memoryview(other.data)

    def __hash__(self) -> int:
        return hash(bytes(memoryview(self.data)))

    def __repr__(self) -> str:
        return f"Blob({len(self.data)} bytes)"
