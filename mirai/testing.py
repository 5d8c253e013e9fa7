"""A small world in memory: real decisions, no sockets, no threads, no time of its own.

A ``World`` holds a real dispatcher core, clients that settle real mirais and daemons that
really evaluate.  Between them are ``Link``s, on which messages lie, in order and as the frames
that a socket would carry, until somebody takes them off; and there is a ``Clock`` that stands
still until it is stepped.  Nothing happens by itself: whatever can happen next is a ``Move``, and
whoever holds the world makes the moves, in any order, or has ``settle`` make them all.

    with World() as world:
        client, daemon = world.add_client(), world.add_daemon()
        future = world.submit(client, pow, 2, 10)
        world.settle()
        assert future.result() == 1024

The order of operations is that of ``mirai._channel``, ``mirai._daemon`` and
``dispatcher.server``, whose places the classes here take.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from types import TracebackType, UnionType
from typing import Any, NamedTuple, ParamSpec, TypeVar

import msgspec

from dispatcher import wire
from dispatcher.core import Dispatcher
from dispatcher.events import (
    Command,
    CutOff,
    Drain,
    Event,
    Halt,
    Joined,
    Keep,
    Kill,
    Lend,
    Lost,
    Role,
    Send,
)
from dispatcher.messages import (
    VERSION,
    Buffer,
    Crash,
    Done,
    FromClient,
    FromDaemon,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Message,
    Outcome,
    Ping,
    Pong,
    Recall,
    Recount,
    Refused,
    Results,
    Returned,
    Run,
    Step,
    Stop,
    ToClient,
    ToDaemon,
    Told,
)
from dispatcher.messages import ProtocolError as WireError
from mirai._errors import DispatcherLost, MiraiError, ProtocolError
from mirai._evaluate import Evaluator
from mirai._future import Mirai
from mirai._hand import Hand
from mirai._options import DEFAULTS, TaskOptions
from mirai._outbox import Outbox
from mirai._pending import Pending

P = ParamSpec("P")
T = TypeVar("T")

KILLED = -9
"""The exit code of a daemon that died here."""

Watch = Callable[[Sequence[tuple[int, Event]], Sequence[Command]], None]
"""Is told, after each call of the core, what went in and what came out."""


class Clock:
    """A clock that stands still until it is stepped."""

    def __init__(self) -> None:
        self.now = 0.0
        """Seconds since the world began."""

    def step(self, seconds: float) -> None:
        """Let time pass.  Raises ValueError if it would run backwards."""
        if seconds < 0:
            raise ValueError("time does not run backwards")
        self.now += seconds


# ── what lies between the peers ──────────────────────────────────────────────────────────


class Pipe:
    """Messages in flight in one direction, oldest first."""

    def __init__(self, expected: UnionType) -> None:
        """``expected`` are the messages that may arrive at its end."""
        self.closed = False
        """Nothing can be sent any more; what is in flight still arrives."""
        self._reader = wire.Reader(expected)
        self._frames: deque[list[bytes]] = deque()

    def __len__(self) -> int:
        return len(self._frames)

    def send(self, message: Message) -> None:
        """Put a message into the pipe; into a closed one it is lost."""
        self.send_frames(wire.encode(message))

    def send_frames(self, frames: Sequence[Buffer]) -> None:
        """Put frames into the pipe, whether or not they are a message."""
        if not self.closed:
            self._frames.append([bytes(frame) for frame in frames])

    def receive(self) -> Message:
        """Take the oldest message out of the pipe.

        Raises ``dispatcher.messages.ProtocolError`` if it is not one of those that are expected.
        """
        return self._reader.read(self._frames.popleft())

    def in_flight(self) -> list[Message]:
        """Return what is in the pipe, oldest first, and leave it there."""
        return [self._reader.read(frames) for frames in self._frames]

    def close(self, arriving: int | None = None) -> None:
        """Take nothing more; of what is in flight the first ``arriving`` arrive (None: all)."""
        self.closed = True
        while arriving is not None and len(self._frames) > arriving:
            self._frames.pop()


class Link:
    """The connection between one peer and the dispatcher."""

    def __init__(self, role: Role) -> None:
        is_client = role is Role.CLIENT
        self.up = Pipe(FromClient if is_client else FromDaemon)
        """From the peer to the dispatcher."""
        self.down = Pipe(ToClient if is_client else ToDaemon)
        """From the dispatcher to the peer."""

    def close(self, arriving: int | None = None) -> None:
        """The peer is gone: of what it has sent, the first ``arriving`` messages arrive."""
        self.up.close(arriving)
        self.down.close(0)


# ── peers ────────────────────────────────────────────────────────────────────────────────


class Client:
    """A host: what ``mirai._channel.Channel`` does, one thing at a time."""

    role = Role.CLIENT

    def __init__(self, number: int, known_functions: int, process: int) -> None:
        """``process`` is the number of the peer in whose process it is."""
        self.link = Link(self.role)
        self.pending = Pending()
        self.alive = True
        self.crash = Crash("its connection was lost")
        self.told: list[tuple[Step, ...]] = []
        """The stories of tasks that it has asked for."""
        self._number = number
        self._outbox = Outbox(f"client {number}", known_functions)
        self.link.up.send(Hello(VERSION, "memory", process))

    def submit(
        self, fn: Callable[..., Any], args: Any, kwargs: Any, options: TaskOptions = DEFAULTS
    ) -> Mirai[Any]:
        """Put a task into the outbox.  Raises SerializationError, or DispatcherLost at the end."""
        if not self.alive:
            raise DispatcherLost("this client has left")
        parcel = self._outbox.parcel(fn, [(args, kwargs)], options)
        return self._outbox.add(parcel, self._cancel)[0]

    def everywhere(
        self, fn: Callable[..., Any], args: Any, kwargs: Any, answers: int
    ) -> list[Mirai[Any]]:
        """Put a call for every daemon into the outbox.  Raises like ``submit``."""
        if not self.alive:
            raise DispatcherLost("this client has left")
        parcel = self._outbox.parcel(fn, [(args, kwargs)], DEFAULTS)
        return self._outbox.add_standing(parcel, self._cancel, answers)

    def recount(self, mirai: Mirai[Any]) -> None:
        """Ask for the story of a task that it has submitted."""
        if self.alive:
            self.link.up.send(Recount(self._outbox.next_id(), mirai.id))

    def can_flush(self) -> bool:
        """Whether there is anything to send."""
        return self.alive and bool(self._outbox)

    def flush(self) -> None:
        """Send what has gathered."""
        for message in self._outbox.take().messages(self.pending):
            self.link.up.send(message)

    def can_read(self) -> bool:
        """Whether a message has arrived."""
        return self.alive and bool(self.link.down)

    def read(self) -> None:
        """Take in one message."""
        match self.link.down.receive():
            case Results(outcomes):
                self.pending.settle(outcomes)
            case Told(_, story):
                self.told.append(story)
            case Refused(reason):
                self.leave(ProtocolError(f"the dispatcher refused us: {reason}"))

    def leave(
        self, error: MiraiError, *, cancelled: bool = False, arriving: int | None = None
    ) -> None:
        """Be gone: whatever is not answered is settled with ``error``.

        Of what is still on its way to the dispatcher, ``arriving`` messages arrive (None: all).
        """
        self.alive = False
        self.link.close(arriving)
        for mirai in self._outbox.take().mirais():
            self.pending.add(mirai)
        self.pending.lose(error, cancelled=cancelled)

    def _cancel(self, mirai: Mirai[Any]) -> None:
        if self.alive:
            self._outbox.cancel(mirai)


class Daemon:
    """A daemon: what ``mirai._daemon.Daemon`` does in two threads, one thing at a time.

    A task is called when it begins, and its outcome is known when it ends; between the two it
    runs, for as long as the world's clock says, and until what it awaits is done.
    """

    role = Role.DAEMON

    def __init__(
        self, number: int, clock: Clock, *, watermark: bool, tags: tuple[str, ...] = ()
    ) -> None:
        self.link = Link(self.role)
        self.hand = Hand()
        self.evaluator = Evaluator()
        self.alive = True
        self.crash = Crash("the daemon died", KILLED, "memory", number)
        self.started = 0 if watermark else None
        """The key of the task that it began last, as its watermark shows it after its death."""
        self.leaving = False
        """It has said that it wants to leave, and begins nothing more."""
        self._clock = clock
        self._waiting = 0  # tasks in the hand that have not begun
        self._outbox: list[Outcome] = []
        self._outcome: Outcome | None = None  # of the task that runs
        self._begun = 0.0  # when it began
        self.clients: list[Client] = []
        """Those in its process."""
        self.awaited: list[Mirai[Any]] = []
        """What the task that runs has submitted, and waits for."""
        self.link.up.send(Hello(VERSION, "memory", number, tags))

    def can_read(self) -> bool:
        """Whether a message has arrived."""
        return self.alive and bool(self.link.down)

    def read(self) -> None:
        """Take in one message."""
        match self.link.down.receive():
            case Run(tasks, functions, forget):
                self.evaluator.learn(functions, forget)
                self.hand.add(tasks)
                self._waiting += sum(task.count for task in tasks)
            case Recall(ids):
                self.link.up.send(Returned(tuple(self._withdraw(ids))))
            case Interrupt(ids):
                self._outbox += [Outcome(id, Kind.CANCELLED) for id in self._withdraw(ids)]
                if self._outcome is not None and self._outcome.id in ids:
                    self._outcome = Outcome(self._outcome.id, Kind.CANCELLED)
                    for mirai in self.awaited:
                        mirai.cancel()
            case Ping():
                self.link.up.send(Pong())
            case Stop() | Refused():
                self.die()

    def can_begin(self) -> bool:
        """Whether it is free and has a task."""
        free = self.alive and not self.leaving and self._outcome is None
        return free and self._waiting > 0

    def begin(self) -> None:
        """Start the next task."""
        task = self.hand.take()
        assert task is not None
        self._waiting -= 1
        if self.started is not None:
            self.started = task.id
        self._begun = self._clock.now
        self._outcome = self.evaluator.evaluate(task)

    def is_running(self) -> bool:
        """Whether it is in a task."""
        return self.alive and self._outcome is not None

    def can_end(self) -> bool:
        """Whether a task runs that waits for nothing."""
        return self.is_running() and all(mirai.done() for mirai in self.awaited)

    def end(self) -> None:
        """End the task that runs: as it would, or as cancelled if it was interrupted."""
        assert self._outcome is not None
        seconds = self._clock.now - self._begun
        self._outbox.append(msgspec.structs.replace(self._outcome, seconds=seconds))
        self._outcome = None
        self.awaited.clear()

    def can_flush(self) -> bool:
        """Whether there is anything to send."""
        return self.alive and bool(self._outbox)

    def flush(self) -> None:
        """Send what has ended."""
        outcomes, self._outbox = self._outbox, []
        for batch in wire.batches([*wire.runs(outcomes)]):
            self.link.up.send(Done(batch))

    def depart(self) -> None:
        """Want to leave, as at a limit or at SIGTERM."""
        if self.alive and not self.leaving:
            self.leaving = True
            self.link.up.send(Leave())

    def die(self, arriving: int | None = None) -> None:
        """Be gone; of what is on its way to the dispatcher, ``arriving`` messages arrive."""
        self.lose_contact(arriving)
        for client in self.clients:
            if client.alive:
                client.leave(DispatcherLost("its process has died"), arriving=arriving)

    def lose_contact(self, arriving: int | None = None) -> None:
        """Be cut off: it evaluates nothing more, but its process and the clients in it live."""
        self.alive = False
        self.link.close(arriving)
        self.hand.stop()
        self.evaluator.close()

    def _withdraw(self, ids: Sequence[int]) -> list[int]:
        gone = self.hand.withdraw(ids)
        self._waiting -= len(gone)
        return gone


# ── the world ────────────────────────────────────────────────────────────────────────────


class Move(NamedTuple):
    """One thing that can happen next: a verb of ``World`` and the peer that does it."""

    verb: str
    peer: int

    def __str__(self) -> str:
        return f"{self.verb} {self.peer}"


class World:
    """A dispatcher, its clients and its daemons.  A peer is known by its number."""

    def __init__(
        self,
        *,
        grace: float = 5.0,
        kept: int = 0,
        spare: int = 0,
        known_functions: int = 512,
        watch: Watch | None = None,
    ) -> None:
        """``grace``, ``kept`` and ``spare`` are the dispatcher's.

        ``known_functions`` is how many a client has it keep.  Nobody but the caller starts daemons.
        """
        self.clock = Clock()
        self.core = Dispatcher(grace=grace, kept=kept, spare=spare)
        self.lent = 0
        """How many daemons more the dispatcher wants, in the stead of those that wait."""
        self.halted = False
        """Whether the dispatcher has finished everything after ``drain``."""
        self.clients: dict[int, Client] = {}
        self.daemons: dict[int, Daemon] = {}
        self._known_functions = known_functions
        self._watch = watch
        self._last_number = 0
        self._peers: dict[int, Client | Daemon] = {}  # all but those who are dead and buried
        self._heard: set[int] = set()  # peers that have said Hello
        self._buried: set[int] = set()  # peers whose end the dispatcher has seen

    def __enter__(self) -> World:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything: pending mirais are cancelled, and event loops closed.  Idempotent."""
        for number in self.clients:
            self.leave(number)
        for number in self.daemons:
            self.kill(number)

    # ── what is done to it ───────────────────────────────────────────────────────────────

    def add_client(self, *, inside: int = 0) -> int:
        """Connect a client, which says hello, maybe ``inside`` a daemon; return its number."""
        self._last_number += 1
        number = self._last_number
        client = Client(number, self._known_functions, inside or number)
        self.clients[number] = self._peers[number] = client
        if inside:
            self.daemons[inside].clients.append(client)
        return number

    def add_daemon(self, *, watermark: bool = True, tags: tuple[str, ...] = ()) -> int:
        """Connect a daemon, which says hello; return its number.

        Without a ``watermark``, as on another machine, nobody knows what it had begun when it
        died.
        """
        self._last_number += 1
        daemon = Daemon(self._last_number, self.clock, watermark=watermark, tags=tags)
        self.daemons[self._last_number] = self._peers[self._last_number] = daemon
        return self._last_number

    def submit(
        self, client: int, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> Mirai[T]:
        """Have a client submit a task, which leaves with its next ``flush``."""
        return self.clients[client].submit(fn, args, kwargs)

    def submit_with(
        self,
        options: TaskOptions,
        client: int,
        fn: Callable[P, T],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Mirai[T]:
        """Have a client submit a task like ``submit``, with options."""
        return self.clients[client].submit(fn, args, kwargs, options)

    def everywhere(
        self, client: int, answers: int, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs
    ) -> list[Mirai[T]]:
        """Have a client submit a call for every daemon; return the mirais of some answers."""
        return self.clients[client].everywhere(fn, args, kwargs, answers)

    def cancel(self, mirai: Mirai[Any]) -> bool:
        """Cancel a mirai.  The dispatcher learns of it by its client's next ``flush``."""
        return mirai.cancel()

    def recount(self, client: int, mirai: Mirai[Any]) -> None:
        """Have a client ask for the story of its task, which becomes one of those it was told."""
        self.clients[client].recount(mirai)

    def leave(self, client: int, arriving: int | None = None) -> None:
        """Have a client close its connection; ``arriving`` of its last messages arrive."""
        if self.clients[client].alive:
            error = DispatcherLost("the client has left")
            self.clients[client].leave(error, cancelled=True, arriving=arriving)

    def kill(self, daemon: int, arriving: int | None = None) -> None:
        """Let a daemon die at once; ``arriving`` of its last messages arrive (None: all)."""
        if self.daemons[daemon].alive:
            self.daemons[daemon].die(arriving)

    def cut(self, daemon: int, arriving: int | None = None) -> None:
        """End a daemon's connection, but not the clients in its process."""
        if self.daemons[daemon].alive:
            self.daemons[daemon].lose_contact(arriving)

    def drain(self) -> None:
        """Have the dispatcher take no new tasks, and halt when the others have ended."""
        self._turn([(0, Drain())])

    def depart(self, daemon: int) -> None:
        """Let a daemon want to leave: it ends its task, and hands back the rest."""
        self.daemons[daemon].depart()

    def step(self, seconds: float) -> None:
        """Let time pass, and the dispatcher do what is due by then."""
        self.clock.step(seconds)
        self.hear()

    # ── what happens in it ───────────────────────────────────────────────────────────────

    def moves(self) -> list[Move]:
        """Return what can happen next."""
        moves = []
        for number, peer in self._peers.items():
            if peer.can_flush():
                moves.append(Move("flush", number))
            if self._has_news(number):
                moves.append(Move("hear", number))
            if peer.can_read():
                moves.append(Move("read", number))
            if isinstance(peer, Daemon):
                if peer.can_begin():
                    moves.append(Move("begin", number))
                if peer.can_end():
                    moves.append(Move("end", number))
        return moves

    def move(self, move: Move) -> None:
        """Make one of the ``moves`` that are possible now."""
        if move.verb == "hear":
            self.hear(move.peer)
        else:
            getattr(self._peers[move.peer], move.verb)()

    def settle(self) -> None:
        """Make moves until none is possible: whatever can be answered without waiting is."""
        while moves := self.moves():
            self.move(moves[0])

    def hear(self, *peers: int) -> None:
        """Let the dispatcher take in the next message of each of these peers, in one call.

        The same peer may be named again.  After the last message of a peer that is gone comes
        the news of its end.
        """
        self._turn([event for number in peers for event in self._next_event(number)])

    def _turn(self, events: list[tuple[int, Event]]) -> None:
        commands = self.core.handle(events, self.clock.now)
        for command in commands:
            self._obey(command)
        if self._watch is not None:
            self._watch(events, commands)

    def _has_news(self, number: int) -> bool:
        """Whether the dispatcher can hear of this peer: from it, or that it is gone."""
        if number not in self._peers:
            return False
        up = self._peers[number].link.up
        return bool(up) or (up.closed and number not in self._buried)

    def _next_event(self, number: int) -> list[tuple[int, Event]]:
        if not self._has_news(number):
            return []
        peer = self._peers[number]
        if peer.link.up:
            return self._receive(number, peer)
        self._buried.add(number)
        if not peer.alive:
            del self._peers[number]
        started = peer.started if isinstance(peer, Daemon) else None
        return [(number, Lost(peer.crash, started))] if number in self._heard else []

    def _receive(self, number: int, peer: Client | Daemon) -> list[tuple[int, Event]]:
        try:
            message = peer.link.up.receive()
            if number in self._heard:
                return [(number, message)]
            if not isinstance(message, Hello):
                raise WireError("the first message must be Hello")
        except WireError as error:
            peer.link.down.send(Refused(str(error)))
            self._expel(peer)
            return []
        self._heard.add(number)
        return [(number, Joined(peer.role, message))]

    def _obey(self, command: Command) -> None:
        match command:
            case Lend(peers):
                self.lent = len(peers)
            case Halt():
                self.halted = True
        if isinstance(command, Keep | Lend | Halt):
            return  # there are no processes here
        peer = self._peers.get(command.peer)
        if peer is None:
            return
        match command:
            case Send(_, message):
                peer.link.down.send(message)
            case CutOff():
                self._expel(peer)
            case Kill(_, keys):
                assert isinstance(peer, Daemon)
                if peer.started is None or peer.started in keys:
                    peer.die()

    def _expel(self, peer: Client | Daemon) -> None:
        """Listen no more to a peer; it may still read why."""
        peer.link.up.close(0)
        if isinstance(peer, Daemon):
            peer.die(0)
