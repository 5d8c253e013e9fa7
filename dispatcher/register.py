"""The register of durable jobs: all that a journal would tell, in memory; who owns it decides.

It has one owner, the ``Keeper``.  Each change is noted as a record, to be saved, and as what the
core is to hear of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import groupby

from msgspec import structs

from dispatcher.events import Event, Joined, Role
from dispatcher.kept import (
    BEGUN,
    CANCELLED,
    ENDED,
    GONE,
    HELD,
    UNBEGUN,
    WAITING,
    KeptFunction,
    KeptJob,
    KeptRun,
    keys_of,
    report_of,
)
from dispatcher.messages import (
    VERSION,
    Crash,
    Function,
    Hello,
    JobReport,
    Kind,
    Outcome,
    Span,
    Submit,
    Task,
)
from dispatcher.records import (
    Again,
    Begun,
    Ended,
    Enlisted,
    FunctionDropped,
    FunctionMade,
    JobDropped,
    JobMade,
    LetGo,
    Loaded,
    Past,
    Record,
    Retired,
)

ENDED_WITH_US = "the dispatcher ended while the task may have been running"


class Register:
    """All jobs, and their runs of tasks."""

    def __init__(self, time_to_live: float | None) -> None:
        """``time_to_live``: how long results stay that nobody has fetched, in seconds.

        None: for ever.
        """
        self._time_to_live = time_to_live
        self.jobs: dict[str, KeptJob] = {}
        self.by_peer: dict[int, KeptJob] = {}
        self.runs: dict[int, KeptRun] = {}  # by the serials of all their tasks
        self._functions: dict[int, KeptFunction] = {}
        self._by_digest: dict[tuple[bytes, bytes], KeptFunction] = {}
        self._last_serial = self._last_job = self._last_function = 0
        self._let_gone: list[tuple[KeptRun, int, int]] = []  # tasks of which it is not saved yet
        self.records: list[Record] = []
        """What is to be saved."""
        self.events: list[tuple[int, Event]] = []
        """What the core is to hear."""

    def load(self, loaded: Iterable[Loaded], used: Sequence[int], at: float) -> None:
        """Go on where an earlier keeper stopped.

        ``used`` are the largest numbers of jobs and functions and the largest serial that there
        have ever been.
        """
        self._last_job, self._last_function, self._last_serial = used
        current: tuple[KeptRun, Task, bytearray] | None = None
        for record in loaded:
            if current is not None and not isinstance(record, (Begun, Past, LetGo)):
                self._resume(*current, at)
                current = None
            match record:
                case JobMade():
                    self._make_job(record)
                case FunctionMade():
                    self._make_function(record)
                case Enlisted(task=task):
                    current = (self._enter(record), task, bytearray(task.count))
                case Begun(first, count) if current is not None:
                    run, _, begun = current
                    for index in range(first - run.first, first - run.first + count):
                        begun[index] = min(255, begun[index] + 1)
                case Past(first, count, kind, ended) if current is not None:
                    self.set(current[0], first, count, ENDED + kind)
                    current[0].ended = max(current[0].ended, ended)
                case LetGo(first, count) if current is not None:
                    self.set(current[0], first, count, GONE)
        if current is not None:
            self._resume(*current, at)
        self.expire(at)

    def job(self, name: str, at: float) -> KeptJob:
        """Return a job, made now or before."""
        job = self.jobs.get(name)
        if job is None:
            made = JobMade(self._last_job + 1, name, at)
            self.records.append(made)
            job = self._make_job(made)
        return job

    def function(self, function: Function, digest: bytes, version: bytes) -> KeptFunction:
        """Return what is kept of a function, since now or before."""
        known = self._by_digest.get((digest, version))
        if known is None:
            own = structs.replace(function, number=self._last_function + 1)
            made = FunctionMade(own, digest, version)
            self.records.append(made)
            known = self._make_function(made)
        return known

    def enlist(
        self,
        job: KeptJob,
        function: KeptFunction,
        task: Task,
        keys: Sequence[bytes],
        stays: bool,
        at: float,
    ) -> KeptRun:
        """Take on a run of tasks, and have the core run them."""
        task = structs.replace(task, id=self._last_serial + 1, function=function.number)
        enlisted = Enlisted(job.number, task, b"".join(keys), stays, at)
        self.records.append(enlisted)
        run = self._enter(enlisted)
        self.submit(run, task)
        return run

    def end(self, run: KeptRun, outcome: Outcome, at: float) -> None:
        """Note how tasks have ended, which were all in the same state."""
        self.records.append(Ended(outcome, at))
        run.ended = at
        state = ENDED + outcome.kind
        if state == CANCELLED and run.state(outcome.id) in (WAITING, HELD):
            state = UNBEGUN
        self.set(run, outcome.id, outcome.count, state)

    def hold(self, run: KeptRun, first: int, count: int) -> None:
        """Have tasks that have ended be as if they never had, until somebody wants them."""
        self.records.append(Again(first, count))
        self.set(run, first, count, HELD)

    def let_go(self, run: KeptRun, first: int, count: int) -> None:
        """Keep nothing of tasks that have ended.

        Most often their whole run is soon gone, so it is not hurried to say so of some of them: if
        that is never said, they were fetched in vain, and can be fetched again.
        """
        self.set(run, first, count, GONE)
        if run.is_gone():
            self.retire(run)
        else:
            self._let_gone.append((run, first, count))

    def drop(self, job: KeptJob) -> None:
        """Forget a job."""
        for run in [*job.runs.values()]:
            self._forget(run)
        self.records.append(JobDropped(job.number))
        del self.jobs[job.name], self.by_peer[job.peer]

    def expire(self, at: float) -> None:
        """Forget what has ended too long ago, and what was fetched since this was called last."""
        let_gone, self._let_gone = self._let_gone, []
        for run, first, count in let_gone:
            if run.first in run.job.runs:
                self.records.append(LetGo(first, count))
        if self._time_to_live is None:
            return
        for job in [*self.jobs.values()]:
            for run in [*job.runs.values()]:
                if run.ended and run.ended < at - self._time_to_live and run.is_over():
                    self.retire(run)

    def running(self) -> int:
        """Return how many tasks daemons have in hand."""
        return sum(job.counts[BEGUN] for job in self.jobs.values())

    def reports(self, name: str | None = None, *, tasks: bool = False) -> tuple[JobReport, ...]:
        """Return what there is, of one job or of all."""
        jobs = self.jobs.values() if name is None else filter(None, [self.jobs.get(name)])
        return tuple(report_of(job, tasks=tasks) for job in jobs)

    def check(self) -> None:
        """Raise AssertionError if it contradicts itself.  For tests."""
        for job in self.jobs.values():
            counts = Counter(state for run in job.runs.values() for state in run.states)
            assert counts == +job.counts, "a job has lost count"
            for serial in job.keys.values():
                assert self.runs[serial].job is job, "a key is of no task"
        for serial, run in self.runs.items():
            assert serial in run.serials and run.job.runs[run.first] is run, "a task is lost"
        uses = Counter(run.function.number for run in {*self.runs.values()})
        assert uses == {number: each.uses for number, each in self._functions.items()}

    def _make_job(self, made: JobMade) -> KeptJob:
        job = KeptJob(made.number, made.name, made.at)
        self.jobs[job.name] = self.by_peer[job.peer] = job
        self._last_job = max(self._last_job, made.number)
        self.events.append((job.peer, Joined(Role.CLIENT, Hello(VERSION))))
        return job

    def _make_function(self, made: FunctionMade) -> KeptFunction:
        function = KeptFunction(made)
        self._functions[function.number] = function
        self._by_digest[made.digest, made.version] = function
        self._last_function = max(self._last_function, function.number)
        return function

    def _enter(self, enlisted: Enlisted) -> KeptRun:
        """Know a run from now on."""
        job, task = self.by_peer[-enlisted.job], enlisted.task
        run = KeptRun(job, self._functions[task.function], enlisted)
        self._last_serial = max(self._last_serial, task.id + task.count - 1)
        job.runs[run.first] = run
        job.counts[WAITING] += task.count
        run.function.uses += 1
        self.runs.update(dict.fromkeys(run.serials, run))
        if run.keys:
            job.keys.update(zip(keys_of(run.keys), run.serials, strict=True))
        return run

    def _resume(self, run: KeptRun, task: Task, begun: bytearray, at: float) -> None:
        """See what is still to be done for a run that an earlier dispatcher had."""
        if run.is_gone():
            self.retire(run)
            return
        for state, span in run.spans():
            if state == WAITING:
                self._resume_waiting(run, task, span, begun, at)
            elif state == CANCELLED:
                for serial in span.numbers:
                    if not begun[serial - run.first]:
                        self.set(run, serial, 1, UNBEGUN)

    def _resume_waiting(
        self, run: KeptRun, task: Task, span: Span, begun: bytearray, at: float
    ) -> None:
        start = span.first - run.first
        for times, group in groupby(begun[start : start + span.count]):
            count = len([*group])
            part = task.part(start, count)
            if times > task.retries:
                crash = Crash(ENDED_WITH_US, attempt=times)
                for serial in range(part.id, part.id + part.count):
                    self.end(run, Outcome(serial, Kind.CRASHED, crash=crash), at)
            else:
                self.submit(run, structs.replace(part, retries=task.retries - times))
            start += count

    def submit(self, run: KeptRun, task: Task) -> None:
        """Have the core run tasks of a run."""
        job, number = run.job, run.function.number
        functions: tuple[Function, ...] = ()
        if not job.uses[number]:
            functions = (run.function.definition,)
        if not run.submitted:
            run.submitted = True
            job.uses[number] += 1
        self.events.append((job.peer, Submit((task,), functions)))

    def set(self, run: KeptRun, first: int, count: int, state: int) -> None:
        """Note what has become of tasks."""
        start = first - run.first
        counts = run.job.counts
        before = run.states[start : start + count]
        if before.count(before[0]) == count:  # as it is most often
            counts[before[0]] -= count
        else:
            counts.subtract(before)
        counts[state] += count
        run.states[start : start + count] = bytes((state,)) * count

    def retire(self, run: KeptRun) -> None:
        """Keep nothing of a run."""
        self.records.append(Retired(run.first))
        self._forget(run)

    def _forget(self, run: KeptRun) -> None:
        job, function = run.job, run.function
        job.counts.subtract(run.states)
        del job.runs[run.first]
        for serial in run.serials:
            del self.runs[serial]
        for key, serial in zip(keys_of(run.keys), run.serials, strict=False):
            if job.keys.get(key) == serial:
                del job.keys[key]
        if run.submitted:
            job.uses[function.number] -= 1
            if not job.uses[function.number]:
                self.events.append((job.peer, Submit((), (), (function.number,))))
        function.uses -= 1
        if not function.uses:
            del self._functions[function.number], self._by_digest[function.digest, function.version]
            self.records.append(FunctionDropped(function.number))
