"""Daemons that leave, are let go, or are joined by others."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import processes_marked, wait_until

from mirai import MiraiError, daemons, mirai, mirai_map, status


class TestLimits:
    def test_max_tasks(self) -> None:
        with daemons(1, max_tasks=3):
            pids = [mirai(os.getpid).result(timeout=20) for _ in range(9)]
        assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [3, 3, 3]

    def test_max_tasks_when_tasks_come_by_the_hundred(self) -> None:
        with daemons(2, max_tasks=200):
            pids = mirai_map(lambda _: os.getpid(), range(1_000)).collect()
        assert all(pids.count(pid) <= 200 for pid in pids)
        assert len(pids) == 1_000

    def test_idle_time_and_back_when_there_is_work(self, mark: str, dispatchers: int) -> None:
        with daemons(2, idle_time="50ms"):
            first = mirai(os.getpid).result()
            wait_until(lambda: status().connections == 0)
            wait_until(lambda: len(processes_marked(mark)) == dispatchers)
            assert mirai(os.getpid).result(timeout=20) != first

    def test_wall_time(self) -> None:
        with daemons(1, wall_time=0.3):
            first = mirai(os.getpid).result()
            wait_until(lambda: status().cumulative >= 2)
            assert mirai(os.getpid).result(timeout=20) != first

    def test_wall_time_does_not_cut_a_task_short(self) -> None:
        with daemons(1, wall_time=0.1):
            assert mirai(lambda: time.sleep(0.5) or 7).result(timeout=20) == 7

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"max_tasks": 0}, ValueError),
            ({"max_tasks": 1.5}, TypeError),
            ({"idle_time": -1}, ValueError),
            ({"idle_time": "5 fortnights"}, ValueError),
            ({"wall_time": object()}, TypeError),
        ],
    )
    def test_what_makes_no_sense(self, options: dict[str, Any], error: type[Exception]) -> None:
        with pytest.raises(error, match=next(iter(options))):
            daemons(1, **options)


@pytest.mark.usefixtures("dispatchers")
class TestTerminate:
    def test_the_running_task_ends_and_the_rest_moves_on(self, tmp_path: Path) -> None:
        def work(x: int) -> tuple[int, int]:
            (tmp_path / f"begun{x}").touch()
            while x == 0 and not (tmp_path / "go").exists():
                time.sleep(0.001)
            return x, os.getpid()

        with daemons(1):
            pid = mirai(os.getpid).result()
            futures = [mirai(work, x) for x in range(5)]
            wait_until((tmp_path / "begun0").exists)
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: status().daemons[0].state == "leaving")
            (tmp_path / "go").touch()
            assert futures[0].result(timeout=20) == (0, pid)
            others = [future.result(timeout=20) for future in futures[1:]]
            assert [x for x, _ in others] == [1, 2, 3, 4]
            assert pid not in {other for _, other in others}


@pytest.mark.usefixtures("dispatchers")
class TestScale:
    def test_up(self, mark: str, dispatchers: int) -> None:
        with daemons(1) as pool:
            pool.scale(3)
            pool.wait(3, timeout=20)
            assert len(processes_marked(mark)) == dispatchers + 3

    def test_down_lets_idle_ones_go_first(self, tmp_path: Path) -> None:
        def work() -> int:
            while not (tmp_path / "go").exists():
                time.sleep(0.001)
            return os.getpid()

        with daemons(3) as pool:
            pool.wait(3, timeout=20)
            future = mirai(work)
            wait_until(lambda: status().executing == 1)
            pool.scale(1)
            wait_until(lambda: status().connections == 1)
            (tmp_path / "go").touch()
            assert future.result(timeout=20) == status().daemons[0].pid

    def test_down_finishes_what_runs(self, tmp_path: Path) -> None:
        def work(x: int) -> int:
            while not (tmp_path / "go").exists():
                time.sleep(0.001)
            return x

        with daemons(2) as pool:
            futures = [mirai(work, x) for x in range(6)]
            wait_until(lambda: status().executing == 2)
            pool.scale(1)
            wait_until(lambda: "leaving" in {daemon.state for daemon in status().daemons})
            (tmp_path / "go").touch()
            assert [future.result(timeout=20) for future in futures] == list(range(6))
            wait_until(lambda: status().connections == 1)

    def test_down_and_up_while_tasks_fly(self) -> None:
        with daemons(2) as pool:
            futures = mirai_map(lambda x: x, range(5_000))
            for n in (1, 3, 1, 2):
                pool.scale(n)
            assert futures.collect() == list(range(5_000))
            wait_until(lambda: status().connections == 2)

    def test_to_nothing_and_back(self) -> None:
        with daemons(1) as pool:
            pool.wait(1, timeout=20)
            pool.scale(0)
            wait_until(lambda: status().connections == 0)
            future = mirai(abs, -1)
            pool.scale(1)
            assert future.result(timeout=20) == 1

    def test_what_makes_no_sense(self) -> None:
        with daemons(1) as pool:
            with pytest.raises(ValueError, match="negative"):
                pool.scale(-1)
            with pytest.raises(TypeError):
                pool.scale("3")  # type: ignore[arg-type]
            with pytest.raises(TimeoutError, match="of 2 daemons"):
                pool.wait(2, timeout=0.05)
        with pytest.raises(MiraiError):
            pool.scale(1)


def test_scaling_wakes_a_pool_whose_daemons_have_left_for_idleness() -> None:
    with daemons(1, idle_time=0.05) as pool:
        pool.wait(1)
        wait_until(lambda: status().connections == 0)
        before = status().cumulative
        pool.scale(2)
        wait_until(lambda: status().cumulative == before + 2)
