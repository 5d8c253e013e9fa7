"""Boards on a real Redis cluster: a board is found on whichever node has it, and where it goes.

The contract of stores holds there as on a single Redis; here is only what a cluster does.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis
from board_contract import EVER, StoreContract, finish, keys_of, rows
from board_users import double
from clusters import PATIENCE, server, variables
from conftest import wait_until

from dispatcher.boards import Worker
from mirai._errors import StoreError
from mirai.queues import Board
from mirai.queues.boards._redis_store import SILENCE, RedisStore

pytestmark = [pytest.mark.servers, pytest.mark.timeout(PATIENCE + 60)]

NAMES = ["contract", *(f"board {number}" for number in range(8))]
"""So many that each node has one."""


@pytest.fixture(scope="module")
def url(redis_cluster_state: Path) -> str:
    return variables(redis_cluster_state / "env.sh")["REDIS_CLUSTER_URL"]


@contextmanager
def opened(url: str, name: str = "contract") -> Iterator[RedisStore]:
    store = RedisStore(url, name)
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


def node(url: str) -> redis.Redis:
    """Return a connection to the node that a URL names."""
    return redis.Redis.from_url(url)


def at(url: str, address: tuple[str, int]) -> str:
    """Return the URL of another node."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    return f"redis://{login}@{address[0]}:{address[1]}"


def whereabouts(url: str, name: str) -> tuple[str, int]:
    """Return the node that has a board's slot, as the node at ``url`` knows it."""
    with node(url) as client:
        slot = client.execute_command("CLUSTER KEYSLOT", f"mirai:{{{name}}}:")
        for first, last, (host, port, *_), *_ in client.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return host.decode(), port
    raise AssertionError("no node has it")


class TestContract(StoreContract):
    pass


def test_each_board_is_found_from_any_node(url: str) -> None:
    nodes = {whereabouts(url, name) for name in NAMES}
    assert len(nodes) == 3
    for name in NAMES:
        with opened(url, name) as store:
            store.reset()
            store.push(rows("1"))
        for address in nodes:
            with opened(at(url, address), name) as store:
                assert store.keys(["queued"]) == ["1"]  # type: ignore[list-item]
                assert store.rows(["1", "2"])[1] is None
                assert store._at in (("", 0), whereabouts(url, name))


def test_who_waits_is_woken(url: str) -> None:
    """Also who has asked the wrong node first."""
    name = next(each for each in NAMES if str(whereabouts(url, each)[1]) not in url)
    with opened(url, name) as store, opened(url, name) as other:
        store.reset()
        other.enter(Worker("a"))
        popped: list[str] = []
        thread = threading.Thread(target=lambda: popped.extend(keys_of([other.pop("a", EVER)])))
        thread.start()
        store.push(rows("1"))
        thread.join()
        assert popped == ["1"]
        before = store.tally()
        thread = threading.Thread(target=lambda: other.end("a", finish("1")))
        thread.start()
        assert store.wait(before.changes, EVER).finished == 1
        thread.join()


def test_workers_of_a_user(url: str) -> None:
    with Board(url, "users") as board:
        board.start_workers(double, 2)
        keys = board.push([{"x": x} for x in range(10)])
        assert board.wait(keys, EVER)
        assert sorted(row.ys["z"] for row in board.fetch_new()) == [2 * x for x in range(10)]


def test_a_node_that_dies_is_replaced_and_nobody_notices(tmp_path: Path) -> None:
    """What its replica has is all there is then; here it has everything."""
    with server("redis-cluster", tmp_path / "cluster") as state:
        url = variables(state / "env.sh")["REDIS_CLUSTER_URL"]
        name = next(each for each in NAMES if str(whereabouts(url, each)[1]) not in url)
        former = whereabouts(url, name)
        with opened(url, name) as store:
            store.push(rows("1", "2"))
            store.enter(Worker("a"))
            assert keys_of([store.pop("a")]) == ["1"]
            with node(at(url, former)) as client:
                assert client.wait(1, 10_000) == 1
                os.kill(client.info()["process_id"], signal.SIGKILL)
            assert store.end("a", finish("1")) == [True]
            assert keys_of([store.pop("a")]) == ["2"]
        assert whereabouts(url, name) != former


def test_the_node_of_the_url_dies(tmp_path: Path) -> None:
    """Before anybody had to say that the board is elsewhere."""
    with server("redis-cluster", tmp_path / "cluster") as state:
        url = variables(state / "env.sh")["REDIS_CLUSTER_URL"]
        name = next(each for each in NAMES if str(whereabouts(url, each)[1]) in url)
        with opened(url, name) as store:
            store.push(rows("1"))
            with node(url) as client:
                assert client.wait(1, 10_000) == 1
                os.kill(client.info()["process_id"], signal.SIGKILL)
            assert store.tally().queued == 1


def test_nobody_is_lost_because_a_replica_takes_over(tmp_path: Path) -> None:
    """The node hangs, and does not say so by closing connections; to the replica, all are late."""
    with server("redis-cluster", tmp_path / "cluster") as state:
        url = variables(state / "env.sh")["REDIS_CLUSTER_URL"]
        name = next(each for each in NAMES if str(whereabouts(url, each)[1]) not in url)
        former = whereabouts(url, name)
        store = RedisStore(url, name, patience=SILENCE / 2)
        with node(at(url, former)) as client, closing(store):
            store.enter(Worker("a", patience=0.001))
            assert client.wait(1, 10_000) == 1
            pid = client.info()["process_id"]
            os.kill(pid, signal.SIGSTOP)
            try:
                assert store.beat("a")  # before patience is over
                assert store._at != former
                assert store.find_lost() == []
                wait_until(lambda: store.find_lost() == ["a"])
            finally:
                os.kill(pid, signal.SIGKILL)


def test_a_slot_that_moves_is_followed(url: str) -> None:
    """While it does, its server refuses calls of several keys: they are made again."""
    name = "contract"
    source = whereabouts(url, name)
    target = next(each for each in {whereabouts(url, other) for other in NAMES} if each != source)
    with (
        node(at(url, source)) as old,
        node(at(url, target)) as new,
        opened(at(url, source), name) as store,
    ):
        store.reset()
        store.enter(Worker("a"))
        store.push(rows("1", "2"))
        slot = old.execute_command("CLUSTER KEYSLOT", f"mirai:{{{name}}}:")
        ours, theirs = (client.execute_command("CLUSTER MYID").decode() for client in (old, new))
        new.execute_command("CLUSTER SETSLOT", slot, "IMPORTING", ours)
        old.execute_command("CLUSTER SETSLOT", slot, "MIGRATING", theirs)
        keys = old.execute_command("CLUSTER GETKEYSINSLOT", slot, 1_000)
        password = urlsplit(url).password
        for key in keys[:1]:
            old.execute_command("MIGRATE", *target, key, 0, 10_000, "AUTH", password)
        popped: list[str] = []
        thread = threading.Thread(target=lambda: popped.extend(keys_of([store.pop("a")])))
        thread.start()
        for key in keys[1:]:
            old.execute_command("MIGRATE", *target, key, 0, 10_000, "AUTH", password)
        for client in (new, old):
            client.execute_command("CLUSTER SETSLOT", slot, "NODE", theirs)
        thread.join()
        assert popped == ["1"]
        assert store._at == target
        assert store.end("a", finish("1")) == [True]


def test_all_nodes_are_gone(tmp_path: Path) -> None:
    with server("redis-cluster", tmp_path / "cluster") as state:
        url = variables(state / "env.sh")["REDIS_CLUSTER_URL"]
        store = RedisStore(url, "contract", shown="here", patience=1.0)
        store.push(rows("1"))
    with pytest.raises(StoreError, match=r"^here: "):
        store.tally()
    store.close()
