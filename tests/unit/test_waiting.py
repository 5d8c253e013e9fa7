"""Waiting for tasks of a board: what is to be expected."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.boards import Tally
from mirai.queues.boards._waiting import Outlook, Watch


class Leaving:
    """A crew with a loop of its own, whose last worker is gone after so many looks at it."""

    is_own = True

    def __init__(self, looks: int) -> None:
        self._looks = looks

    @property
    def ids(self) -> list[str]:
        self._looks -= 1
        return ["w"] if self._looks >= 0 else []


class Done:
    """The counts of a board on which all tasks and workers have ended."""

    def tally(self) -> Tally:
        return Tally(finished=1)


@pytest.mark.parametrize("looks", range(4))
def test_the_last_worker_may_leave_at_any_moment(looks: int) -> None:
    """All is done then: nobody says that it never will be."""
    store: Any = Done()
    crew: Any = Leaving(looks)
    watch = Watch(store, [crew], list, None)
    seen = []
    while not seen or seen[-1] is Outlook.OPEN:
        seen.append(watch.look())
    assert seen[-1] is Outlook.ENDED
