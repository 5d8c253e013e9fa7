"""The hatch: what is put in at one end is taken out at the other, when a message says so."""

from __future__ import annotations

import array
import contextlib
import os
import resource
import socket
from collections.abc import Iterator

import msgspec
import pytest

from dispatcher.hatch import Hatch
from dispatcher.messages import Blob, Done, FromDaemon, Kind, Outcome, ProtocolError
from dispatcher.shared import AVAILABLE, Shared, contents
from dispatcher.wire import Reader, encode

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="memory cannot be shared here")


def shared(data: bytes) -> Shared:
    made = Shared.copy(memoryview(data))
    assert made is not None
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def ends() -> Iterator[tuple[Hatch, Hatch]]:
    before = descriptors()
    pair = Hatch.pair()
    assert pair is not None
    one, other = map(Hatch, pair)
    yield one, other
    one.close()
    other.close()
    assert descriptors() == before


@pytest.fixture
def stranger() -> Iterator[tuple[socket.socket, Hatch]]:
    """A hatch, and a socket in the place of its other end."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    hatch = Hatch(other.detach())
    with one:
        yield one, hatch
    hatch.close()


def done(*blobs: Blob) -> Done:
    return Done((Outcome(1, Kind.VALUE, b"small", blobs),))


def blobs_of(message: object) -> list[object]:
    assert isinstance(message, Done)
    return [blob.data for blob in message.outcomes[0].blobs]


class TestHatch:
    def test_hands_over_in_order(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        assert [one.hand(shared(b"first")), one.hand(shared(b"second"))] == [1, 2]
        assert bytes(contents(other.take(1, 5))) == b"first"
        assert bytes(contents(other.take(2, 6))) == b"second"

    def test_goes_both_ways(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        assert one.hand(shared(b"there")) == other.hand(shared(b"back")) == 1
        assert bytes(contents(one.take(1, 4))) == b"back"
        assert bytes(contents(other.take(1, 5))) == b"there"

    def test_a_thing_can_be_handed_again(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        memory = shared(b"twice")
        one.hand(memory)
        one.hand(memory)
        assert bytes(contents(other.take(1, 5))) == bytes(contents(other.take(2, 5)))

    def test_what_no_message_asked_for_is_dropped(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        for text in (b"lost", b"lost", b"found"):
            one.hand(shared(text))
        before = descriptors()
        found = other.take(3, 5)
        assert bytes(contents(found)) == b"found"
        assert descriptors() == before + 1

    def test_what_was_passed_over_is_not_there_any_more(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        one.hand(shared(b"first"))
        one.hand(shared(b"second"))
        del one
        other.take(1, 5)
        with pytest.raises(ValueError, match="not in the hatch any more"):
            other.take(1, 5)

    def test_what_was_not_put_in_is_not_there(self, ends: tuple[Hatch, Hatch]) -> None:
        with pytest.raises(ValueError, match="nothing is in the hatch"):
            ends[1].take(1, 5)

    def test_keeps_what_it_has_when_the_giver_is_gone(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        one.hand(shared(b"legacy"))
        one.close()
        assert bytes(contents(other.take(1, 6))) == b"legacy"
        with pytest.raises(ValueError, match="is not shared memory"):
            other.take(2, 6)

    def test_takes_nothing_for_one_who_is_gone(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        other.close()
        assert one.hand(shared(b"late")) == 0

    def test_a_closed_end_neither_gives_nor_takes(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        other.hand(shared(b"late"))
        one.close()
        assert one.hand(shared(b"late")) == 0
        with pytest.raises(ValueError, match="nothing is in the hatch"):
            one.take(1, 4)

    def test_is_full_at_some_point(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        memory = shared(b"many")
        count = 0
        while one.hand(memory):
            count += 1
            assert count < 10_000
        assert count > 10
        other.take(count, 4)  # and all before it
        assert one.hand(memory) == count + 1

    def test_a_thing_of_another_size_is_refused(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        one.hand(shared(b"short"))
        with pytest.raises(ValueError, match="no sealed memory"):
            other.take(1, 500)

    def test_a_message_without_a_thing_is_refused(
        self, stranger: tuple[socket.socket, Hatch]
    ) -> None:
        sender, hatch = stranger
        for data in (b"", b"x", b"\1" + bytes(7), b"y" * 100):
            sender.send(data)
            with pytest.raises(ValueError, match="not shared memory"):
                hatch.take(1, 5)

    def test_a_file_is_refused(self, stranger: tuple[socket.socket, Hatch]) -> None:
        sender, hatch = stranger
        before = descriptors()
        with open(__file__, "rb") as file:
            socket.send_fds(sender, [b"\1" + bytes(7)], [file.fileno()])
            size = os.fstat(file.fileno()).st_size
        with pytest.raises(ValueError, match="no sealed memory"):
            hatch.take(1, size)
        assert descriptors() == before

    def test_what_comes_when_all_descriptors_are_taken_is_read_out(self) -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * descriptors() + 20, limits[1]))
        with contextlib.ExitStack() as stack:
            stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, limits)
            one, other = map(Hatch, Hatch.pair() or ())
            stack.callback(one.close)
            stack.callback(other.close)
            for _ in range(3):
                assert one.hand(shared(b"squeezed"))
            with contextlib.suppress(OSError):
                while True:
                    stack.callback(os.close, os.dup(0))
            assert [other.take(serial, 8) for serial in (1, 2, 3)] == [b"squeezed"] * 3

    def test_no_more_than_one_thing_comes_at_a_time(
        self, stranger: tuple[socket.socket, Hatch]
    ) -> None:
        sender, hatch = stranger
        memory = shared(b"many")
        fds = array.array("i", [memory.fd] * 50)
        before = descriptors()
        rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)
        sender.sendmsg([b"\1" + bytes(7)], [rights])
        assert bytes(contents(hatch.take(1, 4))) == b"many"
        assert descriptors() == before


class TestWire:
    def test_shared_memory_goes_through_the_hatch(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        message = done(Blob(b"plain"), Blob(shared(b"shared")), Blob(b"too"))
        frames = encode(message, one)
        assert frames[1:] == [b"plain", b"too"]
        read = blobs_of(Reader(FromDaemon).read(frames, other))
        assert isinstance(read[1], Shared)
        assert [bytes(contents(data)) for data in read] == [b"plain", b"shared", b"too"]

    def test_without_a_hatch_it_is_a_frame(self) -> None:
        frames = encode(done(Blob(shared(b"shared"))))
        assert [bytes(frame) for frame in frames[1:]] == [b"shared"]
        read = blobs_of(Reader(FromDaemon).read(frames))
        assert [bytes(contents(data)) for data in read] == [b"shared"]

    def test_what_finds_no_room_is_a_frame(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        other.close()
        frames = encode(done(Blob(shared(b"shared"))), one)
        assert [bytes(frame) for frame in frames[1:]] == [b"shared"]

    def test_a_message_that_was_not_sent_costs_the_next_one_nothing(
        self, ends: tuple[Hatch, Hatch]
    ) -> None:
        one, other = ends
        encode(done(Blob(shared(b"lost"))), one)
        frames = encode(done(Blob(shared(b"found"))), one)
        read = blobs_of(Reader(FromDaemon).read(frames, other))
        assert [bytes(contents(data)) for data in read] == [b"found"]

    def test_without_a_hatch_nothing_is_taken_from_one(self, ends: tuple[Hatch, Hatch]) -> None:
        frames = encode(done(Blob(shared(b"shared"))), ends[0])
        with pytest.raises(ProtocolError, match="is nowhere"):
            Reader(FromDaemon).read(frames)

    @pytest.mark.parametrize(
        "reference",
        [
            [],
            [1],
            [2, 6],
            [0, 6],
            [-1, 6],
            [1, 5],
            [1, -6],
            [1, 2**63],
            [1.0, 6],
            [1, 6, 6],
            ["1", 6],
        ],
    )
    def test_a_reference_to_something_else_is_refused(
        self, ends: tuple[Hatch, Hatch], reference: list[object]
    ) -> None:
        one, other = ends
        frames = encode(done(Blob(shared(b"shared"))), one)
        message = msgspec.msgpack.decode(frames[0])
        assert message[1][0][3] == [[1, 6]]
        message[1][0][3] = [reference]
        with pytest.raises(ProtocolError):
            Reader(FromDaemon).read([msgspec.msgpack.encode(message)], other)

    def test_a_reference_is_good_once(self, ends: tuple[Hatch, Hatch]) -> None:
        one, other = ends
        frames, reader = encode(done(Blob(shared(b"shared"))), one), Reader(FromDaemon)
        reader.read(frames, other)
        with pytest.raises(ProtocolError, match="nothing is in the hatch"):
            reader.read(frames, other)


def test_where_no_descriptor_is_left_that_is_what_is_said(ends: tuple[Hatch, Hatch]) -> None:
    one, other = ends
    serial = one.hand(shared(b"data"))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        with pytest.raises(ValueError, match="no descriptor left"):
            other.take(serial, 4)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
