"""The verb ``mirai``."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, ParamSpec, TypeVar, overload

from mirai._answer import Value
from mirai._constant import Constant
from mirai._errors import MiraiError
from mirai._future import Mirai
from mirai._job import Job
from mirai._map import MiraiDict, MiraiMap, MiraiStream, elements_of
from mirai._options import DEFAULTS, Seconds, TaskOptions, check_callable, task_options
from mirai._profiles import current_profile, ephemeral, on_daemon, pool_of, require_pool

P = ParamSpec("P")
T = TypeVar("T")
K = TypeVar("K")


class Verb:
    """``mirai(fn, *args, **kwargs)``: evaluate a call on a daemon; return its future at once.

    ``fn`` may be anything that can be called: a lambda, a closure, a method, a partial, a
    function of ``__main__`` or of a notebook, or an ``async def``, which runs on the daemon's
    event loop.  Arguments are pickled now, so changing them afterwards changes nothing.  What a
    call changes in ``fn`` itself (a method's object, say) changes nothing for other tasks, unless
    ``fn`` is large (a model, say): then it is unpickled once on each daemon, and kept.

    Where no daemons are set, one new process is started for this task alone.

    Where the pool's memory budget is used up, it blocks until there is room.

    Raises TypeError if ``fn`` cannot be called, SerializationError if it or an argument cannot
    be pickled, ValueError if its tags are such that no daemon could ever have it, QueueFull if it
    would have to block an event loop or a done-callback, and
    DispatcherLost if the pool is gone.  What goes wrong later is raised by the
    mirai's ``result()`` or ``await``.

    ``mirai.options(timeout=5)(fn, *args, **kwargs)`` says more about the task.
    """

    def __init__(self, options: TaskOptions) -> None:
        self._options = options

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Mirai[T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Mirai[T]: ...
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Mirai[Any]:
        """Send one task; see the class."""
        check_callable(fn)
        profile = self._options.profile or current_profile()
        pool = pool_of(profile)
        if pool is None:
            return _alone(profile, fn, args, kwargs, self._options)
        return pool.submit(fn, args, kwargs, self._options)

    @overload
    def try_(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Mirai[T] | None: ...
    @overload
    def try_(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Mirai[T] | None: ...
    def try_(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Mirai[Any] | None:
        """Do what ``mirai`` does, or return None, at once, if the memory budget is used up.

        Without a budget (``daemons(memory=...)``) it is like ``mirai``, and never None.
        """
        check_callable(fn)
        profile = self._options.profile or current_profile()
        pool = pool_of(profile)
        if pool is None:
            return _alone(profile, fn, args, kwargs, self._options)
        return pool.try_submit(fn, args, kwargs, self._options)

    def options(
        self,
        *,
        timeout: Seconds | str | None = None,
        retries: int = 0,
        retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        priority: int = 0,
        name: str | None = None,
        tags: Iterable[str] = (),
        profile: str | None = None,
    ) -> Verb:
        """Return the same verb for tasks with these options.

        ``timeout``: after so long the task is stopped, and TaskTimeout raised: seconds from its
        submission, or like ``"5m"``.
        ``retries``: how often it may run again after its daemon died, or after an exception of
        the classes in ``retry_on``; without it, no task runs twice.  ``priority``: higher ones
        first, then first in first out.  ``name``: what it is called in errors and in its repr.
        ``tags``: only a daemon that carries all of them gets it.  ``profile``: the pool to send
        it to.

        Raises TypeError or ValueError for what makes no sense.
        """
        return Verb(task_options(timeout, retries, retry_on, priority, name, profile, tags))

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        mapping: Mapping[K, Any],
        /,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: None = None,
    ) -> MiraiDict[K, T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        mapping: Mapping[K, Any],
        /,
        *,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: None = None,
    ) -> MiraiDict[K, T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: None = None,
    ) -> MiraiMap[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: None = None,
    ) -> MiraiMap[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: int,
    ) -> MiraiStream[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: int,
    ) -> MiraiStream[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        max_in_flight: int | None = None,
    ) -> MiraiMap[Any] | MiraiDict[Any, Any] | MiraiStream[Any]:
        """Evaluate ``fn(element, *args, **kwargs)`` on daemons, for each element.

        Several iterables are gone through side by side, and must be of the same length.  The
        rows of a DataFrame (pandas, polars, Arrow) are given as keywords, a column that is not
        named by a str by what ``str`` makes of its name; a dict's values are mapped over, and its
        keys come back.  ``args`` and ``kwargs`` are the same for all, and
        sent once.  All elements are sent, in batches, or none.

        Where the pool has a memory budget, it blocks until all have been sent, or raises QueueFull
        on an event loop; then what has been sent is cancelled.

        With ``max_in_flight``, the input need not fit into memory: it is read as the values are
        consumed, never more than so many elements ahead.

        Raises what ``mirai`` raises, TypeError for what cannot be mapped over, ValueError for
        iterables of different lengths and for columns of the same name, and MiraiError if no
        daemons are set.
        """
        check_callable(fn)
        pool = require_pool(self._options.profile)
        if not isinstance(args, (tuple, list)):
            raise TypeError(f"args must be a tuple, not {type(args).__name__}")
        function = Constant(fn, tuple(args), kwargs or {}) if args or kwargs else fn
        whole = len(iterables) == 1 and isinstance(iterables[0], Mapping)
        if max_in_flight is not None:
            if whole:
                raise TypeError("with max_in_flight, map over a dict's values() or items()")
            room = _positive(max_in_flight)
            return MiraiStream(pool.feed(function, elements_of(iterables), self._options), room)
        if whole:
            keys, iterables = list(iterables[0]), (iterables[0].values(),)
            mirais = pool.submit_all(function, elements_of(iterables), self._options)
            return MiraiDict(mirais, keys)
        mirais = pool.submit_all(function, elements_of(iterables), self._options)
        return MiraiMap(mirais, range(len(mirais)))

    def job(self, name: str) -> Job:
        """Return a durable job of the profile's pool, for tasks with these options.

        See ``Daemons.job``.
        """
        job = require_pool(self._options.profile).job(name)
        return job.with_options(self._options)

    def __repr__(self) -> str:
        return "mirai" if self._options is DEFAULTS else f"mirai with {self._options}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "mirai" if self._options is DEFAULTS else (Verb, (self._options,))


mirai = Verb(DEFAULTS)
try_mirai = mirai.try_
mirai_map = mirai.map


def _positive(count: object) -> int:
    if not isinstance(count, int) or isinstance(count, bool):
        raise TypeError(f"max_in_flight must be an int, not {type(count).__name__}")
    if count < 1:
        raise ValueError(f"max_in_flight must be positive: {count}")
    return count


@overload
def everywhere(
    fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> MiraiMap[T]: ...
@overload
def everywhere(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> MiraiMap[T]: ...
def everywhere(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> MiraiMap[Any]:
    """Evaluate a call once on every daemon, and on each that joins later before its first task.

    For what a process must have before it can work: imports, connections, a working directory.
    What the call changes there is not undone by a daemon's cleanup.  Returns the mirais of the
    daemons that are there or about to join: the local ones that the pool keeps, and the remote
    ones that have joined; what the call returns on daemons that come later is dropped.

    Raises TypeError if ``fn`` cannot be called, SerializationError, DispatcherLost, and
    MiraiError if no daemons are set, or inside a task: that one's daemon could not answer.
    """
    check_callable(fn)
    if on_daemon():
        raise MiraiError("everywhere() inside a task would wait for the task's own daemon")
    mirais = require_pool(None).everywhere(fn, args, kwargs)
    return MiraiMap(mirais, range(len(mirais)))


def race(mirais: Iterable[Mirai[Any]]) -> Mirai[int]:
    """Return a mirai of the index of the first of ``mirais`` to end, in whatever way.

    It is settled at once if one has ended already.  Raises ValueError if there are none, and
    TypeError for what is no mirai.
    """
    runners = list(mirais)
    if not runners:
        raise ValueError("race needs at least one mirai")
    for runner in runners:
        if not isinstance(runner, Mirai):
            raise TypeError(f"race is for mirais, not {type(runner).__name__}")
    first: Mirai[int] = Mirai(0, "race")
    for index, runner in enumerate(runners):
        if first.done():
            break
        runner.add_done_callback(partial(_finish_first, first, index))
    return first


def _finish_first(first: Mirai[int], index: int, _: object) -> None:
    first.settle(Value(index))


def _alone(
    profile: str, fn: Callable[..., Any], args: Any, kwargs: Any, options: TaskOptions
) -> Mirai[Any]:
    """Run one task in a pool of its own, which ends with it."""
    pool = ephemeral(profile)
    try:
        future = pool.submit(fn, args, kwargs, options)
    except BaseException:
        pool.shutdown()
        raise

    def end(_: object) -> None:
        # Not here: this is the thread that the shutdown waits for.
        with contextlib.suppress(RuntimeError):  # the interpreter is about to end, and ends it
            threading.Thread(target=pool.shutdown, name="mirai-end").start()

    future.add_done_callback(end)
    return future
