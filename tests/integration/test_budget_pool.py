"""``daemons(memory=...)``: blocking, ``try_mirai`` and QueueFull."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import trio
from conftest import wait_until

from mirai import (
    DaemonCrashed,
    Daemons,
    DispatcherLost,
    Memory,
    Mirai,
    QueueFull,
    SerializationError,
    TaskTimeout,
    daemons,
    mirai,
    mirai_map,
    status,
    try_mirai,
)

KB = 1_000


@pytest.fixture(autouse=True)
def pool() -> Iterator[Daemons]:
    with daemons(1, memory="100KB") as pool:
        yield pool


def memory() -> Memory:
    found = status().memory
    assert found is not None
    return found


class Gate:
    """Tasks wait until it is opened."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, *_: object) -> str:
        while not self._path.exists():
            time.sleep(0.005)
        return "through"

    def open(self) -> None:
        self._path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    gate = Gate(tmp_path / "open")
    yield gate
    gate.open()  # a test that fails must not hang


def waiting(pool: Daemons) -> int:
    """Return how many wait for room."""
    budget: Any = pool._channel._budget  # type: ignore[union-attr]
    return len(budget._bells)


def blocked(pool: Daemons, work: Callable[[], object]) -> threading.Thread:
    """Return a thread that has begun to wait for room."""
    before = waiting(pool)
    thread = threading.Thread(target=work)
    thread.start()
    wait_until(lambda: waiting(pool) > before)
    return thread


@contextlib.contextmanager
def once_blocked(pool: Daemons, act: Callable[[], object]) -> Iterator[None]:
    """Do something as soon as somebody in the block waits for room."""

    def wait_and_act() -> None:
        wait_until(lambda: waiting(pool))
        act()

    thread = threading.Thread(target=wait_and_act)
    thread.start()
    yield
    thread.join()


def press_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


class TestOneTask:
    def test_status(self, pool: Daemons, gate: Gate) -> None:
        assert memory() == Memory(0, 0, 100 * KB)
        future = mirai(gate, bytes(30 * KB))
        used = memory().used
        assert 30 * KB < used < 31 * KB
        assert "memory: 0.0 MB of 0.1 MB used" in str(pool.status())
        gate.open()
        assert future.result() == "through"
        assert memory() == Memory(0, used, 100 * KB)

    def test_large_buffers_count(self, gate: Gate) -> None:
        data = bytearray(90 * KB)
        future = mirai(gate, memoryview_of(data))
        assert memory().used > 90 * KB
        gate.open()
        future.result()

    def test_buffers_that_the_function_brings_along_count(self, gate: Gate) -> None:
        numpy = pytest.importorskip("numpy")
        table = numpy.zeros(100 * KB)
        future = mirai(lambda: (gate(), table.nbytes))
        assert memory().used > 800 * KB
        assert try_mirai(abs, -1) is None
        gate.open()
        assert future.result() == ("through", 800 * KB)
        assert memory().used == 0

    def test_it_blocks_until_there_is_room(self, pool: Daemons, gate: Gate) -> None:
        first = mirai(gate, bytes(100 * KB))
        answers: list[Any] = []
        thread = blocked(pool, lambda: answers.append(mirai(abs, -1).result()))
        assert answers == []
        gate.open()
        thread.join()
        assert answers == [1]
        assert first.result() == "through"

    def test_one_that_is_let_in_and_fails_makes_way(self, pool: Daemons, gate: Gate) -> None:
        first = mirai(gate, bytes(100 * KB))
        errors: list[BaseException | None] = []

        def fail() -> None:
            with pytest.raises(SerializationError):
                mirai(len, threading.Lock())  # type: ignore[arg-type]
            errors.append(None)

        threads = [blocked(pool, fail) for _ in range(3)]
        threads.append(blocked(pool, lambda: errors.append(mirai(abs, -1).exception())))
        gate.open()
        for thread in threads:
            thread.join()
        assert errors == [None] * 4
        assert first.done()

    def test_many_threads(self) -> None:
        def work() -> None:
            futures = [mirai(len, bytes(40 * KB)) for _ in range(20)]
            assert [future.result() for future in futures] == [40 * KB] * 20
            done.append(1)

        done: list[int] = []
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) == 4
        assert memory().used == 0
        assert memory().peak < 141 * KB

    def test_one_larger_than_the_budget_passes(self) -> None:
        assert mirai(len, bytes(1_000 * KB)).result() == 1_000 * KB
        assert memory().peak > 1_000 * KB

    def test_ctrl_c_while_it_blocks(self, pool: Daemons, gate: Gate) -> None:
        first = mirai(gate, bytes(100 * KB))
        used = memory().used
        with once_blocked(pool, press_ctrl_c), pytest.raises(KeyboardInterrupt):
            mirai(abs, -1)
        assert memory().used == used
        gate.open()
        assert first.result() == "through"
        assert mirai(abs, -1).result() == 1

    @pytest.mark.parametrize("end", ["shutdown", "kill"])
    def test_the_end_of_the_pool_wakes_it(self, pool: Daemons, gate: Gate, end: str) -> None:
        first = mirai(gate, bytes(100 * KB))
        caught: list[BaseException] = []

        def work() -> None:
            try:
                mirai(abs, -1)
            except BaseException as error:
                caught.append(error)

        threads = [blocked(pool, work) for _ in range(3)]
        if end == "shutdown":
            pool.shutdown()
        else:
            assert pool._process is not None
            os.kill(pool._process.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert first.done()
        assert [type(error) for error in caught] == [DispatcherLost] * 3
        if end == "shutdown":
            assert {str(error) for error in caught} == {"the pool was shut down"}

    def test_what_cannot_be_sent_takes_nothing(self) -> None:
        with pytest.raises(SerializationError):
            mirai(len, threading.Lock())
        assert memory() == Memory(0, 0, 100 * KB)

    def test_without_a_budget(self) -> None:
        with daemons(1):
            future = try_mirai(len, bytes(1_000 * KB))
            assert future is not None and future.result() == 1_000 * KB
            assert status().memory is None
            assert "memory" not in str(status())


def memoryview_of(data: bytearray) -> Any:
    numpy = pytest.importorskip("numpy")
    return numpy.frombuffer(data, "u1")


class TestGivingBack:
    """However a task ends, its bytes are there again."""

    @pytest.mark.parametrize(
        ("fn", "error"),
        [
            (lambda _: 1, None),
            (lambda _: 1 / 0, ZeroDivisionError),
            (lambda _: os._exit(3), DaemonCrashed),
            (lambda _: threading.Lock(), SerializationError),
        ],
    )
    def test_by_itself(self, fn: Callable[..., Any], error: type | None) -> None:
        future = mirai(fn, bytes(100 * KB))
        kind = None if (found := future.exception()) is None else type(found)
        assert kind is error or (error is SerializationError and found is not None)
        assert memory().used == 0
        assert memory().peak > 100 * KB

    def test_by_a_timeout(self) -> None:
        future = mirai.options(timeout=0.1)(lambda _: time.sleep(600), bytes(100 * KB))
        assert isinstance(future.exception(), TaskTimeout)
        assert memory().used == 0

    def test_by_cancelling(self, gate: Gate) -> None:
        """One that runs, one that waits, one that was not even sent; and twice."""
        futures = [mirai(gate, bytes(30 * KB)) for _ in range(3)]
        wait_until(lambda: status().executing == 1)
        futures.append(mirai(gate, bytes(30 * KB)))
        for future in futures * 2:
            future.cancel()
        assert memory().used == 0
        assert mirai(abs, -1).result() == 1

    def test_a_result_is_not_seen_before(self) -> None:
        """Whoever has the value has the room."""
        for _ in range(100):
            future = try_mirai(len, bytes(100 * KB))
            assert future is not None
            assert future.result() == 100 * KB


class TestTry:
    def test_none_at_once(self, gate: Gate) -> None:
        first = try_mirai(gate, bytes(100 * KB))
        assert isinstance(first, Mirai)
        assert try_mirai(abs, -1) is None
        assert mirai.try_(abs, -1) is None
        assert mirai.options(name="soon").try_(abs, -1) is None
        gate.open()
        first.result()
        again = mirai.options(name="soon").try_(abs, -1)
        assert again is not None and (again.name, again.result()) == ("soon", 1)

    def test_nothing_is_pickled_in_vain(self, gate: Gate) -> None:
        first = mirai(gate, bytes(100 * KB))
        assert try_mirai(len, threading.Lock()) is None  # type: ignore[arg-type]
        gate.open()
        first.result()

    def test_with_an_ephemeral_daemon(self) -> None:
        daemons(0)
        future = try_mirai(os.getpid)
        assert future is not None and future.result() != os.getpid()

    def test_not_callable(self) -> None:
        with pytest.raises(TypeError):
            try_mirai(3)  # type: ignore[call-overload]

    def test_a_pool_that_is_gone(self, pool: Daemons, gate: Gate) -> None:
        mirai(gate, bytes(100 * KB))
        pool.shutdown()
        with pytest.raises(DispatcherLost):
            pool.try_submit(abs, (-1,))

    def test_never_full_in_sync_mode(self) -> None:
        with daemons(sync=True, memory="1KB"):
            futures = [try_mirai(len, bytes(2 * KB)) for _ in range(3)]
            assert [future.result() for future in futures if future] == [2 * KB] * 3
            assert memory() == Memory(0, 0, 1 * KB)


class TestOnAnEventLoop:
    @pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
    def test_queue_full(self, gate: Gate, run: Callable[[Any], Any]) -> None:
        async def main() -> None:
            first = mirai(gate, bytes(100 * KB))
            with pytest.raises(QueueFull, match="memory budget"):
                mirai(abs, -1)
            assert try_mirai(abs, -1) is None
            gate.open()
            assert await first == "through"
            assert await mirai(abs, -1) == 1

        run(main())

    def test_a_done_callback_must_not_wait_for_itself(self, gate: Gate, tmp_path: Path) -> None:
        caught: list[Any] = []

        def submit(_: object) -> None:
            try:
                caught.append(mirai(abs, -1))
            except QueueFull as error:
                caught.append(str(error))

        with daemons(2, memory="100KB"):
            other = Gate(tmp_path / "other")
            early = mirai(other)
            early.add_done_callback(submit)
            first = mirai(gate, bytes(100 * KB))
            other.open()  # now it runs in the channel's thread, and the budget is used up
            wait_until(lambda: caught)
            gate.open()
            first.result()
            assert caught == ["the memory budget is used up, and a done-callback must not wait"]

    def test_a_map_is_sent_whole_or_not_at_all(self, pool: Daemons, gate: Gate) -> None:
        async def main() -> None:
            with pytest.raises(QueueFull):
                mirai_map(gate, [bytes(30 * KB)] * 10)
            assert memory_of(pool).used == 0
            assert memory_of(pool).peak > 100 * KB
            assert await mirai(abs, -1) == 1

        asyncio.run(main())


def memory_of(pool: Daemons) -> Memory:
    found = pool._open().memory()
    assert found is not None
    return found


def size(data: bytes) -> int:
    return len(data)


class TestMaps:
    def test_it_stays_within_the_budget(self) -> None:
        """Ten megabytes through 100 kB: what is submitted and what is read stay small."""

        alive: list[int] = []
        living: weakref.WeakSet[Any] = weakref.WeakSet()

        class Box:
            def __init__(self) -> None:
                self.data = bytes(20 * KB)

        def elements() -> Iterator[Box]:
            for _ in range(500):
                box = Box()
                living.add(box)
                yield box
                del box
                gc.collect(0)
                alive.append(len(living))

        sizes = mirai_map(lambda box: len(box.data), elements()).collect()
        assert sizes == [20 * KB] * 500
        assert max(alive) <= 3
        assert 100 * KB <= memory().peak < 125 * KB
        assert memory().used == 0

    def test_dicts_and_constants(self) -> None:
        numpy = pytest.importorskip("numpy")
        table = numpy.arange(100 * KB)
        mapping = {key: bytes(30 * KB) for key in range(20)}

        def look(data: bytes, table: Any, calls: list[int]) -> tuple[int, int, int]:
            calls.append(1)  # kept as long as the table, which was sent along
            return len(data), int(table[-1]), len(calls)

        found = mirai_map(look, mapping, args=(table, [])).collect()
        assert found == {key: (30 * KB, 100 * KB - 1, key + 1) for key in range(20)}
        assert memory().used == 0
        assert 800 * KB < memory().peak < 1_000 * KB

    @pytest.mark.parametrize("how", ["input", "pickle"])
    def test_none_is_sent_where_one_cannot(self, pool: Daemons, gate: Gate, how: str) -> None:
        def elements() -> Iterator[Any]:
            for _ in range(10):
                yield bytes(30 * KB)
            if how == "input":
                raise LookupError("no more")
            yield threading.Lock()

        error = LookupError if how == "input" else SerializationError
        with once_blocked(pool, gate.open), pytest.raises(error):
            mirai_map(gate, elements())
        assert memory().used == 0

    def test_an_input_that_submits_and_waits(self) -> None:
        """What was read is sent before the budget can be full for those who read on."""

        def elements() -> Iterator[bytes]:
            for _ in range(10):
                yield bytes(mirai(len, bytes(40 * KB)).result())

        assert mirai_map(size, elements()).collect() == [40 * KB] * 10

    def test_ctrl_c_cancels_what_was_sent(self, pool: Daemons, gate: Gate) -> None:
        with once_blocked(pool, press_ctrl_c), pytest.raises(KeyboardInterrupt):
            mirai_map(gate, [bytes(30 * KB)] * 10)
        assert memory().used == 0
        assert mirai(abs, -1).result() == 1


class TestStreams:
    EXPECTED: ClassVar = [(index, 30 * KB) for index in range(50)]

    def elements(self) -> Iterator[bytes]:
        return (bytes(30 * KB) for _ in range(50))

    def test_in_order_and_as_completed(self) -> None:
        stream = mirai_map(size, self.elements(), max_in_flight=20)
        assert list(stream) == self.EXPECTED
        stream = mirai_map(size, self.elements(), max_in_flight=20)
        assert sorted(stream.as_completed()) == self.EXPECTED
        assert memory().used == 0
        assert memory().peak < 131 * KB

    @pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)])
    def test_on_an_event_loop(self, run: Callable[[Any], Any]) -> None:
        async def main() -> None:
            stream = mirai_map(size, self.elements(), max_in_flight=20)
            assert [pair async for pair in stream] == self.EXPECTED
            stream = mirai_map(size, self.elements(), max_in_flight=20)
            assert sorted([pair async for pair in stream.as_completed()]) == self.EXPECTED

        run(main())
        assert memory().used == 0
        assert memory().peak < 131 * KB

    def test_while_others_use_it_up(self, pool: Daemons, gate: Gate) -> None:
        """Nothing of its own flies, so that there is nothing to consume: it waits for room."""

        async def main() -> None:
            first = mirai(gate, bytes(100 * KB))

            async def opener() -> None:
                while not waiting(pool):
                    await asyncio.sleep(0)
                gate.open()

            opening = asyncio.create_task(opener())
            stream = mirai_map(size, self.elements(), max_in_flight=20)
            assert [pair async for pair in stream] == self.EXPECTED
            await asyncio.gather(opening, first)

        asyncio.run(main())
        assert memory().used == 0

    def test_the_same_in_a_thread(self, pool: Daemons, gate: Gate) -> None:
        first = mirai(gate, bytes(100 * KB))
        pairs: list[Any] = []
        thread = blocked(
            pool, lambda: pairs.extend(mirai_map(size, self.elements(), max_in_flight=9))
        )
        assert pairs == []
        gate.open()
        thread.join()
        assert pairs == self.EXPECTED
        assert first.done()

    def test_leaving_early(self) -> None:
        for _ in mirai_map(size, self.elements(), max_in_flight=20):
            break
        wait_until(lambda: memory().used == 0)

    def test_a_large_constant_is_sent_once(self) -> None:
        numpy = pytest.importorskip("numpy")
        table = numpy.arange(100 * KB)
        with daemons(1):

            def look(index: int, table: Any, calls: list[int]) -> tuple[int, int]:
                calls.append(index)  # kept as long as the table, which was sent along
                return int(table[index]), len(calls)

            stream = mirai_map(look, range(100), args=(table, []), max_in_flight=4)
            assert [value for _, value in stream] == [(n, n + 1) for n in range(100)]
