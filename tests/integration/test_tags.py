"""Tasks that are only for daemons that carry their tags."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from mirai import daemons, mirai, mirai_map, status


def kind(i: int) -> tuple[str, ...]:
    return ("gpu", f"slot{i}") if i == 0 else ("cpu",)


def pids(tag: str) -> set[int]:
    return {daemon.pid for daemon in status().daemons if tag in daemon.tags}


def test_each_goes_where_its_tags_are_carried() -> None:
    with daemons(3, tags=kind) as pool:
        pool.wait(3)
        (gpu,) = pids("gpu")
        found = mirai.options(tags=["gpu"]).map(lambda _: os.getpid(), range(20)).collect()
        assert set(found) == {gpu}
        found = mirai.options(tags={"cpu"}).map(lambda _: os.getpid(), range(20)).collect()
        assert set(found) <= pids("cpu")
        assert mirai.options(tags=("gpu", "slot0"))(os.getpid).result() == gpu


def test_a_daemon_with_tags_takes_any_other_task() -> None:
    with daemons(1, tags=["gpu"]):
        assert mirai_map(abs, [-1, -2]).collect() == [1, 2]


def test_a_daemon_that_takes_the_place_of_another_carries_its_tags() -> None:
    with daemons(2, tags=kind):
        mirai.options(tags=["gpu"])(os._exit, 3).exception()
        assert mirai.options(tags=["gpu"])(abs, -1).result() == 1


@pytest.mark.parametrize("submit", [lambda verb: verb(abs, -1), lambda verb: verb.map(abs, [-1])])
def test_tags_that_no_daemon_can_carry_are_refused(submit: Callable[[object], object]) -> None:
    with daemons(2, tags=kind), pytest.raises(ValueError, match="no daemon of this pool carries"):
        submit(mirai.options(tags=["gpu", "cpu"]))


def test_where_others_may_join_it_waits_for_them() -> None:
    with daemons(1, url="tcp://127.0.0.1:0"):
        task = mirai.options(tags=["gpu"])(abs, -1)
        assert mirai(abs, -2).result() == 2
        assert not task.done()
        assert status().awaiting == 1
        task.cancel()


def test_in_sync_mode_the_caller_carries_all() -> None:
    with daemons(sync=True):
        assert mirai.options(tags=["gpu"])(abs, -1).result() == 1


@pytest.mark.parametrize(
    ("tags", "error"), [("gpu", TypeError), ([1], TypeError), ([""], ValueError)]
)
def test_what_is_no_tag(tags: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        mirai.options(tags=tags)  # type: ignore[arg-type]
    with pytest.raises(error):
        daemons(1, tags=tags)  # type: ignore[arg-type]
