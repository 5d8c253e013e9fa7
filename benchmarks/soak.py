"""One pool at work for a long time: whether anything grows, slows down, or is left behind.

python benchmarks/soak.py 10                ten minutes; Ctrl-C ends it early, and judges

Each round does a little of everything: tasks one by one, a map, a gather, an array there and back,
cancels, tasks that fail.  Every value is looked at.  After each, it is noted what the host, the
dispatcher and the daemons hold.  In the end, the last third of the rounds is compared with the
first, both without those that warmed up: by their medians, nothing may have grown by more than is
allowed for, and a round may not take twice as long.  Then the pool ends, and nothing of it may be
left.  The exit status is 1 if anything is wrong.
"""

from __future__ import annotations

import asyncio
import gc
import os
import re
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _table import Row, parser, show
from idle import family
from memory import resident

from mirai import daemons, everywhere, mirai, mirai_map, status

WORKERS = 2
FEWEST = 10
"""Fewer rounds than this say nothing of growth."""
MORE = 0.6
"""How many more times a round does everything for each minute that it all takes.

So there are never many rounds, and what is noted of them is not what grows.
"""
WARM_UP = 0.2
"""This part of the rounds warms up."""
SLOWER = 2.0
"""How many times as long a round may take in the end."""
ALLOWED = {"bytes": 4e6, "descriptors": 2.0, "threads": 0.0}
"""By how much each of these may differ in the end: what is freed is not always given back."""
PATIENCE = 10.0
"""How long what a pool leaves may take to go, in seconds."""
ROUND = "round"

Samples = dict[tuple[str, str], list[float]]
"""What, and of whom -> what it was after each round."""


# ── judging ──────────────────────────────────────────────────────────────────────────────


def thirds(values: Sequence[float]) -> tuple[Sequence[float], Sequence[float]]:
    """Return the first and the last third of them, without those of the warm-up."""
    warm = values[int(len(values) * WARM_UP) :]
    third = len(warm) // 3
    return warm[:third], warm[-third:]


def judge(samples: Samples, slower: float = SLOWER) -> list[str]:
    """Return what has grown too much, in words."""
    found = []
    for (what, who), values in samples.items():
        if len(values) < FEWEST:
            continue
        before, after = map(statistics.median_low, thirds(values))
        if what == ROUND:
            if after > slower * before:
                found.append(f"a round takes {after / before:.2f} times as long as it did")
        elif after - before > ALLOWED[what]:
            found.append(f"{who} holds {after - before:,.0f} {what} more than it did")
    return found


# ── what it holds ────────────────────────────────────────────────────────────────────────


def processes() -> dict[str, int]:
    """Return the processes of the pool, by name."""
    mine, dispatcher, *_ = family()
    pids = sorted(daemon.pid for daemon in status().daemons)
    return {"host": mine, "dispatcher": dispatcher} | {
        f"daemon {number}": pid for number, pid in enumerate(pids, 1)
    }


def read(pids: dict[str, int], samples: Samples) -> None:
    """Note what the processes hold."""
    gc.collect()
    for who, pid in pids.items():
        found = {
            "bytes": resident(pid),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")),
            "threads": len(os.listdir(f"/proc/{pid}/task")),
        }
        for what, value in found.items():
            samples.setdefault((what, who), []).append(value)


def traces(directory: str) -> set[str]:
    """Return what there is that a pool of ours may leave behind."""
    found = {f"thread {thread.name}" for thread in threading.enumerate()}
    found |= {f"process {pid}" for pid in family()[1:]}
    found |= {f"temporary file {name}" for name in os.listdir(directory)}
    with suppress(FileNotFoundError):
        found |= {f"shared memory {name}" for name in os.listdir("/dev/shm") if "mirai" in name}
    for line in Path("/proc/net/unix").read_text().splitlines():
        owner = re.match(r"@mirai-(\d+)-", line.split()[-1])
        if owner and not Path("/proc", owner[1]).exists():
            found.add(f"socket {owner.string}")
    return found


def left_behind(directory: str, before: set[str]) -> list[str]:
    """Return what is left of a pool that has ended, once that has had some time."""
    until = time.monotonic() + PATIENCE
    while (left := traces(directory) - before) and time.monotonic() < until:
        time.sleep(0.05)
    return [f"left behind: {what}" for what in sorted(left)]


# ── a round ──────────────────────────────────────────────────────────────────────────────


def same(x: int) -> int:
    """Return it."""
    return x


def echo(x: Any) -> Any:
    """Return it, too; another function, since it takes longer."""
    return x


def increment(x: int) -> int:
    """Add one."""
    return x + 1


def fail(x: int) -> None:
    """Raise an error."""
    raise ValueError(x)


def spin() -> None:
    """Never end."""
    while True:
        pass


def one_by_one() -> None:
    futures = [mirai(same, i) for i in range(1_000)]
    assert [future.result() for future in futures] == [*range(1_000)]


def a_map() -> None:
    assert mirai_map(increment, range(2_000)).collect() == [*range(1, 2_001)]


def gathered() -> None:
    async def main() -> list[int]:
        return await asyncio.gather(*[mirai(same, i) for i in range(500)])

    assert asyncio.run(main()) == [*range(500)]


def an_array() -> None:
    if find_spec("numpy") is not None:
        import numpy as np

        array = np.arange(250_000)
        assert np.array_equal(mirai(echo, array).result(), array)


def cancels() -> None:
    for i in range(10):
        running = mirai(spin)
        running.cancel()
        assert running.cancelled() and mirai(same, i).result() == i
    holding = [mirai(spin) for _ in range(WORKERS)]
    waiting = [mirai(same, i) for i in range(200)]
    for future in holding + waiting:
        assert future.cancel()
    assert mirai(same, 7).result() == 7


def failures() -> None:
    for i, future in enumerate([mirai(fail, i) for i in range(100)]):
        error = future.exception()
        assert isinstance(error, ValueError) and error.args == (i,)


def get_ready() -> None:
    """Import what a daemon will need, though nobody knows when its turn comes."""
    if find_spec("numpy") is not None:
        import numpy  # noqa: F401


PARTS = (one_by_one, a_map, gathered, an_array, cancels, failures)


def soak(minutes: float, samples: Samples) -> list[str]:
    """Do rounds until the time is up; return what is wrong with the pool after them."""
    pids = processes()
    until = time.monotonic() + 60 * minutes
    times = 1 + int(minutes * MORE)
    rounds = samples.setdefault((ROUND, "mirai"), [])
    with suppress(KeyboardInterrupt):
        while time.monotonic() < until or len(rounds) < FEWEST:
            begun = time.perf_counter()
            for part in PARTS * times:
                part()
            rounds.append(time.perf_counter() - begun)
            read(pids, samples)
            memory = samples["bytes", "host"][-1] / 1e6
            print(f"round {len(rounds)}: {rounds[-1]:.3f} s, host {memory:.1f} MB", flush=True)
    return [] if processes() == pids else ["a daemon was lost"]


# ── all of it ────────────────────────────────────────────────────────────────────────────


@contextmanager
def place() -> Iterator[str]:
    """Have all temporary files be in a directory that nobody else uses."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["TMPDIR"] = tempfile.tempdir = directory
        yield directory
        tempfile.tempdir = None


def rows(samples: Samples) -> list[Row]:
    """Return the first and the last third of what was measured."""
    units = {ROUND: "s", "bytes": "B"}
    return [
        Row(f"{what} of {who}", when, [*values], units.get(what, what))
        for (what, who), all in samples.items()
        if len(all) >= FEWEST
        for when, values in zip(("first third", "last third"), thirds(all), strict=True)
    ]


def main() -> int:
    """Soak, print the table, and say what is wrong."""
    arguments = parser(__doc__, repeats=1)
    arguments.add_argument("minutes", type=float)
    arguments.add_argument(
        "--slower", type=float, default=SLOWER, help=f"in the end; default: {SLOWER}"
    )
    options = arguments.parse_args()
    if not Path("/proc/self/statm").exists():
        sys.exit("this needs /proc")
    samples: Samples = {}
    with place() as directory:
        before = traces(directory)
        with daemons(WORKERS) as pool:
            pool.wait(WORKERS)
            everywhere(get_ready).collect()
            wrong = soak(options.minutes, samples)
        wrong += judge(samples, options.slower) + left_behind(directory, before)
    show(f"{len(samples[ROUND, 'mirai'])} rounds", rows(samples), options.json)
    if len(samples[ROUND, "mirai"]) < FEWEST:
        print(f"fewer than {FEWEST} rounds: too few to say whether anything grows")
    for what in wrong:
        print(f"wrong: {what}", file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
