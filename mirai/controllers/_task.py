"""One task of a controller, from its push to its result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pickle import PickleBuffer
from time import time
from typing import TYPE_CHECKING, Any, NamedTuple

from mirai._errors import DaemonCrashed, RemoteError
from mirai._future import Mirai
from mirai._serialize import Reducer, pack
from mirai.controllers._enclosed import Enclosed, Facts, Frozen, TaskFailed
from mirai.controllers._options import PushOptions
from mirai.controllers._result import Attempt, TaskResult
from mirai.controllers._retry import Retry
from mirai.controllers._status import Status, status_of

if TYPE_CHECKING:
    from mirai.controllers._engine import Engine

NOTHING: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})


class End(NamedTuple):
    """How an attempt has failed."""

    status: Status
    error: BaseException
    """As the pool tells it."""
    where: str
    """The controller that had it."""
    log: str


def end_of(error: BaseException, where: str, log: str = "") -> End:
    """Return how an attempt at the controller ``where`` has failed."""
    status = Status.ERROR if isinstance(error, TaskFailed) else status_of(error)
    return End(status, error, where, log)


def original(error: BaseException) -> BaseException:
    """Return the task's own exception, where the pool tells of one."""
    return error.original() if isinstance(error, TaskFailed) else error


@dataclass(slots=True, eq=False)
class Task:
    """A task that was pushed.  What changes is guarded by the lock of its engine."""

    key: str
    command: str
    fn: Enclosed
    options: PushOptions
    retry: Retry
    stream: bytes
    is_claimed: bool
    home: Engine
    """The controller that it was pushed to."""
    mirai: Mirai[Any] = field(default_factory=Mirai)
    """The caller's: it is settled by the last attempt."""
    call: tuple[tuple[Any, ...], dict[str, Any]] = NOTHING
    """What ``fn`` is called with; kept while it may have to be sent again."""
    submitted: float = field(default_factory=time)
    name: str = ""
    is_drawn: bool = False
    ends: list[End] = field(default_factory=list)
    """How attempts have failed."""
    inner: Mirai[Any] | None = None
    """That of the present attempt, or of the last one; None while none is."""
    where: str = ""
    """The controller that has it."""
    is_due: bool = False
    """Whether it waits to be tried again."""
    is_cancelled: bool = False
    has_failed: bool = False
    """Whether the last of its ``ends`` was the last."""
    is_over: bool = False
    finished: float = 0.0


def frozen(args: tuple[Any, ...], kwargs: Mapping[str, Any], reducer: Reducer | None) -> Frozen:
    """Return a call that stays as it is now, whatever becomes of the arguments.

    Raises SerializationError.
    """
    payload, blobs = pack((args, dict(kwargs)), reducer)
    return Frozen(payload, tuple(PickleBuffer(memoryview(blob.data)) for blob in blobs))


def _failed(end: End) -> Attempt:
    """Return how a failed attempt is told."""
    error = end.error
    if isinstance(error, TaskFailed):
        return _told(Status.ERROR, error.facts, end.where, end.log, error.original())
    if not isinstance(error, DaemonCrashed):
        reason = str(error) if end.status is Status.CRASH else ""
        return Attempt(end.status, error, end.where, exit_reason=reason, log=end.log)
    return Attempt(
        end.status,
        error,
        end.where,
        error.job or (f"{error.host}/{error.pid}" if error.host else ""),
        error.host,
        error.pid,
        exit_reason=error.exit_reason,
        log=error.output,
    )


def _told(
    status: Status, facts: Facts, where: str, log: str, error: BaseException | None = None
) -> Attempt:
    return Attempt(
        status,
        error,
        where,
        facts.worker,
        facts.host,
        facts.pid,
        facts.started,
        facts.seconds,
        log=log,
        warnings=facts.warnings,
        peak_memory=facts.peak_memory,
    )


def result_of(task: Task) -> TaskResult[Any]:
    """Return what has come of a task that is over; reads its value."""
    value = None
    attempts = [_failed(end) for end in task.ends]
    if not task.has_failed:
        last, value = _success(task)
        attempts.append(last)
    last = attempts[-1]
    return TaskResult(
        name=task.name,
        key=task.key,
        command=task.command,
        status=last.status,
        value=value,
        error=last.error,
        trace=_trace(last.error),
        warnings=last.warnings,
        seconds=last.seconds,
        seed=int.from_bytes(task.stream, "big") if task.stream else None,
        controller=last.controller,
        worker=last.worker,
        host=last.host,
        pid=last.pid,
        attempts=tuple(attempts),
        exit_reason=last.exit_reason,
        log=last.log,
        submitted=task.submitted,
        started=last.started,
        finished=task.finished,
        peak_memory=last.peak_memory,
        tags=task.options.tags,
    )


def _success(task: Task) -> tuple[Attempt, Any]:
    """Return the attempt that has not failed, and its value, unless that cannot be read here."""
    assert task.inner is not None, "something has ended"
    try:
        facts, value = task.inner.result()
    except Exception as error:
        return _failed(end_of(error, task.where, task.inner.log)), None
    return _told(Status.SUCCESS, facts, task.where, task.inner.log), value


def _trace(error: BaseException | None) -> str:
    cause = None if error is None else error.__cause__
    return cause.traceback if isinstance(cause, RemoteError) else ""
