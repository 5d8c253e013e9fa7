"""Which connection is meant, where descriptors are used again; and who is barred."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

from dispatcher.connections import PARTING, SETTLING, Bars, Connections
from dispatcher.sockets import address_of, end_connection

OLD, NEW, NEWER = (b"\0" + number.to_bytes(4, "big") for number in (2**32 - 1, 0, 1))
CHOSEN = b"I am chosen"
SETTLED = SETTLING + 1.0


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair()
    with contextlib.closing(one), contextlib.closing(other):
        yield one, other


def is_open(other: socket.socket) -> bool:
    """Whether the other end of this one has not been ended."""
    other.setblocking(False)
    try:
        return other.recv(1) != b""
    except BlockingIOError:
        return True


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    connections = Connections()
    connections.accepted(5, 0.0)
    first = connections.at(5)
    assert first is not None and connections.find(first.serial) is first
    assert connections.closed(5) is first
    connections.accepted(5, 1.0)
    second = connections.at(5)
    assert second is not None and second.serial != first.serial
    assert connections.find(first.serial) is None
    assert connections.closed(6) is None


def test_the_speaker_is_the_one_with_the_youngest_routing_id() -> None:
    connections = Connections()
    connections.accepted(5, 0.0)
    connection = connections.at(5)
    assert connection is not None
    claims = [(OLD, True), (OLD, True), (NEW, True), (OLD, False), (NEWER, True), (NEW, False)]
    for route, right in [*claims, (CHOSEN, False), (NEWER, True)]:
        assert connection.claim(route) is right
    assert connection.speaker == NEWER


def test_a_chosen_routing_id_gives_way() -> None:
    connections = Connections()
    connections.accepted(5, 0.0)
    connection = connections.at(5)
    assert connection is not None
    assert connection.claim(CHOSEN)
    assert connection.claim(OLD)
    assert not connection.claim(CHOSEN)


class Pool:
    """One connection whose peer is barred, at a time when it has settled."""

    def __init__(self, fd: int) -> None:
        self.connections = Connections()
        self.connections.accepted(fd, 0.0)
        connection = self.connections.at(fd)
        assert connection is not None
        self.fd = fd
        self.serial = connection.serial
        self.bars = Bars(self.connections)
        assert self.bars.add(OLD, self.serial, SETTLED)

    def look(self) -> None:
        """Nothing has ended."""


def test_a_barred_peer_has_time_to_read_why(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    pool = Pool(one.fileno())
    assert OLD in pool.bars and NEW not in pool.bars
    assert pool.bars.deadline() == SETTLED + PARTING
    assert not pool.bars.add(OLD, pool.serial, SETTLED)
    pool.bars.end(SETTLED + 0.99 * PARTING, pool.look)
    assert is_open(other)
    pool.bars.end(SETTLED + PARTING, pool.look)
    assert not is_open(other)
    assert pool.bars.deadline() is None  # nothing more is to be done
    assert OLD in pool.bars
    pool.bars.discard(pool.serial)
    assert OLD not in pool.bars


def test_a_newcomer_is_not_ended_before_it_can_have_spoken() -> None:
    connections = Connections()
    connections.accepted(5, 10.0)
    connection = connections.at(5)
    assert connection is not None
    bars = Bars(connections)
    assert bars.add(OLD, connection.serial, 10.5)
    assert bars.deadline() == 10.0 + SETTLING + PARTING
    bars.spare(connection.serial)  # somebody else has spoken in it
    assert bars.deadline() is None
    assert OLD in bars
    assert not bars.add(NEW, 0, 10.5)


def test_one_that_has_ended_meanwhile_is_left_alone(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Its descriptor may be a newcomer's already, and the monitor tells of that too late."""
    one, other = pair
    pool = Pool(one.fileno())

    def look() -> None:
        pool.connections.closed(one.fileno())
        pool.connections.accepted(one.fileno(), SETTLED + PARTING)

    pool.bars.end(SETTLED + PARTING, look)
    assert is_open(other)


def test_without_descriptors_it_is_tried_again(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    pool = Pool(one.fileno())
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        pool.bars.end(SETTLED + PARTING, pool.look)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert is_open(other)
    assert pool.bars.deadline() == SETTLED + 2 * PARTING
    pool.bars.end(SETTLED + 2 * PARTING, pool.look)
    assert not is_open(other)


def test_a_descriptor_of_nothing_is_no_error() -> None:
    reading, writing = os.pipe()
    try:
        assert address_of(reading) == "unknown"
        assert end_connection(reading, lambda: False)
        assert not end_connection(reading, lambda: True)
    finally:
        os.close(reading)
        os.close(writing)
    assert address_of(reading) == "unknown"


def test_addresses(pair: tuple[socket.socket, socket.socket]) -> None:
    assert address_of(pair[0].fileno()) == "here"
    with socket.create_server(("127.0.0.1", 0)) as server:
        with socket.create_connection(server.getsockname()) as client:
            assert address_of(client.fileno()) == "127.0.0.1:{1}".format(*server.getsockname())
            assert client.getpeername() == server.getsockname()  # and it is still its owner's
        assert address_of(server.fileno()) == "unknown"
