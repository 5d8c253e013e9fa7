"""What a client may not send, whoever takes its tasks: the core, or the keeper of durable ones."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from dispatcher.messages import Function, ProtocolError, Task
from dispatcher.wire import BATCH_TASKS

MAX_ID = 2**62
"""The largest number for a task that a client may choose."""


def check_functions(functions: Sequence[Function], known: Collection[int]) -> set[int]:
    """Return the numbers of functions that come.

    Raises ProtocolError if one is used twice, or known already.
    """
    new = {function.number for function in functions}
    if len(new) != len(functions) or not new.isdisjoint(known):
        raise ProtocolError("a function's number is used twice")
    return new


def check_task(task: Task, known: Collection[int], new: Collection[int]) -> None:
    """Raise ProtocolError if a task can be none, whatever other tasks there are.

    ``known`` and ``new`` are the functions that it may call.
    """
    if task.function not in known and task.function not in new:
        raise ProtocolError(f"task {task.id} needs an unknown function")
    if task.count > BATCH_TASKS:
        raise ProtocolError(f"a run of {task.count} tasks")
    if task.id > MAX_ID:
        raise ProtocolError(f"there are no numbers after {task.id}")
    if task.following and (task.blobs or task.stream or task.keep):
        raise ProtocolError(f"task {task.id} is none that others could be like")
