"""``Mirai``: a ``concurrent.futures.Future`` that can be awaited.

Most futures are made, settled and read without anybody waiting on a lock, so the Condition that
the standard library's functions need is only made when one of them asks for it.  Until then a
future is settled under one lock that all of them share.  What a task returned is unpickled by
whoever asks for it first, in that thread, and not by the thread that moves messages.

Ctrl-C may come after any call.  So whoever waits here takes no lock that whoever settles needs:
in ``with condition``, it can come when the lock is held and the block is not entered yet.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future
from concurrent.futures._base import CANCELLED_AND_NOTIFIED, FINISHED, LOGGER, PENDING
from time import time
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from dispatcher.story import SLOW
from mirai._answer import Answer, Failure, unpickled
from mirai._errors import DispatcherLost, MiraiError, TaskCancelled
from mirai._landing import Landing
from mirai._story import Event, Story

if TYPE_CHECKING:
    import asyncio

    from mirai._budget import Load

T = TypeVar("T")

settlers: set[int] = set()
"""The threads that settle mirais, by their identifiers: whoever waits in one waits for ever."""


def check_may_wait() -> None:
    """Raise RuntimeError in a thread that settles mirais: in a done-callback."""
    if threading.get_ident() in settlers:
        raise RuntimeError("a done-callback must not wait for the thread that it runs in")


# Guards the step from "no Condition" to "Condition" of every Mirai.  Re-entrant, since a signal
# handler or a finalizer may cancel a mirai while this thread holds it.
_lock = threading.RLock()
_era = object()  # what the mirais that were made in this process have in common


def guard() -> threading.RLock:
    """Return the lock under which mirais without a Condition change."""
    return _lock


FORKED = "this process was forked; its mirais belong to its parent"


def begin_era() -> None:
    """In a forked child: whoever held the lock is not here, nor who settles what pends."""
    global _lock, _era
    _lock, _era = threading.RLock(), object()
    settlers.clear()


class Mirai(Future[T], Generic[T]):
    """A value that will be there later: the result of one task.

    It is a ``concurrent.futures.Future`` (only that ``exception()`` of a cancelled one returns
    its TaskCancelled instead of raising it), and ``await`` works on it too, on asyncio and on
    trio.  As with ``asyncio.wrap_future``, cancelling the coroutine that awaits
    it cancels it.

    ``id`` is the task's number on its connection, ``name`` the function's name, and ``profile``
    the pool that it was sent to.
    """

    # Not Future.__init__: see the module's docstring.
    _lazy: threading.Condition | None = None
    _state: str = PENDING
    _waiters: Any = ()
    _done_callbacks: Any = ()
    _gates: Any = ()  # one for each who waits in ``result`` or ``exception``
    _answer: Answer | bytes | None = None  # until it is read; bytes are a value's pickle
    _result: Any = None
    _exception: BaseException | None = None
    _cancel_hook: Callable[[Mirai[Any]], None] | None = None
    _recount_hook: Callable[[Mirai[Any]], tuple[Event, ...]] | None = None
    _submitted: float = 0.0  # when, in seconds since the epoch
    _settled: float = 0.0
    _told: tuple[Event, ...] = ()  # by the dispatcher, with the answer
    _log: str = ""
    _load: Load | None = None  # what it takes of a memory budget until it is settled

    def __init__(self, id: int = 0, name: str = "", profile: str = "") -> None:
        self.id = id
        self.name = name
        self.profile = profile
        self._era = _era

    if not TYPE_CHECKING:  # where it is an attribute, as in Future

        @property
        def _condition(self) -> threading.Condition:
            if self._era is not _era:
                self._forsake()
            if self._lazy is None:
                fresh = threading.Condition()
                with _lock:
                    if self._lazy is None:
                        self._waiters = []
                        self._done_callbacks = list(self._done_callbacks)
                        self._lazy = fresh
            return self._lazy

    def __repr__(self) -> str:
        state = "done" if self.done() else "pending"
        if self.cancelled():
            state = "cancelled"
        elif self._failed():
            state = "failed"
        where = f" on {self.profile!r}" if self.profile not in ("", "default") else ""
        return f"<Mirai {self.id} {self.name}{where}: {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a mirai belongs to its process; send what it returned instead")

    def _failed(self) -> bool:
        answer = self._answer  # another thread may read it just now, and then it is None
        return self._exception is not None if answer is None else _is_error(answer)

    def annotate(self, log: str, told: tuple[Event, ...]) -> None:
        """Know what the task has printed, and what the dispatcher tells, if there is anything.

        For mirai's own use, before it is settled.
        """
        if log:
            self._log = log
        if told:
            self._told = told

    # ── settling ─────────────────────────────────────────────────────────────────────────

    def settle(self, answer: Answer | bytes, now: float = 0.0, *, cancelled: bool = False) -> bool:
        """Resolve it, once: return False, and change nothing, if it is resolved already.

        Bytes are a value's pickle.

        For mirai's own use; called in any thread.  Callbacks run in this thread.  ``now`` is for
        whoever settles many at once and knows the time.
        """
        state = CANCELLED_AND_NOTIFIED if cancelled else FINISHED
        now = now or time()
        with _lock:
            condition = self._lazy
            if condition is None:
                if self._state != PENDING:
                    return False
                if self._load is not None:
                    self._load.give_back()  # before anybody hears of the answer
                self._settled = now
                self._answer, self._state = answer, state
                if self._load is None and not self._done_callbacks and not self._gates:
                    return True
        if condition is not None:
            with condition:
                if self._state != PENDING:
                    return False
                if self._load is not None:
                    self._load.give_back()
                self._settled = now
                self._answer, self._state = answer, state
                for waiter in self._waiters:
                    if cancelled:
                        waiter.add_cancelled(self)
                    elif _is_error(answer):
                        waiter.add_exception(self)
                    else:
                        waiter.add_result(self)
                condition.notify_all()
        for gate in tuple(self._gates):
            gate.release()
        if self._load is not None:
            self._load.ring()
        self._invoke_callbacks()
        return True

    def add_done_callback(self, fn: Callable[[Future[T]], object]) -> None:
        """Have ``fn(self)`` called when it is settled, by whoever settles it; at once if it is.

        Each callback is called once, in the order in which they were added.  What one raises is
        logged.
        """
        with _lock:
            if not self.done() and self._lazy is None:
                self._done_callbacks = [*self._done_callbacks, fn]
                return
        if not self.done():
            super().add_done_callback(fn)
            return
        try:
            fn(self)
        except Exception:
            LOGGER.exception("exception calling callback for %r", self)

    def _invoke_callbacks(self) -> None:
        callbacks, self._done_callbacks = self._done_callbacks, []
        for callback in callbacks:
            try:
                callback(self)
            except BaseException:  # whatever it is, others wait for this thread to go on
                LOGGER.exception("exception calling callback for %r", self)

    def _forsake(self) -> None:
        """In a forked child, fail if it pends: without callbacks, and locks that others held."""
        self._era = _era
        self._lazy = None
        if self._state == PENDING:
            self._answer, self._state = Failure(DispatcherLost(FORKED)), FINISHED

    def cancel(self) -> bool:
        """Cancel it: drop the task if it waits, stop it if it runs.

        Returns True unless the task had ended already.  The mirai is cancelled at once.  A
        running task is interrupted on its daemon by a KeyboardInterrupt; if it has not left
        within the pool's grace time, its daemon is killed and replaced.
        """
        error = TaskCancelled(f"task {self.id} ({self.name}) was cancelled")
        if not self.done():
            self.settle(Failure(error), cancelled=True)
        if not self.cancelled():
            return False
        if self._cancel_hook is not None:  # also at the next try, if Ctrl-C comes before it
            self._cancel_hook(self)
            self._cancel_hook = None
        return True

    def done(self) -> bool:
        """Return whether it is settled, in whatever way."""
        if self._state == PENDING and self._era is not _era:
            self._forsake()
        return self._state != PENDING

    def cancelled(self) -> bool:
        """Return whether it was cancelled."""
        return self._state == CANCELLED_AND_NOTIFIED

    @property
    def log(self) -> str:
        """The last 8 KiB of what the task has printed, to ``sys.stdout`` and ``sys.stderr``.

        It is there once the task has returned or failed; if it has run several times, it is of
        the last run.  Where the task's process has died, the DaemonCrashed error has the
        ``output``.  With ``sync=True`` it is empty: the text has been printed here.
        """
        return self._log if self.done() else ""

    def story(self) -> Story:
        """Return what has happened to the task so far; ``print`` shows it as a few lines.

        While the task has no answer, the dispatcher is asked where it is: it waits for a daemon,
        with how many others, or it is on which daemon, and runs there for how long.  That takes
        a round trip, like ``status()``, but 2 seconds at most, and is left out in a done-callback.

        Afterwards there is what has been recorded: always when it was submitted here, when its
        answer came, and of what kind that is.  Which daemon had it, from when and for how long, is
        recorded of tasks that took 10 ms or longer or failed, and of those with which something
        unusual has happened: a daemon was lost, or has handed it back, or it ran again.  With them
        the last of these steps are told, from the first daemon to the last; what a cancelled
        task had done until then is not recorded.  The notes of a TaskTimeout and of a
        DaemonCrashed hold the story until then.
        """
        asked = self._ask_for_story() if self._state == PENDING else ()
        if self._state == PENDING:
            return self.story_with(asked)
        return self.story_with((*self._told, Event(self._settled, self._end_in_words())))

    def story_with(self, events: tuple[Event, ...]) -> Story:
        """Return a story of what is known here, and then these.  For mirai's own use."""
        begin = (Event(self._submitted, "submitted"),) if self._submitted else ()
        return Story(self.id, self.name, begin + events)

    def _ask_for_story(self) -> tuple[Event, ...]:
        if self._recount_hook is None:
            return ()
        try:
            return self._recount_hook(self)
        except TimeoutError:
            return (Event(time(), "the dispatcher does not say where it is"),)
        except (MiraiError, RuntimeError):  # it is lost; or this is a done-callback
            return ()

    def _end_in_words(self) -> str:
        if self.cancelled():
            return "was cancelled"
        if not self._failed():
            short = self._recount_hook is not None and not self._told
            return f"returned, after less than {SLOW:g} s on its daemon" if short else "returned"
        answer = self._answer
        error = answer.error if isinstance(answer, Failure) else self._exception
        return "failed" if error is None else f"failed: {type(error).__name__}"

    def running(self) -> bool:
        """Return False: that is known to the dispatcher only."""
        return False

    # ── reading ──────────────────────────────────────────────────────────────────────────

    def result(self, timeout: float | None = None) -> T:
        """Return what the task returned, waiting for it if need be.

        ``timeout`` is in seconds.  Raises TimeoutError if the task has not ended by then (it
        goes on), the task's own exception, or a MiraiError that says why there is no answer.
        A done-callback must not wait: there it raises RuntimeError instead.
        """
        error = self.exception(timeout)
        if error is None:
            return self._result  # type: ignore[no-any-return]
        try:
            raise error
        finally:
            del error  # it holds this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Return the exception that ``result`` would raise, or None; wait like ``result``.

        (Unlike in the standard library, the exception of a cancelled task is returned.)
        """
        if self._state == PENDING and not self._wait(timeout):
            raise TimeoutError(f"{self!r} has not ended within {timeout} s")
        if self._answer is not None:
            self._read(self._answer)
        return self._exception

    def _wait(self, timeout: float | None) -> bool:
        """Block until it is settled, for ``timeout`` seconds at most; return whether it is.

        Raises like ``check_may_wait``.
        """
        check_may_wait()
        gate = threading.Lock()
        gate.acquire()
        gates = self.__dict__.setdefault("_gates", [])
        gates.append(gate)  # before we look: who settles looks at the gates after the state
        try:
            return self.done() or gate.acquire(timeout=-1 if timeout is None else max(0, timeout))
        finally:
            gates.remove(gate)

    def _read(self, answer: Answer | bytes) -> None:
        """Unpickle the answer.  If two threads do so at once, the first object is everyone's.

        What is not an Exception, such as Ctrl-C, leaves the answer to be read again.
        """
        value, failure = None, None
        try:
            value = unpickled(answer) if type(answer) is bytes else answer.read()  # type: ignore[union-attr]
        except Exception as error:
            failure = error
        with _lock:
            if self._answer is not None:
                self._result, self._exception = value, failure
                self._answer = None

    def __await__(self) -> Generator[Any, None, T]:
        if not self.done():
            if running_loop() is not None:
                yield from _wait_on_asyncio(self)
            elif "trio" not in sys.modules:
                raise RuntimeError("to await a mirai, run in asyncio or in trio")
            else:
                from mirai._trio import wait

                yield from wait(self)
        return self.result()


def settle_values(values: Iterable[tuple[Mirai[Any], bytes]], now: float) -> None:
    """Settle many mirais with pickled values, sooner than one by one where nobody waits."""
    others = []
    with _lock:
        for mirai, value in values:
            waited = mirai._lazy or mirai._load or mirai._done_callbacks or mirai._gates
            if waited or mirai._state != PENDING:
                others.append((mirai, value))
            else:
                mirai._settled = now
                mirai._answer, mirai._state = value, FINISHED
    for mirai, value in others:
        mirai.settle(value, now)


def _is_error(answer: Answer | bytes) -> bool:
    return not isinstance(answer, bytes) and answer.is_error


async def give_way() -> None:
    """Let asyncio or trio, whichever runs this, turn to others once."""
    if running_loop() is not None:
        from asyncio import sleep

        await sleep(0)
    elif "trio" in sys.modules:
        from mirai import _trio

        if _trio.is_running():
            await _trio.give_way()


# ── asyncio ──────────────────────────────────────────────────────────────────────────────


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the asyncio loop that runs in this thread, without importing asyncio."""
    events = sys.modules.get("asyncio.events")
    return None if events is None else events._get_running_loop()


def on_event_loop() -> bool:
    """Return whether asyncio or trio runs in this thread, which must not be blocked then."""
    if running_loop() is not None:
        return True
    if "trio" not in sys.modules:
        return False
    from mirai._trio import is_running

    return is_running()


def _landing(loop: asyncio.AbstractEventLoop) -> Landing:
    landing: Landing | None = getattr(loop, "_mirai_landing", None)
    if landing is None:
        landing = Landing(loop.call_soon_threadsafe)
        loop._mirai_landing = landing  # type: ignore[attr-defined]
    return landing


def _wait_on_asyncio(mirai: Mirai[Any]) -> Generator[Any, None, None]:
    loop = running_loop()
    assert loop is not None
    future: asyncio.Future[None] = loop.create_future()
    landing = _landing(loop)

    def wake() -> None:
        if not future.done():
            future.set_result(None)

    mirai.add_done_callback(lambda _: landing.add(wake))
    try:
        yield from future
    except BaseException:
        if future.cancelled():
            mirai.cancel()
        raise
