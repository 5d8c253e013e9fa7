"""Pools whose daemons a launcher starts: on this machine, by what every launcher goes through."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from conftest import Script, processes_marked, wait_until

from mirai import (
    DaemonCrashed,
    LaunchError,
    MiraiError,
    TaskCancelled,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    on_daemon,
    status,
)
from mirai.launchers import (
    CommandLauncher,
    Handle,
    Launcher,
    LocalLauncher,
    Order,
    Phase,
    State,
    _children,
)

LOCAL = LocalLauncher()

pytestmark = pytest.mark.usefixtures("launch_home")


@dataclass(frozen=True)
class Watched(LocalLauncher):
    """One that notes what it is asked."""

    orders: list[Order] = field(default_factory=list)
    ended: list[Handle] = field(default_factory=list)
    recalled: list[str] = field(default_factory=list)

    def launch(self, order: Order) -> list[Handle]:
        self.orders.append(order)
        return super().launch(order)

    def terminate(self, handles: Sequence[Handle]) -> None:
        self.ended.extend(handles)
        super().terminate(handles)

    def recall(self, name: str) -> None:
        self.recalled.append(name)
        super().recall(name)

    def handles(self) -> list[Handle]:
        """Return those of all launches."""
        return [handle for order in self.orders for handle in _children.handles(order)]


@dataclass(frozen=True)
class Idle(Launcher):
    """One whose jobs wait until they are ended."""

    ended: list[Handle] = field(default_factory=list)
    interval = 0.05

    def launch(self, order: Order) -> list[Handle]:
        return [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        waits, gone = State(Phase.PENDING, "PD (Priority)"), State(Phase.CANCELLED)
        return {handle: gone if handle in self.ended else waits for handle in handles}

    def terminate(self, handles: Sequence[Handle]) -> None:
        self.ended.extend(handles)


def nested(x: int) -> int:
    return int(mirai(abs, x).result()) + 1


@pytest.mark.usefixtures("dispatchers")
class TestTasks:
    def test_they_run_on_what_was_launched(self) -> None:
        with daemons(2, launcher=LOCAL) as pool:
            assert pool.url.startswith("tcp://127.0.0.1:")
            pool.wait(2, 30)
            pids = {daemon.pid for daemon in status().daemons}
            assert mirai(os.getpid).result() in pids
            assert mirai_map(abs, range(-50, 0)).collect() == list(range(50, 0, -1))
            assert mirai(on_daemon).result()

    def test_tasks_submit_tasks(self) -> None:
        with daemons(2, launcher=LOCAL):
            assert mirai(nested, -3).result() == 4

    def test_options_reach_the_daemons(self) -> None:
        def init() -> None:
            import builtins

            builtins.ready = True  # type: ignore[attr-defined]

        def look() -> tuple[Any, ...]:
            import builtins

            return os.environ["COLOUR"], os.getcwd(), builtins.ready  # type: ignore[attr-defined]

        with daemons(
            1, launcher=LOCAL, env={"COLOUR": "red"}, cwd="/", init=init, tags=("gpu",)
        ) as pool:
            assert mirai.options(tags=("gpu",))(look).result() == ("red", "/", True)
            assert pool.status().daemons[0].tags == ("gpu",)

    def test_modules_are_found_where_ours_are(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mine_alone.py").write_text("def seven():\n    return 7\n")
        monkeypatch.syspath_prepend(tmp_path)
        import mine_alone  # type: ignore[import-not-found]

        with daemons(1, launcher=LOCAL):
            assert mirai(mine_alone.seven).result() == 7

    def test_a_call_for_every_daemon_reaches_later_ones(self) -> None:
        with daemons(1, launcher=LOCAL) as pool:
            pool.wait(1, 30)
            everywhere(_mark).collect()
            pool.launch(1)
            pool.wait(2, 30)
            assert mirai_map(_marked, range(20)).collect() == ["yes"] * 20


class TestKeys:
    def test_each_launch_has_its_own_in_a_file_for_us_alone(self, launch_home: Path) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            pool.launch(1)
            first, second = launcher.orders
            assert first.keys != second.keys
            assert first.name != second.name
            for order in (first, second):
                file = Path(order.key_file)
                assert file.read_text() == order.keys + "\n"
                assert stat.S_IMODE(file.stat().st_mode) == 0o600
                assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
                assert file.parent.parent == launch_home
        assert not list(launch_home.glob("*"))

    def test_no_secret_is_in_an_argument_or_a_repr(self, mark: str) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            pool.wait(1, 30)
            [order] = launcher.orders
            import json

            secrets = [pair["secret"] for pair in json.loads(order.keys)["keys"].values()]
            shown = repr(order) + repr(pool) + str(pool.launched())
            for process in processes_marked(mark):
                shown += Path("/proc", process.split()[0], "cmdline").read_text()
            assert not any(secret in shown for secret in secrets)

    @pytest.mark.thorough
    def test_they_let_nobody_in_once_the_launch_has_ended(
        self, tmp_path: Path, script: Script
    ) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            pool.wait(1, 30)
            keys = tmp_path / "late.json"
            keys.touch(0o600)
            keys.write_text(launcher.orders[0].keys)
            pool.scale(0)
            wait_until(lambda: not pool.launched(), 30)
            program = f"from mirai.__main__ import main; exit(main(['daemon', {str(keys)!r}]))"
            late = script(program)
            assert late.wait(60) == 3, "it was let in"
            late.communicate()


class TestLaunching:
    def test_a_refusal_is_an_error_at_once(self) -> None:
        template = "echo there is no such queue >&2; exit 5"
        launcher = CommandLauncher(template=template, detached=True)
        with pytest.raises(LaunchError, match="exit code 5, and said: there is no such queue"):
            daemons(2, launcher=launcher)
        with pytest.raises(MiraiError, match="no daemons are set"):
            status()

    def test_a_refusal_of_more_leaves_the_pool_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            pool.wait(1, 30)
            monkeypatch.setattr(Watched, "launch", _refuse)
            for _ in range(2):
                with pytest.raises(LaunchError, match="no"):
                    pool.launch(1)
            assert len(launcher.recalled) == 2
            assert mirai(abs, -1).result() == 1
            assert len(pool.launched()) == 1

    def test_ctrl_c_while_the_platform_starts_them_leaves_nothing(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launcher = Watched()
        started: list[Handle] = []

        def interrupted(self: Watched, order: Order) -> list[Handle]:
            started.extend(LocalLauncher.launch(self, order))
            raise KeyboardInterrupt

        monkeypatch.setattr(Watched, "launch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            daemons(2, launcher=launcher)
        assert len(started) == 2
        assert all(state.phase.is_over for state in launcher.poll(started).values())

    def test_jobs_tells_how_they_stand(self) -> None:
        pool = daemons(2, launcher=Idle(), url="tcp://127.0.0.1:0")
        wait_until(lambda: set(map(str, pool.launched().values())) == {"pending: PD (Priority)"})
        mirai(abs, -1)
        wait_until(lambda: "2 launched and not joined: pending: PD (Priority)" in pool.status().why)
        daemons(0)

    def test_those_that_have_not_joined_are_ended_with_the_pool(self) -> None:
        launcher = Idle()
        pool = daemons(3, launcher=launcher, url="tcp://127.0.0.1:0")
        task = mirai(abs, -1)
        jobs = list(pool.launched())
        daemons(0)
        assert launcher.ended == jobs
        with pytest.raises(TaskCancelled):
            task.result()

    def test_one_that_never_joins_is_ended_and_its_tasks_fail_with_the_reason(self) -> None:
        launcher = Idle()
        daemons(2, launcher=launcher, url="tcp://127.0.0.1:0", patience=0.3)
        with pytest.raises(
            DaemonCrashed,
            match=r"no daemon is there: job .* has not joined within 0\.3 s: pending: PD",
        ):
            mirai(abs, -1).result(30)
        assert len(launcher.ended) == 2
        with pytest.raises(DaemonCrashed, match="has not joined"):
            mirai(abs, -1).result(30)
        daemons(0)

    def test_a_job_that_fails_before_it_joins_is_told_with_its_last_lines(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        launcher = CommandLauncher(template="echo cannot load python; exit 3")
        with caplog.at_level(logging.WARNING, "mirai"):
            daemons(1, launcher=launcher, url="tcp://127.0.0.1:0")
            with pytest.raises(DaemonCrashed) as caught:
                mirai(abs, -1).result(30)
        assert "ended before it joined: failed: exit code 3" in str(caught.value)
        assert caught.value.output == "cannot load python"
        assert "cannot load python" in caplog.text
        daemons(0)

    def test_a_platform_that_does_not_answer_is_told_once(
        self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def fail(_: Idle, handles: Sequence[Handle]) -> Mapping[Handle, State]:
            asked.append(handles)
            raise LaunchError("the controller is down")

        monkeypatch.setattr(Idle, "poll", fail)
        with caplog.at_level(logging.WARNING, "mirai"):
            daemons(1, launcher=Idle(), url="tcp://127.0.0.1:0")
            wait_until(lambda: len(asked) >= 3)
            daemons(0)
        assert caplog.text.count("the controller is down") == 1


class TestLoss:
    def test_a_daemon_that_dies_is_told_with_its_exit_and_replaced_in_its_job(self) -> None:
        with daemons(1, launcher=LOCAL) as pool:
            with pytest.raises(DaemonCrashed, match="the daemon died with exit code 3") as caught:
                mirai(os._exit, 3).result(30)
            assert caught.value.exit_code == 3
            task = mirai(lambda: os.kill(os.getpid(), signal.SIGSEGV))
            with pytest.raises(DaemonCrashed, match="the daemon died of SIGSEGV") as caught:
                task.result(30)
            assert caught.value.signal == "SIGSEGV"
            assert mirai(abs, -1).result(30) == 1
            assert len(pool.launched()) == 1

    @pytest.mark.thorough
    def test_a_job_that_is_ended_is_told_so(self, tmp_path: Path) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            begun = tmp_path / "begun"
            task = mirai(_touch_and_sleep, str(begun))
            wait_until(begun.exists)
            [handle] = pool.launched()
            launcher.terminate([handle])
            with pytest.raises(DaemonCrashed, match=f"its job {handle.id} has ended, cancelled"):
                task.result(30)
            assert mirai(abs, -1).result(30) == 1, "another is launched, since there is work"

    def test_a_done_callback_of_it_must_not_wait_for_others(self) -> None:
        caught: list[BaseException] = []

        def wait(_: object) -> None:
            try:
                mirai(abs, -1).result()
            except RuntimeError as error:
                caught.append(error)

        with daemons(1, launcher=LOCAL):
            task = mirai(os._exit, 3)
            task.add_done_callback(wait)
            assert isinstance(task.exception(30), DaemonCrashed)
            wait_until(lambda: caught)

    @pytest.mark.thorough
    def test_those_that_have_reached_a_limit_are_replaced_while_there_is_work(self) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher, max_tasks=2):
            assert mirai_map(abs, range(-6, 0)).collect() == [6, 5, 4, 3, 2, 1]
            assert 3 <= len(launcher.orders) <= 4

    @pytest.mark.thorough
    def test_a_daemon_is_given_no_task_that_it_has_no_time_for(self) -> None:
        """It is let go, and another does it; else it would do all three, and end late."""

        def nap(_: int) -> int:
            time.sleep(1.5)
            return os.getpid()

        launcher = CommandLauncher(template="{command} --wall-time 4s")
        with daemons(1, launcher=launcher, url="tcp://127.0.0.1:0"):
            pids = [mirai(nap, i).result(60) for i in range(3)]
        assert max(map(pids.count, pids)) <= 2

    @pytest.mark.thorough
    def test_the_end_of_the_host_ends_them(self, script: Script, mark: str) -> None:
        program = (
            "import os\n"
            "from mirai import daemons, mirai\n"
            "from mirai.launchers import LocalLauncher\n"
            "daemons(2, launcher=LocalLauncher()).wait(2, 30)\n"
            "print('up', flush=True)\n"
            "os.kill(os.getpid(), 9)\n"
        )
        host = script(program)
        assert host.wait(60) == -9
        host.communicate()
        wait_until(lambda: not processes_marked(mark), 30)
        for left in (Path(os.environ["HOME"]) / ".mirai").glob("*"):  # nobody was there to do so
            for file in left.iterdir():
                file.unlink()
            left.rmdir()


class TestOddLaunchers:
    """A launcher may be anybody's: whatever it does, every task is answered."""

    @pytest.mark.thorough
    @pytest.mark.parametrize("log", [LaunchError("no access to logs"), None, b"bytes"])
    def test_logs_that_cannot_be_had(self, log: object, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> object:
            if isinstance(log, Exception):
                raise log
            return log

        monkeypatch.setattr(Watched, "log", fail)
        launcher = Watched()
        daemons(1, launcher=launcher)
        task = mirai(time.sleep, 60)
        wait_until(lambda: status().executing == 1, 30)
        launcher.terminate(launcher.handles())
        with pytest.raises(DaemonCrashed):
            task.result(30)
        daemons(0)
        daemons(1, launcher=Idle(), url="tcp://127.0.0.1:0", patience=0.2)
        monkeypatch.setattr(Idle, "log", fail)
        with pytest.raises(DaemonCrashed, match="has not joined"):
            mirai(abs, -1).result(30)
        daemons(0)

    @pytest.mark.parametrize("told", [None, "text", {}, {"a": 1}, SystemExit(3), KeyboardInterrupt])
    def test_states_that_are_none(self, told: object, monkeypatch: pytest.MonkeyPatch) -> None:
        def poll(*_: object) -> object:
            if not isinstance(told, BaseException) and told is not KeyboardInterrupt:
                return told
            raise told  # type: ignore[misc]

        monkeypatch.setattr(Idle, "poll", poll)
        daemons(1, launcher=Idle(), url="tcp://127.0.0.1:0", patience=0.3)
        with pytest.raises(DaemonCrashed, match="has not joined"):
            mirai(abs, -1).result(30)
        daemons(0)

    @pytest.mark.parametrize("count", [0, 1, 3])
    def test_another_number_of_jobs(self, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
        launch = Idle.launch

        def other(it: Idle, order: Order) -> list[Handle]:
            return launch(it, replace(order, count=count))

        monkeypatch.setattr(Idle, "launch", other)
        launcher = Idle()
        with pytest.raises(LaunchError, match=f"started {count} daemons instead of 2"):
            daemons(2, launcher=launcher, url="tcp://127.0.0.1:0")
        assert len(launcher.ended) == count

    @pytest.mark.thorough
    def test_a_refusal_to_launch_others_is_not_the_end(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        launch, refused = Watched.launch, [0]

        def busy(it: Watched, order: Order) -> list[Handle]:
            if it.orders and not refused[0]:
                refused[0] += 1
                raise LaunchError("socket timed out")
            return launch(it, order)

        monkeypatch.setattr(Watched, "launch", busy)
        with daemons(1, launcher=Watched(), max_tasks=2):
            assert mirai_map(abs, range(-4, 0)).collect() == [4, 3, 2, 1]
        assert refused == [1]

    def test_the_end_does_not_wait_for_a_launch_that_hangs(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr("mirai._launches.ANSWER", 0.2)
        gate, entered, launch = threading.Event(), threading.Event(), Watched.launch

        def hang(it: Watched, order: Order) -> list[Handle]:
            if it.orders:
                entered.set()
                gate.wait(60)
            return launch(it, order)

        monkeypatch.setattr(Watched, "launch", hang)
        launcher, errors = Watched(), list[BaseException]()

        def more() -> None:
            try:
                pool.launch(1)
            except BaseException as error:
                errors.append(error)

        pool = daemons(1, launcher=launcher)
        thread = threading.Thread(target=more)
        thread.start()
        wait_until(lambda: any(len(launches._open) == 1 for launches in pool._launches))
        wait_until(entered.is_set)
        with caplog.at_level(logging.WARNING, "mirai"):
            daemons(0)
        gate.set()
        thread.join(30)
        assert [type(error).__name__ for error in errors] == ["DispatcherLost"]
        assert all(state.phase.is_over for state in launcher.poll(launcher.handles()).values())

    @pytest.mark.thorough
    def test_none_is_launched_for_what_it_could_not_do(self) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher, idle_time=0.2) as pool:
            pool.wait(1, 30)
            task = mirai.options(tags=("gpu",))(abs, -1)
            wait_until(lambda: not pool.launched(), 30)
            plain = mirai(abs, -2)
            assert plain.result(30) == 2
            assert len(launcher.orders) == 2
            task.cancel()

    def test_the_loss_of_the_dispatcher_ends_the_jobs(self) -> None:
        launcher = Idle()
        pool = daemons(2, launcher=launcher, url="tcp://127.0.0.1:0")
        assert pool._process is not None
        os.kill(pool._process.pid, signal.SIGKILL)
        wait_until(lambda: len(launcher.ended) == 2)
        daemons(0)

    @pytest.mark.thorough
    def test_the_platform_is_asked_no_more_often_than_it_wants(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[float] = []
        poll = Watched.poll

        def note(it: Watched, handles: Sequence[Handle]) -> Mapping[Handle, State]:
            asked.append(time.monotonic())
            return poll(it, handles)

        monkeypatch.setattr(Watched, "poll", note)
        monkeypatch.setattr(Watched, "interval", 0.4)
        with daemons(1, launcher=Watched()) as pool:
            for _ in range(4):
                assert isinstance(mirai(os._exit, 3).exception(30), DaemonCrashed)
            pool.launch(1)
            wait_until(lambda: len(asked) >= 3)
        pauses = [later - earlier for earlier, later in itertools.pairwise(asked)]
        assert min(pauses) > 0.39

    def test_leaving_the_block_waits_for_the_reason(self) -> None:
        with daemons(1, launcher=LOCAL):
            task = mirai(os._exit, 3)
        assert "exit code 3" in str(task.exception())


class TestScale:
    def test_up_and_down(self) -> None:
        launcher = Watched()
        with daemons(1, launcher=launcher) as pool:
            pool.scale(3)
            pool.wait(3, 30)
            pool.scale(1)
            wait_until(lambda: status().connections == 1, 30)
            wait_until(lambda: len(pool.launched()) == 1, 30)
            assert launcher.ended == [], "they leave by themselves"
            assert mirai(abs, -1).result() == 1

    def test_those_that_have_not_joined_go_first(self) -> None:
        launcher = Idle()
        pool = daemons(3, launcher=launcher, url="tcp://127.0.0.1:0")
        pool.scale(1)
        assert len(launcher.ended) == 2
        wait_until(lambda: len(pool.launched()) == 1)
        daemons(0)

    def test_a_busy_one_ends_its_task_first(self, tmp_path: Path) -> None:
        with daemons(2, launcher=LOCAL) as pool:
            pool.wait(2, 30)
            gates = [tmp_path / name for name in "ab"]
            tasks = [mirai(_wait_for, str(gate)) for gate in gates]
            wait_until(lambda: all(Path(f"{gate}.begun").exists() for gate in gates))
            pool.scale(0)
            wait_until(lambda: {d.state for d in status().daemons} == {"leaving"})
            for gate in gates:
                gate.touch()
            assert [task.result(30) for task in tasks] == [True, True]


class TestArguments:
    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"launcher": "slurm"}, "launcher must be a Launcher, not str"),
            ({"launcher": LOCAL, "env": lambda _: {}}, "the same for all"),
            ({"launcher": LOCAL, "tags": lambda _: ()}, "the same for all"),
            ({"launcher": LOCAL, "output": "inherit"}, "job's log"),
            ({"launcher": LOCAL, "python": "python3"}, "python is an option of the launcher"),
            ({"launcher": LOCAL, "sync": True}, "no daemons that could be launched"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options: dict[str, Any], error: str) -> None:
        with pytest.raises((TypeError, ValueError), match=error):
            daemons(1, **options)

    def test_zero_is_none_for_now(self) -> None:
        with daemons(0, url="tcp://127.0.0.1:0", launcher=LOCAL) as pool:
            task = mirai(abs, -1)
            pool.launch(1)
            assert task.result(30) == 1


def _mark() -> None:
    os.environ["MARKED"] = "yes"


def _marked(_: int) -> str:
    return os.environ["MARKED"]


def _refuse(_: object, order: Order) -> list[Handle]:  # noqa: ARG001
    raise LaunchError("no")


def _touch_and_sleep(path: str) -> None:
    Path(path).touch()
    time.sleep(60)


def _wait_for(path: str) -> bool:
    Path(f"{path}.begun").touch()
    while not os.path.exists(path):
        time.sleep(0.005)
    return True
