"""Large arguments and results in memory that processes share: who has it, and when it is gone."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from conftest import Command, Script, wait_until

from dispatcher.shared import AVAILABLE
from mirai import (
    DaemonCrashed,
    Daemons,
    Mirai,
    MiraiError,
    connect,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    status,
)

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="memory cannot be shared here")

SIZE = 1_000_000
NAME = "/memfd:mirai (deleted)"


@pytest.fixture(autouse=True)
def nothing_of_others() -> None:
    """Count none of what the tests before have held, and is still to be collected."""
    gc.collect()


def big(value: int = 1, size: int = SIZE) -> Any:
    return np.full(size, value, np.uint8)


def same(array: Any) -> Any:
    return array


def double(array: Any) -> Any:
    array *= 2  # in place: it is the task's own
    return array


def total(array: Any) -> int:
    return int(array.sum(dtype=np.int64))


def home_of(array: Any) -> int:
    """Return the inode of the shared memory in which an array lies; 0 if it does not."""
    address = array.__array_interface__["data"][0]
    for line in Path("/proc/self/maps").read_text().splitlines():
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return int(line.split()[4]) if line.endswith(NAME) else 0
    return 0


def held(pid: int) -> int:
    """Return how many descriptors of shared memory a process has."""
    count = 0
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            count += os.readlink(path) == NAME
        except FileNotFoundError:  # closed meanwhile
            continue
    return count


def mapped(pid: int) -> int:
    """Return how many mappings of shared memory a process has."""
    return Path(f"/proc/{pid}/maps").read_text().count(NAME)


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def dispatcher_of(pool: Daemons) -> int:
    """Return the process that the dispatcher is in."""
    return pool._process.pid if pool._process is not None else os.getpid()


def nobody_holds_any(*pids: int) -> bool:
    return not any(held(pid) or mapped(pid) for pid in pids)


def wait_for(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(0.001)


def wait_with(array: Any, path: str) -> int:
    wait_for(path)
    return total(array)


def die_once(array: Any, path: str) -> int:
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return total(array)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that tasks wait for; it is there at the end."""
    path = tmp_path / "gate"
    yield path
    path.touch()


@pytest.fixture
def by_value() -> Iterator[None]:
    """Have the functions of this file sent to daemons that cannot import it."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.usefixtures("dispatchers")
class TestThereAndBack:
    @pytest.mark.thorough
    def test_an_argument_and_a_result_lie_in_shared_memory(self) -> None:
        with daemons(1):
            array = big()
            assert mirai(home_of, array).result()
            back = mirai(same, array).result()
            assert home_of(back)
            assert (back == array).all()

    def test_small_things_do_not(self) -> None:
        with daemons(1):
            assert mirai(home_of, big(size=100_000)).result() == 0
            assert home_of(mirai(same, big(size=100_000)).result()) == 0

    def test_an_array_belongs_to_its_reader_alone(self) -> None:
        with daemons(1):
            array = big(3)
            task = mirai(double, array)
            array[:] = 9
            back = task.result()
            assert (back == 6).all()
            back += 1
            assert (back == 7).all() and (array == 9).all()

    def test_a_large_pickle_is_shared_too(self) -> None:
        with daemons(1):
            text = "x" * SIZE
            assert mirai(same, text).result() == text
            assert mirai(lambda: list(range(300_000))).result() == list(range(300_000))

    def test_a_function_with_a_large_array(self) -> None:
        with daemons(2):
            array = big(2)
            assert mirai_map(lambda x: int(array[x]), range(10)).collect() == [2] * 10

    def test_a_constant_of_a_map_is_in_memory_once(self, gate: Path) -> None:
        def home(x: int, array: Any, path: str) -> tuple[int, int]:
            if x < 2:  # for both daemons
                Path(f"{path}{x}").touch()
                wait_for(f"{path}{1 - x}")
            return os.getpid(), home_of(array)

        with daemons(2):
            found = set(mirai_map(home, range(100), args=(big(), str(gate))).collect())
        assert len(found) == 2
        assert len({inode for _, inode in found}) == 1

    def test_everywhere(self) -> None:
        with daemons(2):
            assert everywhere(total, big(2)).collect() == [2 * SIZE] * 2

    @pytest.mark.thorough
    def test_many_at_once(self) -> None:
        """More than the hatch has room for."""
        with daemons(2):
            arrays = [big(x % 250, 300_000) for x in range(400)]
            backs = mirai_map(same, arrays).collect()
            assert all((a == b).all() for a, b in zip(arrays, backs, strict=True))

    def test_the_memory_budget_counts_its_bytes(self, gate: Path) -> None:
        with daemons(1, memory="100MB"):
            task = mirai(wait_with, big(), str(gate))
            memory = status().memory
            assert memory is not None and SIZE < memory.used < SIZE + 10_000
            gate.touch()
            assert task.result() == SIZE


@pytest.mark.usefixtures("dispatchers")
class TestNothingIsLeft:
    def test_all_is_given_back(self) -> None:
        with daemons(1) as pool:
            daemon, ours = mirai(os.getpid).result(), os.getpid()
            back = mirai(same, big()).result()
            wait_until(lambda: held(ours) == mapped(ours) == 1)  # what was sent is let go, too
            wait_until(lambda: nobody_holds_any(daemon))
            del back
            wait_until(lambda: nobody_holds_any(ours, dispatcher_of(pool), daemon))

    def test_an_answer_that_nobody_reads(self) -> None:
        with daemons(1) as pool:
            mirai(total, big()).result()
            task: Mirai[Any] | None = mirai(same, big())
            wait_until(lambda: held(os.getpid()))
            assert task is not None
            wait_until(task.done)
            task = None
            gc.collect()
            wait_until(lambda: nobody_holds_any(os.getpid(), dispatcher_of(pool)))

    @pytest.mark.thorough
    def test_descriptors_do_not_grow(self) -> None:
        with daemons(1) as pool:
            pids = [os.getpid(), dispatcher_of(pool), mirai(os.getpid).result()]
            mirai_map(same, [big()] * 5).collect()
            wait_until(lambda: nobody_holds_any(*pids))
            before = [descriptors(pid) for pid in pids]
            for _ in range(5):
                mirai_map(same, [big()] * 40).collect()
            wait_until(lambda: nobody_holds_any(*pids))
            assert [descriptors(pid) for pid in pids] == before

    def test_a_cancelled_task_that_waits(self, gate: Path) -> None:
        with daemons(1) as pool:
            daemon = mirai(os.getpid).result()
            first = mirai(wait_for, str(gate))
            tasks = [mirai(total, big()) for _ in range(10)]
            wait_until(lambda: held(dispatcher_of(pool)) == 10)
            for task in tasks:
                task.cancel()
            wait_until(lambda: nobody_holds_any(os.getpid(), dispatcher_of(pool), daemon))
            gate.touch()
            first.result()

    def test_a_cancelled_task_that_runs(self, gate: Path) -> None:
        with daemons(1) as pool:
            daemon = mirai(os.getpid).result()
            task = mirai(wait_with, big(), str(gate))
            wait_until(lambda: mapped(daemon))
            task.cancel()
            wait_until(lambda: nobody_holds_any(os.getpid(), dispatcher_of(pool), daemon))
            assert mirai(os.getpid).result() == daemon

    def test_a_daemon_is_killed(self, gate: Path) -> None:
        with daemons(1) as pool:
            daemon = mirai(os.getpid).result()
            task = mirai(wait_with, big(), str(gate))
            waiting = [mirai(total, big(x)) for x in range(10)]
            wait_until(lambda: mapped(daemon))
            os.kill(daemon, signal.SIGKILL)
            with pytest.raises(DaemonCrashed):
                task.result()
            assert [each.result() for each in waiting] == [x * SIZE for x in range(10)]
            wait_until(lambda: nobody_holds_any(os.getpid(), dispatcher_of(pool)))

    def test_shutdown_with_much_on_its_way(self) -> None:
        pool = daemons(2)
        tasks = [mirai(same, big()) for _ in range(50)]
        tasks[0].result()
        pool.shutdown()
        for task in tasks:
            assert task.done()
        del task, tasks
        gc.collect()
        assert nobody_holds_any(os.getpid())


@pytest.mark.usefixtures("dispatchers")
class TestLives:
    @pytest.mark.thorough
    def test_a_daemon_leaves_after_its_task(self) -> None:
        with daemons(2, max_tasks=1):
            backs = [mirai(same, big(x)) for x in range(4)]
            for x, back in enumerate(backs):
                assert (back.result() == x).all()

    def test_a_retry_finds_its_argument(self, tmp_path: Path) -> None:
        with daemons(1):
            task = mirai.options(retries=1)(die_once, big(2), str(tmp_path / "died"))
            assert task.result() == 2 * SIZE
            assert (tmp_path / "died").exists()

    def test_a_daemon_that_does_not_read(self) -> None:
        with daemons(1):
            daemon = mirai(os.getpid).result()
            os.kill(daemon, signal.SIGSTOP)
            tasks = [mirai(total, big(x % 200, 300_000)) for x in range(400)]
            wait_until(lambda: status().awaiting + status().executing == 400)
            os.kill(daemon, signal.SIGCONT)
            assert [task.result() for task in tasks] == [x % 200 * 300_000 for x in range(400)]

    def test_a_forked_child_of_the_host(self) -> None:
        with daemons(1):
            array = mirai(same, big()).result()
            unread = mirai(same, big(2))
            wait_until(unread.done)
            if (child := os.fork()) == 0:
                array[:] = 7
                del array
                os._exit(int(unread.result()[0]))
            _, ending = os.waitpid(child, 0)
            assert os.waitstatus_to_exitcode(ending) == 2
            assert (array == 1).all()
            assert (unread.result() == 2).all()
            assert mirai(total, array).result() == SIZE


class TestTheDispatcher:
    @pytest.mark.thorough
    def test_it_does_not_read_for_a_while(self) -> None:
        """More is sent to it than the hatch has room for."""
        with daemons(1) as pool:
            mirai(total, big()).result()
            os.kill(dispatcher_of(pool), signal.SIGSTOP)
            tasks = [mirai(total, big(x % 200, 300_000)) for x in range(400)]
            wait_until(lambda: not held(os.getpid()))
            os.kill(dispatcher_of(pool), signal.SIGCONT)
            assert [task.result() for task in tasks] == [x % 200 * 300_000 for x in range(400)]

    def test_it_dies_and_every_future_resolves(self) -> None:
        with daemons(2) as pool:
            mirai(total, big()).result()
            tasks = [mirai(same, big(x)) for x in range(100)]
            tasks[20].result()
            os.kill(dispatcher_of(pool), signal.SIGKILL)
            for x, task in enumerate(tasks):
                with contextlib.suppress(MiraiError):
                    assert (task.result(20) == x).all()
        del tasks, task
        gc.collect()
        assert nobody_holds_any(os.getpid())

    def test_it_dies_with_much_that_it_has_not_read(self) -> None:
        with daemons(1) as pool:
            mirai(total, big()).result()
            os.kill(dispatcher_of(pool), signal.SIGSTOP)
            tasks = [mirai(same, big()) for _ in range(20)]
            wait_until(lambda: not held(os.getpid()))  # all of it is on its way
            os.kill(dispatcher_of(pool), signal.SIGKILL)
            for task in tasks:
                with pytest.raises(MiraiError):
                    task.result(20)


HOST = """
import os, signal, sys, time
import numpy as np
from mirai import daemons, mirai

def slow(array):
    time.sleep(0.01)
    return array

pool = daemons(2)
tasks = [mirai(slow, np.ones(1_000_000)) for _ in range(100)]
tasks[3].result()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_host_is_killed(script: Script) -> None:
    """That its dispatcher and its daemons end, and so the memory, the fixture makes sure of."""
    assert script(HOST).wait(30) == -signal.SIGKILL


SHORT = """
import os, resource
resource.setrlimit(resource.{limit}, ({value}, {value}))
import numpy as np
from mirai import daemons, mirai

def same(array):
    return array

with daemons(2, dispatcher={dispatcher}):
    tasks = [mirai(same, np.full(300_000, x % 200, np.uint8)) for x in range(120)]
    backs = [task.result() for task in tasks]
    assert len(os.listdir("/proc/self/fd")) < {value}
    assert all((back == x % 200).all() for x, back in enumerate(backs))
print("good")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("dispatcher", [True, False])
@pytest.mark.parametrize(("limit", "value"), [("RLIMIT_NOFILE", 100), ("RLIMIT_FSIZE", 100_000)])
def test_where_descriptors_or_memory_are_short(
    script: Script, limit: str, value: int, dispatcher: bool
) -> None:
    """What cannot be shared is sent."""
    out, err = script(SHORT.format(limit=limit, value=value, dispatcher=dispatcher)).communicate()
    assert (out, err) == ("good\n", "")


class TestOthers:
    @pytest.mark.usefixtures("by_value")
    def test_a_daemon_and_a_client_from_elsewhere_are_sent_frames(
        self, tmp_path: Path, command: Command
    ) -> None:
        file = tmp_path / "pool.json"
        with daemons(0, url="tcp://127.0.0.1:0") as pool:
            pool.connection_file(file)
            process = command("daemon", file)
            pool.wait(1, 20)
            assert mirai(home_of, big()).result() == 0
            assert (mirai(same, big(3)).result() == 3).all()
            with connect(file, profile="other") as other:
                assert (other.submit(same, (big(4),)).result() == 4).all()
            pool.scale(1)
            pool.wait(2, 20)
            wait_until(lambda: any(mirai_map(home_of, [big()] * 8).collect()))  # by the local one
            process.terminate()
            process.communicate()
            with connect(file, profile="other") as other:
                back = other.submit(same, (big(5),)).result()
                assert (back == 5).all()
                assert home_of(back) == 0

    @pytest.mark.thorough
    def test_a_task_of_a_task(self) -> None:
        def outer(array: Any) -> Any:
            return mirai(double, array).result()

        with daemons(1):
            assert (mirai(outer, big(4)).result() == 8).all()

    def test_the_synchronous_mode_shares_nothing(self) -> None:
        with daemons(sync=True):
            assert home_of(mirai(same, big()).result()) == 0
            assert mirai(home_of, big()).result() == 0
