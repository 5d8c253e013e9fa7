"""What comes of tasks, one by one and as tables."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from mirai.controllers import Attempt, Results, Status, TaskResult, TasksFailed
from mirai.controllers._result import failed


def result(name: str = "a", value: Any = 1, error: Exception | None = None) -> TaskResult[Any]:
    status = Status.SUCCESS if error is None else Status.ERROR
    attempt = Attempt(status, error, "it", "node/7", "node", 7, 10.0, 0.25)
    return TaskResult(
        name,
        f"it/{name}",
        f"{name}(1)",
        status,
        value if error is None else None,
        error,
        attempts=(attempt,),
        seconds=0.25,
        started=10.0,
        worker="node/7",
        warnings=("UserWarning: careful",),
        seed=2**190,
    )


class TestOne:
    def test_a_value_is_unwrapped(self) -> None:
        assert (result(value=5).unwrap(), result(value=5).result, result().ok) == (5, 5, True)

    def test_an_error_is_raised_by_unwrap_alone(self) -> None:
        bad = result(error=ValueError("no"))
        assert (bad.result, bad.ok, bad.status) == (None, False, "error")
        with pytest.raises(ValueError, match="no"):
            bad.unwrap()

    def test_it_pickles(self) -> None:
        assert pickle.loads(pickle.dumps(result())) == result()


class TestFrames:
    RESULTS = Results([result("a", 1), result("b", 2), result("c", error=ValueError("no"))])

    def test_pandas(self) -> None:
        frame = self.RESULTS.to_frame()
        assert list(frame["name"]) == ["a", "b", "c"]
        assert list(frame["status"]) == ["success", "success", "error"]
        assert list(frame["result"][:2]) == [1, 2]
        assert frame["error"][2] == "ValueError: no"
        assert frame["seed"][0] == str(2**190)

    def test_polars(self) -> None:
        frame = self.RESULTS.to_frame("polars")
        assert frame["result"].to_list() == [1, 2, None]
        assert frame["attempt"].to_list() == [1, 1, 1]

    def test_arrow(self) -> None:
        table = self.RESULTS.to_frame("arrow")
        assert table.num_rows == 3
        assert table.column("warnings").to_pylist() == ["UserWarning: careful"] * 3

    @pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
    def test_values_of_any_kind(self, kind: Any) -> None:
        odd = Results([result("a", [1, 2]), result("b", {"k": object}), result("c", np.ones(3))])
        frame = odd.to_frame(kind)
        column = list(frame["result"])
        assert len(column) == 3
        if kind == "pandas":
            assert column[0] == [1, 2]
            assert column[2].sum() == 3

    @pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
    def test_none_at_all_has_the_same_columns(self, kind: Any) -> None:
        names = [str(name) for name in self.RESULTS.to_frame("pandas").columns]
        empty = Results[Any]().to_frame(kind)
        found = empty.column_names if kind == "arrow" else empty.columns
        assert list(found) == names

    def test_another_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="pandas"):
            self.RESULTS.to_frame("excel")  # type: ignore[arg-type]


class TestTables:
    def test_as_text(self) -> None:
        assert str(Results([result("a"), result("bb", error=ValueError("no\nmore"))])) == (
            "name  status   seconds  worker  attempts  error\n"
            "a     success  0.25     node/7  1\n"
            "bb    error    0.25     node/7  1         ValueError: no"
        )

    def test_a_long_one_is_cut(self) -> None:
        text = str(Results([result(str(index)) for index in range(30)]))
        assert text.endswith("... and 10 more")
        assert len(text.splitlines()) == 22

    def test_by_rich(self) -> None:
        console = Console(file=io.StringIO(), width=120)
        console.print(Results([result("[bold]")] * 25))
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert "[bold]" in text
        assert "and 5 more" in text

    def test_in_brief(self) -> None:
        assert (
            repr(Results([result(), result(error=OSError())]))
            == "<Results of 2: 1 error, 1 success>"
        )


class TestFailures:
    def test_a_group_tells_of_each_and_has_all_results(self) -> None:
        results = Results(
            [result("a"), result("b", error=ValueError("no")), result("c", error=OSError())]
        )
        group = failed(results)
        assert group.results is results
        assert [type(error) for error in group.exceptions] == [ValueError, OSError]
        assert group.exceptions[0].__notes__ == ["it is task 'b': b(1)"]
        assert str(group).startswith("2 of 3 tasks have failed")

    def test_it_splits_like_any_group(self) -> None:
        group = failed(Results([result("b", error=ValueError("no")), result("c", error=OSError())]))
        values, others = group.split(ValueError)
        assert isinstance(values, TasksFailed)
        assert isinstance(others, TasksFailed)
        assert others.results == group.results

    def test_values_raises_the_first(self) -> None:
        with pytest.raises(ValueError, match="no"):
            Results([result(), result(error=ValueError("no"))]).values()
