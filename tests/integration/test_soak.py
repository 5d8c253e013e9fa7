"""Much work for a long time, while daemons are killed at random: nothing grows, nothing is lost.

pytest tests/integration/test_soak.py -m thorough     a minute
pytest tests/integration/test_soak.py -m slow         ten million tasks
"""

from __future__ import annotations

import contextlib
import gc
import os
import random
import signal
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mirai import DaemonCrashed, Daemons, daemons, mirai

SEED = 2026
KILLS_PER_SECOND = 1.0
WINDOW = 2_000
"""Tasks that wait or run at a time."""
PAGE = os.sysconf("SC_PAGE_SIZE")


def work(i: int) -> int:
    return -i


class Killer:
    """Kills a daemon of a pool from time to time, as a Poisson process does."""

    def __init__(self, pool: Daemons) -> None:
        self.kills = 0
        self._pool = pool
        self._random = random.Random(SEED)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Killer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._random.expovariate(KILLS_PER_SECOND)):
            pids = [daemon.pid for daemon in self._pool.status().daemons]
            with contextlib.suppress(ProcessLookupError):
                if pids:
                    os.kill(self._random.choice(pids), signal.SIGKILL)
                    self.kills += 1


class Gauge:
    """What a process holds, sampled while it works."""

    def __init__(self, pid: int) -> None:
        self._proc = Path("/proc", str(pid))
        self.times: list[float] = []
        self.samples: dict[str, list[float]] = {"bytes": [], "descriptors": [], "threads": []}

    def read(self) -> None:
        self.times.append(time.monotonic())
        resident = int((self._proc / "statm").read_text().split()[1]) * PAGE
        self.samples["bytes"].append(resident)
        self.samples["descriptors"].append(len(os.listdir(self._proc / "fd")))
        self.samples["threads"].append(len(os.listdir(self._proc / "task")))

    def growth(self, name: str) -> float:
        """Return by how much the fitted line rises over the second half of the samples."""
        half = len(self.times) // 2
        times, values = self.times[half:], self.samples[name][half:]
        return statistics.linear_regression(times, values).slope * (times[-1] - times[0])


def stream(goes_on: Callable[[int], bool]) -> Iterator[tuple[int, int, object]]:
    """Submit tasks, WINDOW of them at a time; yield number, retries, and the value or error."""
    again = mirai.options(retries=20)
    i = 0
    while goes_on(i):
        futures = [
            (again if number % 4 == 0 else mirai)(work, number) for number in range(i, i + WINDOW)
        ]
        for number, future in enumerate(futures, i):
            yield number, 20 * (number % 4 == 0), future.exception() or future.result()
        i += WINDOW


def soak(goes_on: Callable[[int], bool]) -> None:
    outcomes: Counter[str] = Counter()
    with daemons(2) as pool, Killer(pool) as killer:
        assert pool._process is not None
        gauges = {"host": Gauge(os.getpid()), "dispatcher": Gauge(pool._process.pid)}
        due = 0.0
        for i, retries, outcome in stream(goes_on):
            if isinstance(outcome, DaemonCrashed):
                assert outcome.signal == "SIGKILL"
                assert not retries, "a task that could have run again was given up"
            else:
                assert outcome == -i
            outcomes["crashed" if isinstance(outcome, DaemonCrashed) else "answered"] += 1
            if time.monotonic() >= due:
                gc.collect()
                for gauge in gauges.values():
                    gauge.read()
                due = time.monotonic() + 0.5
        kills = killer.kills
    print(f"{outcomes.total():,} tasks, {kills} kills, {dict(outcomes)}")
    assert kills > 5, "too few daemons were killed to tell anything"
    # A death takes the task that ran, and the answers of the last millisecond or so.
    assert outcomes["crashed"] <= 100 * kills, "deaths take tasks that had not started"
    for name, gauge in gauges.items():
        growth = {what: gauge.growth(what) for what in gauge.samples}
        print(name, {what: round(value, 1) for what, value in growth.items()})
        assert growth["bytes"] < 4e6, f"the {name} grows: {growth}"
        assert abs(growth["descriptors"]) < 3, f"the {name} leaks descriptors: {growth}"
        assert abs(growth["threads"]) < 1, f"the {name} leaks threads: {growth}"


@pytest.mark.thorough
@pytest.mark.timeout(180)
def test_a_minute() -> None:
    until = time.monotonic() + 60
    soak(lambda _: time.monotonic() < until)


@pytest.mark.slow
@pytest.mark.timeout(4 * 3_600)
def test_ten_million_tasks() -> None:
    soak(lambda i: i < 10_000_000)
