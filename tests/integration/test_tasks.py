"""What can be sent, what comes back, and how it is awaited."""

from __future__ import annotations

import asyncio
import functools
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, as_completed, wait
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trio
from conftest import Script

from mirai import (
    MiraiError,
    RemoteError,
    SerializationError,
    TaskCancelled,
    daemons,
    mirai,
    status,
)


@pytest.fixture
def pool() -> Iterator[None]:
    with daemons(2):
        yield


class Account:
    def __init__(self, total: int) -> None:
        self.total = total

    def plus(self, more: int) -> int:
        return self.total + more

    def __call__(self, more: int) -> int:
        return self.total * more


class NeedsTwoError(Exception):
    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"{a} and {b}")
        self.a, self.b = a, b


@pytest.mark.usefixtures("pool")
class TestWhatCanBeSent:
    def test_a_lambda_with_arguments_and_keywords(self) -> None:
        assert mirai(lambda a, *, b: (a, b), 1, b=2).result() == (1, 2)

    def test_a_closure(self) -> None:
        base = [10]
        assert mirai(lambda x: base[0] + x, 1).result() == 11
        base[0] = 20
        assert mirai(lambda x: base[0] + x, 1).result() == 21

    def test_a_partial_a_method_and_an_object_that_can_be_called(self) -> None:
        assert mirai(functools.partial(pow, 2), 10).result() == 1024
        assert mirai(Account(5).plus, 3).result() == 8
        assert mirai(Account(5), 3).result() == 15

    def test_a_function_of_c_and_a_class(self) -> None:
        assert mirai(len, "four").result() == 4
        assert mirai(Account, 7).result().total == 7

    def test_a_cached_function_of_main(self, script: Script) -> None:
        process = script("""
import functools
from mirai import mirai, daemons
@functools.cache
def fibonacci(n): return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)
@functools.lru_cache(maxsize=3)
def double(n): return 2 * n
with daemons(1):
    print(mirai(fibonacci, 80).result(), mirai(double, 4).result())
    print(mirai(lambda: double.cache_parameters()["maxsize"]).result())
    print(mirai(lambda: double).result()(5))
""")
        out, err = process.communicate(timeout=30)
        assert (out.split(), err) == (["23416728348467685", "8", "3", "10"], "")

    def test_a_class_of_main_that_comes_back_is_left_alone(self, script: Script) -> None:
        process = script("""
from enum import Enum
from mirai import mirai, daemons
CONFIG = 1
class A:
    count = 0
    def get(self): return CONFIG
class Colour(Enum):
    RED = 1
def make():
    A.count = 99
    return A(), Colour.RED
with daemons(1):
    first = mirai(make)
    CONFIG, A.count = 2, 7
    a, colour = first.result()
    print(a.get(), A().get(), A.count, type(a) is A, colour is Colour.RED)
    CONFIG = 3
    print(a.get(), mirai(lambda: A().get()).result())
""")
        out, err = process.communicate(timeout=30)
        assert (out.splitlines(), err) == (["2 2 7 True True", "3 3"], "")

    def test_a_name_that_is_no_text(self) -> None:
        def function() -> int:
            return 1

        function.__qualname__ = "a\udc80"
        assert mirai(function).result(timeout=20) == 1
        assert mirai(abs, -2).result(timeout=20) == 2

    def test_a_coroutine_function(self) -> None:
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        assert mirai(double, 21).result() == 42

    def test_keywords_that_are_called_like_our_own_parameters(self) -> None:
        def keywords(**given: int) -> dict[str, int]:
            return given

        assert mirai(keywords, fn=1, self=2, name=3).result() == {"fn": 1, "self": 2, "name": 3}

    def test_large_arrays_arrive_whole_and_can_be_changed(self) -> None:
        def bump(array: Any) -> Any:
            array += 1
            return array

        array = np.arange(1_000_000, dtype=np.float64)
        future = mirai(bump, array)
        array[:] = 0  # after the call: the task must not see it
        result = future.result()
        assert (result == np.arange(1_000_000) + 1).all()
        result += 1  # the caller may change it too

    def test_a_large_plain_payload(self) -> None:
        text = "x" * 3_000_000
        assert mirai(lambda s: s + "y", text).result() == text + "y"

    def test_ten_thousand_tasks(self) -> None:
        futures = [mirai(lambda x: x * x, i) for i in range(10_000)]
        assert [future.result() for future in futures] == [i * i for i in range(10_000)]

    def test_many_threads_may_submit(self) -> None:
        sums = []

        def submit() -> None:
            sums.append(sum(f.result() for f in [mirai(abs, -i) for i in range(500)]))

        threads = [threading.Thread(target=submit) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sums == [sum(range(500))] * 4

    def test_a_mirai_cannot_be_sent(self) -> None:
        with pytest.raises(SerializationError, match="send what it returned"):
            mirai(abs, mirai(abs, -1))

    def test_a_first_argument_that_cannot_be_called(self) -> None:
        with pytest.raises(TypeError, match="callable"):
            mirai(3)  # type: ignore[call-overload]


@pytest.mark.usefixtures("pool")
class TestWhatComesBack:
    def test_the_original_exception_with_the_remote_traceback(self) -> None:
        def fail() -> None:
            raise ValueError("deep inside")

        error = mirai(fail).exception()
        assert type(error) is ValueError
        assert error.args == ("deep inside",)
        assert isinstance(error.__cause__, RemoteError)
        assert "in fail" in str(error.__cause__)
        with pytest.raises(ValueError, match="deep inside"):
            mirai(fail).result()

    def test_an_exception_that_cannot_be_pickled_is_told(self) -> None:
        def fail() -> None:
            error = ValueError("with a lock")
            error.lock = threading.Lock()  # type: ignore[attr-defined]
            raise error

        error = mirai(fail).exception()
        assert isinstance(error, RemoteError)
        assert (error.type_name, error.message) == ("ValueError", "with a lock")
        assert "in fail" in error.traceback

    def test_an_exception_that_cannot_be_unpickled_is_told(self) -> None:
        def fail() -> None:
            raise NeedsTwoError(1, 2)

        error = mirai(fail).exception()
        assert isinstance(error, RemoteError)
        assert error.message == "1 and 2"

    def test_arguments_that_cannot_be_pickled_fail_at_the_call(self) -> None:
        with pytest.raises(SerializationError, match=r"lock.*\['key'\]"):
            mirai(print, {"key": threading.Lock()})

    def test_results_that_cannot_be_pickled(self) -> None:
        error = mirai(lambda: {"key": threading.Lock()}).exception()
        assert isinstance(error, SerializationError)
        assert "lock" in str(error)


class TestWhatIsNotAnException:
    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, BaseException, GeneratorExit])
    def test_it_settles_the_future_and_leaves_the_daemon_alive(
        self, kind: type[BaseException]
    ) -> None:
        def fail() -> None:
            raise kind("bye")

        async def fail_on_a_loop() -> None:
            raise kind("bye")

        with daemons(1):
            pid = mirai(os.getpid).result()
            for function in (fail, fail_on_a_loop, fail):
                error = mirai(function).exception()
                assert isinstance(error, RemoteError)
                assert (error.type_name, error.message) == (kind.__name__, "bye")
            assert mirai(os.getpid).result() == pid


@pytest.mark.usefixtures("pool")
class TestAsFuture:
    def test_wait_and_as_completed(self) -> None:
        futures = [mirai(abs, -i) for i in range(100)]
        assert sorted(f.result() for f in as_completed(futures, timeout=20)) == list(range(100))
        done, _ = wait([mirai(abs, -1)], timeout=20, return_when=FIRST_COMPLETED)
        assert len(done) == 1

    def test_a_result_that_is_not_there_in_time(self) -> None:
        future = mirai(time.sleep, 30)
        with pytest.raises(TimeoutError):
            future.result(timeout=0.01)
        assert future.cancel()

    def test_callbacks(self) -> None:
        heard: list[int] = []
        event = threading.Event()

        def hear(future: Any) -> None:
            heard.append(future.result())
            event.set()

        mirai(abs, -3).add_done_callback(hear)
        assert event.wait(20)
        assert heard == [3]

    def test_a_callback_may_send_more(self) -> None:
        chain: list[Any] = []
        event = threading.Event()

        def more(future: Any) -> None:
            chain.append(mirai(abs, -future.result() - 1))
            event.set()

        mirai(abs, -1).add_done_callback(more)
        assert event.wait(20)
        assert chain[0].result() == 2


class TestAwait:
    def test_on_asyncio(self) -> None:
        async def main() -> list[int]:
            async with daemons(2):
                assert await mirai(abs, -1) == 1
                with pytest.raises(ZeroDivisionError):
                    await mirai(lambda: 1 / 0)
                return await asyncio.gather(*[mirai(abs, -i) for i in range(1_000)])

        assert asyncio.run(main()) == list(range(1_000))

    def test_on_trio(self) -> None:
        async def main() -> int:
            async with daemons(2):
                with pytest.raises(ZeroDivisionError):
                    await mirai(lambda: 1 / 0)
                return await mirai(abs, -1)

        assert trio.run(main) == 1

    def test_asyncio_is_not_blocked_while_it_waits(self) -> None:
        async def main() -> bool:
            async with daemons(1):
                slow = mirai(time.sleep, 30)
                waiter = asyncio.ensure_future(slow)
                await mirai_canceller(slow)
                with pytest.raises(TaskCancelled):
                    await waiter
                return slow.cancelled()

        async def mirai_canceller(future: Any) -> None:
            await asyncio.sleep(0)
            future.cancel()

        assert asyncio.run(main())

    def test_cancelling_the_coroutine_cancels_the_mirai(self) -> None:
        async def main() -> bool:
            async with daemons(1):
                slow = mirai(time.sleep, 30)
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(slow, 0.05)
                return slow.cancelled()

        assert asyncio.run(main())

    def test_cancelling_on_trio(self) -> None:
        async def main() -> bool:
            async with daemons(1):
                slow = mirai(time.sleep, 30)
                with trio.move_on_after(0.05):
                    await slow
                return slow.cancelled()

        assert trio.run(main)

    def test_wrap_future(self) -> None:
        async def main() -> int:
            async with daemons(1):
                return await asyncio.wrap_future(mirai(abs, -4))

        assert asyncio.run(main()) == 4


PROGRAM = """
import os, helper_module
from mirai import mirai, daemons
FACTOR = 3
class Point:
    def __init__(self, x): self.x = x
    def scaled(self): return Point(self.x * FACTOR)
def triple(x): return FACTOR * x
async def slowly(x): return triple(x)
with daemons(2):
    print(mirai(triple, 1).result(), mirai(slowly, 2).result(), mirai(lambda: triple(3)).result())
    print(mirai(Point(4).scaled).result().x, mirai(helper_module.where).result() == os.getcwd())
    FACTOR = 5
    print(mirai(triple, 1).result())
"""


class TestWithoutMainGuard:
    @pytest.mark.parametrize("as_file", [True, False])
    def test_a_script_and_python_c(self, script: Script, tmp_path: Path, as_file: bool) -> None:
        module = "import os\ndef where(): return os.getcwd()\n"
        (tmp_path / "helper_module.py").write_text(module)
        out, err = script(PROGRAM, as_file=as_file).communicate(timeout=30)
        assert (out.splitlines(), err) == (["3 6 9", "12 True", "5"], "")

    def test_a_notebook(self, script: Script) -> None:
        cells = """
import linecache
from mirai import mirai, daemons
space = {"__name__": "__main__"}
def cell(text): exec(compile(text, "<cell>", "exec"), space)
cell("from mirai import mirai, daemons; daemons(1)")
cell("def f(x): return x + 1")
cell("a = mirai(f, 1).result()")
cell("def f(x): return x + 10")
cell("b = mirai(f, 1).result()")
cell("daemons(0)")
print(space["a"], space["b"])
"""
        out, err = script(cells).communicate(timeout=30)
        assert (out.split(), err) == (["2", "11"], "")


class TestWithoutDaemons:
    def test_a_process_of_its_own(self) -> None:
        assert mirai(os.getpid).result() != os.getpid()

    def test_status_needs_a_pool(self) -> None:
        with pytest.raises(MiraiError, match="no daemons"):
            status()
