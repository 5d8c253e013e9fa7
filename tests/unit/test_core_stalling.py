"""Daemons that have been on one task for long, and do not answer; and what waits for nobody."""

from __future__ import annotations

import pytest
from test_core import CLIENT, CRASH, D1, D2, OTHER, F, Pool, answers, sent, task

from dispatcher.core import LOOK, PATIENCE, STALL
from dispatcher.events import Barren, Command, Event, Joined, Kill, Lost, Role, Send, Stillborn
from dispatcher.messages import (
    VERSION,
    Cancel,
    Crash,
    Done,
    Everywhere,
    Hello,
    Kind,
    Leave,
    Outcome,
    Ping,
    Pong,
    Printed,
    Returned,
    Scale,
    Submit,
)

PING = Send(D1, Ping())


def states(pool: Pool) -> list[str]:
    return [daemon.state for daemon in pool.report().daemons]


def pass_time(pool: Pool, seconds: float) -> list[Command]:
    """Let time pass as for the shell, which calls the core when it is due; return what it does."""
    until, commands = pool.now + seconds, []
    while (deadline := pool.core.next_deadline()) is not None and deadline <= until:
        pool.now = max(pool.now, deadline)
        commands += pool.step()
    pool.now = until
    return commands + pool.step()


@pytest.fixture
def pool() -> Pool:
    """One daemon, which has just begun a task, and one that is idle."""
    pool = Pool([D1, D2])
    pool.submit(1)
    return pool


def stalled(pool: Pool) -> Pool:
    pass_time(pool, 2 * LOOK + STALL)
    assert states(pool) == ["stalled", "idle"]
    return pool


# ── stalling ─────────────────────────────────────────────────────────────────────────────


def test_who_has_been_on_a_task_for_long_is_asked_once(pool: Pool) -> None:
    pool.now += LOOK - 0.1
    assert pool.step() == []
    pool.now += 0.1
    assert pool.step() == [PING]
    assert pass_time(pool, 3_600.0) == []


def test_who_owes_the_answer_for_long_is_stalled(pool: Pool) -> None:
    pass_time(pool, LOOK)
    pool.now += STALL - 0.1
    assert states(pool) == ["busy", "idle"]
    pool.now += 0.1
    assert states(pool) == ["stalled", "idle"]
    report = pool.report()
    assert (report.executing, report.awaiting, report.connections) == (1, 0, 2)


def test_who_answers_is_asked_again_at_the_next_look_and_is_not_stalled(pool: Pool) -> None:
    for _ in range(5):
        assert pass_time(pool, LOOK) == [PING]
        pool.now += STALL / 2
        assert pool.step((D1, Pong())) == []
        assert states(pool) == ["busy", "idle"]
        pool.now += STALL
        assert states(pool) == ["busy", "idle"]
        pool.now -= 1.5 * STALL


@pytest.mark.parametrize(
    "word",
    [Pong(), Printed(1, "text"), Returned(()), Done(()), Done((Outcome(99, Kind.VALUE),))],
    ids=repr,
)
def test_whatever_it_says_ends_the_stall(pool: Pool, word: Event) -> None:
    stalled(pool).step((D1, word))
    assert states(pool) == ["busy", "idle"]


def test_its_task_ends_as_any_other(pool: Pool) -> None:
    assert answers(stalled(pool).done(D1, 1)) == {1: Kind.VALUE}
    assert states(pool) == ["idle", "idle"]
    assert pool.report().completed == 1


def test_one_that_leaves_is_leaving_whether_or_not_it_answers(pool: Pool) -> None:
    stalled(pool).step((D1, Leave()))
    pass_time(pool, LOOK + STALL)
    assert states(pool) == ["leaving", "idle"]


def test_a_cancelled_task_has_its_grace_time_and_no_more(pool: Pool) -> None:
    stalled(pool).step((CLIENT, Cancel((1,))))
    assert pass_time(pool, 4.9) == []
    assert pass_time(pool, 0.2) == [Kill(D1, range(1, 2))]
    pool.step((D1, Lost(CRASH, 1)))
    assert states(pool) == ["idle"]


def test_a_stream_of_tasks_costs_nothing() -> None:
    """Whoever has begun another task since the last look is not asked."""
    pool = Pool([D1])
    pool.learn(0.001)
    pool.submit(*range(2, 402))
    for key in range(2, 402):
        pool.now += LOOK / 20
        assert sent(pool.done(D1, key), D1, Ping) == []


def test_nobody_looks_at_those_that_do_nothing(pool: Pool) -> None:
    pass_time(pool, LOOK / 2)
    pool.done(D1, 1)
    assert pool.core.next_deadline() is None
    pool.now += 3_600.0
    pool.submit(2)
    assert pool.step() == []  # it has only just begun
    assert pool.core.next_deadline() == pool.now + LOOK


def test_one_that_is_told_to_hand_back_may_be_stalled_too() -> None:
    pool = Pool([D1])
    pool.learn(PATIENCE / 10)
    pool.submit(2, 3)
    pass_time(pool, LOOK + STALL)
    assert states(pool) == ["stalled"]
    assert pool.report().awaiting == 1


@pytest.mark.parametrize("peer", [CLIENT, 99])
def test_only_a_daemon_answers(peer: int) -> None:
    pool = Pool([D1])
    pool.step((peer, Pong()))
    assert pool.report().rejected == 1


def test_an_answer_that_nobody_has_asked_for_is_nothing() -> None:
    pool = Pool([D1])
    assert pool.step((D1, Pong()), (D1, Pong())) == []
    assert pool.report().rejected == 0


# ── what waits for a daemon that is not there ────────────────────────────────────────────


def join(pool: Pool, peer: int, *tags: str) -> None:
    pool.step((peer, Joined(Role.DAEMON, Hello(VERSION, "host", peer, tags))))


def test_what_waits_for_tags_that_nobody_carries() -> None:
    pool = Pool([D1])
    pool.submit(1, 2, 3)
    pool.submit(4, 5, tags=("gpu",))
    pool.submit(6, tags=("gpu",), client=CLIENT, priority=3)
    pool.step((OTHER, Joined(Role.CLIENT, Hello(VERSION, "other", 3))))
    pool.submit(1, tags=("big", "gpu"), client=OTHER)
    assert pool.report().wanted == (("big", "gpu"), ("gpu",))
    join(pool, D2, "gpu")
    assert pool.report().wanted == (("big", "gpu"),)
    pool.step((OTHER, Cancel((1,))))
    assert pool.report().wanted == ()


def test_a_carrier_that_leaves_is_none() -> None:
    pool = Pool()
    join(pool, D1, "gpu")
    pool.submit(1, 2, tags=("gpu",))
    assert pool.report().wanted == ()
    pool.step((D1, Leave()))
    assert pool.report().wanted == (("gpu",),)


def test_without_daemons_everything_waits_for_one() -> None:
    pool = Pool()
    assert pool.report().wanted == ()
    pool.submit(1, 2)
    pool.submit(3, tags=("gpu",))
    assert pool.report().wanted == ((), ("gpu",))
    pool.step((CLIENT, Cancel((1, 2))))
    assert pool.report().wanted == (("gpu",),)


def test_to_look_at_what_waits_changes_nothing() -> None:
    one, other = Pool(), Pool()
    for pool in (one, other):
        pool.submit(1, 2, 3, tags=("gpu",))
        pool.step((CLIENT, Cancel((1,))))
    one.report()
    for pool in (one, other):
        join(pool, D1, "gpu")
    assert one.hand(D1) == other.hand(D1) == [2]


def test_a_call_for_every_daemon_waits_for_those_to_come() -> None:
    pool = Pool()
    pool.step((CLIENT, Scale(2)))
    pool.step((CLIENT, Submit((), (F,))), (CLIENT, Everywhere((1, 2), task(0))))
    assert (pool.report().wanted, pool.report().kept) == (((),), 2)
    pool.join(D1, Role.DAEMON)
    assert pool.report().wanted == ((),)
    pool.join(D2, Role.DAEMON)
    assert pool.report().wanted == ()


def test_the_last_failure_is_told_until_a_daemon_joins() -> None:
    pool = Pool()
    for code in (1, 2):
        pool.step((0, Stillborn(Crash("the daemon died", code))))
    assert pool.report().failure == Crash("the daemon died", 2)
    pool.join(D1, Role.DAEMON)
    assert pool.report().failure is None


def test_a_failure_alone_answers_nothing() -> None:
    pool = Pool()
    pool.submit(1)
    assert pool.step((0, Stillborn(CRASH))) == []
    assert answers(pool.step((0, Barren(CRASH)))) == {1: Kind.CRASHED}
