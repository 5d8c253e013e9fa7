"""A pool that has nothing to do does nothing: none of its processes wakes up."""

from __future__ import annotations

import re
import sys
import threading
import time
from pathlib import Path

import pytest
from conftest import wait_until

from mirai import daemons, mirai, status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="wake-ups are counted in /proc")

WINDOW = 1.0
"""How long nothing must happen, in seconds."""


def wake_ups(task: Path) -> int:
    """Return how often a thread has slept, and thus been woken, so far."""
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)$", (task / "status").read_text(), re.M)
    assert found is not None
    return int(found[1])


def threads_of(pid: int) -> list[Path]:
    return list(Path(f"/proc/{pid}/task").iterdir())


def own_threads() -> list[Path]:
    """Return the threads of this process that mirai has started."""
    threads = [each for each in threading.enumerate() if each.name.startswith("mirai")]
    return [Path(f"/proc/self/task/{each.native_id}") for each in threads]


def counts(threads: list[Path]) -> dict[Path, int]:
    return {each: wake_ups(each) for each in threads}


@pytest.mark.thorough
@pytest.mark.parametrize("options", [{}, {"dispatcher": False}, {"idle_time": "1h"}])
def test_no_thread_of_an_idle_pool_wakes_up(options: dict[str, object]) -> None:
    with daemons(2, **options) as pool:  # type: ignore[arg-type]
        pool.wait(2)
        mirai(abs, -1).result()
        pids = [daemon.pid for daemon in status().daemons]
        if pool._process is not None:
            pids.append(pool._process.pid)
        threads = [*own_threads(), *(each for pid in pids for each in threads_of(pid))]
        assert len(threads) >= 2 * 2 + 1

        def is_quiet() -> bool:
            """Whether nothing has happened for a while: not before garbage is collected."""
            before = counts(threads)
            time.sleep(WINDOW)
            return counts(threads) == before

        wait_until(is_quiet)


def test_a_wake_up_would_be_seen() -> None:
    end = threading.Event()

    def fidget() -> None:
        while not end.wait(WINDOW / 10):
            pass

    thread = threading.Thread(target=fidget, name="mirai-fidget")
    thread.start()
    before = counts(own_threads())
    time.sleep(WINDOW)
    assert counts(own_threads()) != before
    end.set()
    thread.join()
