"""The shell around the core: sockets, processes and the clock.

One thread, one loop.  Each turn gathers what has happened since the last, lets the core decide
once, and obeys.  A peer is declared lost only when its connection has ended *and* everything
that it sent before has been read, so that no finished work is lost with it.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import zmq
from msgspec import structs

from dispatcher.core import (
    Barren,
    Command,
    CutOff,
    Dispatcher,
    Drain,
    Event,
    Halt,
    Illegal,
    Joined,
    Keep,
    Kill,
    Lost,
    Retire,
    Role,
)
from dispatcher.core import Send as SendCommand
from dispatcher.messages import (
    Buffer,
    Crash,
    FromClient,
    FromDaemon,
    Hello,
    Leave,
    Message,
    ProtocolError,
    Refused,
    Stop,
)
from dispatcher.processes import ECHO, POSIX, Process, Replacement
from dispatcher.security import ZAP_ENDPOINT, Gate, KeyPair, listen, watch_for_silence
from dispatcher.sockets import monitor_events, rest_of_message, waiting_messages
from dispatcher.wire import Reader, encode

MESSAGES_A_TURN = 256
_HOST = socket.gethostname()
PATIENCE = 0.5
"""Seconds between the two signs of a local daemon's end (exit and hang-up) before we insist."""
FAREWELL = 1.0
"""Seconds that daemons have to leave when the pool is torn down."""
LAST_WORDS = {False: 200, True: 10_000}
"""Drained or not -> milliseconds that the last answers have to leave; peers that are gone take
none of it."""


class Plan(msgspec.Struct, frozen=True):
    """The local daemons that a dispatcher keeps."""

    count: int
    argv: list[str]
    lead: str
    """What a daemon must read before it can import anything."""
    options: dict[str, Any]
    """Passed on to each daemon, unread."""


class Config(msgspec.Struct, frozen=True):
    """All that a dispatcher must know, secrets too; it arrives on standard input."""

    url: str
    public: str
    secret: str
    client: str
    """The client's public key."""
    guests: dict[str, Role] = {}
    """Public keys of others, who may come and go, any number with the same key -> their role."""
    standing: bool = False
    """Whether it belongs to no host, so that SIGTERM lets it finish what it has."""
    host_pid: int = 0
    grace: float = 5.0
    plan: Plan | None = None

    def __repr__(self) -> str:  # without the secret
        return f"Config(url={self.url!r}, plan={self.plan!r})"


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose key it is."""

    role: Role
    process: Process | None = None


@dataclass(slots=True, eq=False)
class _Peer:
    number: int
    route: bytes
    owner: _Owner
    connection: int  # which accepted connection, by serial number


class _Connections:
    """Which connection a descriptor belongs to: descriptors are used again, serials are not."""

    def __init__(self) -> None:
        self._serials: dict[int, int] = {}
        self._last = 0

    def accepted(self, fd: int) -> None:
        self._last += 1
        self._serials[fd] = self._last

    def closed(self, fd: int) -> int:
        """Return the serial of the connection that has ended; 0 if it is unknown."""
        return self._serials.pop(fd, 0)

    def serial(self, fd: int) -> int:
        return self._serials.get(fd, 0)


class Server:
    """A dispatcher at work."""

    def __init__(self, config: Config) -> None:
        """Listen.  Raises zmq.ZMQError where the address cannot be bound."""
        self._config = config
        self._core = Dispatcher(grace=config.grace)
        self._gate: Gate[_Owner] = Gate()
        self._gate.admit(config.client, _Owner(Role.CLIENT))
        for public, role in config.guests.items():
            self._gate.admit(public, _Owner(role))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind(ZAP_ENDPOINT)
        self._router = listen(self._context, KeyPair(config.public, config.secret))
        watched = zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED
        self._monitor = self._router.get_monitor_socket(watched)
        self._directory = ""
        self.url = self._bind(config.url)
        self._connections = _Connections()
        self._peers: dict[bytes, _Peer] = {}
        self._numbers: dict[int, _Peer] = {}
        self._last_number = 0
        self._readers = {Role.CLIENT: Reader(FromClient), Role.DAEMON: Reader(FromDaemon)}
        self._reader_of_hello = Reader(Hello)
        self._hung_up: set[_Peer] = set()
        self._barred: set[int] = set()  # connections whose peers broke the protocol
        self._processes: list[Process] = []
        self._ending: dict[Process, float] = {}  # died or hung up; when to insist on the other
        self._replacement = Replacement()
        self._dormant = False  # daemons have left for idleness; work brings new ones
        self._wanted = config.plan.count if config.plan else 0
        self._events: list[tuple[int, Event]] = []
        self._stopping = False
        self._draining_since: float | None = None
        self.drained = False
        """Whether it has ended because it had finished everything after SIGTERM."""
        # Descriptors besides the sockets: one entry in the poll, however many there are.
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._poller = zmq.Poller()
        for source in (self._router, self._zap, self._monitor):
            self._poller.register(source, zmq.POLLIN)
        if POSIX:
            self._poller.register(self._selector.fileno(), zmq.POLLIN)

    def _bind(self, url: str) -> str:
        if url == "ipc":
            if sys.platform == "linux":  # the abstract name space: no file to leave behind
                url = f"ipc://@mirai-{os.getpid()}-{os.urandom(12).hex()}"
            elif POSIX:
                self._directory = tempfile.mkdtemp(prefix="mirai-", dir="/tmp")
                url = f"ipc://{self._directory}/socket"
            else:
                url = "tcp://127.0.0.1:0"
        watch_for_silence(self._router, url)
        self._router.bind(url)
        return url if url.startswith("ipc://@") else _endpoint(self._router)

    # ── the loop ─────────────────────────────────────────────────────────────────────────

    def watch(self, fd: int) -> None:
        """Stop when this descriptor becomes readable or reaches its end."""
        if POSIX:
            self._selector.register(fd, selectors.EVENT_READ, self.stop)
        else:  # where pipes cannot be polled; the loop looks up several times a second

            def read() -> None:
                os.read(fd, 1)
                self.stop()

            threading.Thread(target=read, daemon=True).start()

    def stop(self) -> None:
        """Leave the loop after this turn."""
        self._stopping = True

    def drain(self) -> None:
        """Take no new tasks, and leave once those that are there have ended; again: leave now."""
        now = time.monotonic()
        if self._draining_since is not None and now - self._draining_since > ECHO:
            self.stop()
        self._draining_since = now
        self._events.append((0, Drain()))

    def run(self) -> None:
        """Serve until told to stop; then end the daemons, and leave nothing behind."""
        self._catch_signals()
        try:
            while not self._stopping:
                self._turn()
        finally:
            self._close()

    def _turn(self) -> None:
        ready = dict(self._poller.poll(self._timeout()))
        if self._monitor in ready:
            self._read_monitor()
        if self._zap in ready:
            self._answer_zap()
        if not POSIX:
            self._look_for_dead()
        elif self._selector.fileno() in ready:
            self._read_others()
        if self._receive():
            self._declare_lost(time.monotonic())
        events, self._events = self._events, []
        for command in self._core.handle(events, time.monotonic()):
            self._obey(command)
        if self._dormant and self._core.has_waiting():
            self._dormant = False
            self._fill_up()

    def _timeout(self) -> int | None:
        """Return how long to wait for something to happen, in milliseconds; None: for ever."""
        if self._hung_up or self._events:
            return 0
        deadlines = list(self._ending.values())
        if (deadline := self._core.next_deadline()) is not None:
            deadlines.append(deadline)
        if not POSIX:
            deadlines.append(time.monotonic() + 0.25)
        if not deadlines:
            return None
        wait = min(min(deadlines) - time.monotonic(), 3_600.0)
        return max(0, int(wait * 1_000) + 1)

    def _catch_signals(self) -> None:
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        terminate = self.drain if self._config.standing else self.stop
        signal.signal(signal.SIGTERM, lambda *_: terminate())
        if POSIX:
            signal.signal(signal.SIGCHLD, lambda *_: None)
            self._selector.register(self._wake_out, selectors.EVENT_READ, self._drain_wakes)
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        self._wake_in.send(b"\0")  # whatever happened before the handlers were there

    def _drain_wakes(self) -> None:
        """A signal has come, and it may have been SIGCHLD."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._wake_out.recv(4_096)
        self._look_for_dead()

    def _read_others(self) -> None:
        for key, _ in self._selector.select(0):
            key.data()

    # ── peers ────────────────────────────────────────────────────────────────────────────

    def _answer_zap(self) -> None:
        for request in waiting_messages(self._zap):
            self._zap.send_multipart(self._gate.answer(request))

    def _read_monitor(self) -> None:
        for event, fd in monitor_events(self._monitor):
            if event == zmq.EVENT_ACCEPTED:
                self._connections.accepted(fd)
            else:
                serial = self._connections.closed(fd)
                self._barred.discard(serial)
                self._hang_up(serial)

    def _hang_up(self, connection: int) -> None:
        for peer in self._peers.values():
            if connection and peer.connection == connection:
                self._hung_up.add(peer)

    def _receive(self) -> bool:
        """Read what peers have sent; return whether that was all.

        While a peer is gone, many turns' worth is taken for all: peers that never stop sending
        must not keep it among the living.
        """
        gone = bool(self._hung_up)
        for _ in range(100 * MESSAGES_A_TURN if gone else MESSAGES_A_TURN):
            try:
                route = self._router.recv(zmq.NOBLOCK)
            except zmq.Again:
                return True
            peer = self._peers.get(route)
            header = self._router.recv(copy=peer is not None)
            first = header if isinstance(header, bytes) else header.bytes
            frames = [first, *rest_of_message(self._router)]
            if peer is None:
                assert isinstance(header, zmq.Frame)
                self._greet(route, header, frames)
            else:
                self._take(peer, frames)
        return gone

    def _take(self, peer: _Peer, frames: list[Buffer]) -> None:
        try:
            message = self._readers[peer.owner.role].read(frames)
        except ProtocolError as error:
            self._events.append((peer.number, Illegal(str(error))))
            return
        if isinstance(message, Leave) and peer.owner.process is not None:
            peer.owner.process.left_idle = message.idle
        self._events.append((peer.number, message))

    def _greet(self, route: bytes, header: zmq.Frame, frames: list[Buffer]) -> None:
        """Let a peer in that says Hello first; its key says what it is."""
        owner = self._gate.owner(str(header.get("User-Id")))
        self._read_monitor()  # its connection was accepted before it could speak
        serial = self._connections.serial(int(header.get(zmq.SRCFD)))
        try:
            if owner is None or serial in self._barred:
                raise ProtocolError("this key, or this connection, is not valid any more")
            hello = self._reader_of_hello.read(frames)
            assert isinstance(hello, Hello)
        except ProtocolError as error:
            self._barred.add(serial)
            self._send(route, Refused(str(error)))
            self._events.append((0, Illegal(str(error))))
            return
        self._hang_up(serial)  # the descriptor's former owner, if we have not noticed yet
        self._last_number += 1
        peer = _Peer(self._last_number, route, owner, serial)
        self._peers[route] = self._numbers[peer.number] = peer
        if not serial:
            self._hung_up.add(peer)  # its connection has ended already
        if owner.process is not None:
            owner.process.joined = owner.process.connected = True
            self._replacement.joined()
            self._fill_up()  # those that were not replaced while no daemon could start
        self._events.append((peer.number, Joined(owner.role, hello)))

    def _expel(self, peer: _Peer) -> None:
        """Listen no more to a peer that broke the protocol."""
        self._hung_up.add(peer)
        self._barred.add(peer.connection)
        if peer.owner.process is not None:
            peer.owner.process.kill()

    def _declare_lost(self, now: float) -> None:
        """Bury whoever is gone, now that all it sent has been read."""
        for peer in self._hung_up:
            process = peer.owner.process
            if process is None:
                self._lose(peer, Lost(Crash("its connection was lost")))
            else:
                process.connected = False
                self._ending.setdefault(process, now + PATIENCE)
        self._hung_up.clear()
        for process, deadline in list(self._ending.items()):
            if process.reap() is None:
                if now >= deadline:
                    process.kill()
                    self._ending[process] = now + PATIENCE
            elif now >= deadline or not process.connected:
                self._bury(process)

    def _lose(self, peer: _Peer, lost: Lost) -> None:
        del self._peers[peer.route], self._numbers[peer.number]
        self._events.append((peer.number, lost))

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def _obey(self, command: Command) -> None:
        if isinstance(command, Keep):
            self._keep(command.count)
            return
        if isinstance(command, Halt):
            self.drained = True
            self.stop()
            return
        peer = self._numbers.get(command.peer)
        if peer is None:
            return
        match command:
            case SendCommand(_, message):
                if not self._send(peer.route, message):
                    self._hung_up.add(peer)
            case CutOff():
                self._expel(peer)
            case Kill(_, key):
                if peer.owner.process is not None:
                    peer.owner.process.kill_if_busy_with(key)
                else:
                    self._send(peer.route, Stop(replace=True))
                    self._hung_up.add(peer)

    def _send(self, route: bytes, message: Message) -> bool:
        """Send without waiting; return False if the peer is not there."""
        try:
            frames = encode(message)
            self._router.send_multipart([route, *frames], zmq.NOBLOCK, copy=False)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    # ── local daemons ────────────────────────────────────────────────────────────────────

    def adopt(self, process: Process) -> None:
        """Take on a daemon that was started: give it a key, and tell it where we are."""
        assert self._config.plan is not None
        pair = KeyPair.new()
        process.key = pair.public
        self._gate.admit(pair.public, _Owner(Role.DAEMON, process))
        self._processes.append(process)
        if process.output >= 0:
            read = partial(self._read_output, process)
            self._selector.register(process.output, selectors.EVENT_READ, read)
        introduction = {
            "url": self.url,
            "server": self._config.public,
            "public": pair.public,
            "secret": pair.secret,
            "watermark": process.child_fd,
            "options": self._config.plan.options,
        }
        process.configure(msgspec.json.encode(introduction) + b"\n")

    def _read_output(self, process: Process) -> None:
        if not process.read_output():
            self._unwatch(process)

    def _unwatch(self, process: Process) -> None:
        if process.output in self._selector.get_map():
            self._selector.unregister(process.output)

    def _look_for_dead(self) -> None:
        for process in self._processes:
            if process not in self._ending and process.reap() is not None:
                self._ending[process] = time.monotonic() + PATIENCE

    def _bury(self, process: Process) -> None:
        """A daemon has ended: tell the core what it began, and start another."""
        del self._ending[process]
        self._processes.remove(process)
        self._gate.revoke(process.key)
        crash = Crash("the daemon died", process.exit_code, _HOST, process.pid, tail=process.tail())
        for peer in [peer for peer in self._peers.values() if peer.owner.process is process]:
            self._lose(peer, Lost(crash, process.started()))
        self._discard(process)
        may_replace = self._replacement.ended(process.joined)
        self._dormant = self._dormant or process.left_idle
        if len(self._processes) >= self._wanted or process.left_idle:
            return
        if may_replace:
            self._start_another()
        elif not self._processes:
            reason = f"{self._replacement.failures} daemons in a row died before they could join"
            self._events.append((0, Barren(structs.replace(crash, reason=reason))))

    def _keep(self, count: int) -> None:
        """Keep so many local daemons: start more, or let those go that have least to do."""
        if self._config.plan is None:
            return
        self._wanted = count
        self._replacement = Replacement()
        self._fill_up()
        excess = len(self._processes) - count
        for process in [process for process in self._processes if not process.joined][:excess]:
            process.kill()
            excess -= 1
        if excess > 0:
            local = [peer.number for peer in self._peers.values() if peer.owner.process is not None]
            self._events.append((0, Retire(tuple(local), excess)))

    def _fill_up(self) -> None:
        """Start the daemons that are missing, but for those that left for idleness."""
        if self._dormant:
            return
        for _ in range(self._wanted - len(self._processes)):
            self._start_another()

    def _discard(self, process: Process) -> None:
        self._unwatch(process)
        process.close()

    def _start_another(self) -> None:
        plan = self._config.plan
        assert plan is not None
        try:
            process = Process(plan.argv, os.fsencode(plan.lead))
        except OSError as error:
            if not self._processes:
                self._events.append((0, Barren(Crash(f"no daemon can be started: {error}"))))
        else:
            self.adopt(process)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def _close(self) -> None:
        for peer in self._peers.values():
            self._send(peer.route, Stop())
        for process in self._processes:
            if not process.connected:
                process.kill()
        until = time.monotonic() + FAREWELL
        wakes = selectors.DefaultSelector()
        wakes.register(self._wake_out, selectors.EVENT_READ)
        while any(process.reap() is None for process in self._processes):
            left = until - time.monotonic()
            if left <= 0:
                break
            wakes.select(left if POSIX else 0.01)
            with contextlib.suppress(BlockingIOError):
                self._wake_out.recv(4_096)
        for process in self._processes:
            process.kill()
            process.wait()
            self._discard(process)
        self._context.destroy(linger=LAST_WORDS[self.drained])
        for thing in (wakes, self._selector, self._wake_in, self._wake_out):
            thing.close()
        if self.url.startswith("ipc:///"):
            with contextlib.suppress(OSError):
                os.unlink(self.url.removeprefix("ipc://"))
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _endpoint(socket: zmq.Socket[bytes]) -> str:
    """Return the address that it listens on, with the port that was chosen."""
    name = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(name, bytes)
    return name.rstrip(b"\0").decode()


def serve(settings: dict[str, Any], started: list[Process], error: OSError | None) -> None:
    """Be a dispatcher process: configured by ``settings``, with daemons started already."""
    config = msgspec.convert(settings, Config)
    try:
        if error is not None:
            raise error
        server = Server(config)
    except (OSError, zmq.ZMQError) as failure:
        _answer({"error": str(failure)})
        for process in started:
            process.kill()
            process.wait()
        return
    for process in started:
        server.adopt(process)
    server.watch(sys.stdin.fileno())
    if config.host_pid and hasattr(os, "pidfd_open"):
        try:
            server.watch(os.pidfd_open(config.host_pid))
        except ProcessLookupError:
            server.stop()
    _answer({"url": server.url})
    server.run()


def _answer(reply: dict[str, str]) -> None:
    """Write one line to standard output, and leave it to nobody else."""
    with contextlib.suppress(OSError):
        os.write(1, msgspec.json.encode(reply) + b"\n")
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
