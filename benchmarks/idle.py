"""A pool that has nothing to do: how often its processes wake up, and the CPU time they use."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from _peers import CONTESTANTS, chosen
from _table import Row, parser, show

WORKERS = 2
TICK = 1 / os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 0.01


def noop() -> None:
    """Do nothing."""


def family() -> list[int]:
    """Return this process, its children, their children and so on."""
    found = [os.getpid()]
    for pid in found:
        for file in Path(f"/proc/{pid}/task").glob("*/children"):
            found += map(int, file.read_text().split())
    return found


def wakeups(pids: list[int]) -> int:
    """Return how often their threads have gone to sleep of their own accord."""
    total = 0
    for pid in pids:
        for file in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in file.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    total += int(line.split()[1])
    return total


def processor_time(pids: list[int]) -> float:
    """Return the CPU seconds that they have used."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--seconds", type=float, default=2.0, help="default: 2")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()
    if not Path("/proc/self/status").exists():
        sys.exit("this needs /proc")
    woken: dict[str, list[float]] = {}
    used: dict[str, list[float]] = {}
    for who, start in chosen(options.only).items():
        with start(WORKERS) as pool:
            pool.call(noop)
            time.sleep(1.0)  # let it come to rest
            pids = family()
            for _ in range(options.repeats):
                before = wakeups(pids), processor_time(pids)
                time.sleep(options.seconds)
                after = wakeups(pids), processor_time(pids)
                # This thread's own sleep is one of them.
                woken.setdefault(who, []).append((after[0] - before[0] - 1) / options.seconds)
                used.setdefault(who, []).append((after[1] - before[1]) / options.seconds)
    rows = [Row("wake-ups", who, values, "/s") for who, values in woken.items()]
    rows += [Row("CPU time a second", who, values) for who, values in used.items()]
    show("An idle pool of 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
