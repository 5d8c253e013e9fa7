"""The memory budget by itself: what is taken, what comes back, and who is woken."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import trio
import trio.testing

from mirai._answer import Failure, Value
from mirai._budget import Budget, Load, Memory
from mirai._future import Mirai


def taken(budget: Budget, size: int) -> Load:
    load = Load(budget)
    assert load.take(size)
    return load


def returned(load: Load) -> None:
    load.give_back()
    load.ring()


def test_used_peak_and_capacity() -> None:
    budget = Budget(100)
    one, other = taken(budget, 60), taken(budget, 30)
    assert budget.memory() == Memory(used=90, peak=90, capacity=100)
    returned(one)
    assert budget.memory() == Memory(used=30, peak=90, capacity=100)
    returned(other)
    assert budget.memory() == Memory(used=0, peak=90, capacity=100)


def test_the_last_one_may_be_too_large() -> None:
    budget = Budget(100)
    taken(budget, 99)
    taken(budget, 500)
    assert budget.is_full() and budget.used == 599
    assert not Load(budget).take(1)
    assert budget.memory() == Memory(used=599, peak=599, capacity=100)


def test_a_load_is_given_back_once() -> None:
    budget = Budget(100)
    one, _ = taken(budget, 40), taken(budget, 40)
    refused = Load(Budget(1))
    for load in (one, one, refused):
        returned(load)
    assert budget.used == 40


@pytest.mark.parametrize("watched", [False, True])
@pytest.mark.parametrize(
    "end",
    [
        lambda m: m.settle(Value(1)),
        lambda m: m.settle(Failure(KeyError())),
        lambda m: m.settle(Failure(KeyError()), cancelled=True),
        lambda m: m.cancel(),
    ],
)
def test_a_mirai_gives_its_bytes_back_however_it_ends(
    end: Callable[[Mirai[int]], object], watched: bool
) -> None:
    budget, seen = Budget(100), []
    mirai: Mirai[int] = Mirai()
    mirai._load = taken(budget, 100)
    if watched:
        mirai.add_done_callback(lambda _: seen.append(budget.used))
    end(mirai)
    mirai.cancel()
    mirai.settle(Value(2))
    assert budget.used == 0
    assert seen == [0] * watched


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def take_when_there_is_room(budget: Budget, size: int, loads: list[Load]) -> None:
    load = Load(budget)
    while not load.take(size):
        budget.wait()
    loads.append(load)


def test_all_who_wait_come_in_one_after_the_other() -> None:
    """One load that comes back makes room for many."""
    budget, loads = Budget(100), list[Load]()
    large = taken(budget, 100)
    threads = [in_thread(lambda: take_when_there_is_room(budget, 10, loads)) for _ in range(10)]
    returned(large)
    for thread in threads:
        thread.join()
    assert (len(loads), budget.used) == (10, 100)


def test_many_threads_never_exceed_it() -> None:
    budget = Budget(100)

    def work() -> None:
        for _ in range(200):
            loads: list[Load] = []
            take_when_there_is_room(budget, 30, loads)
            returned(loads[0])

    threads = [in_thread(work) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert budget.used == 0
    assert budget.peak <= 120  # less than its capacity, and one more


def test_who_no_longer_waits_costs_nobody_the_wake_up() -> None:
    """On asyncio and on trio: the second in the queue is woken though the first has gone."""

    async def on_asyncio() -> None:
        budget = Budget(10)
        load = taken(budget, 10)
        gone, stays = (asyncio.create_task(budget.room()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        returned(load)  # rings while the first is being cancelled
        await stays
        assert gone.cancelled()

    async def on_trio() -> None:
        budget = Budget(10)
        load = taken(budget, 10)
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(leave_early, budget)
            nursery.start_soon(budget.room)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            returned(load)

    async def leave_early(
        budget: Budget, task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            await budget.room()

    asyncio.run(on_asyncio())
    trio.run(on_trio)


def test_nobody_waits_where_there_is_room() -> None:
    Budget(10).wait()
    asyncio.run(Budget(10).room())
