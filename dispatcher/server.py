"""The shell around the core: sockets, processes and the clock.

One thread, one loop.  Each turn gathers what has happened since the last, lets the core decide
once, and obeys.  A peer is declared lost only when its connection has ended *and* everything
that it sent before has been read, so that no finished work is lost with it.

The loop is that of a process, which calls ``run``, or is turned by the thread of a client in the
same process, whose messages need no socket.  That thread then does everything but ``ring``.
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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq

from dispatcher import descriptors
from dispatcher.connections import Bars, Connection, Connections
from dispatcher.core import Dispatcher
from dispatcher.events import (
    Barren,
    Command,
    CutOff,
    Denial,
    Denied,
    Drain,
    Event,
    Halt,
    Illegal,
    Joined,
    Keep,
    Kill,
    Lend,
    Lost,
    Retire,
    Role,
    Stillborn,
)
from dispatcher.events import Send as SendCommand
from dispatcher.hatch import Hatch
from dispatcher.log import Guarded, show
from dispatcher.logbook import Logbook
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
    Scale,
    Slot,
    Stop,
)
from dispatcher.notices import Notices
from dispatcher.nursery import Nursery
from dispatcher.processes import ECHO, PIDFD, POSIX, SPARE, Plan, Process
from dispatcher.security import (
    ZAP_ENDPOINT,
    Gate,
    KeyPair,
    admit_only_this_user,
    listen,
    watch_for_silence,
)
from dispatcher.socket_file import SocketFile
from dispatcher.sockets import monitor_events, rest_of_message, waiting_messages
from dispatcher.wire import Reader, encode

logger = Guarded("dispatcher")

MESSAGES_A_TURN = 256
LAST_WORDS = {False: 200, True: 10_000}
"""Drained or not -> milliseconds that the last answers have to leave; peers that are gone take
none of it."""

Deliver = Callable[[Message], None]


class Config(msgspec.Struct, frozen=True):
    """All that a dispatcher must know, secrets too; it arrives on standard input."""

    url: str
    public: str
    secret: str
    client: str
    """The client's public key; in a pool that belongs to a host, its owner's."""
    plan: Plan
    guests: dict[str, Role] = {}
    """Public keys of others, who may come and go, any number with the same key -> their role."""
    standing: bool = False
    """Whether it belongs to no host, so that SIGTERM lets it finish what it has."""
    host_pid: int = 0
    hatch: int = -1
    """The descriptor of our end of the hatch that the host has given us; -1: none."""
    grace: float = 5.0

    def __repr__(self) -> str:  # without the secret
        return f"Config(url={self.url!r})"


@dataclass(frozen=True, slots=True)
class _Owner:
    """Whose key it is."""

    role: Role
    process: Process | None = None
    own_hatch: Hatch | None = None
    is_host: bool = False
    """Whether it is the process that the pool belongs to."""

    @property
    def hatch(self) -> Hatch | None:
        """The hatch beside its connection."""
        return self.own_hatch if self.process is None else self.process.hatch


@dataclass(slots=True, eq=False)
class _Peer:
    number: int
    route: bytes
    owner: _Owner
    connection: int  # which accepted connection, by serial number; 0: none that is there
    deliver: Deliver | None = None  # how it is told something, if it is in this process
    address: str = "here"


class Server:
    """A dispatcher at work."""

    def __init__(self, config: Config, on_drain: Callable[[int], None] | None = None) -> None:
        """Listen.  Raises zmq.ZMQError where the address cannot be bound, or OSError.

        When it begins to drain, ``on_drain`` is told how many tasks are left, if there are any.
        """
        self._config = config
        self._core = Dispatcher(grace=config.grace, kept=config.plan.count, spare=SPARE)
        self._logbook = Logbook(self._core)
        self._gate: Gate[_Owner] = Gate()
        self._hatch = Hatch(config.hatch) if config.hatch >= 0 else None
        self._gate.admit(
            config.client,
            _Owner(Role.CLIENT, own_hatch=self._hatch, is_host=not config.standing),
        )
        for public, role in config.guests.items():
            self._gate.admit(public, _Owner(role))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = self._context.socket(zmq.ROUTER)
        self._zap.linger = 0
        self._zap.bind(ZAP_ENDPOINT)
        self._router = listen(self._context, KeyPair(config.public, config.secret))
        watched = zmq.EVENT_ACCEPTED | zmq.EVENT_HANDSHAKE_FAILED_AUTH | zmq.EVENT_DISCONNECTED
        self._monitor = self._router.get_monitor_socket(watched)
        self._directory = ""
        self._file: SocketFile | None = None
        try:
            self.url = self._bind(config.url)
            self._nursery = Nursery(config.plan, self)
        except BaseException:
            self._remove_files()
            self._context.destroy(linger=0)
            raise
        logger.info("it listens at %s", self.url)
        self._connections = Connections()
        self._bars = Bars(self._connections)
        self._denied = 0  # connections whose keys were refused, and that have not ended yet
        self._notices = Notices()
        self._peers: dict[bytes, _Peer] = {}
        self._numbers: dict[int, _Peer] = {}
        self._speakers: dict[int, _Peer] = {}  # by connection, where it is there
        self._last_number = 0
        self._readers = {Role.CLIENT: Reader(FromClient), Role.DAEMON: Reader(FromDaemon)}
        self._reader_of_hello = Reader(Hello)
        self._hung_up: set[_Peer] = set()
        self._events: list[tuple[int, Event]] = []
        self._slots = tuple(Slot(env, tuple(tags)) for env, tags in config.plan.slots)
        self._stopping = False
        self._draining_since: float | None = None
        self._on_drain = on_drain
        self._drain_is_news = False
        self.drained = False
        """Whether it has ended because it had finished everything after SIGTERM."""
        # Descriptors that only seldom have something: one entry in the poll for all of them.
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._poller = zmq.Poller()
        for source in (self._router, self._zap, self._monitor, self._wake_out.fileno()):
            self._poller.register(source, zmq.POLLIN)
        if POSIX:
            tend = self._nursery.tend
            self._selector.register(self._nursery.fileno(), selectors.EVENT_READ, tend)
            self._poller.register(self._selector.fileno(), zmq.POLLIN)

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

    def adopt(self, process: Process) -> None:
        """Take on a local daemon that was started."""
        self._nursery.adopt(process)

    def start_daemons(self) -> None:
        """Start those that are missing.  On Linux they end with the thread that does this."""
        self._nursery.fill_up()

    def host(self, deliver: Deliver) -> Deliver:
        """Have a client in this process: what it is told, ``deliver`` is called with.

        Return what is to be called with what it says, its Hello first.
        """
        owner = _Owner(Role.CLIENT, is_host=True)
        peer = self._enter(_Peer(self._next_number(), b"", owner, 0, deliver))

        def hear(message: Message) -> None:
            event = Joined(Role.CLIENT, message) if isinstance(message, Hello) else message
            self._events.append((peer.number, event))

        return hear

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
        self._drain_is_news = self._draining_since is None
        self._draining_since = now
        self._events.append((0, Drain()))

    def run(self) -> None:
        """Serve until told to stop; then end the daemons, and leave nothing behind."""
        try:
            while not self._stopping:
                self.turn()
        finally:
            self.close()

    def ring(self) -> None:
        """End the wait of a turn.  For any thread."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is there
            self._wake_in.send(b"\0")

    def turn(self, timeout: float | None = None) -> None:
        """Wait until something happens, for ``timeout`` seconds at most, and do what is to do."""
        ready = dict(self._poller.poll(self._patience(timeout)))
        if self._wake_out.fileno() in ready:
            self._drain_wakes()
        if self._monitor in ready:
            self._read_monitor()
        if self._zap in ready:
            self._answer_zap()
        if POSIX and self._selector.fileno() in ready:
            self._read_others()
        if self._nursery.must_look():
            self._nursery.look_for_dead()
        if self._receive():
            self._declare_lost(time.monotonic())
        self._bars.end(time.monotonic(), self._read_monitor)
        events, self._events = self._events, []
        commands = self._core.handle(events, time.monotonic())
        if self._logbook.is_on:
            self._logbook.write(events, commands)
        for command in commands:
            self._obey(command)
        if self._core.has_waiting():
            self._nursery.work_waits()
        if self._drain_is_news:
            self._announce_drain()

    def _patience(self, timeout: float | None) -> int | None:
        """Return how long to wait for something to happen, in milliseconds; None: for ever."""
        if self._hung_up or self._events or timeout == 0:
            return 0
        deadlines = (
            self._core.next_deadline(),
            self._nursery.deadline(),
            self._bars.deadline(),
        )
        waits = [each - time.monotonic() for each in deadlines if each is not None]
        if timeout is not None:
            waits.append(timeout)
        if not waits:
            return None
        wait = min(*waits, 3_600.0)
        return max(0, int(wait * 1_000) + 1)

    def _announce_drain(self) -> None:
        self._drain_is_news = False
        report = self._core.report(time.monotonic())
        left = report.awaiting + report.executing
        if left and self._on_drain is not None:
            self._on_drain(left)

    def catch_signals(self) -> None:
        """Stop at SIGTERM and SIGINT, from now on.  For a main thread."""
        signal.signal(signal.SIGINT, lambda *_: self.stop())
        terminate = self.drain if self._config.standing else self.stop
        signal.signal(signal.SIGTERM, lambda *_: terminate())
        if POSIX and not PIDFD:
            signal.signal(signal.SIGCHLD, lambda *_: None)
            self._nursery.told_of_deaths()
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        self.ring()  # whatever happened before the handlers were there

    def _drain_wakes(self) -> None:
        """Somebody has rung, or a signal has come, and it may have been SIGCHLD."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._wake_out.recv(4_096)
        self._nursery.look_for_dead()

    def _read_others(self) -> None:
        for key, _ in self._selector.select(0):
            key.data()

    # ── peers ────────────────────────────────────────────────────────────────────────────

    def _answer_zap(self) -> None:
        for request in waiting_messages(self._zap):
            self._zap.send_multipart(self._gate.answer(request))

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
            self._deny(Denial.KEY, connection.address, "it is unknown, or not valid any more")
        else:
            why = "its connection ended before it had proved a key and said hello"
            self._deny(Denial.STRANGER, connection.address, why)

    def _deny(self, what: Denial, who: str, why: str) -> None:
        self._events.append((0, Denied(what)))
        self._warn(what.value, who, why)

    def _warn(self, what: str, who: str, why: str) -> None:
        text = self._notices.text(what, who, why, time.monotonic())
        if text is not None:
            logger.warning(text)

    def _hang_up(self, connection: int) -> None:
        if (peer := self._speakers.get(connection)) is not None:
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
            if route in self._bars:
                self._events.append((0, Illegal("it was refused before")))
            elif peer is None:
                assert isinstance(header, zmq.Frame)
                self._greet(route, header, frames)
            else:
                self._take(peer, frames)
        return gone

    def _take(self, peer: _Peer, frames: list[Buffer]) -> None:
        try:
            message = self._readers[peer.owner.role].read(frames, peer.owner.hatch)
        except ProtocolError as error:
            self._events.append((peer.number, Illegal(str(error))))
            return
        if isinstance(message, Leave) and peer.owner.process is not None:
            peer.owner.process.left_idle = message.idle
        if isinstance(message, Scale) and not peer.owner.is_host:
            if not self._config.plan.count:
                return  # no daemon shall run on this machine
            message = Scale(message.count)  # and none in an environment that others choose
        self._events.append((peer.number, message))

    def _greet(self, route: bytes, header: zmq.Frame, frames: list[Buffer]) -> None:
        """Let a peer in that says Hello first; its key says what it is."""
        owner = self._gate.owner(str(header.get("User-Id")))
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
            self._send(route, Refused(str(error)))
            self._events.append((0, Illegal(str(error))))
            self._bar(route, serial, address, str(error))
            return
        self._hang_up(serial)  # the descriptor's former owner, if we have not noticed yet
        peer = self._enter(_Peer(self._next_number(), route, owner, serial, address=address))
        if not serial:
            self._hung_up.add(peer)  # its connection has ended already
        if owner.process is not None:
            self._gate.revoke(owner.process.key)  # it is for one connection
            self._nursery.joined(owner.process)
        self._events.append((peer.number, Joined(owner.role, hello)))

    def _next_number(self) -> int:
        self._last_number += 1
        return self._last_number

    def _enter(self, peer: _Peer) -> _Peer:
        self._peers[peer.route] = self._numbers[peer.number] = peer
        if peer.connection:
            self._speakers[peer.connection] = peer
        return peer

    def _bar(self, route: bytes, connection: int, who: str, why: str) -> None:
        """Listen no more to who is on a connection, and end it a little later."""
        if self._bars.add(route, connection, time.monotonic()):
            self._deny(Denial.PEER, who, why)

    def _expel(self, peer: _Peer, why: str) -> None:
        """Listen no more to a peer that broke the protocol."""
        self._hung_up.add(peer)
        who = f"{peer.owner.role.value} {peer.number} at {peer.address}"
        self._bar(peer.route, peer.connection, who, why)
        if peer.owner.process is not None:
            peer.owner.process.kill()

    def _declare_lost(self, now: float) -> None:
        """Bury whoever is gone, now that all it sent has been read."""
        for peer in self._hung_up:
            process = peer.owner.process
            if process is None:
                self._lose(peer, Lost(Crash("its connection was lost")))
            else:
                self._nursery.hung_up(process, now)
        self._hung_up.clear()
        self._nursery.bury(now)

    def _lose(self, peer: _Peer, lost: Lost) -> None:
        del self._peers[peer.route], self._numbers[peer.number]
        if self._speakers.get(peer.connection) is peer:
            del self._speakers[peer.connection]
        self._events.append((peer.number, lost))

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def _obey(self, command: Command) -> None:
        if isinstance(command, Keep):
            if command.slots is not None:
                self._slots = command.slots
            self._nursery.keep(command.count, self._slots)
            return
        if isinstance(command, Lend):
            peers = [self._numbers[peer] for peer in command.peers if peer in self._numbers]
            waiting = [peer.owner.process for peer in peers if peer.owner.process is not None]
            self._nursery.lend(waiting, time.monotonic())
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
                if peer not in self._hung_up and not self._tell(peer, message):
                    self._hung_up.add(peer)
            case CutOff(_, reason):
                self._expel(peer, reason)
            case Kill(_, keys):
                if peer.owner.process is not None:
                    peer.owner.process.kill_if_busy_with(keys)
                else:
                    self._tell(peer, Stop(replace=True))
                    self._hung_up.add(peer)

    def _tell(self, peer: _Peer, message: Message) -> bool:
        """Tell a peer something without waiting; return False if it is not there."""
        if peer.deliver is None:
            return self._send(peer.route, message, peer.owner.hatch)
        peer.deliver(message)
        return True

    def _send(self, route: bytes, message: Message, hatch: Hatch | None = None) -> bool:
        """Send without waiting; return False if nobody is there."""
        try:
            frames = encode(message, hatch)
            self._router.send_multipart([route, *frames], zmq.NOBLOCK, copy=False)
        except (zmq.Again, zmq.ZMQError):
            return False
        return True

    # ── local daemons: what the nursery wants of its Parent ──────────────────────────────

    def introduce(self, process: Process) -> dict[str, Any]:
        """Give a daemon a key of its own, and one for its tasks, and say where we are."""
        pair, inner = KeyPair.new(), KeyPair.new()
        process.key, process.inner_key = pair.public, inner.public
        self._gate.admit(pair.public, _Owner(Role.DAEMON, process))
        self._gate.admit(inner.public, _Owner(Role.CLIENT))
        return {
            "url": self.url,
            "server": self._config.public,
            "public": pair.public,
            "secret": pair.secret,
            "inner": {"public": inner.public, "secret": inner.secret},
        }

    def disown(self, process: Process, crash: Crash) -> None:
        """Tell the core which daemon is lost, and what it had begun; its keys are dead."""
        inner = self._gate.owner(process.inner_key)
        self._gate.revoke(process.key)
        self._gate.revoke(process.inner_key)
        if not (process.joined or process.unwanted):
            self._events.append((0, Stillborn(crash)))
        for peer in list(self._peers.values()):
            if peer.owner.process is process:
                self._lose(peer, Lost(crash, process.started()))
            elif peer.owner is inner:  # in a process that a task has left behind, say
                self._lose(peer, Lost(Crash("its daemon has ended")))

    def retire(self, processes: Sequence[Process], count: int) -> None:
        """Let the core choose who of these leaves."""
        local = [peer.number for peer in self._peers.values() if peer.owner.process in processes]
        self._events.append((0, Retire(tuple(local), count)))

    def give_up(self, crash: Crash) -> None:
        """Let the core fail what waits."""
        self._events.append((0, Barren(crash)))

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """End the daemons, and leave nothing behind."""
        logger.info("it ends, and tells %d peers to leave", len(self._peers))
        for peer in self._peers.values():
            self._tell(peer, Stop())
        self._nursery.end()
        self._remove_files()
        self._context.destroy(linger=LAST_WORDS[self.drained])
        for thing in (self._selector, self._wake_in, self._wake_out):
            thing.close()
        if self._hatch is not None:
            self._hatch.close()
        self._core, self._events = Dispatcher(), []  # whoever keeps us shall not keep all tasks
        self._logbook = Logbook(self._core)

    def _remove_files(self) -> None:
        if self._file is not None:
            self._file.remove()
        if self._directory:
            shutil.rmtree(self._directory, ignore_errors=True)


def _endpoint(socket: zmq.Socket[bytes]) -> str:
    """Return the address that it listens on, with the port that was chosen."""
    name = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(name, bytes)
    return name.rstrip(b"\0").decode()


def serve(
    settings: dict[str, Any], started: list[Process], error: OSError | None, signals: list[int]
) -> None:
    """Be a dispatcher process: configured by ``settings``, with daemons started already.

    ``signals`` have told it to leave before it serves; until then they are caught elsewhere.
    """
    config = msgspec.convert(settings, Config)
    descriptors.raise_limit()
    logger.logger.disabled = not config.plan.log  # whatever it is told, nobody would see it
    show("dispatcher", "dispatcher", config.plan.log)
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
    if config.host_pid and PIDFD:
        try:
            server.watch(os.pidfd_open(config.host_pid))
        except ProcessLookupError:
            server.stop()
    server.catch_signals()  # first: whoever has the answer may want the end at once
    if signals:
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
