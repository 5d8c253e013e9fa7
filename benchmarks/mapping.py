"""A function mapped over many elements: how long it takes to send them, and until all are there.

Sending must not take longer than running: "send" is the call of ``mirai_map``, or of the peer's
``map``, and "all" the time from then until every value has been collected.  A stream sends while
it is consumed, and has no "send" of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai_map

WORKERS = 2
IN_FLIGHT = 1_000
CHUNK = 100
CLOCK = time.perf_counter

Map = Callable[[Callable[[int], int], Iterable[int]], Any]


def increment(x: int) -> int:
    """Add one."""
    return x + 1


def run(map: Map, count: int) -> tuple[float, float]:
    """Map over so many elements; return the seconds until all were sent, and until all were there.

    ``map`` returns what has a ``collect`` method, or is iterated over.
    """
    begun = CLOCK()
    mapped = map(increment, range(count))
    sent = CLOCK()
    values = mapped.collect() if hasattr(mapped, "collect") else list(mapped)
    ended = CLOCK()
    assert len(values) == count
    return sent - begun, ended - begun


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--elements", type=int, default=100_000, help="default: 100,000")
    options = arguments.parse_args()
    taken: dict[str, list[tuple[float, float]]] = {}
    with daemons(WORKERS), ProcessPoolExecutor(WORKERS) as pool:
        maps: dict[str, Map] = {
            "mirai_map": mirai_map,
            f"mirai_map, {IN_FLIGHT:,} in flight": partial(mirai_map, max_in_flight=IN_FLIGHT),
            "ProcessPoolExecutor": pool.map,
            f"ProcessPoolExecutor, chunks of {CHUNK}": partial(pool.map, chunksize=CHUNK),
        }
        for map in maps.values():
            run(map, 100)
        for _ in range(options.repeats):
            for who, map in maps.items():
                taken.setdefault(who, []).append(run(map, options.elements))
    rows = [
        Row(what, who, [pair[index] for pair in pairs])
        for index, what in enumerate(("send", "all"))
        for who, pairs in taken.items()
        if what == "all" or "in flight" not in who
    ]
    show(f"{options.elements:,} elements on 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
