"""One task at a time: the way there and back, and how long a pool takes to start and to end.

A pool starts when it is asked for, and has started when its first result is there.  By default,
on Linux, a ProcessPoolExecutor forks (before Python 3.14); with ``spawn`` its processes are fresh
interpreters, as mirai's always are.
"""

from __future__ import annotations

import time

from _peers import CONTESTANTS, Pool, chosen
from _table import Row, parser, show

WORKERS = 2
CLOCK = time.perf_counter


def noop() -> None:
    """Do nothing."""


def round_trips(pool: Pool, count: int) -> list[float]:
    """Return the seconds that each of so many tasks took, one after the other."""
    seconds = []
    for _ in range(count):
        begun = CLOCK()
        pool.call(noop)
        seconds.append(CLOCK() - begun)
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--tasks", type=int, default=2_000, help="default: 2,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    pools = chosen(options.only)
    trips: dict[str, list[float]] = {name: [] for name in pools}
    starts: dict[str, list[float]] = {name: [] for name in pools}
    ends: dict[str, list[float]] = {name: [] for name in pools}
    share = max(1, options.tasks // options.repeats)
    for _ in range(options.repeats):
        for name, start in pools.items():
            begun = CLOCK()
            with start(WORKERS) as pool:
                pool.call(noop)
                starts[name].append(CLOCK() - begun)
                round_trips(pool, min(50, share))
                trips[name] += round_trips(pool, share)
                begun = CLOCK()
            ends[name].append(CLOCK() - begun)
    things = {"round trip": trips, "start to first result": starts, "end": ends}
    rows = [Row(what, who, runs) for what, all in things.items() for who, runs in all.items()]
    show("One task at a time on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
