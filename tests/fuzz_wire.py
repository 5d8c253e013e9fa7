"""Any bytes, as frames from a peer, to the decoder and on to the core.

``python -m tests.fuzz_wire`` has atheris think of the bytes, until it is stopped or has found
something; arguments are libFuzzer's, such as ``-runs=1000000`` or ``-max_total_time=600``.  The
tests in ``unit/test_fuzz_wire.py`` have hypothesis do so.

Whatever comes, the decoder returns a message that the peer may send or raises ProtocolError, the
core, or the boards, take the message or refuse it and stay consistent, and what they answer can be
encoded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

from dispatcher.boards import Row, Worker
from dispatcher.core import Dispatcher
from dispatcher.events import CutOff, Event, Illegal, Joined, Lost, Role, Send
from dispatcher.messages import (
    VERSION,
    Consult,
    Crash,
    Done,
    FromClient,
    FromDaemon,
    Function,
    Hello,
    Kind,
    Outcome,
    ProtocolError,
    Reply,
    Results,
    Returned,
    Run,
    Submit,
    Task,
)
from dispatcher.requests import Enter, Given, Pop, Push
from dispatcher.tables import Tables
from dispatcher.wire import Reader, encode

HONEST, CLIENT, DAEMON, WORKER = 1, 2, 3, 4
"""Two clients and two daemons; the honest client's tasks are for the worker alone."""
ROLES = {HONEST: Role.CLIENT, CLIENT: Role.CLIENT, DAEMON: Role.DAEMON, WORKER: Role.DAEMON}

BOARD = "the honest client's own board, whose name nobody guesses"
WORDS = [b"", *sorted({kind.__name__.encode() for kind in get_args(FromClient | FromDaemon)})]
MANY = 100
"""Rounds in which the worker, who serves all clients in turn, must come to a task."""


class Target:
    """A core, and peers of it: two that behave, and two that say what the fuzzer thinks of."""

    def __init__(self) -> None:
        self._core = Dispatcher(grace=1.0, kept=2, spare=1)
        self._tables = Tables()
        self._readers = {Role.CLIENT: Reader(FromClient), Role.DAEMON: Reader(FromDaemon)}
        self._now = 0.0
        self._last = 0  # the honest client's task
        self._answered: set[int] = set()
        self._hand: list[int] = []  # what the worker was given
        for peer in ROLES:
            self._join(peer)
        self._take(HONEST, Submit((), (Function(1, "f", b"f"),)))
        self._consult(HONEST, Consult(1, BOARD, Enter(Worker("w"))))

    def feed(self, peer: int, frames: Sequence[Any]) -> None:
        """Have CLIENT or DAEMON send these frames."""
        try:
            event: Event = self._readers[ROLES[peer]].read(frames)
        except ProtocolError as error:
            event = Illegal(str(error))
        if isinstance(event, Consult):
            self._consult(peer, event)
        else:
            self._take(peer, event)

    def work(self) -> None:
        """Have the honest client's next task done, whatever else the worker has to do first."""
        self._last += 1
        self._take(HONEST, Submit((Task(self._last, 1, b"", tags=("worker",)),)))
        for _ in range(MANY):
            if self._last in self._answered:
                return
            done = Done(tuple(Outcome(key, Kind.VALUE) for key in self._hand))
            self._hand.clear()
            self._take(WORKER, done)
            self._take(WORKER, Returned(()))
        raise AssertionError("an honest client's task was not done")

    def pop(self) -> None:
        """Have the honest client push a task to a board of its own, and take it."""
        self._last += 1
        rows = (Row(f"{self._last}", b"xs"),)
        self._consult(HONEST, Consult(1, BOARD, Push(rows)))
        given = self._consult(HONEST, Consult(2, BOARD, Pop("w", 1.0)))
        assert isinstance(given, Given)
        assert [row and row.key for row in given.rows] == [rows[0].key]

    def _consult(self, peer: int, consult: Consult) -> object:
        """Have the tables answer; return what an honest client is told."""
        self._now += 0.001
        self._tables.take(peer, consult)
        told = None
        for number, message in self._tables.turn(self._now):
            encode(message)
            if number == HONEST and isinstance(message, Reply):
                told = message.answer
        self._tables.check()
        return told

    def _join(self, peer: int) -> None:
        tags = ("worker",) if peer == WORKER else ()
        self._take(peer, Joined(ROLES[peer], Hello(VERSION, "host", peer, tags)))

    def _take(self, peer: int, event: Event) -> None:
        self._now += 0.001
        commands = self._core.handle([(peer, event)], self._now)
        self._core.check()
        for command in commands:
            match command:
                case Send(peer, message):
                    encode(message)
                    if peer == WORKER and isinstance(message, Run):
                        self._hand += [task.id for task in message.tasks]
                    if peer == HONEST and isinstance(message, Results):
                        self._answered.update(outcome.id for outcome in message.outcomes)
                case CutOff(peer):
                    assert peer in (CLIENT, DAEMON), "somebody innocent was cut off"
                    self._tables.lose(peer)
                    self._tables.check()
                    self._take(peer, Lost(Crash("it was cut off")))
                    self._join(peer)


def split(data: bytes) -> tuple[int, list[bytes]]:
    """Make a peer, and frames, of any bytes.

    The first says who it is, how many frames follow the header, and, so that not all of them must
    be guessed, which message it might be; the second how many fields that has.
    """
    if len(data) < 2:
        return CLIENT, [data]
    who, cuts, word = data[0] & 1, data[0] >> 1 & 3, WORDS[(data[0] >> 3) % len(WORDS)]
    start = bytes([0x90 | data[1] & 0xF, 0xA0 | len(word)]) + word if word else b""
    body = data[2:]
    frames = [body[index : index + 1] for index in range(cuts)]
    return (CLIENT, DAEMON)[who], [start + body[cuts:], *frames]


def one_input(data: bytes) -> None:
    """Feed messages that a 0xC1, which MessagePack never uses, stands between."""
    target = Target()
    for part in data.split(b"\xc1")[:8]:
        target.feed(*split(part))
    target.work()
    target.pop()


def main(argv: list[str]) -> int:
    """Fuzz."""
    try:
        import atheris
    except ImportError:
        sys.stderr.write("atheris is not installed: pip install atheris\n")
        return 2
    for name in [name for name in sys.modules if name.partition(".")[0] == "dispatcher"]:
        del sys.modules[name]
    with atheris.instrument_imports(include=["dispatcher"]):  # once more, to be watched
        watched = import_module("tests.fuzz_wire")
    atheris.Setup(argv, watched.one_input)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
