"""After each task a daemon is as it was before."""

from __future__ import annotations

import os
import random
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import wait_until

from mirai import daemons, mirai, mirai_map


def look() -> tuple[Any, ...]:
    return (
        os.environ.get("MIRAI_NEW"),
        os.getcwd(),
        str(warnings.filters),
        signal.getsignal(signal.SIGTERM) is signal.SIG_IGN,
        os.getpid(),
    )


def change() -> None:
    os.environ["MIRAI_NEW"] = "new"
    os.chdir("/")
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


def change_and_fail() -> None:
    change()
    raise LookupError


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_task_leaves_nothing() -> None:
    with daemons(1):
        before = mirai(look).result(timeout=30)
        for task in (change, change_and_fail):
            mirai(task).exception(timeout=30)
            assert mirai(look).result(timeout=30) == before


def test_an_interrupted_task_leaves_nothing() -> None:
    def change_and_stay(path: Path) -> None:
        change()
        path.touch()
        signal.pause()

    with daemons(1):
        before = mirai(look).result(timeout=30)
        future = mirai(change_and_stay, Path.cwd() / "begun")
        wait_until((Path.cwd() / "begun").exists)
        future.cancel()
        assert mirai(look).result(timeout=30) == before


def test_an_alarm_of_a_task_does_not_strike_the_next() -> None:
    def set_alarm() -> int:
        signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 600)
        return os.getpid()

    with daemons(1):
        pid = mirai(set_alarm).result(timeout=30)
        assert mirai(lambda: (os.getpid(), signal.alarm(0))).result(timeout=30) == (pid, 0)


def test_signals_that_a_task_has_blocked_are_not_blocked_for_the_next(tmp_path: Path) -> None:
    def block() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        return os.getpid()

    def wait(begun: Path) -> None:
        begun.touch()
        signal.pause()

    with daemons(1):
        pid = mirai(block).result(timeout=30)
        future = mirai(wait, tmp_path / "begun")
        wait_until((tmp_path / "begun").exists)
        future.cancel()
        assert mirai(os.getpid).result(timeout=30) == pid  # it was interrupted, and not killed


def test_without_cleanup_it_stays() -> None:
    with daemons(1, cleanup=False):
        mirai(change).result(timeout=30)
        assert mirai(look).result(timeout=30)[:2] == ("new", "/")
        mirai(lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL)).exception(timeout=30)


def seed_and_draw() -> tuple[float, float]:
    random.seed(1)
    np.random.seed(1)
    return random.random(), float(np.random.random())


def draw() -> tuple[float, float]:
    return random.random(), float(np.random.random())


def test_a_seed_in_one_task_is_not_the_next_ones() -> None:
    drawn = []
    with daemons(2):
        for _ in range(4):
            assert mirai(seed_and_draw).result(timeout=30) == mirai(seed_and_draw).result(30)
            drawn += [mirai(draw) for _ in range(4)]
        numbers = [number for future in drawn for number in future.result(timeout=30)]
    assert len({*numbers}) == 32


def test_sync_changes_are_the_callers() -> None:
    with daemons(sync=True):
        mirai(os.chdir, "/").result()
    assert os.getcwd() == "/"


def test_garbage_is_collected_when_there_is_nothing_to_do(tmp_path: Path) -> None:
    def litter(path: Path) -> None:
        import weakref

        class Node:
            pass

        node = Node()
        node.own = node  # type: ignore[attr-defined]
        weakref.finalize(node, path.touch)

    with daemons(1):
        mirai(litter, tmp_path / "collected").result(timeout=30)
        wait_until((tmp_path / "collected").exists)


@pytest.mark.parametrize(
    "go", [os.chdir, lambda where: os.chdir(where)], ids=["by name", "by value"]
)
def test_tasks_in_a_row_do_not_see_where_others_went(go: Callable[[str], None]) -> None:
    """However short they are, and whatever name the function has in its pickle."""
    with daemons(1):
        mirai_map(go, ["/"] * 100).collect()
        mirai_map(lambda _: os.getcwd(), range(100)).collect()  # both are known to be quick now
        looks = []
        for _ in range(100):
            mirai(go, "/")
            looks.append(mirai(os.getcwd))
        assert {look.result(timeout=30) for look in looks} == {os.getcwd()}


def test_one_that_goes_elsewhere_unseen_is_noticed_when_nothing_waits() -> None:
    def go() -> None:
        import ctypes

        ctypes.CDLL(None).chdir(b"/")

    with daemons(1):
        mirai(go).result(timeout=30)
        assert mirai(os.getcwd).result(timeout=30) == os.getcwd()
