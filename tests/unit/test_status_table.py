"""How a status is printed: what was refused only if something was."""

from __future__ import annotations

from dispatcher.messages import PoolReport, Refusals
from mirai._status import Status


def printed(rejected: int, refusals: Refusals) -> str:
    return str(Status.of("default", "here", PoolReport(0, 0, 0, 0, 0, rejected, refusals=refusals)))


def test_where_nothing_was_refused_nothing_is_said_of_it() -> None:
    assert "refused" not in printed(0, Refusals())


def test_refusals_are_one_line() -> None:
    lines = printed(4, Refusals(keys=1, strangers=2, peers=3)).splitlines()
    assert lines[2] == "refused: 1 keys, 2 strangers, 4 messages; 3 peers cut off"
    assert "refused: 0 keys, 0 strangers, 1 messages; 0 peers cut off" in printed(1, Refusals())
    assert "refused: 1 keys" in printed(0, Refusals(keys=1))
