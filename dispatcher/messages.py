"""What peers tell each other.

Every message that carries work carries a list of it: a batch costs one wake-up, one system
call and one encryption, whatever its length.  A task's payload and an outcome's payload are
opaque here and everywhere else in ``dispatcher``.

    client ──▶ dispatcher    Hello  Submit  Everywhere  Cancel  Recall  Ask  Recount  Scale
      of durable jobs:       Enlist  Attach  Fetched  Look  Redo  Discard
      of boards:             Consult
    host ────▶ dispatcher    besides: Admit  Expel  Expect  Dismiss  Despair
    client ◀── dispatcher    Welcome  Refused  Results  Returned  Report  Told  Printed  Stop
                             Seen  Reply  Objected
    daemon ──▶ dispatcher    Hello  Done  Returned  Printed  Pong  Leave
    daemon ◀── dispatcher    Welcome  Refused  Run  Recall  Interrupt  Ping  Stop

A *relay* is both: a daemon of one dispatcher, and the host of another, to whose daemons it passes
on what it is given.  Each side sees nothing else than a daemon that does several tasks at once,
and a client that may want some of its tasks back.

Boards are beside all that: tables which the dispatcher keeps for its clients, and whose tasks are
none of those that it gives out.  What may be asked of one is in ``requests``.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, IntEnum
from typing import Annotated

import msgspec

from dispatcher.blob import Blob as Blob
from dispatcher.blob import Buffer as Buffer
from dispatcher.requests import Answer, Request

VERSION = 1
"""The protocol's version; peers of another version are refused at their Hello."""
MAX_WIDTH = 1_000
"""How many tasks a daemon may do at once."""
MAX_NAME = 200
"""How many letters the name of a durable job may have."""
KEY_BYTES = 16
"""How long a key is by which durable tasks are known again, or a version of a function."""


class Role(Enum):
    """What a peer is; its key says so."""

    CLIENT = "client"
    DAEMON = "daemon"


class ProtocolError(Exception):
    """A peer sent what it may not send.  It has changed nothing, and ends the connection."""


class _Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A thing inside a message."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """A thing on the wire; its class name is its tag."""


# ── parts ────────────────────────────────────────────────────────────────────────────────


class Function(_Part, frozen=True):
    """What a task calls.  Sent once on each connection, and afterwards known by its number."""

    number: int
    name: str
    payload: bytes
    blobs: tuple[Blob, ...] = ()
    fresh: bool = False
    """Whether each task gets a new one, since it may change when it is called."""


class Task(_Part, frozen=True):
    """One call.  ``id`` is the sender's own number for it, larger than those it used before.

    An empty ``payload`` means that the first blob is the payload.

    With ``following`` it is a *run*: several tasks that are alike but for their payloads, which
    are told, kept and given out at the cost of one for as long as they stay together.
    """

    id: int
    function: int
    payload: bytes
    blobs: tuple[Blob, ...] = ()
    priority: int = 0
    timeout: float = 0.0
    """Seconds from now after which it is given up; 0: never."""
    retries: int = 0
    """How often it may run again, after its daemon died or where its outcome says ``again``."""
    tags: tuple[str, ...] = ()
    """Only a daemon that carries all of these may have it."""
    stream: bytes = b""
    """What the daemon seeds the task's random numbers with; empty: nothing."""
    keep: bool = False
    """What it changes in its process is there to stay."""
    following: tuple[bytes, ...] = ()
    """The payloads of the tasks with the next ids; only where there are no blobs, no ``stream``
    and no ``keep``."""

    @property
    def count(self) -> int:
        """How many tasks it is."""
        return 1 + len(self.following)

    def each(self) -> Iterator[Task]:
        """Yield its tasks one by one."""
        if not self.following:
            yield self
            return
        yield self.part(0, 1)
        for index, payload in enumerate(self.following, 1):
            yield Task(  # by position, which is faster
                self.id + index,
                self.function,
                payload,
                (),
                self.priority,
                self.timeout,
                self.retries,
                self.tags,
            )

    def part(self, start: int, count: int) -> Task:
        """Return ``count`` of its tasks, from the one after ``start`` others."""
        if count == self.count:
            return self
        return Task(
            self.id + start,
            self.function,
            self.following[start - 1] if start else self.payload,
            self.blobs,
            self.priority,
            self.timeout,
            self.retries,
            self.tags,
            self.stream,
            self.keep,
            self.following[start : start + count - 1],
        )


class Kind(IntEnum):
    """How a task ended."""

    VALUE = 0
    ERROR = 1
    CANCELLED = 2
    CRASHED = 3
    TIMEOUT = 4
    DECLINED = 5


class Crash(_Part, frozen=True):
    """Why a task's daemon did not answer."""

    reason: str
    exit: int | None = None
    """The exit code, or minus the number of the signal; None where it is not known."""
    host: str = ""
    pid: int = 0
    attempt: int = 1
    tail: str = ""
    """The last lines that the daemon printed."""
    job: str = ""
    """The job of a platform that the daemon was; empty if it was none."""


class Step(_Part, frozen=True):
    """One step of a task's story, in words."""

    ago: float
    """How many seconds before it was told."""
    what: str


class Outcome(_Part, frozen=True):
    """How the task ``id`` ended.

    Only the dispatcher says ``CRASHED``, ``TIMEOUT``, and ``DECLINED``: it takes no more tasks.
    But a relay passes on what its own has said: that one of the daemons behind it has crashed.
    """

    id: int
    kind: Kind
    payload: bytes = b""
    blobs: tuple[Blob, ...] = ()
    seconds: float = 0.0
    """How long the daemon was busy with it: unpickling, the call and pickling, in seconds."""
    crash: Crash | None = None
    again: bool = False
    """Whether this error is one after which the task's sender wants it to run again."""
    log: str = ""
    """The last lines that the task printed."""
    story: tuple[Step, ...] = ()
    """What the dispatcher tells of the task; nothing where all was as usual, and short."""
    following: tuple[bytes, ...] = ()
    """The values of the tasks with the next ids, where all are values without blobs, logs and
    stories; ``seconds`` is of all then."""

    @property
    def count(self) -> int:
        """How many tasks it is about."""
        return 1 + len(self.following)

    def part(self, id: int, start: int, count: int, story: tuple[Step, ...] = ()) -> Outcome:
        """Return ``count`` of its outcomes, from the one after ``start`` others.

        They are of the tasks ``id`` and the next, whose story this is.
        """
        following, seconds = self.following, self.seconds
        if count != self.count:
            following = following[start : start + count - 1]
            seconds *= count / self.count
        return Outcome(  # by position, which is faster
            id,
            self.kind,
            self.following[start - 1] if start else self.payload,
            self.blobs,
            seconds,
            None,
            self.again,
            self.log,
            story,
            following,
        )


class Slot(_Part, frozen=True):
    """What sets one local daemon apart from the others."""

    env: dict[str, str] = {}
    tags: tuple[str, ...] = ()


class DaemonReport(_Part, frozen=True):
    """One daemon, as the dispatcher sees it."""

    id: int
    host: str
    pid: int
    state: str
    """``"idle"``, ``"busy"``, ``"stalled"`` or ``"leaving"``.

    One that is stalled is in a task, and does not answer: a call in C holds its interpreter's
    lock, say, or its process was stopped.  Its task may still end.
    """
    tasks: int
    """How many tasks it has in hand."""
    done: int
    """How many it has answered."""
    since: float
    """Seconds since it joined."""
    tags: tuple[str, ...] = ()
    task: str = ""
    """The function that it is evaluating; empty if none."""
    seconds: float = 0.0
    """For how long it has been evaluating that, in seconds, as far as the dispatcher can know."""
    job: str = ""
    """The job that it is for the platform on which it was launched; empty if it is none."""
    width: int = 1
    """How many tasks it does at once: 1, or for a relay as many as there are daemons behind it."""


class Refusals(_Part, frozen=True):
    """How often the dispatcher has refused something, besides illegal messages."""

    keys: int = 0
    """Connections with a key that may not connect: it is unknown, or not valid any more."""
    strangers: int = 0
    """Connections that ended before anyone in them had proved a key and said hello."""
    peers: int = 0
    """Peers that were cut off, since they broke the protocol."""


class PoolReport(_Part, frozen=True):
    """The pool at one moment."""

    connections: int
    cumulative: int
    awaiting: int
    executing: int
    completed: int
    rejected: int
    daemons: tuple[DaemonReport, ...] = ()
    wanted: tuple[tuple[str, ...], ...] = ()
    """The tags of tasks that wait for a daemon which is not there, each set once; an empty one
    for tasks without tags, and for calls for every daemon."""
    kept: int = 0
    """How many local daemons there are to be."""
    failure: Crash | None = None
    """How the last local daemon has ended that could not join; None once one has."""
    refusals: Refusals = Refusals()
    arrived: tuple[str, ...] = ()
    """Which of the jobs that the host expected last have been a daemon, if only for a moment."""
    python: str = ""
    """The dispatcher's version of Python, as in ``"3.11"``."""
    package: str = ""
    """Its version of this package."""
    clock: float = 0.0
    """What its clock showed, in seconds since the epoch."""


class Span(_Part, frozen=True):
    """Numbers that follow one another."""

    first: int
    count: Annotated[int, msgspec.Meta(ge=1)]

    @property
    def numbers(self) -> range:
        """All of them."""
        return range(self.first, self.first + self.count)


class FunctionReport(_Part, frozen=True):
    """What calls of one function there are in a durable job."""

    name: str
    version: bytes
    """What its sender took for its code's identity; empty: it did not say."""
    tasks: int


class JobReport(_Part, frozen=True):
    """A durable job: how many of its tasks are in which state, of those that it still knows."""

    name: str
    made: float
    """When, in seconds since the epoch."""
    waiting: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    """Those that ended with an error, were lost with their daemon, cancelled, or late."""
    functions: tuple[FunctionReport, ...] = ()
    tasks: tuple[tuple[Span, str], ...] = ()
    """Their serials and functions, in the order in which they came, if that was asked for."""


# ── messages ─────────────────────────────────────────────────────────────────────────────


class Hello(_Message, frozen=True):
    """A peer's first message.  Its role is not in here: that comes from its key."""

    version: int
    host: str = ""
    pid: int = 0
    tags: tuple[str, ...] = ()
    """What a daemon carries."""
    python: str = ""
    """Its version of Python, as in ``"3.11"``; empty: it does not say."""
    package: str = ""
    """Its version of this package; empty: it does not say."""
    job: str = ""
    """What a daemon is for the platform that has launched it; empty if none has."""
    left: float = 0.0
    """After how many seconds a daemon ends for certain; 0: it knows of no end."""
    width: Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)] = 1
    """How many tasks a daemon does at once."""


class Welcome(_Message, frozen=True):
    """The dispatcher knows the peer now."""

    number: int = 0
    """What it calls the peer, in reports and stories."""


class Refused(_Message, frozen=True):
    """The dispatcher will not listen to this peer any more."""

    reason: str


class Submit(_Message, frozen=True):
    """New tasks, the functions that they are the first to need, and numbers not needed again."""

    tasks: tuple[Task, ...]
    functions: tuple[Function, ...] = ()
    forget: tuple[int, ...] = ()


class Everywhere(_Message, frozen=True):
    """One call for every daemon: now, and for each that joins later before its first task.

    The first daemons answer, one for each of ``ids``; what the others say is dropped.
    """

    ids: tuple[int, ...]
    call: Task
    """Its id means nothing."""


class Cancel(_Message, frozen=True):
    """The client no longer wants these tasks, wherever they are."""

    ids: tuple[int, ...]


class Ask(_Message, frozen=True):
    """What does the pool look like?  The Report bears the same number."""

    number: int
    at_least: int = 0
    """Report as soon as so many daemons are there."""


class Scale(_Message, frozen=True):
    """Keep this many local daemons from now on."""

    count: Annotated[int, msgspec.Meta(ge=0, le=10_000)]
    slots: tuple[Slot, ...] | None = None
    """What the daemons are given besides what all are given, also those beyond ``count`` that
    are still there; empty: nothing; None: what they were given before.  Only the pool's owner
    may say anything else than None."""


class Admit(_Message, frozen=True):
    """Let those in, from now on, who prove one of these keys, as daemons or as clients."""

    daemons: tuple[str, ...]
    clients: tuple[str, ...]


class Expel(_Message, frozen=True):
    """Let nobody in any more who proves one of these keys."""

    keys: tuple[str, ...]


class Expect(_Message, frozen=True):
    """These jobs of a platform are to become daemons, those of them that are not there yet."""

    jobs: tuple[str, ...]


class Dismiss(_Message, frozen=True):
    """Let the daemons go that are these jobs of a platform, also those that join later."""

    jobs: tuple[str, ...]


class Despair(_Message, frozen=True):
    """No daemon will come, for this reason, unless one joins nevertheless: fail what waits."""

    crash: Crash
    hope: tuple[tuple[str, ...], ...] = ()
    """The tags of daemons that may come all the same: fail only what those could not do."""


class Recount(_Message, frozen=True):
    """What has happened to this task so far?  The Told bears the same number."""

    number: int
    id: int


class Consult(_Message, frozen=True):
    """Do this with a board, or tell of it.  The Reply or Objected bears the same number."""

    number: int
    board: str
    request: Request


class Reply(_Message, frozen=True):
    """The answer to Consult."""

    number: int
    answer: Answer


class Objected(_Message, frozen=True):
    """The answer to a Consult that could not be done: nothing has changed, for this reason."""

    number: int
    reason: str
    not_running: bool = False
    """Whether that is since the worker is not running (any more)."""


class Enlist(_Message, frozen=True):
    """Tasks of a durable job: they are on disk before anything is done with them.

    Those whose key the job knows already are not run again: the client hears how they ended, or
    will end.
    """

    job: str
    tasks: tuple[Task, ...]
    functions: tuple[Function, ...] = ()
    keys: bytes = b""
    """Of all tasks, one after the other; empty: nobody asks for any of them again."""
    version: bytes = b""
    """Of the functions' code; see ``FunctionReport``."""
    stays: bool = False
    """Whether results stay when they have been fetched."""


class Attach(_Message, frozen=True):
    """Tell me, too, how the tasks with these serials end, as if they were mine, from ``id`` on."""

    id: int
    spans: tuple[Span, ...]


class Fetched(_Message, frozen=True):
    """The results of these tasks have arrived, and need not be kept for me."""

    spans: tuple[Span, ...]


class Look(_Message, frozen=True):
    """What durable jobs are there?  The Seen bears the same number."""

    number: int
    job: str | None = None
    """Only this one."""
    tasks: bool = False
    """Also which tasks it has."""


class Redo(_Message, frozen=True):
    """Run the tasks of a durable job once more that have failed.  The answer is a Seen."""

    number: int
    job: str


class Discard(_Message, frozen=True):
    """Forget a durable job, and whatever is still to be done for it.  The answer is a Seen."""

    number: int
    job: str
    versions: tuple[bytes, ...] = ()
    """Only tasks whose functions have these versions; empty: all, and the job."""


class Seen(_Message, frozen=True):
    """The answer to Look, Redo and Discard: what there is now."""

    number: int
    jobs: tuple[JobReport, ...]
    path: str
    """Where the dispatcher keeps its journal; empty: it keeps none."""
    size: int = 0
    """How many bytes that takes on disk."""


class Results(_Message, frozen=True):
    """How tasks of this client ended."""

    outcomes: tuple[Outcome, ...]


class Report(_Message, frozen=True):
    """The answer to Ask."""

    number: int
    pool: PoolReport


class Told(_Message, frozen=True):
    """The answer to Recount.  Of a task that is answered already, nothing is told."""

    number: int
    story: tuple[Step, ...]


class Run(_Message, frozen=True):
    """Tasks for a daemon to evaluate in this order; what it must know and may forget first."""

    tasks: tuple[Task, ...]
    functions: tuple[Function, ...] = ()
    forget: tuple[int, ...] = ()


class Recall(_Message, frozen=True):
    """Hand back those of these tasks that have not started; to a dispatcher: that no daemon has."""

    ids: tuple[int, ...]


class Interrupt(_Message, frozen=True):
    """Drop those of these tasks that have not started, and stop the one that has."""

    ids: tuple[int, ...]


class Ping(_Message, frozen=True):
    """Say Pong, also in the middle of a task."""


class Stop(_Message, frozen=True):
    """Leave now, to a daemon; to a client: the dispatcher leaves."""

    replace: bool = False
    """Whether the pool wants another daemon in the place of this one."""
    reason: str = ""
    """Why the dispatcher cannot go on; empty: it was told to end."""


class Done(_Message, frozen=True):
    """How tasks ended on this daemon."""

    outcomes: tuple[Outcome, ...]


class Returned(_Message, frozen=True):
    """Tasks that were recalled and surely did not start."""

    ids: tuple[int, ...]


class Printed(_Message, frozen=True):
    """What a task has printed, for those who want to see it at once."""

    id: int
    text: str


class Pong(_Message, frozen=True):
    """The answer to Ping."""


class Leave(_Message, frozen=True):
    """Give me nothing more, take back what I have not started, and stop me when I am done."""

    idle: bool = False
    """Whether it leaves because there was nothing to do."""


FromHost = Admit | Expel | Expect | Dismiss | Despair
"""What only the client may say to whose process the pool belongs."""
OfJobs = Enlist | Attach | Fetched | Look | Redo | Discard
"""What is about durable jobs."""
FromClient = (
    Hello
    | Submit
    | Everywhere
    | Cancel
    | Recall
    | Ask
    | Recount
    | Scale
    | Consult
    | OfJobs
    | FromHost
)
FromDaemon = Hello | Done | Returned | Printed | Pong | Leave
ToClient = (
    Welcome
    | Refused
    | Results
    | Returned
    | Report
    | Told
    | Printed
    | Stop
    | Seen
    | Reply
    | Objected
)
ToDaemon = Welcome | Refused | Run | Recall | Interrupt | Ping | Stop
Message = (
    Hello
    | Welcome
    | Refused
    | Submit
    | Everywhere
    | Cancel
    | Ask
    | Recount
    | Scale
    | Admit
    | Expel
    | Expect
    | Dismiss
    | Despair
    | Consult
    | Reply
    | Objected
    | Enlist
    | Attach
    | Fetched
    | Look
    | Redo
    | Discard
    | Seen
    | Results
    | Report
    | Told
    | Run
    | Recall
    | Interrupt
    | Ping
    | Stop
    | Done
    | Returned
    | Printed
    | Pong
    | Leave
)
