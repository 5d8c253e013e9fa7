"""Bursts of tasks, and a scheduler that makes jobs wait, refuses them and loses them: simulated.

The simulation is that of the benchmark ``scaling``.  A history that fails prints its seed, and is
the same again with it.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from mirai.controllers.scaling import Policy

SEEDS = 60
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
Line = list[tuple[float, int, int, int]]
FAIR: dict[str, float] = {}
HARSH: dict[str, float] = {"refuses": 0.2, "loses": 0.1, "kills": 0.05, "wall_time": 300.0}


@pytest.fixture
def simulated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that simulates."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _simulated

    return _simulated


def bursts(draw: Random) -> list[tuple[float, float]]:
    """Return tasks: when each comes, and how long it takes."""
    tasks, now = [], 0.0
    for _ in range(draw.randint(1, 5)):
        now += draw.choice([5.0, 100.0, 1_000.0])
        length = draw.choice([0.1, 5.0, 60.0])
        for _ in range(draw.choice([1, 5, 50])):
            tasks.append((now + draw.random(), length * draw.uniform(0.5, 1.5)))
    return tasks


def policy(draw: Random, least: int = 0) -> Policy:
    idle_time = draw.choice([1.0, 30.0, 300.0])
    return Policy(draw.randint(max(1, least), 20), least, idle_time, draw.choice([0.0, 1.0]))


def excess(line: Line, idle_time: float) -> int:
    """Return how many more workers there ever were than had been needed within the idle time."""
    worst, spells, demand = 0, list[tuple[float, int]](), 0
    for now, tasks, coming, there in line:
        spells.append((now, demand))  # it has lasted until now
        recent = [count for end, count in spells if end > now - idle_time]
        worst = max(worst, coming + there - max(tasks, *recent))
        demand = tasks
    return worst


def times_of_need(line: Line, level: int, idle_time: float) -> int:
    """Return how often so many were needed, when they had not been for the idle time before."""
    count, since = 0, float("-inf")
    for (_, before, _, _), (when, demand, _, _) in pairwise([(0.0, 0, 0, 0), *line]):
        if demand >= level > before and when - since >= idle_time:
            count += 1
        elif demand < level <= before:
            since = when
    return count


@pytest.mark.parametrize("cluster", [FAIR, HARSH], ids=["fair", "harsh"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_all_is_done_and_nobody_is_launched_or_idle_in_vain(
    simulated: Any, seed: int, cluster: dict[str, float]
) -> None:
    draw = Random(seed)
    tasks, chosen = bursts(draw), policy(draw)
    wait = draw.choice([0.0, 60.0, 600.0])
    made = simulated.Cluster(wait, **cluster)
    simulation = simulated.Simulation(simulated.follow(chosen), made, tasks, seed)
    record = simulation.run()
    assert len(record.waits) == len(tasks)
    when, demand, pending, workers = record.line[-1]
    assert (demand, pending, workers) == (0, 0, 0)
    assert not simulation.fleet.staying()
    assert when <= record.makespan + chosen.idle_time, "nobody stays longer"
    assert excess(record.line, chosen.idle_time) == 0
    assert max(there + coming for _, _, coming, there in record.line) <= chosen.most
    levels = range(1, chosen.most + 1)
    times = sum(times_of_need(record.line, level, chosen.idle_time) for level in levels)
    assert record.jobs <= times + record.lost, "a job is launched once for each time of need"


@pytest.mark.parametrize("seed", range(SEEDS // 4))
def test_those_that_are_always_to_be_there_are(simulated: Any, seed: int) -> None:
    draw = Random(seed)
    tasks, chosen = bursts(draw), policy(draw, least=draw.randint(1, 5))
    made = simulated.Cluster(draw.choice([0.0, 60.0]))
    record = simulated.Simulation(simulated.follow(chosen), made, tasks, seed).run()
    assert all(coming + there >= chosen.least for _, _, coming, there in record.line)
    assert record.line[-1][1:] == (0, 0, chosen.least)


def test_what_is_pushed_in_a_moment_is_one_array(simulated: Any) -> None:
    tasks = [(number / 20, 30.0) for number in range(15)]
    rule = simulated.follow(Policy(most=20, idle_time=60.0, gather=1.0))
    record = simulated.Simulation(rule, simulated.Cluster(), tasks, 1).run()
    assert (record.launches, record.jobs, record.vain) == (1, 15, 0)


def test_jobs_that_wait_are_kept_while_their_tasks_do(simulated: Any) -> None:
    tasks = [(0.0, 1_000.0)] * 5
    rule = simulated.follow(Policy(most=5, idle_time=1.0))
    record = simulated.Simulation(rule, simulated.Cluster(wait=300.0), tasks, 1).run()
    assert (record.jobs, record.vain) == (5, 0)


def test_a_rule_without_memory_launches_and_ends_jobs_all_the_time(simulated: Any) -> None:
    """So that the simulation is known to tell the one from the other."""
    tasks = [(10.0 * number, 5.0) for number in range(100)]
    cluster = simulated.Cluster(wait=1.0)
    jobs = {
        name: simulated.Simulation(rule, cluster, tasks, 1).run().jobs
        for name, rule in (
            ("ours", simulated.follow(Policy(most=5, idle_time=30.0))),
            ("theirs", simulated.obey(5)),
            ("all", simulated.have(5)),
        )
    }
    assert jobs == {"ours": 1, "theirs": 100, "all": 5}
