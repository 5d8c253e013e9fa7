"""What the dispatcher logs, and at which level."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from test_core import CLIENT, CRASH, D1, TINY, Pool, done

from dispatcher.events import Barren, Event, Illegal, Joined, Lost, Role
from dispatcher.logbook import Logbook
from dispatcher.messages import Cancel, Hello, Returned

DAEMON = f"daemon {D1} (process {D1} on host{D1})"
OWNER = f"client {CLIENT} (process {CLIENT} on host{CLIENT})"


logger = logging.getLogger("dispatcher")


class Kept(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname.lower()}: {record.getMessage()}")


@pytest.fixture
def kept() -> Iterator[Kept]:
    handler = Kept()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


class Logged(Pool):
    """A dispatcher with a logbook."""

    def __init__(self, kept: Kept, daemons: tuple[int, ...] = (D1,)) -> None:
        self.logbook: Logbook | None = None
        self.kept = kept
        super().__init__(daemons)

    def step(self, *events: tuple[int, Event]) -> list[object]:  # type: ignore[override]
        commands = super().step(*events)
        self.logbook = self.logbook or Logbook(self.core)
        self.kept.lines.clear()
        self.logbook.write(events, commands)
        return list(commands)


def test_who_joins_and_who_is_gone(kept: Kept) -> None:
    pool = Logged(kept)
    assert kept.lines == [f"info: {DAEMON} has joined", f"debug: to {DAEMON}: Welcome"]
    pool.submit(1)
    pool.step((D1, Lost(CRASH, 1)))
    assert kept.lines[:2] == [
        f"info: {DAEMON} is gone: the daemon died of SIGKILL",
        f"debug: {DAEMON} had begun the task with key 1",
    ]


def test_the_way_of_a_task(kept: Kept) -> None:
    pool = Logged(kept)
    pool.submit(7)
    assert kept.lines == [
        f"debug: {OWNER}: Submit 7",
        f"debug: {DAEMON} gets client {CLIENT}'s tasks 7 as 1",
    ]
    pool.done(D1, 1)
    assert kept.lines == [f"debug: {DAEMON}: Done 1", f"debug: to {OWNER}: Results 7"]


def test_answers_that_are_late(kept: Kept) -> None:
    pool = Logged(kept)
    pool.submit(1)
    pool.step((D1, done(1, 1)), (D1, done(99)))
    assert kept.lines[-1] == "debug: 2 answers were late, double or unasked, and are dropped"
    pool.submit(2)
    assert "dropped" not in str(kept.lines)
    pool.step((CLIENT, Cancel((2,))))
    pool.done(D1, 2)
    assert "dropped" not in str(kept.lines)  # whoever was interrupted says so


def test_whoever_breaks_the_rules(kept: Kept) -> None:
    """He is told, and the server has given notice of it: here that is no more than a message."""
    pool = Logged(kept)
    pool.step((CLIENT, Returned((1,))))
    text = "only a daemon that has said hello may do this"
    assert kept.lines[-1] == f"debug: to {OWNER}: Refused {text}"
    pool.step((0, Illegal("not a message")))
    assert not any(line.startswith("warning") for line in kept.lines)


def test_a_peer_that_is_refused_at_its_hello_has_not_joined(kept: Kept) -> None:
    pool = Logged(kept)
    pool.join(12, Role.DAEMON, version=99)
    assert kept.lines and not any("has joined" in line for line in kept.lines)


def test_a_pool_that_cannot_have_daemons(kept: Kept) -> None:
    pool = Logged(kept, ())
    pool.step((0, Barren(CRASH)))
    assert kept.lines == ["warning: no daemon is there, and none will be: the daemon died"]


def test_only_what_is_asked_for(kept: Kept) -> None:
    logger.setLevel(logging.INFO)
    pool = Logged(kept)
    assert kept.lines == [f"info: {DAEMON} has joined"]
    pool.submit(1)
    pool.done(D1, 1, seconds=TINY)
    assert kept.lines == []


def test_where_nothing_is_logged_nothing_is_done() -> None:
    assert Logbook(Pool().core).is_on
    logger.disabled = True
    try:
        assert not Logbook(Pool().core).is_on
    finally:
        logger.disabled = False


def test_a_name_without_end_is_cut(kept: Kept) -> None:
    pool = Logged(kept)
    pool.step((12, Joined(Role.DAEMON, Hello(1, "x" * 10_000, 12))))
    assert all(len(line) < 200 for line in kept.lines)
