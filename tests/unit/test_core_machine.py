"""The core against a model, by a machine that does whatever may happen to it, in any order.

The model says in the plainest way what the core may do: which task is where, who waits for what,
what each client is still to be told.  Its daemons are honest, but nobody says when they read,
begin, end and send; its clients are not, now and then.  What the core commands is held against
the model after every step, and in the end, when everybody has done his part, nothing may be left.

A daemon's task that has submitted tasks of its own is taken to wait for all of them.  Some daemons
are relays, which do several tasks at once, end them in any order, and tell of crashes behind them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from dispatcher import wire
from dispatcher.core import LOOK, MAX_LOSSES, NOT_FOR_DAEMONS, PATIENCE, STALL, Dispatcher
from dispatcher.events import (
    Barren,
    CutOff,
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
    Send,
    Stillborn,
)
from dispatcher.messages import (
    VERSION,
    Ask,
    Blob,
    Cancel,
    Crash,
    Done,
    Everywhere,
    Function,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Message,
    Outcome,
    Ping,
    Pong,
    Printed,
    Recall,
    Refused,
    Report,
    Results,
    Returned,
    Run,
    Scale,
    Stop,
    Submit,
    Task,
    Welcome,
)

T = TypeVar("T")

GRACE = 0.5
TINY = 1e-6
CRASH = Crash("the daemon died", -9)
NOBODY = 10**6
"""No peer has this number, and no task this key."""

NEVER = float("inf")
FROM_DAEMONS = (Done, Returned, Printed, Pong, Leave)

PICK = st.integers(0, 13)
TAGS = st.sampled_from([(), (), (), ("a",), ("b",), ("a", "b")])
TIMEOUTS = st.sampled_from([0.0, 0.0, 0.0, PATIENCE / 2, 0.3])
WIDTHS = st.sampled_from([1, 1, 1, 2, 4])
HOLD = st.sampled_from([False, False, True])
"""Whether the next thing happens in the same turn of the dispatcher."""
ENDINGS = st.sampled_from([Kind.ERROR, Kind.VALUE])
SECONDS = st.sampled_from([TINY, TINY, TINY, 0.001, 1.0])


# ── the model ────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Call:
    """One task, or one daemon's share of a call for every daemon."""

    payload: bytes  # its name
    client: int
    id: int  # 0: nobody waits for its answer
    function: bytes
    tags: tuple[str, ...] = ()
    priority: int = 0
    retries: int = 0
    deadline: float = float("inf")
    depth: int = 0
    age: int = 0  # when it came into the queue as what it is: the older, the smaller
    parent: int = 0  # the key of the task that has submitted it; 0: none
    pinned: bool = False
    wanted: bool = True
    unwanted_since: float = 0.0
    daemon: int = 0  # that has it in hand; 0: it waits
    attempts: int = 1
    begun: int = 0  # how often a daemon has begun it, in truth
    losses: int = 0  # daemons that died with it in hand, and had begun nothing
    keys: list[int] = field(default_factory=list)  # one for each attempt


@dataclass(eq=False)
class User:
    """A client."""

    peer: int
    daemon: int = 0  # in whose process it is
    last: int = 0
    functions: dict[int, bytes] = field(default_factory=dict)
    numbers: int = 0
    pending: dict[int, Call] = field(default_factory=dict)
    cut: bool = False


@dataclass(eq=False)
class Standing:
    """A call for every daemon."""

    client: int
    payload: bytes
    function: bytes
    ids: deque[int]


@dataclass(eq=False)
class Node:
    """A daemon: what the core should think of it, and what it does in truth."""

    peer: int
    tags: tuple[str, ...]
    width: int
    watermark: bool
    joined: float
    hand: list[Call] = field(default_factory=list)
    due: list[Call] = field(default_factory=list)  # pinned here, and not sent yet
    leaving: bool = False
    recalled: bool = False
    asked: set[int] = field(default_factory=set)  # for which of its tasks it has been asked
    struck: set[int] = field(default_factory=set)  # which it has been told to drop or stop
    functions: dict[int, bytes] = field(default_factory=dict)
    head: int = 0  # the key of the first in its hand; 0: none
    began: float = 0.0  # since when that is so
    heard: float = 0.0  # when it has last said anything
    pinged: float = NEVER  # since when it owes an answer to a Ping
    # In truth:
    inbox: deque[Message] = field(default_factory=deque)
    known: dict[int, bytes] = field(default_factory=dict)
    waiting: list[int] = field(default_factory=list)
    received: set[int] = field(default_factory=set)
    running: list[int] = field(default_factory=list)
    interrupted: set[int] = field(default_factory=set)
    started: int = 0
    results: list[Outcome] = field(default_factory=list)  # to be sent
    words: deque[Message] = field(default_factory=deque)  # to be sent, whatever else
    closed: bool = False  # begins nothing more
    dead: bool = False

    @property
    def current(self) -> int:
        """The key of the task that it has begun and not ended; of several the first; 0: none."""
        return self.running[0] if self.running else 0


class Machine(RuleBasedStateMachine):
    """What may happen to a core."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.users: dict[int, User] = {}
        self.nodes: dict[int, Node] = {}
        self.calls: dict[int, Call] = {}  # by key
        self.by_name: dict[bytes, Call] = {}
        self.standing: list[Standing] = []
        self.numbers = 0  # the last number given to a peer, a call or a report
        self.events: list[tuple[int, Event]] = []
        self.expected: dict[Call, Kind] = {}  # answers of the next turn
        self.told: list[tuple[int, Message]] = []  # other messages to clients in the next turn
        self.asks: list[tuple[int, Ask]] = []
        self.rude: set[int] = set()  # who is to be cut off in the next turn
        self.kept = self.spare = self.lent = 0
        self.barren = self.draining = False
        self.failure: Crash | None = None
        self.kills: list[Kill] = []
        self.sound = False  # whether the last turn was as it should be

    # ── who is there ─────────────────────────────────────────────────────────────────────

    @initialize(kept=st.integers(0, 2), spare=st.integers(0, 2), daemons=st.integers(0, 4))
    def begin_all(self, kept: int, spare: int, daemons: int) -> None:
        self.kept, self.spare = kept, spare
        self.core = Dispatcher(grace=GRACE, kept=kept, spare=spare)
        self.client_joins()
        for count in range(daemons):
            self.daemon_joins((), count % 2 == 0, False, width=1 + count // 2)
        for count in range(daemons):  # of functions whose duration will be known
            self.submit_from(self.clients()[0], count, True, False, False, retries=count % 2)

    def number(self) -> int:
        self.numbers += 1
        return self.numbers

    def join(
        self,
        peer: int,
        role: Role,
        process: int,
        tags: tuple[str, ...],
        hold: bool,
        width: int = 1,
    ) -> None:
        hello = Hello(VERSION, f"host{process}", process, tags, width=width)
        self.tell(peer, Joined(role, hello), hold)

    @precondition(lambda self: len(self.users) < 4)
    @rule()
    def client_joins(self) -> None:
        user = User(self.number())
        self.users[user.peer] = user
        self.join(user.peer, Role.CLIENT, user.peer, (), False)

    @precondition(lambda self: self.narrow(self.nodes.values()) and len(self.users) < 7)
    @rule(pick=PICK)
    def inner_client_joins(self, pick: int) -> None:
        self.join_inside(choose_from(self.narrow(self.nodes.values()), pick))

    def join_inside(self, node: Node) -> User:
        user = User(self.number(), node.peer)
        self.users[user.peer] = user
        self.join(user.peer, Role.CLIENT, node.peer, (), False)
        return user

    @precondition(lambda self: len(self.nodes) < 5)
    @rule(tags=TAGS, watermark=st.booleans(), hold=HOLD, width=WIDTHS)
    def daemon_joins(
        self, tags: tuple[str, ...], watermark: bool, hold: bool, width: int = 1
    ) -> None:
        node = Node(self.number(), tags, width, watermark and width == 1, self.now)
        self.nodes[node.peer] = node
        self.barren, self.failure = False, None
        for standing in self.standing:
            self.pin(standing, node)
        for ask in [ask for ask in self.asks if ask[1].at_least <= len(self.nodes)]:
            self.asks.remove(ask)
            self.told.append((ask[0], Report(ask[1].number, None)))  # type: ignore[arg-type]
        self.join(node.peer, Role.DAEMON, node.peer, tags, hold, width)

    # ── what clients want ────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.clients())
    @rule(
        pick=PICK,
        count=st.sampled_from([1, 1, 2, 3, 8]),
        known=st.booleans(),
        forget=st.booleans(),
        together=st.booleans(),
        tags=TAGS,
        priority=st.integers(0, 1),
        timeout=TIMEOUTS,
        retries=st.integers(0, 2),
        hold=HOLD,
    )
    def submit(
        self,
        pick: int,
        count: int,
        known: bool,
        forget: bool,
        together: bool,
        tags: tuple[str, ...],
        priority: int,
        timeout: float,
        retries: int,
        hold: bool,
    ) -> None:
        self.submit_from(
            choose_from(self.clients(), pick),
            count,
            known,
            forget,
            hold,
            together=together,
            tags=tags,
            priority=priority,
            retries=retries,
            timeout=timeout,
        )

    @precondition(lambda self: any(node.hand for node in self.narrow(self.living())))
    @rule(pick=PICK, parents=st.integers(1, 4), count=st.integers(1, 3), tags=TAGS, hold=HOLD)
    def tasks_submit(
        self, pick: int, parents: int, count: int, tags: tuple[str, ...], hold: bool
    ) -> None:
        """Some tasks that run submit tasks of their own."""
        busy = [node for node in self.narrow(self.living()) if node.hand]
        for node in busy[pick % len(busy) :][:parents]:
            while node.inbox:
                self.read(node)
            self.begin(node)
            inside = [user for user in self.clients() if user.daemon == node.peer]
            user = inside[pick % len(inside)] if inside else self.join_inside(node)
            self.submit_from(user, count, True, False, hold, tags=tags)

    def submit_from(
        self,
        user: User,
        count: int,
        known: bool,
        forget: bool,
        hold: bool,
        *,
        timeout: float = 0.0,
        together: bool = True,
        **options: Any,
    ) -> None:
        """Submit so many tasks, ``together``: in a run."""
        functions: tuple[Function, ...] = ()
        if not known or not user.functions:
            functions = (self.define(user),)
        number = list(user.functions)[-1]
        depth = self.depth_inside(user)
        tasks = []
        for _ in range(count):
            user.last += 1
            name = b"%d" % self.number()
            tasks.append(Task(user.last, number, name, timeout=timeout, **options))
            call = Call(name, user.peer, user.last, user.functions[number], depth=depth, **options)
            call.age = self.number()
            if user.daemon:
                call.parent = self.nodes[user.daemon].current
            user.pending[call.id] = self.by_name[name] = call
            if timeout:
                call.deadline = self.now + timeout
            if self.draining and not user.daemon:
                call.wanted = False
                self.expected[call] = Kind.DECLINED
        forgotten = (number,) if forget else ()
        for each in forgotten:
            del user.functions[each]
        if together and tasks:
            following = tuple(task.payload for task in tasks[1:])
            tasks = [structs.replace(tasks[0], following=following)]
        self.tell(user.peer, Submit(tuple(tasks), functions, forgotten), hold)

    def define(self, user: User) -> Function:
        user.numbers += 1
        payload = b"%d" % self.number()
        user.functions[user.numbers] = payload
        return Function(user.numbers, "fg"[user.numbers % 2], payload)

    def depth_inside(self, user: User) -> int:
        if not user.daemon:
            return 0
        hand = self.nodes[user.daemon].hand
        return hand[0].depth + 1 if hand else 1

    @precondition(lambda self: self.clients() and len(self.standing) < 4)
    @rule(pick=PICK, answers=st.integers(0, 3), hold=HOLD)
    def everywhere(self, pick: int, answers: int, hold: bool) -> None:
        user = choose_from(self.clients(), pick)
        if not user.functions:
            self.tell(user.peer, Submit((), (self.define(user),)), True)
        number, payload = list(user.functions.items())[-1]
        ids = tuple(range(user.last + 1, user.last + 1 + answers))
        user.last += answers
        name = b"%d" % self.number()
        standing = Standing(user.peer, name, payload, deque(ids))
        if self.draining:
            self.answer_missing(standing, 0, Kind.DECLINED)
        else:
            self.standing.append(standing)
            for node in self.nodes.values():
                if not node.leaving:
                    self.pin(standing, node)
            if self.barren and not self.nodes:
                self.answer_missing(standing, 0, Kind.CRASHED)
            self.answer_missing(standing, max(0, self.kept - len(self.staying())), Kind.CANCELLED)
        self.tell(user.peer, Everywhere(ids, Task(0, number, name)), hold)

    def pin(self, standing: Standing, node: Node) -> None:
        id = standing.ids.popleft() if standing.ids else 0
        call = Call(standing.payload, standing.client, id, standing.function, pinned=True)
        call.daemon = node.peer
        call.wanted = id > 0
        call.unwanted_since = float("inf")  # nobody interrupts what nobody has wanted
        if id:
            self.users[standing.client].pending[id] = call
        node.hand.append(call)
        node.due.append(call)

    def answer_missing(self, standing: Standing, coming: int, kind: Kind) -> None:
        while len(standing.ids) > coming:
            call = Call(b"", standing.client, standing.ids.pop(), b"", wanted=False)
            self.users[standing.client].pending[call.id] = call
            self.expected[call] = kind

    @precondition(lambda self: any(user.pending for user in self.clients()))
    @rule(pick=PICK, count=st.integers(1, 4), hold=HOLD)
    def cancel(self, pick: int, count: int, hold: bool) -> None:
        user = choose_from([user for user in self.clients() if user.pending], pick)
        ids = [id for id, call in user.pending.items() if call.wanted]
        ids = ids[pick % 3 :][:count]
        for id in ids:
            self.unwant(user.pending.pop(id))
        self.tell(user.peer, Cancel((*ids, *ids, NOBODY)), hold)

    @precondition(lambda self: any(user.pending for user in self.clients()))
    @rule(pick=PICK, count=st.integers(1, 4), hold=HOLD)
    def recall(self, pick: int, count: int, hold: bool) -> None:
        """A client, which is a relay, wants back what no daemon has."""
        user = choose_from([user for user in self.clients() if user.pending], pick)
        ids = [*user.pending][pick % 3 :][:count]
        waiting = [id for id in ids if user.pending[id] in self.waiting()]
        for id in waiting:
            user.pending.pop(id).wanted = False
        self.told.append((user.peer, Returned(tuple(waiting))))
        self.tell(user.peer, Recall((*ids, *ids, NOBODY)), hold)

    @precondition(lambda self: self.clients())
    @rule(pick=PICK, what=st.sampled_from(["ask", "scale", "cancel"]), count=st.integers(0, 5))
    def client_wants_something_else(self, pick: int, what: str, count: int) -> None:
        peer = choose_from(self.clients(), pick).peer
        coming = [each for each in self.standing if each.ids and not self.users[each.client].cut]
        if what == "cancel" and coming:  # what no daemon has yet
            self.tell(coming[0].client, Cancel((coming[0].ids.popleft(),)), False)
        elif what == "scale":
            self.kept = count
            for standing in self.standing:
                self.answer_missing(standing, max(0, count - len(self.staying())), Kind.CANCELLED)
            self.told.append((0, Keep(count)))  # type: ignore[arg-type]
            self.tell(peer, Scale(count), False)
        elif what == "ask":
            ask = Ask(self.number(), count)
            if count <= len(self.nodes):
                self.told.append((peer, Report(ask.number, None)))  # type: ignore[arg-type]
            else:
                self.asks.append((peer, ask))
            self.tell(peer, ask, False)

    @precondition(lambda self: len(self.users) > 1)
    @rule(pick=PICK, hold=HOLD)
    def client_leaves(self, pick: int, hold: bool) -> None:
        self.lose_user(choose(self.users, pick), hold)

    def lose_user(self, user: User, hold: bool = False) -> None:
        if user.peer in self.rude:
            self.flush()  # it can only be cut off while it is there
        del self.users[user.peer]
        for call in user.pending.values():
            self.expected.pop(call, None)
            self.unwant(call)
        self.standing = [each for each in self.standing if each.client != user.peer]
        self.asks = [ask for ask in self.asks if ask[0] != user.peer]
        self.told = [entry for entry in self.told if entry[0] != user.peer]
        self.tell(user.peer, Lost(CRASH), hold)

    def unwant(self, call: Call) -> None:
        if call.wanted:
            call.wanted = False
            call.unwanted_since = self.now

    # ── what daemons do ──────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.living())
    @rule(
        pick=PICK,
        daemons=st.integers(1, 4),
        count=st.integers(1, 4),
        kind=ENDINGS,
        seconds=SECONDS,
        again=st.booleans(),
        words=st.booleans(),
    )
    def daemons_work(
        self,
        pick: int,
        daemons: int,
        count: int,
        kind: Kind,
        seconds: float,
        again: bool,
        words: bool,
    ) -> None:
        """Some read all, do a little, and say all; or all but what they hand back."""
        living = self.living()
        for node in living[pick % len(living) :][:daemons]:
            while node.inbox:
                self.read(node)
            for _ in range(count):
                self.begin(node)
                self.end(node, kind, seconds, again)
            self.say_all(node, words=words)

    @precondition(lambda self: self.living())
    @rule(
        pick=PICK,
        what=st.sampled_from(["read", "begin", "end", "say word", "say results"]),
        kind=ENDINGS,
        seconds=SECONDS,
        hold=HOLD,
    )
    def daemon_does_a_little(
        self, pick: int, what: str, kind: Kind, seconds: float, hold: bool
    ) -> None:
        """What it says may overtake what it has said: a word its results, and these a word."""
        node = choose_from(self.living(), pick)
        if what == "read" and node.inbox:
            self.read(node)
        elif what == "begin":
            self.begin(node)
        elif what == "end":
            self.end(node, kind, seconds, False)
        elif what == "say word" and node.words:
            self.say_word(node, hold)
        elif what == "say results" and node.results:
            self.say_results(node, hold)

    @precondition(lambda self: self.living())
    @rule(pick=PICK, what=st.sampled_from(["leave", "print", "repeat"]), hold=HOLD)
    def daemon_does_something_else(self, pick: int, what: str, hold: bool) -> None:
        node = choose_from(self.living(), pick)
        if what == "print":
            self.daemon_prints(node, hold)
        elif what == "repeat":
            self.daemon_repeats_itself(node, hold)
        elif not node.closed:
            node.closed = True
            node.words.append(Leave())

    def daemon_prints(self, node: Node, hold: bool) -> None:
        call = self.calls.get(node.current)
        if call is not None and call in node.hand:
            if call.wanted:
                self.told.append((call.client, Printed(call.id, "text")))
            self.tell(node.peer, Printed(node.current, "text"), hold)

    def daemon_repeats_itself(self, node: Node, hold: bool) -> None:
        """Answers that come late, twice, for tasks of others, or for none."""
        own = {call.keys[-1] for call in node.hand if call.keys}
        keys = (*(key for key in list(self.calls)[-6:] if key not in own), NOBODY)
        outcomes = tuple(Outcome(key, Kind.VALUE, b"late", again=True) for key in keys)
        self.tell(node.peer, Done(outcomes), True)
        self.tell(node.peer, Printed(NOBODY, "late"), True)
        if node.recalled:
            keys = ()  # it would say that it has handed back
        else:
            self.tell(node.peer, Returned(keys), True)
        if not hold:
            self.flush()

    @precondition(lambda self: self.nodes)
    @rule(pick=PICK, heard=st.integers(0, 3), hold=HOLD)
    def daemon_dies(self, pick: int, heard: int, hold: bool) -> None:
        """Some of its last words are heard."""
        node = choose(self.nodes, pick)
        for _ in range(heard):
            if node.peer not in self.rude and node.words:
                self.say_word(node, True)
        if heard and node.peer not in self.rude and node.results:
            self.say_results(node, True)
        self.lose_node(node, hold)

    def lose_node(self, node: Node, hold: bool = False) -> None:
        if node.peer in self.rude:
            self.flush()
        del self.nodes[node.peer]
        for user in self.users.values():
            if user.daemon == node.peer:
                user.daemon = 0
        started = node.started if node.watermark else None
        keys = [call.keys[-1] if call.keys else NOBODY for call in node.hand]
        begun = len(node.hand) if started is None else 0
        if started in keys:
            begun = keys.index(started) + 1
        for index, call in enumerate(node.hand):
            call.daemon = 0
            call.losses += not begun
            if not call.wanted:
                continue
            if index >= begun and call.losses < MAX_LOSSES and not call.pinned:
                continue  # it waits again, where it was
            self.retry_or_answer(call, Kind.CRASHED)
        self.tell(node.peer, Lost(CRASH, started), hold)

    def retry_or_answer(self, call: Call, kind: Kind) -> None:
        if call.attempts <= call.retries:
            call.attempts += 1
            call.age = self.number()
        else:
            call.wanted = False
            self.expected[call] = kind

    @precondition(lambda self: self.nodes)
    @rule(count=st.integers(0, 2), pick=PICK, hold=HOLD)
    def retire(self, count: int, pick: int, hold: bool) -> None:
        nodes = list(self.nodes.values())[pick % 2 :]
        peers = tuple(node.peer for node in nodes)
        for node in sorted(nodes, key=lambda node: (not node.leaving, len(node.hand)))[:count]:
            node.leaving = True
        self.tell(0, Retire((*peers, NOBODY), count), hold)

    # ── what is done to it ───────────────────────────────────────────────────────────────

    def read(self, node: Node) -> None:
        match node.inbox.popleft():
            case Run(tasks, functions, forget):
                for function in functions:
                    node.known[function.number] = function.payload
                for number in forget:
                    assert node.known.pop(number, None), "it has to forget what it never knew"
                for task in [task for some in tasks for task in some.each()]:
                    assert node.known.get(task.function) == self.calls[task.id].function
                    node.waiting.append(task.id)
                    node.received.add(task.id)
            case Recall(ids):
                assert node.received.issuperset(ids), "a recall of what has not come"
                node.words.append(Returned(tuple(self.withdraw(node, ids))))
            case Interrupt(ids):
                assert node.received.issuperset(ids), "an interrupt of what has not come"
                gone = self.withdraw(node, ids)
                node.results += [Outcome(key, Kind.CANCELLED) for key in gone]
                node.interrupted.update(key for key in node.running if key in ids)
            case Ping():
                node.words.append(Pong())
            case Stop():
                assert not node.waiting and not node.current and not node.results
                node.dead = True

    def withdraw(self, node: Node, keys: Iterable[int]) -> list[int]:
        gone = [key for key in node.waiting if key in keys]
        node.waiting = [key for key in node.waiting if key not in keys]
        return gone

    def begin(self, node: Node) -> None:
        free = len(node.running) < node.width
        if node.waiting and free and not (node.closed or node.dead):
            node.started = node.waiting.pop(0)
            node.running.append(node.started)
            call = self.calls[node.started]
            call.begun += 1
            assert call.begun <= 1 + call.retries, "it runs once too often"

    def end(self, node: Node, kind: Kind, seconds: float, again: bool) -> None:
        """Have it end a task: a relay the last that has begun, of which it may be a crash."""
        if node.running:
            key = node.running.pop()
            crash = None
            if key in node.interrupted:
                kind = Kind.CANCELLED
            elif again and seconds == TINY and node.width > 1:
                kind, crash = Kind.CRASHED, CRASH
            said = b"%d by %d" % (key, node.peer)
            again = again and kind is Kind.ERROR
            node.results.append(Outcome(key, kind, said, (), seconds, crash, again))

    def say_all(self, node: Node, *, words: bool = True) -> None:
        if node.results:
            self.say_results(node, True)
        while words and node.words:
            self.say_word(node, True)
        self.flush()

    def say_results(self, node: Node, hold: bool) -> None:
        outcomes, node.results = tuple(node.results), []
        for outcome in outcomes:
            call = self.calls[outcome.id]
            if call not in node.hand:
                continue
            node.hand.remove(call)
            call.daemon = 0
            if not call.wanted:
                continue
            if outcome.again or outcome.kind is Kind.CRASHED:
                self.retry_or_answer(call, outcome.kind)
            else:
                call.wanted = False
                self.expected[call] = outcome.kind
        self.tell(node.peer, Done(tuple(wire.runs(outcomes))), hold)

    def say_word(self, node: Node, hold: bool) -> None:
        word = node.words.popleft()
        if isinstance(word, Leave):
            node.leaving = True
        elif isinstance(word, Returned):
            node.recalled = False
            node.asked.difference_update(word.ids)
            for call in [self.calls[key] for key in word.ids]:
                node.hand.remove(call)
                call.daemon = 0
                if call.pinned and call.wanted:
                    call.wanted = False
                    self.expected[call] = Kind.CANCELLED
        self.tell(node.peer, word, hold)

    # ── what befalls all ─────────────────────────────────────────────────────────────────

    @rule(seconds=st.sampled_from([TINY, PATIENCE / 2, PATIENCE, 0.1, GRACE, LOOK]))
    def time_passes(self, seconds: float) -> None:
        self.flush()
        self.now += seconds
        for user in self.users.values():
            for call in user.pending.values():
                if call.wanted and call.deadline <= self.now:
                    self.unwant(call)
                    self.expected[call] = Kind.TIMEOUT
        self.kills.clear()
        self.flush(anyway=True)
        if seconds >= GRACE:
            killed = {(kill.peer, key) for kill in self.kills for key in kill.keys}
            for node in self.nodes.values():
                narrow = node.width == 1  # a relay ends by itself what does not leave
                if narrow and node.hand and node.hand[0].unwanted_since + GRACE <= self.now:
                    first = node.hand[0]
                    assert first.wanted or (node.peer, first.keys[-1]) in killed

    @precondition(lambda self: not self.barren)
    @rule()
    def no_daemon_can_be_had(self) -> None:
        self.barren = True
        self.tell(0, Barren(CRASH), False)

    @rule(hold=HOLD)
    def daemon_cannot_join(self, hold: bool) -> None:
        self.failure = Crash("the daemon died", self.number())
        self.tell(0, Stillborn(self.failure), hold)

    @precondition(lambda self: self.numbers > 60 and not self.draining)
    @rule()
    def drain(self) -> None:
        self.draining = True
        for standing in self.standing:
            self.answer_missing(standing, max(0, self.kept - len(self.staying())), Kind.DECLINED)
        self.tell(0, Drain(), False)

    @rule(who=st.sampled_from(["client", "daemon", "stranger"]), pick=PICK, which=PICK, hold=HOLD)
    def somebody_breaks_the_rules(self, who: str, pick: int, which: int, hold: bool) -> None:
        if who == "client" and self.clients():
            user = choose_from(self.clients(), pick)
            user.cut = True
            self.break_rules(user.peer, choose_from(self.bad_of_clients(user), which), hold)
        elif who == "daemon" and self.living():
            node = choose_from(self.living(), pick)
            node.dead = True
            self.break_rules(node.peer, choose_from(self.bad_of_daemons(node), which), hold)
        else:
            hello = Joined(Role.DAEMON, Hello(VERSION + 1))
            bad = (hello, Done((Outcome(1, Kind.VALUE),)), Submit(()), Printed(1, ""))
            self.break_rules(self.number(), choose_from(bad, which), hold)

    def break_rules(self, peer: int, event: Event, hold: bool) -> None:
        self.rude.add(peer)
        self.tell(peer, event, hold)

    def bad_of_clients(self, user: User) -> list[Event]:
        new, old = user.last + 1, user.last
        known = next(iter(user.functions), 0)
        mine = Function(known or 5, "f", b"")
        return [
            Submit((Task(new, NOBODY, b""),)),
            Submit((Task(new, known, b"", (Blob(b"b"),), following=(b"",)),)),
            Submit((Task(new, known, b"", following=(b"",)), Task(new + 1, known, b""))),
            Submit((Task(old, 5, b""),), () if known == 5 else (Function(5, "f", b""),)),
            Submit((Task(new, mine.number, b""),), (mine, mine)),
            Submit((), (), (NOBODY,)),
            Submit((), (), (known, known)),
            Everywhere((new,), Task(0, NOBODY, b"")),
            Everywhere((new, new), Task(0, known, b"")),
            Everywhere((new,), Task(0, known, b"", following=(b"",))),
            Done((Outcome(1, Kind.VALUE),)),
            Returned((1,)),
            Leave(),
            Illegal("nonsense"),
            Joined(Role.CLIENT, Hello(VERSION)),
        ]

    def bad_of_daemons(self, node: Node) -> list[Event]:
        key = node.current or NOBODY
        return [
            *(Done((Outcome(key, Kind.VALUE), Outcome(key, kind))) for kind in NOT_FOR_DAEMONS),
            Done((Outcome(key, Kind.VALUE), Outcome(key, Kind.ERROR, following=(b"",)))),
            Submit(()),
            Cancel((1,)),
            Scale(3),
            Run(()),
            Joined(Role.DAEMON, Hello(VERSION)),
        ]

    # ── the core's turn ──────────────────────────────────────────────────────────────────

    def tell(self, peer: int, event: Event, hold: bool) -> None:
        self.events.append((peer, event))
        if peer in self.nodes and isinstance(event, FROM_DAEMONS):
            self.nodes[peer].heard, self.nodes[peer].pinged = self.now, NEVER
        if not hold:
            self.flush()

    def flush(self, *, anyway: bool = False) -> None:
        """Let the core take its turn, and hold what it does against the model."""
        if not (self.events or anyway):
            return
        events, self.events = self.events, []
        self.sound = False
        for standing in self.standing if self.barren and not self.nodes else ():
            self.answer_missing(standing, 0, Kind.CRASHED)
        commands = self.core.handle(events, self.now)
        self.core.check()
        waited = self.waiting()
        failed: list[Call] = []
        given: list[tuple[Node, Call]] = []
        self.halted = Halt() in commands
        for command in commands:
            match command:
                case Send(peer, Results(outcomes)):
                    for outcome in [one for some in outcomes for one in singly(some)]:
                        if (call := self.answer(peer, outcome)) is not None:
                            failed.append(call)
                case Send(peer, Run() as run):
                    given += self.give(self.nodes[peer], run)
                case Send(peer, Ping() as message):
                    self.ping(self.nodes[peer])
                    self.send(self.nodes[peer], message)
                case Send(peer, Recall() | Interrupt() | Stop() as message):
                    self.send(self.nodes[peer], message)
                case Send(peer, Report(number, _)):
                    self.told.remove((peer, Report(number, None)))  # type: ignore[arg-type]
                case Send(peer, Printed() | Returned() as message):
                    self.told.remove((peer, message))
                case Send(_, Refused()):
                    pass
                case Send(peer, Welcome()):
                    assert self.core.is_member(peer)
                case Kill():
                    self.kill(command)
                case CutOff(peer):
                    self.rude.remove(peer)
                case Keep():
                    self.told.remove((0, command))  # type: ignore[arg-type]
                case Lend(peers):
                    self.lent = len(peers)
        assert not self.expected, "somebody has not had his answer"
        assert not self.told, "somebody has not been told"
        assert not self.rude, "somebody was not cut off"
        self.check_failed(failed)
        self.check_order(waited, given)
        self.check_state()
        self.sound = True

    def answer(self, peer: int, outcome: Outcome) -> Call | None:
        """Take in an answer; return the call if it failed for want of daemons."""
        call = self.users[peer].pending.pop(outcome.id)
        if call in self.expected:
            assert self.expected.pop(call) is outcome.kind
            if outcome.kind in (Kind.VALUE, Kind.ERROR):
                assert outcome.payload.startswith(b"%d by" % call.keys[-1]), "another's outcome"
            if outcome.kind is Kind.CRASHED and outcome.crash is not None and call.begun:
                assert outcome.crash.attempt == call.attempts
            return None
        assert call.wanted and not call.daemon and outcome.kind is Kind.CRASHED
        call.wanted = False
        return call

    def give(self, node: Node, run: Run) -> list[tuple[Node, Call]]:
        given = []
        for task in [task for some in run.tasks for task in some.each()]:
            if node.due:  # calls for every daemon come first
                call = node.due.pop(0)
                assert call.payload == task.payload
                assert (task.keep, task.retries, task.timeout) == (True, 0, 0.0)
            else:
                call = self.by_name[task.payload]
                assert call.wanted, "work that nobody wants"
                assert not call.daemon, "one task in two hands"
                assert set(call.tags) <= set(node.tags), "a tag that it does not carry"
                assert not node.leaving, "work for one that leaves"
                assert not node.recalled, "work for one that is handing back"
                call.daemon = node.peer
                node.hand.append(call)
                given.append((node, call))
            assert self.calls.setdefault(task.id, call) is call, "a key is used twice"
            if task.id not in call.keys:
                call.keys.append(task.id)
            assert len(call.keys) <= call.attempts
        self.send(node, run)
        return given

    def send(self, node: Node, message: Message) -> None:
        node.inbox.append(message)
        if isinstance(message, Recall):
            node.recalled = True
            node.asked.update(message.ids)
        if isinstance(message, Interrupt):
            node.struck.update(message.ids)
        if isinstance(message, Stop):
            assert node.leaving and not node.hand

    def ping(self, node: Node) -> None:
        if node.dead:
            return  # it was cut off, and nobody has heard of its end yet
        assert node.pinged == NEVER, "it owes an answer already"
        assert node.hand and node.hand[0].keys[-1] == node.head, "it has begun something else"
        assert self.now - node.began >= LOOK - TINY, "it has only just begun"
        node.pinged = self.now

    def kill(self, kill: Kill) -> None:
        node = self.nodes[kill.peer]
        assert node.width == 1
        for key in kill.keys:
            call = self.calls[key]
            assert not call.wanted and call.unwanted_since + GRACE <= self.now
        assert node.hand[0] is self.calls[kill.keys[0]]
        self.kills.append(kill)

    # ── what must hold ───────────────────────────────────────────────────────────────────

    def check_failed(self, failed: Sequence[Call]) -> None:
        """Tasks fail for want of daemons only where there are none."""
        if not failed or (self.barren and not self.nodes):
            return
        lenders = [
            node
            for node in self.nodes.values()
            if node.hand
            and (
                self.lends(node)
                or any(self.users[call.client].daemon == node.peer for call in failed)
            )
        ]
        assert lenders, "nobody waits for them"
        for call in failed:
            assert call.depth, "an outermost task failed"
            for node in self.nodes.values():
                fits = set(call.tags) <= set(node.tags) and not node.leaving
                assert node in lenders or not fits, "somebody could have done it"
        assert self.barren or len(self.staying()) >= self.to_be_had(len(lenders))

    def to_be_had(self, lenders: int) -> int:
        """How many daemons there should be where so many lend."""
        return self.kept + min(lenders, self.spare) if self.kept else 0

    def check_order(self, waited: Sequence[Call], given: Sequence[tuple[Node, Call]]) -> None:
        """Nobody was given what should have come after something that still waits."""
        left = [call for call in waited if call.wanted and not call.daemon]
        for node, call in given:
            for other in left:
                if set(other.tags) <= set(node.tags):
                    in_turn = other.depth <= call.depth or call.depth == 0
                    assert in_turn, "the deepest should go first, or the outermost"
                    if (other.client, other.depth) == (call.client, call.depth):
                        mine, others = (-call.priority, call.age), (-other.priority, other.age)
                        assert mine < others, "a younger or lesser task went first"

    def check_state(self) -> None:
        waiting = self.waiting()
        for node in self.nodes.values():
            hand = list(self.core._daemons[node.peer].hand)
            assert hand == [call.keys[-1] for call in node.hand]
            assert not node.due, "a call for every daemon was left out"
            for call in node.hand:
                told = call.wanted or call.keys[-1] in node.struck
                assert told or call.unwanted_since > self.now, "it is not told to stop"
        for user in self.users.values():
            pending = {id: call.payload for id, call in user.pending.items() if call.wanted}
            jobs = self.core._clients[user.peer].jobs
            parts = {id: job.task.part(id - job.id, 1) for id, job in jobs.items()}
            assert {id: task.payload for id, task in parts.items()} == pending
        lenders = [node for node in self.nodes.values() if self.lends(node)]
        for node in lenders:
            movable = [call.keys[-1] for call in node.hand if not call.pinned]
            assert node.asked.issuperset(movable[node.width :]), "it keeps what others could do"
        free = [node for node in self.nodes.values() if self.is_free(node)]
        moving = any(
            node.recalled or (node.hand and node not in lenders) for node in self.nodes.values()
        )
        short = 2 * len(lenders) > len(self.nodes) and moving
        for call in waiting:
            fits = any(set(call.tags) <= set(node.tags) for node in free)
            assert not fits or (short and not call.depth), "work waits beside the idle"
        if not moving and len(self.staying()) >= self.to_be_had(len(lenders)):
            for call in waiting:
                fits = any(set(call.tags) <= set(node.tags) for node in lenders)
                assert not call.depth or not fits, "they wait for each other"
        assert self.lent <= len(lenders), "too many stand in"
        assert not waiting or self.lent == len(lenders), "too few stand in"
        for node in self.living():
            self.check_attention(node)
        unanswered = self.unanswered() or any(standing.ids for standing in self.standing)
        assert self.halted == (self.draining and not unanswered)
        self.check_report(len(waiting))

    def check_attention(self, node: Node) -> None:
        """Whoever has been quiet on one task for long owes an answer."""
        head = node.hand[0].keys[-1] if node.hand else 0
        if head != node.head:
            node.head, node.began = head, self.now
        if not head:
            assert node.pinged == NEVER
        elif self.now - max(node.began, node.heard) >= 2 * LOOK + TINY:
            assert node.pinged < NEVER, "nobody has asked it how it is"

    def state(self, node: Node) -> str:
        if node.leaving:
            return "leaving"
        if self.now - node.pinged >= STALL:
            return "stalled"
        return "busy" if node.hand else "idle"

    def check_wanted(self, wanted: tuple[tuple[str, ...], ...]) -> None:
        """What waits for a daemon that is not there, and nothing else, is said to do so."""
        carried = [set(node.tags) for node in self.staying()]
        missed = {
            call.tags
            for call in self.waiting()
            if not any(tags.issuperset(call.tags) for tags in carried)
        }
        if any(standing.ids for standing in self.standing):
            missed.add(())
        assert wanted == tuple(sorted(missed))

    def check_report(self, waiting: int) -> None:
        report = self.core.report(self.now)
        busy = [node for node in self.nodes.values() if node.hand]
        assert report.executing == sum(min(len(node.hand), node.width) for node in busy)
        behind = sum(max(0, len(node.hand) - node.width) for node in busy)
        assert report.awaiting == waiting + behind
        assert self.core.has_waiting() == bool(waiting or any(each.ids for each in self.standing))
        self.check_wanted(report.wanted)
        assert (report.kept, report.failure) == (self.kept, self.failure)
        for each in report.daemons:
            node = self.nodes[each.id]
            assert node.dead or each.state == self.state(node)
            assert each.tasks == len(node.hand) and bool(each.task) == bool(node.hand)
            assert (each.tags, each.width) == (node.tags, node.width)
            assert 0.0 <= each.seconds <= self.now - node.joined + TINY

    # ── questions ────────────────────────────────────────────────────────────────────────

    def clients(self) -> list[User]:
        return [user for user in self.users.values() if not user.cut]

    def living(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.dead]

    def narrow(self, nodes: Iterable[Node]) -> list[Node]:
        """Return those in whose process tasks run: a relay's tasks have another home."""
        return [node for node in nodes if node.width == 1]

    def unanswered(self) -> int:
        return sum(len(user.pending) for user in self.users.values())

    def staying(self) -> list[Node]:
        return [node for node in self.nodes.values() if not node.leaving]

    def waiting(self) -> list[Call]:
        pending = [call for user in self.users.values() for call in user.pending.values()]
        return [call for call in pending if call.wanted and not call.daemon]

    def inside(self, node: Node) -> list[Call]:
        """Return what was submitted from a daemon's process, and is not answered."""
        users = [user for user in self.users.values() if user.daemon == node.peer]
        return [call for user in users for call in user.pending.values()]

    def waits(self, node: Node) -> bool:
        """Whether the task that a daemon runs waits for what it has submitted."""
        return any(call.parent == node.current for call in self.inside(node))

    def lends(self, node: Node) -> bool:
        return bool(node.hand) and bool(self.inside(node))

    def is_free(self, node: Node) -> bool:
        return len(node.hand) < node.width and not (node.recalled or node.leaving)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def teardown(self) -> None:
        """When everybody does his part, all is answered; when all have gone, nothing is left."""
        if not self.sound:
            return  # it has failed already
        self.flush()
        self.settle()
        for user in list(self.users.values()):
            assert not user.pending and not self.core._clients[user.peer].jobs
            self.lose_user(user)
        self.settle()
        core = self.core
        for daemon in core._daemons.values():
            assert not daemon.knows and not daemon.hand
        for node in list(self.nodes.values()):
            self.lose_node(node)
        assert not core._clients and not core._daemons and not core._queue._levels
        assert not core._timeouts._live and not core._timeouts._heap
        assert not core._silent and not core._stubborn and core.next_deadline() is None
        assert not core._idle and not core._open and not core._lending and not core._told_of
        assert not core._standing and not core._asked and not core._doubtful
        assert not core._mail and not core._commands

    def settle(self) -> None:
        """Have everybody do what he can, and others come where they are wanted."""
        for _ in range(2_000):
            for user in [user for user in self.users.values() if user.cut]:
                self.lose_user(user)
            moved = [self.serve(node) for node in list(self.nodes.values())]
            if any(moved):
                continue
            before = self.unanswered()
            self.time_passes(GRACE)
            if self.unanswered() < before or any(node.inbox for node in self.nodes.values()):
                continue
            standing = any(standing.ids for standing in self.standing)
            if not standing and not self.unanswered():
                return
            self.help(standing)
        raise AssertionError("there is no end to it")

    def serve(self, node: Node) -> bool:
        """Do what a daemon can do now; return whether it was anything."""
        moved = bool(node.inbox or node.words or node.results or node.dead)
        while node.inbox:
            self.read(node)
        if node.dead:
            self.lose_node(node)
            return True
        self.begin(node)
        if node.current and (node.current in node.interrupted or not self.waits(node)):
            self.end(node, Kind.VALUE, TINY, False)
            moved = True
        self.say_all(node)
        return moved

    def help(self, standing: bool) -> None:
        """Have a daemon join, where one was to be expected; else nothing would ever happen."""
        staying = self.staying()
        if standing or len(staying) < self.to_be_had(self.lent):
            self.daemon_joins((), True, False)
            return
        for call in self.waiting():
            if not any(set(call.tags) <= set(node.tags) for node in staying):
                self.daemon_joins(call.tags, True, False)
                return
        raise AssertionError("everybody waits for ever")


def singly(outcome: Outcome) -> list[Outcome]:
    """Return the outcomes of a run one by one."""
    assert not (outcome.following and (outcome.story or outcome.log)), "a run with a story"
    ids = range(outcome.id, outcome.id + outcome.count)
    return [outcome.part(id, index, 1) for index, id in enumerate(ids)] if ids[1:] else [outcome]


def choose(things: dict[int, T], pick: int) -> T:
    return choose_from(list(things.values()), pick)


def choose_from(things: Sequence[T], pick: int) -> T:
    return things[pick % len(things)]


def run(examples: int, steps: int, **more: Any) -> None:
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=False,
            phases=[Phase.generate, Phase.shrink],
            report_multiple_bugs=False,
            **more,
        ),
    )


def test_the_core_does_what_the_model_allows() -> None:
    run(150, 50, derandomize=True, database=None)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
def test_the_core_does_what_the_model_allows_for_long() -> None:
    run(20_000, 100)
