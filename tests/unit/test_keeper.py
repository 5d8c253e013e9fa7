"""The keeper, against clients that say whatever they like."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator

import pytest

from dispatcher.core import Dispatcher
from dispatcher.events import CutOff, Event, Joined, Lost, Role, Send
from dispatcher.keeper import Keeper, Restore
from dispatcher.messages import (
    KEY_BYTES,
    VERSION,
    Attach,
    Cancel,
    Crash,
    Discard,
    Done,
    Enlist,
    Fetched,
    Function,
    Hello,
    Kind,
    Look,
    Message,
    Outcome,
    Recall,
    Recount,
    Redo,
    Results,
    Returned,
    Run,
    Span,
    Submit,
    Task,
)
from dispatcher.records import Again, Ended, Enlisted, JobDropped, LetGo, Record, Retired


class Pool:
    """A core and a keeper; what it keeps of tasks' payloads is in memory."""

    def __init__(self) -> None:
        self.core, self.keeper = Dispatcher(), Keeper()
        self.runs: dict[int, Task] = {}
        self.jobs: defaultdict[int, list[Task]] = defaultdict(list)
        self.now = 0.0
        self.hands: dict[int, dict[int, Task]] = {}
        self.cut: set[int] = set()
        self.ended: set[int] = set()  # serials whose outcomes are in the journal
        self.awaited: defaultdict[int, set[int]] = defaultdict(set)  # client -> its ids

    def turn(self, *events: tuple[int, Event]) -> None:
        """Let these come at once."""
        self.now += 0.001
        self.keeper.take([each for each in events if each[0] not in self.cut], self.now)
        for restore in self._wanted():
            self.keeper.restore(self.runs[restore.run], restore.span)
        commands = self.keeper.give(self.core.handle(self.keeper.events(), self.now), self.now)
        for record in self.keeper.records():
            self._save(record)
        for told in self.keeper.recitals():
            assert self.ended.issuperset(told.span.numbers), "what is not in the journal is told"
            self.awaited[told.peer] -= {*range(told.id, told.id + told.span.count)}
        self.core.check()
        for command in commands:
            assert not isinstance(command, CutOff) or command.peer > 0, "a job is cut off"
        cut = [command.peer for command in commands if isinstance(command, CutOff)]
        for command in commands:
            if isinstance(command, Send):
                self._hear(command.peer, command.message)
        for each in cut:
            self.turn((each, Lost(Crash("it was cut off"))))
            self.cut.add(each)
        self.keeper.check()

    def _save(self, record: Record) -> None:
        match record:
            case Enlisted(job, task):
                self.runs[task.id] = task
                self.jobs[job].append(task)
            case Ended(outcome):
                ended = {*range(outcome.id, outcome.id + outcome.count)}
                assert self.ended.isdisjoint(ended), "a task ends twice"
                self.ended |= ended
            case Again(first, count) | LetGo(first, count):
                self.ended -= {*range(first, first + count)}
            case Retired(first):
                self.ended -= {*range(first, first + self.runs[first].count)}
            case JobDropped(number):
                for task in self.jobs.pop(number, ()):
                    self.ended -= {*range(task.id, task.id + task.count)}

    def _wanted(self) -> Iterator[Restore]:
        for restore in self.keeper.wanted():
            if restore.run not in self.runs:  # it came in this very turn
                for record in self.keeper._records:
                    if isinstance(record, Enlisted):
                        self.runs[record.task.id] = record.task
            yield restore

    def _hear(self, peer: int, message: Message) -> None:
        hand = self.hands.setdefault(peer, {})
        if isinstance(message, Run):
            hand.update((each.id, each) for task in message.tasks for each in task.each())
        elif isinstance(message, Recall):
            free = [id for id in message.ids if hand.pop(id, None) is not None]
            self.turn((peer, Returned(tuple(free))))
        elif isinstance(message, Results):
            for told in message.outcomes:
                self.awaited[peer] -= {*range(told.id, told.id + told.count)}


F = Function(1, "f", b"f")


class Player:
    """A client that mostly says what it may."""

    def __init__(self, pool: Pool, draw: random.Random, peer: int) -> None:
        self.pool, self.draw, self.peer = pool, draw, peer
        self.next = 1
        pool.turn((peer, Joined(Role.CLIENT, Hello(VERSION))))
        pool.turn((peer, Submit((), (F,))))

    def say(self) -> tuple[int, Message]:
        """Return something to say."""
        acts = (self.enlist, self.enlist, self.enlist, self.attach, self.other, self.other)
        message = self.draw.choice(acts)()
        awaited = self.pool.awaited[self.peer]
        match message:
            case Enlist(tasks=tasks):
                awaited.update(id for task in tasks for id in range(task.id, task.id + task.count))
            case Attach(id, spans):
                awaited.update(range(id, id + sum(span.count for span in spans)))
            case Cancel(ids):
                awaited.difference_update(ids)
        return self.peer, message

    def _ids(self, count: int) -> int:
        if self.draw.random() < 0.02:
            return self.draw.randint(0, 20)  # most often one that is in use
        self.next += count + self.draw.randint(0, 1)
        return self.next - count

    def enlist(self) -> Message:
        draw = self.draw
        tasks, keys = [], []
        for _ in range(draw.randint(1, 2)):
            count = draw.randint(1, 4)
            following, retries = (b"x",) * (count - 1), draw.randint(0, 1)
            tasks.append(Task(self._ids(count), 1, b"x", retries=retries, following=following))
            keys += [draw.randint(0, 15).to_bytes(KEY_BYTES, "big") for _ in range(count)]
        known = draw.random() < 0.7
        job, version = draw.choice("ab"), draw.choice((b"v", b"w"))
        return Enlist(job, tuple(tasks), (), b"".join(keys) if known else b"", version, known)

    def attach(self) -> Message:
        first, count = self.draw.randint(1, 60), self.draw.randint(1, 6)
        return Attach(self._ids(count), (Span(first, count),))

    def other(self) -> Message:
        draw = self.draw
        ids = tuple(draw.randint(1, max(1, self.next)) for _ in range(draw.randint(0, 4)))
        return draw.choice(
            (
                Cancel(ids),
                Cancel(ids),
                Fetched((Span(draw.randint(1, self.next), draw.randint(1, 9)),)),
                Fetched((Span(1, self.next),)),
                Look(1, draw.choice(("a", None)), draw.random() < 0.5),
                Redo(1, draw.choice("ab")),
                Discard(1, draw.choice("ab"), draw.choice(((), (b"v",), (b"u",)))),
                Recount(1, draw.randint(1, self.next)),
            )
        )


class Worker:
    """A daemon that does something now and then."""

    def __init__(self, pool: Pool, draw: random.Random, peer: int) -> None:
        self.pool, self.draw, self.peer = pool, draw, peer
        pool.turn((peer, Joined(Role.DAEMON, Hello(VERSION))))

    def act(self, kind: Kind) -> list[tuple[int, Event]]:
        """End its first task in this way, or several at once."""
        hand = self.pool.hands.get(self.peer, {})
        ids = [*hand][:1]
        while kind is Kind.VALUE and ids and ids[-1] + 1 in hand and self.draw.random() < 0.8:
            ids.append(ids[-1] + 1)
        if not ids:
            return []
        for id in ids:
            del hand[id]
        again = kind is Kind.ERROR and self.draw.random() < 0.5
        following = (b"v",) * (len(ids) - 1)
        ended = Outcome(ids[0], kind, b"v", seconds=0.0001, again=again, following=following)
        return [(self.peer, Done((ended,)))]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_said_it_stands(seed: int) -> None:
    """Its state never contradicts itself, and who breaks the protocol is cut off alone."""
    draw, pool = random.Random(seed), Pool()
    players = [Player(pool, draw, 1), Player(pool, draw, 2)]
    workers = [Worker(pool, draw, 3), Worker(pool, draw, 4)]
    last = 4
    for _ in range(draw.randint(10, 120)):
        act = draw.random()
        if act < 0.9:
            some: list[tuple[int, Event]] = []
            for _ in range(draw.randint(1, 4)):
                if draw.random() < 0.55:
                    some.append(draw.choice(players).say())
                else:
                    kind = draw.choice((Kind.VALUE, Kind.VALUE, Kind.ERROR))
                    some += draw.choice(workers).act(kind)
            pool.turn(*some)
        elif act < 0.95:
            last += 1
            gone = draw.randrange(2)
            lost = Lost(Crash("gone"), draw.choice((0, None)))
            pool.turn((workers[gone].peer, lost), draw.choice(players).say())
            workers[gone] = Worker(pool, draw, last)
        for index, player in enumerate(players):
            if player.peer in pool.cut or (act > 0.95 and index == 0):
                pool.turn((player.peer, Lost(Crash("gone"))))
                last += 1
                players[index] = Player(pool, draw, last)
    while any(pool.hands.get(worker.peer) for worker in workers):
        for worker in workers:
            pool.turn(*worker.act(Kind.VALUE))
    for report in pool.keeper.reports():
        assert (report.running, report.waiting) == (0, 0)
    for player in players:
        if player.peer not in pool.cut:
            assert not pool.awaited[player.peer], "a client waits for ever"


class TestExpiry:
    def test_only_what_is_over_for_long_goes(self) -> None:
        pool = Pool()
        pool.keeper = Keeper(time_to_live=10.0)
        pool.turn((1, Joined(Role.CLIENT, Hello(VERSION))))
        pool.turn((3, Joined(Role.DAEMON, Hello(VERSION))))
        f = Function(1, "f", b"f")
        pool.turn((1, Enlist("a", (Task(1, 1, b"x"), Task(2, 1, b"y")), (f,), stays=True)))
        [id, *_] = pool.hands[3]
        pool.turn((3, Done((Outcome(id, Kind.VALUE, b"v"),))))
        pool.keeper.expire(9.0)
        [report] = pool.keeper.reports()
        assert (report.done, report.running + report.waiting) == (1, 1)
        pool.keeper.expire(11.0)
        [report] = pool.keeper.reports()
        assert (report.done, report.running + report.waiting) == (0, 1)
        pool.keeper.check()
