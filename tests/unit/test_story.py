"""The story of a task: what the dispatcher tells of it, and what its host makes of that."""

from __future__ import annotations

import copy
import math
import pickle
from dataclasses import replace
from typing import Any

import pytest
from test_core import CLIENT, CRASH, D1, D2, OTHER, SENT, TINY, F, Pool, sent, task

from dispatcher.core import LONG
from dispatcher.events import Joined, Lost, Role
from dispatcher.messages import (
    VERSION,
    Crash,
    Done,
    Everywhere,
    Function,
    Hello,
    Kind,
    Outcome,
    Recount,
    Results,
    Returned,
    Step,
    Submit,
    Told,
)
from dispatcher.story import KEPT, SLOW, cause
from mirai import DaemonCrashed, Mirai, Story, TaskCancelled, TaskTimeout
from mirai._answer import Failure, Value
from mirai._errors import DispatcherLost
from mirai._pending import Pending
from mirai._story import Event

WAITED = 1.5
SENT_ON = f"sent to daemon {D2} (process {D2} on host{D2})"
DIED = "that daemon was lost: the daemon died of SIGKILL"


def results(commands: list[Any]) -> list[Outcome]:
    return [each for message in sent(commands, CLIENT, Results) for each in message.outcomes]


def words(steps: tuple[Step, ...]) -> list[str]:
    return [step.what for step in steps]


def answer(pool: Pool, key: int, kind: Kind = Kind.VALUE, **more: Any) -> Outcome:
    """Let the first daemon answer; return what the client is told."""
    (outcome,) = results(pool.step((D1, Done((Outcome(key, kind, **more),)))))
    return outcome


def recount(pool: Pool, id: int, client: int = CLIENT) -> tuple[Step, ...]:
    (told,) = sent(pool.step((client, Recount(9, id))), client, Told)
    assert told.number == 9
    return told.story


# ── tasks with an answer ─────────────────────────────────────────────────────────────────


def test_a_short_task_has_no_story() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.now += WAITED
    assert answer(pool, 1, seconds=0.9 * SLOW).story == ()


def test_a_long_one_tells_where_it_was_and_for_how_long() -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.now += WAITED
    assert answer(pool, 1, seconds=1.25).story == (
        Step(WAITED, SENT),
        Step(0.0, "ended there, after 1.250 s"),
    )


def test_a_short_one_that_fails_tells_it_too() -> None:
    pool = Pool([D1])
    pool.submit(1)
    assert words(answer(pool, 1, Kind.ERROR, seconds=TINY).story) == [
        SENT,
        "failed there, after 0.000 s",
    ]


@pytest.mark.parametrize("seconds", [math.inf, 1e300])
def test_a_daemon_that_claims_to_have_worked_for_ages(seconds: float) -> None:
    pool = Pool([D1])
    pool.submit(1)
    pool.now += WAITED
    assert words(answer(pool, 1, seconds=seconds).story)[-1] == f"ended there, after {WAITED:.3f} s"


@pytest.mark.parametrize("seconds", [math.nan, -1.0, -math.inf])
def test_a_daemon_that_claims_what_is_no_time(seconds: float) -> None:
    pool = Pool([D1])
    pool.submit(1)
    told = answer(pool, 1, Kind.ERROR, seconds=seconds).story
    assert words(told)[-1] == "failed there, after 0.000 s"


def test_a_daemon_cannot_tell_a_story() -> None:
    pool = Pool([D1])
    pool.submit(1, 2)
    lie = (Step(0.0, "sent to daemon 99"),)
    assert answer(pool, 1, story=lie).story == ()
    assert words(answer(pool, 2, story=lie, seconds=1.0).story)[0] == SENT


def test_what_is_handed_back() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    pool.wait(LONG)
    pool.step((D1, Returned((3,))))
    pool.done(D1, 2)
    pool.now += WAITED
    told = answer(pool, 3, seconds=TINY).story
    taken_back = "taken back: it had not begun there"
    assert words(told) == [SENT, taken_back, SENT, "ended there, after 0.000 s"]
    assert [step.ago for step in told] == pytest.approx([WAITED + LONG, *[WAITED] * 2, 0])


def test_what_had_not_begun_on_a_daemon_that_died() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3)
    (crashed,) = results(pool.step((D1, Lost(CRASH, 2))))
    assert (crashed.id, words(crashed.story)) == (2, [SENT, DIED])
    waits = "waits for a daemon, as do 0 others"
    assert words(recount(pool, 3)) == [SENT, f"{DIED}; it had not begun there", waits]
    pool.join(D2, Role.DAEMON)
    assert words(recount(pool, 3))[2:] == [SENT_ON, "runs there, for 0.000 s"]


def test_another_attempt() -> None:
    pool = Pool([D1])
    pool.submit(1, retries=2)
    pool.now += WAITED
    pool.step((D1, Done((Outcome(1, Kind.ERROR, seconds=1.0, again=True),))))
    pool.step((D1, Lost(CRASH, 2)))
    pool.join(D2, Role.DAEMON)
    (outcome,) = results(pool.step((D2, Lost(Crash("its connection was lost"), None))))
    assert outcome.kind is Kind.CRASHED
    assert words(outcome.story) == [
        SENT,
        "failed there, after 1.000 s; attempt 2 follows",
        SENT,
        f"{DIED}; attempt 3 follows",
        SENT_ON,
        "that daemon was lost: its connection was lost",
    ]


def test_a_story_without_end_is_cut() -> None:
    pool = Pool([D1])
    pool.submit(1, retries=10 * KEPT)
    for _ in range(KEPT):
        key = pool.hand(D1)[0]
        pool.step((D1, Done((Outcome(key, Kind.ERROR, again=True),))))
        assert len(recount(pool, 1)) <= KEPT + 2
    assert len(answer(pool, pool.hand(D1)[0]).story) == KEPT + 2


def test_a_name_without_end_is_cut() -> None:
    pool = Pool()
    pool.step((D1, Joined(Role.DAEMON, Hello(VERSION, "x" * 10_000, 4))))
    pool.submit(1)
    assert len(words(recount(pool, 1))[0]) < 200


@pytest.mark.parametrize(
    ("exit", "expected"),
    [
        (None, "it died"),
        (3, "it died with exit code 3"),
        (0, "it died with exit code 0"),
        (-9, "it died of SIGKILL"),
        (-200, "it died of signal 200"),
    ],
)
def test_the_cause_of_a_loss(exit: int | None, expected: str) -> None:
    assert cause(Crash("it died", exit)) == expected


# ── tasks without one ────────────────────────────────────────────────────────────────────


def test_one_that_waits() -> None:
    pool = Pool([D1])
    pool.submit(1, 2, 3)
    assert words(recount(pool, 3)) == ["waits for a daemon, as do 1 others"]
    pool.submit(4, tags=("gpu", "large"))
    assert words(recount(pool, 4)) == ["waits for a daemon with 'gpu', 'large', as do 2 others"]


def test_one_that_runs_and_those_behind_it() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    pool.now += WAITED
    assert recount(pool, 2) == (Step(WAITED, SENT), Step(0.0, f"runs there, for {WAITED:.3f} s"))
    assert words(recount(pool, 4)) == [SENT, "has not begun there: 2 are before it"]


def test_one_that_waits_for_tasks_of_its_own() -> None:
    pool = Pool([D1, D2])
    pool.submit(1)
    pool.step((OTHER, Joined(Role.CLIENT, Hello(VERSION, f"host{D1}", D1))))
    pool.submit(1, client=OTHER)
    assert words(recount(pool, 1))[-1] == "runs there, for 0.000 s, and waits for tasks of its own"


def test_one_that_is_out_of_time() -> None:
    pool = Pool([D1])
    pool.submit(1, 2, timeout=WAITED)
    first, second = results(pool.wait(WAITED))
    assert (first.kind, second.kind) == (Kind.TIMEOUT, Kind.TIMEOUT)
    assert words(first.story) == [SENT, f"runs there, for {WAITED:.3f} s"]
    assert words(second.story) == ["waits for a daemon, as do 0 others"]


def test_one_for_a_daemon_that_is_to_come() -> None:
    pool = Pool()
    pool.core._kept = 1
    pool.step((CLIENT, Submit((), (F,))), (CLIENT, Everywhere((5,), task(4))))
    assert words(recount(pool, 5)) == ["waits for a daemon that is still to join"]


def test_nothing_is_told_of_what_is_answered_or_unknown() -> None:
    pool = Pool([D1])
    pool.learn(1.0)
    assert recount(pool, 1) == recount(pool, 99) == ()


def test_nothing_is_told_of_the_tasks_of_others() -> None:
    pool = Pool([D1], clients=(CLIENT, OTHER))
    pool.submit(1)
    assert recount(pool, 1, client=OTHER) == ()
    assert recount(pool, 1) != ()


# ── in the host ──────────────────────────────────────────────────────────────────────────


def submitted(at: float = 1_000.0) -> tuple[Pending, Mirai[Any]]:
    pending, mirai = Pending(), Mirai[Any](7, "fit")
    mirai._submitted = at
    mirai._recount_hook = lambda _: (Event(at + 1, "waits"),)
    pending.add(mirai)
    return pending, mirai


def plot(mirai: Mirai[Any]) -> list[str]:
    return [event.what for event in mirai.story().events]


def test_it_is_asked_for_while_there_is_no_answer() -> None:
    pending, mirai = submitted()
    assert mirai.story() == Story(7, "fit", (Event(1_000.0, "submitted"), Event(1_001.0, "waits")))
    pending.settle([Outcome(7, Kind.VALUE, b"")])
    assert plot(mirai) == ["submitted", f"returned, after less than {SLOW} s on its daemon"]


def test_a_dispatcher_that_does_not_say() -> None:
    _, mirai = submitted()

    def late(_: object) -> tuple[Event, ...]:
        raise TimeoutError

    mirai._recount_hook = late
    assert plot(mirai) == ["submitted", "the dispatcher does not say where it is"]


@pytest.mark.parametrize("error", [DispatcherLost("gone"), RuntimeError("a done-callback")])
def test_a_dispatcher_that_cannot_be_asked(error: Exception) -> None:
    _, mirai = submitted()

    def fail(_: object) -> tuple[Event, ...]:
        raise error

    mirai._recount_hook = fail
    assert plot(mirai) == ["submitted"]


def test_an_answer_that_comes_while_it_is_asked_for() -> None:
    pending, mirai = submitted()

    def overtaken(_: object) -> tuple[Event, ...]:
        pending.settle([Outcome(7, Kind.VALUE, b"", story=(Step(0.0, "ended there"),))])
        return (Event(0.0, "runs"),)

    mirai._recount_hook = overtaken
    assert plot(mirai) == ["submitted", "ended there", "returned"]


def test_when_it_happened() -> None:
    pending, mirai = submitted(at=0.001)
    told = (Step(2.0, "sent"), Step(0.5, "ended"))
    pending.settle([Outcome(7, Kind.VALUE, b"", story=told)])
    begin, first, second, end = [event.time for event in mirai.story().events]
    assert (begin, second - first) == (0.001, pytest.approx(1.5))
    assert end - second == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("outcome", "end"),
    [
        (Outcome(7, Kind.TIMEOUT), "failed: TaskTimeout"),
        (Outcome(7, Kind.CRASHED, crash=CRASH), "failed: DaemonCrashed"),
        (Outcome(7, Kind.DECLINED), "failed: DispatcherLost"),
        (Outcome(7, Kind.CANCELLED), "was cancelled"),
        (Outcome(7, Kind.ERROR, b""), "failed"),
    ],
)
def test_how_it_ended(outcome: Outcome, end: str) -> None:
    pending, mirai = submitted()
    pending.settle([outcome])
    assert plot(mirai)[-1] == end


def test_an_error_that_was_read_is_named() -> None:
    pending, mirai = submitted()
    pending.settle([Outcome(7, Kind.ERROR, b"no pickle")])
    assert mirai.exception() is not None
    assert plot(mirai)[-1] == "failed: SerializationError"


def test_one_that_was_cancelled_here() -> None:
    _, mirai = submitted()
    mirai.cancel()
    assert plot(mirai) == ["submitted", "was cancelled"]


def test_one_that_was_never_sent() -> None:
    mirai: Mirai[int] = Mirai(0, "race")
    assert (plot(mirai), str(mirai.story())) == ([], "task 0 (race)")
    mirai.settle(Value(1))
    assert plot(mirai) == ["returned"]


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (Outcome(7, Kind.TIMEOUT), TaskTimeout),
        (Outcome(7, Kind.CRASHED, crash=CRASH), DaemonCrashed),
    ],
)
def test_the_errors_that_need_it_carry_it(outcome: Outcome, kind: type[Exception]) -> None:
    pending, mirai = submitted()
    told = (Step(1.0, "sent to daemon 2"),)
    pending.settle([Outcome(7, outcome.kind, crash=outcome.crash, story=told)])
    error = mirai.exception()
    assert isinstance(error, kind)
    for each in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        (note,) = each.__notes__
        assert "submitted" in note and "sent to daemon 2" in note
        assert "sent to daemon 2" not in str(each)


def test_the_others_do_not() -> None:
    pending, mirai = submitted()
    mirai.settle(Failure(TaskCancelled("no")), cancelled=True)
    assert not hasattr(mirai.exception(), "__notes__")
    assert len(pending) == 1


def test_how_it_looks() -> None:
    story = Story(
        7, "fit", (Event(1e9, "submitted"), Event(1e9 + 1.25, "waits"), Event(1e9 + 3, "returned"))
    )
    title, *lines = str(story).splitlines()
    assert title.startswith("task 7 (fit), 2001-09-0") and title.endswith(":40.000")
    assert lines == [
        "     0.000 s  submitted",
        "     1.250 s  waits",
        "     3.000 s  returned",
    ]


def test_a_name_does_nothing_to_a_terminal() -> None:
    story = Story(7, "a\x1b[2Jb", (Event(1e9, "sent to \x1b]0;x\x07\n"),))
    assert "\x1b" not in str(story) + str(replace(story, events=()))
    assert len(str(story).splitlines()) == 2


def test_functions_are_not_told() -> None:
    """Nothing that is pickled is in a story."""
    pool = Pool([D1])
    secret = Function(2, "secret", b"SECRET")
    pool.step((CLIENT, Submit((task(1, function=2, payload=b"SECRET"),), (secret,))))
    pool.now += WAITED
    assert "SECRET" not in str(recount(pool, 1)) + str(answer(pool, 1, seconds=1.0).story)
