"""Ten thousand mirais awaited at once, on every event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from conftest import wait_until

from mirai import daemons, mirai, mirai_map, status
from mirai._landing import SLICE

MANY = 10_000


@pytest.fixture(autouse=True, scope="module")
def warm() -> None:
    """Let uvloop open what it keeps, so that it is no leak of the first test."""
    if find_spec("uvloop") is not None:
        run_on_uvloop(asyncio.sleep(0))


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    with daemons(2):
        yield


def square(x: int) -> int:
    if x % 100 == 13:
        raise LookupError(x)
    return x * x


def right(answers: list[Any]) -> bool:
    """Return whether each answer is that of its own number."""
    return len(answers) == MANY and all(
        (type(answer), answer.args) == (LookupError, (x,)) if x % 100 == 13 else answer == x * x
        for x, answer in enumerate(answers)
    )


def after(gate: Path, x: int) -> int:
    """Wait until the gate is there."""
    while not gate.exists():
        time.sleep(0.001)
    return x


Run = Callable[[Coroutine[Any, Any, Any]], Any]


def run_on_uvloop(main: Coroutine[Any, Any, Any]) -> Any:
    uvloop = pytest.importorskip("uvloop")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


@pytest.mark.parametrize("run", [asyncio.run, run_on_uvloop], ids=["asyncio", "uvloop"])
class TestGather:
    def test_all_resolve(self, run: Run) -> None:
        async def main() -> list[Any]:
            mirais = [mirai(square, x) for x in range(MANY)]
            return await asyncio.gather(*mirais, return_exceptions=True)

        assert right(run(main()))

    def test_while_they_are_still_being_sent(self, run: Run) -> None:
        async def one(x: int) -> Any:
            await asyncio.sleep(0)
            return await mirai(square, x)

        async def main() -> list[Any]:
            return await asyncio.gather(*map(one, range(MANY)), return_exceptions=True)

        assert right(run(main()))

    @pytest.mark.thorough
    def test_cancelling_it_cancels_all(self, run: Run) -> None:
        async def main() -> None:
            mirais = mirai_map(time.sleep, [600] * MANY)
            waiting = asyncio.ensure_future(asyncio.gather(*mirais))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert all(future.cancelled() for future in mirais)

        run(main())
        wait_until(lambda: status().awaiting + status().executing == 0)

    @pytest.mark.thorough
    def test_the_loop_turns_while_they_resolve(self, run: Run, tmp_path: Path) -> None:
        turns: list[int] = []

        async def wait(future: Any) -> None:
            await future

        async def main() -> None:
            mirais = [mirai(after, tmp_path / "go", x) for x in range(MANY)]
            waiting = [asyncio.ensure_future(wait(future)) for future in mirais]
            await asyncio.sleep(0)
            (tmp_path / "go").touch()
            for future in mirais:
                future.result()  # the loop stands still, and finds all of them settled
            while not turns or turns[-1] < MANY:
                turns.append(sum(future.done() for future in waiting))
                await asyncio.sleep(0)

        run(main())
        assert max(later - before for before, later in pairwise(turns)) <= SLICE


class TestNursery:
    def test_all_resolve(self) -> None:
        answers: list[Any] = [None] * MANY

        async def wait(x: int, future: Any) -> None:
            try:
                answers[x] = await future
            except LookupError as error:
                answers[x] = error

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for x in range(MANY):
                    nursery.start_soon(wait, x, mirai(square, x))

        trio.run(main)
        assert right(answers)

    @pytest.mark.thorough
    def test_cancelling_it_cancels_all(self) -> None:
        async def wait(future: Any) -> None:
            await future

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                for future in mirais:
                    nursery.start_soon(wait, future)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()

        mirais = mirai_map(time.sleep, [600] * MANY)
        trio.run(main)
        assert all(future.cancelled() for future in mirais)
        wait_until(lambda: status().awaiting + status().executing == 0)


async def wait_for_all(mirais: Any) -> int:
    return len(await mirais)


async def go_through(pairs: Any) -> int:
    count = 0
    async for _ in pairs:
        count += 1
    return count


WAYS: dict[str, Callable[[Any], Coroutine[Any, Any, int]]] = {
    "await": wait_for_all,
    "async for": go_through,
    "as_completed": lambda mirais: go_through(mirais.as_completed()),
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
class TestMap:
    """Going through what has ended already waits for nothing, and yet the loop turns."""

    def test_on_asyncio(self, way: Callable[[Any], Coroutine[Any, Any, int]]) -> None:
        async def main() -> int:
            mirais, turns = mirai_map(abs, range(MANY)), 0
            wait_until(lambda: f"{MANY} done" in repr(mirais))
            going = asyncio.ensure_future(way(mirais))
            while not going.done():
                await asyncio.sleep(0)
                turns += 1
            assert going.result() == MANY
            return turns

        assert asyncio.run(main()) >= MANY // SLICE

    def test_on_trio(self, way: Callable[[Any], Coroutine[Any, Any, int]]) -> None:
        async def main() -> int:
            mirais, turns, counts = mirai_map(abs, range(MANY)), 0, []
            wait_until(lambda: f"{MANY} done" in repr(mirais))

            async def go() -> None:
                counts.append(await way(mirais))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(go)
                while not counts:
                    await trio.lowlevel.checkpoint()
                    turns += 1
            assert counts == [MANY]
            return turns

        assert trio.run(main) >= MANY // SLICE
