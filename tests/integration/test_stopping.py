"""Cancels by the hundred and by the ten thousand: no daemon is lost, and no other task is hit."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until

from mirai import Mirai, TaskCancelled, daemons, mirai, mirai_map, status

MANY = 10_000


def spin(begun: Path) -> None:
    """Never end, in Python alone."""
    begun.touch()
    while True:
        pass


def work(i: int) -> int:
    """Take a moment, in which an interrupt could strike that is not meant for this task."""
    return sum(range(1_000)) + i


def touch(i: int, ran: Path) -> int:
    ran.touch()
    return i


def pids() -> set[int]:
    return {daemon.pid for daemon in status().daemons}


def rest() -> None:
    wait_until(lambda: (status().awaiting, status().executing) == (0, 0))


@pytest.mark.usefixtures("dispatchers")
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("count", "workers"), [(200, 1), pytest.param(1_000, 2, marks=pytest.mark.thorough)]
)
def test_a_storm_of_cancels(count: int, workers: int, tmp_path: Path) -> None:
    """Busy tasks are cancelled, each followed at once by another task.

    That is at all moments: before they are sent, before they begin, as they begin, and later.
    """
    rng = random.Random(count)
    begun = [tmp_path / f"begun{number}" for number in range(workers)]
    with daemons(workers) as pool:
        pool.wait(workers)
        at_first = pids()
        assert len(at_first) == workers
        for i in range(count):
            busy = [mirai(spin, path) for path in begun]
            if i % 2:
                for path in begun:
                    wait_until(path.exists)
                    path.unlink()
            elif i % 4:
                for _ in range(rng.randrange(40)):
                    work(i)
            others: list[Mirai[int]] = []
            for future in busy:
                assert future.cancel()
                others.append(mirai(work, i))
            for future in busy:
                assert future.cancelled()
                assert isinstance(future.exception(), TaskCancelled)
            assert [other.result(timeout=30) for other in others] == [work(i)] * workers
            assert status().cumulative == workers, "a daemon was lost"
            for path in begun:
                path.unlink(missing_ok=True)
        rest()
        assert pids() == at_first


def one_by_one(ran: Path) -> Sequence[Mirai[Any]]:
    futures = [mirai(touch, i, ran) for i in range(MANY)]
    wait_until(lambda: status().awaiting == MANY)
    for future in futures:
        assert future.cancel()
    return futures


def as_a_map(ran: Path) -> Sequence[Mirai[Any]]:
    futures = mirai_map(touch, range(MANY), args=(ran,))
    wait_until(lambda: status().awaiting == MANY)
    assert futures.cancel() == MANY
    return futures


@pytest.mark.usefixtures("dispatchers")
@pytest.mark.parametrize("cancel_all", [one_by_one, as_a_map])
def test_ten_thousand_that_wait_are_cancelled(cancel_all: Any, tmp_path: Path) -> None:
    """The pool is empty then, but for the task that they have waited for, and works."""
    with daemons(1):
        blocker = mirai(spin, tmp_path / "begun")
        wait_until((tmp_path / "begun").exists)
        [pid] = pids()
        futures = cancel_all(tmp_path / "ran")
        assert all(future.cancelled() for future in futures)
        wait_until(lambda: status().awaiting == 0)
        assert status().executing == 1
        assert not blocker.done()
        assert blocker.cancel()
        assert mirai(os.getpid).result(timeout=30) == pid
        assert mirai_map(work, range(100)).collect() == [work(i) for i in range(100)]
        rest()
    assert not (tmp_path / "ran").exists()
