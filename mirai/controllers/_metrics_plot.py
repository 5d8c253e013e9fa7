"""Samples, drawn by matplotlib."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

from mirai.controllers._metrics import MIB, Sample

LEGEND = 12
"""With more workers than that, they have no legend: their names are beside their tasks."""
NAMED = 60
"""With more tasks than that, they have no names."""
ROW = 0.25
"""Inches for the tasks of one worker."""
TALLEST = 12.0
"""Inches for those of all."""


def draw(samples: Sequence[Sample]) -> Figure:
    """Return a figure: memory, CPU and tasks of each worker over time."""
    lines = _by_process(samples)
    rows = min(TALLEST, 0.6 + ROW * len(lines))
    figure = Figure(figsize=(10, 6 + rows), layout="constrained")
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, rows))
    memory, cpu, tasks = axes
    start = min((each.time for each in samples), default=0.0)
    for row, line in enumerate(lines):
        times = [each.time - start for each in line]
        name, colour = line[0].worker, f"C{row % 10}"
        memory.plot(times, [each.resident / MIB for each in line], color=colour, label=name)
        cpu.plot(times, [each.cpu for each in line], color=colour)
        _draw_tasks(tasks, row, line, start, colour)
    memory.set_ylabel("resident, MiB")
    cpu.set_ylabel("CPU, % of one core")
    memory.set_ylim(bottom=0)
    cpu.set_ylim(bottom=0)
    _finish(tasks, [line[0].worker for line in lines], start)
    if 0 < len(lines) <= LEGEND:
        memory.legend(fontsize="small")
    if sum(1 for line in lines for _ in _runs(line, start)) <= NAMED:
        _name_tasks(tasks, lines, start)
    return figure


def _by_process(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples of each process, in order of time."""
    lines: dict[tuple[str, int], list[Sample]] = {}
    for sample in samples:
        lines.setdefault((sample.worker, sample.pid), []).append(sample)
    return [sorted(line, key=lambda sample: sample.time) for line in lines.values()]


def _runs(line: Sequence[Sample], start: float) -> Iterator[tuple[str, float, float]]:
    """Yield the tasks of a process: name, begin, and duration, as far as samples tell."""
    before = line[0].time
    for task, group in groupby(line, key=lambda sample: sample.task):
        last = [sample.time for sample in group][-1]
        if task:
            yield task, before - start, last - before
        before = last


def _draw_tasks(axes: Any, row: int, line: Sequence[Sample], start: float, colour: str) -> None:
    bars = [(begin, seconds) for _, begin, seconds in _runs(line, start)]
    axes.broken_barh(bars, (row - 0.4, 0.8), facecolors=colour, edgecolors="white", alpha=0.5)


def _name_tasks(axes: Any, lines: Sequence[Sequence[Sample]], start: float) -> None:
    for row, line in enumerate(lines):
        for task, begin, _ in _runs(line, start):
            # As it is: a name that has a dollar sign is no formula.
            text = axes.text(begin, row, f" {task}", va="center", fontsize="x-small", clip_on=True)
            text.set_parse_math(False)


def _finish(axes: Any, workers: Sequence[str], start: float) -> None:
    axes.set_yticks(range(len(workers)), workers, fontsize="x-small", parse_math=False)
    axes.set_ylim(max(1, len(workers)) - 0.5, -0.5)
    axes.set_ylabel("tasks")
    axes.set_xlabel(f"seconds since {time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(start))}")
