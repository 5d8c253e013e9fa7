"""The same numbers, whatever the number of daemons and whatever happens to them."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirai import MiraiError, daemons, mirai, mirai_map, task_generator


def draw() -> tuple[float, float, float]:
    from numpy import random as legacy

    return random.random(), float(legacy.random()), float(task_generator().random())


def numbers(*args: Any, **options: Any) -> list[tuple[float, float, float]]:
    """Return what ten tasks draw in a pool."""
    with daemons(*args, **options) as pool:
        single = [mirai(draw) for _ in range(5)]
        pool.status()  # takes an id
        mapped = mirai_map(lambda _: draw(), range(5))
        return [future.result(timeout=30) for future in single] + mapped.collect()


def test_the_same_whatever_the_number_of_daemons() -> None:
    alone = numbers(1, seed=42)
    assert numbers(3, seed=42) == alone
    assert numbers(sync=True, seed=42) == alone
    assert numbers(2, seed=43) != alone
    assert len({number for drawn in alone for number in drawn}) == 30


@pytest.mark.thorough
def test_without_a_seed_all_differ() -> None:
    drawn = numbers(2) + numbers(1) + numbers(1)
    assert len({number for each in drawn for number in each}) == 90


def test_the_same_after_a_retry(tmp_path: Path) -> None:
    def fails_once(mark: Path) -> float:
        number = random.random()
        if not mark.exists():
            mark.touch()
            raise LookupError
        return number

    def dies_once(mark: Path) -> float:
        number = random.random()
        if not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return number

    def run(mark: str) -> list[float]:
        again = mirai.options(retries=1, retry_on=LookupError)
        tasks = [again(fails_once, tmp_path / f"{mark}1"), again(dies_once, tmp_path / f"{mark}2")]
        return [task.result(timeout=30) for task in tasks]

    with daemons(1, seed=7):
        eventful = run("a")
    for name in ("b1", "b2"):
        (tmp_path / name).touch()
    with daemons(2, seed=7):
        assert run("b") == eventful


def test_what_a_daemon_ran_before_does_not_matter() -> None:
    def late() -> float:
        import numpy.random

        return float(numpy.random.random())

    with daemons(1, seed=1):
        mirai(abs, 1)
        first = mirai(late).result(timeout=30)
    with daemons(1, seed=1):
        mirai(lambda: __import__("numpy.random") and random.seed(5))
        assert mirai(late).result(timeout=30) == first


def test_sync_leaves_the_callers_numbers_alone() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    with daemons(sync=True, seed=42):
        mirai(draw).result()
        with pytest.raises(ZeroDivisionError):
            mirai(lambda: random.random() / 0).result()
    assert (random.random(), np.random.random()) == expected


def test_the_generator_is_for_tasks() -> None:
    with daemons(1):
        assert mirai(lambda: task_generator() is task_generator()).result(timeout=30)
        assert mirai(draw).result(timeout=30) != mirai(draw).result(timeout=30)
        with pytest.raises(MiraiError, match="inside of a task"):
            task_generator()
