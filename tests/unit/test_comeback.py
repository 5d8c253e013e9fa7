"""What comes after a daemon of a supervisor's: no process, no clock."""

from __future__ import annotations

import random
import signal
from bisect import bisect

import pytest

from dispatcher.processes import JOINED
from mirai._comeback import (
    FIRST_DELAY,
    LONGEST_DELAY,
    MAX_FAILURES,
    MAX_UNPROVED,
    REACH,
    Again,
    Over,
    Place,
    exit_told,
)
from mirai._ending import Ending, ending_of
from mirai._limits import Limits

CRASH = 1
MIDDLE = 0.5


def place(**limits: float) -> Place:
    return Place(100.0, 100.0, Limits(**limits))  # type: ignore[arg-type]


def after(
    where: Place, code: int, *, joined: bool = True, now: float = 110.0, chance: float = MIDDLE
) -> Again | Over:
    ending = code if isinstance(code, Ending) else None
    return where.next(ending, code, joined=joined, now=now, chance=chance)


def delay(following: Again | Over) -> float:
    assert isinstance(following, Again)
    return following.delay


@pytest.mark.parametrize("code", [0, CRASH, 3, 91, 96, -signal.SIGKILL, Ending.REPLACED])
def test_one_that_crashed_is_replaced_at_once(code: int) -> None:
    where = place()
    for _ in range(3 * MAX_FAILURES):
        assert delay(after(where, code)) == 0.0


@pytest.mark.parametrize(
    ("code", "status"),
    [(Ending.STOPPED, 0), (Ending.LEFT, 0), (Ending.REFUSED, 3), (Ending.BARREN, 1)],
)
def test_one_that_was_told_to_end_is_not(code: Ending, status: int) -> None:
    following = after(place(), code)
    assert isinstance(following, Over)
    assert following.status == status


def test_several_in_a_row_that_never_joined_are_enough() -> None:
    where = place()
    for _ in range(MAX_FAILURES - 1):
        assert delay(after(where, CRASH, joined=False)) == 0.0
    following = after(where, CRASH, joined=False)
    assert following == Over("5 daemons in a row died before they could join", status=1)


def test_one_that_joined_ends_the_row() -> None:
    where = place()
    for _ in range(3):
        for _ in range(MAX_FAILURES - 1):
            assert isinstance(after(where, CRASH, joined=False), Again)
        assert isinstance(after(where, CRASH), Again)


def test_they_come_back_at_longer_and_longer_intervals() -> None:
    where = place()
    delays = [delay(after(where, Ending.LOST))]
    delays += [delay(after(where, Ending.UNREACHED, joined=False)) for _ in range(12)]
    assert delays[:4] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY, 8 * FIRST_DELAY]
    assert delays[-1] == LONGEST_DELAY
    assert delay(after(where, Ending.LOST)) == FIRST_DELAY  # it had joined meanwhile


def test_not_all_of_them_at_the_same_moment() -> None:
    first, last = (delay(after(place(), Ending.LOST, chance=chance)) for chance in (0.0, 0.99))
    assert first == FIRST_DELAY / 2
    assert last == pytest.approx(1.49 * FIRST_DELAY)


def test_many_that_are_lost_together_come_back_one_by_one() -> None:
    """At an outage of the dispatcher: not more than it can greet in that time."""
    count, rng = 500, random.Random(0)
    places = [place() for _ in range(count)]
    for attempt in range(4):
        ending = Ending.UNREACHED if attempt else Ending.LOST
        joined = not attempt
        due = sorted(delay(after(it, ending, joined=joined, chance=rng.random())) for it in places)
        spread = FIRST_DELAY * 2.0**attempt
        assert due[-1] - due[0] > 0.9 * spread
        in_a_tenth = max(bisect(due, start + spread / 10) - i for i, start in enumerate(due))
        assert in_a_tenth < 2 * count / 10


def test_a_server_that_does_not_prove_its_key_is_tried_a_few_times() -> None:
    """It may have died in the middle of the handshake."""
    where = place()
    for _ in range(MAX_UNPROVED - 1):
        assert delay(after(where, Ending.UNPROVED, joined=False)) > 0
    following = after(where, Ending.UNPROVED, joined=False)
    assert isinstance(following, Over)
    assert following.status == 3


def test_the_wall_time_is_the_places_and_not_the_daemons() -> None:
    where = place(wall_time=50.0, max_tasks=3)
    assert where.limits_now(100.0).wall_time == 50.0
    assert where.limits_now(130.0) == Limits(None, 20.0, 3)
    assert where.limits_now(999.0).wall_time == pytest.approx(0.001)
    assert isinstance(after(where, Ending.LOST, now=149.0), Again)
    assert isinstance(after(where, Ending.LOST, now=149.9), Over)


def test_a_place_without_a_dispatcher_is_idle() -> None:
    where = place(idle_time=30.0)
    assert isinstance(after(where, Ending.LOST, now=200.0), Again)
    assert isinstance(after(where, Ending.UNREACHED, joined=False, now=210.0), Again)
    following = after(where, Ending.UNREACHED, joined=False, now=229.0)
    assert isinstance(following, Over)
    assert "limit" in following.reason
    assert following.status == 0


def test_what_a_task_can_imitate_is_no_ending() -> None:
    for ending in Ending:
        assert ending_of(ending.mark, -signal.SIGKILL) is ending
        assert ending_of(7, ending) is ending_of(JOINED, ending) is None
        assert ending_of(None, ending) is ending  # there is nothing else to go by
    assert ending_of(None, CRASH) is None


# ── launched ones ────────────────────────────────────────────────────────────────────────


def lost(it: Place, now: float, ending: Ending = Ending.UNREACHED) -> Again | Over:
    return it.next(ending, ending, joined=ending is Ending.LOST, now=now, chance=0.5)


def test_one_that_was_launched_does_not_come_back_to_a_pool_that_is_gone() -> None:
    it = Place(0.0, 0.0, launched=True)
    assert lost(it, 10.0, Ending.LOST) == Over("the connection to the dispatcher was lost", 1)


def test_one_that_was_launched_tries_to_join_for_a_while() -> None:
    it = Place(0.0, 0.0, launched=True)
    assert isinstance(lost(it, REACH - 1), Again)
    assert lost(it, REACH + 1) == Over("the dispatcher cannot be reached", 1)


def test_all_addresses_are_tried_before_the_pauses_get_longer() -> None:
    it = Place(0.0, 0.0, ways=3)
    pauses = [lost(it, 0.0) for _ in range(7)]
    delays = [pause.delay for pause in pauses if isinstance(pause, Again)]
    assert delays == [FIRST_DELAY] * 3 + [2 * FIRST_DELAY] * 3 + [4 * FIRST_DELAY]


@pytest.mark.parametrize("code", [0, 3, 139, -9, -11])
def test_how_a_process_ended_can_be_read_from_what_is_said(code: int) -> None:
    it = Place(0.0, 0.0)
    said = it.next(None, code, joined=True, now=0.0, chance=0.0, pid=77).reason
    assert exit_told(f"mirai daemon: {said}", 77) == code
    assert exit_told(f"mirai daemon: {said}", 7) is None
    assert exit_told("", 77) is None
