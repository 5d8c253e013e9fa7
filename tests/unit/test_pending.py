"""Outcomes to mirais: every one that is waited for is settled, once."""

from __future__ import annotations

import asyncio
import gc
import weakref
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

import pytest

from dispatcher.messages import Crash, Function, Kind, Outcome, Task
from mirai import (
    DaemonCrashed,
    DispatcherLost,
    Mirai,
    MiraiError,
    RemoteError,
    SerializationError,
    TaskCancelled,
)
from mirai._evaluate import Evaluator
from mirai._pending import Pending
from mirai._serialize import dumps, pack


def waiting(*ids: int) -> tuple[Pending, list[Mirai[Any]]]:
    pending = Pending()
    mirais: list[Mirai[Any]] = [Mirai(id, f"f{id}") for id in ids]
    for mirai in mirais:
        pending.add(mirai)
    return pending, mirais


def value(id: int, value: object) -> Outcome:
    return Outcome(id, Kind.VALUE, *pack(value))


def told(id: int, error: BaseException) -> Outcome:
    """The outcome of a task that raises ``error``."""
    evaluator = Evaluator()

    def task() -> None:
        raise error

    evaluator.learn((Function(1, "task", b""),), ())
    evaluator._functions[1] = task  # itself, and not a copy of it
    return evaluator.evaluate(Task(id, 1, *pack(((), {}))))


def outcome_of(outcome: Outcome) -> Mirai[Any]:
    pending, (mirai,) = waiting(outcome.id)
    pending.settle([outcome])
    return mirai


# ── settling ─────────────────────────────────────────────────────────────────────────────


def test_each_outcome_settles_its_own_mirai() -> None:
    pending, (one, two, three) = waiting(1, 2, 3)
    pending.settle([value(3, "c"), value(1, "a")])
    assert (one.result(0), three.result(0)) == ("a", "c")
    assert not two.done()
    assert len(pending) == 1


def test_unknown_and_late_outcomes_are_dropped() -> None:
    pending, (one,) = waiting(1)
    pending.settle([value(99, "never asked"), value(1, "first"), value(1, "second")])
    pending.settle([value(1, "third")])
    assert one.result(0) == "first"
    assert len(pending) == 0


def test_what_is_removed_is_waited_for_no_longer() -> None:
    pending, (one,) = waiting(1)
    assert pending.pop(1) is not None
    assert pending.pop(1) is None
    pending.settle([value(1, "late")])
    assert not one.done()


def test_an_outcome_after_a_cancel_is_dropped() -> None:
    pending, (one,) = waiting(1)
    one.cancel()
    pending.settle([value(1, "late")])
    assert one.cancelled()
    assert len(pending) == 0


def test_a_large_result_comes_as_blobs() -> None:
    large = b"x" * 1_000_000
    outcome = value(1, large)
    assert outcome.payload == b""
    assert outcome_of(outcome).result(0) == large


def test_a_task_that_was_cancelled_elsewhere() -> None:
    mirai = outcome_of(Outcome(1, Kind.CANCELLED))
    assert mirai.cancelled()
    with pytest.raises(TaskCancelled, match=r"task 1 \(f1\)"):
        mirai.result(0)


def test_an_answered_mirai_is_let_go_of() -> None:
    pending, mirais = waiting(1)
    pending.settle([value(1, 1)])
    watcher = weakref.ref(mirais.pop())
    gc.collect()
    assert watcher() is None
    assert len(pending) == 0


# ── crashes ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("exit", "code", "signal", "words"),
    [
        (-9, None, "SIGKILL", "the daemon died of SIGKILL"),
        (-11, None, "SIGSEGV", "the daemon died of SIGSEGV"),
        (-250, None, "signal 250", "of signal 250"),
        (0, 0, None, "with exit code 0"),
        (3, 3, None, "with exit code 3"),
        (None, None, None, "the daemon died (process 77 on here, attempt 1)"),
    ],
)
def test_a_crash_says_how(
    exit: int | None, code: int | None, signal: str | None, words: str
) -> None:
    crash = Crash("the daemon died", exit=exit, host="here", pid=77, tail="oops\nhelp")
    error = outcome_of(Outcome(1, Kind.CRASHED, crash=crash)).exception(0)
    assert isinstance(error, DaemonCrashed)
    assert (error.exit_code, error.signal, error.host, error.pid) == (code, signal, "here", 77)
    assert (error.output, error.attempt) == ("oops\nhelp", 1)
    assert words in str(error)
    assert str(error).endswith("oops\nhelp")


def test_a_crash_without_words_is_a_crash() -> None:
    error = outcome_of(Outcome(1, Kind.CRASHED)).exception(0)
    assert isinstance(error, DaemonCrashed)
    assert str(error) == "the daemon died"


# ── losing ───────────────────────────────────────────────────────────────────────────────


def test_a_lost_connection_settles_all() -> None:
    pending, mirais = waiting(1, 2, 3)
    pending.settle([value(2, "in time")])
    pending.lose(DispatcherLost("gone"))
    assert len(pending) == 0
    assert mirais[1].result(0) == "in time"
    for mirai in (mirais[0], mirais[2]):
        assert not mirai.cancelled()
        with pytest.raises(DispatcherLost, match="gone"):
            mirai.result(0)


def test_a_shutdown_cancels_all() -> None:
    pending, mirais = waiting(1, 2)
    pending.lose(TaskCancelled("the pool was shut down"), cancelled=True)
    for mirai in mirais:
        assert mirai.cancelled()
        with pytest.raises(CancelledError):
            mirai.result(0)


def test_losing_twice_or_nothing_is_nothing() -> None:
    pending, (mirai,) = waiting(1)
    pending.lose(DispatcherLost("first"))
    pending.lose(DispatcherLost("second"))
    with pytest.raises(DispatcherLost, match="first"):
        mirai.result(0)
    Pending().lose(DispatcherLost("nobody cares"))


def test_a_callback_may_use_pending_while_it_is_lost() -> None:
    pending, mirais = waiting(1, 2)
    left: list[int] = []
    mirais[0].add_done_callback(lambda _: left.append(len(pending)))
    pending.lose(DispatcherLost("gone"))
    assert left == [0]
    assert all(mirai.done() for mirai in mirais)


def test_each_lost_mirai_has_a_traceback_of_its_own() -> None:
    pending, mirais = waiting(*range(1, 51))
    pending.lose(DispatcherLost("gone"))
    lengths = set()
    for mirai in mirais:
        with pytest.raises(DispatcherLost) as caught:
            mirai.result(0)
        lengths.add(len(caught.traceback))
    assert len(lengths) == 1


# ── errors of tasks ──────────────────────────────────────────────────────────────────────


class Custom(Exception):
    def __init__(self, number: int, why: str) -> None:
        super().__init__(number, why)
        self.number = number


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("k"), Custom(3, "why"), OSError(2, "x")]
)
def test_a_tasks_own_error_is_raised_with_its_origin_as_cause(error: Exception) -> None:
    caught = outcome_of(told(1, error)).exception(0)
    assert type(caught) is type(error)
    assert caught is not error
    assert caught.args == error.args
    assert caught.__dict__ == error.__dict__
    assert isinstance(caught.__cause__, RemoteError)
    assert "raise error" in caught.__cause__.traceback
    assert str(error) in str(caught.__cause__)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (SystemExit(3), "SystemExit"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (BaseException("all of it"), "BaseException"),
    ],
)
def test_what_would_end_the_wrong_process_comes_in_words(error: BaseException, name: str) -> None:
    mirai = outcome_of(told(1, error))
    caught = mirai.exception(0)
    assert isinstance(caught, RemoteError)
    assert caught.type_name == name
    assert caught.message == str(error)
    assert not mirai.cancelled()


def test_an_error_whose_class_is_not_here_comes_in_words() -> None:
    pickled = b"cno_such_module\nNoSuchError\n."
    answer = ("some.Error", "its message", "its traceback", pickled)
    caught = outcome_of(Outcome(1, Kind.ERROR, *pack(answer))).exception(0)
    assert isinstance(caught, RemoteError)
    assert (caught.type_name, caught.message) == ("some.Error", "its message")


def test_what_comes_out_of_an_errors_pickle_must_be_an_error() -> None:
    answer = ("some.Error", "its message", "its traceback", dumps("no error at all"))
    assert isinstance(outcome_of(Outcome(1, Kind.ERROR, *pack(answer))).exception(0), RemoteError)


@dataclass(frozen=True)
class Frozen(Exception):
    """An error that lets nobody set an attribute."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Frozen, ()


def test_a_frozen_error_is_raised_as_itself() -> None:
    caught = outcome_of(told(1, Frozen())).exception(0)
    assert isinstance(caught, Frozen)
    assert isinstance(caught.__cause__, RemoteError)


@pytest.mark.parametrize("payload", [b"", b"garbage", b"\x80\x05.", b"cno_such_module\nNo\n."])
@pytest.mark.parametrize("kind", [Kind.VALUE, Kind.ERROR])
def test_an_answer_that_cannot_be_unpickled_is_told(kind: Kind, payload: bytes) -> None:
    mirai = outcome_of(Outcome(1, kind, payload))
    what = "error" if kind is Kind.ERROR else "result"
    with pytest.raises(SerializationError, match=f"the task's {what} cannot be unpickled here"):
        mirai.result(0)
    assert isinstance(mirai.exception(0), MiraiError)


def test_nothing_is_unpickled_by_the_thread_that_settles() -> None:
    mirai = outcome_of(Outcome(1, Kind.VALUE, b"garbage"))
    assert repr(mirai) == "<Mirai 1 f1: done>"
