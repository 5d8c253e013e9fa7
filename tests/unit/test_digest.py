"""By what calls are known again."""

from __future__ import annotations

import enum
from functools import partial

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
