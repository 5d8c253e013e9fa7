"""Maps over tables and arrays: pandas, polars, Arrow, numpy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from mirai import daemons, mirai, status

POOL = "tables"
mirai_map = mirai.options(profile=POOL).map


@pytest.fixture(autouse=True, scope="module")
def pool() -> Iterator[None]:
    list(pl.DataFrame(DATA).iter_rows())  # polars opens an epoll of its own when it is first used
    with daemons(2, profile=POOL):
        yield


def row(**columns: Any) -> dict[str, Any]:
    return columns


DATA = {
    "x": [1, 2, 3],
    "name": ["a", None, "c"],
    "day": [datetime(2020, 1, day) for day in (1, 2, 3)],
}
ROWS = [dict(zip(DATA, values, strict=True)) for values in zip(*DATA.values(), strict=True)]

MAKERS: dict[str, Callable[[dict[str, list[Any]]], Any]] = {
    "pandas": lambda data: pd.DataFrame(data, dtype=object),
    "polars": pl.DataFrame,
    "arrow": pa.table,
    "arrow in chunks": lambda data: pa.concat_tables([pa.table(data)[:1], pa.table(data)[1:]]),
    "an arrow batch": pa.RecordBatch.from_pydict,
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
class TestRows:
    def test_they_are_given_as_keywords(self, make: Callable[..., Any]) -> None:
        assert mirai_map(row, make(DATA)).collect() == ROWS

    def test_with_constants(self, make: Callable[..., Any]) -> None:
        def show(y: str, x: int, times: int) -> str:
            return y * x * times

        table = make({"x": [1, 2], "y": ["a", "b"]})
        assert mirai_map(show, table, kwargs={"times": 2}).collect() == ["aa", "bbbb"]

    def test_values_are_plain_objects(self, make: Callable[..., Any]) -> None:
        def kinds(x: Any, y: Any, z: Any) -> list[str]:
            return [type(value).__name__ for value in (x, y, z)]

        table = make({"x": [1], "y": [0.5], "z": ["text"]})
        assert mirai_map(kinds, table).collect() == [["int", "float", "str"]]

    def test_none(self, make: Callable[..., Any]) -> None:
        assert mirai_map(row, make({"x": []})).collect() == []

    def test_as_a_stream(self, make: Callable[..., Any]) -> None:
        assert list(mirai_map(row, make(DATA), max_in_flight=2)) == list(enumerate(ROWS))

    @pytest.mark.parametrize("name", ["a b", "class", "self", "fn", "args", "3", "", "ä"])
    def test_names_that_are_no_identifiers_or_that_we_use(
        self, make: Callable[..., Any], name: str
    ) -> None:
        table = make({name: [1]})
        assert mirai_map(row, table).collect() == [{name: 1}]
        assert mirai_map(row, table, kwargs={"more": 2}).collect() == [{name: 1, "more": 2}]

    def test_a_column_that_the_function_does_not_take(self, make: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'a b'"):
            mirai_map(lambda x: x, make({"a b": [1]})).collect()

    def test_a_column_that_is_a_constant_too(self, make: Callable[..., Any]) -> None:
        with pytest.raises(TypeError, match="multiple values for keyword argument 'x'"):
            mirai_map(row, make({"x": [1]}), kwargs={"x": 2}).collect()

    def test_several_tables(self, make: Callable[..., Any]) -> None:
        table = make(DATA)
        for tables in ((table, table), ([1, 2, 3], table)):
            with pytest.raises(TypeError, match="alone"):
                mirai_map(row, *tables)


def test_columns_that_are_no_strings() -> None:
    assert mirai_map(row, pd.DataFrame([[1, 2]])).collect() == [{"0": 1, "1": 2}]
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2)]))
    assert mirai_map(row, levels).collect() == [{"('a', 1)": 1, "('a', 2)": 2}]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame([[1, 2]], columns=["a", "a"])[:0],
        pd.DataFrame([[1, 2]], columns=["0", 0]),
        pa.table([[1], [2]], names=["a", "a"]),
    ],
)
def test_columns_of_the_same_name(table: Any) -> None:
    before = status(POOL).completed
    with pytest.raises(ValueError, match=r"columns of the same name: '[a0]'"):
        mirai_map(row, table)
    assert status(POOL).completed == before


@pytest.mark.parametrize("make", [pd.Series, pl.Series, np.array, pa.array])
def test_one_column_is_mapped_over_by_its_values(make: Callable[..., Any]) -> None:
    def double(x: Any) -> Any:
        return 2 * (x.as_py() if isinstance(x, pa.Scalar) else x)

    assert mirai_map(double, make([1, 2, 3])).collect() == [2, 4, 6]


class TestArrays:
    def test_an_array_by_its_rows(self) -> None:
        array = np.arange(12.0).reshape(4, 3)
        for layout in (array, np.asfortranarray(array), array[::-1], array.astype(">f8")):
            back = mirai_map(lambda line: line * 2, layout).collect()
            assert all(isinstance(line, np.ndarray) for line in back)
            assert (np.array(back) == layout * 2).all()

    def test_scalars_keep_their_type(self) -> None:
        kinds = mirai_map(lambda x: x.dtype.str, np.arange(3, dtype=np.float32)).collect()
        assert kinds == ["<f4"] * 3

    def test_a_row_is_sent_without_the_rest(self) -> None:
        def whole(line: Any) -> int:
            return (line if line.base is None else line.base).nbytes

        sizes = mirai_map(whole, np.zeros((100, 16))).collect()
        assert max(sizes) < 1_000

    def test_large_rows(self) -> None:
        array = np.random.default_rng(1).random((5, 200_000))
        assert mirai_map(np.sum, array).collect() == [line.sum() for line in array]

    def test_records_and_objects(self) -> None:
        records = np.array([(1, 2.5), (3, 4.5)], dtype=[("n", int), ("x", float)])
        assert mirai_map(lambda r: r["n"] * r["x"], records).collect() == [2.5, 13.5]
        assert mirai_map(lambda x: x, np.array([None, "a"], dtype=object)).collect() == [None, "a"]

    def test_side_by_side(self) -> None:
        pairs = mirai_map(lambda a, b: float(a + b), np.arange(3), [0.5] * 3).collect()
        assert pairs == [0.5, 1.5, 2.5]

    def test_no_dimension(self) -> None:
        with pytest.raises(TypeError, match="0-d"):
            mirai_map(abs, np.array(3))
