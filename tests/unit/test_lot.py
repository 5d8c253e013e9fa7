"""A lot: the tasks of one map, and their mirais where somebody asks for one."""

from __future__ import annotations

import asyncio
import operator
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dispatcher import wire
from dispatcher.messages import Kind, Outcome, Step, Submit
from mirai import DispatcherLost, MiraiMap, SerializationError, TaskCancelled
from mirai._future import Mirai
from mirai._lot import Lot
from mirai._options import DEFAULTS, TaskOptions
from mirai._outbox import Outbox
from mirai._pending import Pending


class Host:
    """An outbox and what is pending, with nobody at the other end."""

    def __init__(self, seed: int | None = None) -> None:
        self.outbox = Outbox("default", seed=seed)
        self.pending = Pending()
        self.cancelled: list[int] = []

    def map(self, count: int, options: TaskOptions = DEFAULTS) -> Any:
        parcel = self.outbox.parcel(abs, [((i,), {}) for i in range(count)], options)
        return self.outbox.add_lot(parcel, self.cancel)

    def cancel(self, mirai: Mirai[Any]) -> None:
        self.cancelled.append(mirai.id)
        self.outbox.cancel(mirai)

    def flush(self) -> dict[int, bytes]:
        """Send what has gathered; return the payloads of the tasks by their ids."""
        messages = list(self.outbox.take().messages(self.pending))
        tasks = [task for each in messages if isinstance(each, Submit) for task in each.tasks]
        return {one.id: one.payload for task in tasks for one in task.each()}

    def answer(self, first: int, *values: object, **more: Any) -> None:
        payload, *following = (pickle.dumps(value) for value in values)
        outcome = Outcome(first, Kind.VALUE, payload, following=tuple(following), **more)
        self.pending.settle([outcome])


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_map_that_is_only_collected_makes_no_mirai(host: Host) -> None:
    lot = host.map(5)
    assert isinstance(lot, Lot) and list(host.flush()) == [1, 2, 3, 4, 5]
    collected = MiraiMap(lot, range(5))
    host.answer(4, "d", "e")
    assert repr(collected) == "<MiraiMap of 5, 2 done>"
    host.answer(1, "a", "b", "c")
    assert collected.collect() == ["a", "b", "c", "d", "e"]
    assert asyncio.run(awaited(collected)) == ["a", "b", "c", "d", "e"]
    assert lot.is_sealed() and len(host.pending) == 0


async def awaited(collected: MiraiMap[Any]) -> list[Any]:
    return await collected


def test_whoever_collects_again_gets_the_same_objects(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, [1], [2])
    collected = MiraiMap(lot, range(2))
    first = collected.collect()
    assert first[0] is collected.collect()[0] is collected[0].result()
    first.clear()
    assert collected.collect() == [[1], [2]]


def test_one_that_is_asked_for_opens_it(host: Host) -> None:
    lot = host.map(4)
    host.flush()
    host.answer(1, "a", "b")
    mirais = list(lot)
    assert [mirai.done() for mirai in mirais] == [True, True, False, False]
    assert (mirais[0].result(0), mirais[3].id, mirais[3].name) == ("a", 4, "builtins.abs")
    host.answer(3, "c", "d")
    assert MiraiMap(lot, range(4)).collect() == ["a", "b", "c", "d"]
    assert lot[1:3] == mirais[1:3] and lot[0] is mirais[0]


def test_who_waits_for_it_is_let_go_when_all_are_answered(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    found: list[Any] = []
    waiter = threading.Thread(target=lambda: found.append(MiraiMap(lot, range(2)).collect()))
    waiter.start()
    host.answer(2, "b")
    host.answer(1, "a")
    waiter.join()
    assert found == [["a", "b"]]


def test_who_waits_for_it_is_let_go_when_others_open_and_cancel_it(host: Host) -> None:
    lot = host.map(3)
    host.flush()
    found: list[BaseException | None] = []

    def collect() -> None:
        try:
            MiraiMap(lot, range(3)).collect()
        except TaskCancelled as error:
            found.append(error)

    waiter = threading.Thread(target=collect)
    waiter.start()
    assert MiraiMap(lot, range(3)).cancel() == 3
    host.flush()
    waiter.join()
    assert "in element 0 of mirai_map" in found[0].__notes__  # type: ignore[union-attr]
    assert len(host.pending) == 0


def test_some_are_cancelled_before_it_is_sent(host: Host) -> None:
    lot = host.map(3)
    assert lot[1].cancel()
    assert list(host.flush()) == [1, 3] and host.cancelled == [2]
    host.answer(1, "a")
    host.answer(3, "c")
    assert [mirai.cancelled() for mirai in lot] == [False, True, False]


def test_some_are_cancelled_afterwards(host: Host) -> None:
    lot = host.map(3)
    host.flush()
    assert lot[1].cancel()
    host.flush()
    host.answer(1, "a", "too late", "c")
    assert [lot[0].result(0), lot[2].result(0)] == ["a", "c"]
    assert lot[1].cancelled()
    lot.wait()


def collecting(lot: Any) -> tuple[threading.Thread, list[object]]:
    """Collect in a thread; return it, and what it will have found."""
    found: list[object] = []

    def collect() -> None:
        try:
            found.extend(MiraiMap(lot, range(len(lot))).collect())
        except (TaskCancelled, DispatcherLost) as error:
            found.append(type(error))

    thread = threading.Thread(target=collect)
    thread.start()
    return thread, found


def test_who_waits_is_let_go_when_it_is_opened_before_it_is_sent(host: Host) -> None:
    lot = host.map(3)
    thread, found = collecting(lot)
    assert not lot[0].done()
    host.flush()
    host.answer(1, "a", "b", "c")
    thread.join(20)
    assert found == ["a", "b", "c"]


def test_who_waits_is_let_go_when_it_is_cancelled_before_it_is_sent(host: Host) -> None:
    lot = host.map(3)
    thread, found = collecting(lot)
    MiraiMap(lot, range(3)).cancel()
    assert not host.flush()
    thread.join(20)
    assert found == [TaskCancelled]


def test_who_waits_is_let_go_when_the_dispatcher_is_lost_before_it_is_sent(host: Host) -> None:
    lot = host.map(3)
    thread, found = collecting(lot)
    for mirai in host.outbox.take().mirais():
        host.pending.add(mirai)
    host.pending.lose(DispatcherLost("gone"))
    thread.join(20)
    assert found == [DispatcherLost]


def test_two_who_read_it_at_once_get_the_same_objects(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, [1], [2])
    first, second = lot.values(), lot.values()
    one, other = lot.keep(list(first)), lot.keep(list(second))
    assert one == other == [[1], [2]]
    assert all(map(operator.is_, one, other))
    assert lot[0].result(0) is one[0]


def test_who_reads_it_while_another_opens_it_loses_nothing(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, [1], [2])
    values = lot.values()
    mirais = lot.open()
    assert lot.keep(list(values)) == [[1], [2]]
    assert lot.keep([[3], [4]])[0] is mirais[0].result(0)
    assert lot.values() is None


def test_two_coroutines_that_await_it_get_the_same_objects(host: Host) -> None:
    lot = host.map(500)
    host.flush()
    host.answer(1, *([i] for i in range(500)))

    async def both() -> list[list[Any]]:
        return await asyncio.gather(*(awaited(MiraiMap(lot, range(500))) for _ in range(2)))

    one, other = asyncio.run(both())
    assert all(map(operator.is_, one, other))


def test_a_story_tells_when_the_answer_came_and_not_when_it_was_looked_at(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    before = time.time()
    host.answer(1, "a", "b")
    after = time.time()
    lot.open()
    assert before <= lot[1].story().events[-1].time <= after


def test_an_error_opens_it(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, "a")
    host.pending.settle([Outcome(2, Kind.TIMEOUT)])
    with pytest.raises(TimeoutError) as caught:
        MiraiMap(lot, range(2)).collect()
    assert "in element 1 of mirai_map" in caught.value.__notes__
    assert lot[0].result(0) == "a"


def test_a_value_that_cannot_be_read_is_told_with_its_element(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.pending.settle([Outcome(1, Kind.VALUE, pickle.dumps(1), following=(b"no pickle",))])
    with pytest.raises(SerializationError) as caught:
        MiraiMap(lot, range(2)).collect()
    assert "in element 1 of mirai_map" in caught.value.__notes__
    with pytest.raises(SerializationError):
        asyncio.run(awaited(MiraiMap(lot, range(2))))


def test_logs_and_stories_are_kept_while_it_is_sealed(host: Host) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, "a", log="printed", story=(Step(0.0, "was slow"),))
    host.answer(2, "b")
    assert lot.is_sealed()
    assert (lot[0].log, lot[1].log) == ("printed", "")
    assert "was slow" in str(lot[0].story()) and "was slow" not in str(lot[1].story())


def test_when_the_dispatcher_is_lost_so_is_what_was_not_answered(host: Host) -> None:
    lot = host.map(3)
    host.flush()
    host.answer(2, "b")
    host.pending.lose(DispatcherLost("gone"))
    assert lot[1].result(0) == "b"
    with pytest.raises(DispatcherLost, match="gone"):
        MiraiMap(lot, range(3)).collect()


def test_what_was_not_sent_is_among_those_that_are_lost(host: Host) -> None:
    lot = host.map(3)
    assert [mirai.id for mirai in host.outbox.take().mirais()] == [1, 2, 3]
    assert not lot.is_sealed()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("opened", [False, True])
def test_in_a_forked_child_what_was_not_answered_fails(host: Host, opened: bool) -> None:
    lot = host.map(2)
    host.flush()
    host.answer(1, "a")
    if opened:
        lot.open()
    assert in_a_child(lambda: fails(lambda: MiraiMap(lot, range(2)).collect()))
    assert in_a_child(lambda: lot[0].result(0) == "a" and fails(lambda: lot[1].result(0)))


def fails(act: Callable[[], object]) -> bool:
    try:
        act()
    except DispatcherLost:
        return True
    return False


def in_a_child(act: Callable[[], bool]) -> bool:
    pid = os.fork()
    if not pid:
        fine = False
        try:
            fine = act()
        finally:
            os._exit(0 if fine else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_with_a_seed_each_task_has_numbers_of_its_own() -> None:
    assert not isinstance(Host(seed=1).map(5), Lot)


def test_large_arguments_make_no_lot(host: Host) -> None:
    calls: Iterator[Any] = iter([((b"x" * 100_000,), {}), ((1,), {})])
    assert not isinstance(host.outbox.add_lot(host.outbox.parcel(len, calls, DEFAULTS), print), Lot)


def test_it_is_sent_in_runs_in_the_order_of_submission(host: Host) -> None:
    host.map(3)
    single = host.outbox.add(host.outbox.parcel(abs, [((7,), {})], DEFAULTS), host.cancel)
    host.map(2 * wire.BATCH_TASKS)
    messages = list(host.outbox.take().messages(host.pending))
    tasks = [task for each in messages if isinstance(each, Submit) for task in each.tasks]
    assert single[0].id == 4
    assert [(task.id, task.count) for task in tasks] == [
        (1, 3),
        (4, 1),
        (5, wire.BATCH_TASKS),
        (5 + wire.BATCH_TASKS, wire.BATCH_TASKS),
    ]


def test_a_run_has_a_limited_size(host: Host) -> None:
    calls = [((b"x" * 10_000,), {}) for _ in range(20)]
    host.outbox.add_lot(host.outbox.parcel(len, calls, DEFAULTS), host.cancel)
    [message] = [
        each for each in host.outbox.take().messages(host.pending) if isinstance(each, Submit)
    ]
    assert sum(task.count for task in message.tasks) == 20
    for task in message.tasks:
        assert sum(map(len, (task.payload, *task.following))) <= wire.RUN_BYTES
