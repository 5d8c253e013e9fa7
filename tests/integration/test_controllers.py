"""Controllers, as their users see them."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import random
import re
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, processes_marked, wait_until

from mirai import DaemonCrashed, MiraiError, SerializationError, TaskCancelled, mirai
from mirai.controllers import (
    AsyncController,
    Controller,
    ControllerGroup,
    Retry,
    Status,
    TasksFailed,
)
from mirai.launchers import CommandLauncher, Handle, LocalLauncher, Order


def double(x: int) -> int:
    return 2 * x


def bad(x: object = "") -> None:
    raise ValueError(f"bad {x}")


def tell(x: object) -> tuple[object, int]:
    return x, os.getpid()


def touch_and_wait(path: str) -> None:
    Path(path).touch()
    threading.Event().wait()


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def count_up(path: str) -> int:
    """Return how often this was called, by whatever process."""
    with open(path, "a") as file:
        file.write("x")
    return os.path.getsize(path)


def fail_until(path: str, count: int, fail: Callable[[], object]) -> int:
    done = count_up(path)
    if done < count:
        fail()
    return done


def die(code: int = 3) -> None:
    os._exit(code)


def raise_os_error() -> None:
    raise OSError("not yet")


@pytest.fixture(scope="module")
def shared() -> Iterator[Controller]:
    with Controller(workers=2, name="it") as it:
        it.push(double, 0).result(60)  # it has all the descriptors that it will have
        it.pop()
        yield it


@pytest.fixture
def controller(shared: Controller) -> Iterator[Controller]:
    """That of the module, without any task."""
    yield shared
    shared.cancel(all=True)
    shared.collect(wait=True)
    assert shared.empty


class TestOneTask:
    def test_a_push_gives_a_mirai_and_a_result(self, controller: Controller) -> None:
        future = controller.push(double, 21)
        assert future.result(30) == 42
        result = controller.pop(timeout=10)
        assert result is not None
        assert (result.status, result.result, result.unwrap(), result.ok) == (
            "success",
            42,
            42,
            True,
        )
        assert result.command == "double(21)"
        assert re.fullmatch(r"double-\d+", result.name)
        assert (result.controller, result.attempt) == ("it", 1)
        assert result.submitted <= result.started <= result.finished
        assert (result.pid > 0, result.seconds > 0, result.peak_memory > 1e6) == (True,) * 3
        assert result.worker == f"{result.host}/{result.pid}"

    def test_an_error(self, controller: Controller) -> None:
        future = controller.push(bad, 7)
        with pytest.raises(ValueError, match="bad 7"):
            future.result(30)
        result = controller.pop(timeout=10)
        assert result is not None
        assert (result.status, result.result) == ("error", None)
        assert isinstance(result.error, ValueError)
        assert "in bad" in result.trace
        assert "_enclosed" not in result.trace
        assert result.pid > 0
        with pytest.raises(ValueError, match="bad 7"):
            result.unwrap()

    def test_an_error_that_cannot_be_pickled(self, controller: Controller) -> None:
        class Odd(Exception):
            def __reduce__(self) -> Any:
                raise TypeError("not me")

        def fail() -> None:
            raise Odd("strange")

        assert type(controller.push(fail).exception(30)).__name__ == "RemoteError"
        result = controller.pop(timeout=10)
        assert result is not None
        assert result.status == "error"
        assert "strange" in str(result.error)

    def test_a_value_that_cannot_be_pickled(self, controller: Controller) -> None:
        assert isinstance(controller.push(threading.Lock).exception(30), SerializationError)
        result = controller.pop(timeout=10)
        assert result is not None
        assert result.status == "error"
        assert isinstance(result.error, SerializationError)

    def test_warnings_and_prints_are_told(self, controller: Controller) -> None:
        def warn(times: int) -> None:
            for index in range(times):
                warnings.warn(f"careful {index}", UserWarning, stacklevel=2)
            print("hello")

        for _ in range(2):  # the second time too, though Python shows a warning once
            controller.push(warn, 2).result(30)
            result = controller.pop(timeout=10)
            assert result is not None
            assert [text.partition(" (")[0] for text in result.warnings] == [
                "UserWarning: careful 0",
                "UserWarning: careful 1",
            ]
            assert result.log.strip() == "hello"

    def test_a_coroutine_function(self, controller: Controller) -> None:
        async def later(x: int) -> int:
            await asyncio.sleep(0)
            if x < 0:
                raise ValueError("negative")
            return x

        assert controller.push(later, 3).result(30) == 3
        assert isinstance(controller.push(later, -3).exception(30), ValueError)

    def test_what_only_its_process_told(self, controller: Controller) -> None:
        controller.push(die)
        result = controller.pop(timeout=None)
        assert result is not None
        assert (result.status, result.exit_reason) == (
            "crash",
            "the daemon died with exit code 3",
        )
        assert isinstance(result.error, DaemonCrashed)
        assert result.pid > 0

    def test_a_timeout(self, controller: Controller) -> None:
        controller.options(timeout=0.2).push(nap, 60)
        result = controller.pop(timeout=None)
        assert result is not None
        assert result.status == "timeout"

    def test_keywords_of_every_name(self, controller: Controller) -> None:
        future = controller.push(dict, name=1, self=2, fn=3, args=4, kwargs=5, options=6)
        assert future.result(30) == {
            "name": 1,
            "self": 2,
            "fn": 3,
            "args": 4,
            "kwargs": 5,
            "options": 6,
        }

    def test_what_is_refused_leaves_nothing(self, controller: Controller) -> None:
        with pytest.raises(TypeError, match="callable"):
            controller.push("no")  # type: ignore[call-overload]
        with pytest.raises(SerializationError):
            controller.push(double, threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(SerializationError):
            controller.options(retry=Retry(errors=1)).push(double, threading.Lock())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="'gpu'"):
            controller.options(tags=("gpu",)).push(double, 1)
        with pytest.raises(ValueError, match="'large'"):
            controller.options(controller="large").push(double, 1)
        with pytest.raises(ValueError, match="memory"):
            controller.options(resources={"memory": 4}).push(double, 1)
        assert controller.empty

    def test_a_story_and_a_log_of_the_mirai(self, controller: Controller) -> None:
        future = controller.push(nap, 0.05)
        future.result(30)
        assert "submitted" in str(future.story())
        assert re.fullmatch(r"nap-\d+", future.name)


class TestNames:
    def test_are_taken_until_popped(self, controller: Controller) -> None:
        controller.options(name="a").push(double, 1).result(30)
        with pytest.raises(ValueError, match="'a' is there already"):
            controller.options(name="a").push(double, 2)
        assert controller.pop(timeout=10) is not None
        controller.options(name="a").push(double, 2)
        assert [result.name for result in controller.collect(wait=True)] == ["a"]

    def test_of_a_walk(self, controller: Controller) -> None:
        controller.walk(double, [1, 2], names=["one", "two"])
        results = controller.collect(wait=True)
        assert {result.name: result.result for result in results} == {"one": 2, "two": 4}
        for names in (["a"], ["a", "b", "c"], ["a", "a"]):
            with pytest.raises(ValueError, match=r"names|already"):
                controller.walk(double, [1, 2], names=names)
        controller.wait()
        assert all(result.status == "cancel" or result.ok for result in controller.collect())
        assert controller.empty


class TestWaiting:
    def test_nothing_to_wait_for(self, controller: Controller) -> None:
        assert controller.wait("all")
        assert not controller.wait("one")
        assert controller.pop() is None
        assert controller.pop(timeout=None) is None
        assert controller.collect() == []

    def test_for_one_and_for_all(self, controller: Controller, tmp_path: Path) -> None:
        before = controller.resolved
        block = controller.push(touch_and_wait, str(tmp_path / "began"))
        assert not controller.wait("all", timeout=0.01)
        assert not controller.wait("one", timeout=0.01)
        assert controller.pop(timeout=0.01) is None
        controller.push(double, 2)
        assert controller.wait("one", timeout=30)
        assert controller.wait("one")  # it is still there
        assert (controller.size, controller.unresolved, controller.unpopped) == (2, 1, 1)
        assert not controller.wait("all", timeout=0.01)
        block.cancel()
        assert controller.wait("all", timeout=30)
        assert (controller.size, controller.resolved - before) == (2, 2)
        assert sorted(result.status for result in controller.collect()) == ["cancel", "success"]
        assert (controller.size, controller.resolved - before, controller.empty) == (0, 2, True)

    def test_results_come_as_tasks_end_also_those_pushed_meanwhile(
        self, controller: Controller
    ) -> None:
        controller.push(double, 1)
        seen = []
        for result in controller.as_completed():
            seen.append(result.unwrap())
            if len(seen) < 4:
                controller.push(double, seen[-1])
        assert seen == [2, 4, 8, 16]

    def test_many_threads_pop_each_result_once(self, controller: Controller) -> None:
        controller.walk(double, range(300))
        taken: list[Any] = []

        def pop() -> None:
            while (result := controller.pop(timeout=None)) is not None:
                taken.append(result.unwrap())

        threads = [threading.Thread(target=pop) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(taken) == [2 * x for x in range(300)]

    def test_nonsense(self, controller: Controller) -> None:
        with pytest.raises(ValueError, match="mode"):
            controller.wait("some")  # type: ignore[arg-type]

    def test_a_bar(self, controller: Controller, capsys: pytest.CaptureFixture[str]) -> None:
        controller.walk(nap, [0.1] * 5)
        assert controller.wait(progress=True)
        assert "100%" in capsys.readouterr().out
        controller.walk(nap, [0.1] * 5)
        assert len(controller.collect(wait=True, progress=True)) == 10
        assert "100%" in capsys.readouterr().out
        controller.map(double, range(3), progress=True)
        assert "100%" in capsys.readouterr().out
        assert controller.wait(progress=True)
        assert not capsys.readouterr().out, "there was nothing to wait for"


class TestMaps:
    def test_in_order_and_apart_from_what_is_popped(self, controller: Controller) -> None:
        controller.push(double, 100)
        results = controller.map(double, range(20))
        assert results.values() == [2 * x for x in range(20)]
        assert [result.command for result in results[:2]] == ["double(0)", "double(1)"]
        assert [result.result for result in controller.collect(wait=True)] == [200]
        assert controller.empty

    def test_side_by_side_with_constants_and_rows(self, controller: Controller) -> None:
        assert controller.map(pow, [2, 3], [3, 2], args=(5,)).values() == [3, 4]
        import pandas as pd  # not above: workers import this file

        frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
        rows = controller.map(dict, frame, kwargs={"c": 0}).values()
        assert rows == [{"a": 1, "b": 3, "c": 0}, {"a": 2, "b": 4, "c": 0}]

    def test_failures_are_told_all_at_once_and_no_result_is_lost(
        self, controller: Controller
    ) -> None:
        def odd(x: int) -> int:
            return x if x % 2 else bad(x)  # type: ignore[func-returns-value]

        with pytest.raises(TasksFailed) as caught:
            controller.map(odd, range(6))
        results = caught.value.results
        assert [result.result for result in results] == [None, 1, None, 3, None, 5]
        assert [str(error) for error in caught.value.exceptions] == ["bad 0", "bad 2", "bad 4"]
        kept = controller.map(odd, range(6), on_error="keep")
        assert [result.status for result in kept] == ["error", "success"] * 3

    def test_the_first_failure_may_stop_the_others(
        self, controller: Controller, tmp_path: Path
    ) -> None:
        def act(x: int) -> None:
            bad(x) if x == 0 else touch_and_wait(str(tmp_path / "began"))

        with pytest.raises(TasksFailed) as caught:
            controller.map(act, range(3), on_error="stop")
        assert [result.status for result in caught.value.results] == ["error", "cancel", "cancel"]

    def test_what_cannot_be_sent_leaves_nothing(self, controller: Controller) -> None:
        with pytest.raises(SerializationError):
            controller.map(tell, [1, threading.Lock()])
        with pytest.raises(ValueError, match=r"shorter|longer"):
            controller.map(pow, [1, 2], [1])
        with pytest.raises(ValueError, match="on_error"):
            controller.map(double, [1], on_error="ignore")  # type: ignore[arg-type]
        assert controller.wait(timeout=30)
        assert controller.empty

    def test_of_nothing(self, controller: Controller) -> None:
        assert controller.map(double, []) == []


class TestStreams:
    def test_reads_its_input_as_its_results_are_taken(self, controller: Controller) -> None:
        read = []

        def numbers() -> Iterator[int]:
            for x in itertools.count():
                read.append(x)
                yield x

        taken = []
        for result in controller.stream(double, numbers(), max_in_flight=3):
            taken.append(result.unwrap())
            assert len(read) <= len(taken) + 2
            if len(taken) == 10:
                break
        assert len(set(taken)) == 10
        wait_until(lambda: controller.empty)

    def test_all_of_it(self, controller: Controller) -> None:
        values = [r.unwrap() for r in controller.stream(double, range(50), max_in_flight=4)]
        assert sorted(values) == [2 * x for x in range(50)]

    def test_nonsense(self, controller: Controller) -> None:
        with pytest.raises(ValueError, match="max_in_flight"):
            controller.stream(double, [1], max_in_flight=0)


class TestCancelling:
    def test_by_name_all_and_nobody(self, controller: Controller, tmp_path: Path) -> None:
        for name in "abc":
            controller.options(name=name).push(touch_and_wait, str(tmp_path / name))
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        assert controller.cancel("a", "c") == 2
        with pytest.raises(KeyError):
            controller.cancel("nobody")
        with pytest.raises(TypeError):
            controller.cancel()
        wait_until(lambda: controller.unpopped == 2)
        assert controller.cancel(all=True) == 1
        results = controller.collect(wait=True)
        assert {result.name: str(result.status) for result in results} == dict.fromkeys(
            "abc", "cancel"
        )
        assert all(isinstance(result.error, TaskCancelled) for result in results)
        assert controller.push(double, 1).result(30) == 2  # its workers go on

    def test_while_it_waits_to_be_tried_again(self, controller: Controller) -> None:
        future = controller.options(retry=Retry(errors=5, backoff=1e6)).push(bad)
        wait_until(lambda: [task.is_due for task in _tasks(controller)] == [True])
        assert future.cancel()
        result = controller.pop(timeout=10)
        assert result is not None
        assert [str(attempt.status) for attempt in result.attempts] == ["error", "cancel"]

    def test_one_that_is_over_stays_as_it_is(self, controller: Controller) -> None:
        controller.options(name="a").push(double, 1).result(30)
        assert controller.cancel("a") == 0
        result = controller.pop()
        assert result is not None
        assert result.ok


def _tasks(controller: Controller) -> list[Any]:
    return list(controller._engine.book.names.values())


class TestTryingAgain:
    def test_errors_of_some_classes(self, controller: Controller, tmp_path: Path) -> None:
        again = controller.options(retry=Retry(errors=3, on=OSError, backoff=0.01))
        again.push(fail_until, str(tmp_path / "a"), 3, raise_os_error)
        result = controller.pop(timeout=None)
        assert result is not None
        assert (result.status, result.result, result.attempt) == ("success", 3, 3)
        assert [str(attempt.error) for attempt in result.attempts] == ["not yet"] * 2 + ["None"]
        again.push(fail_until, str(tmp_path / "b"), 3, bad)
        result = controller.pop(timeout=None)
        assert result is not None
        assert (result.status, result.attempt) == ("error", 1)

    def test_until_there_are_no_more_attempts(self, controller: Controller, tmp_path: Path) -> None:
        again = controller.options(retry=Retry(errors=2))
        assert isinstance(
            again.push(fail_until, str(tmp_path / "a"), 9, bad).exception(30), ValueError
        )
        result = controller.pop(timeout=10)
        assert result is not None
        assert result.attempt == 3
        assert (tmp_path / "a").read_text() == "xxx"

    def test_arguments_are_those_of_the_push(self, controller: Controller, tmp_path: Path) -> None:
        def check(path: str, numbers: list[int]) -> list[int]:
            fail_until(path, 2, raise_os_error)
            return numbers

        numbers = [1, 2, 3]
        again = controller.options(retry=Retry(errors=1, backoff=0.05))
        future = again.push(check, str(tmp_path / "a"), numbers)
        numbers.clear()
        assert future.result(30) == [1, 2, 3]

    def test_nothing_runs_twice_by_default(self, controller: Controller, tmp_path: Path) -> None:
        assert isinstance(
            controller.push(fail_until, str(tmp_path / "a"), 2, die).exception(30), DaemonCrashed
        )
        assert (tmp_path / "a").read_text() == "x"

    def test_a_timeout(self, controller: Controller, tmp_path: Path) -> None:
        controller.push(double, 1).result(30)  # now a worker is there
        again = controller.options(timeout=1.0, retry=Retry(timeouts=1))
        future = again.push(fail_until, str(tmp_path / "a"), 2, partial(nap, 60))
        assert future.result(30) == 2

    @pytest.mark.thorough
    def test_random_numbers_are_the_same_again(self, tmp_path: Path) -> None:
        def draw(path: str) -> float:
            number = random.random()
            with open(path, "a") as file:
                file.write(f"{number}\n")
            if len(Path(path).read_text().split()) < 2:
                raise_os_error()
            return number

        with Controller(workers=1, seed=5, retry=Retry(errors=1)) as controller:
            controller.push(draw, str(tmp_path / "a"))
            result = controller.pop(timeout=None)
            assert result is not None
            drawn = (tmp_path / "a").read_text().split()
            assert drawn == [str(result.result)] * 2
            many = controller.options(seed=5).map(_draw, range(3)).values()
            assert len(set(many)) == 3
            assert controller.options(seed=5).map(_draw, range(3)).values() == many
            same = controller.options(seed=result.seed).push(random.random)
            assert same.result(30) == result.result
            assert controller.options(seed=7).push(random.random).result(30) != same.result()


def _draw(_: object) -> float:
    return random.random()


class TestCrashes:
    @pytest.mark.thorough
    def test_one_after_the_other_go_to_the_backup(self, tmp_path: Path) -> None:
        large = Controller(workers=1, name="large")
        small = Controller(
            workers=1, name="small", retry=Retry(crashes=3), crashes_max=2, backup=large
        )
        with small:
            small.options(name="it").push(fail_until, str(tmp_path / "a"), 4, die)
            result = small.pop(timeout=None)
            assert result is not None
            assert (result.status, result.result, result.controller) == ("success", 4, "large")
            where = [attempt.controller for attempt in result.attempts]
            assert where == ["small", "small", "large", "large"]
            assert result.attempts[0].exit_reason == "the daemon died with exit code 3"
        assert not large._engine.is_started

    @pytest.mark.thorough
    def test_pushed_again_by_name(self) -> None:
        with Controller(workers=1, crashes_max=2) as controller:
            for count in (1, 2):
                controller.options(name="it").push(die)
                result = controller.pop(timeout=None)
                assert result is not None
                assert (result.status, controller.crashes("it")) == ("crash", count)
            with pytest.raises(MiraiError, match="crashed 2 times in a row"):
                controller.options(name="it").push(double, 1)
            assert controller.empty
            assert controller.options(name="other").push(double, 1).result(30) == 2

    def test_success_ends_the_row(self, controller: Controller) -> None:
        for fn, count in ((die, 1), (double, 0), (die, 1)):
            controller.options(name="it").push(fn, 1)
            controller.wait()
            controller.pop()
            assert controller.crashes("it") == count

    @pytest.mark.thorough
    def test_a_chain_of_backups_ends_with_who_has_started_it(self, mark: str) -> None:
        last = Controller(workers=1, name="last")
        middle = Controller(workers=1, name="middle", crashes_max=1, backup=last)
        first = Controller(workers=1, name="first", crashes_max=1, backup=middle)
        with first:
            first.options(retry=Retry(crashes=2)).push(die)
            result = first.pop(timeout=None)
            assert result is not None
            where = [attempt.controller for attempt in result.attempts]
            assert where == ["first", "middle", "last"]
        assert not (middle._engine.is_started or last._engine.is_started)
        wait_until(lambda: not processes_marked(mark))

    @pytest.mark.thorough
    def test_a_backup_of_the_users_own_goes_on(self, tmp_path: Path) -> None:
        with Controller(workers=2, name="large") as large:
            mine = large.push(_wait_for, str(tmp_path / "began"), str(tmp_path / "go"))
            wait_until((tmp_path / "began").exists)
            small = Controller(workers=1, name="small", crashes_max=1, backup=large)
            future = small.options(retry=Retry(crashes=1)).push(
                _die_or_wait, str(tmp_path / "tried"), str(tmp_path / "second")
            )
            wait_until((tmp_path / "second").exists)
            small.terminate()
            assert future.cancelled(), "it has run at the backup"
            assert small.unresolved == 0
            (tmp_path / "go").touch()
            assert mine.result(30) == "done"

    def test_a_backup_without_the_tags_has_no_turn(self) -> None:
        large = Controller(workers=1, name="large", url="tcp://127.0.0.1:0")
        with Controller(workers=1, tags=("gpu",), crashes_max=1, backup=large) as small:
            small.options(tags=("gpu",), retry=Retry(crashes=3)).push(die)
            result = small.pop(timeout=30)
            assert result is not None
            assert (result.status, result.attempt) == ("crash", 1)

    @pytest.mark.thorough
    def test_a_retry_that_has_no_room_holds_up_nobody(self, tmp_path: Path) -> None:
        flag = str(tmp_path / "flag")
        retry = Retry(errors=99, backoff=0.05)
        launcher = LocalLauncher()
        with Controller(launcher, workers=1, max_tasks=1, memory="1MB", retry=retry) as controller:
            for index in range(6):
                controller.push(_fail_without, flag, os.urandom(300_000))
                if index == 3:
                    Path(flag).touch()
            assert all(result.ok for result in controller.collect(wait=True, timeout=50))
            assert controller.empty

    def test_one_that_is_stopped_while_it_imports_costs_its_process(
        self, controller: Controller, tmp_path: Path
    ) -> None:
        (tmp_path / "slow_module.py").write_text(
            f"from pathlib import Path\nPath({str(tmp_path / 'began')!r}).touch()\n"
            "import time\nfor _ in range(600): time.sleep(0.1)\n"
        )
        future = controller.push(_import_from, str(tmp_path))
        wait_until((tmp_path / "began").exists)
        pids = {daemon.pid for daemon in controller.status().daemons if daemon.task}
        future.cancel()
        wait_until(lambda: not pids & {daemon.pid for daemon in controller.status().daemons})


def _import_from(folder: str) -> None:
    sys.path.insert(0, folder)
    __import__("slow_module")


def _fail_without(path: str, _: bytes) -> None:
    if not os.path.exists(path):
        raise_os_error()


def _die_or_wait(tried: str, second: str) -> None:
    if count_up(tried) == 1:
        die()
    touch_and_wait(second)


class TestWorkers:
    @pytest.mark.thorough
    def test_as_many_as_there_are_tasks(self) -> None:
        with Controller(workers=3, idle_time=0.3) as controller:
            controller.start()
            assert controller.status().connections == 0
            controller.push(double, 1).result(30)
            assert controller.status().connections == 1
            pids = {result.unwrap()[1] for result in controller.map(_slow_tell, range(6))}
            assert len(pids) == 3
            wait_until(lambda: controller.status().connections == 0)
            assert controller.push(double, 4).result(30) == 8

    @pytest.mark.thorough
    def test_never_fewer_than_the_least(self) -> None:
        with Controller(workers=3, min_workers=1, idle_time=0.1) as controller:
            controller.start()
            wait_until(lambda: controller.status().connections == 1)
            controller.map(_slow_tell, range(6))
            wait_until(lambda: controller.status().connections == 1)
            controller.push(double, 1).result(30)
            assert controller.status().cumulative <= 3

    @pytest.mark.thorough
    def test_are_kept_through_a_lull(self) -> None:
        with Controller(workers=2, idle_time=600) as controller:
            pids = [{r.unwrap()[1] for r in controller.map(_slow_tell, range(4))} for _ in range(3)]
            assert pids[0] == pids[1] == pids[2]
            controller.descale()
            wait_until(lambda: controller.status().connections == 0)

    def test_are_let_go_and_come_again(self, controller: Controller) -> None:
        first = controller.push(tell, 1).result(30)[1]
        controller.shutdown()
        wait_until(lambda: controller.status().connections == 0)
        assert controller.push(tell, 1).result(30)[1] != first

    @pytest.mark.thorough
    def test_their_limits(self) -> None:
        with Controller(workers=1, max_tasks=2) as controller:
            pids = [result.unwrap()[1] for result in controller.map(tell, range(6))]
            assert len(set(pids)) == 3

    @pytest.mark.thorough
    def test_one_that_is_stuck_is_ended(self, controller: Controller, tmp_path: Path) -> None:
        future = controller.push(_stop_itself, str(tmp_path / "pid"))
        assert controller.restart_stuck() == 0
        wait_until(lambda: any(d.state == "stalled" for d in controller.status().daemons), 30)
        assert controller.restart_stuck(after="1h") == 0
        assert controller.restart_stuck() == 1
        assert isinstance(future.exception(30), DaemonCrashed)
        assert controller.push(double, 1).result(30) == 2

    def test_saturation_and_the_backlog(self, controller: Controller, tmp_path: Path) -> None:
        assert (controller.workers, controller.saturated) == (2, False)
        for name in "abc":
            controller.push_backlog(name)
        controller.push(touch_and_wait, str(tmp_path / "began"))
        assert controller.pop_backlog() == ["a"]
        controller.push(double, 1).result(30)
        assert controller.saturated
        assert controller.pop_backlog() == []
        controller.pop(timeout=10)
        assert not controller.saturated
        controller.cancel(all=True)
        controller.collect(wait=True)
        assert controller.pop_backlog() == ["b", "c"]


def _slow_tell(x: int) -> tuple[object, int]:
    time.sleep(0.2)
    return tell(x)


def _stop_itself(path: str) -> None:
    Path(path).write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGSTOP)


class TestLaunched:
    @pytest.mark.thorough
    def test_come_and_go_with_the_work(self) -> None:
        with Controller(LocalLauncher(), workers=2, idle_time=0.3) as controller:
            assert {type(r.unwrap()[1]) for r in controller.map(_slow_tell, range(6))} == {int}
            assert len(controller.launched()) == 2
            wait_until(lambda: controller.status().connections == 0)
            wait_until(lambda: not controller.launched())
            result = controller.push(tell, 1)
            assert result.result(30)
            first = controller.pop(timeout=10)
            assert first is not None
            assert first.worker in [handle.id for handle in controller.launched()]

    @pytest.mark.thorough
    def test_one_that_is_lost_is_replaced_while_there_is_work(self) -> None:
        with Controller(LocalLauncher(), workers=1) as controller:
            again = controller.options(retry=Retry(crashes=1))
            pid = controller.push(tell, 0).result(30)[1]
            future = again.push(nap, 0.5)
            wait_until(lambda: controller.status().executing == 1)
            os.kill(pid, signal.SIGKILL)
            assert future.result(30) == 0.5

    def test_those_that_never_join_fail_the_tasks_with_the_reason(self) -> None:
        launcher = CommandLauncher((sys.executable, "-c", "raise SystemExit('no such thing')"))
        with Controller(launcher, workers=2) as controller:
            for _ in range(2):  # it is tried again with each push
                error = controller.push(double, 1).exception(30)
                assert isinstance(error, DaemonCrashed)
                assert "no such thing" in str(error)

    @pytest.mark.thorough
    def test_one_crew_that_never_joins_does_not_hold_up_another(self) -> None:
        broken = CommandLauncher((sys.executable, "-c", "raise SystemExit('no such thing')"))
        with Controller(LocalLauncher(), workers=1) as controller:
            controller.recruit(1, broken, tags=("gpu",))
            error = controller.options(tags=("gpu",)).push(double, 1).exception(30)
            assert "no such thing" in str(error)
            assert controller.push(double, 1).result(30) == 2
            error = controller.options(tags=("gpu",)).push(double, 1).exception(30)
            assert "no such thing" in str(error)

    def test_each_task_has_a_worker_with_its_tags(self) -> None:
        with Controller(workers=1) as controller:
            controller.recruit(1, LocalLauncher(), tags=("gpu",))
            controller.recruit(1, tags=("big",))
            jobs = {
                tag: controller.options(tags=(tag,)).push(os.getenv, "MIRAI_JOB").result(30)
                for tag in ("gpu", "big")
            }
            assert len(set(jobs.values()) - {None}) == 2
            assert controller.push(double, 1).result(30) == 2
            with pytest.raises(ValueError, match="'tpu'"):
                controller.options(tags=("tpu",)).push(double, 1)
            with pytest.raises(ValueError, match="'big', 'gpu'"):
                controller.options(tags=("gpu", "big")).push(double, 1)

    @pytest.mark.thorough
    def test_a_crew_is_dismissed(self, tmp_path: Path) -> None:
        with Controller(workers=1) as controller:
            controller.recruit(1, LocalLauncher(), tags=("gpu",))
            gpu = controller.options(tags=("gpu",))
            running = gpu.push(_wait_for, str(tmp_path / "began"), str(tmp_path / "go"))
            wait_until((tmp_path / "began").exists)
            waiting = gpu.push(double, 1)
            assert controller.dismiss("gpu") == 1
            assert "dismissed" in str(waiting.exception(30))
            (tmp_path / "go").touch()
            assert running.result(30) == "done"
            with pytest.raises(ValueError, match="'gpu'"):
                gpu.push(double, 1)
            with pytest.raises(ValueError, match="every crew"):
                controller.dismiss()
            assert controller.push(double, 2).result(30) == 4

    @pytest.mark.thorough
    def test_a_crew_is_dismissed_whose_task_waits_to_be_tried_again(self) -> None:
        with Controller(workers=1) as controller:
            controller.recruit(1, LocalLauncher(), tags=("gpu",))
            gpu = controller.options(tags=("gpu",), retry=Retry(errors=1, backoff=3.0))
            future = gpu.push(bad)
            wait_until(lambda: [task.is_due for task in _tasks(controller)] == [True])
            controller.dismiss("gpu")
            assert "'gpu'" in str(future.exception(30))

    def test_the_local_crew_is_dismissed(self) -> None:
        broken = CommandLauncher((sys.executable, "-c", "raise SystemExit('no such thing')"))
        with Controller(workers=1, tags=("here",)) as controller:
            controller.recruit(1, broken, tags=("there",))
            assert controller.push(double, 1).result(30) == 2
            assert controller.dismiss("here") == 1
            wait_until(lambda: controller.status().connections == 0)
            assert "no such thing" in str(controller.push(double, 1).exception(30))

    def test_a_slow_platform_holds_up_no_other_crew(self, tmp_path: Path) -> None:
        slow = SlowLauncher(tmp_path)
        with Controller(workers=1) as controller:
            controller.recruit(1, slow, tags=("slow",))
            waiting = controller.options(tags=("slow",)).push(double, 1)
            wait_until(slow.began.exists)
            thread = threading.Thread(target=controller.shutdown, args=("slow",))
            thread.start()
            assert controller.push(double, 2).result(30) == 4
            waiting.cancel()
            slow.go.touch()
            thread.join(30)

    @pytest.mark.thorough
    def test_one_more_crew_needs_an_address(self) -> None:
        with Controller(workers=1) as controller:
            controller.push(double, 1).result(30)
            with pytest.raises(MiraiError, match="url"):
                controller.recruit(1, LocalLauncher())
            assert controller.workers == 1
        with Controller(workers=1, url="tcp://127.0.0.1:0") as controller:
            controller.push(double, 1).result(30)
            controller.recruit(1, LocalLauncher(), tags=("late",))
            assert controller.options(tags=("late",)).push(double, 1).result(30) == 2


def _wait_for(began: str, go: str) -> str:
    Path(began).touch()
    while not os.path.exists(go):
        time.sleep(0.01)
    return "done"


class SlowLauncher(LocalLauncher):
    """One whose platform takes its time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        object.__setattr__(self, "began", folder / "began")
        object.__setattr__(self, "go", folder / "go")

    began: Path
    go: Path

    def launch(self, order: Order) -> list[Handle]:
        self.began.touch()
        wait_until(self.go.exists)
        return super().launch(order)


class TestItsLife:
    def test_it_starts_with_the_first_push_and_leaves_nothing(self) -> None:
        before = set(threading.enumerate())
        controller = Controller(workers=1)
        assert set(threading.enumerate()) == before
        assert controller.push(double, 1).result(30) == 2
        controller.terminate()
        controller.terminate()
        assert set(threading.enumerate()) == before
        result = controller.pop()
        assert result is not None
        assert result.unwrap() == 2

    @pytest.mark.thorough
    def test_the_next_push_starts_it_anew(self) -> None:
        controller = Controller(workers=1)
        for _ in range(2):
            assert controller.push(double, 1).result(30) == 2
            controller.terminate()
        assert len(controller.collect()) == 2

    def test_a_block_waits_for_its_tasks(self) -> None:
        with Controller(workers=1) as controller:
            futures = controller.walk(nap, [0.05] * 3)
        assert [future.done() and future.result() for future in futures] == [0.05] * 3

    def test_a_block_that_fails_cancels_them(self, tmp_path: Path) -> None:
        controller = Controller(workers=1)
        running = controller.push(touch_and_wait, str(tmp_path / "began"))
        waiting = controller.options(retry=Retry(errors=3, backoff=1e6)).push(bad)
        wait_until((tmp_path / "began").exists)
        with pytest.raises(KeyError), controller:
            raise KeyError
        assert (running.cancelled(), waiting.cancelled()) == (True, True)
        assert [str(result.status) for result in controller.collect()] == ["cancel"] * 2

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"workers": 0}, ValueError),
            ({"workers": "2"}, TypeError),
            ({"min_workers": 2}, ValueError),
            ({"idle_time": "soon"}, ValueError),
            ({"idle_time": 0}, ValueError),
            ({"wall_time": -1}, ValueError),
            ({"max_tasks": 0}, ValueError),
            ({"launch_timeout": "x"}, ValueError),
            ({"launcher": "slurm"}, TypeError),
            ({"tags": "gpu"}, TypeError),
            ({"name": ""}, ValueError),
            ({"name": 5}, TypeError),
            ({"retry": 3}, TypeError),
            ({"crashes_max": 0}, ValueError),
            ({"backup": "large"}, TypeError),
            ({"store": 5}, TypeError),
            ({"store": "/tmp/x", "store_threshold": "much"}, ValueError),
            ({"seed": "x"}, TypeError),
            ({"url": "http://x"}, ValueError),
            ({"resources": {"gpu": -1}}, ValueError),
            ({"memory": "lots"}, ValueError),
            ({"cleanup": 1}, TypeError),
            ({"nonsense": 1}, TypeError),
        ],
    )
    def test_nonsense_is_refused_at_once(
        self, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            Controller(**options)

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"timeout": "soon"}, ValueError),
            ({"timeout": 0}, ValueError),
            ({"name": ""}, TypeError),
            ({"priority": 1.5}, TypeError),
            ({"tags": "gpu"}, TypeError),
            ({"seed": -1}, ValueError),
            ({"seed": 2**200}, ValueError),
            ({"retry": 1}, TypeError),
            ({"resources": [1]}, TypeError),
            ({"nonsense": 1}, TypeError),
        ],
    )
    def test_nonsense_about_a_task_too(
        self, options: dict[str, Any], error: type[Exception]
    ) -> None:
        with pytest.raises(error):
            Controller(workers=1).options(**options)

    def test_in_this_process_for_debugging(self) -> None:
        with Controller(workers=2, sync=True) as controller:
            assert controller.push(os.getpid).result() == os.getpid()
            assert isinstance(controller.push(bad).exception(), ValueError)
            assert [str(result.status) for result in controller.collect()] == ["success", "error"]

    @pytest.mark.parametrize("wait", ["wait()", "pop(None)", "map(time.sleep, [600] * 2)"])
    def test_ctrl_c_while_it_waits(self, script: Script, wait: str) -> None:
        process = script(CTRL_C.format(wait=wait))
        assert process.stdout is not None
        assert process.stdout.readline() == "began\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == -signal.SIGINT, err
        assert err.rstrip().endswith("KeyboardInterrupt")
        assert out == ""


INTERRUPTED = """
import random, signal
from mirai.controllers import Controller, Retry

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
hits = 0
with Controller(workers=2) as controller:
    pushing = controller.options(retry=RETRY)
    pushing.push(abs, -1).result()
    for _ in range(200):
        try:
            try:
                signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-5, 8e-4))
                for _ in range(10):
                    pushing.push(abs, -1)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            hits += 1
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    ended = controller.wait(timeout=30)
    results = controller.collect()
    fair = all(result.ok or result.status == "cancel" for result in results)
    print(hits, ended, fair, controller.size, len(controller._engine._demand))
"""

CTRL_C = """
import threading, time
from mirai.controllers import Controller

def tell(path):
    print("began", flush=True)
    time.sleep(600)

with Controller(workers=3, output="inherit") as controller:
    controller.push(tell, 0)
    controller.{wait}
"""


class TestNested:
    def test_a_task_may_have_a_controller_of_its_own(self, controller: Controller) -> None:
        def outer(x: int) -> list[int]:
            with Controller(workers=2, name="inner") as inner:
                return inner.map(double, range(x)).values()

        assert controller.map(outer, [2, 3]).values() == [[0, 2], [0, 2, 4]]

    def test_a_task_may_send_tasks_to_its_own_workers(self, controller: Controller) -> None:
        def outer(x: int) -> int:
            return sum(mirai(double, y).result() for y in range(x))

        assert controller.map(outer, [2, 3, 4]).values() == [2, 6, 12]

    @pytest.mark.thorough
    def test_workers_may_be_dispatchers_themselves(self) -> None:
        with Controller(LocalLauncher(), workers=2, each=2, idle_time=600) as controller:
            assert controller.workers == 4
            pids = {result.unwrap()[1] for result in controller.map(_slow_tell, range(8))}
            assert len(pids) == 4
            assert len(controller.launched()) == 2
            assert {daemon.width for daemon in controller.status().daemons} == {2}
            crash = controller.options(retry=Retry(crashes=1)).push(die)
            assert isinstance(crash.exception(30), DaemonCrashed)
            assert controller.push(double, 1).result(30) == 2


class TestGroups:
    def test_tasks_are_routed(self) -> None:
        small = Controller(workers=1, name="small", resources={"memory": 4})
        large = Controller(workers=1, name="large", resources={"memory": 64}, tags=("gpu",))
        with ControllerGroup(small, large) as group:
            assert group["large"] is large
            group.push(double, 1)
            group.options(controller="large").push(double, 2)
            group.options(tags=("gpu",)).push(double, 3)
            group.options(resources={"memory": 16}).push(double, 4)
            assert group.wait(timeout=30)
            results = group.collect()
            where = {result.command: result.controller for result in results}
            assert where == {
                "double(1)": "small",
                "double(2)": "large",
                "double(3)": "large",
                "double(4)": "large",
            }
            assert {name: each.success for name, each in group.summary().items()} == {
                "small": 1,
                "large": 3,
            }
            for options in ({"controller": "huge"}, {"tags": ("tpu",)}, {"resources": {"x": 1}}):
                with pytest.raises(ValueError, match="controller"):
                    group.options(**options).push(double, 1)
            assert group.options(controller="large").map(double, [1, 2]).values() == [2, 4]
            assert group.empty

    def test_by_a_function(self) -> None:
        a, b = Controller(workers=1, name="a"), Controller(workers=1, name="b")
        with ControllerGroup(a, b, route=lambda _, x: "a" if x < 5 else "b") as group:
            assert [r.controller for r in group.map(double, [1, 9, 2])] == ["a", "b", "a"]

    def test_waits_and_pops_jointly(self, tmp_path: Path) -> None:
        a, b = Controller(workers=1, name="a"), Controller(workers=1, name="b")
        with ControllerGroup(a, b) as group:
            group.options(controller="a", name="stays").push(touch_and_wait, str(tmp_path / "x"))
            group.options(controller="b").push(double, 1)
            assert group.wait("one", timeout=30)
            assert not group.wait("all", timeout=0.01)
            result = group.pop()
            assert result is not None
            assert (result.controller, group.size) == ("b", 1)
            with pytest.raises(KeyError):
                group.cancel("nobody")
            assert group.cancel("stays") == 1
            assert group.wait("all", timeout=30)

    def test_nonsense(self) -> None:
        with pytest.raises(ValueError, match="name of its own"):
            ControllerGroup(Controller(name="a"), Controller(name="a"))
        with pytest.raises(ValueError, match="needs controllers"):
            ControllerGroup()
        with pytest.raises(TypeError):
            ControllerGroup("a")  # type: ignore[arg-type]


def on_asyncio(main: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await main()

    asyncio.run(run())


def on_trio(main: Callable[[], Awaitable[None]]) -> None:
    import trio

    trio.run(main)


@pytest.mark.parametrize("loop", [on_asyncio, on_trio])
class TestAwaited:
    def test_the_same_names(self, loop: Callable[..., None], tmp_path: Path) -> None:
        async def main() -> None:
            async with Controller(workers=2, name="it") as controller:
                assert isinstance(controller, AsyncController)
                assert await controller.push(double, 2) == 4
                assert not await controller.wait("one", timeout=0) or controller.unpopped == 1
                result = await controller.pop(timeout=None)
                assert result is not None
                assert result.unwrap() == 4
                assert await controller.pop(timeout=0.01) is None
                assert (await controller.map(double, range(5))).values() == [0, 2, 4, 6, 8]
                with pytest.raises(TasksFailed):
                    await controller.options(timeout=60).map(bad, range(2))
                controller.walk(double, range(4))
                seen = [result.unwrap() async for result in controller.as_completed()]
                assert sorted(seen) == [0, 2, 4, 6]
                stream = controller.stream(double, itertools.count(), max_in_flight=2)
                async for result in stream:
                    if result.unwrap() > 10:
                        break
                stream.close()
                assert await controller.wait(timeout=30)
                controller.push(touch_and_wait, str(tmp_path / "began"))
                assert not await controller.wait("all", timeout=0.05)
                assert controller.cancel(all=True) == 1
                assert [str(r.status) for r in await controller.collect(wait=True)] == ["cancel"]

        loop(main)

    def test_a_block_that_is_cancelled_cancels_its_tasks(
        self, loop: Callable[..., None], tmp_path: Path
    ) -> None:
        import anyio

        async def main() -> None:
            controller = Controller(workers=1)
            with anyio.move_on_after(60) as scope:
                async with controller as it:
                    it.push(touch_and_wait, str(tmp_path / "began"))
                    async with anyio.create_task_group() as group:
                        group.start_soon(cancel_once, str(tmp_path / "began"), scope)
                        await it.wait()
            assert scope.cancel_called
            assert [str(result.status) for result in controller.collect()] == ["cancel"]

        loop(main)

    def test_a_large_map_lets_others_have_their_turn(self, loop: Callable[..., None]) -> None:
        async def main() -> None:
            import anyio

            turns = 0

            async def count() -> None:
                nonlocal turns
                while True:
                    turns += 1
                    await anyio.sleep(0)

            async with Controller(workers=1) as controller, anyio.create_task_group() as group:
                await controller.start()
                group.start_soon(count)
                results = await controller.map(double, range(2_000))
                assert results.values()[-1] == 3_998
                seen, turns = turns, 0
                assert seen >= 100
                controller.walk(double, range(500))
                assert len(await controller.collect(wait=True)) == 500
                assert turns >= 10
                group.cancel_scope.cancel()

        loop(main)

    def test_a_group(self, loop: Callable[..., None]) -> None:
        async def main() -> None:
            a, b = Controller(workers=1, name="a"), Controller(workers=1, name="b")
            async with ControllerGroup(a, b) as group:
                group.options(controller="b").push(double, 1)
                result = await group.pop(timeout=None)
                assert result is not None
                assert result.controller == "b"

        loop(main)


async def cancel_once(path: str, scope: Any) -> None:
    import anyio

    while not os.path.exists(path):
        await anyio.sleep(0.01)
    scope.cancel()


class TestManyAtOnce:
    def test_counts_are_of_one_moment(self, controller: Controller) -> None:
        """One task is never none and never two, whoever looks while it ends."""
        seen: set[int] = set()
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                seen.add(controller.size)

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        threads = [threading.Thread(target=look) for _ in range(2)]
        try:
            for _ in range(100):
                controller.push(double, 1)
                for thread in threads if not seen else ():
                    thread.start()
                while controller.unresolved:
                    pass
                seen.discard(0)
                assert len(controller.collect()) == 1
        finally:
            stop.set()
            sys.setswitchinterval(interval)
            for thread in threads:
                thread.join()
        assert seen <= {0, 1}

    def test_a_popped_result_is_that_of_a_mirai_that_is_done(self, controller: Controller) -> None:
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            futures = {future.name: future for future in controller.walk(double, range(500))}
            for result in controller.as_completed():
                assert futures[result.name].done()
        finally:
            sys.setswitchinterval(interval)

    @pytest.mark.parametrize("retry", ["None", "Retry(errors=1)"])
    def test_ctrl_c_in_pushes_leaves_the_counts_right(self, script: Script, retry: str) -> None:
        process = script(INTERRUPTED.replace("RETRY", retry))
        out, err = process.communicate(timeout=50)
        assert process.returncode == 0, err
        hits, *told = out.split()
        assert int(hits) > 10
        assert told == ["True", "True", "0", "0"]

    def test_nothing_is_kept_of_a_popped_task(self, controller: Controller) -> None:
        class Large:
            pass

        gc.collect()
        gc.disable()
        try:
            alive = []
            for retry in (None, Retry(errors=1)):
                controller.options(retry=retry).push(double, 1)
                [task] = _tasks(controller)
                alive.append(weakref.ref(task.mirai))
                del task
                assert controller.pop(timeout=None)
            call = partial(len, Large.__name__)
            alive.append(weakref.ref(call))
            controller.push(call)
            del call
            assert controller.pop(timeout=None)
            assert [each() for each in alive] == [None] * 3
        finally:
            gc.enable()

    def test_waiting_for_a_time_of_any_kind(self, controller: Controller) -> None:
        assert controller.wait(timeout=float("inf"))
        assert controller.wait(timeout=1e12)
        assert controller.wait(timeout="5m")
        for wrong, error in (("soon", ValueError), (float("nan"), ValueError), ([], TypeError)):
            with pytest.raises(error):
                controller.wait(timeout=wrong)  # type: ignore[arg-type]

    def test_an_error_is_unpickled_by_who_reads_it(self, controller: Controller) -> None:
        future = controller.push(_raise_slow)
        assert controller.push(double, 1).result(30) == 2
        wait_until(lambda: future.done())
        assert _READ.get("by") is None
        error = future.exception()
        assert isinstance(error, SlowToRead)
        assert _READ["by"] == threading.get_ident()
        result = next(each for each in controller.collect(wait=True) if not each.ok)
        assert result.error is error


_READ: dict[str, int] = {}


class SlowToRead(Exception):
    def __reduce__(self) -> Any:
        return _read_slowly, ()


def _read_slowly() -> SlowToRead:
    _READ["by"] = threading.get_ident()
    return SlowToRead()


def _raise_slow() -> None:
    raise SlowToRead


class TestStores:
    def test_large_values_travel_as_references(self, tmp_path: Path) -> None:
        with Controller(workers=2, store=tmp_path, store_threshold="100KB") as controller:
            data = os.urandom(300_000)
            future = controller.push(bytes.upper, data)
            assert future.result(30) == data.upper()
            result = controller.pop(timeout=10)
            assert result is not None
            assert result.unwrap() == result.result == data.upper()
            assert "Ref" in repr(result.value)
            assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2
            assert controller.push(len, result.value).result(30) == 300_000  # it is read there
            assert controller.push(len, b"small").result(30) == 5
            again = controller.options(retry=Retry(errors=1))
            assert again.push(len, data).result(30) == 300_000
        assert not any(path.is_file() for path in tmp_path.rglob("*"))

    def test_they_may_be_kept(self, tmp_path: Path) -> None:
        with Controller(store=tmp_path, store_threshold=1_000, keep_store=True) as controller:
            controller.push(bytes, 5_000).result(30)
        result = controller.pop()
        assert result is not None
        assert result.result == bytes(5_000)

    def test_a_store_that_is_gone_is_told(self, tmp_path: Path) -> None:
        with Controller(store=tmp_path, store_threshold=1_000) as controller:
            controller.push(bytes, 5_000)
            controller.wait()
        result = controller.pop()
        assert result is not None
        assert result.status is Status.SUCCESS
        with pytest.raises(MiraiError, match=str(tmp_path)):
            _ = result.result
