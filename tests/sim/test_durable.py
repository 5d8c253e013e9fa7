"""Durable jobs against kills at every moment: core, keeper and a real journal, in one process.

A kill is what it leaves: the journal's files as they are, copied away from whoever wrote them.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from dispatcher.core import Dispatcher
from dispatcher.events import Barren, Command, CutOff, Event, Joined, Lost, Role, Send
from dispatcher.keeper import MAX_AT_ONCE
from dispatcher.messages import (
    KEY_BYTES,
    VERSION,
    Attach,
    Cancel,
    Crash,
    Discard,
    Done,
    Enlist,
    Fetched,
    Function,
    Hello,
    JobReport,
    Kind,
    Look,
    Message,
    Outcome,
    Recall,
    Redo,
    Results,
    Returned,
    Run,
    Seen,
    Span,
    Task,
)
from dispatcher.vault import Vault

JOB = "air"
F = Function(1, "f", b"f")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Close the journals also of those pools that were taken for killed."""
    yield
    while Pool.made:
        Pool.made.pop().vault.close()


class Pool:
    """A dispatcher without sockets, whose peers are played here."""

    made: ClassVar[list[Pool]] = []

    def __init__(self, path: Path) -> None:
        self.made.append(self)
        self.path = path
        path.parent.mkdir(exist_ok=True)
        self.vault = Vault(str(path), None, synchronous=False)
        self.core = Dispatcher()
        self.inbox: dict[int, list[Message]] = {}
        self.now = 0.0
        self._peers = self._kills = 0
        self.turn()

    def turn(self, *events: tuple[int, Event]) -> None:
        """Let things happen."""
        self.now += 0.001
        commands: list[Command] = self.vault.give(
            self.core.handle(self.vault.take(events), self.now)
        )
        self.core.check()
        for command in commands:
            assert not isinstance(command, CutOff), command.reason
            if isinstance(command, Send):
                self.inbox.setdefault(command.peer, []).append(command.message)

    def join(self, role: Role) -> int:
        self._peers += 1
        self.turn((self._peers, Joined(role, Hello(VERSION))))
        return self._peers

    def mail(self, peer: int) -> list[Message]:
        """Return what a peer was told, once."""
        return self.inbox.pop(peer, [])

    def look(self, client: int, *, tasks: bool = False) -> JobReport:
        """Return how the job stands."""
        self.turn((client, Look(7, JOB, tasks)))
        [seen] = [each for each in self.mail(client) if isinstance(each, Seen)]
        return seen.jobs[0]

    def outcomes(self, client: int) -> dict[int, Outcome]:
        """Return what a client has been told of tasks since it was asked last, each by its id."""
        told: dict[int, Outcome] = {}
        for message in self.mail(client):
            for outcome in message.outcomes if isinstance(message, Results) else ():
                for index in range(outcome.count):
                    assert outcome.id + index not in told
                    part = outcome.part(outcome.id + index, index, 1, outcome.story)
                    told[part.id] = part if outcome.kind is Kind.VALUE else outcome
        return told

    def killed(self) -> Pool:
        """Return the one that is started after this one was killed."""
        self._kills += 1
        home = self.path.parent.with_name(f"{self.path.parent.name}.{self._kills}")
        shutil.copytree(self.path.parent, home)
        return Pool(home / self.path.name)

    def end(self) -> Pool:
        """Return the one that is started after this one has ended in order."""
        self.vault.close()
        return Pool(self.path)


class Worker:
    """A daemon, and what it has."""

    def __init__(self, pool: Pool, begun: Counter[bytes]) -> None:
        self.pool = pool
        self.peer = pool.join(Role.DAEMON)
        self.hand: dict[int, Task] = {}
        self.began: set[int] = set()
        self._begun = begun

    def read(self) -> None:
        """Take in what it was told."""
        for message in self.pool.mail(self.peer):
            if isinstance(message, Run):
                for task in message.tasks:
                    self.hand.update((each.id, each) for each in task.each())
            elif isinstance(message, Recall):
                free = [id for id in message.ids if id in self.hand and id not in self.began]
                for id in free:
                    del self.hand[id]
                self.pool.turn((self.peer, Returned(tuple(free))))
                self.read()

    def begin(self) -> None:
        """Begin the first task."""
        for id, task in self.hand.items():
            if id not in self.began:
                self._begun[task.payload] += 1
                self.began.add(id)
            return

    def finish(self) -> None:
        """Answer the first task."""
        self.begin()
        for id, task in self.hand.items():
            del self.hand[id]
            value = Outcome(id, Kind.VALUE, b"v" + task.payload, seconds=0.0001)
            self.pool.turn((self.peer, Done((value,))))
            return

    def die(self) -> None:
        """Be lost, of which the pool knows the last task that has begun."""
        last = max(self.began & self.hand.keys(), default=0)
        self.pool.turn((self.peer, Lost(Crash("killed"), last)))


def payload(number: int) -> bytes:
    return str(number).encode()


def keys(*numbers: int) -> bytes:
    return b"".join(number.to_bytes(KEY_BYTES, "big") for number in numbers)


def enlist(id: int, *numbers: int, retries: int = 0, new: bool = True) -> Enlist:
    """Return a run of tasks of these payloads, known again by them."""
    first, *others = map(payload, numbers)
    task = Task(id, 1, first, retries=retries, following=tuple(others))
    functions = (F,) if new else ()
    return Enlist(JOB, (task,), functions, keys(*numbers), b"1" * KEY_BYTES, True)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "home" / "job.db")


def work_off(workers: list[Worker]) -> None:
    """Let all be done."""
    while True:
        for worker in workers:
            worker.read()
        busy = [worker for worker in workers if worker.hand]
        if not busy:
            return
        for worker in busy:
            worker.finish()


class TestOneJob:
    def test_what_was_done_is_not_done_again(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 1, 2, 3)))
        work_off([worker])
        assert {id: each.payload for id, each in pool.outcomes(client).items()} == {
            1: b"v1",
            2: b"v2",
            3: b"v3",
        }
        pool = pool.killed()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 2, 9, 3)))
        first = pool.outcomes(client)
        assert {id: each.payload for id, each in first.items()} == {1: b"v2", 3: b"v3"}
        work_off([worker])
        assert pool.outcomes(client)[2].payload == b"v9"
        assert begun == {b"1": 1, b"2": 1, b"3": 1, b"9": 1}

    def test_what_waits_goes_on_without_a_client(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        pool.turn((pool.join(Role.CLIENT), enlist(1, 1, 2)))
        pool = pool.killed()
        work_off([Worker(pool, begun)])
        assert begun == {b"1": 1, b"2": 1}
        client = pool.join(Role.CLIENT)
        report = pool.look(client, tasks=True)
        assert (report.done, report.waiting) == (2, 0)
        pool.turn((client, Attach(5, tuple(span for span, _ in report.tasks))))
        assert [each.payload for each in pool.outcomes(client).values()] == [b"v1", b"v2"]

    def test_what_may_have_run_is_not_run_again(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 1)))
        worker.read()
        pool = pool.killed()
        client = pool.join(Role.CLIENT)
        pool.turn((client, enlist(1, 1)))
        outcome = pool.outcomes(client)[1]
        assert outcome.kind is Kind.CRASHED
        assert outcome.crash is not None and "may have been running" in outcome.crash.reason

    def test_what_may_run_again_does_so_as_often_as_that(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        pool.turn((pool.join(Role.CLIENT), enlist(1, 1, retries=2)))
        for _ in range(3):
            worker = Worker(pool, begun)
            worker.read()
            worker.begin()
            pool = pool.killed()
        client = pool.join(Role.CLIENT)
        assert pool.look(client).failed == 1
        assert begun == {b"1": 3}

    def test_what_was_handed_back_has_not_run(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 1)))
        worker.read()
        pool.turn(
            (worker.peer, Returned((next(iter(worker.hand)),))), (worker.peer, Lost(Crash("")))
        )
        pool = pool.killed()
        work_off([Worker(pool, begun)])
        assert begun == {b"1": 1}

    def test_a_lost_daemon_is_told_and_stays_told(self, pool: Pool) -> None:
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, enlist(1, 1, 2)))
        worker.read()
        worker.begin()
        worker.die()
        assert pool.outcomes(client)[1].kind is Kind.CRASHED
        client = (pool := pool.killed()).join(Role.CLIENT)
        report = pool.look(client)
        assert (report.failed, report.waiting, report.running) == (1, 1, 0)

    def test_failed_ones_run_again_when_asked_to(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 1, 2, 3)))
        worker.read()
        worker.begin()
        worker.die()
        pool.turn((client, Redo(1, JOB)))
        for again in (pool, pool.killed()):
            work_off([Worker(again, begun)])
            assert again.look(again.join(Role.CLIENT)).done == 3
        assert begun[b"1"] == 3  # once before, and once in each of the two worlds

    def test_two_clients_hear_of_one_task(self, pool: Pool) -> None:
        one, two = pool.join(Role.CLIENT), pool.join(Role.CLIENT)
        worker = Worker(pool, Counter())
        pool.turn((one, enlist(1, 1, 2)), (two, enlist(11, 2, 1)))
        pool.turn((one, Cancel((1,))))  # the other one still wants it
        work_off([worker])
        assert {id: each.payload for id, each in pool.outcomes(one).items()} == {2: b"v2"}
        assert {id: each.payload for id, each in pool.outcomes(two).items()} == {
            11: b"v2",
            12: b"v1",
        }

    def test_one_client_may_ask_twice(self, pool: Pool) -> None:
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, enlist(1, 1)))
        pool.turn((client, Enlist(JOB, (Task(2, 1, b"1"),), (), keys(1), b"1" * KEY_BYTES, True)))
        pool.turn((client, Cancel((1,))))
        work_off([worker])
        assert pool.outcomes(client)[2].payload == b"v1"

    def test_cancelled_by_all_it_is_over(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client = pool.join(Role.CLIENT)
        pool.turn((client, enlist(1, 1, 2, 3)))
        pool.turn((client, Cancel((2,))))
        pool = pool.killed()
        work_off([Worker(pool, begun)])
        assert begun == {b"1": 1, b"3": 1}
        assert pool.look(pool.join(Role.CLIENT)).failed == 1

    def test_cancelled_before_it_began_it_runs_when_it_is_asked_for_again(self, pool: Pool) -> None:
        """As after Ctrl-C in a program that awaits its map: it is run again, and goes on."""
        client = pool.join(Role.CLIENT)
        pool.turn((client, enlist(1, 1, 2, 3)))
        pool.turn((client, Cancel((1, 2, 3))))
        for again in (pool.killed(), pool):
            begun: Counter[bytes] = Counter()
            client = again.join(Role.CLIENT)
            again.turn((client, enlist(1, 1, 2)))
            work_off([Worker(again, begun)])
            assert {id: each.payload for id, each in again.outcomes(client).items()} == {
                1: b"v1",
                2: b"v2",
            }
            assert begun == {b"1": 1, b"2": 1}
            later = again.killed()
            assert later.look(later.join(Role.CLIENT)).failed == 1

    @pytest.mark.parametrize(("retries", "times"), [(0, 1), (1, 2)])
    def test_cancelled_while_it_ran_it_runs_again_if_it_may(
        self, pool: Pool, retries: int, times: int
    ) -> None:
        client = pool.join(Role.CLIENT)
        seen: Counter[bytes] = Counter()
        worker = Worker(pool, seen)
        pool.turn((client, enlist(1, 1)))
        worker.read()
        worker.begin()
        pool.turn((client, Cancel((1,))))
        for again in (pool.killed(), pool):
            begun = Counter(seen)
            client = again.join(Role.CLIENT)
            again.turn((client, enlist(1, 1, retries=retries)))
            work_off([Worker(again, begun)])
            assert begun == {b"1": times}
            kind = again.outcomes(client)[1].kind
            assert kind is (Kind.VALUE if retries else Kind.CANCELLED)

    def test_equal_keys_of_one_message_are_one_task(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 5, 6, 5, 5)))
        work_off([worker])
        values = {id: each.payload for id, each in pool.outcomes(client).items()}
        assert values == {1: b"v5", 2: b"v6", 3: b"v5", 4: b"v5"}
        assert begun == {b"5": 1, b"6": 1}

    def test_a_deleted_job_is_gone(self, pool: Pool) -> None:
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, enlist(1, 1, 2, 3)))
        worker.read()
        worker.finish()
        pool.outcomes(client)
        pool.turn((client, Discard(3, JOB)))
        assert {each.kind for each in pool.outcomes(client).values()} == {Kind.CANCELLED}
        pool = pool.killed()
        client = pool.join(Role.CLIENT)
        pool.turn((client, Look(1)))
        [seen] = pool.mail(client)[-1:]
        assert isinstance(seen, Seen) and seen.jobs == ()

    def test_without_hope_what_waits_is_told_and_stays(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client = pool.join(Role.CLIENT)
        pool.turn((client, enlist(1, 1)), (0, Barren(Crash("no daemon can start"))))
        assert pool.outcomes(client)[1].kind is Kind.CRASHED
        assert pool.look(client).waiting == 1
        worker = Worker(pool, begun)
        once_more = Enlist(JOB, (Task(2, 1, b"1"),), (), keys(1), b"1" * KEY_BYTES, True)
        pool.turn((client, once_more))
        work_off([worker])
        assert pool.outcomes(client)[2].payload == b"v1"
        assert begun == {b"1": 1}


def ask(id: int, number: int) -> Enlist:
    """Return what asks for a task that the job knows by its key."""
    return Enlist(JOB, (Task(id, 1, payload(number)),), (), keys(number), b"1" * KEY_BYTES, True)


class TestOneTurn:
    """Much may come before the dispatcher decides; what comes first changes what comes next."""

    @pytest.fixture
    def client(self, pool: Pool) -> int:
        """One whose only task has been lost with its daemon."""
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, enlist(1, 1)))
        worker.read()
        worker.begin()
        worker.die()
        assert pool.outcomes(client)[1].kind is Kind.CRASHED
        return client

    def test_what_two_ask_for_again_runs_once(self, pool: Pool, client: int) -> None:
        begun: Counter[bytes] = Counter()
        pool.turn((client, Redo(1, JOB)), (client, ask(2, 1)), (client, Redo(2, JOB)))
        work_off([Worker(pool, begun)])
        assert begun == {b"1": 1}
        assert pool.outcomes(client)[2].payload == b"v1"

    def test_what_two_wait_for_without_hope_is_tried_once(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        one, two = pool.join(Role.CLIENT), pool.join(Role.CLIENT)
        pool.turn((one, enlist(1, 1)), (0, Barren(Crash("no daemon can start"))))
        assert pool.outcomes(one)[1].kind is Kind.CRASHED
        worker = Worker(pool, begun)
        pool.turn((one, ask(2, 1)), (two, Attach(5, (Span(1, 1),))))
        work_off([worker])
        assert begun == {b"1": 1}
        assert pool.outcomes(one)[2].payload == pool.outcomes(two)[5].payload == b"v1"

    def test_what_is_asked_for_again_and_cancelled_does_not_run(
        self, pool: Pool, client: int
    ) -> None:
        begun: Counter[bytes] = Counter()
        pool.turn((client, Redo(1, JOB)), (client, ask(2, 1)), (client, Cancel((2,))))
        work_off([Worker(pool, begun)])
        pool.mail(client)
        assert (begun, pool.look(client).failed) == ({}, 1)

    @pytest.mark.parametrize("gone", [Discard(1, JOB), Discard(1, JOB, (b"1" * KEY_BYTES,))])
    def test_who_asks_for_what_goes_is_told(self, pool: Pool, client: int, gone: Discard) -> None:
        pool.turn((client, Attach(5, (Span(1, 1),))), (pool.join(Role.CLIENT), gone))
        assert pool.outcomes(client)[5].kind is Kind.CANCELLED

    def test_who_asks_for_what_runs_again_hears_of_that(self, pool: Pool, client: int) -> None:
        other = pool.join(Role.CLIENT)
        pool.turn((client, Attach(5, (Span(1, 1),))), (other, Redo(1, JOB)))
        work_off([Worker(pool, Counter())])
        assert pool.outcomes(client)[5].payload == b"v1"

    def test_one_of_many_that_have_ended_is_cancelled(self, pool: Pool) -> None:
        """The values of many are one outcome, and the cancel comes right behind."""
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, enlist(1, 1)))
        work_off([worker])
        pool.outcomes(client)
        pool.turn((client, enlist(2, *range(2, 12), new=False)))
        worker.read()
        first, count = min(worker.hand), len(worker.hand)
        assert count == 10
        values = tuple(b"v" + payload(number) for number in range(2, 12))
        ended = Outcome(first, Kind.VALUE, values[0], following=values[1:], seconds=0.0001)
        pool.turn((worker.peer, Done((ended,))), (client, Cancel((5,))))
        told = {id: each.payload for id, each in pool.outcomes(client).items()}
        assert told == {id: b"v" + payload(id) for id in range(2, 12) if id != 5}
        again = pool.killed()
        report = again.look(again.join(Role.CLIENT))
        assert (report.done, report.failed, report.running) == (10, 1, 0)

    @pytest.mark.parametrize("started", [0, None])
    def test_one_of_many_whose_daemon_is_lost_is_cancelled(
        self, pool: Pool, started: int | None
    ) -> None:
        begun: Counter[bytes] = Counter()
        client, worker = pool.join(Role.CLIENT), Worker(pool, begun)
        pool.turn((client, enlist(1, 1)))
        work_off([worker])
        pool.turn((client, enlist(2, *range(2, 12), new=False)))
        worker.read()
        lost = Lost(Crash("killed"), started)
        pool.turn((worker.peer, lost), (client, Cancel((5,))))
        work_off([Worker(pool, begun)])
        report = pool.look(client)
        assert (report.done + report.failed, report.running, report.waiting) == (11, 0, 0)
        assert begun[b"5"] == 0
        assert pool.killed().vault._keeper.reports() == pool.vault._keeper.reports()

    def test_more_than_a_client_can_have_is_refused(self, pool: Pool) -> None:
        client = pool.join(Role.CLIENT)
        with pytest.raises(AssertionError, match="results at once"):
            pool.turn((client, Fetched((Span(1, MAX_AT_ONCE), Span(1, 1)))))


class TestPlainTasks:
    def submit(self, id: int, *numbers: int) -> Enlist:
        first, *others = map(payload, numbers)
        return Enlist("default", (Task(id, 1, first, following=tuple(others)),), (F,))

    def test_results_go_when_they_are_fetched(self, pool: Pool) -> None:
        client, worker = pool.join(Role.CLIENT), Worker(pool, Counter())
        pool.turn((client, self.submit(1, 1, 2, 3)))
        work_off([worker])
        assert len(pool.outcomes(client)) == 3
        pool.turn((client, Fetched((Span(1, 2),))))
        pool.vault._keeper.expire(0.0)  # as it is called now and then
        pool.turn()
        half = pool.killed()
        again = half.join(Role.CLIENT)
        half.turn((again, Look(1, "default", True)))
        [seen] = half.mail(again)[-1:]
        assert isinstance(seen, Seen)
        assert seen.jobs[0].done == 1
        half.turn((again, Attach(1, tuple(span for span, _ in seen.jobs[0].tasks))))
        assert half.outcomes(again)[1].payload == b"v3"
        pool.turn((client, Fetched((Span(3, 1),))))
        over = pool.killed()
        over.turn((over.join(Role.CLIENT), Look(1)))
        assert all(not job.done for job in over.vault._keeper.reports())

    def test_they_outlive_their_client(self, pool: Pool) -> None:
        begun: Counter[bytes] = Counter()
        client = pool.join(Role.CLIENT)
        pool.turn((client, self.submit(1, 1, 2)))
        pool.turn((client, Lost(Crash("gone"))))
        work_off([Worker(pool, begun)])
        assert begun == {b"1": 1, b"2": 1}
        [report] = pool.vault._keeper.reports()
        assert report.done == 2


@pytest.mark.parametrize("seed", range(80))
def test_history(tmp_path: Path, seed: int) -> None:
    """Whatever happens, each task ends once; none runs twice that may not; none is lost."""
    draw = random.Random(seed)
    begun: Counter[bytes] = Counter()
    retries = draw.choice((0, 0, 2))
    pool = Pool(tmp_path / "home" / "job.db")
    workers: list[Worker] = []
    client = pool.join(Role.CLIENT)
    ended: dict[int, Outcome] = {}  # by task
    asked: dict[int, int] = {}  # the client's ids of this life -> task
    wanted: set[int] = set()  # tasks that were ever submitted
    doubtful: set[bytes] = set()  # those that a daemon had when it or all was killed
    next_id, functions = 1, True

    def hear() -> None:
        for id, outcome in pool.outcomes(client).items():
            number = asked.pop(id)
            before = ended.setdefault(number, outcome)
            assert (before.kind, before.payload) == (outcome.kind, outcome.payload)

    for _ in range(draw.randint(20, 80)):
        action = draw.random()
        if action < 0.2:
            numbers = draw.sample(range(40), draw.randint(1, 6))
            pool.turn((client, enlist(next_id, *numbers, retries=retries, new=functions)))
            asked.update(zip(range(next_id, next_id + len(numbers)), numbers, strict=True))
            wanted.update(numbers)
            next_id, functions = next_id + len(numbers), False
        elif action < 0.35:
            workers.append(Worker(pool, begun))
        elif action < 0.75 and workers:
            worker = draw.choice(workers)
            worker.read()
            draw.choice((worker.begin, worker.finish, worker.finish))()
        elif action < 0.85 and workers:
            worker = workers.pop(draw.randrange(len(workers)))
            worker.read()
            doubtful.update(worker.hand[id].payload for id in worker.began & worker.hand.keys())
            worker.die()
        elif action < 0.95:
            while any(pool.inbox.get(worker.peer) for worker in workers):
                for worker in workers:
                    worker.read()  # what one hands back may be another's at once
            for worker in workers:
                doubtful.update(task.payload for task in worker.hand.values())
            pool = draw.choice((pool.killed, pool.killed, pool.end))()
            workers, asked = [], {}
            client = pool.join(Role.CLIENT)
            next_id, functions = 1, True
        hear()
    workers += [Worker(pool, begun), Worker(pool, begun)]
    work_off(workers)
    hear()
    report = pool.look(client)
    assert (report.waiting, report.running) == (0, 0)
    assert report.done + report.failed == len(wanted)
    numbers = sorted(wanted)
    for start in range(0, len(numbers), 5):
        some = numbers[start : start + 5]
        pool.turn((client, enlist(1_000 + start, *some, new=functions)))
        functions = False
    outcomes = pool.outcomes(client)
    for index, number in enumerate(numbers):
        outcome, name = outcomes[1_000 + index], payload(number)
        assert begun[name] <= 1 + retries
        if outcome.kind is Kind.VALUE:
            assert (outcome.payload, begun[name] > 0) == (b"v" + name, True)
        else:
            assert name in doubtful, outcome  # what surely did not start is not lost
