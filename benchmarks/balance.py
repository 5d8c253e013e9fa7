"""Tasks of unlike length: how well they are spread over the workers.

"Exponential": so many tasks that sleep for times drawn from an exponential distribution, over
what they would take if both workers were busy all the time: efficiency is one over that.  "One
long one": many tiny tasks, and among them one of the same function that sleeps for two seconds;
measured is the time from the first result until all the tiny ones are there, which need not wait
for it.  "No long one" is the same without: what that takes longer, the long one has delayed them.
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
    import time  # Parsl sends a function without what is around it

    time.sleep(seconds)
    return seconds


def lateness(pool: Pool, lengths: Sequence[float]) -> float:
    """Return how many times as long as perfect it takes."""
    begun = time.perf_counter()
    pool.collect([pool.submit(sleep, seconds) for seconds in lengths])
    return (time.perf_counter() - begun) / (sum(lengths) / WORKERS)


def tiny_ones(pool: Pool, long: Sequence[float]) -> float:
    """Return how long after the first tiny task the last one is there, beside long ones."""
    lengths = [0.0] * TINY
    lengths[TINY // 3 : TINY // 3] = long
    handles = [(seconds, pool.submit(sleep, seconds)) for seconds in lengths]
    first, *tiny = (handle for seconds, handle in handles if not seconds)
    pool.collect([first])
    begun = time.perf_counter()
    pool.collect(tiny)
    taken = time.perf_counter() - begun
    pool.collect([handle for seconds, handle in handles if seconds])
    return taken


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    draw = random.Random(0)
    lengths = [draw.expovariate(1 / MEAN) for _ in range(TASKS)]
    late: dict[str, list[float]] = {}
    beside: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    for who, start in chosen(options.only).items():
        with start(WORKERS) as pool:
            pool.collect([pool.submit(sleep, 0.0) for _ in range(100)])
            for _ in range(options.repeats):
                late.setdefault(who, []).append(lateness(pool, lengths))
                if pool.eager:
                    beside.setdefault(who, []).append(tiny_ones(pool, [LONG]))
                    alone.setdefault(who, []).append(tiny_ones(pool, []))
    rows = [Row("exponential", who, values, "× perfect") for who, values in late.items()]
    rows += [Row("one long one", who, values) for who, values in beside.items()]
    rows += [Row("no long one", who, values) for who, values in alone.items()]
    show(f"Unlike tasks on {WORKERS} processes", rows, options.json)


if __name__ == "__main__":
    main()
