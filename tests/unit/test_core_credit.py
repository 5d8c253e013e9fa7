"""Credit and recall, held against the clock: who waits behind whom, and for how long.

A ``World`` whose daemons take the time that their tasks take, and whose messages take a little:
everybody does what he can as soon as he may, and in between the clock is stepped to the next
thing that happens.  What is promised is said in seconds as a user would measure them, and on
purpose not in the core's constants: else nobody would notice if these were wrong.

What waits in the core's queue does not wait beside an idle daemon: that is ``Dispatcher.check``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import cycle
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.events import Command, Event, Send
from dispatcher.jobs import Job
from dispatcher.messages import Recall, Results, Run
from mirai import DaemonCrashed, Mirai
from mirai._options import TaskOptions
from mirai.testing import Client, Daemon, Move, World

SOON = 0.010
"""Nothing waits for longer behind a task that is longer, while a daemon is idle that could do it.

That is for the patience of 6 ms, and eight messages or so on their way.
"""
SHORT = 0.016
"""Behind a task that should take less there is one more; one that is not known counts as this."""
CREDIT = 0.004
"""A daemon is given no more once what it has should take so long."""
HOP = 0.0005
"""What any message takes at most to be sent, to be heard, or to be read."""
TOLERANCE = 1e-7
TINY = 1e-9
MOST_TASKS = 500
MOST_DEATHS = 3

begun: list[int] = []
"""The tokens of the tasks that have begun, on whatever daemon."""


def f(token: int) -> int:
    begun.append(token)
    return -token


def g(token: int) -> int:
    return f(token)


def h(token: int) -> int:
    return f(token)


FUNCTIONS = (f, g, h)


# ── what users do, and when ──────────────────────────────────────────────────────────────


class Tasks(NamedTuple):
    """Tasks of one function are submitted at once, in a run."""

    client: int
    function: int
    count: int
    tags: tuple[str, ...]
    priority: int


class Cancels(NamedTuple):
    """Some of the tasks that are not answered are cancelled, one at a time or all at once."""

    pick: int
    count: int


class Death(NamedTuple):
    """A daemon is killed."""

    pick: int


class Arrival(NamedTuple):
    """A daemon joins."""

    tags: tuple[str, ...]


Act = Tasks | Cancels | Death | Arrival

LONG = 0.5
MISJUDGED = [[(1e-6, 21), (LONG, 1), (1e-6, 30)]]
"""The durations of a function that is quick at first; of 40 calls in two hands, one is slow."""

PICK = st.integers(0, 11)
TAGS = st.sampled_from([(), (), ("a",)])
ACTS = st.one_of(
    *[st.builds(Tasks, PICK, PICK, st.sampled_from([1, 2, 3, 20, 100]), TAGS, st.integers(0, 1))]
    * 3,
    st.builds(Cancels, PICK, st.sampled_from([1, 1, 3, 50])),
    st.builds(Death, PICK),
    st.builds(Arrival, TAGS),
)
GAPS = st.sampled_from([0.0, HOP, 0.002, 0.005, 0.02, 0.1])
SECONDS = st.sampled_from([1e-6, 1e-6, 1e-5, 2e-4, 1e-3, 0.005, 0.02, 0.3])
TIMES = st.sampled_from([1, 1, 3, 30])
DURATIONS = st.lists(st.tuples(SECONDS, TIMES), min_size=1, max_size=4)
DELAYS = st.lists(st.sampled_from([0.0, 1e-5, HOP / 3, HOP]), min_size=1, max_size=5)


# ── a world with a clock that runs ───────────────────────────────────────────────────────


class Course:
    """What happens in a world, in the order of time."""

    def __init__(
        self,
        clients: int,
        daemons: Sequence[tuple[str, ...]],
        durations: Sequence[Sequence[tuple[float, int]]],
        delays: Sequence[float] = (0.0,),
    ) -> None:
        """``durations`` are, for each function, those of its calls, each so many times."""
        begun.clear()
        self.world = World(watch=self.watch)
        self.delays = cycle(delays)
        self.durations = [
            cycle([seconds for seconds, times in some for _ in range(times)]) for some in durations
        ]
        self.constant = {  # functions that always take the same time, once they are known
            f"{__name__}.{function.__name__}": some[0][0]
            for function, some in zip(FUNCTIONS, durations, strict=False)
            if len(some) == 1
        }
        self.clients = [self.world.add_client() for _ in range(clients)]
        self.tags: dict[int, tuple[str, ...]] = {}  # that daemons carry
        for tags in daemons:
            self.join(tags)
        self.due: dict[Move, float] = {}
        self.mirais: list[Mirai[int]] = []  # by token, as all that is of a task
        self.seconds: list[float] = []  # that it takes in truth
        self.cancelled: dict[int, float] = {}  # since when
        self.doomed: set[int] = set()  # begun by a daemon that died
        self.by: dict[int, int] = {}  # the daemon that has begun it
        self.running: dict[int, tuple[int, float]] = {}  # by daemon: what, and since when
        self.idle: dict[int, float] = {}  # daemons with nothing to do, and since when
        self.costs: dict[int, float] = {}  # seconds that were expected of a task, by its key
        self.answers: Counter[tuple[int, int]] = Counter()  # by client and id
        self.deaths = 0

    @property
    def now(self) -> float:
        return self.world.clock.now

    # ── what is done to it ───────────────────────────────────────────────────────────────

    def act(self, act: Act) -> None:
        match act:
            case Tasks(pick, function, count, tags, priority):
                client = choose(self.clients, pick)
                number = function % len(self.durations)
                options = TaskOptions(tags=tags, priority=priority)
                for _ in range(min(count, MOST_TASKS - len(self.mirais))):
                    token = len(self.mirais)
                    self.seconds.append(next(self.durations[number]))
                    future = self.world.submit_with(options, client, FUNCTIONS[number], token)
                    self.mirais.append(future)
            case Cancels(pick, count):
                open_ = [token for token, each in enumerate(self.mirais) if not each.done()]
                for token in open_[pick % max(1, len(open_)) :][:count]:
                    assert self.world.cancel(self.mirais[token])
                    self.cancelled[token] = self.now
            case Death(pick):
                if self.living() and self.deaths < MOST_DEATHS:
                    self.deaths += 1
                    peer = choose(self.living(), pick)
                    self.doomed.update(token for token, by in self.by.items() if by == peer)
                    self.running.pop(peer, None)
                    self.world.kill(peer)
            case Arrival(tags):
                self.join(tags)

    def join(self, tags: tuple[str, ...]) -> None:
        self.tags[self.world.add_daemon(tags=tags)] = tags

    def run(self, until: float = math.inf) -> None:
        """Have everybody do what he can until then, or as long as anything happens."""
        while True:
            self.due = {
                move: self.due[move] if move in self.due else self.now + self.delay(move)
                for move in self.world.moves()
            }
            deadline = self.world.core.next_deadline()
            then = min([until, *self.due.values(), *([] if deadline is None else [deadline])])
            self.check(then)
            if then == math.inf:
                return
            self.world.clock.step(max(0.0, then - self.now))
            for move in [move for move, at in self.due.items() if at <= self.now]:
                del self.due[move]
                self.move(move)
            if deadline is not None and deadline <= self.now:
                self.world.step(TINY)  # for what is due has to be later, not at the same time
            if then == until and self.now >= until:
                return

    def delay(self, move: Move) -> float:
        match move.verb:
            case "begin":
                return 0.0
            case "end":
                return self.seconds[self.running[move.peer][0]]
            case _:
                return next(self.delays)

    def move(self, move: Move) -> None:
        world, peer = self.world, move.peer
        if move not in world.moves():
            return  # it was, before the last one was made
        match move.verb:
            case "hear":  # all that has come
                world.hear(*[peer] * (1 + MOST_TASKS))
            case "read":
                read(world.clients.get(peer) or world.daemons[peer])
                if peer in self.running and self.running[peer][0] in self.cancelled:
                    self.due[Move("end", peer)] = self.now
            case "begin":
                world.move(move)
                token = begun[-1]
                self.by[token], self.running[peer] = peer, (token, self.now)
                late = self.cancelled.get(token, self.now) + 3 * HOP
                assert self.now <= late + TOLERANCE, "it was cancelled, and begins"
            case "end":
                world.move(move)
                token, _ = self.running.pop(peer)
                late = self.cancelled.get(token, self.now) + 3 * HOP
                assert self.now <= late + TOLERANCE, "it was cancelled, and goes on"
            case _:
                world.move(move)

    # ── what must hold ───────────────────────────────────────────────────────────────────

    def living(self) -> list[int]:
        return [peer for peer, daemon in self.world.daemons.items() if daemon.alive]

    def watch(self, _: Sequence[tuple[int, Event]], commands: Sequence[Command]) -> None:
        core = self.world.core
        core.check()
        told = [(each.peer, each.message) for each in commands if isinstance(each, Send)]
        runs = [(core._daemons[peer].hand, run) for peer, run in told if isinstance(run, Run)]
        for hand, run in runs:
            for key in [one.id for task in run.tasks for one in task.each()]:
                function = hand[key].function
                seconds = function.estimate.seconds
                if seconds is not None:
                    seconds = self.constant.get(function.definition.name.split(":")[0], seconds)
                self.costs[key] = SHORT if seconds is None else seconds
        for hand, _ in runs:
            *before, _ = hand
            expected = sum(self.cost(key, hand[key]) for key in before)
            credit = CREDIT if len(before) > 1 else SHORT
            assert expected < credit + TOLERANCE, "it is given more than it has credit for"
        for peer, results in told:
            if isinstance(results, Results):
                for outcome in results.outcomes:
                    ids = range(outcome.id, outcome.id + outcome.count)
                    self.answers.update((peer, id) for id in ids)

    def cost(self, key: int, job: Job) -> float:
        """Return how long a task should take: as was known when it was given, or is known now."""
        return min(self.costs[key], job.function.estimate.seconds or SHORT)

    def check(self, then: float) -> None:
        """Nothing happens until then: see who has been waiting by that time."""
        living = self.living()
        for peer in living:
            daemon = self.world.daemons[peer]
            if daemon.is_running() or daemon.can_begin():
                self.idle.pop(peer, None)
            else:
                self.idle.setdefault(peer, self.now)
        idle = [
            set(self.tags[peer])
            for peer in living
            if then < math.inf and then - self.idle.get(peer, then) > SOON
        ]
        for peer, (token, since) in self.running.items() if idle else ():
            if then - since > SOON:
                for task in self.world.daemons[peer].hand._waiting:
                    fits = any(tags.issuperset(task.tags) for tags in idle)
                    assert not fits, f"{task.id} waits behind {token}, and somebody is idle"

    def end(self) -> None:
        """Let all that is to happen happen, and see that it was right."""
        self.run()
        if not any("a" in self.tags[peer] for peer in self.living()):
            self.act(Arrival(("a",)))
            self.run()
        assert max(Counter(begun).values(), default=0) <= 1, "one was begun twice"
        assert max(self.answers.values(), default=0) <= 1, "one was answered twice"
        for token, mirai in enumerate(self.mirais):
            assert mirai.done(), "one was not answered"
            assert mirai.cancelled() == (token in self.cancelled)
            if token in self.cancelled:
                continue
            error = mirai.exception()
            if error is None:
                assert mirai.result() == -token
            else:
                assert isinstance(error, DaemonCrashed) and token in self.doomed
        report = self.world.core.report(self.now)
        assert (report.awaiting, report.executing) == (0, 0)
        self.world.close()


def read(peer: Client | Daemon) -> None:
    while peer.can_read():
        peer.read()


def choose(peers: Sequence[int], pick: int) -> int:
    return peers[pick % len(peers)]


PLANS = given(
    clients=st.integers(1, 3),
    daemons=st.lists(TAGS, min_size=1, max_size=4),
    durations=st.lists(DURATIONS, min_size=1, max_size=3),
    delays=DELAYS,
    acts=st.lists(st.tuples(GAPS, ACTS), min_size=1, max_size=14),
)


def held(examples: int, **more: Any) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **more,
    )


def follow(
    clients: int,
    daemons: list[tuple[str, ...]],
    durations: list[list[tuple[float, int]]],
    delays: list[float],
    acts: list[tuple[float, Act]],
) -> None:
    course = Course(clients, daemons, durations, delays)
    for gap, act in acts:
        course.run(course.now + gap)
        course.act(act)
    course.end()


@held(150, derandomize=True, database=None)
@PLANS
def test_nobody_waits_for_long_behind_a_long_task_while_a_daemon_is_idle(**plan: Any) -> None:
    follow(**plan)


@pytest.mark.slow
@pytest.mark.timeout(3_600)
@held(20_000)
@PLANS
def test_nobody_does_in_many_plans(**plan: Any) -> None:
    follow(**plan)


class Noted(Course):
    """One that counts recalls."""

    recalls = 0

    def watch(self, events: Sequence[tuple[int, Event]], commands: Sequence[Command]) -> None:
        super().watch(events, commands)
        self.recalls += sum(
            isinstance(each, Send) and isinstance(each.message, Recall) for each in commands
        )


def test_a_long_task_among_tiny_ones_holds_up_none_of_them() -> None:
    """They are recalled once, and the other daemon has ended them long before it."""
    course = Noted(1, [(), ()], MISJUDGED)
    course.act(Tasks(0, 0, 1, (), 0))
    course.run(1.0)
    course.act(Tasks(0, 0, 40, (), 0))
    course.run(1.0 + HOP)
    running = {token for token, _ in course.running.values()}
    assert [course.seconds[token] for token in running] == [LONG]
    course.end()
    assert course.recalls == 1
    assert course.now - 1.0 < LONG + SOON


@pytest.mark.parametrize("seconds", [0.001, 0.005])
def test_tasks_that_were_thought_to_be_tiny_are_shared_all_the_same(seconds: float) -> None:
    """Half of a map is quick, the other half is not: whoever has that must not have it alone."""
    course = Course(1, [(), ()], [[(1e-6, 201), (seconds, 200)]])
    course.act(Tasks(0, 0, 1, (), 0))
    course.run(1.0)
    course.act(Tasks(0, 0, 400, (), 0))
    course.end()
    assert course.now - 1.0 < 1.2 * 200 * seconds / 2


def test_cancels_of_what_waits_do_not_put_off_the_recall_of_the_rest() -> None:
    course = Course(1, [(), ()], MISJUDGED)
    course.act(Tasks(0, 0, 1, (), 0))
    course.run(1.0)
    course.act(Tasks(0, 0, 40, (), 0))
    for _ in range(10):
        course.run(course.now + 0.004)
        if sum(not mirai.done() for mirai in course.mirais) > 1:  # besides the long one
            course.act(Cancels(2, 1))
    behind = {token for token, mirai in enumerate(course.mirais) if not mirai.done()}
    course.end()
    assert len(behind) == 1, "they wait behind the long one still"


def test_a_cancel_does_not_make_a_late_daemon_forgotten() -> None:
    """One drops a task of what it has not started; somebody idle gets the others all the same."""
    course = Course(1, [(), ()], [[(1e-6, 21), (LONG, 1), (1e-6, 200)], [(1e-6, 1), (0.012, 1)]])
    course.act(Tasks(0, 0, 1, (), 0))
    course.run(1.0)
    course.act(Tasks(0, 1, 1, (), 0))
    course.run(2.0)
    course.act(Tasks(0, 0, 40, (), 0))
    course.run(2.0 + HOP)
    course.act(Tasks(0, 1, 1, (), 0))  # keeps the other one busy for a while
    course.run(2.008)
    pending = sum(not mirai.done() for mirai in course.mirais)
    course.act(Cancels(pending - 2, 1))
    course.end()


def test_one_idle_daemon_takes_from_one_other_and_not_from_all() -> None:
    course = Noted(1, [()] * 8, [[(0.005, 1), (0.004, 1), (0.006, 1), (0.003, 1)]])
    course.act(Tasks(0, 0, 1, (), 0))
    course.run(1.0)
    course.act(Tasks(0, 0, 40, (), 0))
    course.end()
    assert course.recalls <= 40
