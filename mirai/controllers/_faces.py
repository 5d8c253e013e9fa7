"""What users see of a controller or a group: what blocks, and its twins that await."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import Any, Literal, Self, Unpack

from mirai._limits import seconds
from mirai._pool import beside, shielded
from mirai._progress import bar
from mirai.controllers._desk import Desk
from mirai.controllers._options import PushKeywords, PushOptions
from mirai.controllers._pushing import SLICE, AsyncView, Pushing, View
from mirai.controllers._result import Results, TaskResult
from mirai.controllers._steps import Steps, Wait, arun, run

Mode = Literal["all", "one"]
Timeout = float | str | None
"""Seconds, or like ``"5m"``; None: for ever."""
LONGEST = 1e7
"""Seconds from which on waiting is for ever."""


class Face(Pushing):
    """What does not wait for anything."""

    def __init__(self, desk: Desk) -> None:
        super().__init__(desk, PushOptions())

    @property
    def name(self) -> str:
        """What it is called in results and errors."""
        return self._desk.name

    @property
    def size(self) -> int:
        """How many tasks were pushed and not popped."""
        counts = self._desk.counts()
        return counts.unresolved + counts.unpopped

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return True

    @property
    def empty(self) -> bool:
        """Whether there is no task that was pushed and not popped."""
        return not self.size

    @property
    def resolved(self) -> int:
        """How many tasks have ended so far, those of maps too."""
        return self._desk.counts().resolved

    @property
    def unresolved(self) -> int:
        """How many tasks have not ended."""
        return self._desk.counts().unresolved

    @property
    def unpopped(self) -> int:
        """How many tasks have ended and were not popped."""
        return self._desk.counts().unpopped

    @property
    def saturated(self) -> bool:
        """Whether there are as many unpopped and unresolved tasks as workers, or more."""
        return self.size >= self._desk.most()

    def cancel(self, *names: str, all: bool = False) -> int:
        """Cancel the tasks of these names, or ``all``; return how many that were.

        A running one is stopped.  Those that have ended are left as they are; the results of the
        others are popped with the status ``cancel``.  Raises KeyError for a name that no task has,
        and TypeError if neither is given.
        """
        if bool(names) == all:
            raise TypeError("cancel needs the names of tasks, or all=True")
        return self._desk.cancel(None if all else names)

    def crashes(self, name: str) -> int:
        """Return how often a task of this name has crashed since it last ended otherwise."""
        return self._desk.crashes(name)

    def push_backlog(self, name: str) -> None:
        """Remember the name of a task that is to be pushed once there is room: see ``saturated``.

        It is for pipeline tools, which know what the name stands for.
        """
        if not isinstance(name, str):
            raise TypeError(f"name must be a str, not {type(name).__name__}")
        self._desk.push_backlog(name)

    def pop_backlog(self) -> list[str]:
        """Return as many of the remembered names as there is room for, the first ones first."""
        return self._desk.pop_backlog(self._desk.most() - self.size)

    # ── the steps of both faces ──────────────────────────────────────────────────────────

    def _waiting(self, mode: Mode, timeout: Timeout, progress: bool) -> Steps[bool]:
        if mode not in ("all", "one"):
            raise ValueError(f'mode must be "all" or "one", not {mode!r}')
        desk, until = self._desk, _deadline(timeout)
        shown = _Bar(desk) if progress and desk.counts().unresolved else None
        try:
            while (holds := _holds(desk, mode)) is None:
                is_news = shown.has_more if shown else lambda: _holds(desk, mode) is not None
                if not (yield from _wait(desk, is_news, until)):
                    return _holds(desk, mode) or False
                if shown is not None:
                    shown.show()
            if shown is not None:
                shown.show()
        finally:
            if shown is not None:
                shown.close()
        return holds

    def _popping(self, timeout: Timeout) -> Steps[TaskResult[Any] | None]:
        desk, until = self._desk, _deadline(timeout)
        while (result := desk.take()) is None:
            if until <= monotonic() or not desk.counts().unresolved:
                return desk.take()  # one may have ended since
            if not (yield from _wait(desk, lambda: _holds(desk, "one") is not None, until)):
                return desk.take()
        return result

    def _collecting(self, wait: bool, timeout: Timeout, progress: bool) -> Steps[Results[Any]]:
        if wait:
            yield from self._waiting("all", timeout, progress)
        results: Results[Any] = Results()
        for _ in range(self._desk.counts().unpopped):
            if (result := self._desk.take()) is None:
                break
            results.append(result)
            if len(results) % SLICE == 0:
                yield None
        return results


def _deadline(timeout: Timeout) -> float:
    """Return until when to wait.  Raises TypeError or ValueError for what is no time."""
    if timeout is None:
        return math.inf
    if isinstance(timeout, str):
        return monotonic() + seconds("timeout", timeout)
    if not isinstance(timeout, (int, float)) or isinstance(timeout, bool):
        raise TypeError(f"timeout must be seconds or a str, not {type(timeout).__name__}")
    if math.isnan(timeout):
        raise ValueError("timeout must be a number")
    return monotonic() + timeout


def _wait(desk: Desk, holds: Callable[[], bool], until: float) -> Steps[bool]:
    """Wait until something holds; return False if it does not by then."""
    waiter = desk.waiters.until(holds)
    left = max(0.0, until - monotonic())
    try:
        return (yield Wait(waiter, left if left < LONGEST else None))
    finally:
        waiter.cancel()


def _holds(desk: Desk, mode: Mode) -> bool | None:
    """Return whether what is waited for is so; None while it may still become so."""
    counts = desk.counts()
    if mode == "one" and counts.unpopped:
        return True
    return None if counts.unresolved else mode == "all"


class _Bar:
    """A progress bar of the tasks of a desk that have not ended now."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        counts = desk.counts()
        self._seen = counts.resolved
        self._bar = bar(counts.unresolved)
        self.close = self._bar.close

    def has_more(self) -> bool:
        """Whether there is more to show."""
        counts = self._desk.counts()
        return counts.resolved > self._seen or not counts.unresolved

    def show(self) -> None:
        """Show what has ended by now."""
        resolved = self._desk.counts().resolved
        for _ in range(resolved - self._seen):
            self._bar.advance()
        self._seen = resolved


class Blocking(Face, View, ABC):
    """What blocks."""

    def options(self, **options: Unpack[PushKeywords]) -> View:
        """Return what pushes tasks of which more is said: ``options(timeout=5).push(fn, x)``.

        ``name``: what the task is called; by default that is the function's name and a number.
        ``timeout``: after so long, from its submission, it is stopped: seconds, or like ``"5m"``.
        ``priority``: higher ones first, then first in first out.  ``tags``: only a worker that
        carries all of them gets it.  ``retry``: a Retry, in place of the controller's.  ``seed``:
        what its random numbers are drawn from, an int that is not negative.

        In a group, ``controller`` names the one that is to have it; or else the first one gets it
        whose workers carry the ``tags`` and have the ``resources``: numbers by name, such as
        ``{"memory": 16}``, at least so much of each.

        Raises TypeError or ValueError for what makes no sense.
        """
        return View(self._desk, PushOptions(**options))

    def start(self) -> None:
        """Start the dispatcher, and the workers that are always to be there.

        Otherwise the first push does so.  Raises like ``daemons``.
        """
        self._desk.start()

    def terminate(self) -> None:
        """Cancel what has not ended, and end all processes.  Idempotent.

        What was not popped can still be.  The next push starts it anew.
        """
        self._desk.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None:
                self.wait("all")
        finally:
            self.terminate()

    @abstractmethod
    def _face(self) -> Awaiting:
        """Return what awaits, of the same tasks."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        face = self._face()
        try:
            if kind is None:
                await face.wait("all")
        finally:
            await face.end_shielded()

    def wait(self, mode: Mode = "all", timeout: Timeout = None, *, progress: bool = False) -> bool:
        """Wait until ``"all"`` tasks have ended, or until ``"one"`` result can be popped.

        Return whether that is so, after ``timeout`` at most (seconds, or like ``"5m"``); at once
        where there is no task: True for "all", False for "one".  ``progress`` shows a bar.
        """
        return run(self._waiting(mode, timeout, progress))

    def pop(self, timeout: Timeout = 0) -> TaskResult[Any] | None:
        """Return the result of the task that has ended first, of those that were not popped.

        None if there is none within ``timeout`` seconds (None: for ever), or no task that could
        have one.  It raises nothing of the task's: see ``TaskResult.unwrap``.
        """
        return run(self._popping(timeout))

    def collect(
        self, *, wait: bool = False, timeout: Timeout = None, progress: bool = False
    ) -> Results[Any]:
        """Return all results that can be popped now, in the order in which the tasks have ended.

        With ``wait``, wait for all tasks before, for ``timeout`` seconds at most; ``progress``
        shows a bar.
        """
        return run(self._collecting(wait, timeout, progress))

    def as_completed(self) -> Iterator[TaskResult[Any]]:
        """Pop results as tasks end, until there is none, not even one that was pushed meanwhile."""
        while (result := self.pop(timeout=None)) is not None:
            yield result


class Awaiting(Face, AsyncView):
    """The same by the same names, awaited."""

    def options(self, **options: Unpack[PushKeywords]) -> AsyncView:
        """Do what ``Controller.options`` does."""
        return AsyncView(self._desk, PushOptions(**options))

    async def start(self) -> None:
        """Do what ``Controller.start`` does."""
        await beside(self._desk.start)

    async def terminate(self) -> None:
        """Do what ``Controller.terminate`` does."""
        await beside(self._desk.close)

    async def end_shielded(self) -> None:
        """Terminate, even in a scope that is cancelled; for the end of ``async with``."""
        await shielded(beside(self._desk.close))

    async def wait(
        self, mode: Mode = "all", timeout: Timeout = None, *, progress: bool = False
    ) -> bool:
        """Do what ``Controller.wait`` does."""
        return await arun(self._waiting(mode, timeout, progress))

    async def pop(self, timeout: Timeout = 0) -> TaskResult[Any] | None:
        """Do what ``Controller.pop`` does."""
        return await arun(self._popping(timeout))

    async def collect(
        self, *, wait: bool = False, timeout: Timeout = None, progress: bool = False
    ) -> Results[Any]:
        """Do what ``Controller.collect`` does."""
        return await arun(self._collecting(wait, timeout, progress))

    async def as_completed(self) -> AsyncIterator[TaskResult[Any]]:
        """Do what ``Controller.as_completed`` does, for ``async for``."""
        while (result := await self.pop(timeout=None)) is not None:
            yield result
