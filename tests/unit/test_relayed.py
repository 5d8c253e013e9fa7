"""What a relay makes of what it hears from either side."""

from __future__ import annotations

from typing import Any

from dispatcher.messages import (
    Cancel,
    Crash,
    Everywhere,
    Function,
    Interrupt,
    Kind,
    Outcome,
    Ping,
    Pong,
    Printed,
    Recall,
    Results,
    Returned,
    Run,
    Submit,
    Task,
)
from mirai._relayed import Relayed

F = Function(7, "f", b"def f")
WIDTH = 3


def task(id: int, **more: Any) -> Task:
    return Task(id, F.number, b"%d" % id, **more)


def run(first: int, count: int) -> Task:
    payloads = tuple(b"%d" % id for id in range(first, first + count))
    return Task(first, F.number, payloads[0], following=payloads[1:])


def value(id: int, count: int = 1) -> Outcome:
    payloads = tuple(b"v%d" % each for each in range(id, id + count))
    return Outcome(id, Kind.VALUE, payloads[0], following=payloads[1:])


def given(*tasks: Task) -> Relayed:
    """Return what has been given tasks, which have been passed on."""
    relayed = Relayed(WIDTH)
    relayed.hear_from_above(Run(tasks, (F,)))
    relayed.downwards.clear()
    return relayed


def test_tasks_have_other_numbers_below_which_grow() -> None:
    relayed = Relayed(WIDTH)
    relayed.hear_from_above(Run((task(100), task(50)), (F,), (3,)))
    relayed.hear_from_above(Run((task(70),)))
    first, second = relayed.downwards
    assert isinstance(first, Submit)
    assert isinstance(second, Submit)
    assert (first.functions, first.forget) == ((F,), (3,))
    assert [each.id for each in (*first.tasks, *second.tasks)] == [1, 2, 3]
    assert [each.payload for each in first.tasks] == [b"100", b"50"]
    relayed.hear_from_below(Results((value(2), value(3), value(1))))
    assert [each.id for each in relayed.outcomes] == [50, 70, 100]
    assert not relayed


def test_below_they_do_not_run_again() -> None:
    relayed = Relayed(WIDTH)
    relayed.hear_from_above(Run((task(1, retries=5, priority=2),)))
    [submit] = relayed.downwards
    assert submit == Submit((task(1, priority=2),))


def test_a_run_stays_one() -> None:
    relayed = given(run(100, 5))
    relayed.hear_from_below(Results((value(1, 2), value(3, 3))))
    assert [(each.id, each.count) for each in relayed.outcomes] == [(100, 2), (102, 3)]


def test_a_crash_is_passed_on_without_the_story_of_those_below() -> None:
    crash = Crash("the daemon died", -9, "far", 77)
    relayed = given(task(100))
    relayed.hear_from_below(Results((Outcome(1, Kind.CRASHED, crash=crash),)))
    assert relayed.outcomes == [Outcome(100, Kind.CRASHED, crash=crash)]


def test_what_is_recalled_is_what_the_dispatcher_below_gives_back() -> None:
    relayed = given(run(100, 3))
    relayed.hear_from_above(Recall((101, 102, 999)))
    assert relayed.downwards == [Recall((2, 3))]
    relayed.hear_from_below(Returned((3,)))
    assert relayed.upwards == [Returned((102,))]
    assert len(relayed) == 2


def test_a_recall_of_what_is_answered_is_answered_too() -> None:
    relayed = given(task(100))
    relayed.hear_from_below(Results((value(1),)))
    relayed.hear_from_above(Recall((100,)))
    assert relayed.downwards == [Recall(())]


def test_an_interrupt_cancels_below_and_is_answered_at_once() -> None:
    relayed = given(task(100), task(101))
    relayed.hear_from_above(Interrupt((100, 999)))
    assert relayed.downwards == [Cancel((1,))]
    assert relayed.outcomes == [Outcome(100, Kind.CANCELLED)]
    relayed.outcomes.clear()
    relayed.hear_from_below(Results((value(1), value(2))))  # that was on its way
    assert [each.id for each in relayed.outcomes] == [101]


def test_answers_of_a_run_of_which_the_first_was_stopped() -> None:
    relayed = given(run(100, 4))
    relayed.hear_from_above(Interrupt((100,)))
    relayed.outcomes.clear()
    relayed.hear_from_below(Results((value(1, 4),)))
    [outcome] = relayed.outcomes
    assert (outcome.id, outcome.payload, outcome.following) == (101, b"v2", (b"v3", b"v4"))
    assert not relayed


def test_what_tasks_print_is_passed_on_while_they_are_there() -> None:
    relayed = given(task(100))
    relayed.hear_from_below(Printed(1, "words"))
    relayed.hear_from_below(Printed(2, "of nobody"))
    assert relayed.upwards == [Printed(100, "words")]


def test_a_ping_is_answered() -> None:
    relayed = Relayed(WIDTH)
    relayed.hear_from_above(Ping())
    assert relayed.upwards == [Pong()]


# ── calls for every daemon ───────────────────────────────────────────────────────────────


def test_each_daemon_has_to_do_it_in_its_turn() -> None:
    relayed = Relayed(WIDTH)
    before, call, after = task(1), task(2, keep=True), task(3)
    relayed.hear_from_above(Run((before, call, after), (F,)))
    assert relayed.downwards == [
        Submit((before,), (F,)),
        Everywhere((2, 3, 4), call),
        Submit((Task(5, F.number, b"3"),)),
    ]


def test_it_is_answered_once_all_have() -> None:
    relayed = given(task(100, keep=True))
    relayed.hear_from_below(Results((value(1), value(3))))
    assert not relayed.outcomes
    relayed.hear_from_below(Results((value(2),)))
    assert relayed.outcomes == [Outcome(100, Kind.VALUE, b"v1")]
    assert not relayed


def test_its_answer_is_what_went_wrong_first() -> None:
    relayed = given(task(100, keep=True))
    bad = [Outcome(id, Kind.ERROR, b"e%d" % id) for id in (2, 3)]
    relayed.hear_from_below(Results((value(1), *bad)))
    assert relayed.outcomes == [Outcome(100, Kind.ERROR, b"e2")]


def test_it_is_not_handed_back() -> None:
    relayed = given(task(100, keep=True))
    relayed.hear_from_above(Recall((100,)))
    assert relayed.downwards == [Recall(())]


def test_it_is_cancelled_for_all() -> None:
    relayed = given(task(100, keep=True))
    relayed.hear_from_below(Results((value(1),)))
    relayed.hear_from_above(Interrupt((100,)))
    assert relayed.downwards == [Cancel((1, 2, 3))]
    assert relayed.outcomes == [Outcome(100, Kind.CANCELLED)]
    relayed.hear_from_below(Results((value(2),)))
    assert len(relayed.outcomes) == 1
    assert not relayed
