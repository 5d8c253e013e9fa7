"""What a board costs: a task is pushed, taken and ended by requests of their own, or by the many.

The board is on a dispatcher: in this process (thread), at the other end of a line, or on TCP with
CURVE, where one or two processes are its clients at once.  With ``--url`` it is also where that
says: ``redis://localhost``, say.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from _table import Row as Measured
from _table import parser, show

from dispatcher.boards import End, Row, Store, TaskState, Worker
from mirai import daemons
from mirai.queues.boards._dispatcher_store import DispatcherStore
from mirai.queues.boards._places import Place

STEPS = ("push", "pop", "end")
XS = b"x" * 100
SPAWN = multiprocessing.get_context("spawn")

Pause = Callable[[], object]


def ended(keys: list[str]) -> list[End]:
    """Return how tasks end."""
    return [End(key, TaskState.FINISHED, XS) for key in keys]


def one_by_one(store: Store, worker: str, tasks: int, pause: Pause) -> list[float]:
    """Return the seconds that each step takes for a task, one request for each."""
    store.enter(Worker(worker))
    keys: list[str] = []
    steps = (
        lambda key: store.push([Row(key, XS)]),
        lambda _: keys.append(taken(store, worker)),
        lambda _: store.end(worker, ended([keys.pop()])),
    )
    times = []
    for step in steps:
        pause()
        begun = time.perf_counter()
        for number in range(tasks):
            step(f"{worker}{number}")
        times.append((time.perf_counter() - begun) / tasks)
    return times


def taken(store: Store, worker: str) -> str:
    """Return the key of the next task."""
    row = store.pop(worker)
    assert row is not None
    return row.key


def at_once(store: Store, tasks: int) -> tuple[float, float]:
    """Return the seconds that it takes a task to be pushed, and to be read, with all others."""
    rows = [Row(f"many{number}", XS) for number in range(tasks)]
    keys = [row.key for row in rows]
    begun = time.perf_counter()
    store.push(rows)
    pushed = time.perf_counter()
    store.rows(keys)
    return (pushed - begun) / tasks, (time.perf_counter() - pushed) / tasks


def client(url: str, worker: str, tasks: int, barrier: Any, results: Any) -> None:
    """Be one of several processes that do it at the same time."""
    store = Place(url, "clients").open()
    results.put(one_by_one(store, worker, tasks, barrier.wait))
    store.close()


def together(url: str, clients: int, tasks: int) -> list[float]:
    """Return the seconds for each step of a task, where so many processes share the tasks."""
    barrier, results = SPAWN.Barrier(clients), SPAWN.Queue()
    processes = [
        SPAWN.Process(target=client, args=(url, f"w{n}", tasks // clients, barrier, results))
        for n in range(clients)
    ]
    for process in processes:
        process.start()
    times = [results.get() for _ in processes]
    for process in processes:
        process.join()
    store = Place(url, "clients").open()
    store.reset()
    store.close()
    return [max(step) / clients for step in zip(*times, strict=True)]


@contextmanager
def standing() -> Iterator[str]:
    """Have a pool that listens on TCP; yield where its boards are."""
    with tempfile.TemporaryDirectory() as folder, daemons(1, "tcp://127.0.0.1:0") as pool:
        path = Path(folder, "pool.json")
        pool.connection_file(path)
        yield f"mirai://{path}"


def main() -> None:
    """Measure, and print the table."""
    made = parser(__doc__, repeats=5)
    made.add_argument("--tasks", type=int, default=4_000, help="one by one (default: 4,000)")
    made.add_argument("--many", type=int, default=50_000, help="at once (default: 50,000)")
    made.add_argument("--url", help="another place for boards")
    options = made.parse_args()
    values: dict[tuple[str, str], list[float]] = {}

    def add(what: str, who: str, seconds: float) -> None:
        values.setdefault((what, who), []).append(seconds)

    def alone(store: Store, who: str) -> None:
        steps = one_by_one(store, "w", options.tasks, lambda: None)
        for what, seconds in zip(STEPS, steps, strict=True):
            add(f"{what} one", who, seconds)
        pushed, read = at_once(store, options.many)
        add("push many, each", who, pushed)
        add("read many, each", who, read)
        store.reset()

    def several(url: str, who: str) -> None:
        store = Place(url, f"alone {os.getpid()}").open()
        alone(store, who)
        store.close()
        for clients in (1, 2):
            for what, seconds in zip(STEPS, together(url, clients, options.tasks), strict=True):
                add(f"{what} one, of {clients} at once", who, seconds)

    for _ in range(options.repeats):
        for dispatcher, who in ((True, "line"), (False, "thread")):
            with daemons(1, dispatcher=dispatcher) as pool:
                alone(DispatcherStore(pool, "b"), who)
        with standing() as url:
            several(url, "tcp")
        if options.url:
            several(options.url, options.url.partition(":")[0])
    rows = [Measured(what, who, seconds) for (what, who), seconds in sorted(values.items())]
    show("Boards", rows, options.json)


if __name__ == "__main__":
    main()
