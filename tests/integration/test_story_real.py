"""``Mirai.story()``: where a task is, and what has happened to it, in real pools."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until

from mirai import DaemonCrashed, Mirai, TaskTimeout, _channel, daemons, mirai, status


def run_until(path: Path, begun: Path) -> None:
    begun.touch()
    while not path.exists():
        time.sleep(0.001)


def die_once(path: Path) -> int:
    if not path.exists():
        path.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def plot(mirai: Mirai[Any]) -> list[str]:
    return [event.what for event in mirai.story().events]


def in_order(mirai: Mirai[Any]) -> bool:
    times = [event.time for event in mirai.story().events]
    return times == sorted(times)


@pytest.mark.thorough
@pytest.mark.usefixtures("dispatchers")
def test_the_life_of_tasks(tmp_path: Path) -> None:
    go, begun = tmp_path / "go", tmp_path / "begun"
    before = time.time()
    with daemons(1) as pool:
        pool.wait(1)
        (daemon,) = status().daemons
        sent = f"sent to daemon {daemon.id} (process {daemon.pid} on {daemon.host})"

        running, waiting = mirai(run_until, go, begun), mirai(abs, -1)
        wait_until(begun.exists)
        assert plot(running)[:2] == ["submitted", sent]
        assert plot(running)[2].startswith("runs there, for ")
        assert plot(waiting) == ["submitted", "waits for a daemon, as do 0 others"]
        time.sleep(0.02)
        go.touch()
        waiting.result(timeout=30)
        running.result(timeout=30)
        assert plot(running)[:2] == ["submitted", sent]
        assert plot(running)[2].startswith("ended there, after ")
        assert plot(running)[3] == "returned"

        late = mirai.options(timeout=0.05)(time.sleep, 60)
        error = late.exception(timeout=30)
        assert isinstance(error, TaskTimeout)
        (note,) = error.__notes__
        assert sent in note and re.search(r"runs there, for \d+\.\d", note)

        failed = mirai(int, "x")
        failed.exception(timeout=30)
        assert plot(failed)[-1] == "failed: ValueError"

        again = mirai.options(retries=1)(die_once, tmp_path / "died")
        pid = again.result(timeout=30)
        steps = plot(again)
        died = "that daemon was lost: the daemon died of SIGKILL; attempt 2 follows"
        assert (steps[2], steps[-1]) == (died, "returned")
        assert f"(process {pid} on" in steps[3]
        for each in (running, late, failed, again):
            assert in_order(each)
            assert before <= each.story().events[0].time <= time.time()
    assert "sent to daemon" in str(again.story())  # the pool is gone


def test_a_crash_tells_how_it_came_to_it() -> None:
    with daemons(1):
        crash = mirai.options(retries=1)(os._exit, 3).exception(timeout=30)
    assert isinstance(crash, DaemonCrashed)
    (note,) = crash.__notes__
    assert note.count("sent to daemon") == note.count("died with exit code 3") == 2


def test_in_a_done_callback_nobody_is_asked(tmp_path: Path) -> None:
    stories: list[list[str]] = []
    with daemons(1):
        running = mirai(run_until, tmp_path / "go", tmp_path / "begun")
        first = mirai.options(timeout=0.01)(abs, -1)
        first.add_done_callback(lambda _: stories.append(plot(running)))
        assert isinstance(first.exception(timeout=30), TaskTimeout)
        (tmp_path / "go").touch()
        running.result(timeout=30)
    assert stories == [["submitted"]]


def test_a_dispatcher_that_does_not_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(_channel, "PATIENCE", 0.05)
    with daemons(1) as pool:
        running = mirai(run_until, tmp_path / "go", tmp_path / "begun")
        wait_until((tmp_path / "begun").exists)
        assert pool._process is not None
        os.kill(pool._process.pid, signal.SIGSTOP)
        assert plot(running) == ["submitted", "the dispatcher does not say where it is"]
        os.kill(pool._process.pid, signal.SIGCONT)
        (tmp_path / "go").touch()
        running.result(timeout=30)


def test_where_there_is_no_pool_any_more() -> None:
    pool = daemons(1)
    waiting = mirai(time.sleep, 60)
    pool.shutdown()
    assert plot(waiting) == ["submitted", "was cancelled"]


def test_in_the_caller() -> None:
    with daemons(sync=True):
        assert plot(mirai(abs, -1)) == ["submitted", "returned"]
