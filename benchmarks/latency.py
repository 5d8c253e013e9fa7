"""One task at a time: the way there and back, and how long a pool takes to start and to end.

A pool starts when it is asked for, and has started when its first result is there.  By default,
on Linux, a ProcessPoolExecutor forks (before Python 3.14); with ``spawn`` its processes are fresh
interpreters, as mirai's always are.
"""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

from _table import Row, parser, show

from mirai import Daemons, daemons, mirai

WORKERS = 2
CLOCK = time.perf_counter


def noop() -> None:
    """Do nothing."""


def spawning() -> ProcessPoolExecutor:
    """Return the pool whose processes are fresh interpreters."""
    return ProcessPoolExecutor(WORKERS, mp_context=multiprocessing.get_context("spawn"))


def start_mirai() -> Daemons:
    """Start ours, and wait for its first result."""
    pool = daemons(WORKERS)
    mirai(noop).result()
    return pool


def start(make: Callable[[], ProcessPoolExecutor]) -> ProcessPoolExecutor:
    """Start a peer, and wait for its first result."""
    pool = make()
    pool.submit(noop).result()
    return pool


POOLS: dict[str, Callable[[], Any]] = {
    "mirai": start_mirai,
    "ProcessPoolExecutor": lambda: start(lambda: ProcessPoolExecutor(WORKERS)),
    "ProcessPoolExecutor, spawn": lambda: start(spawning),
}


def time_of(action: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that an action took, and what it returned."""
    begun = CLOCK()
    result = action()
    return CLOCK() - begun, result


def round_trips(pool: Any, count: int) -> list[float]:
    """Return the seconds that each of so many tasks took, one after the other."""
    if isinstance(pool, Daemons):
        return [time_of(lambda: mirai(noop).result())[0] for _ in range(count)]
    return [time_of(lambda: pool.submit(noop).result())[0] for _ in range(count)]


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--tasks", type=int, default=1_000, help="default: 1,000")
    options = arguments.parse_args()
    trips: dict[str, list[float]] = {name: [] for name in POOLS}
    starts: dict[str, list[float]] = {name: [] for name in POOLS}
    ends: dict[str, list[float]] = {name: [] for name in POOLS}
    for turn in range(options.repeats):
        for name, begin in POOLS.items():
            seconds, pool = time_of(begin)
            starts[name].append(seconds)
            if turn == 0:
                trips[name] += round_trips(pool, options.tasks)
            ends[name].append(time_of(pool.shutdown)[0])
    things = {"round trip": trips, "start to first result": starts, "end": ends}
    rows = [Row(what, who, runs) for what, all in things.items() for who, runs in all.items()]
    show("One task at a time on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
