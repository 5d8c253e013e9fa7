"""Many tasks, many daemons, many clients: whether the cost of a task stays what it is.

The dispatcher's core is driven without sockets or processes: peers are simulated, messages are
the real ones, and the time is that which the core takes for a task from its submission to its
answer.  A row's ratio is to the smallest of its kind: 1.00 is flat.
"""

from __future__ import annotations

import time

from _table import Row, parser, show

from dispatcher.core import Dispatcher
from dispatcher.events import Joined, Role, Send
from dispatcher.messages import VERSION, Done, Function, Hello, Kind, Outcome, Run, Submit, Task


class Pool:
    """A core with simulated peers."""

    def __init__(self, clients: int, daemons: int, width: int = 1) -> None:
        """``width``: how many tasks each daemon does at once."""
        self.core = Dispatcher()
        self.now = 0.0
        self.clients = range(1, clients + 1)
        self.daemons = range(clients + 1, clients + daemons + 1)
        self.spent = 0.0
        self.last = 0
        for peer in self.clients:
            self.tell(peer, Joined(Role.CLIENT, Hello(VERSION, "here", peer)))
            self.tell(peer, Submit((), (Function(1, "noop", b""),)))
        for peer in self.daemons:
            self.tell(peer, Joined(Role.DAEMON, Hello(VERSION, "here", peer, width=width)))

    def tell(self, peer: int, event: object) -> list[tuple[int, Run]]:
        """Hand one message to the core; return the work that it gives out."""
        self.now += 1e-5
        begun = time.perf_counter()
        commands = self.core.handle([(peer, event)], self.now)  # type: ignore[list-item]
        self.spent += time.perf_counter() - begun
        return [
            (command.peer, command.message)
            for command in commands
            if isinstance(command, Send) and isinstance(command.message, Run)
        ]

    def submit(self, count: int) -> list[tuple[int, Run]]:
        """Let the clients submit so many tasks, in turn, a few at a time."""
        work = []
        for first in range(0, count, 10):
            client = self.clients[first // 10 % len(self.clients)]
            tasks = []
            for _ in range(min(10, count - first)):
                self.last += 1
                tasks.append(Task(self.last, 1, b""))
            work += self.tell(client, Submit(tuple(tasks)))
        return work

    def answer(self, work: list[tuple[int, Run]]) -> int:
        """Let the daemons answer what they are given, until nothing is; return how many tasks."""
        done = 0
        while work:
            peer, run = work.pop()
            outcomes = tuple(Outcome(task.id, Kind.VALUE, b"", seconds=1e-5) for task in run.tasks)
            done += len(outcomes)
            work += self.tell(peer, Done(outcomes))
        return done


def cost(clients: int, daemons: int, tasks: int) -> float:
    """Return the seconds of the core for one of so many tasks that wait at the same time."""
    pool = Pool(clients, daemons)
    pool.spent = 0.0
    assert pool.answer(pool.submit(tasks)) == tasks
    return pool.spent / tasks


def main() -> None:
    """Measure, and print the table."""
    arguments = parser(__doc__, repeats=3)
    arguments.add_argument("--tasks", type=int, default=100_000, help="default: 100,000")
    options = arguments.parse_args()
    few = options.tasks // 100
    cases = {
        "tasks": [(1, 2, few), (1, 2, options.tasks)],
        "daemons": [(1, 2, options.tasks), (1, 1_000, options.tasks)],
        "clients": [(1, 2, options.tasks), (100, 2, options.tasks)],
    }
    rows = []
    for what, shapes in cases.items():
        for shape in shapes:
            who = "{} clients, {:,} daemons, {:,} tasks".format(*shape)
            rows.append(Row(what, who, [cost(*shape) for _ in range(options.repeats)]))
    show("What the core takes for a task", rows, options.json)


if __name__ == "__main__":
    main()
