"""A link over a line: what its owner waits for, and what other threads may do."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from dispatcher.ends import stream_pair
from dispatcher.line import Line
from dispatcher.messages import Ask, Message, Ping, Pong, Printed, ProtocolError, ToDaemon
from dispatcher.wire import decode, encode
from mirai._line_link import LineLink

pytestmark = pytest.mark.skipif(os.name != "posix", reason="there are no such sockets")

LARGE = Printed(1, "x" * (4 << 20))


@pytest.fixture
def link() -> Iterator[tuple[LineLink, Line]]:
    """A daemon's link, and the dispatcher's end of its line."""
    ours, theirs = stream_pair()
    it, there = LineLink(Line(ours), "ipc://@mirai-test", ToDaemon), Line(theirs)
    yield it, there
    it.close()
    there.close()


def heard(there: Line) -> list[Message]:
    return [decode(frames, Message) for frames in there.receive()]


def test_what_is_said_on_both_sides(link: tuple[LineLink, Line]) -> None:
    it, there = link
    there.send(encode(Ping()))
    it.wait(None)
    assert list(it.receive()) == [Ping()]
    it.send(Pong())
    assert heard(there) == [Pong()]
    assert not (it.ended or it.denied or it.shares) and it.reached and it.proved


def test_the_bell_ends_a_wait_once(link: tuple[LineLink, Line]) -> None:
    it, _ = link
    ringer = threading.Thread(target=it.ring)
    ringer.start()
    it.wait(None)
    ringer.join()
    it.wait(0)
    assert list(it.receive()) == []


def test_a_wait_for_longer_than_the_system_counts(link: tuple[LineLink, Line]) -> None:
    it, _ = link
    it.ring()
    it.wait(1e12)


def test_what_was_left_is_not_waited_for(link: tuple[LineLink, Line]) -> None:
    it, there = link
    for _ in range(3):
        there.send(encode(Ping()))
    it.wait(None)
    assert next(iter(it.receive())) == Ping()
    it.wait(None)
    assert list(it.receive()) == [Ping(), Ping()]


def test_the_end_is_no_thing_to_wait_for(link: tuple[LineLink, Line]) -> None:
    it, there = link
    there.send(encode(Ping()))
    there.close()
    found: list[Message] = []
    while not it.ended:
        it.wait(None)
        found += it.receive()
    assert found == [Ping()]
    it.wait(None)
    it.send(Pong())


def test_what_only_others_may_say(link: tuple[LineLink, Line]) -> None:
    it, there = link
    there.send(encode(Ask(1)))
    with pytest.raises(ProtocolError):
        list(it.receive())


def test_what_another_thread_sends_leaves_though_the_owner_waits_already(
    link: tuple[LineLink, Line],
) -> None:
    """Also where the line cannot take it all at once."""
    it, there = link
    found: list[Message] = []
    over = threading.Event()

    def own() -> None:
        while not over.is_set():
            it.wait(None)

    owner = threading.Thread(target=own)
    owner.start()
    it.send(LARGE)
    while not found:
        found += heard(there)
    over.set()
    it.ring()
    owner.join()
    assert found == [LARGE]


def test_several_threads_send_whole_messages(link: tuple[LineLink, Line]) -> None:
    it, there = link
    found: list[Message] = []

    def say(number: int) -> None:
        for _ in range(200):
            it.send(Printed(number, str(number) * 20_000))

    threads = [threading.Thread(target=say, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while len(found) < 4 * 200:
        it.wait(0.001)
        found += heard(there)
    for thread in threads:
        thread.join()
    assert all(each == Printed(each.id, str(each.id) * 20_000) for each in found)  # type: ignore[union-attr]
