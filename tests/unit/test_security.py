"""Who may connect, without a socket: keys in, ZAP replies out."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
import zmq
from zmq.utils import z85

from dispatcher.keys import KeyPair
from dispatcher.security import DOMAIN, Gate, dial, listen

PAIR = KeyPair.new()
STRANGER = KeyPair.new()


def request(
    public: str = PAIR.public,
    *,
    way: list[bytes] | None = None,
    version: bytes = b"1.0",
    domain: bytes = DOMAIN,
    mechanism: bytes = b"CURVE",
) -> list[bytes]:
    """A ZAP request as libzmq's CURVE server makes it."""
    way = [b"route"] if way is None else way
    key = z85.decode(public)
    return [*way, b"", version, b"7", domain, b"127.0.0.1", b"", mechanism, key]


def gate() -> Gate[str]:
    gate: Gate[str] = Gate()
    gate.admit(PAIR.public, "owner")
    return gate


def test_a_known_key_is_let_in_and_named() -> None:
    expected = [b"route", b"", b"1.0", b"7", b"200", b"OK", PAIR.public.encode(), b""]
    assert gate().answer(request()) == expected


@pytest.mark.parametrize("way", [[], [b"a"], [b"a", b"b"]])
def test_the_reply_goes_the_way_that_the_request_came(way: list[bytes]) -> None:
    answer = gate().answer(request(way=way))
    assert answer[: len(way) + 1] == [*way, b""]
    assert len(answer) == len(way) + 1 + 6


BAD = {
    "a stranger": request(STRANGER.public),
    "another domain": request(domain=b"other"),
    "no domain": request(domain=b""),
    "another version": request(version=b"2.0"),
    "NULL": request(mechanism=b"NULL")[:-1],
    "NULL with a key": request(mechanism=b"NULL"),
    "PLAIN": [*request(mechanism=b"PLAIN")[:-1], b"user", b"password"],
    "no key": [*request()[:-1], b""],
    "another frame": [*request(), b""],
    "nothing": [b"route", b""],
    "only a version": [b"route", b"", b"1.0"],
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD.keys())
def test_everything_else_is_refused(bad: list[bytes]) -> None:
    way, body = bad[:2], bad[2:]
    answer = gate().answer(bad)
    assert answer[:2] == way
    assert answer[2:4] == [*body, b"", b""][:2]
    assert answer[4:] == [b"400", b"refused", b"", b""]


@pytest.mark.parametrize("length", [1, 31, 33])
def test_a_key_of_another_length_is_refused(length: int) -> None:
    answer = gate().answer([*request()[:-1], bytes(length)])
    assert answer[4:] == [b"400", b"refused", b"", b""]


def test_an_empty_gate_lets_nobody_in() -> None:
    assert Gate[str]().answer(request())[4] == b"400"


def test_a_revoked_key_is_refused() -> None:
    guarded = gate()
    guarded.admit(STRANGER.public, "another")
    guarded.revoke(PAIR.public)
    assert guarded.answer(request())[4] == b"400"
    assert guarded.answer(request(STRANGER.public))[4] == b"200"
    assert guarded.owner(PAIR.public) is None
    guarded.revoke(PAIR.public)  # once more does no harm
    assert guarded.owner(STRANGER.public) == "another"


def test_a_gate_knows_whose_key_it_is() -> None:
    assert gate().owner(PAIR.public) == "owner"
    assert gate().owner(STRANGER.public) is None
    assert gate().owner("") is None


def test_a_secret_is_not_an_identity() -> None:
    assert gate().answer(request(PAIR.secret))[4] == b"400"


def test_pairs_are_fresh_and_well_formed() -> None:
    assert PAIR.public != STRANGER.public
    assert PAIR.secret != STRANGER.secret
    assert len(PAIR.public) == len(PAIR.secret) == 40
    assert len(z85.decode(PAIR.public)) == len(z85.decode(PAIR.secret)) == 32


def test_a_pair_does_not_show_its_secret() -> None:
    for shown in (repr(PAIR), str(PAIR), f"{[PAIR]}"):
        assert PAIR.public in shown
        assert PAIR.secret not in shown


def test_who_listens_hears_of_a_peer_that_is_not_there() -> None:
    """Without ROUTER_MANDATORY, what is sent to nobody is dropped without a word."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = listen(context, PAIR)
    with pytest.raises(zmq.ZMQError) as caught:
        router.send_multipart([b"nobody", b""], zmq.NOBLOCK)
    assert caught.value.errno == errno.EHOSTUNREACH
    context.destroy(linger=0)


def test_no_queue_is_cut_and_nobody_is_waited_for_too_long() -> None:
    """Credit bounds the queues; what cannot be sent in the end is given up soon."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = listen(context, PAIR)
    assert router.getsockopt(zmq.BACKLOG) > 500  # all daemons that come back at once
    dealer = dial(context, PAIR, STRANGER.public)
    assert 0 < int(dealer.getsockopt(zmq.CONNECT_TIMEOUT)) <= 10_000  # where nothing answers
    assert int(dealer.getsockopt(zmq.RECONNECT_IVL)) > 3_600_000  # who comes back is a new peer
    for socket in (router, dealer):
        assert (socket.sndhwm, socket.rcvhwm) == (0, 0)
        assert 0 <= socket.linger <= 1_000
    context.destroy(linger=0)


def test_without_curve_nothing_listens_or_dials(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pyzmq can be built without; then there is no falling back to plain text."""
    monkeypatch.setattr(zmq, "has", lambda capability: capability != "curve")
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    attempts: list[Callable[[], object]] = [
        KeyPair.new,
        lambda: listen(context, PAIR),
        lambda: dial(context, PAIR, STRANGER.public),
    ]
    for attempt in attempts:
        with pytest.raises(OSError, match="this pyzmq has no CURVE"):
            attempt()
    context.destroy(linger=0)
