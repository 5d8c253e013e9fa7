"""Durable jobs: pools that keep a journal, and whatever may end in the middle of them."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from math import inf
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
from conftest import Command, Script, listening, processes_marked, wait_until
from ledger import Ledger

from dispatcher.journal import JournalError
from dispatcher.messages import Span
from dispatcher.vault import Vault
from mirai import (
    DaemonCrashed,
    DispatcherLost,
    FunctionChanged,
    MiraiError,
    SerializationError,
    TaskCancelled,
    connect,
    daemons,
    job,
    mirai,
    mirai_map,
    status,
)
from mirai._options import Durable, TaskOptions
from mirai._sync import SyncChannel

Popen = subprocess.Popen


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    return tmp_path / "job.db"


def double(x: int) -> int:
    return 2 * x


def noted(path: Path) -> Callable[[int], int]:
    """Return a function that writes down each of its calls."""

    def square(x: int, path: str = str(path)) -> int:
        with open(path, "a") as file:
            file.write(f"{x}\n")
        return x * x

    return square


def calls(path: Path) -> Counter[int]:
    """Return how often a function was called with what."""
    return Counter(map(int, path.read_text().split())) if path.exists() else Counter()


@pytest.mark.parametrize("kind", ["process", "thread", "sync"])
class TestEverywhere:
    """With a dispatcher process, with a thread, and without either."""

    @pytest.fixture(autouse=True)
    def of_kind(self, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(daemons.__kwdefaults__, "dispatcher", kind == "process")
        monkeypatch.setitem(daemons.__kwdefaults__, "sync", kind == "sync")

    def test_a_map_goes_on(self, journal: Path, tmp_path: Path) -> None:
        square = noted(tmp_path / "calls")
        with daemons(2, journal=journal) as pool:
            assert pool.job("air").map(square, range(5)).collect() == [0, 1, 4, 9, 16]
        with daemons(2, journal=journal):
            air = job("air")
            assert air.map(square, range(7)).collect() == [0, 1, 4, 9, 16, 25, 36]
            assert (air.status().done, len(air.status())) == (7, 7)
        assert calls(tmp_path / "calls") == dict.fromkeys(range(7), 1)
        assert os.listdir(journal.parent).count("job.db") == 1
        assert not (journal.parent / "job.db-mark").exists()

    def test_the_same_futures_come_back_by_name(self, journal: Path) -> None:
        with daemons(2, journal=journal) as pool:
            air = pool.job("air")
            air.map(double, range(3))
            assert air(double, 21).result() == 42
        with daemons(2, journal=journal) as pool:
            assert pool.job("air").mirais().collect() == [0, 2, 4, 42]
            assert [each.name for each in pool.jobs()] == ["air"]

    def test_errors_stay_and_run_again_when_asked(self, journal: Path, tmp_path: Path) -> None:
        healed = tmp_path / "healed"

        def work(x: int, healed: str = str(healed)) -> int:
            if x == 1 and not os.path.exists(healed):
                raise KeyError("not yet")
            return x

        with daemons(2, journal=journal) as pool:
            air = pool.job("air")
            assert air.map(work, range(3))[0].result() == 0
            air.map(work, range(3))[1].exception()
        healed.touch()
        with daemons(2, journal=journal) as pool:
            air = pool.job("air")
            error = air.map(work, range(3))[1].exception()
            assert isinstance(error, KeyError)
            assert "work" in str(error.__cause__)
            assert air.map(work, range(3), failed="again").collect() == [0, 1, 2]
            assert air.status().failed == 0

    def test_a_changed_function_is_noticed(self, journal: Path) -> None:
        def first() -> Callable[[int], int]:
            def work(x: int) -> int:
                return x + 1

            return work

        def second() -> Callable[[int], int]:
            def work(x: int) -> int:
                return x + 100

            work.__qualname__ = first().__qualname__
            return work

        with daemons(1, journal=journal) as pool:
            air = pool.job("air")
            assert air.map(first(), range(3)).collect() == [1, 2, 3]
            with pytest.raises(FunctionChanged, match="3 tasks of another version") as caught:
                air.map(second(), range(3))
            assert (caught.value.job, caught.value.tasks) == ("air", 3)
            assert air.map(second(), range(4), changed="keep").collect() == [1, 2, 3, 103]
            assert air.map(second(), range(3), changed="again").collect() == [100, 101, 102]
            assert len(air.status()) == 3

    def test_other_constant_arguments_and_lambdas_are_no_other_version(self, journal: Path) -> None:
        with daemons(1, journal=journal) as pool:
            air = pool.job("air")
            for _ in range(2):
                assert air.map(pow, [2, 3], args=(2,)).collect() == [4, 9]
                assert air.map(pow, [2, 3], args=(3,), changed="keep").collect() == [8, 27]
                assert air.map(lambda x: x + 1, [1]).collect() == [2]
                assert air.map(lambda x: x + 2, [1]).collect() == [3]
            assert len(air.status()) == 6

    def test_what_cannot_be_pickled_is_said(self, journal: Path) -> None:
        with daemons(1, journal=journal) as pool:
            air = pool.job("air")
            with pytest.raises(SerializationError, match=r"_thread.lock at \[0\]\[0\]"):
                air(id, Lock())

    def test_equal_elements_are_told_apart(self, journal: Path, tmp_path: Path) -> None:
        square = noted(tmp_path / "calls")
        with daemons(2, journal=journal) as pool:
            assert pool.job("air").map(square, [3, 3, 3]).collect() == [9, 9, 9]
            assert pool.job("air").map(square, [3, 3]).collect() == [9, 9]
        assert calls(tmp_path / "calls") == {3: 3}

    def test_plain_tasks_are_gone_once_fetched(self, journal: Path) -> None:
        with daemons(2, journal=journal) as pool:
            assert mirai_map(double, range(50)).collect() == [*range(0, 100, 2)]
            assert mirai(double, 4).result() == 8
            wait_until(lambda: not len(pool.jobs()[0]))
            assert pool.jobs()[0].name == "default"

    def test_large_values_come_back_whole(self, journal: Path) -> None:
        def blow_up(x: int) -> bytes:
            return bytes([x]) * 3_000_000

        with daemons(2, journal=journal) as pool:
            first = pool.job("big").map(blow_up, [1, 2]).collect()
        with daemons(2, journal=journal) as pool:
            assert pool.job("big").map(blow_up, [1, 2]).collect() == first

    def test_a_deleted_job_begins_anew(self, journal: Path, tmp_path: Path) -> None:
        square = noted(tmp_path / "calls")
        with daemons(2, journal=journal) as pool:
            air = pool.job("air")
            air.map(square, [2]).collect()
            air.delete()
            assert pool.jobs() == []
            assert air.map(square, [2]).collect() == [4]
        assert calls(tmp_path / "calls") == {2: 2}

    def test_saved_is_a_future(self, journal: Path) -> None:
        async def main() -> None:
            with daemons(2, journal=journal) as pool:
                air = pool.job("air")
                mirais = air.map(double, range(4))
                assert len(await air.saved()) == 4
                assert await mirais == [0, 2, 4, 6]

        asyncio.run(main())


class TestRampingUp:
    def test_serial_first_then_parallel(self, journal: Path, tmp_path: Path) -> None:
        """Nothing is done twice on the way from one process to several."""
        square = noted(tmp_path / "calls")
        with daemons(sync=True, journal=journal) as pool:
            pool.job("air").map(square, range(4)).collect()
        with daemons(3, journal=journal) as pool:
            values = pool.job("air").map(square, range(12)).collect()
        assert values == [x * x for x in range(12)]
        assert calls(tmp_path / "calls") == dict.fromkeys(range(12), 1)

    def test_ctrl_c_in_a_serial_run_leaves_the_rest(self, journal: Path, tmp_path: Path) -> None:
        square = noted(tmp_path / "calls")

        def work(x: int, square: Any = square) -> int:
            if x == 2 and not journal.with_name("again").exists():
                raise KeyboardInterrupt
            return int(square(x))

        with pytest.raises(KeyboardInterrupt), daemons(sync=True, journal=journal) as pool:
            pool.job("air").map(work, range(5))
        journal.with_name("again").touch()
        with daemons(2, journal=journal) as pool:
            mirais = pool.job("air").map(work, range(5))
            assert isinstance(mirais[2].exception(), DaemonCrashed)
            assert [mirais[x].result() for x in (0, 1, 3, 4)] == [0, 1, 9, 16]
            assert pool.job("air").map(work, range(5), failed="again").collect()[2] == 4
        assert calls(tmp_path / "calls") == dict.fromkeys(range(5), 1)

    def test_a_serial_run_goes_on_after_ctrl_c(self, journal: Path, tmp_path: Path) -> None:
        """In the same pool, as in a notebook: what was interrupted is told, and not awaited."""
        square = noted(tmp_path / "calls")

        def work(x: int, square: Any = square) -> int:
            if x in (1, 3) and not journal.with_name(f"again{x}").exists():
                journal.with_name(f"again{x}").touch()
                raise KeyboardInterrupt
            return int(square(x))

        with daemons(sync=True, journal=journal) as pool:
            air, free = pool.job("air"), pool.job("air").options(retries=1)
            with pytest.raises(KeyboardInterrupt):
                air.map(work, range(3))
            mirais = air.map(work, range(3))
            assert isinstance(mirais[1].exception(0), DaemonCrashed)
            assert [mirais[x].result(0) for x in (0, 2)] == [0, 4]
            with pytest.raises(KeyboardInterrupt):
                free.map(work, range(3, 5))
            assert free.map(work, range(3, 5)).collect() == [9, 16]
        assert calls(tmp_path / "calls") == dict.fromkeys((0, 2, 3, 4), 1)

    def test_a_map_whose_await_is_cancelled_goes_on_when_it_is_made_again(
        self, journal: Path
    ) -> None:
        """As by Ctrl-C or a timeout: what no daemon had is done then."""

        async def main() -> list[int]:
            async with daemons(0, "tcp://127.0.0.1:0", journal=journal) as pool:
                job = pool.job("air")
                waiting = asyncio.ensure_future(job.map(double, range(10)))
                await asyncio.sleep(0)  # it is awaited now
                wait_until(lambda: job.status().waiting == 10)
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting
                wait_until(lambda: job.status().failed == 10)
            async with daemons(1, journal=journal) as pool:
                return await pool.job("air").map(double, range(10))

        assert asyncio.run(main()) == [2 * x for x in range(10)]

    def test_what_is_deleted_is_not_run(self, journal: Path, tmp_path: Path) -> None:
        square = noted(tmp_path / "calls")

        def work(x: int, square: Any = square) -> int:
            if x == 0:
                raise KeyboardInterrupt
            return int(square(x))

        with daemons(sync=True, journal=journal) as pool:
            with pytest.raises(KeyboardInterrupt):
                pool.job("air").map(work, range(3))
            pool.job("air").delete()
            assert pool.job("other").map(square, [5]).collect() == [25]
        assert calls(tmp_path / "calls") == {5: 1}

    @pytest.mark.parametrize(("save", "value"), [(1, 2), (3, None), (5, 2)])
    def test_ctrl_c_while_it_is_saved(self, journal: Path, save: int, value: int | None) -> None:
        """It waits: what keeper and journal know is the same, and nobody waits for ever."""
        vault = Interrupted(str(journal), inf)
        channel = SyncChannel("default", vault=vault)
        channel.keep(Durable("air", stays=True))
        vault.left = save  # what is enlisted, has begun, or has ended; between them nothing is new
        with pytest.raises(KeyboardInterrupt):
            channel.submit(double, [((1,), {})], TaskOptions())
        [one] = channel.attach([(Span(1, 1), "double")])
        assert isinstance(one.exception(0), DaemonCrashed) is (value is None)
        channel.close(MiraiError("over"))
        with daemons(sync=True, journal=journal) as pool:
            [again] = pool.job("air").mirais()
            assert type(again.exception(0)) is type(one.exception(0))

    def test_a_disk_that_is_full_for_a_moment(self, journal: Path) -> None:
        """What has not begun waits, though all could be saved afterwards."""
        vault = Failing(str(journal), inf)
        channel = SyncChannel("default", vault=vault)
        channel.keep(Durable("air", stays=True))
        vault.left = 3  # that it has begun
        with pytest.raises(DispatcherLost, match="full"):
            channel.submit(double, [((1,), {})], TaskOptions())
        channel.close(MiraiError("over"))
        with daemons(sync=True, journal=journal) as pool:
            assert [each.result(0) for each in pool.job("air").mirais()] == [2]


class Failing(Vault):
    """A vault one of whose saves fails."""

    left = 0

    def _save(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise JournalError("its disk is full")
        super()._save()


class Interrupted(Vault):
    """A vault into one of whose saves Ctrl-C falls."""

    left = 0

    def _save(self) -> None:
        self.left -= 1
        if self.left == 0:
            signal.raise_signal(signal.SIGINT)
        super()._save()


class TestBalance:
    def test_one_long_task_holds_up_no_other(self, journal: Path, tmp_path: Path) -> None:
        gate = tmp_path / "gate"

        def work(x: int, gate: str = str(gate)) -> int:
            while x == 0 and not os.path.exists(gate):
                time.sleep(0.005)
            return x

        with daemons(2, journal=journal) as pool:
            mirais = pool.job("air").map(work, range(40))
            assert [mirais[x].result() for x in range(1, 40)] == [*range(1, 40)]
            assert not mirais[0].done()
            gate.touch()
            assert mirais[0].result() == 0


class TestSize:
    def test_it_is_told_and_bounded(self, journal: Path) -> None:
        """What is deleted makes room for what comes."""

        def blow_up(x: int) -> bytes:
            return bytes([x]) * 500_000

        with daemons(2, journal=journal) as pool:
            sizes = []
            for _ in range(6):
                air = pool.job("air")
                air.map(blow_up, range(8)).collect()
                sizes.append(pool.journal().size)
                air.delete()
            assert pool.journal().path == str(journal)
            assert sizes[0] > 4_000_000
        assert journal.stat().st_size < 3 * sizes[0]


class TestOneJournal:
    def test_is_for_one_pool(self, journal: Path) -> None:
        with daemons(1, journal=journal), pytest.raises(MiraiError, match="in use"):
            daemons(1, journal=journal, profile="other")

    def test_a_pool_without_one_has_no_jobs(self) -> None:
        with daemons(1) as pool:
            for ask in (pool.jobs, lambda: pool.job("air"), lambda: job("air")):
                with pytest.raises(MiraiError, match="keeps no journal"):
                    ask()

    @pytest.mark.parametrize("name", ["", "a\nb", "x" * 300, "\ud800"])
    def test_a_name_must_be_text(self, journal: Path, name: str) -> None:
        with daemons(1, journal=journal) as pool, pytest.raises(ValueError, match="name"):
            pool.job(name)

    def test_what_is_no_journal_is_refused(self, journal: Path) -> None:
        journal.write_bytes(b"nothing of the kind" * 100)
        with pytest.raises(MiraiError, match=r"job\.db"):
            daemons(1, journal=journal)

    def test_one_that_is_removed_is_missed(self, journal: Path) -> None:
        with daemons(1, journal=journal) as pool:
            assert pool.job("air")(lambda: 1).result() == 1
            journal.unlink()
            with pytest.raises(DispatcherLost, match="was removed"):
                pool.job("air")(lambda: 2).result()
        for left in journal.parent.glob("job.db-*"):
            left.unlink()

    @pytest.mark.parametrize(
        ("options", "error", "what"),
        [
            ({"journal": ""}, ValueError, "empty"),
            ({"journal": "a\0b"}, ValueError, "journal cannot have a null byte"),
            ({"time_to_live": 3}, ValueError, "name one"),
            ({"journal": "nowhere/at/all/job.db"}, MiraiError, "no such directory"),
        ],
    )
    def test_nonsense_is_refused(
        self, options: dict[str, Any], error: type[Exception], what: str
    ) -> None:
        with pytest.raises(error, match=what):
            daemons(1, **options)

    def test_what_only_cloudpickle_can_take_is_an_argument(self, journal: Path) -> None:
        class Local:
            def __init__(self, x: int) -> None:
                self.x = x

        with daemons(1, journal=journal) as pool:
            air = pool.job("air")
            assert air.map(lambda it: it.x, [Local(1), Local(2)]).collect() == [1, 2]

    def test_only_this_user_can_read_it(self, journal: Path) -> None:
        with daemons(1, journal=journal):
            assert journal.stat().st_mode & 0o077 == 0

    def test_results_have_a_time_to_live(self, journal: Path) -> None:
        with daemons(1, journal=journal, time_to_live=0.01) as pool:
            pool.job("air").map(double, range(3)).collect()
        with daemons(1, journal=journal, time_to_live=0.01) as pool:
            assert len(pool.job("air").status()) == 0

    def test_cancelled_tasks_stay_cancelled(self, journal: Path, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)
        with daemons(1, journal=journal) as pool:
            air = pool.job("air")
            running = air(ledger.task("running", waits=True))
            waiting = air(double, 1)
            ledger.wait_for("running")
            assert waiting.cancel() and running.cancel()
            ledger.wait_for("running interrupted")
        with daemons(1, journal=journal) as pool:
            errors = [each.exception() for each in pool.job("air").mirais()]
            assert [type(error) for error in errors] == [TaskCancelled, TaskCancelled]

    def test_a_lost_daemon_is_remembered(self, journal: Path) -> None:
        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with daemons(1, journal=journal) as pool:
            assert isinstance(pool.job("air")(die).exception(), DaemonCrashed)
        with daemons(1, journal=journal) as pool:
            error = pool.job("air")(die).exception()
            assert isinstance(error, DaemonCrashed)
            assert error.signal == "SIGKILL"

    def test_leaving_by_an_exception_leaves_what_waits(self, journal: Path, tmp_path: Path) -> None:
        ledger = Ledger(tmp_path)

        def leave() -> None:
            with daemons(1, journal=journal) as pool:
                air = pool.job("air")
                air(ledger.task("running", waits=True))
                air(double, 4)
                ledger.wait_for("running")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            leave()
        with daemons(1, journal=journal) as pool:
            running, waiting = pool.job("air").mirais()
            assert waiting.result() == 8
            assert isinstance(running.exception(), DaemonCrashed)
            assert ledger.runs("running") == 1

    def test_nested_tasks_are_not_kept(self, journal: Path) -> None:
        def outer(x: int) -> int:
            return sum(mirai_map(double, range(x)).collect())

        with daemons(2, journal=journal) as pool:
            assert pool.job("air")(outer, 4).result() == 12
            assert [len(each) for each in pool.jobs() if each.name == "air"] == [1]


HOST = """
import os, sys, time
from mirai import daemons

def work(x):
    with open("calls", "a") as file:
        file.write(f"{{x}}\\n")
    time.sleep(0.002)
    return x * x

with daemons(2, journal="job.db") as pool:
    air = pool.job("air"){options}
    mirais = air.map(work, range(300))
    print(pool._process.pid, air.status(), flush=True)
    outcome = [each.exception() or each.result() for each in mirais]
    print([x if isinstance(x, int) else type(x).__name__ for x in outcome], flush=True)
"""


def run_on(script: Script, source: str) -> Popen[str]:
    """Start it, and wait until its tasks are saved."""
    process = script(source)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, process.communicate()
    return process


class TestDamage:
    def test_a_damaged_result_is_told_and_the_others_are_there(self, journal: Path) -> None:
        with daemons(1, journal=journal) as pool:
            for x in range(4):  # one by one: what came together is kept together
                pool.job("air")(lambda x: f"needle {x}" * 3, x).result()
        data = journal.read_bytes()
        assert data.count(b"needle 2needle") == 1
        journal.write_bytes(data.replace(b"needle 2needle", b"needle 7needle"))
        with daemons(1, journal=journal) as pool:
            mirais = list(pool.job("air").mirais())
            error = mirais[2].exception()
            assert isinstance(error, DaemonCrashed)
            assert "mirai journal repair" in str(error)
            assert [mirais[x].result()[7] for x in (0, 1, 3)] == ["0", "1", "3"]

    def test_a_damaged_task_is_told_at_the_start(self, journal: Path, command: Command) -> None:
        with daemons(1, journal=journal) as pool:
            pool.job("air").map(len, ["needle 1", "needle 2"]).collect()
        data = journal.read_bytes()
        journal.write_bytes(data.replace(b"needle 1", b"needle 7"))
        with pytest.raises(MiraiError, match="mirai journal repair"):
            daemons(1, journal=journal)
        shown = command("journal", "check", journal)
        assert "damaged" in "".join(shown.communicate(timeout=20)).lower()
        assert shown.returncode == 1
        repaired = command("journal", "repair", journal)
        assert (
            "arguments of tasks 1 to 2 of job air are lost" in repaired.communicate(timeout=20)[0]
        )
        with daemons(1, journal=journal) as pool:
            assert pool.job("air").mirais().collect() == [8, 8]


class TestKills:
    @pytest.mark.parametrize("after", [0, 3, 40, 150])
    def test_of_the_host(self, script: Script, tmp_path: Path, mark: str, after: int) -> None:
        """All die with it; the same program is run again."""
        source = HOST.format(options="")
        host = run_on(script, source)
        wait_until(lambda: sum(calls(tmp_path / "calls").values()) >= after)
        host.kill()
        host.wait()
        wait_until(lambda: not processes_marked(mark))
        again = run_on(script, source)
        assert again.stdout is not None
        outcome = eval(again.stdout.readline())
        assert again.wait(30) == 0, again.communicate()
        lost = [x for x, value in enumerate(outcome) if value == "DaemonCrashed"]
        assert [value for value in outcome if value != "DaemonCrashed"] == [
            x * x for x in range(300) if x not in lost
        ]
        # Those that two daemons had in hand may be lost, and were not run again.
        times = calls(tmp_path / "calls")
        assert len(lost) < 60
        assert all(count == 1 for count in times.values())
        assert set(times) | set(lost) == set(range(300))

    def test_of_the_host_with_tasks_that_may_run_again(
        self, script: Script, tmp_path: Path, mark: str
    ) -> None:
        source = HOST.format(options=".options(retries=5)")
        for after in (20, 100, 200):
            host = run_on(script, source)
            wait_until(lambda after=after: sum(calls(tmp_path / "calls").values()) >= after)
            host.kill()
            host.wait()
            wait_until(lambda: not processes_marked(mark))
        again = run_on(script, source)
        assert again.stdout is not None
        assert eval(again.stdout.readline()) == [x * x for x in range(300)]

    def test_of_the_dispatcher(self, script: Script, tmp_path: Path, mark: str) -> None:
        source = HOST.format(options="")
        host = script(source)
        assert host.stdout is not None
        dispatcher = int(host.stdout.readline().split()[0])
        wait_until(lambda: sum(calls(tmp_path / "calls").values()) >= 20)
        os.kill(dispatcher, signal.SIGKILL)
        host.wait(30)
        wait_until(lambda: not processes_marked(mark))
        again = run_on(script, source)
        assert again.wait(30) == 0, again.communicate()
        assert set(calls(tmp_path / "calls").values()) == {1}


class TestStanding:
    def start(self, command: Command, *more: object) -> Popen[str]:
        return listening(
            command(
                "dispatcher",
                "-n",
                2,
                "--journal",
                "job.db",
                "--connection-file",
                "pool.json",
                *more,
            )
        )

    def test_clients_come_back(self, command: Command, tmp_path: Path) -> None:
        """A client leaves in the middle; its job goes on; another one finds the results."""
        dispatcher = self.start(command)
        square = noted(tmp_path / "calls")
        pool = connect(tmp_path / "pool.json")
        pool.job("air").map(square, range(20))
        pool.job("air").saved().result()
        pool.shutdown()
        with connect(tmp_path / "pool.json") as pool:
            assert pool.job("air").mirais().collect() == [x * x for x in range(20)]
            assert pool.job("air").map(square, range(20)).collect()[-1] == 361
        assert calls(tmp_path / "calls") == dict.fromkeys(range(20), 1)
        dispatcher.send_signal(signal.SIGTERM)
        assert dispatcher.wait(20) == 0

    def test_it_is_killed_and_started_again(self, command: Command, tmp_path: Path) -> None:
        dispatcher = self.start(command)
        square = noted(tmp_path / "calls")
        with connect(tmp_path / "pool.json") as pool:
            air = pool.job("air")
            assert air.map(square, range(5)).collect() == [0, 1, 4, 9, 16]
            dispatcher.kill()
            with pytest.raises(DispatcherLost):
                air(double, 1).result()
        dispatcher.communicate()
        os.unlink(tmp_path / "pool.json")
        self.start(command)
        with connect(tmp_path / "pool.json") as pool:
            assert pool.job("air").mirais().collect() == [0, 1, 4, 9, 16]

    def test_sigterm_leaves_what_waits(self, command: Command, tmp_path: Path) -> None:
        """It does not stay until a job of days is done."""
        dispatcher = self.start(command)
        ledger = Ledger(tmp_path)
        pool = connect(tmp_path / "pool.json")
        gate = tmp_path / "gate"

        def hold(x: int, gate: str = str(gate), path: str = str(ledger.path)) -> int:
            with open(path, "a") as file:
                file.write(f"{x}\n")
            while not os.path.exists(gate):
                time.sleep(0.005)
            return x

        mirais = pool.job("air").map(hold, range(6))
        wait_until(lambda: len(ledger.path.read_text().split()) == 2)
        dispatcher.send_signal(signal.SIGTERM)
        assert dispatcher.stderr is not None
        assert "no more tasks are taken" in dispatcher.stderr.readline()
        gate.touch()
        assert dispatcher.wait(20) == 0
        assert [mirais[x].result() for x in (0, 1)] == [0, 1]
        assert isinstance(mirais[5].exception(), DispatcherLost)
        pool.shutdown()
        self.start(command)
        with connect(tmp_path / "pool.json") as pool:
            assert pool.job("air").mirais().collect() == [*range(6)]
        assert Counter(ledger.path.read_text().split()) == dict.fromkeys("012345", 1)

    def test_workers_join_and_leave(self, command: Command, tmp_path: Path) -> None:
        """From another terminal, and while it runs."""

        gate = tmp_path / "gate"

        def where(x: int, gate: str = str(gate)) -> int:
            while x and not os.path.exists(gate):
                time.sleep(0.005)
            return os.getpid()

        listening(command("dispatcher", "--journal", "job.db", "--connection-file", "pool.json"))
        with connect(tmp_path / "pool.json") as pool:
            mirais = pool.job("air").map(where, range(30))
            first = command("daemon", "pool.json", "-n", 1)
            mirais[0].result()
            second = command("daemon", "pool.json", "-n", 2)
            pool.wait(3, 30)
            gate.touch()
            first.send_signal(signal.SIGTERM)
            assert first.wait(20) == 0
            assert len(set(mirais.collect())) >= 2
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0

    def test_jobs_are_listed_retried_and_deleted(self, command: Command, tmp_path: Path) -> None:
        self.start(command)

        def fail() -> None:
            raise KeyError("no")

        with connect(tmp_path / "pool.json") as pool:
            pool.job("air quality").map(lambda x: x, range(1_200)).collect()
            pool.job("bad")(fail).exception()
        listed = command("jobs", "pool.json").communicate(timeout=20)[0].splitlines()
        assert listed[0].split() == ["job", "done", "failed", "running", "waiting", "since"]
        assert listed[1].startswith("air quality") and "1,200" in listed[1]
        assert listed[2].split()[:3] == ["bad", "0", "1"]
        assert listed[3].startswith(str(tmp_path / "job.db: ")) and listed[3].endswith(" MB")
        text = command("jobs", "pool.json", "--delete", "bad").communicate(timeout=20)[0]
        assert "bad" not in text
        for act in ("--delete", "--retry"):
            mistyped = command("jobs", "pool.json", act, "bda")
            out, error = mistyped.communicate(timeout=20)
            assert (out, error) == ("", "mirai jobs: no job 'bda'\n")
            assert mistyped.returncode == 1

    def test_one_without_a_journal_says_so(self, command: Command) -> None:
        listening(command("dispatcher", "--connection-file", "pool.json"))
        process = command("jobs", "pool.json")
        assert "keeps no journal" in process.communicate(timeout=20)[1]
        assert process.returncode == 1


class TestFullDisk:
    @pytest.fixture
    def small(self, tmp_path: Path) -> Any:
        """A disk of 2 MB."""
        disk = tmp_path / "disk"
        disk.mkdir()
        if os.geteuid() or not shutil.which("mount"):
            pytest.skip("only root may mount a disk")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "none", disk], check=False
        )
        if done.returncode:
            pytest.skip("nothing may be mounted here")
        yield disk
        subprocess.run(["umount", "-l", disk], check=True)

    @pytest.mark.parametrize("dispatcher", [True, False])
    def test_is_told_and_nothing_acknowledged_is_lost(self, small: Path, dispatcher: bool) -> None:
        def blow_up(_: int) -> bytes:
            return os.urandom(100_000)

        with daemons(2, journal=small / "job.db", dispatcher=dispatcher) as pool:
            air = pool.job("air")
            mirais = air.map(blow_up, range(60))  # at once: later ones would be refused
            errors = [each.exception(30) for each in mirais]
            done = [each.result() for each, error in zip(mirais, errors, strict=True) if not error]
            lost = [error for error in errors if error]
            assert lost and all(isinstance(error, DispatcherLost) for error in lost)
            assert "disk is full" in str(lost[0])
            with pytest.raises(DispatcherLost, match="disk is full"):
                status()
        (small / "job.db").rename(small / "kept.db")
        for name in os.listdir(small):
            if name.startswith("job.db"):
                (small / name).rename(small / name.replace("job.db", "kept.db"))
        subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
        with daemons(2, journal=small / "kept.db") as pool:
            kept = [each.result() for each in pool.job("air").mirais() if not each.exception()]
            assert set(done) <= set(kept)

    def test_ends_a_serial_run(self, small: Path) -> None:
        def blow_up(x: int) -> tuple[int, bytes]:
            return x, os.urandom(100_000)

        with daemons(sync=True, journal=small / "job.db") as pool:
            air = pool.job("air")
            for ask in (lambda: air.map(blow_up, range(60)), lambda: air(blow_up, 1), air.status):
                with pytest.raises(DispatcherLost, match="disk is full"):
                    ask()
        subprocess.run(["mount", "-o", "remount,size=40m", small], check=True)
        with daemons(sync=True, journal=small / "job.db") as pool:
            mirais = pool.job("air").map(blow_up, range(60))
            assert [each.result(0)[0] for each in mirais if not each.exception(0)][:5] == [
                *range(5)
            ]
            assert sum(isinstance(each.exception(0), DaemonCrashed) for each in mirais) <= 1
