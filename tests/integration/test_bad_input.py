"""Whatever a peer may send or do to a dispatcher, while another client's work goes on.

One dispatcher with CURVE on TCP serves all tests of this file, so that it must have survived each
of them; a stream of another client's tasks runs all the while, and its results are looked at.

The protocol has no credit that a peer could lie about, and no ids of daemons: a daemon is its
connection.  So "result before start" is an outcome of a task that it was not given, and a "stale
epoch" is what it says of the tasks of a former connection.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import re
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from conftest import wait_until
from hostile import (
    CURVE,
    FRAME,
    HANDSHAKE,
    HEADER,
    HELLO,
    ZMTP_3,
    Ended,
    Peer,
    Relay,
    Standing,
    Stream,
    pieces,
    raw,
    until_hung_up,
)

from dispatcher.checks import MAX_ID
from dispatcher.keys import KeyPair
from dispatcher.messages import (
    VERSION,
    Ask,
    Blob,
    Cancel,
    Consult,
    Crash,
    Done,
    Everywhere,
    Function,
    Hello,
    Kind,
    Leave,
    Message,
    Outcome,
    Printed,
    Refused,
    Results,
    Returned,
    Role,
    Run,
    Scale,
    Stop,
    Submit,
    Task,
    Welcome,
)
from dispatcher.requests import Reset
from dispatcher.router import MESSAGES_A_TURN
from dispatcher.wire import MAX_FRAMES, encode
from mirai import (
    DispatcherLost,
    MiraiError,
    ProtocolError,
    RemoteError,
    SerializationError,
    connect,
    daemons,
    mirai,
)
from mirai._connection import Connection
from mirai._serialize import pack

CLIENT, DAEMON = Role.CLIENT, Role.DAEMON


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    standing = Standing(tmp_path_factory.mktemp("pool"))
    yield standing
    standing.close()


@pytest.fixture(scope="module")
def stream(pool: Standing) -> Iterator[Stream]:
    honest = Stream(pool)
    honest.goes_on()
    yield honest
    honest.close()


@pytest.fixture(autouse=True)
def undisturbed(pool: Standing, stream: Stream) -> Iterator[None]:
    """Another client's work is done before, during and after each test."""
    stream.goes_on()
    yield
    stream.goes_on()
    assert pool.process.poll() is None


def report(stream: Stream) -> tuple[int, int, int, int]:
    """Return how much was refused: messages, keys, strangers, peers."""
    status = stream.client.status()
    refusals = status.refusals
    return status.rejected, refusals.keys, refusals.strangers, refusals.peers


# ── messages of those who have a key ─────────────────────────────────────────────────────


@dataclass(frozen=True)
class Told:
    """It is counted, the peer is told why, once, and its connection is ended."""

    why: str


@dataclass(frozen=True)
class Dropped:
    """Nothing comes of it; the peer is served as before."""


@dataclass(frozen=True)
class Cut:
    """Its connection ends without a word: libzmq has not let it through."""


Verdict = Told | Dropped | Cut
Act = Callable[[Peer], object]


def header(*fields: Any) -> Act:
    """Send a header of these fields, well-formed MessagePack."""
    return frames(msgspec.msgpack.encode(fields))


def frames(*data: bytes) -> Act:
    return lambda peer: peer.send(*data)


def say(*messages: Message) -> Act:
    return lambda peer: peer.say(*messages)


F = Function(1, "f", *pack(divmod))


def task(id: int, **fields: Any) -> Task:
    return Task(id, 1, *pack(((7, 2), {})), tags=("nobody",), **fields)


def submit(*ids: int, **fields: Any) -> Message:
    return Submit(tuple(task(id, **fields) for id in ids), (F,))


def a_result(peer: Peer) -> None:
    message = peer.next()
    assert isinstance(message, Results)
    assert message.outcomes[0].kind is Kind.VALUE


def the_largest_id(peer: Peer) -> None:
    peer.submit(MAX_ID, divmod, 7, 2)
    message = peer.next()
    assert isinstance(message, Results)
    (outcome,) = message.outcomes
    assert (outcome.id, outcome.kind) == (MAX_ID, Kind.VALUE)
    peer.say(Submit((task(3),), (F,)))


def finished(peer: Peer) -> None:
    peer.submit(1, divmod, 7, 2)
    a_result(peer)
    peer.say(Cancel((1,)), Cancel((1,)))


UTF = b"\xff\xfe"
NOT_A_MESSAGE = "not a message"
LIE = 2**32 - 1
PUSH = b"\x94\xa7Consult\x01\xa1b\x92\xa4Push"
AS_A_DAEMON = "Invalid value 'Done'"

BEFORE_HELLO: list[tuple[str, Role, Act, Verdict]] = [
    ("nothing", CLIENT, frames(b""), Told(NOT_A_MESSAGE)),
    ("nothing, of a daemon", DAEMON, frames(b""), Told(NOT_A_MESSAGE)),
    ("no hello", CLIENT, say(submit(1)), Told(NOT_A_MESSAGE)),
    ("no hello, of a daemon", DAEMON, say(Done(())), Told(NOT_A_MESSAGE)),
    ("a hello with a frame too many", CLIENT, frames(*encode(Hello(VERSION)), b""), Told("blobs")),
    ("a version before ours", CLIENT, say(Hello(VERSION - 1)), Told(f"{VERSION - 1}.*{VERSION}")),
    ("a version after ours", CLIENT, say(Hello(VERSION + 1)), Told(f"{VERSION + 1}.*{VERSION}")),
    ("a daemon's version", DAEMON, say(Hello(VERSION + 1)), Told(f"{VERSION + 1}.*{VERSION}")),
    (
        "a version that says more in its hello",
        CLIENT,
        header("Hello", VERSION + 1, "host", 1, [], {"more": 1}, 2),
        Told(f"{VERSION + 1}.*{VERSION}"),
    ),
    ("a version that is no number", CLIENT, header("Hello", "1"), Told(NOT_A_MESSAGE)),
    ("a host that is no UTF-8", CLIENT, frames(b"\x93\xa5Hello\x01\xa2" + UTF), Told("utf-8")),
    ("a tag that is no UTF-8", DAEMON, frames(b"\x95\xa5Hello\x01\xa0\0\x91\xa2" + UTF), Told("")),
]

AFTER_HELLO: list[tuple[str, Role, Act, Verdict]] = [
    # Frames.
    ("an empty frame", CLIENT, frames(b""), Told(NOT_A_MESSAGE)),
    ("257 frames", CLIENT, frames(*encode(Cancel(())), *[b"x"] * 256), Told("256 blobs")),
    ("100,000 frames", CLIENT, frames(*[b""] * 100_000), Told(f"{MAX_FRAMES + 1} frames")),
    ("the largest header", CLIENT, frames(bytes(HEADER)), Told(NOT_A_MESSAGE)),
    ("a larger header", CLIENT, frames(bytes(HEADER + 1)), Told(f"header of {HEADER + 1} bytes")),
    ("the largest frame", CLIENT, frames(b"\xc0", bytes(FRAME - 1_000)), Told(NOT_A_MESSAGE)),
    ("a larger frame", CLIENT, frames(b"\xc0", bytes(FRAME + 1)), Cut()),
    # Headers.
    ("garbage", CLIENT, frames(bytes(range(256))), Told(NOT_A_MESSAGE)),
    ("half a message", CLIENT, frames(encode(submit(1))[0][:40]), Told(NOT_A_MESSAGE)),
    ("more behind it", CLIENT, frames(encode(Cancel(()))[0] + b"\0"), Told(NOT_A_MESSAGE)),
    ("an array that lies", CLIENT, frames(b"\xdd" + struct.pack(">I", LIE)), Told(NOT_A_MESSAGE)),
    (
        "ids that lie",
        CLIENT,
        frames(b"\x92\xa6Cancel\xdd" + struct.pack(">I", LIE)),
        Told(NOT_A_MESSAGE),
    ),
    (
        "a payload that lies",
        DAEMON,
        frames(b"\x92\xa4Done\x91\x93\x01\x00\xc6" + struct.pack(">I", LIE)),
        Told(NOT_A_MESSAGE),
    ),
    ("a nest", CLIENT, frames(b"\x92\xa6Cancel" + b"\x91" * 100_000), Told(NOT_A_MESSAGE)),
    ("a map", CLIENT, header({"type": "Cancel"}), Told(NOT_A_MESSAGE)),
    ("a name that is no UTF-8", CLIENT, frames(b"\x92\xa2" + UTF + b"\x90"), Told(NOT_A_MESSAGE)),
    (
        "a function's name that is no UTF-8",
        CLIENT,
        frames(b"\x93\xa6Submit\x90\x91\x93\x01\xa2" + UTF + b"\xc4\0"),
        Told("utf-8"),
    ),
    # Blobs.
    ("a blob that is missing", CLIENT, header("Submit", [[1, 1, b"", [1]]]), Told("blob 1")),
    ("a blob in no hatch", CLIENT, header("Submit", [[1, 1, b"", [[1, 9]]]]), Told("nowhere")),
    # Opcodes.
    ("an unknown opcode", CLIENT, header("Obey", 1), Told("Obey")),
    ("an opcode that is a number", CLIENT, header(7, 1), Told(NOT_A_MESSAGE)),
    ("a daemon's opcode", CLIENT, say(Done(())), Told("Done")),
    ("a daemon's farewell", CLIENT, say(Leave()), Told("Leave")),
    ("the dispatcher's opcode", CLIENT, say(Welcome()), Told("Welcome")),
    ("the dispatcher's results", CLIENT, say(Results(())), Told("Results")),
    ("a client's opcode", DAEMON, say(submit(1)), Told("Submit")),
    ("a client's question", DAEMON, say(Ask(1)), Told("Ask")),
    ("a client's cancel", DAEMON, say(Cancel((1,))), Told("Cancel")),
    ("a client's scale", DAEMON, say(Scale(9)), Told("Scale")),
    ("a client's board", DAEMON, say(Consult(1, "b", Reset())), Told("Consult")),
    ("the dispatcher's order", DAEMON, say(Run(())), Told("Run")),
    ("the dispatcher's end", DAEMON, say(Stop()), Told("Stop")),
    # The order of things.
    ("hello twice", CLIENT, say(Hello(VERSION)), Told("second hello")),
    ("hello twice, of a daemon", DAEMON, say(Hello(VERSION)), Told("second hello")),
    # Tasks.
    ("a task 0", CLIENT, say(submit(0)), Told("task 0 after task 0")),
    ("a task -1", CLIENT, say(submit(-1)), Told("task -1 after task 0")),
    ("a task twice", CLIENT, say(submit(1), Submit((task(1),))), Told("task 1 after task 1")),
    ("a task twice at once", CLIENT, say(submit(2, 2)), Told("task 2 after task 2")),
    ("task 2^62 and another", CLIENT, the_largest_id, Told(f"task 3 after task {MAX_ID}")),
    ("task 2^64-1", CLIENT, say(submit(2**64 - 1)), Told("no numbers after")),
    (
        "task 2^64-1 and one that follows",
        CLIENT,
        say(Submit((Task(2**64 - 1, 1, b"", following=(b"",)),), (F,))),
        Told("no numbers after"),
    ),
    (
        "a run of 1,001 tasks",
        CLIENT,
        say(Submit((Task(1, 1, b"", following=(b"",) * 1_000),), (F,))),
        Told("a run of 1001 tasks"),
    ),
    (
        "a run with blobs",
        CLIENT,
        say(Submit((Task(1, 1, b"", (Blob(b"b"),), following=(b"",)),), (F,))),
        Told("none that others could be like"),
    ),
    (
        "outcomes that overlap",
        DAEMON,
        say(Done(tuple(Outcome(id, Kind.VALUE, b"", following=(b"",) * 5) for id in (1, 3, 2)))),
        Dropped(),
    ),
    (
        "errors in a run",
        DAEMON,
        say(Done((Outcome(1, Kind.ERROR, following=(b"",)),))),
        Told("not all plain values"),
    ),
    ("a task 2^64", CLIENT, frames(b"\x92\xa6Submit\x91\x93\xcf" + b"\xff" * 9), Told("")),
    ("an unknown function", CLIENT, say(Submit((task(1),))), Told("unknown function")),
    ("a function twice", CLIENT, say(Submit((), (F,)), Submit((), (F,))), Told("used twice")),
    ("forgetting the unknown", CLIENT, say(Submit((), (), (5,))), Told("not known")),
    ("a call of an unknown function", CLIENT, say(Everywhere((), task(0))), Told("unknown")),
    (
        "calls out of order",
        CLIENT,
        say(Submit((), (F,)), Everywhere((2, 1), task(0))),
        Told("task 1 after task 2"),
    ),
    ("cancelling the unknown", CLIENT, say(Cancel((1, 0, -1, 2**64 - 1))), Dropped()),
    ("cancelling the finished", CLIENT, finished, Dropped()),
    ("no time", CLIENT, say(submit(1, timeout=-math.inf)), Dropped()),
    ("no number of seconds", CLIENT, say(submit(1, timeout=math.nan)), Dropped()),
    ("all time", CLIENT, say(submit(1, timeout=math.inf)), Dropped()),
    ("the least", CLIENT, say(submit(1, priority=-(2**63), retries=-(2**63))), Dropped()),
    ("the most", CLIENT, say(submit(1, priority=2**64 - 1, retries=2**64 - 1)), Dropped()),
    ("scale -1", CLIENT, say(Scale(-1)), Told(NOT_A_MESSAGE)),
    ("scale 10,001", CLIENT, say(Scale(10_001)), Told(NOT_A_MESSAGE)),
    ("scale 10,000 where none may run", CLIENT, say(Scale(10_000)), Dropped()),
    # Boards.
    ("an unknown request", CLIENT, header("Consult", 1, "b", ["Obey"]), Told("Obey")),
    ("a request with a wrong part", CLIENT, header("Consult", 1, "b", ["Pop", 7]), Told("str")),
    ("pushing without end", CLIENT, frames(PUSH + b"\xdd\xff\xff\xff\xff"), Told("100000")),
    ("an object that is not there", CLIENT, header("Consult", 1, "b", ["Put", "x", 1]), Told("")),
    # Outcomes.
    ("an outcome of the unknown", DAEMON, say(Done((Outcome(2**64 - 1, Kind.VALUE),))), Dropped()),
    ("an outcome of task -1", DAEMON, say(Done((Outcome(-1, Kind.ERROR),))), Dropped()),
    (
        "an outcome that only a dispatcher knows",
        DAEMON,
        say(Done((Outcome(1, Kind.CRASHED, crash=Crash("I lie")),))),
        Told("only a dispatcher"),
    ),
    ("an outcome of no kind", DAEMON, header("Done", [[1, 9]]), Told(NOT_A_MESSAGE)),
    ("handing back the unknown", DAEMON, say(Returned((0, 1, 2**64 - 1))), Dropped()),
    ("printing in an unknown name", DAEMON, say(Printed(1, "I lie")), Dropped()),
]


@pytest.mark.parametrize(
    ("greets", "role", "act", "verdict"),
    [
        pytest.param(greets, role, act, verdict, id=name)
        for greets, cases in ((False, BEFORE_HELLO), (True, AFTER_HELLO))
        for name, role, act, verdict in cases
    ],
)
def test_a_message(
    pool: Standing, stream: Stream, greets: bool, role: Role, act: Act, verdict: Verdict
) -> None:
    messages, keys, strangers, peers = report(stream)
    with Peer(pool, role) as peer:
        if greets:
            peer.hello(tags=("bad",))
        act(peer)
        match verdict:
            case Told(why):
                refused = peer.next()
                assert isinstance(refused, Refused), refused
                assert re.search(why, refused.reason), refused.reason
                assert report(stream) == (messages + 1, keys, strangers, peers + 1)
            case Dropped():
                is_served(pool, peer, role)
                assert report(stream) == (messages, keys, strangers, peers)
            case Cut():
                assert peer.rest() == []
                assert report(stream) == (messages, keys, strangers, peers)


def is_served(pool: Standing, peer: Peer, role: Role) -> None:
    """A client is answered; a daemon is given tasks, and what it says of them is passed on."""
    if role is CLIENT:
        assert peer.is_served()
        return
    with Peer(pool).hello() as client:
        client.submit(1, divmod, 7, 2, tags=("bad",))
        run = peer.next()
        assert isinstance(run, Run)
        peer.say(Done((Outcome(run.tasks[0].id, Kind.VALUE, b"answer"),)))
        results = client.next()
        assert isinstance(results, Results)
        assert results.outcomes == (Outcome(1, Kind.VALUE, b"answer"),)


def test_one_that_goes_on_is_told_once(pool: Standing, stream: Stream) -> None:
    """However much it sends: what it is told must not pile up where it does not read it."""
    messages, *_, peers = report(stream)
    with Peer(pool).hello() as peer:
        for _ in range(300):
            peer.send(b"nonsense")
        assert isinstance(peer.next(), Refused)
        wait_until(lambda: report(stream)[-1] == peers + 1)
        for _ in range(300):
            peer.send(b"nonsense")
        assert peer.rest() == []
    assert messages < report(stream)[0] <= messages + 600
    assert report(stream)[-1] == peers + 1


def test_the_log_tells_of_it_in_moderation_and_without_secrets(
    pool: Standing, stream: Stream
) -> None:
    bell = "\a\x1b[2J\n"
    for _ in range(30):
        with Peer(pool).hello() as peer:
            peer.send(msgspec.msgpack.encode([bell + "Opcode" + "x" * 1_000, b"secret"]))
            assert isinstance(peer.next(), Refused)
    said = pool.log.read_text()
    assert re.search(r"WARNING dispatcher peer refused: (client \d+ at )?127.0.0.1:\d+: ", said)
    lines = said.splitlines()
    assert len(lines) < 20 + report(stream)[-1] // 5
    assert all(line.startswith("WARNING dispatcher ") and line.isprintable() for line in lines)
    assert max(map(len, lines)) < 400
    assert "secret" not in said
    assert not any(key in said for key in pool.secrets())


def test_status_shows_it(pool: Standing, stream: Stream) -> None:
    with Peer(pool) as peer:
        peer.send(b"nonsense")
        assert isinstance(peer.next(), Refused)
    messages, keys, strangers, peers = report(stream)
    line = (
        f"refused: {keys} keys, {strangers} strangers, {messages} messages; {peers} peers cut off"
    )
    assert line in str(stream.client.status()).splitlines()


# ── states that take more than one peer ──────────────────────────────────────────────────


def test_a_result_twice(pool: Standing) -> None:
    with Peer(pool, DAEMON).hello(tags=("bad",)) as daemon, Peer(pool).hello() as client:
        client.submit(1, tags=("bad",))
        run = daemon.next()
        assert isinstance(run, Run)
        key = run.tasks[0].id
        daemon.say(Done((Outcome(key, Kind.VALUE, b"1"), Outcome(key, Kind.VALUE, b"2"))))
        daemon.say(Done((Outcome(key, Kind.ERROR, b"3"),)), Returned((key,)))
        results = client.next()
        assert results == Results((Outcome(1, Kind.VALUE, b"1"),))
        is_served(pool, daemon, DAEMON)
        assert client.is_served()


def test_a_daemon_cannot_answer_what_another_was_given(pool: Standing) -> None:
    with (
        Peer(pool, DAEMON).hello(tags=("bad",)) as daemon,
        Peer(pool, DAEMON).hello(tags=("worse",)) as other,
        Peer(pool).hello() as client,
    ):
        client.submit(1, tags=("bad",))
        run = daemon.next()
        assert isinstance(run, Run)
        key = run.tasks[0].id
        other.say(Done((Outcome(key, Kind.VALUE, b"lie"),)), Returned((key,)), Printed(key, "lie"))
        is_served_with(pool, other, "worse")
        daemon.say(Done((Outcome(key, Kind.VALUE, b"truth"),)))
        assert client.next() == Results((Outcome(1, Kind.VALUE, b"truth"),))


def is_served_with(pool: Standing, daemon: Peer, tag: str) -> None:
    with Peer(pool).hello() as client:
        client.submit(1, tags=(tag,))
        assert isinstance(daemon.next(), Run)


def test_what_a_daemon_says_before_it_goes_is_heard(pool: Standing) -> None:
    """Its last result counts, though the dispatcher learns of its end at the same time.

    The result comes behind more than what is read in one turn, and all of it while the dispatcher
    looks away.
    """
    with Peer(pool).hello() as client:
        daemon = Peer(pool, DAEMON).hello(tags=("bad",))
        client.submit(1, tags=("bad",))
        run = daemon.next()
        assert isinstance(run, Run)
        pool.process.send_signal(signal.SIGSTOP)
        try:
            daemon.say(*[Returned((0,))] * 2 * MESSAGES_A_TURN)
            daemon.say(Done((Outcome(run.tasks[0].id, Kind.VALUE, b"last"),)))
            daemon.close(linger=20)
        finally:
            pool.process.send_signal(signal.SIGCONT)
        assert client.next() == Results((Outcome(1, Kind.VALUE, b"last"),))


def test_a_stale_epoch(pool: Standing) -> None:
    """A daemon that comes back is a new one, and has nothing to say of what it was given."""
    with Peer(pool).hello() as client:
        with Peer(pool, DAEMON).hello(tags=("bad",), pid=7) as daemon:
            client.submit(1, tags=("bad",))
            run = daemon.next()
            assert isinstance(run, Run)
        results = client.next()
        assert isinstance(results, Results)
        assert results.outcomes[0].kind is Kind.CRASHED
        with Peer(pool, DAEMON).hello(tags=("bad",), pid=7) as again:
            again.say(Done((Outcome(run.tasks[0].id, Kind.VALUE, b"late"),)))
            is_served(pool, again, DAEMON)
        assert client.is_served()  # and has heard nothing else


def test_the_same_name_twice(pool: Standing) -> None:
    """A name is for people: two daemons, and two clients, may well have the same."""
    with (
        Peer(pool, DAEMON).hello(tags=("bad",), host="same", pid=7) as one,
        Peer(pool, DAEMON).hello(tags=("worse",), host="same", pid=7) as other,
        Peer(pool).hello(host="other", pid=7) as client,
        Peer(pool).hello(host="other", pid=7) as namesake,
    ):
        is_served(pool, one, DAEMON)
        is_served_with(pool, other, "worse")
        assert client.is_served()
        assert namesake.is_served()


def test_a_foreign_task_cannot_be_cancelled(pool: Standing) -> None:
    with (
        Peer(pool, DAEMON).hello(tags=("bad",)) as daemon,
        Peer(pool).hello() as client,
        Peer(pool).hello() as other,
    ):
        client.submit(5, tags=("bad",))
        run = daemon.next()
        assert isinstance(run, Run)
        key = run.tasks[0].id
        other.say(Cancel((5, key)), Cancel(tuple(range(100))))
        assert other.is_served()
        daemon.say(Done((Outcome(key, Kind.VALUE, b"done"),)))  # and it was not interrupted
        assert client.next() == Results((Outcome(5, Kind.VALUE, b"done"),))


def test_a_routing_id_that_is_taken(pool: Standing) -> None:
    """One that chooses another's routing id is not heard, and takes nothing from him."""
    with Peer(pool, identity=b"same").hello() as first:
        with Peer(pool, identity=b"same") as second:
            second.wait_until_in()
            second.say(Hello(VERSION), Ask(1))
            assert first.is_served()
            assert second.socket.poll(0) == 0
        assert first.is_served()


def test_a_newcomer_is_not_taken_for_who_had_its_descriptor(pool: Standing) -> None:
    """What a bad peer has sent may be read when its descriptor is another connection's already."""
    for _ in range(3):
        bad = Peer(pool)
        bad.wait_until_in()
        with Peer(pool).hello() as busy:
            ids = tuple(range(1, 60_000))
            busy.say(Submit((), (F,)), *[Cancel(ids)] * 20)  # it takes a while to look through
            bad.send(b"nonsense")
            bad.close()
            with Peer(pool) as good:
                assert good.hello().is_served()


# ── payloads ─────────────────────────────────────────────────────────────────────────────

DEEP = b"\x80\x05" + b"(" * 100_000 + b"t" * 100_000 + b"."
"""Tuples in tuples."""
DEEP_CALLS = b"\x80\x04" + b"cbuiltins\nlist\n(" * 20_000 + b"]" + b"tR" * 20_000 + b"."

PAYLOADS = {
    "nothing": b"",
    "garbage": b"\xff" * 100,
    "half a pickle": pickle.dumps(((7, 2), {}))[:-5],
    "an unknown protocol": b"\x80\x7f.",
    "what is not there": b"cnowhere\nnothing\n.",
    "a length that lies": b"\x80\x05\x8e" + b"\xff" * 7 + b"\x7f",
    "a memo that lies": b"\x80\x05\x8a\x01\x01r\xff\xff\xff\x7f.",
    "depth": DEEP,
    "depth of calls": DEEP_CALLS,
    "what is no arguments": pickle.dumps(7),
    "a buffer that is missing": b"\x80\x05\x97.",
    "what raises when it is loaded": b"cbuiltins\nint\n(Vx\ntR.",
    "what exits when it is loaded": b"csys\nexit\n(I0\ntR.",
    "what interrupts when it is loaded": b"c_signal\nraise_signal\n(I2\ntR.",
}

FOR_A_HOST = [name for name in PAYLOADS if "exits" not in name and "interrupts" not in name]
"""A pickle is a program: whoever reads one may be ended by it."""
HARMLESS = ("depth", "depth of calls", "what is no arguments")
"""Those of which an object comes."""


@pytest.mark.parametrize("payload", PAYLOADS.values(), ids=PAYLOADS.keys())
@pytest.mark.parametrize("where", ["task", "function"])
def test_a_payload_for_a_daemon(pool: Standing, stream: Stream, where: str, payload: bytes) -> None:
    """It is an error of that task, and the daemon goes on."""
    before = {daemon.pid for daemon in stream.client.status().daemons}
    good = pack(((7, 2), {}))
    function = Function(1, "f", payload) if where == "function" else F
    arguments = (payload, ()) if where == "task" else good
    with Peer(pool).hello() as client:
        client.say(Submit((Task(1, 1, *arguments, tags=("honest",)),), (function,)))
        results = client.next()
        assert isinstance(results, Results), results
        assert results.outcomes[0].kind in (Kind.ERROR, Kind.CANCELLED)
    assert {daemon.pid for daemon in stream.client.status().daemons} == before


def answers() -> dict[str, tuple[Callable[[], Any], type[Exception], str]]:
    """Functions that have no home, so that they travel by value; what comes of each, and why."""

    class Stays(Exception):
        def __reduce__(self) -> Any:
            raise ZeroDivisionError

    class Breaks(Exception):
        def __reduce__(self) -> Any:
            return int, ("x",)

    def raises(error: Exception) -> None:
        raise error

    def nest() -> Any:
        nest: list[Any] = []
        for _ in range(100_000):
            nest = [nest]
        return nest

    return {
        "what cannot be pickled": (lambda: Stays(), SerializationError, "Stays"),
        "what cannot be unpickled": (lambda: Breaks(), SerializationError, "invalid literal"),
        "an exception like that": (lambda: raises(Stays("here")), RemoteError, "Stays: here"),
        "one that breaks there": (lambda: raises(Breaks("here")), RemoteError, "Breaks: here"),
        "depth": (nest, Exception, "recursion"),
    }


@pytest.mark.parametrize("name", answers())
def test_an_answer_that_cannot_be_told(stream: Stream, name: str) -> None:
    fn, error, why = answers()[name]
    submit = mirai.options(tags=("honest",), profile="honest stream")
    before = {daemon.pid for daemon in stream.client.status().daemons}
    with pytest.raises(error, match=why):
        submit(fn).result(timeout=20)
    assert {daemon.pid for daemon in stream.client.status().daemons} == before


def test_a_payload_for_a_host(pool: Standing) -> None:
    """A daemon's nonsense is the error of the task that it answers."""
    with (
        Peer(pool, DAEMON).hello(tags=("bad",)) as daemon,
        connect(pool.file, "victim"),
    ):
        submit = mirai.options(tags=("bad",), profile="victim")
        for name in FOR_A_HOST:
            for kind in (Kind.VALUE, Kind.ERROR):
                future = submit(divmod, 7, 2)
                run = daemon.next()
                assert isinstance(run, Run)
                daemon.say(Done((Outcome(run.tasks[0].id, kind, PAYLOADS[name]),)))
                if kind is Kind.ERROR or name not in HARMLESS:
                    assert isinstance(future.exception(timeout=20), SerializationError)
                else:
                    future.result(timeout=20)
        future = submit(divmod, 7, 2)
        run = daemon.next()
        assert isinstance(run, Run)
        daemon.say(Done((Outcome(run.tasks[0].id, Kind.VALUE, *pack(3)),)))
        assert future.result(timeout=20) == 3


# ── a client of ours with another version ────────────────────────────────────────────────


def test_another_version_is_a_protocol_error(
    pool: Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirai._channel.VERSION", 99)
    with pytest.raises(ProtocolError, match=f"refused us: protocol version 99, wanted {VERSION}"):
        connect(pool.file, "from the future").status()


# ── keys ─────────────────────────────────────────────────────────────────────────────────


def test_an_unknown_key(pool: Standing, stream: Stream) -> None:
    messages, keys, strangers, peers = report(stream)
    with Peer(pool, pair=KeyPair.new()) as peer, pytest.raises(Ended):
        peer.wait_until_in()
    wait_until(lambda: report(stream) == (messages, keys + 1, strangers, peers))
    assert re.search(r"key refused: 127.0.0.1:\d+: it is unknown", pool.log.read_text())


def test_another_servers_key(pool: Standing, stream: Stream) -> None:
    messages, keys, strangers, peers = report(stream)
    with Peer(pool, server=KeyPair.new().public) as peer, pytest.raises(Ended):
        peer.wait_until_in()
    wait_until(lambda: report(stream) == (messages, keys, strangers + 1, peers))


def test_a_secret_that_is_not_of_the_public_key(pool: Standing) -> None:
    pair = KeyPair(pool.connection.pair(CLIENT).public, KeyPair.new().secret)
    with Peer(pool, pair=pair) as peer, pytest.raises(Ended):
        peer.wait_until_in()


@pytest.mark.parametrize(
    ("role", "says"), [(CLIENT, Done(())), (CLIENT, Leave()), (DAEMON, submit(1)), (DAEMON, Ask(1))]
)
def test_a_key_is_of_one_role(pool: Standing, role: Role, says: Message) -> None:
    """Whatever a peer says that it is, in its hello or by its messages."""
    with Peer(pool, role).hello(host="daemon" if role is CLIENT else "client") as peer:
        peer.say(says)
        assert isinstance(peer.next(), Refused)


def test_a_revoked_key() -> None:
    """A local daemon's key ends with it, as does the one with which its tasks submit tasks."""
    with daemons(1, "tcp://127.0.0.1:0") as pool:
        assert pool._keys is not None

        def look() -> list[tuple[str, str]]:
            import gc

            here = gc.get_objects()
            pairs = [each for each in here if type(each).__name__ == "KeyPair"]
            told = [each for each in here if type(each) is dict and type(each.get("secret")) is str]
            return [
                *((each.public, each.secret) for each in pairs),
                *((each["public"], each["secret"]) for each in told),
            ]

        found = set(mirai(look).result(timeout=20))
        assert len(found) == 2
        server = pool._keys.server.public
        assert isinstance(mirai(signal.raise_signal, 9).exception(timeout=20), MiraiError)
        assert mirai(abs, -1).result(timeout=20) == 1
        for public, secret in found:
            pair = KeyPair(public, secret)
            with _peer_at(pool.url, pair, server) as peer, pytest.raises(Ended):
                peer.wait_until_in()
        wait_until(lambda: pool.status().refusals.keys == len(found))


def _peer_at(url: str, pair: KeyPair, server: str) -> Peer:
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    there = Connection(url, server, {CLIENT: pair})
    return Peer(_Elsewhere(there), pair=pair, address=(host, int(port)))  # type: ignore[arg-type]


@dataclass
class _Elsewhere:
    connection: Connection


OVERFLOW = "#" * 40
"""Forty letters of Z85, which yet are the number of no key."""


@pytest.mark.parametrize("key", ["", "a" * 39, "a" * 41, "a" * 39 + "~", "ä" * 40, OVERFLOW, 7])
def test_a_malformed_key(pool: Standing, tmp_path: Path, key: object) -> None:
    text = pool.file.read_text()
    for good in (pool.connection.server, pool.connection.pair(CLIENT).secret):
        bad = tmp_path / "bad.json"
        bad.touch(0o600)
        bad.write_text(text.replace(f'"{good}"', msgspec.json.encode(key).decode()))
        with pytest.raises(MiraiError, match="is no connection file"):
            connect(bad)


# ── those who have no key at all ─────────────────────────────────────────────────────────

STRANGERS: dict[str, bytes] = {
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100),
    "garbage": bytes(range(255, -1, -1)) * 8,
    "ZMTP 1": b"\x01\x00" + b"\x06\x00hello",
    "ZMTP 2": b"\xff" + bytes(8) + b"\x7f\x01\x05\x00\x00",
    "ZMTP 3 with NULL": ZMTP_3
    + b"NULL".ljust(20, b"\0")
    + b"\0"
    + bytes(31)
    + b"\x04\x06\x05READY",
    "ZMTP 3 with PLAIN": ZMTP_3 + b"PLAIN".ljust(20, b"\0") + b"\0" + bytes(31),
    "a mechanism that is none": ZMTP_3 + b"\xff" * 20 + b"\0" + bytes(31),
    "a client that says it is the server": ZMTP_3 + b"CURVE".ljust(20, b"\0") + b"\1" + bytes(31),
    "a hello of zeros": ZMTP_3 + CURVE + b"\x04\xc8" + HELLO,
    "half a hello": ZMTP_3 + CURVE + b"\x04\x10" + HELLO[:16],
    "another command": ZMTP_3 + CURVE + b"\x04\x06\x05READY",
    "a message instead": ZMTP_3 + CURVE + b"\x00\x05hello",
    "a frame of 2^63 bytes": ZMTP_3 + CURVE + b"\x06\x80" + bytes(7) + b"x",
    "a frame that is too large": ZMTP_3 + CURVE + b"\x06" + struct.pack(">Q", FRAME + 1) + b"x",
}


@pytest.mark.parametrize("data", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_stranger(pool: Standing, stream: Stream, data: bytes) -> None:
    """It is let in by no way, and its connection ends."""
    messages, keys, strangers, peers = report(stream)
    with raw(pool, data) as connection:
        with contextlib.suppress(OSError):  # it has hung up already
            connection.shutdown(socket.SHUT_WR)
        heard = until_hung_up(connection)
    assert b"READY" not in heard
    wait_until(lambda: report(stream) == (messages, keys, strangers + 1, peers))


@pytest.mark.parametrize("mechanism", ["NULL", "PLAIN", "CURVE with another kind of socket"])
def test_a_socket_without_the_right_key(pool: Standing, stream: Stream, mechanism: str) -> None:
    before = report(stream)
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    dealer = context.socket(zmq.SUB if "kind" in mechanism else zmq.DEALER)
    if mechanism == "PLAIN":
        dealer.plain_username, dealer.plain_password = b"admin", b"admin"
    elif "kind" in mechanism:
        pair = pool.connection.pair(CLIENT)
        dealer.curve_serverkey = pool.connection.server.encode()
        dealer.curve_publickey, dealer.curve_secretkey = pair.public.encode(), pair.secret.encode()
    monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    dealer.connect(pool.connection.url)
    if "kind" not in mechanism:
        dealer.send_multipart(encode(Hello(VERSION)))
    try:
        wait_until(lambda: report(stream)[2] > before[2])
        assert monitor.poll(0) == 0 or "kind" in mechanism
    finally:
        context.destroy(linger=0)
    messages, keys, _, peers = before
    assert report(stream)[:2] + report(stream)[3:] == (messages, keys, peers)


@pytest.mark.thorough
def test_one_that_takes_its_time(pool: Standing, stream: Stream) -> None:
    """Byte by byte: the time for a handshake is that of all of it, not of a byte."""
    before = report(stream)[2]
    almost = (ZMTP_3 + CURVE + b"\x04\xc8" + HELLO)[:-1]  # there is nothing wrong with it yet
    with raw(pool) as connection:
        connection.settimeout(10 * HANDSHAKE / len(almost))
        for piece in pieces(almost):
            try:
                connection.sendall(piece)
                if connection.recv(100) == b"":
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            raise AssertionError("it was listened to for ever")
    wait_until(lambda: report(stream)[2] > before)


# ── connections that break ───────────────────────────────────────────────────────────────


@pytest.fixture
def relay(pool: Standing) -> Iterator[Relay]:
    broken = Relay(pool)
    yield broken
    broken.close()


@pytest.mark.parametrize(
    ("passed", "words"),
    [
        (100_000, b""),
        (100_000, b"garbage" * 100),
        (0, b"\x04\x10" + bytes(16)),
        (0, b"\x00\x21\x07MESSAGE" + bytes(25)),
        (0, b"\x02\xff"),
    ],
    ids=["unfinished", "garbage in it", "a command", "a false box", "half a frame"],
)
def test_a_message_that_never_ends(
    pool: Standing, stream: Stream, relay: Relay, passed: int, words: bytes
) -> None:
    """Of frames that say that more will come, nothing is read if it does not."""
    before = report(stream)
    with Peer(pool, address=relay.address).hello() as peer:
        relay.break_after(passed, words)
        peer.send(encode(Cancel(()))[0], *[bytes(30_000)] * 10)
        assert peer.rest() == []
    assert report(stream) == before


# ── many of them ─────────────────────────────────────────────────────────────────────────


def descriptors(pool: Standing) -> int:
    return len(list(Path(f"/proc/{pool.process.pid}/fd").iterdir()))


def test_a_storm(pool: Standing, stream: Stream) -> None:
    """Many that come and go, with keys and without, some of them in the middle of a word."""
    before, strangers = descriptors(pool), report(stream)[2]
    for count in range(150):
        raw(pool, (ZMTP_3 + CURVE + b"\x04\xc8" + HELLO)[: 2 * count]).close()
    for _ in range(30):
        peer = Peer(pool)
        peer.say(Hello(VERSION), submit(1), submit(1))
        peer.close()
    stream.goes_on()
    wait_until(lambda: descriptors(pool) <= before)
    wait_until(lambda: report(stream)[2] >= strangers + 150)


@pytest.mark.thorough
def test_no_descriptor_is_left(tmp_path: Path) -> None:
    """Newcomers wait until others leave or their time is up; those who are there do not care."""
    limit = 48
    few = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    full = Standing(tmp_path, prelude=few)
    stream = Stream(full, "in a crowd")
    try:
        stream.goes_on()
        crowd = [raw(full) for _ in range(limit)]
        wait_until(lambda: descriptors(full) == limit)
        stream.goes_on()
        with Peer(full) as newcomer:  # in the place of those who did not prove a key in time
            assert newcomer.hello().is_served()
        for each in crowd:
            each.close()
        members = [Peer(full).say(Hello(VERSION)) for _ in range(limit)]
        wait_until(lambda: descriptors(full) == limit)
        members[0].send(b"nonsense")
        stream.goes_on()
        for each in members:
            each.close()
        with Peer(full) as newcomer:
            assert newcomer.hello().is_served()
        stream.goes_on()
        assert full.process.poll() is None
    finally:
        stream.close()
        full.close()
    assert "Traceback" not in full.log.read_text()


@pytest.mark.thorough
def test_a_daemon_that_ends_when_no_descriptor_is_left(tmp_path: Path) -> None:
    """Another comes once strangers are cut off, and the tasks wait for it."""
    limit = 64
    few = f"import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({limit}, {limit}))\n"
    one = "import sys\nsys.argv += ['-n', '1']\n"
    full = Standing(tmp_path, prelude=few + one, daemon=False)
    try:
        with connect(full.file, "in a crowd") as pool, contextlib.ExitStack() as crowd:
            pid = pool.submit(os.getpid, ()).result(timeout=20)
            for _ in range(limit):
                crowd.enter_context(raw(full))
            wait_until(lambda: descriptors(full) == limit)
            os.kill(pid, signal.SIGKILL)
            assert pool.submit(abs, (-1,)).result(timeout=20) == 1
        assert "it is tried again" in full.log.read_text()
    finally:
        full.close()


@pytest.mark.thorough
def test_a_handler_that_fails_is_no_hang(tmp_path: Path) -> None:
    """A bug of ours ends the dispatcher, so that everyone hears of it at once."""
    bug = "import dispatcher.core as core\ncore.Dispatcher._cancel = lambda *_: 1 / 0\n"
    broken = Standing(tmp_path, prelude=bug, daemon=False)
    try:
        with connect(broken.file, "witness") as pool:
            waiting = [pool.submit(divmod, (7, 2)) for _ in range(10)]
            with Peer(broken).hello() as peer:
                peer.say(Cancel((1,)))
                for future in waiting:
                    assert isinstance(future.exception(timeout=20), DispatcherLost)
        assert broken.process.wait(20) == 1
    finally:
        broken.close()
    assert "ZeroDivisionError" in broken.log.read_text()
    assert not broken.file.exists()
