"""Which of two threads listens to a connection: the one that owns it, or a worker who is free.

A task that comes alone is there sooner if the thread that is to evaluate it hears of it itself.
So the owner, once it has given the worker one thing to do, lends it the ear.  From then on it only
naps, and looks now and then how things stand: while the worker listens, or is soon done with what
it has heard, it goes on napping; where that takes longer, and where the worker has heard nothing
for a while or something that is not for it, it is the owner who listens.
"""

from __future__ import annotations

import threading

NAP = 0.0005
"""How long the owner sleeps before it looks again, in seconds: for two naps may nobody listen."""


class Ear:
    """Never with both of them at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards what follows, up to the blank line
        self._listens = False  # the worker, at this moment
        self._times = 0  # how often it has
        self.lent = False
        """Whether it is the worker who may listen, and the owner who may not."""

        self._cradle = threading.Lock()  # in which the owner naps
        self._cradle.acquire()

    # ── for the owner ────────────────────────────────────────────────────────────────────

    def lend(self) -> None:
        """Let the worker listen, who has something to do just now."""
        with self._lock:
            self.lent = True

    def nap(self) -> bool:
        """Sleep a little while it is lent; return whether it still is."""
        before = self._times
        self._cradle.acquire(timeout=NAP)
        with self._lock:
            if not self._listens and self._times == before:  # it has been busy all the while
                self.lent = False
            return self.lent

    # ── for the worker ───────────────────────────────────────────────────────────────────

    def borrow(self) -> bool:
        """Begin to listen; return False if that is not for us."""
        with self._lock:
            if self.lent:
                self._listens = True
                self._times += 1
            return self.lent

    def give_back(self, *, keep: bool) -> None:
        """Cease to listen; unless we ``keep`` the right to, it is for the owner, from now on."""
        with self._lock:
            self._listens = False
            self.lent = keep
        if not keep and self._cradle.locked():
            self._cradle.release()
