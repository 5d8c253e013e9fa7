"""Each task sees its callable as it was sent, wherever it is evaluated."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mirai import daemons, mirai, mirai_map


@pytest.fixture(params=["daemons", "thread", "sync"])
def pool(request: pytest.FixtureRequest) -> Iterator[None]:
    """Pools that evaluate all tasks in one process."""
    how: dict[str, dict[str, Any]] = {
        "daemons": {"n": 1},
        "thread": {"n": 1, "dispatcher": False},
        "sync": {"sync": True},
    }
    with daemons(**how[request.param]):
        yield


class Counter:
    def __init__(self, ballast: int = 0) -> None:
        self.count = 0
        self.ballast = b"x" * ballast

    def inc(self, _: object = None) -> int:
        self.count += 1
        return self.count


@pytest.mark.usefixtures("pool")
class TestState:
    def test_a_method(self) -> None:
        counter = Counter()
        assert mirai_map(counter.inc, range(6)).collect() == [1] * 6
        assert [mirai(counter.inc).result() for _ in range(2)] == [1, 1]
        counter.count = 10
        assert mirai(counter.inc).result() == 11

    def test_a_closure(self) -> None:
        seen: list[int] = []

        def remember(x: int) -> list[int]:
            seen.append(x)
            return seen

        assert mirai_map(remember, range(3)).collect() == [[0], [1], [2]]

    def test_the_arguments_of_a_map(self) -> None:
        def add(x: int, box: list[int]) -> list[int]:
            box.append(x)
            return box

        assert mirai_map(add, range(2), args=([],)).collect() == [[0], [1]]

    def test_a_retry(self) -> None:
        counter = Counter()

        def fail() -> None:
            raise LookupError(counter.inc())

        error = mirai.options(retries=2, retry_on=LookupError)(fail).exception()
        assert error is not None
        assert error.args == (1,)

    def test_what_is_large_is_unpickled_once(self) -> None:
        counter = Counter(ballast=200_000)
        assert mirai_map(counter.inc, range(3)).collect() == [1, 2, 3]

    def test_what_a_function_remembers_is_kept(self) -> None:
        @functools.lru_cache
        def once(n: int) -> int:
            return random.randrange(2**60) + n

        assert len(set(mirai_map(once, [1] * 5).collect())) == 1


class TestGenerators:
    @pytest.mark.thorough
    @pytest.mark.parametrize("fn", [random.random, np.random.normal, random.gauss])
    def test_a_seed_is_for_the_modules_own_functions_too(self, fn: Any) -> None:
        def drawn(seed: int) -> list[float]:
            with daemons(1, seed=seed):
                return [mirai(fn, *args).result() for args in [()] * 3]

        if fn is random.gauss:
            fn = functools.partial(fn, 0, 1)
        first = drawn(1)
        assert len(set(first)) == 3
        random.random(), np.random.normal()
        assert drawn(1) == first
        assert drawn(2) != first

    @pytest.mark.parametrize("fn", [random.random, np.random.normal])
    def test_daemons_draw_numbers_of_their_own(self, fn: Any) -> None:
        drawn = []
        for _ in range(3):
            with daemons(1):
                drawn.append(mirai(fn).result())
        assert len(set(drawn)) == 3
