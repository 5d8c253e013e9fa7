"""The core's side of task options: timeouts and retries."""

from __future__ import annotations

import math

import pytest
from test_core import (
    CLIENT,
    CRASH,
    D1,
    D2,
    D3,
    TINY,
    Pool,
    answers,
    done,
    given,
    sent,
)

from dispatcher.events import Lost, Role
from dispatcher.jobs import Estimate, FunctionEntry, Job, Timeouts
from dispatcher.messages import (
    Cancel,
    Done,
    Function,
    Interrupt,
    Kind,
    Leave,
    Outcome,
    Returned,
    Task,
)


def failed(key: int, *, again: bool) -> Done:
    return Done((Outcome(key, Kind.ERROR, b"e", again=again),))


class TestTimeout:
    def test_a_waiting_task_is_answered_and_never_given_away(self) -> None:
        pool = Pool()
        pool.submit(1, timeout=2.0)
        assert pool.core.next_deadline() == pool.now + 2.0
        assert answers(pool.wait(1.9)) == {}
        assert answers(pool.wait(0.1)) == {1: Kind.TIMEOUT}
        assert pool.core.next_deadline() is None
        assert given(pool.join(D1, Role.DAEMON), D1) == []

    def test_a_running_task_is_interrupted_and_its_answer_dropped(self) -> None:
        pool = Pool([D1])
        pool.submit(1, timeout=2.0)
        commands = pool.wait(2.0)
        assert answers(commands) == {1: Kind.TIMEOUT}
        assert sent(commands, D1, Interrupt) == [Interrupt((1,))]
        assert answers(pool.done(D1, 1)) == {}
        assert pool.report().completed == 1

    @pytest.mark.parametrize("how", ["done", "cancel", "lost"])
    def test_a_task_that_ends_before_has_no_deadline(self, how: str) -> None:
        pool = Pool([D1])
        pool.submit(1, timeout=2.0)
        if how == "done":
            pool.done(D1, 1)
        elif how == "cancel":
            pool.step((CLIENT, Cancel((1,))), (D1, done(1)))
        else:
            pool.step((D1, Lost(CRASH, 1)))
        assert pool.core.next_deadline() is None

    @pytest.mark.parametrize("timeout", [0.0, -1.0, math.nan, math.inf, 1e300])
    def test_what_is_no_timeout(self, timeout: float) -> None:
        pool = Pool()
        pool.submit(1, timeout=timeout)
        assert pool.core.next_deadline() is None

    def test_it_counts_over_all_runs(self) -> None:
        pool = Pool([D1])
        pool.submit(1, timeout=2.0, retries=9)
        pool.wait(1.0)
        pool.step((D1, Lost(CRASH, 1)))
        assert answers(pool.wait(1.0)) == {1: Kind.TIMEOUT}

    def test_ended_jobs_do_not_pile_up(self) -> None:
        pool = Pool([D1])
        for id in range(1, 200):
            pool.submit(id, timeout=1e6)
            pool.done(D1, id)
        assert len(pool.core._timeouts._heap) < 3

    def test_they_come_in_order(self) -> None:
        timeouts = Timeouts()
        entry = FunctionEntry(Function(1, "f", b""), Estimate())
        jobs = [Job(i, CLIENT, entry, Task(i, 1, b"")) for i in range(50)]
        for job in jobs:
            job.deadline = job.id * 7 % 50
            timeouts.add(job)
        for job in jobs[::2]:
            timeouts.discard(job)
        due = timeouts.due(30)
        assert due == sorted(due, key=lambda job: job.deadline)
        assert {job.id for job in due} == {i for i in range(1, 50, 2) if i * 7 % 50 <= 30}


class TestRetry:
    def test_after_a_death_as_often_as_it_may(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=1)
        assert answers(pool.step((D1, Lost(CRASH, 1)))) == {}
        assert given(pool.join(D2, Role.DAEMON), D2) == [2]  # a new run has a new key
        commands = pool.step((D2, Lost(CRASH, 2)))
        assert answers(commands) == {1: Kind.CRASHED}

    def test_the_attempt_is_told(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=1)
        pool.step((D1, Lost(CRASH, 1)))
        pool.join(D2, Role.DAEMON)
        (command,) = pool.step((D2, Lost(CRASH, 2)))
        assert command.message.outcomes[0].crash.attempt == 2  # type: ignore[union-attr]

    def test_what_had_not_started_has_not_been_tried(self) -> None:
        pool = Pool([D1])
        pool.learn(TINY)
        pool.submit(2, 3, retries=1)
        pool.step((D1, Lost(CRASH, 0)))
        assert given(pool.join(D2, Role.DAEMON), D2) == [2, 3]

    def test_what_is_handed_back_has_not_been_tried(self) -> None:
        """Daemons that leave, for whatever reason they have, cost a task none of its runs."""
        pool = Pool([D1])
        pool.learn(TINY)
        pool.submit(2, 3, retries=1)
        for leaves, comes in ((D1, D2), (D2, D3)):
            pool.step((leaves, Leave()))
            pool.step((leaves, Returned((3,))))
            assert given(pool.join(comes, Role.DAEMON), comes) == [3]
        assert answers(pool.step((D3, Lost(CRASH, 3)))) == {}
        assert given(pool.join(D3, Role.DAEMON), D3) == [4]
        (command,) = pool.step((D3, Lost(CRASH, 4)))
        assert command.message.outcomes[0].crash.attempt == 2  # type: ignore[union-attr]

    def test_after_an_error_that_asks_for_it(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=1)
        commands = pool.step((D1, failed(1, again=True)))
        assert (answers(commands), given(commands, D1)) == ({}, [2])
        assert answers(pool.step((D1, failed(2, again=True)))) == {1: Kind.ERROR}

    def test_not_after_another_error(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=5)
        assert answers(pool.step((D1, failed(1, again=False)))) == {1: Kind.ERROR}

    def test_late_words_about_the_old_run_are_dropped(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=1)
        pool.step((D1, failed(1, again=True)))
        assert answers(pool.step((D1, done(1)))) == {}
        assert answers(pool.done(D1, 2)) == {1: Kind.VALUE}

    def test_not_once_it_is_cancelled(self) -> None:
        pool = Pool([D1])
        pool.submit(1, retries=5)
        pool.step((CLIENT, Cancel((1,))))
        assert given(pool.step((D1, failed(1, again=True))), D1) == []
        assert pool.report().awaiting == 0
