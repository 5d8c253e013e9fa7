"""What users of boards see, on the dispatcher's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from board_users import LONG, BoardUsers, double, leave
from conftest import wait_until

from mirai import MiraiError, daemons, mirai
from mirai.queues import Board, BoardWorker


@pytest.fixture
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Have a dispatcher of a pool without daemons."""
    path = tmp_path_factory.mktemp("pool") / "pool.json"
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        pool.connection_file(path, role="client")
        yield f"mirai://{path}"


@pytest.mark.thorough
class TestUsers(BoardUsers):
    pass


def test_workers_are_tasks_of_the_pool_at_hand(tmp_path: Path) -> None:
    with daemons(2):
        with Board("mirai://") as board:
            ids = board.start_workers(double, 2)
            keys = board.push([{"x": x} for x in range(20)])
            assert board.wait(keys, LONG)
            assert {row.worker for row in board.rows()} <= set(ids)
            with pytest.raises(ValueError, match="pool at hand"):
                board.start_workers(double, seed=3)
            with pytest.raises(MiraiError, match="connection file"):
                board.worker_script(tmp_path / "file", double)
        assert mirai(abs, -1).result(LONG) == 1


@pytest.mark.thorough
def test_what_is_too_much_for_a_board_fails_the_task() -> None:
    with daemons(1), Board("mirai://") as board:
        board.start_workers(leave)
        keys = board.push([{"how": "much"}, {"how": "much trouble"}, {"how": "well"}])
        assert board.wait(keys, LONG)
        much, trouble, well = board.rows(keys)
        assert "bytes in one task" in much.condition
        assert trouble.condition.startswith("ValueError: nono")
        assert well.ok


def test_many_tasks_of_some_size_are_pushed() -> None:
    with daemons(1), Board("mirai://") as board:
        keys = board.push({"x": bytes(200_000)} for _ in range(1_400))  # more than one message has
        assert board.tally().queued == len(keys) == 1_400


def test_killed_workers_leave_the_pool_at_hand(tmp_path: Path) -> None:
    def loop(worker: BoardWorker) -> None:
        while worker.goes_on:
            worker.pop(0.01)

    with daemons(1):
        with Board("mirai://") as board:
            board.start_workers(loop=loop)
            wait_until(lambda: board.tally().workers)
            board.stop_workers(kill=True)
        assert mirai(abs, -1).result(LONG) == 1
    assert not list(tmp_path.iterdir())
