"""Pools whose daemons are jobs of a real Slurm, of a real Grid Engine, or come by a real sshd."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clusters import PATIENCE, SEARCHED, ask, prologue, queue
from conftest import Script, wait_until

from mirai import (
    DaemonCrashed,
    LaunchError,
    daemons,
    everywhere,
    host_url,
    mirai,
    mirai_map,
    status,
)
from mirai.launchers import SGELauncher, SlurmLauncher, SSHLauncher

pytestmark = [
    pytest.mark.servers,
    pytest.mark.timeout(PATIENCE + 60),
    pytest.mark.usefixtures("launch_home"),
]


@pytest.fixture
def on_slurm(slurm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run a test with an empty Slurm, and see that it is empty afterwards."""
    assert slurm.exists()
    monkeypatch.setenv("PYTHONPATH", SEARCHED)  # Slurm gives jobs our environment
    wait_until(lambda: not queue())
    yield
    daemons(0)
    wait_until(lambda: not queue())


def job() -> str:
    return os.environ["MIRAI_JOB"]


def node() -> str:
    return os.environ["SLURMD_NODENAME"]


def nap(begun: str) -> None:
    Path(begun).write_text(os.environ["MIRAI_JOB"])
    time.sleep(600)


def begins(begun: Path) -> str:
    """Wait until a nap has begun; return the job that it is in."""
    wait_until(lambda: begun.exists() and begun.read_text(), 60)
    return begun.read_text()


@pytest.mark.usefixtures("on_slurm")
class TestSlurm:
    def test_tasks_run_on_all_nodes_and_no_job_is_left(self) -> None:
        with daemons(3, url=host_url("127.0.0.1"), launcher=SlurmLauncher(cpus=4)) as pool:
            pool.wait(3, 60)
            assert set(everywhere(node).collect()) == {"n1", "n2", "n3"}
            assert mirai_map(abs, range(-100, 0)).collect() == list(range(100, 0, -1))
            assert {daemon.job for daemon in status().daemons} == {h.id for h in pool.launched()}
        wait_until(lambda: not queue())

    def test_a_job_that_is_cancelled_is_told_and_replaced(self, tmp_path: Path) -> None:
        with daemons(1, launcher=SlurmLauncher(), url="tcp://127.0.0.1:0") as pool:
            task = mirai(nap, str(tmp_path / "begun"))
            id = begins(tmp_path / "begun")
            ask("scancel", "--signal=KILL", "--full", id)
            with pytest.raises(DaemonCrashed, match=f"its job {id} has ended") as caught:
                task.result(60)
            assert caught.value.host and caught.value.pid
            assert mirai(abs, -1).result(60) == 1
            assert id not in {handle.id for handle in pool.launched()}

    def test_scancel_lets_a_task_that_can_end_in_time_end(self, tmp_path: Path) -> None:
        with daemons(1, launcher=SlurmLauncher(), url="tcp://127.0.0.1:0"):
            task = mirai(_short_nap, str(tmp_path / "begun"))
            ask("scancel", begins(tmp_path / "begun"))
            assert task.result(60) == "done"

    def test_the_end_of_its_time_is_told(self, tmp_path: Path) -> None:
        launcher = SlurmLauncher(walltime="1h")
        with daemons(1, launcher=launcher, url="tcp://127.0.0.1:0"):
            task = mirai(nap, str(tmp_path / "begun"))
            id = begins(tmp_path / "begun")
            ask("scontrol", "update", f"JobId={id}", "EndTime=now")
            with pytest.raises(DaemonCrashed, match=f"its job {id} has ended, timeout: TIMEOUT"):
                task.result(90)

    def test_a_refusal_is_an_error_at_once(self) -> None:
        with pytest.raises(LaunchError, match="invalid partition specified: nosuch"):
            daemons(2, launcher=SlurmLauncher(partition="nosuch"), url="tcp://127.0.0.1:0")
        assert queue() == []

    def test_one_that_never_starts_fails_its_tasks_with_slurms_reason(self) -> None:
        ask("scontrol", "update", "PartitionName=debug", "State=DOWN")
        try:
            daemons(2, launcher=SlurmLauncher(), url="tcp://127.0.0.1:0", patience=3)
            with pytest.raises(DaemonCrashed, match=r"pending: PENDING \(PartitionDown\)"):
                mirai(abs, -1).result(60)
            wait_until(lambda: not queue())
        finally:
            ask("scontrol", "update", "PartitionName=debug", "State=UP")

    def test_a_script_that_fails_is_told_with_its_last_lines(self) -> None:
        launcher = SlurmLauncher(prologue=["echo no module called python >&2", "exit 7"])
        daemons(1, launcher=launcher, url="tcp://127.0.0.1:0")
        with pytest.raises(DaemonCrashed, match="ended before it joined: failed") as caught:
            mirai(abs, -1).result(60)
        assert caught.value.output == "no module called python"

    def test_scale_down_and_up(self) -> None:
        with daemons(3, launcher=SlurmLauncher(), url="tcp://127.0.0.1:0") as pool:
            pool.wait(3, 60)
            pool.scale(1)
            wait_until(lambda: len(queue()) == 1, 30)
            assert mirai(abs, -1).result(30) == 1
            pool.scale(2)
            pool.wait(2, 60)
            assert len(queue()) == 2

    def test_the_end_of_the_host_leaves_no_job(self, script: Script) -> None:
        host = script(
            "import os, time\n"
            "from mirai import daemons\n"
            "from mirai.launchers import SlurmLauncher\n"
            "pool = daemons(2, launcher=SlurmLauncher(), url='tcp://127.0.0.1:0')\n"
            "pool.wait(2, 60)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        assert host.wait(90) == -signal.SIGKILL
        host.communicate()
        wait_until(lambda: not queue(), 60)
        _tidy()

    def test_ctrl_c_leaves_no_job(self, script: Script) -> None:
        host = script(
            "import time\n"
            "from mirai import daemons\n"
            "from mirai.launchers import SlurmLauncher\n"
            "with daemons(2, launcher=SlurmLauncher(), url='tcp://127.0.0.1:0'):\n"
            "    print('up', flush=True)\n"
            "    time.sleep(600)\n"
        )
        assert host.stdout is not None
        assert host.stdout.readline() == "up\n"
        host.send_signal(signal.SIGINT)
        host.communicate(timeout=60)
        wait_until(lambda: not queue())


class TestGridEngine:
    @pytest.mark.usefixtures("sge")
    def test_tasks_run_in_an_array_and_no_job_is_left(self) -> None:
        launcher = SGELauncher(prologue=prologue())
        with daemons(2, launcher=launcher, url="tcp://127.0.0.1:0") as pool:
            pool.wait(2, 60)
            jobs = set(everywhere(job).collect())
            assert jobs == {handle.id for handle in pool.launched()}
        wait_until(lambda: "mirai-" not in ask("qstat", "-xml"), 60)


class TestSSH:
    @pytest.mark.parametrize("tunnel", [False, True], ids=["direct", "tunnel"])
    def test_tasks_run_on_hosts(self, sshd: Path, tunnel: bool) -> None:
        launcher = SSHLauncher(
            ["node1", "node2", "node3"],
            tunnel=tunnel,
            config_file=str(sshd),
            python=sys.executable,
            env={"PYTHONPATH": SEARCHED},
        )
        with daemons(3, launcher=launcher, url="tcp://127.0.0.1:0") as pool:
            pool.wait(3, 60)
            assert mirai_map(abs, range(-50, 0)).collect() == list(range(50, 0, -1))
            assert len({daemon.pid for daemon in status().daemons}) == 3
            with pytest.raises(DaemonCrashed, match="the daemon died with exit code 3"):
                mirai(os._exit, 3).result(60)
            assert mirai(abs, -1).result(60) == 1

    def test_a_login_that_fails_is_an_error_at_once(self, sshd: Path) -> None:
        launcher = SSHLauncher(["nobody@node1"], config_file=str(sshd))
        with pytest.raises(LaunchError, match="Permission denied"):
            daemons(1, launcher=launcher, url="tcp://127.0.0.1:0")


def _short_nap(begun: str) -> str:
    Path(begun).write_text(os.environ["MIRAI_JOB"])
    time.sleep(1)
    return "done"


def _tidy() -> None:
    """Remove what a host has left behind that had no time to."""
    for left in (Path(os.environ["HOME"]) / ".mirai").glob("*"):
        for file in left.iterdir():
            file.unlink()
        left.rmdir()
