"""What the benchmarks share: rows of measurements, printed as one table and written as JSON.

A row's ratio is its median over that of the first row that measures the same thing, so that it
says how many times as long (or as much) as ours it took, in the same run on the same machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENOUGH = 100
"""From how many measurements on the 99th percentile says something."""


@dataclass(frozen=True)
class Row:
    """What one contestant took for one thing, each time: less is better."""

    what: str
    who: str
    values: list[float]
    unit: str = "s"
    """``s`` (seconds), ``B`` (bytes), or the name of what is counted."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def p99(self) -> float | None:
        """The 99th percentile, if there are enough to tell."""
        if len(self.values) < ENOUGH:
            return None
        return statistics.quantiles(self.values, n=100, method="inclusive")[98]

    def text(self, value: float) -> str:
        """Return a value as people read it."""
        if self.unit == "s":
            return duration(value)
        return size(value) if self.unit == "B" else f"{value:,.2f} {self.unit}"


def parser(description: str | None, repeats: int) -> argparse.ArgumentParser:
    """Return a parser of the arguments that every benchmark takes."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--json", type=Path, metavar="FILE", help="write the measurements here too")
    made.add_argument(
        "--repeats", type=int, default=repeats, help=f"how often to measure (default: {repeats})"
    )
    return made


def duration(seconds: float) -> str:
    """Return a time as people read it."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if abs(seconds) >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.0f} µs"


def size(count: float) -> str:
    """Return a number of bytes as people read it."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"


def ratios(rows: Iterable[Row]) -> list[float]:
    """Return each row's ratio; NaN where ours took nothing."""
    ours: dict[str, float] = {}
    found = []
    for row in rows:
        first = ours.setdefault(row.what, row.median)
        found.append(row.median / first if first else float("nan"))
    return found


def table(rows: list[Row]) -> str:
    """Return the rows as text."""
    lines = [("", "", "median", "min", "max", "p99", "ratio", "runs")]
    for row, ratio in zip(rows, ratios(rows), strict=True):
        p99 = "" if row.p99 is None else row.text(row.p99)
        ends = row.text(min(row.values)), row.text(max(row.values))
        runs = str(len(row.values))
        lines.append((row.what, row.who, row.text(row.median), *ends, p99, f"{ratio:.2f}", runs))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if index < 2 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def as_json(title: str, rows: list[Row], **more: Any) -> dict[str, Any]:
    """Return the rows, the machine that they were measured on, and more, for JSON."""
    return {
        "benchmark": title,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "rows": [
            {
                "what": row.what,
                "who": row.who,
                "unit": row.unit,
                "median": row.median,
                "p99": row.p99,
                "ratio": ratio,
                "values": row.values,
            }
            for row, ratio in zip(rows, ratios(rows), strict=True)
        ],
        **more,
    }


def show(title: str, rows: list[Row], file: Path | None, **more: Any) -> None:
    """Print the table; write the JSON, and more in it, if a file is given."""
    print(f"{title} · Python {platform.python_version()}, {os.cpu_count()} CPUs\n")
    print(table(rows))
    print("\nratio: how many times as much as the first of its kind took")
    if file is not None:
        file.write_text(json.dumps(as_json(title, rows, **more), indent=1) + "\n", encoding="utf-8")
