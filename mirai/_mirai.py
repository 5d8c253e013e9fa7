"""The verb ``mirai``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar, overload

from mirai._future import Mirai
from mirai._profiles import DEFAULT, ephemeral, pool_of

P = ParamSpec("P")
T = TypeVar("T")


@overload
def mirai(
    fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
) -> Mirai[T]: ...
@overload
def mirai(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Mirai[T]: ...
def mirai(fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Mirai[Any]:
    """Evaluate ``fn(*args, **kwargs)`` on a daemon; return its future at once.

    ``fn`` may be anything that can be called: a lambda, a closure, a method, a partial, a
    function of ``__main__`` or of a notebook, or an ``async def``, which runs on the daemon's
    event loop.  Arguments are pickled now, so changing them afterwards changes nothing.

    Where no daemons are set, one new process is started for this task alone.

    Raises TypeError if ``fn`` cannot be called, SerializationError if it or an argument cannot
    be pickled, and DispatcherLost if the pool is gone.  What goes wrong later is raised by the
    mirai's ``result()`` or ``await``.
    """
    if not callable(fn):
        raise TypeError(f"the first argument must be callable, not {type(fn).__name__}")
    pool = pool_of(DEFAULT)
    if pool is None:
        return _alone(fn, args, kwargs)
    return pool.submit(fn, args, kwargs)


def _alone(fn: Callable[..., Any], args: Any, kwargs: Any) -> Mirai[Any]:
    """Run one task in a pool of its own, which ends with it."""
    pool = ephemeral(DEFAULT)
    try:
        future = pool.submit(fn, args, kwargs)
    except BaseException:
        pool.shutdown()
        raise

    def end(_: object) -> None:
        # Not here: this is the thread that the shutdown waits for.
        threading.Thread(target=pool.shutdown, name="mirai-end").start()

    future.add_done_callback(end)
    return future
