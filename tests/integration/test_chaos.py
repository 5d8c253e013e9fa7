"""Kill anything at any time: every future resolves, and nothing is left."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, processes_marked, wait_until

from mirai import DaemonCrashed, Daemons, DispatcherLost, Mirai, MiraiError, daemons, mirai

SHORT = list(range(4))
LONG = [pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 60)]


def work(rng_seed: int) -> int:
    """Take between nothing and some milliseconds, on the processor or asleep."""
    kind = rng_seed % 5
    if kind == 0:
        time.sleep(0.003)
    elif kind == 1:
        sum(range(20_000))
    return rng_seed


def kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def daemon_pids(pool: Daemons) -> list[int]:
    """Return the dispatcher's children, whether or not they have joined."""
    dispatcher = os.getpid() if pool._process is None else pool._process.pid
    with contextlib.suppress(OSError):
        files = Path(f"/proc/{dispatcher}/task").glob("*/children")
        return [int(pid) for file in files for pid in file.read_text().split()]
    return []


def submit_all(count: int) -> list[Mirai[Any]]:
    futures: list[Mirai[Any]] = []
    for i in range(count):
        try:
            futures.append(mirai(work, i))
        except MiraiError:
            break
    return futures


@pytest.mark.parametrize("seed", SHORT + LONG)
@pytest.mark.usefixtures("dispatchers")
def test_daemons_killed_at_random(seed: int) -> None:
    rng = random.Random(seed)
    pool = daemons(2)
    stop = threading.Event()

    def killer() -> None:
        while not stop.wait(rng.random() * 0.1):
            for pid in rng.sample(pids := daemon_pids(pool), min(1, len(pids))):
                kill(pid)

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        futures = submit_all(2_000)
        doomed = rng.sample(futures, 200)
        for future in doomed:
            future.cancel()
        for i, future in enumerate(futures):
            error = future.exception(timeout=30)
            assert future.cancelled() or error is None or isinstance(error, DaemonCrashed)
            assert error is not None or future.result() == i
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("seed", SHORT + LONG)
def test_the_dispatcher_killed_at_random(seed: int, mark: str) -> None:
    rng = random.Random(seed)
    pool = daemons(2)
    timer = threading.Timer(rng.random() * 0.3, kill, (pool._process.pid,))
    timer.start()
    futures = submit_all(3_000)
    timer.join()
    for i, future in enumerate(futures):
        error = future.exception(timeout=30)
        assert error is None or isinstance(error, DispatcherLost)
        assert error is not None or future.result() == i
    wait_until(lambda: not processes_marked(mark))


HOST = """
import time
from mirai import mirai, daemons
def work(i): return i
print("go", flush=True)
while True:
    with daemons(2):
        futures = [mirai(work, i) for i in range(300)]
        for i, future in enumerate(futures):
            assert future.result() == i
"""


@pytest.mark.parametrize("seed", SHORT + LONG)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_host_ended_at_random(seed: int, number: int, script: Script, mark: str) -> None:
    rng = random.Random(seed)
    process = script(HOST)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(rng.random())  # not to wait for something: to strike at some moment
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == -number
    assert "Error" not in err.replace("Errno", "")
    wait_until(lambda: not processes_marked(mark))
