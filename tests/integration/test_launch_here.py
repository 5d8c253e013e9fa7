"""Daemons as programs that this process starts: by LocalLauncher and by CommandLauncher."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from conftest import Script, processes_marked, wait_until
from orders import connected, launched, order_of, reaches, remote_pool, secrets_of

from mirai import mirai
from mirai._errors import LaunchError
from mirai.launchers import CommandLauncher, Handle, LocalLauncher, Order, Phase

pytestmark = pytest.mark.servers


def pid_of(launcher: LocalLauncher | CommandLauncher, handle: Handle) -> int:
    return int(launcher.poll([handle])[handle].detail.removeprefix("process "))


def test_local_daemons_run_tasks_and_end(tmp_path: Path, mark: str) -> None:
    with remote_pool() as pool:
        launcher, order = (
            LocalLauncher(env={"MIRAI_TEST_ANSWER": "42"}),
            order_of(pool, tmp_path, 2),
        )
        with launched(launcher, order) as handles:
            pool.wait(2, 30)
            assert mirai(os.getenv, "MIRAI_TEST_ANSWER").result(10) == "42"
            assert mirai(os.getenv, "MIRAI_JOB").result(10) in [handle.id for handle in handles]
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
            arguments = " ".join(processes_marked(mark))
            assert not any(secret in arguments for secret in secrets_of(order))
            launcher.terminate(handles[:1])
            wait_until(lambda: connected(pool) == 1)
        assert [launcher.poll([h])[h].phase for h in handles] == [Phase.CANCELLED] * 2
        launcher.terminate(handles)  # once more does no harm


def test_the_end_of_one_is_told_with_what_it_said(tmp_path: Path) -> None:
    order = Order(1, "mirai-bad", '{"mirai": 1}', str(tmp_path / "bad"))
    launcher = LocalLauncher()
    with launched(launcher, order) as [handle]:
        state = reaches(launcher, handle, lambda state: state.phase.is_over)
    assert (state.phase, state.exit) == (Phase.FAILED, 1)
    assert launcher.log(handle)
    assert (
        not Path(handle.log).stat().st_mode & 0o077
        or not Path(handle.log).parent.stat().st_mode & 0o077
    )


def test_a_killed_one_has_failed(tmp_path: Path) -> None:
    with remote_pool() as pool:
        launcher = LocalLauncher()
        with launched(launcher, order_of(pool, tmp_path)) as [handle]:
            pool.wait(1, 30)
            os.kill(pid_of(launcher, handle), signal.SIGKILL)
            state = reaches(launcher, handle, lambda state: state.phase.is_over)
            assert (state.phase, state.exit, state.detail) == (Phase.FAILED, -9, "SIGKILL")


def test_a_launch_is_recalled_by_its_name(tmp_path: Path) -> None:
    with remote_pool() as pool:
        launcher, order = LocalLauncher(), order_of(pool, tmp_path, 2)
        launcher.launch(order)
        pool.wait(2, 30)
        LocalLauncher().recall(order.name)
        wait_until(lambda: connected(pool) == 0)


def test_no_interpreter_is_an_error_at_once(tmp_path: Path) -> None:
    order = Order(2, "mirai-none", "{}", str(tmp_path))
    with pytest.raises(LaunchError, match=r"no-such-python. cannot be run: No such file"):
        LocalLauncher(python="no-such-python").launch(order)


DIES = """
import os, sys, time
from mirai.launchers import LocalLauncher, Order
order = Order(1, "mirai-orphan", sys.stdin.readline(), {directory!r})
print(LocalLauncher().launch(order)[0].id, flush=True)
sys.stdin.readline()
if {forks} and os.fork() == 0:
    os.write(1, b"forked\\n")
    while not os.path.exists({stop!r}):
        time.sleep(0.02)
    os._exit(0)
sys.stdin.readline()
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize("forks", [False, True], ids=["alone", "with a fork that lives on"])
def test_they_do_not_outlive_a_host_that_is_killed(
    tmp_path: Path, script: Script, mark: str, forks: bool
) -> None:
    stop = tmp_path / "stop"
    with remote_pool() as pool:
        directory = str(tmp_path / "orphan")
        host = script(DIES.format(directory=directory, forks=forks, stop=str(stop)))
        assert host.stdin is not None
        assert host.stdout is not None
        host.stdin.write(order_of(pool, tmp_path).keys + "\n\n")
        host.stdin.flush()
        assert host.stdout.readline().strip() == "mirai-orphan-0"
        pool.wait(1, 30)
        if forks:
            assert host.stdout.readline().strip() == "forked"
        host.stdin.write("\n")
        host.stdin.flush()
        host.wait()
        wait_until(lambda: not any("mirai daemon" in name for name in processes_marked(mark)))
        wait_until(lambda: connected(pool) == 0)
        stop.touch()


# ── commands ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("stdin", [True, False], ids=["stdin", "file"])
@pytest.mark.parametrize("template", [["sh", "-c", "{command}"], "cd / && {command}"])
def test_a_command_that_stays(tmp_path: Path, template: list[str] | str, stdin: bool) -> None:
    with remote_pool() as pool:
        launcher = CommandLauncher(template=template, stdin=stdin)
        with launched(launcher, order_of(pool, tmp_path, 2)) as handles:
            pool.wait(2, 30)
            assert mirai(os.getenv, "MIRAI_JOB").result(10) in [handle.id for handle in handles]
        assert {state.phase for state in launcher.poll(handles).values()} == {Phase.CANCELLED}


def test_a_command_that_passes_it_on(tmp_path: Path) -> None:
    started = tmp_path / "started"
    started.mkdir()
    submit = f"{{command}} >{started}/{{index}}.log 2>&1 & echo $! >{started}/{{index}}"
    cancel = f"kill $(cat {started}/{{index}})"
    launcher = CommandLauncher(template=submit, detached=True, cancel=cancel)
    with remote_pool() as pool:
        with launched(launcher, order_of(pool, tmp_path, 2)) as handles:
            pool.wait(2, 30)
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.UNKNOWN}
        wait_until(lambda: connected(pool) == 0)


def test_a_refusal_is_told_in_its_words_and_undone(tmp_path: Path) -> None:
    (tmp_path / "keys.json").touch()
    submit = "test {index} -lt 1 || { echo 'the queue is full' >&2; exit 7; }"
    cancel = f"echo {{name}} {{index}} >>{tmp_path}/cancelled"
    launcher = CommandLauncher(template=submit, detached=True, cancel=cancel)
    order = Order(3, "mirai-full", "SECRET", str(tmp_path), str(tmp_path / "keys.json"))
    with pytest.raises(LaunchError, match="exit code 7, and said: the queue is full") as caught:
        launcher.launch(order)
    assert "SECRET" not in str(caught.value)
    assert (tmp_path / "cancelled").read_text() == "mirai-full 0\nmirai-full 1\n"


def test_one_that_ignores_all_is_killed_with_what_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirai.launchers import _children

    monkeypatch.setattr(_children.end, "__defaults__", (0.2,))
    deaf = "import signal; signal.signal(15, signal.SIG_IGN); print(1, flush=True); signal.pause()"
    launcher = CommandLauncher(template=["sh", "-c", f"{sys.executable} -c '{deaf}'; :"])
    order = Order(1, "mirai-deaf", "", str(tmp_path), "none")
    [handle] = launcher.launch(order)
    wait_until(lambda: launcher.log(handle) == "1")
    launcher.terminate([handle])
    assert launcher.poll([handle])[handle].exit in (-9, -15)
    launcher.recall(order.name)
