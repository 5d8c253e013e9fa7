"""Real servers of this machine's own, one of each for all tests of a process.

What starts and stops them are the scripts in ``tests/infra``; they install what is missing, as
root on Debian.  Where a server cannot be had, the tests that want it are skipped, and say why.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from mirai import Daemons, daemons
from mirai.launchers import Handle, Launcher, Order, Phase, State

INFRA = Path(__file__).parents[1] / "infra"
SEARCHED = f"{Path(__file__).parents[2]}:{Path(__file__).parent}"
"""Where a job's Python finds mirai, and the functions of the tests."""
MARK = "MIRAI_TEST_MARK"
NEEDED = "MIRAI_TEST_SERVERS"
"""A variable of the environment: the servers without which tests fail instead of being skipped."""
PATIENCE = 300
"""Seconds that a server may take to start where it must be installed first."""


class Absent(Exception):
    """A server cannot be had here; it says why."""


@contextmanager
def server(name: str, state: Path) -> Iterator[Path]:
    """Run the server of this name; yield the directory of its state.  Raises Absent."""
    # It lives longer than the test that needs it first.
    environment = {key: value for key, value in os.environ.items() if key != MARK}
    start = subprocess.run(
        [INFRA / f"start-{name}.sh", state],
        env=environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    try:
        if start.returncode:
            raise Absent(f"{name} cannot be had here: {start.stderr.strip()[-500:]}")
        yield state
    finally:
        subprocess.run([INFRA / f"stop-{name}.sh", state], env=environment, timeout=60, check=True)


def variables(file: Path) -> dict[str, str]:
    """Return what a file of ``export NAME=value`` lines says."""
    words = shlex.split(file.read_text())
    return dict(word.split("=", 1) for word in words if word != "export")


def _running(name: str, factory: pytest.TempPathFactory) -> Iterator[Path]:
    try:
        with server(name, factory.mktemp(name)) as state:
            yield state
    except Absent as error:
        if name in os.environ.get(NEEDED, "").split():
            pytest.fail(str(error))
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def slurm_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a Slurm of three nodes; return the directory of its state."""
    yield from _running("slurm", tmp_path_factory)


@pytest.fixture(scope="session")
def sge_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a Grid Engine with a queue of three slots; return the directory of its state."""
    yield from _running("sge", tmp_path_factory)


@pytest.fixture(scope="session")
def sshd_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run an SSH server that is three hosts; return the directory of its state."""
    yield from _running("sshd", tmp_path_factory)


@pytest.fixture(scope="session")
def redis_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a Redis that keeps nothing on disk; return the directory of its state."""
    yield from _running("redis", tmp_path_factory)


@pytest.fixture(scope="session")
def redis_cluster_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a Redis cluster of six nodes; return the directory of its state."""
    yield from _running("redis-cluster", tmp_path_factory)


@pytest.fixture
def slurm(slurm_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have Slurm's programs find the tests' own server; return the directory of its state."""
    for name, value in variables(slurm_state / "env.sh").items():
        monkeypatch.setenv(name, value)
    return slurm_state


@pytest.fixture
def sge(sge_state: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have Grid Engine's programs find the tests' own server; return its state's directory."""
    for name, value in variables(sge_state / "env.sh").items():
        monkeypatch.setenv(name, value)
    return sge_state


@pytest.fixture
def sshd(sshd_state: Path) -> Path:
    """Return the configuration by which ssh finds hosts node1, node2 and node3."""
    return sshd_state / "ssh_config"


@pytest.fixture
def launch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Keep what launches leave lying in a home of the test's own, and see that nothing is left."""
    monkeypatch.setenv("HOME", str(tmp_path))
    yield tmp_path / ".mirai"
    daemons(0)
    assert not list((tmp_path / ".mirai").glob("*"))


@dataclass
class Site:
    """A pool that listens, and a place for one launch's files."""

    pool: Daemons
    directory: Path

    def order(self, count: int, name: str) -> Order:
        """Return an order for so many daemons of the pool."""
        keys = self.directory / "keys.json"
        if not keys.exists():
            self.pool.connection_file(keys, role="daemon")
        return Order(count, name, keys.read_text(), str(self.directory), str(keys))


def prologue() -> list[str]:
    """Return lines by which jobs that have no environment of ours find us, and are found."""
    return [
        f"export PYTHONPATH={shlex.quote(SEARCHED)}",
        f"export {MARK}={shlex.quote(os.environ[MARK])}",
    ]


def ask(*argv: str) -> str:
    """Return what a scheduler's own program prints."""
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def queue() -> list[str]:
    """Return the ids of Slurm's jobs that wait or run."""
    return ask("squeue", "--noheader", "--array", "--format=%i").split()


def state_of(launcher: Launcher, handle: Handle) -> State:
    """Return how one job stands."""
    return launcher.poll([handle])[handle]


def phase_of(launcher: Launcher, handle: Handle) -> Phase:
    """Return in which phase one job is."""
    return state_of(launcher, handle).phase
