"""Tasks that wait for tasks of their own lend their daemon's place."""

from __future__ import annotations

from test_core import (
    CLIENT,
    CRASH,
    D1,
    D2,
    D3,
    TINY,
    F,
    G,
    Pool,
    answers,
    done,
    given,
    sent,
    task,
)

from dispatcher.core import Dispatcher
from dispatcher.events import (
    Command,
    Joined,
    Lend,
    Lost,
    Role,
)
from dispatcher.messages import (
    VERSION,
    Cancel,
    Crash,
    Done,
    Hello,
    Interrupt,
    Kind,
    Recall,
    Results,
    Returned,
    Submit,
)

INNER = 100
"""A client in the process of daemon d is peer INNER + d."""


class Nest(Pool):
    """A pool whose daemons may become clients."""

    def __init__(self, *daemons: int, kept: int = 0, spare: int = 0) -> None:
        super().__init__()
        self.core = Dispatcher(kept=kept, spare=spare)
        self.join(CLIENT, Role.CLIENT)
        for daemon in daemons:
            self.join(daemon, Role.DAEMON)

    def inner(self, daemon: int, *ids: int) -> list[Command]:
        """Submit tasks from inside a daemon."""
        peer = INNER + daemon
        commands = []
        if peer not in self.core._clients:
            hello = Hello(VERSION, f"host{daemon}", daemon)
            commands += self.step((peer, Joined(Role.CLIENT, hello)))
        return commands + self.submit(*ids, client=peer)


def lent(commands: list[Command]) -> list[int]:
    return [len(command.peers) for command in commands if isinstance(command, Lend)]


def test_a_task_that_waits_has_another_daemon_come() -> None:
    pool = Nest(D1, kept=1, spare=3)
    pool.submit(1)
    commands = pool.inner(D1, 1)
    assert lent(commands) == [1]
    assert given(commands, D1) == []
    assert given(pool.join(D2, Role.DAEMON), D2) == [2]
    commands = pool.done(D2, 2)
    assert answers(commands, INNER + D1) == {1: Kind.VALUE}
    assert lent(commands) == [0]


def test_none_comes_where_somebody_is_free() -> None:
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    commands = pool.inner(D1, 1)
    assert (given(commands, D2), lent(commands)) == ([2], [])


def test_what_it_has_not_started_is_recalled() -> None:
    pool = Nest(D1, kept=1, spare=3)
    pool.learn(TINY)
    pool.submit(2, 3, 4)
    commands = pool.inner(D1, 1)
    assert sent(commands, D1, Recall) == [Recall((3, 4))]
    assert given(pool.step((D1, Returned((3, 4)))), D1) == []
    assert given(pool.join(D2, Role.DAEMON), D2) == [5]


def test_it_gets_work_again_when_it_waits_no_more() -> None:
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    pool.inner(D1, 1)
    pool.done(D2, 2)
    assert given(pool.done(D1, 1), D1) == []
    assert sorted(given(pool.submit(2, 3), D1) + pool.hand(D2)) == [3, 4]


def test_a_cancelled_inner_task_is_waited_for_no_more() -> None:
    pool = Nest(D1, kept=1, spare=3)
    pool.submit(1)
    pool.inner(D1, 1)
    assert lent(pool.step((INNER + D1, Cancel((1,))))) == [0]


def test_the_deepest_go_first() -> None:
    pool = Nest(D1, D2, kept=2, spare=9)
    pool.submit(1, 2)
    pool.inner(D1, 1, 2)
    assert given(pool.join(D3, Role.DAEMON), D3) == [3]
    pool.inner(D3, 1)
    assert given(pool.join(14, Role.DAEMON), 14) == [5]  # inside what D3 runs
    assert given(pool.join(15, Role.DAEMON), 15) == [4]


def test_the_outermost_wait_while_more_lend_than_work() -> None:
    pool = Nest(D1, kept=1, spare=9)
    pool.submit(1)
    for outer, helper in ((D1, D2), (D2, D3), (D3, 14)):
        pool.inner(outer, 1)
        assert len(given(pool.join(helper, Role.DAEMON), helper)) == 1
    pool.join(15, Role.DAEMON)
    assert given(pool.submit(2), 15) == []  # three wait, two do not
    assert 5 in given(pool.join(16, Role.DAEMON), 15) + pool.hand(16)


def test_where_no_more_can_be_had_the_innermost_fail() -> None:
    pool = Nest(D1, kept=0, spare=0)
    pool.submit(1)
    commands = pool.inner(D1, 1)
    (results,) = sent(commands, INNER + D1, Results)
    (outcome,) = results.outcomes
    assert (outcome.id, outcome.kind) == (1, Kind.CRASHED)
    assert isinstance(outcome.crash, Crash)
    assert "all 1 daemons wait" in outcome.crash.reason
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}


def test_spare_daemons_that_are_still_to_come_are_waited_for() -> None:
    pool = Nest(D1, kept=1, spare=1)
    pool.submit(1)
    assert answers(pool.inner(D1, 1), INNER + D1) == {}
    pool.join(D2, Role.DAEMON)
    assert answers(pool.inner(D2, 1), INNER + D2) == {1: Kind.CRASHED}


def test_the_death_of_a_daemon_that_lends_ends_what_it_had_submitted() -> None:
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    pool.inner(D1, 1, 2)
    assert answers(pool.step((D1, Lost(CRASH, 1)))) == {1: Kind.CRASHED}
    commands = pool.step((INNER + D1, Lost(CRASH)))
    assert sent(commands, D2, Interrupt) == [Interrupt((2,))]


def test_the_client_of_a_daemon_may_leave_before_it() -> None:
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    pool.inner(D1, 1)
    pool.step((INNER + D1, Lost(CRASH)))
    assert not pool.core._lending
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}


def test_what_a_task_left_behind_does_not_keep_its_daemon_from_work() -> None:
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    pool.inner(D1, 1)
    assert answers(pool.done(D1, 1)) == {1: Kind.VALUE}
    assert given(pool.submit(2), D1) == [3]


def test_another_process_on_the_host_is_no_daemon() -> None:
    pool = Nest(D1, kept=1, spare=3)
    pool.submit(1)
    pool.step((INNER, Joined(Role.CLIENT, Hello(VERSION, f"host{D1}", D1 + 1000))))
    commands = pool.step((INNER, Submit((task(1),), (F,))))
    assert lent(commands) == []
    assert answers(pool.step((D1, Done((*done(1).outcomes,))))) == {1: Kind.VALUE}
    assert pool.hand(D1) == [2]
    assert G.number != F.number
