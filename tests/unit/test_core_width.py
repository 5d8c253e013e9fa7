"""Daemons that do several tasks at once: relays, as the core sees them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from test_core import CLIENT, CRASH, D1, D2, TINY, Pool, answers, given, sent
from test_core_runs import outcomes, run
from test_core_stalling import pass_time

from dispatcher.core import LONG, LOOK, PATIENCE
from dispatcher.credit import HORIZON, OVERHEAD
from dispatcher.events import Command, CutOff, Joined, Kill, Lost, Role
from dispatcher.messages import (
    MAX_WIDTH,
    VERSION,
    Cancel,
    Crash,
    Done,
    Hello,
    Interrupt,
    Kind,
    Outcome,
    Ping,
    ProtocolError,
    Recall,
    Returned,
    Run,
)
from dispatcher.wire import decode, encode

D3 = 13
WIDTH = 4
BEHIND = Crash("the daemon died", -9, "far", 77, tail="the last words")


def wide(*daemons: int, width: int = WIDTH, narrow: Iterable[int] = ()) -> Pool:
    """A pool of such daemons, and of others that do one task at a time."""
    pool = Pool(narrow)
    for peer in daemons:
        join(pool, peer, width=width)
    return pool


def join(pool: Pool, peer: int, width: int = WIDTH, **more: Any) -> list[Command]:
    hello = Hello(VERSION, "relay", peer, width=width, **more)
    return pool.step((peer, Joined(Role.DAEMON, hello)))


def submit(pool: Pool, first: int, count: int, **more: object) -> list[Command]:
    """Submit tasks as one run."""
    one = run(first, count)
    return pool.submit(first, payload=one.payload, following=one.following, **more)


def counts(pool: Pool, *daemons: int) -> list[int]:
    return [len(pool.hand(peer)) for peer in daemons]


def crashed(*keys: int) -> Done:
    return Done(tuple(Outcome(key, Kind.CRASHED, crash=BEHIND) for key in keys))


# ── credit ───────────────────────────────────────────────────────────────────────────────


def test_it_is_given_as_many_unknown_tasks_as_it_has_places() -> None:
    pool = wide(D1)
    commands = submit(pool, 1, 10)
    [message] = sent(commands, D1, Run)
    assert sum(each.count for each in message.tasks) == len(pool.hand(D1)) == WIDTH
    assert len(message.tasks) == 1, "a run stays a run"
    pool.done(D1, 2, 3, seconds=1.0)
    assert pool.hand(D1) == [1, 4, 5, 6]


def test_long_tasks_too() -> None:
    pool = wide(D1)
    pool.learn(1.0)
    submit(pool, 2, 10)
    assert counts(pool, D1) == [WIDTH]


def test_of_short_ones_each_place_has_one_more() -> None:
    pool = wide(D1)
    pool.learn(2 * HORIZON)
    submit(pool, 2, 20)
    assert counts(pool, D1) == [2 * WIDTH]


def test_of_tiny_ones_it_has_so_many_times_as_much_in_hand() -> None:
    narrow, pool = Pool([D1]), wide(D1)
    for each in (narrow, pool):
        each.learn(HORIZON / 10)
        submit(each, 2, 200)
    one, many = counts(narrow, D1)[0], counts(pool, D1)[0]
    assert (WIDTH - 0.5) * one <= many <= WIDTH * one


def test_a_free_place_is_used_however_long_the_other_tasks_take() -> None:
    pool = wide(D1)
    submit(pool, 1, WIDTH - 1)
    pass_time(pool, 10.0)
    assert given(pool.submit(10), D1) == [WIDTH]
    assert counts(pool, D1) == [WIDTH]


@pytest.mark.parametrize("width", [0, MAX_WIDTH + 1, -1])
def test_a_width_that_makes_no_sense_is_no_message(width: int) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(Hello(VERSION, width=width)), Hello)


# ── balance ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("count", [3, 6, 9, 11, 12])
def test_relays_have_equal_shares(count: int) -> None:
    pool = wide(D1, D2, D3)
    submit(pool, 1, count)
    shares = counts(pool, D1, D2, D3)
    assert sum(shares) == count
    assert max(shares) - min(shares) <= 1


@pytest.mark.parametrize("known", [False, True])
def test_no_place_has_two_tasks_while_another_has_none(known: bool) -> None:
    pool = wide(D1, D2, narrow=[D3])
    if known:
        pool.learn(1.5 * HORIZON, D3)
    places = {D1: WIDTH, D2: WIDTH, D3: 1}
    for id in range(2, 2 + sum(places.values())):
        pool.submit(id)
        assert all(len(pool.hand(peer)) <= places[peer] for peer in places)
    assert pool.report().awaiting == 0


def test_shares_are_by_places() -> None:
    pool = wide(D1, narrow=[D2])
    pool.learn(TINY, D2)
    submit(pool, 2, 100)
    assert counts(pool, D1, D2) == [80, 20]


def test_what_one_has_not_begun_goes_to_one_with_a_free_place() -> None:
    pool = wide(D1)
    pool.learn(2 * HORIZON)
    submit(pool, 2, 2 * WIDTH)
    [recall] = sent(join(pool, D2), D1, Recall)
    assert [*recall.ids] == pool.hand(D1)[WIDTH:]
    pool.returned(D1, *recall.ids)
    assert pool.hand(D2) == [*recall.ids]


def test_what_it_will_soon_have_done_is_left_where_it_is() -> None:
    pool = wide(D1)
    pool.learn(HORIZON / 2)
    submit(pool, 2, 2 * WIDTH)
    assert not sent(join(pool, D2), D1, Recall)


def test_what_runs_is_not_why_the_rest_is_taken_back() -> None:
    pool = Pool()
    join(pool, D1, tags=("a",))
    pool.learn(2 * HORIZON)
    submit(pool, 2, WIDTH)
    submit(pool, 2 + WIDTH, WIDTH, tags=("a",))
    assert counts(pool, D1) == [2 * WIDTH]
    assert not sent(join(pool, D2), D1, Recall)  # which could do only what runs


def test_relays_of_unlike_widths_and_tags_are_given_what_there_is_in_rounds() -> None:
    pool = Pool([D1])
    pool.learn(HORIZON - OVERHEAD)
    pool.step((D1, Lost(CRASH)))
    widths = {20: (2, ("b",)), 21: (8, ("a",)), 22: (4, ()), 23: (4, ())}
    for peer, (width, tags) in widths.items():
        join(pool, peer, width=width, tags=tags)
    for first, count in ((2, 7), (9, 7), (16, 35)):
        submit(pool, first, count)
    assert counts(pool, *widths) == [2 * width for width, _ in widths.values()]


def test_one_that_ends_soon_is_given_what_all_its_places_have_time_for() -> None:
    pool = Pool([D2])
    pool.learn(1.0, D2)
    pool.step((D2, Lost(CRASH)))
    join(pool, D1, left=10.0)
    pool.wait(8.97)
    for id in range(2, 2 + WIDTH):
        pool.submit(id)
    assert counts(pool, D1) == [WIDTH]


def test_what_one_that_is_silent_has_not_begun_is_taken_back() -> None:
    pool = wide(D1)
    pool.learn(HORIZON / 2)
    submit(pool, 2, 2 * WIDTH)
    assert counts(pool, D1) == [2 * WIDTH]
    assert not sent(pass_time(pool, 1.1 * PATIENCE), D1, Recall)
    [recall] = sent(pass_time(pool, LONG), D1, Recall)
    assert [*recall.ids] == pool.hand(D1)[WIDTH:]


def test_what_is_running_is_left_where_it_is() -> None:
    pool = wide(D1, D2)
    submit(pool, 1, WIDTH + 1)
    assert not sent(pass_time(pool, 2 * LONG), D1, Recall)
    assert not sent(pass_time(pool, 2 * LONG), D2, Recall)


def test_one_that_answers_anything_is_not_late() -> None:
    pool = wide(D1)
    pool.learn(2 * HORIZON)
    submit(pool, 2, 2 * WIDTH)
    for _ in range(10):  # the first runs and runs
        last = pool.hand(D1)[-1]
        assert not sent(pass_time(pool, 0.9 * LONG), D1, Recall)
        pool.done(D1, last, seconds=2 * HORIZON)
        submit(pool, pool.core._clients[CLIENT].last + 1, 1)
    assert len(pool.hand(D1)) > WIDTH


# ── what is said of it ───────────────────────────────────────────────────────────────────


def test_a_report_counts_places() -> None:
    pool = wide(D1)
    submit(pool, 1, WIDTH + 2)
    report = pool.report()
    assert (report.connections, report.executing, report.awaiting) == (1, WIDTH, 2)
    [daemon] = report.daemons
    assert (daemon.width, daemon.tasks, daemon.state) == (WIDTH, WIDTH, "busy")


def test_it_is_asked_whether_it_hears() -> None:
    pool = wide(D1)
    submit(pool, 1, WIDTH)
    assert sent(pass_time(pool, 3 * LOOK), D1, Ping)


def test_the_story_of_a_task_that_runs_beside_others() -> None:
    pool = wide(D1)
    submit(pool, 1, 3)
    pool.wait(1.0)
    steps = pool.core._recount(pool.core._clients[CLIENT], 3, pool.now)
    assert steps[-1].what == "runs there, for 1.000 s"


# ── crashes behind it ────────────────────────────────────────────────────────────────────


def test_a_crash_behind_it_is_told_as_it_was() -> None:
    pool = wide(D1)
    submit(pool, 1, 3)
    [outcome] = outcomes(pool.step((D1, crashed(2))))
    assert (outcome.id, outcome.kind, outcome.crash) == (2, Kind.CRASHED, BEHIND)
    assert "a daemon behind that one was lost: the daemon died of SIGKILL" in outcome.story[-1].what
    assert pool.hand(D1) == [1, 3]


def test_its_task_runs_again_if_it_may() -> None:
    pool = wide(D1)
    pool.submit(1, retries=1)
    commands = pool.step((D1, crashed(1)))
    assert not answers(commands)
    [key] = given(commands, D1)
    assert key != 1
    [outcome] = outcomes(pool.step((D1, crashed(key))))
    assert outcome.crash is not None
    assert outcome.crash.attempt == 2


def test_a_crash_teaches_nothing_of_how_long_a_task_takes() -> None:
    pool = wide(D1)
    submit(pool, 1, 2)
    pool.step((D1, crashed(1)))
    [job] = set(pool.core._daemons[D1].hand.values())
    assert job.function.estimate.seconds is None


def test_that_of_a_cancelled_task_is_nobodys() -> None:
    pool = wide(D1)
    pool.submit(1, retries=5)
    pool.step((CLIENT, Cancel((1,))))
    assert not answers(pool.step((D1, crashed(1))))
    assert pool.hand(D1) == []


@pytest.mark.parametrize(
    ("daemon", "outcome"),
    [
        (D1, Outcome(1, Kind.CRASHED)),
        (D1, Outcome(1, Kind.TIMEOUT, crash=BEHIND)),
        (D1, Outcome(1, Kind.DECLINED)),
        (D2, Outcome(1, Kind.CRASHED, crash=BEHIND)),
    ],
)
def test_nothing_else_that_only_a_dispatcher_may_say(daemon: int, outcome: Outcome) -> None:
    pool = wide(D1, narrow=[D2])
    commands = pool.step((daemon, Done((outcome,))))
    assert CutOff(daemon) in commands


def test_what_it_has_in_hand_may_have_begun_when_it_is_lost() -> None:
    pool = wide(D1)
    submit(pool, 1, WIDTH + 1)
    kinds = answers(pool.step((D1, Lost(CRASH))))
    assert kinds == dict.fromkeys(range(1, WIDTH + 1), Kind.CRASHED)
    assert pool.report().awaiting == 1


def test_it_ends_by_itself_what_does_not_heed_an_interrupt() -> None:
    pool = wide(D1)
    submit(pool, 1, 2)
    assert sent(pool.step((CLIENT, Cancel((1,)))), D1, Interrupt)
    assert not [each for each in pass_time(pool, 100.0) if isinstance(each, Kill)]


# ── what a relay wants of the dispatcher below ───────────────────────────────────────────


def test_a_client_gets_back_what_no_daemon_has() -> None:
    pool = Pool([D1])
    submit(pool, 1, 10)
    commands = pool.step((CLIENT, Recall((1, 3, 4, 9, 10, 11))))
    assert sent(commands, CLIENT, Returned) == [Returned((3, 4, 9, 10))]
    assert pool.report().awaiting == 5
    seen = []
    while hand := pool.hand(D1):
        seen += hand
        pool.done(D1, *hand)
    assert seen == [1, 2, 5, 6, 7, 8]
    assert not answers(pool.step((CLIENT, Cancel((3,)))))


def test_where_there_is_nothing_it_is_told_so() -> None:
    pool = Pool([D1])
    assert sent(pool.step((CLIENT, Recall((5,)))), CLIENT, Returned) == [Returned(())]


def test_a_daemons_answer_that_is_to_be_tried_again_says_so_to_a_client_that_does_not() -> None:
    pool = Pool([D1])
    pool.submit(1)
    [outcome] = outcomes(pool.step((D1, Done((Outcome(1, Kind.ERROR, b"e", again=True),)))))
    assert outcome.again


def test_only_a_client_may_recall_and_only_a_daemon_hand_back() -> None:
    pool = Pool([D1])
    assert CutOff(D1) in pool.step((D1, Recall((1,))))
    assert CutOff(CLIENT) in pool.step((CLIENT, Returned((1,))))
