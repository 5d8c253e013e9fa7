"""Throughput: by the number of tasks in flight, and by the number of workers.

"In flight": no-op tasks, so many at a time, on two workers; the value is the time for one task.
"Workers": tasks that sleep for 5 ms, on more and more workers; the value is the time for one task
over what it would be if the workers did nothing else.
"""

from __future__ import annotations

import time

from _peers import CONTESTANTS, QUICK, Pool, chosen
from _table import Row, parser, show

WORKERS = 2
DEPTHS = [1, 10, 100, 1_000, 10_000]
CROWDS = [1, 2, 4, 8]
NAP = 0.005


def same(x: int) -> int:
    """Return it."""
    return x


def nap(x: int) -> int:
    """Sleep a little; return it."""
    time.sleep(NAP)
    return x


def windows(pool: Pool, depth: int, tasks: int) -> float:
    """Return the seconds for one of so many tasks, so many at a time."""
    begun = time.perf_counter()
    for first in range(0, tasks, depth):
        count = range(first, min(first + depth, tasks))
        pool.collect([pool.submit(same, i) for i in count])
    return (time.perf_counter() - begun) / tasks


def crowd(pool: Pool, workers: int) -> float:
    """Return how many times as long as perfect it takes."""
    tasks = 100 * workers
    begun = time.perf_counter()
    pool.collect([pool.submit(nap, i) for i in range(tasks)])
    return (time.perf_counter() - begun) / (tasks / workers * NAP)


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=20_000, help="default: 20,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=QUICK)
    options = arguments.parse_args()
    rows: dict[tuple[int, str, str], Row] = {}

    def note(order: int, what: str, who: str, value: float, unit: str = "s") -> None:
        rows.setdefault((order, what, who), Row(what, who, [], unit)).values.append(value)

    for who, start in chosen(options.only).items():
        for _ in range(options.repeats):
            with start(WORKERS) as pool:
                windows(pool, 100, 200)
                for depth in DEPTHS:
                    tasks = min(options.tasks, 200 * depth)
                    note(depth, f"{depth:,} in flight", who, windows(pool, depth, tasks))
            for workers in CROWDS:
                with start(workers) as pool:
                    pool.collect([pool.submit(nap, i) for i in range(2 * workers)])
                    late = crowd(pool, workers)
                note(10**6 + workers, f"{workers} workers", who, late, "× perfect")
    ordered = [row for _, row in sorted(rows.items(), key=lambda entry: entry[0][0])]
    show("Throughput", ordered, options.json)


if __name__ == "__main__":
    main()
