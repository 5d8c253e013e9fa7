"""Queues with real processes: they come and go, are killed, and nothing is lost or runs twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import Command, Script, processes_marked, wait_until

from mirai import DaemonCrashed, MiraiError
from mirai.__main__ import main
from mirai.queues import Counts, Queue, State
from mirai.queues.files import _crew


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "job.queue"


@pytest.fixture
def jobs(path: Path) -> Iterator[Queue]:
    with Queue.open(path) as jobs:
        yield jobs


class Ledger:
    """A file that says which tasks have begun, and where, whatever becomes of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()

    def note(self, what: object) -> None:
        """Note it, in one piece, with this process's id."""
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{what} {os.getpid()}\n".encode())
        os.close(fd)

    def lines(self) -> list[tuple[str, int]]:
        """Return what was noted, and by which processes."""
        pairs = (line.split() for line in self.path.read_text().splitlines())
        return [(what, int(pid)) for what, pid in pairs]

    def runs(self) -> Counter[str]:
        """Return how often each thing was noted."""
        return Counter(what for what, _ in self.lines())

    def pids(self) -> set[int]:
        """Return the processes."""
        return {pid for _, pid in self.lines()}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger")


WORK = """
import os, sys, time
def note(path, what):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(fd, f"{what} {os.getpid()}\\n".encode())
    os.close(fd)
def work(path, n):
    note(path, n)
    return n * n
def wait_for(path, gate, n):
    note(path, n)
    while not os.path.exists(gate):
        time.sleep(0.002)
    return n
"""
"""A module of a user's."""


def user_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Any:
    """Write the module where this process finds it, and import it."""
    (folder / f"{name}.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(folder))
    return __import__(name)


def noting(ledger: Ledger) -> Callable[[int], int]:
    """Return a task that notes that it has begun."""
    path = ledger.path

    def work(n: int) -> int:
        fd = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(fd, f"{n} {os.getpid()}\n".encode())
        os.close(fd)
        return n * n

    return work


def waiting_for(ledger: Ledger, gate: Path) -> Callable[[int], int]:
    """Return a task that notes that it has begun, and ends when the gate is there."""
    note = noting(ledger)

    def work(n: int) -> int:
        import time

        note(n)
        while not gate.exists():
            time.sleep(0.002)
        return n

    return work


# ── joining ──────────────────────────────────────────────────────────────────────────────


def test_it_starts_serially_and_is_scaled_up(jobs: Queue, ledger: Ledger) -> None:
    """The same queue: by hand, serially until that is interrupted, and then by processes."""
    note = noting(ledger)

    def stop(n: int) -> int:
        note(n)
        raise KeyboardInterrupt

    jobs.map(note, range(10))
    key = jobs.push(stop, 10)
    jobs.map(note, range(11, 60))
    with jobs.lease() as task:
        task()
    with pytest.raises(KeyboardInterrupt):
        jobs.join(workers=0)
    assert jobs.counts() == Counts(waiting=49, done=10, abandoned=1)
    assert ledger.pids() == {os.getpid()}
    counts = jobs.join(workers=3)
    assert counts == Counts(done=59, abandoned=1)
    assert ledger.runs() == Counter(map(str, range(60)))
    assert len(ledger.pids()) > 1
    assert [each.key for each in jobs.abandoned()] == [key]
    values = [each.value for each in jobs.results() if each.ok]
    assert values == [n * n for n in range(60) if n != 10]


def test_long_tasks_do_not_keep_others_waiting(jobs: Queue, ledger: Ledger) -> None:
    """One task ends only after all the others have, which are behind it."""
    path, others = ledger.path, 40

    def long() -> str:
        import time

        while len(path.read_text().splitlines()) < others:
            time.sleep(0.002)
        return "long"

    jobs.push(long)
    jobs.map(noting(ledger), range(others))
    jobs.join(workers=4)
    assert jobs.collect() == ["long", *(n * n for n in range(others))]


def test_no_more_workers_are_started_than_there_are_tasks(jobs: Queue, ledger: Ledger) -> None:
    assert jobs.join(workers=4) == Counts()
    jobs.map(noting(ledger), [1])
    jobs.join(workers=4)
    assert len(ledger.pids()) == 1


def test_tasks_can_push_tasks(jobs: Queue) -> None:
    path = jobs.path

    def split(n: int) -> int:
        if n > 1:
            with Queue.open(path) as inner:
                inner.map(split, [n // 2, n - n // 2])
        return n

    jobs.push(split, 4)
    assert jobs.join(workers=2).done == 7
    assert sorted(jobs.collect()) == [1, 1, 1, 1, 2, 2, 4]


def test_what_a_task_prints_is_kept(jobs: Queue) -> None:
    jobs.map(lambda n: print("number", n), [1, 2])
    jobs.join(workers=1)
    assert [each.log for each in jobs.results()] == ["number 1\n", "number 2\n"]


def test_a_task_may_fork(jobs: Queue) -> None:
    def fork() -> bool:
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        return bool(child)

    jobs.push(fork)
    jobs.push(int)
    jobs.join(workers=1)
    assert jobs.collect() == [True, 0]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_it_is_joined_on_an_event_loop(jobs: Queue, backend: str) -> None:
    jobs.map(abs, [-1, -2])
    assert anyio.run(jobs.ajoin, 2, backend=backend) == Counts(done=2)


def test_on_an_event_loop_it_can_be_cancelled(jobs: Queue, ledger: Ledger, tmp_path: Path) -> None:
    jobs.map(waiting_for(ledger, tmp_path / "never"), [1, 2, 3])

    async def main() -> None:
        joining = asyncio.create_task(jobs.ajoin(2))
        while len(ledger.lines()) < 2:
            await asyncio.sleep(0.005)
        joining.cancel()
        with pytest.raises(asyncio.CancelledError):
            await joining

    asyncio.run(main())
    assert jobs.counts() == Counts(waiting=1, abandoned=2)


# ── workers that die ─────────────────────────────────────────────────────────────────────


def test_a_worker_that_dies_costs_one_task(jobs: Queue, ledger: Ledger) -> None:
    note = noting(ledger)

    def crash(n: int) -> None:
        note(n)
        print("the last words", flush=True)
        os._exit(3)

    jobs.map(note, range(3))
    key = jobs.push(crash, 3)
    jobs.map(note, range(4, 8))
    assert jobs.join(workers=1) == Counts(done=7, abandoned=1)
    assert ledger.runs() == Counter(map(str, range(8)))
    with pytest.raises(DaemonCrashed, match="the last words") as caught:
        jobs.result(key)
    assert (caught.value.exit_code, caught.value.attempt) == (3, 1)
    assert caught.value.pid in ledger.pids()


def test_retries_survive_a_crash(jobs: Queue, ledger: Ledger) -> None:
    note = noting(ledger)
    path = ledger.path

    def crash_once() -> int:
        note(0)
        tries = len(path.read_text().splitlines())
        if tries < 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return tries

    key = jobs.options(retries=1).push(crash_once)
    assert jobs.join(workers=2) == Counts(done=1)
    assert (jobs.result(key), jobs.find(key).attempt) == (2, 2)


def test_workers_are_killed_at_any_instant(jobs: Queue, ledger: Ledger) -> None:
    """Whatever a worker is at: its task is done, waits again, or is abandoned, and never two."""
    tasks, kills, seed = 200, 8, random.randrange(2**32)
    chance = random.Random(seed)
    jobs.map(noting(ledger), range(tasks))
    over = threading.Event()

    def kill_workers() -> None:
        with Queue.open(jobs.path) as mine:
            for number in range(kills):
                while mine.counts().done < number * tasks // (2 * kills):
                    if over.wait(0.001):
                        return
                over.wait(chance.uniform(0, 0.003))
                table = mine._table
                with table._file.read() as db:
                    rows = list(table._rows(db, "WHERE state = 'running' AND deadline > 0"))
                for row in rows[:1]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(row.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_workers)
    killer.start()
    try:
        counts = jobs.join(workers=3)
    finally:
        over.set()
        killer.join()
    assert counts.done + counts.abandoned == counts.total == tasks, seed
    assert max(ledger.runs().values()) == 1, seed
    for each in jobs.results():
        if each.state is State.ABANDONED:
            assert isinstance(each.error, DaemonCrashed)
            assert each.error.signal == "SIGKILL"
        else:
            assert each.value == (each.key - 1) ** 2
            assert ledger.runs()[str(each.key - 1)] == 1
    assert jobs.requeue_expired() == counts.abandoned
    jobs.join(workers=2)
    assert jobs.collect() == [n * n for n in range(tasks)]
    assert sum(ledger.runs().values()) <= tasks + counts.abandoned
    jobs.check()


def test_workers_that_cannot_start_are_an_error(
    jobs: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_crew, "MAX_FAILURES", 2)
    jobs.push(abs, 1)
    os.chmod(jobs.path, 0o622)
    with pytest.raises(MiraiError, match=r"workers do not start(.|\n)*can be written by others"):
        jobs.join(workers=2)
    assert jobs.counts() == Counts(waiting=1)


JOIN = """
from mirai.queues import Queue
jobs = Queue.open("job.queue")
jobs.join(workers=2, ttl={ttl})
"""


def test_ctrl_c_ends_the_workers_and_leaves_no_doubt(
    jobs: Queue, ledger: Ledger, tmp_path: Path, script: Script
) -> None:
    jobs.map(waiting_for(ledger, tmp_path / "never"), range(5))
    process = script(JOIN.format(ttl=60))
    wait_until(lambda: len(ledger.lines()) == 2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert err.rstrip().endswith("KeyboardInterrupt")
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in ledger.pids()))
    assert jobs.counts() == Counts(waiting=3, abandoned=2)
    assert "was interrupted" in str(jobs.abandoned()[0].error)


@pytest.mark.thorough
def test_the_end_of_who_joined_ends_the_workers(
    jobs: Queue, ledger: Ledger, tmp_path: Path, script: Script, mark: str
) -> None:
    jobs.map(waiting_for(ledger, tmp_path / "gate"), range(3))
    process = script(JOIN.format(ttl=0.5))
    wait_until(lambda: len(ledger.lines()) == 2)
    process.kill()
    process.wait()
    wait_until(lambda: not processes_marked(mark))
    wait_until(lambda: jobs.counts() == Counts(waiting=1, abandoned=2))
    (tmp_path / "gate").touch()
    assert jobs.join(workers=2) == Counts(done=1, abandoned=2)
    assert jobs.requeue_expired() == 2
    jobs.join(workers=0)
    assert jobs.collect() == [0, 1, 2]


def test_whoever_lives_keeps_his_leases(jobs: Queue, ledger: Ledger, tmp_path: Path) -> None:
    """The workers' leases are shorter than the task, and are renewed."""
    gate = tmp_path / "gate"
    key = jobs.push(waiting_for(ledger, gate), 1)
    deadlines = set()

    def watch() -> None:
        with Queue.open(jobs.path) as mine:
            while len(deadlines) < 5:
                found = mine._table.task(key)
                assert found is not None
                deadlines.add(found[0].deadline)
                assert mine.abandoned() == []
        gate.touch()

    watcher = threading.Thread(target=watch)
    watcher.start()
    jobs.join(workers=1, ttl=0.3)
    watcher.join()
    assert (jobs.collect(), jobs.find(key).attempt) == ([1], 1)


@pytest.mark.thorough
def test_what_comes_from_one_who_was_away_is_dropped(
    jobs: Queue, ledger: Ledger, tmp_path: Path, script: Script
) -> None:
    """He was stopped, as by a machine that sleeps, and others have done his task meanwhile."""
    gate, path, note = tmp_path / "gate", ledger.path, noting(ledger)

    def work() -> str:
        import time

        note(0)
        if len(path.read_text().splitlines()) > 1:
            return "second"
        while not gate.exists():
            time.sleep(0.002)
        return "first"

    key = jobs.options(retries=1).push(work)
    away = script(JOIN.format(ttl=0.3))
    wait_until(ledger.lines)
    stopped = [away.pid, *ledger.pids()]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    assert jobs.join(workers=1) == Counts(done=1)
    gate.touch()
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    _, err = away.communicate()
    assert (away.returncode, err) == (0, "")
    found = jobs.find(key)
    assert (found.value, found.attempt, found.dropped) == ("second", 2, 1)


# ── the command ──────────────────────────────────────────────────────────────────────────


@pytest.mark.thorough
def test_two_commands_work_on_it_at_once(
    jobs: Queue, ledger: Ledger, tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions of the user's own module are found wherever the command is started."""
    (tmp_path / "mine").mkdir()
    module = user_module(tmp_path / "mine", monkeypatch, "queue_user_module")
    gate = tmp_path / "gate"
    jobs.map(module.wait_for, [ledger.path] * 4, [gate] * 4, range(4))
    jobs.map(module.work, [ledger.path] * 60, range(4, 64))
    both = [command("queue", "join", "job.queue", "-n", 2) for _ in range(2)]
    wait_until(lambda: len(ledger.pids()) == 4)  # both have come
    gate.touch()
    for process in both:
        out, err = process.communicate()
        assert (process.returncode, err) == (0, "")
        assert "0 failed, 0 abandoned" in out
    assert ledger.runs() == Counter(map(str, range(64)))
    assert jobs.collect() == [*range(4), *(n * n for n in range(4, 64))]


def test_sigterm_lets_them_finish(
    jobs: Queue, ledger: Ledger, tmp_path: Path, command: Command
) -> None:
    gate = tmp_path / "gate"
    jobs.map(waiting_for(ledger, gate), range(3))
    process = command("queue", "join", "job.queue", "-n", 2)
    wait_until(lambda: len(ledger.lines()) == 2)
    process.terminate()
    assert process.stderr is not None
    assert "running tasks are finished" in process.stderr.readline()
    gate.touch()
    out, _ = process.communicate()
    assert out == "1 waiting, 0 running, 2 done, 0 failed, 0 abandoned\n"
    assert process.returncode == 1


def test_status_requeue_retry_and_check(
    jobs: Queue, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash() -> None:
        os._exit(3)

    jobs.push(crash)
    jobs.push(int, "x")
    jobs.join(workers=1)

    def told(action: str, file: Path = path) -> list[str]:
        status = main(["queue", action, str(file)])
        out, err = capsys.readouterr()
        return [str(status), *out.splitlines(), *err.splitlines()]

    ok, counts, lost = told("status")
    assert (ok, counts) == ("0", "0 waiting, 0 running, 0 done, 1 failed, 1 abandoned")
    assert lost.startswith("task 1 (")
    assert "the worker died with exit code 3" in lost
    assert told("requeue") == ["0", "1 tasks wait again"]
    assert told("retry") == ["0", "1 tasks wait again"]
    assert "is whole: 2 waiting" in told("check")[1]
    status, why = told("status", path.with_name("nothing.queue"))
    assert (status, "cannot be read: No such file" in why) == ("1", True)
