"""Every test here runs real processes, and must leave nothing behind."""

from __future__ import annotations

import contextlib
import gc
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType

import pytest
import zmq
from clusters import (  # noqa: F401 (fixtures)
    launch_home,
    redis_cluster_state,
    redis_state,
    sge,
    sge_state,
    slurm,
    slurm_state,
    sshd,
    sshd_state,
)

from dispatcher import log

MARK = "MIRAI_TEST_MARK"
OURS = f"{os.getpid()}-"
"""What the marks begin with of all that this process starts."""
ROOT = Path(__file__).parents[2]


def wait_until(condition: Callable[[], object], timeout: float = 15.0) -> None:
    """Wait for something that no future, pipe or event tells of, such as another's process."""
    until = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < until, "it has not happened in time"
        time.sleep(0.002)


def processes_marked(mark: str) -> list[str]:
    """Return the processes that have inherited ``mark`` in their environment, besides this one.

    The beginning of a mark does for all that begin so.
    """
    wanted = f"{MARK}={mark}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes()
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")[:80]
        except OSError:
            continue
        marked = any(variable.startswith(wanted) for variable in environment.split(b"\0"))
        if marked and state != "Z":
            found.append(f"{entry.name} {state} {command.decode(errors='replace')}")
    return found


def zombies() -> list[str]:
    """Return the children of this process that have ended and were not waited for."""
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone meanwhile
            for pid in path.read_text().split():
                if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                    found.append(pid)
    return found


def _orphaned_sockets() -> list[str]:
    """Return the addresses of ours that outlive the dispatcher whose number they bear."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    names = [line.split()[-1] for line in lines if "@mirai-" in line]
    return [name for name in names if not Path("/proc", name.split("-")[1]).exists()]


def _orphaned_directories() -> set[str]:
    """Return our temporary files and directories, but those of a dispatcher that is at work."""
    names = {name for name in os.listdir(tempfile.gettempdir()) if "mirai" in name}
    owners = {name: re.match(r"mirai-(\d+)-", name) for name in names}
    return {name for name, pid in owners.items() if not pid or not Path("/proc", pid[1]).exists()}


def _shared_memory() -> set[str]:
    """Return the names of shared memory: ours has none, and so it stays."""
    here = Path("/dev/shm")
    return (
        {path.name for path in here.iterdir() if "mirai" in path.name} if here.exists() else set()
    )


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def stacks() -> str:
    """Return what every thread of the processes with a mark of ours is doing just now."""
    lines = []
    for process in processes_marked(OURS):
        lines.append(process)
        spy = shutil.which("py-spy", path=os.path.dirname(sys.executable))
        if spy is not None:
            command = [spy, "dump", "--pid", process.split()[0]]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=10)
            except subprocess.TimeoutExpired:
                lines.append("it cannot be looked into")
            else:
                lines.append(done.stdout or done.stderr)
    return "\n".join(lines)


def _new_mark() -> str:
    return f"{OURS}{time.monotonic_ns()}"


@pytest.fixture(autouse=True, scope="session")
def random_device() -> None:
    """Have libsodium open it, as it does once, so that it is no leak of the first test."""
    zmq.curve_keypair()
    log._standard_error()


@pytest.fixture(autouse=True, scope="module")
def module_leaves_nothing() -> Iterator[None]:
    """Mark what is started for all tests of a module, and fail where a process of it is left."""
    with pytest.MonkeyPatch.context() as patch:
        value = _new_mark()
        patch.setenv(MARK, value)
        yield
    wait_until(lambda: not processes_marked(value), 10)


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> str:
    """Mark this process's future children, and return the mark."""
    value = _new_mark()
    monkeypatch.setenv(MARK, value)
    return value


@pytest.fixture(autouse=True)
def watchdog(request: pytest.FixtureRequest) -> Iterator[None]:
    """When the test's time is up, note where all its processes are, before they are ended."""
    fail = signal.getsignal(signal.SIGALRM)  # of pytest-timeout

    def bark(number: int, frame: FrameType | None) -> None:
        request.node.add_report_section("call", "processes", stacks())
        assert callable(fail)
        fail(number, frame)

    if callable(fail):
        signal.signal(signal.SIGALRM, bark)
    yield
    if signal.getsignal(signal.SIGALRM) is bark:
        signal.signal(signal.SIGALRM, fail)


@pytest.fixture(autouse=True)
def nothing_left(mark: str) -> Iterator[None]:
    """Fail the test that leaves anything behind.

    That is: a process, thread, socket, descriptor, shared memory, or a directory.
    """
    from mirai import _profiles, daemons

    at_work = len(_profiles._living)  # pools of the module, whose descriptors come and go
    threads, descriptors = set(threading.enumerate()), _descriptors()
    temporary, shared = _orphaned_directories(), _shared_memory()
    yield
    daemons(0)
    wait_until(lambda: not processes_marked(mark), 10)
    wait_until(lambda: not set(threading.enumerate()) - threads, 10)
    assert not zombies()
    wait_until(lambda: not _orphaned_sockets(), 10)
    if _descriptors() > descriptors:
        gc.collect()  # what a failed call held, say
    assert _descriptors() <= descriptors + at_work
    wait_until(lambda: not _orphaned_directories() - temporary, 10)
    assert not _shared_memory() - shared


@pytest.fixture(
    params=[1, pytest.param(0, marks=pytest.mark.thorough)],
    ids=["process", "thread"],
)
def dispatchers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a test with a dispatcher process and without; return how many of them a pool has."""
    from mirai import daemons

    monkeypatch.setitem(daemons.__kwdefaults__, "dispatcher", bool(request.param))
    count: int = request.param
    return count


def launch(
    argv: Sequence[str],
    directory: Path,
    mark: str,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | None = subprocess.PIPE,
    path: str = str(ROOT),
) -> subprocess.Popen[str]:
    """Start a program with this mark, in a session of its own, which finds us by ``path``."""
    return subprocess.Popen(
        argv,
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": path, MARK: mark},
        start_new_session=True,
    )


def end(running: Sequence[subprocess.Popen[str]]) -> None:
    """End programs, and wait until all that they wrote is read."""
    for process in running:
        process.kill()
        process.communicate()


Script = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def script(tmp_path: Path, mark: str) -> Iterator[Script]:
    """Start a Python program in a process and session of its own; end it after the test."""
    running: list[subprocess.Popen[str]] = []

    def start(source: str, *, as_file: bool = True) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", source]
        if as_file:
            path = tmp_path / f"program{len(running)}.py"
            path.write_text(source)
            argv = [sys.executable, str(path)]
        running.append(launch(argv, tmp_path, mark, stdin=subprocess.PIPE))
        return running[-1]

    yield start
    end(running)


Command = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def command(tmp_path: Path, mark: str) -> Iterator[Command]:
    """Start a command of mirai's as a user types it, in ``tmp_path``; end it after the test."""
    with _programs([sys.executable, "-m", "mirai"], tmp_path, mark) as start:
        yield start


ALERT = "from dispatcher import security as _; _.HEARTBEAT_MS, _.SILENCE_MS = 250, 1_500; "
"""Have a process notice within two seconds that others have fallen silent."""
BRISK = f"""
import sys
{ALERT}
from mirai import _comeback, _process
from mirai.__main__ import main
_process._BOOT = {ALERT!r} + _process._BOOT
_comeback.FIRST_DELAY = 0.05
sys.exit(main())
"""


@pytest.fixture
def brisk(tmp_path: Path, mark: str) -> Iterator[Command]:
    """Start a command as ``command`` does; it, and its daemons, notice silence soon."""
    with _programs([sys.executable, "-c", BRISK], tmp_path, mark) as start:
        yield start


@contextlib.contextmanager
def _programs(argv: list[str], directory: Path, mark: str) -> Iterator[Command]:
    running: list[subprocess.Popen[str]] = []

    def start(*arguments: object, inside: Sequence[str] = ()) -> subprocess.Popen[str]:
        """``inside``: the start of a command line that runs the rest of it somewhere."""
        running.append(launch([*inside, *argv, *map(str, arguments)], directory, mark))
        return running[-1]

    yield start
    end(running)


def listening(process: subprocess.Popen[str]) -> subprocess.Popen[str]:
    """Wait until a dispatcher that was started listens; return it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "listening at tcp://" in line, process.communicate()
    return process
