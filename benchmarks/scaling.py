"""Workers that come and go with the work, on a scheduler that has its jobs wait: simulated.

Three bursts of tasks, a lull, and a trickle, which takes more than an hour of simulated time.
Beside controllers with several idle times stand a rule without memory, which has as many workers
as there are tasks at the moment, and all workers all the time.  What is waited for is a task's
begin; what is paid are workers from when they join until they leave.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from _simulated import Cluster, Record, Rule, Simulation, follow, have, obey
from _table import Row, parser, show

from mirai.controllers.scaling import Policy

MOST = 20
WAIT = 60.0
LENGTH = 30.0
IDLE_TIMES = (300.0, 30.0, 0.0)
BURSTS = (0.0, 600.0, 1_200.0)
BURST = 200
TRICKLE = 3_000.0
DROPS = 60
HOUR = 3_600.0


def ours(idle_time: float) -> Rule:
    """Return the rule of a controller."""
    return follow(Policy(MOST, idle_time=idle_time, gather=1.0))


RULES: dict[str, Callable[[], Rule]] = {
    **{f"mirai, idle_time={each:g}": partial(ours, each) for each in IDLE_TIMES},
    "as many as tasks": partial(obey, MOST),
    "all the time": partial(have, MOST),
}


def demand(draw: Random) -> list[tuple[float, float]]:
    """Return when each task comes, and how many seconds it takes."""
    begins = [begin + draw.uniform(0, 5) for begin in BURSTS for _ in range(BURST)]
    begins += [TRICKLE + 20.0 * number + draw.uniform(0, 10) for number in range(DROPS)]
    return [(begin, draw.expovariate(1 / LENGTH)) for begin in sorted(begins)]


def simulate(rule: Rule, seed: int) -> Record:
    """Return what becomes of the tasks."""
    return Simulation(rule, Cluster(WAIT), demand(Random(seed)), seed).run()


def main() -> None:
    """Simulate, and print the table."""
    options = parser(__doc__, repeats=5).parse_args()
    records = {
        who: [simulate(rule(), seed) for seed in range(options.repeats)]
        for who, rule in RULES.items()
    }
    measures: list[tuple[str, str, Callable[[Record], list[float]]]] = [
        ("jobs", "launched", lambda record: [record.jobs]),
        ("jobs ended in the queue", "ended", lambda record: [record.vain]),
        ("calls of the platform", "calls", lambda record: [record.launches]),
        ("paid", "h", lambda record: [record.paid / HOUR]),
        ("paid and idle", "h", lambda record: [record.idle / HOUR]),
        ("a task's wait", "s", lambda record: record.waits),
        ("all together", "s", lambda record: [record.makespan]),
    ]
    rows = [
        Row(what, who, [value for record in made for value in values(record)], unit)
        for what, unit, values in measures
        for who, made in records.items()
    ]
    lines = {who: made[0].line for who, made in records.items()}
    show(f"Bursts on at most {MOST} workers, simulated", rows, options.json, lines=lines)


if __name__ == "__main__":
    main()
