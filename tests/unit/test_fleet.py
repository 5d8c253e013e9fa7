"""Launched daemons: who has joined, who has failed, and how many more are wanted."""

from __future__ import annotations

from collections.abc import Iterable

from mirai._fleet import FORGOTTEN, LINGER, Fleet
from mirai.launchers import Handle, Phase, State

A, B, C = (Handle(f"7_{number}", "one") for number in (1, 2, 3))
OTHER = Handle("8", "two")
RUNS = State(Phase.RUNNING)
UNKNOWN = State(Phase.UNKNOWN)


def fleet(*handles: Handle, wanted: int = 0, patience: float = 100.0) -> Fleet:
    made = Fleet(patience, wanted=wanted)
    made.add(handles, 0.0)
    return made


def joins(it: Fleet, *handles: Handle) -> None:
    it.there({handle.id for handle in handles}, ())


def ends(it: Fleet, handles: Iterable[Handle], phase: Phase = Phase.ENDED, now: float = 1.0) -> int:
    """Return how many of them have failed by that."""
    return len(it.told({handle: State(phase) for handle in handles}, now))


def test_those_are_expected_that_have_not_joined() -> None:
    it = fleet(A, B, C)
    joins(it, B)
    assert it.expected() == [A, C]
    assert it.living() == [A, B, C]
    joins(it)  # it has gone again
    assert it.expected() == [A, C]


def test_one_that_came_and_went_between_two_looks_has_joined() -> None:
    it = fleet(A, wanted=1)
    it.there((), {A.id})
    assert ends(it, [A]) == 0
    assert it.missing() == 1


def test_a_job_that_ends_before_it_joins_has_failed() -> None:
    it = fleet(A, B, wanted=2)
    [failure] = it.told({A: State(Phase.MEMORY, "OUT_OF_MEMORY"), B: RUNS}, 1.0)
    assert failure.handle is A
    assert failure.why == "job 7_1 ended before it joined: out of memory: OUT_OF_MEMORY"
    assert it.told({A: State(Phase.FAILED)}, 2.0) == []
    assert it.living() == [B]


def test_after_a_failure_no_more_are_wanted_until_one_joins() -> None:
    it = fleet(A, B, wanted=2)
    ends(it, [A], Phase.FAILED)
    assert it.missing() == 0
    joins(it, B)
    assert it.missing() == 1


def test_one_that_is_there_does_not_excuse_another_that_fails() -> None:
    it = fleet(A, B, wanted=2)
    joins(it, A)
    ends(it, [B], Phase.FAILED)
    joins(it, A)
    assert it.missing() == 0


def test_what_does_not_join_in_time_is_given_up() -> None:
    it = fleet(A, B, patience=10.0)
    joins(it, B)
    it.told({A: State(Phase.PENDING, "PENDING (Resources)"), B: RUNS}, 9.0)
    assert it.late(9.0) == []
    [failure] = it.late(10.0)
    assert failure.why == "job 7_1 has not joined within 10 s: pending: PENDING (Resources)"
    assert it.late(11.0) == []
    assert it.staying() == [B]
    assert it.living() == [A, B], "until the platform says that it has ended"


def test_what_the_platform_has_forgotten_is_over_after_a_while() -> None:
    it = fleet(A)
    it.told({A: RUNS}, 1.0)
    it.told({A: UNKNOWN}, 2.0)
    assert it.living() == [A]
    it.told({A: UNKNOWN}, 2.0 + FORGOTTEN)
    assert it.living() == []


def test_what_the_platform_has_never_known_may_be_in_a_queue() -> None:
    it = fleet(A, patience=1_000.0)
    for now in (1.0, 2 * FORGOTTEN):
        it.told({A: UNKNOWN}, now)
    assert it.living() == [A]


def test_who_is_there_is_not_over_whatever_the_platform_knows() -> None:
    it = fleet(A)
    for now in (1.0, 2 * FORGOTTEN):
        joins(it, A)
        it.told({A: UNKNOWN}, now)
    assert it.living() == [A]
    for now in (3 * FORGOTTEN, 4 * FORGOTTEN):
        joins(it)
        it.told({A: UNKNOWN}, now)
    assert it.living() == []


def test_those_that_have_not_joined_are_dismissed_first_the_youngest_at_first() -> None:
    it = fleet(A, B, C)
    joins(it, C)
    assert it.dismiss(1, {C.id}) == ([B], [])
    assert it.dismiss(-1, {C.id}) == ([], [])
    assert it.dismiss(5, {C.id}) == ([A], [C])
    assert (it.staying(), it.expected(), it.living()) == ([], [], [A, B, C])


def test_of_those_that_have_joined_idle_ones_go_first() -> None:
    it = fleet(A, B, C)
    joins(it, A, B, C)
    assert it.dismiss(2, {A.id}) == ([], [A, C])


def test_one_that_is_replaced_in_its_job_counts_while_it_is_not_there() -> None:
    it = fleet(A, wanted=1)
    joins(it, A)
    joins(it)
    assert it.staying() == [A]


def test_the_end_of_one_that_was_dismissed_is_no_failure() -> None:
    it = fleet(A, wanted=1)
    it.dismiss(1, ())
    assert ends(it, [A], Phase.CANCELLED) == 0
    assert not it.is_hopeless()


def test_after_one_that_had_joined_has_ended_others_may_do_well() -> None:
    """A node that is bad does not keep the others from being used again."""
    it = fleet(A, B, wanted=2)
    joins(it, B)
    ends(it, [A], Phase.FAILED)
    assert it.missing() == 0
    ends(it, [B], Phase.TIMEOUT)
    assert it.missing() == 2


def test_it_is_hopeless_when_all_have_failed_and_none_is_left() -> None:
    it = fleet(A, B, wanted=2)
    ends(it, [A], Phase.FAILED)
    assert not it.is_hopeless()
    ends(it, [B], Phase.FAILED)
    assert it.is_hopeless()


def test_a_launch_has_ended_with_its_last_job_and_is_forgotten_a_little_later() -> None:
    it = fleet(A, B, OTHER)
    ends(it, [A])
    assert it.ended() == set()
    ends(it, [B], now=5.0)
    assert it.ended() == {"one"}
    assert it.finished(5.0) == []
    assert it.finished(5.0 + LINGER) == ["one"]
    assert list(it.jobs) == [OTHER.id]
