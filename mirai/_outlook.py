"""Who is still to come of all launches of a pool, and who never will.

The dispatcher is told of all launches together, so that a task waits as long as one of them may
bring a daemon for it, and no longer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from dispatcher.messages import Expect, FromHost

Tell = Callable[[FromHost], None]
"""Tells the dispatcher something, without waiting."""


@dataclass(slots=True, eq=False)
class View:
    """What one launcher's daemons are: which are still to come, and whether none will."""

    tags: tuple[str, ...] = ()
    expected: tuple[str, ...] = ()
    is_hopeless: bool = False


class Outlook:
    """The views of all launchers of a pool.  For any thread."""

    def __init__(self, others: tuple[tuple[str, ...], ...] = ()) -> None:
        """``others``: the tags of daemons that may come otherwise, such as local ones."""
        self._others = others
        self._guard = threading.RLock()  # guards what follows, and the order of what is told
        self._views: list[View] = []
        self._told: tuple[str, ...] = ()

    def forgo(self, tags: tuple[str, ...]) -> None:
        """Those that might come otherwise will not, who carry these tags."""
        with self._guard:
            self._others = tuple(each for each in self._others if each != tags)

    def add(self, tags: tuple[str, ...]) -> View:
        """Have one more launcher, of daemons that carry these tags."""
        view = View(tags)
        with self._guard:
            self._views.append(view)
        return view

    def expect(self, view: View, jobs: tuple[str, ...], tell: Tell) -> None:
        """These are still to come of one launcher's; tell of all, if that has changed."""
        with self._guard:
            view.expected = jobs
            expected = tuple(job for each in self._views for job in each.expected)
            if expected != self._told:
                self._told = expected
                tell(Expect(expected))

    def brightens(self, view: View) -> None:
        """There is hope again."""
        with self._guard:
            view.is_hopeless = False

    def darkens(self, view: View) -> tuple[tuple[str, ...], ...]:
        """Nobody will come of one launcher's; return the tags of those who still may."""
        with self._guard:
            view.is_hopeless = True
            hope = {each.tags for each in self._views if not each.is_hopeless}
            return tuple(sorted({*self._others, *hope}))
