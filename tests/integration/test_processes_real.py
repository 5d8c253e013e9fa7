"""Local daemons' processes, and their keys, without a pool around them."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest
import zmq
from conftest import processes_marked, wait_until

from dispatcher.keys import KeyPair
from dispatcher.messages import VERSION, Hello
from dispatcher.processes import Process
from dispatcher.security import ZAP_ENDPOINT, Gate, dial, listen
from dispatcher.sockets import waiting_messages
from dispatcher.wire import encode
from mirai._pool import PoolKeys, dispatcher_config
from mirai._pool_options import PoolOptions
from mirai._process import DispatcherProcess

ECHO = "import sys\nfor line in sys.stdin: print('got', line, end='', flush=True)"


@pytest.fixture
def process() -> Iterator[Process]:
    process = Process([sys.executable, "-c", ECHO], b"first\n")
    yield process
    process.kill()
    process.wait()
    process.close()


def said(process: Process) -> str:
    process.read_output()
    return process.tail()


def test_what_is_written_first_and_what_it_says(process: Process) -> None:
    wait_until(lambda: said(process) == "got first")
    process.configure(b"second\n")
    wait_until(lambda: process.reap() is not None)
    assert process.exit_code == 0
    assert process.tail() == "got first\ngot second"


def test_the_blow_falls_only_while_it_is_busy_with_that_task(process: Process) -> None:
    assert process._watermark is not None
    process._watermark.set(5)
    process.kill_if_busy_with(range(4, 5))  # it has gone on to another task
    process.configure(b"alive\n")
    wait_until(lambda: said(process).endswith("got alive"))
    wait_until(lambda: process.reap() is not None)
    assert process.exit_code == 0


def test_once_reaped_its_number_may_be_anothers(process: Process) -> None:
    process.configure(b"last\n")
    wait_until(lambda: process.reap() is not None)
    other = Process([sys.executable, "-c", ECHO], b"")
    process.pid = other.pid
    process.kill()
    other.configure(b"alive\n")
    wait_until(lambda: other.reap() is not None)
    assert (other.exit_code, said(other)) == (0, "got alive")
    other.close()


def test_a_dispatcher_that_is_told_to_leave_while_it_boots(mark: str) -> None:
    """Its first daemon tells it, and would never leave by itself."""
    keys = PoolKeys(KeyPair.new(), KeyPair.new(), {})
    config = dispatcher_config(PoolOptions(2), keys, (), "default")
    config["plan"]["argv"] = ["/bin/sh", "-c", "kill -TERM $PPID; exec sleep 600"]
    dispatcher = DispatcherProcess(config)
    assert dispatcher.how_it_ended(30) == "exit code 0"
    assert not processes_marked(mark)
    dispatcher.end()


def test_and_then_it_falls(process: Process) -> None:
    assert process._watermark is not None
    process._watermark.set(5)
    process.kill_if_busy_with(range(4, 6))
    wait_until(lambda: process.reap() is not None)
    assert process.exit_code == -signal.SIGKILL
    process.kill_if_busy_with(range(4, 6))  # once more does no harm


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(FileNotFoundError):
        Process(["/no/such/program"], b"")


def test_a_revoked_key_opens_no_door() -> None:
    """As when the daemon that it belonged to is dead."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    gate: Gate[str] = Gate()
    server, daemon = KeyPair.new(), KeyPair.new()
    zap = context.socket(zmq.ROUTER)
    zap.bind(ZAP_ENDPOINT)
    router = listen(context, server)
    router.bind("tcp://127.0.0.1:0")
    url = router.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(url, bytes)

    def knock() -> bool:
        """Return whether a Hello with this key arrives; the gate answers in between."""
        dealer = dial(context, daemon, server.public)
        monitor = dealer.get_monitor_socket(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        dealer.connect(url.rstrip(b"\0").decode())
        dealer.send_multipart(encode(Hello(VERSION)))
        arrived: list[bool] = []

        def decided() -> bool:
            for request in waiting_messages(zap):
                zap.send_multipart(gate.answer(request))
            arrived.extend(True for _ in waiting_messages(router))
            arrived.extend(False for _ in waiting_messages(monitor))
            return bool(arrived)

        wait_until(decided)
        for socket in (dealer, monitor):
            socket.close(linger=0)
        return arrived[0]

    try:
        assert not knock()
        gate.admit(daemon.public, "daemon")
        assert knock()
        gate.revoke(daemon.public)
        assert not knock()
    finally:
        context.destroy(linger=0)
