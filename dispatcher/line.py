"""A line: a connection between two processes of one machine, of which one has started the other.

It is a pair of sockets of which the child inherits one end.  It has no address, so that nobody
else can connect to it: whoever is at the other end was given it by us, and the kernel alone
carries what is said.  That is why there are no keys, and nothing is encrypted.

Messages are lists of frames.  On the line, a message is the number of its frames and the size of
the first, then the sizes of the others, then the frames.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from itertools import islice
from struct import Struct, iter_unpack, pack

from dispatcher.messages import Buffer, ProtocolError
from dispatcher.wire import MAX_FRAMES, MAX_HEADER

MAX_FRAME = 8 << 30
"""The largest frame besides the first that is taken, in bytes."""
GULP = 1 << 16
"""How many bytes are read at once, but for frames that are larger."""
STEP = 1 << 24
"""How many bytes are made room for at once in what is received of a large frame."""
GULPS = 32
"""How often one look reads at most: other lines want to be heard too."""
BUFFERS = 512
"""How many buffers the system is given at once: it takes 1,024 at most."""

_LATER = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM)
"""What the system says that it cannot do at the moment."""

_PROLOGUE = Struct("=IQ")
_SIZE = 8  # bytes of each size in the table
_FLAGS = getattr(socket, "MSG_NOSIGNAL", 0)
_QUIET = getattr(socket, "SO_NOSIGPIPE", None)  # what there is on macOS instead


class Line:
    """One end of it.  For one thread."""

    def __init__(self, fd: int) -> None:
        """Own the descriptor of an end."""
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        self._socket.setblocking(False)
        if _QUIET is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, _QUIET, 1)
        self._kept: deque[memoryview] = deque()  # what the system would not take yet
        self._deaf = False  # nobody hears us any more; he may still have said something
        self._data = b""  # what was read, and is of messages from ``_at`` on
        self._at = 0
        self._room: memoryview | None = None  # what is to be filled of a large frame, if any
        self._messages = self._parse()
        self._over = False  # nothing comes any more
        self.has_more = False
        """Whether ``receive`` may have something to yield that the system does not tell of."""
        self.ended = False
        """Whether the other end is closed, and all that came from it has been yielded."""

    def fileno(self) -> int:
        """Return what becomes readable when ``receive`` has something to do; -1 once closed."""
        return self._socket.fileno()

    @property
    def wants_to_write(self) -> bool:
        """Whether ``flush`` is to be called when the system takes more."""
        return bool(self._kept)

    # ── sending ──────────────────────────────────────────────────────────────────────────

    def send(self, frames: Sequence[Buffer]) -> bool:
        """Send a message without waiting; return False if nobody is there to hear it.

        What the system does not take now is kept.  The frames must not change until it is sent.
        """
        if self._deaf:
            return False
        parts = _parts(frames)
        if self._kept:
            self._keep(parts, 0)
            return True
        sent = self._write(parts)
        if sent < sum(map(len, parts)):
            self._keep(parts, sent)
            self.flush()  # it may have taken only so many buffers
        return not self._deaf

    def flush(self) -> None:
        """Send what was kept, as far as the system takes it now."""
        while self._kept:
            parts = list(islice(self._kept, BUFFERS))
            sent = self._write(parts)
            if not sent:
                return
            while self._kept and sent >= len(self._kept[0]):
                sent -= len(self._kept.popleft())
            if sent:
                self._kept[0] = self._kept[0][sent:]

    def _keep(self, parts: Sequence[Buffer], sent: int) -> None:
        """Keep what is left of these parts when so many bytes have been sent."""
        for part in parts:
            if sent < len(part):
                self._kept.append(memoryview(part)[sent:])
            sent = max(0, sent - len(part))

    def _write(self, parts: Sequence[Buffer]) -> int:
        """Return how many bytes the system has taken."""
        try:
            if len(parts) == 1:
                return self._socket.send(parts[0], _FLAGS)
            return self._socket.sendmsg(parts[:BUFFERS], (), _FLAGS)
        except OSError as error:
            if error.errno not in _LATER:
                self._deaf = True
                self._kept.clear()
            return 0

    # ── receiving ────────────────────────────────────────────────────────────────────────

    def receive(self) -> Iterator[list[Buffer]]:
        """Yield what has arrived: the frames of each message.

        It takes one look, and so comes to an end.  Whoever stops before that goes on with the
        next call, while ``has_more``.  Raises ProtocolError, after which nothing more is heard;
        the other end can still be told.
        """
        gulps, full = GULPS, not self.ended
        self.has_more = full
        try:
            while full and gulps:
                while (message := next(self._messages)) is not None:
                    yield message
                full = self._gulp()
                gulps -= 1
            while self.has_more and (message := next(self._messages)) is not None:
                yield message
        except ProtocolError:
            self.ended, self.has_more = True, False
            raise
        except MemoryError:  # for what comes next, and so nothing more can be heard
            self._over = True
        self.has_more = False
        self.ended = self.ended or self._over

    def _gulp(self) -> bool:
        """Read once; return whether that was all that there was room for: there may be more."""
        room = self._room
        try:
            if room is None:
                data = self._socket.recv(GULP)
                count, wanted = len(data), GULP
                self._data, self._at = self._data[self._at :] + data, 0
            else:
                count, wanted = self._socket.recv_into(room), len(room)
                self._room = room[count:]
        except OSError as error:
            if error.errno in _LATER:
                return False
            count, wanted = 0, 1
        self._over = not count
        return count == wanted

    def _parse(self) -> Generator[list[Buffer] | None]:
        """Yield messages, and None whenever the next one is not there as a whole."""
        while True:
            while len(self._data) - self._at < _PROLOGUE.size:
                yield None
            count, size = _PROLOGUE.unpack_from(self._data, self._at)
            if not 1 <= count <= MAX_FRAMES:
                raise ProtocolError(f"a message of {count} frames")
            if size > MAX_HEADER:
                raise ProtocolError(f"a header of {size} bytes")
            begin = self._at + _PROLOGUE.size
            self._at = end = begin + size
            if count == 1 and end <= len(self._data):
                yield [self._data[begin:end]]
                continue
            self._at = begin
            table = yield from self._piece(_SIZE * (count - 1))
            frames = [(yield from self._piece(size))]
            for (size,) in iter_unpack("=Q", table):
                if size > MAX_FRAME:
                    raise ProtocolError(f"a frame of {size} bytes")
                frames.append((yield from self._piece(size)))
            yield frames

    def _piece(self, size: int) -> Generator[None, None, bytearray]:
        """Return the next so many bytes; yield while they are not there."""
        have = min(size, len(self._data) - self._at)
        piece = bytearray(min(size, max(have, STEP)))
        piece[:have] = memoryview(self._data)[self._at : self._at + have]
        self._at += have
        while have < size:
            if have == len(piece):  # only what has been sent takes memory, whatever is announced
                piece.extend(bytes(min(STEP, size - have)))
            self._room = memoryview(piece)[have:]
            while self._room:  # it is received where it stays
                yield None
            self._room = None
            have = len(piece)
        return piece

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """Close this end, and drop what was not sent yet."""
        self.ended = self._deaf = True
        self.has_more = False
        self._kept.clear()
        self._socket.close()


def _parts(frames: Sequence[Buffer]) -> list[Buffer]:
    """Return what a message is on a line."""
    first, *others = frames
    prologue = _PROLOGUE.pack(len(frames), len(first))
    if not others and len(first) < GULP:
        return [prologue + first]  # copied sooner than passed on as two
    return [prologue + pack(f"={len(others)}Q", *map(len, others)), *frames]
