"""When a local daemon counts as lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from dispatcher.messages import Crash
from dispatcher.nursery import Nursery
from dispatcher.processes import Plan, Process


class Parent:
    """Notes who is lost."""

    def __init__(self) -> None:
        self.lost: list[Process] = []

    def introduce(self, process: Process) -> dict[str, Any]:  # noqa: ARG002
        return {}

    def disown(self, process: Process, crash: Crash) -> None:  # noqa: ARG002
        self.lost.append(process)

    def retire(self, processes: Sequence[Process], count: int) -> None:  # noqa: ARG002
        raise AssertionError

    def give_up(self, crash: Crash) -> None:  # noqa: ARG002
        raise AssertionError


def test_one_that_has_died_is_lost_when_its_connection_has_ended_too() -> None:
    """Until then there may be answers of it that were not read yet."""
    parent = Parent()
    nursery = Nursery(Plan(0, [], "", {}), parent)
    process = Process([sys.executable, "-c", ""], b"")
    nursery.adopt(process)
    nursery.joined(process)
    while process.reap() is None:
        time.sleep(0.001)
    nursery._has_died(process)
    now = time.monotonic()
    nursery.bury(now)
    assert parent.lost == []
    nursery.hung_up(process, now)
    nursery.bury(now)
    assert parent.lost == [process]
    nursery.end()
