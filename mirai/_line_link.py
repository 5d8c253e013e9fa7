"""A connection to a dispatcher of this machine over a line: what there is where it can be.

It is a ``Carrier`` as ``mirai._link.Link`` is one, and has the same bell; it loads no ZeroMQ.
"""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Iterator
from types import UnionType

from dispatcher.hatch import Hatch
from dispatcher.line import Line
from dispatcher.messages import Message
from dispatcher.wire import Reader, encode
from mirai._bell import Bell

LONGEST = 3_600.0
"""How long one call of ``wait`` takes at most, in seconds: no number is for a year."""


class LineLink:
    """The end of a line whose other end is a dispatcher's: nobody else can be there."""

    reached = True
    proved = True
    denied = False
    for_all = True

    def __init__(
        self, line: Line, url: str, expected: UnionType, hatch: Hatch | None = None
    ) -> None:
        """Own a line.

        ``url`` is where others reach the dispatcher, ``expected`` are the messages that it may
        send, and ``hatch`` is closed with the line.
        """
        self.url = url
        self._line = line
        self._hatch = hatch
        self._reader = Reader(expected)
        self._bell = Bell()
        self.ring = self._bell.ring
        self._poll = select.poll()  # not epoll: a forked child would have a share in that
        self._poll.register(self._bell.fileno(), select.POLLIN)
        self._poll.register(line.fileno(), select.POLLIN)
        self._writes = False  # whether who waits is to wait for room on the line too
        self._lock = threading.RLock()  # what goes into the hatch is in the order of messages

    @property
    def ended(self) -> bool:
        """Whether it has ended; then all that had arrived has been received."""
        return self._line.ended

    @property
    def shares(self) -> bool:
        """Whether memory can be shared with who is at the other end."""
        return self._hatch is not None

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something to do, for at most ``timeout`` seconds (None: for ever)."""
        if self._line.has_more:
            timeout = 0
        if self._line.wants_to_write != self._writes:
            with self._lock:
                self._look_for_room()
        longest = None if timeout is None else math.ceil(min(timeout, LONGEST) * 1_000)
        for fd, event in self._poll.poll(longest):
            if fd == self._bell.fileno():
                self._bell.silence()
            elif event & select.POLLOUT:
                with self._lock:
                    self._line.flush()
                    self._look_for_room()

    def send(self, message: Message) -> None:
        """Send without waiting.  Into a connection that has ended, it sends nothing."""
        with self._lock:
            self._line.send(encode(message, self._hatch))
            if self._line.wants_to_write and not self._writes:
                self._look_for_room()
                self.ring()  # who waits just now does not wait for that

    def receive(self) -> Iterator[Message]:
        """Yield what has arrived.  Raises dispatcher.messages.ProtocolError."""
        for frames in self._line.receive():
            yield self._reader.read(frames, self._hatch)

    def close(self) -> None:
        """Drop the connection, and what was not sent yet."""
        self._line.close()
        if self._hatch is not None:
            self._hatch.close()
        self._bell.close()

    def _look_for_room(self) -> None:
        """Wait for room on the line if there is something that it did not take."""
        if self._line.wants_to_write != self._writes:
            self._writes = not self._writes
            wanted = select.POLLIN | (select.POLLOUT if self._writes else 0)
            self._poll.modify(self._line.fileno(), wanted)
