"""The core's runs: many tasks as one job, parted only where something befalls some of them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from test_core import (
    CLIENT,
    CRASH,
    D1,
    D2,
    LONG,
    OTHER,
    TINY,
    Pool,
    answers,
    given,
    sent,
    task,
)

from dispatcher.credit import HORIZON, OVERHEAD
from dispatcher.events import Command, CutOff, Kill, Lost, Role
from dispatcher.messages import (
    Blob,
    Cancel,
    Done,
    Interrupt,
    Kind,
    Outcome,
    Printed,
    Recall,
    Results,
    Returned,
    Run,
    Task,
)
from dispatcher.wire import BATCH_TASKS


def run(first: int, count: int, **more: object) -> Task:
    """A run whose payloads say which task they are of."""
    payloads = [b"%d" % id for id in range(first, first + count)]
    return task(first, payload=payloads[0], following=tuple(payloads[1:]), **more)


def submit(pool: Pool, first: int, count: int, client: int = CLIENT) -> list[Command]:
    """Submit a run of tasks of a function that is known and takes no time."""
    pool.learn(TINY, client=client)
    one = run(first, count)
    return pool.submit(first, client=client, payload=one.payload, following=one.following)


def values(first: int, count: int, seconds: float = TINY) -> Outcome:
    payloads = tuple(b"v%d" % key for key in range(first, first + count))
    return Outcome(first, Kind.VALUE, payloads[0], (), seconds, following=payloads[1:])


def outcomes(commands: list[Command], client: int = CLIENT) -> list[Outcome]:
    return [each for results in sent(commands, client, Results) for each in results.outcomes]


def tasks(commands: list[Command], daemon: int) -> dict[int, bytes]:
    """Return what a daemon is given: payloads by key."""
    runs = [each for message in sent(commands, daemon, Run) for each in message.tasks]
    return {one.id: one.payload for each in runs for one in each.each()}


def kills(commands: list[Command]) -> list[Command]:
    return [each for each in commands if isinstance(each, Kill)]


def test_it_is_given_and_answered_whole() -> None:
    pool = Pool([D1])
    commands = submit(pool, 2, 100)
    [message] = sent(commands, D1, Run)
    [whole] = message.tasks
    assert (whole.id, whole.count) == (2, 100)
    assert pool.report().awaiting == 99
    [answer] = outcomes(pool.step((D1, Done((values(2, 100),)))))
    assert (answer.id, answer.count, answer.payload) == (2, 100, b"v2")
    assert answer.following[-1] == b"v101"
    assert pool.report().completed == 101


def test_its_numbers_are_the_clients_own() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    submit(pool, 2, 3)  # as 2-4
    submit(pool, 2, 3, client=OTHER)  # as 6-8, after a 5 of its own
    [answer] = outcomes(pool.step((D1, Done((values(6, 3),)))), OTHER)
    assert (answer.id, answer.count) == (2, 3)


def test_idle_daemons_share_it() -> None:
    pool = Pool([D1, D2])
    commands = submit(pool, 2, 100)
    assert [len(tasks(commands, each)) for each in (D1, D2)] == [50, 50]
    assert tasks(commands, D1) | tasks(commands, D2) == {key: b"%d" % key for key in range(2, 102)}


def test_while_durations_are_unknown_one_is_given_at_a_time() -> None:
    pool = Pool([D1])
    one = run(1, 3)
    assert given(pool.submit(1, payload=one.payload, following=one.following), D1) == [1]
    assert len(pool.hand(D1)) == 1
    assert list(tasks(pool.done(D1, 1, seconds=1.0), D1).values()) == [b"2"]


def test_no_more_is_given_than_credit_allows() -> None:
    pool = Pool([D1])
    pool.learn(HORIZON / 4 - OVERHEAD)
    one = run(2, 50)
    pool.submit(2, payload=one.payload, following=one.following)
    assert pool.hand(D1) == [2, 3, 4, 5]
    pool.step((D1, Done((values(2, 2, seconds=HORIZON / 2 - 2 * OVERHEAD),))))
    assert pool.hand(D1) == [4, 5, 6, 7]


def test_a_hand_has_no_more_than_a_batch() -> None:
    pool = Pool([D1])
    pool.learn(0.0)
    for first in (2, 2 + BATCH_TASKS):
        one = run(first, BATCH_TASKS)
        pool.submit(first, payload=one.payload, following=one.following)
    assert len(pool.hand(D1)) == BATCH_TASKS


@pytest.mark.parametrize("ids", [(2,), (4,), (6,), (2, 3, 4, 5, 6), (3, 5)])
def test_some_are_cancelled_while_they_wait(ids: tuple[int, ...]) -> None:
    pool = Pool()
    pool.join(D1, Role.DAEMON)
    pool.learn(TINY)
    pool.step((D1, Lost(CRASH, 0)))
    one = run(2, 5)
    pool.submit(2, payload=one.payload, following=one.following)
    assert pool.step((CLIENT, Cancel(ids))) == []
    assert pool.report().awaiting == 5 - len(ids)
    left = tasks(pool.join(D2, Role.DAEMON), D2)
    assert list(left.values()) == [b"%d" % id for id in range(2, 7) if id not in ids]


@pytest.mark.parametrize("ids", [(2,), (4,), (6,), (2, 3, 4, 5, 6), (3, 5)])
def test_some_are_cancelled_in_hand(ids: tuple[int, ...]) -> None:
    pool = Pool([D1])
    submit(pool, 2, 5)
    [interrupt] = sent(pool.step((CLIENT, Cancel(ids))), D1, Interrupt)
    assert interrupt.ids == ids
    told = outcomes(pool.step((D1, Done((values(2, 5),)))))  # it had ended them all by then
    assert [each.id + i for each in told for i in range(each.count)] == [
        id for id in range(2, 7) if id not in ids
    ]
    assert {each.payload for each in told} <= {b"v%d" % id for id in range(2, 7)}


def test_to_name_one_twice_leaves_none_out() -> None:
    pool = Pool()
    one = run(1, 5)
    pool.submit(1, payload=one.payload, following=one.following)
    pool.step((CLIENT, Cancel((3, 3, 4, 99, 4, 5))))
    assert pool.report().awaiting == 2


def test_those_that_are_handed_back_wait_at_their_old_place() -> None:
    pool = Pool([D1])
    submit(pool, 2, 10)
    pool.now += LONG
    [recall] = sent(pool.step(), D1, Recall)
    assert recall.ids == tuple(range(3, 12))
    pool.join(D2, Role.DAEMON)
    commands = pool.step((D1, Returned(tuple(range(5, 12)))))
    assert list(tasks(commands, D2)) == list(range(5, 12))
    assert pool.hand(D1) == [2, 3, 4]


def test_what_has_a_story_is_answered_one_by_one() -> None:
    """Else nobody would know whose story it is."""
    pool = Pool([D1])
    submit(pool, 2, 4)
    pool.now += LONG
    pool.step()
    pool.step((D1, Returned((3, 4, 5))), (D1, Done((values(2, 1),))))
    told = outcomes(pool.step((D1, Done((values(3, 3),)))))
    assert [(each.id, each.count, bool(each.story)) for each in told] == [
        (id, 1, True) for id in (3, 4, 5)
    ]
    assert [each.payload for each in told] == [b"v3", b"v4", b"v5"]


def test_those_that_had_begun_are_lost_with_their_daemon() -> None:
    pool = Pool([D1])
    submit(pool, 2, 6)
    told = pool.step((D1, Lost(CRASH, 4)))
    assert answers(told) == {2: Kind.CRASHED, 3: Kind.CRASHED, 4: Kind.CRASHED}
    assert list(tasks(pool.join(D2, Role.DAEMON), D2).values()) == [b"5", b"6", b"7"]


def test_those_that_had_begun_may_run_again() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    one = run(2, 4, retries=1)
    pool.submit(2, payload=one.payload, following=one.following, retries=1)
    assert answers(pool.step((D1, Lost(CRASH, 3)))) == {}
    again = tasks(pool.join(D2, Role.DAEMON), D2)
    assert list(again.values()) == [b"4", b"5", b"2", b"3"]
    assert list(again)[2:] == [6, 7]  # new runs have new keys


def test_all_have_the_same_time() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    one = run(2, 3)
    pool.submit(2, payload=one.payload, following=one.following, timeout=1.0)
    pool.step((D1, Done((values(2, 1),))))
    assert answers(pool.wait(1.0)) == {3: Kind.TIMEOUT, 4: Kind.TIMEOUT}


def test_the_parts_of_a_run_have_its_time_too() -> None:
    pool = Pool([D1])
    pool.learn(TINY)
    one = run(2, 6)
    pool.submit(2, payload=one.payload, following=one.following, timeout=1.0)
    pool.step((CLIENT, Cancel((4,))))
    pool.step((D1, Done((values(3, 1),))))
    assert answers(pool.wait(1.0)) == dict.fromkeys((2, 5, 6, 7), Kind.TIMEOUT)
    assert not pool.core._timeouts._live


def test_those_that_wait_have_its_time_too() -> None:
    pool = Pool()
    one = run(1, 5)
    pool.submit(1, payload=one.payload, following=one.following, timeout=1.0)
    pool.step((CLIENT, Cancel((3,))))
    assert answers(pool.wait(1.0)) == dict.fromkeys((1, 2, 4, 5), Kind.TIMEOUT)


def test_what_a_run_took_is_the_time_of_all_its_tasks() -> None:
    pool = Pool([D1])
    submit(pool, 2, 100)
    pool.step((D1, Done((values(2, 100, seconds=100 * HORIZON / 10),))))
    one = run(102, 100)
    pool.submit(102, payload=one.payload, following=one.following)
    assert len(pool.hand(D1)) == 10


def test_a_client_with_runs_has_no_longer_turns_than_one_with_single_tasks() -> None:
    pool = Pool([D1], [CLIENT, OTHER])
    for client in (CLIENT, OTHER):
        pool.learn(TINY, client=client)
    pool.step((D1, Lost(CRASH, 0)))
    for first in range(2, 10_002, BATCH_TASKS):
        one = run(first, BATCH_TASKS)
        pool.submit(first, payload=one.payload, following=one.following)
    pool.submit(*range(2, 5_002), client=OTHER)
    pool.join(D2, Role.DAEMON)
    done = {CLIENT: 0, OTHER: 0}
    while done[CLIENT] + done[OTHER] < 4_000:
        keys = pool.hand(D2)
        told = pool.step(
            (D2, Done(tuple(Outcome(key, Kind.VALUE, b"v", (), TINY) for key in keys)))
        )
        for client in done:
            done[client] += sum(each.count for each in outcomes(told, client))
    assert abs(done[CLIENT] - done[OTHER]) < 1_000


def test_numbers_do_not_run_out_in_the_middle_of_a_run() -> None:
    pool = Pool([D1])
    assert CutOff(CLIENT) in pool.submit(2**63, payload=b"x", following=(b"y",))


def test_a_stubborn_one_is_killed_whichever_it_is() -> None:
    pool = Pool([D1])
    submit(pool, 2, 3)
    pool.step((CLIENT, Cancel((2, 3, 4))))
    assert kills(pool.wait(5.0)) == [Kill(D1, range(2, 5))]
    pool.step((D1, Done((values(2, 1), Outcome(4, Kind.CANCELLED)))))
    assert kills(pool.wait(5.0)) == [Kill(D1, range(3, 4))]


def test_what_one_prints_is_told_in_its_name() -> None:
    pool = Pool([D1])
    submit(pool, 2, 3)
    assert sent(pool.step((D1, Printed(4, "text"))), CLIENT, Printed) == [Printed(4, "text")]


def test_where_a_task_is_can_be_asked() -> None:
    pool = Pool([D1])
    submit(pool, 2, 3)
    assert pool.core.origin(D1, 4) == (CLIENT, 4)
    assert pool.core.origin(D1, 5) == (0, 0)


def test_a_run_is_no_longer_than_a_batch() -> None:
    pool = Pool([D1])
    one = run(1, BATCH_TASKS + 1)
    commands = pool.submit(1, payload=one.payload, following=one.following)
    assert CutOff(CLIENT) in commands and pool.report().awaiting == 0


@pytest.mark.parametrize(
    "message",
    [
        (Outcome(2, Kind.ERROR, following=(b"",)),),
        (Outcome(2, Kind.VALUE, blobs=(Blob(b"b"),), following=(b"",)),),
        (Outcome(2, Kind.VALUE, log="text", following=(b"",)),),
        (Outcome(2, Kind.VALUE), Outcome(3, Kind.CANCELLED, following=(b"",))),
    ],
)
def test_only_plain_values_make_a_run(message: Sequence[Outcome]) -> None:
    pool = Pool([D1])
    submit(pool, 2, 3)
    commands = pool.step((D1, Done(tuple(message))))
    assert CutOff(D1) in commands and not outcomes(commands)
    assert pool.report().rejected == 1
