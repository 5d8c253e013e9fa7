"""Results wait for one another a little, and never for a task that takes its time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import wait_until

from mirai import daemons, mirai_map

POOLS = [{}, {"dispatcher": False}, {"url": "tcp://127.0.0.1:0"}]


def work(gate: str) -> str:
    """Return at once, or when the gate is open."""
    while gate and not Path(gate).exists():
        time.sleep(0.001)
    return gate


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_what_has_ended_is_told_while_the_next_task_runs(
    pool: dict[str, object], tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    with daemons(1, **pool):  # type: ignore[arg-type]
        mirai_map(work, [""] * 200).collect()  # now it is known to take no time
        mirais = list(mirai_map(work, [""] * 5 + [str(gate)] + [""] * 5))
        assert [mirai.result(timeout=30) for mirai in mirais[:5]] == [""] * 5
        assert not mirais[5].done()
        gate.touch()
        assert [mirai.result(timeout=30) for mirai in mirais[5:]] == [str(gate)] + [""] * 5


@pytest.mark.parametrize("pool", POOLS, ids=str)
def test_one_that_takes_its_time_holds_up_nothing_that_another_daemon_could_do(
    pool: dict[str, object], tmp_path: Path
) -> None:
    gate = tmp_path / "open"
    with daemons(2, **pool) as it:  # type: ignore[arg-type]
        it.wait(2)
        mirai_map(work, [""] * 200).collect()
        mirais = mirai_map(work, [""] * 300 + [str(gate)] + [""] * 700)
        others = [mirais[index] for index in range(1_001) if index != 300]
        wait_until(lambda: all(mirai.done() for mirai in others))
        assert not mirais[300].done()
        gate.touch()
        assert mirais[300].result(timeout=30) == str(gate)
