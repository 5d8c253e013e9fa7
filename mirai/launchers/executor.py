"""Daemons as long-running calls on an executor, whoever has made it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai._pool_options import check_env
from mirai.launchers import _children
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._resident import GLANCE, Charge, End, Kept, serve

ENDING = 4 * _children.GRACE + GLANCE
"""Seconds that daemons have to end when they are told to."""
SIGN = ".wanted"
"""How the names of files end each of which is there as long as a daemon is wanted."""


@dataclass(frozen=True, kw_only=True)
class ExecutorLauncher(Launcher):
    """Daemons as calls of ``executor``, each a child process of the worker that has the call.

    The executor is any whose ``submit`` returns a ``concurrent.futures.Future``: those of
    ``concurrent.futures``, of loky, of mpi4py.  A daemon takes one of its places for as long as it
    lives; those for which there is no place wait.  The executor stays its owner's, and usable: end
    the pool before it, as leaving its block waits for what it runs.  The workers have this package.
    ``env`` is what the daemons' environment has besides the worker's.

    Nothing can be said to a call that runs.  So there is a file for each, in ``~/.mirai``: when it
    is removed, the daemon ends within a second.  A worker that does not see our files has only the
    connection: its daemon ends when the dispatcher says so or is gone, and not by ``terminate``.

    Workers of ``concurrent.futures`` reach this machine's loopback address; for any other executor
    the pool listens at ``host_url()``, unless it is given a ``url``.  Raises TypeError, ValueError.
    """

    executor: Any = field(kw_only=False)
    env: Mapping[str, str] = field(default_factory=dict)

    patience: ClassVar[float] = 600.0
    interval: ClassVar[float] = 0.5
    shares_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not callable(getattr(self.executor, "submit", None)):
            raise TypeError(f"executor must have a method submit, unlike {self.executor!r}")
        check_env(self.env)

    def launch(self, order: Order) -> list[Handle]:
        """Submit a call for each."""
        _end_at_exit(type(self.executor))
        handles = _children.handles(order)
        try:
            for handle in handles:
                self._submit(handle, order)
        except BaseException:
            self.terminate(handles)
            raise
        return handles

    def _submit(self, handle: Handle, order: Order) -> None:
        sign = os.path.join(order.directory, f"{handle.id}{SIGN}")
        charge = Charge(handle.id, order.keys, dict(self.env))
        try:
            with open(sign, "x"):
                pass
            future = self.executor.submit(run_daemon, charge, sign, handle.log)
        except Exception as error:
            raise LaunchError(f"the executor: {type(error).__name__}: {error}") from None
        if not isinstance(future, Future):
            raise LaunchError(f"the executor returns no concurrent.futures.Future, but {future!r}")
        _calls.add(handle, _Call(future, sign))

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the calls stand."""
        return states(handles, {id: call.state() for id, call in _calls.of(handles).items()})

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Cancel the calls that have not begun; tell the others, and wait until they have ended."""
        calls = list(_calls.of(handles).values())
        for call in calls:
            call.end()
        # One that was cancelled is done, and yet not for ``wait`` while no worker is free.
        going = [call.future for call in calls if not call.future.done()]
        left = wait(going, ENDING).not_done
        if left:
            raise LaunchError(f"{len(left)} calls have not ended within {ENDING:g} s")

    def is_near(self) -> bool:
        """Return whether it is an executor whose workers surely are here."""
        from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor  # it loads much

        return isinstance(self.executor, (ThreadPoolExecutor, ProcessPoolExecutor))

    def recall(self, name: str) -> None:
        """End the calls of a launch."""
        self.terminate(_calls.launch(name))


def run_daemon(charge: Charge, sign: str, log: str) -> End:
    """Run a daemon, on a worker, until it ends or ``sign`` is removed."""
    if not os.path.isdir(os.path.dirname(sign)):  # it is not for us to see
        return serve(charge, lambda: False)
    if not os.path.exists(sign):
        return End(0, "", "it was told to end before it had begun")
    return serve(charge, lambda: not os.path.exists(sign), log)


@dataclass(slots=True, eq=False)
class _Call:
    future: Future[End]
    sign: str
    is_told: bool = False

    def end(self) -> None:
        self.is_told = self.is_told or not self.future.done()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.sign)
        self.future.cancel()

    def state(self) -> State:
        if not self.future.done():
            return State(Phase.RUNNING if self.future.running() else Phase.PENDING)
        if self.is_told or self.future.cancelled():
            return State(Phase.CANCELLED)
        error = self.future.exception()
        if error is not None:
            return State(Phase.FAILED, f"{type(error).__name__}: {error}")
        return self.future.result().state()


_calls: Kept[_Call] = Kept()
_known: set[type] = set()


def _end_at_exit(kind: type) -> None:
    """See that nothing of ours is running when executors, at this process's end, wait for it.

    They do so before anything that ``atexit`` knows, which is when pools end; who was the last to
    ask for that is the first to be called.
    """
    if kind not in _known:
        _known.add(kind)
        before: Any = getattr(threading, "_register_atexit", None)
        if before is not None:
            with contextlib.suppress(RuntimeError):  # this process is ending already
                before(_end_all)


def _end_all() -> None:
    for call in _calls.all():
        call.end()
