"""Objects to payloads and back; and function pickles that are never out of date."""

from __future__ import annotations

import asyncio
import functools
import importlib
import math
import pickle
import random
import sys
import threading
import types
from collections import OrderedDict, deque, namedtuple
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import wire
from dispatcher.messages import Blob, FromClient, Submit, Task
from mirai import SerializationError
from mirai._constant import Constant
from mirai._serialize import LARGE, FunctionPickles, Packed, dumps, function_name, pack, unpack

Point = namedtuple("Point", "x y")


class Colour(Enum):
    RED = 1


def roundtrip(value: Any) -> Any:
    return unpack(*pack(value))


def travelled(value: Any) -> Any:
    """Send it through the wire's frames as well."""
    task = Task(1, 1, *pack(value))
    frames = [memoryview(bytearray(frame)) for frame in wire.encode(Submit((task,)))]
    message = wire.decode(frames, FromClient)
    assert isinstance(message, Submit)
    return unpack(message.tasks[0].payload, message.tasks[0].blobs)


# ── values ───────────────────────────────────────────────────────────────────────────────

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text()
    | st.binary()
    | st.just(...)
)
HASHABLE = st.recursive(
    SCALARS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=3), max_leaves=5
)
VALUES = st.recursive(
    SCALARS | st.builds(bytearray, st.binary()) | st.builds(Point, SCALARS, SCALARS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(HASHABLE, inner, max_size=4)
        | st.sets(HASHABLE, max_size=4)
        | st.lists(inner, max_size=3).map(deque)
        | st.dictionaries(st.text(), inner, max_size=3).map(OrderedDict)
    ),
    max_leaves=20,
)


def alike(one: Any, other: Any) -> bool:
    """Whether both are equal, in type too, all the way down."""
    if type(one) is not type(other) or one != other:
        return False
    if isinstance(one, dict):
        return all(alike(a, b) for a, b in zip(one.items(), other.items(), strict=True))
    if isinstance(one, (list, tuple, deque)):
        return all(alike(a, b) for a, b in zip(one, other, strict=True))
    return True


@given(VALUES)
def test_what_is_packed_is_unpacked(value: Any) -> None:
    assert alike(roundtrip(value), value)
    assert alike(travelled(value), value)


@pytest.mark.parametrize("value", [Colour.RED, len, math, Point, Point(1, 2), "\udc80", 10**400])
def test_more_values(value: Any) -> None:
    assert roundtrip(value) == value


def test_what_is_shared_stays_shared() -> None:
    inner: list[Any] = []
    one, other = roundtrip([inner, inner])
    assert one is other
    inner.append(inner)
    (again,) = found = roundtrip(inner)
    assert again is found


@pytest.mark.parametrize("size", [LARGE - 200, LARGE, 10 * LARGE])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x, (x,)], lambda x: {"k": {x}}])
def test_large_bytes(size: int, wrap: Callable[[Any], Any]) -> None:
    value = wrap(b"x" * size)
    payload, blobs = pack(value)
    assert (payload == b"") == (len(blobs) == 1) == (size >= LARGE)
    assert travelled(value) == value


def test_a_large_container_with_something_special_inside() -> None:
    class Local:
        def __init__(self, x: int) -> None:
            self.x = x

    values = roundtrip([[1] * 1_000, Local(3)])
    assert values[1].x == 3


def test_what_lies_deep_may_be_special() -> None:
    found = roundtrip([[[[[lambda: 7]]]]])
    assert found[0][0][0][0][0]() == 7


def test_dumps_makes_one_piece() -> None:
    assert pickle.loads(dumps([b"x" * 10 * LARGE])) == [b"x" * 10 * LARGE]


def test_an_empty_payload_without_blobs_is_an_error() -> None:
    with pytest.raises(IndexError):
        unpack(b"", ())


# ── arrays ───────────────────────────────────────────────────────────────────────────────

np = pytest.importorskip("numpy")
COUNT = LARGE // 8


def arrays() -> list[Any]:
    base = np.arange(4.0 * COUNT).reshape(2, -1)
    return [
        np.arange(3),
        np.array(5.0),
        np.zeros((0, 3)),
        np.arange(COUNT),
        np.arange(COUNT - 20),
        base,
        base.T,
        np.asfortranarray(base),
        base[:, ::2],
        base[::-1],
        np.array(["a", None, 3], dtype=object),
        np.array([("a", 1)] * COUNT, dtype=[("s", "U3"), ("n", "i4")]),
        np.full(COUNT, np.datetime64("2020-01-01")),
    ]


@pytest.mark.parametrize("index", range(len(arrays())))
@pytest.mark.parametrize("way", [roundtrip, travelled])
def test_an_array_comes_back_and_may_be_written_to(index: int, way: Callable[[Any], Any]) -> None:
    array = arrays()[index]
    (found,) = way([array])
    assert found.dtype == array.dtype
    assert found.shape == array.shape
    assert (found == array).all()
    assert found.flags.writeable
    if array.flags.c_contiguous or array.flags.f_contiguous:
        assert found.flags.c_contiguous == array.flags.c_contiguous
        assert found.flags.f_contiguous == array.flags.f_contiguous
    found.fill(found.flat[0]) if found.size else None


def test_an_array_that_may_not_be_written_to_stays_so() -> None:
    array = np.arange(COUNT)
    array.flags.writeable = False
    assert not roundtrip(array).flags.writeable


def test_large_arrays_travel_beside_the_pickle_and_small_ones_in_it() -> None:
    payload, blobs = pack({"large": np.zeros(COUNT), "small": np.ones(10), "other": np.ones(COUNT)})
    assert [memoryview(blob.data).nbytes for blob in blobs] == [LARGE, LARGE]
    assert len(payload) < 2_000


def test_an_array_is_not_copied_when_it_is_unpacked() -> None:
    payload, (blob,) = pack(np.zeros(COUNT))
    found = unpack(payload, (blob,))
    memoryview(blob.data).cast("B")[:8] = np.float64(3.0).tobytes()
    assert found[0] == 3.0


@pytest.mark.parametrize("count", [10, COUNT])
def test_what_the_caller_does_to_its_array_later_does_not_reach_the_task(count: int) -> None:
    array = np.zeros(count)
    packed = pack([array])
    array += 1
    assert (unpack(*packed)[0] == 0).all()


@pytest.mark.parametrize("make", [bytearray, lambda data: deque([data, 1])])
def test_nor_does_a_change_of_anything_else(make: Callable[[Any], Any]) -> None:
    value = make(b"x" * 2 * LARGE)
    packed = pack(value)
    value[0] = 0
    assert unpack(*packed)[0] in (ord("x"), b"x" * 2 * LARGE)


def test_two_tasks_do_not_share_an_array() -> None:
    array = np.zeros(COUNT)
    one, other = travelled(array), travelled(array)
    one += 1
    assert (other == 0).all() and (array == 0).all()


# ── what cannot be pickled ───────────────────────────────────────────────────────────────


class Holder:
    def __init__(self, part: object) -> None:
        self.part = part


LOCK = threading.Lock()


def _closure() -> Callable[[], Any]:
    lock = threading.Lock()
    return lambda: lock


@pytest.mark.parametrize(
    ("value", "where"),
    [
        (threading.Lock(), "cannot pickle _thread.lock: "),
        ([1, [2, threading.Lock()]], "cannot pickle _thread.lock at [1][1]: "),
        ({"a": (0, threading.Lock())}, "cannot pickle _thread.lock at ['a'][1]: "),
        (Holder([threading.Lock()]), "cannot pickle _thread.lock at .part[0]: "),
        (_closure(), "cannot pickle _thread.lock at <variable lock>: "),
        ((lambda: LOCK), "cannot pickle _thread.lock at <global LOCK>: "),
        ((x for x in "ab"), "cannot pickle builtins.generator: "),
        (sys._getframe(), "cannot pickle builtins.frame: "),
    ],
)
def test_an_error_says_what_and_where(value: Any, where: str) -> None:
    with pytest.raises(SerializationError) as caught:
        pack(value)
    assert str(caught.value).startswith(where)
    assert caught.value.__cause__ is not None


def test_what_is_too_deep_is_told() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(SerializationError, match=r"builtins\.list"):
        pack(deep)


class RaisesWhenPickled:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("in reduce")


def test_an_error_of_the_objects_own_is_its_cause() -> None:
    with pytest.raises(
        SerializationError, match=r"RaisesWhenPickled at \[0\]: in reduce"
    ) as caught:
        pack([RaisesWhenPickled()])
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


class NoRepr:
    """A key that cannot be shown."""

    def __repr__(self) -> str:
        raise ValueError("no repr")


class NoDict:
    """An object that lets nobody look inside."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError

    def __getattribute__(self, name: str) -> Any:
        if name == "__dict__":
            raise ValueError("private")
        return super().__getattribute__(name)


def _not_assigned_yet() -> Callable[[], Any]:
    def inner() -> Any:
        return later, LOCK

    if LOCK.locked():
        later = 1
    return inner


def test_a_cached_function_is_not_blamed_for_what_stands_beside_it() -> None:
    cached = functools.lru_cache(lambda x: x)
    with pytest.raises(SerializationError, match=r"lock at \['lock'\]"):
        pack({"cached": cached, "lock": LOCK})


@pytest.mark.parametrize(
    "value", [{NoRepr(): LOCK}, NoDict(), _not_assigned_yet()], ids=["repr", "dict", "cell"]
)
def test_what_can_hardly_be_looked_at_is_told_nevertheless(value: Any) -> None:
    with pytest.raises(SerializationError):
        pack(value)


def test_a_cyclic_object_that_cannot_be_pickled_is_told() -> None:
    cycle: list[Any] = [LOCK]
    cycle.insert(0, cycle)
    with pytest.raises(SerializationError, match="cannot pickle"):
        pack(cycle)


# ── functions: pickled once, unless something changed ────────────────────────────────────

FACTOR = 2
TABLE = {"x": 1}


def importable(x: int) -> int:
    return x * FACTOR


def call(packed: Packed, *args: Any) -> Any:
    return unpack(*packed)(*args)


def is_cached(make: Callable[[], Any]) -> bool:
    """Whether the second of two packings comes from the cache."""
    pickles = FunctionPickles()
    return pickles.pack(make()) is pickles.pack(make())


def changes(fn: object) -> bool:
    """Whether it may change in place."""
    return FunctionPickles().find(fn).changes


def test_what_may_change_in_place() -> None:
    box = [1]
    assert changes(lambda: box)
    assert changes(box.append)
    assert changes(functools.partial(importable, box))
    assert changes(functools.partial(importable, x=box))
    assert changes(functools.partial(box.append, 1))
    assert changes(Constant(importable, (box,), {}))
    assert changes(Constant(importable, (), {"x": box}))
    assert not changes(Constant(importable, (1,), {"x": "text"}))
    assert not changes(functools.partial(lambda x: x, 1))
    assert not changes(lambda: FACTOR)
    assert not changes(importable)


def test_what_a_function_remembers_is_no_change() -> None:
    @functools.lru_cache
    def deep(n: int) -> int:
        return n and deep(n - 1) + FACTOR

    assert not changes(deep)
    assert not changes(lambda: deep(3))
    pickles = FunctionPickles()
    assert pickles.pack(deep) is pickles.pack(deep)
    assert call(pickles.pack(deep), 3) == 6

    @functools.lru_cache
    def of_table(name: str) -> int:
        return TABLE[name]

    assert changes(of_table)


def test_global_generators_are_those_of_each_process() -> None:
    np = pytest.importorskip("numpy")
    draws = (random.random, random.gauss, np.random.normal, np.random.random)
    for fn in draws:
        assert len(dumps(fn)) < 300  # no state
        assert unpack(dumps(fn), ()).__self__ is fn.__self__
    own = random.Random(1), np.random.RandomState(1)
    for generator in own:
        copy = unpack(dumps(generator), ())
        assert copy is not generator
        assert copy.random() == generator.random()


def make_adder(x: Any) -> Callable[[Any], Any]:
    return lambda y: x + y


def make_nested(text: str) -> Callable[[], str]:
    def inner() -> str:
        return text

    def outer() -> str:
        return inner()

    return outer


def with_default(x: int = 1, *, y: int = 2) -> Callable[..., Any]:
    def fn(x: int = x, *, y: int = y) -> int:
        return x + y

    return fn


@pytest.mark.parametrize(
    "make",
    [
        lambda: importable,
        lambda: len,
        lambda: Holder,
        lambda: math.sqrt,
        lambda: asyncio.sleep,
        lambda: make_adder(1),
        lambda: make_adder("text"),
        lambda: make_adder((1, ("a", None))),
        lambda: make_adder(importable),
        lambda: make_nested("same"),
        lambda: lambda x=1, *, y=2: x + y,
        lambda: lambda: math.sqrt(FACTOR),
    ],
)
def test_what_has_not_changed_comes_from_the_cache(make: Callable[[], Any]) -> None:
    assert is_cached(make)


@pytest.mark.parametrize(
    "make",
    [
        lambda: make_adder([1]),
        lambda: make_adder({"a": 1}),
        lambda: make_adder(({"a": 1},)),
        lambda: make_adder(Holder(1)),
        lambda: make_adder(bytearray(b"x")),
        lambda: make_adder(np.zeros(3)),
        lambda: lambda: TABLE,
        lambda: Holder(1).__repr__,
        lambda: functools.partial(importable, 1),
        lambda: "abc".upper,
    ],
)
def test_what_may_change_in_place_is_never_cached(make: Callable[[], Any]) -> None:
    made = make()
    assert not is_cached(lambda: made)


def test_a_changed_global(monkeypatch: pytest.MonkeyPatch) -> None:
    def fn() -> int:
        return FACTOR

    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == 2
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    assert call(pickles.pack(fn)) == 3
    monkeypatch.delattr(sys.modules[__name__], "FACTOR")
    with pytest.raises(NameError):
        call(pickles.pack(fn))


def test_a_changed_closure() -> None:
    factor = 2

    def fn() -> int:
        return factor  # noqa: F821

    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == 2
    factor = 3
    assert call(pickles.pack(fn)) == 3
    del factor
    with pytest.raises(NameError):
        call(pickles.pack(fn))


def test_a_variable_that_is_assigned_later() -> None:
    def fn() -> Any:
        return later

    pickles = FunctionPickles()
    with pytest.raises(NameError):
        call(pickles.pack(fn))
    later = 5
    assert call(pickles.pack(fn)) == 5


def test_a_variable_that_becomes_an_ellipsis() -> None:
    def fn() -> Any:
        return later

    pickles = FunctionPickles()
    with pytest.raises(NameError):
        call(pickles.pack(fn))
    later = ...
    assert call(pickles.pack(fn)) is ...


def test_a_change_inside_what_was_captured() -> None:
    captured = [1]

    def fn() -> list[int]:
        return captured

    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == [1]
    captured.append(2)
    assert call(pickles.pack(fn)) == [1, 2]


def test_changed_defaults() -> None:
    fn = with_default()
    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == 3
    fn.__defaults__ = (10,)
    assert call(pickles.pack(fn)) == 12
    fn.__kwdefaults__ = {"y": 20}
    assert call(pickles.pack(fn)) == 30
    fn.__kwdefaults__["y"] = 30
    assert call(pickles.pack(fn)) == 40
    assert call(pickles.pack(with_default(x=5))) == 7
    assert call(pickles.pack(with_default(y=6))) == 7


def test_a_changed_default_that_is_mutable() -> None:
    def fn(seen: list[int] = [1]) -> list[int]:  # noqa: B006
        return seen

    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == [1]
    fn.__defaults__[0].append(2)  # type: ignore[index]
    assert call(pickles.pack(fn)) == [1, 2]


def test_a_changed_nested_function() -> None:
    pickles = FunctionPickles()
    assert call(pickles.pack(make_nested("one"))) == "one"
    assert call(pickles.pack(make_nested("two"))) == "two"
    assert call(pickles.pack(make_nested("one"))) == "one"


def test_a_changed_global_of_a_nested_function(monkeypatch: pytest.MonkeyPatch) -> None:
    def inner() -> int:
        return (lambda: FACTOR)()

    def outer() -> int:
        return inner()

    pickles = FunctionPickles()
    assert call(pickles.pack(outer)) == 2
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 4)
    assert call(pickles.pack(outer)) == 4


def test_a_changed_attribute_of_a_function() -> None:
    def fn() -> None:
        pass

    pickles = FunctionPickles()
    fn.note = "one"  # type: ignore[attr-defined]
    assert unpack(*pickles.pack(fn)).note == "one"
    fn.note = "two"  # type: ignore[attr-defined]
    assert unpack(*pickles.pack(fn)).note == "two"
    fn.__name__ = "other"
    assert unpack(*pickles.pack(fn)).__name__ == "other"
    fn.__doc__ = "words"
    assert unpack(*pickles.pack(fn)).__doc__ == "words"


def test_changed_code() -> None:
    def fn() -> int:
        return 1

    pickles = FunctionPickles()
    assert call(pickles.pack(fn)) == 1
    fn.__code__ = (lambda: 2).__code__
    assert call(pickles.pack(fn)) == 2


def test_a_function_that_is_defined_again_under_the_same_name() -> None:
    pickles = FunctionPickles()

    def fn() -> int:
        return 1

    assert call(pickles.pack(fn)) == 1

    def fn() -> int:  # type: ignore[no-redef]
        return 2

    assert call(pickles.pack(fn)) == 2


def test_a_function_of_main_that_is_defined_again() -> None:
    """As in a notebook, where a cell is run once more after it was edited."""
    main = types.ModuleType("__main__")
    pickles = FunctionPickles()
    for number in (1, 2):
        exec(f"def helper(): return {number}\ndef fn(): return helper()", main.__dict__)
        assert call(pickles.pack(main.fn)) == number
    exec("def helper(): return 3", main.__dict__)
    assert call(pickles.pack(main.fn)) == 3


def test_a_class_of_main_that_is_changed() -> None:
    main = types.ModuleType("__main__")
    exec("class C:\n    x = 1\ndef fn(): return C.x", main.__dict__)
    pickles = FunctionPickles()
    assert call(pickles.pack(main.fn)) == 1
    main.C.x = 2
    assert call(pickles.pack(main.fn)) == 2


def test_lambdas_in_a_loop() -> None:
    pickles = FunctionPickles()
    found = [call(pickles.pack(lambda x=x: x)) for x in range(300)]
    assert found == list(range(300))
    found = [call(pickles.pack(make_adder(x)), 1) for x in range(300)]
    assert found == list(range(1, 301))


def test_functions_that_die_are_not_taken_for_new_ones() -> None:
    """Ids are used again; a function made later may lie where another one lay."""
    pickles = FunctionPickles(size=2)
    for number in range(60):
        scope: dict[str, Any] = {}
        exec(f"def fn(): return {number}", scope)
        assert call(pickles.pack(scope["fn"])) == number


def test_the_cache_is_bounded() -> None:
    pickles = FunctionPickles(size=3)
    for number in range(20):
        scope: dict[str, Any] = {}
        exec(f"def fn(): return {number}", scope)
        pickles.pack(scope["fn"])
    assert len(pickles._known) == 3


def test_recursion() -> None:
    def factorial(n: int) -> int:
        return n * factorial(n - 1) if n else 1

    def even(n: int) -> bool:
        return odd(n - 1) if n else True

    def odd(n: int) -> bool:
        return even(n - 1) if n else False

    pickles = FunctionPickles()
    for _ in range(2):
        assert call(pickles.pack(factorial), 5) == 120
        assert call(pickles.pack(even), 5) is False
        assert call(pickles.pack(odd), 5) is True
    assert is_cached(lambda: factorial)
    assert is_cached(lambda: even)


def make_loop(swapped: bool) -> Callable[[int], str]:
    """A recursive function that knows itself and another one, in this order or that."""

    def stop(n: int) -> str:
        return f"stop {n}"

    def go(n: int) -> str:
        return first(n - 1) if n else second(n)

    first, second = (stop, go) if swapped else (go, stop)
    return go


def test_a_recursive_function_whose_captures_are_swapped() -> None:
    pickles = FunctionPickles()
    assert call(pickles.pack(make_loop(swapped=False)), 2) == "stop 0"
    assert call(pickles.pack(make_loop(swapped=True)), 2) == "stop 1"


def test_a_submodule_that_is_imported_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """cloudpickle tells the daemon to import the submodules that a function uses."""
    package = tmp_path / "some_package"
    package.mkdir()
    for name in ("__init__", "part"):
        (package / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    some_package = importlib.import_module("some_package")
    pickles = FunctionPickles()

    def fn() -> str:
        return some_package.part.__name__

    assert b"some_package.part" not in pickles.pack(fn)[0]
    importlib.import_module("some_package.part")
    assert b"some_package.part" in pickles.pack(fn)[0]


class Counter:
    def __init__(self, count: int) -> None:
        self.count = count

    def get(self) -> int:
        return self.count

    @classmethod
    def name(cls) -> str:
        return cls.__name__

    @staticmethod
    def twice(x: int) -> int:
        return 2 * x

    def __call__(self) -> int:
        return self.count


def test_methods_partials_builtins_and_classes() -> None:
    pickles = FunctionPickles()
    counter = Counter(1)
    for count in (1, 2):
        counter.count = count
        assert call(pickles.pack(counter.get)) == count
        assert call(pickles.pack(counter)) == count
        assert call(pickles.pack(functools.partial(make_adder(count), 10))) == 10 + count
        assert call(pickles.pack(Counter.name)) == "Counter"
        assert call(pickles.pack(Counter.twice), 4) == 8
        assert call(pickles.pack(Counter), 5).count == 5
        assert call(pickles.pack(len), "abc") == 3
        assert call(pickles.pack([1, 2].index), 2) == 1
        assert call(pickles.pack(str.upper), "a") == "A"
        assert asyncio.run(call(pickles.pack(asyncio.sleep), 0, "slept")) == "slept"


def test_an_importable_function_is_sent_as_its_name() -> None:
    payload, blobs = FunctionPickles().pack(importable)
    assert len(payload) < 100
    assert blobs == ()
    assert call((payload, blobs), 4) == 8


def test_a_module_that_is_to_be_pickled_by_value() -> None:
    """The user may say so at any time, and take it back."""
    module = sys.modules[__name__]
    pickles = FunctionPickles()
    by_name = pickles.pack(importable)
    cloudpickle.register_pickle_by_value(module)
    try:
        by_value = pickles.pack(importable)
        assert len(by_value[0]) > len(by_name[0])
        assert call(by_value, 4) == 8
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert pickles.pack(importable) == by_name


def test_a_function_with_a_large_array_has_blobs() -> None:
    array = np.ones(COUNT)
    packed = FunctionPickles().pack(lambda: array.sum())
    assert len(packed[1]) == 1
    assert call(packed) == COUNT


def test_an_unpicklable_function_is_told_each_time() -> None:
    pickles = FunctionPickles()
    fn = _closure()
    for _ in range(2):
        with pytest.raises(SerializationError, match="<variable lock>"):
            pickles.pack(fn)


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3)), max_size=30))
def test_the_cache_never_lies(steps: list[tuple[str, int]]) -> None:
    """Whatever is changed, in whatever order, the pickle is that of the function as it is."""
    a = b = 0

    def inner() -> int:
        return b

    def fn(c: int = 0, *, d: int = 0) -> tuple[int, int, int, int]:
        return a, inner(), c, d

    pickles = FunctionPickles()
    for name, value in steps:
        if name == "a":
            a = value
        elif name == "b":
            b = value
        elif name == "c":
            fn.__defaults__ = (value,)
        else:
            fn.__kwdefaults__ = {"d": value}
        assert call(pickles.pack(fn)) == fn()


# ── names ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fn", "name"),
    [
        (len, "builtins.len"),
        (math.sqrt, "math.sqrt"),
        (Counter, f"{__name__}.Counter"),
        (Counter(1), f"{__name__}.Counter"),
        (importable, f"{__name__}.importable:{importable.__code__.co_firstlineno}"),
        (Counter(1).get, f"{__name__}.Counter.get:{Counter.get.__code__.co_firstlineno}"),
        (functools.partial(len, "a"), "builtins.len"),
        (str.upper, "builtins.str.upper"),
    ],
)
def test_the_name_of_a_function(fn: Any, name: str) -> None:
    assert function_name(fn).replace("method_descriptor.", "") == name


def test_two_lambdas_have_two_names() -> None:
    one = lambda: 1  # noqa: E731
    other = lambda: 2  # noqa: E731
    assert function_name(one) != function_name(other)
    assert function_name(one) == function_name(functools.partial(one))


def test_a_blob_is_what_pack_says_it_is() -> None:
    payload, blobs = pack(b"x" * LARGE)
    assert payload == b""
    assert all(type(blob) is Blob for blob in blobs)


def test_a_function_that_is_not_found_under_its_name_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its module was loaded again: who has imported it from there still calls the old one."""
    module = types.ModuleType("mirai_test_module")
    exec("def old():\n    return 1\ndef new():\n    return 2\n", vars(module))
    module.new.__qualname__ = "old"
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", module.old)

    def fn() -> int:
        return FACTOR()  # type: ignore[operator]

    pickles = FunctionPickles()
    before = pickles.pack(fn)
    assert pickles.pack(fn) is before
    monkeypatch.setattr(module, "old", module.new)
    after = pickles.pack(fn)
    assert after != before
    assert call(after) == 1


def test_changed_annotations() -> None:
    def fn(x: int) -> int:
        return x

    pickles = FunctionPickles()
    pickles.pack(fn)
    fn.__annotations__ = {"y": int, "return": int}
    assert unpack(*pickles.pack(fn)).__annotations__ == {"y": int, "return": int}
