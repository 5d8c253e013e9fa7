"""What becomes of durable jobs, decided, and nothing else: no file, no socket, no clock.

A ``Keeper`` stands between the clients and the core.  It is the owner of all durable tasks: to
the core each job is a client of its own, with a negative number, whose tasks are named by their
serials; to clients it answers in the core's stead, under the numbers that they have given.  So a
task does not depend on who has asked for it: clients come, go and come again.

Whatever is to outlast the dispatcher it says as records, which the shell saves before it does
anything else: a task is known to a daemon, and its outcome to a client, only once that is on disk.

*What a restart does.*  What has ended stays as it is.  What was never given to a daemon waits.
What was, may have run: it runs again where its sender allows that by ``retries``, each time that
it was given away counted, and else has ended with a crash that says so.

*Held tasks.*  Where no daemon can come (all die before they join, say), a task that has not begun
is not over for that: its clients hear of it, and in the journal it waits.  It is *held*: it goes
to the core again when somebody asks for it, or at the next start.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import groupby

from dispatcher.checks import MAX_ID, check_functions, check_task
from dispatcher.events import Command, Drain, Event, Illegal, Joined, Lost, Moved, Role, Send, Turn
from dispatcher.kept import (
    BEGUN,
    CANCELLED,
    ENDED,
    GONE,
    HELD,
    UNBEGUN,
    WAITING,
    KeptClient,
    KeptFunction,
    KeptJob,
    KeptRun,
    has_failed,
    keys_of,
)
from dispatcher.messages import (
    KEY_BYTES,
    MAX_NAME,
    Attach,
    Cancel,
    Crash,
    Discard,
    Enlist,
    Fetched,
    Function,
    JobReport,
    Kind,
    Look,
    Message,
    Outcome,
    Printed,
    ProtocolError,
    Recall,
    Recount,
    Redo,
    Results,
    Seen,
    Span,
    Submit,
    Task,
    Told,
)
from dispatcher.records import (
    Begun,
    Loaded,
    Record,
    Unbegun,
)
from dispatcher.register import Register
from dispatcher.shared import contents
from dispatcher.wire import batches
from dispatcher.words import spans

MAX_AT_ONCE = 10_000_000


@dataclass(frozen=True, slots=True)
class Recite:
    """Tell a client, as its tasks from ``id`` on, how tasks have ended: the journal knows it."""

    peer: int
    id: int
    span: Span


@dataclass(frozen=True, slots=True)
class Restore:
    """Read tasks in the journal, of the run with this first serial, to be run (again)."""

    run: int
    span: Span


class Keeper:
    """All durable jobs."""

    def __init__(self, time_to_live: float | None = None) -> None:
        """``time_to_live``: how long results stay that nobody has fetched, in seconds.

        None: for ever.
        """
        self._kept = Register(time_to_live)
        self._clients: dict[int, KeptClient] = {}
        self._asked: dict[int, tuple[int, int]] = {}  # our number for a Recount -> whose, its own
        self._numbers = 0  # the last one that we gave to a Recount
        self._draining = False
        self._commands: list[Command] = []
        self._recitals: list[Recite] = []
        self._wanted: list[Restore] = []

    # ── the interface ────────────────────────────────────────────────────────────────────

    def load(self, loaded: Iterable[Loaded], used: Sequence[int], at: float) -> None:
        """Go on where an earlier keeper stopped.

        ``used`` are the largest numbers of jobs and functions and the largest serial that there
        have ever been.
        """
        self._kept.load(loaded, used, at)

    def take(self, events: Iterable[tuple[int, Event]], at: float) -> None:
        """Take in what peers have said; what the core is to hear of it, ``events`` returns.

        ``at`` is the time, in seconds since the epoch.
        """
        for peer, event in events:
            client = self._clients.get(peer)
            if client is None and not isinstance(event, (Joined, Drain)):
                self._kept.events.append((peer, event))
                continue
            try:
                self._apply(peer, client, event, at)
            except ProtocolError as error:
                self._kept.events.append((peer, Illegal(str(error))))
        self._look_again()

    def give(self, commands: Iterable[Command], at: float) -> list[Command]:
        """Take in what the core has said; return what is to be done once all is saved."""
        for command in commands:
            match command:
                case Send(peer, message) if peer < 0:
                    self._hear(self._kept.by_peer.get(peer), message, at)
                case Moved():
                    self._move(command)
                case _:
                    self._commands.append(command)
        commands, self._commands = self._commands, []
        return [*_gathered(commands)]

    def events(self) -> list[tuple[int, Event]]:
        """Return what the core is to hear, and has not heard."""
        events, self._kept.events = self._kept.events, []
        return events

    def records(self) -> list[Record]:
        """Return what is to be saved, and has not been."""
        records, self._kept.records = self._kept.records, []
        return records

    def recitals(self) -> list[Recite]:
        """Return whom to tell what is in the journal."""
        recitals, self._recitals = self._recitals, []
        return recitals

    def wanted(self) -> list[Restore]:
        """Return which tasks are to be read, and given to ``restore``."""
        wanted, self._wanted = self._wanted, []
        return wanted

    def restore(self, task: Task, span: Span) -> None:
        """Give the core these serials of a run that was read in the journal."""
        run = self._kept.runs.get(span.first)
        if run is None or self._draining:
            return
        for state, part in run.spans(span):
            if state == HELD:  # it may have been wanted twice, or cancelled meanwhile
                self._kept.set(run, part.first, part.count, WAITING)
                self._kept.submit(run, task.part(part.first - run.first, part.count))

    def expire(self, at: float) -> None:
        """Forget what has ended too long ago, and what was fetched since this was called last."""
        self._kept.expire(at)

    def running(self) -> int:
        """Return how many tasks daemons have in hand."""
        return self._kept.running()

    def reports(self) -> tuple[JobReport, ...]:
        """Return what there is."""
        return self._kept.reports()

    def check(self) -> None:
        """Raise AssertionError if the state contradicts itself.  For tests."""
        self._kept.check()
        for serial, run in self._kept.runs.items():
            for peer, id in run.listeners.get(serial, ()):
                assert self._clients[peer].serials[id] == serial, "a client has forgotten its task"
                assert run.state(serial) < GONE, "somebody waits for what has ended"
        for client in self._clients.values():
            for serial in client.serials.values():
                assert serial in self._kept.runs, "a client waits for nothing"

    # ── what peers say ───────────────────────────────────────────────────────────────────

    def _apply(self, peer: int, client: KeptClient | None, event: Event, at: float) -> None:
        match event:
            case Joined(role, _) if client is None:
                if role is Role.CLIENT:
                    self._clients[peer] = KeptClient()
                self._kept.events.append((peer, event))
            case Drain():
                self._drain()
                self._kept.events.append((peer, event))
            case Enlist() if client is not None:
                self._enlist(peer, client, event, at)
            case Attach() if client is not None:
                self._attach(peer, client, event)
            case Fetched(spans) if client is not None:
                self._fetched(client, spans)
            case Look(number, name, tasks):
                self._tell(peer, number, self._kept.reports(name, tasks=tasks))
            case Redo(number, name):
                self._redo(name)
                self._tell(peer, number, self._kept.reports(name))
            case Discard(number, name, versions):
                self._discard(name, versions)
                self._tell(peer, number, self._kept.reports(name))
            case Cancel(ids) if client is not None:
                self._cancel(peer, client, ids, at)
            case Recount(number, id) if client is not None and id in client.serials:
                self._recount(peer, number, client.serials[id])
            case Lost() if client is not None:
                self._lose(peer, client)
                self._kept.events.append((peer, event))
            case _:
                if isinstance(event, Submit) and client is not None:
                    client.functions.update((each.number, each) for each in event.functions)
                    for number in event.forget:
                        client.functions.pop(number, None)
                        client.digests.pop(number, None)
                self._kept.events.append((peer, event))

    def _tell(self, peer: int, number: int, reports: tuple[JobReport, ...]) -> None:
        self._commands.append(Send(peer, Seen(number, reports, "")))  # the shell knows the path

    def _enlist(self, peer: int, client: KeptClient, event: Enlist, at: float) -> None:
        _check(client, event)
        client.functions.update((each.number, each) for each in event.functions)
        if event.functions:
            self._kept.events.append((peer, Submit((), event.functions)))
        if self._draining:
            for task in event.tasks:
                declined = (Outcome(id, Kind.DECLINED) for id in _ids(task))
                self._say(peer, declined)
            return
        job = self._kept.job(event.job, at)
        keys = keys_of(event.keys)
        for task in event.tasks:
            its_keys, keys = keys[: task.count], keys[task.count :]
            for start, count, is_new in _stretches(job, task.count, its_keys):
                some = its_keys[start : start + count]
                if is_new:
                    function = self._function(client, task.function, event.version)
                    part = task.part(start, count)
                    self._add(peer, client, job, function, part, some, event.stays, at)
                else:
                    serials = [job.keys[key] for key in some]
                    self._rouse(serials, may_run_again=task.retries > 0)
                    self._listen(peer, client, task.id + start, serials)

    def _function(self, client: KeptClient, number: int, version: bytes) -> KeptFunction:
        """Return what the journal calls a client's function; it may be new there."""
        function = client.functions[number]
        digest = client.digests.get(number)
        if digest is None:
            digest = client.digests[number] = _digest(function)
        return self._kept.function(function, digest, version)

    def _add(
        self,
        peer: int,
        client: KeptClient,
        job: KeptJob,
        function: KeptFunction,
        task: Task,
        keys: Sequence[bytes],
        stays: bool,
        at: float,
    ) -> None:
        """Take on a run that nobody has asked for before."""
        id, count = task.id, task.count
        run = self._kept.enlist(job, function, task, keys, stays, at)
        ids = range(id, id + count)
        whose = (((peer, each),) for each in ids)
        run.listeners.update(zip(run.serials, whose, strict=True))
        client.serials.update(zip(ids, run.serials, strict=True))

    def _attach(self, peer: int, client: KeptClient, event: Attach) -> None:
        id, total = event.id, sum(span.count for span in event.spans)
        if total > MAX_AT_ONCE:
            raise ProtocolError(f"more than {MAX_AT_ONCE} tasks at once")
        if not (0 < id <= MAX_ID and client.is_free(range(id, id + total))):
            raise ProtocolError(f"task {id} is none that could be new")
        for span in event.spans:
            self._listen(peer, client, id, span.numbers)
            id += span.count

    def _listen(self, peer: int, client: KeptClient, id: int, serials: Sequence[int]) -> None:
        """Have a client hear of earlier tasks, under its ids from this on."""
        gone: list[Outcome] = []
        for serial, its_id in zip(serials, range(id, id + len(serials)), strict=True):
            run = self._kept.runs.get(serial)
            state = GONE if run is None else run.state(serial)
            if run is None or state == GONE:
                gone.append(Outcome(its_id, Kind.CANCELLED))
                continue
            if state >= ENDED:
                if not run.stays:
                    client.unfetched[its_id] = serial
                self._recite(peer, its_id, serial)
                continue
            client.serials[its_id] = serial
            run.listen(peer, its_id, serial)
            if state == HELD:
                self._want(run, Span(serial, 1))
        if gone:
            self._say(peer, gone)

    def _rouse(self, serials: Iterable[int], *, may_run_again: bool) -> None:
        """Have cancelled tasks wait again, since somebody asks for them: as far as they may."""
        states = (UNBEGUN, CANCELLED) if may_run_again else (UNBEGUN,)
        for serial in serials:
            run = self._kept.runs[serial]
            if run.state(serial) in states:
                self._kept.hold(run, serial, 1)

    def _look_again(self) -> None:
        """See to what has ended no more, of what was to be told: another may want it run again."""
        recitals, self._recitals = self._recitals, []
        for told in recitals:
            if (client := self._clients.get(told.peer)) is not None:
                self._listen(told.peer, client, told.id, told.span.numbers)

    def _recite(self, peer: int, id: int, serial: int) -> None:
        """Tell a client of one more task, together with the ones before if that may be."""
        if self._recitals:
            last = self._recitals[-1]
            follows = (last.peer, last.id + last.span.count) == (peer, id)
            if follows and last.span.first + last.span.count == serial:
                self._recitals[-1] = Recite(
                    peer, last.id, Span(last.span.first, last.span.count + 1)
                )
                return
        self._recitals.append(Recite(peer, id, Span(serial, 1)))

    def _want(self, run: KeptRun, span: Span) -> None:
        """Have these tasks read, together with the ones before if that may be."""
        if self._wanted:
            last = self._wanted[-1]
            if last.run == run.first and last.span.first + last.span.count == span.first:
                span = Span(last.span.first, last.span.count + span.count)
                self._wanted.pop()
        self._wanted.append(Restore(run.first, span))

    def _fetched(self, client: KeptClient, given: Sequence[Span]) -> None:
        if sum(span.count for span in given) > MAX_AT_ONCE:
            raise ProtocolError(f"more than {MAX_AT_ONCE} results at once")
        serials: list[int] = []
        for span in given:
            for id in span.numbers:
                serial = client.unfetched.pop(id, 0)
                run = self._kept.runs.get(serial)
                if run is not None and run.state(serial) >= ENDED:  # and does not run again
                    serials.append(serial)
        self._let_go(serials)

    def _let_go(self, serials: Iterable[int]) -> None:
        """Keep nothing of these tasks, which have ended."""
        for first, last in spans(sorted({*serials})):
            while first <= last:
                run = self._kept.runs[first]
                count = min(last, run.serials[-1]) + 1 - first
                self._kept.let_go(run, first, count)
                first += count

    def _cancel(self, peer: int, client: KeptClient, ids: Sequence[int], at: float) -> None:
        """Cancel those of our tasks that nobody else waits for; leave the others to the core."""
        theirs = tuple(id for id in ids if id not in client.serials)
        if theirs:
            self._kept.events.append((peer, Cancel(theirs)))
        unwanted: defaultdict[int, list[int]] = defaultdict(list)  # by their jobs' peers
        over: list[int] = []
        for id in ids:
            serial = client.serials.pop(id, 0)
            run = self._kept.runs.get(serial)
            if run is None:
                continue
            run.forgo(peer, id, serial)
            if serial in run.listeners:
                continue
            unwanted[run.job.peer].append(serial)
            self._end(run, Outcome(serial, Kind.CANCELLED), at)
            if not run.stays:
                over.append(serial)
        self._kept.events += ((job, Cancel(tuple(serials))) for job, serials in unwanted.items())
        self._let_go(over)

    def _recount(self, peer: int, number: int, serial: int) -> None:
        self._numbers += 1
        self._asked[self._numbers] = (peer, number)
        job = self._kept.runs[serial].job
        self._kept.events.append((job.peer, Recount(self._numbers, serial)))

    def _lose(self, peer: int, client: KeptClient) -> None:
        """Forget a client: its tasks go on without it."""
        del self._clients[peer]
        for run in {self._kept.runs[serial] for serial in client.serials.values()}:
            run.forsake(peer)

    def _redo(self, name: str) -> None:
        job = self._kept.jobs.get(name)
        for run in job.runs.values() if job is not None else ():
            for state, span in run.spans():
                failed = has_failed(state)
                if failed:
                    self._kept.hold(run, span.first, span.count)
                if failed or state == HELD:
                    self._want(run, span)

    def _discard(self, name: str, versions: Sequence[bytes]) -> None:
        job = self._kept.jobs.get(name)
        if job is None:
            return
        for run in [*job.runs.values()]:
            if not versions or run.function.version in versions:
                self._abandon(run)
                if versions:
                    self._kept.retire(run)
        if not versions:
            self._kept.drop(job)
            self._kept.events.append((job.peer, Lost(Crash("the job was deleted"))))

    def _abandon(self, run: KeptRun) -> None:
        """Stop what a run has not finished, and tell whoever waits for it."""
        left = [serial for state, span in run.spans() if state < GONE for serial in span.numbers]
        if left:
            self._kept.events.append((run.job.peer, Cancel(tuple(left))))
        for serial in left:
            self._deliver(run, Outcome(serial, Kind.CANCELLED))

    def _drain(self) -> None:
        """Have the core finish what daemons have, and no more: the rest is safe in the journal."""
        self._draining = True
        for job in self._kept.jobs.values():
            waiting = tuple(
                serial
                for run in job.runs.values()
                for state, span in run.spans()
                if state == WAITING
                for serial in span.numbers
            )
            if waiting:
                self._kept.events.append((job.peer, Recall(waiting)))

    # ── what the core says ───────────────────────────────────────────────────────────────

    def _hear(self, job: KeptJob | None, message: Message, at: float) -> None:
        match message:
            case Results(outcomes) if job is not None:
                for outcome in outcomes:
                    self._take_outcome(outcome, at)
            case Printed(serial, text):
                run = self._kept.runs.get(serial)
                for peer, id in run.listeners.get(serial, ()) if run is not None else ():
                    self._commands.append(Send(peer, Printed(id, text)))
            case Told(number, story):
                peer, its_number = self._asked.pop(number)
                self._commands.append(Send(peer, Told(its_number, story)))
            case _:
                pass  # it is welcome, and has back what we have recalled

    def _take_outcome(self, outcome: Outcome, at: float) -> None:
        run = self._kept.runs.get(outcome.id)
        if run is None:
            return
        gone = outcome.kind in (Kind.CRASHED, Kind.DECLINED)
        for state, span in run.spans(Span(outcome.id, outcome.count)):
            if state >= GONE:
                continue  # it was cancelled meanwhile
            part = outcome
            if span.count < outcome.count:
                part = outcome.part(span.first, span.first - outcome.id, span.count)
            if gone and state == WAITING:
                self._kept.set(run, span.first, span.count, HELD)
                self._deliver(run, part)
            else:
                self._end(run, part, at)

    def _end(self, run: KeptRun, outcome: Outcome, at: float) -> None:
        self._kept.end(run, outcome, at)
        self._deliver(run, outcome)

    def _deliver(self, run: KeptRun, outcome: Outcome) -> None:
        """Tell whoever waits for these tasks how they ended."""
        for peer, id, start, count in run.told(outcome.id, outcome.count):
            client = self._clients[peer]
            self._say(peer, (outcome.part(id, start, count, outcome.story),))
            for its_id in range(id, id + count):
                serial = client.serials.pop(its_id)
                if not run.stays and run.state(serial) >= ENDED:
                    client.unfetched[its_id] = serial

    def _say(self, peer: int, outcomes: Iterable[Outcome]) -> None:
        """Tell a client of outcomes."""
        self._commands.append(Send(peer, Results(tuple(outcomes))))

    def _move(self, moved: Moved) -> None:
        run = self._kept.runs.get(moved.first)
        if run is None:
            return
        for state, span in run.spans(Span(moved.first, moved.count)):
            if state < GONE:  # it was not cancelled meanwhile
                self._note(run, span.first, span.count, moved.turn)

    def _note(self, run: KeptRun, first: int, count: int, turn: Turn) -> None:
        self._kept.set(run, first, count, BEGUN if turn is Turn.BEGUN else WAITING)
        if turn is Turn.BACK:
            self._kept.records.append(Unbegun(first, count))
        elif turn is Turn.BEGUN:
            last = self._kept.records[-1] if self._kept.records else None
            if isinstance(last, Begun) and last.first + last.count == first != run.first:
                first, count = last.first, last.count + count
                self._kept.records.pop()
            self._kept.records.append(Begun(first, count))


def _gathered(commands: Iterable[Command]) -> Iterator[Command]:
    """Yield them again, with all outcomes in one message that a client is told in a row."""
    for peer, group in groupby(commands, _whose_results):
        if peer is None:
            yield from group
            continue
        messages = [command.message for command in group if isinstance(command, Send)]
        outcomes = [
            each for some in messages if isinstance(some, Results) for each in some.outcomes
        ]
        for batch in batches(outcomes):
            yield Send(peer, Results(batch))


def _whose_results(command: Command) -> int | None:
    is_one = isinstance(command, Send) and isinstance(command.message, Results)
    return command.peer if isinstance(command, Send) and is_one else None


def _check(client: KeptClient, event: Enlist) -> None:
    """Raise ProtocolError before anything has changed."""
    if not 0 < len(event.job) <= MAX_NAME or not event.job.isprintable():
        raise ProtocolError(f"a job's name of {len(event.job)} letters")
    new = check_functions(event.functions, client.functions)
    total = last = 0
    for task in event.tasks:
        total += task.count
        if task.id <= last:
            raise ProtocolError(f"task {task.id} after task {last}")
        last = task.id + task.count - 1
        check_task(task, client.functions, new)
        if not client.is_free(_ids(task)):
            raise ProtocolError(f"task {task.id} is none that could be new")
    if event.keys and len(event.keys) != KEY_BYTES * total:
        raise ProtocolError(f"{len(event.keys)} bytes of keys for {total} tasks")


def _ids(task: Task) -> range:
    return range(task.id, task.id + task.count)


def _stretches(job: KeptJob, count: int, keys: Sequence[bytes]) -> Iterator[tuple[int, int, bool]]:
    """Part tasks into those that a job knows and those that are new to it.

    Yields which is the first, how many there are, and whether they are new.  What is new must be
    known when the next is asked for: it may have the same key.
    """
    if not keys or (job.keys.keys().isdisjoint(keys) and len(set(keys)) == count):
        yield 0, count, True
        return
    start = 0
    while start < count:
        is_new = keys[start] not in job.keys
        stop = start + 1
        seen = {keys[start]}
        while stop < count and (keys[stop] not in job.keys) == is_new:
            if is_new and keys[stop] in seen:
                break
            seen.add(keys[stop])
            stop += 1
        yield start, stop - start, is_new
        start = stop


def _digest(function: Function) -> bytes:
    """Return what tells functions apart."""
    digest = blake2b(function.payload, digest_size=KEY_BYTES)
    for blob in function.blobs:
        digest.update(b"+")
        digest.update(contents(blob.data))
    digest.update(function.name.encode() + bytes((function.fresh,)))
    return digest.digest()
