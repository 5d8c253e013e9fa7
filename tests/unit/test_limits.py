"""When a daemon leaves of its own accord: no clock, no process."""

from __future__ import annotations

from typing import Any

import pytest

from mirai._limits import Limits, Stay, seconds


def test_without_limits_it_stays() -> None:
    limits = Limits()
    assert limits.deadline(0.0, 0.0) is None
    assert not limits.is_idle(1e9, 0.0)
    assert not limits.reached(10**9)


def test_idle_time_counts_only_while_idle() -> None:
    limits = Limits(idle_time=5.0)
    assert limits.deadline(0.0, 100.0) == 105.0
    assert limits.deadline(0.0, None) is None
    assert not limits.is_idle(104.9, 100.0)
    assert limits.is_idle(105.0, 100.0)
    assert not limits.is_idle(105.0, None)


def test_wall_time_counts_always_and_the_first_deadline_wins() -> None:
    limits = Limits(idle_time=5.0, wall_time=50.0)
    assert limits.deadline(10.0, None) == 60.0
    assert limits.deadline(10.0, 20.0) == 25.0
    assert limits.deadline(10.0, 58.0) == 60.0


def test_max_tasks() -> None:
    assert [Limits(max_tasks=3).reached(n) for n in range(5)] == [False] * 3 + [True] * 2


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5.0), (0.5, 0.5), ("90s", 90.0), ("5m", 300.0), ("1.5h", 5400.0), (" 2 d ", 172800.0),
     ("250ms", 0.25)],
)  # fmt: skip
def test_times(value: float | str, expected: float) -> None:
    assert seconds("x", value) == expected


@pytest.mark.parametrize("value", ["", "5", "m", "-5m", "5 parsecs", "0s"])
def test_texts_that_are_no_times(value: str) -> None:
    with pytest.raises(ValueError, match="idle_time"):
        seconds("idle_time", value)


@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError),
     (True, TypeError), (None, TypeError), ([5], TypeError)],
)  # fmt: skip
def test_values_that_are_no_times(value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="idle_time"):
        seconds("idle_time", value)


def test_a_stay_knows_since_when_there_is_no_task() -> None:
    stay = Stay(Limits(idle_time=5.0, wall_time=50.0), 10.0)
    assert not stay.look(14.9, idle=True)
    assert stay.deadline() == 15.0
    assert not stay.look(20.0, idle=False)
    assert stay.deadline() == 60.0
    assert not stay.look(30.0, idle=True)
    assert not stay.is_idle(34.9)
    assert stay.look(35.0, idle=True)
    assert stay.is_idle(35.0)
    assert stay.look(60.0, idle=False)
    assert not stay.is_idle(60.0)
