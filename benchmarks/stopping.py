"""What it takes to stop things: cancelled tasks, and workers that die.

"Cancel to next": a running task is cancelled, and the time is that until the same worker has
answered the next task.  "Kill to error": a worker is killed by SIGKILL, and the time is that until
its task has failed.  "Cancel of waiting": so many waiting tasks are cancelled.  "Storm": tasks in
a busy loop are cancelled one after the other, each followed at once by another task, which must
have its own value; no worker may be lost.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from pathlib import Path

from _table import Row, parser, show

from mirai import DaemonCrashed, daemons, mirai, status

CLOCK = time.perf_counter


def noop(x: int) -> int:
    """Return it."""
    return x


def spin(begun: str) -> None:
    """Never end."""
    Path(begun).touch()
    while True:
        pass


def wait_for(file: Path) -> None:
    """Wait until the file is there, and remove it."""
    while not file.exists():
        time.sleep(0.0005)
    file.unlink()


def cancel_to_next(begun: Path) -> float:
    running = mirai(spin, str(begun))
    wait_for(begun)
    start = CLOCK()
    running.cancel()
    assert mirai(noop, 7).result() == 7
    return CLOCK() - start


def kill_to_error(begun: Path) -> float:
    running = mirai(spin, str(begun))
    wait_for(begun)
    [pid] = [daemon.pid for daemon in status().daemons]
    start = CLOCK()
    os.kill(pid, signal.SIGKILL)
    assert isinstance(running.exception(), DaemonCrashed)
    seconds = CLOCK() - start
    mirai(noop, 0).result()  # the next one is up
    return seconds


def cancel_waiting(begun: Path, count: int) -> float:
    running = mirai(spin, str(begun))
    wait_for(begun)
    waiting = [mirai(noop, i) for i in range(count)]
    while status().awaiting < count:
        time.sleep(0.001)
    start = CLOCK()
    for future in waiting:
        assert future.cancel()
    while status().awaiting:
        pass
    seconds = CLOCK() - start
    running.cancel()
    assert mirai(noop, 7).result() == 7
    return seconds


def storm(count: int) -> float:
    pids = {daemon.pid for daemon in status().daemons}
    start = CLOCK()
    for i in range(count):
        running = mirai(spin, os.devnull)
        running.cancel()
        assert mirai(noop, i).result() == i
    seconds = CLOCK() - start
    assert {daemon.pid for daemon in status().daemons} == pids, "a daemon was lost"
    return seconds / count


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--waiting", type=int, default=10_000, help="default: 10,000")
    arguments.add_argument("--storm", type=int, default=1_000, help="default: 1,000")
    options = arguments.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory, daemons(1):
        begun = Path(directory, "begun")
        mirai(noop, 0).result()
        times = range(options.repeats)
        rows.append(Row("cancel to next", "mirai", [cancel_to_next(begun) for _ in times]))
        rows.append(Row("kill to error", "mirai", [kill_to_error(begun) for _ in times]))
        what = f"cancel of {options.waiting:,} waiting"
        rows.append(Row(what, "mirai", [cancel_waiting(begun, options.waiting) for _ in times]))
        rows.append(Row("storm, each", "mirai", [storm(options.storm)]))
    show("Stopping tasks, 1 process", rows, options.json)


if __name__ == "__main__":
    main()
