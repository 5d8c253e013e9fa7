"""Signals that a supervisor gets: which of them are one and the same."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from mirai._connection import Connection
from mirai._launched import Launched
from mirai._supervisor import LAUNCHED_ECHO, Supervisor


@pytest.fixture
def made() -> Iterator[list[Supervisor]]:
    """Collect supervisors, and close them."""
    all: list[Supervisor] = []
    yield all
    for each in all:
        each._close()


def supervisor(made: list[Supervisor], launched: Launched | None) -> Supervisor:
    there = Connection.new("tcp://127.0.0.1:1")
    made.append(Supervisor(lambda: there, 0, say=lambda _: None, launched=launched))
    return made[-1]


@pytest.mark.parametrize(
    ("launched", "before", "count"),
    [(Launched(), 1.0, 1), (Launched(), LAUNCHED_ECHO + 1, 2), (None, 1.0, 2), (None, 0.0, 1)],
)
def test_a_job_hears_its_platform_and_its_script_as_one(
    made: list[Supervisor], launched: Launched | None, before: float, count: int
) -> None:
    it = supervisor(made, launched)
    it._on_signal(signal.SIGTERM)
    it._signalled -= before  # so long ago
    it._on_signal(signal.SIGTERM)
    assert len(it._signals) == count
