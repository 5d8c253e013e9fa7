"""Random frames of those who have a key, and random bytes of those who have none."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hostile import CURVE, HELLO, ZMTP_3, Peer, Standing, Stream, raw
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher.messages import Role

FEW, MANY = 12, 800
"""How much is tried in the default suite, and in the thorough one."""

WORDS = [kind.encode() for kind in ("Hello", "Submit", "Cancel", "Ask", "Done", "Leave", "Run")]
HEADERS = st.binary(max_size=60) | st.builds(
    lambda word, rest: bytes([0x90 + 4, 0xA0 + len(word)]) + word + rest,
    st.sampled_from(WORDS),
    st.binary(max_size=40),
)
MESSAGES = st.builds(lambda first, rest: [first, *rest], HEADERS, st.lists(st.binary(), max_size=4))
GREETING = ZMTP_3 + CURVE
BYTES = st.binary(max_size=300) | st.builds(
    lambda end, rest: (GREETING + b"\x04\xc8" + HELLO)[:end] + rest,
    st.integers(0, len(GREETING) + 202),
    st.binary(max_size=300),
)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    standing = Standing(tmp_path_factory.mktemp("pool"))
    yield standing
    standing.close()


@pytest.fixture(scope="module")
def stream(pool: Standing) -> Iterator[Stream]:
    honest = Stream(pool)
    yield honest
    honest.close()


def fuzzed(examples: int) -> settings:
    """Have hypothesis try so many, however long each takes."""
    return settings(
        max_examples=examples,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )


def frames_are_survived(pool: Standing, stream: Stream, examples: int) -> None:
    @fuzzed(examples)
    @given(st.sampled_from(Role), st.booleans(), st.lists(MESSAGES, min_size=1, max_size=5))
    def attempt(role: Role, greets: bool, messages: list[list[bytes]]) -> None:
        rejected = stream.client.status().rejected
        with Peer(pool, role) as peer:
            if greets:
                peer.hello(tags=("bad",))
            for frames in messages:
                peer.send(*frames)
            if role is Role.DAEMON:  # it asks what it may not, to be refused at the latest now
                peer.send(b"")
            served = peer.is_served()
        refused = stream.client.status().rejected > rejected
        assert served != refused
        assert greets or refused

    attempt()
    stream.goes_on()
    assert pool.process.poll() is None


def bytes_are_survived(pool: Standing, stream: Stream, examples: int) -> None:
    @fuzzed(examples)
    @given(BYTES)
    def attempt(data: bytes) -> None:
        with raw(pool) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)

    strangers = stream.client.status().refusals.strangers
    attempt()
    stream.goes_on()
    assert pool.process.poll() is None
    assert stream.client.status().refusals.strangers > strangers
    with Peer(pool).hello() as peer:
        assert peer.is_served()


def test_frames(pool: Standing, stream: Stream) -> None:
    frames_are_survived(pool, stream, FEW)


def test_bytes(pool: Standing, stream: Stream) -> None:
    bytes_are_survived(pool, stream, FEW)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_many_frames(pool: Standing, stream: Stream) -> None:
    frames_are_survived(pool, stream, MANY)


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_many_bytes(pool: Standing, stream: Stream) -> None:
    bytes_are_survived(pool, stream, 10 * MANY)
