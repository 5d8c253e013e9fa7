"""A TCP proxy that fails as networks do, on command."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")

CHUNK = 65_536
BACKLOG = 4_096
NO_LINGER = struct.pack("ii", 1, 0)
LOCAL = "127.0.0.1"


class Way(Enum):
    """The directions of a connection."""

    IN = "towards the target"
    OUT = "towards whoever has connected"


BOTH = (Way.IN, Way.OUT)


@dataclass(eq=False)
class _Lane:
    """One direction of one connection."""

    source: socket.socket
    sink: socket.socket
    allowance: int | None = None  # how many bytes may pass until the connection is cut


class _Pair:
    """One connection: from whoever has connected, and on to the target."""

    def __init__(self, near: socket.socket) -> None:
        self.near = near
        self.far = socket.socket()
        self.far.setblocking(False)
        self.lanes = {Way.IN: _Lane(near, self.far), Way.OUT: _Lane(self.far, near)}
        self.reset = False  # whether it ends with a reset

    def close(self) -> None:
        for end in (self.near, self.far):
            if self.reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
            end.close()


class Proxy:
    """Passes connections on to ``target``, in a thread of its own, until told to do otherwise.

    A method returns when its fault has happened.  Most strike the connections that are there;
    ``delay``, ``hold`` and ``refuse`` those to come too.
    """

    def __init__(self, target: str) -> None:
        """``target`` is a URL."""
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._pairs: dict[asyncio.Task[None], _Pair] = {}
        self._delay = 0.0
        self._held: set[Way] = set()
        self._change = asyncio.Event()
        self.accepted = 0
        """How many connections there have been."""
        # It never listens: it keeps the port while connections are refused.
        self._keeper = _bound((LOCAL, 0))
        self._address = self._keeper.getsockname()
        self.url = f"tcp://{LOCAL}:{self._address[1]}"
        self._listener: socket.socket | None = None
        self._acceptor: asyncio.Task[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")
        self._thread.start()
        self._do(self._listen)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.refuse()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._keeper.close()

    # ── faults ───────────────────────────────────────────────────────────────────────────

    def delay(self, seconds: float) -> None:
        """Let everything take so much longer, each way."""
        self._delay = seconds

    def hold(self, *ways: Way) -> None:
        """Be a black hole: take everything, and pass on nothing, not even an end."""
        self._do(lambda: self._held.update(ways or BOTH))

    def refuse(self) -> None:
        """Cut all connections, and take no new ones."""
        self._run(self._unlisten())
        self.cut()

    def cut(self) -> None:
        """End all connections, as the kernel of a process that has died does."""
        self._run(self._end_all())

    def reset(self) -> None:
        """End all connections at once (RST): what is on its way is lost."""
        self._run(self._end_all(reset=True))

    def half_close(self, way: Way) -> None:
        """Say that nothing more will come this way, and go on with the other."""
        self._do(lambda: [_shut(pair.lanes[way].sink) for pair in self._pairs.values()])

    def truncate(self, way: Way, after: int) -> None:
        """Let so many bytes more pass this way, and then cut, in the middle of whatever it is."""

        def limit() -> None:
            for pair in self._pairs.values():
                pair.lanes[way].allowance = after

        self._do(limit)

    def heal(self) -> None:
        """Be a good proxy again.  What was held goes on."""

        def mend() -> None:
            self._delay = 0.0
            self._held.clear()
            self._change.set()
            self._change = asyncio.Event()
            if self._listener is None:
                self._listen()

        self._do(mend)

    @property
    def connections(self) -> int:
        """How many there are."""
        return len(self._pairs)

    # ── the thread ───────────────────────────────────────────────────────────────────────

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _do(self, act: Callable[[], T]) -> T:
        async def doing() -> T:
            return act()

        return self._run(doing())

    def _listen(self) -> None:
        self._listener = _bound(self._address)
        self._listener.listen(BACKLOG)
        self._acceptor = self._loop.create_task(self._accept(self._listener))

    async def _unlisten(self) -> None:
        if self._listener is not None and self._acceptor is not None:
            await _cancel([self._acceptor])
            self._listener.close()
            self._listener = None

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            near, _ = await self._loop.sock_accept(listener)
            self.accepted += 1
            pair = _Pair(near)
            task = self._loop.create_task(self._serve(pair))
            self._pairs[task] = pair
            task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._pairs.pop(task).close()
        if not task.cancelled():
            task.result()

    async def _serve(self, pair: _Pair) -> None:
        await self._passage(*BOTH)
        try:
            await self._loop.sock_connect(pair.far, self._target)
            async with asyncio.TaskGroup() as group:
                for way, lane in pair.lanes.items():
                    group.create_task(self._carry(way, lane))
        except* OSError:  # an end is gone, or the target is not there
            pass

    async def _carry(self, way: Way, lane: _Lane) -> None:
        """Pass on what comes, until no more does.  Raises OSError when the connection ends."""
        while data := await self._loop.sock_recv(lane.source, CHUNK):
            await asyncio.sleep(self._delay)
            await self._passage(way)
            allowance = lane.allowance
            await self._loop.sock_sendall(lane.sink, data[:allowance])
            if allowance is not None:
                lane.allowance = max(0, allowance - len(data))
                if len(data) > allowance:
                    raise ConnectionAbortedError
        await self._passage(way)
        _shut(lane.sink)

    async def _passage(self, *ways: Way) -> None:
        """Wait until nothing is held that goes these ways."""
        while self._held.intersection(ways):
            await self._change.wait()

    async def _end_all(self, *, reset: bool = False) -> None:
        for pair in self._pairs.values():
            pair.reset = reset
        await _cancel(list(self._pairs))


def _bound(address: tuple[str, int]) -> socket.socket:
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setblocking(False)
    bound.bind(address)
    return bound


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        end.shutdown(socket.SHUT_WR)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
