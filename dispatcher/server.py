"""The shell around the core: processes, the clock, and the ways on which peers come.

Those are lines (``lines``) and what has an address (``router``).  One thread, one loop.  Each turn
gathers what has happened since the last, lets the core decide once, and obeys.  A peer is declared
lost only when its connection has ended *and* everything that it sent before has been read, so that
no finished work is lost with it.

The loop is that of a process, which calls ``run``, or is turned by the thread of a client in the
same process, whose messages need no socket.  That thread then does everything but ``ring``.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import zmq

from dispatcher import PYTHON, __version__, descriptors
from dispatcher.core import Dispatcher
from dispatcher.credit import HORIZON
from dispatcher.desk import Owner, Peer, Way
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
from dispatcher.keys import KeyPair
from dispatcher.lines import Lines
from dispatcher.log import Guarded, show
from dispatcher.logbook import Logbook
from dispatcher.messages import (
    Admit,
    Buffer,
    Consult,
    Crash,
    Expel,
    FromClient,
    FromDaemon,
    FromHost,
    Hello,
    Leave,
    Message,
    ProtocolError,
    Scale,
    Slot,
    Stop,
)
from dispatcher.notices import Notices
from dispatcher.nursery import Nursery
from dispatcher.processes import ECHO, PIDFD, POSIX, SPARE, Plan, Process
from dispatcher.router import Router
from dispatcher.tables import Tables
from dispatcher.wire import Reader

if TYPE_CHECKING:
    from dispatcher.vault import Vault

logger = Guarded("dispatcher")

LAST_WORDS = {False: 1.0, True: 10.0}
"""Drained or not -> seconds that the last answers have to leave; peers that are gone take
none of it."""

WITH_JOURNAL = 3 * HORIZON
"""Seconds of work that a daemon is given in advance where each turn waits for the disk."""

LONGEST = 3_600.0
"""How long to sleep at most, in seconds: the system knows no number for a year."""

Deliver = Callable[[Message], None]


class Config(msgspec.Struct, frozen=True):
    """All that a dispatcher must know, secrets too; it arrives on standard input."""

    url: str
    public: str
    """The dispatcher's keys, this and the next; empty: it draws a pair for itself."""
    secret: str
    client: str
    """The client's public key; in a pool that belongs to a host, its owner's; empty: none."""
    plan: Plan
    guests: dict[str, Role] = {}
    """Public keys of others, who may come and go, any number with the same key -> their role."""
    standing: bool = False
    """Whether it belongs to no host, so that SIGTERM lets it finish what it has."""
    host_pid: int = 0
    hatch: int = -1
    """The descriptor of our end of the hatch that the host has given us; -1: none."""
    line: int = -1
    """The descriptor of our end of the line to the host; -1: it connects as others do."""
    grace: float = 5.0
    journal: str = ""
    """The file in which tasks and results are kept; empty: they are not."""
    time_to_live: float | None = None
    """How long it keeps results that nobody has fetched, in seconds; None: for ever."""

    def __repr__(self) -> str:  # without the secret
        return f"Config(url={self.url!r})"


@dataclass(frozen=True, slots=True)
class _Here:
    """The ``Way`` to a client in this process."""

    deliver: Deliver

    def send(self, message: Message, hatch: Hatch | None) -> bool:  # noqa: ARG002
        self.deliver(message)
        return True

    def bar(self, who: str, why: str) -> None:
        """It is we ourselves."""

    def leave(self) -> None:
        """It is we ourselves."""


class Server:
    """A dispatcher at work."""

    def __init__(self, config: Config, on_drain: Callable[[int], None] | None = None) -> None:
        """Listen.  Raises zmq.ZMQError where the address cannot be bound, or OSError.

        When it begins to drain, ``on_drain`` is told how many tasks are left, if there are any.
        """
        self._config = config
        self._core = Dispatcher(
            grace=config.grace,
            kept=config.plan.count,
            spare=SPARE,
            python=PYTHON,
            package=__version__,
            epoch=time.time() - time.monotonic(),
            horizon=WITH_JOURNAL if config.journal else HORIZON,
        )
        self._logbook = Logbook(self._core)
        self._tables = Tables(time.time() - time.monotonic())
        self._notices = Notices()
        self._peers: dict[int, Peer] = {}
        self._last_number = 0
        self._readers = {Role.CLIENT: Reader(FromClient), Role.DAEMON: Reader(FromDaemon)}
        self._reader_of_hello = Reader(Hello)
        self._hung_up: set[Peer] = set()
        self._events: list[tuple[int, Event]] = []
        self._slots = tuple(Slot(env, tuple(tags)) for env, tags in config.plan.slots)
        self._stopping = False
        self._draining_since: float | None = None
        self._on_drain = on_drain
        self._drain_is_news = False
        self.drained = False
        """Whether it has ended because it had finished everything after SIGTERM."""
        self.barren: Crash | None = None
        """Why there is no local daemon and none will be started; None again once one has joined."""
        self.failure = ""
        """Why it has ended, where it could not go on."""
        self._vault = _open_vault(config)
        self._pair = KeyPair(config.public, config.secret) if config.public else KeyPair.new()
        try:
            self._router = Router(config.url, self._pair, self)
            self.url = self._router.url
            try:
                self._nursery = Nursery(config.plan, self)
            except BaseException:
                self._router.close(0)
                raise
        except BaseException:
            self._close_vault()
            raise
        logger.info("it listens at %s", self.url)
        self._selector = selectors.DefaultSelector()
        self._wake_out, self._wake_in = socket.socketpair()
        for end in (self._wake_out, self._wake_in):
            end.setblocking(False)
        self._watch(self._wake_out.fileno(), self._drain_wakes)
        for fd in self._router.filenos():
            self._watch(fd, self._router.notice)
        if POSIX:
            self._watch(self._nursery.fileno(), self._nursery.tend)
        self._lines = Lines(self, self._selector)
        self._hatch = Hatch(config.hatch) if config.hatch >= 0 else None
        self._admit_client()
        for public, role in config.guests.items():
            self._router.gate.admit(public, Owner(role))

    def _admit_client(self) -> None:
        config = self._config
        owner = Owner(Role.CLIENT, own_hatch=self._hatch, is_host=not config.standing)
        if config.line >= 0:
            self._lines.add(config.line, owner)
        elif config.client:
            self._router.gate.admit(config.client, owner)

    def _watch(self, fd: int, act: Callable[[], None]) -> None:
        """Call ``act`` whenever this descriptor is readable."""
        self._selector.register(fd, selectors.EVENT_READ, act)

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
        peer = self.enter(Owner(Role.CLIENT, is_host=True), _Here(deliver))

        def hear(message: Message) -> None:
            if isinstance(message, Hello):
                self.greet(peer, message)
            elif isinstance(message, FromHost):
                self._take_from_host(peer, message)
            elif isinstance(message, Consult):
                self._tables.take(peer.number, message)
            else:
                self._events.append((peer.number, message))

        return hear

    # ── the loop ─────────────────────────────────────────────────────────────────────────

    def watch(self, fd: int) -> None:
        """Stop when this descriptor becomes readable or reaches its end."""
        if POSIX:
            self._watch(fd, self.stop)
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
        if self._vault is not None:
            self._vault.gather()
        for key, _ in self._selector.select(self._patience(timeout)):
            key.data()
        if self._nursery.must_look():
            self._nursery.look_for_dead()
        self._router.look()
        all_read = self._router.receive(hurry=bool(self._hung_up))
        now = time.monotonic()
        if all_read:
            self._declare_lost(now)
        self._router.end_connections(now)
        for command in self._decide(now):
            self._obey(command)
        for number, reply in self._tables.turn(now):
            self._obey(SendCommand(number, reply))
        self._nursery.replace()
        if self._core.has_waiting():
            self._nursery.work_waits()
        if self._drain_is_news:
            self._announce_drain()

    def _decide(self, now: float) -> list[Command]:
        """Have the core decide; save what is to be saved; return what is to be done."""
        events, self._events = self._events, []
        try:
            if self._vault is not None:
                events = self._vault.take(events)
            commands = self._core.handle(events, now)
            if self._logbook.is_on:
                self._logbook.write(events, commands)
            return commands if self._vault is None else self._vault.give(commands)
        except OSError as error:  # nothing has been done of what could not be saved
            self.failure = str(error)
            logger.error("it ends: %s", error)
            self.stop()
            return []

    def _patience(self, timeout: float | None) -> float | None:
        """Return how long to wait for something to happen, in seconds; None: for ever."""
        if self._hung_up or self._events or self._router.has_news():
            return 0
        deadlines = (
            self._core.next_deadline(),
            self._tables.next_deadline(),
            self._nursery.deadline(),
            self._router.deadline(),
        )
        due = [each for each in deadlines if each is not None]
        if not due:
            return timeout
        wait = min(min(due) - time.monotonic(), LONGEST if timeout is None else timeout)
        return max(0.0, wait)

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

    # ── peers: what the ways want of their Desk ──────────────────────────────────────────

    def enter(self, owner: Owner, way: Way, address: str = "here") -> Peer:
        """Know a peer from now on."""
        self._last_number += 1
        peer = self._peers[self._last_number] = Peer(self._last_number, owner, way, address)
        return peer

    def greet(self, peer: Peer, hello: Hello) -> None:
        """Tell the core who has joined."""
        peer.joined = True
        if peer.owner.process is not None:
            self._nursery.joined(peer.owner.process)
            self.barren = None
        self._events.append((peer.number, Joined(peer.owner.role, hello)))

    def take(self, peer: Peer, frames: list[Buffer]) -> None:
        """Tell the core what a peer has sent."""
        try:
            if not peer.joined:
                hello = self._reader_of_hello.read(frames)
                assert isinstance(hello, Hello)
                self.greet(peer, hello)
                return
            message = self._readers[peer.owner.role].read(frames, peer.owner.hatch)
        except ProtocolError as error:
            self.object(peer, str(error))
            return
        if isinstance(message, Leave) and peer.owner.process is not None:
            peer.owner.process.left_idle = message.idle
        if isinstance(message, FromHost):
            self._take_from_host(peer, message)
            return
        if isinstance(message, Consult):
            self._tables.take(peer.number, message)
            return
        if isinstance(message, Scale) and not peer.owner.is_host:
            if not self._config.plan.count:
                return  # no daemon shall run on this machine
            message = Scale(message.count)  # and none in an environment that others choose
        self._events.append((peer.number, message))

    def _take_from_host(self, peer: Peer, message: FromHost) -> None:
        """Do what only the process may want to which the pool belongs."""
        if not peer.owner.is_host:
            self.object(peer, f"{type(message).__name__} is for the host only")
        elif isinstance(message, Admit):
            for role, keys in ((Role.DAEMON, message.daemons), (Role.CLIENT, message.clients)):
                for public in keys:
                    self._router.gate.admit(public, Owner(role))
        elif isinstance(message, Expel):
            for public in message.keys:
                self._router.gate.revoke(public)
        else:
            self._events.append((peer.number, message))

    def object(self, peer: Peer | None, why: str) -> None:
        """Tell the core that what came was no message."""
        self._events.append((0 if peer is None else peer.number, Illegal(why)))

    def hang_up(self, peer: Peer) -> None:
        """Bury it as soon as all that it sent has been read."""
        self._hung_up.add(peer)

    def deny(self, what: Denial, who: str, why: str) -> None:
        """Count it, and say so."""
        self._events.append((0, Denied(what)))
        self._warn(what.value, who, why)

    def _warn(self, what: str, who: str, why: str) -> None:
        text = self._notices.text(what, who, why, time.monotonic())
        if text is not None:
            logger.warning(text)

    def _expel(self, peer: Peer, why: str) -> None:
        """Listen no more to a peer that broke the protocol."""
        self._hung_up.add(peer)
        who = f"{peer.owner.role.value} {peer.number} at {peer.address}"
        peer.way.bar(who, why)
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

    def _lose(self, peer: Peer, lost: Lost) -> None:
        del self._peers[peer.number]
        peer.way.leave()
        self._tables.lose(peer.number)
        if peer.joined:
            self._events.append((peer.number, lost))

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def _obey(self, command: Command) -> None:
        if isinstance(command, Keep):
            if command.slots is not None:
                self._slots = command.slots
            self._nursery.keep(command.count, self._slots)
            return
        if isinstance(command, Lend):
            peers = [self._peers[peer] for peer in command.peers if peer in self._peers]
            waiting = [peer.owner.process for peer in peers if peer.owner.process is not None]
            self._nursery.lend(waiting, time.monotonic())
            return
        if isinstance(command, Halt):
            self.drained = True
            self.stop()
            return
        peer = self._peers.get(command.peer)
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

    def _tell(self, peer: Peer, message: Message) -> bool:
        """Tell a peer something without waiting; return False if it is not there."""
        return peer.way.send(message, peer.owner.hatch)

    # ── local daemons: what the nursery wants of its Parent ──────────────────────────────

    def introduce(self, process: Process) -> dict[str, Any]:
        """Take its line, or give it a key of its own; and give it one for its tasks."""
        inner = KeyPair.new()
        process.inner_key = inner.public
        self._router.gate.admit(inner.public, Owner(Role.CLIENT))
        told = {
            "url": self.url,
            "server": self._pair.public,
            "inner": {"public": inner.public, "secret": inner.secret},
        }
        owner = Owner(Role.DAEMON, process)
        if process.line >= 0:
            process.connected = True
            line, process.line = process.line, -1
            self._lines.add(line, owner)
            return told
        pair = KeyPair.new()
        process.key = pair.public
        self._router.gate.admit(pair.public, owner)
        return told | {"public": pair.public, "secret": pair.secret}

    def disown(self, process: Process, crash: Crash) -> None:
        """Tell the core which daemon is lost, and what it had begun; its keys are dead."""
        inner = self._router.gate.owner(process.inner_key)
        self._router.gate.revoke(process.key)
        self._router.gate.revoke(process.inner_key)
        if not (process.joined or process.unwanted):
            self._events.append((0, Stillborn(crash)))
        for peer in list(self._peers.values()):
            if peer.owner.process is process:
                self._lose(peer, Lost(crash, process.started()))
            elif peer.owner is inner:  # in a process that a task has left behind, say
                self._lose(peer, Lost(Crash("its daemon has ended")))

    def retire(self, processes: Sequence[Process], count: int) -> None:
        """Let the core choose who of these leaves."""
        local = [
            peer.number
            for peer in self._peers.values()
            if peer.joined and peer.owner.process in processes
        ]
        self._events.append((0, Retire(tuple(local), count)))

    def give_up(self, crash: Crash) -> None:
        """Let the core fail what waits."""
        self.barren = crash
        self._events.append((0, Barren(crash)))

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def close(self) -> None:
        """End the daemons, and leave nothing behind."""
        logger.info("it ends, and tells %d peers to leave", len(self._peers))
        for peer in self._peers.values():
            self._tell(peer, Stop(reason=self.failure))
        self._lines.finish(LAST_WORDS[self.drained])  # or daemons would not hear of it
        self._nursery.end()
        self._lines.close()
        self._router.close(int(LAST_WORDS[self.drained] * 1_000))
        for thing in (self._selector, self._wake_in, self._wake_out):
            thing.close()
        if self._hatch is not None:
            self._hatch.close()
        self._close_vault()
        self._core, self._events = Dispatcher(), []  # whoever keeps us shall not keep all tasks
        self._tables = Tables()
        self._logbook = Logbook(self._core)

    def _close_vault(self) -> None:
        vault, self._vault = self._vault, None
        if vault is None:
            return
        try:
            vault.close()
        except OSError as error:  # all is there still, with what lies beside the journal
            self.failure = self.failure or str(error)
            logger.error("the journal is not closed: %s", error)


def _open_vault(config: Config) -> Vault | None:
    if not config.journal:
        return None
    from dispatcher.vault import Vault  # it loads SQLite, which few pools have a use for

    return Vault(config.journal, config.time_to_live)


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
