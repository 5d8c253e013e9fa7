"""What a journal costs: tasks that are kept on the disk, beside the same tasks that are not.

With it a task is synced to the disk before a daemon hears of it, and so is its result before it is
told.  Peers that keep tasks so need a server (Celery with Redis, Dask has none); here it is beside
``concurrent.futures``, which keeps nothing.

*no-ops* are as many as one map has; *of 1 ms* compute for so long, one map of some for each daemon;
*again* is the map of a job all of which is done already, which comes from the disk.  The bytes are
those of the journal after it.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai_map

MILLISECOND = 0.001


def noop(x: int) -> int:
    """Return it."""
    return x


def compute(x: int) -> int:
    """Take a millisecond of a processor."""
    until = time.perf_counter() + MILLISECOND
    while time.perf_counter() < until:
        pass
    return x


def timed(collect: Any) -> float:
    """Return how many seconds a call takes."""
    begun = time.perf_counter()
    collect()
    return time.perf_counter() - begun


def measure(folder: Path | None, noops: int, computed: int, count: int) -> dict[str, float]:
    """Return the seconds of each kind of map, with a journal in this folder, or without one."""
    path = None if folder is None else folder / "job.db"
    with daemons(count, journal=path) as pool:
        pool.wait(count)
        mirai_map(noop, range(100)).collect()
        mirai_map(compute, range(20)).collect()
        found = {
            "no-ops": timed(lambda: mirai_map(noop, range(noops)).collect()),
            "of 1 ms": timed(lambda: mirai_map(compute, range(computed)).collect()),
        }
        if path is None:
            return found
        job = pool.job("bench")
        found["no-ops of a job"] = timed(lambda: job.map(noop, range(noops)).collect())
        found["again"] = timed(lambda: job.map(noop, range(noops)).collect())
        found["of 1 ms of a job"] = timed(lambda: job.map(compute, range(computed)).collect())
    assert path is not None
    return found | {"bytes": float(path.stat().st_size) / noops}


def measure_executor(noops: int, computed: int, count: int) -> dict[str, float]:
    """Return the seconds of the same maps on an executor."""
    with ProcessPoolExecutor(count) as pool:
        [*pool.map(noop, range(100))]
        return {
            "no-ops": timed(lambda: [*pool.map(noop, range(noops))]),
            "of 1 ms": timed(lambda: [*pool.map(compute, range(computed))]),
        }


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--tasks", type=int, default=30_000, help="no-ops (default: 30,000)")
    arguments.add_argument("--computed", type=int, default=2_000, help="of 1 ms (default: 2,000)")
    arguments.add_argument("--daemons", type=int, default=2)
    arguments.add_argument("--folder", help="where the journal is (default: a temporary one)")
    options = arguments.parse_args()
    found: dict[tuple[str, str], list[float]] = {}
    sizes = options.tasks, options.computed, options.daemons
    for _ in range(options.repeats):
        there = nullcontext(options.folder) if options.folder else tempfile.TemporaryDirectory()
        with there as place, tempfile.TemporaryDirectory(dir=place) as folder:
            runs = {
                "mirai": measure(None, *sizes),
                "mirai, journal": measure(Path(folder), *sizes),
                "ProcessPoolExecutor": measure_executor(*sizes),
            }
        for who, values in runs.items():
            for what, value in values.items():
                found.setdefault((what, who), []).append(value)
    counts = {"no-ops": options.tasks, "of 1 ms": options.computed, "again": options.tasks}
    rows = []
    for (what, who), values in sorted(found.items()):
        if what == "bytes":
            rows.append(Row("bytes of a task", who, values, "B"))
            continue
        count = counts[what.removesuffix(" of a job")]
        rows.append(Row(f"{count:,} {what}", who, values))
    show("What a journal costs", rows, options.json)


if __name__ == "__main__":
    main()
