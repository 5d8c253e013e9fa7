"""Pools: ``daemons()``, and which pool each profile has.  The only module global is here."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import asdict
from types import TracebackType
from typing import Any, NamedTuple

from dispatcher.security import KeyPair
from mirai._channel import Channel
from mirai._errors import DispatcherLost, MiraiError, TaskCancelled
from mirai._future import Mirai, Value
from mirai._limits import NO_LIMITS, Limits, seconds
from mirai._options import DEFAULTS, TaskOptions
from mirai._status import Status

DEFAULT = "default"
START_TIMEOUT = 60.0
"""Seconds that a dispatcher has to start listening."""
GRACE = 5.0
"""Seconds that a cancelled task has to leave before its daemon is killed."""
STOP_TIMEOUT = 5.0
"""Seconds that a dispatcher has to end its daemons and itself; then it is killed."""

_BOOT = (
    "import sys; r = sys.stdin.buffer.readline;"
    r" sys.path[:] = r()[:-1].decode('utf-8', 'surrogateescape').split('\0');"
    " from {module} import main; main()"
)

_current: ContextVar[str] = ContextVar("mirai_profile", default=DEFAULT)
_profiles: dict[str, Daemons] = {}
_living: set[Daemons] = set()  # the pools of the profiles, and ephemeral ones
_guard = threading.RLock()


class _Keys(NamedTuple):
    """The keys of a pool; each daemon has one besides, which only the dispatcher knows."""

    server: KeyPair
    client: KeyPair


class Daemons:
    """A pool: a dispatcher process, its daemons, and the channel to them.

    As a context manager, also an asynchronous one: leaving the block normally waits for its
    tasks, leaving it by an exception cancels them; after either, the pool is gone.
    """

    def __init__(self, n: int, url: str, profile: str, limits: Limits = NO_LIMITS) -> None:
        """Start the pool; use ``daemons()`` instead."""
        self.profile = profile
        self._once = threading.Lock()
        self._owner = os.getpid()
        self._keys = _Keys(server=KeyPair.new(), client=KeyPair.new())
        self._process = _start_dispatcher(_config(n, url, self._keys, limits))
        try:
            self.url = _listening_url(self._process)
            self._channel = Channel(
                self.url,
                self._keys.client,
                self._keys.server.public,
                profile=profile,
                explain=self._explain_loss,
            )
        except BaseException:
            _end(self._process, 0)
            raise
        _living.add(self)

    def __repr__(self) -> str:
        return f"<Daemons {self.profile!r} at {self.url}>"

    def submit(
        self,
        fn: Callable[..., Any],
        args: Any = (),
        kwargs: Any = types.MappingProxyType({}),
        options: TaskOptions = DEFAULTS,
    ) -> Mirai[Any]:
        """Send one task; see ``mirai``."""
        return self._channel.submit(fn, [(args, dict(kwargs))], options)[0]

    def submit_all(
        self,
        fn: Callable[..., Any],
        calls: Iterable[tuple[Any, dict[str, Any]]],
        options: TaskOptions = DEFAULTS,
    ) -> list[Mirai[Any]]:
        """Send one task for each call, given by its arguments and keywords: all, or none."""
        return self._channel.submit(fn, calls, options)

    def status(self) -> Status:
        """Return what the pool looks like now."""
        return Status.of(self.profile, self.url, self._channel.ask().result())

    def scale(self, n: int) -> None:
        """Keep ``n`` local daemons from now on.

        Fewer: idle ones leave first, running tasks are finished, and what has not started goes
        to the others.  Raises TypeError, ValueError, or DispatcherLost.
        """
        _check(n, None, None)
        self._channel.scale(n)

    def wait(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` daemons have joined.

        Raises TimeoutError if they have not within ``timeout`` seconds, and DispatcherLost.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (there := self.status().connections) < n:
            if until is not None and time.monotonic() >= until:
                raise TimeoutError(f"{there} of {n} daemons have joined within {timeout} s")
            time.sleep(0.005)

    def shutdown(self) -> None:
        """End the pool at once: cancel what is pending, end every process.  Idempotent."""
        if os.getpid() != self._owner:
            return  # a forked child: the pool is its parent's
        with self._once:
            self._channel.close(TaskCancelled("the pool was shut down before the task had ended"))
            _end(self._process, STOP_TIMEOUT)
        with _guard:
            _living.discard(self)
            if _profiles.get(self.profile) is self:
                del _profiles[self.profile]

    def __enter__(self) -> Daemons:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and (drained := self._drained()) is not None:
                drained.result()
        finally:
            self.shutdown()

    async def __aenter__(self) -> Daemons:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and (drained := self._drained()) is not None:
                await drained
        finally:
            await self._shut_down_beside()

    def _shut_down_beside(self) -> Mirai[None]:
        """Shut down in a thread of its own, so that an event loop can go on."""
        ended: Mirai[None] = Mirai(0, "shutdown", self.profile)

        def end() -> None:
            try:
                self.shutdown()
            finally:
                ended.settle(Value(None))

        threading.Thread(target=end, name="mirai-shutdown").start()
        return ended

    def _drained(self) -> Mirai[None] | None:
        """Return what is settled when no task is pending; None if the pool has ended already."""
        try:
            return self._channel.drained()
        except MiraiError:
            return None

    def _explain_loss(self) -> MiraiError | None:
        """Say how the dispatcher ended; None if it has not."""
        try:
            code = self._process.wait(timeout=1.0)
        except subprocess.TimeoutExpired:
            return None
        from signal import Signals

        how = f"exit code {code}" if code >= 0 else Signals(-code).name
        return DispatcherLost(f"the dispatcher (process {self._process.pid}) ended with {how}")


def daemons(
    n: int | None = None,
    url: str | None = None,
    *,
    profile: str | None = None,
    idle_time: float | str | None = None,
    wall_time: float | str | None = None,
    max_tasks: int | None = None,
) -> Daemons:
    """Set the pool of a profile: a dispatcher process and ``n`` persistent local daemons.

    It replaces the pool that the profile has.  ``daemons(0)`` only tears that down: pending
    tasks are cancelled, and every process is ended.  Returns as soon as the dispatcher listens;
    tasks wait for the daemons to join.  A daemon that dies is replaced; if five in a row die
    before they have joined, every task fails with the reason.

    ``url`` is where the dispatcher listens: ``None`` for the fastest local transport, or
    ``"tcp://127.0.0.1:0"`` and the like (port 0: any that is free).  CURVE is always on.

    ``profile`` names the pool, where there are several; by default it is that of the block's
    ``use_profile``, or ``"default"``.

    A daemon leaves after ``idle_time`` without a task, after ``wall_time``, or after
    ``max_tasks`` tasks; times are in seconds, or like ``"90s"``, ``"5m"``, ``"2h"``.  It ends
    the task that it runs, and another takes its place: at once, or, if it was idle, when there
    is work again.

    Raises ValueError or TypeError for what is not a pool, and MiraiError if the dispatcher
    cannot start (its address is in use, say).
    """
    _check(n, url, profile)
    limits = _limits(idle_time, wall_time, max_tasks)
    profile = current_profile() if profile is None else profile
    with _guard:
        former = _profiles.get(profile)
        if former is not None:
            former.shutdown()
        if n == 0:
            return former or _NoPool(profile)
        pool = _profiles[profile] = Daemons(n or 0, url or "ipc", profile, limits)
    return pool


class _NoPool(Daemons):
    """What ``daemons(0)`` returns where there was no pool."""

    def __init__(self, profile: str) -> None:
        self.profile = profile
        self.url = ""

    def submit(self, *_: Any) -> Mirai[Any]:
        raise DispatcherLost("the pool was shut down")

    def submit_all(self, *_: Any) -> list[Mirai[Any]]:
        raise DispatcherLost("the pool was shut down")

    def status(self) -> Status:
        raise DispatcherLost("the pool was shut down")

    def shutdown(self) -> None:
        pass

    def _drained(self) -> None:
        return None


def status(profile: str | None = None) -> Status:
    """Return what the pool of a profile looks like now.

    Raises MiraiError if the profile has none, or if the dispatcher is lost.
    """
    profile = current_profile() if profile is None else profile
    pool = pool_of(profile)
    if pool is None:
        raise MiraiError(f"no daemons are set for profile {profile!r}")
    return pool.status()


@contextlib.contextmanager
def use_profile(name: str) -> Iterator[None]:
    """Send the tasks of a ``with`` block to the pool ``name``.

    It holds for this thread, or for this asyncio or trio task, and for what it starts inside.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a profile must be a str, not {type(name).__name__}")
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


def current_profile() -> str:
    """Return the profile that tasks are sent to unless they say otherwise."""
    return _current.get()


def pool_of(profile: str) -> Daemons | None:
    """Return the pool of a profile, if it has one."""
    return _profiles.get(profile)


def ephemeral(profile: str) -> Daemons:
    """Start a pool of one daemon that belongs to no profile; its caller shuts it down."""
    with _guard:
        return Daemons(1, "ipc", profile)


def _check(n: object, url: object, profile: object) -> None:
    if n is None and url is None:
        raise TypeError("daemons() needs the number of daemons, or a url to listen on, or both")
    if n is not None and (not isinstance(n, int) or isinstance(n, bool)):
        raise TypeError(f"n must be an int, not {type(n).__name__}")
    if isinstance(n, int) and n < 0:
        raise ValueError(f"n must not be negative: {n}")
    if url is not None and not isinstance(url, str):
        raise TypeError(f"url must be a str, not {type(url).__name__}")
    if isinstance(url, str) and not url.startswith(("tcp://", "ipc://")):
        raise ValueError(f"url must begin with tcp:// or ipc://, not {url!r}")
    if profile is not None and not isinstance(profile, str):
        raise TypeError(f"profile must be a str, not {type(profile).__name__}")


def _limits(
    idle_time: float | str | None, wall_time: float | str | None, max_tasks: int | None
) -> Limits:
    if max_tasks is not None:
        if not isinstance(max_tasks, int) or isinstance(max_tasks, bool):
            raise TypeError(f"max_tasks must be an int, not {type(max_tasks).__name__}")
        if max_tasks < 1:
            raise ValueError(f"max_tasks must be positive: {max_tasks}")
    return Limits(
        None if idle_time is None else seconds("idle_time", idle_time),
        None if wall_time is None else seconds("wall_time", wall_time),
        max_tasks,
    )


# ── the dispatcher process ───────────────────────────────────────────────────────────────


def _config(n: int, url: str, keys: _Keys, limits: Limits) -> dict[str, Any]:
    plan = {
        "count": n,
        "argv": _argv("mirai._daemon"),
        "lead": _search_path(),
        "options": {"limits": asdict(limits)},
    }
    return {
        "url": url,
        "public": keys.server.public,
        "secret": keys.server.secret,
        "client": keys.client.public,
        "host_pid": os.getpid(),
        "grace": GRACE,
        "plan": plan,
    }


def _argv(module: str) -> list[str]:
    if not sys.executable:
        raise MiraiError("sys.executable is not set, so no process can be started")
    # -P: a file of the user's that is called like a module of ours must not be taken for it.
    return [sys.executable, "-P", "-c", _BOOT.format(module=module)]


def _search_path() -> str:
    """Return this process's sys.path in one line; relative entries are made absolute."""
    entries = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    return "\0".join(entries) + "\n"


def _start_dispatcher(config: dict[str, Any]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        _argv("dispatcher.__main__"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # if it has died, reading its answer will tell
        process.stdin.write(os.fsencode(_search_path()))
        process.stdin.write(json.dumps(config).encode() + b"\n")
        process.stdin.flush()
    return process


def _listening_url(process: subprocess.Popen[bytes]) -> str:
    """Wait until the dispatcher listens, and return where."""
    assert process.stdout is not None
    timer = threading.Timer(START_TIMEOUT, process.kill)
    timer.daemon = True
    timer.start()
    try:
        line = process.stdout.readline()
    finally:
        timer.cancel()
    answer = json.loads(line) if line else {"error": f"it ended with code {process.wait()}"}
    if "error" in answer:
        raise MiraiError(f"the dispatcher could not start: {answer['error']}")
    url = answer["url"]
    assert isinstance(url, str)
    return url


def _end(process: subprocess.Popen[bytes], timeout: float) -> None:
    """Close the pipe that keeps the dispatcher alive, and wait until it has cleaned up."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


# ── the end of this process ──────────────────────────────────────────────────────────────


def _shut_down_all() -> None:
    for pool in list(_living):
        pool.shutdown()


def _forget_all() -> None:
    """In a forked child: the pools are the parent's, and nothing here will ever be answered."""
    global _guard
    _guard = threading.RLock()
    error = DispatcherLost("this process was forked; its mirais belong to its parent")
    for pool in list(_living):
        pool._channel.forsake(error)
    _living.clear()
    _profiles.clear()


atexit.register(_shut_down_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
