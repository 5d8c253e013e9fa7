"""Boards as a dispatcher holds them, by themselves: no connection, and time is what we say."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count
from typing import Any, cast

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dispatcher import table, tables
from dispatcher.blob import Blob
from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState
from dispatcher.messages import Consult, Objected, Reply
from dispatcher.requests import (
    Answer,
    AskToLeave,
    Beat,
    Count,
    Counted,
    Create,
    Depart,
    Ended,
    Enter,
    FindLost,
    Finish,
    Get,
    Given,
    Keys,
    Log,
    Logged,
    Named,
    Object,
    Pop,
    Push,
    Put,
    Read,
    Request,
    Reset,
    Truths,
    Wait,
    Withdraw,
)
from dispatcher.table import Table
from dispatcher.tables import Tables
from mirai._answer import Failure, Value
from mirai._errors import BoardError, NotRunning
from mirai._future import Mirai
from mirai._pool import Daemons
from mirai.queues.boards._dispatcher_store import DispatcherStore
from tests.integration.board_contract import StoreContract

CLIENT, OTHER = 1, 2


class Clients:
    """Clients of some tables, whose clock stands still."""

    def __init__(self, **limits: Any) -> None:
        self.tables = Tables(epoch=1_000.0, **limits)
        self.now = 0.0
        self._numbers = count(1)
        self.told: dict[int, Answer | str] = {}

    def ask(self, request: Request, *, peer: int = CLIENT, board: str = "b") -> int:
        """Ask something; return under which number the answer will be told."""
        number = next(self._numbers)
        self.tables.take(peer, Consult(number, board, request))
        self.turn()
        return number

    def get(self, request: Request, board: str = "b") -> Any:
        """Return the answer, which comes at once, or why there is none."""
        return self.told.pop(self.ask(request, board=board))

    def turn(self, seconds: float = 0.0) -> None:
        """Let some time go by."""
        self.now += seconds
        for _, message in self.tables.turn(self.now):
            said = message.reason if isinstance(message, Objected) else message.answer
            assert message.number not in self.told
            self.told[message.number] = said
        self.tables.check()

    def enter(self, *workers: str) -> None:
        for worker in workers:
            assert self.get(Enter(Worker(worker))) == Truths()

    def push(self, *keys: str, worker: str = "", priority: int = 0) -> None:
        rows = tuple(Row(key, b"xs", worker=worker, priority=priority) for key in keys)
        assert self.get(Push(rows)) == Truths()

    def key(self, number: int) -> str | None:
        """Return the key of the task that this number was answered with, if it was."""
        told = self.told.get(number)
        if not isinstance(told, Given):
            return None
        (row,) = told.rows
        return None if row is None else row.key


@pytest.fixture
def clients() -> Clients:
    return Clients()


# ── who waits ────────────────────────────────────────────────────────────────────────────


def test_those_who_wait_are_given_tasks_in_the_order_of_asking(clients: Clients) -> None:
    clients.enter("a", "b", "c")
    asked = [clients.ask(Pop(worker, 10.0)) for worker in ("b", "a", "c")]
    clients.push("1", "2")
    assert [clients.key(number) for number in asked] == ["1", "2", None]
    clients.push("3")
    assert clients.key(asked[2]) == "3"


def test_time_goes_by(clients: Clients) -> None:
    clients.enter("a")
    assert clients.tables.next_deadline() is None
    pop = clients.ask(Pop("a", 2.0))
    wait = clients.ask(Wait(clients.get(Wait(-1)).tally.changes, 1.0))
    assert clients.tables.next_deadline() == 1.0
    clients.turn(1.0)
    assert isinstance(clients.told[wait], Counted) and pop not in clients.told
    assert clients.tables.next_deadline() == 2.0
    clients.turn(1.0)
    assert clients.told[pop] == Given((None,))
    assert clients.tables.next_deadline() is None
    clients.push("1")
    assert clients.get(Keys((TaskState.QUEUED,))).names == ("1",)


def test_what_was_asked_is_due_at_once(clients: Clients) -> None:
    clients.tables.take(CLIENT, Consult(1, "b", Wait(-1)))
    deadline = clients.tables.next_deadline()
    assert deadline is not None and deadline < clients.now


@pytest.mark.parametrize("timeout", [0.0, -1.0, float("nan"), float("-inf")])
def test_no_time_is_no_waiting(clients: Clients, timeout: float) -> None:
    clients.enter("a")
    assert clients.get(Pop("a", timeout)) == Given((None,))
    assert clients.get(Wait(1, timeout)).tally.changes == 1


def test_nobody_waits_for_ever(clients: Clients) -> None:
    clients.enter("a")
    clients.ask(Pop("a", float("inf")))
    assert clients.tables.next_deadline() == tables.LONGEST


def test_a_client_that_is_lost_is_given_nothing(clients: Clients) -> None:
    clients.enter("a", "b")
    lost = clients.ask(Pop("a", 10.0))
    stays = clients.ask(Pop("b", 10.0), peer=OTHER)
    clients.tables.take(CLIENT, Consult(98, "b", Push((Row("1", b""),))))
    clients.tables.take(CLIENT, Consult(99, "b", Pop("a")))
    clients.tables.lose(CLIENT)
    clients.turn()
    assert clients.key(stays) == "1"
    assert lost not in clients.told and 99 not in clients.told
    assert clients.get(Beat("a")) == Truths((True,))  # its worker may be well


def test_a_board_at_which_only_the_lost_have_waited_takes_no_room(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_BOARDS", 1)
    clients.ask(Wait(clients.get(Wait(-1)).tally.changes, 10.0))
    assert isinstance(clients.get(Wait(-1), board="other"), str)
    clients.tables.lose(CLIENT)
    assert isinstance(clients.get(Wait(-1), board="other"), Counted)


def test_who_was_answered_has_no_deadline(clients: Clients) -> None:
    clients.enter("a")
    clients.ask(Pop("a", 1.0))
    clients.push("1")
    assert clients.tables.next_deadline() is None


def test_those_who_may_pop_no_more_are_told(clients: Clients) -> None:
    clients.enter("a", "b", "c", "d")
    asked = {worker: clients.ask(Pop(worker, 10.0)) for worker in "abcd"}
    clients.get(Depart("a", WorkerState.KILLED, "why"))
    assert clients.told[asked["a"]] == "worker a is killed"
    clients.get(AskToLeave(("b",)))
    assert clients.told[asked["b"]] == "worker b was asked to leave"
    assert asked["c"] not in clients.told
    clients.get(Reset())
    assert clients.told[asked["d"]] == "there is no worker d"


def test_one_that_may_not_have_a_task_is_passed_over(clients: Clients) -> None:
    clients.enter("a", "b")
    asked = [clients.ask(Pop(worker, 10.0)) for worker in ("a", "b")]
    clients.push("for b", worker="b")
    assert [clients.key(number) for number in asked] == [None, "for b"]


def test_a_change_is_told_to_all_who_wait_for_one_and_only_once(clients: Clients) -> None:
    changes = clients.get(Wait(-1)).tally.changes
    asked = [clients.ask(Wait(changes, 10.0), peer=peer) for peer in (CLIENT, OTHER)]
    clients.get(Put("name", Blob(b"1")))
    clients.get(Log("a", ("line",)))
    assert not clients.told
    clients.push("1", "2")
    assert [clients.told[number] for number in asked] == [
        Counted(Tally(queued=2, changes=changes + 2))
    ] * 2


def test_deadlines_of_those_who_were_answered_do_not_pile_up(clients: Clients) -> None:
    clients.enter("a")
    for number in range(1_000):
        clients.ask(Pop("a", 1e6))
        clients.push(f"{number}")
    assert len(clients.tables._deadlines) <= tables.SLACK + 3


def test_a_number_that_is_in_use_is_refused(clients: Clients) -> None:
    clients.enter("a")
    clients.tables.take(CLIENT, Consult(99, "b", Pop("a", 10.0)))
    clients.tables.take(CLIENT, Consult(99, "b", Pop("a", 10.0)))
    assert clients.tables.turn(0.0) == [(CLIENT, Objected(99, "number 99 is in use"))]
    clients.tables.check()


# ── boards ───────────────────────────────────────────────────────────────────────────────


def test_boards_are_apart(clients: Clients) -> None:
    clients.enter("a")
    clients.push("1")
    assert clients.get(Enter(Worker("a")), board="other") == Truths()
    assert clients.get(Pop("a"), board="other") == Given((None,))
    assert clients.key(clients.ask(Pop("a"))) == "1"


def test_a_board_of_which_nothing_is_known_takes_no_room(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MOST_BOARDS", 1)
    for number in range(3):
        clients.get(Wait(-1), board=f"{number}")
    clients.push("1")
    changes = clients.get(Wait(-1)).tally.changes
    assert clients.get(Wait(-1), board="other") == "a dispatcher has at most 1 boards"
    clients.get(Reset())
    assert clients.get(Put("x", Blob(b"")), board="other") == Truths()
    clients.get(Reset(), board="other")
    assert clients.get(Wait(-1)).tally.changes > changes  # or who waits would miss it


def test_who_has_read_some_before_a_reset_gets_all_since(clients: Clients) -> None:
    clients.enter("a")
    clients.get(Create("a", (Row("1", b""), Row("2", b""))))
    clients.get(Finish("a", (End("1", TaskState.FINISHED), End("2", TaskState.FAILED))))
    position = clients.get(Ended(0, 9)).position
    clients.get(Reset())
    assert clients.get(Ended(position, 9)).names == ()
    clients.push("3", "4")
    clients.get(Withdraw(None, "why"))
    assert clients.get(Ended(position, 1)).names == ("3",)
    assert clients.get(Ended(clients.get(Ended(position, 1)).position, 9)).names == ("4",)


# ── limits ───────────────────────────────────────────────────────────────────────────────


def test_what_is_held_is_bounded() -> None:
    clients = Clients(most_bytes=5_000)
    clients.enter("a")
    clients.push("1", "2", "0")
    full = "the boards of a dispatcher hold at most 5,000 bytes"
    for request in (
        Push((Row("3", b"x" * 5_000),)),
        Create("a", tuple(Row(f"{number}", b"") for number in range(3, 7))),
        Put("name", Blob(b"x" * 5_000)),
        Log("a", ("x" * 5_000,)),
        Finish("a", (End("1", TaskState.FAILED, b"", "x" * 5_000),)),
    ):
        assert clients.get(request) == full
    assert clients.get(Enter(Worker("b")), board="other") == Truths()
    assert clients.get(Enter(Worker("c")), board="other") == full
    clients.get(Reset())
    assert clients.get(Put("name", Blob(b"x" * 1_200))) == Truths()
    assert clients.get(Put("name", Blob(b"x" * 1_000))) == Truths()
    assert clients.get(Put("other", Blob(b"x" * 1_900))) == Truths()


def test_numbers_are_bounded(clients: Clients, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "MOST_ROWS", 2)
    monkeypatch.setattr(table, "MOST_WORKERS", 1)
    monkeypatch.setattr(table, "MOST_LINES", 2)
    monkeypatch.setattr(table, "MOST_NAMES", 3)
    monkeypatch.setattr(tables, "MOST_WAITERS", 1)
    clients.enter("a")
    assert clients.get(Enter(Worker("b"))) == "a board has at most 1 workers"
    assert clients.get(Push((Row("1", b""), Row("2", b""), Row("3", b"")))) == (
        "a board has at most 2 tasks"
    )
    clients.push("11", "22")
    assert clients.get(Keys((TaskState.QUEUED,))) == "2 keys are too much to tell at once"
    clients.get(Log("a", ("1", "2", "3")))
    assert [line[2] for line in clients.get(Logged(None, 9)).lines] == ["2", "3"]
    clients.get(Withdraw(None, ""))
    clients.ask(Pop("a", 1.0))
    assert "at most 1 can wait" in clients.get(Pop("a", 1.0))


@pytest.mark.parametrize(
    "request_",
    [
        Push((Row("x" * 1_001, b""),)),
        Push((Row("ü" * 501, b""),)),
        Enter(Worker("x" * 1_001)),
        Enter(Worker("")),
        Enter(Worker("w", patience=-1.0)),
        Enter(Worker("w", patience=float("nan"))),
        Put("x" * 1_001, Blob(b"")),
        Log("x" * 1_001, ("line",)),
        Finish("a", (End("1", TaskState.QUEUED),)),
        Finish("a", (End("1", TaskState.RUNNING),)),
        Depart("a", WorkerState.RUNNING),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(
    clients: Clients, request_: Request
) -> None:
    clients.enter("a")
    clients.push("1")
    clients.get(Pop("a"))
    before = clients.get(Wait(-1))
    assert isinstance(clients.get(request_), str)
    assert clients.get(Wait(-1)) == before


def test_what_is_too_large_for_a_task_is_refused(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "LARGEST", 10)
    clients.enter("a")
    assert "put them" in clients.get(Push((Row("1", b"x" * 11),)))
    clients.push("2")
    clients.get(Pop("a"))
    assert "put them" in clients.get(Finish("a", (End("2", TaskState.FINISHED, b"x" * 11),)))
    assert clients.get(Finish("a", (End("2", TaskState.FINISHED, b"x" * 10),))) == Truths((True,))


def test_an_answer_holds_only_so_many_bytes(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "PORTION", 2 * table.ROW_BYTES + 50)
    clients.push("1", "2", "3")
    assert len(clients.get(Read(("1", "2", "3"))).rows) == 2
    monkeypatch.setattr(tables, "PORTION", 1)
    assert len(clients.get(Read(("1", "2", "3"))).rows) == 1


def test_long_words_are_cut(clients: Clients) -> None:
    clients.enter("a")
    clients.push("1", "2")
    clients.get(Pop("a"))
    clients.get(Finish("a", (End("1", TaskState.FAILED, b"", "x" * 9_999),)))
    assert len(clients.get(Read(("1",))).rows[0].condition) == table.LONGEST_LINE
    clients.get(Log("a", ("x" * 9_999,)))
    assert len(clients.get(Logged("a", 1)).lines[0][2]) == table.LONGEST_LINE


def test_only_large_objects_keep_the_message_that_they_came_in(clients: Clients) -> None:
    small, large = bytearray(b"x" * 10), bytearray(b"x" * tables.COPIED)
    clients.get(Put("small", Blob(memoryview(small))))
    clients.get(Put("large", Blob(memoryview(large))))
    small[0] = large[0] = 0
    assert clients.get(Get("small")) == Object(Blob(b"x" * 10))
    assert clients.get(Get("large")).data.data[0] == 0


# ── the order of tasks ───────────────────────────────────────────────────────────────────


def test_one_that_waits_again_has_its_old_place(clients: Clients) -> None:
    clients.get(Enter(Worker("a", patience=1.0)))
    clients.enter("b")
    clients.push("1", "2")
    clients.get(Pop("a"))
    clients.push("3")
    clients.turn(2.0)
    assert clients.get(FindLost(2)) == Named(("a",))
    asked = [clients.ask(Pop("b")) for _ in range(3)]
    assert [clients.key(number) for number in asked] == ["1", "2", "3"]


def test_one_that_was_pinned_has_its_old_place(clients: Clients) -> None:
    clients.enter("a", "b")
    clients.push("1", worker="a")
    clients.push("2")
    clients.get(Depart("a", WorkerState.TERMINATED))
    asked = [clients.ask(Pop("b")) for _ in range(2)]
    assert [clients.key(number) for number in asked] == ["1", "2"]


def test_whatever_a_worker_does_is_a_sign_of_life(clients: Clients) -> None:
    clients.get(Enter(Worker("a", patience=1.0)))
    for request in (
        Beat("a"),
        Pop("a"),
        Create("a", ()),
        Finish("a", ()),
    ):
        clients.turn(0.9)
        clients.get(request)
        assert clients.get(FindLost()) == Named(())
    clients.turn(1.1)
    assert clients.get(FindLost()) == Named(("a",))


def test_to_wait_is_none(clients: Clients) -> None:
    clients.get(Enter(Worker("a", patience=1.0)))
    clients.enter("b")
    clients.ask(Pop("a", 10.0))
    clients.turn(1.1)
    clients.push("1", worker="b")
    clients.push("2")
    assert clients.get(FindLost()) == Named(("a",))


def test_what_is_withdrawn_twice_fails_once(clients: Clients) -> None:
    clients.push("1")
    assert clients.get(Withdraw(("1", "1"), "why")) == Count(1)
    assert clients.get(Withdraw(("1",), "why")) == Count(0)


# ── any history ──────────────────────────────────────────────────────────────────────────

WORKERS = st.sampled_from(["a", "b", "c"])


class Histories(RuleBasedStateMachine):
    """Any history, beside a model that looks at everything each time."""

    def __init__(self) -> None:
        super().__init__()
        self.clients = Clients()
        self.order: list[str] = []  # keys in the order of pushing
        self.states: dict[str, TaskState] = {}
        self.owner: dict[str, str] = {}  # of running tasks, and of pinned ones that are queued
        self.priority: dict[str, int] = {}
        self.tries: dict[str, int] = {}
        self.heard: dict[str, float] = {}  # of running workers
        self.used: set[str] = set()
        self.leaving: set[str] = set()
        self.parked: dict[int, str] = {}  # number -> worker, in the order of asking
        self.ended: list[str] = []

    # what the model does

    def best(self, worker: str) -> str | None:
        """Return what this worker is given next."""
        mine = [
            key
            for key in self.order
            if self.states[key] is TaskState.QUEUED and self.owner.get(key, worker) == worker
        ]
        return min(
            mine,
            key=lambda key: (key not in self.owner, -self.priority[key], self.order.index(key)),
            default=None,
        )

    def give(self, key: str, worker: str) -> None:
        self.states[key], self.owner[key] = TaskState.RUNNING, worker
        self.tries[key] += 1

    def close(self, key: str, state: TaskState) -> None:
        self.states[key] = state
        self.owner.pop(key, None)
        self.ended.append(key)

    def bury(self, worker: str, again: int) -> None:
        del self.heard[worker]
        self.leaving.discard(worker)
        for key in [key for key, owner in self.owner.items() if owner == worker]:
            if self.states[key] is TaskState.QUEUED or self.tries[key] < again:
                self.states[key] = TaskState.QUEUED
                del self.owner[key]
            else:
                self.close(key, TaskState.LOST)

    def serve(self) -> None:
        """See that those who wait are told what the model says, and nobody else is."""
        for number, worker in list(self.parked.items()):
            if worker not in self.heard or worker in self.leaving:
                assert isinstance(self.clients.told.pop(number), str)
            elif (key := self.best(worker)) is not None:
                assert self.clients.key(number) == key
                del self.clients.told[number]
                self.give(key, worker)
            else:
                continue
            del self.parked[number]
        assert not self.clients.told

    # what happens

    @rule(
        many=st.integers(1, 3),
        pinned=st.sampled_from(["", "", "a", "b"]),
        priority=st.integers(-1, 1),
    )
    def push(self, many: int, pinned: str, priority: int) -> None:
        keys = [f"{len(self.order) + index}" for index in range(many)]
        self.clients.push(*keys, worker=pinned, priority=priority)
        for key in keys:
            self.order.append(key)
            self.states[key], self.priority[key] = TaskState.QUEUED, priority
            self.tries[key] = 0
            if pinned in self.heard:
                self.owner[key] = pinned
        self.serve()

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def push_again(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from(self.order))
        refused = self.clients.get(Push((Row("new", b""), Row(key, b""))))
        assert refused == f"there is a task {key} already"

    @rule(worker=WORKERS)
    def create(self, worker: str) -> None:
        key = f"{len(self.order)}"
        answer = self.clients.get(Create(worker, (Row(key, b""),)))
        assert (answer == Truths()) == (worker in self.heard)
        if worker in self.heard:
            self.order.append(key)
            self.priority[key], self.tries[key] = 0, 0
            self.give(key, worker)
            self.heard[worker] = self.clients.now
        self.serve()

    @rule(worker=WORKERS, timeout=st.sampled_from([0.0, 2.0, 5.0]))
    def pop(self, worker: str, timeout: float) -> None:
        number = self.clients.ask(Pop(worker, timeout))
        if worker not in self.heard or worker in self.leaving:
            assert isinstance(self.clients.told.pop(number), str)
            return
        key = self.best(worker)
        self.heard[worker] = self.clients.now
        if key is not None:
            self.give(key, worker)
            assert self.clients.key(number) == key
        if key is not None or not timeout:
            del self.clients.told[number]
        else:
            self.parked[number] = worker

    @precondition(lambda self: self.order)
    @rule(worker=WORKERS, state=st.sampled_from(table.ENDS), data=st.data())
    def end(self, worker: str, state: TaskState, data: st.DataObject) -> None:
        keys = data.draw(st.lists(st.sampled_from(self.order), max_size=3))
        expected = []
        for key in keys:
            has = self.states[key] is TaskState.RUNNING and self.owner[key] == worker
            expected.append(has)
            if has:
                self.close(key, state)
        answer = self.clients.get(Finish(worker, tuple(End(key, state) for key in keys)))
        assert answer == Truths(tuple(expected))
        if worker in self.heard:
            self.heard[worker] = self.clients.now

    @rule(every=st.booleans(), data=st.data())
    def withdraw(self, every: bool, data: st.DataObject) -> None:
        if every or not self.order:
            keys = None
        else:
            keys = tuple(data.draw(st.lists(st.sampled_from(self.order), max_size=3)))
        queued = [
            key
            for key in dict.fromkeys(self.order if keys is None else keys)
            if self.states[key] is TaskState.QUEUED
        ]
        for key in queued:
            self.close(key, TaskState.FAILED)
        assert self.clients.get(Withdraw(keys, "why")) == Count(len(queued))

    @rule(worker=WORKERS)
    def enter(self, worker: str) -> None:
        answer = self.clients.get(Enter(Worker(worker, patience=10.0)))
        assert (answer == Truths()) == (worker not in self.used)
        if worker not in self.used:
            self.used.add(worker)
            self.heard[worker] = self.clients.now

    @rule(worker=WORKERS)
    def beat(self, worker: str) -> None:
        goes_on = worker in self.heard and worker not in self.leaving
        assert self.clients.get(Beat(worker)) == Truths((goes_on,))
        if worker in self.heard:
            self.heard[worker] = self.clients.now

    @rule(worker=WORKERS, again=st.integers(0, 3))
    def leave(self, worker: str, again: int) -> None:
        ran = worker in self.heard
        assert self.clients.get(Depart(worker, WorkerState.KILLED, "", again)) == Truths((ran,))
        if ran:
            self.bury(worker, again)
        self.serve()

    @rule(worker=WORKERS)
    def ask_to_leave(self, worker: str) -> None:
        self.clients.get(AskToLeave((worker,)))
        self.leaving |= self.heard.keys() & {worker}
        self.serve()

    @rule(seconds=st.sampled_from([1.0, 6.0]), again=st.integers(0, 3))
    def time_goes_by(self, seconds: float, again: int) -> None:
        self.clients.turn(seconds)
        for number in [number for number in self.parked if number in self.clients.told]:
            assert self.clients.told.pop(number) == Given((None,))
            del self.parked[number]
        lost = [id for id, heard in self.heard.items() if self.clients.now - heard > 10.0]
        answer = self.clients.get(FindLost(again))
        assert set(answer.names) == set(lost)
        for worker in answer.names:
            self.bury(worker, again)
        self.serve()

    @rule()
    def lose(self) -> None:
        self.clients.tables.lose(CLIENT)
        self.parked.clear()
        self.serve()

    # what always holds

    @invariant()
    def all_is_as_the_model_says(self) -> None:
        self.clients.tables.check()
        rows = self.clients.get(Read(tuple(self.order))).rows
        assert [row.key for row in rows] == self.order
        assert {row.key: row.state for row in rows} == self.states
        assert {row.key: row.tries for row in rows} == self.tries
        owners = {row.key: row.worker for row in rows if row.worker and not row.ended}
        assert owners == self.owner
        assert sorted(self.clients.get(Ended(0, 999)).names) == sorted(self.ended)
        tally = self.clients.get(Wait(-1)).tally
        for state in TaskState:
            assert getattr(tally, state.value) == list(self.states.values()).count(state)
        assert tally.workers == len(self.heard)


TestHistories = Histories.TestCase
TestHistories.settings = settings(stateful_step_count=40, deadline=None)

# ── the contract of all stores ───────────────────────────────────────────────────────────


class Nearby:
    """A pool whose dispatcher's tables are here: requests are handed over as they are."""

    url = "here"

    def __init__(self) -> None:
        self._tables = Tables(time.time() - time.monotonic())
        self._lock = threading.Condition()
        self._asked: dict[int, Mirai[Any]] = {}
        self._closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def ask_board(self, board: str, request: Request) -> Mirai[Any]:
        with self._lock:
            asked = self._asked[len(self._asked)] = Mirai(len(self._asked), "board")
            self._tables.take(CLIENT, Consult(asked.id, board, request))
            self._lock.notify()
        return asked

    def _serve(self) -> None:
        with self._lock:
            while not self._closed:
                for _, message in self._tables.turn(time.monotonic()):
                    self._asked[message.number].settle(_told(message))
                deadline = self._tables.next_deadline()
                self._lock.wait(None if deadline is None else max(0, deadline - time.monotonic()))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()


def _told(message: Reply | Objected) -> Value | Failure:
    if isinstance(message, Reply):
        return Value(message.answer)
    return Failure((NotRunning if message.not_running else BoardError)(message.reason))


class TestContract(StoreContract):
    @pytest.fixture
    def pool(self) -> Iterator[Daemons]:
        nearby = Nearby()
        yield cast(Daemons, nearby)
        nearby.close()

    @pytest.fixture
    def store(self, pool: Daemons) -> DispatcherStore:
        return DispatcherStore(pool, "b")

    @pytest.fixture
    def other(self, pool: Daemons) -> DispatcherStore:
        return DispatcherStore(pool, "b")


def test_any_number_of_lines_may_be_asked_for() -> None:
    """Whatever number a client sends, it is answered."""
    table = Table()
    table.log("w", ["a", "b"], 1.0)
    assert [line for _, _, line in table.logged(None, 2**64 - 1)] == ["a", "b"]
    assert table.logged("w", 0) == ()
