"""Tasks that submit tasks to their own pool, and wait for them."""

from __future__ import annotations

import concurrent.futures
import os
import time
from pathlib import Path

import pytest
from conftest import wait_until

from mirai import (
    DaemonCrashed,
    MiraiError,
    TaskTimeout,
    daemons,
    mirai,
    mirai_map,
    on_daemon,
    status,
    use_profile,
)


def fibonacci(n: int) -> int:
    if n < 2:
        return n
    a, b = mirai(fibonacci, n - 1), mirai(fibonacci, n - 2)
    return a.result() + b.result()


async def awaited(n: int) -> int:
    return n if n < 2 else await mirai(awaited, n - 1) + await mirai(awaited, n - 2)


def squares(n: int) -> list[int]:
    return mirai_map(pow, range(n), args=(2,)).collect()


def test_one_daemon_is_enough() -> None:
    with daemons(1):
        assert mirai(squares, 4).result(timeout=30) == [0, 1, 4, 9]


def test_an_inner_task_runs_in_another_process_of_the_same_pool() -> None:
    def pids() -> tuple[int, int]:
        return os.getpid(), mirai(os.getpid).result()

    with daemons(2):
        outer, inner = mirai(pids).result(timeout=30)
        assert outer != inner
        assert {outer, inner} <= {daemon.pid for daemon in status().daemons}


@pytest.mark.thorough
def test_many_that_wait() -> None:
    with daemons(2):
        found = mirai_map(squares, range(30)).collect()
        assert found == [[i * i for i in range(n)] for n in range(30)]


@pytest.mark.thorough
@pytest.mark.parametrize("function", [fibonacci, awaited])
def test_recursion(function: object) -> None:
    with daemons(2):
        assert mirai(function, 7).result(timeout=50) == 13  # type: ignore[arg-type]


def test_any_way_of_waiting() -> None:
    def outer() -> int:
        futures = [mirai(abs, -n) for n in range(3)]
        done, _ = concurrent.futures.wait(futures)
        return sum(future.result() for future in done)

    with daemons(1):
        assert mirai(outer).result(timeout=30) == 3


@pytest.mark.thorough
def test_those_who_stood_in_leave_when_they_are_not_needed() -> None:
    with daemons(1):
        mirai(fibonacci, 4).result(timeout=30)
        assert status().connections > 1
        wait_until(lambda: status().connections == 1)


@pytest.mark.thorough
def test_a_chain_that_is_too_long_fails_and_says_why() -> None:
    def deep(n: int) -> int:
        return 1 + mirai(deep, n - 1).result() if n else 0

    with daemons(1):
        with pytest.raises(DaemonCrashed, match="no more daemons can be had"):
            mirai(deep, 100).result()
        assert mirai(deep, 3).result() == 3


@pytest.mark.thorough
@pytest.mark.parametrize("profile", [None, "named"])
def test_what_a_stopped_task_had_submitted_is_cancelled(
    tmp_path: Path, profile: str | None
) -> None:
    def child(name: str) -> None:
        try:
            (tmp_path / f"{name} begun").touch()
            time.sleep(600)
        except KeyboardInterrupt:
            (tmp_path / f"{name} stopped").touch()
            raise

    def parent(name: str) -> None:
        mirai.options(profile=profile)(child, name).result()

    with daemons(2, profile=profile):
        task = mirai.options(profile=profile)(parent, "cancelled")
        wait_until((tmp_path / "cancelled begun").exists)
        task.cancel()
        wait_until((tmp_path / "cancelled stopped").exists)
        with pytest.raises(TaskTimeout):
            mirai.options(profile=profile, timeout=3.0)(parent, "late").result()
        wait_until((tmp_path / "late stopped").exists)


def test_the_inner_tasks_of_a_killed_daemon_are_stopped(tmp_path: Path) -> None:
    def child() -> None:
        try:
            (tmp_path / "begun").touch()
            time.sleep(600)
        except KeyboardInterrupt:
            (tmp_path / "stopped").touch()

    def parent() -> None:
        (tmp_path / "parent").write_text(str(os.getpid()))
        mirai(child).result()

    with daemons(2):
        task = mirai(parent)
        wait_until((tmp_path / "begun").exists)
        os.kill(int((tmp_path / "parent").read_text()), 9)
        assert isinstance(task.exception(), DaemonCrashed)
        wait_until((tmp_path / "stopped").exists)


def test_what_is_left_behind_still_runs(tmp_path: Path) -> None:
    def leave() -> None:
        mirai((tmp_path / "made").touch)

    with daemons(1):
        mirai(leave).result()
        wait_until((tmp_path / "made").exists)


def test_the_pool_of_a_named_profile_is_its_tasks_own() -> None:
    def both() -> tuple[int, int, int]:
        """By either name, one after the other: each time the daemon lends its place."""
        named = mirai.options(profile="gpu")
        return named(abs, -1).result(), mirai(abs, -2).result(), named(abs, -3).result()

    with daemons(1, profile="gpu"), use_profile("gpu"):
        assert mirai(both).result(timeout=30) == (1, 2, 3)
        with pytest.raises(MiraiError, match="no daemons are set for profile 'cpu'"):
            mirai(lambda: mirai.options(profile="cpu").map(abs, [1])).result()


def test_a_task_may_have_a_pool_of_its_own_by_name() -> None:
    def own() -> tuple[bool, int]:
        with daemons(1, profile="mine"):
            return mirai.options(profile="mine")(on_daemon).result(), os.getpid()

    with daemons(1):
        assert mirai(own).result(timeout=30)[0]


def test_status_inside_a_task_is_that_of_its_pool() -> None:
    with daemons(2) as pool:
        pool.wait(2)
        assert mirai(lambda: status().connections).result(timeout=30) == 2


def test_with_tags_others_of_the_same_kind_stand_in() -> None:
    def outer() -> int:
        return mirai.options(tags=["gpu"])(abs, -7).result()

    with daemons(2, tags=lambda i: ["gpu"] if i == 1 else []) as pool:
        pool.wait(2)
        assert mirai.options(tags=["gpu"])(outer).result(timeout=30) == 7


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_process_that_a_task_has_forked_lends_its_daemons_place() -> None:
    def outer() -> int:
        def child(write: int) -> None:
            os.write(write, b"%d" % mirai(abs, -7).result())

        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            try:
                child(write)
            finally:
                os._exit(0)
        os.close(write)
        found = os.read(read, 10)
        os.close(read)
        os.waitpid(pid, 0)
        return int(found)

    with daemons(1):
        assert mirai(outer).result(timeout=30) == 7
