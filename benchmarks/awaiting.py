"""Many tasks awaited at once: how long it takes, and for how long the event loop is blocked.

They are awaited in one ``asyncio.gather``, on asyncio's own loop and on uvloop, or each by a task
in a trio nursery.  The workers are held up until all have been sent and are waited for, which is
the caller's part, done in one turn of the loop: "send".  "arrive" is the time from then on until
the last one is there.  Meanwhile a clock ticks on the loop every millisecond: "longest turn" is
the longest time between two of its ticks, and "its work" the most that the loop's thread itself
has worked between two of them (the rest of a turn, it waits for a processor, or for the GIL).
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from _table import Row, parser, show

from mirai import daemons, mirai

WORKERS = 2
TICK = 0.001
CLOCK = time.perf_counter

Send = Callable[..., Awaitable[Any]]
"""Sends a call; returns what can be awaited."""


def noop() -> None:
    """Do nothing."""


def hold(gate: str) -> None:
    """Keep a worker busy until the file is gone."""
    while os.path.exists(gate):
        time.sleep(TICK)


@dataclass
class Clock:
    """Ticks on an event loop, and remembers the longest time between two ticks."""

    since: tuple[float, float] = (0.0, 0.0)
    longest: float = 0.0
    work: float = 0.0

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Tick until cancelled."""
        while True:
            await sleep(TICK)
            self.tick()

    def start(self) -> None:
        """Forget what was until now."""
        self.since, self.longest, self.work = (CLOCK(), time.thread_time()), 0.0, 0.0

    def tick(self) -> None:
        """Do it once."""
        now = CLOCK(), time.thread_time()
        self.longest = max(self.longest, now[0] - self.since[0])
        self.work = max(self.work, now[1] - self.since[1])
        self.since = now


@dataclass(frozen=True)
class Seconds:
    """What one run took."""

    send: float
    arrive: float
    longest_turn: float
    its_work: float


async def with_gather(send: Send, count: int, gate: str) -> Seconds:
    """Await so many tasks on asyncio."""
    clock = Clock()
    ticking = asyncio.create_task(clock.run(asyncio.sleep))
    begun = CLOCK()
    gathered = asyncio.gather(*[send(noop) for _ in range(count)])
    await asyncio.sleep(0)  # now each of them waits
    sent = CLOCK()
    os.remove(gate)
    clock.start()
    await gathered
    clock.tick()
    ticking.cancel()
    return Seconds(sent - begun, CLOCK() - sent, clock.longest, clock.work)


async def with_nursery(send: Send, count: int, gate: str) -> Seconds:
    """Await so many tasks on trio."""
    import trio

    async def wait(task: Awaitable[Any]) -> None:
        await task

    clock = Clock()
    async with trio.open_nursery() as around:
        around.start_soon(clock.run, trio.sleep)
        begun = CLOCK()
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(wait, send(noop))
            await trio.lowlevel.checkpoint()
            await trio.lowlevel.checkpoint()  # now each of them waits
            sent = CLOCK()
            os.remove(gate)
            clock.start()
        clock.tick()
        around.cancel_scope.cancel()
    return Seconds(sent - begun, CLOCK() - sent, clock.longest, clock.work)


def on_asyncio(main: Callable[[], Coroutine[Any, Any, Seconds]]) -> Seconds:
    return asyncio.run(main())


def on_uvloop(main: Callable[[], Coroutine[Any, Any, Seconds]]) -> Seconds:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def on_trio(main: Callable[[], Coroutine[Any, Any, Seconds]]) -> Seconds:
    import trio

    return trio.run(main)


LOOPS = {
    "asyncio": (on_asyncio, with_gather),
    "uvloop": (on_uvloop, with_gather),
    "trio": (on_trio, with_nursery),
}
"""Name, which is also its module's -> how to run a coroutine on it, and which one."""


def measure(loop: str, submit: Callable[..., Any], send: Send, count: int) -> Seconds:
    """Await so many tasks on a loop, by workers that are held up until all are waited for."""
    run, main = LOOPS[loop]
    with tempfile.NamedTemporaryFile(delete=False) as gate:
        holding = [submit(hold, gate.name) for _ in range(WORKERS)]
    seconds = run(partial(main, send, count, gate.name))
    for future in holding:
        future.result()
    return seconds


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=5)
    arguments.add_argument("--tasks", type=int, default=10_000, help="default: 10,000")
    options = arguments.parse_args()
    rows = []
    with daemons(WORKERS), ProcessPoolExecutor(WORKERS) as pool:
        ours = ("mirai", mirai, mirai)
        peer = (
            "ProcessPoolExecutor",
            pool.submit,
            lambda *call: asyncio.wrap_future(pool.submit(*call)),
        )
        for loop in LOOPS:
            if find_spec(loop) is None:
                print(f"{loop} is skipped: it is not installed", file=sys.stderr)
                continue
            contestants = [ours] if loop == "trio" else [ours, peer]  # no trio for its futures
            runs: dict[str, list[Seconds]] = {who: [] for who, _, _ in contestants}
            for turn in range(options.repeats + 1):
                for who, submit, send in contestants:
                    seconds = measure(loop, submit, send, options.tasks)
                    if turn:  # the first one warms up
                        runs[who].append(seconds)
            for what in ("send", "arrive", "longest turn", "its work"):
                for who, taken in runs.items():
                    each = [getattr(seconds, what.replace(" ", "_")) for seconds in taken]
                    rows.append(Row(f"{loop}: {what}", who, each))
    show(f"{options.tasks:,} tasks awaited at once, 2 processes", rows, options.json)


if __name__ == "__main__":
    main()
