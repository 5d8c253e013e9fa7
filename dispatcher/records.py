"""What a journal keeps: records of what has become of durable tasks.

They are decided by the ``Keeper``, which knows no file, and written by the ``Journal``, which
decides nothing.  Played again in their order they make the same keeper.

A durable task has a number of its own, its *serial*, which it keeps for ever, across dispatchers.
Tasks that came together as a run have serials that follow one another, and are one record as long
as the same befalls all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from dispatcher.messages import Function, Kind, Outcome, Task


@dataclass(frozen=True, slots=True)
class JobMade:
    """There is a job with this name now."""

    number: int
    name: str
    at: float
    """When, in seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class JobDropped:
    """It is gone, with all its tasks; its number is never used again."""

    number: int


@dataclass(frozen=True, slots=True)
class FunctionMade:
    """Tasks may call this function, which has the journal's own number."""

    function: Function
    digest: bytes
    """Of its payload and blobs: one that is the same is kept once."""
    version: bytes
    """What its sender takes for its code's identity; empty: it does not say."""


@dataclass(frozen=True, slots=True)
class FunctionDropped:
    """No task needs it any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Enlisted:
    """A run of tasks belongs to a job: those with the serials from ``task.id`` on.

    ``task.function`` is the journal's number of the function.
    """

    job: int
    task: Task
    keys: bytes = b""
    """Of each task ``KEY_BYTES``; empty: they have none, and nobody asks for them again."""
    stays: bool = False
    """Whether results stay when they have been fetched."""
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Begun:
    """These tasks are given to a daemon: from now on they may have started."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Unbegun:
    """A daemon has handed them back: that run surely did not start."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Ended:
    """Tasks have ended: those with the serials from ``outcome.id`` on."""

    outcome: Outcome
    at: float = 0.0


@dataclass(frozen=True, slots=True)
class Again:
    """These tasks, which have ended, are to run once more, as if they never had."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LetGo:
    """Their results have reached whoever wanted them, and need not be kept."""

    first: int
    count: int


@dataclass(frozen=True, slots=True)
class Retired:
    """All tasks of the run that was enlisted with this serial first are gone."""

    first: int


Record = (
    JobMade
    | JobDropped
    | FunctionMade
    | FunctionDropped
    | Enlisted
    | Begun
    | Unbegun
    | Ended
    | Again
    | LetGo
    | Retired
)


# ── what a journal tells when it is opened ───────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Past:
    """How tasks had ended before: like ``Ended``, with the outcome still in the journal."""

    first: int
    count: int
    kind: Kind
    at: float = 0.0


Loaded = JobMade | FunctionMade | Enlisted | Begun | Past | LetGo
"""In an order in which what is needed comes first: of a run its ``Enlisted``, then one ``Begun``
for each time that its tasks were given away and not handed back, then ``Past`` and ``LetGo``."""
