"""NumPy arrays there and back: what bytes cost.

The array is sent to a worker process, which returns it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.util import find_spec
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai

MEGABYTE = 1_000_000


def same(array: Any) -> Any:
    """Return it."""
    return array


def round_trips(submit: Callable[[Any], Any], size: int, count: int) -> list[float]:
    """Return the seconds that each of so many arrays took; the first, unmeasured, warms up."""
    import numpy as np

    array = np.random.default_rng(0).integers(0, 255, size, dtype=np.uint8)
    seconds = []
    for _ in range(count + 1):
        begun = time.perf_counter()
        back = submit(array).result()
        seconds.append(time.perf_counter() - begun)
        assert back.nbytes == size and back[-1] == array[-1]
    return seconds[1:]


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument(
        "--megabytes", type=int, nargs="+", default=[1, 100], help="default: 1 100"
    )
    options = arguments.parse_args()
    if find_spec("numpy") is None:
        sys.exit("this needs numpy, which is not installed")
    rows = []
    with daemons(1), ProcessPoolExecutor(1) as pool:
        for megabytes in options.megabytes:
            what, size = f"{megabytes} MB", megabytes * MEGABYTE
            count = options.repeats * max(1, 20 // megabytes)
            ours = round_trips(lambda array: mirai(same, array), size, count)
            theirs = round_trips(lambda array: pool.submit(same, array), size, count)
            rows += [Row(what, "mirai", ours), Row(what, "ProcessPoolExecutor", theirs)]
    show("An array there and back, 1 process", rows, options.json)


if __name__ == "__main__":
    main()
