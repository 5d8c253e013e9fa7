"""The kill matrix: whoever is struck at whatever moment, every future settles, nothing runs twice.

The tables say what must come of it.  A star marks the cells of the default suite, and a letter
stands for why there is no such cell (``WHY_NOT``).  The ways are those of ``traps.INSIDE``, and
the signals from outside; ``SIGSTOP`` is followed by ``SIGCONT``.  A daemon that sends or is idle
is struck from inside by a thread that the task has left, and one that exits by what the task has
registered with ``atexit``.  ``last byte`` is a MemoryError when all memory is taken, and is held.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple

import pytest
import traps
from conftest import Script, processes_marked, wait_until

from mirai import (
    DaemonCrashed,
    Daemons,
    DispatcherLost,
    Mirai,
    RemoteError,
    SerializationError,
    daemons,
    mirai,
    status,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it looks at processes in /proc")

# What becomes of the task at whose moment a daemon is struck, and of the daemon:
#   stays     its value; the daemon goes on
#   leaves    its value; then the daemon leaves, and another takes its place
#   moves     its value, from another daemon, since it had not begun
#   yields    its value, from the one or the other, and another takes the daemon's place
#   crashed   DaemonCrashed with the signal or the exit code, and the attempt; another daemon comes
#   an error  that error; the daemon goes on
DAEMON = """
                SIGKILL   SIGTERM  SIGSTOP  segfault  os._exit  MemoryError         last byte           unpicklable         BaseException  SystemExit
before receive  moves*    yields   stays    moves     a         moves               a                   a                   a              a
unpickling      crashed*  leaves   stays    crashed   crashed   MemoryError         MemoryError         RemoteError         RemoteError    RemoteError
running         crashed   leaves*  stays*   crashed   crashed   MemoryError         MemoryError*        RemoteError         RemoteError    RemoteError
pickling        crashed   leaves   stays    crashed   crashed*  SerializationError  SerializationError  SerializationError  RemoteError    RemoteError
sending         crashed*  leaves   stays    crashed   crashed   stays               b                   stays               stays          stays
idle            leaves    leaves   stays    leaves    leaves*   stays               b                   stays               stays          stays
exiting         leaves    leaves   leaves   leaves    leaves    leaves              leaves              leaves              leaves         leaves
"""  # noqa: E501

# What becomes of all tasks when the dispatcher is struck while a daemon is at a moment (before
# receive, exiting: the dispatcher itself is):
#   lost      DispatcherLost, which says how the dispatcher ended; every process is gone
#   cut       DispatcherLost for what it cannot receive, and for all that is not answered by then
#   stays     their values; everything goes on
#   either    the value of what has been sent, or DispatcherLost; every process is gone
#   gone      the pool was being torn down, and is
DISPATCHER = """
                SIGKILL  SIGTERM  SIGSTOP  segfault  os._exit  MemoryError  unpicklable  BaseException
before receive  lost     lost     stays*   lost      c         cut          c            c
unpickling      lost*    lost     stays    lost      c         cut          c            c
running         lost     lost     stays    lost      c         cut          c            c
pickling        lost     lost     stays    lost      c         cut          c            c
sending         lost     either   stays*   lost      c         cut          c            c
idle            lost     lost     stays    lost      c         cut          c            c
exiting         gone     gone     gone     gone      c         gone         c            c
"""  # noqa: E501

# What becomes of the pool when its host is struck while a daemon is at a moment (exiting: the host
# itself is):
#   gone      every process is
#   stays     the values come; everything goes on
HOST = """
                SIGKILL  SIGTERM  SIGSTOP  segfault  os._exit  MemoryError  unpicklable  BaseException
before receive  gone*    gone     stays    gone      gone      gone         gone         gone
unpickling      gone     gone     stays    gone      gone      gone         gone         gone
running         gone     gone     stays*   gone      gone      gone         gone         gone
pickling        gone     gone     stays    gone      gone      gone         gone         gone
sending         gone     gone     stays    gone      gone      gone         gone         gone
idle            gone     gone     stays    gone      gone      gone         gone         gone
exiting         gone     gone     gone     gone      gone      gone         gone         gone
"""  # noqa: E501

WHY_NOT = {
    "a": "nothing of the task's own runs in a daemon that has not received it",
    "b": "a thread that has eaten the memory up harms whom it will: there is no one outcome",
    "c": "no code of a user's runs in a dispatcher: it does not unpickle, and cannot be made to",
}

PATIENCE = 30.0
"""Seconds within which a future must settle: as long as the test may take."""


class Cell(NamedTuple):
    moment: str
    way: str
    outcome: str


def cells(
    table: str,
    starred: pytest.MarkDecorator | None = None,
    others: pytest.MarkDecorator = pytest.mark.thorough,
    without: str = "",
) -> list[Any]:
    """Return the cells of a table as a test's parameters, but for those of a moment."""
    header, *rows = table.strip("\n").split("\n")
    ways = re.split(r"\s{2,}", header.strip())
    found = []
    for row in rows:
        moment, *words = re.split(r"\s{2,}", row.strip())
        for way, word in zip(ways, words, strict=True):
            if word in WHY_NOT or moment == without:
                continue
            mark = starred if word.endswith("*") else others
            cell = Cell(moment, way, word.rstrip("*"))
            found.append(pytest.param(cell, marks=mark or (), id=f"{moment}-{way}"))
    return found


# ── striking ─────────────────────────────────────────────────────────────────────────────


def state_of(pid: int) -> str:
    """Return the state of a process, as in proc(5); empty if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def stop(pid: int) -> None:
    """Stop a process, and return when it stands."""
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: state_of(pid) == "T")


def go_on(pid: int) -> None:
    """Let a process go on that was stopped, unless the blow has ended it."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def strike(pid: int, way: str) -> None:
    """Strike from outside, if that is the way."""
    if way == "SIGSTOP":
        stop(pid)
        go_on(pid)
    elif way == "segfault" or way.startswith("SIG"):
        os.kill(pid, signal.SIGSEGV if way == "segfault" else signal.Signals[way])


def is_stuck_in(url: str) -> bool:
    """Whether a connection to this port holds what was sent and cannot be received."""
    port = f"{int(url.rpartition(':')[2]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    queues = [fields[4].split(":") for fields in lines if fields[2].endswith(":" + port)]
    return any(int(sent, 16) > 0 for sent, _ in queues)


# ── a daemon ─────────────────────────────────────────────────────────────────────────────

CAUSES = {
    "SIGKILL": (None, "SIGKILL"),
    "segfault": (None, "SIGSEGV"),
    "os._exit": (7, None),
}
ERRORS = {each.__name__: each for each in (MemoryError, RemoteError, SerializationError)}
NAMES = {
    "MemoryError": "MemoryError",
    "last byte": "MemoryError",
    "unpicklable": "Unpicklable",
    "BaseException": "Rude",
    "SystemExit": "SystemExit",
}
"""What errors tell of these ways."""
BEHIND = [f"behind {i}" for i in range(5)]
TASKS = 5
"""The task is the daemon's fifth."""
CARGO = 3 * traps.PIECES
"""How many pieces are more than can be received without more memory."""


class Scene:
    """A pool of one daemon, the task at a moment of which somebody is struck, and tasks behind."""

    def __init__(self, pool: Daemons, room: Path, moment: str, way: str = "") -> None:
        """Evaluate a few tasks, so that they are known to be quick and are given in handfuls.

        ``way`` is how the daemon is struck, if it is the one.
        """
        self.pool = pool
        self.room = str(room)
        self.moment = moment
        self.way = way
        for _ in range(TASKS - 2):
            mirai(traps.work, self.room, "before").result(timeout=PATIENCE)
        self.daemon: int = mirai(os.getpid).result(timeout=PATIENCE)
        self.stopped = 0  # who cannot go on before the blow
        self.tasks: list[Mirai[Any]] = []  # the one that is struck first

    @property
    def dispatcher(self) -> int:
        assert self.pool._process is not None
        return self.pool._process.pid

    def begin(self, receiver: int, cargo: int = 0, retries: int = 0) -> None:
        """Submit the task, and return when it has come to the moment.

        ``receiver`` is who shall not have received it before.
        """
        if self.moment == "before receive":
            self._stop(receiver)
        bait: object = traps.Freight(cargo) if cargo else None
        if self.moment == "unpickling":
            bait = traps.Bait(self.room, self.way)
        self.tasks = [
            mirai.options(retries=retries)(
                traps.work, self.room, "struck", self.moment, self.way, bait
            )
        ]
        if self.moment == "idle":
            self.tasks[0].result(timeout=PATIENCE)
        else:
            self.submit_behind()
        self._wait_for_moment()

    def submit_behind(self) -> None:
        self.tasks += [mirai(traps.work, self.room, name) for name in BEHIND]

    def _stop(self, pid: int) -> None:
        self.stopped = pid
        stop(pid)

    def _wait_for_moment(self) -> None:
        if self.stopped:
            wait_until(lambda: self.stopped != self.daemon or status().executing == 1)
            return
        wait_until(lambda: traps.notes(self.room, "here"))
        self.daemon = traps.notes(self.room, "here")[0]
        if self.moment == "sending":
            wait_until(lambda: status().daemons[0].tasks == 1)  # those behind are taken back
            self._stop(self.dispatcher)
            Path(self.room, "stopped").touch()
            wait_until(lambda: is_stuck_in(self.pool.url))

    def go(self) -> None:
        """Let everything go on that has waited for the blow."""
        Path(self.room, "go").touch()
        if self.stopped:
            go_on(self.stopped)

    def runs(self, what: str) -> list[int]:
        return traps.notes(self.room, what)


def pool_for(moment: str, *, thread: bool = False) -> Daemons:
    """Start a pool of one daemon that can come to this moment."""
    url = "tcp://127.0.0.1:0" if moment == "sending" else None
    limit = TASKS if moment == "exiting" else None
    return daemons(1, url, max_tasks=limit, dispatcher=not thread)


def check_pool_is_whole(scene: Scene, outcome: str) -> None:
    """There is one daemon, the same as before or another, and it works."""
    stays = outcome == "stays" or outcome in ERRORS

    def is_whole() -> bool:
        there = [(each.pid == scene.daemon, each.state) for each in status().daemons]
        return there == [(stays, "idle")]

    wait_until(is_whole)
    assert mirai(abs, -1).result(timeout=PATIENCE) == 1


def check_runs(scene: Scene, outcome: str, attempts: int = 1) -> None:
    """Nothing has run more often than it may, and what could run has."""
    for name in BEHIND:
        assert len(scene.runs(name)) == 1
    visited = set(scene.runs("struck") + scene.runs("here"))
    assert len(visited) == attempts
    assert outcome == "yields" or (scene.daemon in visited) == (outcome != "moves")
    never_called = scene.moment == "unpickling" and outcome not in ("stays", "leaves")
    assert len(scene.runs("struck")) == attempts - never_called


def check_answers(scene: Scene, outcome: str) -> None:
    error = scene.tasks[0].exception(timeout=PATIENCE)
    if outcome == "crashed":
        assert isinstance(error, DaemonCrashed)
        assert (error.exit_code, error.signal) == CAUSES[scene.way]
        assert (error.pid, error.attempt) == (scene.daemon, 1)
    elif outcome in ERRORS:
        assert type(error) is ERRORS[outcome]
        assert NAMES[scene.way] in f"{error!r} {error.__cause__}"
    else:
        assert error is None
    assert [task.result(timeout=PATIENCE) for task in scene.tasks[1:]] == BEHIND


def strike_daemon(cell: Cell, room: Path, *, thread: bool = False, retries: int = 0) -> None:
    """Bring a daemon to the moment, strike it, and see what comes of it."""
    moment, way, outcome = cell
    too_large = moment == "before receive" and way == "MemoryError"
    with pool_for(moment, thread=thread) as pool:
        scene = Scene(pool, room, moment, way)
        if too_large:
            mirai(traps.starve, 0).result(timeout=PATIENCE)
        scene.begin(scene.daemon, cargo=CARGO if too_large else 0, retries=retries)
        if way not in traps.INSIDE or moment == "before receive":
            strike(scene.daemon, way)
        scene.go()
        if moment == "idle":
            wait_until(lambda: way not in CAUSES or state_of(scene.daemon) in ("Z", ""))
            scene.submit_behind()
        check_answers(scene, outcome)
        check_pool_is_whole(scene, outcome)
    check_runs(scene, outcome, attempts=1 + retries)


@pytest.mark.parametrize("cell", cells(DAEMON))
def test_a_daemon_is_struck(cell: Cell, tmp_path: Path) -> None:
    strike_daemon(cell, tmp_path)


IN_A_THREAD = cells(DAEMON, pytest.mark.thorough, pytest.mark.slow, without="sending")
"""Where it cannot be stopped alone, so that its daemons cannot be held while they send."""


@pytest.mark.parametrize("cell", IN_A_THREAD)
def test_a_daemon_is_struck_whose_dispatcher_is_a_thread(cell: Cell, tmp_path: Path) -> None:
    strike_daemon(cell, tmp_path, thread=True)


@pytest.mark.parametrize(
    "cell",
    [each for each in cells(DAEMON, pytest.mark.thorough) if each.values[0].outcome == "crashed"],
)
def test_a_task_that_may_run_again_does(cell: Cell, tmp_path: Path) -> None:
    strike_daemon(cell._replace(outcome="retried"), tmp_path, retries=1)


@pytest.mark.thorough
def test_a_task_that_no_daemon_can_receive_fails() -> None:
    """It kills one after the other, and none can begin it."""
    with daemons(1, init=partial(traps.starve, traps.HEADROOM // 2)):
        task = mirai(traps.work, "", "large", bait=traps.Freight(3 * CARGO))
        behind = mirai(abs, -1)
        error = task.exception(timeout=PATIENCE)
        assert isinstance(error, DaemonCrashed)
        assert "5 daemons died when they were given the task" in str(error)
        assert behind.result(timeout=PATIENCE) == 1


# ── the dispatcher ───────────────────────────────────────────────────────────────────────

END = {
    "SIGKILL": ("ended with SIGKILL",),
    "SIGTERM": ("has shut down",),
    "segfault": ("ended with SIGSEGV",),
    # libzmq asserts, here and there, that it was given the memory it asked for; Python raises
    "MemoryError": ("the connection to the dispatcher", "ended with SIGABRT", "ended with exit"),
}
"""What is said of a dispatcher that was struck so: one of these."""


def starve(pid: int) -> None:
    """Let another process have no more memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))


@pytest.mark.parametrize("cell", cells(DISPATCHER))
def test_the_dispatcher_is_struck(cell: Cell, tmp_path: Path, mark: str) -> None:
    if cell.moment == "exiting":
        strike_while_it_exits(cell.way, mark)
        return
    pool = pool_for(cell.moment)
    scene = Scene(pool, tmp_path, cell.moment)
    scene.begin(scene.dispatcher)
    strike_dispatcher(scene, cell.way)
    if scene.stopped or cell.outcome == "stays":
        scene.go()
    if cell.moment == "idle":
        with contextlib.suppress(DispatcherLost):
            scene.submit_behind()
    if cell.outcome == "stays":
        check_answers(scene, "stays")
        check_pool_is_whole(scene, "stays")
        check_runs(scene, "stays")
        return
    check_loss(scene, cell)
    with pytest.raises(DispatcherLost):
        mirai(abs, -1)
    if cell.outcome != "cut":
        wait_until(lambda: not processes_marked(mark))
    with daemons(1):
        assert mirai(abs, -1).result(timeout=PATIENCE) == 1


def strike_dispatcher(scene: Scene, way: str) -> None:
    if way == "MemoryError":
        starve(scene.dispatcher)
        scene.tasks.append(mirai(traps.work, scene.room, "large", bait=traps.Freight(CARGO)))
    else:
        strike(scene.dispatcher, way)


def check_loss(scene: Scene, cell: Cell) -> None:
    """All that was not answered is lost, and it is said why."""
    errors = [task.exception(timeout=PATIENCE) for task in scene.tasks]
    assert {type(error) for error in errors} <= {DispatcherLost, NoneType}
    unanswered = errors[1:] if cell.moment == "idle" else errors
    telling = {"lost": unanswered, "cut": errors[-1:]}.get(cell.outcome, [])
    assert all(any(end in str(error) for end in END[cell.way]) for error in telling)
    ran = [scene.runs(name) for name in ("struck", *BEHIND)]
    assert all(len(runs) <= 1 for runs in ran)


def strike_while_it_exits(way: str, mark: str) -> None:
    """Strike it while it waits for a daemon that does not leave; the other has left."""
    pool = daemons(2)
    pool.wait(2)
    assert pool._process is not None
    stubborn, other = (daemon.pid for daemon in status().daemons)
    stop(stubborn)
    tasks = [mirai(time.sleep, 600) for _ in range(5)]
    thread = threading.Thread(target=pool.shutdown)
    thread.start()
    wait_until(lambda: state_of(other) in ("Z", ""))
    if way == "MemoryError":
        starve(pool._process.pid)
    else:
        strike(pool._process.pid, way)
    thread.join()
    assert all(task.cancelled() for task in tasks)
    wait_until(lambda: not processes_marked(mark))


# ── the host ─────────────────────────────────────────────────────────────────────────────

PROGRAM = """
import atexit, os, signal, sys, time
sys.path.insert(0, {here!r})
import traps
from mirai import daemons, mirai, status
room, moment, way, thread = {arguments!r}
pool = daemons(1, "tcp://127.0.0.1:0" if moment == "sending" else None, dispatcher=not thread)
daemon = mirai(os.getpid).result()
if moment == "before receive":
    os.kill(daemon, signal.SIGSTOP)
bait = traps.Bait(room, "") if moment == "unpickling" else None
task = mirai(traps.work, room, "struck", "running" if moment == "exiting" else moment, "", bait)
if moment == "idle":
    task.result()
if moment == "before receive":
    while status().executing != 1:
        time.sleep(0.001)
else:
    while not traps.notes(room, "here"):
        time.sleep(0.001)
def be_struck():
    print(daemon, pool._process and pool._process.pid, pool.url, flush=True)
    traps.wait_for(room, "strike")
    traps.INSIDE.get(way, str)()
if moment == "exiting":
    atexit.register(be_struck)  # before the pool is torn down
else:
    be_struck()
    task.result()
    print(mirai(abs, -1).result())
    daemons(0)
"""

STATUS = {
    "SIGKILL": -signal.SIGKILL,
    "SIGTERM": -signal.SIGTERM,
    "segfault": -signal.SIGSEGV,
    "os._exit": 7,
    "SIGSTOP": 0,
}
"""How a program ends that is struck so; else by an error that nobody catches."""


def strike_host(cell: Cell, room: Path, script: Script, mark: str, *, thread: bool = False) -> None:
    """Bring a host's daemon to the moment, strike the host, and see what is left."""
    moment, way, outcome = cell
    arguments = str(room), moment, way, thread
    host = script(PROGRAM.format(here=str(Path(__file__).parent), arguments=arguments))
    assert host.stdout is not None
    daemon, dispatcher, url = host.stdout.readline().split()
    stopped = int(daemon) if moment == "before receive" else 0
    if moment == "sending":
        stopped = int(dispatcher)
        stop(stopped)
        (room / "stopped").touch()
        wait_until(lambda: is_stuck_in(url))
    if way not in traps.INSIDE:
        strike(host.pid, way)
    (room / "strike").touch()
    if outcome == "stays":
        (room / "go").touch()
    if outcome == "stays" or moment == "sending":
        go_on(stopped)
    out, err = host.communicate(timeout=PATIENCE)
    wait_until(lambda: not processes_marked(mark))
    failed = int(moment != "exiting")  # what fails at the exit is told, and no more
    assert host.returncode == STATUS.get(way, failed)
    assert out == ("1\n" if outcome == "stays" else "")
    assert err.count("Traceback") == (way not in STATUS)


@pytest.mark.parametrize("cell", cells(HOST))
def test_the_host_is_struck(cell: Cell, tmp_path: Path, script: Script, mark: str) -> None:
    strike_host(cell, tmp_path, script, mark)


@pytest.mark.parametrize(
    "cell", cells(HOST, pytest.mark.thorough, pytest.mark.slow, without="sending")
)
def test_the_host_is_struck_that_is_the_dispatcher_too(
    cell: Cell, tmp_path: Path, script: Script, mark: str
) -> None:
    strike_host(cell, tmp_path, script, mark, thread=True)
