"""What users of boards see, on whatever store.

A test module makes a class of its own of ``BoardUsers``, with a fixture ``url``.  Functions that
workers run are here, so that they come by their names.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import pickle
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pytest
import trio
from conftest import Command, wait_until

from dispatcher.boards import WorkerState
from mirai._errors import BoardError, RemoteError, SerializationError, StoreError
from mirai.launchers import CommandLauncher, LocalLauncher
from mirai.queues import Board, BoardWorker, Large, TaskState
from mirai.queues.boards import _crew

LONG = 30.0
"""Seconds that nothing here takes."""


def double(x: int, y: int = 0) -> dict[str, int]:
    """Return a dict; fail for 13, and die of 666."""
    if x == 13:
        raise ValueError(f"{x} is unlucky")
    if x == 666:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"z": 2 * x + y}


def stay(begun: str, until: str) -> str:
    """Say that it has begun, and end when it may."""
    Path(begun).touch()
    while not Path(until).exists():
        time.sleep(0.005)
    return "done"


def chatter(lines: int) -> None:
    """Print more than a pipe holds, to both."""
    os.write(1, b"x" * 1000 * lines)
    os.write(2, b"y" * 1000 * lines)


async def awaited(x: int) -> int:
    """Return something later."""
    await asyncio.sleep(0)
    return x


def climb(worker: BoardWorker) -> None:
    """Make tasks, each from the best that others know."""
    logging.getLogger("climb").warning("%s begins", worker.id)
    while worker.goes_on and worker.tally().finished < 30:
        best = max((row.ys["y"] for row in worker.rows(states="finished")), default=0)
        task = worker.create({"start": best})
        assert task.finish(best + 1)


def die_holding(worker: BoardWorker) -> None:
    """Take a task, and die of it the first time; do it the second time."""
    task = worker.pop(LONG)
    assert task is not None
    if task.tries == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    task.finish(task.tries)


def give_up_once(worker: BoardWorker) -> None:
    """Take a task, and find that the board does not answer; the second time it does."""
    task = worker.pop(LONG)
    assert task is not None
    if task.tries == 1:
        raise StoreError("it does not answer")
    task.finish(task.tries)


def die_between(worker: BoardWorker) -> None:
    """Finish a task, and die before the next."""
    task = worker.pop(LONG)
    assert task is not None
    task.finish(os.getpid())
    os.kill(os.getpid(), signal.SIGKILL)


def raise_at_once(worker: BoardWorker) -> None:
    """Be of no use."""
    raise RuntimeError(f"{worker.goes_on=}")


def finish_in_vain(folder: str, worker: BoardWorker) -> None:
    """Take a task, and finish it when it may; write whether that has counted."""
    task = worker.pop(LONG)
    assert task is not None
    stay(f"{folder}/begun", f"{folder}/go")
    counts = task.finish("late")
    Path(folder, "part").write_text(f"{counts} {worker.pop(LONG)}")
    Path(folder, "part").rename(Path(folder, "told"))


def leave(how: str) -> object:
    """End in a way that is none for a task."""
    match how:
        case "exit":
            sys.exit(3)
        case "cancelled":
            raise asyncio.CancelledError
        case "much":
            return {str(n): bytes(100_000) for n in range(1_100)}
        case "much trouble":
            raise ValueError("no" * (20 << 20))  # and its pickle, and its traceback
    return how


class Odd:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("no way")


def odd() -> Odd:
    """Return what cannot be pickled."""
    return Odd()


class Unreadable:
    """Can be pickled, but not be read again."""

    def __reduce__(self) -> Any:
        return int, ("no number",)


class BoardUsers:
    """The tests."""

    @pytest.fixture
    def board(self, url: str) -> Iterator[Board]:
        with Board(url, "users") as board:
            board.reset()
            yield board
            board.stop_workers(kill=True)

    # ── workers with a function ──────────────────────────────────────────────────────────

    def test_tasks_run_on_workers(self, board: Board) -> None:
        ids = board.start_workers(double, 2)
        keys = board.push([{"x": x, "y": 1} for x in (1, 13, 3)])
        assert board.wait(keys, LONG)
        one, unlucky, three = board.rows(keys)
        assert (one.ok, one.ys, one.error, one.condition) == (True, {"z": 3}, None, "")
        assert (one.xs, three.ys, one.tries) == ({"x": 1, "y": 1}, {"z": 7}, 1)
        assert {one.worker, unlucky.worker, three.worker} <= set(ids)
        assert one.pid != os.getpid() and one.pid in {each.pid for each in board.workers()}
        assert one.pushed <= one.started <= one.ended
        assert (unlucky.state, unlucky.ys) == (TaskState.FAILED, {})
        assert unlucky.condition == "ValueError: 13 is unlucky"
        assert isinstance(unlucky.error, ValueError) and "double" in str(unlucky.error.__cause__)
        assert repr(one) == f"<TaskRow {keys[0]}, finished>"

    def test_one_task_alone_and_one_value(self, board: Board) -> None:
        board.start_workers(awaited)
        (key,) = board.push({"x": 5})
        assert board.wait(key, LONG)
        assert board.rows([key])[0].ys == {"y": 5}

    def test_functions_of_a_closure_and_of_main(self, board: Board) -> None:
        factor = 3
        board.start_workers(lambda x: x * factor)
        board.push({"x": 5})
        assert board.wait(timeout=LONG)
        assert board.rows()[0].ys == {"y": 15}

    def test_what_cannot_be_pickled_fails_the_task(self, board: Board) -> None:
        board.start_workers(odd)
        board.push([{}, {}])
        assert board.wait(timeout=LONG)
        assert [row.state for row in board.rows()] == [TaskState.FAILED] * 2
        assert "no way" in board.rows()[0].condition
        with pytest.raises(SerializationError):
            board.push({"x": Odd()})

    def test_what_cannot_be_read_fails_the_task_and_ends_no_worker(self, board: Board) -> None:
        board.start_workers(double)
        many = sys.getrecursionlimit() // 2
        keys = board.push([{"x": Unreadable()}] * many)
        assert board.wait(timeout=LONG)
        assert [row.state for row in board.rows()] == [TaskState.FAILED] * many
        assert "no number" in board.rows(keys[:1])[0].condition
        (key,) = board.push({"x": 1})
        assert board.wait(key, LONG)
        assert board.rows(key)[0].ok
        assert [row.state for row in board.workers()] == [WorkerState.RUNNING]

    def test_no_end_of_a_task_ends_the_worker(self, board: Board) -> None:
        board.start_workers(leave)
        keys = board.push([{"how": "exit"}, {"how": "cancelled"}, {"how": "well"}])
        assert board.wait(keys, LONG)
        left, cancelled, well = board.rows(keys)
        assert (left.state, left.condition) == (TaskState.FAILED, "SystemExit: 3")
        assert isinstance(left.error, RemoteError)
        assert cancelled.state is TaskState.FAILED and isinstance(cancelled.error, RemoteError)
        assert well.ok and len({row.worker for row in (left, cancelled, well)}) == 1

    def test_pinned_tasks(self, board: Board) -> None:
        ids = board.start_workers(double, 2)
        assert board.wait_for_workers(2, LONG)
        for id in ids:
            board.push([{"x": 1}] * 3, to=id)
        assert board.wait(timeout=LONG)
        assert [row.worker for row in board.rows()] == [*[ids[0]] * 3, *[ids[1]] * 3]

    def test_priorities(self, board: Board) -> None:
        board.push({"x": 1})
        board.push({"x": 2}, priority=5)
        board.start_workers(double)
        assert board.wait(timeout=LONG)
        assert [row.xs["x"] for row in board.fetch_new()] == [2, 1]

    def test_workers_of_a_launcher(self, url: str, launch_home: Path) -> None:
        assert launch_home
        with Board(url, "launched") as board:
            board.reset()
            board.start_workers(double, 2, launcher=LocalLauncher())
            board.push([{"x": x} for x in range(4)])
            assert board.wait(timeout=LONG)
            assert board.tally().finished == 4

    def test_a_worker_leaves_when_it_is_idle(self, board: Board) -> None:
        board.start_workers(double, idle_time=0.05)
        board.push([{"x": 1}, {"x": 2}])
        assert board.wait(timeout=LONG)
        wait_until(lambda: not board.tally().workers)
        assert [each.state for each in board.workers()] == [WorkerState.TERMINATED]

    def test_a_worker_leaves_after_so_many_tasks(self, board: Board) -> None:
        board.start_workers(double, max_tasks=2)
        board.push([{"x": 1}, {"x": 2}, {"x": 3}])
        assert not board.wait(timeout=LONG)
        assert (board.tally().finished, board.tally().queued) == (2, 1)

    def test_much_output_blocks_nobody(self, board: Board) -> None:
        board.start_workers(chatter)
        board.push([{"lines": 500}] * 3)
        assert board.wait(timeout=LONG)
        assert board.tally().finished == 3

    def test_seeds_are_those_of_the_workers(self, board: Board) -> None:
        drawn = []
        for _ in range(2):
            board.start_workers(np.random.random, seed=3, idle_time=0.01)
            board.push([{}, {}])
            assert board.wait(timeout=LONG)
            drawn.append([row.ys["y"] for row in board.fetch_new()])
        assert drawn[0] == drawn[1] and len(set(drawn[0])) == 2

    # ── a loop of one's own ──────────────────────────────────────────────────────────────

    def test_workers_make_tasks_from_those_of_others(self, board: Board) -> None:
        ids = board.start_workers(loop=climb, n=2)
        rows = list(board.stream())
        assert len(rows) >= 30
        assert max(row.ys["y"] for row in rows) > 15
        assert {row.worker for row in rows} <= set(ids)
        lines = [line for _, _, line in board.logs()]
        assert sorted(lines) == sorted(f"WARNING climb: {id} begins" for id in ids)
        assert [line for _, _, line in board.logs(ids[0])] == [f"WARNING climb: {ids[0]} begins"]

    def test_a_loop_that_raises(self, board: Board, caplog: pytest.LogCaptureFixture) -> None:
        board.start_workers(loop=raise_at_once)
        board.push({"x": 1})
        assert not board.wait(timeout=LONG)
        assert "no worker of board 'users' runs: RuntimeError: worker.goes_on=True" in caplog.text
        (worker,) = board.workers()
        assert worker.state is WorkerState.TERMINATED
        assert worker.reason == "RuntimeError: worker.goes_on=True"

    # ── crashes ──────────────────────────────────────────────────────────────────────────

    def test_a_crash_is_told_at_once_and_the_worker_replaced(self, board: Board) -> None:
        board.start_workers(double, heartbeat=600)
        keys = board.push([{"x": 666}, {"x": 1}])
        assert board.wait(keys, LONG)
        lost, done = board.rows(keys)
        assert lost.state is TaskState.LOST and done.ok
        assert "SIGKILL" in lost.condition
        assert isinstance(lost.error, BoardError)
        states = [each.state for each in board.workers()]
        assert states == [WorkerState.LOST, WorkerState.RUNNING]

    def test_a_task_of_a_crash_runs_again(self, url: str) -> None:
        with Board(url, "again", tries=2) as board:
            board.reset()
            board.start_workers(loop=die_holding, heartbeat=600)
            (key,) = board.push({})
            assert board.wait(key, LONG)
            (row,) = board.rows([key])
            assert (row.ok, row.ys, row.tries) == (True, {"y": 2}, 2)

    def test_a_crash_between_tasks_fails_none(self, board: Board) -> None:
        board.start_workers(loop=die_between, heartbeat=600, restarts=1)
        board.push([{}, {}, {}])
        assert not board.wait(timeout=LONG)
        tally = board.tally()
        assert (tally.finished, tally.queued, tally.failed, tally.lost) == (2, 1, 0, 0)
        assert [each.state for each in board.workers()] == [WorkerState.LOST] * 2

    def test_one_that_gives_the_board_up_is_replaced_when_that_answers(
        self, url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_crew, "AGAIN", 0.01)
        with Board(url, "again", tries=2) as board:
            board.reset()
            told: list[str] = []
            leave = board._store.leave

            def leave_later(id: str, *why: Any, **options: Any) -> bool:
                told.append(id)
                if len(told) < 3:
                    raise StoreError("it does not answer")
                return leave(id, *why, **options)

            monkeypatch.setattr(board._store, "leave", leave_later)
            (id,) = board.start_workers(loop=give_up_once, heartbeat=600)
            (key,) = board.push({})
            assert board.wait(key, LONG)
            (row,) = board.rows([key])
            assert (row.ok, row.tries, told) == (True, 2, [id] * 3)

    def test_restarts_have_an_end(self, board: Board, caplog: pytest.LogCaptureFixture) -> None:
        board.start_workers(double, restarts=2, heartbeat=600)
        board.push([{"x": 666}] * 5)
        assert not board.wait(timeout=LONG)
        assert (board.tally().lost, board.tally().queued) == (3, 2)
        assert "SIGKILL" in caplog.text

    def test_a_stopped_worker_is_found_and_replaced(self, board: Board, tmp_path: Path) -> None:
        board.start_workers(functools.partial(stay), heartbeat=0.1)
        files = {"begun": str(tmp_path / "begun"), "until": str(tmp_path / "go")}
        (key,) = board.push(files)
        wait_until((tmp_path / "begun").exists)
        (worker,) = board.workers()
        os.kill(worker.pid, signal.SIGSTOP)
        wait_until(lambda: board.detect_lost() == [worker.id])
        (row,) = board.rows([key])
        assert row.state is TaskState.LOST and "not heard of" in row.condition
        (tmp_path / "go").touch()
        (key,) = board.push(files)
        assert board.wait(key, LONG)
        assert board.rows([key])[0].worker != worker.id

    def test_a_lost_worker_is_replaced_whoever_has_noticed(self, board: Board, url: str) -> None:
        (id,) = board.start_workers(double)
        assert board.wait_for_workers(1, LONG)
        with Board(url, "users") as second:
            assert second._store.leave(id, WorkerState.LOST, "said somebody")
        (key,) = board.push({"x": 1})
        assert board.wait(key, LONG)
        assert board.rows(key)[0].worker != id

    def test_workers_on_their_way_are_stopped_too(self, board: Board) -> None:
        board.start_workers(double, 2)
        assert board.stop_workers(timeout=LONG)
        assert not board._coming() and not board.tally().workers
        board.start_workers(double, 2)
        board.stop_workers(kill=True)
        assert not board._coming()

    def test_workers_that_wait_in_a_queue_are_called_off(self, url: str) -> None:
        with Board(url, "queued") as board:
            board.reset()
            board.start_workers(double, 2, launcher=CommandLauncher(["sleep", "1000"]))
        with Board(url, "queued") as board:
            reasons = {each.reason for each in board.workers()}
            assert reasons == {"it was stopped before it came"}
            assert board.tally().workers == 0

    def test_who_was_wrongly_lost_finishes_in_vain(self, board: Board, tmp_path: Path) -> None:
        loop = functools.partial(finish_in_vain, str(tmp_path))
        board.start_workers(loop=loop, heartbeat=600)
        (key,) = board.push({})
        wait_until((tmp_path / "begun").exists)
        (worker,) = board.workers()
        assert board._store.leave(worker.id, WorkerState.LOST, "it is slow")
        (tmp_path / "go").touch()
        wait_until((tmp_path / "told").exists)
        assert (tmp_path / "told").read_text() == "False None"
        (row,) = board.rows([key])
        assert (row.state, row.ys) == (TaskState.LOST, {})
        tally = board.tally()
        assert (tally.finished, tally.lost, len(board.fetch_new())) == (0, 1, 1)

    # ── stopping ─────────────────────────────────────────────────────────────────────────

    def test_workers_end_their_task_before_they_leave(self, board: Board, tmp_path: Path) -> None:
        ids = board.start_workers(stay, 1)
        files = {"begun": str(tmp_path / "begun"), "until": str(tmp_path / "go")}
        board.push([files, files])
        wait_until((tmp_path / "begun").exists)
        assert not board.stop_workers(timeout=0.1)
        (tmp_path / "go").touch()
        assert board.stop_workers(ids, timeout=LONG)
        assert (board.tally().finished, board.tally().queued) == (1, 1)
        assert [each.state for each in board.workers()] == [WorkerState.TERMINATED]

    def test_workers_that_are_killed(self, board: Board, tmp_path: Path) -> None:
        board.start_workers(stay, 1)
        board.push({"begun": str(tmp_path / "begun"), "until": str(tmp_path / "never")})
        wait_until((tmp_path / "begun").exists)
        assert board.stop_workers(kill=True)
        assert [each.state for each in board.workers()] == [WorkerState.KILLED]
        (row,) = board.rows()
        assert (row.state, row.condition.split(": ")[1]) == (TaskState.LOST, "it was stopped")

    def test_leaving_a_block_waits_for_the_tasks_at_hand(self, url: str, tmp_path: Path) -> None:
        with Board(url, "block") as board:
            board.reset()
            board.start_workers(stay)
            board.push({"begun": str(tmp_path / "begun"), "until": str(tmp_path / "go")})
            wait_until((tmp_path / "begun").exists)
            (tmp_path / "go").touch()
        with Board(url, "block") as board:
            assert board.tally().finished == 1

    def test_an_exception_in_a_block_ends_workers_at_once(self, url: str, tmp_path: Path) -> None:
        def play() -> None:
            with Board(url, "block") as board:
                board.reset()
                board.start_workers(stay)
                board.push({"begun": str(tmp_path / "begun"), "until": str(tmp_path / "never")})
                wait_until((tmp_path / "begun").exists)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            play()
        with Board(url, "block") as board:
            assert board.tally().lost == 1

    def test_withdraw(self, board: Board) -> None:
        keys = board.push([{"x": 1}, {"x": 2}])
        assert board.withdraw(keys[0]) == 1
        assert board.withdraw() == 1
        assert board.wait(keys)
        assert {row.condition for row in board.rows()} == {"it was withdrawn from the queue"}

    # ── waiting and reading ──────────────────────────────────────────────────────────────

    def test_waiting_without_workers(self, board: Board, caplog: pytest.LogCaptureFixture) -> None:
        assert board.wait() and not caplog.text
        keys = board.push({"x": 1})
        assert not board.wait(keys)
        assert "no worker of board 'users' runs" in caplog.text
        assert list(board.stream()) == []
        assert not board.wait_for_workers(timeout=0.01)
        with pytest.raises(BoardError, match="unknown"):
            board.wait("unknown")

    def test_waiting_for_what_is_forgotten(self, board: Board, url: str) -> None:
        board.start_workers(double)
        keys = board.push({"x": 1})
        board.wait(keys, LONG)
        with Board(url, "users") as second:
            second.reset()
        with pytest.raises(BoardError, match=keys[0]):
            board.wait(keys, LONG)

    def test_two_managers_see_each_end_once(self, board: Board, url: str) -> None:
        with Board(url, "users") as second:
            board.start_workers(double)
            second.start_workers(double)
            keys = board.push([{"x": x} for x in range(20)])
            keys += second.push([{"x": x} for x in range(20)])
            assert second.wait(keys, LONG)
            for each in (board, second):
                assert sorted(row.key for row in each.fetch_new()) == sorted(keys)
                assert each.fetch_new() == []

    def test_new_ends_after_a_reset(self, board: Board) -> None:
        for _ in range(2):
            board.start_workers(double)
            keys = board.push([{"x": 1}, {"x": 2}])
            assert board.wait(keys, LONG)
            assert sorted(row.key for row in board.fetch_new()) == sorted(keys)
            board.reset()

    def test_fetching_waits(self, board: Board) -> None:
        board.start_workers(double)
        assert board.fetch_new(0.01) == []
        (key,) = board.push({"x": 1})
        (row,) = board.fetch_new(LONG)
        assert row.key == key

    def test_awaiting(self, board: Board) -> None:
        async def play() -> list[int]:
            keys = board.push([{"x": x} for x in range(5)])
            assert await board.wait_async(keys, LONG)
            return [row.xs["x"] async for row in board.new()]

        board.start_workers(double)
        assert asyncio.run(play()) == trio.run(play) == [0, 1, 2, 3, 4]

    def test_what_was_not_yielded_is_new(self, board: Board) -> None:
        async def first() -> str:
            async for row in board.new():
                return row.key
            raise AssertionError("nothing has ended")

        async def cancelled() -> list[str]:
            reading = asyncio.ensure_future(first())
            await asyncio.sleep(0)  # so that it has begun
            reading.cancel()
            await asyncio.wait([reading])
            return [] if reading.cancelled() else [reading.result()]  # it may have been faster

        keys = board.push([{"x": x} for x in range(5)])
        board.start_workers(double)
        assert board.wait(keys, LONG)
        read = asyncio.run(cancelled())
        read += [next(board.stream()).key, asyncio.run(first())]
        read += [row.key for row in board.fetch_new()]
        assert read == keys
        assert board.fetch_new() == []

    def test_an_asynchronous_block(self, url: str) -> None:
        async def play() -> list[Any]:
            async with Board(url, "async") as board:
                board.reset()
                board.start_workers(double)
                board.push([{"x": 1}, {"x": 2}])
                with pytest.raises(BoardError, match="unknown"):
                    await board.wait_async("unknown")
                return [row.ys["z"] async for row in board.new()]

        assert asyncio.run(play()) == trio.run(play) == [2, 4]

    def test_a_frame(self, board: Board) -> None:
        board.start_workers(double, 1)
        board.push([{"x": 1}, {"x": 13, "state": "mine"}])
        board.wait(timeout=LONG)
        frame = board.frame()
        assert list(frame.columns[:5]) == ["key", "state", "x", "xs.state", "z"]
        assert list(frame["state"]) == ["finished", "failed"]
        assert frame["xs.state"][1] == "mine" and frame["xs.state"].isna()[0]
        table = board.frame(states=["failed"], kind="polars")
        assert isinstance(table, polars.DataFrame) and table["x"].to_list() == [13]
        assert board.frame(TaskState.LOST, "arrow").num_rows == 0
        with pytest.raises(ValueError, match="kind"):
            board.frame(kind="table")  # type: ignore[arg-type]

    def test_large_values_are_kept_once(self, url: str) -> None:
        with Board(url, "large", threshold=10_000) as board:
            board.reset()
            board.start_workers(lambda data, n: {"sum": int(data.sum()) + n, "back": data + n})
            data = np.ones(10_000)
            keys = board.push([{"data": data, "n": n} for n in range(3)])
            assert board.wait(keys, LONG)
            row = board.rows(keys)[1]
            assert isinstance(row.xs["data"], Large) and isinstance(row.ys["back"], Large)
            assert row.ys["sum"] == 10_001
            assert row.xs["data"].name == board.rows(keys)[2].xs["data"].name
            assert np.array_equal(board.load(row.ys["back"]), data + 1)
            assert "bytes" in repr(row.xs["data"])
            frame = board.frame(load=True)
            assert all(np.array_equal(each, data) for each in frame["data"])

    def test_shared_objects(self, board: Board) -> None:
        def loop(worker: BoardWorker) -> None:
            worker.share("answer", worker.shared("question") + 1)

        board.share("question", 41)
        board.start_workers(loop=loop)
        assert board.wait(timeout=LONG)
        assert board.shared("answer") == 42
        with pytest.raises(StoreError, match="nothing"):
            board.shared("nothing")

    def test_snapshots(self, url: str, tmp_path: Path) -> None:
        with Board(url, "saved", threshold=10_000) as board:
            board.reset()
            board.start_workers(lambda data: {"size": len(data)})
            board.push([{"data": b"x" * 20_000}, {"data": b"x"}])
            assert board.wait(timeout=LONG)
            board.save(tmp_path / "board")
            frame = board.frame(load=True)
            board.reset()
        assert stat.S_IMODE((tmp_path / "board").stat().st_mode) == 0o600
        loaded = Board.load_frame(tmp_path / "board")
        assert loaded.equals(frame)
        assert list(loaded["size"]) == [20_000, 1]
        (tmp_path / "other").write_text("something")
        with pytest.raises(ValueError, match="no snapshot"):
            Board.load_frame(tmp_path / "other")

    # ── started by hand ──────────────────────────────────────────────────────────────────

    def test_a_worker_by_hand(self, board: Board, command: Command, tmp_path: Path) -> None:
        script = board.worker_script(tmp_path / "worker.json", lambda x: 2 * x)
        assert stat.S_IMODE((tmp_path / "worker.json").stat().st_mode) == 0o600
        assert f"-m mirai board worker {tmp_path}/worker.json" in script
        worker = command("board", "worker", "worker.json")
        assert board.wait_for_workers(1, LONG)
        keys = board.push([{"x": 1}, {"x": 2}])
        assert board.wait(keys, LONG)
        out, _ = command("board", "status", "worker.json").communicate()
        assert out.splitlines()[0].startswith("board 'users' at ")
        assert out.splitlines()[3].split() == ["finished", "2"]
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(LONG) == 0
        assert [each.state for each in board.workers()] == [WorkerState.TERMINATED]

    def test_a_worker_by_hand_that_is_stopped_at_once_gives_its_task_back(
        self, url: str, command: Command, tmp_path: Path
    ) -> None:
        def begin(at: str) -> None:  # here, so that it comes by value
            Path(at).touch()
            time.sleep(600)

        begun = tmp_path / "begun"
        with Board(url, "by hand", tries=2) as board:
            board.reset()
            board.worker_script(tmp_path / "worker.json", begin)
            worker = command("board", "worker", "worker.json")
            (key,) = board.push({"at": str(begun)})
            wait_until(begun.exists)
            while worker.poll() is None:  # the second one ends it
                worker.send_signal(signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    worker.wait(0.1)
            (row,) = board.rows([key])
            assert (row.state, row.tries, row.worker) == (TaskState.QUEUED, 1, "")
            assert [each.state for each in board.workers()] == [WorkerState.KILLED]

    def test_a_file_that_others_can_read(
        self, board: Board, command: Command, tmp_path: Path
    ) -> None:
        board.worker_script(tmp_path / "worker.json", double)
        (tmp_path / "worker.json").chmod(0o644)
        worker = command("board", "worker", "worker.json")
        _, err = worker.communicate()
        assert (worker.returncode, "chmod 600" in err) == (1, True)

    # ── what makes no sense ──────────────────────────────────────────────────────────────

    def test_what_makes_no_sense(self, board: Board) -> None:
        for wrong in (3, [3], [{1: 2}]):
            with pytest.raises(TypeError):
                board.push(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="range"):
            board.push({"x": 1}, priority=2**31)
        with pytest.raises(TypeError):
            board.start_workers()
        with pytest.raises(TypeError):
            board.start_workers(double, loop=climb)
        with pytest.raises(ValueError, match="level"):
            board.start_workers(double, log="loud")
        for name in ("n", "restarts", "max_tasks", "log", "heartbeat", "idle_time"):
            with pytest.raises(TypeError, match=f"{name} must be"):
                board.start_workers(double, **{name: [1]})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="max_tasks must be"):
            board.start_workers(double, max_tasks=0)
        assert not board._crews
        with pytest.raises(ValueError, match="broken"):
            board.rows(states="broken")
        with pytest.raises(TypeError, match="stays"):
            pickle.dumps(board)

    def test_two_boards_know_nothing_of_each_other(self, board: Board, url: str) -> None:
        with Board(url, "other") as other:
            other.reset()
            other.push({"x": 1})
            assert (board.tally().queued, other.tally().queued) == (0, 1)
            other.reset()
