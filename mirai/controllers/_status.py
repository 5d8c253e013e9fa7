"""How a task has ended, in one word."""

from __future__ import annotations

from enum import StrEnum

from mirai._errors import DaemonCrashed, DispatcherLost, TaskCancelled, TaskTimeout


class Status(StrEnum):
    """How a task has ended."""

    SUCCESS = "success"
    ERROR = "error"
    """It has raised an exception, or what it returned cannot be pickled."""
    CRASH = "crash"
    """Its worker has died, or its dispatcher."""
    CANCEL = "cancel"
    TIMEOUT = "timeout"


def status_of(error: BaseException | None) -> Status:
    """Return what a mirai's exception means."""
    if error is None:
        return Status.SUCCESS
    for kind, status in (
        (TaskCancelled, Status.CANCEL),
        (TaskTimeout, Status.TIMEOUT),
        ((DaemonCrashed, DispatcherLost), Status.CRASH),
    ):
        if isinstance(error, kind):
            return status
    return Status.ERROR
