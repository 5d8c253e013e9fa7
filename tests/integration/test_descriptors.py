"""A dispatcher has room for many peers; who it starts has what others expect."""

from __future__ import annotations

import os
import re
import resource
import select
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from conftest import Command, listening, wait_until

from dispatcher import descriptors
from mirai import DaemonCrashed, connect, daemons, mirai
from mirai._connection import Connection

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are read in /proc")

FEW, MANY = 200, 2_000
LIMITED = ["sh", "-c", f'ulimit -Sn {FEW} && ulimit -Hn {MANY} && exec "$@"', "sh"]
CROWD = 500


def limits_of(pid: int) -> tuple[int, int]:
    """Return how many descriptors a process may have, and to how many it may raise that."""
    found = re.search(
        r"^Max open files +(\d+) +(\d+)", Path(f"/proc/{pid}/limits").read_text(), re.M
    )
    assert found is not None
    return int(found[1]), int(found[2])


def own_limits() -> tuple[int, int]:
    return resource.getrlimit(resource.RLIMIT_NOFILE)


@pytest.fixture
def few() -> Iterator[None]:
    """Have this process, as most shells would, with few descriptors that it may raise."""
    former = own_limits()
    resource.setrlimit(resource.RLIMIT_NOFILE, (512, former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, former)


def test_a_crowd_finds_room(command: Command, tmp_path: Path) -> None:
    """More than descriptors were given for, and all at once."""
    pool_file = tmp_path / "pool.json"
    dispatcher = listening(
        command("dispatcher", "-n", 1, "--connection-file", pool_file, inside=LIMITED)
    )
    assert limits_of(dispatcher.pid) == (MANY, MANY)
    host, _, port = Connection.read(pool_file).url.removeprefix("tcp://").rpartition(":")
    with connect(pool_file) as pool, ExitStack() as stack:
        pool.wait(1, timeout=20)
        dispatcher.send_signal(signal.SIGSTOP)
        waiting = select.poll()
        for _ in range(CROWD):
            each = stack.enter_context(socket.socket())
            each.setblocking(False)
            each.connect_ex((host, int(port)))
            waiting.register(each, select.POLLOUT)
        wait_until(lambda: len(waiting.poll(0)) == CROWD)  # all are connected
        dispatcher.send_signal(signal.SIGCONT)
        with connect(pool_file, "late") as late:  # the last in the queue
            assert late.submit(abs, (-1,)).result(timeout=20) == 1


@pytest.mark.usefixtures("few")
def test_tasks_have_what_was_given_to_the_host() -> None:
    """On the first daemons, and on those that are started later."""
    expected = own_limits()
    with daemons(1) as pool:
        assert pool._process is not None
        assert mirai(own_limits).result() == expected
        assert limits_of(pool._process.pid) == (expected[1], expected[1])
        assert isinstance(mirai(os._exit, 1).exception(), DaemonCrashed)
        assert mirai(own_limits).result() == expected
    assert own_limits() == expected
    assert descriptors._given is None
