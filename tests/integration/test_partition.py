"""Hosts that cannot reach one another for a while."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Command, listening, wait_until
from hosts import Hosts, Unavailable
from ledger import Ledger

from dispatcher import security
from mirai import DaemonCrashed, DispatcherLost, connect, mirai

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    hosts = Hosts()
    try:
        hosts.up()
    except Unavailable as reason:
        pytest.skip(str(reason))
    yield hosts
    hosts.down()


@pytest.fixture
def pool_file(
    hosts: Hosts, brisk: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """Where a pool is whose dispatcher is on host a and whose daemon is on host b."""
    monkeypatch.setattr(security, "HEARTBEAT_MS", 250)
    monkeypatch.setattr(security, "SILENCE_MS", 1_500)
    path = tmp_path / "pool.json"
    url = f"tcp://{hosts.address['a']}:5555"
    listening(
        brisk("dispatcher", "--url", url, "--connection-file", path, inside=hosts.run_on("a"))
    )
    brisk("daemon", path, inside=hosts.run_on("b"))
    return path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def test_a_daemon_that_is_cut_off(hosts: Hosts, pool_file: Path, ledger: Ledger) -> None:
    with hosts.on("c"):
        pool = connect(pool_file)
    pool.wait(1, timeout=20)
    (before,) = pool.status().daemons
    running = mirai(ledger.task("runs", waits=True))
    ledger.wait_for("runs")
    waiting = mirai(ledger.task("waits"))
    hosts.cut("b")
    assert isinstance(running.exception(timeout=20), DaemonCrashed)
    ledger.wait_for("runs interrupted")  # the other side has noticed too
    assert pool.status().connections == 0
    assert not waiting.done()
    hosts.heal("b")
    assert waiting.result(timeout=40) == b""
    (after,) = pool.status().daemons
    assert after.id != before.id and after.pid != before.pid
    assert [ledger.runs("runs"), ledger.runs("waits")] == [1, 1]


def test_a_client_that_is_cut_off(hosts: Hosts, pool_file: Path, ledger: Ledger) -> None:
    with hosts.on("a"):
        other = connect(pool_file, "other")
    with hosts.on("c"):
        connect(pool_file)
    other.wait(1, timeout=20)
    ours = [mirai(ledger.task("runs", waits=True))]
    ledger.wait_for("runs")
    ours.append(mirai(ledger.task("waits")))
    wait_until(lambda: other.status().awaiting == 1)
    theirs = other.submit(ledger.task("theirs"))
    hosts.cut("c")
    assert theirs.result(timeout=20) == b""
    for each in ours:
        assert isinstance(each.exception(timeout=20), DispatcherLost)
    with hosts.on("c"), pytest.raises(DispatcherLost, match="answer"):
        connect(pool_file, timeout=0.2)
    hosts.heal("c")
    with hosts.on("c"), connect(pool_file):
        assert mirai(abs, -1).result(timeout=20) == 1
    assert [ledger.runs(name) for name in ("runs", "waits", "theirs")] == [1, 0, 1]
    assert ledger.runs("runs interrupted") == 1


def test_a_dispatcher_that_is_cut_off(hosts: Hosts, pool_file: Path, ledger: Ledger) -> None:
    """All lose it, and all come back."""
    with hosts.on("c"):
        pool = connect(pool_file)
    pool.wait(1, timeout=20)
    running = mirai(ledger.task("runs", waits=True))
    ledger.wait_for("runs")
    hosts.cut("a")
    assert isinstance(running.exception(timeout=20), DispatcherLost)
    ledger.wait_for("runs interrupted")
    hosts.heal("a")
    with hosts.on("c"), connect(pool_file) as pool:
        assert mirai(abs, -1).result(timeout=40) == 1
        assert pool.status().connections == 1
        assert pool.status().cumulative == 2
    assert ledger.runs("runs") == 1
