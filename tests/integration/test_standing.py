"""Dispatchers that stand on their own, their supervisors, and clients that come and go."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import zmq
from conftest import Command, Script, listening, processes_marked, wait_until

from dispatcher import security
from dispatcher.keys import KeyPair
from dispatcher.messages import (
    VERSION,
    Hello,
    PoolReport,
    Report,
    Role,
    Scale,
    Slot,
    Stop,
    ToClient,
)
from dispatcher.processes import ECHO, Process
from dispatcher.wire import encode
from mirai import (
    AuthenticationError,
    DaemonCrashed,
    Daemons,
    DispatcherLost,
    Mirai,
    MiraiError,
    SerialConfig,
    TaskCancelled,
    connect,
    daemons,
    everywhere,
    mirai,
    mirai_map,
    register_serial,
    status,
    try_mirai,
    use_profile,
)
from mirai import _profiles as profiles
from mirai._comeback import Place
from mirai._connection import Connection
from mirai._link import Link
from mirai._process import boot_argv, search_path
from mirai._profiles import require_pool
from mirai._supervisor import Supervisor

Popen = subprocess.Popen


@pytest.fixture
def pool_file(tmp_path: Path) -> Path:
    return tmp_path / "pool.json"


@pytest.fixture
def dispatcher(command: Command, pool_file: Path) -> Popen[str]:
    """A standing dispatcher without daemons, which listens."""
    return listening(command("dispatcher", "--connection-file", pool_file))


def end(process: Popen[str], number: int = signal.SIGTERM) -> tuple[int, str]:
    """Send a signal; return the exit status and what it has said."""
    process.send_signal(number)
    return ended(process)


def ended(process: Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=30)
    return process.returncode, err


class Gate:
    """Tasks that wait until they are let through, by a file that every process sees."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "go"
        self.begun = directory / "begun"

    def task(self, x: int = 0) -> Callable[[], tuple[int, int]]:
        def work(path: str = str(self.path), begun: str = f"{self.begun}{x}") -> tuple[int, int]:
            open(begun, "w").close()
            while not os.path.exists(path):
                time.sleep(0.001)
            return x, os.getpid()

        return work

    def wait_until_begun(self, x: int = 0) -> None:
        wait_until(lambda: os.path.exists(f"{self.begun}{x}"))

    def open(self) -> None:
        self.path.touch()


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path)


# ── clients ──────────────────────────────────────────────────────────────────────────────


class TestClients:
    def test_a_pool_outlives_its_clients(self, command: Command, pool_file: Path) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file) as pool:
            first = mirai(os.getpid)
        assert first.done()
        with pytest.raises(MiraiError, match="no daemons"):
            status()
        with connect(str(pool_file)) as pool:
            assert mirai(os.getpid).result(timeout=20) == first.result()
            assert pool.url == status().url == Connection.read(pool_file).url
            assert status().completed == 2

    def test_leaving_by_an_exception_cancels_ones_own_tasks_only(
        self, command: Command, pool_file: Path, gate: Gate
    ) -> None:
        listening(command("dispatcher", "-n", 2, "--connection-file", pool_file))
        with connect(pool_file, "other") as other:
            theirs = other.submit(gate.task(1))
            ours: list[Mirai[Any]] = []

            def fail() -> None:
                with connect(pool_file):
                    ours.extend([mirai(gate.task(2)), mirai(gate.task(3))])
                    gate.wait_until_begun(2)
                    raise KeyError

            with pytest.raises(KeyError):
                fail()
            assert all(isinstance(m.exception(), TaskCancelled) for m in ours)
            wait_until(lambda: other.status().executing == 1)
            assert other.status().awaiting == 0
            gate.open()
            assert theirs.result(timeout=20)[0] == 1

    def test_asynchronously(self, command: Command, pool_file: Path) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))

        async def main() -> int:
            async with connect(pool_file):
                return await mirai(abs, -3)

        assert asyncio.run(main()) == 3

    def test_two_at_once_share_the_daemons_fairly(
        self, command: Command, pool_file: Path, gate: Gate
    ) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file, "many") as many, connect(pool_file, "few") as few:
            first = many.submit(gate.task())
            gate.wait_until_begun()
            theirs = [many.submit(time.sleep, (0.01,)) for _ in range(300)]
            assert many.status().awaiting == 300
            ours = [few.submit(os.getpid) for _ in range(5)]
            gate.open()
            assert [m.result(timeout=20) for m in ours] == [first.result()[1]] * 5
            assert not theirs[-1].done()
            many.shutdown()

    def test_scale_and_wait(self, command: Command, pool_file: Path) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file) as pool:
            with pytest.raises(MiraiError, match="scale"):
                pool.launch(1)
            pool.scale(3)
            pool.wait(3, timeout=20)
            pool.scale(1)
            wait_until(lambda: pool.status().connections == 1)

    def test_where_no_daemons_run_guests_start_none(
        self, dispatcher: Popen[str], pool_file: Path, mark: str
    ) -> None:
        with connect(pool_file) as pool:
            pool.scale(2)
            pool.status()  # the answer comes after what was asked before
            assert len(processes_marked(mark)) == 1
        assert dispatcher.poll() is None

    def test_one_that_vanishes_frees_its_place(
        self, command: Command, pool_file: Path, script: Script
    ) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        client = script(
            "import time\nfrom mirai import connect, mirai\n"
            f"connect({str(pool_file)!r})\n"
            "ms = [mirai(time.sleep, 600) for _ in range(5)]\n"
            "print('sent', flush=True)\ntime.sleep(600)"
        )
        assert client.stdout is not None
        assert client.stdout.readline() == "sent\n"
        with connect(pool_file) as pool:
            wait_until(lambda: (pool.status().executing, pool.status().awaiting) == (1, 4))
            client.kill()
            wait_until(lambda: pool.status().awaiting == 0)
            assert mirai(abs, -1).result(timeout=20) == 1

    def test_it_takes_the_place_of_the_profiles_pool(
        self, dispatcher: Popen[str], pool_file: Path
    ) -> None:
        former = daemons(1)
        pool = connect(pool_file)
        assert status().url == pool.url
        with pytest.raises(DispatcherLost):
            former.status()
        other = connect(pool_file, profile="gpu")
        with use_profile("gpu"):
            assert status().profile == other.profile == "gpu"
        other.shutdown()
        daemons(0)
        with pytest.raises(DispatcherLost):
            pool.status()
        assert dispatcher.poll() is None

    def test_a_client_at_its_exit_just_leaves(
        self, dispatcher: Popen[str], pool_file: Path, script: Script
    ) -> None:
        client = script(f"from mirai import connect\nconnect({str(pool_file)!r})")
        assert ended(client) == (0, "")
        assert dispatcher.poll() is None


class TestOptions:
    """What a client may have for itself."""

    def test_a_seed(self, command: Command, pool_file: Path) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with daemons(sync=True, seed=42):
            expected = [mirai(random.random).result() for _ in range(3)]
        with connect(pool_file, seed=42):
            assert [mirai(random.random).result(timeout=20) for _ in range(3)] == expected

    def test_a_memory_budget(self, command: Command, pool_file: Path, gate: Gate) -> None:
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file, memory="1kB") as pool:
            running = mirai(gate.task())
            sent = mirai(len, bytes(2_000))
            assert try_mirai(abs, -1) is None
            assert status().memory == pool.status().memory
            gate.open()
            assert sent.result(timeout=20) == 2_000
            running.result(timeout=20)
            memory = pool.status().memory
            assert memory is not None and memory.capacity == 1_000

    def test_serial_configs(
        self, command: Command, pool_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Sealed:
            def __init__(self, text: str) -> None:
                self.text = text
                self.lock = threading.Lock()

        class Registered(Sealed): ...

        def config(cls: type[Sealed]) -> SerialConfig:
            return SerialConfig(cls, lambda it: it.text.encode(), lambda data: bytes(data).decode())

        monkeypatch.setattr(profiles, "_serial", {})
        register_serial(config(Registered))
        listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file, serial=config(Sealed)):
            assert mirai(str.upper, Sealed("a")).result(timeout=20) == "A"  # type: ignore[arg-type]
        with connect(pool_file):
            task = mirai(str.upper, Registered("b"))  # type: ignore[arg-type]
            assert task.result(timeout=20) == "B"


class TestNobodyThere:
    def test_nothing_listens(self, pool_file: Path) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        Connection.new(url).only(*Role).write(pool_file)
        with pytest.raises(DispatcherLost, match="no dispatcher answers at tcp://") as caught:
            connect(pool_file)
        assert not isinstance(caught.value, AuthenticationError)

    @pytest.mark.thorough
    def test_something_else_listens_that_is_silent(self, pool_file: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            url = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            Connection.new(url).only(*Role).write(pool_file)
            with pytest.raises(DispatcherLost, match=r"not answered within 0.2 s"):
                connect(pool_file, timeout=0.2)
            with pytest.raises(AuthenticationError, match="in time: it hangs"):
                connect(pool_file, timeout="20s")

    @pytest.mark.parametrize(
        "timeout", [0.3, pytest.param(60.0, marks=pytest.mark.slow)], ids=["ours", "the link's own"]
    )
    def test_a_black_hole(self, pool_file: Path, timeout: float) -> None:
        """An address that takes no connection and refuses none either."""
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            waiting = [socket.socket() for _ in range(4)]
            for each in waiting:
                each.setblocking(False)
                each.connect_ex(address)
            Connection.new(f"tcp://127.0.0.1:{address[1]}").only(*Role).write(pool_file)
            with pytest.raises(DispatcherLost, match="answer"):
                connect(pool_file, timeout=timeout)
            for each in waiting:
                each.close()

    @pytest.mark.parametrize("wrong", ["client", "server"])
    def test_wrong_keys(self, dispatcher: Popen[str], pool_file: Path, wrong: str) -> None:
        right = Connection.read(pool_file)
        server = KeyPair.new().public if wrong == "server" else right.server
        keys = right.keys if wrong == "server" else {Role.CLIENT: KeyPair.new()}
        Connection(right.url, server, keys).write(pool_file)
        reason = "refuses this key" if wrong == "client" else "or has other keys"
        with pytest.raises(AuthenticationError, match=reason):
            connect(pool_file)
        assert dispatcher.poll() is None

    def test_a_file_that_others_can_read(self, dispatcher: Popen[str], pool_file: Path) -> None:
        pool_file.chmod(0o644)
        with pytest.raises(MiraiError, match="can be read by others"):
            connect(pool_file)
        assert dispatcher.poll() is None

    @pytest.mark.parametrize(
        "options",
        [{"timeout": 0}, {"timeout": "soon"}, {"seed": "x"}, {"memory": 0}, {"serial": [1]}],
    )
    def test_what_makes_no_sense(self, pool_file: Path, options: dict[str, Any]) -> None:
        with pytest.raises((TypeError, ValueError), match=next(iter(options))):
            connect(pool_file, **options)


def test_what_came_before_the_end_of_a_connection_is_still_read() -> None:
    """Nobody had looked at the link before the dispatcher was gone."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    server, client = KeyPair.new(), KeyPair.new()
    gate: security.Gate[str] = security.Gate()
    gate.admit(client.public, "client")
    zap = context.socket(zmq.ROUTER)
    zap.bind(security.ZAP_ENDPOINT)
    router = security.listen(context, server)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    link = Link(f"tcp://127.0.0.1:{port}", client, server.public, ToClient)
    link.send(Hello(VERSION))
    zap.send_multipart(gate.answer(zap.recv_multipart()))
    route = router.recv_multipart()[0]
    for message in (Report(1, PoolReport(0, 0, 0, 0, 0, 0)), Stop()):
        router.send_multipart([route, *encode(message)])
    context.destroy(linger=5_000)
    while not link.ended:
        link.wait(20)
    assert [type(message) for message in link.receive()] == [Report, Stop]
    link.close()


# ── supervisors ──────────────────────────────────────────────────────────────────────────


class TestSupervisor:
    def test_daemons_join_with_their_tags(
        self, command: Command, dispatcher: Popen[str], pool_file: Path
    ) -> None:
        command("daemon", pool_file, "-n", 2, "--tags", "gpu,big")
        with connect(pool_file) as pool:
            pool.wait(2, timeout=20)
            assert [daemon.tags for daemon in pool.status().daemons] == [("big", "gpu")] * 2
            assert sum(mirai_map(abs, range(-1_000, 0)).collect()) == 500_500
        assert dispatcher.poll() is None

    def test_with_a_file_for_daemons_only_tasks_submit_none(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, tmp_path: Path
    ) -> None:
        Connection.read(pool_file).only(Role.DAEMON).write(tmp_path / "daemon.json")
        command("daemon", tmp_path / "daemon.json")

        def named() -> int:
            with daemons(1, profile="mine"), use_profile("mine"):
                return mirai(abs, -2).result()

        with connect(pool_file):
            for inner in (
                lambda: mirai(abs, -1).result(),
                lambda: mirai_map(abs, [-1]).collect(),
            ):
                with pytest.raises(MiraiError, match="file for daemons only: its tasks cannot"):
                    mirai(inner).result(timeout=20)
            assert mirai(named).result(timeout=30) == 2
        assert dispatcher.poll() is None

    @pytest.mark.thorough
    def test_one_that_crashes_is_replaced(
        self, command: Command, dispatcher: Popen[str], pool_file: Path
    ) -> None:
        supervisor = command("daemon", pool_file)
        with connect(pool_file):
            for _ in range(7):
                with pytest.raises(DaemonCrashed):
                    mirai(lambda: (print("last words"), os._exit(7))).result(timeout=20)
            assert mirai(abs, -1).result(timeout=20) == 1
        code, said = end(supervisor)
        assert code == 0
        assert dispatcher.poll() is None
        assert "died with exit code 7, and is replaced; the last it printed:\nlast words" in said

    @pytest.mark.parametrize("code", [0, *range(91, 97)])
    def test_a_task_cannot_end_its_place(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, code: int
    ) -> None:
        supervisor = command("daemon", pool_file)
        with connect(pool_file):
            with pytest.raises(DaemonCrashed):
                mirai(os._exit, code).result(timeout=20)
            assert mirai(abs, -1).result(timeout=20) == 1
        status, said = end(supervisor)
        assert status == 0
        assert f"died with exit code {code}, and is replaced" in said
        assert dispatcher.poll() is None

    @pytest.mark.thorough
    def test_one_that_does_not_leave_a_task_is_replaced(
        self, command: Command, pool_file: Path, tmp_path: Path
    ) -> None:
        with daemons(0, "tcp://127.0.0.1:0", grace=0.1) as pool:
            pool.connection_file(pool_file)
            command("daemon", pool_file)
            begun = tmp_path / "begun"

            def work() -> None:
                begun.touch()
                while True:
                    with contextlib.suppress(KeyboardInterrupt):
                        time.sleep(600)

            stubborn = mirai(work)
            wait_until(begun.exists)
            before = pool.status().daemons[0].pid
            stubborn.cancel()
            assert mirai(os.getpid).result(timeout=20) != before

    def test_daemons_that_never_join(self, capfd: pytest.CaptureFixture[str]) -> None:
        said: list[str] = []
        supervisor = Supervisor(lambda: Connection.new("tcp://127.0.0.1:1"), 2, say=said.append)
        supervisor._argv = [sys.executable, "-c", "raise SystemExit('cannot start')"]
        assert supervisor.run() == 1
        assert any("5 daemons in a row died" in text and "cannot start" in text for text in said)
        assert capfd.readouterr() == ("", "")

    def test_it_finishes_what_runs_and_hands_back_the_rest(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, gate: Gate
    ) -> None:
        supervisor = command("daemon", pool_file)
        with connect(pool_file) as pool:
            pool.wait(1, timeout=20)
            mirai_map(abs, range(100)).collect()
            running = mirai(gate.task(1))
            gate.wait_until_begun(1)
            waiting = [mirai(os.getpid) for _ in range(10)]
            supervisor.send_signal(signal.SIGINT)
            wait_until(lambda: pool.status().daemons[0].state == "leaving")
            command("daemon", pool_file)
            other = waiting[0].result(timeout=20)
            assert {m.result(timeout=20) for m in waiting} == {other}
            gate.open()
            assert running.result(timeout=20)[1] != other
        assert ended(supervisor)[0] == 0
        assert dispatcher.poll() is None

    def test_a_second_signal_ends_it_at_once(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, gate: Gate
    ) -> None:
        supervisor = command("daemon", pool_file)
        with connect(pool_file) as pool:
            running = mirai(gate.task())
            gate.wait_until_begun()
            supervisor.send_signal(signal.SIGTERM)
            wait_until(lambda: pool.status().daemons[0].state == "leaving")
            time.sleep(1.5 * ECHO)  # only time tells a second one from an echo of the first
            assert end(supervisor)[0] == 128 + signal.SIGTERM
            assert isinstance(running.exception(timeout=20), DaemonCrashed)
        assert dispatcher.poll() is None

    def test_killed_it_takes_its_daemons_along(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, gate: Gate, mark: str
    ) -> None:
        supervisor = command("daemon", pool_file, "-n", 2)
        with connect(pool_file) as pool:
            pool.wait(2, timeout=20)
            running = mirai(gate.task())
            gate.wait_until_begun()
            supervisor.kill()
            assert isinstance(running.exception(timeout=20), DaemonCrashed)
            supervisor.wait()
            wait_until(lambda: len(processes_marked(mark)) == 1)
            wait_until(lambda: pool.status().connections == 0)
        assert dispatcher.poll() is None

    def test_a_daemon_dies_when_its_lifeline_is_cut(
        self, dispatcher: Popen[str], pool_file: Path
    ) -> None:
        """This is what ends it where the kernel does not."""
        process = Process(boot_argv("mirai._daemon"), os.fsencode(search_path()))
        supervisor = Supervisor(lambda: Connection.read(pool_file), 0, say=print)
        introduction = supervisor._introduction(process, Place(0.0, 0.0), 0.0)
        process.configure(json.dumps(introduction).encode() + b"\n", lifeline=True)
        with connect(pool_file) as pool:
            pool.wait(1, timeout=20)
            assert process._popen.stdin is not None
            process._popen.stdin.close()
            wait_until(lambda: process.reap() == 1)
        process.close()
        supervisor._close()
        assert dispatcher.poll() is None

    @pytest.mark.parametrize("limit", ["--idle-time=200ms", "--wall-time=0.5", "--max-tasks=3"])
    def test_limits(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, limit: str
    ) -> None:
        supervisor = command("daemon", pool_file, limit)
        with connect(pool_file):
            assert [mirai(abs, -i).result(timeout=20) for i in range(3)] == [0, 1, 2]
        code, said = ended(supervisor)
        assert (code, said.splitlines()[-1]) == (0, "mirai daemon: a limit is reached")
        assert dispatcher.poll() is None

    def test_a_key_that_is_refused(
        self, command: Command, dispatcher: Popen[str], pool_file: Path, tmp_path: Path
    ) -> None:
        right = Connection.read(pool_file)
        false = tmp_path / "false.json"
        Connection(right.url, right.server, {Role.DAEMON: KeyPair.new()}).write(false)
        code, said = ended(command("daemon", false, "-n", 2))
        assert (code, said.splitlines()[-1]) == (3, "mirai daemon: the dispatcher refuses us")
        assert dispatcher.poll() is None

    @pytest.mark.thorough
    def test_a_dispatcher_that_is_another_one(
        self, dispatcher: Popen[str], pool_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mirai._comeback.FIRST_DELAY", 0.001)
        right = Connection.read(pool_file)
        false = Connection(right.url, KeyPair.new().public, right.keys)
        said: list[str] = []
        assert Supervisor(lambda: false, 1, say=said.append).run() == 3
        assert said[-1].startswith("the dispatcher does not prove the key that we expect")
        assert dispatcher.poll() is None

    def test_a_file_without_a_daemons_key(
        self, command: Command, dispatcher: Popen[str], pool_file: Path
    ) -> None:
        Connection.read(pool_file).only(Role.CLIENT).write(pool_file)
        code, said = ended(command("daemon", pool_file))
        assert (code, said) == (1, "mirai daemon: this connection file holds no key of a daemon\n")
        assert dispatcher.poll() is None


# ── the dispatcher comes and goes ────────────────────────────────────────────────────────


class TestRestart:
    @pytest.mark.thorough
    @pytest.mark.parametrize("lasting", [True, False])
    def test_daemons_come_back(self, command: Command, tmp_path: Path, lasting: bool) -> None:
        """With lasting keys, and with new ones in a file at the same place."""
        url = f"tcp://127.0.0.1:{free_port()}"
        file = tmp_path / ("daemon.json" if lasting else "pool.json")
        client_file = tmp_path / ("client.json" if lasting else "pool.json")
        if lasting:
            assert ended(command("keys", url)) == (0, "")
        arguments = ["--keys", tmp_path / "server.json"] if lasting else []
        first = listening(command("dispatcher", "--url", url, *arguments))
        supervisor = command("daemon", file, "-n", 2)
        with connect(client_file) as pool:
            pool.wait(2, timeout=20)
            before = {daemon.pid for daemon in pool.status().daemons}
            first.kill()
            with pytest.raises(DispatcherLost):  # by the call, where the loss is known already
                mirai(time.sleep, 600).result(timeout=20)
        first.wait()
        second = listening(command("dispatcher", "--url", url, *arguments))
        with connect(client_file) as pool:
            pool.wait(2, timeout=30)
            assert before.isdisjoint(daemon.pid for daemon in pool.status().daemons)
            assert mirai(abs, -1).result(timeout=20) == 1
        assert end(second)[0] == 0
        code, said = ended(supervisor)
        assert code == 0
        assert "the connection to the dispatcher was lost; trying again" in said
        assert said.splitlines()[-1] == "mirai daemon: the pool has stopped"

    @pytest.mark.thorough
    def test_daemons_wait_for_a_dispatcher_that_is_not_there_yet(
        self, command: Command, tmp_path: Path
    ) -> None:
        url = f"tcp://127.0.0.1:{free_port()}"
        assert ended(command("keys", url)) == (0, "")
        supervisor = command("daemon", tmp_path / "daemon.json")
        assert supervisor.stderr is not None
        supervisor.stderr.readline()
        assert "cannot be reached; trying again" in supervisor.stderr.readline()
        listening(command("dispatcher", "--keys", tmp_path / "server.json"))
        with connect(tmp_path / "client.json"):
            assert mirai(abs, -1).result(timeout=40) == 1


def free_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return int(unused.getsockname()[1])


class TestDrain:
    def test_it_finishes_what_it_has(
        self, command: Command, pool_file: Path, gate: Gate, mark: str
    ) -> None:
        dispatcher = listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        supervisor = command("daemon", pool_file)
        with connect(pool_file) as pool, connect(pool_file, "other") as other:
            pool.wait(2, timeout=20)
            running = [mirai(gate.task(x)) for x in range(2)]
            for x in range(2):
                gate.wait_until_begun(x)
            waiting = [mirai(lambda x=x: bytes(100_000 + x)) for x in range(20)]
            assert pool.status().awaiting == 20
            dispatcher.send_signal(signal.SIGTERM)
            declined = [late(pool) for _ in range(2)] + [late(other)]
            assert all("takes no more tasks" in str(error) for error in declined)
            assert all(type(error) is DispatcherLost for error in declined)
            assert not running[0].done()
            gate.open()
            assert sorted(m.result(timeout=20)[0] for m in running) == [0, 1]
            assert [len(m.result(timeout=20)) for m in waiting] == [100_000 + x for x in range(20)]
        code, said = ended(dispatcher)
        line = (
            r"mirai dispatcher: no more tasks are taken, (\d+) are left; a second signal ends.*\n"
        )
        announced = re.fullmatch(line, said)
        assert code == 0
        assert announced is not None, said
        assert int(announced[1]) >= 22
        assert not pool_file.exists()
        code, said = ended(supervisor)
        assert (code, said.splitlines()[-1]) == (0, "mirai daemon: the pool has stopped")
        assert not processes_marked(mark)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_second_signal_ends_it_at_once(
        self, command: Command, pool_file: Path, gate: Gate, number: int
    ) -> None:
        dispatcher = listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
        with connect(pool_file) as pool:
            running = mirai(gate.task())
            gate.wait_until_begun()
            dispatcher.send_signal(signal.SIGTERM)
            late(pool)
            time.sleep(1.5 * ECHO)  # only time tells a second one from an echo of the first
            assert end(dispatcher, number)[0] == 130
            assert isinstance(running.exception(timeout=20), DispatcherLost)
        assert not pool_file.exists()

    def test_an_idle_one_just_ends(self, dispatcher: Popen[str], pool_file: Path) -> None:
        assert end(dispatcher) == (0, "")
        assert not pool_file.exists()

    def test_the_pool_of_a_host_does_not_drain(self) -> None:
        pool = daemons(1)
        running = mirai(time.sleep, 600)
        wait_until(lambda: pool.status().executing == 1)
        assert pool._process is not None
        os.kill(pool._process.pid, signal.SIGTERM)
        assert isinstance(running.exception(timeout=20), DispatcherLost)


def late(pool: Daemons) -> BaseException:
    """Submit tasks until one is declined: the signal is on its way."""
    errors: list[BaseException] = []

    def is_declined() -> bool:
        submitted = pool.submit(time.sleep, (600,))
        try:
            error = submitted.exception(timeout=0.05)
        except TimeoutError:
            submitted.cancel()
            return False
        errors.append(error)  # type: ignore[arg-type]
        return True

    wait_until(is_declined)
    return errors[0]


@pytest.mark.thorough
def test_who_freezes_is_lost(command: Command, pool_file: Path, script: Script, gate: Gate) -> None:
    """A daemon and a client that are stopped, as by a machine that falls asleep."""
    listening(command("dispatcher", "-n", 1, "--connection-file", pool_file))
    client = script(
        "import time\nfrom mirai import connect, mirai\n"
        f"connect({str(pool_file)!r})\nms = [mirai(time.sleep, 600) for _ in range(5)]\n"
        "print('sent', flush=True)\ntime.sleep(600)"
    )
    assert client.stdout is not None
    assert client.stdout.readline() == "sent\n"
    with connect(pool_file) as pool:
        wait_until(lambda: pool.status().executing == 1)
        command("daemon", pool_file)
        wait_until(lambda: pool.status().executing == 2)
        client.send_signal(signal.SIGSTOP)
        wait_until(lambda: pool.status().executing == 0, 20)
        pool.scale(0)
        wait_until(lambda: pool.status().connections == 1)
        running = mirai(gate.task())
        gate.wait_until_begun()
        frozen = pool.status().daemons[0].pid
        os.kill(frozen, signal.SIGSTOP)
        assert isinstance(running.exception(timeout=20), DaemonCrashed)
        os.kill(frozen, signal.SIGCONT)
        assert mirai(os.getpid).result(timeout=20) != frozen


# ── a pool of a host, joined by others ───────────────────────────────────────────────────


class TestConnectionFile:
    def test_others_join(self, command: Command, pool_file: Path, script: Script) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            pool.connection_file(pool_file)
            command("daemon", pool_file, "-n", 2)
            pool.wait(3, timeout=20)
            client = script(
                "from mirai import connect, mirai\n"
                f"with connect({str(pool_file)!r}): print(mirai(abs, -1).result())"
            )
            assert client.communicate(timeout=30) == ("1\n", "")
            assert mirai(abs, -1).result(timeout=20) == 1
        assert not pool_file.exists()

    def test_guests_and_tasks_scale_but_give_daemons_nothing(self, pool_file: Path) -> None:
        given = {"env": {"GIVEN": "1"}, "tags": ("mine",)}
        evil = (Slot({"GIVEN": "2", "EVIL": "1"}, ("theirs",)),)

        def look() -> tuple[str | None, str | None]:
            return os.environ.get("GIVEN"), os.environ.get("EVIL")

        def grow() -> None:
            require_pool(None)._open().scale(Scale(3, evil))

        with daemons(1, "tcp://127.0.0.1:0", **given) as pool:  # type: ignore[arg-type]
            pool.connection_file(pool_file)
            with connect(pool_file, "guest") as guest:
                guest.scale(2)
                pool.wait(2, timeout=20)
                guest._open().scale(Scale(3, evil))
                pool.wait(3, timeout=20)
                guest.scale(2)
                wait_until(lambda: pool.status().connections == 2)
            mirai(grow).result(timeout=20)
            pool.wait(3, timeout=20)
            assert everywhere(look).collect() == [("1", None)] * 3
            assert {daemon.tags for daemon in pool.status().daemons} == {("mine",)}

    def test_one_role_only(self, pool_file: Path, tmp_path: Path) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            pool.connection_file(pool_file, role="client")
            pool.connection_file(tmp_path / "daemon.json", role="daemon", advertise="head")
            assert list(Connection.read(pool_file).keys) == [Role.CLIENT]
            daemon_file = Connection.read(tmp_path / "daemon.json")
            assert list(daemon_file.keys) == [Role.DAEMON]
            assert daemon_file.url == pool.url.replace("127.0.0.1", "head")
            with pytest.raises(ValueError, match="role"):
                pool.connection_file(pool_file, role="king")  # type: ignore[arg-type]
        assert os.listdir(tmp_path) == []

    def test_one_that_was_replaced_meanwhile_stays(self, pool_file: Path) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            pool.connection_file(pool_file)
            Connection.new("tcp://127.0.0.1:1").write(pool_file)
        assert pool_file.exists()

    def test_only_where_others_can_come(self, dispatcher: Popen[str], pool_file: Path) -> None:
        with daemons(1) as pool, pytest.raises(MiraiError, match="tcp://"):
            pool.connection_file(pool_file)
        with connect(pool_file) as joined, pytest.raises(MiraiError, match="tcp://"):
            joined.connection_file(pool_file)
        assert dispatcher.poll() is None

    def test_a_guest_that_is_a_daemon_is_no_client(self, pool_file: Path) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            pool.connection_file(pool_file)
            found = Connection.read(pool_file)
            false = {Role.CLIENT: found.pair(Role.DAEMON)}
            Connection(found.url, found.server, false).write(pool_file)
            with pytest.raises(MiraiError):
                connect(pool_file)
            pool_file.unlink()
