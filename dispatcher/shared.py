"""Large pieces of payloads in memory that the processes of one host share.

The memory is a memfd: it has no name in any file system, so that it is gone with its last
descriptor and mapping, however the processes end.  Once it is filled it is sealed, and can neither
change nor shrink: whoever maps it need not trust who made it.
"""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

try:
    from fcntl import (
        F_ADD_SEALS,
        F_GET_SEALS,
        F_SEAL_GROW,
        F_SEAL_SEAL,
        F_SEAL_SHRINK,
        F_SEAL_WRITE,
        fcntl,
    )
    from os import MFD_ALLOW_SEALING, MFD_CLOEXEC, memfd_create
    from resource import RLIMIT_NOFILE, getrlimit

    AVAILABLE = sys.platform == "linux"
    _SEALS = F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_WRITE
except ImportError:
    AVAILABLE = False
"""Whether there is such memory; where it is not, nothing in here is used."""

MOST = 4_096
"""No descriptor of such memory is kept whose number is larger: the system gives the lowest."""

if TYPE_CHECKING:  # daemons are started before what it loads
    from dispatcher.messages import Buffer


class Shared:
    """Bytes in memory without a name, for as long as somebody has a descriptor or a mapping."""

    __slots__ = ("fd", "size")

    def __init__(self, fd: int, size: int) -> None:
        """Own a descriptor of so many bytes."""
        self.fd = fd
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __del__(self, close: Callable[[int], None] = os.close) -> None:
        close(self.fd)

    @classmethod
    def copy(cls, data: memoryview) -> Shared | None:
        """Copy ``data``, which is bytes in a row; None if memory or descriptors are short."""
        try:
            shared = cls(memfd_create("mirai", MFD_CLOEXEC | MFD_ALLOW_SEALING), data.nbytes)
            if shared.fd >= scarce():
                return None
            while data:  # written, not mapped: that is the faster way to get pages
                data = data[os.write(shared.fd, data) :]
            fcntl(shared.fd, F_ADD_SEALS, _SEALS)
        except OSError:
            return None
        return shared

    def map(self) -> Buffer:
        """Return its bytes for one reader alone, who may change them: no other will see that."""
        readable = mmap.PROT_READ | mmap.PROT_WRITE
        try:
            return mmap.mmap(self.fd, self.size, mmap.MAP_PRIVATE, readable)
        except OSError:  # too many mappings, or descriptors, of which it takes one too
            return _read(self.fd, self.size)


def adopt(fd: int, size: int) -> Buffer | Shared:
    """Take over a descriptor of unknown origin; return it, or its bytes if descriptors are short.

    Raises ValueError unless it is of memory of exactly this size that cannot change any more.
    """
    shared = Shared(fd, size)
    if size < 1 or not _is_sealed(fd) or not _is_whole(fd, size):
        raise ValueError("what was handed over is no sealed memory of the size that was said")
    return _read(fd, size) if fd >= scarce() else shared


def sized(name: str, size: int) -> int:
    """Return a descriptor of so many zero bytes, which may change, and neither shrink nor grow.

    Whoever shares them cannot take them away under the feet of who has them mapped.
    """
    fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING)
    os.ftruncate(fd, size)
    fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL | F_SEAL_SHRINK)
    return fd


def scarce() -> int:
    """Return the number from which on descriptors are left to others: half of what may be."""
    return min(getrlimit(RLIMIT_NOFILE)[0] // 2, MOST)


def contents(data: Buffer | Shared) -> Buffer:
    """Return what has the bytes of a blob's ``data``."""
    return data.map() if isinstance(data, Shared) else data


def _read(fd: int, size: int) -> bytearray:
    data = bytearray(size)
    view, count = memoryview(data), 0
    while count < size:
        count += os.preadv(fd, [view[count:]], count)
    return data


def _is_sealed(fd: int) -> bool:
    """Whether it is memory that can be read and mapped, and stays as it is."""
    try:
        sealed = fcntl(fd, F_GET_SEALS) & _SEALS == _SEALS
        return sealed and len(os.pread(fd, 1, 0)) == 1  # in this order: other things may block
    except OSError:  # nothing that can have seals, or be read
        return False


def _is_whole(fd: int, size: int) -> bool:
    """Whether it has this size, and memory for all of it.

    What was never written has none: its reader would have to find it, or die of SIGBUS.
    """
    found = os.fstat(fd)
    return found.st_size == size <= found.st_blocks * 512
