"""The core: messages in, commands out, and a state that never contradicts itself."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import pytest

from dispatcher.core import LONG, LOOK, MAX_LOSSES, PATIENCE, Dispatcher
from dispatcher.credit import HORIZON, MOST, OVERHEAD
from dispatcher.events import (
    Barren,
    Command,
    CutOff,
    Denial,
    Denied,
    Event,
    Joined,
    Kill,
    Lost,
    Role,
    Send,
)
from dispatcher.messages import (
    VERSION,
    Ask,
    Blob,
    Cancel,
    Crash,
    Done,
    Function,
    Hello,
    Interrupt,
    Kind,
    Outcome,
    Ping,
    PoolReport,
    Recall,
    Refusals,
    Refused,
    Report,
    Results,
    Returned,
    Run,
    Step,
    Stop,
    Submit,
    Task,
    Welcome,
)

M = TypeVar("M")

CLIENT, OTHER = 1, 2
D1, D2, D3 = 11, 12, 13
F = Function(1, "f", b"def f")
G = Function(2, "g", b"def g")
CRASH = Crash("the daemon died", exit=-9, host="here", pid=4)
TINY = 1e-6
SENT = f"sent to daemon {D1} (process {D1} on host{D1})"


class Pool:
    """A dispatcher whose state is checked after every step, and a clock."""

    def __init__(self, daemons: Iterable[int] = (), clients: Iterable[int] = (CLIENT,)) -> None:
        self.core = Dispatcher(grace=5.0)
        self.now = 100.0
        for peer in clients:
            self.join(peer, Role.CLIENT)
        for peer in daemons:
            self.join(peer, Role.DAEMON)

    def step(self, *events: tuple[int, Event]) -> list[Command]:
        commands = self.core.handle(events, self.now)
        self.core.check()
        return commands

    def wait(self, seconds: float) -> list[Command]:
        """Return what is done when time has passed, but for Pings: test_core_stalling has those."""
        self.now += seconds
        commands = self.step()
        return [each for each in commands if not isinstance(each, Send) or each.message != Ping()]

    def deadline(self) -> float | None:
        """Return when the core has something to do, but for looking at those that work."""
        look_at, self.core._look_at = self.core._look_at, None
        deadline = self.core.next_deadline()
        self.core._look_at = look_at
        return deadline

    def join(self, peer: int, role: Role, version: int = VERSION) -> list[Command]:
        return self.step((peer, Joined(role, Hello(version, f"host{peer}", peer))))

    def submit(self, *ids: int, client: int = CLIENT, **more: Any) -> list[Command]:
        """Submit tasks of function F, which goes along with the first one of a client."""
        known = self.core._clients[client].functions
        functions = () if F.number in known else (F,)
        return self.step((client, Submit(tuple(task(id, **more) for id in ids), functions)))

    def done(self, daemon: int, *keys: int, seconds: float = TINY) -> list[Command]:
        return self.step((daemon, done(*keys, seconds=seconds)))

    def returned(self, daemon: int, *keys: int) -> list[Command]:
        return self.step((daemon, Returned(keys)))

    def learn(self, seconds: float, daemon: int = D1, client: int = CLIENT) -> None:
        """Let one task of F end, so that its duration is known."""
        self.submit(self.core._clients[client].last + 1, client=client)
        self.done(daemon, self.core._keys, seconds=seconds)

    def report(self) -> PoolReport:
        return self.core.report(self.now)

    def hand(self, daemon: int) -> list[int]:
        return list(self.core._daemons[daemon].hand)


def task(id: int, function: int = F.number, payload: bytes = b"x", **more: Any) -> Task:
    return Task(id, function, payload, **more)


def done(*keys: int, seconds: float = TINY) -> Done:
    return Done(tuple(Outcome(key, Kind.VALUE, b"%d" % key, (), seconds) for key in keys))


def sent(commands: list[Command], peer: int, kind: type[M]) -> list[M]:
    """Return the messages of this kind to this peer."""
    return [
        command.message
        for command in commands
        if isinstance(command, Send) and command.peer == peer and isinstance(command.message, kind)
    ]


def given(commands: list[Command], daemon: int) -> list[int]:
    """Return the keys of the tasks that the daemon is told to run."""
    return [each.id for run in sent(commands, daemon, Run) for each in run.tasks]


def answers(commands: list[Command], client: int = CLIENT) -> dict[int, Kind]:
    """Return the client's answers; each task at most once."""
    outcomes = [o for results in sent(commands, client, Results) for o in results.outcomes]
    found = {outcome.id: outcome.kind for outcome in outcomes}
    assert len(found) == len(outcomes)
    return found


# ── joining ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("role", Role)
def test_who_joins_is_welcome(role: Role) -> None:
    pool = Pool(clients=())
    assert pool.join(7, role) == [Send(7, Welcome(7))]
    assert pool.core.is_member(7)
    assert not pool.core.is_member(8)


@pytest.mark.parametrize("role", Role)
def test_another_version_is_refused(role: Role) -> None:
    pool = Pool(clients=())
    reason = f"protocol version {VERSION + 1}, wanted {VERSION}"
    assert pool.join(7, role, VERSION + 1) == [Send(7, Refused(reason)), CutOff(7)]
    assert not pool.core.is_member(7)
    assert pool.report() == PoolReport(0, 0, 0, 0, 0, 1)


def test_a_daemon_that_joins_late_gets_what_waits() -> None:
    pool = Pool()
    assert pool.submit(1) == []
    commands = pool.join(D1, Role.DAEMON)
    assert commands == [Send(D1, Welcome(D1)), Send(D1, Run((task(1),), (F,)))]


# ── the main road ────────────────────────────────────────────────────────────────────────


def test_a_task_goes_to_a_daemon_and_its_outcome_to_its_client() -> None:
    pool = Pool([D1])
    blobs = (Blob(b"large"),)
    asked = Task(7, F.number, b"args", blobs, 3)
    commands = pool.step((CLIENT, Submit((asked,), (F,))))
    assert commands == [Send(D1, Run((Task(1, 1, b"args", blobs, 3),), (F,)))]
    outcome = Outcome(1, Kind.ERROR, b"why", blobs, 0.5)
    commands = pool.step((D1, Done((outcome,))))
    story = (Step(0.0, SENT), Step(0.0, "failed there, after 0.000 s"))
    answer = Outcome(7, Kind.ERROR, b"why", blobs, 0.5, story=story)
    assert commands == [Send(CLIENT, Results((answer,)))]
    assert pool.report().completed == 1


def test_clients_may_use_the_same_numbers() -> None:
    pool = Pool([D1, D2], [CLIENT, OTHER])
    pool.submit(1)
    pool.submit(1, client=OTHER)
    assert (pool.hand(D1), pool.hand(D2)) == ([1], [2])
    assert answers(pool.done(D2, 2), OTHER) == {1: Kind.VALUE}
    assert answers(pool.done(D1, 1), CLIENT) == {1: Kind.VALUE}


def test_outcomes_that_come_together_leave_together() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    commands = pool.done(D1, 2, 3, 4)
    assert len(sent(commands, CLIENT, Results)) == 1
    assert list(answers(commands)) == [2, 3, 4]


def test_a_big_batch_is_split_into_messages_that_keep_the_order() -> None:
    pool = Pool()
    pool.submit(1, payload=bytes(700_000))
    pool.submit(2, payload=bytes(700_000))
    pool.core._clients[CLIENT].estimates["f"].learn(TINY)
    commands = pool.join(D1, Role.DAEMON)
    runs = sent(commands, D1, Run)
    assert [[each.id for each in run.tasks] for run in runs] == [[1], [2]]
    assert [run.functions for run in runs] == [(F,), ()]


def test_higher_priority_is_given_first() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.submit(2)
    pool.submit(3, priority=1)
    assert given(pool.done(D1, 1, seconds=1), D1) == [3]


def test_a_more_urgent_task_goes_before_what_a_daemon_has_not_started() -> None:
    pool = Pool([D1])
    pool.learn(HORIZON / 10)
    pool.submit(*range(2, 40))
    begun, *spare = pool.hand(D1)
    commands = pool.submit(40, priority=1)
    assert sent(commands, D1, Recall) == [Recall(tuple(spare))]
    pool.returned(D1, *spare)
    assert pool.hand(D1)[:3] == [begun, 40, 3]


def test_it_goes_before_the_rest_of_a_run_that_has_begun() -> None:
    pool = Pool([D1])
    pool.learn(HORIZON / 10)
    pool.step((CLIENT, Submit((task(2, following=(b"x",) * 30),))))
    commands = pool.submit(40, priority=1)
    assert sent(commands, D1, Recall) == [Recall(tuple(pool.hand(D1)[1:]))]


def test_what_is_as_urgent_or_another_clients_is_not_recalled() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.learn(HORIZON / 10)
    pool.submit(*range(2, 40))
    pool.submit(1, client=OTHER)
    commands = pool.submit(40) + pool.submit(2, client=OTHER, priority=3)
    assert not sent(commands, D1, Recall)


def test_less_urgent_tasks_are_not_handed_to_and_fro() -> None:
    pool = Pool([D1, D2])
    pool.learn(HORIZON / 10)
    pool.submit(*range(2, 100))
    spare = {peer: pool.hand(peer)[1:] for peer in (D1, D2)}
    commands = [each for id in range(100, 110) for each in pool.submit(id, priority=id)]
    for peer in (D1, D2):
        assert sent(commands, peer, Recall) == [Recall(tuple(spare[peer]))]
    commands = pool.returned(D1, *spare[D1]) + pool.returned(D2, *spare[D2])
    assert not sent(commands, D1, Recall) + sent(commands, D2, Recall)


def test_clients_take_turns() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.submit(*range(1, 50))
    pool.submit(1, client=OTHER)
    commands = pool.done(D1, 1, seconds=1)
    if given(commands, D1) != [50]:
        commands = pool.done(D1, *pool.hand(D1), seconds=1)
    assert given(commands, D1) == [50]


# ── credit ───────────────────────────────────────────────────────────────────────────────


def test_an_unknown_function_fills_a_hand_alone() -> None:
    pool = Pool([D1, D2])
    pool.submit(*range(1, 10))
    assert pool.hand(D1) == [1]
    assert pool.hand(D2) == [2]


def test_credit_grows_once_a_duration_is_known_to_be_short() -> None:
    pool = Pool([D1])
    pool.submit(*range(1, 2_000))
    pool.done(D1, 1, seconds=0.0)
    most = HORIZON / OVERHEAD
    assert most - 1 <= len(pool.hand(D1)) <= most + 1


def test_long_tasks_are_given_one_at_a_time() -> None:
    pool = Pool([D1])
    pool.submit(*range(1, 50))
    for key in range(1, 20):
        assert pool.hand(D1) == [key]
        pool.done(D1, key, seconds=MOST)


def test_behind_a_task_of_some_milliseconds_there_is_one_more() -> None:
    pool = Pool([D1])
    pool.learn(HORIZON)
    pool.submit(*range(2, 50))
    for key in range(2, 20):
        assert pool.hand(D1) == [key, key + 1]
        pool.done(D1, key, seconds=HORIZON)


def test_what_is_behind_it_is_recalled_for_one_with_nothing_to_do() -> None:
    pool = Pool([D1])
    pool.learn(2 * HORIZON)
    pool.submit(2, 3)
    assert pool.hand(D1) == [2, 3]
    commands = pool.join(D2, Role.DAEMON)
    assert sent(commands, D1, Recall) == [Recall((3,))]
    assert given(pool.returned(D1, 3), D2) == [3]


@pytest.mark.parametrize("seconds", [0.0, 1e-5, 1e-4, 5e-4, 1e-3, 2e-3, 3.9e-3])
def test_a_hand_is_bounded_by_the_horizon(seconds: float) -> None:
    pool = Pool([D1, D2, D3])
    pool.submit(*range(1, 3_000))
    for _ in range(30):
        for daemon in (D1, D2, D3):
            in_hand = len(pool.hand(daemon))
            assert in_hand == 1 or (in_hand - 1) * (seconds + OVERHEAD) < HORIZON
            pool.done(daemon, *pool.hand(daemon), seconds=seconds)


@pytest.mark.parametrize("count", [5, 10, 100])
def test_few_tasks_are_shared_equally(count: int) -> None:
    pool = Pool([D1, D2, D3])
    pool.learn(TINY)
    pool.submit(*range(2, 2 + count))
    hands = [len(pool.hand(daemon)) for daemon in (D1, D2, D3)]
    assert sum(hands) == count
    assert max(hands) - min(hands) <= 1


def test_an_idle_daemon_comes_before_one_with_room() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2)
    assert pool.hand(D1) == [2]
    pool.join(D2, Role.DAEMON)
    assert given(pool.submit(3), D2) == [3]
    assert given(pool.submit(4, 5), D1) + pool.hand(D2) == [4, 3, 5]


def test_a_daemon_that_works_is_given_more_before_it_runs_dry() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(*range(2, 1_000))
    before = pool.hand(D1)
    commands = pool.done(D1, *before[:50])
    assert len(given(commands, D1)) == 50


def test_of_idle_daemons_the_last_to_work_is_the_first_to_work_again() -> None:
    """Its caches are warm."""
    pool = Pool([D1, D2, D3])
    pool.submit(1)
    pool.submit(2)
    pool.done(D2, 2)
    pool.done(D1, 1)
    assert given(pool.submit(3), D1) == [3]
    assert given(pool.submit(4), D2) == [4]
    assert given(pool.submit(5), D3) == [5]


def test_one_outlier_does_not_spoil_the_mean() -> None:
    pool = Pool([D1])
    for _ in range(30):
        pool.learn(TINY)
    pool.learn(3_600.0)
    pool.submit(*range(1_000, 2_000))
    assert len(pool.hand(D1)) >= 2
    assert pool.core._clients[CLIENT].estimates["f"].seconds < MOST


@pytest.mark.parametrize("seconds", [-1.0, -1e300, float("nan"), float("inf")])
def test_a_duration_that_cannot_be_is_forgotten_like_an_outlier(seconds: float) -> None:
    pool = Pool([D1])
    pool.learn(seconds)
    for _ in range(50):
        pool.learn(TINY)
    pool.submit(*range(1_000, 1_100))
    assert 50 < len(pool.hand(D1)) <= 100


def test_a_cancelled_task_teaches_nothing() -> None:
    pool = Pool([D1])
    pool.submit(1, 2, 3)
    pool.step((D1, Done((Outcome(1, Kind.CANCELLED),))))
    assert pool.hand(D1) == [2]


def test_durations_outlive_the_function_that_they_were_learned_from() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.step((CLIENT, Submit((), (), (F.number,))))
    pool.submit(2, 3, 4)  # defines f again
    assert pool.hand(D1) == [2, 3, 4]


# ── recall ───────────────────────────────────────────────────────────────────────────────


def _misjudged() -> Pool:
    """Two daemons with two or three tasks in hand, all of them thought to be short."""
    pool = Pool([D2, D1])
    pool.learn(TINY, daemon=D2)
    for id in range(2, 7):
        pool.submit(id)
    assert (pool.hand(D1), pool.hand(D2)) == ([3, 5], [2, 4, 6])
    return pool


def test_what_a_silent_daemon_has_not_started_is_recalled_and_goes_to_another() -> None:
    pool = _misjudged()
    first, second = pool.hand(D1), pool.hand(D2)
    pool.now += PATIENCE / 2
    pool.done(D2, *second)
    pool.now = 100.0 + PATIENCE
    commands = pool.step()
    assert commands == [Send(D1, Recall(tuple(first[1:])))]
    commands = pool.step((D1, Returned(tuple(first[1:]))))
    assert given(commands, D2) == first[1:]
    assert given(commands, D1) == []
    assert pool.hand(D1) == first[:1]


def test_a_daemon_that_was_recalled_gets_nothing_until_it_answers() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    assert sent(pool.wait(LONG), D1, Recall) == [Recall((3,))]
    assert pool.step((D1, Returned((3,)))) == []
    assert pool.submit(4) == []
    assert given(pool.done(D1, 2, seconds=1), D1)


def test_a_daemon_that_has_answered_and_handed_back_gets_more() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    pool.step((D1, done(2)), (D1, Returned(())))
    assert pool.hand(D1) == [3]
    assert given(pool.submit(4), D1) == [4]


def test_nothing_is_recalled_from_a_daemon_with_one_task() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2)
    assert pool.wait(3_600.0) == []
    assert pool.deadline() is None


def test_a_daemon_is_asked_only_once() -> None:
    pool = _misjudged()
    assert pool.wait(PATIENCE) == [], "nobody could do it meanwhile"
    assert len(pool.wait(LONG - PATIENCE)) == 2
    assert pool.wait(LONG) == []
    assert pool.deadline() is None


def test_a_daemon_that_answers_is_not_silent() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    pool.now += 0.9 * LONG
    pool.done(D1, 2)
    assert pool.wait(0.9 * LONG) == []
    assert sent(pool.wait(0.2 * LONG), D1, Recall) == [Recall((4,))]


def test_a_recall_that_comes_too_late_costs_nothing() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    assert answers(pool.step((D1, done(2, 3)), (D1, Returned(())))) == {
        2: Kind.VALUE,
        3: Kind.VALUE,
    }
    pool.submit(4, 5)
    assert pool.hand(D1) == [4, 5]


def test_what_is_returned_keeps_its_old_place() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    pool.submit(4)
    pool.step((D1, Returned((3,))))
    assert given(pool.done(D1, 2, seconds=1.0), D1) == [3, 4]


def test_a_returned_task_that_was_cancelled_is_gone() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    pool.step((CLIENT, Cancel((3,))))
    pool.step((D1, Returned((3,))))
    pool.done(D1, 2)
    assert pool.hand(D1) == []
    assert pool.report().awaiting == 0
    assert pool.core.next_deadline() is None


def test_what_was_not_in_hand_cannot_be_returned() -> None:
    pool = Pool([D1, D2])
    pool.submit(1, 2)
    pool.step((D1, Returned((2, 99))))
    assert (pool.hand(D1), pool.hand(D2)) == ([1], [2])


# ── cancelling ───────────────────────────────────────────────────────────────────────────


def test_a_waiting_task_is_dropped() -> None:
    pool = Pool()
    pool.submit(1, 2)
    assert pool.step((CLIENT, Cancel((1,)))) == []
    assert given(pool.join(D1, Role.DAEMON), D1) == [2]


def test_a_running_task_is_interrupted_and_its_end_is_not_told() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    assert pool.step((CLIENT, Cancel((1,)))) == [Send(D1, Interrupt((1,)))]
    commands = pool.step((D1, Done((Outcome(1, Kind.CANCELLED),))))
    assert answers(commands) == {}
    assert given(commands, D1) == [2]


def test_a_task_that_ends_while_it_is_cancelled_is_not_told() -> None:
    pool = Pool([D1])
    pool.submit(1)
    commands = pool.step((CLIENT, Cancel((1,))), (D1, done(1)))
    assert answers(commands) == {}
    assert pool.core.next_deadline() is None


def test_a_task_that_ended_before_it_was_cancelled_is_told() -> None:
    pool = Pool([D1])
    pool.submit(1)
    commands = pool.step((D1, done(1)), (CLIENT, Cancel((1,))))
    assert answers(commands) == {1: Kind.VALUE}
    assert sent(commands, D1, Interrupt) == []


def test_cancelling_twice_or_what_is_unknown_is_nothing() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    pool.step((CLIENT, Cancel((1, 2))))
    assert pool.step((CLIENT, Cancel((1, 2, 2, 99)))) == []
    assert pool.report().rejected == 0


def test_a_client_cancels_only_its_own() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.submit(1)
    assert pool.step((OTHER, Cancel((1,)))) == []
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}


def test_a_task_submitted_and_cancelled_at_once_never_leaves() -> None:
    pool = Pool([D1])
    assert pool.step((CLIENT, Submit((task(1),), (F,))), (CLIENT, Cancel((1,)))) == []
    assert pool.report().awaiting == pool.report().executing == 0


def test_an_unstarted_task_in_hand_is_interrupted_too() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    assert pool.step((CLIENT, Cancel((3,)))) == [Send(D1, Interrupt((3,)))]
    pool.step((D1, Done((Outcome(3, Kind.CANCELLED),))))
    assert pool.hand(D1) == [2, 4]


def test_grace_ends_with_a_kill_again_and_again() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((CLIENT, Cancel((1,))))
    assert pool.deadline() == pool.now + 5.0
    assert pool.wait(4.9) == []
    assert pool.wait(0.2) == [Kill(D1, range(1, 2))]
    assert pool.deadline() == pool.now + 5.0
    assert pool.wait(4.9) == []
    assert pool.wait(0.2) == [Kill(D1, range(1, 2))]
    assert pool.step((D1, Lost(CRASH, 1))) == []
    assert pool.deadline() is None


def test_a_task_that_leaves_in_time_is_not_killed() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    pool.step((CLIENT, Cancel((1,))))
    pool.step((D1, Done((Outcome(1, Kind.CANCELLED),))))
    assert pool.wait(60.0) == []


def test_a_cancelled_task_behind_another_kills_nobody_until_it_is_its_turn() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.step((CLIENT, Cancel((3,))))
    assert not any(isinstance(command, Kill) for command in pool.wait(5.0))
    pool.done(D1, 2)
    assert pool.wait(5.0) == [Kill(D1, range(3, 4))]


# ── a daemon is lost ─────────────────────────────────────────────────────────────────────


def _loaded() -> Pool:
    """A daemon with tasks 2, 3, 4, 5 in hand, and task 6 of another function that waits."""
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4, 5)
    pool.wait(LONG)  # a recall that is never answered: nothing more is given
    pool.submit(6)
    assert pool.hand(D1) == [2, 3, 4, 5]
    return pool


@pytest.mark.parametrize(
    ("started", "crashed"),
    [
        (None, [2, 3, 4, 5]),
        (0, []),
        (1, []),  # answered already, and nothing after it was begun
        (2, [2]),
        (3, [2, 3]),
        (5, [2, 3, 4, 5]),
    ],
)
def test_what_may_have_begun_has_crashed_and_the_rest_is_queued_again(
    started: int | None, crashed: list[int]
) -> None:
    pool = _loaded()
    commands = pool.step((D1, Lost(CRASH, started)))
    assert answers(commands) == dict.fromkeys(crashed, Kind.CRASHED)
    pool.core._clients[CLIENT].estimates["f"].learn(TINY)
    assert given(pool.join(D2, Role.DAEMON), D2) == [k for k in range(2, 7) if k not in crashed]


def test_a_crash_is_told_in_full() -> None:
    pool = Pool([D1])
    pool.submit(7)
    commands = pool.step((D1, Lost(CRASH, 1)))
    story = (Step(0.0, SENT), Step(0.0, "that daemon was lost: the daemon died of SIGKILL"))
    outcome = Outcome(7, Kind.CRASHED, crash=CRASH, story=story)
    assert commands == [Send(CLIENT, Results((outcome,)))]


def test_what_was_done_before_the_loss_is_not_lost_with_it() -> None:
    pool = _loaded()
    commands = pool.step((D1, done(2, 3)), (D1, Lost(CRASH, 4)))
    assert answers(commands) == {2: Kind.VALUE, 3: Kind.VALUE, 4: Kind.CRASHED}
    assert pool.report().awaiting == 2


def test_a_cancelled_task_does_not_crash_once_more() -> None:
    pool = _loaded()
    pool.step((CLIENT, Cancel((2, 4))))
    assert answers(pool.step((D1, Lost(CRASH, 3)))) == {3: Kind.CRASHED}
    assert pool.core.next_deadline() is None
    assert pool.report().awaiting == 2


def test_another_daemon_takes_over_at_once() -> None:
    pool = Pool([D1, D2])
    pool.submit(1, 2, 3)
    pool.done(D2, 2, seconds=1)
    pool.done(D2, 3, seconds=1)
    assert given(pool.step((D1, Lost(CRASH, 0))), D2) == [1]


def test_the_order_of_the_hand_counts_and_not_the_age() -> None:
    """A task that came back and was given again runs after younger ones."""
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    pool.step((D1, Returned((2,))))
    assert pool.hand(D1) == [3, 4, 2]
    assert answers(pool.step((D1, Lost(CRASH, 4)))) == {3: Kind.CRASHED, 4: Kind.CRASHED}


def test_late_words_of_a_lost_daemon_change_nothing() -> None:
    pool = Pool([D1, D2])
    pool.submit(1)
    pool.step((D1, Lost(CRASH, 0)))
    assert pool.hand(D2) == [1]
    assert answers(pool.step((D1, done(1)))) == {}
    assert pool.hand(D2) == [1]


def test_a_task_that_no_daemon_survives_is_given_alone_and_fails_in_the_end() -> None:
    """It may be too large for them: then they die before they can begin it, one after the other."""
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    for peer in (D1, D2):
        assert pool.hand(peer) == [2, 3, 4]
        pool.step((peer, Lost(CRASH, 0)))
        pool.join(peer + 1, Role.DAEMON)
    assert pool.hand(D3) == [2]
    pool.done(D3, 2)  # it was not that one
    assert pool.hand(D3) == [3]
    for peer in range(D3 + 1, D3 + MAX_LOSSES - 2):
        assert answers(pool.step((peer - 1, Lost(CRASH, 0)))) == {}
        pool.join(peer, Role.DAEMON)
        assert pool.hand(peer) == [3]
    commands = pool.step((peer, Lost(CRASH, 0)))
    (results,) = sent(commands, CLIENT, Results)
    (outcome,) = results.outcomes
    assert (outcome.id, outcome.kind) == (3, Kind.CRASHED)
    assert outcome.crash is not None
    assert f"{MAX_LOSSES} daemons died when they were given the task" in outcome.crash.reason
    assert given(pool.join(99, Role.DAEMON), 99) == [4]
    assert answers(pool.done(99, 4)) == {4: Kind.VALUE}


def test_daemons_that_die_of_a_task_are_not_counted_against_those_behind_it() -> None:
    pool = Pool()
    pool.submit(*range(1, MAX_LOSSES + 2))
    pool.core._clients[CLIENT].estimates["f"].learn(TINY)
    for peer in range(D1, D1 + MAX_LOSSES):
        pool.join(peer, Role.DAEMON)
        head, *behind = pool.hand(peer)
        assert behind
        assert answers(pool.step((peer, Lost(CRASH, head)))) == {head: Kind.CRASHED}


def test_losing_twice_or_whom_nobody_knew_is_nothing() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert len(pool.step((D1, Lost(CRASH)), (D1, Lost(CRASH)))) == 1
    assert pool.step((99, Lost(CRASH)), (0, Lost(CRASH, 5))) == []


# ── a client is lost ─────────────────────────────────────────────────────────────────────


def test_a_lost_client_frees_the_pool() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.submit(1, 2, 3)
    pool.submit(1, client=OTHER)
    assert pool.step((CLIENT, Lost(CRASH))) == [Send(D1, Interrupt((1,)))]
    assert pool.report().awaiting == 1
    commands = pool.step((D1, Done((Outcome(1, Kind.CANCELLED),))))
    assert given(commands, D1) == [4]
    assert answers(pool.done(D1, 4), OTHER) == {1: Kind.VALUE}


def test_nothing_is_sent_to_a_lost_client() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert sent(pool.step((D1, done(1)), (CLIENT, Lost(CRASH))), CLIENT, Results) == []
    assert pool.report().executing == 0


def test_a_lost_clients_stubborn_task_is_killed_after_the_grace() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((CLIENT, Lost(CRASH)))
    assert pool.wait(5.0) == [Kill(D1, range(1, 2))]
    assert pool.step((D1, Lost(CRASH, 1))) == []


def test_a_lost_clients_functions_are_forgotten() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.submit(1)
    pool.step((CLIENT, Lost(CRASH)))
    pool.step((D1, Done((Outcome(1, Kind.CANCELLED),))))
    (run,) = sent(pool.submit(1, client=OTHER), D1, Run)
    assert run.forget == (1,)


# ── no daemon can be started ─────────────────────────────────────────────────────────────


def test_a_barren_pool_fails_what_waits_and_what_comes_later() -> None:
    pool = Pool()
    pool.submit(1, 2)
    commands = pool.step((0, Barren(CRASH)))
    assert answers(commands) == {1: Kind.CRASHED, 2: Kind.CRASHED}
    outcomes = sent(pool.submit(3), CLIENT, Results)[0].outcomes
    assert outcomes == (Outcome(3, Kind.CRASHED, crash=CRASH),)
    assert pool.report().awaiting == 0


def test_a_barren_pool_goes_on_while_it_has_a_daemon() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    assert pool.step((0, Barren(CRASH))) == []
    assert answers(pool.done(D1, 1, seconds=1)) == {1: Kind.VALUE}
    assert answers(pool.step((D1, Lost(CRASH, 0)))) == {2: Kind.CRASHED}


def test_a_daemon_that_joins_a_barren_pool_runs_tasks() -> None:
    pool = Pool()
    pool.step((0, Barren(CRASH)))
    pool.join(D1, Role.DAEMON)
    assert given(pool.submit(1), D1) == [1]


def test_a_daemon_that_joins_ends_the_barren_time() -> None:
    pool = Pool()
    pool.step((0, Barren(CRASH)))
    pool.join(D1, Role.DAEMON)
    pool.submit(1)
    assert answers(pool.step((D1, Lost(CRASH, 0)))) == {}  # its replacement will run it
    assert given(pool.join(D2, Role.DAEMON), D2) == [1]


# ── functions ────────────────────────────────────────────────────────────────────────────


def test_each_daemon_gets_a_function_once() -> None:
    pool = Pool([D1, D2])
    commands = pool.submit(1, 2)
    assert [run.functions for d in (D1, D2) for run in sent(commands, d, Run)] == [(F,), (F,)]
    commands = pool.submit(3) + pool.done(D1, 1) + pool.submit(4) + pool.done(D2, 2)
    runs = sent(commands, D1, Run) + sent(commands, D2, Run)
    assert [run.functions for run in runs] == [(), ()]


def test_functions_of_two_clients_have_different_numbers() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    pool.learn(TINY)
    pool.learn(TINY, client=OTHER)
    assert {entry.definition.number for entry in pool.core._daemons[D1].knows} == {1, 2}


def test_a_function_is_forgotten_when_nothing_needs_it() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((CLIENT, Submit((), (G,), (F.number,))))
    assert sent(pool.done(D1, 1), D1, Run) == []
    commands = pool.step((CLIENT, Submit((task(2, G.number),))))
    assert sent(commands, D1, Run) == [Run((Task(2, 2, b"x"),), (G,), (1,))]
    pool.done(D1, 2)
    commands = pool.step((CLIENT, Submit((task(3, G.number),))))
    assert sent(commands, D1, Run) == [Run((Task(3, 2, b"x"),))]


def test_a_function_is_not_forgotten_while_a_daemon_needs_it() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2)
    pool.step((CLIENT, Submit((), (G,), (F.number,))))
    (run,) = sent(pool.step((CLIENT, Submit((task(3, G.number),)))), D1, Run)
    assert run.forget == ()
    pool.done(D1, 2, 3)
    (run,) = sent(pool.step((CLIENT, Submit((task(4, G.number),)))), D1, Run)
    assert run.forget == (1,)


def test_a_function_may_be_defined_used_and_forgotten_in_one_message() -> None:
    pool = Pool([D1])
    for id in range(1, 4):
        commands = pool.step((CLIENT, Submit((task(id),), (F,), (F.number,))))
        (run,) = sent(commands, D1, Run)
        assert [function.number for function in run.functions] == [id]
        assert run.forget == ((id - 1,) if id > 1 else ())
        assert answers(pool.done(D1, id)) == {id: Kind.VALUE}
    assert pool.core._clients[CLIENT].functions == {}
    assert not pool.core._daemons[D1].knows


def test_a_forgotten_function_lives_while_a_task_waits_that_needs_it() -> None:
    pool = Pool()
    pool.step((CLIENT, Submit((task(1),), (F,), (F.number,))))
    assert sent(pool.join(D1, Role.DAEMON), D1, Run) == [Run((task(1),), (F,))]
    pool.step((D1, Lost(CRASH, 0)))
    assert sent(pool.join(D2, Role.DAEMON), D2, Run) == [Run((task(1),), (F,))]


def test_a_pool_that_is_done_holds_no_job() -> None:
    pool = Pool([D1, D2])
    pool.learn(TINY)
    pool.submit(*range(2, 300))
    while in_hand := pool.hand(D1):
        pool.done(D1, *in_hand)
        pool.done(D2, *pool.hand(D2))
    client = pool.core._clients[CLIENT]
    assert client.jobs == {}
    assert [entry.uses for entry in client.functions.values()] == [0]
    assert pool.core._daemons[D1].load == pool.core._daemons[D2].load == 0.0


# ── illegal messages ─────────────────────────────────────────────────────────────────────


def _picture(pool: Pool) -> Any:
    """Everything that may not change, as plain values."""
    core = pool.core
    return (
        [
            (c.peer, c.last, list(c.jobs), list(c.functions), list(c.estimates))
            for c in core._clients.values()
        ],
        [
            (d.peer, list(d.hand), d.load, d.recalled, len(d.knows), d.forget, d.done)
            for d in core._daemons.values()
        ],
        (core._keys, core._numbers, len(core._queue), list(core._idle), list(core._open)),
        (dict(core._silent), list(core._stubborn), core._completed, core._cumulative),
        [(e.uses, e.forgotten) for c in core._clients.values() for e in c.functions.values()],
    )


HELLO = Joined(Role.CLIENT, Hello(VERSION))

ILLEGAL: list[tuple[int, Event]] = [
    (CLIENT, HELLO),
    (CLIENT, Joined(Role.DAEMON, Hello(VERSION))),
    (D1, HELLO),
    (99, Joined(Role.CLIENT, Hello(VERSION + 1))),
    (CLIENT, Hello(VERSION)),
    # the wrong role, or none
    (CLIENT, done(1)),
    (CLIENT, Returned((1,))),
    (D1, Submit((task(9),))),
    (D1, Cancel((1,))),
    (D1, Ask(1)),
    (99, Submit(())),
    (99, Cancel(())),
    (99, Ask(1)),
    (99, done(1)),
    (99, Returned(())),
    (CLIENT, Hello(VERSION)),
    (D1, Hello(VERSION)),
    # what a dispatcher says itself
    (CLIENT, Welcome(CLIENT)),
    (CLIENT, Refused("no")),
    (CLIENT, Results(())),
    (CLIENT, Report(1, PoolReport(0, 0, 0, 0, 0, 0))),
    (D1, Run(())),
    (D1, Recall((1,))),
    (D1, Interrupt((1,))),
    (D1, Stop()),
    # tasks
    (CLIENT, Submit((task(9), task(9)))),
    (CLIENT, Submit((task(9), task(8)))),
    (CLIENT, Submit((task(3),))),
    (CLIENT, Submit((task(0),))),
    (CLIENT, Submit((task(-1),))),
    (CLIENT, Submit((task(9), task(10, 77)))),
    # functions
    (CLIENT, Submit((task(9),), (F,))),
    (CLIENT, Submit((), (G, G))),
    (CLIENT, Submit((task(9, G.number),), (G, Function(3, "h", b""), F))),
    (CLIENT, Submit((task(9),), (G,), (77,))),
    (CLIENT, Submit((task(9),), (), (F.number, F.number))),
    # outcomes
    (D1, Done((Outcome(1, Kind.VALUE), Outcome(2, Kind.CRASHED)))),
    (D1, Done((Outcome(99, Kind.CRASHED),))),
]


@pytest.mark.parametrize(("peer", "event"), ILLEGAL, ids=lambda value: type(value).__name__)
def test_an_illegal_message_changes_nothing_and_costs_the_connection(
    peer: int, event: Event
) -> None:
    pool = Pool([D1, D2])
    pool.submit(1, 2, 3)
    before, rejected = _picture(pool), pool.report().rejected
    refused, cut_off = pool.step((peer, event))
    assert isinstance(refused, Send) and refused.peer == peer
    assert isinstance(refused.message, Refused) and refused.message.reason
    assert cut_off == CutOff(peer)
    assert _picture(pool) == before
    assert pool.report().rejected == rejected + 1


def test_what_the_shell_refuses_is_counted_by_kind_and_changes_nothing_else() -> None:
    pool = Pool([D1])
    before = _picture(pool)
    assert pool.report().refusals == Refusals()
    for what, times in ((Denial.KEY, 3), (Denial.STRANGER, 2), (Denial.PEER, 1)):
        assert pool.step(*[(0, Denied(what))] * times) == []
    assert pool.report().refusals == Refusals(keys=3, strangers=2, peers=1)
    assert pool.report().rejected == 0
    assert _picture(pool) == before


def test_an_illegal_message_does_not_hold_up_the_others() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    commands = pool.step(
        (CLIENT, Submit((task(1),), (F,))),
        (OTHER, Cancel((1,))),
        (OTHER, done(1)),
        (CLIENT, Submit((task(2),))),
    )
    assert given(commands, D1) == [1]
    assert pool.report().awaiting == 1
    assert CutOff(OTHER) in commands and CutOff(CLIENT) not in commands


def test_a_forgotten_function_cannot_be_used() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((CLIENT, Submit((), (), (F.number,))))
    assert CutOff(CLIENT) in pool.step((CLIENT, Submit((task(2),))))


# ── late and duplicate outcomes ──────────────────────────────────────────────────────────


def test_a_task_is_answered_once() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert answers(pool.step((D1, done(1, 1)), (D1, done(1)))) == {1: Kind.VALUE}
    assert pool.done(D1, 1) == []
    assert pool.report().completed == 1
    assert pool.report().daemons[0].done == 1


def test_a_daemon_answers_only_what_it_was_given() -> None:
    pool = Pool([D1, D2])
    pool.submit(1, 2, 3)
    assert pool.step((D1, done(2, 3, 99))) == []
    assert (pool.hand(D1), pool.hand(D2)) == ([1], [2])


def test_an_answer_after_the_task_was_returned_is_dropped() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    pool.step((D1, Returned((3,))))
    assert answers(pool.done(D1, 3)) == {}
    assert answers(pool.done(D1, 2)) == {2: Kind.VALUE}
    assert answers(pool.done(D1, 3)) == {3: Kind.VALUE}  # it was given again


# ── what the pool looks like ─────────────────────────────────────────────────────────────


def test_an_empty_pool() -> None:
    assert Pool(clients=()).report() == PoolReport(0, 0, 0, 0, 0, 0)


def test_a_report_counts_daemons_and_tasks() -> None:
    pool = Pool([D1, D2, D3])
    pool.step((D3, Lost(CRASH)))
    pool.learn(TINY)
    for id in range(2, 6):
        pool.submit(id)
    pool.wait(1.0)
    report = pool.report()
    assert (report.connections, report.cumulative) == (2, 3)
    assert (report.awaiting, report.executing, report.completed) == (2, 2, 1)
    first, _ = report.daemons
    assert (first.id, first.host, first.pid, first.since) == (D1, f"host{D1}", D1, 1.0)
    assert (first.state, first.tasks, first.done) == ("busy", 2, 1)
    pool.done(D2, *pool.hand(D2))
    second = pool.report().daemons[1]
    assert (second.state, second.tasks, second.done) == ("idle", 0, 2)


def test_every_task_is_awaiting_executing_or_completed() -> None:
    pool = Pool([D1, D2])
    pool.submit(*range(1, 101))
    for _ in range(20):
        report = pool.report()
        assert report.awaiting + report.executing + report.completed == 100
        pool.done(D1, *pool.hand(D1)[:7])
        pool.done(D2, *pool.hand(D2)[:3])


def test_a_client_asks_for_the_report() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert pool.step((CLIENT, Ask(5))) == [Send(CLIENT, Report(5, pool.report()))]


# ── deadlines ────────────────────────────────────────────────────────────────────────────


def test_a_pool_with_nothing_to_do_sleeps() -> None:
    pool = Pool([D1])
    assert pool.core.next_deadline() is None
    assert pool.submit(1)
    assert pool.core.next_deadline() == pool.now + LOOK
    assert pool.done(D1, 1)
    assert pool.core.next_deadline() is None


def test_the_nearest_deadline_comes_first() -> None:
    pool = _misjudged()
    assert pool.deadline() == pytest.approx(pool.now + PATIENCE)
    pool.now += PATIENCE / 2
    pool.step((CLIENT, Cancel((2,))))
    assert pool.deadline() == pytest.approx(100.0 + PATIENCE)
    pool.wait(PATIENCE)
    assert pool.deadline() == pytest.approx(100.0 + LONG)
    pool.wait(LONG)
    assert pool.deadline() == pytest.approx(100.0 + PATIENCE / 2 + 5.0)


def test_nothing_is_due_again_right_after_it_was_done() -> None:
    """Otherwise the shell's loop would spin."""
    pool = _misjudged()
    pool.step((CLIENT, Cancel(tuple(range(2, 7)))))
    for _ in range(20):
        deadline = pool.core.next_deadline()
        assert deadline is not None
        pool.now = deadline
        pool.step()
        after = pool.core.next_deadline()
        assert after is None or after > pool.now
