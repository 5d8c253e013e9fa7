"""Calls for every daemon: now, and for those that join later before their first task."""

from __future__ import annotations

import pytest
from test_core import CLIENT, CRASH, D1, D2, D3, OTHER, TINY, F, Pool, answers, given, sent, task

from dispatcher.core import MAX_STANDING
from dispatcher.events import (
    Barren,
    Command,
    Joined,
    Keep,
    Lost,
    Role,
)
from dispatcher.messages import (
    VERSION,
    Cancel,
    Done,
    Everywhere,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Outcome,
    Recall,
    Refused,
    Returned,
    Run,
    Scale,
    Stop,
    Submit,
)

LONG = 600.0


def awaiting(count: int) -> Pool:
    """Return a pool that keeps so many daemons, none of which has joined yet."""
    pool = Pool()
    pool.step((CLIENT, Scale(count)))
    return pool


def everywhere(pool: Pool, *ids: int, payload: bytes | None = None) -> list[Command]:
    """Send a call, and the function F before it if the client has not sent that yet."""
    if F.number not in pool.core._clients[CLIENT].functions:
        pool.step((CLIENT, Submit((), (F,))))
    payload = b"%d" % pool.core._keys if payload is None else payload  # unlike those before
    return pool.step((CLIENT, Everywhere(ids, task(0, payload=payload))))


def test_each_daemon_runs_it_once_and_answers_under_its_own_id() -> None:
    pool = Pool([D1, D2])
    commands = everywhere(pool, 1, 2)
    assert (given(commands, D1), given(commands, D2)) == ([1], [2])
    assert [run.tasks[0].keep for run in sent(commands, D1, Run)] == [True]
    assert answers(pool.done(D2, 2)) == {2: Kind.VALUE}
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}


def test_a_later_daemon_runs_it_before_its_first_task() -> None:
    pool = awaiting(1)
    everywhere(pool, 1)
    pool.submit(5)
    commands = pool.join(D1, Role.DAEMON)
    assert given(commands, D1)[0] == 2  # the call's key; the task was the first to get one
    assert answers(pool.done(D1, 2)) == {1: Kind.VALUE}


def test_what_nobody_waits_for_is_run_and_dropped() -> None:
    pool = Pool([D1])
    everywhere(pool, 1)
    pool.done(D1, 1)
    assert given(pool.join(D2, Role.DAEMON), D2) == [2]
    assert answers(pool.done(D2, 2)) == {}
    assert pool.report().executing == 0


def test_calls_come_in_the_order_in_which_they_were_made() -> None:
    pool = awaiting(1)
    everywhere(pool, 1)
    everywhere(pool, 2)
    assert given(pool.join(D1, Role.DAEMON), D1) == [1, 2]


def test_a_busy_daemon_runs_it_after_its_task() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert given(everywhere(pool, 2), D1) == [2]
    assert pool.hand(D1) == [1, 2]
    assert sent(pool.wait(LONG), D1, Recall) == []


def test_only_what_others_can_have_is_recalled() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    everywhere(pool, 4)
    assert sent(pool.wait(LONG), D1, Recall) == [Recall((3,))]


def test_it_can_be_cancelled_before_and_after_its_daemon_has_joined() -> None:
    pool = Pool([D1])
    everywhere(pool, 1, 2)
    assert answers(pool.step((CLIENT, Cancel((1, 2))))) == {}
    assert pool.core._standing[0].ids == type(pool.core._standing[0].ids)()
    assert answers(pool.done(D1, 1)) == {}
    assert given(pool.join(D2, Role.DAEMON), D2) == [2]


def test_one_that_is_cancelled_before_its_daemon_has_joined_is_waited_for_no_longer() -> None:
    pool = awaiting(2)
    everywhere(pool, 1, 2)
    assert answers(pool.step((CLIENT, Cancel((1,))))) == {}
    assert pool.core.has_waiting()
    pool.step((CLIENT, Cancel((2,))))
    assert not pool.core.has_waiting()
    pool.join(D1, Role.DAEMON)
    assert answers(pool.done(D1, 1)) == {}


def test_it_is_not_tried_again_elsewhere_whatever_its_client_says() -> None:
    pool = Pool([D1, D2])
    pool.step((CLIENT, Submit((), (F,))))
    pool.step((CLIENT, Everywhere((1, 2), task(0, retries=5))))
    failed = Outcome(1, Kind.ERROR, b"e", again=True)
    assert answers(pool.step((D1, Done((failed,))))) == {1: Kind.ERROR}


@pytest.mark.parametrize("started", [0, 1, None])
def test_the_death_of_its_daemon_is_its_answer(started: int | None) -> None:
    pool = Pool([D1, D2])
    everywhere(pool, 1, 2)
    assert answers(pool.step((D1, Lost(CRASH, started)))) == {1: Kind.CRASHED}
    assert pool.hand(D2) == [2]


def test_a_daemon_that_leaves_hands_it_back_as_cancelled() -> None:
    pool = Pool([D1])
    pool.submit(1)
    everywhere(pool, 2)
    assert sent(pool.step((D1, Leave())), D1, Recall) == [Recall((1, 2))]
    assert answers(pool.step((D1, Returned((2,))))) == {2: Kind.CANCELLED}
    commands = pool.done(D1, 1)
    assert answers(commands) == {1: Kind.VALUE}
    assert sent(commands, D1, Stop) == [Stop()]


def test_answers_for_which_no_daemon_will_come_are_given_up() -> None:
    pool = awaiting(3)
    pool.join(D1, Role.DAEMON)
    everywhere(pool, 1, 2, 3)
    commands = pool.step((CLIENT, Scale(2)))
    assert answers(commands) == {3: Kind.CANCELLED}
    assert Keep(2) in commands
    assert answers(pool.step((D1, Lost(CRASH)), (0, Barren(CRASH)))) == {
        1: Kind.CRASHED,
        2: Kind.CRASHED,
    }
    assert answers(everywhere(pool, 4)) == {4: Kind.CRASHED}


def test_a_pool_whose_daemons_sleep_is_woken_by_it() -> None:
    pool = awaiting(1)
    everywhere(pool)
    assert not pool.core.has_waiting()
    everywhere(pool, 1)
    assert pool.core.has_waiting()


def test_it_ends_with_its_client() -> None:
    pool = Pool(clients=[CLIENT, OTHER])
    everywhere(pool, 1)
    pool.step((CLIENT, Lost(CRASH)))
    assert given(pool.join(D1, Role.DAEMON), D1) == []
    assert not pool.core._standing


def test_its_function_is_kept_for_it() -> None:
    pool = Pool()
    everywhere(pool, 1)
    pool.step((CLIENT, Submit((), (), (F.number,))))
    for daemon in (D1, D2, D3):
        (run,) = sent(pool.join(daemon, Role.DAEMON), daemon, Run)
        assert [function.payload for function in run.functions] == [F.payload]


@pytest.mark.parametrize("ids", [(1,), (9, 8), (9, 9)])
def test_numbers_must_grow(ids: tuple[int, ...]) -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert len(sent(everywhere(pool, *ids), CLIENT, Refused)) == 1


def test_its_function_must_be_known() -> None:
    pool = Pool([D1])
    commands = pool.step((CLIENT, Everywhere((), task(0))))
    assert len(sent(commands, CLIENT, Refused)) == 1


def test_there_is_a_limit() -> None:
    pool = Pool()
    for number in range(MAX_STANDING):
        assert sent(everywhere(pool, payload=b"%d" % number), CLIENT, Refused) == []
    assert len(sent(everywhere(pool, payload=b"too many"), CLIENT, Refused)) == 1


def test_the_same_call_again_takes_the_place_of_the_former() -> None:
    pool = Pool([D1])
    everywhere(pool, 1, payload=b"a")
    everywhere(pool, 2, payload=b"b")
    everywhere(pool, 3, payload=b"a")
    assert pool.hand(D1) == [1, 2, 3]
    (run,) = sent(pool.join(D2, Role.DAEMON), D2, Run)
    assert [each.payload for each in run.tasks] == [b"b", b"a"]


def test_answers_beyond_those_of_daemons_that_stay_or_come_are_given_up() -> None:
    pool = Pool([D1, D2])
    pool.submit(1, 2)
    pool.step((D1, Leave()))
    assert answers(everywhere(pool, 3, 4)) == {4: Kind.CANCELLED}


def test_a_daemon_that_leaves_in_the_same_turn_has_it_before_it_is_recalled() -> None:
    """Else it would hand back nothing, begin nothing, and never be stopped."""
    pool = Pool([D1])
    pool.step((CLIENT, Submit((), (F,))))
    commands = pool.step((CLIENT, Everywhere((1,), task(0))), (D1, Leave()))
    assert [type(command.message) for command in commands] == [Run, Recall]
    commands = pool.step((D1, Returned((1,))))
    assert answers(commands) == {1: Kind.CANCELLED}
    assert sent(commands, D1, Stop) == [Stop()]


def test_it_is_interrupted_after_it_has_come() -> None:
    pool = Pool([D1])
    pool.step((CLIENT, Submit((), (F,))))
    commands = pool.step((CLIENT, Everywhere((1,), task(0))), (CLIENT, Cancel((1,))))
    assert [type(command.message) for command in commands] == [Run, Interrupt]


def test_a_report_says_since_when_it_runs() -> None:
    pool = Pool([D1])
    pool.now += 5.0
    everywhere(pool, 1)
    pool.now += 2.0
    (report,) = pool.report().daemons
    assert (report.task, report.seconds) == ("f", pytest.approx(2.0))


def test_a_task_that_calls_every_daemon_waits_for_them() -> None:
    """No client of ours does it; one that does must not confuse the core."""
    pool = awaiting(2)
    pool.join(D1, Role.DAEMON)
    pool.submit(1)
    inner = 99
    pool.step((inner, Joined(Role.CLIENT, Hello(VERSION, f"host{D1}", D1))))
    pool.step((D1, Leave()))  # so that none of it is for D1
    pool.step((inner, Submit((), (F,))), (inner, Everywhere((1,), task(0))))
    pool.join(D2, Role.DAEMON)
    assert D1 in pool.core._lending
