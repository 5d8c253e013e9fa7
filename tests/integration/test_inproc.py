"""``daemons(dispatcher=False)``: what is its own; the rest is in tests that run in both modes."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import Script, processes_marked, wait_until

from mirai import DaemonCrashed, MiraiError, SerializationError, daemons, mirai, mirai_map, status


class TestThePool:
    @pytest.mark.parametrize("url", [None, "tcp://127.0.0.1:0"])
    def test_there_is_no_process_but_the_daemons(self, mark: str, url: str | None) -> None:
        with daemons(2, url, dispatcher=False) as pool:
            pool.wait(2, timeout=20)
            pids = {daemon.pid for daemon in status().daemons}
            assert {int(line.split()[0]) for line in processes_marked(mark)} == pids
            assert mirai(os.getppid).result(timeout=20) == os.getpid()
            assert status().url == pool.url

    def test_both_kinds_side_by_side(self) -> None:
        with daemons(1, profile="a"), daemons(1, dispatcher=False, profile="b"):
            a, b = mirai.options(profile="a"), mirai.options(profile="b")
            assert a(os.getppid).result(timeout=20) != os.getpid()
            assert b(os.getppid).result(timeout=20) == os.getpid()

    def test_many_and_large(self) -> None:
        array = np.arange(1_000_000)
        with daemons(2, dispatcher=False):
            assert mirai_map(lambda x: -x, range(20_000)).collect() == [-x for x in range(20_000)]
            future = mirai(lambda a: a[::-1], array)
            array[:] = 0  # the task has what was there at the call
            assert future.result(timeout=20)[0] == 999_999
            with pytest.raises(SerializationError):
                mirai(threading.Lock().acquire)

    def test_daemons_outlive_the_thread_that_wanted_them(self) -> None:
        """On Linux they end with the thread that started them."""
        thread = threading.Thread(target=lambda: daemons(1, dispatcher=False))
        thread.start()
        thread.join()
        pid = mirai(os.getpid).result(timeout=20)
        assert mirai(os.getpid).result(timeout=20) == pid
        assert status().cumulative == 1

    def test_an_address_that_cannot_be_had(self) -> None:
        with pytest.raises(MiraiError, match="the dispatcher could not start"):
            daemons(1, "ipc:///no/such/directory/socket", dispatcher=False)

    def test_what_a_daemon_carries_is_in_its_hello(self) -> None:
        with daemons(2, dispatcher=False, tags=lambda i: ("all", f"slot{i}")) as pool:
            pool.wait(2, timeout=20)
            assert hellos(pool) == [("all", "slot0"), ("all", "slot1")]
            pool.launch()
            pool.wait(3, timeout=20)
            assert hellos(pool)[2] == ("all", "slot2")

    def test_where_nothing_tells_of_deaths(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for module in ("processes", "nursery"):
            monkeypatch.setattr(f"dispatcher.{module}.PIDFD", False)
        with daemons(1, dispatcher=False):
            for killed in range(1, 4):
                os.kill(mirai(os.getpid).result(timeout=20), signal.SIGKILL)
                wait_until(lambda killed=killed: status().cumulative == killed + 1)

    def test_a_bug_of_ours_leaves_nobody_waiting(
        self, mark: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        raised: list[BaseException | None] = []
        monkeypatch.setattr(threading, "excepthook", lambda args: raised.append(args.exc_value))
        with daemons(1, dispatcher=False) as pool:
            future = mirai(time.sleep, 600)
            wait_until(lambda: status().executing == 1)
            monkeypatch.setattr(pool._channel._link._server._core, "handle", None)
            waiting = mirai(abs, -1)
            for each in (future, waiting):
                with pytest.raises(MiraiError, match="the channel failed"):
                    each.result(timeout=20)
            wait_until(lambda: not processes_marked(mark))
        assert [type(error) for error in raised] == [TypeError]


def hellos(pool: object) -> list[tuple[str, ...]]:
    """Return the tags with which daemons have introduced themselves."""
    core = pool._channel._link._server._core  # type: ignore[attr-defined]
    return sorted(daemon.hello.tags for daemon in core._daemons.values())


class TestDoneCallbacks:
    def test_may_shut_the_pool_down(self, mark: str) -> None:
        pool = daemons(1, dispatcher=False)
        ended = threading.Event()

        def end(_: object) -> None:
            pool.shutdown()
            ended.set()

        mirai(abs, -1).add_done_callback(end)
        assert ended.wait(20)
        wait_until(lambda: not processes_marked(mark))
        with pytest.raises(MiraiError):
            pool.status()

    def test_may_send_more(self) -> None:
        with daemons(1, dispatcher=False):
            seen: list[int] = []
            first = mirai(abs, -1)
            first.add_done_callback(
                lambda _: mirai(abs, -2).add_done_callback(lambda m: seen.append(m.result()))
            )
            wait_until(lambda: seen)
        assert seen == [2]


START = """
import os, sys, time, signal, warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork where there are threads
from mirai import mirai, daemons, status, DispatcherLost, MiraiError
pool = daemons(2, dispatcher=False)
pool.wait(2)
ms = [mirai(time.sleep, 600) for _ in range(4)]
print("there", flush=True)
"""


class TestTheHostEnds:
    @pytest.mark.parametrize(
        ("ending", "code", "error"),
        [
            ("", 0, ""),
            ("sys.exit(3)", 3, ""),
            ("os._exit(3)", 3, ""),
            ("raise RuntimeError('oops')", 1, "RuntimeError: oops"),
            ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
            ("os.kill(os.getpid(), signal.SIGTERM)", -15, ""),
        ],
    )
    def test_and_nothing_is_left(
        self, script: Script, mark: str, ending: str, code: int, error: str
    ) -> None:
        process = script(START + ending)
        _, err = process.communicate(timeout=30)
        wait_until(lambda: not processes_marked(mark))
        assert process.returncode == code
        assert err.strip().endswith(error)
        assert bool(err) == bool(error)

    @pytest.mark.parametrize("where", ["ms[0].result()", "daemons(0); time.sleep(60)"])
    def test_by_ctrl_c(self, script: Script, mark: str, where: str) -> None:
        process = script(START + where)
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: sleeps(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=30)
        wait_until(lambda: not processes_marked(mark))
        assert process.returncode == -signal.SIGINT
        assert err.count("Traceback") == 1

    def test_ctrl_c_does_not_reach_the_daemons(self, script: Script) -> None:
        process = script(
            START
            + """
for m in ms: m.cancel()
before = mirai(os.getpid).result()
try:
    os.killpg(os.getpgid(0), signal.SIGINT)
    time.sleep(60)
except KeyboardInterrupt:
    print(mirai(os.getpid).result() is not None, status().cumulative)
"""
        )
        out, err = process.communicate(timeout=30)
        assert (out.split(), err) == (["there", "True", "2"], "")

    def test_a_forked_child_has_no_pool_and_leaves_its_parents_alone(self, script: Script) -> None:
        process = script(
            START
            + """
if (pid := os.fork()) == 0:
    try: ms[0].result(timeout=5)
    except DispatcherLost as error: print("lost", "fork" in str(error))
    try: status()
    except MiraiError: print("none")
    with daemons(1, dispatcher=False): print(mirai(abs, -2).result())
    sys.exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
for m in ms: m.cancel()
print(mirai(abs, -3).result(), status().cumulative)
os.kill(mirai(os.getpid).result(), signal.SIGKILL)
pool.wait(2)
daemons(0)
"""
        )
        out, err = process.communicate(timeout=30)
        assert sorted(out.split()) == sorted(["there", "lost", "True", "none", "2", "5", "3", "2"])
        assert err == ""


def sleeps(pid: int) -> bool:
    """Return whether the process's main thread sleeps in the system."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


def test_a_python_that_cannot_be_started_fails_every_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dispatcher.nursery.PAUSE", 0.01)
    python = tmp_path / "python"
    python.write_text("no program")
    python.chmod(0o700)
    with daemons(1, python=python, dispatcher=False):
        error = mirai(abs, -1).exception(timeout=20)
        assert isinstance(error, DaemonCrashed)
        assert "no daemon can be started" in str(error)
