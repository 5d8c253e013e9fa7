"""Rows as tables: for people, and as data frames."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Any, Literal

Frame = Literal["pandas", "polars", "arrow"]
SHOWN = 20
"""How many rows a table for people has at most."""


def as_text(names: Sequence[str], rows: Sequence[Sequence[str]], count: int) -> str:
    """Return a table for people; ``count`` is how many rows there would be, if all were shown."""
    cells = [names, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    if count > len(rows):
        lines.append(f"... and {count - len(rows)} more")
    return "\n".join(lines)


def as_frame(columns: dict[str, list[Any]], kind: Frame, anything: Collection[str] = ()) -> Any:
    """Return a DataFrame of pandas or of polars, or a Table of Arrow.

    The columns ``anything`` may hold whatever it is: in words (``repr``) where Arrow knows no type
    for all of it, but as it is in a frame of pandas.  Raises ImportError if the package is not
    installed, and ValueError for another ``kind``.
    """
    if kind not in ("pandas", "polars", "arrow"):
        raise ValueError(f'kind must be "pandas", "polars" or "arrow", not {kind!r}')
    if kind == "pandas":
        pandas: Any = import_module("pandas")
        return pandas.DataFrame(
            {
                name: _objects(pandas, values) if name in anything else values
                for name, values in columns.items()
            }
        )
    arrow: Any = import_module("pyarrow")
    table = arrow.table(
        {
            name: _arrow(arrow, values) if name in anything else values
            for name, values in columns.items()
        }
    )
    return table if kind == "arrow" else import_module("polars").from_arrow(table)


def _objects(pandas: Any, values: list[Any]) -> Any:
    """Return a column that holds whatever it is, also lists and arrays."""
    column = pandas.Series([None] * len(values), dtype=object)
    for index, value in enumerate(values):
        column.iat[index] = value
    try:
        return column.infer_objects()
    except ValueError:  # text that cannot be encoded, say
        return column


def _arrow(arrow: Any, values: list[Any]) -> Any:
    try:
        return arrow.array(values)
    except (arrow.ArrowException, TypeError, ValueError, OverflowError):
        return arrow.array([None if value is None else _in_words(value) for value in values])


def _in_words(value: Any) -> str:
    try:
        return plain(repr(value))
    except Exception:  # it is anybody's
        return f"<{type(value).__name__}>"


def plain(text: str) -> str:
    """Return a text as one that can be encoded."""
    return text.encode("utf-8", "backslashreplace").decode()
