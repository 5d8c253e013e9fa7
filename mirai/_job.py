"""Durable jobs: named tasks that outlast whoever has submitted them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, ParamSpec, TypeVar, overload

from dispatcher.messages import MAX_NAME, Discard, FunctionReport, JobReport, Look, Redo, Seen
from mirai._answer import Failure, Value
from mirai._constant import Constant
from mirai._errors import FunctionChanged
from mirai._future import Mirai
from mirai._map import MiraiMap, elements_of
from mirai._options import (
    DEFAULTS,
    Durable,
    Seconds,
    TaskOptions,
    check_callable,
    task_options,
)
from mirai._pool_options import is_text
from mirai._serialize import function_name

if TYPE_CHECKING:
    from mirai._pool import Daemons

P = ParamSpec("P")
T = TypeVar("T")

ANSWER = 60.0
"""How long the dispatcher may take to say how a job stands, in seconds."""


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A durable job at one moment; ``print`` shows it in a line.

    ``waiting``, ``running``, ``done`` and ``failed`` count its tasks; those have failed that ended
    with an error, were lost with their daemon, were cancelled or late.  ``made`` is when it began.
    """

    name: str
    made: datetime
    waiting: int
    running: int
    done: int
    failed: int

    @classmethod
    def of(cls, report: JobReport) -> JobStatus:
        """Make one of the dispatcher's report."""
        made = datetime.fromtimestamp(report.made)
        counts = report.waiting, report.running, report.done, report.failed
        return cls(report.name, made, *counts)

    def __len__(self) -> int:
        """Return how many tasks it has."""
        return self.waiting + self.running + self.done + self.failed

    def __bool__(self) -> bool:
        return True

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.done} of {len(self)} done, {self.failed} failed,"
            f" {self.running} running, {self.waiting} waiting"
        )


class JournalStatus(NamedTuple):
    """Where a pool keeps its journal, and how many bytes that takes on disk."""

    path: str
    size: int


class Job:
    """A named job of a pool that keeps a journal: ``pool.job("airquality")``.

    What is submitted to a job is on disk before anything is done with it, and so are its results,
    which stay until ``delete()``.  When the program, the dispatcher and all daemons have been
    killed, the same program is simply run again: ``map`` computes what is missing, and takes the
    rest from the journal.  What waits goes on as soon as the pool is there again; what may have
    been running fails with ``DaemonCrashed``, unless it may run again by ``options(retries=...)``.

    A call is known again by the code of its function (and of what that uses of yours)
    and by its arguments; equal calls of one ``map`` are told apart.
    """

    def __init__(self, pool: Daemons, name: str, options: TaskOptions = DEFAULTS) -> None:
        """Use ``pool.job(name)`` or ``mirai.job(name)``."""
        self.name = check_name(name)
        self._pool = pool
        self._options = options

    def __repr__(self) -> str:
        return f"<Job {self.name!r} of {self._pool!r}>"

    # ── submitting ───────────────────────────────────────────────────────────────────────

    @overload
    def __call__(
        self, fn: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Mirai[T]: ...
    @overload
    def __call__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Mirai[T]: ...
    def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Mirai[Any]:
        """Send one task; return its future at once.

        Where the job has this call already, it is the future of that one.  Raises like ``mirai``.
        """
        from mirai._digest import version_of  # not sooner: most programs have no jobs

        check_callable(fn)
        options = self._durably(fn, version_of(fn))
        return self._pool.submit(fn, args, kwargs, options)

    @overload
    def map(
        self,
        fn: Callable[..., Coroutine[Any, Any, T]],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        changed: Literal["error", "again", "keep"] = "error",
        failed: Literal["keep", "again"] = "keep",
    ) -> MiraiMap[T]: ...
    @overload
    def map(
        self,
        fn: Callable[..., T],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        changed: Literal["error", "again", "keep"] = "error",
        failed: Literal["keep", "again"] = "keep",
    ) -> MiraiMap[T]: ...
    def map(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        changed: Literal["error", "again", "keep"] = "error",
        failed: Literal["keep", "again"] = "keep",
    ) -> MiraiMap[Any]:
        """Evaluate ``fn(element, *args, **kwargs)`` for each element, but for what is done already.

        What can be mapped over, and how, is as for ``mirai_map``.  It asks the dispatcher first
        how the job stands, and returns the mirais at once then, also of what is done.

        Where the job has results of another version of the function, ``changed`` says what to do:
        ``"error"`` raises FunctionChanged and does nothing; ``"again"`` forgets them, and computes
        all anew; ``"keep"`` takes them for results of this version, and computes what is missing.
        What is bound to the function (by ``args``, a partial, a method's object or a closure) is
        an argument, and no version.  A lambda has no name by which a version of it could be known:
        each is a function of its own.

        Where tasks of the job have failed, ``failed="again"`` runs all of those once more first;
        otherwise their mirais raise what they have failed with.  What was cancelled before a daemon
        had it is not done, and is done now; what was cancelled later has failed, unless
        ``options(retries=...)`` lets it run again.

        Raises like ``mirai_map``.
        """
        check_callable(fn)
        _check_choice("changed", changed, ("error", "again", "keep"))
        _check_choice("failed", failed, ("keep", "again"))
        function = Constant(fn, tuple(args), kwargs or {}) if args or kwargs else fn
        calls = [*elements_of(iterables)]
        version = self._version(function, changed)
        if failed == "again":
            self.retry()
        mirais = self._pool.submit_all(function, calls, self._durably(function, version))
        return MiraiMap(mirais, range(len(mirais)))

    def options(
        self,
        *,
        timeout: Seconds | str | None = None,
        retries: int = 0,
        retry_on: tuple[type[BaseException], ...] | type[BaseException] = (),
        priority: int = 0,
        name: str | None = None,
        tags: Iterable[str] = (),
    ) -> Job:
        """Return the same job for tasks with these options, which are those of ``mirai.options``.

        ``retries`` also says how often a task may run again that may have been running when the
        dispatcher ended; a ``timeout`` begins anew with each dispatcher.
        """
        given = task_options(timeout, retries, retry_on, priority, name, None, tags)
        return self.with_options(given)

    def with_options(self, options: TaskOptions) -> Job:
        """Return the same job for tasks with these options; for mirai's own use."""
        return Job(self._pool, self.name, options)

    # ── what there is ────────────────────────────────────────────────────────────────────

    def mirais(self) -> MiraiMap[Any]:
        """Return the futures of all its tasks, in the order in which they were submitted.

        Whoever has submitted them, and when: so a client comes back to its job.
        """
        report = self._report(tasks=True)
        there = [(span, _plain(name)) for span, name in (report.tasks if report else ())]
        mirais = self._pool.claim(there)
        return MiraiMap(mirais, range(len(mirais)))

    def status(self) -> JobStatus:
        """Return how it stands.  What was submitted before is on disk when this returns."""
        return self.saved().result(ANSWER)

    def saved(self) -> Mirai[JobStatus]:
        """Return a future that is settled once all that was submitted before is on disk."""
        saved: Mirai[JobStatus] = Mirai(0, f"saved {self.name}", self._pool.profile)

        def settle(seen: Future[Seen]) -> None:
            error = seen.exception()
            saved.settle(Failure(error) if error else Value(self._status(seen.result())))

        self._pool.consult(lambda number: Look(number, self.name)).add_done_callback(settle)
        return saved

    def retry(self) -> JobStatus:
        """Run all its tasks once more that have failed; return how it stands then.

        Those that a crash has interrupted may have done something already.
        """
        return self._asked(lambda number: Redo(number, self.name))

    def delete(self) -> None:
        """Forget it: its results, and what is still to be done; what runs is stopped."""
        self._pool.consult(lambda number: Discard(number, self.name)).result(ANSWER)

    # ── inside ───────────────────────────────────────────────────────────────────────────

    def _durably(self, fn: Callable[..., Any], version: bytes) -> TaskOptions:
        from mirai._digest import bound_to, keys_for

        key = keys_for(version, bound_to(fn))
        durable = Durable(self.name, stays=True, version=version, key=key)
        return replace(self._options, durable=durable)

    def _version(self, fn: Callable[..., Any], changed: str) -> bytes:
        """Return the version under which calls of a function are known.  Raises FunctionChanged."""
        from mirai._digest import version_of

        version = version_of(fn)
        name = _plain(function_name(fn))
        if name.endswith("<lambda>"):  # another one is no other version
            return version
        report = self._report()
        alike = [each for each in (report.functions if report else ()) if _is(each, name)]
        others = [each for each in alike if each.version != version]
        if not others or any(each.version == version for each in alike):
            return version
        if changed == "keep":
            return others[-1].version
        if changed == "error":
            raise FunctionChanged(self.name, name, sum(each.tasks for each in others))
        versions = tuple(each.version for each in others)
        self._asked(lambda number: Discard(number, self.name, versions))
        return version

    def _report(self, *, tasks: bool = False) -> JobReport | None:
        seen = self._pool.consult(lambda number: Look(number, self.name, tasks)).result(ANSWER)
        return seen.jobs[0] if seen.jobs else None

    def _asked(self, question: Callable[[int], Redo | Discard]) -> JobStatus:
        return self._status(self._pool.consult(question).result(ANSWER))

    def _status(self, seen: Seen) -> JobStatus:
        if not seen.jobs:
            return JobStatus(self.name, datetime.now(), 0, 0, 0, 0)
        return JobStatus.of(seen.jobs[0])


def check_name(name: object) -> str:
    """Return the name of a job.  Raises TypeError or ValueError."""
    if not isinstance(name, str):
        raise TypeError(f"the name of a job must be a str, not {type(name).__name__}")
    if not name or len(name) > MAX_NAME or not name.isprintable() or not is_text(name):
        raise ValueError(f"the name of a job must be up to {MAX_NAME} letters: {name!r}")
    return "".join(name)


def _plain(name: str) -> str:
    """Return a function's name without where it stands."""
    return name.partition(":")[0]


def _is(report: FunctionReport, name: str) -> bool:
    return _plain(report.name) == name and bool(report.version)


def _check_choice(name: str, given: object, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {given!r}")
