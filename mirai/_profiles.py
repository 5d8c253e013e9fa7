"""Compute profiles: which pool each has, and which one tasks go to.  All globals are here."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict, Unpack

from dispatcher.keys import KeyPair
from dispatcher.messages import ToClient
from mirai import _future
from mirai._addresses import host_url
from mirai._errors import DispatcherLost, MiraiError
from mirai._limits import limits_of, seconds
from mirai._log import set_up
from mirai._pool import Daemons
from mirai._pool_options import (
    GRACE,
    Env,
    PoolOptions,
    Tags,
    check_count,
    check_seed,
    check_tags,
    check_url,
    size_in_bytes,
)
from mirai._serial import Serial, SerialConfig, serial_configs
from mirai._status import Status
from mirai._streams import running

if TYPE_CHECKING:
    from mirai._connection import Connection
    from mirai._job import Job
    from mirai.launchers import Launcher

DEFAULT = "default"

_current: ContextVar[str] = ContextVar("mirai_profile", default=DEFAULT)
_profiles: dict[str, Daemons] = {}
_living: set[Daemons] = set()  # the pools of the profiles, those on their way, and ephemeral ones
_serial: dict[type, SerialConfig] = {}  # of all pools made from now on
_guard = threading.RLock()  # held for moments only
_on_daemon = False
_home: Home | None = None
_inner: Daemons | None = None  # the daemon's own pool, once a task has used it
_exiting = False  # all pools have been ended, and none will be again


@dataclass(frozen=True, slots=True)
class Home:
    """The pool that a daemon belongs to, for the tasks of its tasks."""

    profile: str
    url: str
    server: str
    pair: KeyPair
    serial: Serial
    pid: int
    """The daemon's, also where a task has forked: it is for this daemon that it waits."""


def daemons(
    n: int | None = None,
    url: str | None = None,
    *,
    launcher: Launcher | None = None,
    each: int = 1,
    dispatcher: bool = True,
    sync: bool = False,
    seed: int | None = None,
    memory: int | str | None = None,
    serial: SerialConfig | Iterable[SerialConfig] = (),
    profile: str | None = None,
    idle_time: float | str | None = None,
    wall_time: float | str | None = None,
    max_tasks: int | None = None,
    cleanup: bool = True,
    output: str | os.PathLike[str] | None = None,
    init: Callable[[], object] | None = None,
    env: Env | None = None,
    cwd: str | os.PathLike[str] | None = None,
    python: str | os.PathLike[str] | None = None,
    tags: Tags = (),
    grace: float | str = GRACE,
    patience: float | str | None = None,
    journal: str | os.PathLike[str] | None = None,
    time_to_live: float | str | None = None,
) -> Daemons:
    """Set the pool of a profile: a dispatcher process and ``n`` persistent local daemons.

    It replaces the pool that the profile has.  ``daemons(0)`` only tears that down: pending
    tasks are cancelled, and every process is ended.  Returns as soon as the dispatcher listens;
    tasks wait for the daemons to join.  A daemon that dies is replaced; if five in a row die
    before they have joined, or cannot be started, every task fails with the reason.

    ``url`` is where the dispatcher listens: ``None`` for the fastest local transport, or
    ``"tcp://127.0.0.1:0"`` and the like (port 0: any that is free), or ``"ipc:///run/my/socket"``,
    in a directory where nobody else can replace it.  CURVE is always on.  Daemons of other
    machines and other clients can join a pool on tcp by its ``connection_file``.

    With a ``launcher`` (see ``mirai.launchers``) the ``n`` daemons are started elsewhere, as jobs
    of Slurm, by ssh, and so on, and dial in to ``url``, by default ``host_url()``.  Each has
    ``patience`` seconds to join, by default as long as is usual on the platform; where none has
    come and none will, tasks fail with the reason.  Daemons that have ended are launched anew when
    there is work.  When the pool ends, their jobs are ended too.  ``env`` and ``tags`` are the same
    for all of them then; ``cwd`` is by default this process's where the platform shares our files.

    With ``each``, what is launched are ``n`` relays: each keeps so many daemons on its machine, and
    is for the pool one daemon that does so many tasks at once, so that a host can have thousands.
    The tags, ``idle_time`` and ``wall_time`` are the relay's, all else is that of its daemons; what
    their tasks submit themselves stays behind their relay.

    With ``dispatcher=False`` the dispatcher has no process of its own: it works in a thread of
    this one.  That saves a hop, and takes some of this process's time; a done-callback that
    blocks holds up the whole pool.

    With ``sync=True`` there is no process at all: each task is evaluated by the call of
    ``mirai`` itself, so that ``breakpoint()`` works in it; everything else looks the same.
    ``init`` is then called once, here, and what it raises is raised by ``daemons``; ``env``,
    ``cwd``, ``python``, ``output`` and the limits mean nothing.

    ``profile`` names the pool, where there are several; by default it is that of the block's
    ``use_profile``, or ``"default"``.

    A daemon leaves after ``idle_time`` without a task, after ``wall_time``, or after
    ``max_tasks`` tasks; times are in seconds, or like ``"90s"``, ``"5m"``, ``"2h"``.  It ends
    the task that it runs, and another takes its place: at once, or, if it was idle, when there
    is work again.

    ``env`` is added to a daemon's environment, and it carries the ``tags``: either may be a
    function of the daemon's number, which is called here: ``env=lambda i: {"CUDA_VISIBLE_DEVICES":
    str(i)}``.  The numbers are 0 to n-1, and who takes a daemon's place takes its number.
    ``init`` is called once on each daemon before its first task; if it raises, the daemon ends.
    ``cwd`` is its working directory, and ``python`` the interpreter that it is, one that has mirai
    installed; it knows what that interpreter can import, and not what this one can.

    With a ``seed``, each task draws from a stream of its own: its numbers depend on the seed and
    on how many tasks were submitted before it, and not on the number of daemons or on what they
    ran.  ``random`` and, where it is imported, ``numpy.random`` are seeded for it;
    ``task_generator()`` is the task's own ``numpy.random.Generator``.

    With ``cleanup``, what a task changes in its daemon is undone after it: environment variables,
    the working directory, the filters of ``warnings``, signal handlers, and seeds of ``random``
    and ``numpy.random``; and garbage is collected when there is nothing else to do.

    What daemons print is kept, the last lines of it, for errors, and that of a task for its mirai's
    ``log``.  With a path as ``output`` it is also appended to that file; with ``"inherit"`` it goes
    to where this process prints instead; with ``"stream"`` it appears at once on ``sys.stdout``
    here, each line after the task's name and id.

    ``memory`` is a budget, in bytes or like ``"500MB"``, for the payloads of tasks that are sent
    and not answered.  Where it is used up, ``mirai()`` blocks, ``try_mirai()`` returns None, and
    on an event loop ``mirai()`` raises QueueFull.  A task is let in while any of it is left,
    however large the task is.

    ``serial`` is a SerialConfig, or several: how instances of some classes are pickled in this
    pool.

    ``journal`` is a file in which tasks and their results are kept, so that they outlast this
    program, the dispatcher and the daemons: see ``Daemons.job``.  A task is on disk before a daemon
    hears of it, and a result before it is told.  A file that is there is gone on with: what waits
    in it is done.  What belongs to no job is forgotten once its result has arrived here; results
    that nobody has fetched stay for ``time_to_live`` (in seconds, or like ``"30d"``), by default
    for ever.  Leaving the block by an exception leaves what waits in the journal.

    Where the environment has ``MIRAI_LOG=debug`` (or ``info``, ``warning``, ``error``), this
    process and those of the pool log to standard error, which nobody has to read.

    Raises ValueError or TypeError for what is not a pool, SerializationError if ``init`` cannot be
    pickled, OSError if the ``output`` cannot be opened or this pyzmq has no CURVE, LaunchError if
    the platform does not start daemons, and MiraiError
    if the dispatcher cannot start (its address is in use, say), or if a task wants a pool of its
    own and does not name its ``profile``: on a daemon that is most often a mistake.
    """
    if n is None and url is None and not sync:
        raise TypeError("daemons() needs the number of daemons, or a url to listen on, or both")
    if profile is not None and not isinstance(profile, str):
        raise TypeError(f"profile must be a str, not {type(profile).__name__}")
    options = options_of(
        n,
        url,
        launcher=launcher,
        each=each,
        patience=patience,
        journal=journal,
        time_to_live=time_to_live,
        tags=tags,
        idle_time=idle_time,
        wall_time=wall_time,
        max_tasks=max_tasks,
        dispatcher=dispatcher,
        sync=sync,
        seed=seed,
        memory=memory,
        serial=serial,
        cleanup=cleanup,
        output=output,
        init=init,
        env=env,
        cwd=cwd,
        python=python,
        grace=grace,
    )
    if on_daemon() and profile is None and n != 0 and not sync:
        raise MiraiError("daemons() inside a task: name the profile if you mean it")
    profile = current_profile() if profile is None else profile
    _replace(profile, None)
    if not n and url is None and launcher is None and not (sync and n is None):
        return Daemons(profile, None, _forget)
    pool = start(profile, options)
    _replace(profile, pool)
    return pool


class PoolSettings(TypedDict, total=False):
    """What ``daemons()`` and ``Controller`` have in common: see there."""

    dispatcher: bool
    sync: bool
    memory: int | str | None
    serial: SerialConfig | Iterable[SerialConfig]
    cleanup: bool
    output: str | os.PathLike[str] | None
    init: Callable[[], object] | None
    env: Env | None
    cwd: str | os.PathLike[str] | None
    python: str | os.PathLike[str] | None
    grace: float | str


def options_of(
    n: int | None,
    url: str | None,
    *,
    launcher: Launcher | None = None,
    each: int = 1,
    patience: float | str | None = None,
    journal: str | os.PathLike[str] | None = None,
    time_to_live: float | str | None = None,
    tags: Tags = (),
    idle_time: float | str | None = None,
    wall_time: float | str | None = None,
    max_tasks: int | None = None,
    seed: int | None = None,
    **settings: Unpack[PoolSettings],
) -> PoolOptions:
    """Return the options of a pool, given as ``daemons()`` has them.  Raises as that does."""
    count = 0 if n is None else check_count(n)
    if url is not None:
        check_url(url)
    if launcher is not None and url is None:
        url = url_for([launcher])
    if time_to_live is not None and journal is None:
        raise ValueError("time_to_live is for what a journal keeps: name one")
    if journal is not None and not os.fspath(journal):
        raise ValueError("journal must be the name of a file, and not empty")
    if journal is not None and "\0" in os.fspath(journal):
        raise ValueError(f"journal cannot have a null byte in its name: {journal!r}")
    memory, cwd, python = settings.get("memory"), settings.get("cwd"), settings.get("python")
    grace = settings.get("grace", GRACE)
    return PoolOptions(
        count if launcher is None else 0,
        url or "ipc",
        dispatcher=settings.get("dispatcher", True),
        sync=settings.get("sync", False),
        seed=seed,
        memory=None if memory is None else size_in_bytes("memory", memory),
        serial=(*_serial.values(), *serial_configs(settings.get("serial", ()))),
        limits=limits_of(idle_time, wall_time, max_tasks),
        cleanup=settings.get("cleanup", True),
        output=_output(settings.get("output")),
        init=settings.get("init"),
        env=settings.get("env"),
        cwd=None if cwd is None else os.path.abspath(cwd),
        python=None if python is None else _program(python),
        tags=tags if callable(tags) else check_tags(tags),
        grace=seconds("grace", grace) if isinstance(grace, str) else grace,
        launcher=launcher,
        launched=0 if launcher is None else count,
        patience=None if patience is None else seconds("patience", patience),
        journal=None if journal is None else os.path.abspath(journal),
        time_to_live=None if time_to_live is None else seconds("time_to_live", time_to_live),
        each=each,
    )


def register_serial(config: SerialConfig) -> None:
    """Pickle instances of a class in this way, in all pools that are made from now on.

    It replaces what was registered for the same class; ``daemons(serial=...)`` goes before it.
    """
    if not isinstance(config, SerialConfig):
        raise TypeError(f"register_serial needs a SerialConfig, not {config!r}")
    with _guard:
        _serial[config.cls] = config


def connect(
    connection_file: str | os.PathLike[str],
    profile: str | None = None,
    *,
    timeout: float | str = 10.0,
    seed: int | None = None,
    memory: int | str | None = None,
    serial: SerialConfig | Iterable[SerialConfig] = (),
) -> Daemons:
    """Use a dispatcher that stands on its own, as the pool of a profile.

    ``connection_file`` is what ``mirai dispatcher`` or ``Daemons.connection_file`` has written.
    Any number of clients may do so at once, and share the daemons fairly.  Returns once the
    dispatcher has welcomed this one; a pool that the profile has is replaced then.

    As a context manager it waits for the block's tasks, or, if the block is left by an exception,
    cancels them; dispatcher and daemons stay.  ``daemons(0)`` cancels too.  Where the dispatcher
    keeps a journal, tasks are not cancelled when their client leaves: they go on without it, and
    ``Daemons.job`` brings their futures back.

    ``seed``, ``memory`` and ``serial`` are for the tasks of this client, and mean what they do in
    ``daemons()``; but for results, daemons know only the configs that they were started with.

    Raises TypeError or ValueError for what makes no sense, SerializationError if a config cannot
    be pickled, MiraiError if the file cannot be used (others can read it, say),
    AuthenticationError if the dispatcher does not accept its keys or does not prove its own,
    DispatcherLost if it has not answered within ``timeout`` seconds, and OSError if this pyzmq has
    no CURVE.
    """
    from mirai._connection import Connection

    if profile is not None and not isinstance(profile, str):
        raise TypeError(f"profile must be a str, not {type(profile).__name__}")
    patience = seconds("timeout", timeout)
    check_seed(seed)
    budget = None if memory is None else size_in_bytes("memory", memory)
    configs = Serial((*_serial.values(), *serial_configs(serial)))
    connection = Connection.read(connection_file)
    name = current_profile() if profile is None else profile
    pool = join(connection, name, patience, seed=seed, memory=budget, serial=configs)
    _replace(name, pool)
    return pool


def job(name: str, profile: str | None = None) -> Job:
    """Return a durable job of a profile's pool, which must keep a journal; see ``Daemons.job``."""
    return require_pool(profile).job(name)


def status(profile: str | None = None) -> Status:
    """Return what the pool of a profile looks like now.

    Raises MiraiError if the profile has none, or if the dispatcher is lost.
    """
    return require_pool(profile).status()


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


def on_daemon() -> bool:
    """Return whether this code is evaluated by a daemon, or as by one with ``sync=True``."""
    return _on_daemon or running.draws is not None


def mark_daemon(home: Home | None) -> None:
    """Say that this process is a daemon; for mirai's own use.

    ``home`` is how its tasks can submit tasks, None where they must not.
    """
    global _on_daemon, _home
    _on_daemon, _home = True, home


def current_profile() -> str:
    """Return the profile that tasks are sent to unless they say otherwise."""
    return _current.get()


def pool_of(profile: str) -> Daemons | None:
    """Return the pool of a profile, if it has one; a daemon's is the pool that it belongs to.

    Raises MiraiError on a daemon that must not submit tasks to that.
    """
    pool = _profiles.get(profile)
    if pool is not None or not _on_daemon:
        return pool
    if _home is None and profile == DEFAULT:
        raise MiraiError(
            "this daemon was joined with a connection file for daemons only: its tasks cannot"
            " submit tasks"
        )
    if _home is not None and profile in (DEFAULT, _home.profile):
        return _inner_pool(_home)
    return None


def inner_mark() -> int | None:
    """Return what ``cancel_inner`` takes; None while no task here has submitted any."""
    return None if _inner is None else _inner.mark()


def cancel_inner(mark: int | None) -> None:
    """Cancel what a task here has submitted to its own pool since ``inner_mark``."""
    if _inner is not None:
        with contextlib.suppress(DispatcherLost):
            _inner.cancel_since(mark or 0)


def flush_inner() -> None:
    """Wait until what the tasks of a task here have printed is written."""
    if _inner is not None:
        with contextlib.suppress(DispatcherLost):
            _inner.flush_printed()


def _inner_pool(home: Home) -> Daemons:
    """Return the pool that this daemon belongs to, as a client of it."""
    global _inner
    with _guard:
        if _inner is None:
            from mirai._link import Link  # it loads ZeroMQ, which few daemons have a use for

            pool = Daemons(home.profile, None, _forget)
            _living.add(pool)
            link = Link(home.url, home.pair, home.server, ToClient)
            pool.attach(link, serial=home.serial, pid=home.pid)
            _inner = pool
        return _inner


def require_pool(profile: str | None) -> Daemons:
    """Return the pool of a profile (None: the current one).  Raises MiraiError if it has none."""
    profile = current_profile() if profile is None else profile
    pool = pool_of(profile)
    if pool is None:
        raise MiraiError(f"no daemons are set for profile {profile!r}: call daemons(n) first")
    return pool


def ephemeral(profile: str) -> Daemons:
    """Start a pool of one daemon that belongs to no profile; its caller shuts it down."""
    return start(profile, PoolOptions(1, serial=tuple(_serial.values())))


def start(profile: str, options: PoolOptions) -> Daemons:
    """Start a pool, which belongs to no profile yet.  Raises like ``daemons``."""
    pool = Daemons(profile, options, _forget)
    _bring_to_life(pool, pool.start)
    return pool


def join(
    connection: Connection,
    profile: str,
    timeout: float,
    *,
    seed: int | None = None,
    memory: int | None = None,
    serial: Serial | None = None,
) -> Daemons:
    """Connect to a dispatcher; the pool belongs to no profile yet.  Raises like ``connect``."""
    from dispatcher.messages import Role

    pair = connection.pair(Role.CLIENT)
    pool = Daemons(profile, None, _forget)
    _bring_to_life(
        pool,
        lambda: pool.join(connection, pair, timeout, seed=seed, memory=memory, serial=serial),
    )
    return pool


def _bring_to_life(pool: Daemons, begin: Callable[[], None]) -> None:
    if _exiting:
        raise MiraiError("this process is exiting: it is too late for daemons")
    if not _on_daemon:  # which logs as its dispatcher does
        set_up()
    _living.add(pool)  # first, so that whatever has been started is ended at exit
    try:
        begin()
    except BaseException:
        pool.shutdown()
        raise


def _replace(profile: str, pool: Daemons | None) -> None:
    """Give the profile another pool, or none, and end the one that it had."""
    with _guard:
        former = _profiles.get(profile)  # if there is no other, it stays until it has ended
        if pool is not None:
            _profiles[profile] = pool
    if former is not None:
        former.shutdown()


def _forget(pool: Daemons) -> None:
    """A pool has ended."""
    global _inner
    with _guard:
        _living.discard(pool)
        if _inner is pool:
            _inner = None
        if _profiles.get(pool.profile) is pool:
            del _profiles[pool.profile]


def _output(output: str | os.PathLike[str] | None) -> str | None:
    """Return a path as an absolute one, and words as they are; others are not for us to judge."""
    if output is None or output in ("inherit", "stream"):
        return output
    return os.path.abspath(output)


def url_for(launchers: Iterable[Launcher]) -> str:
    """Return where a pool listens for the daemons of launchers, unless its user says."""
    from mirai.launchers import Launcher

    near = all(isinstance(each, Launcher) and each.is_near() for each in launchers)
    return host_url("127.0.0.1") if near else host_url()


def _program(python: str | os.PathLike[str]) -> str:
    """Return where a program is, whose name or path is given; that, if it is nowhere."""
    import shutil  # slow, and rarely needed

    found = shutil.which(python)
    return os.fspath(python) if found is None else os.path.abspath(found)


# ── the end of this process ──────────────────────────────────────────────────────────────


def _shut_down_all() -> None:
    """End what is left.  Who presses Ctrl-C now is in a hurry: the rest ends by itself."""
    global _exiting
    _exiting = True
    for pool in list(_living):
        with contextlib.suppress(KeyboardInterrupt):
            pool.shutdown()


def _forget_all() -> None:
    """In a forked child: the pools are the parent's, and nothing here will ever be answered."""
    global _guard, _inner
    _guard, _inner = threading.RLock(), None
    _future.begin_era()
    error = DispatcherLost(_future.FORKED)
    for pool in list(_living):
        pool.forsake(error)
    _living.clear()
    _profiles.clear()


atexit.register(_shut_down_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
