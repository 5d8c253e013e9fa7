"""Peers without manners: raw sockets that send whatever a test wants, and a pool to send it to."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq
from conftest import ROOT

from dispatcher.keys import KeyPair
from dispatcher.messages import (
    VERSION,
    Ask,
    Hello,
    Message,
    Refused,
    Report,
    Role,
    Submit,
    Task,
    Welcome,
)
from dispatcher.messages import Function as WireFunction
from dispatcher.security import dial
from dispatcher.sockets import monitor_events, receive_frames
from dispatcher.wire import decode, encode
from mirai import Daemons, connect
from mirai._connection import Connection
from mirai._mirai import mirai
from mirai._serialize import pack

PATIENCE = 20.0
FRAME = 1 << 20
HEADER = 1 << 19
HANDSHAKE = 1.0
PARTING = 0.3
"""The limits of the dispatcher that is tested: smaller than by default."""

ZMTP_3 = b"\xff" + bytes(8) + b"\x7f\x03\x01"
CURVE = b"CURVE".ljust(20, b"\0") + b"\0" + bytes(31)
HELLO = b"\x05HELLO\x01\x00" + bytes(72) + bytes(120)
"""How a connection with CURVE begins: the greeting in two parts, and a command of zeros."""

_PROGRAM = f"""
import logging, sys
import dispatcher.connections, dispatcher.security, dispatcher.wire
dispatcher.connections.PARTING = dispatcher.connections.SETTLING = {PARTING}
dispatcher.security.HANDSHAKE_MS = {HANDSHAKE * 1_000:.0f}
dispatcher.security.MAX_FRAME_BYTES = {FRAME}
dispatcher.wire.MAX_HEADER = {HEADER}
logging.basicConfig(format="%(levelname)s %(name)s %(message)s")
"""
_SERVE = "from mirai.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"


class Standing:
    """A dispatcher that stands on its own at TCP, with small limits, and one daemon.

    The daemon carries the tag "honest", so that nobody else gets the tasks of honest clients.
    """

    def __init__(self, directory: Path, *, prelude: str = "", daemon: bool = True) -> None:
        """``prelude`` is run in the dispatcher before anything else."""
        self.file = directory / "pool.json"
        self.log = directory / "dispatcher.log"
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        arguments = ["dispatcher", "--connection-file", str(self.file)]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", prelude + _PROGRAM + _SERVE, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert b"listening" in line, self.log.read_text()
        self.connection = Connection.read(self.file)
        self.supervisor: subprocess.Popen[bytes] | None = None
        if daemon:
            command = ["daemon", str(self.file), "--tags", "honest"]
            self.supervisor = subprocess.Popen(
                [sys.executable, "-m", "mirai", *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, _, port = self.connection.url.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def secrets(self) -> list[str]:
        """All keys, public and secret."""
        pairs = self.connection.keys.values()
        keys = [key for pair in pairs for key in (pair.public, pair.secret)]
        return [*keys, self.connection.server]

    def close(self) -> None:
        """End it, and the daemon with it."""
        for process in (self.supervisor, self.process):
            if process is not None:
                process.terminate()
        for process in (self.supervisor, self.process):
            if process is not None:
                process.wait(PATIENCE)
        assert self.process.stdout is not None
        self.process.stdout.close()


class Stream:
    """Another client, whose tasks are done one after the other, and their results looked at."""

    def __init__(self, pool: Standing, profile: str = "honest stream") -> None:
        self.client: Daemons = connect(pool.file, profile=profile)
        self._end = threading.Event()
        self._turn = threading.Condition()
        self._done = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        submit = mirai.options(tags=("honest",), profile=self.client.profile)
        try:
            while not self._end.wait(0.005):
                assert submit(divmod, self._done, 7).result(PATIENCE) == divmod(self._done, 7)
                with self._turn:
                    self._done += 1
                    self._turn.notify_all()
        except BaseException as error:
            with self._turn:
                self._error = error
                self._turn.notify_all()

    def goes_on(self) -> None:
        """Wait until a task that is submitted after this has been done rightly."""
        with self._turn:
            until = self._done + 2
            assert self._turn.wait_for(lambda: self._error or self._done >= until, PATIENCE)
            if self._error is not None:
                raise self._error

    def close(self) -> None:
        """End it."""
        self._end.set()
        self._thread.join()
        self.client.shutdown()


class Ended(Exception):
    """The connection has ended, or was never made."""


class Peer:
    """One connection with the right keys, or with others, that says what it is told to say."""

    def __init__(
        self,
        pool: Standing,
        role: Role = Role.CLIENT,
        *,
        pair: KeyPair | None = None,
        server: str | None = None,
        address: tuple[str, int] | None = None,
        identity: bytes | None = None,
    ) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        pair = pair or pool.connection.pair(role)
        self.socket = dial(self._context, pair, server or pool.connection.server)
        self.socket.maxmsgsize = -1
        if identity is not None:
            self.socket.setsockopt(zmq.ROUTING_ID, identity)
        self._monitor = self.socket.get_monitor_socket()
        self._seen: list[int] = []
        self.socket.connect("tcp://{}:{}".format(*(address or pool.address)))

    def __enter__(self) -> Peer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self, linger: float = 0) -> None:
        """End the connection, once all has been sent: that may take ``linger`` seconds."""
        self._context.destroy(linger=int(linger * 1_000))

    # ── saying ───────────────────────────────────────────────────────────────────────────

    def send(self, *frames: Any) -> None:
        """Send one message of these frames."""
        self.socket.send_multipart(frames)

    def say(self, *messages: Message) -> Peer:
        """Send messages as they should be."""
        for message in messages:
            self.send(*encode(message))
        return self

    def hello(self, *, tags: tuple[str, ...] = (), host: str = "bad", pid: int = 0) -> Peer:
        """Say hello, and wait for the welcome."""
        self.say(Hello(VERSION, host, pid, tags))
        assert isinstance(self.next(), Welcome)
        return self

    def submit(
        self, id: int, fn: object = divmod, *args: object, tags: tuple[str, ...] = ("honest",)
    ) -> Peer:
        """Submit one task."""
        function = WireFunction(id, "f", *pack(fn))
        return self.say(Submit((Task(id, id, *pack((args, {})), tags=tags),), (function,)))

    # ── hearing ──────────────────────────────────────────────────────────────────────────

    def next(self) -> Message:
        """Return the next message.  Raises Ended."""
        poller = zmq.Poller()
        poller.register(self.socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        until = time.monotonic() + PATIENCE
        while (left := until - time.monotonic()) > 0:
            ended = self._has_ended()
            frames = receive_frames(self.socket)
            if frames is not None:
                return decode(frames, Message)
            if ended:
                raise Ended
            poller.poll(left * 1_000)
        raise AssertionError("nothing comes, and the connection does not end")

    def rest(self) -> list[Message]:
        """Return all that comes until the connection ends."""
        messages = []
        with contextlib.suppress(Ended):
            while True:
                messages.append(self.next())
        return messages

    def is_served(self) -> bool:
        """Whether what it asks is answered."""
        self.say(Ask(777))
        try:
            while not isinstance(message := self.next(), Report | Refused):
                pass
        except Ended:
            return False
        return isinstance(message, Report) and message.number == 777

    def wait_until_in(self) -> None:
        """Wait until its key is proved.  Raises Ended."""
        while not self._has_ended():
            if zmq.EVENT_HANDSHAKE_SUCCEEDED in self._seen:
                return
            assert self._monitor.poll(PATIENCE * 1_000), "no handshake"
        raise Ended

    def _has_ended(self) -> bool:
        self._seen += [event for event, _ in monitor_events(self._monitor)]
        return any(
            event in self._seen
            for event in (
                zmq.EVENT_DISCONNECTED,
                zmq.EVENT_HANDSHAKE_FAILED_AUTH,
                zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
                zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
            )
        )


class Relay:
    """A way to the dispatcher that breaks: it passes on so many bytes, then other ones, and ends.

    For one connection.
    """

    def __init__(self, pool: Standing) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: tuple[str, int] = self._listener.getsockname()
        self._there = pool.address
        self._left: int | None = None
        self._last_words = b""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def break_after(self, count: int, last_words: bytes = b"") -> None:
        """Pass on this many bytes more to the dispatcher, then ``last_words``, and hang up."""
        with self._lock:
            self._left, self._last_words = count, last_words

    def _run(self) -> None:
        near, _ = self._listener.accept()
        with near, socket.create_connection(self._there) as far:
            back = threading.Thread(target=self._pass_back, args=(far, near))
            back.start()
            with contextlib.suppress(OSError):
                while data := near.recv(4_096):
                    with self._lock:
                        if self._left is not None:
                            data = data[: self._left]
                            self._left -= len(data)
                        far.sendall(data)
                        if self._left == 0:
                            far.sendall(self._last_words)
                            break
            for end in (far, near):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_WR)
            back.join()

    @staticmethod
    def _pass_back(far: socket.socket, near: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := far.recv(65_536):
                near.sendall(data)
        with contextlib.suppress(OSError):
            near.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it."""
        self._listener.close()
        self._thread.join()


def until_hung_up(connection: socket.socket) -> bytes:
    """Return what comes until the other end hangs up."""
    connection.settimeout(PATIENCE)
    received = b""
    with contextlib.suppress(ConnectionError):
        while data := connection.recv(65_536):
            received += data
    return received


def pieces(data: bytes) -> Iterator[bytes]:
    """Yield bytes one by one."""
    for index in range(len(data)):
        yield data[index : index + 1]


def raw(pool: Standing, *parts: Sequence[int] | bytes) -> socket.socket:
    """Return a connection without keys, on which these bytes have been sent."""
    connection = socket.create_connection(pool.address)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        connection.sendall(bytes(part))
    return connection
