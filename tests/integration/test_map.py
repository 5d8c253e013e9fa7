"""mirai_map and race."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from conftest import wait_until

from mirai import (
    MiraiError,
    SerializationError,
    TaskCancelled,
    daemons,
    mirai,
    mirai_map,
    race,
    status,
)


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    with daemons(2):
        yield


def square(x: int) -> int:
    return x * x


def fail_at(x: int, bad: int) -> int:
    if x == bad:
        raise LookupError("here")
    return x


class TestElements:
    def test_one_iterable(self) -> None:
        assert mirai_map(square, range(1_000)).collect() == [x * x for x in range(1_000)]

    def test_none(self) -> None:
        assert mirai_map(square, []).collect() == []

    def test_several_side_by_side(self) -> None:
        assert mirai_map(pow, [2, 3], iter([5, 2])).collect() == [32, 9]

    def test_of_different_lengths(self) -> None:
        with pytest.raises(ValueError, match="shorter"):
            mirai_map(pow, [1, 2], [1])
        assert status().completed == 0

    def test_constants_come_after_the_element(self) -> None:
        def join(*parts: Any, **more: Any) -> tuple[Any, ...]:
            return (*parts, more)

        values = mirai_map(join, [1, 2], ["a", "b"], args=(True,), kwargs={"k": 0}).collect()
        assert values == [(1, "a", True, {"k": 0}), (2, "b", True, {"k": 0})]

    def test_a_dict_comes_back_as_a_dict(self) -> None:
        futures = mirai_map(square, {"a": 2, "b": 3})
        assert futures["b"].result() == 9
        assert futures.collect() == {"a": 4, "b": 9}

    def test_a_coroutine_function(self) -> None:
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        assert mirai_map(double, [1, 2]).collect() == [2, 4]

    def test_elements_that_cannot_be_pickled_send_nothing(self) -> None:
        import threading

        with pytest.raises(SerializationError):
            mirai_map(square, [1, threading.Lock()])
        assert status().completed == 0

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda: mirai_map(square), TypeError),
            (lambda: mirai_map(square, 3), TypeError),
            (lambda: mirai_map(3, [1]), TypeError),  # type: ignore[call-overload]
            (lambda: mirai_map(square, [1], max_in_flight=0), ValueError),
            (lambda: mirai_map(square, [1], max_in_flight="many"), TypeError),  # type: ignore[call-overload]
            (lambda: mirai_map(square, {"a": 1}, max_in_flight=1), TypeError),
            (lambda: mirai.options(profile="none").map(square, [1]), MiraiError),
        ],
    )
    def test_what_makes_no_sense(self, call: Callable[[], object], error: type[Exception]) -> None:
        with pytest.raises(error):
            call()

    def test_with_options(self) -> None:
        futures = mirai.options(name="squaring").map(square, [1, 2])
        assert [future.name for future in futures] == ["squaring", "squaring"]


class TestCollect:
    def test_it_is_a_sequence_of_mirais(self) -> None:
        futures = mirai_map(square, range(5))
        assert len(futures) == 5
        assert futures[3].result() == 9
        assert concurrent.futures.wait(futures).not_done == set()
        assert repr(futures) == "<MiraiMap of 5, 5 done>"

    def test_an_error_names_its_element_once_all_have_ended(self) -> None:
        futures = mirai_map(fail_at, range(50), args=(3,))
        with pytest.raises(LookupError) as caught:
            futures.collect()
        assert caught.value.__notes__ == ["in element 3 of mirai_map"]
        assert all(future.done() for future in futures)
        assert futures[4].result() == 4

    def test_stop_cancels_the_rest(self, tmp_path: Path) -> None:
        def work(x: int) -> None:
            if x == 1:
                raise LookupError("here")
            (tmp_path / str(x)).touch()
            time.sleep(600)

        futures = mirai_map(work, {"a": 0, "b": 1, "c": 2, "d": 3, "e": 4})
        with pytest.raises(LookupError) as caught:
            futures.collect(stop=True)
        assert caught.value.__notes__ == ["in element 'b' of mirai_map"]
        assert futures["e"].cancelled()
        assert mirai(abs, -1).result(timeout=20) == 1

    def test_flat(self) -> None:
        assert mirai_map(range, [1, 2, 3]).collect(flat=True) == [0, 0, 1, 0, 1, 2]

    def test_progress(self, capsys: pytest.CaptureFixture[str]) -> None:
        pytest.importorskip("rich")
        assert mirai_map(square, range(3)).collect(progress=True) == [0, 1, 4]
        assert "100%" in capsys.readouterr().out

    def test_cancel(self) -> None:
        futures = mirai_map(time.sleep, [600] * 20)
        assert futures.cancel() == 20
        assert futures.cancel() == 0
        with pytest.raises(TaskCancelled):
            futures.collect()
        assert mirai(abs, -1).result(timeout=20) == 1

    def test_as_completed(self, tmp_path: Path) -> None:
        def work(x: int) -> int:
            while x == 0 and not (tmp_path / "go").exists():
                time.sleep(0.001)
            return x

        seen = []
        for index, value in mirai_map(work, range(4)).as_completed():
            seen.append((index, value))
            if len(seen) == 3:
                (tmp_path / "go").touch()
        assert sorted(seen) == [(i, i) for i in range(4)]
        assert seen[-1] == (0, 0)


async def listed(pairs: AsyncIterator[tuple[Any, Any]] | Any) -> list[tuple[Any, Any]]:
    return [pair async for pair in pairs]


RUN = [asyncio.run, lambda main: trio.run(lambda: main)]


class TestAsync:
    @pytest.mark.parametrize("run", RUN, ids=["asyncio", "trio"])
    def test_await_and_iterate(self, run: Callable[[Any], Any]) -> None:
        async def main() -> None:
            assert await mirai_map(square, range(100)) == [x * x for x in range(100)]
            assert await mirai_map(square, {"a": 2}) == {"a": 4}
            assert await listed(mirai_map(square, range(3))) == [(0, 0), (1, 1), (2, 4)]
            ended = await listed(mirai_map(square, range(3)).as_completed())
            assert sorted(ended) == [(0, 0), (1, 1), (2, 4)]
            assert await listed(mirai_map(square, {"a": 2})) == [("a", 4)]
            stream = mirai_map(square, iter(range(10)), max_in_flight=3)
            assert await listed(stream) == [(i, i * i) for i in range(10)]
            stream = mirai_map(square, iter(range(10)), max_in_flight=3)
            assert sorted(await listed(stream.as_completed())) == [(i, i * i) for i in range(10)]

        run(main())

    def test_cancelling_the_waiting_cancels_all(self) -> None:
        async def main() -> None:
            futures = mirai_map(time.sleep, [600] * 6)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await futures
            assert all(future.cancelled() for future in futures)

        asyncio.run(main())

    def test_many_at_once(self) -> None:
        async def main() -> int:
            return sum(await asyncio.gather(*mirai_map(square, range(10_000))))

        assert asyncio.run(main()) == sum(x * x for x in range(10_000))


class TestStream:
    def test_it_reads_no_further_than_it_may(self) -> None:
        read = []

        def numbers() -> Iterator[int]:
            for i in range(10_000):
                read.append(i)
                yield i

        for index, value in mirai_map(square, numbers(), max_in_flight=100):
            assert value == index * index
            assert len(read) <= index + 101
        assert len(read) == 10_000

    def test_as_completed_gives_each_once(self) -> None:
        stream = mirai_map(square, iter(range(1_000)), max_in_flight=50)
        assert sorted(stream.as_completed()) == [(i, i * i) for i in range(1_000)]

    def test_leaving_the_loop_cancels_the_rest(self) -> None:
        for _ in mirai_map(fast_once, range(100), max_in_flight=10):
            break
        wait_until(lambda: status().awaiting == 0)
        assert mirai(abs, -1).result(timeout=20) == 1

    def test_an_error_ends_it(self) -> None:
        stream = iter(mirai_map(fail_at, range(100), args=(5,), max_in_flight=10))
        assert [next(stream) for _ in range(5)] == [(i, i) for i in range(5)]
        with pytest.raises(LookupError) as caught:
            next(stream)
        assert caught.value.__notes__ == ["in element 5 of mirai_map"]


def fast_once(x: int) -> int:
    if x:
        time.sleep(600)
    return x


class TestRace:
    def test_the_first_to_end(self) -> None:
        slow, fast = mirai(time.sleep, 600), mirai(os.getpid)
        assert race([slow, fast]).result(timeout=20) == 1
        slow.cancel()
        assert race([fast, slow]).result() in (0, 1)

    def test_one_that_fails_wins_too(self) -> None:
        slow, bad = mirai(time.sleep, 600), mirai(lambda: 1 / 0)
        assert race([slow, bad]).result(timeout=20) == 1
        slow.cancel()

    def test_one_that_is_done(self) -> None:
        done = mirai(abs, -1)
        done.result()
        assert race([mirai(time.sleep, 0.01), done]).done()

    def test_await(self) -> None:
        async def main() -> int:
            return await race([mirai(abs, -1)])

        assert asyncio.run(main()) == 0

    def test_what_makes_no_sense(self) -> None:
        with pytest.raises(ValueError, match="at least one"):
            race([])
        with pytest.raises(TypeError, match="int"):
            race([3])  # type: ignore[list-item]


def test_a_key_that_is_not_there() -> None:
    with daemons(1), pytest.raises(KeyError):
        mirai_map(abs, {"a": 1})["b"]


def test_constants_must_be_a_tuple() -> None:
    with daemons(1), pytest.raises(TypeError, match="args must be a tuple"):
        mirai_map(pow, [1], args=2)  # type: ignore[call-overload]
