"""Starting and ending: nothing is left behind, however a pool or its host ends."""

from __future__ import annotations

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio
import zmq
from conftest import Script, processes_marked, wait_until

from dispatcher.keys import KeyPair
from dispatcher.messages import ToClient
from dispatcher.security import dial, listen
from mirai import (
    AuthenticationError,
    DispatcherLost,
    MiraiError,
    TaskCancelled,
    daemons,
    mirai,
    status,
)
from mirai._link import Link
from mirai._process import boot_argv, search_path


class TestDaemons:
    def test_a_pool_has_a_dispatcher_and_its_daemons(self, mark: str) -> None:
        with daemons(3):
            wait_until(lambda: status().connections == 3)
            assert len(processes_marked(mark)) == 4
            assert len({daemon.pid for daemon in status().daemons}) == 3

    @pytest.mark.usefixtures("dispatchers")
    def test_zero_tears_down(self, mark: str) -> None:
        daemons(2)
        assert mirai(abs, -1).result() == 1
        daemons(0)
        assert not processes_marked(mark)
        daemons(0)

    def test_a_dispatcher_that_hangs_does_not_hang_us(
        self, mark: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mirai._process.STOP_TIMEOUT", 0.2)
        pool = daemons(1)
        assert mirai(abs, -1).result() == 1
        assert pool._process is not None
        os.kill(pool._process.pid, signal.SIGSTOP)
        daemons(0)
        assert pool._process.how_it_ended(timeout=0) == "SIGKILL"
        wait_until(lambda: not processes_marked(mark))

    def test_a_second_pool_replaces_the_first(self, mark: str) -> None:
        first = daemons(2)
        daemons(1)
        assert mirai(abs, -1).result() == 1
        assert len(processes_marked(mark)) == 2
        with pytest.raises(MiraiError):
            first.submit(abs, (1,), {})

    @pytest.mark.usefixtures("dispatchers")
    def test_leaving_waits_for_the_tasks_of_the_block(self) -> None:
        with daemons(2):
            futures = [mirai(lambda x: time.sleep(0.01) or x, i) for i in range(20)]
        assert [future.result() for future in futures] == list(range(20))

    @pytest.mark.usefixtures("dispatchers")
    def test_leaving_by_an_exception_cancels_them(self) -> None:
        futures = []

        def block() -> None:
            with daemons(1):
                futures.extend(mirai(time.sleep, 60) for _ in range(5))
                raise KeyError

        with pytest.raises(KeyError):
            block()
        assert all(future.cancelled() for future in futures)
        with pytest.raises(TaskCancelled):
            futures[0].result()

    def test_leaving_an_asynchronous_block_by_an_exception_cancels_them(self) -> None:
        futures = []

        async def block() -> None:
            async with daemons(1):
                futures.extend(mirai(time.sleep, 600) for _ in range(5))
                raise KeyError

        with pytest.raises(KeyError):
            asyncio.run(block())
        assert all(future.cancelled() for future in futures)

    def test_leaving_an_asynchronous_block_does_not_block_the_loop(self) -> None:
        async def main() -> int:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0.001)
                    ticks += 1

            ticker = asyncio.create_task(tick())
            async with daemons(1):
                mirai(time.sleep, 0.3)
            ticker.cancel()
            return ticks

        assert asyncio.run(main()) > 10

    @pytest.mark.usefixtures("dispatchers")
    def test_tearing_down_does_not_wait_for_a_long_task(self) -> None:
        pool = daemons(1)
        future = mirai(time.sleep, 600)
        wait_until(lambda: status().executing == 1)
        pool.shutdown()
        assert future.cancelled()

    def test_on_trio_a_cancelled_block_is_left_when_all_is_gone(self, mark: str) -> None:
        async def main() -> int:
            with trio.move_on_after(0.3):
                async with daemons(1):
                    await mirai(time.sleep, 600)
            return len(processes_marked(mark))

        assert trio.run(main) == 0

    def test_after_ctrl_c_in_daemons_there_is_no_pool(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def interrupted(_: object) -> str:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("mirai._process.DispatcherProcess.listening_url", interrupted)
            with pytest.raises(KeyboardInterrupt):
                daemons(1)
        with pytest.raises(MiraiError, match="no daemons"):
            status()
        assert mirai(abs, -1).result(timeout=20) == 1

    def test_where_the_working_directory_is_gone(self, script: Script) -> None:
        process = script(
            "import os, sys; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
            "sys.path.insert(0, '')\n"
            "from mirai import *\nwith daemons(1): print(mirai(abs, -1).result())"
        )
        assert process.communicate(timeout=30) == ("1\n", "")

    def test_a_search_path_that_is_no_text(self, script: Script) -> None:
        process = script(
            "import sys; sys.path.append('/no/such/\\udcff')\n"
            "from mirai import *\nwith daemons(1): print(mirai(abs, -1).result())"
        )
        assert process.communicate(timeout=30) == ("1\n", "")

    def test_a_full_pool_although_many_died_at_the_start(self) -> None:
        with daemons(8) as pool:
            assert pool._process is not None
            started = Path(f"/proc/{pool._process.pid}/task/{pool._process.pid}/children")
            for pid in started.read_text().split()[:6]:
                os.kill(int(pid), signal.SIGKILL)
            pool.wait(8, timeout=30)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((1, "tcp://127.0.0.1:99999"), ValueError),
            ((1, "tcp://127.0.0.1:1\0"), ValueError),
            ((1, "tcp://127.0.0.1"), ValueError),
            ((), TypeError),
            ((-1,), ValueError),
            ((1.5,), TypeError),
            ((True,), TypeError),
            (("4",), TypeError),
            ((1, "http://x"), ValueError),
            ((1, 5), TypeError),
        ],
    )
    def test_what_is_not_a_pool(self, arguments: tuple[object], error: type[Exception]) -> None:
        with pytest.raises(error):
            daemons(*arguments)  # type: ignore[arg-type]

    @pytest.mark.usefixtures("dispatchers")
    def test_an_address_in_use(self) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            with pytest.raises(MiraiError, match="in use"):
                daemons(1, pool.url, profile="other")
            assert mirai(abs, -1).result() == 1


def keys_for_tasks() -> tuple[str, str, str]:
    """Return the dispatcher's public key, and the pair with which this task could join it."""
    from mirai._profiles import _home

    assert _home is not None
    return _home.server, _home.pair.public, _home.pair.secret


class TestUrls:
    @pytest.mark.usefixtures("dispatchers")
    def test_a_path_whose_socket_is_removed(self, tmp_path: Path) -> None:
        path = tmp_path / "socket"
        with daemons(1, f"ipc://{path}"):
            assert mirai(abs, -1).result() == 1
            assert path.exists()
        assert not path.exists()

    def test_illegal_messages_are_counted_and_their_sender_cut_off(self) -> None:
        from dispatcher.messages import VERSION, Done, Hello, Refused, Welcome
        from dispatcher.wire import decode, encode

        with daemons(1, "tcp://127.0.0.1:0") as pool:
            assert pool._keys is not None
            context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
            socket = dial(context, pool._keys.client, pool._keys.server.public)
            socket.rcvtimeo = 20_000
            socket.connect(pool.url)
            hello = encode(Hello(VERSION))
            for frames, answer in [(hello, Welcome), ([b"nonsense"], Refused)]:
                socket.send_multipart(frames)
                received = decode(socket.recv_multipart(), Welcome | Refused)
                assert type(received) is answer
            socket.send_multipart(hello)  # too late: nobody listens any more
            wait_until(lambda: status().rejected == 2)
            while socket.poll(0):
                assert type(decode(socket.recv_multipart(), Welcome | Refused)) is Refused
            context.destroy(linger=0)
            stranger = Link(pool.url, pool._keys.client, pool._keys.server.public, ToClient)
            stranger.send(Done(()))
            wait_until(lambda: status().rejected == 3)
            wait_until(lambda: [type(each) for each in stranger.receive()] == [Refused])
            stranger.close()
            assert mirai(abs, -1).result(timeout=20) == 1

    def test_the_sockets_cannot_forget_curve(self) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        pair = KeyPair.new()
        router, dealer = listen(context, pair), dial(context, pair, pair.public)
        try:
            assert router.getsockopt(zmq.MECHANISM) == dealer.getsockopt(zmq.MECHANISM) == zmq.CURVE
            assert router.getsockopt(zmq.ZAP_ENFORCE_DOMAIN) == 1
            for socket in (router, dealer):
                assert 0 < int(socket.getsockopt(zmq.HANDSHAKE_IVL)) <= 5_000
                assert int(socket.getsockopt(zmq.MAXMSGSIZE)) > 0
        finally:
            context.destroy(linger=0)

    def test_tcp(self) -> None:
        with daemons(2, "tcp://127.0.0.1:0") as pool:
            assert pool.url.startswith("tcp://127.0.0.1:")
            assert not pool.url.endswith(":0")
            assert [mirai(abs, -i).result() for i in range(100)] == list(range(100))
            assert status().url == pool.url

    @pytest.mark.parametrize("url", ["ipc", "tcp://127.0.0.1:0"])
    @pytest.mark.parametrize("wrong", ["client", "server"])
    def test_a_wrong_key_is_an_error_and_not_a_hang(self, url: str, wrong: str) -> None:
        from mirai._channel import Channel
        from mirai._options import DEFAULTS

        pool = daemons(1, None if url == "ipc" else url)
        server, *inner = mirai(keys_for_tasks).result()
        server = server if wrong == "client" else KeyPair.new().public
        client = KeyPair.new() if wrong == "client" else KeyPair(*inner)
        link = Link(pool.url, client, server, ToClient)
        channel = Channel(link, profile="thief", explain=lambda: None)
        try:
            try:
                error = channel.submit(abs, [((-1,), {})], DEFAULTS)[0].exception(timeout=20)
            except AuthenticationError as early:
                error = early  # it had ended before we submitted
            assert isinstance(error, AuthenticationError)
        finally:
            channel.close(MiraiError("the test is over"))
        assert mirai(abs, -1).result() == 1

    def test_a_daemon_key_is_no_client_key(self) -> None:
        """A daemon that says what only a client may say is cut off."""
        pool = daemons(1)
        before = mirai(os.getpid).result()

        def misbehave() -> None:
            import gc

            from dispatcher.messages import Submit
            from mirai._daemon import Daemon

            for daemon in [each for each in gc.get_objects() if isinstance(each, Daemon)]:
                daemon._link.send(Submit(()))
            time.sleep(60)

        error = mirai(misbehave).exception(timeout=20)
        assert isinstance(error, MiraiError)
        assert mirai(os.getpid).result() != before
        assert pool.status().cumulative == 2


START = """
import os, sys, time, signal
from mirai import mirai, daemons
d = daemons(2)
ms = [mirai(time.sleep, 600) for _ in range(4)]
print(mirai is not None, flush=True)
"""


def host_end(process: subprocess.Popen[str], mark: str) -> tuple[str, str]:
    out, err = process.communicate(timeout=30)
    wait_until(lambda: not processes_marked(mark))
    return out, err


def sleeps(pid: int) -> bool:
    """Return whether the process's main thread sleeps in the system."""
    stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] == "S"


DOZE = "while True: time.sleep(0.01)"
"""Sleeps, and notices also the signal that comes just before a sleep, which Python does not."""


class TestTheHostEnds:
    def test_without_tearing_down(self, script: Script, mark: str) -> None:
        process = script(START)
        _, err = host_end(process, mark)
        assert (process.returncode, err) == (0, "")

    def test_by_an_uncaught_exception(self, script: Script, mark: str) -> None:
        process = script(START + "raise RuntimeError('oops')")
        _, err = host_end(process, mark)
        assert process.returncode == 1
        assert err.strip().endswith("RuntimeError: oops")

    @pytest.mark.parametrize("ending", ["sys.exit(3)", "os._exit(3)"])
    def test_by_exit(self, script: Script, mark: str, ending: str) -> None:
        process = script(START + ending)
        host_end(process, mark)
        assert process.returncode == 3

    @pytest.mark.parametrize(
        "where", ["ms[0].result()", f"daemons(0)\n{DOZE}", DOZE], ids=["result", "ended", "doze"]
    )
    def test_by_ctrl_c(self, script: Script, mark: str, where: str) -> None:
        process = script(START + where)
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: sleeps(process.pid))  # Python takes no notice just before a sleep
        os.killpg(process.pid, signal.SIGINT)
        _, err = host_end(process, mark)
        assert process.returncode == -signal.SIGINT
        assert err.count("Traceback") == 1
        assert err.strip().endswith("KeyboardInterrupt")

    def test_by_ctrl_c_in_a_block_that_waits(self, script: Script, mark: str) -> None:
        process = script(
            "import time\nfrom mirai import mirai, daemons\n"
            "with daemons(2):\n    mirai(time.sleep, 600)\n    print(1, flush=True)\n"
        )
        assert process.stdout is not None
        process.stdout.readline()
        wait_until(lambda: sleeps(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        host_end(process, mark)
        assert process.returncode == -signal.SIGINT

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_by_a_signal(self, script: Script, mark: str, number: int) -> None:
        process = script(START + "time.sleep(60)")
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        host_end(process, mark)
        assert process.returncode == -number

    def test_by_a_signal_while_a_forked_child_lives(self, script: Script, mark: str) -> None:
        """The child has inherited the pipe whose end tells the dispatcher of the host's."""
        process = script(START + "if os.fork() == 0: time.sleep(3); os._exit(0)\ntime.sleep(60)")
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        wait_until(lambda: len(processes_marked(mark)) <= 1)

    def test_at_any_moment_of_the_start(self, script: Script, mark: str) -> None:
        """Killed while the dispatcher and its daemons are being started."""
        for delay in range(0, 200, 20):
            process = script(START + "time.sleep(60)")
            time.sleep(delay / 1_000)  # not to wait for something: to strike at some moment
            process.kill()
            wait_until(lambda: not processes_marked(mark))


class TestTheDispatcherEnds:
    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    def test_every_future_says_so(self, mark: str, number: int) -> None:
        pool = daemons(2)
        futures = [mirai(time.sleep, 600) for _ in range(10)]
        wait_until(lambda: status().executing == 2)
        os.kill(pool._process.pid, number)
        for future in futures:
            assert isinstance(future.exception(timeout=20), DispatcherLost)
        with pytest.raises(DispatcherLost):
            mirai(abs, -1)
        wait_until(lambda: not processes_marked(mark))
        with daemons(1):
            assert mirai(abs, -1).result() == 1

    def test_by_a_signal_without_a_name(self) -> None:
        pool = daemons(1)
        future = mirai(time.sleep, 600)
        os.kill(pool._process.pid, signal.SIGRTMIN + 6)
        with pytest.raises(DispatcherLost, match="signal 40"):
            future.result(timeout=20)

    @pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
    def test_a_daemon_that_cannot_hear_of_it_dies_too(self, mark: str, tmp_path: Path) -> None:
        """It holds the interpreter's lock, so that its own thread cannot end it."""

        def hold(begun: Path) -> None:
            begun.touch()
            ctypes.PyDLL(None).sleep(600)

        pool = daemons(1)
        future = mirai(hold, tmp_path / "begun")
        wait_until((tmp_path / "begun").exists)
        os.kill(pool._process.pid, signal.SIGKILL)
        assert isinstance(future.exception(timeout=20), DispatcherLost)
        wait_until(lambda: not processes_marked(mark))

    def test_the_error_says_how(self) -> None:
        pool = daemons(1)
        future = mirai(time.sleep, 600)
        os.kill(pool._process.pid, signal.SIGKILL)
        with pytest.raises(DispatcherLost, match="SIGKILL"):
            future.result(timeout=20)

    def test_while_the_channel_is_busy_and_has_more_to_send(self) -> None:
        """What it sends into the broken connection goes nowhere before it hears of the break."""
        pool = daemons(1)
        begun, go_on = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            """Keep the channel's thread until there is nobody to send to."""
            begun.set()
            go_on.wait(20)

        mirai(abs, -1).add_done_callback(hold)
        begun.wait(20)
        os.kill(pool._process.pid, signal.SIGKILL)
        pool._process.how_it_ended(timeout=20)
        futures = [mirai(abs, -1) for _ in range(10)]
        go_on.set()
        for future in futures:
            assert isinstance(future.exception(timeout=20), DispatcherLost)

    def test_while_a_block_waits(self) -> None:
        with daemons(1) as pool:
            future = mirai(time.sleep, 600)
            killer = threading.Timer(0.2, os.kill, (pool._process.pid, signal.SIGKILL))
            killer.start()
        killer.join()
        assert isinstance(future.exception(timeout=20), DispatcherLost)


class TestFork:
    def test_the_callbacks_are_the_parents(self, script: Script, mark: str) -> None:
        process = script(
            START
            + """
import warnings
warnings.simplefilter("ignore")
ms[0].add_done_callback(lambda _: print("called in", os.getpid() == parent, flush=True))
parent = os.getpid()
if (pid := os.fork()) == 0:
    os._exit(0)
os.waitpid(pid, 0)
daemons(0)
"""
        )
        out, err = host_end(process, mark)
        assert (out.split("\n")[1:], err) == (["called in True", ""], "")

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_tearing_down_does_not_wait_for_a_forked_child(self) -> None:
        """It holds the pipe whose end would tell the dispatcher to leave."""
        pool = daemons(1)
        assert mirai(abs, -1).result() == 1
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        os.close(reader)
        assert pool._process is not None
        daemons(0)
        how = pool._process.how_it_ended(timeout=0)
        os.close(writer)
        os.waitpid(child, 0)
        assert how == "exit code 0"

    @pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
    def test_a_child_that_ends_the_pool_leaves_it_to_its_parent(self, tmp_path: Path) -> None:
        with daemons(1, "tcp://127.0.0.1:0") as pool:
            pool.connection_file(tmp_path / "pool.json")
            child = os.fork()
            if child == 0:
                try:
                    pool.shutdown()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            assert (tmp_path / "pool.json").exists()
            assert mirai(abs, -1).result(timeout=20) == 1

    def test_the_child_has_no_pool_and_says_so(self, script: Script, mark: str) -> None:
        process = script(
            START
            + """
import warnings
warnings.simplefilter("ignore")  # Python 3.12 warns of a fork where there are threads
from mirai import DispatcherLost, status, MiraiError
if (pid := os.fork()) == 0:
    try: ms[0].result(timeout=5)
    except DispatcherLost as error: print("lost", "fork" in str(error))
    try: status()
    except MiraiError: print("none")
    print(mirai(abs, -2).result())
    sys.stdout.flush()
    os._exit(0)
os.waitpid(pid, 0)
print("parent", mirai is not None and not ms[0].done())
daemons(0)
"""
        )
        out, err = host_end(process, mark)
        assert (out.split(), err) == (["True", "lost", "True", "none", "2", "parent", "True"], "")


@pytest.mark.parametrize("module", ["dispatcher.__main__", "mirai._daemon"])
@pytest.mark.parametrize("whole", ["nothing", "search path"])
@pytest.mark.parametrize("part", [b"", b"{"])
def test_a_process_whose_parent_dies_before_it_has_told_it_all(
    module: str, whole: str, part: bytes
) -> None:
    told = os.fsencode(search_path()) if whole == "search path" else b""
    ended = subprocess.run(boot_argv(module), input=told + part, capture_output=True, timeout=30)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
