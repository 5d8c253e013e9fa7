"""How a connection ends where nobody has meant it to: whoever waits is told, nothing is lost."""

from __future__ import annotations

import threading

import pytest
import zmq

from dispatcher import server
from dispatcher.keys import KeyPair
from dispatcher.messages import VERSION, Done, Hello, Kind, Outcome, Role, ToClient
from dispatcher.processes import Plan
from dispatcher.security import dial
from dispatcher.wire import encode
from mirai import MiraiError, ProtocolError, daemons
from mirai._channel import Channel
from mirai._link import Link
from mirai._options import DEFAULTS

NOBODY = "ipc://@mirai-test-nobody"


def test_a_dispatcher_that_talks_nonsense() -> None:
    pair, client = KeyPair.new(), KeyPair.new()
    plan = Plan(0, [], "", {})
    it = server.Server(server.Config("ipc", pair.public, pair.secret, client.public, plan))
    link = Link(it.url, client, pair.public, ToClient)
    channel = Channel(link, profile="test", explain=lambda: None)
    future = channel.submit(abs, [((-1,), {})], DEFAULTS)[0]
    while not it._core.has_waiting():
        it.turn(0.01)
    (route,) = it._router._peers
    it._router._router.send_multipart([route, b"nonsense"])
    error = future.exception(timeout=20)
    channel.close(MiraiError("the test is over"))
    it.close()
    assert isinstance(error, ProtocolError)
    assert "the dispatcher sent nonsense" in str(error)


def test_all_that_a_peer_has_sent_counts_before_its_loss() -> None:
    pair, daemon = KeyPair.new(), KeyPair.new()
    plan, guests = Plan(0, [], "", {}), {daemon.public: Role.DAEMON}
    it = server.Server(
        server.Config("ipc", pair.public, pair.secret, KeyPair.new().public, plan, guests)
    )
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peer = dial(context, daemon, pair.public)
    peer.connect(it.url)
    peer.send_multipart(encode(Hello(VERSION, "here", 1)))
    while not it._peers:
        it.turn(0.01)
    for key in range(1_000):
        peer.send_multipart(encode(Done((Outcome(key, Kind.VALUE),))))
    context.destroy(linger=10_000)
    while it._peers:
        it.turn(0.01)
    heard = it._core.dropped, it._core.report(0.0).rejected
    it.close()
    assert heard == (1_000, 0)  # it was given none of these tasks


class Broken(Link):
    """One with a bug."""

    go: threading.Event

    def wait(self, timeout: float | None) -> None:  # noqa: ARG002
        self.go.wait()
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_its_thread() -> None:
    """Nobody may wait for ever because of it, nor he whose task has not been sent."""
    link = Broken(NOBODY, KeyPair.new(), KeyPair.new().public, ToClient)
    link.go = threading.Event()
    channel = Channel(link, profile="test", explain=lambda: None)
    future = channel.submit(abs, [((-1,), {})], DEFAULTS)[0]
    asked = channel.ask()
    drained = channel.drained()
    link.go.set()
    for each in (future, asked):
        with pytest.raises(MiraiError, match="the channel failed: ZeroDivisionError"):
            each.result(timeout=20)
    assert drained.result(timeout=20) is None
    channel.close(MiraiError("the test is over"))


def test_whoever_asks_again_and_again_whether_daemons_are_there_waits_for_one_answer() -> None:
    with daemons(url="tcp://127.0.0.1:0") as pool:
        for _ in range(5):
            with pytest.raises(TimeoutError, match="0 of 2 daemons have joined"):
                pool.wait(2, timeout=0)
        assert isinstance(pool._channel, Channel)
        assert len(pool._channel._asked) == 1
        pool.scale(2)
        pool.wait(2, timeout=30)
