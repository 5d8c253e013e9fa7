"""The dispatcher's decisions, and nothing else: no socket, no clock, no thread, no pickle.

``Dispatcher`` owns the pool's whole state.  The shell hands it what happened (messages of peers,
peers that joined or were lost) with the time, and gets back what to do.  A job is in exactly one
place: in the queue, or in the hand of one daemon.  Cancellation is not a place: the client has
its answer at once, and what the daemon says later is dropped.

*Runs.*  A client's tasks that are alike come, wait, are given out and are answered in runs, so that
thousands of them cost what a few do.  A run is a job; where something befalls only some of its
tasks (a daemon has no time for all, one is cancelled, some have ended), they become a job of their
own.

*Credit.*  A daemon is given work until what it has in hand should take ``HORIZON`` seconds, going
by the mean duration of each function; a function that has never ended fills a hand alone.  So
long tasks are given one at a time, to whoever is free, and tiny ones by the hundred; behind one of
some milliseconds there is one more, so that the daemon need not wait for it.  When an
estimate was wrong (a daemon that has more than one task in hand is silent for ``PATIENCE``
seconds, or its answers show that the rest takes much longer), what it has not started is recalled
as soon as another has nothing to do, and that one gets it; after ``LONG`` it is recalled though
nobody is idle, since it is older than what waits.

*Width.*  A daemon that is a relay does several tasks at once: it has so many *places*, and what has
been said of one task holds for so many.  With a free place it counts as idle, and work is shared
out by places.  It ends by itself what does not heed an interrupt, and tells of crashes behind it.

*Time.*  A daemon that knows its end (the wall time of a batch job) is not given what it should
have no time for; it is let go instead, and hands back what it has not started.

*Priority.*  A task that comes while all have their hands full goes before what its client sent
with a lower priority, also before what a daemon has been given and not started.  For the most
urgent of a submission one daemon's is recalled, if one is found by a few glances at those that have
been silent longest, and goes back to its place in the queue.

*Lending.*  A task may itself be a client, and wait for what it has submitted.  While a daemon's
task has such tasks unanswered, the daemon *lends* its place: it is given nothing, what it has not
started is recalled, and the shell is told to have another daemon in its stead.  What lies deepest
goes first, and the outermost tasks are held back while more daemons lend than work, so that few
wait at a time.  Where nobody works and no more daemons can be had, the tasks of tasks fail that
only daemons that lend could do: else all would wait for ever.

*Durable jobs.*  A client with a negative number is a job that outlasts its clients (``Keeper``).
Its tasks are like any others, but that it is told, before their daemon is, what becomes of them.

*Stalling.*  A daemon that has been on one task for long is asked whether it still hears, and is
*stalled* while it owes the answer: a call in C may hold its interpreter's lock.  That is shown in
reports, and changes nothing else: the task may still end.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, takewhile
from typing import Any, TypeVar

from msgspec import structs

from dispatcher.checks import check_functions, check_task
from dispatcher.credit import HORIZON, MOST, TOO_MUCH, cost, has_credit, has_time, room
from dispatcher.events import (
    Barren,
    Command,
    CutOff,
    Denial,
    Denied,
    Drain,
    Event,
    Halt,
    Illegal,
    Joined,
    Keep,
    Kill,
    Lend,
    Lost,
    Moved,
    Retire,
    Role,
    Send,
    Stillborn,
    Turn,
)
from dispatcher.jobs import Estimate, FunctionEntry, Job, Timeouts
from dispatcher.messages import (
    VERSION,
    Ask,
    Cancel,
    Crash,
    DaemonReport,
    Despair,
    Dismiss,
    Done,
    Everywhere,
    Expect,
    Function,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Look,
    Message,
    Outcome,
    Ping,
    Pong,
    PoolReport,
    Printed,
    ProtocolError,
    Recall,
    Recount,
    Refusals,
    Refused,
    Report,
    Results,
    Returned,
    Run,
    Scale,
    Seen,
    Step,
    Stop,
    Submit,
    Task,
    Told,
    Welcome,
)
from dispatcher.peers import Bench, Client, Daemon, Mail, Standing
from dispatcher.queue import Queue
from dispatcher.story import SLOW, cause, ended, note, seconds, steps, whereabouts
from dispatcher.wire import batches, work
from dispatcher.words import spans

_T = TypeVar("_T")

TURN = HORIZON / 4
"""Seconds of work that one client is given in its turn, where others wait."""
PATIENCE = 0.006
"""Seconds of silence after which a daemon's unstarted tasks are for those who are idle."""
LONG = 5 * PATIENCE
"""Seconds of silence after which they are recalled though nobody is."""
MAX_LOSSES = 5
"""How many daemons may die of what they were given, as it seems, until that fails."""
LOOK = 2.0
"""Seconds between looks at the daemons that work; those on the same task ever since are pinged."""
GLANCES = 8
"""How many daemons, and tasks of each, are looked at for work that is better done elsewhere."""
STALL = 2.0
"""Seconds without an answer after which a daemon that was pinged counts as stalled."""
MAX_ESTIMATES = 10_000
"""Names of functions whose mean duration is kept for one client."""
MAX_STANDING = 10_000
"""Calls for every daemon that are kept for one client."""
NOT_FOR_DAEMONS = (Kind.CRASHED, Kind.TIMEOUT, Kind.DECLINED)
"""What only the dispatcher may say of a task."""
UNTIMED = (Kind.CANCELLED, Kind.CRASHED)
"""Endings that say nothing about how long a task takes."""
MAX_TIMEOUT = 1e9
"""A longer timeout of a task, in seconds, is none."""


STUCK = (
    "all {} daemons{} wait for tasks that their own tasks have submitted, and no more daemons can"
    " be had: nothing is left to run this task"
)


class Dispatcher:
    """The pool: who is there, what waits, and who has what in hand."""

    def __init__(
        self,
        *,
        grace: float = 5.0,
        kept: int = 0,
        spare: int = 0,
        python: str = "",
        package: str = "",
        epoch: float = 0.0,
        horizon: float = HORIZON,
    ) -> None:
        """``grace``: seconds that an interrupted task has to leave before its daemon is killed.

        ``kept`` local daemons are to come, and up to ``spare`` more where daemons lend.  Peers
        with another version of ``python`` or of this ``package`` are refused.  ``epoch`` is what
        the wall clock shows at time 0.  ``horizon``: how many seconds of work each place of a
        daemon is given in advance.
        """
        self._horizon = horizon
        self._epoch = epoch
        self._python = python
        self._package = package
        self._grace = grace
        self._kept = kept
        self._spare = spare
        self._clients: dict[int, Client] = {}
        self._daemons: dict[int, Daemon] = {}
        self._queue = Queue(TURN)
        self._keys = 0  # the last key given to a job
        self._numbers = 0  # the last number given to a function
        # Daemons that may be given work, by peer: those with a free place come first.
        self._idle = Bench()
        self._open = Bench()
        self._places = 0  # of all daemons
        # Both in the order of time, since every entry gets the same delay.
        self._silent: dict[int, float] = {}  # daemons with spare tasks in hand, since when
        self._overdue: dict[int, float] = {}  # those that have been silent for too long, since when
        self._stubborn: dict[Job, float] = {}  # interrupted jobs, since when
        self._overloaded: dict[int, Daemon] = {}  # with work in hand that others may have
        self._relieving: set[int] = set()  # those of them that have not handed back yet
        self._urgent: list[Job] = []  # submitted just now, above what their clients sent before
        self._expected: tuple[str, ...] = ()  # those that were to join when the host said so last
        self._arrived: set[str] = set()  # the jobs that ever were a daemon
        self._dismissed: set[str] = set()  # the jobs that are to be none any more
        self._lending: dict[int, Daemon] = {}
        self._told_of: set[int] = set()  # those of which the shell has been told
        self._doubtful: set[int] = set()  # daemons of which it may have changed whether they lend
        self._standing: list[Standing] = []  # of all clients, oldest first
        self._timeouts = Timeouts()
        self._asked: list[tuple[int, Ask]] = []  # reports that wait for daemons
        self._look_at: float | None = None  # when to look at those that work; None: nobody does
        self._failure: Crash | None = None  # of the last local daemon, if it could not join
        self._barren: Crash | None = None
        self._draining = False
        self._cumulative = 0
        self._completed = 0
        self._rejected = 0
        self.dropped = 0
        """How many answers of daemons came late, twice or unasked."""
        self._denied: Counter[Denial] = Counter()
        self._mail: dict[int, Mail] = {}
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
        if self._silent or self._overdue:
            self._look_at_silent(now)
        if self._stubborn:
            self._kill_stubborn(now)
        self._distribute(now)
        while self._lend():
            self._distribute(now)
        if self._urgent:
            self._make_way(now)
        if self._overloaded and self._idle:
            self._relieve(now)
        self._look(now)
        self._halt_if_drained()
        return self._flush()

    def next_deadline(self) -> float | None:
        """When ``handle`` must be called even if nothing happens; None if never."""
        deadlines = [self._look_at, self._timeouts.first()]
        if self._silent:
            deadlines.append(_first(self._silent) + PATIENCE)
        if self._overdue:
            deadlines.append(_first(self._overdue) + LONG)
        if self._stubborn:
            deadlines.append(_first(self._stubborn) + self._grace)
        return min((each for each in deadlines if each is not None), default=None)

    def report(self, now: float) -> PoolReport:
        """Return what the pool looks like."""
        in_hand = sum(len(daemon.hand) for daemon in self._daemons.values())
        executing = sum(min(len(daemon.hand), daemon.width) for daemon in self._daemons.values())
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
                    state=_state(daemon, now),
                    tasks=len(daemon.hand),
                    done=daemon.done,
                    since=now - daemon.since,
                    tags=daemon.hello.tags,
                    task=_current(daemon),
                    seconds=now - daemon.began if daemon.hand else 0.0,
                    job=daemon.hello.job,
                    width=daemon.width,
                )
                for peer, daemon in self._daemons.items()
            ),
            wanted=self._wanted(),
            kept=self._kept,
            failure=self._failure,
            arrived=tuple(job for job in self._expected if job in self._arrived),
            python=self._python,
            package=self._package,
            clock=self._epoch and self._epoch + now,
            refusals=Refusals(
                keys=self._denied[Denial.KEY],
                strangers=self._denied[Denial.STRANGER],
                peers=self._denied[Denial.PEER],
            ),
        )

    def _wanted(self) -> tuple[tuple[str, ...], ...]:
        """Return the tags of what waits for a daemon that is not there, each set once."""
        staying = [daemon.tags for daemon in self._daemons.values() if not daemon.leaving]
        wanted = {
            tags
            for tags in self._queue.wanted()
            if not any(carried.issuperset(tags) for carried in staying)
        }
        if any(standing.ids for standing in self._standing):
            wanted.add(())
        return tuple(sorted(wanted))

    def is_member(self, peer: int) -> bool:
        """Whether this peer has joined and is not lost."""
        return peer in self._clients or peer in self._daemons

    def origin(self, peer: int, key: int) -> tuple[int, int]:
        """Return whose task it is that a daemon has in hand: a client, and its number for it.

        It is number 0 where nobody waits for the answer, and of client 0 if it is not there.
        """
        daemon = self._daemons.get(peer)
        job = None if daemon is None else daemon.hand.get(key)
        if job is None:
            return 0, 0
        return job.client, job.id and job.id + key - job.key

    def check(self) -> None:
        """Raise AssertionError if the state contradicts itself.  For tests."""
        tasks = [each for client in self._clients.values() for each in client.jobs.items()]
        waiting = sum(job.waiting for _, job in tasks)
        assert waiting == len(self._queue), "the queue has lost count"
        for id, job in tasks:
            assert id in job.ids, "a client's task is in a job that has another"
            assert job.waiting != bool(job.daemon), "a job is in two places or in none"
            assert not job.cancelled, "a cancelled job is still its client's"
        for peer, daemon in self._daemons.items():
            for key, job in daemon.hand.items():
                assert key in job.keys, "a task in hand is in a job that has another"
                assert job.daemon == peer, "a job in hand does not know whose"
                assert all(daemon.hand[each] is job for each in job.keys), "a job is torn"
            free = len(daemon.hand) < daemon.width and not (daemon.hand and daemon.lending)
            idle = free and not daemon.recalled and not daemon.leaving
            assert (daemon in self._idle) == idle, "idle daemons are lost sight of"
            asked = daemon.recalled or daemon.overdue or daemon.leaving or daemon.lending
            movable = sum(not job.pinned for job in daemon.hand.values())
            watched = asked or peer in self._silent
            assert movable <= daemon.width or watched, "a daemon could keep tasks for ever"
            lends = bool(daemon.hand) and self._has_nested(daemon)
            assert lends == daemon.lending == (peer in self._lending), "who lends is not known"
            assert not lends or daemon not in self._open, "a daemon that lends would be given work"
            assert peer not in self._relieving or daemon.recalled, "nothing comes back"
            assert daemon.pinged is None or daemon.hand, "an idle daemon is asked how it works"
        assert self._places == sum(daemon.width for daemon in self._daemons.values())
        works = len(self._idle) < self._places
        assert works == (self._look_at is not None), "nobody looks after those that work"
        self._check_queue()

    def _check_queue(self) -> None:
        free = [*self._idle, *self._open]
        for job in self._queue if free else ():
            fits = any(daemon.tags.issuperset(job.task.tags) for daemon in free)
            assert not fits or (self._is_short() and not job.depth), "work waits beside the idle"

    def has_waiting(self) -> bool:
        """Whether a task waits for a daemon."""
        return len(self._queue) > 0 or any(standing.ids for standing in self._standing)

    # ── events ───────────────────────────────────────────────────────────────────────────

    def _apply(self, peer: int, event: Event, now: float) -> None:
        match event:  # the most frequent ones first
            case Done(outcomes):
                self._finish(self._daemon(peer), outcomes, now)
            case Submit():
                self._submit(self._client(peer), event, now)
            case Joined(role, hello):
                self._join(peer, role, hello, now)
            case Lost():
                self._lose(peer, event, now)
            case Stillborn(crash):
                self._failure = crash
            case Barren(crash):
                self._barren = crash
            case Expect(jobs):
                self._client(peer)
                self._expect(jobs)
            case Despair(crash, hope):
                self._client(peer)
                if hope:
                    self._fail_unfit(crash, hope)
                else:
                    self._expect(())
                    if not self._daemons:  # else one has joined nevertheless
                        self._barren = crash
            case Dismiss(jobs):
                self._client(peer)
                self._dismissed.update(jobs)
                for daemon in list(self._daemons.values()):
                    if daemon.hello.job in jobs:
                        self._let_go(daemon, now)
            case Everywhere():
                self._everywhere(self._client(peer), event, now)
            case Cancel(ids):
                self._cancel(self._client(peer), ids, now)
            case Recall(ids):
                self._hand_back(self._client(peer), ids, now)
            case Ask():
                self._client(peer)
                self._asked.append((peer, event))
                self._answer_asked(now)
            case Recount(number, id):
                told = Told(number, self._recount(self._client(peer), id, now))
                self._post(peer).first.append(told)
            case Look(number):
                self._client(peer)
                self._post(peer).first.append(Seen(number, (), ""))  # no journal is kept here
            case Returned(ids):
                self._take_back(self._daemon(peer), ids, now)
            case Printed():
                self._pass_on(self._daemon(peer), event)
            case Pong():
                self._daemon(peer)  # it is heard, and that is all
            case Leave():
                self._let_go(self._daemon(peer), now)
            case Illegal(reason):
                raise ProtocolError(reason)
            case Denied(what):
                self._denied[what] += 1
            case Drain():
                self._drain()
            case Retire(peers, count):
                self._retire(peers, count, now)
            case Scale():
                self._client(peer)
                self._scale(event)
            case Hello():
                raise ProtocolError("a second hello")
            case _:
                raise ProtocolError(f"{type(event).__name__} is not for a dispatcher")

    def _client(self, peer: int) -> Client:
        try:
            return self._clients[peer]
        except KeyError:
            raise ProtocolError("only a client that has said hello may do this") from None

    def _daemon(self, peer: int) -> Daemon:
        """Return the daemon that has just said something, and so is not stalled."""
        try:
            daemon = self._daemons[peer]
        except KeyError:
            raise ProtocolError("only a daemon that has said hello may do this") from None
        daemon.pinged = None
        return daemon

    def _join(self, peer: int, role: Role, hello: Hello, now: float) -> None:
        if self.is_member(peer):
            raise ProtocolError("a second hello")
        self._check_versions(hello)
        self._post(peer).first.append(Welcome(peer))
        if role is Role.CLIENT:
            client = self._clients[peer] = Client(peer)
            self._find_its_daemon(client, hello)
        else:
            tags, width = frozenset(hello.tags), hello.width
            reach = self._horizon * width
            daemon = Daemon(peer, hello, now, tags=tags, width=width, reach=reach)
            if 0.0 < hello.left < MAX_TIMEOUT:
                daemon.ends = now + hello.left
            self._daemons[peer] = daemon
            self._places += width
            self._idle.add(daemon)
            self._cumulative += 1
            self._barren = self._failure = None
            if hello.job:
                self._arrived.add(hello.job)
            for standing in self._standing:
                self._pin(standing, daemon, now)
            if hello.job in self._dismissed:
                self._let_go(daemon, now)
            self._answer_asked(now)

    def _expect(self, jobs: Sequence[str]) -> None:
        """Know which launched daemons are still to join."""
        self._expected = tuple(jobs)
        if self._are_coming():
            self._barren = None

    def _are_coming(self) -> bool:
        """Whether launched daemons are still to join."""
        return not self._arrived.issuperset(self._expected)

    def _check_versions(self, hello: Hello) -> None:
        """Refuse who could not read what others send: here, where the reason can still be told."""
        if hello.version != VERSION:
            raise ProtocolError(f"protocol version {hello.version}, wanted {VERSION}")
        for what, theirs, ours in (
            ("Python", hello.python, self._python),
            ("mirai", hello.package, self._package),
        ):
            if theirs and ours and theirs != ours:
                raise ProtocolError(
                    f"{what} {theirs} is there, and {ours} here: they must be alike"
                )

    def _find_its_daemon(self, client: Client, hello: Hello) -> None:
        """See whether it is a daemon's process that has become a client too."""
        for daemon in self._daemons.values():
            if hello.pid and (daemon.hello.host, daemon.hello.pid) == (hello.host, hello.pid):
                client.daemon = daemon.peer
                daemon.clients.add(client.peer)

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
        daemon = self._daemons.get(peer)
        if daemon is not None:
            begun = self._begun(daemon, lost.started)
            del self._daemons[peer]
            self._drop_daemon(daemon, begun, lost.crash, now)
        self._mail.pop(peer, None)

    def _drop_client(self, client: Client, now: float) -> None:
        self._asked = [(peer, ask) for peer, ask in self._asked if peer != client.peer]
        for standing in client.standing:
            self._standing.remove(standing)
            self._forgo(standing.function, 1)
        for job in dict.fromkeys(client.jobs.values()):
            self._abandon(job, now)
        if client.daemon in self._daemons:
            self._daemons[client.daemon].clients.discard(client.peer)
            self._doubtful.add(client.daemon)
        for entry in client.functions.values():
            self._forget(entry)

    def _drop_daemon(self, daemon: Daemon, begun: set[Job], crash: Crash, now: float) -> None:
        """Fail what may have started, and queue the rest again."""
        self._idle.discard(daemon)
        self._open.discard(daemon)
        self._places -= daemon.width
        for group in (self._silent, self._overdue, self._lending, self._overloaded):
            group.pop(daemon.peer, None)
        for client in daemon.clients:
            self._clients[client].daemon = 0
        self._relieving.discard(daemon.peer)
        for entry in daemon.knows:
            entry.holders.discard(daemon.peer)
        if daemon.hello.job:  # which nobody here has started, so that only it could tell
            hello = daemon.hello
            crash = structs.replace(crash, host=hello.host, pid=hello.pid, job=hello.job)
        how = f"that daemon was lost: {cause(crash)}"
        for job in daemon.jobs():
            daemon.drop(job)
            job.losses += not begun  # it may be too large to be received: soon it is given alone
            self._stubborn.pop(job, None)
            if job.cancelled:
                self._release(job)
                continue
            if job not in begun and job.losses < MAX_LOSSES and not job.pinned:
                note(job, daemon, now, f"{how}; it had not begun there")
                self._take_down(job, Turn.BACK)
                self._queue.put_back(job)
            else:
                self._crash(job, daemon, crash, how, now)

    def _crash(self, job: Job, daemon: Daemon, crash: Crash, how: str, now: float) -> None:
        """Run a job again that may have begun where somebody died, if it may, or fail it."""
        if job.may_retry() and not job.pinned:
            note(job, daemon, now, f"{how}; attempt {job.attempt + 1} follows")
            self._retry(job)
        else:
            note(job, daemon, now, how)
            self._settle(job, _crashed(job, crash, steps(job, now)))

    def _begun(self, daemon: Daemon, started: int | None) -> set[Job]:
        """Return the jobs in a hand that may have begun, if this was the last; None: who knows.

        Those of which only some have are parted.
        """
        if started is None:
            return set(daemon.jobs())
        if started not in daemon.hand:
            return set()
        last = daemon.hand[started]
        last = self._part(last, 0, started + 1 - last.key)
        jobs = daemon.jobs()
        return set(jobs[: jobs.index(last) + 1])

    def _submit(self, client: Client, submit: Submit, now: float) -> None:
        self._check(client, submit)
        for function in submit.functions:
            self._define(client, function)
        if self._draining and not client.daemon:  # what tasks wait for is finished too
            self._decline(client, submit.tasks)
        else:
            self._accept(client, submit.tasks, now)
        for number in submit.forget:
            self._forget(client.functions.pop(number))

    def _decline(self, client: Client, tasks: Sequence[Task]) -> None:
        for task in tasks:
            for id in range(task.id, task.id + task.count):
                self._post(client.peer).outcomes.append(Outcome(id, Kind.DECLINED))
            client.last = task.id + task.count - 1

    def _accept(self, client: Client, tasks: Sequence[Task], now: float) -> None:
        depth = 0
        urgent: Job | None = None
        if client.daemon:
            depth = self._depth_around(client) + 1
            self._doubtful.add(client.daemon)
        for task in tasks:
            entry = client.functions[task.function]
            key, number = self._keys + 1, entry.definition.number
            own = structs.replace(task, id=key, function=number, timeout=0.0)
            job = Job(task.id, client.peer, entry, own)
            job.depth = depth
            if 0.0 < task.timeout < MAX_TIMEOUT:
                job.deadline = now + task.timeout
                self._timeouts.add(job)
            count = job.count
            self._keys += count
            entry.uses += count
            client.jobs.update(dict.fromkeys(job.ids, job))
            self._queue.push(job)
            client.last = task.id + count - 1
            if task.priority > (client.lowest if urgent is None else urgent.task.priority):
                urgent = job
            elif task.priority < client.lowest:
                client.lowest = task.priority
        if urgent is not None:
            self._urgent.append(urgent)

    def _depth_around(self, client: Client) -> int:
        """Return the depth of the job from which a client in a daemon's process submits."""
        hand = self._daemons[client.daemon].hand
        return next(iter(hand.values())).depth if hand else 0

    def _everywhere(self, client: Client, event: Everywhere, now: float) -> None:
        """Give a call to all daemons, and keep it for those to come."""
        if event.call.following:
            raise ProtocolError("several calls for every daemon")
        tasks = tuple(structs.replace(event.call, id=id) for id in event.ids)
        self._check(client, Submit(tasks))
        if event.call.function not in client.functions:
            raise ProtocolError("a call of an unknown function")
        if len(client.standing) >= MAX_STANDING:
            raise ProtocolError(f"more than {MAX_STANDING} calls for every daemon")
        if self._draining:
            self._decline(client, tasks)
            return
        entry = client.functions[event.call.function]
        self._retire_like(client, entry, event.call)
        entry.uses += 1
        client.last = max((client.last, *event.ids))
        standing = Standing(client.peer, entry, event.call, deque(event.ids))
        client.standing.append(standing)
        self._standing.append(standing)
        staying = [daemon for daemon in self._daemons.values() if not daemon.leaving]
        for daemon in staying:
            self._pin(standing, daemon, now)
        if self._barren is not None and not self._daemons:
            self._answer_missing(standing, 0, _lost(self._barren))
        coming = max(0, self._kept - len(staying))
        self._answer_missing(standing, coming, Outcome(0, Kind.CANCELLED))

    def _retire_like(self, client: Client, entry: FunctionEntry, call: Task) -> None:
        """Forget a call that is made once more: later daemons need to hear it only once."""
        for standing in client.standing:
            same = standing.function is entry and standing.call.payload == call.payload
            if same and not (call.blobs or standing.call.blobs or standing.ids):
                client.standing.remove(standing)
                self._standing.remove(standing)
                self._forgo(entry, 1)
                return

    def _pin(self, standing: Standing, daemon: Daemon, now: float) -> None:
        """Give the call to this daemon, behind what it has."""
        self._keys += 1
        function = standing.function
        function.uses += 1
        number = function.definition.number
        task = structs.replace(
            standing.call, id=self._keys, function=number, timeout=0.0, retries=0, keep=True
        )
        id = standing.ids.popleft() if standing.ids else 0
        job = Job(id, standing.client, function, task)
        job.pinned = True
        job.cost = cost(job)
        if id:
            client = self._clients[standing.client]
            client.jobs[id] = job
            if client.daemon:
                self._doubtful.add(client.daemon)
        else:
            job.cancelled = True  # nobody is there to be told
        if not daemon.hand:
            daemon.began = now
        self._give(daemon, job, now)
        self._place(daemon, now)

    def _answer_missing(self, standing: Standing, coming: int, answer: Outcome) -> None:
        """Say of all but so many answers that have no daemon yet that there will be none."""
        while len(standing.ids) > coming:
            id = standing.ids.pop()
            self._completed += 1
            self._post(standing.client).outcomes.append(structs.replace(answer, id=id))

    def _expect_no_more(self, answer: Outcome) -> None:
        """Say of all answers but those of the daemons that are still to be kept: none will come."""
        staying = sum(not daemon.leaving for daemon in self._daemons.values())
        coming = max(0, self._kept - staying)
        for standing in self._standing:
            self._answer_missing(standing, coming, answer)

    def _scale(self, event: Scale) -> None:
        self._kept = event.count
        self._expect_no_more(Outcome(0, Kind.CANCELLED))
        self._commands.append(Keep(event.count, event.slots))

    def _check(self, client: Client, submit: Submit) -> None:
        """Raise before anything has changed."""
        known = client.functions
        new = check_functions(submit.functions, known)
        last = client.last
        for task in submit.tasks:
            if task.id <= last and (client.peer > 0 or task.id in client.jobs):
                raise ProtocolError(f"task {task.id} after task {last}")
            check_task(task, known, new)
            last = task.id + task.count - 1
        if not submit.forget:
            return
        forget = set(submit.forget)
        if len(forget) != len(submit.forget) or not all(n in known or n in new for n in forget):
            raise ProtocolError("a function is forgotten that was not known")

    def _define(self, client: Client, function: Function) -> None:
        self._numbers += 1
        if len(client.estimates) >= MAX_ESTIMATES:
            client.estimates.clear()
        estimate = client.estimates.setdefault(function.name, Estimate())
        definition = structs.replace(function, number=self._numbers)
        client.functions[function.number] = FunctionEntry(definition, estimate)

    def _cancel(self, client: Client, ids: Sequence[int], now: float) -> None:
        for job in self._parts(client, ids):
            self._abandon(job, now)
        for standing in client.standing if any(each.ids for each in client.standing) else ():
            for id in ids:
                if id in standing.ids:
                    standing.ids.remove(id)

    def _hand_back(self, client: Client, ids: Sequence[int], now: float) -> None:
        """Give a client those of these tasks back that no daemon has, and forget them."""
        returned: list[int] = []
        for job in self._parts(client, ids):
            if job.waiting:
                returned += job.ids
                self._abandon(job, now)
        self._post(client.peer).first.append(Returned(tuple(returned)))

    def _parts(self, client: Client, ids: Sequence[int]) -> Iterator[Job]:
        """Yield jobs of just those of these tasks that are a client's and not answered."""
        jobs = client.jobs
        for first, last in spans(sorted({id for id in ids if id in jobs})):
            id = first
            while id <= last:
                job = self._part(jobs[id], id - jobs[id].id, last + 1 - id)
                yield job
                id += job.count

    def _finish(self, daemon: Daemon, outcomes: Sequence[Outcome], now: float) -> None:
        """Pass on how tasks ended.  Whatever the daemon was not asked for is dropped."""
        for outcome in outcomes:
            if outcome.kind in NOT_FOR_DAEMONS and not _is_from_behind(daemon, outcome):
                raise ProtocolError("a daemon that says what only a dispatcher may say")
            if outcome.following and not _is_plain(outcome):
                raise ProtocolError("a run of outcomes that are not all plain values")
        head = next(iter(daemon.hand), None)
        slow = False
        for outcome in outcomes:
            count = outcome.count
            for job, start in self._taken(daemon, outcome.id, count):
                daemon.done += job.count
                if outcome.kind not in UNTIMED:
                    # In this order, min and max make a number even of NaN.
                    mean = max(0.0, min(MOST, outcome.seconds / count))
                    job.function.estimate.learn(mean, job.count)
                    slow = slow or mean > 2 * job.cost
                    if mean == MOST and outcome.seconds < MAX_TIMEOUT:
                        job.function.estimate.learn_long(outcome.seconds / count)
                self._answer(job, outcome, start, daemon, now)
        moved = head not in daemon.hand  # else it has only dropped what was cancelled
        if moved:
            daemon.began = now
        if moved or daemon.width > 1:
            daemon.overdue = False
            self._calm(daemon)
        if daemon.clients:
            self._doubtful.add(daemon.peer)
        if slow or daemon.peer in self._overloaded:
            self._weigh(daemon)
        self._place(daemon, now)

    def _weigh(self, daemon: Daemon) -> None:
        """See whether its hand should take much longer than was expected when it was given."""
        jobs = daemon.jobs()
        for job in jobs:
            job.cost = cost(job)
        daemon.load = sum(job.cost * job.count for job in jobs)
        if _has_too_much(daemon):
            self._overloaded[daemon.peer] = daemon
        elif not daemon.overdue:
            self._overloaded.pop(daemon.peer, None)

    def _answer(self, job: Job, outcome: Outcome, start: int, daemon: Daemon, now: float) -> None:
        """Do what a daemon's answer asks for: it is of ``start`` other tasks, and of this job's."""
        if job.cancelled:
            self._release(job)
        elif outcome.again and job.may_retry():
            took = seconds(job, outcome, now)
            how = f"failed there, after {took}; attempt {job.attempt + 1} follows"
            note(job, daemon, now, how)
            self._retry(job)
        elif outcome.kind is Kind.CRASHED and outcome.crash is not None:
            how = f"a daemon behind that one was lost: {cause(outcome.crash)}"
            self._crash(job, daemon, outcome.crash, how, now)
        else:
            story: tuple[Step, ...] = ()
            parts: list[Outcome] = []
            slow = outcome.seconds >= SLOW and not outcome.following
            if slow or job.story or outcome.kind is Kind.ERROR:
                story = ended(job, daemon, outcome, now)
            count = 1 if story else job.count  # in a run, no task has a story
            for index in range(0, job.count, count):
                parts.append(outcome.part(job.id + index, start + index, count, story))
            self._settle(job, *parts)

    def _pass_on(self, daemon: Daemon, printed: Printed) -> None:
        """Tell a task's client what it prints, while it is wanted."""
        job = daemon.hand.get(printed.id)
        if job is not None and not job.cancelled:
            id = job.id + printed.id - job.key
            self._post(job.client).printed.append(Printed(id, printed.text))

    def _take_back(self, daemon: Daemon, keys: Sequence[int], now: float) -> None:
        """Queue again what a daemon has handed back."""
        head = next(iter(daemon.hand), None)
        for first, last in spans(keys):
            for job, _ in self._taken(daemon, first, last + 1 - first):
                if job.cancelled:
                    self._release(job)
                elif job.pinned:
                    self._settle(job, Outcome(job.id, Kind.CANCELLED))
                else:
                    note(job, daemon, now, "taken back: it had not begun there")
                    self._take_down(job, Turn.BACK)
                    self._queue.put_back(job)
        if daemon.clients:
            self._doubtful.add(daemon.peer)
        daemon.recalled = False
        self._relieving.discard(daemon.peer)
        if head not in daemon.hand:
            daemon.began = now
        self._rank(daemon, now)

    def _retire(self, peers: Sequence[int], count: int, now: float) -> None:
        daemons = [self._daemons[peer] for peer in peers if peer in self._daemons]
        daemons.sort(key=lambda daemon: (not daemon.leaving, len(daemon.hand)))
        for daemon in daemons[:count]:
            self._let_go(daemon, now)

    def _let_go(self, daemon: Daemon, now: float) -> None:
        """Take back what it has not started, and stop it once it has answered the rest."""
        if daemon.leaving:
            return
        daemon.leaving = True
        if daemon.hand:  # all of it: a recall on its way leaves out what should be running by now
            daemon.recalled = True
            self._post(daemon.peer).recall.extend(daemon.hand)
        self._rank(daemon, now)

    # ── jobs ─────────────────────────────────────────────────────────────────────────────

    def _part(self, job: Job, start: int, count: int) -> Job:
        """Return a job of these tasks alone: of ``count`` at most, after ``start`` others."""
        if start:
            self._behead(job, start)
        return self._behead(job, count) if count < job.count else job

    def _behead(self, job: Job, count: int) -> Job:
        """Make the first ``count`` tasks of a job one of their own, at their place; return it."""
        head = job.behead(count)
        self._register(head)
        if job.waiting:
            self._queue.add_head(head)
        elif job.daemon:
            self._daemons[job.daemon].hand.update(dict.fromkeys(head.keys, head))
            if job in self._stubborn:
                self._stubborn[head] = self._stubborn[job]
                in_order = sorted(self._stubborn.items(), key=lambda entry: entry[1])
                self._stubborn = dict(in_order)
        return head

    def _register(self, job: Job) -> None:
        """Have everybody know that these tasks are in this job now."""
        if not job.cancelled:
            self._clients[job.client].jobs.update(dict.fromkeys(job.ids, job))
            self._timeouts.add(job)

    def _taken(self, daemon: Daemon, key: int, count: int) -> Iterator[tuple[Job, int]]:
        """Take tasks out of a hand; yield jobs of those that were in it.

        With each, it is told how many of the tasks come before it.
        """
        start = 0
        while start < count:
            job = daemon.hand.get(key + start)
            if job is None:
                self.dropped += 1
                start += 1
                continue
            if key + start > job.key:
                self._behead(job, key + start - job.key)
            if count - start < job.count:  # most often: the first tasks of a run
                job = job.behead(count - start)
                self._register(job)
            daemon.drop(job)
            self._stubborn.pop(job, None)
            yield job, start
            start += job.count

    def _settle(self, job: Job, *outcomes: Outcome) -> None:
        """Answer a job that is in no queue and no hand: with its outcomes, or each task alike."""
        client = self._clients[job.client]
        mail = self._post(job.client)
        client.drop(job)
        if client.daemon:
            self._doubtful.add(client.daemon)
        self._timeouts.discard(job)
        if len(outcomes) < job.count and not outcomes[0].following:
            outcomes = tuple(structs.replace(outcomes[0], id=id) for id in job.ids)
        mail.outcomes += outcomes
        self._completed += job.count
        self._release(job)

    def _abandon(self, job: Job, now: float) -> None:
        """Get rid of a job whose client has its answer, or is gone."""
        client = self._clients.get(job.client)
        if client is not None:
            client.drop(job)
            if client.daemon:
                self._doubtful.add(client.daemon)
        job.cancelled = True
        self._timeouts.discard(job)
        if job.waiting:
            self._queue.discard(job)
            self._release(job)
        else:
            self._post(job.daemon).interrupt.extend(job.keys)
            self._stubborn[job] = now

    def _retry(self, job: Job) -> None:
        """Queue a job for another run, behind those that wait already."""
        self._take_down(job, Turn.AGAIN)
        job.retry(self._keys + 1)
        self._keys += job.count
        self._queue.push(job)

    def _give_up(self, now: float) -> None:
        """Answer the jobs whose time is up, and stop them."""
        for job in self._timeouts.due(now):
            for id in job.ids:
                outcome = Outcome(id, Kind.TIMEOUT, story=self._story_of(job, id, now))
                self._post(job.client).outcomes.append(outcome)
            self._completed += job.count
            self._abandon(job, now)

    def _story_of(self, job: Job, id: int, now: float) -> tuple[Step, ...]:
        """Return the story of a job's task that is not answered."""
        daemon = self._daemons.get(job.daemon)
        key = job.key + id - job.id
        return whereabouts(job, key, daemon, len(self._queue) - 1, now)

    def _recount(self, client: Client, id: int, now: float) -> tuple[Step, ...]:
        """Return the story of a client's task, as far as it is one and not answered."""
        if (job := client.jobs.get(id)) is not None:
            return self._story_of(job, id, now)
        if any(id in standing.ids for standing in client.standing):
            return (Step(0.0, "waits for a daemon that is still to join"),)
        return ()

    def _release(self, job: Job) -> None:
        """A job is no more: its function may not be needed any longer."""
        self._forgo(job.function, job.count)

    def _forgo(self, entry: FunctionEntry, uses: int) -> None:
        entry.uses -= uses
        self._drop_if_unused(entry)

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

    def _rank(self, daemon: Daemon, now: float) -> None:
        """Put a daemon that is not silent any more into the groups that it belongs to."""
        self._calm(daemon)
        self._place(daemon, now)

    def _calm(self, daemon: Daemon) -> None:
        self._silent.pop(daemon.peer, None)
        self._overdue.pop(daemon.peer, None)

    def _place(self, daemon: Daemon, now: float) -> None:
        self._idle.discard(daemon)
        self._open.discard(daemon)
        held = len(daemon.hand)
        if held <= daemon.width:
            self._calm(daemon)
            self._overloaded.pop(daemon.peer, None)
        if daemon.recalled:
            return  # what it hands back is older than what it would be given
        if daemon.leaving:
            if not held:
                self._post(daemon.peer).first.append(Stop())
        elif not held or (held < daemon.width and not daemon.lending):
            daemon.overdue = False
            self._idle.add(daemon, first=not held)  # its caches are warm
        elif not (daemon.overdue or daemon.lending):
            if has_credit(daemon):
                self._open.add(daemon)
            if _has_too_much(daemon):
                self._overloaded[daemon.peer] = daemon
            if held > daemon.width:
                self._silent.setdefault(daemon.peer, now)

    def _distribute(self, now: float) -> None:
        self._review(now)
        self._assign(now)
        while self._review(now):  # whoever begins to lend may leave it to others to begin
            self._assign(now)

    def _assign(self, now: float) -> None:
        """Give out what waits: to idle daemons first, each its share, within its credit.

        All places have equal shares.
        """
        if self._barren is not None and not self._daemons:
            self._fail_all(self._barren)
            for standing in self._standing:
                self._answer_missing(standing, 0, _lost(self._barren))
        places = 0  # of those that have not had their share in this round
        unfit: set[frozenset[str]] = set()  # tags with which nothing can be done that waits
        while self._queue and (daemon := self._idle.next(unfit) or self._open.next(unfit)):
            places = places or self._idle.count(unfit) + self._open.count(unfit)
            share = -(-len(self._queue) * daemon.weight // places)
            places = max(0, places - daemon.weight)
            short = self._is_short()
            if not daemon.hand:
                daemon.began = now
            while share and has_credit(daemon):
                job = self._queue.pop(daemon.tags, nested=short)
                if job is None:
                    unfit.add(daemon.tags)
                    break
                if not has_time(daemon, job, now):
                    self._queue.put_back(job)
                    self._let_go(daemon, now)
                    break
                given = self._take_off(daemon, job, share)
                self._give(daemon, given, now)
                share -= given.count
            if not daemon.leaving:
                self._place(daemon, now)

    def _take_off(self, daemon: Daemon, job: Job, share: int) -> Job:
        """Return what a daemon is given of a job that was taken out of the queue.

        The rest is put back.  Where other clients wait too, it is no more than a turn's worth.
        """
        job.cost = cost(job)
        most = min(share, room(daemon, job))
        if self._queue.has_rivals(job):
            most = min(most, max(1, math.ceil(TURN / job.cost)))
        if most >= job.count:
            given = job
        else:
            given = job.behead(most)
            self._register(given)
            self._queue.put_back(job)
        self._queue.charge(given, given.cost * given.count)
        return given

    def _give(self, daemon: Daemon, job: Job, now: float) -> None:
        function = job.function
        job.daemon = daemon.peer
        job.given = now
        daemon.hand.update(dict.fromkeys(job.keys, job))
        daemon.load += job.cost * job.count
        if daemon.clients:
            self._doubtful.add(daemon.peer)
        self._take_down(job, Turn.BEGUN)
        mail = self._post(daemon.peer)
        mail.tasks.append(job.task)
        if function not in daemon.knows:
            daemon.knows.add(function)
            function.holders.add(daemon.peer)
            mail.functions.append(function.definition)

    def _take_down(self, job: Job, turn: Turn) -> None:
        """Have it saved what has become of a job, if it is of those that are kept."""
        if job.client < 0:
            self._commands.append(Moved(job.client, job.id, job.count, turn))

    def _fail_all(
        self, crash: Crash, carried: frozenset[str] | None = None, *, nested: bool = False
    ) -> bool:
        """Fail what ``Queue.pop`` would give for these; return whether there was anything."""
        jobs = list(iter(lambda: self._queue.pop(carried, nested=nested), None))
        for job in jobs:
            self._settle(job, _crashed(job, crash))
        return bool(jobs)

    def _fail_unfit(self, crash: Crash, hope: Sequence[Sequence[str]]) -> None:
        """Fail what waits and nobody could do, neither who is there nor who carries these tags."""
        carried = [frozenset(tags) for tags in hope]
        carried += [daemon.tags for daemon in self._daemons.values() if not daemon.leaving]
        unfit = {tags for tags in self._queue.wanted() if not any(map(set(tags).issubset, carried))}
        for job in [job for job in self._queue if job.task.tags in unfit] if unfit else ():
            self._queue.discard(job)
            self._settle(job, _crashed(job, crash))

    def _look_at_silent(self, now: float) -> None:
        """Give no more to those that are late; others may have what they have not started.

        It is recalled as soon as somebody has nothing to do; or, since it is older than what
        waits, after a longer while.
        """
        for peer, since in list(_due(self._silent.items(), now - PATIENCE)):
            daemon = self._daemons[peer]
            daemon.overdue = True
            del self._silent[peer]
            self._overdue[peer] = since
            self._overloaded[peer] = daemon
            self._place(daemon, now)
        for peer, _ in list(_due(self._overdue.items(), now - LONG)):
            self._recall(self._daemons[peer], now)

    def _recall(self, daemon: Daemon, now: float) -> None:
        """Ask for all but the first task of each place, and what is for no other."""
        behind = list(daemon.hand.items())[daemon.width :]
        keys = [key for key, job in behind if not job.pinned]
        if keys:
            daemon.recalled = True
            self._post(daemon.peer).recall.extend(keys)
        self._rank(daemon, now)

    def _relieve(self, now: float) -> None:
        """While daemons have nothing to do, recall what others have and could be without.

        From no more daemons than are idle, and of many it looks at a few each time, in turn.
        """
        free = len(self._idle) - len(self._relieving)
        for peer, daemon in list(islice(self._overloaded.items(), GLANCES)) if free > 0 else ():
            del self._overloaded[peer]
            if not any(map(self._could_be_idles, daemon.spare(GLANCES))):
                self._overloaded[peer] = daemon  # behind the others
                continue
            if not daemon.recalled:
                self._recall(daemon, now)
            if daemon.recalled:
                self._relieving.add(peer)
                free -= 1
            if free <= 0:
                return

    def _could_be_idles(self, job: Job) -> bool:
        return not (job.pinned or job.cancelled) and self._idle.fits(job.task.tags)

    def _make_way(self, now: float) -> None:
        """Recall what daemons have not started, and is less urgent than what has come and waits.

        Of what a daemon has, it looks at what it was given last: that is the least urgent.
        """
        urgent, self._urgent = self._urgent, []
        for job in urgent:
            for peer in list(islice(chain(self._silent, self._overdue), GLANCES)):
                daemon = self._daemons[peer]
                fits = job.waiting and daemon.tags.issuperset(job.task.tags)
                last = next(reversed(daemon.hand.values()))
                if fits and len(daemon.hand) > daemon.width and _is_outranked(last, job):
                    self._recall(daemon, now)
                    break

    def _kill_stubborn(self, now: float) -> None:
        """Order the end of daemons whose interrupted task does not leave; look again later."""
        for job, _ in list(_due(self._stubborn.items(), now - self._grace)):
            del self._stubborn[job]
            self._stubborn[job] = now
            daemon = self._daemons[job.daemon]
            if daemon.width == 1 and next(iter(daemon.hand.values())) is job:
                self._commands.append(Kill(job.daemon, job.keys))

    def _look(self, now: float) -> None:
        """Now and then, while anybody works, ask those that have been on one task for long."""
        if len(self._idle) == self._places:
            self._look_at = None
        elif self._look_at is None:
            self._look_at = now + LOOK
        elif now >= self._look_at:
            self._look_at = now + LOOK
            for daemon in self._daemons.values():
                if daemon.hand and daemon.pinged is None and now - daemon.began >= LOOK:
                    daemon.pinged = now
                    self._post(daemon.peer).first.append(Ping())

    # ── lending ──────────────────────────────────────────────────────────────────────────

    def _has_nested(self, daemon: Daemon) -> bool:
        """Whether tasks that were submitted from its process are unanswered."""
        return any(self._clients[client].jobs for client in daemon.clients)

    def _review(self, now: float) -> bool:
        """See which daemons have begun or ceased to lend; return whether any has."""
        changed = False
        while self._doubtful:
            daemon = self._daemons.get(self._doubtful.pop())
            if daemon is None:
                continue
            lends = bool(daemon.hand) and self._has_nested(daemon)
            if lends == daemon.lending:
                continue
            daemon.lending, changed = lends, True
            if not lends:
                del self._lending[daemon.peer]
                self._rank(daemon, now)
            else:
                self._lending[daemon.peer] = daemon
                self._rank(daemon, now)
                if not daemon.recalled:
                    self._recall(daemon, now)
        return changed

    def _is_short(self) -> bool:
        """Whether so many daemons lend that the outermost tasks have to wait for those who work."""
        return 2 * len(self._lending) > len(self._daemons) and self._somebody_works()

    def _somebody_works(self) -> bool:
        """Whether something is still to come of a daemon, other than of those who wait."""
        return any(
            daemon.recalled or (daemon.hand and not daemon.lending)
            for daemon in self._daemons.values()
        )

    def _lend(self) -> bool:
        """Have others in the stead of daemons that wait, if there is work.

        Where none can be had, fail what they wait for; return whether there was anything.
        """
        lent = len(self._lending)
        fewer = lent < len(self._told_of)
        if fewer or (self._queue and self._lending.keys() != self._told_of):
            self._told_of = set(self._lending)
            self._commands.append(Lend(tuple(self._lending)))
        if not lent or not self._queue.has_nested() or self._somebody_works():
            return False
        staying = sum(not daemon.leaving for daemon in self._daemons.values())
        kept = self._kept and self._kept + min(lent, self._spare)
        if self._barren is None and (self._are_coming() or staying < kept):
            return False
        return self._fail_nested()

    def _fail_nested(self) -> bool:
        """Fail the tasks of tasks that only daemons that lend could do; where all lend, all.

        Return whether there were any.
        """
        lent = len(self._lending)
        if lent == len(self._daemons):
            crash = self._barren or Crash(STUCK.format(lent, ""))
            return self._fail_all(crash, nested=True)
        crash = self._barren or Crash(STUCK.format(lent, " that could run it"))
        kinds = {daemon.tags for daemon in self._lending.values()}
        return any([self._fail_all(crash, tags, nested=True) for tags in kinds])  # noqa: C419

    # ── draining ─────────────────────────────────────────────────────────────────────────

    def _drain(self) -> None:
        self._draining = True
        self._expect_no_more(Outcome(0, Kind.DECLINED))

    def _halt_if_drained(self) -> None:
        """Halt once every client has its answers."""
        if not self._draining or any(standing.ids for standing in self._standing):
            return
        if not any(client.jobs for client in self._clients.values()):
            self._commands.append(Halt())

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def _reject(self, peer: int, reason: str) -> None:
        self._rejected += 1
        self._commands += [Send(peer, Refused(reason)), CutOff(peer, reason)]

    def _post(self, peer: int) -> Mail:
        mail = self._mail.get(peer)
        if mail is None:
            mail = self._mail[peer] = Mail()
        return mail

    def _flush(self) -> list[Command]:
        """Return the commands so far, and one message of a sort to each peer if it fits."""
        commands, self._commands = self._commands, []
        mails, self._mail = self._mail, {}
        for peer, mail in mails.items():
            if self.is_member(peer):
                commands += [Send(peer, message) for message in self._messages(peer, mail)]
        return commands

    def _messages(self, peer: int, mail: Mail) -> list[Message]:
        messages = mail.first
        if mail.tasks:
            forget, self._daemons[peer].forget = self._daemons[peer].forget, []
            for tasks, functions in work(mail.tasks, mail.functions):
                messages.append(Run(tasks, functions, tuple(forget)))
                forget = []
        if mail.recall:  # what it is given now, too: then it must have that already
            messages.append(Recall(tuple(mail.recall)))
        if mail.interrupt:
            messages.append(Interrupt(tuple(mail.interrupt)))
        messages += mail.printed  # before the results of the same tasks
        messages += [Results(outcomes) for outcomes in batches(mail.outcomes)]
        return messages


def _state(daemon: Daemon, now: float) -> str:
    if daemon.leaving:
        return "leaving"
    if daemon.pinged is not None and now - daemon.pinged >= STALL:
        return "stalled"
    return "busy" if daemon.hand else "idle"


def _current(daemon: Daemon) -> str:
    """Return the function that a daemon should be evaluating."""
    job = next(iter(daemon.hand.values()), None)
    return "" if job is None else job.function.definition.name


def _has_too_much(daemon: Daemon) -> bool:
    """Whether what it has not started is for those who are idle."""
    return daemon.load > TOO_MUCH * daemon.reach and len(daemon.hand) > daemon.width


def _is_from_behind(daemon: Daemon, outcome: Outcome) -> bool:
    """Whether a relay says that one of the daemons behind it has crashed."""
    crashed = outcome.kind is Kind.CRASHED and outcome.crash is not None
    return crashed and daemon.width > 1


def _is_plain(outcome: Outcome) -> bool:
    return outcome.kind is Kind.VALUE and not (outcome.blobs or outcome.log or outcome.again)


def _is_outranked(job: Job, other: Job) -> bool:
    """Whether another job of the same client goes before it."""
    same = (job.client, job.depth, job.cancelled) == (other.client, other.depth, False)
    return same and not job.pinned and job.task.priority < other.task.priority


def _lost(crash: Crash) -> Outcome:
    return Outcome(0, Kind.CRASHED, crash=crash)


def _crashed(job: Job, crash: Crash, story: tuple[Step, ...] = ()) -> Outcome:
    if job.losses >= MAX_LOSSES:
        reason = f"{job.losses} daemons died when they were given the task, the last"
        crash = structs.replace(crash, reason=reason)
    crash = structs.replace(crash, attempt=job.attempt)
    return Outcome(job.id, Kind.CRASHED, crash=crash, story=story)


def _first(entries: dict[Any, float]) -> float:
    """Return when the oldest entry was made."""
    return next(iter(entries.values()))


def _due(entries: Iterable[tuple[_T, float]], until: float) -> Iterator[tuple[_T, float]]:
    """Return the entries up to ``until``, of a group that is in the order of time."""
    return takewhile(lambda entry: entry[1] <= until, entries)
