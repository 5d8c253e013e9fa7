"""Daemons by a real sshd on loopback, which the script of ``tests/infra`` starts."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import wait_until
from orders import ENV, connected, launched, order_of, reaches, remote_pool, secrets_of

from mirai import mirai
from mirai._errors import LaunchError
from mirai.launchers import Handle, Phase, SSHLauncher
from mirai.launchers import ssh as module

pytestmark = pytest.mark.servers


@pytest.fixture
def nodes(sshd: Path, mark: str) -> SSHLauncher:
    return SSHLauncher(
        hosts=["node1", "node2", "node3"],
        config_file=str(sshd),
        python=sys.executable,
        env={**ENV, "MIRAI_TEST_MARK": mark},
    )


def client_of(launcher: SSHLauncher, handle: Handle) -> int:
    """Return the number of the process of a connection."""
    return int(launcher.poll([handle])[handle].detail.removeprefix("process "))


@pytest.mark.parametrize("tunnel", [False, True], ids=["direct", "tunnel"])
def test_daemons_on_several_hosts(nodes: SSHLauncher, tmp_path: Path, tunnel: bool) -> None:
    launcher = replace(nodes, tunnel=tunnel, prologue=["cat; echo noise"], cwd=str(tmp_path))
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 4)
        with launched(launcher, order) as handles:
            arguments = [
                Path(f"/proc/{client_of(launcher, h)}/cmdline").read_text() for h in handles
            ]
            assert [text.split("\0--\0")[1].split("\0")[0] for text in arguments] == [
                "node1", "node2", "node3", "node1",
            ]  # fmt: skip
            assert not any(secret in "".join(arguments) for secret in secrets_of(order))
            pool.wait(4, 40)
            assert mirai(os.getenv, "MIRAI_JOB").result(10) in [handle.id for handle in handles]
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
            launcher.terminate(handles[:1])
            wait_until(lambda: connected(pool) == 3)
        wait_until(lambda: connected(pool) == 0)
        assert {state.phase for state in launcher.poll(handles).values()} == {Phase.CANCELLED}


def test_a_killed_client_leaves_nothing_there(nodes: SSHLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool, launched(nodes, order_of(pool, tmp_path)) as [handle]:
        pool.wait(1, 30)
        task = mirai(time.sleep, 600)
        wait_until(lambda: pool.status().executing == 1)
        os.kill(client_of(nodes, handle), signal.SIGKILL)
        state = reaches(nodes, handle, lambda state: state.phase.is_over)
        assert (state.phase, state.exit) == (Phase.FAILED, -9)
        task.cancel()
        wait_until(lambda: connected(pool) == 0)  # and the fixtures look for processes


def test_many_at_a_host_log_in_a_few_at_a_time(
    nodes: SSHLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AT_ONCE", 1)
    launcher = replace(nodes, hosts="node1")
    with remote_pool() as pool, launched(launcher, order_of(pool, tmp_path, 3)):
        pool.wait(3, 40)


def test_a_host_that_is_not_there(nodes: SSHLauncher, tmp_path: Path) -> None:
    launcher = replace(nodes, hosts=["node1", "nobody@127.0.0.1:1"])
    with remote_pool() as pool:
        with pytest.raises(LaunchError, match=r"^nobody@127.0.0.1:1 has not.*onnection refused"):
            launcher.launch(order_of(pool, tmp_path, 2))
        wait_until(lambda: connected(pool) == 0)


def test_a_login_that_is_refused(nodes: SSHLauncher, tmp_path: Path) -> None:
    launcher = replace(nodes, options=("-o", "PubkeyAuthentication=no"))
    with remote_pool() as pool:
        order = order_of(pool, tmp_path)
        with pytest.raises(
            LaunchError, match=r"^node1.*exit code 255.*Permission denied"
        ) as caught:
            launcher.launch(order)
    assert not any(secret in str(caught.value) for secret in secrets_of(order))


def test_a_server_that_is_silent(nodes: SSHLauncher, tmp_path: Path) -> None:
    launcher = replace(nodes, options=("-o", "ProxyCommand=sleep 600"), timeout=0.2)
    with remote_pool() as pool, pytest.raises(LaunchError, match=r"^node1 has not let us in"):
        launcher.launch(order_of(pool, tmp_path))


def test_no_python_there(nodes: SSHLauncher, tmp_path: Path) -> None:
    launcher = replace(nodes, python="no-such-python")
    with remote_pool() as pool, pytest.raises(LaunchError, match="there is no no-such-python here"):
        launcher.launch(order_of(pool, tmp_path))


def test_no_ssh_here(nodes: SSHLauncher, tmp_path: Path) -> None:
    launcher = replace(nodes, ssh="no-such-ssh")
    with remote_pool() as pool, pytest.raises(LaunchError, match="`no-such-ssh` cannot be run"):
        launcher.launch(order_of(pool, tmp_path))


def test_a_port_that_is_taken_there(
    nodes: SSHLauncher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with remote_pool() as pool:
        taken = int(pool.url.rpartition(":")[2])
        draws = iter([taken, taken, *range(23_500, 23_600)])
        monkeypatch.setattr(module.random, "randint", lambda *_: next(draws))
        launcher = replace(nodes, tunnel=True)
        with launched(launcher, order_of(pool, tmp_path)):
            pool.wait(1, 30)
        monkeypatch.setattr(module.random, "randint", lambda *_: taken)
        with pytest.raises(LaunchError, match=r"no port for a tunnel: .*forwarding failed"):
            launcher.launch(order_of(pool, tmp_path))


def test_a_daemon_that_dies_there(nodes: SSHLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = replace(order_of(pool, tmp_path), keys='{"mirai": 1}')
        with launched(nodes, order) as [handle]:
            state = reaches(nodes, handle, lambda state: state.phase.is_over)
            assert (state.phase, state.exit) == (Phase.FAILED, 1)
            assert nodes.log(handle)
