"""Boards in the memory of real dispatchers, over CURVE, lines, and in this process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from board_contract import EVER, StoreContract, drain, finish, keys_of, meanwhile, rows
from conftest import MARK, Command, listening, wait_until

from dispatcher.boards import Row, Store, TaskState, Worker
from dispatcher.keys import KeyPair
from dispatcher.messages import Role
from dispatcher.requests import MANY
from mirai import MiraiError, daemons, mirai, use_profile
from mirai._connection import Connection
from mirai._errors import BoardError, BoardLost, NotRunning
from mirai.queues import Board
from mirai.queues.boards._dispatcher_store import DispatcherStore

Popen = subprocess.Popen
names = count(1)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Where a standing dispatcher is, for all tests of this module."""
    with tempfile.TemporaryDirectory(prefix="boards-") as directory:
        path = Path(directory, "pool.json")
        process = Popen(
            [sys.executable, "-m", "mirai", "dispatcher", "--connection-file", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
            start_new_session=True,
        )
        try:
            listening(process)
            yield f"mirai://{path}"
        finally:
            process.kill()
            process.communicate()


@pytest.fixture
def store(url: str) -> Iterator[DispatcherStore]:
    store = DispatcherStore.open(url, f"board {next(names)}")
    yield store
    store.close()


@pytest.fixture
def other(url: str, store: DispatcherStore) -> Iterator[DispatcherStore]:
    other = DispatcherStore.open(url, store._name)
    yield other
    other.close()


class TestContract(StoreContract):
    """Over TCP with CURVE, by two connections."""


# ── the ways to a dispatcher ─────────────────────────────────────────────────────────────


def works(store: Store) -> None:
    """A task is pushed, waited for, and finished."""
    found: list[Row | None] = []
    store.enter(Worker("w"))
    with meanwhile(lambda: found.append(store.pop("w", EVER))):
        store.push(rows("1"))
    assert keys_of(found) == ["1"]
    changes = store.tally().changes
    assert store.end("w", finish("1")) == [True]
    assert store.wait(changes, EVER).finished == 1


@pytest.mark.usefixtures("dispatchers")
def test_the_pool_of_this_process() -> None:
    with daemons(1) as pool:
        works(DispatcherStore(pool, "mine"))
        store = DispatcherStore.open("mirai://", "mine")
        assert store.tally().finished == 1
        store.close()
        assert mirai(abs, -1).result() == 1
    with pytest.raises(BoardLost):
        store.tally()


def test_a_task_uses_the_board_of_its_pool() -> None:
    def work(worker: str) -> list[str]:
        store = DispatcherStore.open("mirai://", "shared")
        store.enter(Worker(worker))
        done = []
        while (row := store.pop(worker, 0.0)) is not None:
            done.append(row.key)
            store.end(worker, finish(row.key))
        return done

    with daemons(2) as pool, use_profile("other"):
        store = DispatcherStore(pool, "shared")
        store.push(rows(*map(str, range(20))))
        done = [pool.submit(work, (f"w{number}",)) for number in range(2)]
        assert sorted(int(key) for each in done for key in each.result()) == list(range(20))
        assert store.tally().finished == 20


def test_by_the_connection_file_of_a_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with daemons(1, "tcp://127.0.0.1:0") as pool:
        pool.connection_file("pool.json", role="client")
        store = DispatcherStore.open("mirai://pool.json", "b")
        works(store)
        assert DispatcherStore(pool, "b").tally().finished == 1
        store.close()
        with pytest.raises(BoardLost):
            store.tally()
        assert mirai(abs, -1).result() == 1
        pool.connection_file("daemon.json", role="daemon")
        with pytest.raises(MiraiError, match="no key of a client"):
            DispatcherStore.open("mirai://daemon.json", "b")


def test_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="mirai://"):
        DispatcherStore.open("redis://localhost", "b")
    with pytest.raises(MiraiError, match="cannot be read"):
        DispatcherStore.open("mirai:///nowhere/pool.json", "b")
    with pytest.raises(MiraiError, match="no daemons"):
        DispatcherStore.open("mirai://", "b")
    with daemons(sync=True), pytest.raises(MiraiError, match="sync"):
        DispatcherStore.open("mirai://", "b").tally()


def test_a_key_that_is_not_accepted(url: str, tmp_path: Path) -> None:
    file = tmp_path / "pool.json"
    connection = Connection.read(url.removeprefix("mirai://"))
    replace(connection, keys={Role.CLIENT: KeyPair.new()}).write(file)
    with pytest.raises(BoardLost, match="refuses this key"):
        DispatcherStore.open(f"mirai://{file}", "b")


def test_a_board_on_it(url: str) -> None:
    with Board(url, f"board {next(names)}") as board:
        board.start_workers(lambda x: {"y": x * x}, 2)
        keys = board.push([{"x": number} for number in range(20)])
        assert board.wait(keys, timeout=30)
        assert sorted(row.ys["y"] for row in board.fetch_new()) == [n * n for n in range(20)]
        board.reset()


# ── who goes ─────────────────────────────────────────────────────────────────────────────

WORKER = """
import os, sys
from dispatcher.boards import *
from mirai.queues import Board
from mirai.queues.boards._dispatcher_store import DispatcherStore
url, name, worker, patience, mode = sys.argv[1:]
store = DispatcherStore.open(url, name)
store.enter(Worker(worker, "here", os.getpid(), patience=float(patience)))
print("ready", flush=True)
while (row := store.pop(worker, 60.0 if mode == "hold" else 0.0)) is not None:
    print(row.key, flush=True)
    if mode == "hold":
        continue
    store.end(worker, [End(row.key, TaskState.FINISHED, worker.encode())])
"""


class Workers:
    """Processes that work on a board."""

    def __init__(self, url: str, store: DispatcherStore, mark: str) -> None:
        self._argv = [sys.executable, "-c", WORKER, url, store._name]
        self._mark = mark
        self.running: list[Popen[str]] = []

    def start(self, worker: str, mode: str, patience: float = 0.0) -> Popen[str]:
        process = Popen(
            [*self._argv, worker, f"{patience}", mode],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), MARK: self._mark},
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        for process in self.running:
            process.kill()
            process.communicate()


def said(process: Popen[str]) -> str:
    """Return the next line that a process prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip() or str(process.communicate())


@pytest.fixture
def workers(url: str, store: DispatcherStore, mark: str) -> Iterator[Workers]:
    workers = Workers(url, store, mark)
    yield workers
    workers.end()


def test_processes_that_pop_at_once_take_each_task_once(
    store: DispatcherStore, workers: Workers
) -> None:
    keys = [str(number) for number in range(600)]
    store.push(rows(*keys))
    for worker in "abc":
        workers.start(worker, "drain")
    found = [line for each in workers.running for line in each.communicate(timeout=60)[0].split()]
    assert sorted(found) == sorted([*keys, *["ready"] * 3])
    assert store.tally().finished == 600
    taken = {row.key: row.worker for row in store.rows(keys) if row is not None}
    assert {row.key: row.ys.decode() for row in store.rows(keys) if row is not None} == taken


def test_a_worker_that_is_killed_loses_what_it_had_and_gets_nothing_more(
    store: DispatcherStore, workers: Workers
) -> None:
    store.push(rows("1", "2"))
    process = workers.start("w", "hold", patience=0.001)
    assert [said(process) for _ in range(3)] == ["ready", "1", "2"]
    store.push(rows("for w", worker="w"))
    assert said(process) == "for w"
    process.kill()
    process.wait()
    store.enter(Worker("next"))
    while not store.find_lost(most=2):
        pass
    assert drain(store, "next") == ["1", "2", "for w"]
    assert store.end("w", finish("1")) == [False]
    assert store.end("next", finish("1")) == [True]


def test_one_that_was_killed_while_it_waits_takes_nothing(
    command: Command, tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIRAI_LOG", "info")
    file = tmp_path / "pool.json"
    dispatcher = listening(command("dispatcher", "--connection-file", file))
    monkeypatch.delenv("MIRAI_LOG")
    store = DispatcherStore.open(f"mirai://{file}", "b")
    workers = Workers(f"mirai://{file}", store, mark)
    process = workers.start("w", "hold")
    assert said(process) == "ready"
    (worker,) = store.workers()
    wait_until(lambda: store.workers()[0].heard > worker.started)  # it waits
    workers.end()
    assert dispatcher.stderr is not None
    assert any(f"process {worker.pid} " in line for line in dispatcher.stderr if "gone" in line)
    store.push(rows("1"))
    assert store.tally().queued == 1
    assert store.beat("w")  # whether it is lost is for its heartbeats to say
    store.close()


def test_who_waits_hears_at_once_that_the_dispatcher_is_gone(
    command: Command, tmp_path: Path
) -> None:
    file = tmp_path / "pool.json"
    process = listening(command("dispatcher", "--connection-file", file))
    store = DispatcherStore.open(f"mirai://{file}", "b")
    store.enter(Worker("w"))
    store.push(rows("1"))
    assert store.pop("w") is not None
    changes = store.tally().changes
    heard = store.workers()[0].heard

    def kill() -> None:
        wait_until(lambda: store.workers()[0].heard > heard)  # somebody waits
        process.kill()
        process.wait()

    with (
        pytest.raises(BoardLost),
        meanwhile(lambda: store.wait(changes, EVER)),
        pytest.raises(BoardLost),
        meanwhile(kill),
    ):
        store.pop("w", EVER)
    for call in (store.tally, lambda: store.pop("w"), lambda: store.end("w", finish("1"))):
        with pytest.raises(BoardLost):
            call()
    store.close()


def test_a_task_for_a_call_that_was_interrupted_is_for_the_next_one(
    store: DispatcherStore, other: DispatcherStore
) -> None:
    store.enter(Worker("w"))
    heard = other.workers()[0].heard

    def interrupt() -> None:
        wait_until(lambda: other.workers()[0].heard > heard)  # it waits
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), meanwhile(interrupt):
        store.pop("w", EVER)
    other.push(rows("1"))
    assert keys_of([store.pop("w", EVER)]) == ["1"]
    assert store.pop("w") is None
    other.push(rows("2"))
    assert keys_of([store.pop("w", EVER)]) == ["2"]


# ── how much ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
def test_large_objects(store: DispatcherStore, other: DispatcherStore) -> None:
    data = os.urandom(1 << 20) * 100
    store.put("large", data)
    assert other.get("large") == data
    store.put("large", b"")
    assert other.get("large") == b""
    store.reset()


def test_many_tasks(store: DispatcherStore, other: DispatcherStore) -> None:
    keys = [str(number) for number in range(MANY)]
    store.push(rows(*keys))
    assert other.keys([TaskState.QUEUED]) == keys
    assert [row.key for row in other.rows(keys) if row is not None] == keys
    assert other.withdraw(None, "enough") == MANY
    assert other.ended(0, MANY) == (keys, other.ended(0, MANY)[1])
    store.reset()


def test_tasks_that_are_large_are_told_in_portions(
    store: DispatcherStore, other: DispatcherStore
) -> None:
    large = [Row(f"{number}", bytes(9 << 20)) for number in range(4)]
    for row in large:
        store.push([row])
    found = other.rows([row.key for row in large])
    assert [row and row.xs for row in found] == [row.xs for row in large]
    store.reset()


@pytest.mark.thorough
def test_what_cannot_be_asked_harms_nobody(store: DispatcherStore) -> None:
    bad: list[Row] = [
        Row("\ud800", b""),
        Row("k", b"", priority=2**70),
        Row("k", object()),  # type: ignore[arg-type]
        Row(7, b""),  # type: ignore[arg-type]
        Row("k", bytes(101 << 20)),
    ]
    for row in bad:
        with pytest.raises(BoardError):
            store.push([row])
    with pytest.raises(BoardError, match="100,000"):
        store.push([Row(f"{number}", b"") for number in range(MANY + 1)])
    with pytest.raises(BoardError, match="too much"):
        store.push([Row(f"{number}", bytes(70 << 20)) for number in range(4)])
    with pytest.raises(NotRunning):
        store.pop("w")
    assert store.tally().queued == 0
    assert store.keys(list(TaskState) * 2) == []


def test_calls_of_many_threads_are_under_way_at_once(store: DispatcherStore) -> None:
    workers = [f"w{number}" for number in range(20)]
    for worker in workers:
        store.enter(Worker(worker))
    found: list[Row | None] = []
    threads = [
        threading.Thread(target=lambda worker=worker: found.append(store.pop(worker, EVER)))
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    store.push(rows(*workers))
    for thread in threads:
        thread.join(EVER)
    assert sorted(keys_of(found)) == sorted(workers)
