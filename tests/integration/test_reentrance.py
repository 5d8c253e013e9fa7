"""Callbacks, finalizers and signal handlers that call mirai in the middle of mirai."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, processes_marked, wait_until

from mirai import Daemons, Mirai, daemons, mirai, status


def held(pool: Daemons) -> tuple[threading.Event, Mirai[Any]]:
    """Return a mirai whose callback keeps the channel's thread until the event is set."""
    begun, go_on = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        begun.set()
        go_on.wait(20)

    future = pool.submit(abs, (-1,))
    future.add_done_callback(hold)
    begun.wait(20)
    return go_on, future


class TestCallbacks:
    @pytest.mark.usefixtures("dispatchers")
    def test_one_that_waits_is_told_that_it_must_not(self, tmp_path: Path) -> None:
        errors: list[BaseException] = []

        def wait(_: object) -> None:
            try:
                mirai(abs, -1).result()
            except RuntimeError as error:
                errors.append(error)

        with daemons(1):
            future = mirai(wait_until, (tmp_path / "go").exists)
            future.add_done_callback(wait)
            (tmp_path / "go").touch()
            assert mirai(abs, -2).result(30) == 2
        assert "must not wait" in str(*errors)

    @pytest.mark.timeout(30)
    @pytest.mark.parametrize("how", [lambda _: daemons(0), lambda pool: pool.shutdown()])
    def test_one_that_shuts_the_pool_down_while_it_is_shut_down(self, how: Any) -> None:
        pool = daemons(1)
        futures = [mirai(time.sleep, 600) for _ in range(3)]
        for future in futures:
            future.add_done_callback(lambda _: how(pool))
        daemons(0)
        assert all(future.cancelled() for future in futures)

    @pytest.mark.timeout(30)
    def test_one_that_shuts_the_pool_down_by_itself(self, mark: str) -> None:
        ended = threading.Event()
        daemons(1)
        mirai(abs, -1).add_done_callback(lambda _: (daemons(0), ended.set()))
        assert ended.wait(20)
        wait_until(lambda: not processes_marked(mark))

    @pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, BaseException, ValueError])
    def test_one_that_raises_costs_nobody_anything(
        self, kind: type[BaseException], caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: object) -> None:
            raise kind("from a callback")

        with daemons(1) as pool:
            go_on, _ = held(pool)
            futures = [mirai(abs, -i) for i in range(10)]
            for future in futures:
                future.add_done_callback(fail)
            with caplog.at_level(logging.ERROR):
                go_on.set()
                assert [future.result(timeout=20) for future in futures] == list(range(10))
                assert mirai(abs, -1).result(timeout=20) == 1
            assert "from a callback" in caplog.text

    def test_one_that_raises_while_the_pool_is_shut_down(self) -> None:
        daemons(1)
        futures = [mirai(time.sleep, 600) for _ in range(3)]
        for future in futures:
            future.add_done_callback(lambda _: sys.exit(1))
        daemons(0)
        assert all(future.cancelled() for future in futures)

    @pytest.mark.timeout(30)
    def test_one_that_asks_for_the_status_would_wait_for_itself(self) -> None:
        errors: list[BaseException] = []
        asked = threading.Event()

        def ask(_: object) -> None:
            try:
                status()
            except RuntimeError as error:
                errors.append(error)
            asked.set()

        with daemons(1) as pool:
            go_on, _ = held(pool)
            again = mirai(abs, -2)
            again.add_done_callback(ask)
            go_on.set()
            assert asked.wait(20)
        assert "callback" in str(errors[0])


class TestSameThread:
    @pytest.mark.timeout(40)
    def test_cancel_and_submit_in_a_signal_handler(self) -> None:
        """The handler runs between any two instructions of submit."""
        futures: list[Mirai[Any]] = []
        extra: list[Mirai[Any]] = []

        def handle(*_: object) -> None:
            if futures:
                futures[-1].cancel()
            extra.append(mirai(abs, -7))

        with daemons(1):
            former = signal.signal(signal.SIGALRM, handle)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            try:
                for i in range(20_000):
                    futures.append(mirai(abs, -i))  # the handler looks at it
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, former)
            for i, future in enumerate(futures):
                assert future.cancelled() or future.result(timeout=20) == i
            assert {future.result(timeout=20) for future in extra} == {7}

    @pytest.mark.thorough
    @pytest.mark.timeout(40)
    def test_submit_in_a_signal_handler_where_tasks_come_one_by_one(self) -> None:
        """Those are sent by their callers: the handler's must not overtake the one it is in."""
        extra: list[Mirai[Any]] = []
        with daemons(1):
            former = signal.signal(signal.SIGALRM, lambda *_: extra.append(mirai(abs, -7)))
            signal.setitimer(signal.ITIMER_REAL, 0.000_5, 0.000_5)
            try:
                for i in range(3_000):
                    assert mirai(abs, -i).result(timeout=20) == i
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                signal.signal(signal.SIGALRM, former)
            assert {future.result(timeout=20) for future in extra} == {7}

    @pytest.mark.timeout(40)
    def test_cancel_in_a_finalizer(self, script: Script) -> None:
        """The collector runs in any thread, also in the channel's, at any allocation."""
        process = script("""
import gc
from mirai import mirai, daemons
gc.set_threshold(7)
class Owner:
    def __init__(self): self.future = mirai(pow, 2, 3); self.me = self
    def __del__(self): self.future.cancel()
with daemons(1):
    for _ in range(3_000): Owner()
    print(mirai(abs, -1).result())
""")
        out, err = process.communicate(timeout=35)
        assert (out.strip(), err) == ("1", "")
