"""A function mapped over many elements, in the best way that each contestant has.

``mirai_map`` sends one task an element, and so do Dask and Ray; ``multiprocessing`` chooses chunks
by itself, and executors are given chunks of 100.  A stream has so many elements in flight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from _peers import CONTESTANTS, chosen
from _table import Row, parser, show

from mirai import mirai_map

WORKERS = 2
IN_FLIGHT = 1_000


def increment(x: int) -> int:
    """Add one."""
    return x + 1


def stream(fn: Callable[[int], int], xs: Sequence[int]) -> list[int]:
    """Map with a bound on what is in flight."""
    return [value for _, value in mirai_map(fn, xs, max_in_flight=IN_FLIGHT)]


def run(map: Callable[..., list[Any]], count: int) -> float:
    """Map over so many elements; return the seconds until all were there."""
    begun = time.perf_counter()
    values = map(increment, range(count))
    seconds = time.perf_counter() - begun
    assert len(values) == count and sum(values) == count * (count + 1) // 2
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--elements", type=int, default=200_000, help="default: 200,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    taken: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for who, start in chosen(options.only).items():
            with start(WORKERS) as pool:
                if pool.map is None:
                    continue
                run(pool.map, 100)
                taken.setdefault(who, []).append(run(pool.map, options.elements))
                if who == "mirai":
                    streamed = f"mirai, {IN_FLIGHT:,} in flight"
                    taken.setdefault(streamed, []).append(run(stream, options.elements))
    what = f"{options.elements:,} elements"
    rows = [Row(what, who, seconds) for who, seconds in taken.items()]
    show("A map on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
