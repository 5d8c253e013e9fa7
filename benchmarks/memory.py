"""What a task that waits costs in memory, on the host and in the dispatcher.

The workers are held up; then so many tasks are sent, and the resident memory of a process is
compared with what it was.  "Left of it" is what it has not given back when all is done.  Of peers,
which are slow, fewer tasks are asked; Dask's scheduler is in the host, and of what Ray keeps
elsewhere nothing is counted.

Each round has a host of its own, so that none gets what another has left free.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _peers import CONTESTANTS, Pool, Start, chosen
from _table import Row, parser, show

WORKERS = 2
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4_096
THINGS = ("a waiting task", "left of it")


def same(x: int) -> int:
    """Return it."""
    return x


def hold(gate: str) -> None:
    """Keep a worker busy until the file is gone."""
    import os  # Parsl sends a function without what is around it
    import time

    while os.path.exists(gate):
        time.sleep(0.001)


def resident(pid: int) -> int:
    """Return the bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


def children() -> list[int]:
    """Return the children of this process."""
    files = Path("/proc/self/task").glob("*/children")
    return [int(pid) for file in files for pid in file.read_text().split()]


def come_to_rest() -> None:
    """Wait until this process does nothing more by itself: its threads still send, say."""
    used = float("-inf")
    while (now := time.process_time()) - used > 0.01:
        used = now
        time.sleep(0.2)


def run(pool: Pool, pids: dict[str, int], tasks: int) -> dict[str, tuple[float, float]]:
    """Return for each process the bytes that a waiting task takes, and what is left of it."""
    with tempfile.NamedTemporaryFile(delete=False) as gate:
        holding = [pool.submit(hold, gate.name) for _ in range(WORKERS)]
    come_to_rest()
    gc.collect()
    before = {who: resident(pid) for who, pid in pids.items()}
    handles = [pool.submit(same, i) for i in range(tasks)]
    come_to_rest()
    during = {who: resident(pid) for who, pid in pids.items()}
    os.remove(gate.name)
    pool.collect(holding)
    pool.collect(handles)
    del handles
    come_to_rest()
    gc.collect()
    after = {who: resident(pid) for who, pid in pids.items()}
    return {
        who: ((during[who] - before[who]) / tasks, (after[who] - before[who]) / tasks)
        for who in pids
    }


def alone(who: str, start: Start, tasks: int) -> list[Row]:
    """Measure one contestant once, in this process."""
    with start(WORKERS) as pool:
        pool.call(same, 0)
        pids = {who: os.getpid()}
        if who == "mirai":
            pids["mirai, its dispatcher"] = children()[0]
        found = run(pool, pids, tasks)
    return [
        Row(what, process, [sizes[index]], "B")
        for index, what in enumerate(THINGS)
        for process, sizes in found.items()
    ]


def apart(who: str, tasks: int) -> list[Row]:
    """Measure one contestant once, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "rows.json")
        command = [sys.executable, __file__, "--json", str(file), "--repeats", "1"]
        command += ["--tasks", str(tasks), "--share", "1", "--only", who]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return [Row(row["what"], row["who"], row["values"], row["unit"]) for row in rows]


def together(rounds: list[Row]) -> list[Row]:
    """Return the rows of many rounds with those of the same thing as one."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in sorted(rounds, key=lambda row: THINGS.index(row.what)):
        found.setdefault((row.what, row.who), []).extend(row.values)
    return [Row(what, who, values, "B") for (what, who), values in found.items()]


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=100_000, help="default: 100,000")
    arguments.add_argument("--share", type=int, default=10, help="a peer's share; default: 1/10")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("this needs /proc")
    contestants = chosen(options.only)
    contestants.pop("joblib", None)  # it sends nothing before it is asked for the results
    few = options.tasks // options.share
    tasks = {who: options.tasks if who.startswith("mirai") else few for who in contestants}
    if len(contestants) == options.repeats == 1:
        [(who, start)] = contestants.items()
        rows = alone(who, start, tasks[who])
    else:
        rows = [
            row
            for who in contestants
            for _ in range(options.repeats)
            for row in apart(who, tasks[who])
        ]
    show(f"Memory of {options.tasks:,} waiting tasks", together(rows), options.json)


if __name__ == "__main__":
    main()
