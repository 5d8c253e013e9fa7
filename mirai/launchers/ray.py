"""Ray: daemons as actors on an existing cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai._pool_options import check_env
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._resident import TOLD, Charge, End, Kept, serve

EXTRA = "Ray is not installed: pip install 'mirai-zmq[ray]'"


@dataclass(frozen=True, kw_only=True)
class RayLauncher(Launcher):
    """Daemons on the Ray cluster that this process has joined (``ray.init()``).

    Each takes ``num_cpus``, ``num_gpus``, ``memory`` in bytes and ``resources``, as Ray means
    them, for as long as it lives; ``env`` is what its environment has besides the worker's.  The
    workers have this package and reach the dispatcher's URL; the interpreter is theirs.

    A daemon is an actor rather than a task: of an actor it can be told whether it has a place
    yet.  It lasts as long as we hold it: they are kept in this module's memory, by the ids of
    their handles, and end with this process.  Raises TypeError or ValueError.
    """

    num_cpus: float = 1
    num_gpus: float = 0
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)

    patience: ClassVar[float] = 600.0
    interval: ClassVar[float] = 2.0

    def __post_init__(self) -> None:
        for name in ("num_cpus", "num_gpus"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative: {getattr(self, name)}")
        check_env(self.env)

    def launch(self, order: Order) -> list[Handle]:
        """Start an actor for each."""
        ray = _ray()
        handles = [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]
        options = {
            "num_cpus": self.num_cpus,
            "num_gpus": self.num_gpus,
            "memory": self.memory,
            "resources": dict(self.resources),
            "max_restarts": 0,  # the pool itself replaces what has ended
            "max_task_retries": 0,
        }
        try:
            place = ray.remote(**{k: v for k, v in options.items() if v is not None})(Place)
            for handle in handles:
                actor = place.remote()
                place_of = actor.where.remote()  # comes first, as they do one thing at a time
                charge = Charge(handle.id, order.keys, dict(self.env))
                end = actor.serve.remote(charge)
                _actors.add(handle, _Started(actor, place_of, end))
        except Exception as error:
            self.terminate(handles)
            raise LaunchError(f"Ray: {type(error).__name__}: {error}") from None
        return handles

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the actors stand."""
        ray, actors = _ray(), _actors.of(handles)
        return states(handles, {id: _state(ray, each) for id, each in actors.items()})

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Kill the actors; the daemons, whose standard input ends, end by themselves."""
        ray = _ray()
        for each in _actors.of(handles).values():
            each.is_told = each.is_told or not _is_done(ray, each.end)
            ray.kill(each.actor, no_restart=True)

    def recall(self, name: str) -> None:
        """End the actors of a launch."""
        self.terminate(_actors.launch(name))

    def log(self, handle: Handle, size: int = TOLD) -> str:
        """Return the last of what a daemon has printed, once it has ended."""
        ray, each = _ray(), _actors.of([handle]).get(handle.id)
        if each is None or not _is_done(ray, each.end):
            return ""
        try:
            end: End = ray.get(each.end)
        except Exception:  # it has not ended by itself
            return ""
        return end.said.encode()[-size:].decode(errors="replace")


class Place:
    """Where a daemon runs, on a worker of Ray's."""

    def where(self) -> str:
        """Return the name of the machine."""
        import socket

        return socket.gethostname()

    def serve(self, charge: Charge) -> End:
        """Run a daemon until it ends."""
        return serve(charge, lambda: False)


@dataclass(slots=True, eq=False)
class _Started:
    actor: Any
    place: Any
    """Comes when it has a place."""
    end: Any
    """Comes when it has ended."""
    is_told: bool = False
    """Whether its end was asked for."""


_actors: Kept[_Started] = Kept()


def _ray() -> Any:
    """Return Ray.  Raises LaunchError if it is not there."""
    try:
        import ray
    except ImportError:
        raise LaunchError(EXTRA) from None
    if not ray.is_initialized():
        raise LaunchError("this process has joined no Ray cluster: call ray.init() first")
    return ray


def _is_done(ray: Any, reference: Any) -> bool:
    return bool(ray.wait([reference], timeout=0)[0])


def _state(ray: Any, started: _Started) -> State:
    if not _is_done(ray, started.end):
        if started.is_told:
            return State(Phase.CANCELLED, "killed")
        if not _is_done(ray, started.place):
            return State(Phase.PENDING, "it has no place yet")
        return State(Phase.RUNNING, f"on {ray.get(started.place)}")
    try:
        end: End = ray.get(started.end)
        return end.state()
    except Exception as error:
        text = f"{type(error).__name__}: {error}".partition("\n")[0]
        return State(_phase(ray, started, error), text)


def _phase(ray: Any, started: _Started, error: Exception) -> Phase:
    if started.is_told:
        return Phase.CANCELLED
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return Phase.MEMORY
    if isinstance(error, ray.exceptions.RayActorError) and "node" in str(error).lower():
        return Phase.PREEMPTED
    return Phase.FAILED
