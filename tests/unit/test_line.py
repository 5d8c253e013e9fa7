"""A line: what is said at one end is heard at the other, whole and in order, or it has ended."""

from __future__ import annotations

import os
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import line as line_module
from dispatcher.ends import stream_pair
from dispatcher.line import MAX_FRAME, Line
from dispatcher.messages import ProtocolError
from dispatcher.wire import MAX_FRAMES, MAX_HEADER

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such sockets")

BLOB = bytes(range(256)) * 4_096  # 1 MiB
SECOND = 5.0


@pytest.fixture
def ends() -> Iterator[tuple[Line, Line]]:
    one, other = map(Line, stream_pair())
    yield one, other
    one.close()
    other.close()


@pytest.fixture
def stranger() -> Iterator[tuple[socket.socket, Line]]:
    """A line, and a socket in the place of its other end."""
    one, other = stream_pair()
    line = Line(other)
    with socket.socket(fileno=one) as raw:
        yield raw, line
    line.close()


def heard(line: Line) -> list[list[bytes]]:
    return [[bytes(frame) for frame in frames] for frames in line.receive()]


def written(*messages: list[bytes]) -> bytes:
    """Return what messages are on a line."""
    ours, theirs = stream_pair()
    line = Line(ours)
    data = b""
    with socket.socket(fileno=theirs) as raw:
        for frames in messages:
            line.send(frames)
        while line.wants_to_write:
            data += raw.recv(1 << 20)
            line.flush()
        line.close()
        while part := raw.recv(1 << 20):
            data += part
    return data


def exchanged(one: Line, other: Line) -> list[list[bytes]]:
    """Return what arrives until all is sent."""
    found = heard(other)
    while one.wants_to_write:
        one.flush()
        found += heard(other)
    return found + heard(other)


class TestMessages:
    @pytest.mark.parametrize(
        "frames",
        [[b"x"], [b""], [b"x", b""], [b"", b"", b""], [b"header", BLOB, b"y", BLOB], [BLOB]],
        ids=lambda frames: str([len(frame) for frame in frames]),
    )
    def test_arrive_as_they_were_sent(self, ends: tuple[Line, Line], frames: list[bytes]) -> None:
        one, other = ends
        assert one.send(frames)
        assert exchanged(one, other) == [frames]
        other.send(frames)
        assert exchanged(other, one) == [frames]

    def test_nothing_yet(self, ends: tuple[Line, Line]) -> None:
        assert heard(ends[0]) == []
        assert not (ends[0].ended or ends[0].has_more or ends[0].wants_to_write)

    def test_in_order_also_behind_what_the_system_would_not_take(
        self, ends: tuple[Line, Line]
    ) -> None:
        one, other = ends
        messages = [[b"%d" % i, *[BLOB] * (i % 3 == 0)] for i in range(20)]
        for frames in messages:
            one.send(frames)
        assert one.wants_to_write
        assert exchanged(one, other) == messages

    def test_of_more_frames_than_the_system_takes_at_once(self, ends: tuple[Line, Line]) -> None:
        one, other = ends
        frames = [b"%d" % i for i in range(5_000)]
        one.send(frames)
        assert exchanged(one, other) == [frames]

    def test_whoever_stops_listening_goes_on_later(self, ends: tuple[Line, Line]) -> None:
        one, other = ends
        for i in range(10):
            one.send([b"%d" % i])
        first = [bytes(*frames) for frames in islice(other.receive(), 4)]
        assert other.has_more
        assert [*first, *(frames[0] for frames in heard(other))] == [b"%d" % i for i in range(10)]
        assert not other.has_more

    def test_one_look_comes_to_an_end(
        self, stranger: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever never stops sending does not keep us from listening to others."""
        monkeypatch.setattr(line_module, "GULP", 32)
        raw, line = stranger
        data = written([b"x" * 20])
        raw.sendall(data)
        count = 0
        for _ in line.receive():
            raw.sendall(data)
            count += 1
        assert 1 <= count <= line_module.GULPS

    def test_large_frames_can_be_changed_by_who_receives_them(
        self, ends: tuple[Line, Line]
    ) -> None:
        """An array that lies in one is writable."""
        one, other = ends
        received: list[Any] = []
        one.send([b"header", BLOB])
        while not received:
            one.flush()
            received += other.receive()
        assert not memoryview(received[0][1]).readonly


class TestTorn:
    MESSAGES = ([b"x"], [b"header", b"", b"blob" * 10], [b"last"])

    def test_byte_by_byte(self, stranger: tuple[socket.socket, Line]) -> None:
        raw, line = stranger
        found = []
        for byte in written(*self.MESSAGES):
            raw.sendall(bytes([byte]))
            found += heard(line)
        assert found == list(self.MESSAGES)

    def test_anywhere(self, stranger: tuple[socket.socket, Line]) -> None:
        raw, line = stranger
        data = written(*self.MESSAGES)
        for cut in range(len(data)):
            raw.sendall(data[:cut])
            found = heard(line)
            raw.sendall(data[cut:])
            assert found + heard(line) == list(self.MESSAGES)

    @pytest.mark.parametrize("cut", [0, 1, 11, 12, 13, 25, -1])
    def test_the_end_in_the_middle(self, stranger: tuple[socket.socket, Line], cut: int) -> None:
        raw, line = stranger
        raw.sendall(written([b"whole"]) + written([b"header", b"blob"])[:cut])
        raw.close()
        assert heard(line) == [[b"whole"]]
        while not line.ended:
            assert heard(line) == []
        assert not line.has_more

    @given(
        messages=st.lists(st.lists(st.binary(max_size=300), min_size=1, max_size=5), max_size=8),
        sizes=st.lists(st.integers(1, 400), min_size=1),
        gulp=st.integers(1, 300),
    )
    def test_any_messages_in_any_pieces(
        self, messages: list[list[bytes]], sizes: list[int], gulp: int
    ) -> None:
        data = written(*messages)
        ours, theirs = stream_pair()
        found, line, before = [], Line(ours), line_module.GULP
        line_module.GULP = gulp
        try:
            with socket.socket(fileno=theirs) as raw:
                while data:
                    for size in sizes:
                        raw.sendall(data[:size])
                        data = data[size:]
                        found += heard(line)
                raw.close()
                while not line.ended:
                    found += heard(line)
        finally:
            line_module.GULP = before
            line.close()
        assert found == messages


class TestTheEnd:
    def test_what_came_before_is_heard(self, ends: tuple[Line, Line]) -> None:
        one, other = ends
        for i in range(100):
            one.send([b"%d" % i])
        one.close()
        assert other.send([b"nobody hears this"]) is False
        found = []
        while not other.ended:
            found += heard(other)
        assert found == [[b"%d" % i] for i in range(100)]
        assert heard(other) == []

    def test_also_by_who_was_not_listened_to(self, ends: tuple[Line, Line]) -> None:
        """The system tells that as an error, but not before what came."""
        one, other = ends
        other.send([b"unheard"])
        one.send([b"farewell"])
        one.close()
        assert heard(other) == [[b"farewell"]]
        while not other.ended:
            assert heard(other) == []

    def test_what_was_kept_for_nobody_is_dropped(self, ends: tuple[Line, Line]) -> None:
        one, other = ends
        for _ in range(10):
            one.send([b"header", BLOB])
        other.close()
        one.flush()
        assert not one.wants_to_write

    def test_a_line_that_is_closed(self, ends: tuple[Line, Line]) -> None:
        one, _ = ends
        one.close()
        one.close()
        assert (one.ended, one.send([b"x"]), heard(one), one.fileno()) == (True, False, [], -1)

    def test_its_descriptor_is_for_nobody_else(self) -> None:
        for fd in stream_pair():
            os.set_inheritable(fd, True)
            line = Line(fd)
            assert not os.get_inheritable(line.fileno())
            line.close()


NONSENSE = {
    "no frames": struct.pack("=IQ", 0, 0),
    "too many frames": struct.pack("=IQ", MAX_FRAMES + 1, 0),
    "a large header": struct.pack("=IQ", 1, MAX_HEADER + 1),
    "a large header before others": struct.pack("=IQQ", 2, MAX_HEADER + 1, 0),
    "a large frame": struct.pack("=IQQ", 2, 0, MAX_FRAME + 1),
    "a later one": struct.pack("=IQQQ", 3, 0, 0, 2**64 - 1),
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE)
def test_nonsense_ends_it(stranger: tuple[socket.socket, Line], data: bytes) -> None:
    raw, line = stranger
    raw.sendall(written([b"sense"]) + data)
    found = []
    with pytest.raises(ProtocolError):
        found += line.receive()
    assert line.ended
    assert heard(line) == []
    assert line.send([b"refused"])
    assert raw.recv(100) == written([b"refused"])


def test_what_is_announced_takes_no_memory_before_it_comes(
    stranger: tuple[socket.socket, Line],
) -> None:
    raw, line = stranger
    tracemalloc.start()
    try:
        raw.sendall(struct.pack("=IQQ", 2, 0, line_module.MAX_FRAME) + b"begun")
        assert heard(line) == []
        assert tracemalloc.get_traced_memory()[1] < 3 * line_module.STEP
    finally:
        tracemalloc.stop()


def test_a_large_frame_is_received_whole(
    stranger: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "STEP", 7)
    raw, line = stranger
    raw.sendall(written([b"first", bytes(range(256)), b"", b"last"]) + written([b"next"]))
    assert heard(line) == [[b"first", bytes(range(256)), b"", b"last"], [b"next"]]


def test_a_frame_that_there_is_no_memory_for_ends_it(
    stranger: tuple[socket.socket, Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_module, "MAX_FRAME", 2**64)
    monkeypatch.setattr(line_module, "STEP", 2**62)
    raw, line = stranger
    raw.sendall(written([b"before"]) + struct.pack("=IQQ", 2, 0, 2**62))
    assert heard(line) == [[b"before"]]
    assert line.ended
    assert heard(line) == []
