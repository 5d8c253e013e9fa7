"""``Controller``: it pushes and pops tasks, and has as many workers as there is work for."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack

from mirai._pool import beside
from mirai._pool_options import size_in_bytes
from mirai._status import Status as PoolStatus
from mirai.controllers._book import Summary
from mirai.controllers._engine import Engine, Settings
from mirai.controllers._faces import Awaiting, Blocking
from mirai.controllers._metrics import MetricsLog
from mirai.controllers._options import IDLE_TIME, Recruits, Seconds, check_resources
from mirai.controllers._retry import Retry

if TYPE_CHECKING:
    from mirai._profiles import PoolSettings
    from mirai.controllers._keeping import Keeping
    from mirai.controllers._store import Store
    from mirai.launchers import Handle, Launcher, State

_numbers = itertools.count(1)


class _Hiring:
    """What a controller has besides what a group has: workers."""

    _engine: Engine

    def __repr__(self) -> str:
        name, counts = self._engine.name, self._engine.counts()
        told = f"{counts.unresolved} unresolved, {counts.unpopped} unpopped"
        return f"<{type(self).__name__} {name!r}: {told}>"

    @property
    def workers(self) -> int:
        """How many workers there can be, those behind relays too."""
        return self._engine.crews.most

    def summary(self) -> Summary:
        """Return how many tasks have ended so far, and how."""
        return self._engine.summary()

    def recruit(
        self,
        workers: int,
        launcher: Launcher | None = None,
        *,
        tags: tuple[str, ...] = (),
        min_workers: int = 0,
        idle_time: Seconds = IDLE_TIME,
        wall_time: Seconds | None = None,
        max_tasks: int | None = None,
        launch_timeout: Seconds | None = None,
        each: int = 1,
    ) -> None:
        """Have one more crew: up to so many workers, of another launcher or with other tags.

        A task goes to any worker that carries all of its tags.  Workers that are there come first;
        then others are launched, of the crew that was recruited first.  The options are those of
        the controller's first crew.

        Once tasks were pushed, only a crew can be added that reaches the pool: give the controller
        a ``url`` where others are to join later.

        Raises TypeError or ValueError for what makes no sense, and MiraiError for a crew that
        could not reach the pool.
        """
        self._engine.crews.recruit(
            Recruits(
                workers,
                launcher,
                tags,
                min_workers,
                idle_time,
                wall_time,
                max_tasks,
                launch_timeout,
                each,
            )
        )

    def descale(self) -> None:
        """Let idle workers go now, but for ``min_workers``, without waiting for ``idle_time``."""
        self._engine.crews.descale()

    def launched(self) -> dict[Handle, State]:
        """Return how the jobs of launched workers stand that are not over, as last heard."""
        return self._engine.crews.pool.launched() if self._engine.is_started else {}


class Controller(_Hiring, Blocking):
    """Pushes tasks to workers, pops their results, and has as many workers as there is work for.

        with Controller(workers=4) as controller:
            controller.options(name="model").push(fit, data, depth=3)
            result = controller.pop(timeout=None)

    ``launcher`` starts workers elsewhere (see ``mirai.launchers``); None: they are processes of
    this machine.  There are up to ``workers`` of them: none at first, as many as there are tasks as
    these come, and fewer again once there has been less to do for ``idle_time`` (seconds, or like
    ``"5m"``), but never fewer than ``min_workers``.  They are let go, never stopped in a task.

    A worker leaves after ``wall_time``, or after ``max_tasks`` tasks, and has ``launch_timeout`` to
    join once it was launched, by default as long as is usual on its platform.  ``tags`` is what it
    carries.  ``recruit`` adds workers of other kinds.  With ``each``, what is launched are relays:
    each is a dispatcher of its own, with so many workers behind it on its machine; ``workers`` then
    is how many relays there are at most, and each does so many tasks at once.

    ``retry`` says how often tasks run again, by default never.  A task, known by its name, that
    has crashed ``crashes_max`` times in a row is for the ``backup``, another controller, whose
    workers have more memory, say, and which may have a backup of its own; where there is none, or
    all have had as many, it fails, and ``push`` refuses its name.

    ``store`` is where large arguments and results are (a path, or ``"s3://bucket/prefix"`` and the
    like, see ``open_store``): those of more than ``store_threshold`` bytes travel as references,
    and are read where they are used.  They are removed with the controller, unless ``keep_store``:
    read before what you want to have.  What a program stored that was killed, stays.

    ``metrics`` has each worker measure itself: see ``MetricsLog``.

    With a ``seed``, each task draws from a stream of its own, as ``daemons`` has it; here it does
    so again when it is tried again.  ``url`` is where workers join, by default one that fits the
    launchers.  ``resources`` is what a worker has, for the routing of a group.  The other options
    are those of ``daemons``: ``sync=True`` evaluates tasks in ``push`` itself, for debugging.

    If the dispatcher is lost, all tasks fail with DispatcherLost, and ``push`` raises it until
    ``terminate``; then the next push starts anew.

    As a context manager, it waits for all tasks at the end of the block, or cancels them if the
    block is left by an exception; then all processes are gone.  ``async with`` gives an
    ``AsyncController``, with the same names, awaited.

    Raises TypeError or ValueError for what makes no sense.
    """

    def __init__(
        self,
        launcher: Launcher | None = None,
        *,
        workers: int = 1,
        name: str | None = None,
        min_workers: int = 0,
        idle_time: Seconds = IDLE_TIME,
        wall_time: Seconds | None = None,
        max_tasks: int | None = None,
        launch_timeout: Seconds | None = None,
        each: int = 1,
        tags: tuple[str, ...] = (),
        retry: Retry | None = None,
        crashes_max: int = 5,
        backup: Controller | None = None,
        store: str | os.PathLike[str] | Store | None = None,
        store_threshold: int | str = "1MiB",
        keep_store: bool = False,
        metrics: MetricsLog | None = None,
        seed: int | None = None,
        url: str | None = None,
        resources: Mapping[str, float] | None = None,
        **pool: Unpack[PoolSettings],
    ) -> None:
        first = Recruits(
            workers,
            launcher,
            tags,
            min_workers,
            idle_time,
            wall_time,
            max_tasks,
            launch_timeout,
            each,
        )
        _check_pool(url, seed, pool)
        self._engine = Engine(
            Settings(
                _name(name),
                (first,),
                _retry(retry),
                _crashes_max(crashes_max),
                _engine_of(backup),
                seed,
                url,
                pool,
                check_resources(resources or {}),
                _keeping(store, store_threshold, keep_store),
                _metrics(metrics),
            )
        )
        super().__init__(self._engine)

    def shutdown(self, *tags: str) -> None:
        """Let all workers go that carry these tags; new tasks bring others.

        They end what they run, and hand back what they have not started.
        """
        self._engine.crews.shutdown(tags)

    def dismiss(self, *tags: str) -> int:
        """Have the crews no more that carry all of these tags; return how many those were.

        Their workers end what they run.  Tasks that only they could do fail.  Raises ValueError if
        no crew carries them.
        """
        return self._engine.crews.dismiss(tags)

    def restart_stuck(self, after: Seconds = 0.0) -> int:
        """End the workers that are stuck, and have others; return how many those were.

        One is stuck that is in a task and does not answer for some seconds: a call in C holds its
        interpreter's lock, say, or its process was stopped; and has been for ``after`` seconds in
        its task.  Its task has crashed then.
        """
        return self._engine.crews.restart_stuck(after)

    def status(self) -> PoolStatus:
        """Return what the pool looks like now, each worker, and why tasks wait.

        Raises MiraiError if it has not started, or has ended.
        """
        return self._engine.crews.pool.status()

    async def __aenter__(self) -> AsyncController:
        return self._face()

    def _face(self) -> AsyncController:
        return AsyncController(self)


class AsyncController(_Hiring, Awaiting):
    """A controller for code that awaits: the same names, and the same tasks.

    ``push`` and ``walk`` wait for nothing, but the first one starts the dispatcher, which takes
    some tenths of a second: ``await controller.start()`` does that beside the event loop.  With a
    store, they write what is large.

    ``async with Controller(...) as controller`` gives one; so does ``AsyncController(controller)``
    of a controller that others use too.
    """

    def __init__(self, controller: Controller) -> None:
        self._engine = controller._engine
        super().__init__(self._engine)

    async def shutdown(self, *tags: str) -> None:
        """Do what ``Controller.shutdown`` does."""
        await beside(lambda: self._engine.crews.shutdown(tags))

    async def dismiss(self, *tags: str) -> int:
        """Do what ``Controller.dismiss`` does."""
        return await beside(lambda: self._engine.crews.dismiss(tags))

    async def restart_stuck(self, after: Seconds = 0.0) -> int:
        """Do what ``Controller.restart_stuck`` does."""
        return await beside(lambda: self._engine.crews.restart_stuck(after))

    async def status(self) -> PoolStatus:
        """Do what ``Controller.status`` does."""
        return await beside(lambda: self._engine.crews.pool.status())


def _check_pool(url: str | None, seed: int | None, pool: PoolSettings) -> None:
    """Raise as the start of the pool would, but now."""
    from mirai._profiles import PoolSettings, options_of

    if unknown := pool.keys() - PoolSettings.__annotations__.keys():
        raise TypeError(f"Controller has no option {', '.join(map(repr, sorted(unknown)))}")
    options_of(0, url, seed=seed, **pool)


def _name(name: str | None) -> str:
    if name is None:
        return f"controller-{next(_numbers)}"
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, not {type(name).__name__}")
    if not name:
        raise ValueError("name must not be empty")
    return name


def _retry(retry: Retry | None) -> Retry:
    if retry is not None and not isinstance(retry, Retry):
        raise TypeError(f"retry must be a Retry, not {type(retry).__name__}")
    return retry or Retry()


def _crashes_max(most: int) -> int:
    if not isinstance(most, int) or isinstance(most, bool):
        raise TypeError(f"crashes_max must be an int, not {type(most).__name__}")
    if most < 1:
        raise ValueError(f"crashes_max must be positive: {most}")
    return most


def _engine_of(backup: Controller | None) -> Engine | None:
    if backup is None:
        return None
    if not isinstance(backup, Controller):
        raise TypeError(f"backup must be a Controller, not {type(backup).__name__}")
    return backup._engine


def _metrics(metrics: MetricsLog | None) -> MetricsLog | None:
    if metrics is not None and not isinstance(metrics, MetricsLog):
        raise TypeError(f"metrics must be a MetricsLog, not {type(metrics).__name__}")
    return metrics


def _keeping(
    store: str | os.PathLike[str] | Store | None, threshold: int | str, is_kept: bool
) -> Keeping | None:
    if store is None:
        return None
    from mirai.controllers._keeping import Keeping
    from mirai.controllers._store import open_store

    opened = open_store(store)
    if opened is None:
        return None
    return Keeping(opened, size_in_bytes("store_threshold", threshold), is_kept)
