"""How many workers there are to be.  Pure: time is an argument.

Up with demand, and down once it has been lower for as long as a worker may idle: so whoever is
there is kept through a lull, and nobody is launched for a peak that is over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Policy:
    """What one crew may be."""

    most: int
    least: int = 0
    idle_time: float = 300.0
    """Seconds for which demand must have been lower before workers are let go."""
    gather: float = 0.0
    """Seconds for which demand may grow before anybody is launched for it, so that few launches
    bring many workers; not where all are wanted already."""


@dataclass(frozen=True, slots=True)
class Past:
    """What is to be remembered until the next choice."""

    needed: int = 0
    """The last demand."""
    peaks: tuple[tuple[float, int], ...] = ()
    """When demand was last so high: each later and lower than the one before, all above it."""
    rising_since: float | None = None
    """Since when more are needed than there are."""


@dataclass(frozen=True, slots=True)
class Choice:
    """How many workers there are to be, those on their way included."""

    count: int
    past: Past
    again: float | None = None
    """When to choose anew even if nothing happens; None: not at all."""
    gathers: bool = False
    """Whether more are needed, and are launched only then."""


def choose(tasks: int, workers: int, now: float, policy: Policy, past: Past) -> Choice:
    """Return how many workers there are to be.

    ``tasks`` are not answered, waiting or running; ``workers`` are there or on their way: a job
    that is pending counts.
    """
    needed = max(policy.least, min(policy.most, tasks))
    peaks = _peaks(past, needed, now, policy.idle_time)
    highest = max([needed, *(count for _, count in peaks)])
    kept = max(needed, min(highest, workers, policy.most))
    memory = Past(needed, peaks)
    if needed > workers:
        since = now if past.rising_since is None else past.rising_since
        memory = replace(memory, rising_since=since)
        ripe = since + policy.gather
        if needed < policy.most and workers >= policy.least and now < ripe:
            return Choice(workers, memory, ripe, gathers=True)
    if kept == needed:
        return Choice(kept, memory)
    last = max(until for until, count in peaks if count >= kept)  # lower ones do not matter yet
    return Choice(kept, memory, last + policy.idle_time)


def _peaks(past: Past, needed: int, now: float, window: float) -> tuple[tuple[float, int], ...]:
    """Return the peaks that still count."""
    seen = (*past.peaks, (now, past.needed))
    return tuple((until, count) for until, count in seen if count > needed and until + window > now)


@dataclass(frozen=True, slots=True)
class Crew:
    """Workers of one kind."""

    tags: frozenset[str]
    """What they carry."""
    workers: int
    """How many are there or on their way."""
    most: int


def share_out(demand: Mapping[tuple[str, ...], int], crews: Sequence[Crew]) -> list[int]:
    """Return how many tasks are each crew's, of so many that want to have these tags.

    Those that few crews could do come first; workers that are there before such as would have to
    be launched, and of those the first crew's.  More tasks than there could be workers are the
    first crew's that could do them: it cannot have more workers than its most anyway.
    """
    shares = [0] * len(crews)
    fits = {
        tags: [index for index, crew in enumerate(crews) if crew.tags.issuperset(tags)]
        for tags in demand
    }
    for tags in sorted(demand, key=lambda tags: (len(fits[tags]), -len(tags), tags)):
        fit, count = fits[tags], demand[tags]
        there = [min(crew.workers, crew.most) for crew in crews]
        for room in (there, [crew.most for crew in crews]):
            for index in fit:
                taken = max(0, min(count, room[index] - shares[index]))
                shares[index] += taken
                count -= taken
        if fit:
            shares[fit[0]] += count
    return shares
