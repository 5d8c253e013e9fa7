"""The core's side of daemons that leave, and of pools that grow and shrink."""

from __future__ import annotations

from test_core import CLIENT, CRASH, D1, D2, D3, TINY, Pool, answers, done, given, sent

from dispatcher.events import (
    Command,
    CutOff,
    Keep,
    Lost,
    Retire,
    Role,
    Send,
)
from dispatcher.messages import Ask, Kind, Leave, Recall, Report, Returned, Scale, Slot, Stop


def stopped(commands: list[Command], *daemons: int) -> list[int]:
    return [daemon for daemon in daemons if sent(commands, daemon, Stop)]


def test_an_idle_daemon_that_wants_to_leave_is_stopped() -> None:
    pool = Pool([D1])
    assert stopped(pool.step((D1, Leave())), D1) == [D1]
    assert given(pool.submit(1), D1) == []
    assert pool.report().daemons[0].state == "leaving"


def test_a_busy_one_hands_back_and_ends_its_task_first() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    commands = pool.step((D1, Leave()))
    assert sent(commands, D1, Recall) == [Recall((2, 3, 4))]
    assert stopped(commands, D1) == []
    assert stopped(pool.step((D1, Returned((3, 4)))), D1) == []
    assert given(pool.join(D2, Role.DAEMON), D2) == [3, 4]
    commands = pool.done(D1, 2)
    assert (answers(commands), stopped(commands, D1)) == ({2: Kind.VALUE}, [D1])


def test_it_may_answer_before_it_hands_back() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.step((D1, Leave()))
    assert stopped(pool.step((D1, done(2))), D1) == []
    assert stopped(pool.step((D1, Returned((3,)))), D1) == [D1]


def test_leaving_twice_is_leaving() -> None:
    pool = Pool([D1])
    pool.step((D1, Leave()))
    assert pool.step((D1, Leave())) == []


def test_one_that_dies_on_its_way_out_loses_nothing_that_had_not_started() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.step((D1, Leave()))
    assert answers(pool.step((D1, Lost(CRASH, 2)))) == {2: Kind.CRASHED}
    assert given(pool.join(D2, Role.DAEMON), D2) == [3]


def test_the_idle_ones_retire_first() -> None:
    pool = Pool([D1, D2, D3])
    pool.submit(1)  # D1 is busy
    commands = pool.step((0, Retire((D1, D2, D3), 2)))
    assert stopped(commands, D1, D2, D3) == [D2, D3]


def test_those_that_leave_already_are_counted() -> None:
    pool = Pool([D1, D2, D3])
    pool.submit(1, 2, 3)
    pool.step((D2, Leave()))
    pool.step((0, Retire((D1, D2, D3), 1)))
    states = {report.id: report.state for report in pool.report().daemons}
    assert states == {D1: "busy", D2: "leaving", D3: "busy"}


def test_only_those_that_are_named_retire() -> None:
    pool = Pool([D1, D2])
    assert stopped(pool.step((0, Retire((D2, 99), 5))), D1, D2) == [D2]


def test_a_client_may_scale_and_a_daemon_may_not() -> None:
    pool = Pool([D1])
    assert pool.step((CLIENT, Scale(3))) == [Keep(3)]
    slots = (Slot({"A": "1"}), Slot({}, ("gpu",)))
    assert pool.step((CLIENT, Scale(2, slots))) == [Keep(2, slots)]
    assert pool.step((D1, Scale(3)))[-1] == CutOff(D1)


def test_a_report_may_wait_for_daemons() -> None:
    pool = Pool()
    assert pool.step((CLIENT, Ask(1, 2)), (CLIENT, Ask(2))) == pool_reports(pool, 2)
    assert sent(pool.join(D1, Role.DAEMON), CLIENT, Report) == []
    reports = sent(pool.join(D2, Role.DAEMON), CLIENT, Report)
    assert [(report.number, report.pool.connections) for report in reports] == [(1, 2)]
    assert sent(pool.join(D3, Role.DAEMON), CLIENT, Report) == []


def test_a_report_that_waits_goes_with_its_client() -> None:
    pool = Pool()
    pool.step((CLIENT, Ask(1, 1)))
    pool.step((CLIENT, Lost(CRASH)))
    assert pool.core._asked == []
    assert sent(pool.join(D1, Role.DAEMON), CLIENT, Report) == []


def pool_reports(pool: Pool, number: int) -> list[Command]:
    return [Send(CLIENT, Report(number, pool.report()))]


def test_one_that_leaves_while_it_is_recalled_hands_back_the_first_task_too() -> None:
    """The recall before leaves out the task that should have been running by then."""
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    assert sent(pool.wait(1.0), D1, Recall) == [Recall((3,))]
    assert sent(pool.step((D1, Leave())), D1, Recall) == [Recall((2, 3))]
    assert stopped(pool.step((D1, Returned((3,)))), D1) == []
    assert stopped(pool.step((D1, Returned((2,)))), D1) == [D1]
    assert given(pool.join(D2, Role.DAEMON), D2) == [2, 3]
