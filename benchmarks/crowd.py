"""Many tasks, many daemons, many clients, on the wire: whether a task still costs what it did.

The dispatcher is a real one, a process of its own that listens on TCP, encrypted.  The peers are
simulated: each is one connection, and all of them are this process.  The daemons hold back what
they are given until all tasks wait; then each answers at once.  They claim that a task takes so
long that none of them is given a second one: so each task costs the dispatcher the same messages
however many peers there are.  Only, where many answer at once, it wakes up less often.

Measured is its CPU time, of all its threads, from the first task's submission to the last one's
result.  A row's ratio is to the smallest of its kind: 1.00 is flat.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import zmq
from _table import Row, parser, show

from dispatcher.descriptors import raise_limit
from dispatcher.events import Role
from dispatcher.messages import (
    VERSION,
    Done,
    Function,
    Hello,
    Kind,
    Message,
    Outcome,
    Ping,
    Pong,
    Recall,
    Recount,
    Results,
    Returned,
    Run,
    Submit,
    Task,
    ToClient,
    ToDaemon,
    Told,
    Welcome,
)
from dispatcher.security import dial
from dispatcher.sockets import receive_frames
from dispatcher.wire import Reader, encode
from mirai._connection import Connection

CLAIMED = 0.02
"""How many seconds a task takes, as the daemons say."""
AT_A_TIME = 10
"""How many tasks a client submits in one message."""
PATIENCE_MS = 60_000

Socket = zmq.Socket[bytes]


class Shape(NamedTuple):
    """How many there are."""

    clients: int
    daemons: int
    tasks: int

    def __str__(self) -> str:
        return f"{self.clients} clients, {self.daemons:,} daemons, {self.tasks:,} tasks"


class Crowd:
    """Simulated peers, each with its connection."""

    def __init__(self, connection: Connection, shape: Shape) -> None:
        self._connection = connection
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, 2 * (shape.clients + shape.daemons) + 10)
        self._poller = zmq.Poller()
        self._listeners: dict[Socket, Callable[[Message], None]] = {}
        self._reader = Reader(ToClient | ToDaemon)
        self._held: list[tuple[Socket, Run]] | None = None
        self._welcomed = self._told = self._done = self._last = 0
        self._clients = [self._join(Role.CLIENT) for _ in range(shape.clients)]
        for _ in range(shape.daemons):
            self._join(Role.DAEMON)
        self._live_until(lambda: self._welcomed == shape.clients + shape.daemons)
        for client in self._clients:
            _say(client, Submit((), (Function(1, "noop", b"noop"),)))

    def close(self) -> None:
        """Hang up."""
        self._context.destroy(linger=0)

    def run(self, count: int) -> None:
        """Have so many tasks wait at the same time; then have them done."""
        self._told = self._done = 0
        self._held = []
        for first in range(0, count, AT_A_TIME):
            client = self._clients[first // AT_A_TIME % len(self._clients)]
            ids = range(self._last + first + 1, self._last + min(first + AT_A_TIME, count) + 1)
            _say(client, Submit(tuple(Task(id, 1, b"nothing") for id in ids)))
        self._last += count
        for client in self._clients:
            _say(client, Recount(1, self._last))  # it is answered when all before it has been read
        self._live_until(lambda: self._told == len(self._clients))
        held, self._held = self._held, None
        for daemon, work in held:
            self._work(daemon, work)
        self._live_until(lambda: self._done == count)

    def _join(self, role: Role) -> Socket:
        socket = dial(self._context, self._connection.pair(role), self._connection.server)
        socket.connect(self._connection.url)
        _say(socket, Hello(VERSION, "far away"))
        hear = (
            self._hear_as_client if role is Role.CLIENT else partial(self._hear_as_daemon, socket)
        )
        self._listeners[socket] = hear
        self._poller.register(socket, zmq.POLLIN)
        return socket

    def _live_until(self, is_met: Callable[[], bool]) -> None:
        while not is_met():
            ready = self._poller.poll(PATIENCE_MS)
            assert ready, "the dispatcher is silent"
            for socket, _ in ready:
                while (frames := receive_frames(socket)) is not None:
                    self._listeners[socket](self._reader.read(frames))

    def _hear_as_client(self, message: Message) -> None:
        match message:
            case Results(outcomes):
                self._done += sum(outcome.count for outcome in outcomes)
            case Told():
                self._told += 1
            case Welcome():
                self._welcomed += 1
            case _:
                raise AssertionError(message)

    def _hear_as_daemon(self, daemon: Socket, message: Message) -> None:
        match message:
            case Run():
                self._work(daemon, message)
            case Recall():
                _say(daemon, Returned(()))  # it has all begun
            case Ping():
                _say(daemon, Pong())
            case Welcome():
                self._welcomed += 1
            case _:
                raise AssertionError(message)

    def _work(self, daemon: Socket, work: Run) -> None:
        if self._held is not None:
            self._held.append((daemon, work))
        elif work.tasks:
            ids = [task.id for run in work.tasks for task in run.each()]
            outcomes = (Outcome(id, Kind.VALUE, b"nothing", seconds=CLAIMED) for id in ids)
            _say(daemon, Done(tuple(outcomes)))


def _say(socket: Socket, message: Message) -> None:
    socket.send_multipart(encode(message))


@contextmanager
def dispatcher() -> Iterator[tuple[int, Connection]]:
    """Run a dispatcher without daemons; yield its process, and how to connect."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "pool.json")
        command = [sys.executable, "-m", "mirai", "dispatcher", "--connection-file", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()  # it listens
            try:
                yield process.pid, Connection.read(file)
            finally:
                process.kill()


def processor_time(pid: int) -> float:
    """Return the CPU seconds that a process has used, to the nanosecond."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


def costs(shape: Shape, rounds: int, repeats: int) -> list[float]:
    """Return the CPU seconds of a dispatcher for a task, over so many rounds, a few times."""
    found = []
    with dispatcher() as (pid, connection):
        crowd = Crowd(connection, shape)
        crowd.run(min(shape.tasks, 10 * shape.daemons))  # it warms up
        for _ in range(repeats):
            before = processor_time(pid)
            for _ in range(rounds):
                crowd.run(shape.tasks)
            found.append((processor_time(pid) - before) / (rounds * shape.tasks))
        crowd.close()
    return found


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=2)
    for what, count in (("tasks", 100_000), ("daemons", 1_000), ("clients", 100)):
        arguments.add_argument(
            f"--{what}", type=int, default=count, help=f"at the most; default: {count:,}"
        )
    options = arguments.parse_args()
    if not Path("/proc/self/schedstat").exists():
        sys.exit("this needs /proc, with schedstat")
    raise_limit()
    most = Shape(options.clients, options.daemons, options.tasks)
    few = Shape(1, 2, most.tasks // 100)
    tasks = few._replace(tasks=most.tasks)
    some_daemons, daemons = (tasks._replace(daemons=n) for n in (most.daemons // 10, most.daemons))
    clients = tasks._replace(clients=most.clients)
    cases = {
        "tasks": (few, tasks),
        "daemons": (tasks, some_daemons, daemons),
        "clients": (tasks, clients),
        "all": (few, most),
    }
    found: dict[Shape, list[float]] = {}
    for shape in (shape for shapes in cases.values() for shape in shapes):
        if shape not in found:
            found[shape] = costs(shape, most.tasks // shape.tasks, options.repeats)
    rows = [Row(what, str(s), found[s]) for what, shapes in cases.items() for s in shapes]
    show("What a task costs a dispatcher on the wire", rows, options.json)


if __name__ == "__main__":
    main()
