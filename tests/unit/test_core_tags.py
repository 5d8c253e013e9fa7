"""Tasks with tags go to daemons that carry them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from test_core import CLIENT, CRASH, D1, D2, TINY, Pool, answers, given

from dispatcher.events import (
    Barren,
    Command,
    Joined,
    Role,
)
from dispatcher.jobs import Job
from dispatcher.messages import VERSION, Hello, Kind
from dispatcher.queue import Queue


def carrier(pool: Pool, peer: int, tags: Iterable[str]) -> list[Command]:
    return pool.step((peer, Joined(Role.DAEMON, Hello(VERSION, f"h{peer}", peer, tuple(tags)))))


def test_a_task_with_tags_goes_only_where_they_are_carried() -> None:
    pool = Pool([D1])
    assert pool.submit(1, tags=("gpu",)) == []
    assert given(carrier(pool, D2, ["fast", "gpu"]), D2) == [1]
    assert pool.report().daemons[1].tags == ("fast", "gpu")


def test_all_of_its_tags_must_be_carried() -> None:
    pool = Pool()
    carrier(pool, D1, ["gpu"])
    assert pool.submit(1, tags=("fast", "gpu")) == []


def test_one_that_nobody_can_have_holds_up_no_other() -> None:
    pool = Pool([D1])
    pool.submit(1, tags=("gpu",))
    assert given(pool.submit(2), D1) == [2]
    assert given(pool.submit(3), D1) == []
    assert given(pool.done(D1, 2), D1) == [3]


def test_a_daemon_with_tags_takes_tasks_without_any() -> None:
    pool = Pool()
    carrier(pool, D1, ["gpu"])
    assert given(pool.submit(1), D1) == [1]


def test_many_of_each_kind_are_all_done() -> None:
    pool = Pool([D1])
    carrier(pool, D2, ["gpu"])
    pool.learn(TINY)
    pool.submit(*range(10, 110), tags=("gpu",))
    pool.submit(*range(200, 300))
    left, done = {D1, D2}, 0
    while any(hands := {peer: pool.hand(peer) for peer in left}.values()):
        for peer, keys in zip(sorted(left), list(hands), strict=True):
            done += len(answers(pool.done(peer, *keys)))
    assert done == 200


def test_one_that_fits_nobody_is_not_offered_to_each_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool(range(100, 200))
    for peer in range(200, 250):
        carrier(pool, peer, ["fast"])
    pool.submit(1, tags=("gpu",))
    offers = []
    pop = Queue.pop

    def counted(queue: Queue, *args: Any, **more: Any) -> Job | None:
        offers.append(args)
        return pop(queue, *args, **more)

    monkeypatch.setattr(Queue, "pop", counted)
    assert given(pool.submit(2), 100) == [2]
    assert len(offers) == 3  # the other task; and nothing for those of each kind


def test_where_no_daemon_will_come_it_fails_whatever_its_tags() -> None:
    pool = Pool()
    pool.submit(1, tags=("gpu",))
    assert answers(pool.step((0, Barren(CRASH))), CLIENT) == {1: Kind.CRASHED}
