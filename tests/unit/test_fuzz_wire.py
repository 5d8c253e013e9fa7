"""Whatever peers send: the decoder lets messages through, and the core survives them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatcher import requests
from dispatcher.boards import End, Row, TaskState, Worker, WorkerState
from dispatcher.messages import (
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
    Outcome,
    Printed,
    Returned,
    Scale,
    Slot,
    Submit,
    Task,
)
from dispatcher.wire import encode
from tests.fuzz_wire import CLIENT, DAEMON, Target, one_input

IDS = st.integers(0, 6) | st.sampled_from([-1, 2**63, 2**64 - 1, -(2**63)])
SECONDS = st.sampled_from([0.0, 0.001, -1.0, 1e300, float("inf"), float("-inf"), float("nan")])
TAGS = st.sampled_from([(), (), ("worker",), ("a",), ("\0", "\U0001f600")])
BLOBS = st.sampled_from([(), (), (Blob(b"x"),), (Blob(b""), Blob(b"y"))])
SEVERAL = st.lists(IDS, max_size=4).map(tuple)


def some(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(parts, max_size=3).map(tuple)


TASKS = st.builds(
    Task,
    IDS,
    st.integers(0, 2),
    st.just(b"call"),
    BLOBS,
    priority=IDS,
    timeout=SECONDS,
    retries=IDS,
    tags=TAGS,
    keep=st.booleans(),
)
FUNCTIONS = st.builds(Function, st.integers(0, 2), st.text(max_size=2), st.just(b"f"), BLOBS)
OUTCOMES = st.builds(
    Outcome,
    IDS | st.integers(0, 40),
    st.sampled_from(Kind),
    st.just(b"answer"),
    BLOBS,
    SECONDS,
    st.none() | st.just(Crash("a lie")),
    st.booleans(),
)
SLOTS = st.none() | some(st.builds(Slot, st.just({"A": "1"}), TAGS))
HELLOS = st.builds(Hello, st.integers(0, 2), st.text(max_size=2), st.integers(0, 6), TAGS)
NAMES = st.sampled_from(["w", "v", "", "x" * 2_000])
ROWS = some(
    st.builds(
        Row, st.sampled_from("abc"), st.just(b"xs"), worker=NAMES, priority=st.integers()
    ).filter(lambda row: -(2**63) <= row.priority < 2**64)
)
ENDS = some(st.builds(End, st.sampled_from("abc"), st.sampled_from(TaskState), st.just(b"ys")))
KEYS = st.none() | some(st.sampled_from("abc"))
REQUESTS = st.one_of(
    st.builds(requests.Push, ROWS),
    st.builds(requests.Create, NAMES, ROWS),
    st.builds(requests.Pop, NAMES, SECONDS),
    st.builds(requests.Finish, NAMES, ENDS),
    st.builds(requests.Withdraw, KEYS, st.text(max_size=2)),
    st.builds(requests.Read, some(st.sampled_from("abc"))),
    st.builds(requests.Keys, some(st.sampled_from(TaskState))),
    st.builds(requests.Ended, IDS, IDS),
    st.builds(requests.Wait, IDS, SECONDS),
    st.builds(requests.Enter, st.builds(Worker, NAMES, patience=SECONDS, heard=SECONDS)),
    st.builds(requests.Depart, NAMES, st.sampled_from(WorkerState), st.text(max_size=2), IDS),
    st.builds(requests.AskToLeave, st.none() | some(NAMES)),
    st.builds(requests.FindLost, IDS),
    st.builds(requests.ListWorkers),
    st.builds(requests.Log, NAMES, some(st.text(max_size=2))),
    st.builds(requests.Logged, st.none() | NAMES, IDS),
    st.builds(requests.Put, NAMES, st.just(Blob(b"data"))),
    st.builds(requests.Get, NAMES),
    st.builds(requests.Reset),
)
CONSULTS = st.builds(Consult, st.integers(0, 3), st.sampled_from(["b", "", "x" * 2_000]), REQUESTS)
SAYINGS = {
    CLIENT: st.one_of(
        HELLOS,
        st.builds(Submit, some(TASKS), some(FUNCTIONS), SEVERAL),
        st.builds(Submit, some(TASKS), st.just((Function(1, "f", b"f"),))),
        st.builds(Everywhere, SEVERAL, TASKS),
        st.builds(Cancel, SEVERAL),
        st.builds(Ask, IDS, IDS),
        st.builds(Scale, st.integers(0, 10_000), SLOTS),
        CONSULTS,
        CONSULTS,
    ),
    DAEMON: st.one_of(
        HELLOS,
        st.builds(Done, some(OUTCOMES)),
        st.builds(Returned, SEVERAL),
        st.builds(Printed, IDS, st.text(max_size=2)),
        st.builds(Leave, st.booleans()),
    ),
}


@st.composite
def mutated(draw: st.DrawFn) -> tuple[int, list[bytes]]:
    """Return the frames of a message, mostly of one that its sender may send, often damaged."""
    peer = draw(st.sampled_from([CLIENT, DAEMON]))
    sayings = SAYINGS[peer] if draw(st.integers(0, 9)) else SAYINGS[CLIENT + DAEMON - peer]
    frames = [bytes(frame) for frame in encode(draw(sayings))]
    match draw(st.integers(0, 9)):
        case 0 | 1:
            header = bytearray(frames[0])
            for _ in range(draw(st.integers(1, 3))):
                header[draw(st.integers(0, len(header) - 1))] = draw(st.integers(0, 255))
            frames[0] = bytes(header)
        case 2:
            frames[0] = frames[0][: draw(st.integers(0, len(frames[0])))]
        case 3:
            start = draw(st.integers(0, len(frames[0])))
            frames[0] = frames[0][:start] + draw(st.binary(max_size=9)) + frames[0][start:]
        case 4:
            frames.append(b"more")
        case 5:
            frames = draw(st.lists(st.binary(max_size=9), max_size=3))
    return peer, frames


def play(said: list[tuple[int, list[bytes]]]) -> None:
    """Have it said to a dispatcher whose honest client has a task done now and then."""
    target = Target()
    for peer, frames in said:
        target.feed(peer, frames)
        target.work()
    target.pop()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(mutated(), min_size=1, max_size=12))
def test_the_core_survives_what_the_decoder_lets_through(
    said: list[tuple[int, list[bytes]]],
) -> None:
    play(said)


@pytest.mark.thorough
@pytest.mark.timeout(300)
@settings(max_examples=1_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(mutated(), min_size=1, max_size=25))
def test_the_core_survives_much_more(said: list[tuple[int, list[bytes]]]) -> None:
    play(said)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    one_input(data)
