"""Connection files: what is written, and what is refused."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
import zmq

from dispatcher.keys import KeyPair
from dispatcher.messages import Role
from dispatcher.security import HEARTBEAT_MS, SILENCE_MS, dial, watch_for_silence
from mirai import MiraiError
from mirai._addresses import primary_address, urls_of
from mirai._connection import Connection, remove

NOBODY = 65_534
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
URL = "tcp://127.0.0.1:5555"
KEYS = Connection.new(URL)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


def both() -> Connection:
    return KEYS.only(*Role)


def test_what_is_written_is_read(path: Path) -> None:
    both().write(path)
    assert Connection.read(path) == both()
    KEYS.write(path)
    assert Connection.read(str(path)) == KEYS


def test_only_its_owner_can_read_it(path: Path) -> None:
    former = os.umask(0)
    try:
        both().write(path)
    finally:
        os.umask(former)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_it_takes_the_place_of_one_that_others_could_read(path: Path) -> None:
    path.write_text("old")
    path.chmod(0o666)
    both().write(path)
    assert Connection.read(path) == both()
    assert os.listdir(path.parent) == ["pool.json"]


def test_one_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    with pytest.raises(MiraiError, match="cannot be written"):
        both().write(tmp_path / "directory")
    with pytest.raises(MiraiError, match="cannot be written"):
        both().write(tmp_path / "nowhere" / "pool.json")
    assert os.listdir(tmp_path) == ["directory"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620])
def test_one_that_others_can_use_is_refused(path: Path, mode: int) -> None:
    both().write(path)
    path.chmod(mode)
    with pytest.raises(MiraiError, match=r"can be read by others.*chmod 600"):
        Connection.read(path)


def test_one_of_somebody_else_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both().write(path)
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    with pytest.raises(MiraiError, match="another user"):
        Connection.read(path)


@root
def test_one_that_another_user_has_made_is_refused(path: Path) -> None:
    both().write(path)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(MiraiError, match="belongs to another user"):
        Connection.read(path)


@root
def test_a_link_to_one_of_another_user_is_refused(path: Path) -> None:
    both().write(path)
    os.chown(path, NOBODY, NOBODY)
    link = path.with_name("link.json")
    link.symlink_to(path)
    with pytest.raises(MiraiError, match="belongs to another user"):
        Connection.read(link)


@root
def test_a_link_that_another_user_has_made_is_refused(path: Path) -> None:
    """It may lead to another pool of ours than is meant."""
    both().write(path)
    link = path.with_name("link.json")
    link.symlink_to(path)
    assert Connection.read(link) == both()
    os.chown(link, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(MiraiError, match="a link that another user has made"):
        Connection.read(link)


def test_one_that_every_user_may_replace_is_refused(path: Path, tmp_path: Path) -> None:
    directory = tmp_path / "open"
    directory.mkdir()
    both().write(path)
    both().write(directory / "pool.json")
    (directory / "link.json").symlink_to(path)
    (tmp_path / "link.json").symlink_to(directory / "pool.json")
    places = directory / "pool.json", directory / "link.json", tmp_path / "link.json"
    for mode in (0o777, 0o703):
        directory.chmod(mode)
        for place in places:
            with pytest.raises(MiraiError, match=r"every user may put.*chmod o-w .*open"):
                Connection.read(place)
    for mode in (0o1777, 0o770, 0o700):
        directory.chmod(mode)
        for place in places:
            assert Connection.read(place) == both()


def test_one_that_is_not_there(path: Path) -> None:
    with pytest.raises(MiraiError, match="No such file"):
        Connection.read(path)


def changed(**more: Any) -> str:
    data = {
        "mirai": 1,
        "url": URL,
        "server": KEYS.server,
        "keys": {"client": {"public": KEYS.server, "secret": KEYS.server_secret}},
    }
    return json.dumps(data | more)


BAD = {
    "nothing": "",
    "no json": "{",
    "a list": "[]",
    "a number": "7",
    "nested too deep": "[" * 60_000,
    "no version": json.dumps({"url": URL}),
    "no server": changed(server=None),
    "a short key": changed(server="abc"),
    "a key that is none": changed(server="~" * 40),
    "a key of 41": changed(server=KEYS.server + "a"),
    "no url": changed(url=7),
    "another url": changed(url="inproc://x"),
    "no keys": changed(keys=[]),
    "a role that is none": changed(keys={"king": {"public": KEYS.server, "secret": KEYS.server}}),
    "half a pair": changed(keys={"client": {"public": KEYS.server}}),
    "bytes": "\udcff",
}


@pytest.mark.parametrize("text", BAD.values(), ids=BAD.keys())
def test_what_is_no_connection_file(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    path.chmod(0o600)
    with pytest.raises(MiraiError, match="no connection file"):
        Connection.read(path)


def test_the_good_one_among_the_bad(path: Path) -> None:
    path.write_text(changed())
    path.chmod(0o600)
    assert Connection.read(path).pair(Role.CLIENT).public == KEYS.server


def test_another_version(path: Path) -> None:
    path.write_text(changed(mirai=2))
    path.chmod(0o600)
    with pytest.raises(MiraiError, match="version 2 of connection files, wanted 1"):
        Connection.read(path)


def test_one_role_only(path: Path) -> None:
    KEYS.only(Role.DAEMON).write(path)
    text = path.read_text()
    found = Connection.read(path)
    assert found.pair(Role.DAEMON) == KEYS.pair(Role.DAEMON)
    with pytest.raises(MiraiError, match="no key of a client"):
        found.pair(Role.CLIENT)
    assert KEYS.pair(Role.CLIENT).secret not in text
    assert KEYS.server_secret not in text
    assert KEYS.server in text


def test_no_secret_is_shown() -> None:
    secrets = [KEYS.server_secret, *(pair.secret for pair in KEYS.keys.values())]
    assert not any(secret in repr(KEYS) for secret in secrets)


def test_only_what_was_written_is_removed(path: Path) -> None:
    stamp = both().write(path)
    other = both().write(path)
    remove(path, stamp)
    assert path.exists()
    remove(path, other)
    assert not path.exists()
    remove(path, other)


@pytest.mark.parametrize(
    ("url", "host", "expected"),
    [
        (URL, None, URL),
        ("tcp://10.1.2.3:77", None, "tcp://10.1.2.3:77"),
        ("tcp://10.1.2.3:77", "head", "tcp://head:77"),
        ("tcp://0.0.0.0:77", "head", "tcp://head:77"),
        ("tcp://*:77", None, f"tcp://{primary_address()}:77"),
        ("tcp://0.0.0.0:77", None, f"tcp://{primary_address()}:77"),
        ("tcp://[::]:77", None, f"tcp://{primary_address()}:77"),
    ],
)
def test_what_others_are_told(url: str, host: str | None, expected: str) -> None:
    assert urls_of(url, host)[0] == expected
    assert "0.0.0.0" not in expected


@pytest.mark.parametrize(
    ("url", "watched"), [(URL, True), ("ipc://@x", False), ("ipc:///x", False)]
)
def test_only_connections_that_may_leave_the_machine_are_watched(url: str, watched: bool) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    pair = KeyPair.new()
    socket = dial(context, pair, pair.public)
    try:
        watch_for_silence(socket, url)
        assert socket.getsockopt(zmq.HEARTBEAT_IVL) == (HEARTBEAT_MS if watched else 0)
        assert socket.getsockopt(zmq.HEARTBEAT_TIMEOUT) == (SILENCE_MS if watched else -1)
        assert socket.getsockopt(zmq.TCP_MAXRT) == (SILENCE_MS if watched else 0)
        assert int(socket.getsockopt(zmq.CONNECT_TIMEOUT)) <= 10_000
        assert HEARTBEAT_MS + SILENCE_MS < 20_000
    finally:
        context.destroy(linger=0)
