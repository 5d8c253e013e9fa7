"""By what calls are known again."""

from __future__ import annotations

import copy
import enum
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from os import environ
from random import gauss
from typing import Any, Protocol, runtime_checkable

import pytest

from mirai._digest import bound_to, digest_of, keys_for, version_of


class Color(enum.Enum):
    RED = 1
    GREEN = 2
    BLUE = 3


Color.__module__ = "__main__"  # as in a script: its code counts


def paint(x: int) -> tuple[int, Color]:
    return x, Color.RED


paint.__module__ = "__main__"


def test_classes_that_hold_their_own_objects_are_gone_through_once() -> None:
    assert version_of(paint) == version_of(paint)  # and not without end
    assert digest_of(Color.RED) != digest_of(Color.GREEN)


def added(x: int, k: int = 0) -> int:
    return x + k


class Scale:
    def __init__(self, k: int) -> None:
        self.k = k

    def times(self, x: int) -> int:
        return x * self.k


def adder(k: int) -> object:
    return lambda x: x + k


def test_what_is_bound_to_a_function_is_an_argument_and_no_version() -> None:
    for one, two in (
        (partial(added, k=1), partial(added, k=2)),
        (Scale(1).times, Scale(2).times),
        (adder(1), adder(2)),
    ):
        assert version_of(one) == version_of(two)
        keys = [keys_for(version_of(each), bound_to(each))(((3,), {})) for each in (one, two)]
        assert keys[0] != keys[1]
    assert not bound_to(added)


def test_where_a_try_ends_is_code() -> None:
    def short(x: int) -> int:
        try:
            added(x)
        except KeyError:
            return 2
        else:
            added(x)
        return 1

    def long(x: int) -> int:
        try:
            added(x)
            added(x)
        except KeyError:
            return 2
        return 1

    long.__qualname__ = short.__qualname__
    assert version_of(short) != version_of(long)


def test_methods_of_a_class_in_the_same_package_are_code() -> None:
    method, before = Scale(2).times, version_of(Scale)
    known = version_of(method)
    setattr(Scale, "more", added)  # noqa: B010
    try:
        assert version_of(Scale) != before
        assert version_of(method) != known
    finally:
        delattr(Scale, "more")


class Mark(enum.Flag):
    LOW = 1
    HIGH = 2


class Slotted:
    __slots__ = ("k",)


@runtime_checkable
class Scaling(Protocol):
    def times(self, x: int) -> int: ...


@pytest.mark.parametrize(
    ("kind", "use"),
    [
        (Scale, lambda: pickle.dumps(Scale(1))),  # which adds __slotnames__
        (Slotted, lambda: copy.copy(Slotted())),
        (Mark, lambda: Mark.LOW | Mark.HIGH),
        (Scaling, lambda: isinstance(3, Scaling)),  # which adds __annotations__
    ],
)
def test_classes_do_not_change_by_being_used(kind: type, use: Callable[[], Any]) -> None:
    if "__slotnames__" in vars(kind):
        delattr(kind, "__slotnames__")
    before = version_of(kind)
    use()
    assert version_of(kind) == before


MODEL = """
import pydantic
from mirai._digest import version_of

class Params(pydantic.BaseModel):
    alpha: float = 1.0

def fit(x):
    return Params(alpha=x)

print(version_of(fit).hex())
"""


def printed(source: str, **environ: str) -> str:
    """Return what a program prints."""
    return subprocess.run(
        [sys.executable, "-c", source],
        env={"PYTHONPATH": ":".join(sys.path), **environ},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


def test_classes_of_pydantic_are_the_same_in_another_process() -> None:
    pytest.importorskip("pydantic")
    one, two = (printed(MODEL, PYTHONHASHSEED=seed) for seed in "12")
    assert one == two != printed(MODEL.replace("= 1.0", "= 2.0"))


def home(x: int) -> str:
    return environ.get("HOME", "") * x


RANDOM = random.Random(1)


def noisy(x: int) -> float:
    return x + RANDOM.random() + gauss(0, 1)


def test_the_environment_is_no_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = version_of(home)
    monkeypatch.setenv("MIRAI_TEST", "1")
    assert version_of(home) == before


def test_what_was_drawn_is_no_code() -> None:
    before = version_of(noisy)
    noisy(1)
    assert version_of(noisy) == before
    assert digest_of(random.Random(1)) != digest_of(random.Random(2))  # of arguments it counts


def test_what_numpy_has_drawn_is_no_code() -> None:
    numpy = pytest.importorskip("numpy")
    generator = numpy.random.default_rng(1)
    exec("def noisy(x): return x + generator.random()", space := {"generator": generator})
    before = version_of(space["noisy"])
    generator.random()
    assert version_of(space["noisy"]) == before


def test_functions_of_cython_count_by_the_version_of_their_package(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whose types do not say where they come from."""
    numpy = pytest.importorskip("numpy")
    exec("def make(x): return make_one(x)", space := {"make_one": numpy.random.default_rng})
    before = version_of(space["make"])
    assert version_of(space["make"]) == before
    monkeypatch.setattr(numpy, "__version__", "0")
    assert version_of(space["make"]) != before
