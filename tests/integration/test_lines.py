"""Lines: how the processes of a local pool talk, and that nobody else has an end of one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import Script, processes_marked, wait_until

from mirai import DaemonCrashed, MiraiError, daemons, mirai, mirai_map, status

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="descriptors are read in /proc")

ENDS = """
import os
for name in os.listdir("/proc/self/fd"):
    try: print(os.readlink(f"/proc/self/fd/{name}"))
    except OSError: pass
"""


def sockets(pid: int | str = "self") -> set[str]:
    """Return the sockets that a process has."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(os.readlink(link))
        except OSError:
            continue  # that of the directory
    return {each for each in found if each.startswith("socket:")}


def line_of_this_daemon() -> int:
    """Return the descriptor of the line of the daemon that this task runs on."""
    import gc

    from dispatcher.line import Line

    (line,) = (each for each in gc.get_objects() if isinstance(each, Line))
    return line.fileno()


HOST = """
import sys
from mirai import daemons, mirai, mirai_map, status
def loaded(): return "zmq" in sys.modules
with daemons(2, **OPTIONS):
    print(mirai(loaded).result(), mirai_map(abs, [-1]).collect(), status().executing, loaded())
"""


@pytest.mark.parametrize("url", ["None", "'ipc://{tmp}/socket'"])
def test_neither_end_of_a_local_pool_loads_zeromq(script: Script, tmp_path: Path, url: str) -> None:
    options = f"OPTIONS = {{'url': {url.format(tmp=tmp_path)}}}"
    out, err = script(options + HOST).communicate(timeout=50)
    assert (out, err) == ("False [1] 0 False\n", "")


@pytest.mark.parametrize("url", ["tcp://127.0.0.1:0", None])
def test_whoever_connects_to_an_address_does(url: str | None) -> None:
    with daemons(1, url):
        assert mirai(lambda: "zmq" in sys.modules).result() == (url is not None)
        assert mirai(lambda: (mirai(abs, -1).result(), "zmq" in sys.modules)).result() == (1, True)


@pytest.mark.usefixtures("dispatchers")
def test_nobody_else_has_an_end() -> None:
    """Neither another daemon, nor what a task starts: its end would never be noticed."""
    with daemons(3) as pool:
        pool.wait(3)
        os.kill(status().daemons[0].pid, signal.SIGKILL)
        wait_until(lambda: status().cumulative == 4)
        pool.wait(3)
        pids = [daemon.pid for daemon in status().daemons]
        if pool._process is not None:
            pids.append(pool._process.pid)
        found = [sockets(pid) for pid in pids]
        for number, one in enumerate(found):
            for other in found[number + 1 :]:
                assert not one & other

        def start() -> str:
            run = [sys.executable, "-c", ENDS]
            return subprocess.run(run, close_fds=False, capture_output=True, text=True).stdout

        assert "socket:" not in mirai(start).result()
    assert (
        "socket:"
        not in subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True).stdout
    )


@pytest.mark.usefixtures("dispatchers")
def test_what_a_task_has_forked_does_not_keep_its_daemon_among_the_living(
    mark: str, tmp_path: Path
) -> None:
    """It has a copy of the end, and outlives the daemon, since it has left its session."""

    def fork() -> int:
        if (child := os.fork()) == 0:
            os.setsid()
            time.sleep(600)
        return child

    def run() -> None:
        (tmp_path / "begun").touch()
        time.sleep(600)

    with daemons(1) as pool:
        child = mirai(fork).result()
        before = status().daemons[0].pid
        running = mirai(run)
        wait_until((tmp_path / "begun").exists)
        os.kill(before, signal.SIGKILL)
        assert isinstance(running.exception(20), DaemonCrashed)
        assert mirai(os.getpid).result(20) != before
        assert pool.status().cumulative == 2
        os.kill(child, signal.SIGKILL)
    wait_until(lambda: not processes_marked(mark))


NONSENSE = [b"\0" * 12, b"\1" + b"\0" * 11, b"\1\0\0\0\1" + b"\0" * 7 + b"\xc1", b"\xff" * 100]


@pytest.mark.usefixtures("dispatchers")
@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_daemon_that_talks_nonsense_is_cut_off_and_replaced(nonsense: bytes) -> None:
    def talk() -> None:
        os.write(line_of_this_daemon(), nonsense)
        time.sleep(600)

    with daemons(2) as pool:
        other = mirai(os.getpid).result()
        error = mirai(talk).exception(20)
        assert isinstance(error, MiraiError)
        assert mirai_map(abs, range(-9, 0)).collect() == list(range(9, 0, -1))
        wait_until(lambda: pool.status().connections == 2)
        assert (status().rejected, status().refusals.peers, other > 0) == (1, 1, True)


@pytest.mark.thorough
@pytest.mark.usefixtures("dispatchers")
def test_a_daemon_that_closes_its_end_is_replaced() -> None:
    def close() -> None:
        os.close(line_of_this_daemon())
        time.sleep(600)

    with daemons(1):
        assert isinstance(mirai(close).exception(20), DaemonCrashed)
        assert mirai(abs, -1).result(20) == 1


@pytest.mark.usefixtures("dispatchers")
def test_the_end_of_a_pool_does_not_wait_for_who_reads_nothing() -> None:
    """A daemon that is stopped, while more is on its way to it than the system holds."""
    with daemons(1) as pool:
        os.kill(mirai(os.getpid).result(), signal.SIGSTOP)
        for _ in range(20):
            mirai(len, bytes(200_000))
        wait_until(lambda: pool.status().awaiting >= 19)
        pool.shutdown()


def test_what_a_stopped_dispatcher_has_not_read_arrives_later() -> None:
    """Callers are not held up, however much it is."""
    with daemons(1) as pool:
        mirai(abs, -1).result()
        assert pool._process is not None
        os.kill(pool._process.pid, signal.SIGSTOP)
        futures = [mirai(len, bytes(100_000 + i)) for i in range(50)]
        os.kill(pool._process.pid, signal.SIGCONT)
        assert [future.result(30) for future in futures] == [100_000 + i for i in range(50)]


# ── whoever is free listens ──────────────────────────────────────────────────────────────


def test_tasks_that_come_one_by_one_and_such_that_come_together() -> None:
    with daemons(1):
        for i in range(300):
            assert mirai(abs, -i).result(20) == i
            if i % 10 == 0:
                assert mirai_map(abs, range(i)).collect() == list(range(i))


def test_one_that_is_cancelled_while_its_daemon_listens_itself() -> None:
    with daemons(1):
        for _ in range(20):
            assert mirai(abs, -1).result(20) == 1
            running = mirai(time.sleep, 600)
            wait_until(lambda: status().executing == 1)
            running.cancel()
            assert mirai(abs, -2).result(20) == 2
        assert status().cumulative == 1


@pytest.mark.thorough
def test_a_daemon_that_listens_itself_leaves_when_it_is_told() -> None:
    with daemons(1):
        for count in range(1, 6):
            pid = mirai(os.getpid).result(20)
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda count=count: status().cumulative == count + 1)


@pytest.mark.thorough
def test_one_whose_pool_ends_just_then() -> None:
    for _ in range(10):
        with daemons(1):
            mirai(abs, -1).result(20)


def test_limits_hold_for_one_that_listens_itself() -> None:
    with daemons(1, max_tasks=3, wall_time=600):
        pids = [mirai(os.getpid).result(20) for _ in range(9)]
    assert len(set(pids)) == 3
