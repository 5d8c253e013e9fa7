"""How much work a daemon is given in advance.  Pure: time is an argument.

A hand should take so many seconds at most, going by the mean duration of each function, as is the
daemon's *reach*: ``HORIZON``, or for a wide one, which does several tasks at once, so many times as
much.
"""

from __future__ import annotations

import math

from dispatcher.jobs import Job
from dispatcher.peers import Daemon
from dispatcher.wire import BATCH_TASKS

HORIZON = 0.004
"""Seconds of work in hand with which a daemon is given no more; but behind one task, one more."""
OVERHEAD = 4e-6
"""Seconds that any task costs besides the call itself."""
MOST = 4 * HORIZON
"""A call that took longer counts as this long, or one outlier would spoil the mean."""
TOO_MUCH = 2
"""How many times its reach a daemon may have in hand before others may have what has not started,
if they are idle."""
ENOUGH = 0.5
"""The part of a daemon's time that a call may take which it is still to be given in time."""


def has_credit(daemon: Daemon) -> bool:
    """Whether it may be given more: it has too little to do, or nothing behind a short task."""
    held, width = len(daemon.hand), daemon.width
    if daemon.load < daemon.reach or held < width:
        return held < BATCH_TASKS
    return daemon.load < MOST * width and held < 2 * width


def cost(job: Job) -> float:
    """Return how many seconds each of a job's tasks should take; of an unknown one, the most."""
    seconds = job.function.estimate.seconds
    return MOST if seconds is None or job.losses > 1 else seconds + OVERHEAD


def has_time(daemon: Daemon, job: Job, now: float) -> bool:
    """Whether a daemon that ends at some time should be done with a job by then.

    For what takes longer than it would ever have had, it must do.
    """
    if daemon.ends == math.inf:
        return True
    estimate = job.function.estimate
    seconds = max(estimate.long, estimate.seconds or 0.0)
    left = daemon.ends - now - daemon.load / daemon.width
    return seconds <= left or seconds > ENOUGH * (daemon.ends - daemon.since)


def room(daemon: Daemon, job: Job) -> int:
    """Return how many of a job's tasks a daemon can be given that has credit."""
    held, width = len(daemon.hand), daemon.width
    wanted = max(math.ceil((daemon.reach - daemon.load) / job.cost), width - held)
    return max(1, min(wanted, BATCH_TASKS - held))
