"""Plots of what the benchmarks wrote: ``python benchmarks/plots.py FOLDER`` makes PNGs there."""

from __future__ import annotations

import json
import sys
from bisect import bisect_right
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

Rows = list[dict[str, Any]]


def load(folder: Path, name: str) -> Rows:
    """Return the rows of a benchmark, none if it was not run."""
    file = folder / f"{name}.json"
    rows: Rows = json.loads(file.read_text(encoding="utf-8"))["rows"] if file.exists() else []
    return rows


def by_contestant(rows: Rows, word: str) -> dict[str, list[tuple[int, float]]]:
    """Return for each contestant the medians of the rows "<number> <word>", by number."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        number, _, rest = row["what"].partition(" ")
        if rest == word:
            point = int(number.replace(",", "")), row["median"]
            found.setdefault(row["who"], []).append(point)
    return found


def draw_lines(axes: Any, lines: dict[str, list[tuple[int, float]]]) -> None:
    """Draw one line for each contestant."""
    for who, points in lines.items():
        xs, ys = zip(*sorted(points), strict=True)
        axes.plot(xs, ys, marker="o", label=who, linewidth=2.5 if who == "mirai" else 1.2)
    axes.set_xscale("log", base=10 if max(max(p)[0] for p in lines.values()) > 64 else 2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def throughput(folder: Path, pyplot: Any) -> Path | None:
    """Draw tasks a second against tasks in flight, and the time lost against the workers."""
    rows = load(folder, "flight")
    if not rows:
        return None
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.2))
    lines = by_contestant(rows, "in flight")
    draw_lines(left, {who: [(x, 1 / y) for x, y in line] for who, line in lines.items()})
    left.set(xlabel="tasks in flight", ylabel="no-op tasks a second", yscale="log")
    draw_lines(right, by_contestant(rows, "workers"))
    right.set(xlabel="workers", ylabel="time for tasks of 5 ms, perfect = 1")
    return save(figure, folder / "throughput.png")


def latency(folder: Path, pyplot: Any) -> Path | None:
    """Draw the histogram of round trips."""
    rows = [row for row in load(folder, "latency") if row["what"] == "round trip"]
    if not rows:
        return None
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    low, high = 1e-5, max(row["p99"] or row["median"] for row in rows) * 2
    steps = 80
    edges = [low * (high / low) ** (i / steps) for i in range(steps + 1)]
    for row in rows:
        width = 2.5 if row["who"] == "mirai" else 1.2
        axes.hist(row["values"], bins=edges, histtype="step", label=row["who"], linewidth=width)
    axes.set(xlabel="round trip of one task, seconds", ylabel="tasks", xscale="log")
    axes.legend(fontsize=8)
    return save(figure, folder / "latency.png")


def scaling(folder: Path, pyplot: Any) -> Path | None:
    """Draw the demand of bursts, and the workers that there were for it, by each rule."""
    file = folder / "scaling.json"
    if not file.exists():
        return None
    lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
    figure, all_axes = pyplot.subplots(len(lines), 1, figsize=(9, 2 * len(lines)), sharex=True)
    for axes, (who, line) in zip(all_axes, lines.items(), strict=True):
        times, tasks, pending, running = zip(*line, strict=True)
        axes.stackplot(times, running, pending, step="post", labels=("workers", "pending jobs"))
        axes.step(times, tasks, where="post", color="black", linewidth=0.8, label="tasks")
        axes.set(title=who, ylim=(0, 1.5 * max(map(sum, zip(pending, running, strict=True)))))
    all_axes[0].legend(fontsize=8, loc="upper right")
    all_axes[-1].set(xlabel="seconds")
    return save(figure, folder / "scaling.png")


def search(folder: Path, pyplot: Any) -> Path | None:
    """Draw what searches have found against the time that they took."""
    file = folder / "search.json"
    if not file.exists():
        return None
    lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
    return save(draw_search(lines, pyplot), folder / "search.png")


def draw_search(lines: dict[str, list[list[tuple[float, float]]]], pyplot: Any) -> Any:
    """Draw the least value so far against time: each search, and the middle of those of a kind."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for number, (who, some) in enumerate(lines.items()):
        for line in some:
            times, values = zip(*line, strict=True)
            axes.step(times, values, where="post", color=f"C{number}", alpha=0.25, linewidth=0.8)
        times, values = zip(*middle(some), strict=True)
        axes.step(times, values, where="post", color=f"C{number}", linewidth=2.2, label=who)
    axes.set(xlabel="seconds", ylabel="least error so far", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def scaleout(folder: Path, pyplot: Any) -> Path | None:
    """Draw how many workers servers of boards feed."""
    file = folder / "scaleout.json"
    if not file.exists():
        return None
    lines = json.loads(file.read_text(encoding="utf-8"))["lines"]
    return save(draw_scaleout(lines, pyplot), folder / "scaleout.png")


def draw_scaleout(lines: dict[str, list[tuple[float, float]]], pyplot: Any) -> Any:
    """Draw how many workers are fed against the length of their tasks, where it is any."""
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for who, line in lines.items():
        points = [(length, count) for length, count in line if count]
        axes.plot(*zip(*points, strict=True), marker="o", label=who)
    axes.set(xlabel="seconds of a task", ylabel="workers", xscale="log", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def middle(lines: list[list[tuple[float, float]]]) -> list[tuple[float, float]]:
    """Return the median of step lines, from when on all have begun."""
    times = sorted(time for line in lines for time, _ in line)
    begun = max(line[0][0] for line in lines)

    def value(line: list[tuple[float, float]], time: float) -> float:
        return line[bisect_right(line, time, key=lambda point: point[0]) - 1][1]

    return [(time, median(value(line, time) for line in lines)) for time in times if time >= begun]


def save(figure: Any, file: Path) -> Path:
    """Write the picture, a PNG."""
    figure.tight_layout()
    figure.savefig(file, dpi=130, format="png")
    return file


def load_pyplot() -> Any:
    """Return what draws, without a screen; None if matplotlib is not installed."""
    if find_spec("matplotlib") is None:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def main() -> int:
    """Draw what can be drawn."""
    folder = Path(sys.argv[1])
    pyplot = load_pyplot()
    if pyplot is None:
        print("no plots: matplotlib is not installed", file=sys.stderr)
        return 0
    for draw in (throughput, latency, scaling, search, scaleout):
        if (file := draw(folder, pyplot)) is not None:
            print(f"wrote {file}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
