"""Many daemons on machines elsewhere: what they cost the host, flat and behind a few relays.

Each daemon sleeps through so many tasks, whose length leaves the processors free however many
daemons there are.  Measured is the CPU time of the host's two processes for a task: its own, and
the dispatcher's; and the dispatcher's memory in the end.  Flat, each daemon has a connection of
its own; behind relays the relays have them.  All daemons are of this machine, and come by tcp as
if they were not.

A machine has no room for thousands; what these cost is measured of the dispatcher's core alone,
as in ``scale``: one task of so many at a time ends, and another is given out.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from _table import Row, parser, show
from scale import Pool

from dispatcher.messages import Done, Kind, Outcome, Task
from mirai import Daemons, daemons, mirai_map
from mirai.launchers import LocalLauncher

RELAYS = 3
PATIENCE = 300.0
"""Seconds that all daemons have to join."""
SIMULATED = 1_000
"""How many daemons a simulated relay has."""
LONG = 1.0
"""Seconds that a simulated task is said to take."""
WARM = 2
"""How many tasks each daemon does before anything is measured."""


def processor_time(pid: int) -> float:
    """Return the CPU seconds that a process's threads have used."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def memory(pid: int) -> float:
    """Return the bytes of a process that are in memory."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * float(os.sysconf("SC_PAGE_SIZE"))


def costs(pool: Daemons, tasks: int, seconds: float) -> tuple[float, float, float]:
    """Return the CPU seconds for a task of the host's process and of its dispatcher's.

    And the dispatcher's memory.
    """
    assert pool._process is not None
    pid = pool._process.pid
    own, others = time.process_time(), processor_time(pid)
    mirai_map(time.sleep, [seconds] * tasks).collect()
    taken = time.process_time() - own, processor_time(pid) - others
    return taken[0] / tasks, taken[1] / tasks, memory(pid)


def measure(relays: int, each: int, tasks: int, seconds: float, repeats: int) -> list[list[float]]:
    """Return the costs of so many relays, or of plain daemons where ``each`` is 1."""
    count = relays * each
    with daemons(relays, launcher=LocalLauncher(), each=each) as pool:
        pool.wait(relays, PATIENCE)
        mirai_map(time.sleep, [seconds] * WARM * count).collect()
        measured = [costs(pool, tasks * count, seconds) for _ in range(repeats)]
    return [list(values) for values in zip(*measured, strict=True)]


def core_cost(relays: int, each: int, tasks: int) -> float:
    """Return the seconds of a core for one of so many tasks that end one by one."""
    pool = Pool(1, relays, each)
    work = pool.submit(tasks + relays * each)
    pool.spent = 0.0
    hands = [(peer, id) for peer, run in work for one in run.tasks for id in ids(one)]
    for _ in range(tasks):
        peer, id = hands.pop(0)
        given = pool.tell(peer, Done((Outcome(id, Kind.VALUE, seconds=LONG),)))
        hands += [(peer, id) for peer, run in given for one in run.tasks for id in ids(one)]
    return pool.spent / tasks


def ids(task: Task) -> range:
    """Return the numbers of a run's tasks."""
    return range(task.id, task.id + task.count)


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=20, help="of each daemon (default: 20)")
    arguments.add_argument("--seconds", type=float, default=0.05, help="of a task (default: 0.05)")
    arguments.add_argument(
        "--each", nargs="+", type=int, default=[2, 8, 32], help="daemons of a relay"
    )
    options = arguments.parse_args()
    if not Path("/proc/self/schedstat").exists():
        sys.exit("this needs /proc")
    rows: dict[str, list[Row]] = {"host": [], "dispatcher": [], "memory": []}
    for each in options.each:
        shapes = {
            "flat": (RELAYS * each, 1),
            "1 relay": (1, RELAYS * each),
            f"{RELAYS} relays": (RELAYS, each),
        }
        for who, shape in shapes.items():
            found = measure(*shape, options.tasks, options.seconds, options.repeats)
            for (what, some), values in zip(rows.items(), found, strict=True):
                unit = "B" if what == "memory" else "s"
                some.append(Row(f"{what}, {RELAYS * each} daemons", who, values, unit))
    some = options.tasks * 500
    count = RELAYS * SIMULATED
    for who, shape in {"flat": (count, 1), f"{RELAYS} relays": (RELAYS, SIMULATED)}.items():
        values = [core_cost(*shape, some) for _ in range(options.repeats)]
        rows["dispatcher"].append(Row(f"its core, {count:,} daemons", who, values))
    title = "What a task costs the host, and its dispatcher's memory"
    show(title, [row for some in rows.values() for row in some], options.json)


if __name__ == "__main__":
    main()
