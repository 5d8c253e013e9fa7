"""Local daemons: how their end is noticed, and what each of them is given."""

from __future__ import annotations

import os
import signal
import sys
import sysconfig
import threading
import time
import venv
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, Script, processes_marked, wait_until

from dispatcher.connections import SETTLING
from dispatcher.nursery import PAUSE
from dispatcher.processes import MAX_FAILURES
from mirai import (
    DaemonCrashed,
    Daemons,
    SerializationError,
    _process,
    daemons,
    mirai,
    on_daemon,
    status,
)


class TestTheirEnd:
    def test_is_noticed_where_no_descriptor_tells_of_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        boot = "import os; os.__dict__.pop('pidfd_open', None); " + _process._BOOT
        monkeypatch.setattr(_process, "_BOOT", boot)
        with daemons(1):
            for killed in range(1, 4):
                os.kill(mirai(os.getpid).result(timeout=20), signal.SIGKILL)
                wait_until(lambda killed=killed: status().cumulative == killed + 1)

    @pytest.mark.parametrize("options", [{"max_tasks": 2}, {"wall_time": 0.3}])
    def test_those_that_leave_are_replaced(self, options: dict[str, Any]) -> None:
        with daemons(2, **options) as pool:
            for _ in range(6):
                mirai(abs, -1).result(timeout=20)
            wait_until(lambda: status().cumulative >= 5)
            pool.wait(2, timeout=20)


def slots(pool: Daemons) -> dict[int, str]:
    """Return the slot of each daemon, by its process."""
    environments = ((d.pid, environment(d.pid)) for d in pool.status().daemons)
    return {pid: found["SLOT"] for pid, found in environments if "SLOT" in found}


def environment(pid: int) -> dict[str, str]:
    """Return what a process was started with; nothing if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/environ").read_text().split("\0")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in lines if line)


def slot(i: int) -> dict[str, str]:
    return {"SLOT": str(i)}


class TestEnv:
    def test_is_added(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("BEFORE", "1")
        monkeypatch.setenv("CHANGED", "1")
        with daemons(1, env={"CHANGED": "2", "NEW": "3"}):
            found = mirai(lambda: dict(os.environ)).result(timeout=20)
        assert [found[name] for name in ("BEFORE", "CHANGED", "NEW")] == ["1", "2", "3"]
        assert "NEW" not in os.environ

    def test_a_function_is_called_here_with_each_number(self) -> None:
        with daemons(2, env=slot) as pool:
            pool.wait(2, timeout=20)
            assert sorted(slots(pool).values()) == ["0", "1"]

    def test_a_larger_pool_has_larger_numbers(self) -> None:
        asked: list[int] = []

        def env(i: int) -> dict[str, str]:
            asked.append(i)
            return slot(i)

        with daemons(1, env=env) as pool:
            pool.scale(3)
            pool.wait(3, timeout=20)
            assert sorted(slots(pool).values()) == ["0", "1", "2"]
            assert asked == [0, 1, 2]

    @pytest.mark.usefixtures("dispatchers")
    def test_who_replaces_a_daemon_has_its_number(self) -> None:
        with daemons(3, env=slot) as pool:
            pool.wait(3, timeout=20)
            first = slots(pool)
            for killed, pid in enumerate(sorted(first, key=lambda pid: first[pid])[1:]):
                os.kill(pid, signal.SIGKILL)
                wait_until(lambda killed=killed: status().cumulative == 4 + killed)
                assert sorted(slots(pool).values()) == ["0", "1", "2"]
            assert len(slots(pool).keys() & first.keys()) == 1

    def test_numbers_of_those_that_have_left_are_given_again(self) -> None:
        with daemons(3, env=slot) as pool:
            pool.wait(3, timeout=20)
            pool.scale(1)
            wait_until(lambda: status().connections == 1)
            assert list(slots(pool).values()) == ["0"]
            pool.launch(2)
            pool.wait(3, timeout=20)
            assert sorted(slots(pool).values()) == ["0", "1", "2"]
            assert status().cumulative == 5

    def test_those_with_the_highest_numbers_leave(self, tmp_path: Path) -> None:
        """Even if they are busy and others idle: the numbers are 0 to n-1, whatever happens."""

        def work() -> str:
            while not (tmp_path / os.environ["SLOT"]).exists():
                time.sleep(0.001)
            return os.environ["SLOT"]

        with daemons(2, env=slot) as pool:
            futures = [mirai(work) for _ in range(2)]
            wait_until(lambda: status().executing == 2)
            (tmp_path / "0").touch()
            wait_until(lambda: any(future.done() for future in futures))
            pool.scale(1)
            (tmp_path / "1").touch()
            wait_until(lambda: status().connections == 1)
            assert list(slots(pool).values()) == ["0"]
            assert {future.result() for future in futures} == {"0", "1"}
            (pid,) = slots(pool)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: status().cumulative == 3)
            assert list(slots(pool).values()) == ["0"]

    @pytest.mark.parametrize(
        ("env", "error"),
        [
            (["A"], TypeError),
            ({"A": 1}, TypeError),
            ({"A=B": ""}, ValueError),
            ({"A": "\udcff"}, ValueError),
            (lambda _: {"A": 1}, TypeError),
            (lambda i: 1 / i, ZeroDivisionError),
        ],
    )
    def test_what_makes_no_sense(self, env: Any, error: type[Exception]) -> None:
        with pytest.raises(error):
            daemons(1, env=env)

    def test_a_function_that_fails_later_changes_nothing(self) -> None:
        with daemons(1, env=lambda i: {"SLOT": "01"[i]}) as pool:
            with pytest.raises(IndexError):
                pool.scale(3)
            pool.launch()
            pool.wait(2, timeout=20)
            assert sorted(slots(pool).values()) == ["0", "1"]


class TestLaunch:
    def test_more(self, mark: str, dispatchers: int) -> None:
        with daemons(1) as pool:
            pool.launch(2)
            pool.launch()
            pool.wait(4, timeout=20)
            assert len(processes_marked(mark)) == dispatchers + 4
            with pytest.raises(ValueError, match="negative"):
                pool.launch(-1)


class TestWhereAndWhat:
    def test_cwd(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "there").mkdir()
        monkeypatch.chdir(tmp_path)
        with daemons(1, cwd="there"):
            monkeypatch.chdir("/")
            assert mirai(os.getcwd).result(timeout=20) == str(tmp_path / "there")
            os.kill(mirai(os.getpid).result(), signal.SIGKILL)
            assert mirai(os.getcwd).result(timeout=20) == str(tmp_path / "there")
        with pytest.raises(ValueError, match="no directory"):
            daemons(1, cwd=tmp_path / "nowhere")

    def test_another_interpreter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        python = interpreter(tmp_path, str(ROOT), sysconfig.get_path("purelib"))
        monkeypatch.syspath_prepend(tmp_path / "ours")
        with daemons(1, python=python, env={"PYTHONPATH": ""}):
            prefix, path = mirai(lambda: (sys.prefix, sys.path)).result(timeout=30)
        assert prefix == str(tmp_path / "venv")
        assert str(tmp_path / "ours") not in path

    def test_one_that_does_not_know_us(self, tmp_path: Path) -> None:
        python = interpreter(tmp_path)
        with daemons(1, python=python, env={"PYTHONPATH": ""}):
            error = mirai(abs, -1).exception(timeout=30)
        assert isinstance(error, DaemonCrashed)
        assert f"mirai cannot be imported by {python}" in str(error)
        with pytest.raises(ValueError, match="python is no program"):
            daemons(1, python=tmp_path / "nowhere")


def interpreter(directory: Path, *search: str) -> Path:
    """Return a Python that can import what is found there, and nothing else of ours."""
    builder = venv.EnvBuilder(symlinks=True)
    builder.create(directory / "venv")
    (site,) = (directory / "venv").glob("lib/python*/site-packages")
    (site / "search.pth").write_text("\n".join(search))
    return directory / "venv" / "bin" / "python"


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """Return a Python that daemons can run on; a test may take it away."""
    return interpreter(tmp_path, str(ROOT), sysconfig.get_path("purelib"))


class TestOneThatCannotBeStarted:
    @pytest.mark.parametrize("count", [1, MAX_FAILURES + 1])
    def test_is_started_a_little_later(
        self, count: int, python: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """However many there are of them: tasks wait."""
        with daemons(count, python=python, env={"PYTHONPATH": ""}, dispatcher=False) as pool:
            pool.wait(count, timeout=30)
            python.rename(tmp_path / "away")
            for each in status().daemons:
                os.kill(each.pid, signal.SIGKILL)
            wait_until(lambda: status().connections == 0)
            futures = [mirai(abs, -x) for x in range(3)]
            wait_until(lambda: "no daemon can be started" in caplog.text)
            (tmp_path / "away").rename(python)
            assert [future.result(timeout=30) for future in futures] == [0, 1, 2]
            pool.wait(count, timeout=30)

    @pytest.mark.thorough
    def test_is_one_failure_however_often_it_is_wanted(
        self, python: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Each of these tasks, while it waits for another, wants a daemon in its daemon's stead."""
        count = MAX_FAILURES + 1
        go = tmp_path / "go"

        def outer(number: int) -> int:
            while not (go / str(number)).exists():
                time.sleep(0.001)
            return mirai(abs, -number).result()

        go.mkdir()
        with daemons(count, python=python, env={"PYTHONPATH": ""}, dispatcher=False) as pool:
            pool.wait(count, timeout=30)
            futures = [mirai(outer, number) for number in range(count)]
            wait_until(lambda: status().executing == count)
            python.rename(tmp_path / "away")
            for number in range(count):
                (go / str(number)).touch()
                wait_until(lambda number=number: status().awaiting == number + 1)
            wait_until(lambda: "no daemon can be started" in caplog.text)
            (tmp_path / "away").rename(python)
            assert [future.result(timeout=30) for future in futures] == list(range(count))

    def test_fails_tasks_in_the_end_until_the_pool_is_scaled(
        self, python: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dispatcher.nursery.PAUSE", 0.01)
        wanted = python.with_name("wanted")
        wanted.write_text("no program")
        wanted.chmod(0o700)
        with daemons(1, python=wanted, env={"PYTHONPATH": ""}, dispatcher=False) as pool:
            for _ in range(2):
                error = mirai(abs, -1).exception(timeout=20)
                assert isinstance(error, DaemonCrashed)
                assert "no daemon can be started" in str(error)
            python.rename(wanted)
            pool.scale(1)
            pool.wait(1, timeout=30)
            assert mirai(abs, -3).result(timeout=20) == 3

    def test_is_tried_longer_than_strangers_can_hold_descriptors(self) -> None:
        """Those in the queue of the listener hold them after those that were let in."""
        assert sum(PAUSE * failures for failures in range(1, MAX_FAILURES)) > 3 * SETTLING


class TestInit:
    def test_once_on_each_daemon_before_its_tasks(self, tmp_path: Path) -> None:
        def init() -> None:
            assert on_daemon()
            with (tmp_path / str(os.getpid())).open("a") as file:
                file.write("x")
            sys.prepared = True  # type: ignore[attr-defined]

        with daemons(2, init=init) as pool:
            pool.wait(2, timeout=20)
            first = {daemon.pid for daemon in status().daemons}
            assert {int(file.name) for file in tmp_path.iterdir()} == first
            for _ in range(2):
                os.kill(mirai(os.getpid).result(timeout=20), signal.SIGKILL)
            assert mirai(lambda: sys.prepared).result(timeout=20)  # type: ignore[attr-defined]
            pool.wait(2, timeout=20)
            wait_until(lambda: len(list(tmp_path.iterdir())) == 4)
            assert {file.read_text() for file in tmp_path.iterdir()} == {"x"}

    def test_what_it_holds_may_be_large(self) -> None:
        big = bytearray(b"x" * 300_000)

        def init() -> None:
            sys.big = len(big)  # type: ignore[attr-defined]

        with daemons(1, init=init):
            assert mirai(lambda: sys.big).result(timeout=20) == 300_000  # type: ignore[attr-defined]

    def test_one_that_fails_says_so(self) -> None:
        def init() -> None:
            raise LookupError("no such model")

        with daemons(2, init=init):
            error = mirai(abs, -1).exception(timeout=30)
            assert isinstance(error, DaemonCrashed)
            assert error.exit_code == 1
            assert "LookupError: no such model" in error.output
            assert "in init" in error.output

    @pytest.mark.usefixtures("dispatchers")
    def test_a_slow_one_does_not_hold_up_the_end(self, tmp_path: Path) -> None:
        def init() -> None:
            (tmp_path / "begun").touch()
            time.sleep(600)

        pool = daemons(1, init=init)
        wait_until((tmp_path / "begun").exists)
        pool.shutdown()

    def test_what_cannot_be_pickled(self) -> None:
        lock = threading.Lock()
        with pytest.raises(SerializationError, match="lock"):
            daemons(1, init=lambda: lock.acquire())
        with pytest.raises(TypeError, match="init"):
            daemons(1, init=5)  # type: ignore[arg-type]


def speak() -> None:
    print("aloud")
    print("in error", file=sys.stderr)


@pytest.mark.usefixtures("dispatchers")
class TestOutput:
    def test_a_file_gets_all_and_errors_the_last(self, tmp_path: Path) -> None:
        def last() -> None:
            print("the last words")
            os._exit(3)

        file = tmp_path / "log"
        file.write_text("before\n")
        with daemons(2, output=file):
            mirai(speak).result(timeout=20)
            error = mirai(last).exception(timeout=20)
            assert isinstance(error, DaemonCrashed)
            assert "the last words" in error.output
        lines = file.read_text().splitlines()
        assert lines[0] == "before"
        assert sorted(lines[1:]) == ["aloud", "in error", "the last words"]

    def test_a_new_file_is_ours_alone(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with daemons(1, output="log"):
            mirai(speak).result(timeout=20)
            wait_until(lambda: "in error" in (tmp_path / "log").read_text())
        assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600

    def test_one_that_cannot_be_opened(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            daemons(1, output=tmp_path / "nowhere" / "log")
        with pytest.raises(IsADirectoryError):
            daemons(1, output=tmp_path)
        with pytest.raises(TypeError):
            daemons(1, output=5)  # type: ignore[arg-type]

    def test_that_of_the_host(self, script: Script, dispatchers: int) -> None:
        process = script(
            f"dispatcher = {bool(dispatchers)}"
            + """
import os, sys
from mirai import mirai, daemons, DaemonCrashed
def speak():
    print("aloud"); print("in error", file=sys.stderr); os.system("echo a child")
def last():
    print("last", flush=True); os._exit(3)
with daemons(1, output="inherit", dispatcher=dispatcher):
    mirai(speak).result()
    error = mirai(last).exception()
    mirai(print, "another").result()
print(error.exit_code, repr(error.output))
"""
        )
        out, err = process.communicate(timeout=30)
        assert out.splitlines() == ["aloud", "a child", "last", "another", "3 ''"]
        assert err == "in error\n"
