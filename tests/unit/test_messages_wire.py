"""Messages to frames and back: everything that is a message, and nothing that is not."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import messages, requests, wire
from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState
from dispatcher.messages import (
    Admit,
    Ask,
    Attach,
    Blob,
    Cancel,
    Consult,
    Crash,
    DaemonReport,
    Despair,
    Discard,
    Dismiss,
    Done,
    Enlist,
    Everywhere,
    Expect,
    Expel,
    Fetched,
    FromClient,
    FromDaemon,
    Function,
    FunctionReport,
    Hello,
    Interrupt,
    JobReport,
    Kind,
    Leave,
    Look,
    Message,
    Objected,
    Outcome,
    Ping,
    Pong,
    PoolReport,
    Printed,
    ProtocolError,
    Recall,
    Recount,
    Redo,
    Refusals,
    Refused,
    Reply,
    Report,
    Results,
    Returned,
    Run,
    Scale,
    Seen,
    Slot,
    Span,
    Step,
    Stop,
    Submit,
    Task,
    ToClient,
    ToDaemon,
    Told,
    Welcome,
)

NUMBERS = st.integers(0, 2**64 - 1)
PRIORITIES = st.integers(-(2**63), 2**63 - 1)
SECONDS = st.floats(allow_nan=False)
PAYLOADS = st.binary(max_size=40)
BLOBS = st.builds(
    lambda piece, times, kind: Blob(kind(piece * times)),
    st.binary(max_size=3),
    st.sampled_from([0, 1, 100, 70_000]),
    st.sampled_from([bytes, bytearray, memoryview]),
)


def several(parts: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(parts, max_size=3).map(tuple)


FUNCTIONS = st.builds(Function, NUMBERS, st.text(), PAYLOADS, several(BLOBS))
TAGS = several(st.text())
TASKS = st.builds(
    Task,
    NUMBERS,
    NUMBERS,
    PAYLOADS,
    several(BLOBS),
    PRIORITIES,
    SECONDS,
    NUMBERS,
    TAGS,
    PAYLOADS,
    st.booleans(),
)
CRASHES = st.builds(
    Crash,
    st.text(),
    st.none() | st.integers(-64, 255),
    st.text(),
    NUMBERS,
    NUMBERS,
    st.text(),
    st.text(),
)
STORIES = several(st.builds(Step, SECONDS, st.text()))
OUTCOMES = st.builds(
    Outcome,
    NUMBERS,
    st.sampled_from(Kind),
    PAYLOADS,
    several(BLOBS),
    SECONDS,
    st.none() | CRASHES,
    st.booleans(),
    st.text(),
    STORIES,
)
DAEMONS = st.builds(
    DaemonReport,
    NUMBERS,
    st.text(),
    NUMBERS,
    st.sampled_from(["idle", "busy"]),
    NUMBERS,
    NUMBERS,
    SECONDS,
    TAGS,
    st.text(),
    SECONDS,
)
POOLS = st.builds(
    PoolReport,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    several(DAEMONS),
    st.sampled_from([(), ((),), ((), ("a", "ü"), ("b",))]),
    NUMBERS,
    st.none() | CRASHES,
    st.builds(Refusals, NUMBERS, NUMBERS, NUMBERS),
)
IDS = several(NUMBERS)
SLOTS = st.builds(Slot, st.dictionaries(st.text(), st.text(), max_size=2), TAGS)

SPANS = st.builds(Span, NUMBERS, st.integers(1, 2**64 - 1))
JOBS = st.builds(
    JobReport,
    st.text(),
    SECONDS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    several(st.builds(FunctionReport, st.text(), PAYLOADS, NUMBERS)),
    several(st.tuples(SPANS, st.text())),
)
NAMES = several(st.text())
STATES = st.sampled_from(TaskState)
ROWS = st.builds(
    Row,
    st.text(),
    PAYLOADS,
    STATES,
    PAYLOADS,
    st.text(),
    st.text(),
    PRIORITIES,
    NUMBERS,
    SECONDS,
    SECONDS,
    SECONDS,
)
WORKERS = st.builds(
    Worker,
    st.text(),
    st.text(),
    NUMBERS,
    st.sampled_from(WorkerState),
    SECONDS,
    SECONDS,
    SECONDS,
    SECONDS,
    st.text(),
)
ENDS = st.builds(End, st.text(), STATES, PAYLOADS, st.text())
REQUESTS: dict[type, st.SearchStrategy[Any]] = {
    requests.Push: st.builds(requests.Push, several(ROWS)),
    requests.Create: st.builds(requests.Create, st.text(), several(ROWS)),
    requests.Pop: st.builds(requests.Pop, st.text(), SECONDS),
    requests.Finish: st.builds(requests.Finish, st.text(), several(ENDS)),
    requests.Withdraw: st.builds(requests.Withdraw, st.none() | NAMES, st.text()),
    requests.Read: st.builds(requests.Read, NAMES),
    requests.Keys: st.builds(requests.Keys, several(STATES)),
    requests.Ended: st.builds(requests.Ended, PRIORITIES, PRIORITIES),
    requests.Wait: st.builds(requests.Wait, PRIORITIES, SECONDS),
    requests.Enter: st.builds(requests.Enter, WORKERS),
    requests.Beat: st.builds(requests.Beat, st.text()),
    requests.Depart: st.builds(
        requests.Depart, st.text(), st.sampled_from(WorkerState), st.text(), PRIORITIES
    ),
    requests.AskToLeave: st.builds(requests.AskToLeave, st.none() | NAMES),
    requests.FindLost: st.builds(requests.FindLost, PRIORITIES),
    requests.ListWorkers: st.builds(requests.ListWorkers),
    requests.Log: st.builds(requests.Log, st.text(), NAMES),
    requests.Logged: st.builds(requests.Logged, st.none() | st.text(), PRIORITIES),
    requests.Put: st.builds(requests.Put, st.text(), BLOBS),
    requests.Get: st.builds(requests.Get, st.text()),
    requests.Reset: st.builds(requests.Reset),
}
ANSWERS: dict[type, st.SearchStrategy[Any]] = {
    requests.Truths: st.builds(requests.Truths, several(st.booleans())),
    requests.Count: st.builds(requests.Count, NUMBERS),
    requests.Given: st.builds(requests.Given, several(st.none() | ROWS)),
    requests.Named: st.builds(requests.Named, NAMES, NUMBERS),
    requests.Counted: st.builds(requests.Counted, st.builds(Tally, *[NUMBERS] * 7)),
    requests.Crew: st.builds(requests.Crew, several(WORKERS)),
    requests.Lines: st.builds(requests.Lines, several(st.tuples(SECONDS, st.text(), st.text()))),
    requests.Object: st.builds(requests.Object, st.none() | BLOBS),
}
STRATEGIES: dict[type, st.SearchStrategy[Any]] = {
    Hello: st.builds(
        Hello,
        NUMBERS,
        st.text(),
        NUMBERS,
        TAGS,
        st.text(),
        st.text(),
        st.text(),
        st.floats(allow_nan=False),
    ),
    Admit: st.builds(Admit, several(st.text()), several(st.text())),
    Expel: st.builds(Expel, several(st.text())),
    Dismiss: st.builds(Dismiss, several(st.text())),
    Expect: st.builds(Expect, several(st.text())),
    Despair: st.builds(Despair, CRASHES),
    Welcome: st.builds(Welcome, NUMBERS),
    Refused: st.builds(Refused, st.text()),
    Submit: st.builds(Submit, several(TASKS), several(FUNCTIONS), IDS),
    Everywhere: st.builds(Everywhere, IDS, TASKS),
    Cancel: st.builds(Cancel, IDS),
    Enlist: st.builds(
        Enlist,
        st.text(),
        several(TASKS),
        several(FUNCTIONS),
        PAYLOADS,
        PAYLOADS,
        st.booleans(),
    ),
    Attach: st.builds(Attach, NUMBERS, several(SPANS)),
    Fetched: st.builds(Fetched, several(SPANS)),
    Look: st.builds(Look, NUMBERS, st.none() | st.text(), st.booleans()),
    Redo: st.builds(Redo, NUMBERS, st.text()),
    Discard: st.builds(Discard, NUMBERS, st.text(), several(PAYLOADS)),
    Seen: st.builds(Seen, NUMBERS, several(JOBS), st.text(), NUMBERS),
    Ask: st.builds(Ask, NUMBERS, NUMBERS),
    Recount: st.builds(Recount, NUMBERS, NUMBERS),
    Told: st.builds(Told, NUMBERS, STORIES),
    Scale: st.builds(Scale, st.integers(0, 10_000), several(SLOTS)),
    Consult: st.builds(Consult, NUMBERS, st.text(), st.one_of(*REQUESTS.values())),
    Reply: st.builds(Reply, NUMBERS, st.one_of(*ANSWERS.values())),
    Objected: st.builds(Objected, NUMBERS, st.text(), st.booleans()),
    Results: st.builds(Results, several(OUTCOMES)),
    Report: st.builds(Report, NUMBERS, POOLS),
    Run: st.builds(Run, several(TASKS), several(FUNCTIONS), IDS),
    Recall: st.builds(Recall, IDS),
    Interrupt: st.builds(Interrupt, IDS),
    Ping: st.builds(Ping),
    Stop: st.builds(Stop, st.booleans(), st.text()),
    Done: st.builds(Done, several(OUTCOMES)),
    Returned: st.builds(Returned, IDS),
    Printed: st.builds(Printed, NUMBERS, st.text()),
    Pong: st.builds(Pong),
    Leave: st.builds(Leave, st.booleans()),
}
ANY_MESSAGE = st.one_of(*STRATEGIES.values())
CARRIERS = (Submit, Enlist, Everywhere, Results, Run, Done, Consult, Reply)
WITH_BLOBS = st.one_of(*[STRATEGIES[kind] for kind in CARRIERS])
DIRECTIONS = [FromClient, FromDaemon, ToClient, ToDaemon]


def test_no_message_is_left_out() -> None:
    defined = {
        thing
        for _, thing in inspect.getmembers(messages, inspect.isclass)
        if issubclass(thing, messages._Message) and thing is not messages._Message
    }
    directed = {kind for direction in DIRECTIONS for kind in get_args(direction)}
    assert STRATEGIES.keys() == set(get_args(Message)) == defined == directed


def test_no_request_and_no_answer_is_left_out() -> None:
    assert REQUESTS.keys() == set(get_args(requests.Request))
    assert ANSWERS.keys() == set(get_args(requests.Answer))


@given(ANY_MESSAGE)
def test_what_is_encoded_is_decoded(message: Any) -> None:
    frames = wire.encode(message)
    assert wire.decode(frames, Message) == message
    assert wire.decode([memoryview(frame) for frame in frames], type(message)) == message


@given(ANY_MESSAGE)
def test_a_blob_is_passed_on_and_not_copied(message: Any) -> None:
    sent = wire.encode(message)
    received = wire.encode(wire.decode(sent, Message))
    assert len(sent) == len(received)
    assert all(one is other for one, other in zip(sent[1:], received[1:], strict=True))


@given(ANY_MESSAGE, st.sampled_from(DIRECTIONS))
def test_only_the_expected_direction_is_decoded(message: Any, direction: Any) -> None:
    frames = wire.encode(message)
    if type(message) in get_args(direction):
        assert wire.decode(frames, direction) == message
    else:
        with pytest.raises(ProtocolError):
            wire.decode(frames, direction)


@given(ANY_MESSAGE, st.data())
def test_a_truncated_header_is_refused(message: Any, data: st.DataObject) -> None:
    header, *blobs = wire.encode(message)
    end = data.draw(st.integers(0, len(header) - 1))
    with pytest.raises(ProtocolError):
        wire.decode([header[:end], *blobs], Message)


@given(ANY_MESSAGE, st.binary(min_size=1, max_size=9))
def test_a_header_with_more_behind_it_is_refused(message: Any, more: bytes) -> None:
    header, *blobs = wire.encode(message)
    with pytest.raises(ProtocolError):
        wire.decode([bytes(header) + more, *blobs], Message)


@given(ANY_MESSAGE, st.data())
def test_a_damaged_header_is_a_message_or_refused(message: Any, data: st.DataObject) -> None:
    header, *blobs = wire.encode(message)
    damaged = bytearray(header)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    _is_decoded_or_refused([damaged, *blobs])


@given(st.lists(st.binary(max_size=80), max_size=5))
def test_random_bytes_are_refused(frames: list[bytes]) -> None:
    _is_decoded_or_refused(frames)


_PIECES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=4)
    | st.builds(msgspec.msgpack.Ext, st.integers(-128, 127), st.binary(max_size=13)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=12,
)


@given(
    st.sampled_from(get_args(Message)), st.lists(_PIECES, max_size=4), st.integers(0, 2), st.data()
)
def test_well_formed_nonsense_is_refused(
    kind: type, fields: list[Any], blobs: int, data: st.DataObject
) -> None:
    if kind is Done and data.draw(st.booleans()):
        fields = [[[1, 0, b"", *fields]]]
    header = msgspec.msgpack.encode([kind.__name__, *fields])
    _is_decoded_or_refused([header, *[b"blob"] * blobs])


def _is_decoded_or_refused(frames: list[Any]) -> None:
    """Nothing but a whole message comes out, and nothing but ProtocolError flies out."""
    try:
        message = wire.decode(frames, Message)
    except ProtocolError:
        return
    assert type(message) in STRATEGIES
    assert len(wire.encode(message)) == len(frames)


@pytest.mark.parametrize("length", [2**16, 2**28, 2**32 - 1])
@pytest.mark.parametrize("start", [b"\x92\xa6Cancel\xdd", b"\x92\xa4Done\x91\x93\x01\x00\xc6"])
def test_a_length_that_lies_is_refused_without_that_much_memory(start: bytes, length: int) -> None:
    with pytest.raises(ProtocolError):
        wire.decode([start + length.to_bytes(4, "big")], Message)


def test_deep_nesting_is_refused() -> None:
    with pytest.raises(ProtocolError):
        wire.decode([b"\x92\xa4Done" + b"\x91" * 200_000], Message)
    blob = b"\x92\xa4Done\x91\x94\x01\x00\xc4\x00\x91"  # the place where a number stands
    with pytest.raises(ProtocolError):
        wire.decode([blob + b"\x91" * 200_000], Message)


# ── blobs ────────────────────────────────────────────────────────────────────────────────


def _done(*numbers: Any) -> bytes:
    """A Done header whose one outcome names these blobs."""
    return msgspec.msgpack.encode(["Done", [[1, 0, b"", numbers]]])


@pytest.mark.parametrize(
    ("numbers", "blobs"),
    [
        ((1,), 0),  # missing
        ((1, 2), 1),
        ((), 1),  # left over
        ((1,), 2),
        ((1, 1), 1),  # used twice
        ((1, 1), 2),
        ((2, 1), 2),  # out of order
        ((2,), 2),
        ((0,), 1),  # the header itself
        ((0,), 0),
        ((-1,), 1),
        ((2**64 - 1,), 1),
        ((None,), 1),
        (("1",), 1),
        ((b"\x01",), 1),
        (([1],), 1),
        (({"1": 1},), 1),
        ((1.5,), 1),
        ((float("nan"),), 1),
    ],
)
def test_a_blob_out_of_place_is_refused(numbers: tuple[Any, ...], blobs: int) -> None:
    with pytest.raises(ProtocolError):
        wire.decode([_done(*numbers), *[b"blob"] * blobs], Message)


@given(WITH_BLOBS.filter(lambda message: len(wire.encode(message)) > 1), st.data())
def test_each_blob_is_needed(message: Any, data: st.DataObject) -> None:
    frames = wire.encode(message)
    del frames[data.draw(st.integers(1, len(frames) - 1))]
    with pytest.raises(ProtocolError):
        wire.decode(frames, Message)


def test_blobs_keep_their_order_across_parts() -> None:
    tasks = tuple(Task(id, 1, b"", (Blob(b"%d" % id), Blob(b"-%d" % id))) for id in (1, 2))
    functions = (Function(1, "f", b"", (Blob(b"f"),)),)
    frames = wire.encode(Submit(tasks, functions))
    assert frames[1:] == [b"1", b"-1", b"2", b"-2", b"f"]
    assert wire.decode(frames, FromClient) == Submit(tasks, functions)


def test_a_foreign_object_in_a_message_is_the_callers_fault() -> None:
    with pytest.raises(TypeError, match="object has no place"):
        wire.encode(Refused(object()))  # type: ignore[arg-type]


# ── limits ───────────────────────────────────────────────────────────────────────────────


def test_the_number_of_frames_is_limited() -> None:
    welcome = wire.encode(Welcome())[0]
    with pytest.raises(ProtocolError, match="0 frames"):
        wire.decode([], Message)
    with pytest.raises(ProtocolError, match="65537 frames"):
        wire.decode([welcome, *[b""] * wire.MAX_FRAMES], Message)


def test_as_many_frames_as_allowed_are_decoded() -> None:
    count = wire.MAX_FRAMES - 1
    done = Done((Outcome(1, Kind.VALUE, b"", (Blob(b""),) * count),))
    assert wire.decode(wire.encode(done), Message) == done


class _HugeFrame(bytes):
    """A frame that claims to be larger than the limit; only its length is looked at."""

    def __len__(self) -> int:
        return wire.MAX_HEADER + 1


def test_the_size_of_the_header_is_limited() -> None:
    with pytest.raises(ProtocolError, match="a header of 268435457 bytes"):
        wire.decode([_HugeFrame(wire.encode(Welcome())[0])], Message)


def test_how_much_one_request_is_about_is_limited_before_it_is_read() -> None:
    start = b"\x94\xa7Consult\x01\xa1b\x92\xa4Push\xdd"
    with pytest.raises(ProtocolError, match="length <= 100000"):
        wire.decode([start + (requests.MANY + 1).to_bytes(4, "big")], Message)


# ── batches ──────────────────────────────────────────────────────────────────────────────


def _tasks(sizes: list[int]) -> list[Task]:
    return [Task(index, 1, bytes(size)) for index, size in enumerate(sizes, 1)]


SIZES = st.lists(
    st.tuples(
        st.sampled_from([0, 10, 60_000, wire.BATCH_BYTES // 2, wire.BATCH_BYTES + 1]),
        st.integers(1, 400),
    ),
    max_size=8,
).map(lambda runs: [size for size, times in runs for _ in range(times if size < 20 else 1)])


@given(SIZES)
def test_batches_lose_nothing_and_keep_order_and_limits(sizes: list[int]) -> None:
    tasks = _tasks(sizes)
    batches = list(wire.batches(tasks))
    assert [task for batch in batches for task in batch] == tasks
    for batch in batches:
        assert 1 <= len(batch) <= wire.BATCH_TASKS
        assert len(batch) == 1 or sum(len(task.payload) for task in batch) <= wire.BATCH_BYTES


@pytest.mark.parametrize("count", [1, wire.BATCH_TASKS - 1, wire.BATCH_TASKS])
def test_what_fits_is_one_batch(count: int) -> None:
    assert len(list(wire.batches(_tasks([1] * count)))) == 1


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([], []),
        ([0] * (2 * wire.BATCH_TASKS + 1), [1_000, 1_000, 1]),
        ([wire.BATCH_BYTES, 1], [1, 1]),
        ([wire.BATCH_BYTES - 1, 1, 1], [2, 1]),
        ([1, wire.BATCH_BYTES + 1, 1], [1, 1, 1]),
    ],
)
def test_a_batch_is_closed_only_when_it_is_full(sizes: list[int], lengths: list[int]) -> None:
    assert [len(batch) for batch in wire.batches(_tasks(sizes))] == lengths


def test_a_batch_never_has_more_frames_than_the_receiver_takes() -> None:
    blobs = (Blob(b""),) * 70
    outcomes = [Outcome(id, Kind.VALUE, b"", blobs) for id in range(wire.BATCH_TASKS)]
    for batch in wire.batches(outcomes):
        assert wire.decode(wire.encode(Results(batch)), ToClient) == Results(batch)


FEW_BLOBS = st.integers(0, 700).map(lambda count: (Blob(b""),) * count)


@given(st.lists(FEW_BLOBS, max_size=8), st.lists(FEW_BLOBS, max_size=4))
def test_work_loses_nothing_and_names_no_function_too_late(
    of_tasks: list[tuple[Blob, ...]], of_functions: list[tuple[Blob, ...]]
) -> None:
    tasks = [Task(id, 1, b"", blobs) for id, blobs in enumerate(of_tasks)]
    functions = [Function(number, "f", b"", blobs) for number, blobs in enumerate(of_functions)]
    messages = list(wire.work(tasks, functions))
    assert [task for batch, _ in messages for task in batch] == tasks
    assert [function for _, batch in messages for function in batch] == functions
    with_tasks = [index for index, (batch, _) in enumerate(messages) if batch]
    with_functions = [index for index, (_, batch) in enumerate(messages) if batch]
    assert not with_tasks or not with_functions or with_functions[-1] <= with_tasks[0]
    assert all(batch or other for batch, other in messages)


# ── blobs themselves ─────────────────────────────────────────────────────────────────────


def test_blobs_are_equal_by_content() -> None:
    assert Blob(b"ab") == Blob(bytearray(b"ab")) == Blob(memoryview(b"ab"))
    assert hash(Blob(b"ab")) == hash(Blob(bytearray(b"ab")))
    assert Blob(b"ab") != Blob(b"ba")
    assert Blob(b"ab") != b"ab"
    assert repr(Blob(b"secret")) == "Blob(6 bytes)"
