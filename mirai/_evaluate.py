"""Run one task; whatever it does, the answer is an outcome.  No sockets here."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from sys import modules
from time import perf_counter
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from dispatcher.messages import Function, Kind, Outcome, Task
from dispatcher.shared import Shared
from mirai._serialize import Reducer, dumps, pack, unpack
from mirai._streams import Draws, running, seed, seeded

if TYPE_CHECKING:
    import asyncio
    from types import TracebackType

    from mirai._cleanup import Cleanup


BRIEF = 0.001
"""A task that took less, in seconds, is taken to have done nothing that only C code does unseen."""


class Evaluator:
    """Runs tasks one after the other, and keeps the functions and the event loop between them."""

    def __init__(
        self,
        let_through: tuple[type[BaseException], ...] = (),
        cleanup: Cleanup | None = None,
        reducer: Reducer | None = None,
        *,
        lasting: bool = True,
        share: bool = False,
        seeds: bool = True,
        is_stopped: Callable[[], bool] | None = None,
    ) -> None:
        """``let_through``: what a task raises of these is raised here, and is no outcome.

        ``cleanup``: what ``clean_up`` does after each task; None: nothing.  ``reducer`` knows how
        to pickle some of the objects that tasks return or raise.  ``lasting``: coroutines share
        an event loop, and so must all be evaluated by the same thread, one after the other.
        ``share``: large objects that tasks return may lie in shared memory.  ``seeds``: the random
        states of this process are the task's while it runs.  ``is_stopped``: whether the task
        that has just raised was stopped, so that nobody wants to know what.
        """
        self._let_through = let_through
        self._cleanup = cleanup
        self._reducer = reducer
        self._lasting = lasting
        self._share = Shared.copy if share else None
        self._seeds = seeds
        self._is_stopped = is_stopped
        self.is_spoiled = False
        """Whether a task was stopped while it imported something: that may be broken for good."""
        self._keeps = False
        self._seconds = 0.0  # that the last task took
        self._definitions: dict[int, Function] = {}
        self._functions: dict[int, Callable[..., Any]] = {}
        self._latest: dict[int, Callable[..., Any]] = {}  # of those that are fresh for each task
        self._runner: asyncio.Runner | None = None

    def learn(self, functions: tuple[Function, ...], forget: tuple[int, ...]) -> None:
        """Know these functions, which are unpickled when they are first called.

        A ``fresh`` one is unpickled for each task: what one changes in it, no other sees.
        """
        for function in functions:
            self._definitions[function.number] = function
        for number in forget:
            self._definitions.pop(number, None)
            self._functions.pop(number, None)
            self._latest.pop(number, None)

    def evaluate(self, task: Task, *, keep: bool = False) -> Outcome:
        """Call what the task says.  The outcome is a value, or an error of whatever kind.

        With ``keep``, what it changes in this process is left by ``clean_up``, now and later.
        """
        self._keeps = keep
        if self._cleanup is not None and self._cleanup.stale and not task.stream:
            self._cleanup.freshen()
        begun = perf_counter()
        retry_on: list[tuple[type[BaseException], ...]] = []
        try:
            imported = len(modules)
            fn = self._functions.get(task.function)
            if fn is None:
                fn = self._function(task.function)
                begun = perf_counter()  # what it takes to know the function, it takes once
            args, kwargs, *retry_on = unpack(task.payload, task.blobs)
            if len(modules) != imported and self._cleanup is not None:
                self._cleanup.keep()  # what modules do when they are imported, they do once
            seeds = self._seeds and bool(task.stream)
            if seeds:
                seed(task.stream)
            outer, running.draws = running.draws, Draws(task.stream)
            try:
                value = fn(*args, **kwargs)
                if type(value) is CoroutineType:
                    value = self._await(value)
            finally:
                running.draws = outer
                if seeds:
                    seeded()
            payload, blobs = pack(value, self._reducer, share=self._share)
        except BaseException as error:
            self._seconds = perf_counter() - begun
            if isinstance(error, self._let_through):
                raise
            if isinstance(error, KeyboardInterrupt) and _was_importing(error.__traceback__):
                self.is_spoiled = True
            if self._is_stopped is not None and self._is_stopped():
                return Outcome(task.id, Kind.CANCELLED)
            again = any(isinstance(error, kinds) for kinds in retry_on)
            make_room(error)
            told = pack(tell(error, self._reducer))
            return Outcome(task.id, Kind.ERROR, *told, self._seconds, again=again)
        self._seconds = perf_counter() - begun
        return Outcome(task.id, Kind.VALUE, payload, blobs, self._seconds)

    def keep(self) -> None:
        """Take this process as it is now for how it should be after each task."""
        if self._cleanup is not None:
            self._cleanup.keep()
            self._cleanup.stale = False

    def clean_up(self, *, hurry: bool = False) -> None:
        """Undo what the last task has changed in this process; ``hurry``: others are waiting."""
        if self._keeps:
            self.keep()
        elif self._cleanup is not None:
            self._cleanup.restore(brief=hurry and self._seconds < BRIEF)

    def close(self) -> None:
        """Close the event loop, which cancels what a task has left running on it."""
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.close()

    def wake(self) -> None:
        """Have a coroutine's event loop run, if it only waits; in another thread than its own.

        An exception that is raised in that thread from outside is raised when it runs.
        """
        runner = self._runner
        if runner is not None:
            with suppress(RuntimeError):  # it was closed meanwhile
                runner.get_loop().call_soon_threadsafe(int)

    def _function(self, number: int) -> Callable[..., Any]:
        fn = self._functions.get(number)
        if fn is None:
            definition = self._definitions[number]
            fn = unpack(definition.payload, definition.blobs)
            if definition.fresh:
                self._latest[number] = fn  # as long as this lives, its classes are known
            else:
                self._functions[number] = fn
        return fn

    def _await(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine: on a loop that lasts, unless it is stopped, or on one of its own."""
        import asyncio

        if not self._lasting:
            with asyncio.Runner() as runner:
                return runner.run(coroutine, context=copy_context())
        if self._runner is None:
            runner = asyncio.Runner()
            runner.get_loop()  # which is made here, and not by another thread that wakes it
            self._runner = runner
        try:
            return self._runner.run(coroutine, context=copy_context())
        except (KeyboardInterrupt, SystemExit):  # these leave a loop in the middle of things
            self.close()
            raise


def make_room(error: BaseException) -> None:
    """Where memory has run out, drop what the task still holds: it takes some to tell of it."""
    chain: list[BaseException] = []
    following: BaseException | None = error
    while following is not None and not any(following is each for each in chain):
        chain.append(following)
        following = following.__cause__ or following.__context__
    if any(isinstance(each, MemoryError) for each in chain):
        for each in chain:
            _clear_frames(each.__traceback__)


def _was_importing(trace: TracebackType | None) -> bool:
    """Whether an exception came while a module was being executed."""
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "<module>":
            return True
        trace = trace.tb_next
    return False


def _clear_frames(trace: TracebackType | None) -> None:
    while trace is not None:
        with suppress(RuntimeError):  # it is one of ours, and still runs
            trace.tb_frame.clear()
        trace = trace.tb_next


def tell(
    error: BaseException, reducer: Reducer | None = None
) -> tuple[str, str, str, bytes | None]:
    """Return an exception's type, message and traceback in words, and its pickle if it has one."""
    kind = type(error)
    name = kind.__qualname__
    if kind.__module__ not in ("builtins", "__main__"):
        name = f"{kind.__module__}.{name}"
    return name, _text(error), _traceback(error), _pickled(error, reducer)


def _text(error: BaseException) -> str:
    try:
        return "".join(str(error))  # a plain str, whatever its __str__ returns
    except BaseException as second:
        return f"<its message cannot be had: {type(second).__name__}>"


def _traceback(error: BaseException) -> str:
    """Return the traceback as text, without the frames of this file."""
    import traceback

    try:
        lines = traceback.format_exception(
            type(error), error, beyond(error.__traceback__, __file__)
        )
    except BaseException as second:
        return f"<its traceback cannot be had: {type(second).__name__}>"
    return "".join(lines).rstrip()


def beyond(trace: TracebackType | None, file: str) -> TracebackType | None:
    """Skip the frames of a file of ours with which every traceback begins."""
    while trace is not None and trace.tb_frame.f_code.co_filename == file:
        trace = trace.tb_next
    return trace


def _pickled(error: BaseException, reducer: Reducer | None) -> bytes | None:
    """Return its pickle, if what comes out of that is the same exception again."""
    if not isinstance(error, Exception):
        return None
    try:
        pickled = dumps(error, reducer)
        same = unpack(pickled, ())
        alike = type(same).__qualname__ == type(error).__qualname__ and str(same) == str(error)
    except BaseException:  # it runs the task's own code
        return None
    return pickled if alike else None
