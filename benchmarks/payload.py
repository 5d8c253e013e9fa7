"""NumPy arrays there and back: what bytes cost; and one array as argument of many tasks.

The array is sent to a worker process, which returns it, and it is looked at in every page: where
it lies in memory that is shared, only that shows that it is there.  "As argument" is the time of
100 tasks that are given the same array and return a number.
"""

from __future__ import annotations

import sys
import time
from importlib.util import find_spec
from typing import Any

from _peers import CONTESTANTS, Pool, chosen
from _table import Row, parser, show

MEGABYTE = 1_000_000
PAGE = 4_096
TASKS = 100


def same(array: Any) -> Any:
    """Return it."""
    return array


def look(array: Any, index: int) -> int:
    """Return one of its elements."""
    return int(array[index])


def make(size: int) -> Any:
    """Return an array of so many bytes."""
    import numpy as np

    return np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)


def round_trips(pool: Pool, array: Any, count: int) -> list[float]:
    """Return the seconds that the array took so many times; the first, unmeasured, warms up."""
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        back = pool.call(same, array)
        looked = back[::PAGE].sum()
        seconds.append(time.perf_counter() - begun)
        assert back.nbytes == array.nbytes and looked == array[::PAGE].sum()
    return seconds[1:]


def as_argument(pool: Pool, array: Any) -> float:
    """Return the seconds that many tasks with the same array take."""
    begun = time.perf_counter()
    values = pool.collect([pool.submit(look, array, index) for index in range(TASKS)])
    seconds = time.perf_counter() - begun
    assert values == array[:TASKS].tolist()
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument(
        "--megabytes", type=int, nargs="+", default=[1, 10, 100], help="default: 1 10 100"
    )
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    if find_spec("numpy") is None:
        sys.exit("this needs numpy, which is not installed")
    taken: dict[tuple[int, str, str], list[float]] = {}
    for who, start in chosen(options.only).items():
        with start(1) as pool:
            for order, megabytes in enumerate(options.megabytes):
                array = make(megabytes * MEGABYTE)
                count = options.repeats * max(1, 20 // megabytes)
                there_and_back = order, f"{megabytes} MB there and back", who
                taken[there_and_back] = round_trips(pool, array, count)
            shared = len(options.megabytes), f"{megabytes} MB as argument of {TASKS}", who
            taken[shared] = [as_argument(pool, array) for _ in range(min(2, options.repeats))]
    rows = [
        Row(what, who, seconds)
        for (_, what, who), seconds in sorted(taken.items(), key=lambda entry: entry[0][0])
    ]
    show("Arrays, 1 process", rows, options.json)


if __name__ == "__main__":
    main()
