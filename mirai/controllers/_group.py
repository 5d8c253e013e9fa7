"""``ControllerGroup``: several controllers as one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from mirai.controllers._book import Counts, Summary
from mirai.controllers._controller import Controller
from mirai.controllers._engine import Engine
from mirai.controllers._faces import Awaiting, Blocking
from mirai.controllers._options import Push, suffices
from mirai.controllers._result import TaskResult
from mirai.controllers._task import Task
from mirai.controllers._waiters import Waiters

Route = Callable[..., str]
"""Chooses a controller: given a function, its arguments and keywords, it returns a name."""


class Several:
    """The desks of several controllers as one."""

    def __init__(self, engines: Mapping[str, Engine], route: Route | None) -> None:
        self.name = "+".join(engines)
        self.waiters = Waiters()
        self._engines = dict(engines)
        self._route = route
        self._turn = 0
        for engine in engines.values():
            engine.waiters.listen(self.waiters.ring)

    def start(self) -> None:
        """Nothing: each starts with its first task."""

    def close(self) -> None:
        """End all of them.  Raises the first error, if there are any."""
        with contextlib.ExitStack() as stack:
            for engine in self._engines.values():
                stack.callback(engine.close)

    def push(self, push: Push) -> Task:
        """Send a task to one of them."""
        return self._engines[self._choose(push)].push(push)

    def _choose(self, push: Push) -> str:
        options = push.options
        name = options.controller
        if name is None and self._route is not None:
            name = self._route(push.fn, *push.args, **push.kwargs)
        if name is not None:
            if name not in self._engines:
                known = ", ".join(map(repr, self._engines))
                raise ValueError(f"there is no controller {name!r}; there are {known}")
            return name
        fit = [
            name
            for name, engine in self._engines.items()
            if engine.crews.carry(options.tags)
            and suffices(engine.settings.resources, options.resources)
        ]
        if not fit:
            raise ValueError(
                f"no controller has workers with the tags {list(options.tags)} and the resources"
                f" {dict(options.resources)}"
            )
        if not (options.tags or options.resources):
            return fit[0]
        return next((name for name in fit if not self._is_busy(name)), fit[0])

    def _is_busy(self, name: str) -> bool:
        engine = self._engines[name]
        return engine.counts().unresolved >= engine.most()

    def take(self) -> TaskResult[Any] | None:
        """Return what has ended and was not taken, of each in turn; None if there is none."""
        engines = list(self._engines.values())
        for _ in engines:
            self._turn = (self._turn + 1) % len(engines)
            if (result := engines[self._turn].take()) is not None:
                return result
        return None

    def cancel(self, names: tuple[str, ...] | None) -> int:
        """Cancel those of these names, or all; return how many that were."""
        engines = self._engines.values()
        if names is None:
            return sum(engine.cancel(None) for engine in engines)
        for name in names:
            if not any(engine.has(name) for engine in engines):
                raise KeyError(name)
        known = [(engine, tuple(filter(engine.has, names))) for engine in engines]
        return sum(engine.cancel(names) for engine, names in known)

    def counts(self) -> Counts:
        """Return how many tasks stand how."""
        counts = [engine.counts() for engine in self._engines.values()]
        return Counts(*map(sum, zip(*counts, strict=True)))

    def most(self) -> int:
        """Return how many workers there can be."""
        return sum(engine.most() for engine in self._engines.values())

    def crashes(self, name: str) -> int:
        """Return how often a task has crashed since it last ended otherwise."""
        return max(engine.crashes(name) for engine in self._engines.values())

    def push_backlog(self, name: str) -> None:
        """Remember a name."""
        next(iter(self._engines.values())).push_backlog(name)

    def pop_backlog(self, room: int) -> list[str]:
        """Take out so many names at most, those first that came first."""
        return next(iter(self._engines.values())).pop_backlog(room)


class ControllerGroup(Blocking):
    """Several controllers as one: tasks are pushed to one of them, and popped from all.

    ``options(controller="large").push(...)`` names it.  Otherwise it is what ``route`` returns,
    given the function, its arguments and keywords; without a ``route``, it is the first controller
    whose workers carry the task's ``tags`` and have its ``resources``, and, where there are any of
    these, one that has a worker to spare before one that has none.

    The group is a context manager like a controller, and starts each when it has something to do.
    Raises ValueError for none, or for two of one name.
    """

    def __init__(self, *controllers: Controller, route: Route | None = None) -> None:
        for each in controllers:
            if not isinstance(each, Controller):
                raise TypeError(f"a group is of controllers, not of {type(each).__name__}")
        engines = {each.name: each._engine for each in controllers}
        if not controllers or len(engines) < len(controllers):
            raise ValueError("a group needs controllers, each with a name of its own")
        if route is not None and not callable(route):
            raise TypeError(f"route must be callable, not {type(route).__name__}")
        self._controllers = {each.name: each for each in controllers}
        super().__init__(Several(engines, route))

    def __getitem__(self, name: str) -> Controller:
        """Return the controller of this name.  Raises KeyError."""
        return self._controllers[name]

    def summary(self) -> dict[str, Summary]:
        """Return how many tasks of each controller have ended so far, and how."""
        return {name: each.summary() for name, each in self._controllers.items()}

    def __repr__(self) -> str:
        return f"<ControllerGroup of {', '.join(map(repr, self._controllers))}>"

    async def __aenter__(self) -> AsyncControllerGroup:
        return self._face()

    def _face(self) -> AsyncControllerGroup:
        return AsyncControllerGroup(self)


class AsyncControllerGroup(Awaiting):
    """A group for code that awaits: the same names, and the same tasks."""

    def __init__(self, group: ControllerGroup) -> None:
        self._group = group
        super().__init__(group._desk)

    def __getitem__(self, name: str) -> Controller:
        """Return the controller of this name.  Raises KeyError."""
        return self._group[name]

    def summary(self) -> dict[str, Summary]:
        """Do what ``ControllerGroup.summary`` does."""
        return self._group.summary()
