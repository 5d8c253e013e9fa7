"""The peers on lines: known from birth, they need only say Hello."""

from __future__ import annotations

import selectors
import time

from dispatcher.desk import Desk, Owner
from dispatcher.events import Denial
from dispatcher.hatch import Hatch
from dispatcher.line import Line
from dispatcher.messages import Message, ProtocolError
from dispatcher.wire import encode

_HEARS, _WRITES = selectors.EVENT_READ, selectors.EVENT_WRITE


class Lines:
    """All of them, each in the selector of the server's loop."""

    def __init__(self, desk: Desk, selector: selectors.BaseSelector) -> None:
        self._desk = desk
        self._selector = selector
        self._lines: set[_OnLine] = set()

    def add(self, fd: int, owner: Owner) -> None:
        """Own a descriptor of the end of a line at whose other end is ``owner``."""
        self._lines.add(_OnLine(Line(fd), owner, self._desk, self._selector, self._lines))

    def finish(self, seconds: float) -> None:
        """Wait until all have taken what was sent, for so many seconds at most."""
        until = time.monotonic() + seconds
        for each in self._lines:
            each.finish(until)

    def close(self) -> None:
        """Close all."""
        for each in list(self._lines):
            each.leave()


class _OnLine:
    """The ``Way`` to one peer."""

    def __init__(
        self,
        line: Line,
        owner: Owner,
        desk: Desk,
        selector: selectors.BaseSelector,
        lines: set[_OnLine],
    ) -> None:
        self._line = line
        self._desk = desk
        self._selector = selector
        self._lines = lines
        self._watched = _HEARS
        self._barred = False
        selector.register(line, _HEARS, self._attend)
        self._peer = desk.enter(owner, self)

    def send(self, message: Message, hatch: Hatch | None) -> bool:
        self._line.send(encode(message, hatch))
        self._look_for_room()
        return True  # if nobody hears it, the line's end will tell, after all that came before

    def bar(self, who: str, why: str) -> None:
        self._watch(0)  # it has been told: what the line has taken can still be read
        if not self._barred:
            self._barred = True
            self._desk.deny(Denial.PEER, who, why)

    def leave(self) -> None:
        self._watch(0)
        self._line.close()
        self._lines.discard(self)

    def finish(self, until: float) -> None:
        """Wait until all is sent that was, or nobody takes it, or time is up."""
        with selectors.DefaultSelector() as selector:
            while self._line.wants_to_write and (left := until - time.monotonic()) > 0:
                selector.register(self._line, _WRITES)
                selector.select(left)
                selector.unregister(self._line)
                self._line.flush()

    def _attend(self) -> None:
        """Pass on what has arrived, and send what it takes now."""
        if self._watched & _WRITES:
            self._line.flush()
            self._look_for_room()
        try:
            for frames in self._line.receive():
                self._desk.take(self._peer, frames)
        except ProtocolError as error:
            self._watch(0)
            self._desk.object(self._peer, str(error))  # who has it told why, and cut off
            return
        if self._line.ended:
            self._watch(0)
            self._desk.hang_up(self._peer)

    def _look_for_room(self) -> None:
        if self._watched:
            self._watch(_HEARS | _WRITES if self._line.wants_to_write else _HEARS)

    def _watch(self, events: int) -> None:
        if events == self._watched:
            return
        if events:
            self._selector.modify(self._line, events, self._attend)
        else:
            self._selector.unregister(self._line)
        self._watched = events
