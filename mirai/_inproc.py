"""A dispatcher in this process: the same server, whose loop the channel's thread turns.

The host is a client without a socket: its messages are handed over as they are.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
import zmq

from dispatcher.messages import Crash, Message, Stop
from dispatcher.server import Config, Server
from dispatcher.shared import AVAILABLE
from mirai._errors import MiraiError


class InProcess:
    """A ``Carrier`` to a dispatcher that lives only while somebody waits for it."""

    ended = False
    denied = False
    reached = True
    proved = True
    for_all = False
    shares = AVAILABLE

    def __init__(self, config: dict[str, Any]) -> None:
        """Listen.  Raises MiraiError if it cannot."""
        try:
            self._server = Server(msgspec.convert(config, Config))
        except (OSError, zmq.ZMQError) as error:  # a JournalError is one
            raise MiraiError(f"the dispatcher could not start: {error}") from None
        self._inbox: deque[Message] = deque()
        self.send = self._server.host(self._inbox.append)
        self.ring = self._server.ring
        self._has_daemons = False

    @property
    def url(self) -> str:
        """Where it listens for daemons."""
        return self._server.url

    @property
    def barren(self) -> Crash | None:
        """Why no daemon is there or will be started; None while there is hope."""
        return self._server.barren

    def wait(self, timeout: float | None) -> None:
        """Let the dispatcher do what there is to do; wait for that if there is nothing."""
        if not self._has_daemons:  # here, since they end with the thread that starts them
            self._has_daemons = True
            self._server.start_daemons()
        self._server.turn(0 if self._inbox else timeout)
        if self._server.failure:  # who turns the loop must not go on
            self._inbox.append(Stop(reason=self._server.failure))

    def receive(self) -> Iterator[Message]:
        """Yield what the dispatcher has told us."""
        while self._inbox:
            yield self._inbox.popleft()

    def close(self) -> None:
        """End it and its daemons."""
        self._server.close()
        self._inbox.clear()
