"""A tree in memory: a dispatcher, relays, and behind each a dispatcher with daemons of its own.

Everything happens in an order that a seed chooses: messages take as long as they like, but those
on one way keep their order.  Whatever happens, each task has one answer, and it is its own.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, field

import pytest

from dispatcher import wire
from dispatcher.core import Dispatcher
from dispatcher.events import Event, Joined, Lost, Role, Send
from dispatcher.messages import (
    VERSION,
    Cancel,
    Crash,
    Done,
    Everywhere,
    Function,
    Hello,
    Interrupt,
    Kind,
    Message,
    Outcome,
    Recall,
    Results,
    Returned,
    Run,
    Submit,
    Task,
)
from mirai._relayed import Relayed

CLIENT = 1
CRASH = Crash("the daemon died", -9)
GAPS = (0.0, 1e-4, 0.001, 0.01, 0.1)
SECONDS = (1e-6, 1e-6, 0.001, 0.01, 1.0)


@dataclass
class Core:
    """A dispatcher, what it is still to hear, and what it has said to whom."""

    core: Dispatcher = field(default_factory=Dispatcher)
    events: deque[tuple[int, Event]] = field(default_factory=deque)
    sent: dict[int, deque[Message]] = field(default_factory=dict)

    def hear(self, peer: int, event: Event) -> None:
        self.events.append((peer, event))

    def turn(self, count: int, now: float) -> None:
        """Let it take in so many events, and say what it has to say."""
        events = [self.events.popleft() for _ in range(min(count, len(self.events)))]
        for command in self.core.handle(events, now):
            if isinstance(command, Send):
                self.sent.setdefault(command.peer, deque()).append(command.message)
        self.core.check()
        assert not self.core.report(now).rejected


class Worker:
    """A daemon: honest, and as slow as it likes."""

    def __init__(self, peer: int, home: Core) -> None:
        self.peer, self.home = peer, home
        self.waiting: list[tuple[int, bytes]] = []
        self.done: Counter[bytes] = Counter()
        home.hear(peer, Joined(Role.DAEMON, Hello(VERSION, "far", peer)))

    def read(self) -> bool:
        inbox = self.home.sent.get(self.peer)
        if not inbox:
            return False
        match inbox.popleft():
            case Run(tasks):
                self.waiting += [(one.id, one.payload) for some in tasks for one in some.each()]
            case Recall(ids):
                behind = {key for key, _ in self.waiting[1:]} & set(ids)
                self.drop(behind)
                self.home.hear(self.peer, Returned(tuple(sorted(behind))))
            case Interrupt(ids):
                gone = {key for key, _ in self.waiting} & set(ids)
                self.drop(gone)
                outcomes = tuple(Outcome(key, Kind.CANCELLED) for key in sorted(gone))
                self.home.hear(self.peer, Done(outcomes))
        return True

    def drop(self, keys: set[int]) -> None:
        self.waiting = [entry for entry in self.waiting if entry[0] not in keys]

    def work(self, count: int, seconds: float) -> bool:
        done, self.waiting = self.waiting[:count], self.waiting[count:]
        self.done.update(payload for _, payload in done)
        outcomes = [Outcome(key, Kind.VALUE, b"v" + payload, (), seconds) for key, payload in done]
        if outcomes:
            self.home.hear(self.peer, Done(tuple(wire.runs(outcomes))))
        return bool(outcomes)


class Relay:
    """A relay, whose daemons are there from the start."""

    def __init__(self, peer: int, above: Core, width: int) -> None:
        self.peer, self.above, self.below = peer, above, Core()
        self.relayed = Relayed(width)
        self.below.hear(CLIENT, Joined(Role.CLIENT, Hello(VERSION)))
        self.workers = [Worker(number, self.below) for number in range(10, 10 + width)]
        above.hear(peer, Joined(Role.DAEMON, Hello(VERSION, "relay", peer, width=width)))

    def pass_on(self, messages: int) -> bool:
        """Hear so many messages of each side, and say what comes of it."""
        heard = False
        for _ in range(messages):
            if inbox := self.below.sent.get(CLIENT):
                self.relayed.hear_from_below(inbox.popleft())
                heard = True
            if inbox := self.above.sent.get(self.peer):
                self.relayed.hear_from_above(inbox.popleft())
                heard = True
        for message in self.relayed.downwards:
            self.below.hear(CLIENT, message)
        if self.relayed.outcomes:
            self.above.hear(self.peer, Done(tuple(self.relayed.outcomes)))
        for message in self.relayed.upwards:
            self.above.hear(self.peer, message)
        for said in (self.relayed.downwards, self.relayed.outcomes, self.relayed.upwards):
            said.clear()
        return heard

    def crash(self, worker: Worker) -> None:
        """A daemon dies, and another takes its place."""
        self.workers.remove(worker)
        self.below.hear(worker.peer, Lost(CRASH))
        self.below.sent.pop(worker.peer, None)
        self.workers.append(Worker(worker.peer + 10, self.below))


class Tree:
    """All of it, and what its one client knows."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self.top = Core()
        self.last = 0
        self.pending: dict[int, bytes] = {}
        self.top.hear(CLIENT, Joined(Role.CLIENT, Hello(VERSION)))
        self.top.hear(CLIENT, Submit((), (Function(1, "f", b"f"),)))
        self.relays = [
            Relay(100 + number, self.top, self.draw.choice([2, 3, 8])) for number in range(3)
        ]

    def submit(self) -> None:
        count = self.draw.choice([1, 1, 3, 40])
        payloads = [b"%d" % id for id in range(self.last + 1, self.last + 1 + count)]
        one = Task(self.last + 1, 1, payloads[0], following=tuple(payloads[1:]))
        self.last += count
        self.pending |= dict(enumerate(payloads, one.id))
        self.top.hear(CLIENT, Submit((one,)))

    def cancel(self) -> None:
        ids = self.draw.sample([*self.pending], min(3, len(self.pending)))
        for id in ids:
            del self.pending[id]
        self.top.hear(CLIENT, Cancel(tuple(ids)))

    def everywhere(self) -> None:
        ids = range(self.last + 1, self.last + 1 + len(self.relays))
        self.last += len(self.relays)
        self.pending |= dict.fromkeys(ids, b"all")
        self.top.hear(CLIENT, Everywhere(tuple(ids), Task(0, 1, b"all")))

    def read(self) -> bool:
        """Have the client hear its answers."""
        inbox = self.top.sent.get(CLIENT, deque())
        heard = bool(inbox)
        while inbox:
            message = inbox.popleft()
            for outcome in message.outcomes if isinstance(message, Results) else ():
                for index, payload in enumerate((outcome.payload, *outcome.following)):
                    self.settle(outcome.id + index, payload, outcome)
        return heard

    def settle(self, id: int, answer: bytes, outcome: Outcome) -> None:
        payload = self.pending.pop(id, None)
        if outcome.kind is Kind.CRASHED:
            assert outcome.crash == CRASH
        elif payload is not None:
            assert (outcome.kind, answer) == (Kind.VALUE, b"v" + payload)

    def step(self) -> bool:
        """Have somebody do what there is to do; return whether it was anything."""
        relay = self.draw.choice(self.relays)
        worker = self.draw.choice(relay.workers)
        self.now += self.draw.choice(GAPS)
        few = self.draw.choice([1, 2, 100])
        match self.draw.randrange(6):
            case 0:
                self.top.turn(few, self.now)
                return self.read()
            case 1:
                relay.below.turn(few, self.now)
                return False
            case 2:
                return relay.pass_on(few)
            case 3:
                return worker.read()
            case 4:
                return worker.work(few, self.draw.choice(SECONDS))
        return False

    def settled(self) -> bool:
        """Let all happen that can; return whether everything has its answer."""
        for _ in range(10_000):
            self.step()
            if not self.pending and not self.top.core.report(self.now).executing:
                return True
        return False


@pytest.mark.parametrize("seed", range(60))
def test_each_task_has_one_answer_and_its_own(seed: int) -> None:
    tree = Tree(seed)
    for _ in range(400):
        match tree.draw.randrange(40):
            case 0 | 1:
                tree.submit()
            case 2 if tree.pending:
                tree.cancel()
            case 3:
                tree.everywhere()
            case 4 if tree.draw.randrange(4) == 0:
                relay = tree.draw.choice(tree.relays)
                relay.crash(tree.draw.choice(relay.workers))
        tree.step()
    assert tree.settled()
    for relay in tree.relays:
        assert not relay.relayed
        assert not relay.below.core.report(tree.now).executing
    runs: Counter[bytes] = Counter()
    for relay in tree.relays:
        for worker in relay.workers:
            runs += worker.done
    del runs[b"all"]
    assert max(runs.values(), default=1) == 1, "a task has run twice"
