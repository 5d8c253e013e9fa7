"""A call in one line."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mirai.controllers._describe import WIDTH, describe


class Loud:
    def __repr__(self) -> str:
        raise AssertionError("nobody asked for this")


def fit(*_: object, **__: object) -> None: ...


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        ((), {}, "fit()"),
        ((1, 2.5, None, True), {"depth": 3}, "fit(1, 2.5, None, True, depth=3)"),
        (("a",), {}, "fit('a')"),
        (("x" * 50,), {}, f"fit('{'x' * 36}'...)"),
        (([1, 2], (3,), {"k": {4}}), {}, "fit([1, 2], (3,), {'k': {4}})"),
        ((list(range(100)),), {}, "fit([0, 1, 2, 3, 4, 5, ...])"),
        ((list(range(20_000)),), {}, "fit(<list of 20000>)"),
        (([[[1]]],), {}, "fit([[<list of 1>]])"),
        ((np.zeros((3, 4)),), {}, "fit(<ndarray (3, 4)>)"),
        ((pd.DataFrame({"a": [1, 2]}),), {}, "fit(<DataFrame (2, 1)>)"),
        ((Loud(),), {"of": Loud}, "fit(<Loud>, of=Loud)"),
        ((Path("a/b"),), {}, "fit('a/b')"),
        ((10**50,), {}, "fit(<int>)"),
        (tuple(range(9)), {}, "fit(0, 1, 2, 3, 4, 5, ...)"),
        ((frozenset({1}), set(), ()), {}, "fit(frozenset({1}), set(), ())"),
    ],
)
def test_arguments(args: tuple[object, ...], kwargs: dict[str, object], text: str) -> None:
    assert describe(fit, args, kwargs) == text


def test_functions_are_called_what_people_call_them() -> None:
    assert describe(lambda: 0, (), {}) == "<lambda>()"
    assert describe(partial(fit, 1), (2,), {}) == "fit(2)"
    assert describe("".join, ((),), {}) == "str.join(())"
    assert describe(Loud(), (), {}) == "Loud()"


def test_what_cannot_be_told_does_not_matter() -> None:
    class Closed:
        @property
        def shape(self) -> object:
            raise RuntimeError("the file is closed")

        func = "str"

        def __getattr__(self, name: str) -> object:
            raise RuntimeError("the file is closed")

        def __call__(self) -> None: ...

    assert describe(fit, (Closed(),), {}) == "fit(<Closed>)"
    assert describe(Closed(), (), {}) == "Closed()"


def test_a_long_one_is_cut() -> None:
    text = describe(fit, tuple("x" * 40 for _ in range(9)), {})
    assert len(text) <= WIDTH
    assert text.endswith("...)")
