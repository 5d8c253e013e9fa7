"""The synchronous mode: the same code, evaluated by the caller."""

from __future__ import annotations

import asyncio
import bdb
import builtins
import os
import random
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Script, processes_marked

from mirai import (
    Mirai,
    MiraiError,
    RemoteError,
    SerializationError,
    TaskTimeout,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    on_daemon,
    race,
    status,
    use_profile,
)


@pytest.fixture(autouse=True)
def pool() -> Iterator[None]:
    with daemons(sync=True):
        yield


def program() -> list[Any]:
    """A piece of code that gives the same with and without daemons."""

    def boom() -> None:
        raise LookupError("here")

    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    error = mirai(boom).exception()
    leave = mirai(sys.exit, 3).exception()
    tries = mirai.options(retries=2, retry_on=LookupError)(boom).exception()
    return [
        mirai(pow, 2, 10).result(),
        mirai(double, 4).result(),
        mirai_map(lambda x, y: x + y, [1, 2], args=(10,)).collect(),
        race([mirai(abs, -1)]).result(),
        (type(error), str(error), "in boom" in str(error.__cause__)),
        (type(leave), str(leave).splitlines()[0]),
        type(tries),
    ]


def test_the_same_as_with_daemons() -> None:
    here = program()
    with daemons(2):
        assert program() == here


def test_it_happens_here_and_now(mark: str) -> None:
    seen: list[tuple[int, str]] = []

    def note() -> tuple[int, str]:
        return os.getpid(), threading.current_thread().name

    future = mirai(note)
    assert future.done()
    seen.append(future.result())
    assert seen == [(os.getpid(), threading.current_thread().name)]
    assert not processes_marked(mark)
    assert (status().completed, status().url) == (1, "sync")


def test_arguments_and_results_are_copies() -> None:
    def change(numbers: list[int]) -> list[int]:
        numbers.append(3)
        return numbers

    mine = [1, 2]
    assert mirai(change, mine).result() == [1, 2, 3]
    assert mine == [1, 2]
    with pytest.raises(SerializationError):
        mirai(change, threading.Lock())
    assert isinstance(mirai(threading.Lock).exception(), SerializationError)


def test_a_timeout_is_noticed_at_the_end() -> None:
    future = mirai.options(timeout=0.01)(time.sleep, 0.02)
    assert isinstance(future.exception(), TaskTimeout)


def test_ctrl_c_is_the_callers() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mirai(interrupt)
    assert mirai(abs, -1).result() == 1


def test_a_task_may_send_tasks() -> None:
    assert mirai(lambda: mirai(abs, -3).result() + 1).result() == 4


def test_on_an_event_loop() -> None:
    async def double(x: int) -> int:
        await asyncio.sleep(0)
        return 2 * x

    async def main() -> tuple[int, int]:
        async with daemons(4, sync=True):
            return await mirai(double, 4), await mirai(abs, -1)

    assert asyncio.run(main()) == (8, 1)


def test_afterwards_it_is_closed() -> None:
    pool = daemons(sync=True, profile="other")
    pool.shutdown()
    with pytest.raises(MiraiError):
        pool.submit(abs, (-1,))
    with pytest.raises(MiraiError, match="no daemons"):
        status("other")


def test_a_breakpoint(script: Script) -> None:
    process = script(
        "from mirai import mirai, daemons\n"
        "def f(x):\n    y = x + 1\n    breakpoint()\n    return y\n"
        "with daemons(sync=True): print('got', mirai(f, 41).result())\n"
    )
    out, err = process.communicate("p y\nc\n", timeout=30)
    assert "42" in out
    assert out.rstrip().endswith("got 42")
    assert err == ""


def test_errors_that_are_told_are_told_here_too() -> None:
    def fail() -> None:
        raise BaseException("no exception")

    assert isinstance(mirai(fail).exception(), RemoteError)


async def double(x: int) -> int:
    await asyncio.sleep(0)
    return 2 * x


class TestCoroutines:
    def test_a_block_on_an_event_loop(self) -> None:
        async def main() -> int:
            with daemons(sync=True):
                return await mirai(double, 4)

        assert asyncio.run(main()) == 8

    def test_one_that_awaits_another(self) -> None:
        async def outer(x: int) -> int:
            return await mirai(double, x) + await mirai(double, x)

        async def main() -> int:
            return await mirai(outer, 4)

        assert mirai(outer, 3).result() == 12
        assert asyncio.run(main()) == 16

    def test_in_several_threads_at_once(self) -> None:
        meeting = threading.Barrier(4)
        builtins.mirai_meeting = meeting  # type: ignore[attr-defined]
        found: list[Mirai[str]] = []

        async def meet() -> str:
            await asyncio.sleep(0)
            builtins.mirai_meeting.wait(30)  # type: ignore[attr-defined]
            return threading.current_thread().name

        threads = [
            threading.Thread(target=lambda: found.append(mirai(meet)), name=str(number))
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        del builtins.mirai_meeting  # type: ignore[attr-defined]
        assert sorted(future.result(timeout=0) for future in found) == ["0", "1", "2", "3"]


class TestTasksKnowWhereTheyAre:
    @pytest.fixture(autouse=True, params=["sync", "daemons"])
    def pool(self, request: pytest.FixtureRequest) -> Iterator[None]:
        with daemons(1) if request.param == "daemons" else daemons(sync=True):
            yield

    def test_on_daemon(self) -> None:
        assert mirai(on_daemon).result() is True
        assert on_daemon() is False

        async def inside() -> tuple[bool, bool]:
            return on_daemon(), await mirai(on_daemon)

        async def main() -> tuple[tuple[bool, bool], bool]:
            return await mirai(inside), on_daemon()

        assert asyncio.run(main()) == ((True, True), False)

    def test_a_pool_must_be_named(self) -> None:
        def unnamed() -> None:
            daemons(2)

        with pytest.raises(MiraiError, match="name the profile"):
            mirai(unnamed).result(timeout=30)

    def test_everywhere_is_refused(self) -> None:
        with pytest.raises(MiraiError, match="inside a task"):
            mirai(lambda: everywhere(abs, -1)).result(timeout=30)
        assert everywhere(abs, -1).collect() == [1]


class TestInit:
    def test_it_is_called_once_and_here(self) -> None:
        def init() -> None:
            os.environ["MIRAI_INIT"] = (
                os.environ.get("MIRAI_INIT", "") + threading.current_thread().name
            )

        try:
            with daemons(sync=True, init=init):
                assert os.environ["MIRAI_INIT"] == threading.current_thread().name
                mirai(abs, -1).result()
            assert os.environ["MIRAI_INIT"] == threading.current_thread().name
        finally:
            os.environ.pop("MIRAI_INIT", None)

    def test_what_it_raises_is_raised(self) -> None:
        def init() -> None:
            raise LookupError("no data")

        with pytest.raises(LookupError, match="no data"):
            daemons(sync=True, init=init, profile="other")
        with pytest.raises(MiraiError, match="no daemons"):
            status("other")
        lock = threading.Lock()
        with pytest.raises(SerializationError):
            daemons(sync=True, init=lambda: lock, profile="other")


@pytest.mark.parametrize("options", [{"sync": True}, {"n": 2}], ids=str)
def test_everywhere_uses_up_no_stream(options: Any) -> None:
    def numbers(*, prepare: bool) -> list[float]:
        with daemons(**options, seed=1):
            first = mirai(lambda: random.random())
            if prepare:
                everywhere(abs, -1).collect()
            return [first.result(), mirai(lambda: random.random()).result()]

    assert numbers(prepare=True) == numbers(prepare=False)


@pytest.mark.parametrize("kind", [bdb.BdbQuit, KeyboardInterrupt])
def test_what_is_the_callers_is_the_callers_on_an_event_loop_too(
    kind: type[BaseException],
) -> None:
    def leave() -> None:
        raise kind("now")

    async def main() -> int:
        with pytest.raises(kind, match="now"):
            mirai(leave)
        return await mirai(abs, -1)

    assert asyncio.run(main()) == 1


def test_the_profile_holds_inside_a_task() -> None:
    def profile() -> str:
        return mirai(abs, -1).profile

    async def main() -> str:
        with daemons(sync=True, profile="other"), use_profile("other"):
            return await mirai(profile)

    with daemons(sync=True, profile="other"), use_profile("other"):
        here = mirai(profile).result()
    assert (here, asyncio.run(main())) == ("other", "other")
