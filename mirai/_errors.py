"""The tree of errors.

MiraiError
 ├─ TaskTimeout          the task did not end in time       (also TimeoutError)
 ├─ TaskCancelled        the task was cancelled             (also futures.CancelledError)
 ├─ DaemonCrashed        the task's process died
 ├─ RemoteError          the task's exception, where it cannot be pickled
 ├─ DispatcherLost       the pool is gone
 │   └─ AuthenticationError   the pool does not accept our key, or is not whom we expect
 ├─ SerializationError   an argument, a function or a result cannot be pickled
 ├─ QueueFull            the memory budget is used up
 ├─ FunctionChanged      a durable job knows results of another version of the function
 ├─ LaunchError          a platform did not start daemons, or does not answer
 ├─ StoreError           a store does not have a value, or does not answer
 │   └─ BoardLost             the dispatcher that held a board is gone   (also DispatcherLost)
 ├─ BoardError           a board refuses something: a key is there already, say
 │   └─ NotRunning            the worker has left, is to leave, or was declared lost
 ├─ LeaseLost            a task of a queue is somebody else's by now
 └─ ProtocolError        the other side speaks another language
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any

from dispatcher.story import signal_name


class MiraiError(Exception):
    """Whatever goes wrong in mirai itself rather than in a task."""


class TaskTimeout(MiraiError, TimeoutError):
    """The task did not end within its timeout, and was stopped."""


class TaskCancelled(MiraiError, CancelledError):
    """The task was cancelled, or its pool was shut down before it had ended."""


class DaemonCrashed(MiraiError):
    """The process that ran the task died, so that it is not known how far the task came.

    ``exit_code`` is the process's exit code, and ``signal`` the name of the signal that ended it
    (the other is None; both are where the process is on another machine).  ``host`` and ``pid``
    say which process it was, and ``job`` which job of its platform if it was one; ``attempt`` is
    which run of the task, and ``output`` holds the last lines that the process printed.
    """

    def __init__(
        self,
        reason: str,
        *,
        exit_status: int | None = None,
        host: str = "",
        pid: int = 0,
        attempt: int = 1,
        output: str = "",
        job: str = "",
    ) -> None:
        self.reason = reason
        self.exit_code = exit_status if exit_status is None or exit_status >= 0 else None
        self.signal = signal_name(exit_status)
        self.host = host
        self.pid = pid
        self.attempt = attempt
        self.output = output
        self.job = job
        super().__init__(self._text())

    @property
    def exit_reason(self) -> str:
        """Why the process has ended, in words, with its signal or exit code."""
        if self.signal is not None:
            return f"{self.reason} of {self.signal}"
        if self.exit_code is not None:
            return f"{self.reason} with exit code {self.exit_code}"
        return self.reason

    def _text(self) -> str:
        text = self.exit_reason
        if self.pid:
            text += f" (process {self.pid} on {self.host}, attempt {self.attempt})"
        if self.output:
            text += f"; the last it printed:\n{self.output}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (type(self), str(self), self.__dict__)


class RemoteError(MiraiError):
    """An exception in a task, told in words.

    It stands in for an exception that cannot be pickled, and for ``SystemExit``,
    ``KeyboardInterrupt`` and their like, which would end the wrong process here.  It is also the
    ``__cause__`` of any exception that comes from a task, to show where on the daemon it arose.
    """

    def __init__(self, type_name: str, message: str, traceback: str) -> None:
        self.type_name = type_name
        self.message = message
        self.traceback = traceback
        super().__init__(f"{type_name}: {message}\n\n{traceback}")

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.type_name, self.message, self.traceback)


class DispatcherLost(MiraiError):
    """The dispatcher is gone, and with it whatever it had not answered."""


class AuthenticationError(DispatcherLost):
    """The dispatcher does not accept our key, or cannot prove that it is whom we expect."""


class SerializationError(MiraiError):
    """Something cannot be pickled; the message says what it is, and where in the object."""


class QueueFull(MiraiError):
    """The pool's memory budget is used up."""


class FunctionChanged(MiraiError):
    """A durable job has results of a function whose code was another then.

    ``job`` and ``function`` name them, and ``tasks`` is how many there are.
    """

    def __init__(self, job: str, function: str, tasks: int) -> None:
        self.job = job
        self.function = function
        self.tasks = tasks
        super().__init__(
            f"the job {job!r} has {tasks} tasks of another version of {function}:"
            " map(..., changed='again') forgets them and computes all anew, changed='keep' takes"
            " their results as they are"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.job, self.function, self.tasks)


class LaunchError(MiraiError):
    """A platform did not start daemons, or does not answer; the message has its own words."""


class StoreError(MiraiError):
    """A store does not have a value, has another, or does not answer; the message says where."""


class BoardLost(DispatcherLost, StoreError):
    """The dispatcher that held a board is gone, and the board with it."""


class BoardError(MiraiError):
    """A board refuses something, and is as it was; the message says why."""


class NotRunning(BoardError):
    """The board does not know the worker as a running one: it is to leave, has left, or is lost."""


class LeaseLost(MiraiError):
    """A task of a queue was taken back from us, so that our answer was dropped."""


class ProtocolError(MiraiError):
    """The other side sent what it may not send, or speaks another version."""


def again(error: MiraiError) -> MiraiError:
    """Return a like error, to raise where the same one may be raised elsewhere at that moment."""
    return type(error)(*error.args)


def _restore(kind: type[DaemonCrashed], text: str, state: dict[str, Any]) -> DaemonCrashed:
    error = kind.__new__(kind, text)
    error.args = (text,)
    error.__dict__.update(state)
    return error
