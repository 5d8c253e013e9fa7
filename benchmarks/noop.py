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
from importlib.util import find_spec
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai

WORKERS = 2

Submit = Callable[[], Any]


def noop() -> None:
    """Do nothing."""


@contextmanager
def with_mirai() -> Iterator[Submit]:
    with daemons(WORKERS):
        yield lambda: mirai(lambda: None)


@contextmanager
def with_process_pool() -> Iterator[Submit]:
    with ProcessPoolExecutor(WORKERS) as pool:
        yield lambda: pool.submit(noop)


@contextmanager
def with_loky() -> Iterator[Submit]:
    from joblib.externals.loky import ProcessPoolExecutor as Loky

    with Loky(WORKERS) as pool:
        yield lambda: pool.submit(noop)


@contextmanager
def with_dask() -> Iterator[Submit]:
    from distributed import Client

    with Client(
        n_workers=WORKERS, threads_per_worker=1, processes=True, dashboard_address=None
    ) as client:
        yield lambda: client.submit(noop, pure=False)


CONTESTANTS: dict[str, tuple[str, Callable[[], AbstractContextManager[Submit]]]] = {
    "mirai": ("mirai", with_mirai),
    "ProcessPoolExecutor": ("concurrent.futures", with_process_pool),
    "joblib/loky": ("joblib", with_loky),
    "Dask distributed": ("distributed", with_dask),
}
"""Name -> the module that it needs, and its pool."""


def run(submit: Submit, tasks: int) -> float:
    """Submit so many tasks and collect them; return the seconds that it took."""
    begun = time.perf_counter()
    futures = [submit() for _ in range(tasks)]
    for future in futures:
        future.result()
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=20_000, help="default: 20,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    chosen = {}
    for name in options.only:
        module, pool = CONTESTANTS[name]
        if find_spec(module) is None:
            print(f"{name} is skipped: {module} is not installed", file=sys.stderr)
        else:
            chosen[name] = pool
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(options.repeats):
        for name, pool in chosen.items():
            with pool() as submit:
                run(submit, 100)
                seconds[name].append(run(submit, options.tasks))
    what = f"{options.tasks:,} tasks"
    rows = [Row(what, name, times) for name, times in seconds.items()]
    show("No-op tasks on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
