"""The dispatcher's decisions, and nothing else: no socket, no clock, no thread, no pickle.

``Dispatcher`` owns the pool's whole state.  The shell hands it what happened (messages of peers,
peers that joined or were lost) with the time, and gets back what to do.  A job is in exactly one
place: in the queue, or in the hand of one daemon.  Cancellation is not a place: the client has
its answer at once, and what the daemon says later is dropped.

*Credit.*  A daemon is given work until what it has in hand should take ``HORIZON`` seconds, going
by the mean duration of each function; a function that has never ended fills a hand alone.  So
long tasks are given one at a time, to whoever is free, and tiny ones by the hundred.  When an
estimate was wrong (a daemon that has more than one task in hand is silent for ``PATIENCE``
seconds), what it has not started is recalled, and others get it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from itertools import takewhile
from typing import TypeVar

from msgspec import structs

from dispatcher.jobs import Estimate, FunctionEntry, Job, Timeouts
from dispatcher.messages import (
    VERSION,
    Ask,
    Cancel,
    Crash,
    DaemonReport,
    Done,
    Function,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Message,
    Outcome,
    PoolReport,
    ProtocolError,
    Recall,
    Refused,
    Report,
    Results,
    Returned,
    Run,
    Scale,
    Stop,
    Submit,
    Task,
    Welcome,
)
from dispatcher.queue import Queue
from dispatcher.wire import BATCH_TASKS, batches, work

_T = TypeVar("_T")

HORIZON = 0.004
"""Seconds of work that a daemon may have in hand."""
OVERHEAD = 8e-6
"""Seconds that any task costs besides the call itself."""
LONGEST = 4 * HORIZON
"""A call that took longer counts as this long, or one outlier would spoil the mean."""
PATIENCE = 0.006
"""Seconds of silence after which a daemon's unstarted tasks are recalled."""
MAX_ESTIMATES = 10_000
"""Names of functions whose mean duration is kept for one client."""
NOT_FOR_DAEMONS = (Kind.CRASHED, Kind.TIMEOUT, Kind.DECLINED)
"""What only the dispatcher may say of a task."""
MAX_TIMEOUT = 1e9
"""A longer timeout of a task, in seconds, is none."""


class Role(Enum):
    """What a peer is; its key says so."""

    CLIENT = "client"
    DAEMON = "daemon"


# ── what the shell tells the core besides messages ───────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Joined:
    """A peer has said Hello."""

    role: Role
    hello: Hello


@dataclass(frozen=True, slots=True)
class Lost:
    """A peer is gone, and nothing more will come from it.

    ``started`` is the key of the last task that a daemon began (0: none); None where that cannot
    be known, so that every task in its hand may have begun.
    """

    crash: Crash
    started: int | None = None


@dataclass(frozen=True, slots=True)
class Barren:
    """No daemon is there or will be started, for this reason; until one joins nevertheless."""

    crash: Crash


@dataclass(frozen=True, slots=True)
class Retire:
    """Let so many of these daemons go: the idle ones first, and those that leave already."""

    peers: tuple[int, ...]
    count: int


@dataclass(frozen=True, slots=True)
class Drain:
    """Take no new tasks, and halt once those that are there have been answered."""


@dataclass(frozen=True, slots=True)
class Illegal:
    """A peer has sent what is no message that it may send."""

    reason: str


Event = Message | Joined | Lost | Barren | Retire | Drain | Illegal

# ── what the core tells the shell ────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message to this peer."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Kill:
    """End this daemon if it is still busy with this task, which it does not leave."""

    peer: int
    key: int


@dataclass(frozen=True, slots=True)
class CutOff:
    """Listen no more to this peer, which broke the protocol (it has been told)."""

    peer: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this many local daemons from now on."""

    count: int


@dataclass(frozen=True, slots=True)
class Halt:
    """Tell everyone to stop, and leave: the pool is drained."""


Command = Send | Kill | CutOff | Keep | Halt

# ── state ────────────────────────────────────────────────────────────────────────────────


@dataclass(slots=True, eq=False)
class _Client:
    peer: int
    last: int = 0  # the largest task id so far
    jobs: dict[int, Job] = field(default_factory=dict)  # by its own id; unanswered
    functions: dict[int, FunctionEntry] = field(default_factory=dict)  # by its own number
    estimates: dict[str, Estimate] = field(default_factory=dict)  # by the function's name


@dataclass(slots=True, eq=False)
class _Daemon:
    peer: int
    hello: Hello
    since: float
    hand: dict[int, Job] = field(default_factory=dict)  # by key, in the order of evaluation
    load: float = 0.0  # seconds that the hand should take
    began: float = 0.0  # when it should have begun the first task in its hand
    recalled: bool = False  # asked to hand back, and has not done so
    leaving: bool = False  # gets nothing more, and is stopped when its hand is empty
    overdue: bool = False  # has been silent for too long, and has not answered a task since
    knows: set[FunctionEntry] = field(default_factory=set)
    forget: list[int] = field(default_factory=list)  # to tell it with its next tasks
    done: int = 0

    def take(self, key: int) -> Job | None:
        """Remove a job from the hand; None if it is not there."""
        job = self.hand.pop(key, None)
        if job is not None:
            job.daemon = 0
            self.load = self.load - job.cost if self.hand else 0.0
        return job


@dataclass(slots=True)
class _Mail:
    """What one call of ``handle`` has to tell one peer."""

    first: list[Message] = field(default_factory=list)
    recall: list[int] = field(default_factory=list)
    interrupt: list[int] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    functions: list[Function] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)


class Dispatcher:
    """The pool: who is there, what waits, and who has what in hand."""

    def __init__(self, *, grace: float = 5.0) -> None:
        """``grace``: seconds that an interrupted task has to leave before its daemon is killed."""
        self._grace = grace
        self._clients: dict[int, _Client] = {}
        self._daemons: dict[int, _Daemon] = {}
        self._queue = Queue()
        self._keys = 0  # the last key given to a job
        self._numbers = 0  # the last number given to a function
        # Daemons that may be given work, by peer: those with an empty hand come first.
        self._idle: dict[int, _Daemon] = {}
        self._open: dict[int, _Daemon] = {}
        # Both in the order of time, since every entry gets the same delay.
        self._silent: dict[int, float] = {}  # daemons with spare tasks in hand, since when
        self._stubborn: dict[int, tuple[Job, float]] = {}  # interrupted jobs by key, since when
        self._timeouts = Timeouts()
        self._asked: list[tuple[int, Ask]] = []  # reports that wait for daemons
        self._barren: Crash | None = None
        self._draining = False
        self._cumulative = 0
        self._completed = 0
        self._rejected = 0
        self._mail: dict[int, _Mail] = {}
        self._commands: list[Command] = []

    # ── the interface ────────────────────────────────────────────────────────────────────

    def handle(self, events: Iterable[tuple[int, Event]], now: float) -> list[Command]:
        """Take in what happened, at ``now`` seconds on any clock, and return what to do.

        With no events, only what is due by ``now`` happens.  A message that breaks the protocol
        changes nothing and costs its sender the connection.
        """
        for peer, event in events:
            try:
                self._apply(peer, event, now)
            except ProtocolError as error:
                self._reject(peer, str(error))
        self._give_up(now)
        self._recall_from_silent(now)
        self._kill_stubborn(now)
        self._assign(now)
        self._halt_if_drained()
        return self._flush()

    def next_deadline(self) -> float | None:
        """When ``handle`` must be called even if nothing happens; None if never."""
        deadlines = [since + PATIENCE for since in _first(self._silent)]
        deadlines += [since + self._grace for _, since in _first(self._stubborn)]
        if (timeout := self._timeouts.first()) is not None:
            deadlines.append(timeout)
        return min(deadlines, default=None)

    def report(self, now: float) -> PoolReport:
        """Return what the pool looks like."""
        in_hand = sum(len(daemon.hand) for daemon in self._daemons.values())
        executing = sum(bool(daemon.hand) for daemon in self._daemons.values())
        return PoolReport(
            connections=len(self._daemons),
            cumulative=self._cumulative,
            awaiting=len(self._queue) + in_hand - executing,
            executing=executing,
            completed=self._completed,
            rejected=self._rejected,
            daemons=tuple(
                DaemonReport(
                    id=peer,
                    host=daemon.hello.host,
                    pid=daemon.hello.pid,
                    state=_state(daemon),
                    tasks=len(daemon.hand),
                    done=daemon.done,
                    since=now - daemon.since,
                    tags=daemon.hello.tags,
                    task=_current(daemon),
                    seconds=now - daemon.began if daemon.hand else 0.0,
                )
                for peer, daemon in self._daemons.items()
            ),
        )

    def is_member(self, peer: int) -> bool:
        """Whether this peer has joined and is not lost."""
        return peer in self._clients or peer in self._daemons

    def check(self) -> None:
        """Raise AssertionError if the state contradicts itself.  For tests."""
        jobs = [job for client in self._clients.values() for job in client.jobs.values()]
        waiting = sum(job.waiting for job in jobs)
        assert waiting == len(self._queue), "the queue has lost count"
        for job in jobs:
            assert job.waiting != bool(job.daemon), "a job is in two places or in none"
            assert not job.cancelled, "a cancelled job is still its client's"
        for peer, daemon in self._daemons.items():
            assert all(job.daemon == peer for job in daemon.hand.values())
            idle = not daemon.hand and not daemon.recalled and not daemon.leaving
            assert (peer in self._idle) == idle, "idle daemons are lost sight of"
            watched = daemon.recalled or daemon.overdue or daemon.leaving or peer in self._silent
            assert len(daemon.hand) < 2 or watched, "a daemon could keep tasks for ever"
        if self._queue:
            assert not self._idle and not self._open, "work waits while a daemon idles"

    def has_waiting(self) -> bool:
        """Whether a task waits in the queue."""
        return len(self._queue) > 0

    # ── events ───────────────────────────────────────────────────────────────────────────

    def _apply(self, peer: int, event: Event, now: float) -> None:
        match event:
            case Joined(role, hello):
                self._join(peer, role, hello, now)
            case Lost():
                self._lose(peer, event, now)
            case Barren(crash):
                self._barren = crash
            case Submit():
                self._submit(self._client(peer), event, now)
            case Cancel(ids):
                self._cancel(self._client(peer), ids, now)
            case Ask():
                self._client(peer)
                self._asked.append((peer, event))
                self._answer_asked(now)
            case Done(outcomes):
                self._finish(self._daemon(peer), outcomes, now)
            case Returned(ids):
                self._take_back(self._daemon(peer), ids, now)
            case Leave():
                self._let_go(self._daemon(peer), now)
            case Illegal(reason):
                raise ProtocolError(reason)
            case Drain():
                self._draining = True
            case Retire(peers, count):
                self._retire(peers, count, now)
            case Scale(count):
                self._client(peer)
                self._commands.append(Keep(count))
            case _:
                raise ProtocolError(f"{type(event).__name__} is not for a dispatcher")

    def _client(self, peer: int) -> _Client:
        try:
            return self._clients[peer]
        except KeyError:
            raise ProtocolError("only a client that has said hello may do this") from None

    def _daemon(self, peer: int) -> _Daemon:
        try:
            return self._daemons[peer]
        except KeyError:
            raise ProtocolError("only a daemon that has said hello may do this") from None

    def _join(self, peer: int, role: Role, hello: Hello, now: float) -> None:
        if self.is_member(peer):
            raise ProtocolError("a second hello")
        if hello.version != VERSION:
            raise ProtocolError(f"protocol version {hello.version}, wanted {VERSION}")
        self._post(peer).first.append(Welcome())
        if role is Role.CLIENT:
            self._clients[peer] = _Client(peer)
        else:
            self._daemons[peer] = self._idle[peer] = _Daemon(peer, hello, now)
            self._cumulative += 1
            self._barren = None
            self._answer_asked(now)

    def _answer_asked(self, now: float) -> None:
        """Send the reports for which there are daemons enough."""
        asked, self._asked = self._asked, []
        for peer, ask in asked:
            if ask.at_least > len(self._daemons):
                self._asked.append((peer, ask))
            else:
                self._post(peer).first.append(Report(ask.number, self.report(now)))

    def _lose(self, peer: int, lost: Lost, now: float) -> None:
        client = self._clients.pop(peer, None)
        if client is not None:
            self._drop_client(client, now)
        daemon = self._daemons.pop(peer, None)
        if daemon is not None:
            self._drop_daemon(daemon, lost)
        self._mail.pop(peer, None)

    def _drop_client(self, client: _Client, now: float) -> None:
        self._asked = [(peer, ask) for peer, ask in self._asked if peer != client.peer]
        for job in list(client.jobs.values()):
            self._abandon(job, now)
        for entry in client.functions.values():
            self._forget(entry)

    def _drop_daemon(self, daemon: _Daemon, lost: Lost) -> None:
        """Fail what may have started, and queue the rest again."""
        for group in (self._idle, self._open, self._silent):
            group.pop(daemon.peer, None)
        for entry in daemon.knows:
            entry.holders.discard(daemon.peer)
        hand = list(daemon.hand.values())
        begun = len(hand)
        if lost.started is not None:
            keys = list(daemon.hand)
            begun = keys.index(lost.started) + 1 if lost.started in daemon.hand else 0
        daemon.hand.clear()
        for index, job in enumerate(hand):
            job.daemon = 0
            self._stubborn.pop(job.key, None)
            if job.cancelled:
                self._release(job)
            elif index >= begun:
                self._queue.put_back(job)
            elif job.may_retry():
                self._retry(job)
            else:
                self._settle(job, _crashed(job, lost.crash))

    def _submit(self, client: _Client, submit: Submit, now: float) -> None:
        self._check(client, submit)
        for function in submit.functions:
            self._define(client, function)
        if self._draining:
            self._decline(client, submit.tasks)
        else:
            self._accept(client, submit.tasks, now)
        for number in submit.forget:
            self._forget(client.functions.pop(number))

    def _decline(self, client: _Client, tasks: Sequence[Task]) -> None:
        for task in tasks:
            self._post(client.peer).outcomes.append(Outcome(task.id, Kind.DECLINED))
            client.last = task.id

    def _accept(self, client: _Client, tasks: Sequence[Task], now: float) -> None:
        for task in tasks:
            self._keys += 1
            entry = client.functions[task.function]
            entry.uses += 1
            number = entry.definition.number
            own = Task(
                self._keys, number, task.payload, task.blobs, task.priority, retries=task.retries
            )
            job = client.jobs[task.id] = Job(task.id, client.peer, entry, own)
            self._queue.push(job)
            if 0.0 < task.timeout < MAX_TIMEOUT:
                self._timeouts.add(job, now + task.timeout)
            client.last = task.id

    def _check(self, client: _Client, submit: Submit) -> None:
        """Raise before anything has changed."""
        known = client.functions
        new = {function.number for function in submit.functions}
        if len(new) != len(submit.functions) or not new.isdisjoint(known):
            raise ProtocolError("a function's number is used twice")
        last = client.last
        for task in submit.tasks:
            if task.id <= last:
                raise ProtocolError(f"task {task.id} after task {last}")
            if task.function not in known and task.function not in new:
                raise ProtocolError(f"task {task.id} needs an unknown function")
            last = task.id
        forget = set(submit.forget)
        if len(forget) != len(submit.forget) or not all(n in known or n in new for n in forget):
            raise ProtocolError("a function is forgotten that was not known")

    def _define(self, client: _Client, function: Function) -> None:
        self._numbers += 1
        if len(client.estimates) >= MAX_ESTIMATES:
            client.estimates.clear()
        estimate = client.estimates.setdefault(function.name, Estimate())
        definition = Function(self._numbers, function.name, function.payload, function.blobs)
        client.functions[function.number] = FunctionEntry(definition, estimate)

    def _cancel(self, client: _Client, ids: Sequence[int], now: float) -> None:
        for id in ids:
            job = client.jobs.get(id)
            if job is not None:
                self._abandon(job, now)

    def _finish(self, daemon: _Daemon, outcomes: Sequence[Outcome], now: float) -> None:
        """Pass on how tasks ended.  Whatever the daemon was not asked for is dropped."""
        if any(outcome.kind in NOT_FOR_DAEMONS for outcome in outcomes):
            raise ProtocolError("a daemon that says what only a dispatcher may say")
        head = next(iter(daemon.hand), None)
        for outcome in outcomes:
            job = daemon.take(outcome.id)
            if job is None:
                continue
            daemon.done += 1
            if outcome.kind is not Kind.CANCELLED:
                # In this order, min and max make a number even of NaN.
                job.function.estimate.learn(max(0.0, min(LONGEST, outcome.seconds)))
            self._stubborn.pop(job.key, None)
            if job.cancelled:
                self._release(job)
            elif outcome.again and job.may_retry():
                self._retry(job)
            else:
                self._settle(job, _renumbered(outcome, job.id))
        if head not in daemon.hand:
            daemon.overdue = False
            daemon.began = now
        self._rank(daemon, now)

    def _take_back(self, daemon: _Daemon, keys: Sequence[int], now: float) -> None:
        """Queue again what a daemon has handed back."""
        head = next(iter(daemon.hand), None)
        for key in keys:
            job = daemon.take(key)
            if job is None:
                continue
            self._stubborn.pop(key, None)
            if job.cancelled:
                self._release(job)
            else:
                self._queue.put_back(job)
        daemon.recalled = False
        if head not in daemon.hand:
            daemon.began = now
        self._rank(daemon, now)

    def _retire(self, peers: Sequence[int], count: int, now: float) -> None:
        daemons = [self._daemons[peer] for peer in peers if peer in self._daemons]
        daemons.sort(key=lambda daemon: (not daemon.leaving, len(daemon.hand)))
        for daemon in daemons[:count]:
            self._let_go(daemon, now)

    def _let_go(self, daemon: _Daemon, now: float) -> None:
        """Take back what it has not started, and stop it once it has answered the rest."""
        if daemon.leaving:
            return
        daemon.leaving = True
        if daemon.hand:  # all of it: a recall on its way leaves out what should be running by now
            daemon.recalled = True
            self._post(daemon.peer).recall.extend(daemon.hand)
        self._rank(daemon, now)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────

    def _settle(self, job: Job, outcome: Outcome) -> None:
        """Answer a job that is in no queue and no hand."""
        del self._clients[job.client].jobs[job.id]
        self._timeouts.discard(job)
        self._post(job.client).outcomes.append(outcome)
        self._completed += 1
        self._release(job)

    def _abandon(self, job: Job, now: float) -> None:
        """Get rid of a job whose client has its answer, or is gone."""
        client = self._clients.get(job.client)
        if client is not None:
            del client.jobs[job.id]
        job.cancelled = True
        self._timeouts.discard(job)
        if job.waiting:
            self._queue.discard(job)
            self._release(job)
        else:
            self._post(job.daemon).interrupt.append(job.key)
            self._stubborn[job.key] = (job, now)

    def _retry(self, job: Job) -> None:
        """Queue a job for another run, behind those that wait already."""
        self._keys += 1
        job.retry(self._keys)
        self._queue.push(job)

    def _give_up(self, now: float) -> None:
        """Answer the jobs whose time is up, and stop them."""
        for job in self._timeouts.due(now):
            self._post(job.client).outcomes.append(Outcome(job.id, Kind.TIMEOUT))
            self._completed += 1
            self._abandon(job, now)

    def _release(self, job: Job) -> None:
        job.function.uses -= 1
        self._drop_if_unused(job.function)

    def _forget(self, entry: FunctionEntry) -> None:
        entry.forgotten = True
        self._drop_if_unused(entry)

    def _drop_if_unused(self, entry: FunctionEntry) -> None:
        if entry.forgotten and not entry.uses:
            for peer in entry.holders:
                daemon = self._daemons[peer]
                daemon.knows.discard(entry)
                daemon.forget.append(entry.definition.number)
            entry.holders.clear()

    # ── daemons ──────────────────────────────────────────────────────────────────────────

    def _rank(self, daemon: _Daemon, now: float) -> None:
        """Put a daemon that is not silent any more into the groups that it belongs to."""
        self._silent.pop(daemon.peer, None)
        self._place(daemon, now)

    def _place(self, daemon: _Daemon, now: float) -> None:
        self._idle.pop(daemon.peer, None)
        self._open.pop(daemon.peer, None)
        if daemon.recalled:
            return  # what it hands back is older than what it would be given
        if daemon.leaving:
            if not daemon.hand:
                self._post(daemon.peer).first.append(Stop())
        elif not daemon.hand:
            daemon.overdue = False
            self._idle[daemon.peer] = daemon
        elif not daemon.overdue:
            if daemon.load < HORIZON and len(daemon.hand) < BATCH_TASKS:
                self._open[daemon.peer] = daemon
            if len(daemon.hand) > 1:
                self._silent.setdefault(daemon.peer, now)

    def _assign(self, now: float) -> None:
        """Give out what waits: to idle daemons first, each an equal share, within its credit."""
        if self._barren is not None and not self._daemons:
            self._fail_all(self._barren)
        takers = 0  # that have not had their share in this round
        while self._queue and (self._idle or self._open):
            daemon = next(iter((self._idle or self._open).values()))
            takers = takers or len(self._idle) + len(self._open)
            share = -(-len(self._queue) // takers)
            takers -= 1
            if not daemon.hand:
                daemon.began = now
            while share and daemon.load < HORIZON and len(daemon.hand) < BATCH_TASKS:
                job = self._queue.pop()
                if job is None:
                    break
                self._give(daemon, job)
                share -= 1
            self._place(daemon, now)

    def _give(self, daemon: _Daemon, job: Job) -> None:
        function = job.function
        seconds = function.estimate.seconds
        job.cost = HORIZON if seconds is None else seconds + OVERHEAD
        job.daemon = daemon.peer
        daemon.hand[job.key] = job
        daemon.load += job.cost
        mail = self._post(daemon.peer)
        mail.tasks.append(job.task)
        if function not in daemon.knows:
            daemon.knows.add(function)
            function.holders.add(daemon.peer)
            mail.functions.append(function.definition)

    def _fail_all(self, crash: Crash) -> None:
        while (job := self._queue.pop()) is not None:
            self._settle(job, _crashed(job, crash))

    def _recall_from_silent(self, now: float) -> None:
        for peer, _ in list(_due(self._silent.items(), now - PATIENCE)):
            daemon = self._daemons[peer]
            daemon.recalled = daemon.overdue = True
            self._rank(daemon, now)
            self._post(peer).recall.extend(list(daemon.hand)[1:])

    def _kill_stubborn(self, now: float) -> None:
        """Order the end of daemons whose interrupted task does not leave; look again later."""
        since = ((key, entry[1]) for key, entry in self._stubborn.items())
        for key, _ in list(_due(since, now - self._grace)):
            job, _ = self._stubborn.pop(key)
            self._stubborn[key] = (job, now)
            if next(iter(self._daemons[job.daemon].hand)) == key:
                self._commands.append(Kill(job.daemon, key))

    def _halt_if_drained(self) -> None:
        """Halt once every client has its answers."""
        if self._draining and not any(client.jobs for client in self._clients.values()):
            self._commands.append(Halt())

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def _reject(self, peer: int, reason: str) -> None:
        self._rejected += 1
        self._commands += [Send(peer, Refused(reason)), CutOff(peer)]

    def _post(self, peer: int) -> _Mail:
        mail = self._mail.get(peer)
        if mail is None:
            mail = self._mail[peer] = _Mail()
        return mail

    def _flush(self) -> list[Command]:
        """Return the commands so far, and one message of a sort to each peer if it fits."""
        commands, self._commands = self._commands, []
        mails, self._mail = self._mail, {}
        for peer, mail in mails.items():
            if self.is_member(peer):
                commands += [Send(peer, message) for message in self._messages(peer, mail)]
        return commands

    def _messages(self, peer: int, mail: _Mail) -> list[Message]:
        messages = mail.first
        if mail.recall:
            messages.append(Recall(tuple(mail.recall)))
        if mail.interrupt:
            messages.append(Interrupt(tuple(mail.interrupt)))
        for tasks, functions in work(mail.tasks, mail.functions):
            forget, self._daemons[peer].forget = self._daemons[peer].forget, []
            messages.append(Run(tasks, functions, tuple(forget)))
        messages += [Results(outcomes) for outcomes in batches(mail.outcomes)]
        return messages


def _state(daemon: _Daemon) -> str:
    if daemon.leaving:
        return "leaving"
    return "busy" if daemon.hand else "idle"


def _current(daemon: _Daemon) -> str:
    """Return the function that a daemon should be evaluating."""
    job = next(iter(daemon.hand.values()), None)
    return "" if job is None else job.function.definition.name


def _renumbered(outcome: Outcome, id: int) -> Outcome:
    return Outcome(id, outcome.kind, outcome.payload, outcome.blobs, outcome.seconds)


def _crashed(job: Job, crash: Crash) -> Outcome:
    return Outcome(job.id, Kind.CRASHED, crash=structs.replace(crash, attempt=job.attempt))


def _first(entries: dict[int, _T]) -> list[_T]:
    """Return the oldest entry's value, in a list, or an empty list."""
    return [next(iter(entries.values()))] if entries else []


def _due(entries: Iterable[tuple[int, float]], until: float) -> Iterator[tuple[int, float]]:
    """Return the entries up to ``until``, of a group that is in the order of time."""
    return takewhile(lambda entry: entry[1] <= until, entries)
