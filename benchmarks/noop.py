"""Many tasks that do nothing, submitted one by one and collected: what a task costs.

Each contestant has two worker processes that are up before the clock starts.  mirai is given a
lambda, and its connections are encrypted as always.  In each round, all take their turn.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai

WORKERS = 2


def noop() -> None:
    """Do nothing."""


def results(futures: list[Any]) -> list[Any]:
    """Collect futures one after the other."""
    return [future.result() for future in futures]


@dataclass(frozen=True)
class Pool:
    """How to submit one task to a contestant, and the best way to collect many."""

    submit: Callable[[], Any]
    collect: Callable[[list[Any]], list[Any]] = results


@contextmanager
def with_mirai() -> Iterator[Pool]:
    with daemons(WORKERS):
        yield Pool(lambda: mirai(lambda: None))


@contextmanager
def with_process_pool() -> Iterator[Pool]:
    with ProcessPoolExecutor(WORKERS) as pool:
        yield Pool(lambda: pool.submit(noop))


@contextmanager
def with_loky() -> Iterator[Pool]:
    from joblib.externals.loky import ProcessPoolExecutor as Loky

    with Loky(WORKERS) as pool:
        yield Pool(lambda: pool.submit(noop))


@contextmanager
def with_dask() -> Iterator[Pool]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Pool(lambda: client.submit(noop, pure=False), client.gather)


CONTESTANTS: dict[str, tuple[str, Callable[[], AbstractContextManager[Pool]]]] = {
    "mirai": ("mirai", with_mirai),
    "ProcessPoolExecutor": ("concurrent.futures", with_process_pool),
    "joblib/loky": ("joblib", with_loky),
    "Dask distributed": ("distributed", with_dask),
}
"""Name -> the module that it needs, and its pool."""


def run(pool: Pool, tasks: int) -> float:
    """Submit so many tasks and collect them; return the seconds that it took."""
    begun = time.perf_counter()
    collected = pool.collect([pool.submit() for _ in range(tasks)])
    seconds = time.perf_counter() - begun
    assert len(collected) == tasks
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=20_000, help="default: 20,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    chosen = {}
    for name in options.only:
        module, start = CONTESTANTS[name]
        if find_spec(module) is None:
            print(f"{name} is skipped: {module} is not installed", file=sys.stderr)
        else:
            chosen[name] = start
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.repeats):
        for name, start in chosen.items():
            with start() as pool:
                run(pool, 100)
                seconds[name].append(run(pool, options.tasks))
    what = f"{options.tasks:,} tasks"
    rows = [Row(what, name, times) for name, times in seconds.items()]
    show("No-op tasks on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
