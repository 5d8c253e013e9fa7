"""Networks that fail between host, dispatcher and daemons: a proxy stands between them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import Command, listening, wait_until
from ledger import Ledger
from proxy import Proxy, Way

from dispatcher import security
from mirai import DaemonCrashed, Daemons, DispatcherLost, Mirai, connect, daemons, mirai, mirai_map
from mirai._connection import Connection

LARGE = 1_000_000
"""Bytes that take more than one segment, and no time."""

Strike = Callable[[Proxy], None]

FAULTS: dict[str, Strike] = {
    "cut": Proxy.cut,
    "reset": Proxy.reset,
    "refused": Proxy.refuse,
    "half-closed, to the dispatcher": lambda proxy: proxy.half_close(Way.IN),
    "half-closed, from the dispatcher": lambda proxy: proxy.half_close(Way.OUT),
    "black hole": Proxy.hold,
    "black hole, to the dispatcher": lambda proxy: proxy.hold(Way.IN),
    "black hole, from the dispatcher": lambda proxy: proxy.hold(Way.OUT),
}
"""What can befall a connection where the two that it joins are well."""
TELLING = ["reset", "half-closed, from the dispatcher", "black hole"]
"""Those of them that are tried each time."""

some_and_all = pytest.mark.parametrize(
    "names", [TELLING, pytest.param([*FAULTS], marks=pytest.mark.thorough)], ids=["some", "all"]
)


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


@pytest.fixture
def alert(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process notice silence as soon as those that ``brisk`` starts."""
    monkeypatch.setattr(security, "HEARTBEAT_MS", 250)
    monkeypatch.setattr(security, "SILENCE_MS", 1_500)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path)


def through(proxy: Proxy, pool_file: Path) -> Path:
    """Return a connection file that leads through the proxy."""
    path = pool_file.with_name("proxied.json")
    Connection.read(pool_file).at(proxy.url).write(path)
    return path


@pytest.fixture
def proxy(brisk: Command, pool_file: Path, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A proxy before a standing dispatcher; by parameter, with how many daemons of its own."""
    count = getattr(request, "param", 0)
    listening(brisk("dispatcher", "-n", count, "--connection-file", pool_file))
    with Proxy(Connection.read(pool_file).url) as proxy:
        yield proxy


@pytest.fixture
def proxied(proxy: Proxy, pool_file: Path) -> Path:
    return through(proxy, pool_file)


def one_daemon(pool: Daemons) -> tuple[int, int]:
    """Return the number and the process of the only daemon, once it is there."""
    pool.wait(1, timeout=30)
    (daemon,) = pool.status().daemons
    return daemon.id, daemon.pid


# ── daemons ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
@some_and_all
def test_a_daemon_comes_back_as_a_new_one_and_nothing_runs_twice(
    brisk: Command, proxy: Proxy, proxied: Path, pool_file: Path, ledger: Ledger, names: list[str]
) -> None:
    brisk("daemon", proxied)
    with connect(pool_file) as pool:
        for name in names:
            before = one_daemon(pool)
            running = mirai(ledger.task(f"{name}: runs", waits=True))
            ledger.wait_for(f"{name}: runs")
            waiting = mirai(ledger.task(f"{name}: waits"))
            FAULTS[name](proxy)
            error = running.exception(timeout=20)
            assert isinstance(error, DaemonCrashed), name
            assert "connection was lost" in str(error)
            assert not waiting.done()
            proxy.heal()
            assert waiting.result(timeout=30) == b""
            after = one_daemon(pool)
            assert after[0] != before[0] and after[1] != before[1]
            assert [ledger.runs(f"{name}: {it}") for it in ("runs", "waits")] == [1, 1]
            assert pool.status().executing == pool.status().awaiting == 0


class TestOnItsWay:
    """What was on its way to a daemon or from it when the connection failed."""

    @pytest.fixture
    def pool(self, brisk: Command, proxied: Path, pool_file: Path) -> Iterator[Daemons]:
        brisk("daemon", proxied)
        with connect(pool_file) as pool:
            pool.wait(1, timeout=30)
            yield pool

    def test_it_may_have_run_and_does_not_run_again(
        self, proxy: Proxy, pool: Daemons, ledger: Ledger
    ) -> None:
        """Unless its sender wants that."""
        for way, runs in {Way.OUT: 0, Way.IN: 1}.items():  # half a task, half an answer
            for retries in (0, 1):
                name = f"{way.name}, {retries}"
                one_daemon(pool)
                proxy.truncate(way, after=LARGE // 10)
                call = mirai.options(retries=retries)
                sent = call(ledger.task(name, size=LARGE), bytes(LARGE))
                if retries:
                    assert len(sent.result(timeout=30)) == LARGE
                else:
                    assert isinstance(sent.exception(timeout=20), DaemonCrashed)
                assert mirai(abs, -1).result(timeout=30) == 1
                assert ledger.runs(name) == runs + retries

    @pytest.mark.thorough
    @pytest.mark.usefixtures("pool")
    def test_an_answer_that_comes_too_late_is_dropped(self, proxy: Proxy, ledger: Ledger) -> None:
        proxy.hold(Way.IN)
        lost = mirai(ledger.task("lost"))
        kept = mirai.options(retries=1)(ledger.task("kept"))
        ledger.wait_for("lost")
        assert isinstance(lost.exception(timeout=20), DaemonCrashed)
        proxy.heal()
        assert kept.result(timeout=30) == b""
        assert [ledger.runs(name) for name in ("lost", "kept")] == [1, 1]
        assert isinstance(lost.exception(), DaemonCrashed)


# ── clients ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
@some_and_all
@pytest.mark.parametrize("proxy", [1], indirect=True)
@pytest.mark.usefixtures("alert")
def test_a_client_is_told_and_its_tasks_are_dropped(
    proxy: Proxy, proxied: Path, pool_file: Path, ledger: Ledger, names: list[str]
) -> None:
    with connect(pool_file, "other") as other:
        one_daemon(other)
        for name in names:
            with connect(proxied) as pool:
                ours: list[Mirai[bytes]] = [mirai(ledger.task(f"{name}: runs", waits=True))]
                ledger.wait_for(f"{name}: runs")
                ours.append(mirai(ledger.task(f"{name}: waits")))
                wait_until(lambda: other.status().awaiting == 1)
                theirs = other.submit(ledger.task(f"{name}: theirs"))
                FAULTS[name](proxy)
                for each in ours:
                    assert isinstance(each.exception(timeout=20), DispatcherLost), name
                assert theirs.result(timeout=20) == b""
                with pytest.raises(DispatcherLost):
                    pool.status()
            proxy.heal()
            with connect(proxied):
                assert mirai(abs, -1).result(timeout=20) == 1
            runs = [ledger.runs(f"{name}: {it}") for it in ("runs", "waits", "theirs")]
            assert runs == [1, 0, 1]
            assert ledger.runs(f"{name}: runs interrupted") == 1
        assert other.status().connections == 1


@pytest.mark.parametrize("proxy", [1], indirect=True)
def test_half_a_submission_is_none_and_neither_is_half_an_answer(
    proxy: Proxy, proxied: Path, pool_file: Path, ledger: Ledger
) -> None:
    with connect(pool_file, "other") as other:
        with connect(proxied):
            proxy.truncate(Way.IN, after=LARGE // 10)
            sent = mirai(ledger.task("half"), bytes(LARGE))
            assert isinstance(sent.exception(timeout=20), DispatcherLost)
        with connect(proxied):
            proxy.truncate(Way.OUT, after=LARGE // 10)
            sent = mirai(ledger.task("whole", size=LARGE))
            assert isinstance(sent.exception(timeout=20), DispatcherLost)
        assert other.submit(abs, (-1,)).result(timeout=20) == 1
        assert other.status().awaiting == 0
        assert [ledger.runs(name) for name in ("half", "whole")] == [0, 1]


# ── both ─────────────────────────────────────────────────────────────────────────────────


def test_a_slow_network_is_only_slow(brisk: Command, proxy: Proxy, proxied: Path) -> None:
    proxy.delay(0.02)
    brisk("daemon", proxied)
    with connect(proxied) as pool:
        before = one_daemon(pool)
        assert mirai_map(abs, range(-1_000, 0)).collect() == [*range(1_000, 0, -1)]
        assert len(mirai(bytes, LARGE // 5).result(timeout=20)) == LARGE // 5
        assert one_daemon(pool) == before


class TestSilence:
    def test_a_frozen_daemon_is_noticed_though_what_is_sent_blocks_all_signs_of_life(
        self, brisk: Command, pool_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """libzmq asks for a sign of life in the stream of data, where it would be stuck."""
        monkeypatch.setattr(security, "HEARTBEAT_MS", 3_600_000)
        monkeypatch.setattr(security, "SILENCE_MS", 500)
        with daemons(0, "tcp://127.0.0.1:0", dispatcher=False) as pool:
            pool.connection_file(pool_file)
            brisk("daemon", pool_file)
            _, pid = one_daemon(pool)
            os.kill(pid, signal.SIGSTOP)
            sent = mirai(len, bytes(30 * LARGE))
            assert isinstance(sent.exception(timeout=30), DaemonCrashed)
            os.kill(pid, signal.SIGCONT)
            assert mirai(abs, -1).result(timeout=30) == 1

    @pytest.mark.thorough
    @pytest.mark.parametrize("size", [0, 30 * LARGE])
    @pytest.mark.usefixtures("alert")
    def test_a_frozen_dispatcher_is_noticed_by_all(
        self, brisk: Command, pool_file: Path, ledger: Ledger, size: int
    ) -> None:
        """Also when it cannot take what is sent to it."""
        dispatcher = listening(brisk("dispatcher", "--connection-file", pool_file))
        brisk("daemon", pool_file)
        with connect(pool_file) as pool:
            before = one_daemon(pool)
            running = mirai(ledger.task("runs", waits=True))
            ledger.wait_for("runs")
            dispatcher.send_signal(signal.SIGSTOP)
            sent = mirai(ledger.task("sent"), bytes(size))
            for each in (running, sent):
                assert isinstance(each.exception(timeout=20), DispatcherLost)
            ledger.wait_for("runs interrupted")
            dispatcher.send_signal(signal.SIGCONT)
        with connect(pool_file) as pool:
            assert mirai(abs, -1).result(timeout=30) == 1
            wait_until(lambda: pool.status().connections == 1)
            assert one_daemon(pool) != before
        assert ledger.runs("runs") == 1

    @pytest.mark.thorough
    def test_all_sides_notice_a_black_hole_within_20_seconds(
        self, command: Command, pool_file: Path, ledger: Ledger
    ) -> None:
        """With the intervals that users have; each of them waits for the other alone."""
        listening(command("dispatcher", "--connection-file", pool_file))
        with Proxy(Connection.read(pool_file).url) as proxy, connect(pool_file, "other") as other:
            proxied = through(proxy, pool_file)
            supervisor = command("daemon", proxied)
            one_daemon(other)
            with connect(proxied):
                running = mirai(ledger.task("runs", waits=True))
                ledger.wait_for("runs")
                proxy.hold()
                begun = time.monotonic()
                assert isinstance(running.exception(timeout=20), DispatcherLost)
                wait_until(lambda: other.status().connections == 0, 20)
                left = 20 - (time.monotonic() - begun)
                wait_until(lambda: ledger.runs("runs interrupted") == 1, left)
            proxy.heal()
            assert other.submit(abs, (-1,)).result(timeout=40) == 1
            assert supervisor.poll() is None
