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
    Send,
)
from dispatcher.messages import (
    VERSION,
    Cancel,
    Crash,
    Done,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Recall,
    Results,
    Returned,
    Run,
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


def test_a_daemon_may_be_two_clients() -> None:
    """One comes while the other has not been seen to go; or a task connects by itself, too."""
    pool = Nest(D1, D2, kept=2, spare=3)
    pool.submit(1)
    pool.inner(D1, 1)
    second = 99
    pool.step((second, Joined(Role.CLIENT, Hello(VERSION, f"host{D1}", D1))))
    assert D1 in pool.core._lending
    pool.submit(1, client=second)
    assert lent(pool.step((INNER + D1, Lost(CRASH)))) == []
    assert D1 in pool.core._lending
    pool.done(D2, *pool.hand(D2))
    assert answers(pool.done(D2, *pool.hand(D2)), second) == {1: Kind.VALUE}
    assert not pool.core._lending


def test_nobody_stands_in_for_those_who_wait_no_more() -> None:
    pool = Nest(D1, kept=1, spare=0)
    pool.submit(1)
    commands = pool.inner(D1, 1)
    assert answers(commands, INNER + D1) == {1: Kind.CRASHED}
    assert lent(commands)[-1] == 0


def test_what_waits_for_a_daemon_does_not_fail_when_the_one_it_was_sent_from_is_gone() -> None:
    pool = Nest(D1, D2)
    pool.submit(1)
    pool.submit(2)
    pool.inner(D1, 1)
    commands = pool.step((D1, Lost(CRASH, 1)), (D2, Lost(CRASH, 2)))
    assert answers(commands, INNER + D1) == {}
    assert given(pool.join(D3, Role.DAEMON), D3) == [3]


def test_what_is_recalled_at_once_has_come_before() -> None:
    """A daemon that has left tasks behind waits as soon as it is given others."""
    pool = Nest(D1, kept=1, spare=3)
    pool.learn(TINY)
    pool.submit(2)
    pool.inner(D1, 1)
    pool.join(D2, Role.DAEMON)
    pool.done(D1, 2)
    commands = pool.submit(3, 4, 5)
    messages = [command.message for command in commands if isinstance(command, Send)]
    assert [type(message) for message in messages] == [Run, Recall]
    pool.step((D1, Returned((5, 6))))
    assert pool.hand(D1) == [4]


def carrier(pool: Nest, peer: int, *tags: str) -> None:
    hello = Hello(VERSION, f"host{peer}", peer, tags)
    pool.step((peer, Joined(Role.DAEMON, hello)))


def test_a_task_for_none_but_its_own_daemon_fails() -> None:
    """Others are there, but it is not for them; its daemon waits for it."""
    pool = Nest(D1)
    carrier(pool, D2, "gpu")
    pool.submit(1, tags=("gpu",))
    pool.inner(D2)
    commands = pool.submit(1, client=INNER + D2, tags=("gpu",))
    assert answers(commands, INNER + D2) == {1: Kind.CRASHED}


def test_but_not_while_somebody_works_for_whom_its_daemon_may_wait() -> None:
    pool = Nest(D1)
    carrier(pool, D2, "gpu")
    pool.submit(1, tags=("gpu",))
    pool.submit(2)
    pool.inner(D2)
    commands = pool.submit(1, client=INNER + D2, tags=("gpu",))
    assert answers(commands, INNER + D2) == {}
    assert answers(pool.done(D1, 2), INNER + D2) == {1: Kind.CRASHED}


def test_nor_while_more_daemons_are_to_come() -> None:
    pool = Nest(D1, kept=2, spare=1)
    carrier(pool, D2, "gpu")
    pool.submit(1, tags=("gpu",))
    pool.inner(D2)
    commands = pool.submit(1, client=INNER + D2, tags=("gpu",))
    assert (answers(commands, INNER + D2), lent(commands)) == ({}, [1])
    pool.step((D1, Leave()))
    assert pool.core.has_waiting()  # another is to come for D1, besides the one for D2
    carrier(pool, D3)
    assert pool.core.has_waiting()
    carrier(pool, 14, "gpu")
    assert len(pool.hand(14)) == 1


def test_nor_while_no_daemon_could_have_run_it_anyway() -> None:
    """It waits for one that carries its tags, like any other task."""
    pool = Nest(D1, D2)
    pool.submit(1)
    pool.inner(D1)
    assert answers(pool.submit(1, client=INNER + D1, tags=("gpu",)), INNER + D1) == {}
    carrier(pool, D3, "gpu")
    assert pool.hand(D3) == [2]


def test_the_outermost_go_on_where_nobody_works() -> None:
    """What the daemons wait for may wait for something else."""
    pool = Nest(D1, D2, D3)
    pool.submit(1)
    pool.submit(2)
    for daemon in (D1, D2):
        pool.inner(daemon)
        pool.submit(1, client=INNER + daemon, tags=("gpu",))
    assert given(pool.submit(3), D3) == [5]
    assert given(pool.submit(4), D3) == []
    assert given(pool.done(D3, 5), D3) == [6]


def test_nor_does_one_that_was_given_work_and_waits_at_once_hold_up_the_next() -> None:
    pool = Nest(D1, D2, D3, 14, 15)
    pool.submit(1)
    pool.submit(2)
    pool.submit(3)
    for daemon in (D1, D2, D3):
        pool.inner(daemon)
        pool.submit(1, client=INNER + daemon, tags=("gpu",))
    pool.inner(14)
    pool.submit(1, client=INNER + 14, tags=("gpu",))  # not from a task
    pool.submit(4, 5)
    assert (pool.hand(14), pool.hand(15)) == ([8], [9])
