"""Relays: each of a pool's daemons has daemons of its own behind it, and does their number of tasks
at once."""

from __future__ import annotations

import builtins
import contextlib
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command, processes_marked, wait_until
from orders import connected, remote_pool

from mirai import (
    DaemonCrashed,
    Daemons,
    TaskCancelled,
    TaskTimeout,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    status,
)
from mirai.launchers import LocalLauncher

LOCAL = LocalLauncher()
LARGE = 1 << 20

pytestmark = pytest.mark.usefixtures("launch_home")


@pytest.fixture
def three() -> Iterator[Daemons]:
    """Three relays, each with two daemons."""
    with daemons(3, launcher=LOCAL, each=2, grace=0.2) as pool:
        pool.wait(3, 60)
        yield pool
        pool.shutdown()


def meet(folder: str, count: int) -> int:
    """Wait until so many are here; return this process's number."""
    (Path(folder) / str(os.getpid())).touch()
    while len(os.listdir(folder)) < count:
        time.sleep(0.005)
    return os.getpid()


def begin_and_wait(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    threading.Event().wait()


def ignore_all(path: str) -> None:
    """Take no notice of interrupts."""
    Path(path).write_text(str(os.getpid()))
    while True:
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


def begun(path: Path) -> int:
    """Wait until a task has begun; return its process's number."""
    wait_until(lambda: path.exists() and path.read_text())
    return int(path.read_text())


def fail(text: str) -> None:
    raise ValueError(text)


def fail_once(path: str) -> str:
    try:
        os.mkdir(path)
    except FileExistsError:
        return "ran again"
    raise ValueError("the first time")


def die_once(path: str) -> str:
    try:
        os.mkdir(path)
    except FileExistsError:
        return "ran again"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def put(value: int) -> int:
    builtins.kept = value  # type: ignore[attr-defined]
    return os.getpid()


def look(folder: str, count: int) -> int | None:
    meet(folder, count)
    return getattr(builtins, "kept", None)


def nested(number: int) -> int:
    return int(mirai(abs, number).result()) + 1


class TestTasks:
    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_all_daemons_of_all_relays_work_at_once(self, tmp_path: Path) -> None:
        pids = mirai_map(meet, [str(tmp_path)] * 6, [6] * 6).collect()
        assert len(set(pids)) == 6
        now = status()
        assert now.connections == 3
        assert [daemon.width for daemon in now.daemons] == [2, 2, 2]
        assert not set(pids) & {daemon.pid for daemon in now.daemons}
        assert "0 of 2" in str(now)

    @pytest.mark.usefixtures("three")
    def test_values_and_errors_are_as_from_any_daemon(self, tmp_path: Path) -> None:
        assert mirai_map(abs, range(-5_000, 0)).collect() == [*range(5_000, 0, -1)]
        data = os.urandom(LARGE)
        assert mirai(bytes, data).result(30) == data
        with pytest.raises(ValueError, match="so it is") as caught:
            mirai(fail, "so it is").result(30)
        assert "in fail" in str(caught.value.__cause__)
        retried = mirai.options(retries=1, retry_on=ValueError)
        assert retried(fail_once, str(tmp_path / "once")).result(30) == "ran again"

    @pytest.mark.usefixtures("three")
    def test_what_a_task_prints_is_in_its_log(self) -> None:
        task = mirai(print, "words")
        task.result(30)
        assert task.log == "words\n"

    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_tasks_submit_tasks_which_stay_behind_the_relay(self) -> None:
        assert mirai_map(nested, [-3] * 12).collect() == [4] * 12

    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_a_call_for_every_daemon_reaches_all(self, tmp_path: Path) -> None:
        answers = everywhere(put, 42).collect()
        assert len(set(answers)) == 3  # one of each relay
        found = mirai_map(look, [str(tmp_path)] * 6, [6] * 6).collect()
        assert found == [42] * 6

    def test_each_number_of_a_seed_is_what_it_is_elsewhere(self) -> None:
        with daemons(1, seed=1):
            alone = [mirai(random.random).result(30) for _ in range(3)]
        with daemons(1, launcher=LOCAL, each=2, seed=1):
            assert [mirai(random.random).result(30) for _ in range(3)] == alone


def test_options_reach_the_daemons(capsys: pytest.CaptureFixture[str]) -> None:
    def init() -> None:
        builtins.kept = "ready"  # type: ignore[attr-defined]

    def find() -> tuple[object, ...]:
        print("here")
        return os.environ["COLOUR"], os.getcwd(), builtins.kept  # type: ignore[attr-defined]

    with daemons(
        1,
        launcher=LOCAL,
        each=2,
        env={"COLOUR": "red"},
        cwd="/",
        init=init,
        tags=("gpu",),
        output="stream",
    ) as pool:
        assert mirai.options(tags=("gpu",))(find).result(30) == ("red", "/", "ready")
        assert pool.status().daemons[0].tags == ("gpu",)
    assert "here" in capsys.readouterr().out


class TestStopping:
    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_a_task_that_runs_is_stopped(self, tmp_path: Path) -> None:
        task = mirai(begin_and_wait, str(tmp_path / "begun"))
        pid = begun(tmp_path / "begun")
        assert task.cancel()
        with pytest.raises(TaskCancelled):
            task.result(0)
        folder = tmp_path / "all"
        folder.mkdir()
        pids = mirai_map(meet, [str(folder)] * 6, [6] * 6).collect()
        assert pid in pids  # it has survived

    @pytest.mark.usefixtures("three")
    def test_one_that_takes_too_long_too(self, tmp_path: Path) -> None:
        path = str(tmp_path / "begun")
        with pytest.raises(TaskTimeout):
            mirai.options(timeout=0.3)(begin_and_wait, path).result(30)
        assert mirai(abs, -1).result(30) == 1

    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_one_that_does_not_leave_costs_one_daemon_and_no_relay(self, tmp_path: Path) -> None:
        before = {daemon.pid for daemon in status().daemons}
        task = mirai(ignore_all, str(tmp_path / "begun"))
        pid = begun(tmp_path / "begun")
        assert task.cancel()
        wait_until(lambda: not Path(f"/proc/{pid}").exists())
        folder = tmp_path / "all"
        folder.mkdir()
        assert pid not in mirai_map(meet, [str(folder)] * 6, [6] * 6).collect()
        assert {daemon.pid for daemon in status().daemons} == before


class TestLosses:
    @pytest.mark.thorough
    def test_a_daemon_that_is_killed_is_told_of(self, three: Daemons, tmp_path: Path) -> None:
        task = mirai(begin_and_wait, str(tmp_path / "begun"))
        pid = begun(tmp_path / "begun")
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(DaemonCrashed, match=f"SIGKILL .process {pid} on .* attempt 1"):
            task.result(30)
        folder = tmp_path / "all"
        folder.mkdir()
        assert len(set(mirai_map(meet, [str(folder)] * 6, [6] * 6).collect())) == 6
        assert connected(three) == 3

    @pytest.mark.usefixtures("three")
    def test_its_task_runs_again_if_it_may(self, tmp_path: Path) -> None:
        path = str(tmp_path / "died")
        assert mirai.options(retries=1)(die_once, path).result(30) == "ran again"

    @pytest.mark.thorough
    @pytest.mark.usefixtures("three")
    def test_a_relay_that_is_killed_takes_its_daemons_along(self, tmp_path: Path) -> None:
        paths = [tmp_path / str(number) for number in range(6)]
        tasks = [mirai(begin_and_wait, str(path)) for path in paths]
        pids = [begun(path) for path in paths]
        os.kill(status().daemons[0].pid, signal.SIGKILL)
        wait_until(lambda: sum(task.done() for task in tasks) == 2)
        for task in [task for task in tasks if task.done()]:
            with pytest.raises(DaemonCrashed):
                task.result(0)
        wait_until(lambda: sum(Path(f"/proc/{pid}").exists() for pid in pids) == 4)
        for task in tasks:
            task.cancel()
        assert mirai(abs, -1).result(30) == 1

    @pytest.mark.thorough
    def test_none_outlives_the_dispatcher(self, three: Daemons, mark: str) -> None:
        assert three._process is not None
        os.kill(three._process.pid, signal.SIGKILL)
        wait_until(lambda: not processes_marked(mark), 30)

    @pytest.mark.thorough
    def test_daemons_that_cannot_start_are_told_of(self) -> None:
        def init() -> None:
            raise RuntimeError("no licence")

        with daemons(1, launcher=LOCAL, each=2, init=init), pytest.raises(DaemonCrashed) as caught:
            mirai(abs, -1).result(60)
        assert "no licence" in str(caught.value)


class TestLeaving:
    @pytest.mark.thorough
    def test_fewer_relays(self, three: Daemons) -> None:
        assert mirai(abs, -1).result(30) == 1
        three.scale(1)
        wait_until(lambda: connected(three) == 1)
        assert mirai_map(abs, range(-50, 0)).collect() == [*range(50, 0, -1)]

    def test_one_with_nothing_to_do_leaves(self) -> None:
        with daemons(1, launcher=LOCAL, each=2, idle_time=0.3) as pool:
            pool.wait(1, 60)
            wait_until(lambda: connected(pool) == 0)

    def test_daemons_come_anew_after_so_many_tasks(self) -> None:
        with daemons(1, launcher=LOCAL, each=2, max_tasks=1) as pool:
            pool.wait(1, 60)
            [before] = status().daemons
            assert len({mirai(os.getpid).result(30) for _ in range(5)}) == 5
            [after] = status().daemons
            assert before.pid == after.pid

    def test_a_signal_lets_it_finish_what_runs(self, command: Command, tmp_path: Path) -> None:
        go = str(tmp_path / "go")

        def wait(path: str) -> str:  # which it knows though it cannot import this file
            Path(path).touch()
            while not os.path.exists(go):
                time.sleep(0.005)
            return path

        paths = [tmp_path / str(number) for number in range(3)]
        with remote_pool() as pool:
            pool.connection_file(str(tmp_path / "keys.json"))
            process = command("daemon", "keys.json", "--each", 2)
            pool.wait(1, 60)
            tasks = [mirai(wait, str(path)) for path in paths]
            wait_until(lambda: sum(path.exists() for path in paths) == 2)
            process.terminate()
            wait_until(lambda: status().daemons[0].state == "leaving")
            Path(go).touch()
            assert process.wait(30) == 0
            assert [task.done() for task in tasks] == [True, True, False]
            assert tasks[1].result(0) == str(paths[1])
