"""What a controller's task is on its worker: the call, and what there is to know about it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from functools import lru_cache
from time import perf_counter, time
from types import CoroutineType
from typing import TYPE_CHECKING, Any, NamedTuple

from dispatcher.messages import Blob
from mirai._answer import error_of
from mirai._constant import Constant
from mirai._evaluate import beyond, make_room, tell
from mirai._launched import job_of_this_process
from mirai._serialize import unpack

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from mirai.controllers._refs import Depot

MOST_WARNINGS = 50
"""How many warnings of a task are told."""

running: dict[int, str] = {}
"""The names of the tasks that this process is evaluating, by thread."""


class Facts(NamedTuple):
    """What a worker tells of a run besides its value."""

    started: float
    """In seconds since the epoch, by the worker's clock."""
    seconds: float
    host: str
    pid: int
    worker: str
    peak_memory: int
    """Bytes that its process has had at most until then; 0: not known."""
    warnings: tuple[str, ...]


class Frozen(NamedTuple):
    """A call that was pickled when it was pushed: whatever has become of the arguments since."""

    payload: bytes
    buffers: tuple[Any, ...]

    def thaw(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments and keywords."""
        args, kwargs = unpack(self.payload, tuple(map(Blob, self.buffers)))
        return args, kwargs


class TaskFailed(Exception):
    """What the task has raised, in words and in a pickle, with the facts of its run."""

    def __init__(self, facts: Facts, told: tuple[str, str, str, bytes | None]) -> None:
        self.facts = facts
        self.told = told
        self._original: Exception | None = None
        super().__init__(told[0])

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.facts, self.told)

    def original(self) -> Exception:
        """Return the task's own exception, with where it arose as its cause.

        It is unpickled when it is asked for the first time, by whoever asks.
        """
        if self._original is None:
            self._original = error_of(*self.told)
        return self._original


class Enclosed(Constant):
    """A function, called so that its facts are told.

    It is called with a task's name, and with the arguments and keywords of the call; it returns
    the facts and the value, or raises TaskFailed.
    """

    def __init__(self, fn: Callable[..., Any], depot: Depot | None = None) -> None:
        super().__init__(fn, () if depot is None else (depot,), {})

    def __call__(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        with _Run(name, *self.args) as run:
            if args and type(args[0]) is Frozen:
                args, kwargs = args[0].thaw()
            value = self.__wrapped__(*run.fetch(args), **run.fetch_all(kwargs))
            if type(value) is CoroutineType:
                return _awaited(run, value)
            return run.told(value)


async def _awaited(run: _Run, coroutine: Coroutine[Any, Any, Any]) -> tuple[Facts, Any]:
    with run:
        return run.told(await coroutine)
    raise AssertionError  # the block returns or raises


class _Run:
    """One run of a task."""

    def __init__(self, name: str, depot: Depot | None = None) -> None:
        self._name = name
        self._depot = depot
        self._started = time()
        self._begun = perf_counter()
        self._caught: list[warnings.WarningMessage] = []
        self._catcher: warnings.catch_warnings[list[warnings.WarningMessage] | None] | None = None

    def fetch(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return arguments with what references stand for."""
        return args if self._depot is None else tuple(map(self._depot.fetch, args))

    def fetch_all(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return keywords with what references stand for."""
        fetch = None if self._depot is None else self._depot.fetch
        return kwargs if fetch is None else {key: fetch(each) for key, each in kwargs.items()}

    def told(self, value: Any) -> tuple[Facts, Any]:
        """Return the facts, and the value or a reference to it."""
        value = value if self._depot is None else self._depot.stow(value)
        return self.facts(), value

    def facts(self) -> Facts:
        """Return what is known by now."""
        return Facts(
            self._started,
            perf_counter() - self._begun,
            *here(os.getpid(), threading.current_thread().name),
            _peak_memory(),
            tuple(map(_in_words, self._caught[:MOST_WARNINGS])),
        )

    def __enter__(self) -> _Run:
        running[threading.get_ident()] = self._name
        if threading.current_thread() is threading.main_thread():  # else it is of all threads
            self._catcher = warnings.catch_warnings(record=True)
            log = self._catcher.__enter__()
            assert log is not None, "it records"
            self._caught = log
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        running.pop(threading.get_ident(), None)
        if self._catcher is not None:
            self._catcher.__exit__(None, None, None)
        if isinstance(error, Exception):
            make_room(error)
            failed = TaskFailed(self.facts(), tell(error.with_traceback(beyond(trace, __file__))))
            del error
            raise failed from None


def _in_words(warning: warnings.WarningMessage) -> str:
    where = f"{os.path.basename(warning.filename)}:{warning.lineno}"
    return f"{warning.category.__name__}: {warning.message} ({where})"


@lru_cache(maxsize=1_000)
def here(pid: int, thread: str = "") -> tuple[str, int, str]:
    """Return the host, the process and what the worker is called.

    ``pid`` is this process's, and ``thread`` the name of that which evaluates.
    """
    host = socket.gethostname()
    job = thread if thread.startswith("mirai-") else job_of_this_process()  # a thread is a job
    return host, pid, job or f"{host}/{pid}"


def _peak_memory() -> int:
    """Return how many bytes this process has had at most; 0 where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1_024 * peak
