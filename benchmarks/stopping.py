"""What it takes to stop things: cancelled tasks, and workers that die.

"Cancel to next": a running task is cancelled, and the time is that until the same worker has
answered the next task.  "Kill to error": a worker is killed by SIGKILL, and the time is that until
its task has failed.  "Cancel of waiting": so many waiting tasks are cancelled; by ours, until the
dispatcher, too, knows of none.  "Storm": tasks in a busy loop are cancelled one after the other,
each followed at once by another task, which must have its own value; no worker may be lost.

A peer takes part in what it can do: executors cannot stop a task that runs, a
``multiprocessing.Pool`` waits for ever for a worker that was killed, Ray and Dask run its task
again.  The storm is for ours alone.  Each thing is done again and again in one pool, for as long as
that works: an executor is broken when a worker dies.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from _peers import CONTESTANTS, Pool, Start, chosen
from _table import Row, parser, show

from mirai import daemons, mirai, status

CLOCK = time.perf_counter
OURS = ["mirai", "mirai, CURVE", "mirai, dispatcher=False"]
EXECUTORS = ["ProcessPoolExecutor", "ProcessPoolExecutor, spawn", "loky"]


def noop(x: int) -> int:
    """Return it."""
    return x


def spin(begun: str) -> None:
    """Never end; say first which process it is."""
    Path(begun).write_text(f"{os.getpid()}\n")
    while True:
        pass


def hold(begun: str) -> None:
    """Say which process it is; end when that has been read."""
    Path(begun).write_text(f"{os.getpid()}\n")
    while os.path.exists(begun):
        time.sleep(0.001)


def wait_for(file: Path) -> int:
    """Wait until a task says in which process it is; return that."""
    while not (file.exists() and (text := file.read_text()).endswith("\n")):
        time.sleep(0.0005)
    return int(text)


def cancel(who: str, handle: object) -> None:
    """Cancel a task, whether or not it runs."""
    if who == "Ray":
        import ray

        ray.cancel(handle)
    else:
        assert handle.cancel()  # type: ignore[attr-defined]


def cancel_to_next(who: str, pool: Pool, begun: Path) -> float:
    running = pool.submit(spin, str(begun))
    wait_for(begun)
    begun.unlink()
    start = CLOCK()
    cancel(who, running)
    assert pool.call(noop, 7) == 7
    return CLOCK() - start


def kill_to_error(_: str, pool: Pool, begun: Path) -> float:
    running = pool.submit(spin, str(begun))
    pid = wait_for(begun)
    begun.unlink()
    start = CLOCK()
    os.kill(pid, signal.SIGKILL)
    assert running.exception() is not None
    return CLOCK() - start


def cancel_waiting(who: str, pool: Pool, begun: Path, count: int) -> float:
    holding = pool.submit(hold, str(begun))
    wait_for(begun)
    waiting = [pool.submit(noop, i) for i in range(count)]
    while who in OURS and status().awaiting < count:
        time.sleep(0.001)
    start = CLOCK()
    for handle in reversed(waiting):  # an executor has sent the first of them already
        handle.cancel()
    while who in OURS and status().awaiting:
        pass
    seconds = CLOCK() - start
    begun.unlink()
    pool.collect([holding])
    assert sum(handle.cancelled() for handle in waiting) >= count - 5
    return seconds


def storm(count: int, begun: Path) -> float:
    """Cancel every other task once it has begun, and the others right after they were sent."""
    pids = {daemon.pid for daemon in status().daemons}
    start = CLOCK()
    for i in range(count):
        running = mirai(spin, str(begun) if i % 2 else os.devnull)
        if i % 2:
            wait_for(begun)
        running.cancel()
        assert mirai(noop, i).result() == i
    seconds = CLOCK() - start
    assert {daemon.pid for daemon in status().daemons} == pids, "a daemon was lost"
    return seconds / count


Measure = Callable[[str, Pool, Path], float]


def repeated(who: str, start: Start, measure: Measure, begun: Path, repeats: int) -> list[float]:
    """Measure a contestant so many times."""
    breaks = measure is kill_to_error and who in EXECUTORS
    seconds = []
    for _ in range(repeats if breaks else 1):
        with start(1) as pool:
            for _ in range(1 if breaks else repeats):
                pool.call(noop, 0)  # its worker is up
                seconds.append(measure(who, pool, begun))
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--waiting", type=int, default=10_000, help="default: 10,000")
    arguments.add_argument("--storm", type=int, default=1_000, help="default: 1,000")
    arguments.add_argument("--only", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    options = arguments.parse_args()

    def wave(who: str, pool: Pool, begun: Path) -> float:
        return cancel_waiting(who, pool, begun, options.waiting)

    things: dict[str, tuple[list[str], Measure]] = {
        "cancel to next": ([*OURS, "Ray"], cancel_to_next),
        "kill to error": ([*OURS, *EXECUTORS], kill_to_error),
        f"cancel of {options.waiting:,} waiting": ([*OURS, *EXECUTORS], wave),
    }
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        begun = Path(directory, "begun")
        for what, (able, measure) in things.items():
            for who, start in chosen([who for who in able if who in options.only]).items():
                seconds = repeated(who, start, measure, begun, options.repeats)
                rows.append(Row(what, who, seconds))
        if "mirai" in options.only:
            with daemons(1):
                mirai(noop, 0).result()
                rows.append(Row("storm, each", "mirai", [storm(options.storm, begun)]))
    show("Stopping tasks, 1 process", rows, options.json)


if __name__ == "__main__":
    main()
