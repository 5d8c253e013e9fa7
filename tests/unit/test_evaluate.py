"""Whatever a task does, its answer is an outcome."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import pytest

import mirai._evaluate
from dispatcher.messages import Function, Kind, Outcome, Task
from mirai import RemoteError, SerializationError
from mirai._answer import Pickled
from mirai._evaluate import Evaluator
from mirai._serialize import LARGE, pack, unpack


@pytest.fixture
def evaluator() -> Iterator[Evaluator]:
    evaluator = Evaluator()
    yield evaluator
    evaluator.close()


def evaluate(evaluator: Evaluator, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Outcome:
    """Send a call through pickle, as a daemon gets it."""
    evaluator.learn((Function(1, "fn", *pack(fn)),), (1,))  # forget the former one
    evaluator.learn((Function(1, "fn", *pack(fn)),), ())
    outcome = evaluator.evaluate(Task(9, 1, *pack((args, kwargs))))
    assert outcome.id == 9
    assert outcome.seconds >= 0.0
    assert outcome.crash is None
    return outcome


def value(outcome: Outcome) -> Any:
    assert outcome.kind is Kind.VALUE, told(outcome)
    return Pickled(outcome.kind, outcome.payload, outcome.blobs).read()


def told(outcome: Outcome) -> tuple[str, str, str, bytes | None]:
    """Return an error's type, message, traceback and pickle."""
    assert outcome.kind is Kind.ERROR
    name, message, traceback, pickled = unpack(outcome.payload, outcome.blobs)
    return name, message, traceback, pickled


def error(outcome: Outcome) -> BaseException:
    """Return what the caller will see."""
    assert outcome.kind is Kind.ERROR
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        Pickled(outcome.kind, outcome.payload, outcome.blobs).read()
    return caught.value


def raising(what: BaseException | type[BaseException]) -> Callable[[], NoReturn]:
    def task() -> NoReturn:
        raise what

    return task


# ── values ───────────────────────────────────────────────────────────────────────────────


def test_a_value(evaluator: Evaluator) -> None:
    assert value(evaluate(evaluator, lambda x, *, y: (x, y), 1, y=[2])) == (1, [2])


@pytest.mark.parametrize(
    "fn", [str.upper, functools.partial(getattr, "abc"), "abc".__getattribute__]
)
def test_anything_that_can_be_called(evaluator: Evaluator, fn: Callable[..., Any]) -> None:
    arg = "abc" if fn is str.upper else "upper"
    found = value(evaluate(evaluator, fn, arg))
    assert (found if fn is str.upper else found()) == "ABC"


def test_a_huge_result_travels_as_blobs(evaluator: Evaluator) -> None:
    outcome = evaluate(evaluator, lambda: b"x" * 10 * LARGE)
    assert outcome.payload == b""
    assert len(outcome.blobs) == 1
    assert value(outcome) == b"x" * 10 * LARGE


def test_an_array_travels_as_a_blob_of_its_own(evaluator: Evaluator) -> None:
    np = pytest.importorskip("numpy")
    outcome = evaluate(evaluator, lambda n: [np.zeros(n), "small"], LARGE)
    assert 0 < len(outcome.payload) < LARGE
    assert [memoryview(blob.data).nbytes for blob in outcome.blobs] == [8 * LARGE]
    assert (value(outcome)[0] == np.zeros(LARGE)).all()


def test_a_large_argument_travels_as_blobs(evaluator: Evaluator) -> None:
    assert value(evaluate(evaluator, len, b"x" * 10 * LARGE)) == 10 * LARGE


class SlowToPickle:
    def __reduce__(self) -> tuple[Callable[..., None], tuple[float]]:
        time.sleep(0.02)
        return time.sleep, (0.01,)


def test_the_time_is_that_of_the_call_and_of_its_pickles(evaluator: Evaluator) -> None:
    outcome = evaluate(evaluator, lambda: None)
    assert 0.0 < outcome.seconds < 60.0
    assert evaluate(evaluator, raising(ValueError)).seconds > 0.0
    assert evaluate(evaluator, lambda _: None, SlowToPickle()).seconds >= 0.01
    assert evaluate(evaluator, SlowToPickle).seconds >= 0.02


def test_a_function_keeps_its_globals_between_calls(evaluator: Evaluator) -> None:
    """One that is sent once is unpickled once."""

    def count(seen: list[int] = []) -> int:  # noqa: B006
        seen.append(1)
        return len(seen)

    evaluator.learn((Function(5, "count", *pack(count)),), ())
    task = Task(1, 5, *pack(((), {})))
    assert [value(evaluator.evaluate(task)) for _ in range(3)] == [1, 2, 3]
    evaluator.learn((Function(6, "count", *pack(count)),), (5,))
    assert value(evaluator.evaluate(Task(1, 6, task.payload))) == 1
    assert evaluator.evaluate(task).kind is Kind.ERROR


class Counter:
    """A callable with a state."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> int:
        self.count += 1
        return self.count


def test_a_fresh_function_is_as_it_was_sent_for_each_task(evaluator: Evaluator) -> None:
    payload, _ = pack(Counter())
    evaluator.learn((Function(5, "kept", payload), Function(6, "fresh", payload, fresh=True)), ())
    empty = pack(((), {}))
    assert [value(evaluator.evaluate(Task(1, 5, *empty))) for _ in range(3)] == [1, 2, 3]
    assert [value(evaluator.evaluate(Task(1, 6, *empty))) for _ in range(3)] == [1, 1, 1]
    evaluator.learn((), (6,))
    assert evaluator.evaluate(Task(1, 6, *empty)).kind is Kind.ERROR


def note_kind(kind: type) -> None:
    """Remember a class, in this process, but do not keep it alive."""
    STEPS.setdefault("kinds", []).append(weakref.ref(kind))


def test_the_classes_of_a_fresh_function_stay_the_same(evaluator: Evaluator) -> None:
    def make() -> Callable[[], None]:
        class Made:
            def note(self) -> None:
                note_kind(type(self))

        return Made().note

    payload, _ = pack(make())
    evaluator.learn((Function(6, "fresh", payload, fresh=True),), ())
    STEPS.clear()
    gc.collect()  # the class that was sent
    empty = pack(((), {}))
    for _ in range(2):
        assert evaluator.evaluate(Task(1, 6, *empty)).kind is Kind.VALUE
        gc.collect()
    first, second = STEPS.pop("kinds")
    assert first() is second() is not None


# ── errors ───────────────────────────────────────────────────────────────────────────────


def test_an_error_tells_where_it_arose(evaluator: Evaluator) -> None:
    def inner(x: int) -> float:
        return 1 / x

    def outer(x: int) -> float:
        return inner(x)

    name, message, traceback, _ = told(evaluate(evaluator, outer, 0))
    assert (name, message) == ("ZeroDivisionError", "division by zero")
    assert traceback.startswith("Traceback (most recent call last):")
    assert traceback.endswith("ZeroDivisionError: division by zero")
    assert "in outer" in traceback and "in inner" in traceback and "1 / x" in traceback
    assert mirai._evaluate.__file__ not in traceback


def test_an_errors_own_cause_is_in_the_traceback(evaluator: Evaluator) -> None:
    def task() -> None:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first

    traceback = told(evaluate(evaluator, task))[2]
    assert "KeyError: 'first'" in traceback
    assert "direct cause" in traceback


def test_the_error_itself_comes_back(evaluator: Evaluator) -> None:
    caught = error(evaluate(evaluator, raising(OSError(2, "no such thing", "name"))))
    assert isinstance(caught, FileNotFoundError)
    assert (caught.errno, caught.filename) == (2, "name")
    assert isinstance(caught.__cause__, RemoteError)


def test_an_error_group_comes_back(evaluator: Evaluator) -> None:
    group = ExceptionGroup("several", [ValueError(1), KeyError(2)])
    caught = error(evaluate(evaluator, raising(group)))
    assert isinstance(caught, ExceptionGroup)
    assert [type(each) for each in caught.exceptions] == [ValueError, KeyError]


def test_an_error_of_main_comes_back(evaluator: Evaluator) -> None:
    class Local(Exception):
        pass

    caught = error(evaluate(evaluator, raising(Local("x"))))
    assert type(caught).__qualname__ == Local.__qualname__
    assert caught.args == ("x",)


@pytest.mark.parametrize(
    ("what", "name", "message"),
    [
        (SystemExit(3), "SystemExit", "3"),
        (KeyboardInterrupt("k"), "KeyboardInterrupt", "k"),
        (GeneratorExit(), "GeneratorExit", ""),
        (BaseException("b"), "BaseException", "b"),
        (asyncio.CancelledError("c"), "asyncio.exceptions.CancelledError", "c"),
    ],
)
def test_what_is_no_ordinary_exception_comes_in_words(
    evaluator: Evaluator, what: BaseException, name: str, message: str
) -> None:
    outcome = evaluate(evaluator, raising(what))
    assert told(outcome)[:2] == (name, message)
    assert told(outcome)[3] is None
    assert isinstance(error(outcome), RemoteError)
    assert value(evaluate(evaluator, lambda: "alive")) == "alive"


def test_sys_exit_is_an_error_like_any_other(evaluator: Evaluator) -> None:
    assert told(evaluate(evaluator, sys.exit, 1))[:2] == ("SystemExit", "1")
    assert told(evaluate(evaluator, sys.exit))[0] == "SystemExit"


@pytest.mark.parametrize("what", [StopIteration(1), StopAsyncIteration(), RecursionError("deep")])
def test_errors_that_python_uses_itself(evaluator: Evaluator, what: Exception) -> None:
    caught = error(evaluate(evaluator, raising(what)))
    assert type(caught) is type(what)
    assert caught.args == what.args


def test_endless_recursion_is_an_error(evaluator: Evaluator) -> None:
    def endless() -> None:
        endless()

    outcome = evaluate(evaluator, endless)
    assert isinstance(error(outcome), RecursionError)
    assert len(outcome.payload) < LARGE


def test_an_unpicklable_error_comes_in_words(evaluator: Evaluator) -> None:
    class Holder(Exception):
        def __init__(self) -> None:
            super().__init__("holds a lock")
            self.lock = threading.Lock()

    def task() -> None:
        raise Holder

    caught = error(evaluate(evaluator, task))
    assert isinstance(caught, RemoteError)
    assert caught.type_name.endswith("Holder")
    assert caught.message == "holds a lock"


class NeedsTwo(Exception):
    """Its pickle calls it with one argument, so it cannot be unpickled."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


class Changing(Exception):
    """What comes out of its pickle says something else."""

    def __init__(self, text: str) -> None:
        super().__init__("so: " + text)


class Silent(Exception):
    def __str__(self) -> str:
        raise ValueError("no message")


class Violent(Exception):
    def __str__(self) -> str:
        sys.exit(1)


class Becoming(Exception):
    """An error that turns into something else when it is pickled."""

    def __reduce__(self) -> Any:
        return str, ("no error at all",)


class RaisesInReduce(Exception):
    def __reduce__(self) -> Any:
        raise ValueError("not me")


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (NeedsTwo(1, 2), "1 and 2"),
        (Changing("x"), "so: x"),
        (Silent(), "<its message cannot be had: ValueError>"),
        (Becoming("b"), "b"),
        (RaisesInReduce("r"), "r"),
    ],
)
def test_an_error_that_does_not_survive_its_pickle_comes_in_words(
    evaluator: Evaluator, what: Exception, message: str
) -> None:
    def task(kind: type, args: tuple[Any, ...]) -> None:
        made = kind.__new__(kind)
        made.args = args
        raise made

    caught = error(evaluate(evaluator, task, type(what), what.args))
    assert isinstance(caught, RemoteError)
    assert caught.type_name.endswith(type(what).__name__)
    assert caught.message == message
    assert caught.traceback
    assert value(evaluate(evaluator, lambda: "alive")) == "alive"


class ExitsInReduce(Exception):
    def __reduce__(self) -> Any:
        sys.exit(3)


class ExitsWhenUnpickled(Exception):
    def __reduce__(self) -> Any:
        return sys.exit, (3,)


class RudeText(str):
    """A string that cannot be pickled."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise ValueError("not me")


class Rude(Exception):
    def __str__(self) -> str:
        return RudeText("rude")


@pytest.mark.parametrize("kind", [ExitsInReduce, ExitsWhenUnpickled, Rude, Violent])
def test_an_error_that_bites_when_it_is_told_is_told(
    evaluator: Evaluator, kind: type[Exception]
) -> None:
    def task(kind: type[Exception]) -> None:
        raise kind

    outcome = None
    with contextlib.suppress(SystemExit):
        outcome = evaluate(evaluator, task, kind)
    assert outcome is not None, "the daemon would have ended"
    assert isinstance(error(outcome), (RemoteError, kind))


def test_an_error_with_a_huge_message(evaluator: Evaluator) -> None:
    def task() -> None:
        raise ValueError("x" * 1_000_000)

    outcome = evaluate(evaluator, task)
    assert outcome.blobs
    assert str(error(outcome)) == "x" * 1_000_000


# ── what cannot be pickled or unpickled ──────────────────────────────────────────────────


def test_an_unpicklable_result_says_what_it_is(evaluator: Evaluator) -> None:
    caught = error(evaluate(evaluator, lambda: {"a": [threading.Lock()]}))
    assert isinstance(caught, SerializationError)
    assert "_thread.lock at ['a'][0]" in str(caught)


def test_a_generator_is_no_result(evaluator: Evaluator) -> None:
    caught = error(evaluate(evaluator, lambda: (x for x in "ab")))
    assert isinstance(caught, SerializationError)
    assert "generator" in str(caught)


def test_a_result_that_exits_when_it_is_pickled(evaluator: Evaluator) -> None:
    class Exits:
        def __reduce__(self) -> Any:
            sys.exit(3)

    def task() -> object:
        return Exits()

    assert told(evaluate(evaluator, task))[:2] == ("SystemExit", "3")


@pytest.mark.parametrize(
    "payload", [b"", b"garbage", b"cno_such_module\nf\n.", b"csys\nexit\n(tR."]
)
def test_arguments_that_cannot_be_unpickled(evaluator: Evaluator, payload: bytes) -> None:
    evaluator.learn((Function(1, "f", *pack(len)),), ())
    assert evaluator.evaluate(Task(1, 1, payload)).kind is Kind.ERROR


def test_a_function_that_cannot_be_unpickled_is_told_for_each_task(evaluator: Evaluator) -> None:
    evaluator.learn((Function(1, "f", b"cno_such_module\nf\n."),), ())
    for _ in range(2):
        caught = error(evaluator.evaluate(Task(1, 1, *pack(((), {})))))
        assert isinstance(caught, ModuleNotFoundError)
        assert "no_such_module" in str(caught)


def test_an_unknown_function_is_an_error(evaluator: Evaluator) -> None:
    assert evaluator.evaluate(Task(1, 77, *pack(((), {})))).kind is Kind.ERROR


def test_what_is_not_callable_is_an_error(evaluator: Evaluator) -> None:
    assert isinstance(error(evaluate(evaluator, 5)), TypeError)  # type: ignore[arg-type]


# ── async functions ──────────────────────────────────────────────────────────────────────


def test_an_async_function_is_awaited(evaluator: Evaluator) -> None:
    async def add(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert value(evaluate(evaluator, add, 1)) == 2
    assert value(evaluate(evaluator, functools.partial(add, 2))) == 3
    assert value(evaluate(evaluator, lambda: add(3))) == 4


def test_two_in_a_row_share_a_loop(evaluator: Evaluator) -> None:
    async def loop() -> int:
        return id(asyncio.get_running_loop())

    first = value(evaluate(evaluator, loop))
    value(evaluate(evaluator, lambda: None))
    assert value(evaluate(evaluator, loop)) == first


VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="unset")


def swap(new: str) -> Callable[[], Any]:
    """Return a coroutine function of this module's own, which sets VARIABLE here."""

    async def work() -> str:
        before = VARIABLE.get()
        VARIABLE.set(new)
        return before

    return STEPS.setdefault(new, work)


async def call_step(name: str) -> Any:
    return await STEPS[name]()


def test_context_variables_do_not_go_from_one_coroutine_to_the_next(evaluator: Evaluator) -> None:
    swap("a"), swap("b")
    assert value(evaluate(evaluator, call_step, "a")) == "unset"
    assert value(evaluate(evaluator, call_step, "b")) == "unset"


def test_what_an_async_function_raises(evaluator: Evaluator) -> None:
    async def fail() -> None:
        await asyncio.sleep(0)
        raise ValueError("async")

    outcome = evaluate(evaluator, fail)
    assert isinstance(error(outcome), ValueError)
    assert "in fail" in told(outcome)[2]


def test_an_async_function_that_is_cancelled(evaluator: Evaluator) -> None:
    async def give_up() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    assert isinstance(error(evaluate(evaluator, give_up)), RemoteError)


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, BaseException])
def test_an_async_function_that_leaves_by_force(
    evaluator: Evaluator, kind: type[BaseException]
) -> None:
    async def leave(kind: type[BaseException]) -> None:
        await asyncio.sleep(0)
        raise kind("now")

    async def live() -> str:
        await asyncio.sleep(0)
        return "alive"

    assert told(evaluate(evaluator, leave, kind))[:2] == (kind.__name__, "now")
    assert value(evaluate(evaluator, live)) == "alive"


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_leaving_by_force_ends_what_is_left_in_the_background(
    evaluator: Evaluator, kind: type[BaseException]
) -> None:
    async def leave_something() -> None:
        STEPS["task"] = asyncio.ensure_future(asyncio.Event().wait())
        await asyncio.sleep(0)
        raise kind

    evaluator._functions[1] = leave_something  # in this process, not by pickle
    assert evaluator.evaluate(Task(1, 1, *pack(((), {})))).kind is Kind.ERROR
    assert STEPS["task"].cancelled()


def test_what_is_left_in_the_background_goes_on_with_the_next_task(evaluator: Evaluator) -> None:
    steps: list[str] = []
    STEPS["here"] = steps

    async def leave_something() -> None:
        async def later() -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            STEPS["here"].append("later")

        STEPS["task"] = asyncio.ensure_future(later())

    async def wait() -> None:
        await STEPS["task"]

    evaluator.learn((Function(1, "f", b""), Function(2, "g", b"")), ())
    evaluator._functions.update({1: leave_something, 2: wait})  # in this process, not by pickle
    empty = pack(((), {}))
    assert evaluator.evaluate(Task(1, 1, *empty)).kind is Kind.VALUE
    assert steps == []
    assert evaluator.evaluate(Task(2, 2, *empty)).kind is Kind.VALUE
    assert steps == ["later"]


STEPS: dict[str, Any] = {}


def test_closing_cancels_what_is_left() -> None:
    evaluator = Evaluator()

    async def leave_something() -> None:
        STEPS["task"] = asyncio.ensure_future(asyncio.Event().wait())

    evaluator._functions[1] = leave_something
    assert evaluator.evaluate(Task(1, 1, *pack(((), {})))).kind is Kind.VALUE
    evaluator.close()
    assert STEPS["task"].cancelled()
    evaluator.close()  # once more does no harm


def test_without_a_lasting_loop_each_coroutine_has_its_own() -> None:
    evaluator = Evaluator(lasting=False)

    async def leave_something() -> None:
        STEPS["task"] = asyncio.ensure_future(asyncio.Event().wait())
        STEPS["loop"] = asyncio.get_running_loop()

    evaluator._functions[1] = leave_something
    loops = set()
    for _ in range(2):
        assert evaluator.evaluate(Task(1, 1, *pack(((), {})))).kind is Kind.VALUE
        assert STEPS["task"].cancelled()
        assert STEPS["loop"].is_closed()
        loops.add(STEPS["loop"])
    assert len(loops) == 2
    STEPS.clear()


def test_a_task_may_run_a_loop_of_its_own(evaluator: Evaluator) -> None:
    async def one() -> int:
        return 1

    def own_loop() -> int:
        return asyncio.run(one())

    assert value(evaluate(evaluator, one)) == 1
    assert value(evaluate(evaluator, own_loop)) == 1
    assert value(evaluate(evaluator, one)) == 1


def test_an_async_callable_object(evaluator: Evaluator) -> None:
    class Adder:
        async def __call__(self, x: int) -> int:
            return x + 1

    assert value(evaluate(evaluator, Adder(), 1)) == 2
