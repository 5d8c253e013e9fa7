"""NumPy arrays there and back: what bytes cost.

The array is sent to a worker process, which returns it, and it is looked at in every page: where
it lies in memory that is shared, only that shows that it is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from multiprocessing.pool import Pool
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai

MEGABYTE = 1_000_000
PAGE = 4_096


def same(array: Any) -> Any:
    """Return it."""
    return array


def round_trips(there_and_back: Callable[[Any], Any], size: int, count: int) -> list[float]:
    """Return the seconds that each of so many arrays took; the first, unmeasured, warms up."""
    import numpy as np

    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        back = there_and_back(array)
        looked = back[::PAGE].sum()
        seconds.append(time.perf_counter() - begun)
        assert back.nbytes == size and looked == array[::PAGE].sum()
    return seconds[1:]


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument(
        "--megabytes", type=int, nargs="+", default=[1, 10, 100], help="default: 1 10 100"
    )
    options = arguments.parse_args()
    if find_spec("numpy") is None:
        sys.exit("this needs numpy, which is not installed")
    rows = []
    with daemons(1), ProcessPoolExecutor(1) as executor, Pool(1) as pool:
        contestants: dict[str, Callable[[Any], Any]] = {
            "mirai": lambda array: mirai(same, array).result(),
            "ProcessPoolExecutor": lambda array: executor.submit(same, array).result(),
            "Pool": lambda array: pool.apply(same, (array,)),
        }
        for megabytes in options.megabytes:
            what, size = f"{megabytes} MB", megabytes * MEGABYTE
            count = options.repeats * max(1, 20 // megabytes)
            for who, there_and_back in contestants.items():
                rows.append(Row(what, who, round_trips(there_and_back, size, count)))
    show("An array there and back, 1 process", rows, options.json)


if __name__ == "__main__":
    main()
