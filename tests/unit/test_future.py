"""A Mirai does what a concurrent.futures.Future does, and can be awaited."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Callable, Iterable
from concurrent import futures
from typing import Any

import pytest
import trio

from mirai import Mirai, TaskCancelled
from mirai._answer import Failure, Value
from mirai._landing import SLICE, Landing

BOOM = ValueError("boom")


def in_threads(*calls: Callable[[], object]) -> None:
    """Make all calls at once, each in a thread of its own, and wait for them."""
    barrier = threading.Barrier(len(calls))
    failed: list[BaseException] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        try:
            call()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def settled(value: object = 1) -> Mirai[Any]:
    mirai: Mirai[Any] = Mirai(1, "f")
    assert mirai.settle(Value(value))
    return mirai


def failed(error: BaseException | None = None) -> Mirai[Any]:
    mirai: Mirai[Any] = Mirai(1, "f")
    assert mirai.settle(Failure(error or ValueError("boom")))
    return mirai


def touched() -> Mirai[Any]:
    """A pending mirai that has a Condition already, as if somebody had waited on it."""
    mirai: Mirai[Any] = Mirai(1, "f")
    assert futures.wait([mirai], 0).not_done == {mirai}
    assert mirai._lazy is not None
    return mirai


def fresh() -> Mirai[Any]:
    return Mirai(1, "f")


BOTH = pytest.mark.parametrize("make", [fresh, touched])

# ── one thread ───────────────────────────────────────────────────────────────────────────


def test_it_is_a_future() -> None:
    assert isinstance(Mirai(), futures.Future)


@BOTH
def test_a_value(make: Callable[[], Mirai[Any]]) -> None:
    mirai = make()
    assert not mirai.done()
    assert mirai.settle(Value(7))
    assert mirai.done() and not mirai.cancelled() and not mirai.running()
    assert mirai.result() == mirai.result(0) == 7
    assert mirai.exception() is None


@BOTH
def test_an_error(make: Callable[[], Mirai[Any]]) -> None:
    mirai = make()
    assert mirai.settle(Failure(BOOM))
    assert mirai.done() and not mirai.cancelled()
    assert mirai.exception() is BOOM
    for _ in range(2):
        with pytest.raises(ValueError, match="boom"):
            mirai.result()


@BOTH
def test_the_first_writer_wins(make: Callable[[], Mirai[Any]]) -> None:
    mirai = make()
    assert mirai.settle(Value(1))
    assert not mirai.settle(Value(2))
    assert not mirai.settle(Failure(BOOM))
    assert not mirai.settle(Failure(BOOM), cancelled=True)
    assert not mirai.cancel()
    assert mirai.result() == 1


@BOTH
def test_none_is_a_value(make: Callable[[], Mirai[Any]]) -> None:
    mirai = make()
    mirai.settle(Value(None))
    assert mirai.result(0) is None


@pytest.mark.parametrize("timeout", [0, 0.001, -1])
def test_a_timeout(timeout: float) -> None:
    mirai = fresh()
    with pytest.raises(TimeoutError, match="has not ended within"):
        mirai.result(timeout)
    with pytest.raises(futures.TimeoutError):
        mirai.exception(timeout)
    assert not mirai.done()
    mirai.settle(Value(1))
    assert mirai.result(timeout) == 1


class Counted:
    """An answer that counts how often it is read."""

    is_error = False

    def __init__(self, value: object = None) -> None:
        self.reads = 0
        self.value = value

    def read(self) -> object:
        self.reads += 1
        return self.value


def test_an_answer_is_read_when_asked_for_and_only_once() -> None:
    answer = Counted([1])
    mirai = fresh()
    mirai.settle(answer)
    assert answer.reads == 0
    assert mirai.result() is mirai.result() is answer.value
    assert mirai.exception() is None
    assert answer.reads == 1


def test_an_answer_is_let_go_of_once_it_is_read() -> None:
    answer = Counted()
    mirai = fresh()
    mirai.settle(answer)
    mirai.result()
    watcher = weakref.ref(answer)
    del answer
    gc.collect()
    assert watcher() is None


class Interrupted:
    """An answer whose reading is interrupted the first time, as if by Ctrl-C."""

    is_error = False

    def __init__(self) -> None:
        self.interrupted = False

    def read(self) -> int:
        if not self.interrupted:
            self.interrupted = True
            raise KeyboardInterrupt
        return 7


def test_ctrl_c_during_the_reading_is_not_the_tasks_error() -> None:
    mirai = fresh()
    mirai.settle(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        mirai.result()
    assert mirai.exception() is None
    assert mirai.result() == 7


def test_a_cancelled_mirai() -> None:
    mirai = fresh()
    assert mirai.cancel() and mirai.cancel()
    assert mirai.done() and mirai.cancelled()
    with pytest.raises(TaskCancelled, match=r"task 1 \(f\) was cancelled"):
        mirai.result()
    with pytest.raises(futures.CancelledError):
        mirai.result()
    assert isinstance(mirai.exception(), TaskCancelled)


@pytest.mark.parametrize("make", [settled, failed])
def test_what_has_ended_cannot_be_cancelled(make: Callable[[], Mirai[Any]]) -> None:
    mirai = make()
    mirai._cancel_hook = lambda _: pytest.fail("it has ended")
    assert not mirai.cancel()
    assert not mirai.cancelled()


def test_the_channel_is_told_of_a_cancel_once_and_after_it() -> None:
    told = []
    mirai = fresh()
    mirai._cancel_hook = lambda mirai: told.append(mirai.cancelled())
    mirai.cancel()
    mirai.cancel()
    assert told == [True]


@pytest.mark.parametrize(
    ("mirai", "text"),
    [
        (Mirai(3, "numpy.sum"), "<Mirai 3 numpy.sum: pending>"),
        (Mirai(3, "f", "default"), "<Mirai 3 f: pending>"),
        (Mirai(3, "f", "gpu"), "<Mirai 3 f on 'gpu': pending>"),
        (settled(), "<Mirai 1 f: done>"),
        (failed(), "<Mirai 1 f: failed>"),
    ],
)
def test_its_repr_tells_the_state(mirai: Mirai[Any], text: str) -> None:
    assert repr(mirai) == text


def test_its_repr_stays_true_after_it_was_read() -> None:
    ended = [settled(), failed(), fresh()]
    ended[2].cancel()
    before = [repr(mirai) for mirai in ended]
    for mirai in ended:
        mirai.exception()
    assert before == [repr(mirai) for mirai in ended]
    assert before[2] == "<Mirai 1 f: cancelled>"


def test_a_shown_repr_reads_no_answer() -> None:
    answer = Counted()
    mirai = fresh()
    mirai.settle(answer)
    assert "done" in repr(mirai)
    assert answer.reads == 0


def test_set_result_and_set_exception_work_as_in_any_future() -> None:
    mirai, other = fresh(), fresh()
    mirai.set_result(1)
    other.set_exception(BOOM)
    assert mirai.result() == 1
    assert other.exception() is BOOM
    with pytest.raises(futures.InvalidStateError):
        settled().set_result(2)


# ── callbacks ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "end",
    [
        lambda mirai: mirai.settle(Value(1)),
        lambda mirai: mirai.settle(Failure(BOOM)),
        lambda mirai: mirai.cancel(),
    ],
)
def test_callbacks_are_called_once_each_and_in_order(end: Callable[[Mirai[Any]], Any]) -> None:
    mirai, called = fresh(), []
    mirai.add_done_callback(lambda mirai: called.append((1, mirai.done())))
    mirai.add_done_callback(lambda mirai: called.append((2, mirai.done())))
    assert called == []
    end(mirai)
    mirai.add_done_callback(lambda mirai: called.append((3, mirai.done())))
    mirai.settle(Value(2))
    mirai.cancel()
    assert called == [(1, True), (2, True), (3, True)]


@pytest.mark.parametrize("late", [False, True])
def test_a_callback_that_raises_is_logged_and_stops_no_other(
    late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    mirai, called = fresh(), []

    def raises(_: object) -> None:
        raise BOOM

    if late:
        mirai.settle(Value(1))
    mirai.add_done_callback(raises)
    mirai.add_done_callback(called.append)
    mirai.settle(Value(1))
    assert called == [mirai]
    assert mirai.result() == 1
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None and record.exc_info[1] is BOOM


def test_a_callback_may_use_the_mirai() -> None:
    """Callbacks run without a lock: reading, cancelling and adding another do not deadlock."""
    mirai, called = fresh(), []

    def use(mirai: Mirai[Any]) -> None:
        assert not mirai.cancel()
        called.append(mirai.result())
        mirai.add_done_callback(lambda mirai: called.append(mirai.result()))

    mirai.add_done_callback(use)
    mirai.settle(Value(5))
    assert called == [5, 5]


def test_callbacks_are_let_go_of() -> None:
    class Callback:
        def __call__(self, _: object) -> None:
            pass

    callback = Callback()
    watcher = weakref.ref(callback)
    mirai = fresh()
    mirai.add_done_callback(callback)
    mirai.settle(Value(1))
    del callback
    gc.collect()
    assert watcher() is None


# ── wait and as_completed ────────────────────────────────────────────────────────────────


def test_wait_for_what_has_ended() -> None:
    ended = [settled(), failed(), fresh()]
    ended[2].cancel()
    assert futures.wait(ended) == (set(ended), set())


@pytest.mark.parametrize(
    ("when", "ended", "returns"),
    [
        (futures.FIRST_COMPLETED, [settled], True),
        (futures.FIRST_COMPLETED, [failed], True),
        (futures.FIRST_COMPLETED, [], False),
        (futures.FIRST_EXCEPTION, [failed], True),
        (futures.FIRST_EXCEPTION, [settled], False),
        (futures.ALL_COMPLETED, [settled, failed], False),
    ],
)
def test_wait_returns_at_once_or_not(
    when: str, ended: list[Callable[[], Mirai[Any]]], returns: bool
) -> None:
    done = {make() for make in ended}
    pending = fresh()
    timeout = None if returns else 0
    assert futures.wait([*done, pending], timeout, when) == (done, {pending})


@pytest.mark.parametrize(
    ("when", "answers"),
    [
        (futures.FIRST_COMPLETED, [Value(1)]),
        (futures.FIRST_COMPLETED, [Failure(BOOM)]),
        (futures.FIRST_EXCEPTION, [Value(1), Failure(BOOM)]),
        (futures.FIRST_EXCEPTION, [Value(1), Value(2), Value(3)]),
        (futures.ALL_COMPLETED, [Value(1), Failure(BOOM), Value(3)]),
    ],
)
def test_wait_is_woken_by_what_ends_meanwhile(when: str, answers: list[Any]) -> None:
    mirais = [fresh() for _ in range(3)]
    waiting: list[Any] = []

    def end() -> None:
        while not mirais[-1]._waiters:  # until the other thread waits
            pass
        for mirai, answer in zip(mirais, answers, strict=False):
            mirai.settle(answer)

    in_threads(lambda: waiting.append(futures.wait(mirais, return_when=when)), end)
    done, pending = waiting[0]
    assert done and done <= {mirai for mirai in mirais if mirai.done()}
    assert done | pending == set(mirais)
    if when != futures.FIRST_COMPLETED:
        assert done == set(mirais[: len(answers)])


def test_a_cancel_that_was_cut_short_by_ctrl_c_can_be_tried_again() -> None:
    told: list[Mirai[Any]] = []

    def hook(mirai: Mirai[Any]) -> None:
        told.append(mirai)
        if len(told) == 1:
            raise KeyboardInterrupt

    mirai = fresh()
    mirai._cancel_hook = hook
    with pytest.raises(KeyboardInterrupt):
        mirai.cancel()
    assert [mirai.cancelled(), mirai.cancel(), mirai.cancel()] == [True] * 3
    assert told == [mirai, mirai]


def test_wait_takes_a_cancelled_mirai_for_ended() -> None:
    mirais = [fresh(), fresh()]
    found: list[Any] = []
    in_threads(
        lambda: found.append(futures.wait(mirais)), mirais[0].cancel, lambda: mirais[1].cancel()
    )
    assert found == [(set(mirais), set())]


def test_mirais_and_other_futures_can_be_waited_for_together() -> None:
    other: futures.Future[int] = futures.Future()
    other.set_result(2)
    mirai = settled()
    assert futures.wait([mirai, other]).done == {mirai, other}
    assert set(futures.as_completed([mirai, other])) == {mirai, other}


def test_as_completed_gives_what_ends_as_it_ends() -> None:
    mirais = [fresh() for _ in range(4)]
    mirais[2].settle(Value(1))
    completed = futures.as_completed(mirais)
    assert next(completed) is mirais[2]
    mirais[3].settle(Failure(BOOM))
    assert next(completed) is mirais[3]
    mirais[0].cancel()
    assert next(completed) is mirais[0]
    mirais[1].settle(Value(1))
    assert next(completed) is mirais[1]
    assert next(completed, None) is None


def test_as_completed_runs_into_its_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"1 \(of 2\) futures unfinished"):
        list(futures.as_completed([settled(), fresh()], timeout=0))


@pytest.mark.parametrize("_", range(50))
def test_as_completed_counts_each_once_when_they_end_while_it_begins(_: int) -> None:
    mirais = [fresh() for _ in range(100)]
    seen: list[Mirai[Any]] = []
    in_threads(
        lambda: seen.extend(futures.as_completed(mirais)),
        lambda: [mirai.settle(Value(1)) for mirai in mirais[:50]],
        lambda: [mirai.settle(Failure(BOOM)) for mirai in reversed(mirais[50:])],
    )
    assert len(seen) == 100
    assert set(seen) == set(mirais)


# ── many threads ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("_", range(50))
@BOTH
def test_one_of_many_writers_wins(make: Callable[[], Mirai[Any]], _: int) -> None:
    mirai = make()
    won: list[int] = []
    called: list[object] = []
    read: list[object] = []

    def writer(number: int) -> Callable[[], None]:
        def write() -> None:
            if mirai.settle(Value(number)):
                won.append(number)

        return write

    in_threads(
        *[writer(number) for number in range(6)],
        lambda: mirai.add_done_callback(called.append),
        lambda: mirai.add_done_callback(called.append),
        lambda: read.append(mirai.result()),
        lambda: read.append(mirai.result()),
    )
    assert len(won) == 1
    assert mirai.result() == won[0]
    assert read == won * 2
    assert called == [mirai, mirai]


@pytest.mark.parametrize("_", range(50))
def test_a_cancel_and_an_answer_race(_: int) -> None:
    mirai, told, won = fresh(), [], []
    mirai._cancel_hook = told.append
    in_threads(
        lambda: won.append(("cancel", mirai.cancel())),
        lambda: won.append(("settle", mirai.settle(Value(1)))),
    )
    assert sorted(done for _, done in won) == [False, True]
    assert mirai.cancelled() == dict(won)["cancel"] == (told == [mirai])


def test_all_threads_read_the_same_object() -> None:
    barrier = threading.Barrier(8)

    class Fresh:
        is_error = False

        def read(self) -> object:
            barrier.wait()  # all threads are in here at once
            return object()

    mirai = fresh()
    mirai.settle(Fresh())
    found: list[object] = []
    in_threads(*[lambda: found.append(mirai.result())] * 8)
    assert len(found) == 8
    assert len(set(map(id, found))) == 1
    assert mirai.result() is found[0]


def test_everybody_who_waits_is_woken() -> None:
    mirai = fresh()
    found: list[object] = []
    in_threads(*[lambda: found.append(mirai.result())] * 5, lambda: mirai.settle(Value(3)))
    assert found == [3] * 5


# ── asyncio ──────────────────────────────────────────────────────────────────────────────


def start(*calls: Callable[[], object]) -> list[threading.Thread]:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    return threads


def join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


async def has_begun(task: asyncio.Task[Any], mirai: Mirai[Any]) -> None:
    """Let the loop turn until the task awaits the mirai."""
    while not mirai._done_callbacks:
        assert not task.done()
        await asyncio.sleep(0)


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)])
def test_awaiting_what_has_ended(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        assert await settled(3) == 3
        with pytest.raises(ValueError, match="boom"):
            await failed()
        cancelled = fresh()
        cancelled.cancel()
        with pytest.raises(TaskCancelled):
            await cancelled

    run(main())


@pytest.mark.parametrize("run", [asyncio.run, lambda coroutine: trio.run(lambda: coroutine)])
def test_awaiting_what_another_thread_ends(run: Callable[[Any], Any]) -> None:
    async def main() -> None:
        good, bad = fresh(), fresh()
        threads = start(
            lambda: good.settle(Value(3)), lambda: bad.settle(Failure(ValueError("boom")))
        )
        assert await good == 3
        with pytest.raises(ValueError, match="boom"):
            await bad
        join(threads)

    run(main())


def test_awaiting_on_no_loop_says_so() -> None:
    async def main() -> None:
        await fresh()

    coroutine = main()
    with pytest.raises(RuntimeError, match="async"):
        coroutine.send(None)


def test_what_has_ended_can_be_awaited_on_no_loop() -> None:
    async def main() -> object:
        return await settled(4)

    with pytest.raises(StopIteration) as caught:
        main().send(None)
    assert caught.value.value == 4


def test_many_are_awaited_in_one_gather() -> None:
    async def main() -> list[int]:
        mirais = [fresh() for _ in range(2_000)]
        threads = start(
            *[
                lambda part=part: [mirais[i].settle(Value(i)) for i in range(part, 2_000, 4)]
                for part in range(4)
            ]
        )
        found = await asyncio.gather(*mirais)
        join(threads)
        return found

    assert asyncio.run(main()) == list(range(2_000))


def test_a_batch_that_ends_together_costs_one_wake_up() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        mirais = [fresh() for _ in range(100)]
        waiting = [asyncio.ensure_future(mirai) for mirai in mirais]
        for task, mirai in zip(waiting, mirais, strict=True):
            await has_begun(task, mirai)
        before = len(loop._ready)  # type: ignore[attr-defined]
        for mirai in mirais:
            mirai.settle(Value(1))
        assert len(loop._ready) == before + 1  # type: ignore[attr-defined]
        assert await asyncio.gather(*waiting) == [1] * 100

    asyncio.run(main())


def test_one_mirai_is_awaited_by_many() -> None:
    async def main() -> None:
        mirai = fresh()
        waiting = [asyncio.ensure_future(mirai) for _ in range(10)]
        await has_begun(waiting[0], mirai)
        threads = start(lambda: mirai.settle(Value(3)))
        assert await asyncio.gather(*waiting) == [3] * 10
        join(threads)

    asyncio.run(main())


def test_cancelling_the_coroutine_cancels_the_mirai() -> None:
    async def main() -> None:
        mirai, told = fresh(), []
        mirai._cancel_hook = told.append
        task = asyncio.ensure_future(mirai)
        await has_begun(task, mirai)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mirai.cancelled()
        assert told == [mirai]

    asyncio.run(main())


def test_cancelling_a_coroutine_whose_mirai_has_just_ended_loses_no_answer() -> None:
    async def main() -> None:
        mirai, told = fresh(), []
        mirai._cancel_hook = told.append
        task = asyncio.ensure_future(mirai)
        await has_begun(task, mirai)
        mirai.settle(Value(3))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert mirai.result(0) == 3
        assert told == []

    asyncio.run(main())


def test_wait_for_cancels_what_takes_too_long() -> None:
    async def main() -> None:
        mirai = fresh()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(mirai, 0.001)
        assert mirai.cancelled()
        assert await asyncio.wait_for(settled(2), 60) == 2

    asyncio.run(main())


def test_a_shielded_mirai_is_not_cancelled() -> None:
    async def main() -> None:
        mirai = fresh()
        inner = asyncio.ensure_future(mirai)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(inner), 0.001)
        assert not mirai.done()
        mirai.settle(Value(1))
        assert await inner == 1

    asyncio.run(main())


def test_a_cancelled_mirai_raises_in_its_coroutine_and_cancels_nothing_else() -> None:
    async def main() -> None:
        mirai = fresh()
        task = asyncio.ensure_future(mirai)
        await has_begun(task, mirai)
        mirai.cancel()
        with pytest.raises(TaskCancelled):
            await task
        assert not task.cancelled()

    asyncio.run(main())


def test_asyncio_can_wrap_it() -> None:
    async def main() -> None:
        good, bad, given_up = fresh(), fresh(), fresh()
        wrapped = [asyncio.wrap_future(mirai) for mirai in (good, bad, given_up)]
        threads = start(
            lambda: good.settle(Value(3)), lambda: bad.settle(Failure(ValueError("boom")))
        )
        assert await wrapped[0] == 3
        with pytest.raises(ValueError, match="boom"):
            await wrapped[1]
        wrapped[2].cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped[2]
        await asyncio.sleep(0)  # asyncio passes it on in the next turn of the loop
        assert given_up.cancelled()
        join(threads)

    asyncio.run(main())


def test_a_mirai_that_ends_after_its_loop_was_closed_troubles_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.new_event_loop()
    mirai = fresh()

    async def wait() -> object:
        return await mirai

    coroutine = wait()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    assert mirai._done_callbacks
    loop.close()
    assert mirai.settle(Value(1))
    assert mirai.result() == 1
    assert caplog.records == []
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    coroutine.close()


def test_a_closed_coroutine_does_not_cancel() -> None:
    """Nobody has cancelled anything: the coroutine was only thrown away."""
    loop = asyncio.new_event_loop()
    mirai = fresh()

    async def wait() -> object:
        return await mirai

    coroutine = wait()
    task = loop.create_task(coroutine)
    loop.run_until_complete(asyncio.sleep(0))
    coroutine.close()
    assert not mirai.done()
    task._log_destroy_pending = False  # type: ignore[attr-defined]
    loop.close()


def test_two_loops_await_the_same_mirai() -> None:
    mirai = fresh()
    found: list[object] = []

    async def wait() -> None:
        found.append(await mirai)

    in_threads(
        lambda: asyncio.run(wait()), lambda: asyncio.run(wait()), lambda: mirai.settle(Value(1))
    )
    assert found == [1, 1]


def test_as_completed_of_asyncio() -> None:
    async def main() -> list[int]:
        mirais = [settled(number) for number in range(5)]
        return sorted([await each for each in asyncio.as_completed(mirais)])  # type: ignore[type-var]

    assert asyncio.run(main()) == [0, 1, 2, 3, 4]


# ── trio ─────────────────────────────────────────────────────────────────────────────────


def test_many_are_awaited_on_trio() -> None:
    found: list[int] = []

    async def one(mirai: Mirai[int]) -> None:
        found.append(await mirai)

    async def main() -> None:
        mirais: list[Mirai[int]] = [fresh() for _ in range(200)]
        threads = start(lambda: [m.settle(Value(i)) for i, m in enumerate(mirais)])
        async with trio.open_nursery() as nursery:
            for mirai in mirais:
                nursery.start_soon(one, mirai)
        join(threads)

    trio.run(main)
    assert sorted(found) == list(range(200))


def test_a_cancelled_trio_scope_cancels_the_mirai() -> None:
    async def main() -> None:
        mirai, told = fresh(), []
        mirai._cancel_hook = told.append
        with trio.CancelScope() as scope:
            scope.cancel()
            await mirai
        assert scope.cancelled_caught
        assert mirai.cancelled()
        assert told == [mirai]

    trio.run(main)


def test_trio_move_on_after_cancels_the_mirai() -> None:
    async def main() -> None:
        mirai = fresh()
        with trio.move_on_after(0.001) as scope:
            await mirai
        assert scope.cancelled_caught
        assert mirai.cancelled()

    trio.run(main)


# ── turns of the loop ────────────────────────────────────────────────────────────────────


def test_a_landing_wakes_a_slice_a_turn_and_calls_once_for_each() -> None:
    calls: list[Callable[[], None]] = []
    woken: list[int] = []
    landing = Landing(calls.append)
    for i in range(2 * SLICE + 1):
        landing.add(lambda i=i: woken.append(i))  # type: ignore[misc]
    sizes = []
    for turn, call in enumerate(calls):  # it grows on the way
        assert len(calls) == turn + 1
        call()
        sizes.append(len(woken))
    assert sizes == [SLICE, 2 * SLICE, 2 * SLICE + 1]
    assert woken == list(range(2 * SLICE + 1))
    landing.add(lambda: woken.append(-1))
    assert len(calls) == 4


def test_what_lands_while_a_slice_is_woken_is_not_forgotten() -> None:
    calls: list[Callable[[], None]] = []
    woken: list[int] = []
    landing = Landing(calls.append)

    def wake() -> None:
        woken.append(1)
        landing.add(lambda: woken.append(2))

    landing.add(wake)
    for call in calls:
        call()
    assert woken == [1, 2]


def test_a_callback_alone_needs_no_condition() -> None:
    mirai: Mirai[int] = Mirai()
    heard: list[Any] = []
    mirai.add_done_callback(heard.append)
    mirai.add_done_callback(heard.append)
    mirai.settle(Value(1))
    mirai.add_done_callback(heard.append)
    assert heard == [mirai] * 3
    assert mirai._lazy is None


def test_a_callback_is_kept_when_somebody_begins_to_wait() -> None:
    mirai: Mirai[int] = Mirai()
    heard: list[Any] = []
    mirai.add_done_callback(heard.append)
    with pytest.raises(TimeoutError):
        mirai.result(timeout=0)
    mirai.add_done_callback(heard.append)
    mirai.settle(Value(1))
    assert heard == [mirai] * 2
