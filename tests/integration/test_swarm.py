"""Hundreds of daemons that lose their dispatcher together, and come back together.

They are real on the wire, and nowhere else: each has a connection, and says what a daemon says.
"""

from __future__ import annotations

import random
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import zmq
from conftest import Command, listening, wait_until
from proxy import Proxy

from dispatcher.keys import KeyPair
from dispatcher.messages import VERSION, Hello, Role, Run, ToDaemon, Welcome
from dispatcher.security import dial, watch_for_silence
from dispatcher.sockets import monitor_events, receive_frames
from dispatcher.wire import Reader, encode
from mirai import Mirai, connect, mirai
from mirai._comeback import Again, Place
from mirai._connection import Connection
from mirai._ending import Ending

COUNT = 500
DESCRIPTORS = 10 * COUNT
"""What this process needs for them and for the proxy."""
FEW_DESCRIPTORS = ["sh", "-c", 'ulimit -Sn 256 && exec "$@"', "sh"]
"""As a shell gives them."""
ENDED = zmq.EVENT_DISCONNECTED | zmq.EVENT_CLOSED | zmq.EVENT_CONNECT_RETRIED
FAILED = zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

Socket = zmq.Socket[bytes]


class Member:
    """One daemon and its place at a supervisor."""

    def __init__(self) -> None:
        now = time.monotonic()
        self.place = Place(now, now)
        self.due = now
        self.socket: Socket | None = None
        self.monitor: Socket | None = None
        self.joined = False

    def leave(self) -> None:
        """End, and come back when the supervisor wants it."""
        ending = Ending.LOST if self.joined else Ending.UNREACHED
        now = time.monotonic()
        following = self.place.next(
            ending, ending, joined=self.joined, now=now, chance=random.random()
        )
        assert isinstance(following, Again)
        self.due = now + following.delay
        self.joined = False


class Swarm:
    """All of them, in one thread."""

    def __init__(self, connection: Connection) -> None:
        self._url, self._server = connection.url, connection.server
        self._pair: KeyPair = connection.pair(Role.DAEMON)
        self._context: zmq.Context[Socket] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, DESCRIPTORS)
        self._poller = zmq.Poller()
        self._reader = Reader(ToDaemon)
        self._members = [Member() for _ in range(COUNT)]
        self._owners: dict[Socket, Member] = {}

    def run_until(self, condition: Callable[[int], object]) -> None:
        """Live until ``condition`` of how many have joined is true."""

        def is_met() -> bool:
            self._turn()
            return bool(condition(sum(member.joined for member in self._members)))

        wait_until(is_met, 120)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def _turn(self) -> None:
        now = time.monotonic()
        for member in self._members:
            if member.socket is None and member.due <= now:
                self._start(member)
        for socket, _ in self._poller.poll(10):
            member = self._owners.get(socket)
            if member is None:
                continue  # it has ended in this turn
            if socket is member.socket:
                self._listen(member, socket)
            elif any(event & (ENDED | FAILED) for event, _ in monitor_events(socket)):
                self._end(member)

    def _start(self, member: Member) -> None:
        member.socket = dial(self._context, self._pair, self._server)
        member.monitor = member.socket.get_monitor_socket(ENDED | FAILED)
        for each in (member.socket, member.monitor):
            self._owners[each] = member
            self._poller.register(each, zmq.POLLIN)
        watch_for_silence(member.socket, self._url)
        member.socket.connect(self._url)
        member.socket.send_multipart(encode(Hello(VERSION, "far away")))

    def _listen(self, member: Member, socket: Socket) -> None:
        while (frames := receive_frames(socket)) is not None:
            message = self._reader.read(frames)
            assert not isinstance(message, Run), "they can do nothing"
            member.joined = member.joined or isinstance(message, Welcome)

    def _end(self, member: Member) -> None:
        assert member.socket is not None and member.monitor is not None
        member.socket.disable_monitor()
        for each in (member.socket, member.monitor):
            self._poller.unregister(each)
            del self._owners[each]
            each.close(linger=0)
        member.socket = member.monitor = None
        member.leave()


class Work:
    """What goes on meanwhile, on a daemon that can do something: one task after the other."""

    def __init__(self) -> None:
        self._running = self._next()
        self.done = 0

    def go_on(self) -> None:
        if self._running.done():
            assert self._running.result() == 1
            self.done += 1
            self._running = self._next()

    def _next(self) -> Mirai[int]:
        return mirai.options(tags=("real",))(abs, -1)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    former = resource.getrlimit(resource.RLIMIT_NOFILE)
    if resource.RLIM_INFINITY != former[1] < DESCRIPTORS:
        pytest.skip(f"this process may have no more than {former[1]} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(former[0], DESCRIPTORS), former[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, former)


@pytest.fixture
def quick_threads() -> Iterator[None]:
    """Let the proxy's thread in between our own turns."""
    former = sys.getswitchinterval()
    sys.setswitchinterval(0.0005)
    yield
    sys.setswitchinterval(former)


@pytest.mark.thorough
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("many_descriptors", "quick_threads")
def test_they_do_not_fall_over_one_another(command: Command, tmp_path: Path) -> None:
    pool_file = tmp_path / "pool.json"
    listening(command("dispatcher", "--connection-file", pool_file, inside=FEW_DESCRIPTORS))
    command("daemon", pool_file, "--tags", "real")
    found = Connection.read(pool_file)
    with (
        Proxy(found.url) as proxy,
        closing(Swarm(found.at(proxy.url))) as swarm,
        connect(pool_file) as pool,
    ):
        pool.wait(1, timeout=20)
        work = Work()

        def are_there(joined: int) -> bool:
            work.go_on()
            return joined == COUNT and pool.status().connections == COUNT + 1

        def are_lost(joined: int) -> bool:
            work.go_on()
            return joined == 0 and pool.status().connections == 1

        swarm.run_until(are_there)  # at one blow
        for _ in range(2):
            before = {daemon.id for daemon in pool.status().daemons}
            proxy.refuse()
            swarm.run_until(are_lost)
            proxy.heal()
            work.done = 0
            swarm.run_until(are_there)
            assert work.done
            after = {daemon.id for daemon in pool.status().daemons}
            assert len(before & after) == 1
        assert pool.status().cumulative == 1 + 3 * COUNT
