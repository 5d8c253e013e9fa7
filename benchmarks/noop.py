"""Many tasks that do nothing, submitted one by one and collected: what a task costs.

Each contestant has two worker processes that are up before the clock starts.  In each round, all
take their turn.  How many tasks are in flight at a time is what ``--in-flight`` says; by default
all are.  Only joblib has no futures: it is given them together.
"""

from __future__ import annotations

import time

from _peers import CONTESTANTS, Pool, chosen
from _table import Row, parser, show

WORKERS = 2


def same(x: int) -> int:
    """Return it."""
    return x


def run(pool: Pool, tasks: int, in_flight: int) -> float:
    """Submit so many tasks, so many at a time, and collect them; return the seconds it took."""
    begun = time.perf_counter()
    for first in range(0, tasks, in_flight):
        count = min(in_flight, tasks - first)
        collected = pool.collect([pool.submit(same, i) for i in range(first, first + count)])
        assert len(collected) == count
    return time.perf_counter() - begun


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=50_000, help="default: 50,000")
    arguments.add_argument("--in-flight", type=int, nargs="+", help="default: all tasks")
    arguments.add_argument("--workers", type=int, default=WORKERS, help=f"default: {WORKERS}")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    depths = options.in_flight or [options.tasks]
    taken: dict[tuple[int, str], list[float]] = {}
    for _ in range(options.repeats):
        for name, start in chosen(options.only).items():
            with start(options.workers) as pool:
                run(pool, 100, 100)
                for depth in depths:
                    seconds = run(pool, options.tasks, depth)
                    taken.setdefault((depth, name), []).append(seconds)
    rows = [
        Row(f"{options.tasks:,} tasks, {depth:,} at a time", name, seconds)
        for (depth, name), seconds in sorted(taken.items(), key=lambda entry: entry[0][0])
    ]
    show(f"No-op tasks on {options.workers} processes", rows, options.json)


if __name__ == "__main__":
    main()
