"""What every store of boards does, whatever it is made of.

A test module makes a class of its own of ``StoreContract``, with a fixture ``store`` that yields an
empty one, and a fixture ``other`` that yields a second connection to the same board.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import pytest

from dispatcher.boards import End, Row, Store, TaskState, Worker, WorkerState
from mirai._errors import BoardError, NotRunning

EVER = 30.0
"""Seconds that nothing here takes."""


def rows(*keys: str, worker: str = "", priority: int = 0) -> list[Row]:
    """Return tasks as they are pushed."""
    return [Row(key, f"xs of {key}".encode(), worker=worker, priority=priority) for key in keys]


def finish(*keys: str) -> list[End]:
    """Return how tasks finish."""
    return [End(key, TaskState.FINISHED, f"ys of {key}".encode()) for key in keys]


def keys_of(popped: Iterable[Row | None]) -> list[str]:
    """Return the keys of tasks that are there."""
    return [row.key for row in popped if row is not None]


def drain(store: Store, worker: str) -> list[str]:
    """Take all that there is for a worker."""
    found = []
    while (row := store.pop(worker)) is not None:
        found.append(row.key)
    return found


def state(store: Store, key: str) -> TaskState:
    """Return the state of a task."""
    (row,) = store.rows([key])
    assert row is not None
    return row.state


@contextmanager
def meanwhile(do: Callable[[], object]) -> Iterator[None]:
    """Do something in another thread, and wait until it is done; raise what it raises."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        thread.join(EVER)
    assert not thread.is_alive()
    if raised:
        raise raised[0]


class StoreContract:
    """The tests; ``a`` and ``b`` are the usual workers."""

    @pytest.fixture
    def ab(self, store: Store) -> Store:
        store.enter(Worker("a", "here", 1))
        store.enter(Worker("b", "there", 2))
        return store

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def test_a_task_from_its_push_to_its_end(self, ab: Store) -> None:
        ab.push(rows("k", priority=3))
        (row,) = ab.rows(["k"])
        assert row is not None and row.pushed > 0
        assert row == Row("k", b"xs of k", priority=3, pushed=row.pushed)
        popped = ab.pop("a")
        assert popped is not None and row.pushed <= popped.started
        assert popped == Row(
            "k",
            b"xs of k",
            TaskState.RUNNING,
            worker="a",
            priority=3,
            tries=1,
            pushed=row.pushed,
            started=popped.started,
        )
        assert ab.rows(["k"]) == [popped]
        assert ab.end("a", finish("k")) == [True]
        (ended,) = ab.rows(["k"])
        assert ended is not None and ended.started <= ended.ended
        assert (ended.state, ended.ys, ended.worker) == (TaskState.FINISHED, b"ys of k", "a")

    def test_first_in_first_out(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        ab.push(rows("3"))
        ab.push(rows(*(f"more{n}" for n in range(20))))
        assert drain(ab, "a") == ["1", "2", "3", *(f"more{n}" for n in range(20))]

    def test_higher_priorities_first(self, ab: Store) -> None:
        for priority in (0, 2, -1, 2, 1):
            ab.push(rows(f"{priority}/{ab.tally().queued}", priority=priority))
        assert drain(ab, "a") == ["2/1", "2/3", "1/4", "0/0", "-1/2"]

    def test_pinned_ones_are_for_one_worker_and_come_first(self, ab: Store) -> None:
        ab.push(rows("all", priority=9))
        ab.push(rows("for b", worker="b"))
        ab.push(rows("for b, sooner", worker="b", priority=1))
        (row,) = ab.rows(["for b"])
        assert row is not None and row.worker == "b"
        assert keys_of([ab.pop("b"), ab.pop("b")]) == ["for b, sooner", "for b"]
        ab.push(rows("for b again", worker="b"))
        assert drain(ab, "a") == ["all"]
        assert drain(ab, "b") == ["for b again"]

    def test_what_is_pinned_to_nobody_is_for_all(self, ab: Store) -> None:
        ab.leave("b", WorkerState.TERMINATED)
        ab.push(rows("1", worker="stranger"))
        ab.push(rows("2", worker="b"))
        assert [row.worker for row in ab.rows(["1", "2"]) if row] == ["", ""]
        assert drain(ab, "a") == ["1", "2"]

    def test_a_key_is_there_once(self, ab: Store) -> None:
        ab.push(rows("k"))
        with pytest.raises(BoardError, match="k"):
            ab.push(rows("new", "k"))
        with pytest.raises(BoardError, match="twice"):
            ab.push(rows("twice", "twice"))
        with pytest.raises(BoardError, match="k"):
            ab.create("a", rows("k"))
        assert ab.rows(["new", "twice"]) == [None, None]
        assert ab.tally().queued == 1

    def test_nothing_pushed_is_nothing(self, ab: Store) -> None:
        ab.push([])
        ab.create("a", [])
        assert ab.end("a", []) == []
        assert ab.rows([]) == []
        assert ab.withdraw([], "why") == 0

    def test_keys_and_contents_may_be_anything(self, ab: Store) -> None:
        keys = ["", "a b", "ü{}*:\n", "x" * 300]
        data = bytes(range(256)) * 10
        ab.push([Row(key, data) for key in keys])
        assert drain(ab, "a") == keys
        ends = [End(key, TaskState.FAILED, data, "Grund: ü") for key in keys]
        assert ab.end("a", ends) == [True] * 4
        for row in ab.rows(keys):
            assert row is not None
            assert (row.xs, row.ys, row.condition) == (data, data, "Grund: ü")

    def test_a_worker_makes_tasks_itself(self, ab: Store) -> None:
        ab.create("a", rows("own"))
        (row,) = ab.rows(["own"])
        assert row is not None and row.started >= row.pushed > 0
        assert (row.state, row.worker, row.tries) == (TaskState.RUNNING, "a", 1)
        assert ab.pop("b") is None
        assert ab.end("a", finish("own")) == [True]

    def test_the_first_end_counts(self, ab: Store) -> None:
        ab.push(rows("k"))
        ab.pop("a")
        assert ab.end("b", finish("k")) == [False]
        failed = End("k", TaskState.FAILED, b"error", "why")
        assert ab.end("a", [failed, *finish("k", "unknown")]) == [True, False, False]
        assert ab.end("a", finish("k")) == [False]
        (row,) = ab.rows(["k"])
        assert row is not None
        assert (row.state, row.ys, row.condition) == (TaskState.FAILED, b"error", "why")
        assert ab.ended(0, 10)[0] == ["k"]

    def test_what_was_not_taken_cannot_be_ended(self, ab: Store) -> None:
        ab.push(rows("k"))
        assert ab.end("a", finish("k")) == [False]
        assert state(ab, "k") is TaskState.QUEUED

    def test_withdraw(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        ab.push(rows("3", worker="b"))
        ab.pop("a")
        assert ab.withdraw(["1", "2", "unknown"], "not wanted") == 1
        assert ab.withdraw(None, "nothing is") == 1
        assert [state(ab, key) for key in "123"] == [
            TaskState.RUNNING,
            TaskState.FAILED,
            TaskState.FAILED,
        ]
        assert [row.condition for row in ab.rows(["2", "3"]) if row] == ["not wanted", "nothing is"]
        assert ab.pop("b") is None
        assert ab.ended(0, 10)[0] == ["2", "3"]

    def test_keys_by_state_in_the_order_of_pushing(self, ab: Store) -> None:
        ab.push(rows("1", "2", "3", "4", priority=-1))
        ab.push(rows("5", priority=1))
        assert keys_of([ab.pop("a"), ab.pop("a"), ab.pop("a")]) == ["5", "1", "2"]
        ab.end("a", [*finish("2"), End("5", TaskState.FAILED)])
        assert ab.keys([TaskState.QUEUED]) == ["3", "4"]
        assert ab.keys([TaskState.FAILED, TaskState.FINISHED]) == ["2", "5"]
        assert ab.keys(list(TaskState)) == ["1", "2", "3", "4", "5"]
        assert ab.keys([]) == []

    def test_those_that_have_ended_since(self, ab: Store) -> None:
        assert ab.ended(0, 10)[0] == []
        ab.push(rows("1", "2", "3", "4"))
        drain(ab, "a")
        ab.end("a", finish("3", "1"))
        keys, position = ab.ended(0, 1)
        assert keys == ["3"]
        keys, position = ab.ended(position, 10)
        assert keys == ["1"]
        assert ab.ended(position, 10) == ([], position)
        ab.end("a", finish("4"))
        assert ab.ended(position, 10)[0] == ["4"]
        assert ab.ended(0, 2)[0] == ["3", "1"]

    def test_counts(self, ab: Store) -> None:
        ab.push(rows("1", "2", "3", "4", "5"))
        drain(ab, "b")
        ab.push(rows("6"))
        ab.end("b", [*finish("1", "2"), End("3", TaskState.FAILED)])
        tally = ab.tally()
        assert (tally.queued, tally.running, tally.finished) == (1, 2, 2)
        assert (tally.failed, tally.lost, tally.workers) == (1, 0, 2)
        ab.leave("b", WorkerState.KILLED)
        tally = ab.tally()
        assert (tally.running, tally.lost, tally.workers) == (0, 2, 1)

    def test_every_change_counts(self, ab: Store) -> None:
        changes = [ab.tally().changes]

        def changed() -> bool:
            changes.append(ab.tally().changes)
            return changes[-1] > changes[-2]

        ab.push(rows("1", "2"))
        assert changed()
        ab.pop("a")
        assert changed()
        ab.end("a", finish("1"))
        assert changed()
        ab.create("b", rows("3"))
        assert changed()
        ab.withdraw(None, "")
        assert changed()
        ab.leave("b", WorkerState.TERMINATED)
        assert changed()
        ab.enter(Worker("c"))
        assert changed()
        assert not changed()

    # ── waiting ──────────────────────────────────────────────────────────────────────────

    def test_pop_waits(self, ab: Store, other: Store) -> None:
        assert ab.pop("a", 0.01) is None
        found: list[Row | None] = []
        with meanwhile(lambda: found.append(ab.pop("a", EVER))):
            other.push(rows("k"))
        assert keys_of(found) == ["k"]

    def test_each_that_waits_gets_one(self, ab: Store, other: Store) -> None:
        found: list[Row | None] = []
        with (
            meanwhile(lambda: found.append(ab.pop("a", EVER))),
            meanwhile(lambda: found.append(other.pop("b", EVER))),
        ):
            other.push(rows("1", "2"))
        assert sorted(keys_of(found)) == ["1", "2"]

    def test_pop_waits_for_what_is_pinned(self, ab: Store, other: Store) -> None:
        found: list[Row | None] = []
        with meanwhile(lambda: found.append(ab.pop("a", EVER))):
            other.push(rows("for b", worker="b"))
            other.push(rows("for a", worker="a"))
        assert keys_of(found) == ["for a"]

    def test_wait_returns_at_the_next_change(self, ab: Store, other: Store) -> None:
        changes = ab.tally().changes
        assert ab.wait(changes - 1, EVER).changes == changes
        assert ab.wait(changes, 0.01).changes == changes
        found = []
        with (
            meanwhile(lambda: found.append(ab.wait(changes, EVER).queued)),
            meanwhile(lambda: found.append(other.wait(changes, EVER).queued)),
        ):
            other.push(rows("k"))
        assert found == [1, 1]

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def test_workers_as_they_came(self, ab: Store) -> None:
        assert ab.leave("a", WorkerState.TERMINATED, "done")
        a, b = ab.workers()
        assert (a.id, a.host, a.pid, a.state, a.reason) == (
            *("a", "here", 1),
            *(WorkerState.TERMINATED, "done"),
        )
        assert (b.id, b.state, b.ended) == ("b", WorkerState.RUNNING, 0.0)
        assert 0 < a.started <= a.ended
        assert b.started <= b.heard

    def test_an_id_is_used_once(self, ab: Store) -> None:
        with pytest.raises(BoardError, match="b"):
            ab.enter(Worker("b"))
        ab.leave("b", WorkerState.TERMINATED)
        with pytest.raises(BoardError, match="b"):
            ab.enter(Worker("b"))
        assert len(ab.workers()) == 2

    def test_who_has_left_can_do_nothing(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        ab.pop("a")
        assert ab.leave("a", WorkerState.TERMINATED)
        assert not ab.leave("a", WorkerState.KILLED)
        assert not ab.leave("stranger", WorkerState.KILLED)
        for worker in ("a", "stranger"):
            assert not ab.beat(worker)
            assert ab.end(worker, finish("1")) == [False]
            with pytest.raises(NotRunning):
                ab.pop(worker)
            with pytest.raises(NotRunning):
                ab.create(worker, rows("new"))
        assert ab.workers()[0].state is WorkerState.TERMINATED
        assert len(ab.workers()) == 2
        assert ab.rows(["new"]) == [None]

    def test_what_a_worker_had_when_it_left_is_lost(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        ab.pop("a")
        ab.leave("a", WorkerState.KILLED, "it was killed")
        (row,) = ab.rows(["1"])
        assert row is not None
        assert (row.state, row.worker, row.ended > 0) == (TaskState.LOST, "a", True)
        assert "it was killed" in row.condition
        assert state(ab, "2") is TaskState.QUEUED
        assert ab.ended(0, 10)[0] == ["1"]

    def test_what_a_worker_had_can_run_again(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        ab.pop("a")
        ab.leave("a", WorkerState.KILLED, most=2)
        assert drain(ab, "b") == ["1", "2"]
        ab.leave("b", WorkerState.KILLED, most=2)
        assert (state(ab, "1"), state(ab, "2")) == (TaskState.LOST, TaskState.QUEUED)
        assert ab.ended(0, 10)[0] == ["1"]

    def test_what_was_pinned_to_who_leaves_is_for_all(self, ab: Store) -> None:
        ab.push(rows("1", worker="a"))
        ab.push(rows("2", worker="a", priority=1))
        ab.leave("a", WorkerState.TERMINATED)
        assert [row.worker for row in ab.rows(["1", "2"]) if row] == ["", ""]
        assert drain(ab, "b") == ["2", "1"]

    def test_who_waits_gets_what_was_pinned_to_who_leaves(self, ab: Store, other: Store) -> None:
        other.push(rows("1", worker="a"))
        found: list[Row | None] = []
        with meanwhile(lambda: found.append(ab.pop("b", EVER))):
            other.leave("a", WorkerState.TERMINATED)
        assert keys_of(found) == ["1"]

    def test_some_are_asked_to_leave(self, ab: Store) -> None:
        assert ab.beat("a") and ab.beat("b")
        ab.push(rows("1", "2"))
        ab.pop("a")
        ab.ask_to_leave(["a", "stranger"])
        assert (ab.beat("a"), ab.beat("b")) == (False, True)
        with pytest.raises(NotRunning):
            ab.pop("a")
        assert ab.end("a", finish("1")) == [True]
        assert keys_of([ab.pop("b")]) == ["2"]
        ab.ask_to_leave(None)
        assert not ab.beat("b")

    def test_who_is_asked_to_leave_stops_waiting(self, ab: Store, other: Store) -> None:
        with pytest.raises(NotRunning), meanwhile(lambda: ab.pop("a", EVER)):
            other.ask_to_leave(None)

    def test_who_is_not_heard_of_in_time_is_lost(self, ab: Store) -> None:
        ab.enter(Worker("hasty", patience=0.001))
        ab.enter(Worker("patient", patience=60))
        ab.push(rows("1"))
        ab.pop("hasty")
        ab.push(rows("for hasty", worker="hasty"))
        found: list[str] = []
        until = time.monotonic() + EVER
        while not found and time.monotonic() < until:
            found = ab.find_lost()
        assert found == ["hasty"]
        assert ab.find_lost() == []
        assert state(ab, "1") is TaskState.LOST
        assert {each.id: each.state for each in ab.workers()}["hasty"] is WorkerState.LOST
        assert drain(ab, "patient") == ["for hasty"]

    def test_a_lost_task_can_run_again(self, ab: Store) -> None:
        ab.push(rows("1", "2"))
        for tries in (1, 2):
            worker = f"w{tries}"
            ab.enter(Worker(worker, patience=0.001))
            popped = ab.pop(worker)
            assert popped is not None and (popped.key, popped.tries) == ("1", tries)
            while not ab.find_lost(most=2):
                pass
            assert ab.end(worker, finish("1")) == [False]
        (row,) = ab.rows(["1"])
        assert row is not None
        assert (row.state, row.tries, row.worker) == (TaskState.LOST, 2, "w2")
        assert drain(ab, "a") == ["2"]

    def test_one_that_waits_again_is_as_it_was(self, ab: Store) -> None:
        ab.enter(Worker("w", patience=0.001))
        ab.push(rows("1", priority=5))
        (before,) = ab.rows(["1"])
        ab.pop("w")
        while not ab.find_lost(most=2):
            pass
        (after,) = ab.rows(["1"])
        assert before is not None and after is not None
        assert (after.state, after.worker, after.started) == (TaskState.QUEUED, "", 0.0)
        assert (after.tries, after.priority, after.pushed) == (1, 5, before.pushed)

    # ── the rest ─────────────────────────────────────────────────────────────────────────

    def test_logs(self, ab: Store) -> None:
        ab.log("a", ["one", "two"])
        ab.log("b", ["three: ü"])
        assert [line[1:] for line in ab.logged(None, 2)] == [("a", "two"), ("b", "three: ü")]
        assert [line[2] for line in ab.logged("a", 10)] == ["one", "two"]
        assert ab.logged("a", 0) == []
        assert ab.logged(None, 1)[0][0] > 0

    def test_objects(self, ab: Store) -> None:
        assert ab.get("name") is None
        ab.put("name", b"1")
        ab.put("name", b"\0\xff")
        ab.put("empty", b"")
        assert (ab.get("name"), ab.get("empty")) == (b"\0\xff", b"")

    def test_reset_forgets_everything(self, ab: Store, other: Store) -> None:
        ab.push(rows("1", "2", "3"))
        ab.push(rows("for b", worker="b"))
        drain(ab, "a")
        ab.end("a", finish("1", "2"))
        ab.put("name", b"1")
        ab.log("a", ["line"])
        _, position = other.ended(0, 10)
        before = ab.tally()
        ab.reset()
        tally = other.tally()
        assert tally.changes > before.changes
        assert (tally.queued, tally.running, tally.finished, tally.workers) == (0, 0, 0, 0)
        assert (other.workers(), other.get("name"), other.logged(None, 9)) == ([], None, [])
        assert other.rows(["1"]) == [None]
        assert not ab.beat("a")
        with pytest.raises(NotRunning):
            ab.pop("b")
        ab.enter(Worker("a"))
        ab.push(rows("1"))
        assert drain(ab, "a") == ["1"]
        ab.end("a", finish("1"))
        assert other.ended(position, 10)[0] == ["1"]

    def test_a_reset_ends_waiting(self, ab: Store, other: Store) -> None:
        with pytest.raises(NotRunning), meanwhile(lambda: ab.pop("a", EVER)):
            other.reset()

    def test_both_sides_see_the_same(self, ab: Store, other: Store) -> None:
        ab.push(rows("1", "2"))
        assert keys_of([other.pop("a"), ab.pop("b")]) == ["1", "2"]
        assert other.end("a", finish("1")) == [True]
        assert ab.tally() == other.tally()
        assert ab.workers()[0].id == other.workers()[0].id == "a"

    def test_many_at_once_take_each_task_once(self, ab: Store, other: Store) -> None:
        ab.push(rows(*map(str, range(200))))
        found: list[str] = []
        with (
            meanwhile(lambda: found.extend(drain(ab, "a"))),
            meanwhile(lambda: found.extend(drain(other, "b"))),
        ):
            pass
        assert sorted(found, key=int) == list(map(str, range(200)))

    def test_closing_twice(self, ab: Store) -> None:
        ab.close()
        ab.close()
