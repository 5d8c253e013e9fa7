"""Boards on a real Redis: the contract of stores, what users see, and what only a server does."""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from board_contract import StoreContract, drain, finish, keys_of, meanwhile, rows
from board_users import LONG, BoardUsers, double
from clusters import INFRA, PATIENCE, variables
from conftest import ROOT, Command, processes_marked, wait_until
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec import structs
from proxy import Proxy, Way

from dispatcher import table
from dispatcher.boards import End, Row, TaskState, Worker, WorkerState
from dispatcher.table import Refusal, Table
from mirai._errors import BoardError, NotRunning, StoreError
from mirai.queues import Board
from mirai.queues.boards import _redis_store
from mirai.queues.boards._places import PASSWORD
from mirai.queues.boards._redis_store import RedisStore

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE + 60)]


@pytest.fixture
def url(redis_state: Path) -> str:
    return variables(redis_state / "env.sh")["REDIS_URL"]


@pytest.fixture
def password(redis_state: Path) -> str:
    return variables(redis_state / "env.sh")["REDISCLI_AUTH"]


@contextmanager
def opened(url: str, **options: float) -> Iterator[RedisStore]:
    """Have a connection to the board of the contract."""
    store = RedisStore(url, "contract", **options)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


@pytest.fixture
def store(url: str) -> Iterator[RedisStore]:
    with opened(url) as store:
        store.reset()
        yield store


@pytest.fixture
def other(url: str) -> Iterator[RedisStore]:
    with opened(url) as store:
        yield store


class TestContract(StoreContract):
    pass


class TestUsers(BoardUsers):
    pass


# ── the same as elsewhere ────────────────────────────────────────────────────────────────

WORKERS = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from([str(number) for number in range(12)])


class Twins(RuleBasedStateMachine):
    """Whatever is done to a board on Redis and to a dispatcher's table, they agree."""

    store: RedisStore

    def __init__(self) -> None:
        super().__init__()
        self.store.reset()
        self.table = Table()
        self.now = 0.0

    def both(self, there: Callable[[], Any], here: Callable[[float], Any]) -> Any:
        """Do the same to both, and return what has come of it, also if that is a refusal."""
        self.now += 1.0
        try:
            found = there()
        except NotRunning:
            found = "not running"
        except BoardError:
            found = "refused"
        try:
            expected = here(self.now)
        except table.NotRunning:
            expected = "not running"
        except Refusal:
            expected = "refused"
        return found, expected

    @rule(worker=WORKERS)
    def enter(self, worker: str) -> None:
        there, here = self.both(
            lambda: self.store.enter(Worker(worker)),
            lambda now: self.table.enter(Worker(worker), now),
        )
        assert there == here

    @rule(
        keys=st.lists(KEYS, max_size=4),
        worker=st.one_of(st.just(""), WORKERS),
        priority=st.integers(-1, 1),
    )
    def push(self, keys: list[str], worker: str, priority: int) -> None:
        some = rows(*keys, worker=worker, priority=priority)
        there, here = self.both(
            lambda: self.store.push(some), lambda now: self.table.push(some, now)
        )
        assert there == here

    @rule(worker=WORKERS, key=KEYS)
    def create(self, worker: str, key: str) -> None:
        some = rows(key, priority=1)
        there, here = self.both(
            lambda: self.store.create(worker, some),
            lambda now: self.table.create(worker, some, now),
        )
        assert there == here

    @rule(worker=WORKERS)
    def pop(self, worker: str) -> None:
        there, here = self.both(
            lambda: self.store.pop(worker), lambda now: self.table.pop(worker, now)
        )
        assert _known(there) == _known(here)

    @rule(
        worker=WORKERS,
        keys=st.lists(KEYS, max_size=3),
        state=st.sampled_from([TaskState.FINISHED, TaskState.FAILED]),
    )
    def end(self, worker: str, keys: list[str], state: TaskState) -> None:
        ends = [End(key, state, b"ys", "why") for key in keys]
        there, here = self.both(
            lambda: self.store.end(worker, ends), lambda now: self.table.end(worker, ends, now)
        )
        assert there == list(here)

    @rule(keys=st.one_of(st.none(), st.lists(KEYS, max_size=3)))
    def withdraw(self, keys: list[str] | None) -> None:
        there, here = self.both(
            lambda: self.store.withdraw(keys, "out"),
            lambda now: self.table.withdraw(keys, "out", now),
        )
        assert there == here

    @rule(worker=WORKERS, most=st.integers(0, 2))
    def leave(self, worker: str, most: int) -> None:
        there, here = self.both(
            lambda: self.store.leave(worker, WorkerState.KILLED, "gone", most=most),
            lambda now: self.table.leave(worker, WorkerState.KILLED, "gone", most, now),
        )
        assert there == here

    @rule(workers=st.one_of(st.none(), st.lists(WORKERS, max_size=2)))
    def ask_to_leave(self, workers: list[str] | None) -> None:
        self.store.ask_to_leave(workers)
        self.table.ask_to_leave(workers)

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        there, here = self.both(
            lambda: self.store.beat(worker), lambda now: self.table.beat(worker, now)
        )
        assert there == here

    @invariant()
    def agree(self) -> None:
        states = list(TaskState)
        keys = self.store.keys(states)
        assert keys == list(self.table.keys(states))
        for there, here in zip(self.store.rows(keys), self.table.rows(keys, 2**30), strict=True):
            assert _known(there) == _known(here)
        assert self.store.ended(0, 99)[0] == list(self.table.ended(0, 99)[0])
        there, here = self.store.tally(), self.table.tally()
        assert structs.replace(there, changes=0) == structs.replace(here, changes=0)
        found = [(each.id, each.state) for each in self.store.workers()]
        assert found == [(each.id, each.state) for each in self.table.workers()]


def _known(row: Any) -> Any:
    """Return what two boards know alike of a task: all but the times."""
    if not isinstance(row, Row):
        return row
    return structs.replace(row, pushed=0.0, started=0.0, ended=0.0)


def test_it_agrees_with_the_dispatcher(store: RedisStore) -> None:
    machine = type("Twins", (Twins,), {"store": store})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=40, stateful_step_count=40, deadline=None)
    )


# ── connections that break ───────────────────────────────────────────────────────────────


@pytest.fixture
def proxy(url: str) -> Iterator[Proxy]:
    with Proxy(f"tcp://{url.rpartition('@')[2].partition('/')[0]}") as proxy:
        yield proxy


@pytest.fixture
def shaky(url: str, proxy: Proxy, store: RedisStore) -> Iterator[RedisStore]:
    """A connection to the board whose next answer is lost, once ``lose`` says so."""
    assert store is not None  # the board is empty
    login = url.partition("://")[2].rpartition("@")[0]
    through = f"redis://{login}@{proxy.url.removeprefix('tcp://')}/0"
    with opened(through) as shaky:
        shaky.tally()
        yield shaky


def lose(proxy: Proxy) -> None:
    """Have the connections cut by the next answer, of which nothing arrives."""
    proxy.truncate(Way.OUT, 0)


def test_a_pop_whose_answer_is_lost_is_answered_again(
    store: RedisStore, shaky: RedisStore, proxy: Proxy
) -> None:
    store.enter(Worker("a"))
    store.push(rows("1", "2"))
    assert keys_of([shaky.pop("a")]) == ["1"]
    lose(proxy)
    assert keys_of([shaky.pop("a")]) == ["2"]
    assert proxy.accepted == 2
    assert store.tally().running == 2


def test_calls_whose_answers_are_lost_are_not_refused(
    store: RedisStore, shaky: RedisStore, proxy: Proxy
) -> None:
    lose(proxy)
    shaky.enter(Worker("a", "here", 1))
    lose(proxy)
    shaky.push(rows("1", "2"))
    assert drain(store, "a") == ["1", "2"]
    lose(proxy)
    assert shaky.end("a", finish("1", "2", "unknown")) == [True, True, False]
    assert shaky.end("a", finish("1")) == [False]
    lose(proxy)
    shaky.create("a", rows("3"))
    assert proxy.accepted == 5
    tally = store.tally()
    assert (tally.queued, tally.running, tally.finished, tally.workers) == (0, 1, 2, 1)


def test_what_is_there_is_refused_also_the_second_time(
    store: RedisStore, shaky: RedisStore, proxy: Proxy
) -> None:
    store.enter(Worker("a", "here", 1))
    store.push([Row("1", b"another")])
    lose(proxy)
    with pytest.raises(BoardError):
        shaky.push(rows("1"))
    lose(proxy)
    with pytest.raises(BoardError):
        shaky.enter(Worker("a", "there", 1))


def test_who_waits_is_called_back(store: RedisStore, shaky: RedisStore, proxy: Proxy) -> None:
    store.enter(Worker("a"))
    found: list[Row | None] = []
    changes = store.tally().changes
    threads = [
        threading.Thread(target=lambda: found.append(shaky.pop("a", LONG))),
        threading.Thread(target=lambda: shaky.wait(changes, LONG)),
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: proxy.connections >= 2)
    proxy.reset()
    store.push(rows("1"))
    for thread in threads:
        thread.join(LONG)
        assert not thread.is_alive()
    assert keys_of(found) == ["1"]


def test_nobody_is_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        with pytest.raises(StoreError, match="refused"):
            Board(f"redis://127.0.0.1:{port}")  # at once
        url = f"redis://:{secrets.token_hex(8)}@127.0.0.1:{port}"
        with (
            opened(url, patience=0.3, shown="redis://there") as store,
            pytest.raises(StoreError, match=r"^redis://there: .*refused") as raised,
        ):
            store.tally()
    assert url[9:20] not in str(raised.value)


def test_a_server_that_is_busy_is_called_again(
    store: RedisStore, other: RedisStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody's script takes more than a few seconds; here it takes as long as we like."""
    caplog.set_level(logging.INFO)
    client = other._client
    (before,) = client.config_get("lua-time-limit").values()
    client.config_set("lua-time-limit", 1)
    try:
        with meanwhile(lambda: raises_killed(client)):
            wait_until(lambda: is_busy(client))
            with meanwhile(lambda: store.push(rows("1"))), meanwhile(lambda: store.rows(["1"])):
                try:
                    wait_until(lambda: caplog.text.count("is busy") >= 2)
                finally:
                    client.script_kill()
    finally:
        client.config_set("lua-time-limit", before)
    assert store.keys([TaskState.QUEUED]) == ["1"]


def raises_killed(client: Any) -> None:
    """Run a script until it is killed."""
    with pytest.raises(redis.exceptions.ResponseError, match="killed"):
        client.eval("while true do end", 0)


def is_busy(client: Any) -> bool:
    """Whether the server refuses calls since it is at a script."""
    try:
        return not client.ping()
    except redis.exceptions.ResponseError as error:
        return str(error).startswith("BUSY")


def test_many_are_withdrawn_little_by_little(
    store: RedisStore, other: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that others are answered meanwhile; what they push then is not withdrawn."""
    monkeypatch.setattr(_redis_store, "SLICE", 2)
    run = store._run

    def run_and_push(script: str, *told: object) -> Any:
        answer = run(script, *told)
        other.push(rows(f"later {other.tally().changes}"))
        return answer

    keys = [str(n) for n in range(12)]
    store.push(rows(*keys))
    changes = store.tally().changes
    assert store.withdraw([*keys[:5], "1"], "why") == 5
    assert store.tally().changes == changes + 3
    with monkeypatch.context() as patch:
        patch.setattr(store, "_run", run_and_push)
        assert store.withdraw(None, "why") == 7
    assert store.ended(0, 20)[0] == keys
    assert len(store.keys([TaskState.QUEUED])) == 4


# ── processes that are killed ────────────────────────────────────────────────────────────

GREEDY = """
import sys
from dispatcher.boards import End, TaskState, Worker
from mirai.queues.boards._redis_store import RedisStore
store = RedisStore(sys.stdin.readline().strip(), "contract")
store.enter(Worker(sys.argv[1], "", 0))
print("here", flush=True)
while True:
    row = store.pop(sys.argv[1], 1.0)
    if row is not None:
        store.end(sys.argv[1], [End(row.key, TaskState.FINISHED, row.xs)])
"""


def test_kills_between_pop_and_end_lose_nothing(store: RedisStore, url: str) -> None:
    """Whenever a worker is killed, each task is in one state, and what it had is known."""
    keys = [str(n) for n in range(20_000)]
    store.push(rows(*keys))
    for n in range(4):
        worker = subprocess.Popen(
            [sys.executable, "-c", GREEDY, f"w{n}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
        )
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(url + "\n")
        worker.stdin.flush()
        assert worker.stdout.readline() == "here\n"
        ended = store.tally().finished
        wait_until(lambda ended=ended: store.tally().finished > ended + 20)
        worker.kill()
        worker.communicate()
        tally = store.tally()
        assert tally.running <= 1
        assert tally.queued + tally.running + tally.finished + tally.lost == len(keys)
        assert store.leave(f"w{n}", WorkerState.LOST)
        assert store.tally().running == 0
    assert sorted(store.keys(list(TaskState)), key=int) == keys
    assert len(store.ended(0, len(keys))[0]) == store.tally().finished + store.tally().lost


# ── servers of a test's own ──────────────────────────────────────────────────────────────


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[bool], str]]:
    """Start a Redis, which keeps what it has on disk or not; stop it; return its URL."""
    state = tmp_path / "redis"

    def start(persist: bool) -> str:
        environment = os.environ | {"PERSIST": str(int(persist))}
        argv = [INFRA / "start-redis.sh", state]
        subprocess.run(argv, env=environment, check=True, capture_output=True)
        return variables(state / "env.sh")["REDIS_URL"]

    yield start
    stop(state)


def stop(state: Path) -> None:
    """Stop a Redis."""
    subprocess.run([INFRA / "stop-redis.sh", state], check=True, capture_output=True)


def slow(x: int) -> int:
    """Take some time."""
    import time

    time.sleep(0.01)
    return x


def test_a_server_that_keeps_everything_is_started_again(
    start: Callable[[bool], str], tmp_path: Path
) -> None:
    with Board(start(True), "durable") as board:
        board.start_workers(slow, 2)
        keys = board.push([{"x": x} for x in range(200)])
        wait_until(lambda: board.tally().finished > 10)
        stop(tmp_path / "redis")
        start(True)
        assert board.wait(keys, LONG)
        assert sorted(row.ys["y"] for row in board.fetch_new()) == list(range(200))
        assert board.tally().workers == 2
        assert [row.tries for row in board.rows()] == [1] * 200


def test_nobody_is_lost_because_the_server_was_away(
    start: Callable[[bool], str], tmp_path: Path
) -> None:
    with opened(start(True)) as store:
        store.enter(Worker("a", patience=3_600))
        store._client.zadd(f"{store._prefix}heard", {"a": 1.0})  # it was long ago
        stop(tmp_path / "redis")
        start(True)
        assert store.find_lost() == []
        assert store.beat("a")


def test_a_server_that_keeps_nothing_is_started_again(
    start: Callable[[bool], str], tmp_path: Path
) -> None:
    with Board(start(False), "forgetful") as board:
        board.start_workers(slow, 2)
        assert board.wait_for_workers(2, LONG)
        keys = board.push([{"x": x} for x in range(2_000)])
        assert board.fetch_new(LONG)
        stop(tmp_path / "redis")
        start(False)
        with pytest.raises(BoardError, match="does not have a task"):
            board.wait(keys, LONG)
        wait_until(lambda: not board._coming())
        assert board.workers() == []
        board.start_workers(slow)
        (key,) = board.push({"x": 1})
        assert board.wait(key, LONG)
        assert [row.key for row in board.fetch_new()] == [key]


def test_who_waits_for_all_is_told_that_all_is_forgotten(start: Callable[[bool], str]) -> None:
    with Board(start(False), "flushed") as board:
        board.start_workers(slow)
        board.push([{"x": x} for x in range(2_000)])
        stream = board.stream()
        assert next(stream).ok
        board._store._client.flushall()  # type: ignore[attr-defined]
        with pytest.raises(BoardError, match="the board was forgotten"):
            list(stream)


def test_what_ends_after_a_server_has_forgotten_some_is_told(
    start: Callable[[bool], str], tmp_path: Path
) -> None:
    with opened(start(False)) as store:
        store.enter(Worker("a"))
        store.create("a", rows("1", "2", "3", "4"))
        store.end("a", finish("1"))
        store._client.save()
        store.end("a", finish("2", "3"))
        keys, position = store.ended(0, 10)
        assert keys == ["1", "2", "3"]
        stop(tmp_path / "redis")
        start(False)
        assert store.keys([TaskState.FINISHED]) == ["1"]
        store.end("a", finish("4", "2"))
        assert store.ended(position, 10)[0] == ["4", "2"]


def answers(port: int) -> bool:
    """Whether somebody listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_tls(tmp_path: Path, redis_state: Path) -> None:
    assert redis_state  # the program is there
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = {name: str(tmp_path / name) for name in ("key", "cert")}
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1"]
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    paths = ["-keyout", files["key"], "-out", files["cert"]]
    subprocess.run([*request, *subject, *paths], check=True, capture_output=True)
    tls = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", "--save", ""]
    keys = ["--tls-cert-file", files["cert"], "--tls-key-file", files["key"]]
    argv = ["redis-server", *tls, *keys, "--dir", str(tmp_path)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port))
        url = f"rediss://127.0.0.1:{port}"
        with Board(f"{url}?ssl_ca_certs={files['cert']}") as board:
            board.start_workers(double)
            keys = board.push({"x": 1})
            assert board.wait(keys, LONG)
        store = RedisStore(url, "untrusted", patience=0.0)
        with pytest.raises(StoreError, match="certificate"):
            store.tally()
        store.close()
    finally:
        server.terminate()
        server.wait()


def test_a_unix_socket(redis_state: Path) -> None:
    told = variables(redis_state / "env.sh")
    with Board(f"unix://:{told['REDISCLI_AUTH']}@{told['REDIS_SOCKET']}", "socket") as board:
        board.reset()
        board.push({"x": 1})
        assert repr(board) == f"<Board 'socket' at unix://{told['REDIS_SOCKET']}>"


# ── secrets ──────────────────────────────────────────────────────────────────────────────


def test_the_password_is_nowhere(
    url: str,
    password: str,
    mark: str,
    tmp_path: Path,
    command: Command,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    with Board(url, "secret") as board:
        board.reset()
        script = board.worker_script(tmp_path / "file", lambda x: x, log="debug")
        told = [repr(board), script, repr(board._place), str(board._place), repr(board._store)]
        board.start_workers(double, log="debug", heartbeat=0.05)
        by_hand = command("board", "worker", "file")
        assert board.wait_for_workers(2, LONG)
        keys = board.push([{"x": 1}, {"x": 13}])
        assert board.wait(keys, LONG)
        for entry in processes_marked(mark):
            pid = entry.split()[0]
            for name in ("cmdline", "environ"):
                told.append(Path("/proc", pid, name).read_bytes().decode(errors="replace"))
        told += [line for _, _, line in board.logs(last=10_000)]
        told += [repr(row) + row.condition for row in board.rows()]
        told += map(repr, board.workers())
        by_hand.send_signal(signal.SIGTERM)
        told += by_hand.communicate()
        board.save(tmp_path / "snapshot")
        told.append((tmp_path / "snapshot").read_bytes().decode(errors="replace"))
    told.append(caplog.text)
    assert password in (tmp_path / "file").read_text()
    assert not [text for text in told if password in text]


def test_a_wrong_password_is_said_at_once_and_not_told(url: str) -> None:
    wrong = f"redis://default:{'wrong' * 3}@{url.rpartition('@')[2]}"
    with pytest.raises(StoreError, match="invalid username-password") as raised:
        Board(wrong)
    assert "wrongwrong" not in repr(raised.value)


@pytest.mark.parametrize("more", ["", "?protocol=2"])
@pytest.mark.parametrize("user", ["", "default@"])
def test_no_password_where_one_is_wanted(url: str, user: str, more: str) -> None:
    with pytest.raises(StoreError, match="wants a password: give it in the URL, or as MIRAI_BO"):
        Board(f"redis://{user}{url.rpartition('@')[2]}{more}")


def test_the_password_from_the_environment(
    url: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD, password)
    with Board(f"redis://{url.rpartition('@')[2]}", "secret") as board:
        board.start_workers(double)
        keys = board.push({"x": 1})
        assert board.wait(keys, LONG)


def test_who_may_not_ask_for_a_cluster(url: str, store: RedisStore) -> None:
    """A board needs no right that a plain Redis has no use for."""
    login = f"limited:{secrets.token_hex(8)}"
    told = ("limited", "on", f">{login.partition(':')[2]}", "~*", "&*", "+@all", "-cluster")
    store._client.execute_command("ACL SETUSER", *told)
    with opened(f"redis://{login}@{url.rpartition('@')[2]}") as limited:
        limited.push(rows("1"))
        assert limited.keys([TaskState.QUEUED]) == ["1"]
    store._client.execute_command("ACL DELUSER", "limited")


def test_a_file_in_the_environment(url: str, tmp_path: Path, command: Command) -> None:
    with Board(url, "secret") as board:
        board.worker_script(tmp_path / "file", lambda x: x)
        assert json.loads((tmp_path / "file").read_text())["url"] == url
        worker = command(
            *("board", "status", "env:BOARD"),
            inside=["env", f"BOARD={(tmp_path / 'file').read_text().strip()}"],
        )
        out, err = worker.communicate()
        assert (err, worker.returncode) == ("", 0)
        assert "board 'secret' at redis://127.0.0.1:" in out


# ── much ─────────────────────────────────────────────────────────────────────────────────


def test_a_hundred_thousand_results(url: str) -> None:
    count = 100_000
    with Board(url, "many") as board:
        board.reset()
        store = board._store
        store.enter(Worker("fast"))
        xs, ys = board._values.pack({"x": 1}), board._values.pack({"z": 2})
        keys = list(map(str, range(count)))
        for begin in range(0, count, 10_000):
            some = keys[begin : begin + 10_000]
            store.create("fast", [Row(key, xs) for key in some])
            assert all(store.end("fast", [End(key, TaskState.FINISHED, ys) for key in some]))
        assert board.wait(keys)
        assert [row.key for row in board.fetch_new()] == keys
        frame = board.frame()
        assert (len(frame), frame["z"].sum()) == (count, 2 * count)
        board.reset()


def test_after_a_reset_workers_of_others_leave(url: str) -> None:
    with Board(url, "reset") as board, Board(url, "reset") as second:
        board.reset()
        board.start_workers(double, heartbeat=0.05)
        assert board.wait_for_workers(1, LONG)
        second.reset()
        wait_until(lambda: not board._coming())
        with pytest.raises(NotRunning):
            second._store.pop("anybody")
