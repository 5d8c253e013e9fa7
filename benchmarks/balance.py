"""Tasks of unlike length: how well they are spread over the workers.

"Exponential": so many tasks that sleep for times drawn from an exponential distribution, over
what they would take if both workers were busy all the time.  "One long one": many tiny tasks, and
among them one of the same function that sleeps for two seconds; measured is the time until all
the tiny ones are there, which need not wait for it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

from _peers import CONTESTANTS, Pool, chosen
from _table import Row, parser, show

WORKERS = 2
MEAN = 0.005
TASKS = 200
TINY = 1_000
LONG = 2.0


def sleep(seconds: float) -> float:
    """Take so long; return it."""
    time.sleep(seconds)
    return seconds


def lateness(pool: Pool, lengths: Sequence[float]) -> float:
    """Return how many times as long as perfect it takes."""
    begun = time.perf_counter()
    pool.collect([pool.submit(sleep, seconds) for seconds in lengths])
    return (time.perf_counter() - begun) / (sum(lengths) / WORKERS)


def tiny_ones(pool: Pool) -> float:
    """Return how long the tiny tasks take beside a long one."""
    begun = time.perf_counter()
    handles = [pool.submit(sleep, LONG if i == TINY // 3 else 0.0) for i in range(TINY)]
    long = handles.pop(TINY // 3)
    pool.collect(handles)
    seconds = time.perf_counter() - begun
    pool.collect([long])
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    draw = random.Random(0)
    lengths = [draw.expovariate(1 / MEAN) for _ in range(TASKS)]
    late: dict[str, list[float]] = {}
    tiny: dict[str, list[float]] = {}
    for who, start in chosen(options.only).items():
        with start(WORKERS) as pool:
            pool.collect([pool.submit(sleep, 0.0) for _ in range(100)])
            for _ in range(options.repeats):
                late.setdefault(who, []).append(lateness(pool, lengths))
                tiny.setdefault(who, []).append(tiny_ones(pool))
    rows = [Row("exponential", who, values, "× perfect") for who, values in late.items()]
    rows += [Row("one long one", who, values) for who, values in tiny.items()]
    show(f"Unlike tasks on {WORKERS} processes", rows, options.json)


if __name__ == "__main__":
    main()
