"""Queues without processes: the steps of tasks, leases by a clock that is stepped, the file."""

from __future__ import annotations

import asyncio
import os
import queue
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mirai import DaemonCrashed, MiraiError, RemoteError, SerializationError
from mirai.queues import Counts, LeaseLost, Queue, State, StoreError
from mirai.queues.files import _file
from mirai.queues.files._place import check_owner, journal_mode
from mirai.queues.files._row import Who
from mirai.queues.files._table import Table
from mirai.queues.files._work import failure

MOUNTS = """\
1 0 8:1 / / rw,relatime - ext4 /dev/vda rw
2 1 0:50 / /lustre rw - lustre mds@tcp:/scratch rw,flock,lazystatfs
3 1 0:51 / /lustre-local rw - lustre mds@tcp:/scratch rw,localflock
4 1 0:52 / /gpfs rw,relatime - gpfs home rw
5 1 0:53 / /nfs rw - nfs4 server:/home rw,vers=4.2
6 1 0:54 / /sshfs rw - fuse.sshfs me@server: rw
7 1 0:55 / /smb rw - cifs //server/share rw
8 1 0:56 / /plan9 rw - 9p hostshare rw
9 1 0:57 / /tmpfs rw - tmpfs tmpfs rw
"""

ALICE, BOB = Who("alice", "here", 1), Who("bob", "there", 2)


class Clock:
    """A clock that stands until it is stepped."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


clocks: list[Clock] = []
"""The one of the running test."""


@pytest.fixture
def clock() -> Iterator[Clock]:
    clocks.append(Clock())
    yield clocks[-1]
    clocks.clear()


@pytest.fixture
def jobs(tmp_path: Path, clock: Clock) -> Iterator[Queue]:
    with Queue(Table(tmp_path / "job.queue"), clock=clock) as jobs:
        yield jobs


def double(x: Any) -> Any:
    return 2 * x


def fail(x: Any) -> Any:
    raise ValueError(f"not {x}")


def claimed(jobs: Queue, clock: Clock, who: Who = ALICE, ttl: float = 10.0) -> Any:
    """Lease the next task to a worker; return its row."""
    claim = jobs._table.claim(who, clock(), ttl)
    assert claim is not None
    return claim[0]


# ── where it may lie ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("folder", "mode"),
    [("/", "wal"), ("/tmpfs", "wal"), ("/lustre", "delete"), ("/gpfs", "delete")],
)
def test_the_journal_suits_the_file_system(folder: str, mode: str) -> None:
    assert journal_mode(f"{folder}/job.queue", MOUNTS) == mode


@pytest.mark.parametrize("folder", ["nfs", "sshfs", "smb", "plan9", "lustre-local"])
def test_file_systems_that_do_not_lock_safely_are_refused(folder: str) -> None:
    with pytest.raises(StoreError, match=r"mirai dispatcher --journal job\.db.*mirai daemon"):
        journal_mode(f"/{folder}/job.queue", MOUNTS)


def test_lustre_without_flock_says_so() -> None:
    with pytest.raises(StoreError, match="without the option flock"):
        journal_mode("/lustre-local/job.queue", MOUNTS)


def test_a_rollback_journal_works_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file, "journal_mode", lambda _: "delete")
    path = tmp_path / "job.queue"
    with Queue.open(path) as one, Queue.open(path) as other:
        one.map(double, range(5))
        assert not Path(f"{path}-wal").exists()
        other.join(workers=0)
        assert one.collect() == [0, 2, 4, 6, 8]


def test_with_a_journal_too_one_waits_to_open_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever commits has the file for himself, and readers must wait."""
    monkeypatch.setattr(_file, "journal_mode", lambda _: "delete")
    path = tmp_path / "job.queue"
    Queue.open(path).close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db, ThreadPoolExecutor(1) as other:
        db.execute("BEGIN EXCLUSIVE")
        opening = other.submit(Queue.open, path)
        assert not wait([opening], timeout=0.2).done
        db.execute("COMMIT")
        opening.result().close()


def test_it_is_for_its_owner_only(jobs: Queue) -> None:
    jobs.push(double, 1)
    for path in (jobs.path, jobs.path + "-wal"):
        assert os.stat(path).st_mode & 0o777 == 0o600


def test_one_that_others_can_write_to_is_refused(jobs: Queue) -> None:
    os.chmod(jobs.path, 0o620)
    with pytest.raises(StoreError, match=r"chmod go-w .*job\.queue"):
        Queue.open(jobs.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_one_of_another_user_is_refused(jobs: Queue) -> None:
    os.chown(jobs.path, 12_345, -1)
    with pytest.raises(StoreError, match="belongs to another user"):
        check_owner(jobs.path)


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_folder_where_everybody_may_write_is_refused(jobs: Queue, mode: int) -> None:
    """Also with the sticky bit: a log, or a journal, could be laid beside it."""
    os.chmod(os.path.dirname(jobs.path), mode)
    with pytest.raises(StoreError, match="every user may put"):
        Queue.open(jobs.path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
@pytest.mark.parametrize("suffix", ["-wal", "-journal", "-mark"])
def test_what_others_have_laid_beside_it_is_refused(jobs: Queue, suffix: str) -> None:
    jobs.close()
    planted = Path(jobs.path + suffix)
    planted.write_bytes(b"")
    os.chown(planted, 12_345, -1)
    with pytest.raises(StoreError, match=f"{suffix} belongs to another user"):
        Queue.open(jobs.path)


def test_what_is_no_regular_file_is_refused(tmp_path: Path) -> None:
    """Without advice: /dev/null would be of no use to others after ``chmod go-w``."""
    os.mkfifo(tmp_path / "pipe")
    refused: list[tuple[str | Path, str]] = [
        (tmp_path, "is a folder: name a file in it"),
        (tmp_path / "pipe", "is no regular file: name another"),
        ("/dev/null", "^/dev/null is no regular file: name another$"),
        ("", "the name of a queue's file is empty"),
        ("a\0b", "null byte"),
    ]
    for path, what in refused:
        with pytest.raises(StoreError, match=what):
            Queue.open(path)


def test_what_cannot_be_written_is_said_to_be_read_only(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.close()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreError, match="is read-only here"):
        Queue.open(jobs.path)


def test_what_is_no_queue_is_left_alone(tmp_path: Path) -> None:
    other, text = tmp_path / "other.db", tmp_path / "text"
    with sqlite3.connect(other) as db:
        db.execute("CREATE TABLE tasks (id)")
    db.close()
    text.write_text("not a database, and long enough that nobody takes it for one" * 10)
    other.chmod(0o600)
    text.chmod(0o600)
    with pytest.raises(StoreError, match="is no queue"):
        Queue.open(other)
    with pytest.raises(StoreError, match="file is not a database"):
        Queue.open(text)
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        Queue.open(tmp_path / "nothing", create=False)
    with pytest.raises(StoreError, match="cannot be made"):
        Queue.open(tmp_path / "no folder" / "job.queue")


def test_another_version_is_refused(jobs: Queue) -> None:
    with jobs._table._file.write() as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StoreError, match="of version 99"):
        Queue.open(jobs.path)


# ── pushing and results ──────────────────────────────────────────────────────────────────


def test_values_come_in_the_order_of_pushing(jobs: Queue) -> None:
    keys = [jobs.options(priority=n % 3).push(double, n) for n in range(9)]
    assert jobs.join(workers=0) == Counts(done=9)
    assert jobs.collect() == [2 * n for n in range(9)]
    assert [each.key for each in jobs.results()] == keys


def test_it_resumes_when_it_is_opened_again(jobs: Queue) -> None:
    jobs.map(double, range(3))
    with jobs.lease() as task:
        task()
    jobs.close()
    with Queue.open(jobs.path) as again:
        assert again.counts() == Counts(waiting=2, done=1)
        assert (len(again), bool(again)) == (3, True)
        again.join(workers=0)
        assert again.collect() == [0, 2, 4]


def test_a_map_is_whole_or_not_at_all(jobs: Queue) -> None:
    with pytest.raises(SerializationError):
        jobs.map(double, [1, 2, Counter(x for x in [(_ for _ in ())])])
    assert not jobs
    assert list(jobs.map(pow, [2, 3], [3, 2], kwargs={"mod": 5})) == [1, 2]
    jobs.join(workers=0)
    assert jobs.collect() == [3, 4]


def test_rows_of_a_table_are_keywords(jobs: Queue) -> None:
    pandas = pytest.importorskip("pandas")
    jobs.map(lambda a, b: a - b, pandas.DataFrame({"a": [3, 5], "b": [1, 1]}))
    jobs.join(workers=0)
    assert jobs.collect() == [2, 4]


def test_arguments_are_as_they_were_when_they_were_pushed(jobs: Queue) -> None:
    numbers = [1, 2]
    jobs.push(sum, numbers)
    numbers.append(3)
    jobs.join(workers=0)
    assert jobs.collect() == [3]


def test_large_arrays_go_in_and_out(jobs: Queue) -> None:
    array = np.arange(100_000.0)

    def change(values: Any) -> Any:
        values += 1
        return values, values[::-1]

    jobs.push(change, array)
    jobs.join(workers=0)
    (there, back) = jobs.collect()[0]
    assert np.array_equal(there, array + 1)
    assert np.array_equal(back, there[::-1])
    there += 1


def test_a_function_is_kept_once(jobs: Queue) -> None:
    table = np.zeros(10_000)
    for n in range(3):
        jobs.push(lambda n: n + table[0], n)
    jobs.map(double, range(3))
    jobs.map(double, range(3))
    with jobs._table._file.read() as db:
        assert db.execute("SELECT count(*) FROM functions").fetchone() == (2,)


def test_errors_are_the_tasks_own(jobs: Queue) -> None:
    key = jobs.push(fail, 3)
    jobs.push(double, 3)
    assert jobs.join(workers=0) == Counts(done=1, failed=1)
    with pytest.raises(ValueError, match="not 3") as caught:
        jobs.result(key)
    assert isinstance(caught.value.__cause__, RemoteError)
    assert 'raise ValueError(f"not {x}")' in caught.value.__cause__.traceback
    with pytest.raises(ValueError, match="not 3"):
        jobs.collect()
    failed, done = jobs.results()
    assert (failed.ok, done.ok, done.unwrap(), failed.name) == (False, True, 6, f"{__name__}.fail")
    assert isinstance(failed.error, ValueError)


def test_what_has_not_ended_has_no_result(jobs: Queue, clock: Clock) -> None:
    key = jobs.push(double, 1)
    with pytest.raises(TimeoutError, match="it is waiting"):
        jobs.result(key)
    claimed(jobs, clock)
    with pytest.raises(TimeoutError, match="it is running"):
        jobs.result(key, timeout=0.01)
    with pytest.raises(TimeoutError, match="0 waiting, 1 running"):
        jobs.collect(timeout=0.01)
    with pytest.raises(KeyError):
        jobs.result(key + 1)
    assert list(jobs.results()) == []


def test_a_coroutine_is_awaited(jobs: Queue) -> None:
    async def later(x: int) -> int:
        return x + 1

    jobs.push(later, 1)
    jobs.join(workers=0)
    assert jobs.collect() == [2]


def test_a_coroutine_is_awaited_where_an_event_loop_runs(jobs: Queue) -> None:
    async def later(x: int) -> int:
        return x + 1

    async def main() -> None:
        jobs.map(later, [1, 2])
        with jobs.lease() as task:
            assert task() == 2
        jobs.join(workers=0)

    asyncio.run(main())
    assert jobs.collect() == [2, 3]


def test_a_link_leads_to_the_same_queue(jobs: Queue, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    link = tmp_path / "other" / "link"
    link.symlink_to(jobs.path)
    jobs.push(double, 1)
    with Queue.open(link) as other:
        other.push(double, 2)
        other.join(workers=0)
        assert os.listdir(link.parent) == ["link"]
    assert jobs.collect() == [2, 4]


def test_many_may_open_and_use_it_at_once(tmp_path: Path) -> None:
    path, barrier = tmp_path / "job.queue", threading.Barrier(8)

    def use(_: int) -> None:
        barrier.wait()
        with Queue.open(path) as mine:
            mine.map(double, range(5))
            for _ in range(5):
                mine.lease()()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(8)))
    with Queue.open(path) as jobs:
        assert jobs.collect() == [0, 2, 4, 6, 8] * 8


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q: q.push(3),
        lambda q: q.map(3, [1], args=(2,)),
        lambda q: q.options(retries="1"),
        lambda q: q.options(retries=1, retry_on=OSError()),
        lambda q: q.join(workers="2"),
        lambda q: q.lease(ttl=None),
    ],
)
def test_what_makes_no_sense_is_refused(jobs: Queue, wrong: Any) -> None:
    with pytest.raises(TypeError):
        wrong(jobs)
    assert not jobs


def test_options(jobs: Queue) -> None:
    jobs.push(double, 1)
    jobs.options(priority=2, name="first").push(double, 2)
    first = jobs.peek()
    assert first is not None
    assert (first.name, first.state, first.attempt) == ("first", State.WAITING, 0)


# ── running again ────────────────────────────────────────────────────────────────────────


def test_errors_that_may_pass_are_tried_again(jobs: Queue, tmp_path: Path) -> None:
    log = str(tmp_path / "log")

    def flaky(good: int) -> int:
        with open(log, "a+") as file:
            file.write("x")
            file.seek(0)
            tries = len(file.read())
        if tries < good:
            raise OSError(tries)
        return tries

    jobs.options(retries=2, retry_on=(OSError,)).push(flaky, 3)
    jobs.join(workers=0)
    (found,) = jobs.results()
    assert (found.value, found.attempt) == (3, 3)
    os.unlink(log)
    key = jobs.options(retries=1, retry_on=OSError).push(flaky, 3)  # one may be given alone
    jobs.join(workers=0)
    with pytest.raises(OSError, match="2"):
        jobs.result(key)


def test_failed_ones_can_be_tried_again(jobs: Queue, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    jobs.push(lambda path: path.read_text(), flag)
    assert jobs.join(workers=0).failed == 1
    flag.write_text("there")
    assert jobs.retry() == 1
    assert jobs.counts() == Counts(waiting=1)
    jobs.join(workers=0)
    assert jobs.collect() == ["there"]


# ── leases ───────────────────────────────────────────────────────────────────────────────


def test_a_task_is_leased_once(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    claimed(jobs, clock)
    assert jobs._table.claim(BOB, clock(), 10.0) is None
    with pytest.raises(queue.Empty):
        jobs.lease()
    assert jobs.peek() is None


def test_an_expired_lease_makes_it_abandoned_and_nothing_runs_it_again(
    jobs: Queue, clock: Clock
) -> None:
    key = jobs.push(double, 1)
    claimed(jobs, clock)
    clock.now += 9.9
    assert (jobs.counts(), jobs.abandoned()) == (Counts(running=1), [])
    clock.now += 0.2
    assert jobs.counts() == Counts(abandoned=1)
    assert jobs.join(workers=0) == Counts(abandoned=1)
    assert [each.key for each in jobs.abandoned()] == [key]
    with pytest.raises(DaemonCrashed, match=r"lease has ended.*process 1 on here, attempt 1"):
        jobs.collect()
    assert jobs.requeue_expired() == 1
    jobs.join(workers=0)
    assert jobs.collect() == [2]


def test_with_retries_it_runs_again(jobs: Queue, clock: Clock) -> None:
    jobs.options(retries=1).push(double, 1)
    claimed(jobs, clock)
    clock.now += 11
    assert jobs.join(workers=0) == Counts(done=1)
    assert next(jobs.results()).attempt == 2


def test_retries_are_counted(jobs: Queue, clock: Clock) -> None:
    jobs.options(retries=1).push(double, 1)
    for _ in range(2):
        claimed(jobs, clock)
        clock.now += 11
        jobs._table.requeue(clock(), allowed=True)
    assert jobs.counts() == Counts(abandoned=1)
    assert jobs.requeue_expired() == 1


def test_a_lease_can_be_renewed(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    claimed(jobs, clock)
    clock.now += 9
    assert jobs._table.renew(["alice", "bob"], clock(), 10.0) == 1
    clock.now += 9
    assert jobs.counts() == Counts(running=1)


def test_a_late_finisher_is_first_if_nobody_else_has_it(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    with jobs.lease(ttl=10) as task:
        clock.now += 11
        assert jobs.counts() == Counts(abandoned=1)
        task.finish("late")
    assert jobs.collect() == ["late"]


def test_a_late_finisher_is_dropped_if_somebody_else_has_it(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    with jobs.lease(ttl=10) as task:
        clock.now += 11
        jobs.requeue_expired()
        jobs.join(workers=0)
        with pytest.raises(LeaseLost, match="dropped"):
            task.finish("late")
    assert jobs.collect() == [2]
    assert next(jobs.results()).dropped == 1


def test_an_attempt_has_no_say_after_the_same_worker_has_it_anew(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    old = claimed(jobs, clock)
    clock.now += 11
    jobs.requeue_expired()
    claimed(jobs, clock)
    assert not jobs._table.settle(old, ALICE, failure(ValueError()))
    assert jobs.counts() == Counts(running=1)


def test_a_task_that_was_taken_away_is_said_by_a_worker(
    jobs: Queue, caplog: pytest.LogCaptureFixture
) -> None:
    path = jobs.path

    def linger() -> str:
        from test_queue_table import clocks  # ours: it must not be pickled

        (clock,) = clocks
        if clock.now > 1_000:
            return "second"
        clock.now += 1_000
        with Queue(Table(path), clock=clock) as other:
            other.requeue_expired()
            other.join(workers=0)
        return "first"

    jobs.push(linger)
    jobs.join(workers=0)
    assert jobs.collect() == ["second"]
    assert "was taken from us while it ran: what it gave is dropped" in caplog.text


# ── by hand ──────────────────────────────────────────────────────────────────────────────


def test_a_task_is_run_by_hand(jobs: Queue) -> None:
    jobs.map(double, [1, 2])
    jobs.push(fail, 3)
    with jobs.lease() as task:
        assert (task.key, task.attempt, task.arguments()) == (1, 1, ((1,), {}))
        assert task() == 2
        with pytest.raises(RuntimeError, match="has been answered"):
            task.finish(3)
    with jobs.lease() as task:
        task.finish("by hand")
    with jobs.lease() as task, pytest.raises(ValueError, match="not 3"):
        task()
    assert jobs.counts() == Counts(done=2, failed=1)


def test_a_block_that_raises_lets_it_fail(jobs: Queue) -> None:
    key = jobs.push(double, 1)
    with pytest.raises(ZeroDivisionError), jobs.lease():
        1 / 0  # noqa: B018
    with pytest.raises(ZeroDivisionError):
        jobs.result(key)


def test_a_block_that_raises_puts_it_back_if_that_is_wanted(jobs: Queue) -> None:
    jobs.push(double, 1)
    with pytest.raises(ZeroDivisionError), jobs.lease(put_back=True):
        1 / 0  # noqa: B018
    with jobs.lease():
        pass
    assert jobs.counts() == Counts(waiting=1)
    with jobs.lease() as task:
        assert task.attempt == 1


def test_ctrl_c_leaves_it_abandoned(jobs: Queue) -> None:
    jobs.push(double, 1)
    with pytest.raises(KeyboardInterrupt), jobs.lease():
        raise KeyboardInterrupt
    assert jobs.counts() == Counts(abandoned=1)

    def interrupt() -> None:
        raise KeyboardInterrupt

    jobs.push(interrupt)
    with pytest.raises(KeyboardInterrupt):
        jobs.join(workers=0)
    assert jobs.counts() == Counts(abandoned=2)
    assert "interrupted" in str(jobs.abandoned()[1].error)


def test_the_heart_renews_a_lease(tmp_path: Path) -> None:
    with Queue.open(tmp_path / "job.queue") as jobs:
        jobs.push(double, 1)
        with jobs.lease(ttl=0.15) as task:
            first = jobs._table.task(task.key)
            while jobs._table.task(task.key) == first:
                pass
            assert jobs.counts() == Counts(running=1)
            task.finish()


# ── what a dead worker leaves ────────────────────────────────────────────────────────────


def test_what_a_dead_worker_had_begun_is_abandoned_with_its_end(jobs: Queue, clock: Clock) -> None:
    key = jobs.push(double, 1)
    claimed(jobs, clock)
    assert [row.id for row in jobs._table.bury("alice", key, "the worker died", -9, "oh")] == [key]
    (lost,) = jobs.abandoned()
    assert isinstance(lost.error, DaemonCrashed)
    assert (lost.error.signal, lost.error.host, lost.error.pid) == ("SIGKILL", "here", 1)
    assert (lost.error.attempt, lost.error.output, lost.log) == (1, "oh", "oh")
    assert str(lost.error).startswith("the worker died of SIGKILL")


def test_what_it_surely_had_not_begun_waits_again(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    claimed(jobs, clock)
    assert jobs._table.bury("alice", 0, "the worker died") == []
    assert jobs.counts() == Counts(waiting=1)
    assert claimed(jobs, clock).attempt == 1


def test_what_it_had_taken_when_it_had_answered_another_waits_again(
    jobs: Queue, clock: Clock
) -> None:
    """It died in the moment between an answer's commit and the next task's begin."""
    jobs.map(double, [1, 2])
    first = claimed(jobs, clock)
    answer = failure(ValueError())
    assert jobs._table.turn(first, ALICE, answer, clock(), 10.0)[1] is not None
    assert jobs._table.bury("alice", first.id, "the worker died") == []
    assert jobs.counts() == Counts(waiting=1, failed=1)


def test_what_is_not_known_may_have_begun(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    claimed(jobs, clock)
    assert len(jobs._table.bury("alice", None, "the worker died")) == 1


def test_a_dead_worker_leaves_others_alone(jobs: Queue, clock: Clock) -> None:
    jobs.map(double, [1, 2])
    claimed(jobs, clock, ALICE)
    claimed(jobs, clock, BOB)
    jobs._table.bury("alice", 1, "the worker died")
    assert jobs.counts() == Counts(running=1, abandoned=1)


def test_join_does_not_wait_for_what_cannot_come_back(jobs: Queue, clock: Clock) -> None:
    jobs.push(double, 1)
    claimed(jobs, clock)
    assert jobs._table.is_over()
    jobs.options(retries=1).push(double, 1)
    claimed(jobs, clock)
    assert not jobs._table.is_over()


def work_and_collect(jobs: Queue) -> None:
    jobs.join(workers=0)
    jobs.collect()


# ── damage ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ("UPDATE tasks SET retries = 7 WHERE id = 2", "the row of task 2"),
        ("UPDATE calls SET payload = x'00' WHERE id = 2", "the arguments of task 2"),
        ("UPDATE functions SET payload = x'00'", "function 1"),
        ("UPDATE functions SET path = 'elsewhere'", "function 1"),
        ("UPDATE answers SET ok = 0 WHERE id = 1", "the answer of task 1"),
        ("DELETE FROM answers", "the answer of task 1"),
        ("DELETE FROM calls WHERE id = 2", "the arguments of task 2"),
    ],
)
def test_what_is_not_as_it_was_written_is_noticed(jobs: Queue, change: str, what: str) -> None:
    jobs.map(double, [1, 2])
    with jobs.lease() as task:
        task()
    jobs.check()
    with jobs._table._file.write() as db:
        db.execute(change)
    with pytest.raises(StoreError, match=f"is damaged: {what} (is|are) not what was written"):
        jobs.check()
    with pytest.raises(StoreError, match="is damaged"):
        work_and_collect(jobs)


def test_no_flipped_byte_gives_another_result(tmp_path: Path) -> None:
    path = tmp_path / "job.queue"
    with Queue.open(path) as jobs:
        jobs.map(double, range(20))
        for _ in range(19):
            jobs.lease()()
    whole = path.read_bytes()
    right = [2 * n for n in range(20)]
    refused = 0
    for at in range(7, len(whole), 499):
        broken = bytearray(whole)
        broken[at] ^= 0x55
        path.write_bytes(broken)
        try:
            with Queue.open(path) as jobs:
                jobs.check()
                jobs.join(workers=0)
                assert jobs.collect() == right
        except StoreError:
            refused += 1
    assert refused > 10


def copied(jobs: Queue, folder: Path) -> Path:
    """Return a copy of a queue as it is while it is open: what is left if all are killed now."""
    folder.mkdir()
    for suffix in ("", "-wal", "-mark"):
        shutil.copy(jobs.path + suffix, folder)
    return folder / "job.queue"


def test_a_log_is_played_again_after_a_crash(jobs: Queue, tmp_path: Path) -> None:
    jobs.map(double, range(3))
    jobs.join(workers=0)
    with Queue.open(copied(jobs, tmp_path / "after")) as after:
        assert after.collect() == [0, 2, 4]


def test_no_flipped_byte_of_the_log_loses_anything_unsaid(jobs: Queue, tmp_path: Path) -> None:
    """SQLite takes what comes before it for all that there was."""
    jobs.map(double, range(3))
    jobs.join(workers=0)
    path = copied(jobs, tmp_path / "after")
    log = Path(f"{path}-wal")
    kept = {each: each.read_bytes() for each in path.parent.iterdir()}
    refused = 0
    for at in range(5, len(kept[log]), len(kept[log]) // 40):
        for each, data in kept.items():
            each.write_bytes(data)
        broken = bytearray(kept[log])
        broken[at] ^= 0x55
        log.write_bytes(broken)
        Path(f"{path}-shm").unlink(missing_ok=True)
        try:
            with Queue.open(path) as after:
                assert after.collect() == [0, 2, 4]
        except StoreError:
            refused += 1
            assert log.read_bytes() == broken  # there is something left to look at
    assert refused > 20


def test_a_transaction_is_undone_that_was_killed_before_there_was_a_log(
    jobs: Queue, tmp_path: Path
) -> None:
    jobs.map(double, range(3))
    jobs.close()
    (tmp_path / "after").mkdir()
    with closing(sqlite3.connect(jobs.path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = delete")
        db.execute("PRAGMA cache_size = 1")
        db.execute("BEGIN IMMEDIATE")
        db.executemany(
            "INSERT INTO calls VALUES (?, ?, 0)", ((n, bytes(999)) for n in range(9, 99))
        )
        for suffix in ("", "-journal"):
            shutil.copy(jobs.path + suffix, tmp_path / "after")
    with Queue.open(tmp_path / "after" / "job.queue") as after:
        after.check()
        after.join(workers=0)
        assert after.collect() == [0, 2, 4]
        with after._table._file.read() as db:
            assert db.execute("SELECT count(*) FROM calls").fetchone() == (3,)


def test_a_lost_log_is_noticed(jobs: Queue, tmp_path: Path) -> None:
    jobs.map(double, [1, 2])
    jobs.push(double, 3)
    path = copied(jobs, tmp_path / "after")
    os.unlink(f"{path}-wal")
    with pytest.raises(StoreError, match="the last 2 transactions are missing"):
        Queue.open(path)
    os.unlink(f"{path}-mark")  # as one does who knows that it is an older copy
    with Queue.open(path) as older:
        assert len(older) == 0


def test_a_mark_of_another_queue_is_of_no_account(jobs: Queue) -> None:
    jobs.map(double, range(3))
    jobs.join(workers=0)
    jobs.close()
    Queue.open(jobs.path + ".other").close()
    os.replace(jobs.path + ".other", jobs.path)
    with Queue.open(jobs.path) as other:
        assert not other
        other.push(double, 1)
    with Queue.open(jobs.path) as other:
        assert len(other) == 1


def test_a_torn_file_is_noticed(jobs: Queue) -> None:
    jobs.map(double, range(1_000))
    jobs.close()
    os.truncate(jobs.path, os.path.getsize(jobs.path) // 2)
    with pytest.raises(StoreError, match="is damaged"):
        Queue.open(jobs.path)


def test_a_file_cut_to_nothing_is_not_taken_for_a_new_one(jobs: Queue) -> None:
    """All its tasks would be pushed, and run, once more."""
    jobs.map(double, range(3))
    jobs.join(workers=0)
    jobs.close()
    os.truncate(jobs.path, 0)
    for create in (True, False):
        with pytest.raises(StoreError, match="is damaged: it is empty"):
            Queue.open(jobs.path, create=create)


def test_with_nothing_but_its_mark_it_is_gone(jobs: Queue) -> None:
    jobs.push(double, 1)
    jobs.close()
    os.unlink(jobs.path)
    with pytest.raises(StoreError, match=r"is gone.* to begin anew, remove .*job\.queue-mark too"):
        Queue.open(jobs.path)
    assert not os.path.exists(jobs.path)
    os.unlink(jobs.path + "-mark")
    with Queue.open(jobs.path) as anew:
        assert not anew


# ── the file ─────────────────────────────────────────────────────────────────────────────


def test_one_that_was_deleted_takes_nothing_more(jobs: Queue) -> None:
    other = Queue.open(jobs.path)
    jobs.push(double, 1)
    with jobs.lease(), pytest.raises(StoreError, match="in use: 1 tasks are running"):
        jobs.delete()
    jobs.delete()
    assert os.listdir(os.path.dirname(jobs.path)) == []
    with other, pytest.raises(StoreError, match="has been deleted"):
        other.push(double, 1)


def test_one_that_is_deleted_while_others_note_a_count_leaves_no_mark(jobs: Queue) -> None:
    """With a mark and no file it would seem to be lost."""
    jobs.push(double, 1)
    mark = jobs._table._file._mark
    assert mark is not None
    jobs.delete()
    mark.set(9)
    assert os.listdir(os.path.dirname(jobs.path)) == []


def test_another_in_its_place_is_noticed(jobs: Queue) -> None:
    os.rename(jobs.path, jobs.path + ".old")
    with Queue.open(jobs.path), pytest.raises(StoreError, match="another file has taken the place"):
        jobs.push(double, 1)


def test_a_file_that_is_not_free_says_so(jobs: Queue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_file, "PATIENCE", 0.05)
    with (
        Queue.open(jobs.path) as other,
        other._table._file.write(),
        pytest.raises(StoreError, match=r"was not free for 0\.05 s"),
    ):
        jobs.push(double, 1)
    jobs.push(double, 1)


def test_a_transaction_that_fails_changes_nothing(jobs: Queue) -> None:
    def change() -> None:
        with jobs._table._file.write() as db:
            db.execute("INSERT INTO calls VALUES (1, x'00', 0)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        change()
    jobs.push(double, 1)
    jobs.check()


def test_a_full_disk_says_so(jobs: Queue) -> None:
    with jobs._table._file.write() as db:
        (pages,) = db.execute("PRAGMA page_count").fetchone()
    jobs._table._file._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="full"):
        jobs.map(double, [bytes(10_000)] * 10)
    assert not jobs


def test_a_closed_one_says_so(jobs: Queue) -> None:
    jobs.close()
    jobs.close()
    with pytest.raises(StoreError, match="has been closed here"):
        jobs.counts()


def test_a_forked_process_must_open_it_itself(jobs: Queue) -> None:
    jobs.push(double, 1)
    out, into = os.pipe()
    child = os.fork()
    if not child:
        try:
            jobs.counts()
        except MiraiError as error:
            os.write(into, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(into)
    with open(out, "rb") as told:
        assert b"was forked" in told.read()


def test_importing_mirai_does_not_load_sqlite() -> None:
    program = "import sys, mirai; sys.exit('sqlite3' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
