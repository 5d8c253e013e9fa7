"""The verb ``mirai``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from mirai._future import Mirai
from mirai._options import DEFAULTS, Seconds, TaskOptions
from mirai._profiles import current_profile, ephemeral, pool_of

P = ParamSpec("P")
T = TypeVar("T")


class Verb:
    """``mirai(fn, *args, **kwargs)``: evaluate a call on a daemon; return its future at once.

    ``fn`` may be anything that can be called: a lambda, a closure, a method, a partial, a
    function of ``__main__`` or of a notebook, or an ``async def``, which runs on the daemon's
    event loop.  Arguments are pickled now, so changing them afterwards changes nothing.

    Where no daemons are set, one new process is started for this task alone.

    Raises TypeError if ``fn`` cannot be called, SerializationError if it or an argument cannot
    be pickled, and DispatcherLost if the pool is gone.  What goes wrong later is raised by the
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
        if not callable(fn):
            raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
        profile = self._options.profile or current_profile()
        pool = pool_of(profile)
        if pool is None:
            return _alone(profile, fn, args, kwargs, self._options)
        return pool.submit(fn, args, kwargs, self._options)

    def options(
        self,
        *,
        timeout: Seconds | None = None,
        retries: int = 0,
        retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        priority: int = 0,
        name: str | None = None,
        profile: str | None = None,
    ) -> Verb:
        """Return the same verb for tasks with these options.

        ``timeout``: seconds from now after which the task is stopped, and TaskTimeout raised.
        ``retries``: how often it may run again after its daemon died, or after an exception of
        the classes in ``retry_on``; without it, no task runs twice.  ``priority``: higher ones
        first, then first in first out.  ``name``: what it is called in errors and in its repr.
        ``profile``: the pool to send it to.

        Raises TypeError or ValueError for what makes no sense.
        """
        kinds = retry_on if isinstance(retry_on, tuple) else (retry_on,)
        return Verb(TaskOptions(timeout, retries, kinds, priority, name, profile))

    def __repr__(self) -> str:
        return "mirai" if self._options is DEFAULTS else f"mirai with {self._options}"

    def __reduce__(self) -> str | tuple[Any, ...]:
        return "mirai" if self._options is DEFAULTS else (Verb, (self._options,))


mirai = Verb(DEFAULTS)


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
        threading.Thread(target=pool.shutdown, name="mirai-end").start()

    future.add_done_callback(end)
    return future
