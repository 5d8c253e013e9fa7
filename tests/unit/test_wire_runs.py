"""Runs on the wire: parted and put together again, nothing is lost or changes its place."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher import wire
from dispatcher.messages import Blob, Kind, Outcome, Step, Task


def whole(first: int, count: int) -> Task:
    payloads = [b"%d" % id for id in range(first, first + count)]
    return Task(first, 9, payloads[0], (), 3, 2.5, 1, ("a",), following=tuple(payloads[1:]))


def singles(task: Task) -> list[tuple[int, bytes]]:
    return [(each.id, each.payload) for each in task.each()]


@given(st.integers(1, 30), st.data())
def test_a_part_has_the_tasks_that_it_should(count: int, data: st.DataObject) -> None:
    task = whole(7, count)
    start = data.draw(st.integers(0, count - 1))
    length = data.draw(st.integers(1, count - start))
    part = task.part(start, length)
    assert part.count == length
    assert singles(part) == singles(task)[start : start + length]
    assert (part.function, part.priority, part.timeout) == (9, 3, 2.5)
    assert (part.retries, part.tags) == (1, ("a",))


def test_a_single_task_is_itself() -> None:
    task = Task(1, 1, b"x", (Blob(b"b"),), stream=b"s", keep=True)
    assert list(task.each()) == [task] and task.part(0, 1) is task


def test_each_is_as_the_run_is() -> None:
    for each in whole(7, 3).each():
        assert not each.following
        assert (each.function, each.priority, each.timeout) == (9, 3, 2.5)
        assert (each.retries, each.tags) == (1, ("a",))


@given(st.integers(1, 30), st.data())
def test_a_part_of_outcomes_has_the_values_that_it_should(count: int, data: st.DataObject) -> None:
    values = [b"%d" % index for index in range(count)]
    run = Outcome(7, Kind.VALUE, values[0], (), 3.0, following=tuple(values[1:]))
    start = data.draw(st.integers(0, count - 1))
    length = data.draw(st.integers(1, count - start))
    part = run.part(70, start, length)
    assert (part.id, part.count) == (70, length)
    assert [part.payload, *part.following] == values[start : start + length]
    assert part.seconds == pytest.approx(3.0 * length / count)


OUTCOMES = st.lists(
    st.tuples(
        st.integers(1, 3),  # how far the next id is
        st.sampled_from([Kind.VALUE, Kind.VALUE, Kind.VALUE, Kind.ERROR]),
        st.sampled_from([0, 1, wire.RUN_BYTES // 3]),
        st.sampled_from([0.0, 0.0, 0.0, wire.RUN_SECONDS]),
        st.sampled_from(["", "", "", "printed"]),
        st.booleans(),
    )
)


@given(OUTCOMES)
def test_outcomes_in_runs_are_the_same_outcomes(shapes: list[tuple[Any, ...]]) -> None:
    outcomes, id = [], 0
    for step, kind, size, seconds, log, has_blob in shapes:
        id += step
        blobs = (Blob(b"b"),) if has_blob and step == 3 else ()
        payload = b"%d" % id + b"x" * size
        outcomes.append(Outcome(id, kind, payload, blobs, seconds, log=log))
    found = []
    for run in wire.runs(outcomes):
        assert run.count == 1 or run.kind is Kind.VALUE
        assert run.count == 1 or not (run.blobs or run.log)
        assert run.count == 1 or run.seconds < run.count * wire.RUN_SECONDS
        payloads = (run.payload, *run.following)
        assert run.count == 1 or sum(map(len, payloads)) <= wire.RUN_BYTES
        found += [(run.id + index, payload) for index, payload in enumerate(payloads)]
    assert found == [(each.id, each.payload) for each in outcomes]


def test_values_in_a_row_make_one_run() -> None:
    outcomes = [Outcome(id, Kind.VALUE, b"v", (), 1e-6) for id in range(5, 10)]
    [run] = wire.runs(outcomes)
    assert (run.id, run.count, run.seconds) == (5, 5, pytest.approx(5e-6))


@pytest.mark.parametrize(
    "other",
    [
        Outcome(3, Kind.VALUE, b"v"),
        Outcome(2, Kind.ERROR, b"v"),
        Outcome(2, Kind.VALUE, b"v", (Blob(b"b"),)),
        Outcome(2, Kind.VALUE, b"v", log="printed"),
        Outcome(2, Kind.VALUE, b"v", (), wire.RUN_SECONDS),
        Outcome(2, Kind.VALUE, b"v" * wire.RUN_BYTES),
    ],
)
def test_what_is_not_alike_makes_none(other: Outcome) -> None:
    one = Outcome(1, Kind.VALUE, b"v")
    assert list(wire.runs([one, other])) == [one, other]


def test_a_run_counts_as_so_many_tasks_in_a_batch() -> None:
    runs = [whole(1 + 400 * index, 400) for index in range(5)]
    assert [len(batch) for batch in wire.batches(runs)] == [2, 2, 1]


def test_a_run_counts_with_all_its_bytes_in_a_batch() -> None:
    large = b"x" * (wire.BATCH_BYTES // 3)
    runs = [Task(1, 1, large, following=(large,)), Task(3, 1, large, following=(large,))]
    assert [len(batch) for batch in wire.batches(runs)] == [1, 1]


def test_what_the_dispatcher_tells_of_a_part_is_said_of_it() -> None:
    run = Outcome(1, Kind.VALUE, b"v", following=(b"w",))
    assert run.part(8, 1, 1, (Step(0.0, "was lost"),)).story == (Step(0.0, "was lost"),)
