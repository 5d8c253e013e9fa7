"""The core's side of daemons that a launcher has started: jobs of a platform, which end."""

from __future__ import annotations

from test_core import CLIENT, CRASH, D1, D2, D3, TINY, Pool, sent

from dispatcher.core import Dispatcher
from dispatcher.events import Command, Joined, Lost, Role
from dispatcher.messages import (
    VERSION,
    Crash,
    Despair,
    Dismiss,
    Expect,
    Hello,
    Kind,
    Refused,
    Results,
    Stop,
    Welcome,
)


def join_for(pool: Pool, peer: int, seconds: float) -> list[Command]:
    hello = Hello(VERSION, f"host{peer}", peer, left=seconds)
    return pool.step((peer, Joined(Role.DAEMON, hello)))


def test_a_daemon_that_has_no_time_left_for_a_task_is_let_go() -> None:
    pool = Pool([D1])
    pool.learn(100.0)
    pool.step((D1, Lost(CRASH, 0)))
    join_for(pool, D2, 1_000.0)
    pool.now += 950.0
    assert sent(pool.submit(2), D2, Stop) == [Stop()]
    assert pool.hand(D2) == []
    pool.step((D2, Lost(CRASH, 0)))
    join_for(pool, D3, 1_000.0)
    assert pool.hand(D3) == [2]


def test_while_it_has_time_it_is_given_tasks() -> None:
    pool = Pool([D1])
    pool.learn(100.0)
    pool.step((D1, Lost(CRASH, 0)))
    join_for(pool, D2, 1_000.0)
    pool.now += 800.0
    pool.submit(2)
    assert pool.hand(D2) == [2]


def test_what_takes_longer_than_any_daemon_lives_is_given_nevertheless() -> None:
    pool = Pool([D1])
    pool.learn(100.0)
    pool.step((D1, Lost(CRASH, 0)))
    join_for(pool, D2, 90.0)
    pool.submit(2)
    assert pool.hand(D2) == [2]


def test_short_tasks_are_given_until_shortly_before_the_end() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    pool.step((D1, Lost(CRASH, 0)))
    join_for(pool, D2, 10.0)
    pool.now += 9.9
    pool.submit(2)
    assert pool.hand(D2) == [2]


def test_peers_of_another_version_of_python_or_mirai_are_refused() -> None:
    core = Dispatcher(python="3.11", package="0.1")
    for hello, reason in (
        (Hello(VERSION, python="3.12", package="0.1"), "Python 3.12 is there, and 3.11 here"),
        (Hello(VERSION, python="3.11", package="0.2"), "mirai 0.2 is there, and 0.1 here"),
    ):
        commands = core.handle([(D1, Joined(Role.DAEMON, hello))], 0.0)
        [refused] = sent(commands, D1, Refused)
        assert refused.reason.startswith(reason)
    hello = Hello(VERSION, python="3.11", package="0.1")
    assert sent(core.handle([(D1, Joined(Role.DAEMON, hello))], 0.0), D1, Welcome)


def join_as(pool: Pool, peer: int, job: str) -> list[Command]:
    hello = Hello(VERSION, f"host{peer}", peer, job=job)
    return pool.step((peer, Joined(Role.DAEMON, hello)))


def test_jobs_are_dismissed_by_name_also_those_that_join_later() -> None:
    pool = Pool([D1])
    join_as(pool, D2, "7_1")
    commands = pool.step((CLIENT, Dismiss(("7_1", "7_2"))))
    assert sent(commands, D2, Stop) == [Stop()]
    assert not sent(commands, D1, Stop)
    assert sent(join_as(pool, D3, "7_2"), D3, Stop) == [Stop()]


def test_who_has_arrived_is_reported_of_those_that_are_expected() -> None:
    pool = Pool()
    join_as(pool, D1, "7_1")
    pool.step((D1, Lost(CRASH, 0)))
    assert pool.report().arrived == ()
    pool.step((CLIENT, Expect(("7_1", "7_2"))))
    assert pool.report().arrived == ("7_1",)
    join_as(pool, D2, "7_2")
    assert pool.report().arrived == ("7_1", "7_2")


def test_despair_that_comes_late_is_none() -> None:
    pool = Pool([D1])
    pool.step((CLIENT, Despair(CRASH)))
    pool.step((D1, Lost(CRASH, 0)))
    pool.submit(1)
    assert pool.report().awaiting == 1


def test_who_is_expected_gives_hope() -> None:
    pool = Pool()
    pool.step((CLIENT, Despair(CRASH)))
    pool.step((CLIENT, Expect(("7_1",))))
    pool.submit(1)
    assert pool.report().awaiting == 1


def test_despair_fails_what_waits_until_somebody_joins() -> None:
    pool = Pool()
    pool.submit(1)
    commands = pool.step((CLIENT, Despair(CRASH)))
    [results] = sent(commands, CLIENT, Results)
    assert results.outcomes[0].kind is Kind.CRASHED
    pool.join(D1, Role.DAEMON)
    pool.submit(2)
    assert pool.hand(D1)


def test_the_crash_of_a_job_names_it() -> None:
    pool = Pool()
    pool.step((D1, Joined(Role.DAEMON, Hello(VERSION, "node3", 5, job="7_2"))))
    pool.submit(1)
    commands = pool.step((D1, Lost(Crash("its connection was lost"))))
    [results] = sent(commands, CLIENT, Results)
    crash = results.outcomes[0].crash
    assert crash is not None and (crash.host, crash.pid, crash.job) == ("node3", 5, "7_2")
