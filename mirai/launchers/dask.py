"""Dask: daemons as long-running tasks on an existing cluster, which ``distributed`` talks to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai._pool_options import check_env
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._resident import TOLD, Charge, End, Kept, serve

BEGUN, END = "mirai-begun", "mirai-end"
"""What the events of a daemon begin with: it has begun, and it is to end."""
EXTRA = "Dask is asked by distributed, which is not installed: pip install 'mirai-zmq[dask]'"


@dataclass(frozen=True, kw_only=True)
class DaskLauncher(Launcher):
    """Daemons as tasks of ``client``'s cluster, each on a thread of a worker, by its interpreter.

    The workers have this package; they reach the dispatcher's URL.  ``client`` is a
    ``distributed.Client``, and not an asynchronous one; it is left open.  ``workers`` names those
    that may be used, by address or name, and ``resources`` is what each daemon takes of what
    they have (``{"GPU": 1}``).  ``env`` is what its environment has besides the worker's.

    A task of Dask that runs can't be stopped: each looks every second whether it is to end, by an
    ``Event`` of the scheduler.  If its worker is lost, Dask runs it again on another one, as often
    as ``distributed.scheduler.allowed-failures`` says.

    A task is forgotten by the scheduler when nobody wants its result: the futures are kept in this
    module's memory, by the ids of their handles.  Raises TypeError.
    """

    client: Any = field(kw_only=False)
    workers: Sequence[str] | str | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    patience: ClassVar[float] = 600.0
    interval: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        if not callable(getattr(self.client, "submit", None)):
            raise TypeError(f"client must be a distributed.Client, not {self.client!r}")
        if getattr(self.client, "_asynchronous", False):
            raise TypeError("client must not be asynchronous: it is used in other threads")
        check_env(self.env)

    def launch(self, order: Order) -> list[Handle]:
        """Submit a task for each."""
        handles = [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]
        try:
            for handle in handles:
                charge = Charge(handle.id, order.keys, dict(self.env))
                _tasks.add(handle, _Task(_asking(self._submit, charge)))
        except BaseException:
            self.terminate(handles)
            raise
        return handles

    def _submit(self, charge: Charge) -> Any:
        options = {"resources": dict(self.resources)} if self.resources else {}
        return self.client.submit(
            run_daemon,
            charge,
            key=charge.job,
            pure=False,
            retries=0,
            workers=self.workers,
            **options,
        )

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask of each that has not begun yet; the client knows the rest."""
        tasks = _tasks.of(handles)
        return states(handles, {id: self._state(id, task) for id, task in tasks.items()})

    def _state(self, id: str, task: _Task) -> State:
        status = task.future.status
        if status == "finished":
            end: End = _asking(task.future.result)
            return end.state()
        if status == "error":
            return State(Phase.FAILED, str(_asking(task.future.exception)))
        if status == "cancelled":
            return State(Phase.CANCELLED, status)
        if status == "lost":
            return State(Phase.PREEMPTED, status)
        # What the scheduler has given to a worker may wait there for a thread.
        task.has_begun = task.has_begun or _asking(_event(BEGUN, id, self.client).is_set)
        return State(Phase.RUNNING if task.has_begun else Phase.PENDING)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Tell those that run to end, and cancel the others."""
        tasks = _tasks.of(handles)
        going = {id: task.future for id, task in tasks.items() if task.future.status == "pending"}
        for id in going:
            _asking(_event(END, id, self.client).set)
        if going:
            _asking(self.client.cancel, list(going.values()))

    def recall(self, name: str) -> None:
        """End the tasks of a launch."""
        self.terminate(_tasks.launch(name))

    def log(self, handle: Handle, size: int = TOLD) -> str:
        """Return the last of what a daemon has printed, once it has ended."""
        task = _tasks.of([handle]).get(handle.id)
        if task is None or task.future.status != "finished":
            return ""
        end: End = _asking(task.future.result)
        return end.said.encode()[-size:].decode(errors="replace")


def run_daemon(charge: Charge) -> End:
    """Run a daemon, on a worker."""
    from distributed import get_client, get_worker

    worker, client = get_worker(), get_client()
    begun, end = _event(BEGUN, charge.job, client), _event(END, charge.job, client)

    def is_over() -> bool:
        if worker.status.name != "running":
            return True
        try:
            return bool(end.is_set())
        except Exception:  # the scheduler is gone, and so is whoever wanted this
            return True

    try:
        begun.set()
        return serve(charge, is_over)
    finally:
        with contextlib.suppress(Exception):  # the scheduler may be gone
            begun.clear()
            end.clear()


def _event(what: str, job: str, client: Any) -> Any:
    try:
        from distributed import Event
    except ImportError:
        raise LaunchError(EXTRA) from None
    return Event(f"{what}-{job}", client=client)


@dataclass(slots=True, eq=False)
class _Task:
    future: Any
    has_begun: bool = False


_tasks: Kept[_Task] = Kept()


def _asking(ask: Callable[..., Any], *args: Any) -> Any:
    """Ask the cluster.  Raises LaunchError with what it says."""
    try:
        return ask(*args)
    except LaunchError:
        raise
    except Exception as error:
        raise LaunchError(f"Dask: {type(error).__name__}: {error}") from None
