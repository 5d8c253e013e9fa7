"""What a task that waits costs in memory, on the host and in the dispatcher.

The workers are held up; then so many tasks are sent, and the resident memory of the two processes
is compared with what it was.  "Left of it" is what they have not given back when all is done.
After the first round, the host has what it needs already.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from pathlib import Path

from _table import Row, parser, show

from mirai import daemons, mirai, status

WORKERS = 2
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096


def same(x: int) -> int:
    """Return it."""
    return x


def hold(gate: str) -> None:
    """Keep a worker busy until the file is gone."""
    while os.path.exists(gate):
        time.sleep(0.001)


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def children() -> list[int]:
    """Return the children of this process."""
    files = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def run(pids: dict[str, int], tasks: int) -> dict[str, tuple[float, float]]:
    """Return for each process the bytes that a waiting task takes, and what is left of it."""
    with tempfile.NamedTemporaryFile(delete=False) as gate:
        holding = [mirai(hold, gate.name) for _ in range(WORKERS)]
    gc.collect()
    before = {who: resident(pid) for who, pid in pids.items()}
    futures = [mirai(same, i) for i in range(tasks)]
    while status().awaiting < tasks:
        time.sleep(0.01)
    during = {who: resident(pid) for who, pid in pids.items()}
    os.remove(gate.name)
    for future in holding + futures:
        future.result()
    del futures, future
    gc.collect()
    after = {who: resident(pid) for who, pid in pids.items()}
    return {
        who: ((during[who] - before[who]) / tasks, (after[who] - before[who]) / tasks)
        for who in pids
    }


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=100_000, help="default: 100,000")
    options = arguments.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("this needs /proc")
    rounds = []
    for _ in range(options.repeats):
        with daemons(WORKERS):
            mirai(same, 0).result()
            rounds.append(run({"host": os.getpid(), "dispatcher": children()[0]}, options.tasks))
    rows = []
    for who in rounds[0]:
        rows.append(Row("a waiting task", who, [found[who][0] for found in rounds], "B"))
    for who in rounds[0]:
        rows.append(Row("left of it", who, [found[who][1] for found in rounds], "B"))
    show(f"Memory of {options.tasks:,} waiting tasks", rows, options.json)


if __name__ == "__main__":
    main()
