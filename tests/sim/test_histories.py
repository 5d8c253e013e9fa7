"""Seeded random histories of a whole pool in memory, with what must hold after every step.

Messages are as late as can be, overtake those of other connections, come twice, or are lost with
their connection; daemons die, are cut off, and leave; clients leave, and break the rules; tasks
submit tasks and wait for them, run out of time, and are tried again; and the pool may be drained.

A failing history prints its seed and its story: every step that it made.  It is replayed by

    HISTORY=17 pytest tests/sim/test_histories.py -k replay

Some are in every run of the tests, 10,000 in CI, and a million by name, in half a day of one core:

    pytest -n 2 tests/sim/test_histories.py -m thorough
    pytest -n 2 tests/sim/test_histories.py -m slow
"""

from __future__ import annotations

import os
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import pytest

from dispatcher.core import PATIENCE, Dispatcher
from dispatcher.events import (
    Command,
    CutOff,
    Event,
    Kill,
    Lost,
    Send,
)
from dispatcher.messages import (
    Cancel,
    Done,
    Kind,
    Outcome,
    Recall,
    Results,
    Returned,
    Run,
    Scale,
    Submit,
    Task,
)
from mirai import (
    DaemonCrashed,
    DispatcherLost,
    Mirai,
    ProtocolError,
    RemoteError,
    SerializationError,
    TaskCancelled,
    TaskTimeout,
)
from mirai._options import TaskOptions
from mirai.testing import Move, World

FEW, MORE, MANY = 250, 2_000, 1_000_000
"""How many histories are run by default, in CI, and by name."""
BATCH = 25
"""How many of them a test runs by default."""
STEPS = 160
NOBODYS = Outcome(10**9, Kind.VALUE, b"?")  # no task has this key
GRACE = 0.5
KNOWN_FUNCTIONS = 3  # so few that functions are forgotten and sent again all the time

# ── tasks ────────────────────────────────────────────────────────────────────────────────

calls: Counter[int] = Counter()  # how often each token's task was called, on whatever daemon
visits: Counter[tuple[int, int]] = Counter()  # and on which, if it was one for every daemon
here = 0  # the peer that moves


def give(token: int) -> int:
    calls[token] += 1
    return -token


def visit(token: int) -> int:
    visits[token, here] += 1
    return -token


def give_as(token: int, *, variety: int) -> int:
    """Behind a partial, each variety is another function on the wire."""
    return give(token) + 0 * variety


def give_much(token: int) -> bytes:
    give(token)
    return bytes(100_000) + str(token).encode()


def take_much(token: int, data: bytes) -> int:
    return give(token) + (len(data) - 100_000)


def fail(token: int) -> None:
    give(token)
    raise LookupError(token)


def leave(token: int) -> None:
    give(token)
    raise SystemExit(token)


def strike(token: int) -> None:
    give(token)
    raise KeyboardInterrupt(token)


def give_lock(token: int) -> Any:
    give(token)
    return threading.Lock()


def fail_first(token: int) -> int:
    give(token)
    if calls[token] == 1:
        raise LookupError(token)
    return -token


async def give_later(token: int) -> int:
    return give(token)


def much(token: int) -> bytes:
    return bytes(100_000) + str(token).encode()


Expected = Callable[[int], Any]


@dataclass(frozen=True)
class Sort:
    """A sort of task: what is called, and the value or the class of the error to expect."""

    fn: Callable[..., Any]
    value: Expected | None = None
    error: type[BaseException] | None = None
    args: tuple[Any, ...] = ()
    retry_on: tuple[type[BaseException], ...] = ()


PLAIN = Sort(give, lambda token: -token)
SORTS = [
    *[Sort(partial(give_as, variety=variety), lambda token: -token) for variety in range(6)],
    Sort(give_much, much),
    Sort(take_much, lambda token: -token, args=(bytes(100_000),)),
    Sort(fail, error=LookupError),
    Sort(fail, error=LookupError, retry_on=(LookupError,)),
    Sort(fail_first, lambda token: -token, retry_on=(LookupError,)),
    Sort(leave, error=RemoteError),
    Sort(strike, error=RemoteError),
    Sort(give_lock, error=SerializationError),
    Sort(give_later, lambda token: -token),
]

# ── what must hold ───────────────────────────────────────────────────────────────────────


def check_functions(core: Dispatcher) -> None:
    """Uses and holders of functions are counted rightly, and no more are kept than needed."""
    jobs = [job for client in core._clients.values() for job in client.jobs.values()]
    waiting = [job for job in jobs if job.waiting]
    in_hand = [job for daemon in core._daemons.values() for job in daemon.hand.values()]
    uses = Counter(job.function for job in waiting + in_hand)
    uses.update(standing.function for standing in core._standing)
    named = {entry for client in core._clients.values() for entry in client.functions.values()}
    for entry in named | set(uses):
        assert entry.uses == uses[entry], "uses are miscounted"
        assert entry.forgotten == (entry not in named)
    for peer, daemon in core._daemons.items():
        assert daemon.knows <= named | set(uses), "a daemon holds a function that nobody needs"
        assert {job.function for job in daemon.hand.values()} <= daemon.knows
        for entry in daemon.knows:
            assert peer in entry.holders, "a daemon would never be told to forget"
    for entry in named | set(uses):
        for peer in entry.holders:
            assert entry in core._daemons[peer].knows, "a daemon that is gone holds a function"


def check_load(core: Dispatcher) -> None:
    """What a daemon has in hand costs what the core thinks."""
    for daemon in core._daemons.values():
        cost = sum(job.cost for job in daemon.hand.values())
        assert daemon.load == pytest.approx(cost, abs=1e-9)


def check_order(core: Dispatcher, commands: Sequence[Command]) -> None:
    """Whoever is given work gets the oldest of the most urgent that he may have of its client."""
    tasks = [
        (core._daemons[command.peer], task)
        for command in commands
        if isinstance(command, Send) and isinstance(command.message, Run)
        for task in command.message.tasks
    ]
    if not tasks:
        return
    oldest: dict[tuple[int, int, int, tuple[str, ...]], int] = {}
    for number, client in core._clients.items():
        for job in client.jobs.values():
            if job.waiting:
                sort = (number, job.depth, job.task.priority, job.task.tags)
                oldest[sort] = min(job.key, oldest.get(sort, job.key))
    for daemon, task in tasks:
        job = daemon.hand[task.id]
        assert job.pinned or daemon.tags.issuperset(task.tags), "a tag that it does not carry"
        for (client, depth, priority, tags), older in oldest.items():
            fits = client == job.client and daemon.tags.issuperset(tags)
            deeper = depth > job.depth > 0  # the outermost take turns with the deepest
            earlier = (-priority, older) < (-task.priority, job.key) and depth == job.depth
            late = fits and (deeper or earlier)
            assert job.pinned or not late, "one went first that should not have"


def check_drained(world: World) -> None:
    """Nothing is left anywhere, on any side."""
    core = world.core
    assert not core._queue
    assert not any(client.jobs for client in core._clients.values())
    assert not any(daemon.hand or daemon.recalled for daemon in core._daemons.values())
    assert not core._silent and not core._stubborn and core.next_deadline() is None
    assert not core._mail and not core._commands
    assert (
        not core._lending and not core._told_of and not core._doubtful and not core._timeouts._heap
    )
    assert not any(standing.ids for standing in core._standing)
    assert not any(client.pending for client in world.clients.values())
    for number, daemon in core._daemons.items():
        kept = {entry.definition.number for entry in daemon.knows} | set(daemon.forget)
        known = world.daemons[number].evaluator._definitions
        assert set(known) == kept, "the daemon and the core disagree on what it knows"
        assert not world.daemons[number].can_begin() and not world.daemons[number].can_end()


# ── a history ────────────────────────────────────────────────────────────────────────────


@dataclass(eq=False)
class Sent:
    """A task, and what the history has done to it."""

    token: int
    sort: Sort
    client: int
    mirai: Mirai[Any]
    options: TaskOptions = field(default_factory=TaskOptions)
    since: float = 0.0
    """When it was submitted."""
    settled: int = 0
    cancelled: bool = False
    nested: bool = False

    def may_run(self) -> int:
        """Return how often it may be called."""
        return 1 + self.options.retries


class Place(World):
    """A world whose tasks can see where they are."""

    def move(self, move: Move) -> None:
        global here
        here = move.peer
        super().move(move)


TAGS: list[tuple[str, ...]] = [(), (), (), ("a",), ("b",), ("a", "b")]


class History:
    """One pool's life, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.story: list[str] = [f"seed {seed}"]
        self.kept, self.spare = self.random.choice([(0, 0), (0, 0), (1, 1), (2, 1), (2, 3)])
        self.world = Place(
            grace=GRACE,
            kept=self.kept,
            spare=self.spare,
            known_functions=KNOWN_FUNCTIONS,
            watch=self.watch,
        )
        self.sent: list[Sent] = []
        self.by_token: dict[int, Sent] = {}
        self.standing: list[tuple[int, int]] = []  # calls for every daemon: token and client
        self.answered: Counter[tuple[int, int]] = Counter()  # by client and task id
        self.refused: set[int] = set()  # clients that broke the protocol
        self.died_blind = False  # a daemon without a watermark died
        self.lost_return = False  # a daemon died, and what it had handed back was lost
        self.drained = False
        self.done_keys: list[int] = []  # of tasks that a daemon has answered
        self.seen: Counter[str] = Counter()  # what has happened in it, for its own test
        for _ in range(2):
            self.world.add_client()
            self.add_daemon()

    # ── after each call of the core ──────────────────────────────────────────────────────

    def watch(self, events: Sequence[tuple[int, Event]], commands: Sequence[Command]) -> None:
        core = self.world.core
        core.check()
        check_functions(core)
        check_load(core)
        check_order(core, commands)
        for peer, event in events:
            self.seen[type(event).__name__] += 1
            if isinstance(event, Lost) and peer in self.world.daemons:
                self.died_blind |= event.started is None
                self.seen["Lost after a start"] += bool(event.started)
            if isinstance(event, Done):
                self.done_keys += [outcome.id for outcome in event.outcomes]
        for command in commands:
            self.seen[type(command).__name__] += 1
            if isinstance(command, Send):
                self.seen[type(command.message).__name__] += 1
            if isinstance(command, Send) and isinstance(command.message, Results):
                for outcome in command.message.outcomes:
                    self.answered[command.peer, outcome.id] += 1
                    self.seen[outcome.kind.name] += 1

    def check(self) -> None:
        """What holds at any time."""
        assert max(visits.values(), default=0) <= 1, "a daemon was called twice"
        for token, count in calls.items():
            assert count == 1 or count <= self.by_token[token].may_run(), "a task ran twice"
        assert max(self.answered.values(), default=0) <= 1, "a task was answered twice"
        for sent in self.sent:
            assert sent.settled == sent.mirai.done()

    # ── what may happen ──────────────────────────────────────────────────────────────────

    def run(self) -> None:
        """Live, then come to rest, then fold up; check all the way."""
        calls.clear()
        visits.clear()
        deeds = [
            (40, self.move),
            (8, self.hear_many),
            (12, self.submit),
            (5, self.cancel),
            (4, self.pass_time),
            (1, self.kill),
            (1, self.depart),
            (1, self.add_daemon),
            (1, self.repeat),
            (3, self.nest),
            (0.7, self.everywhere),
            (0.3, self.cut),
            (0.3, self.leave),
            (0.03, self.drain),
            (0.1, self.break_the_rules),
        ]
        with self.world:
            for _ in range(STEPS):
                [deed] = self.random.choices(
                    [deed for _, deed in deeds], [weight for weight, _ in deeds]
                )
                self.tell(deed.__name__)
                deed()
                self.check()
            self.rest()
            self.fold()

    def tell(self, what: str) -> None:
        self.story.append(f"{self.world.clock.now:.4f} {what}")

    def living(self) -> list[int]:
        return [number for number, peer in self.world.daemons.items() if peer.alive]

    def clients(self) -> list[int]:
        return [number for number, peer in self.world.clients.items() if peer.alive]

    def hosts(self) -> list[int]:
        """Return the clients that are in no daemon."""
        inner = [each for daemon in self.world.daemons.values() for each in daemon.clients]
        return [number for number in self.clients() if self.world.clients[number] not in inner]

    def move(self) -> None:
        moves = self.world.moves()
        if moves:
            move = self.random.choice(moves)
            self.tell(f"  {move}")
            self.world.move(move)

    def hear_many(self) -> None:
        """Much arrives in one turn of the dispatcher, up to the news of somebody's end."""
        heard = [move.peer for move in self.world.moves() if move.verb == "hear"]
        if heard:
            peers = self.random.choices(heard, k=self.random.randint(1, 6))
            self.tell(f"  hear {peers}")
            self.world.hear(*peers)

    def submit(self) -> None:
        if not self.hosts():
            self.world.add_client()
        client = self.random.choice(self.hosts())
        for _ in range(self.random.choice([1, 1, 1, 2, 5, 30])):
            self.send(client)

    def send(self, client: int) -> Sent:
        sort = PLAIN if self.random.random() < 0.8 else self.random.choice(SORTS)
        token = len(self.by_token) + 1
        options = self.draw_options(sort)
        mirai = self.world.submit_with(options, client, sort.fn, token, *sort.args)
        sent = Sent(token, sort, client, mirai, options, self.world.clock.now)
        self.by_token[token] = sent
        return self.keep(sent)

    def draw_options(self, sort: Sort) -> TaskOptions:
        draw = self.random.random
        retries = self.random.randint(1, 3) if sort.retry_on or draw() < 0.15 else 0
        return TaskOptions(
            tags=self.random.choice(TAGS) if draw() < 0.2 else (),
            priority=self.random.randint(-1, 1) if draw() < 0.2 else 0,
            timeout=self.random.choice([PATIENCE, GRACE, 10.0]) if draw() < 0.1 else None,
            retries=retries,
            retry_on=sort.retry_on,
        )

    def keep(self, sent: Sent) -> Sent:
        sent.mirai.add_done_callback(partial(self.count, sent))
        self.sent.append(sent)
        return sent

    def nest(self) -> None:
        """A task that runs submits some of its own, and waits for them, or not."""
        running = [number for number in self.living() if self.world.daemons[number].is_running()]
        if not running:
            return
        number = self.random.choice(running)
        daemon = self.world.daemons[number]
        inside = [each for each in self.clients() if self.world.clients[each] in daemon.clients]
        if not inside or self.random.random() < 0.1:
            inside = [self.world.add_client(inside=number)]
        self.tell(f"  in daemon {number}")
        waits = self.random.random() < 0.8
        for _ in range(self.random.choice([1, 1, 2, 5])):
            sent = self.send(inside[0])
            sent.nested = True
            if waits:
                daemon.awaited.append(sent.mirai)

    def everywhere(self) -> None:
        if self.hosts():
            client, token = self.random.choice(self.hosts()), -1 - len(self.standing)
            answers = self.random.randint(0, len(self.living()))
            sort = Sort(visit, lambda token: -token)
            mirais = self.world.everywhere(client, answers, visit, token)
            self.standing.append((token, client))
            for mirai in mirais:
                self.keep(Sent(token, sort, client, mirai))

    def drain(self) -> None:
        self.drained = True
        self.world.drain()

    def count(self, sent: Sent, _: object) -> None:
        sent.settled += 1

    def cancel(self) -> None:
        if self.sent:
            sent = self.random.choice(self.sent[-40:])
            was_done = sent.mirai.done()
            assert self.world.cancel(sent.mirai) == (not was_done or sent.mirai.cancelled())
            sent.cancelled |= not was_done
            self.tell(f"  task {sent.token} of client {sent.client}")

    def pass_time(self) -> None:
        seconds = self.random.choice([1e-5, 1e-3, PATIENCE / 2, PATIENCE, GRACE / 2, GRACE])
        self.world.step(seconds)

    def kill(self) -> None:
        if self.living():
            number = self.random.choice(self.living())
            daemon = self.world.daemons[number]
            sent = daemon.link.up.in_flight()
            arriving = self.random.randint(0, len(sent))
            # If that is lost, what was handed back looks as if it had begun before the others.
            self.lost_return |= any(isinstance(each, Returned) for each in sent[arriving:])
            self.tell(f"  daemon {number}, {arriving} of {len(sent)} messages arrive")
            self.world.kill(number, arriving)

    def cut(self) -> None:
        """A daemon's connection breaks, and what has been sent on it may be lost."""
        if self.living():
            number = self.random.choice(self.living())
            sent = self.world.daemons[number].link.up.in_flight()
            arriving = self.random.randint(0, len(sent))
            self.lost_return |= any(isinstance(each, Returned) for each in sent[arriving:])
            self.tell(f"  daemon {number}, {arriving} of {len(sent)} messages arrive")
            self.world.cut(number, arriving)

    def depart(self) -> None:
        """A daemon wants to leave; another one comes, lest there be none."""
        if living := self.living():
            self.world.depart(self.random.choice(living))
            self.add_daemon()

    def add_daemon(self) -> None:
        if len(self.living()) < 4:
            tags = self.random.choice(TAGS)
            self.world.add_daemon(watermark=self.random.random() < 0.9, tags=tags)

    def repeat(self) -> None:
        """Answers that come late, twice, for tasks of others or for none are dropped."""
        wrong = (*(Outcome(key, Kind.VALUE, b"?") for key in self.done_keys[-5:]), NOBODYS)
        for number in self.living():
            self.say(number, Done(wrong))
            self.say(number, Returned(tuple(outcome.id for outcome in wrong)))
        for number in self.clients():
            done = [sent.mirai.id for sent in self.sent if sent.client == number and sent.settled]
            self.say(number, Cancel((*done[-3:], *done[-3:], NOBODYS.id)))

    def say(self, number: int, message: Any) -> None:
        peer = self.world.clients.get(number) or self.world.daemons[number]
        peer.link.up.send(message)

    def leave(self) -> None:
        if self.clients():
            number = self.random.choice(self.clients())
            arriving = self.random.randint(0, len(self.world.clients[number].link.up))
            for sent in self.sent:
                sent.cancelled |= sent.client == number and not sent.mirai.done()
            self.tell(f"  client {number}")
            self.world.leave(number, arriving)

    def break_the_rules(self) -> None:
        if self.clients():
            number = self.random.choice(self.clients())
            self.refused.add(number)
            bad = [Submit((Task(1, 10**6, b""),)), Submit((), (), (10**6,))]
            if self.random.random() < 0.3:
                self.world.clients[number].link.up.send_frames([b"nonsense", b""])
            else:
                self.say(number, self.random.choice(bad))

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def rest(self) -> None:
        """With a daemon alive, everything that was sent is answered."""
        self.tell("rest")
        self.world.add_daemon(tags=("a", "b"))
        if not self.hosts():
            self.world.add_client()
        self.world.settle()
        while self.has_unanswered():
            self.tell("help")
            self.help()
            self.world.settle()
        self.check()
        check_drained(self.world)
        assert self.world.halted == self.drained
        for sent in self.sent:
            self.check_answer(sent)
        cancelled = {sent.token for sent in self.sent if sent.cancelled}
        for number in self.staying():
            for token, client in self.standing:
                wanted = client in self.world.core._clients and not self.drained
                wanted = wanted and token not in cancelled
                assert visits[token, number] or not wanted, "a daemon was left out"

    def has_unanswered(self) -> bool:
        return any(client.pending for client in self.world.clients.values())

    def staying(self) -> list[int]:
        daemons = self.world.core._daemons
        return [number for number in self.living() if not daemons[number].leaving]

    def help(self) -> None:
        """Have daemons come that are to be expected, and nobody hope for more than that."""
        staying = self.staying()
        wanted = self.kept + min(self.spare, self.world.lent) if self.kept else 0
        core = self.world.core
        waiting = [job for client in core._clients.values() for job in client.jobs.values()]
        if len(staying) < wanted:
            self.world.add_daemon()
        elif any(standing.ids for standing in core._standing):
            self.kept = len(staying)
            self.say(self.hosts()[0], Scale(self.kept))
        else:
            carried = [core._daemons[number].tags for number in staying]
            fit = [any(tags.issuperset(job.task.tags) for tags in carried) for job in waiting]
            assert not all(fit), "everybody waits for ever"
            self.world.add_daemon(tags=("a", "b"))

    def check_answer(self, sent: Sent) -> None:
        assert sent.settled == 1
        error = sent.mirai.exception()
        self.seen[type(error).__name__] += 1
        self.seen["nested " * sent.nested + type(error).__name__] += 1
        everywhere = sent.sort.fn is visit
        called = 1 if everywhere else calls[sent.token]
        if isinstance(error, TaskCancelled) or sent.mirai.cancelled():
            assert sent.cancelled or everywhere or sent.nested
        elif isinstance(error, TaskTimeout):
            assert sent.options.timeout is not None
            assert self.world.clock.now >= sent.since + sent.options.timeout
        elif isinstance(error, DaemonCrashed):
            alone = sent.nested and "wait for tasks that their own" in str(error)
            self.seen["stuck"] += alone
            assert called or self.died_blind or self.lost_return or alone, "it had not started"
            assert alone or everywhere or error.attempt == sent.may_run()
        elif isinstance(error, (ProtocolError, DispatcherLost)):
            assert sent.client in self.refused or self.drained or sent.nested
        else:
            assert 1 <= called <= sent.may_run()
            self.seen["tried again"] += called > 1
            self.check_value(sent, error)

    def check_value(self, sent: Sent, error: BaseException | None) -> None:
        """Check what has come of a task that came to its end."""
        unseen = self.died_blind or self.lost_return  # runs may be counted that never began
        if error is None:
            assert sent.sort.value is not None
            assert sent.mirai.result() == sent.sort.value(sent.token)
        elif sent.sort.retry_on:
            assert isinstance(error, sent.sort.retry_on)
            assert unseen or (sent.sort.error and calls[sent.token] == sent.may_run())
        else:
            assert sent.sort.error is not None
            assert isinstance(error, sent.sort.error)

    def fold(self) -> None:
        """When the clients have gone, nothing of theirs is left."""
        self.tell("fold")
        for number in self.clients():
            self.world.leave(number)
        self.world.settle()
        core = self.world.core
        check_drained(self.world)
        assert not core._clients
        assert not any(daemon.knows for daemon in core._daemons.values())
        assert not core._queue._levels


def live(seed: int) -> History:
    """Run one history; if it fails, say how it went."""
    history = History(seed)
    try:
        history.run()
    except BaseException:
        traceback.print_exc()
        pytest.fail("\n".join(history.story))
    return history


def live_all(seeds: range) -> None:
    for seed in seeds:
        live(seed)


@pytest.mark.parametrize("first", range(0, FEW, BATCH))
def test_histories(first: int) -> None:
    live_all(range(first, first + BATCH))


@pytest.mark.thorough
@pytest.mark.timeout(600)
@pytest.mark.parametrize("first", range(FEW, MORE, FEW))
def test_more_histories(first: int) -> None:
    live_all(range(first, first + FEW))


@pytest.mark.slow
@pytest.mark.timeout(24 * 3_600)
@pytest.mark.parametrize("first", range(MORE, MANY, MORE))
def test_many_histories(first: int) -> None:
    live_all(range(first, first + MORE))


@pytest.mark.skipif("HISTORY" not in os.environ, reason="by name: HISTORY=<seed> pytest -k replay")
def test_replay() -> None:
    print("\n".join(live(int(os.environ["HISTORY"])).story))


def test_histories_are_reproducible() -> None:
    first, second = live(5), live(5)
    assert first.seen == second.seen
    assert [repr(sent.mirai) for sent in first.sent] == [repr(sent.mirai) for sent in second.sent]


def test_histories_meet_everything() -> None:
    """If a change of the core or of the deeds above makes them tame, this says so."""
    seen: Counter[str] = Counter()
    for seed in range(60):
        seen += live(seed).seen
    wanted = [Submit, Cancel, Done, Recall, Returned, Lost, Kill, CutOff]
    errors = [DaemonCrashed, TaskCancelled, TaskTimeout, LookupError]
    errors += [RemoteError, SerializationError]
    names = [kind.__name__ for kind in (*wanted, *errors)]
    news = ["Everywhere", "Drain", "Halt", "Lend", "DECLINED", "nested NoneType", "stuck"]
    news += ["tried again"]
    kinds = [Kind.VALUE.name, Kind.ERROR.name, Kind.CRASHED.name]
    for name in (*names, *kinds, "Interrupt", "NoneType", "Lost after a start", *news):
        assert seen[name], f"no {name} in any history"
