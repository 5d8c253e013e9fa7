"""The core's side of draining, and of what a report says that daemons run."""

from __future__ import annotations

import pytest
from test_core import CLIENT, CRASH, D1, D2, OTHER, TINY, F, Pool, answers, done, given, sent, task

from dispatcher.events import (
    Command,
    CutOff,
    Drain,
    Halt,
    Joined,
    Lost,
    Role,
)
from dispatcher.messages import (
    VERSION,
    Cancel,
    Done,
    Everywhere,
    Hello,
    Kind,
    Leave,
    Outcome,
    Report,
    Returned,
    Scale,
    Submit,
)


def halts(commands: list[Command]) -> bool:
    return Halt() in commands


def test_a_pool_with_nothing_to_do_halts_at_once() -> None:
    pool = Pool([D1])
    assert halts(pool.step((0, Drain())))


def test_one_that_has_work_finishes_what_runs_and_what_waits() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    assert not halts(pool.step((0, Drain())))
    commands = pool.done(D1, 1)
    assert given(commands, D1) == [2]
    assert not halts(commands)
    commands = pool.done(D1, 2)
    assert (answers(commands), halts(commands)) == ({2: Kind.VALUE}, True)


def test_new_tasks_are_declined_and_their_client_stays() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((0, Drain()))
    commands = pool.submit(2, 3)
    assert answers(commands) == {2: Kind.DECLINED, 3: Kind.DECLINED}
    assert not any(isinstance(command, CutOff) for command in commands)
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}


def test_a_client_may_also_come_while_it_drains() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((0, Drain()))
    pool.join(OTHER, Role.CLIENT)
    commands = pool.step((OTHER, Submit((task(1),), (F,))))
    assert answers(commands, OTHER) == {1: Kind.DECLINED}


def test_what_is_declined_breaks_no_rule_of_the_next_submit() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((0, Drain()))
    pool.step((CLIENT, Submit((task(2, 7),), (F.__class__(7, "g", b"g"),), (7,))))
    commands = pool.step((CLIENT, Submit((task(2),))))
    assert any(isinstance(command, CutOff) for command in commands)  # 2 once more


def test_a_cancelled_task_and_a_lost_client_are_not_waited_for() -> None:
    pool = Pool([D1], clients=(CLIENT, OTHER))
    pool.submit(1)
    pool.submit(1, client=OTHER)
    assert not halts(pool.step((0, Drain())))
    assert not halts(pool.step((CLIENT, Cancel((1,)))))
    assert halts(pool.step((OTHER, Lost(CRASH))))


def test_a_task_of_a_daemon_that_dies_is_still_tried_elsewhere() -> None:
    pool = Pool([D1])
    pool.submit(1, retries=1)
    pool.step((0, Drain()))
    assert not halts(pool.step((D1, Lost(CRASH, 1))))
    assert given(pool.join(D1 + 1, Role.DAEMON), D1 + 1) == [2]


def test_a_daemon_does_not_say_what_only_a_dispatcher_may_say() -> None:
    pool = Pool([D1])
    pool.submit(1)
    commands = pool.step((D1, Done((Outcome(1, Kind.DECLINED),))))
    assert CutOff(D1) in commands


# ── what daemons run ─────────────────────────────────────────────────────────────────────


def runs(pool: Pool) -> tuple[str, float]:
    report = pool.report().daemons[0]
    return report.task, report.seconds


def test_an_idle_daemon_runs_nothing() -> None:
    pool = Pool([D1])
    pool.now += 5.0
    assert runs(pool) == ("", 0.0)
    pool.submit(1)
    pool.done(D1, 1)
    pool.now += 5.0
    assert runs(pool) == ("", 0.0)


def test_a_busy_one_runs_its_first_task_since_it_was_given() -> None:
    pool = Pool([D1])
    pool.now += 5.0
    pool.submit(1)
    pool.now += 2.0
    assert runs(pool) == ("f", pytest.approx(2.0))


def test_and_the_next_one_since_the_answer_to_the_first() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.now += 0.001
    pool.step((D1, done(2)))
    pool.now += 0.002
    assert runs(pool) == ("f", pytest.approx(0.002))


def test_or_since_the_first_was_handed_back() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.now += 0.001
    pool.step((D1, Leave()), (D1, Returned((2,))))
    assert runs(pool) == ("f", pytest.approx(0.0))


def test_a_report_on_the_wire_has_it_too() -> None:
    from dispatcher.messages import Ask, ToClient
    from dispatcher.wire import decode, encode

    pool = Pool([D1])
    pool.submit(1)
    pool.now += 1.0
    (report,) = sent(pool.step((CLIENT, Ask(1))), CLIENT, Report)
    assert decode(encode(report), ToClient) == report
    assert report.pool.daemons[0].task == "f"


def test_a_call_for_every_daemon_is_declined() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.step((0, Drain()))
    commands = pool.step((CLIENT, Everywhere((2, 3), task(0))))
    assert answers(commands) == {2: Kind.DECLINED, 3: Kind.DECLINED}
    assert given(commands, D1) == []


def test_a_call_for_every_daemon_that_was_there_before_awaits_those_that_are_to_come() -> None:
    pool = Pool()
    pool.step((CLIENT, Scale(1)), (CLIENT, Submit((), (F,))))
    pool.step((CLIENT, Everywhere((1, 2), task(0))))
    commands = pool.step((0, Drain()))
    assert (answers(commands), halts(commands)) == ({2: Kind.DECLINED}, False)
    assert not halts(pool.join(D1, Role.DAEMON))
    commands = pool.done(D1, 1)
    assert (answers(commands), halts(commands)) == ({1: Kind.VALUE}, True)


def test_what_a_running_task_submits_is_finished_too() -> None:
    pool = Pool([D1, D2])
    pool.submit(1)
    pool.step((0, Drain()))
    inner = 99
    pool.step((inner, Joined(Role.CLIENT, Hello(VERSION, f"host{D1}", D1))))
    assert given(pool.submit(1, client=inner), D2) == [2]
    assert not halts(pool.done(D2, 2))
    assert halts(pool.done(D1, 1))
