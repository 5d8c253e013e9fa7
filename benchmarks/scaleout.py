"""When one server of boards is not enough: what a task costs it, and how many workers that feeds.

*Measured* is what a server spends on a task: some processes at once push, pop and finish small
tasks, one by one, as fast as they can; the CPU seconds of the server for each are its service time.
The server is a dispatcher on TCP with CURVE, and, with ``--url``, a Redis.  A lone process tells
how long a worker is without work between two tasks, where nobody is in its way.

*Simulated* is the rest.  Workers have tasks of some length, exponentially distributed; after each
they are away for the time that a lone one is, and wait for the server, which serves one after the
other; that they say every now and then that they are alive costs it some, too.  The most workers
are looked for that are at work for 90 % of their time.  Behind a Redis cluster the workers share
many boards; each board lies on the shard that its name's hash says, as in a real one, so some
shards have more than others.  The time that a network takes is not in it, unless ``--network``
says it.
"""

from __future__ import annotations

import heapq
import sys
import time
from argparse import ArgumentParser, Namespace
from binascii import crc_hqx
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path
from random import Random
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from _table import Row, duration, parser, show
from boards import SPAWN, XS, ended, taken
from tree import processor_time

from dispatcher.boards import Row as Task
from dispatcher.boards import Worker
from mirai import Daemons, daemons
from mirai.queues.boards._places import Place
from mirai.queues.boards._worker import HEARTBEAT

BOARD = "scaleout"
REQUESTS = 3
"""Of a task: push, pop and end."""
LENGTHS = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Seconds of a task."""
SHARDS = (4, 16)
BOARDS = (16, 256)
"""How many boards share a cluster."""
WANTED = 0.9
"""The share of their time for which workers are to be at work."""
LOADS = (0.05, 0.2, 0.4, 0.6, 0.75, 0.85, 0.95, 1.0, 1.05, 1.1, 1.15, 1.3)
"""As many workers, where 1 would keep a server busy if none ever waited."""
TURNS = 6
"""How many tasks each simulated worker does at least; the first half is left out."""
EVENTS = 20_000
"""And how many all do together at least."""
SLOTS = 16_384
"""Of a Redis cluster; its shards have equal parts of them."""


# ── measured ─────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Server:
    """What a server takes."""

    service: float
    """CPU seconds for a task."""
    away: float
    """Seconds in which a worker whom nobody is in the way of ends a task and has the next."""
    rate: float
    """Tasks a second of all processes together."""

    def for_task(self, length: float) -> float:
        """Return the CPU seconds for a task, with the signs of life that its worker gives.

        Each is taken for one of the three requests of a task.
        """
        return self.service * (1 + length / HEARTBEAT / REQUESTS)


def client(url: str, worker: str, tasks: int, barrier: Any, results: Any) -> None:
    """Be one of several processes that push, pop and finish tasks."""
    store = Place(url, BOARD).open()
    store.enter(Worker(worker))
    spent = []
    barrier.wait()
    for number in range(tasks):
        store.push([Task(f"{worker}-{number}", XS)])
        begun = time.perf_counter()
        store.end(worker, ended([taken(store, worker)]))
        spent.append(time.perf_counter() - begun)
    results.put(median(spent))
    barrier.wait()  # what comes afterwards is not measured
    store.close()


def together(
    url: str, clients: int, tasks: int, used: Callable[[], float]
) -> tuple[float, float, float]:
    """Return what a task takes: the server, all clients together, and one but for its push.

    ``used``: how many CPU seconds the server has used.
    """
    barrier, results = SPAWN.Barrier(clients + 1), SPAWN.Queue()
    each = tasks // clients
    processes = [
        SPAWN.Process(target=client, args=(url, f"w{n}", each, barrier, results))
        for n in range(clients)
    ]
    for process in processes:
        process.start()
    barrier.wait()
    begun, before = time.perf_counter(), used()
    spent = [results.get() for _ in processes]
    wall, service = time.perf_counter() - begun, used() - before
    barrier.wait()
    for process in processes:
        process.join()
    store = Place(url, BOARD).open()
    store.reset()
    store.close()
    return service / (each * clients), wall / (each * clients), min(spent)


def measured(url: str, clients: int, tasks: int, used: Callable[[], float]) -> Server:
    """Return what a server takes."""
    _, _, away = together(url, 1, tasks // clients, used)
    service, wall, _ = together(url, clients, tasks, used)
    return Server(service, away, 1 / wall)


@contextmanager
def dispatcher(folder: Path) -> Iterator[tuple[str, Callable[[], float]]]:
    """Have a dispatcher; yield where its boards are, and what tells the CPU seconds it has used."""
    with daemons(1, "tcp://127.0.0.1:0") as pool:
        file = folder / "pool.json"
        pool.connection_file(file)
        yield f"mirai://{file}", lambda: processor_time(process_of(pool))


def process_of(pool: Daemons) -> int:
    """Return the process of a pool's dispatcher."""
    assert pool._process is not None
    return pool._process.pid


def redis(url: str) -> Callable[[], float]:
    """Return what tells the CPU seconds that a Redis has used, wherever it is."""
    from redis import Redis

    connection: Any = Redis.from_url(Place(url, BOARD).url)

    def used() -> float:
        found = connection.info("cpu")
        return float(found["used_cpu_user"] + found["used_cpu_sys"])

    return used


# ── simulated ────────────────────────────────────────────────────────────────────────────────


def efficiency(workers: int, length: float, service: float, gap: float, seed: int) -> float:
    """Return for which share of their time workers work that have one server.

    ``gap``: the seconds between two tasks in which a worker neither works nor is served.
    """
    draw = Random(seed)
    arrivals = [draw.expovariate(1 / length) for _ in range(workers)]
    heapq.heapify(arrivals)
    free = lost = 0.0
    total = max(TURNS * workers, EVENTS)
    for number in range(total):
        came = arrivals[0]
        free = max(came, free) + service
        if number >= total // 2:
            lost += free - came + gap
        heapq.heapreplace(arrivals, free + gap + draw.expovariate(1 / length))
    return length / (length + lost / (total - total // 2))


@dataclass(frozen=True)
class Curve:
    """How well one server feeds its workers, the more they are."""

    workers: list[int]
    efficiencies: list[float]
    most: float
    """How many workers' time a server is worth that is never idle."""

    @classmethod
    def simulated(cls, length: float, service: float, gap: float, seed: int) -> Curve:
        """Return the curve for tasks of a length."""
        keep_busy = (length + gap + service) / service
        workers = sorted({max(1, round(load * keep_busy)) for load in LOADS})
        found = [efficiency(count, length, service, gap, seed) for count in workers]
        return cls(workers, found, length / service)

    def at(self, workers: float) -> float:
        """Return the efficiency of so many workers, between two that were simulated."""
        right = bisect_left(self.workers, workers)
        if right == 0:
            return self.efficiencies[0]
        if right == len(self.workers):  # the server is never idle
            return min(self.efficiencies[-1], self.most / workers)
        (x, y), (x2, y2) = (
            (self.workers[index], self.efficiencies[index]) for index in (right - 1, right)
        )
        return y + (y2 - y) * (workers - x) / (x2 - x)


def fed(curve: Curve, shares: Sequence[float]) -> int:
    """Return how many workers are at work for the wanted share of their time; 0: not even one.

    ``shares``: which part of them each server has.
    """

    def well(workers: float) -> float:
        return sum(share * curve.at(workers * share) for share in shares)

    if curve.at(1) < WANTED:
        return 0
    low, high = 1.0, 2 * len(shares) * curve.workers[-1]
    while high - low > 0.5:
        middle = (low + high) / 2
        low, high = (middle, high) if well(middle) >= WANTED else (low, middle)
    return int(low)


def shares_of(shards: int, boards: int, seed: int) -> list[float]:
    """Return which part of the boards lies on each shard that has any, by their names."""
    draw = Random(seed)  # of numbered names some shards would have none: CRC is no good hash
    names = [draw.randbytes(8).hex().encode() for _ in range(boards)]
    slots = Counter(crc_hqx(name, 0) % SLOTS * shards // SLOTS for name in names)
    return [count / boards for count in slots.values()]


def layouts(who: str, seed: int) -> dict[str, list[float]]:
    """Return the servers that are looked at, and which part of the workers each of them has."""
    found = {who: [1.0]}
    if who == "redis":  # others do not come in clusters
        for shards in SHARDS:
            for boards in BOARDS:
                found[f"{shards} shards, {boards} boards"] = shares_of(shards, boards, seed)
    return found


def simulate(
    who: str, server: Server, lengths: Sequence[float], network: float, seed: int
) -> dict[tuple[float, str], int]:
    """Return how many workers are fed, by the length of their tasks and by what feeds them."""
    gap = max(0.0, server.away - server.service) + network
    curves = {
        length: Curve.simulated(length, server.for_task(length), gap, seed) for length in lengths
    }
    return {
        (length, layout): fed(curve, shares)
        for length, curve in curves.items()
        for layout, shares in layouts(who, seed).items()
    }


# ── all of it ────────────────────────────────────────────────────────────────────────────────


def measure_all(options: Namespace) -> dict[str, list[Server]]:
    """Return what each server takes, each time."""
    found: dict[str, list[Server]] = {}
    for _ in range(options.repeats):
        with TemporaryDirectory() as folder, dispatcher(Path(folder)) as (url, used):
            one = measured(url, options.clients, options.tasks, used)
            found.setdefault("dispatcher", []).append(one)
        if options.url:
            one = measured(options.url, options.clients, options.tasks, redis(options.url))
            found.setdefault("redis", []).append(one)
    return found


def typical(servers: list[Server]) -> Server:
    """Return the median of each measure."""
    return Server(*(median(values) for values in zip(*map(astuple, servers), strict=True)))


def rows_of(servers: dict[str, list[Server]]) -> list[Row]:
    """Return what was measured."""
    measures: list[tuple[str, str, Callable[[Server], float]]] = [
        ("a task, of the server", "s", lambda server: server.service),
        ("from task to task", "s", lambda server: server.away),
        ("all together", "tasks/s", lambda server: server.rate),
    ]
    return [
        Row(what, who, [value(server) for server in some], unit)
        for what, unit, value in measures
        for who, some in servers.items()
    ]


def arguments() -> ArgumentParser:
    """Return what can be asked for."""
    made = parser(__doc__, repeats=3)
    made.add_argument("--url", help="a Redis to measure too")
    made.add_argument("--tasks", type=int, default=8_000, help="to measure (default: 8,000)")
    made.add_argument("--clients", type=int, default=8, help="processes at once (default: 8)")
    made.add_argument(
        "--lengths", nargs="+", type=float, default=LENGTHS, metavar="S", help="of simulated tasks"
    )
    made.add_argument(
        "--network", type=float, default=0.0, help="seconds of it from task to task (default: 0)"
    )
    made.add_argument("--plot", type=Path, metavar="FILE", help="draw the workers fed, a PNG")
    return made


def main() -> None:
    """Measure, simulate, and print the table."""
    options = arguments().parse_args()
    if not Path("/proc/self/schedstat").exists():
        sys.exit("this needs /proc")
    servers = measure_all(options)
    counts: dict[tuple[float, str], list[float]] = {}
    for who, some in servers.items():
        for seed in range(options.repeats):
            found = simulate(who, typical(some), options.lengths, options.network, seed)
            for key, count in found.items():
                counts.setdefault(key, []).append(count)
    ordered = sorted(counts.items(), key=lambda item: item[0][0])
    rows = [
        Row(f"simulated: tasks of {duration(length)}", who, values, "workers")
        for (length, who), values in ordered
    ]
    lines: dict[str, list[tuple[float, float]]] = {}
    for (length, who), values in ordered:
        lines.setdefault(who, []).append((length, median(values)))
    title = f"Boards: workers that work {WANTED:.0%} of their time"
    show(title, rows_of(servers) + rows, options.json, lines=lines)
    if options.plot is not None:
        from plots import draw_scaleout, load_pyplot, save

        pyplot = load_pyplot() or sys.exit("no plot: matplotlib is not installed")
        save(draw_scaleout(lines, pyplot), options.plot)


if __name__ == "__main__":
    main()
