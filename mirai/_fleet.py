"""Which daemons were launched, who of them has joined, and what became of the others.  Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mirai.launchers import Handle, Phase, State

FORGOTTEN = 30.0
"""Seconds for which a platform may not know a job until that counts as its end."""
LINGER = 20.0
"""Seconds for which a job is remembered that is over."""
WAITS = State(Phase.PENDING)


@dataclass(slots=True, eq=False)
class Job:
    """One of them."""

    handle: Handle
    since: float
    state: State = WAITS
    """What the platform has told last."""
    has_joined: bool = False
    is_there: bool = False
    """Whether it is connected, as last heard."""
    was_known: bool = False
    """Whether the platform has ever told anything of it."""
    is_dismissed: bool = False
    """Whether it was told to end, and does not count any more."""
    over_since: float | None = None
    """None while something may still come of it."""
    unknown_since: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing may come of it any more."""
        return self.over_since is not None


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that has not joined, and will not."""

    handle: Handle
    why: str


@dataclass(slots=True)
class Fleet:
    """The jobs of a pool, until they are over.  Time is an argument."""

    patience: float
    """Seconds that each has to join."""
    wanted: int = 0
    """How many daemons there are to be."""
    failing: bool = False
    """Whether the last that ended had not joined: then more would hardly do better."""
    jobs: dict[str, Job] = field(default_factory=dict)

    def add(self, handles: Iterable[Handle], now: float) -> None:
        """Some were launched."""
        self.jobs |= {handle.id: Job(handle, now) for handle in handles}
        self.failing = False

    def living(self) -> list[Handle]:
        """Return those of which something may still come, the oldest first."""
        return [job.handle for job in self.jobs.values() if not job.is_over]

    def staying(self) -> list[Handle]:
        """Return those of them that were not told to end."""
        jobs = (job for job in self.jobs.values() if not (job.is_over or job.is_dismissed))
        return [job.handle for job in jobs]

    def expected(self) -> list[Handle]:
        """Return those who are still to join."""
        return [handle for handle in self.staying() if not self.jobs[handle.id].has_joined]

    def is_hopeless(self) -> bool:
        """Whether nobody is to come, since those who were did not do well."""
        return self.failing and not self.staying()

    def missing(self) -> int:
        """Return how many more are wanted, where those did well that were there."""
        return 0 if self.failing else max(0, self.wanted - len(self.staying()))

    def there(self, ids: Collection[str], joined: Collection[str]) -> None:
        """These are there, and no others, as the dispatcher says; and these have ever joined."""
        for id, job in self.jobs.items():
            job.is_there = id in ids
            if (job.is_there or id in joined) and not job.has_joined:
                job.has_joined, self.failing = True, False

    def told(self, states: Mapping[Handle, State], now: float) -> list[Failure]:
        """Take in what the platform tells; return those jobs that have failed to join by now."""
        failures: list[Failure] = []
        for handle, state in states.items():
            job = self.jobs.get(handle.id)
            if job is None or job.is_over:
                continue
            self._update(job, state, now)
            if not job.is_over:
                continue
            if job.has_joined:
                self.failing = False
            elif not job.is_dismissed:
                self.failing = True
                failures.append(Failure(handle, f"job {handle.id} ended before it joined: {state}"))
        return failures

    def _update(self, job: Job, state: State, now: float) -> None:
        unknown = state.phase is Phase.UNKNOWN
        job.was_known = job.was_known or not unknown
        if job.is_there or not unknown:
            job.unknown_since = None
        elif job.unknown_since is None and (job.was_known or job.has_joined):
            job.unknown_since = now  # others may be in a queue that tells nobody
        forgotten = job.unknown_since is not None and now - job.unknown_since >= FORGOTTEN
        job.state = state
        if state.phase.is_over or forgotten:
            job.over_since = now

    def late(self, now: float) -> list[Failure]:
        """Give up those that have not joined in time, and return them: they are to be ended."""
        failures = []
        for job in self.jobs.values():
            gone = job.is_over or job.is_dismissed
            if gone or job.has_joined or now - job.since < self.patience:
                continue
            job.is_dismissed = self.failing = True
            why = f"job {job.handle.id} has not joined within {self.patience:g} s: {job.state}"
            failures.append(Failure(job.handle, why))
        return failures

    def dismiss(self, count: int, idle: Collection[str]) -> tuple[list[Handle], list[Handle]]:
        """Choose so many that are to end; return those that have not joined, and those that have.

        The former go first, the youngest of them at first; of the others the idle ones.
        """

        def rank(handle: Handle) -> tuple[bool, bool]:
            return self.jobs[handle.id].has_joined, handle.id not in idle

        youngest_first = reversed(self.staying())
        chosen = sorted(youngest_first, key=rank)[: max(0, count)]
        for handle in chosen:
            self.jobs[handle.id].is_dismissed = True
        joined = [handle for handle in chosen if self.jobs[handle.id].has_joined]
        return [handle for handle in chosen if handle not in joined], joined

    def ended(self) -> set[str]:
        """Return the names of the launches of which nothing may come any more."""
        living = {job.handle.launch for job in self.jobs.values() if not job.is_over}
        return {job.handle.launch for job in self.jobs.values()} - living

    def finished(self, now: float) -> list[str]:
        """Forget the launches of which nothing may come any more; return their names.

        They are kept for a little while, since somebody may ask why they have ended.
        """
        kept = {
            job.handle.launch
            for job in self.jobs.values()
            if job.over_since is None or now - job.over_since < LINGER
        }
        over = {job.handle.launch for job in self.jobs.values()} - kept
        self.jobs = {id: job for id, job in self.jobs.items() if job.handle.launch in kept}
        return sorted(over)
