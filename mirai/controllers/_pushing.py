"""How tasks are pushed: one by one, by lists, and as maps; blocking and not."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, ParamSpec, TypeVar, overload

from mirai._future import Mirai
from mirai._map import elements_of
from mirai._options import Call, check_callable
from mirai._pool_options import check_count
from mirai._progress import bar
from mirai._streams import Streams
from mirai.controllers._desk import Desk
from mirai.controllers._options import Push, PushOptions
from mirai.controllers._result import Results, TaskResult, failed
from mirai.controllers._steps import Steps, Wait, arun, run
from mirai.controllers._task import Task

P = ParamSpec("P")
T = TypeVar("T")

SLICE = 50
"""How many tasks are pushed, or looked at, before others have their turn."""
OnError = Literal["raise", "stop", "keep"]


class Pushing:
    """A desk, and what is said about the tasks that are pushed there."""

    def __init__(self, desk: Desk, options: PushOptions) -> None:
        self._desk = desk
        self._options = options

    @overload
    def push(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Mirai[T]: ...
    @overload
    def push(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Mirai[T]: ...
    def push(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Mirai[Any]:
        """Send a task, ``fn(*args, **kwargs)``; return its mirai at once.

        What comes of it is for ``pop`` too.  ``options(name=...)`` names it: a name is taken until
        the task was popped.  Arguments are pickled now.

        Raises TypeError if ``fn`` cannot be called, ValueError if the name is taken or no worker
        carries the tags, SerializationError, LaunchError and whatever else ``daemons()`` raises
        where the pool cannot start, and MiraiError if tasks of this name have crashed too often.
        """
        return self._desk.push(Push(fn, args, kwargs, self._options)).mirai

    @overload
    def walk(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> list[Mirai[T]]: ...
    @overload
    def walk(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> list[Mirai[T]]: ...
    def walk(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> list[Mirai[Any]]:
        """Push ``fn(element, *args, **kwargs)`` for each element; return the mirais, in order.

        Several iterables are gone through side by side, and must be of the same length; the rows
        of a DataFrame are given as keywords.  ``names`` are the tasks' names.  If one cannot be
        pushed, those before it are cancelled.  With a ``seed``, each has a stream of its own.
        """
        walk = Walk(fn, iterables, args, kwargs, names, self._options)
        return [task.mirai for task in run(self._push_all(walk.pushes(is_claimed=False)))]

    @overload
    def stream(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        max_in_flight: int,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> Streaming[T]: ...
    @overload
    def stream(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        max_in_flight: int,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> Streaming[T]: ...
    def stream(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        max_in_flight: int,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
    ) -> Streaming[Any]:
        """Iterate over results in the order in which the tasks end, also by ``async for``.

        The input need not fit into memory, nor need the results: elements are read as results are
        taken, and never are more than ``max_in_flight`` of them pushed and not taken.
        """
        walk = Walk(fn, iterables, args, kwargs, names, self._options)
        room = check_count(max_in_flight)
        if room < 1:
            raise ValueError(f"max_in_flight must be positive: {room}")
        return Streaming(self._desk, map(self._desk.push, walk.pushes(is_claimed=True)), room)

    # ── the steps of both faces ──────────────────────────────────────────────────────────

    def _push_all(self, pushes: Iterator[Push]) -> Steps[list[Task]]:
        """Push all of them; what was pushed before an error is cancelled."""
        tasks: list[Task] = []
        try:
            for push in pushes:
                tasks.append(self._desk.push(push))
                if len(tasks) % SLICE == 0:
                    yield None
        except BaseException:
            for task in tasks:
                task.mirai.cancel()
            raise
        return tasks

    def _map(self, walk: Walk, on_error: OnError, progress: bool) -> Steps[Results[Any]]:
        if on_error not in ("raise", "stop", "keep"):
            raise ValueError(f'on_error must be "raise", "stop" or "keep", not {on_error!r}')
        tasks = yield from self._push_all(walk.pushes(is_claimed=True))
        ended = _Ended(self._desk, tasks)
        if on_error == "stop":
            ended.stop_at_errors()
        shown = bar(len(tasks)) if progress else None
        try:
            for index in range(len(tasks)):
                yield from ended.next()
                if shown is not None:
                    shown.advance()
                if index % SLICE == 0:
                    yield None
        except BaseException:
            ended.cancel()
            raise
        finally:
            if shown is not None:
                shown.close()
        results: Results[Any] = Results()
        for task in tasks:
            results.append(task.home.hand_over(task))
            if len(results) % SLICE == 0:
                yield None
        if on_error != "keep" and not results.ok:
            raise failed(results)
        return results


@dataclass(frozen=True, slots=True)
class Walk:
    """A function, and what it is to be called with, element by element."""

    fn: Callable[..., Any]
    iterables: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] | None
    names: Iterable[str] | None
    options: PushOptions

    def pushes(self, *, is_claimed: bool) -> Iterator[Push]:
        """Yield what is to be pushed for each element, when it is asked for.

        Raises TypeError and ValueError at once for what could never be pushed.
        """
        check_callable(self.fn)
        if not isinstance(self.args, (tuple, list)):
            raise TypeError(f"args must be a tuple, not {type(self.args).__name__}")
        if self.options.name is not None:
            raise ValueError("one name is not for many tasks: names=[...] are theirs")
        return self._pushes(elements_of(self.iterables), is_claimed)

    def _pushes(self, elements: Iterator[Call], is_claimed: bool) -> Iterator[Push]:
        args, kwargs = tuple(self.args), dict(self.kwargs or {})
        seeds = None if self.options.seed is None else Streams(self.options.seed)
        names = None if self.names is None else iter(self.names)
        for element, columns in elements:
            options = self.options
            if names is not None:
                options = replace(options, name=_next_of(names))
            if seeds is not None:
                options = replace(options, seed=int.from_bytes(seeds.fresh(), "big"))
            yield Push(self.fn, (*element, *args), {**columns, **kwargs}, options, is_claimed)
        if names is not None and next(names, None) is not None:
            raise ValueError("there are more names than elements")


def _next_of(names: Iterator[str]) -> str:
    name = next(names, None)
    if name is None:
        raise ValueError("there are fewer names than elements")
    return name


class _Ended:
    """Tasks in the order in which they end."""

    def __init__(self, desk: Desk, tasks: Iterable[Task] = ()) -> None:
        self._desk = desk
        self._flying: dict[str, Task] = {}
        self._ended: deque[Task] = deque()
        for task in tasks:
            self.add(task)

    def __len__(self) -> int:
        return len(self._flying)

    def add(self, task: Task) -> None:
        """Watch this one too."""
        self._flying[task.key] = task
        task.mirai.add_done_callback(lambda _: self._ended.append(task))

    def next(self) -> Steps[Task]:
        """Wait for the next one to end."""
        if not self._has_one():
            yield Wait(self._desk.waiters.until(self._has_one))
        task = self._ended.popleft()
        del self._flying[task.key]
        return task

    def _has_one(self) -> bool:
        """Whether one has ended: one that its caller has cancelled may not be over yet."""
        return bool(self._ended) and self._ended[0].is_over

    def stop_at_errors(self) -> None:
        """Cancel the others as soon as one has not succeeded."""
        for task in list(self._flying.values()):
            task.mirai.add_done_callback(self._stop)

    def _stop(self, ended: Any) -> None:
        if ended._failed() and not ended.cancelled():
            self.cancel()

    def cancel(self) -> None:
        """Cancel those that have not ended."""
        for task in list(self._flying.values()):
            task.mirai.cancel()


class Streaming(Generic[T]):
    """Results in the order in which tasks end; the tasks are pushed as results are taken.

    It is an iterable, and an asynchronous one.  ``close`` cancels what has been pushed and has not
    ended; so does the end of a ``for`` loop, but not that of an ``async for``.
    """

    def __init__(self, desk: Desk, tasks: Iterator[Task], room: int) -> None:
        self._desk = desk
        self._tasks = tasks
        self._room = room
        self._ended = _Ended(desk)

    def _next(self) -> Steps[TaskResult[T] | None]:
        try:
            while len(self._ended) < self._room and (task := next(self._tasks, None)) is not None:
                self._ended.add(task)
            if not self._ended:
                return None
            ended = yield from self._ended.next()
            return ended.home.hand_over(ended)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Push no more, and cancel what has not ended."""
        self._tasks = iter(())
        self._ended.cancel()

    def __iter__(self) -> Iterator[TaskResult[T]]:
        try:
            while (result := run(self._next())) is not None:
                yield result
        finally:
            self.close()

    def __aiter__(self) -> Streaming[T]:
        return self

    async def __anext__(self) -> TaskResult[T]:
        result = await arun(self._next())
        if result is None:
            raise StopAsyncIteration
        return result


class View(Pushing):
    """What blocks: ``map``."""

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[Any]:
        """Evaluate ``fn(element, *args, **kwargs)`` for each element; return the results, in order.

        The elements are as ``walk`` has them.  What else was pushed does not matter, and these
        results are for no ``pop``.  ``progress`` shows a bar (with rich or tqdm).

        Where tasks fail, all are waited for, and TasksFailed is raised, an ExceptionGroup with all
        ``results``.  ``on_error="stop"``: the first failure cancels the others; ``"keep"``: nothing
        is raised.
        """
        walk = Walk(fn, iterables, args, kwargs, names, self._options)
        return run(self._map(walk, on_error, progress))


class AsyncView(Pushing):
    """What awaits: ``map``."""

    @overload
    async def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[T]: ...
    @overload
    async def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[T]: ...
    async def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        names: Iterable[str] | None = None,
        on_error: OnError = "raise",
        progress: bool = False,
    ) -> Results[Any]:
        """Do what ``Controller.map`` does."""
        walk = Walk(fn, iterables, args, kwargs, names, self._options)
        return await arun(self._map(walk, on_error, progress))
