"""One connection to a dispatcher over ZeroMQ, with a bell: for a channel or for a daemon.

The thread that owns a link waits on it for messages, for the connection's end, and for the bell,
which any other thread may ring.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from types import UnionType

import zmq

from dispatcher.hatch import Hatch
from dispatcher.keys import KeyPair
from dispatcher.messages import Message
from dispatcher.security import dial, watch_for_silence
from dispatcher.sockets import monitor_events, receive_frames
from dispatcher.wire import Reader, encode
from mirai._bell import Bell

_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
)
_BEGUN = zmq.EVENT_CONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED
_ENDED = _FAILED | zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED


class Link:
    """A connection that is made once; when it ends, it has ended for good."""

    for_all = False

    def __init__(
        self,
        url: str,
        pair: KeyPair,
        server: str,
        expected: UnionType,
        hatch: Hatch | None = None,
    ) -> None:
        """Connect, without waiting for it.

        ``server`` is the dispatcher's public key, ``expected`` the messages that it may send,
        and ``hatch`` is closed with the connection.
        """
        self.url = url
        self._hatch = hatch
        self._reader = Reader(expected)
        self.ended = False
        """Whether the connection has ended; what had arrived before can still be received."""
        self.denied = False
        """Whether it ended because the other side knows our key not, and has said so."""
        self.reached = False
        """Whether somebody was there."""
        self.proved = False
        """Whether both sides have proved their keys."""
        self._bell = Bell()
        self.ring = self._bell.ring
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = dial(self._context, pair, server)
        self._monitor = self._socket.get_monitor_socket(_BEGUN | _ENDED)
        self._poller = zmq.Poller()
        for source in (self._socket, self._monitor, self._bell.fileno()):
            self._poller.register(source, zmq.POLLIN)
        watch_for_silence(self._socket, url)
        self._socket.connect(url)

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something to do, for at most ``timeout`` seconds (None: for ever)."""
        ready = dict(self._poller.poll(None if timeout is None else math.ceil(timeout * 1_000)))
        if self._bell.fileno() in ready:
            self._bell.silence()
        if self._monitor in ready:
            self._read_monitor()

    def send(self, message: Message) -> None:
        """Send without waiting.  Into a connection that has ended, it sends nothing."""
        with contextlib.suppress(zmq.Again):
            self._socket.send_multipart(encode(message, self._hatch), zmq.NOBLOCK, copy=False)

    def receive(self) -> Iterator[Message]:
        """Yield what has arrived.  Raises dispatcher.messages.ProtocolError."""
        while (frames := receive_frames(self._socket)) is not None:
            yield self._reader.read(frames, self._hatch)

    @property
    def shares(self) -> bool:
        """Whether memory can be shared with who is at the other end."""
        return self._hatch is not None

    def close(self) -> None:
        """Drop the connection, and what was not sent yet."""
        self._context.destroy(linger=0)
        if self._hatch is not None:
            self._hatch.close()
        self._bell.close()

    def _read_monitor(self) -> None:
        for event, _ in monitor_events(self._monitor):
            self.reached = self.reached or bool(event & zmq.EVENT_CONNECTED)
            self.proved = self.proved or bool(event & zmq.EVENT_HANDSHAKE_SUCCEEDED)
            self.denied = self.denied or bool(event & zmq.EVENT_HANDSHAKE_FAILED_AUTH)
            self.ended = self.ended or bool(event & _ENDED)
