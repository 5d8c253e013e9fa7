"""The way to the dispatcher that has an address: a ROUTER of ZeroMQ's, with CURVE.

Its sockets have descriptors for the server's loop, which tell only of changes, and of none that a
use of the socket has brought to light.  So ``has_news`` must be asked before each sleep; then
turns that have nothing to do with the router cost no call of ZeroMQ's.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time

import zmq

from dispatcher.connections import Bars, Connection, Connections
from dispatcher.desk import Desk, Owner, Peer
from dispatcher.events import Denial
from dispatcher.hatch import Hatch
from dispatcher.keys import KeyPair
from dispatcher.messages import Buffer, Hello, Message, ProtocolError, Refused
from dispatcher.processes import POSIX
from dispatcher.security import (
    ZAP_ENDPOINT,
    Gate,
    admit_only_this_user,
    listen,
    watch_for_silence,
)
from dispatcher.socket_file import SocketFile
from dispatcher.sockets import monitor_events, rest_of_message, waiting_messages
from dispatcher.wire import Reader, encode

MESSAGES_A_TURN = 256


class Router:
    """Who has come by it, and what they send."""

    def __init__(self, url: str, pair: KeyPair, desk: Desk) -> None:
        """Listen.  Raises zmq.ZMQError where the address cannot be bound, or OSError."""
        self._desk = desk
        self.gate: Gate[Owner] = Gate()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._directory = ""
        self._file: SocketFile | None = None
        try:
            self._zap = self._context.socket(zmq.ROUTER)
            self._zap.linger = 0
            self._zap.bind(ZAP_ENDPOINT)
            self._router = listen(self._context, pair)
            watched = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
            self._monitor = self._router.get_monitor_socket(watched)
            self.url = self._bind(url)
        except BaseException:
            self.close(0)
            raise
        self._connections = Connections()
        self._bars = Bars(self._connections)
        self._denied = 0  # connections whose keys were refused, and that have not ended yet
        self._peers: dict[bytes, Peer] = {}  # by routing id
        self._speakers: dict[int, Peer] = {}  # by connection, where it is there
        self._reader_of_hello = Reader(Hello)
        self._news = True  # whether there may be something to read
        self._used = False  # something was sent since that was known

    def _bind(self, url: str) -> str:
        if url == "ipc":
            if sys.platform == "linux":  # the abstract name space: no file to leave behind
                url = f"ipc://@mirai-{os.getpid()}-{os.urandom(12).hex()}"
            elif POSIX:
                self._directory = tempfile.mkdtemp(prefix=f"mirai-{os.getpid()}-", dir="/tmp")
                url = f"ipc://{self._directory}/socket"
            else:
                url = "tcp://127.0.0.1:0"
        self._file = SocketFile.at(url)
        if self._file is not None:
            url = self._file.url
        watch_for_silence(self._router, url)
        admit_only_this_user(self._router, url)
        self._router.bind(url)
        if self._file is not None:
            self._file.listens()
        return url if url.startswith("ipc://@") else _endpoint(self._router)

    # ── the loop ─────────────────────────────────────────────────────────────────────────

    def filenos(self) -> list[int]:
        """Return the descriptors of which each calls for ``notice`` when it is readable."""
        sockets = (self._router, self._zap, self._monitor)
        return [int(socket.getsockopt(zmq.FD)) for socket in sockets]

    def notice(self) -> None:
        """Take note that there may be something to read."""
        self._news = True

    def has_news(self) -> bool:
        """Whether there is something to read, of which no descriptor may tell."""
        if self._used:
            self._used = False
            self._news = self._news or _has_waiting(self._router)
        return self._news

    def look(self) -> None:
        """Let in who has a key, and see whose connection has ended."""
        if self._news:
            self._read_monitor()
            for request in waiting_messages(self._zap):
                self._zap.send_multipart(self.gate.answer(request))

    def receive(self, *, hurry: bool) -> bool:
        """Read what peers have sent; return whether that was all.

        In a ``hurry``, since a peer is gone, many turns' worth is taken for all: peers that never
        stop sending must not keep it among the living.
        """
        if not self._news:
            return True
        for _ in range(100 * MESSAGES_A_TURN if hurry else MESSAGES_A_TURN):
            try:
                route = self._router.recv(zmq.NOBLOCK)
            except zmq.Again:
                self._news = False
                return True
            peer = self._peers.get(route)
            header = self._router.recv(copy=peer is not None)
            first = header if isinstance(header, bytes) else header.bytes
            frames = [first, *rest_of_message(self._router)]
            if route in self._bars:
                self._desk.object(None, "it was refused before")
            elif peer is None:
                assert isinstance(header, zmq.Frame)
                self._greet(route, header, frames)
            else:
                self._desk.take(peer, frames)
        return hurry

    def deadline(self) -> float | None:
        """When ``end_connections`` must be called even if nothing happens; None if never."""
        return self._bars.deadline()

    def end_connections(self, now: float) -> None:
        """End those of peers who were refused, and have had time to read why."""
        self._bars.end(now, self._read_monitor)

    # ── peers ────────────────────────────────────────────────────────────────────────────

    def _read_monitor(self) -> None:
        for event, value in monitor_events(self._monitor):
            if event == zmq.EVENT_ACCEPTED:
                self._connections.accepted(value, time.monotonic())
            elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
                self._denied += 1
            elif (connection := self._connections.closed(value)) is not None:
                self._bars.discard(connection.serial)
                self._hang_up(connection.serial)
                if not connection.speaker:
                    self._deny_unheard(connection)

    def _deny_unheard(self, connection: Connection) -> None:
        """Count a connection that has ended before anyone in it was heard."""
        if self._denied:  # this one, or one that ends as soon: they are not told apart
            self._denied -= 1
            why = "it is unknown, or not valid any more"
            self._desk.deny(Denial.KEY, connection.address, why)
        else:
            why = "its connection ended before it had proved a key and said hello"
            self._desk.deny(Denial.STRANGER, connection.address, why)

    def _hang_up(self, connection: int) -> None:
        if (peer := self._speakers.get(connection)) is not None:
            self._desk.hang_up(peer)

    def _greet(self, route: bytes, header: zmq.Frame, frames: list[Buffer]) -> None:
        """Let a peer in that says Hello first; its key says what it is."""
        owner = self.gate.owner(str(header.get("User-Id")))
        self._read_monitor()  # its connection was accepted before it could speak
        connection = self._connections.at(int(header.get(zmq.SRCFD)))
        serial, address = 0, "unknown"  # of a connection that has ended already
        if connection is not None and connection.claim(route):
            serial, address = connection.serial, connection.address
            self._bars.spare(serial)
        try:
            if owner is None:
                raise ProtocolError("this key is not valid any more")
            hello = self._reader_of_hello.read(frames)
            assert isinstance(hello, Hello)
        except ProtocolError as error:
            self.send(route, Refused(str(error)))
            self._desk.object(None, str(error))
            self.bar(route, serial, address, str(error))
            return
        self._hang_up(serial)  # the descriptor's former owner, if we have not noticed yet
        peer = self._desk.enter(owner, _ByRouter(self, route, serial), address)
        self._peers[route] = peer
        if serial:
            self._speakers[serial] = peer
        else:
            self._desk.hang_up(peer)  # its connection has ended already
        if owner.process is not None:
            self.gate.revoke(owner.process.key)  # it is for one connection
        self._desk.greet(peer, hello)

    def send(self, route: bytes, message: Message, hatch: Hatch | None = None) -> bool:
        """Send without waiting; return False if nobody is there."""
        self._used = True
        try:
            frames = encode(message, hatch)
            self._router.send_multipart([route, *frames], zmq.NOBLOCK, copy=False)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    def bar(self, route: bytes, connection: int, who: str, why: str) -> None:
        """Listen no more to who is on a connection, and end it a little later."""
        if self._bars.add(route, connection, time.monotonic()):
            self._desk.deny(Denial.PEER, who, why)

    def forget(self, route: bytes, connection: int) -> None:
        """A peer is lost."""
        peer = self._peers.pop(route)
        if self._speakers.get(connection) is peer:
            del self._speakers[connection]

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def remove_files(self) -> None:
        """Leave nothing behind in any file system; to be called while it still listens."""
        if self._file is not None:
            self._file.remove()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)

    def close(self, linger: int) -> None:
        """End all connections; what was sent has so many milliseconds to leave."""
        self.remove_files()
        self._context.destroy(linger=linger)


class _ByRouter:
    """The ``Way`` to one peer."""

    def __init__(self, router: Router, route: bytes, connection: int) -> None:
        self._through = router
        self._route = route
        self._connection = connection  # by its serial number; 0: none that is there

    def send(self, message: Message, hatch: Hatch | None) -> bool:
        return self._through.send(self._route, message, hatch)

    def bar(self, who: str, why: str) -> None:
        self._through.bar(self._route, self._connection, who, why)

    def leave(self) -> None:
        self._through.forget(self._route, self._connection)


def _has_waiting(socket: zmq.Socket[bytes]) -> bool:
    """Whether it has something to read; from now on its descriptor tells of what comes."""
    events = socket.getsockopt(zmq.EVENTS)
    assert isinstance(events, int)
    return bool(events & zmq.POLLIN)


def _endpoint(socket: zmq.Socket[bytes]) -> str:
    """Return the address that it listens on, with the port that was chosen."""
    name = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(name, bytes)
    return name.rstrip(b"\0").decode()
