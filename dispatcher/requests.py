"""What a client may ask of a board, and the answers.

Each request is a call of ``boards.Store``, where it is explained.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from dispatcher.blob import Blob
from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState

MANY = 100_000
"""How many things one request may be about at most: tasks, workers or lines."""
LARGEST = 100 << 20
"""How large what a task holds may be: its ``xs``, and what came of it; in bytes."""

_Many = msgspec.Meta(max_length=MANY)
Names = Annotated[tuple[str, ...], _Many]
Rows = Annotated[tuple[Row, ...], _Many]


class _Request(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """What is wanted of a board."""


class _Answer(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """What a board has to say."""


# ── requests ─────────────────────────────────────────────────────────────────────────────


class Push(_Request, frozen=True):
    """Add tasks, queued.  The answer is Truths."""

    rows: Rows


class Create(_Request, frozen=True):
    """Add tasks that this worker is running already.  The answer is Truths."""

    worker: str
    rows: Rows


class Pop(_Request, frozen=True):
    """Give this worker the next task.  The answer, in ``timeout`` seconds at most, is Given."""

    worker: str
    timeout: float = 0.0


class Finish(_Request, frozen=True):
    """End tasks of this worker.  The answer is Truths: which of them it still had."""

    worker: str
    ends: Annotated[tuple[End, ...], _Many]


class Withdraw(_Request, frozen=True):
    """Fail tasks that are queued.  The answer is Count."""

    keys: Names | None
    condition: str


class Read(_Request, frozen=True):
    """What are these tasks?  The answer is Given: the first of them, as many as fit in one."""

    keys: Names


class Keys(_Request, frozen=True):
    """Which tasks are in these states?  The answer is Named."""

    states: Annotated[tuple[TaskState, ...], msgspec.Meta(max_length=len(TaskState))]


class Ended(_Request, frozen=True):
    """Which tasks have ended, from there on?  The answer is Named."""

    start: int
    count: int


class Wait(_Request, frozen=True):
    """Tell of the next change, or after ``timeout`` seconds.  The answer is Counted.

    With a timeout of 0, and with another number of changes than there have been, it comes at once.
    """

    changes: int
    timeout: float = 0.0


class Enter(_Request, frozen=True):
    """Know a worker.  The answer is Truths."""

    worker: Worker


class Beat(_Request, frozen=True):
    """This worker is alive.  The answer is Truths: whether it shall go on."""

    worker: str


class Depart(_Request, frozen=True):
    """This worker has ended.  The answer is Truths: whether it ran."""

    worker: str
    state: WorkerState
    reason: str = ""
    most: int = 0


class AskToLeave(_Request, frozen=True):
    """Have these workers leave, or all.  The answer is Truths."""

    workers: Names | None


class FindLost(_Request, frozen=True):
    """Declare those lost that were not heard of in time.  The answer is Named."""

    most: int = 0


class ListWorkers(_Request, frozen=True):
    """Which workers have there been?  The answer is Crew."""


class Log(_Request, frozen=True):
    """Keep lines that a worker has logged.  The answer is Truths."""

    worker: str
    lines: Names


class Logged(_Request, frozen=True):
    """What was logged last, by one or by all?  The answer is Lines."""

    worker: str | None
    last: int


class Put(_Request, frozen=True):
    """Keep an object.  The answer is Truths."""

    name: str
    data: Blob


class Get(_Request, frozen=True):
    """Return an object.  The answer is Object."""

    name: str


class Reset(_Request, frozen=True):
    """Forget everything.  The answer is Truths."""


Request = (
    Push
    | Create
    | Pop
    | Finish
    | Withdraw
    | Read
    | Keys
    | Ended
    | Wait
    | Enter
    | Beat
    | Depart
    | AskToLeave
    | FindLost
    | ListWorkers
    | Log
    | Logged
    | Put
    | Get
    | Reset
)

# ── answers ──────────────────────────────────────────────────────────────────────────────


class Truths(_Answer, frozen=True):
    """It is done; and what was so, where the request asks for it."""

    each: tuple[bool, ...] = ()


class Count(_Answer, frozen=True):
    """How many it were."""

    count: int


class Given(_Answer, frozen=True):
    """Tasks, and None for those that are not there."""

    rows: tuple[Row | None, ...]


class Named(_Answer, frozen=True):
    """Keys of tasks, or ids of workers."""

    names: tuple[str, ...]
    position: int = 0
    """Where to go on reading, of tasks that have ended."""


class Counted(_Answer, frozen=True):
    """How many there are of what."""

    tally: Tally


class Crew(_Answer, frozen=True):
    """Workers."""

    workers: tuple[Worker, ...]


class Lines(_Answer, frozen=True):
    """When, by whom, and what was logged."""

    lines: tuple[tuple[float, str, str], ...]


class Object(_Answer, frozen=True):
    """What was put, or None."""

    data: Blob | None


Answer = Truths | Count | Given | Named | Counted | Crew | Lines | Object
