"""The kill matrix: whoever is struck at whatever moment, every future settles, nothing runs twice.

The tables say what must come of it.  A star marks the cells of the default suite, and a letter
stands for why there is no such cell (``WHY_NOT``).  The ways are those of ``traps.INSIDE``, and
the signals from outside; ``SIGSTOP`` is followed by ``SIGCONT``.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import traps
from conftest import ROOT, Script, processes_marked, wait_until

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
                SIGKILL   SIGTERM   SIGSTOP  segfault  os._exit  MemoryError           last byte             unpicklable           BaseException  SystemExit
before receive  moves*    yields    stays    moves     a         moves*                a                     a                     a              a
unpickling      crashed*  leaves    stays    crashed   crashed   MemoryError           MemoryError           RemoteError           RemoteError*   RemoteError
running         crashed   leaves*   stays*   crashed*  crashed   MemoryError*          MemoryError           RemoteError*          RemoteError    RemoteError
pickling        crashed   leaves    stays    crashed   crashed*  SerializationError    SerializationError    SerializationError    RemoteError    RemoteError
sending         crashed*  leaves    stays    crashed   crashed   stays                 b                     stays                 stays          stays
idle            leaves    leaves    stays    leaves    leaves*   stays                 b                     stays                 stays          stays
exiting         leaves    leaves    leaves   leaves    leaves    leaves                leaves                leaves                leaves         leaves
"""  # noqa: E501

# What becomes of all tasks when the dispatcher is struck while a daemon is at a moment:
#   lost      DispatcherLost with how the dispatcher ended; the daemons are gone
#   stays     nothing: the value comes
#   either    the value, if it had come far enough, or DispatcherLost
#   gone      the pool was being torn down, and is
DISPATCHER = """
                SIGKILL   SIGTERM   SIGSTOP  segfault  os._exit  MemoryError  unpicklable  BaseException
before receive  lost      lost*     stays*   lost      c         lost         c            c
unpickling      lost*     lost      stays    lost      c         lost         c            c
running         lost      lost      stays    lost*     c         lost*        c            c
pickling        lost      lost      stays    lost      c         lost         c            c
sending         lost      either    stays*   lost      c         d            c            c
idle            lost      lost      stays    lost      c         lost         c            c
exiting         gone      gone      gone     gone      c         d            c            c
"""  # noqa: E501

# What becomes of the pool when its host is struck while a daemon is at a moment (exiting: the host
# itself is):
#   gone      every process is
#   stays     nothing: the value comes
HOST = """
                SIGKILL   SIGTERM   SIGSTOP  segfault  os._exit  MemoryError  unpicklable  BaseException
before receive  gone*     gone      stays    gone      gone      gone         gone         gone
unpickling      gone      gone      stays    gone      gone      gone         gone         gone
running         gone      gone      stays*   gone      gone      gone         gone         gone
pickling        gone      gone      stays    gone      gone      gone         gone         gone
sending         gone      gone      stays    gone      gone      gone         gone         gone
idle            gone      gone      stays    gone      gone      gone         gone         gone
exiting         gone      gone      stays    gone      gone      gone         gone         gone
"""  # noqa: E501

WHY_NOT = {
    "a": "nothing of the task's own runs in a daemon that has not received it",
    "b": "a thread that has eaten the memory up harms whom it will: there is no one outcome",
    "c": "no code of a user's runs in a dispatcher: it does not unpickle, and cannot be made to",
    "d": "it is stopped at that moment, and needs no more memory for what is left to do",
}

PATIENCE = 30.0
"""Seconds within which a future must settle: as long as the test may take."""


class Cell(NamedTuple):
    moment: str
    way: str
    outcome: str


def cells(table: str, *, thorough: bool = False) -> list[Any]:
    """Return the cells of a table as a test's parameters, without those that are none."""
    header, *rows = table.strip("\n").split("\n")
    ways = re.split(r"\s{2,}", header.strip())
    found = []
    for row in rows:
        moment, *words = re.split(r"\s{2,}", row.strip())
        for way, word in zip(ways, words, strict=True):
            if word not in WHY_NOT:
                marks = [] if word.endswith("*") and not thorough else [pytest.mark.thorough]
                cell = Cell(moment, way, word.rstrip("*"))
                found.append(pytest.param(cell, marks=marks, id=f"{moment}-{way}"))
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
BEHIND = [f"behind {i}" for i in range(5)]


class Scene:
    """A pool of one daemon, the task that is struck, and tasks behind it."""

    def __init__(self, pool: Daemons, room: Path, moment: str, way: str = "") -> None:
        """Evaluate a few tasks, so that they are known to be quick and are given in handfuls."""
        self.pool = pool
        self.room = str(room)
        self.moment = moment
        self.way = way
        for _ in range(3):
            mirai(traps.work, self.room, "before").result(timeout=PATIENCE)
        self.victim: int = mirai(os.getpid).result(timeout=PATIENCE)
        self.behind: list[Mirai[Any]] = []

    def begin(self, retries: int = 0) -> None:
        """Submit the task, and return when it has come to the moment."""
        if self.moment == "before receive":
            if self.way == "MemoryError":
                mirai(traps.starve, 0).result(timeout=PATIENCE)
            stop(self.victim)
        self.task = mirai.options(retries=retries)(
            traps.work, self.room, "struck", self.moment, self.way, self._argument()
        )
        if self.moment == "idle":
            self.task.result(timeout=PATIENCE)
        else:
            self.submit_behind()
        self._wait_for_moment()

    def _argument(self) -> object:
        if self.moment == "unpickling":
            return traps.Bait(self.room, self.way)
        if self.moment == "before receive" and self.way == "MemoryError":
            return traps.Freight(3 * traps.PIECES)
        return None

    def submit_behind(self) -> None:
        self.behind += [mirai(traps.work, self.room, name) for name in BEHIND]

    def _wait_for_moment(self) -> None:
        if self.moment == "before receive":
            wait_until(lambda: status().executing == 1)
            return
        wait_until(lambda: traps.notes(self.room, "here"))
        self.victim = traps.notes(self.room, "here")[0]
        if self.moment == "sending":
            wait_until(lambda: status().daemons[0].tasks == 1)  # those behind are taken back
            stop(self.dispatcher)
            Path(self.room, "stopped").touch()
            wait_until(lambda: is_stuck_in(self.pool.url))

    @property
    def dispatcher(self) -> int:
        assert self.pool._process is not None
        return self.pool._process.pid

    def go(self) -> None:
        """Let everything go on that has waited for the blow."""
        Path(self.room, "go").touch()
        if self.moment == "before receive":
            go_on(self.victim)
        if self.moment == "sending":
            go_on(self.dispatcher)

    def runs(self, what: str) -> list[int]:
        return traps.notes(self.room, what)


def pool_for(moment: str, *, thread: bool = False) -> Daemons:
    """Start a pool of one daemon that can come to this moment."""
    url = "tcp://127.0.0.1:0" if moment == "sending" else None
    limit = 1 if moment == "exiting" else None
    return daemons(1, url, max_tasks=limit, dispatcher=not thread)


def check_pool_is_whole(scene: Scene, outcome: str) -> None:
    """There is one daemon, the same as before or another, and it works."""
    wait_until(lambda: [each.state for each in status().daemons] == ["idle"])
    same = status().daemons[0].pid == scene.victim
    assert same == (outcome == "stays" or outcome in ERRORS)
    assert mirai(abs, -1).result(timeout=PATIENCE) == 1


def check_runs(scene: Scene, outcome: str, attempts: int = 1) -> None:
    """Nothing has run more often than it may, and what could run has."""
    for name in BEHIND:
        assert len(scene.runs(name)) == 1
    visited = set(scene.runs("struck") + scene.runs("here"))
    assert len(visited) == attempts
    assert outcome == "yields" or (scene.victim in visited) == (outcome != "moves")
    never_called = scene.moment == "unpickling" and outcome not in ("stays", "leaves")
    assert len(scene.runs("struck")) == (attempts - 1 if never_called else attempts)


def check_crash(error: BaseException | None, scene: Scene, attempt: int = 1) -> None:
    assert isinstance(error, DaemonCrashed)
    assert (error.exit_code, error.signal) == CAUSES[scene.way]
    assert error.attempt == attempt
    if attempt == 1:
        assert error.pid == scene.victim


def check_answer(scene: Scene, outcome: str) -> None:
    error = scene.task.exception(timeout=PATIENCE)
    if outcome == "crashed":
        check_crash(error, scene)
    elif outcome in ERRORS:
        assert type(error) is ERRORS[outcome]
        assert type(error) is MemoryError or scene.way in told(error)
    else:
        assert error is None


def told(error: BaseException | None) -> str:
    """Return what an error and its cause say, with the names that the ways have."""
    text = f"{error} {error and error.__cause__}"
    for name, way in (("Unpicklable", "unpicklable"), ("Rude", "BaseException")):
        text = text.replace(name, way)
    return text.replace("MemoryError", "MemoryError, for want of the last byte")


@pytest.mark.parametrize("cell", cells(DAEMON))
def test_a_daemon_is_struck(cell: Cell, tmp_path: Path) -> None:
    with pool_for(cell.moment) as pool:
        scene = Scene(pool, tmp_path, cell.moment, cell.way)
        scene.begin()
        if cell.way not in traps.INSIDE or cell.moment == "before receive":
            strike(scene.victim, cell.way)
        scene.go()
        if cell.moment == "idle":
            scene.submit_behind()
        check_answer(scene, cell.outcome)
        for task, name in zip(scene.behind, BEHIND, strict=True):
            assert task.result(timeout=PATIENCE) == name
        check_pool_is_whole(scene, cell.outcome)
    check_runs(scene, cell.outcome)
