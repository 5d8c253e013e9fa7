"""Waiting for tasks of a board: what is to be expected."""

from __future__ import annotations

from typing import Any

import pytest

from dispatcher.boards import Tally
from mirai._errors import BoardError
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


class Told:
    """The counts of a board, one after the other."""

    def __init__(self, *tallies: Tally) -> None:
        self._tallies = list(tallies)

    def tally(self) -> Tally:
        return self._tallies.pop(0)


@pytest.mark.parametrize(
    "now",
    [
        Tally(),  # flushed, or begun again with nothing
        Tally(finished=1, changes=4),  # with what it had before the others were pushed
    ],
)
def test_a_board_that_was_forgotten_is_not_done(now: Tally) -> None:
    store: Any = Told(Tally(queued=3, finished=1, workers=1, changes=9), now)
    watch = Watch(store, [], list, None)
    assert watch.look() is Outlook.OPEN
    with pytest.raises(BoardError, match="the board was forgotten: it had 4 tasks"):
        watch.look()


def test_workers_alone_may_be_forgotten() -> None:
    store: Any = Told(Tally(workers=1, changes=1), Tally())
    crew: Any = Leaving(2)
    watch = Watch(store, [crew], list, None)
    assert watch.look() is Outlook.OPEN
    with pytest.raises(BoardError, match="forgotten"):
        watch.look()


@pytest.mark.parametrize(
    ("now", "outlook"),
    [
        (Tally(changes=10), Outlook.ENDED),  # it was reset
        (Tally(queued=3, finished=1, workers=1, changes=8), Outlook.OPEN),  # an end is forgotten
    ],
)
def test_what_is_not_taken_for_a_forgotten_board(now: Tally, outlook: Outlook) -> None:
    store: Any = Told(Tally(queued=2, finished=2, workers=1, changes=9), now)
    watch = Watch(store, [], list, None)
    assert watch.look() is Outlook.OPEN
    assert watch.look() is outlook
