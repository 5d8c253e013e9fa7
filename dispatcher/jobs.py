"""A task and its function, while the dispatcher has them."""

from __future__ import annotations

from dispatcher.messages import Function, Task


class Estimate:
    """The mean time of a function's calls, in seconds; None until one has ended."""

    __slots__ = ("count", "seconds")

    def __init__(self) -> None:
        self.seconds: float | None = None
        self.count = 0

    def learn(self, seconds: float) -> None:
        """Take one more duration into the mean: all alike at first, the recent ones later."""
        self.count += 1
        if self.seconds is None:
            self.seconds = seconds
        else:
            self.seconds += (seconds - self.seconds) * max(0.1, 1 / self.count)


class FunctionEntry:
    """A function while a client may use it or a job needs it."""

    __slots__ = ("definition", "estimate", "forgotten", "holders", "uses")

    def __init__(self, definition: Function, estimate: Estimate) -> None:
        self.definition = definition  # numbered by the dispatcher, not by the client
        self.estimate = estimate
        self.uses = 0  # jobs that need it
        self.forgotten = False  # the client will not name it again
        self.holders: set[int] = set()  # daemons that have it


class Job:
    """A task while the dispatcher has it."""

    __slots__ = ("cancelled", "client", "cost", "daemon", "function", "id", "task", "waiting")

    def __init__(self, id: int, client: int, function: FunctionEntry, task: Task) -> None:
        self.id = id  # the client's number
        self.client = client
        self.function = function
        self.task = task  # as sent to a daemon; its id is the job's key
        self.waiting = False  # in the queue
        self.daemon = 0  # the peer that has it in hand, or 0
        self.cost = 0.0  # seconds it was expected to take when it was given away
        self.cancelled = False  # its client has its answer already

    @property
    def key(self) -> int:
        """The dispatcher's number for it: older jobs have smaller ones."""
        return self.task.id
