"""Workers of a board that were started here: each is one long task of a pool of its own."""

from __future__ import annotations

import queue
import threading

from dispatcher.boards import Store, WorkerState
from dispatcher.log import Guarded
from mirai._errors import BoardLost, DaemonCrashed, MiraiError, StoreError, TaskCancelled
from mirai._future import Mirai
from mirai._options import TaskOptions
from mirai._pool import Daemons
from mirai.queues.boards._places import Place
from mirai.queues.boards._values import in_words
from mirai.queues.boards._view import new_key
from mirai.queues.boards._worker import Calls, Duty, work

logger = Guarded("mirai")

AGAIN = 5.0
"""Seconds after which a board that did not answer is told again what has become of a worker."""


class Crew:
    """Workers with the same duty.

    What a pool does for its daemons it does for them: it starts them anywhere, keeps what they
    print, says how they ended, and leaves none behind.  One that crashes is noted on the board at
    once, without waiting for its heartbeat, and replaced, ``restarts`` times in all; so is one that
    has ended because the board did not answer, when that does again.
    """

    def __init__(
        self,
        pool: Daemons,
        store: Store,
        place: Place,
        duty: Duty,
        *,
        restarts: int,
        tries: int,
        owned: bool,
    ) -> None:
        """``tries``: see ``Board``; ``owned``: whether the pool ends with them."""
        self.is_own = not isinstance(duty.loop, Calls)
        """Whether their loop is the user's own, and may make tasks itself."""
        self.reason = ""
        """Why the last one has ended that did not just leave."""
        self._pool = pool
        self._owned = owned
        self._store = store
        self._place = place
        self._duty = duty
        self._restarts = restarts
        self._tries = tries
        self._guard = threading.RLock()  # for what follows
        self._workers: dict[str, Mirai[None]] = {}
        self._claimed: set[str] = set()  # those of them whose end somebody is dealing with
        self._closed = threading.Event()
        # Ends are dealt with in a thread of our own: that of the pool must not wait for the board.
        self._ends: queue.SimpleQueue[tuple[str, Mirai[None]] | None] = queue.SimpleQueue()
        self._watcher = threading.Thread(target=self._watch, name="mirai-crew", daemon=True)
        self._watcher.start()

    def start(self, n: int) -> list[str]:
        """Start workers; return their ids."""
        return [self._start() for _ in range(n)]

    @property
    def ids(self) -> list[str]:
        """The workers that have not ended, also those that are on their way."""
        with self._guard:
            return list(self._workers)

    def kill(self, id: str, *, replace: bool = False) -> None:
        """End a worker at once, if it is of this crew; have another in its place, or not."""
        worker = self._claim(id)
        if worker is None:
            return
        worker.cancel()
        if replace:
            self._replace(id, "it was not heard of in time")
        self._forget(id)

    def close(self) -> None:
        """End all that is left, and the pool.  Idempotent."""
        with self._guard:
            self._closed.set()
        try:
            for id in self.ids:
                self._store.leave(id, WorkerState.KILLED, "its crew was ended", most=self._tries)
        except StoreError as error:
            logger.warning("the board is not told that workers were ended: %s", error)
        finally:
            for id in self.ids:
                self.kill(id)
            if self._owned:
                self._pool.shutdown()
            self._ends.put(None)
            self._watcher.join()

    def _start(self) -> str:
        id = f"{self._place.name}-{new_key()[:12]}"
        options = TaskOptions(name=id)
        worker = self._pool.submit(work, (self._place, id, self._duty), options=options)
        with self._guard:
            self._workers[id] = worker
        worker.add_done_callback(lambda _: self._ends.put((id, worker)))
        return id

    def _watch(self) -> None:
        while (end := self._ends.get()) is not None:
            if not self._ended(*end):
                self._closed.wait(AGAIN)
                self._ends.put(end)

    def _ended(self, id: str, worker: Mirai[None]) -> bool:
        """Deal with an end; return whether that is done, or else is to be tried again.

        Until then the worker counts as one that is there, as another comes in its place.
        """
        if self._claim(id) is None:
            return True
        try:
            if not self._closed.is_set():
                self._bury(id, worker.exception())
        except MiraiError as error:
            if isinstance(error, StoreError) and not isinstance(error, BoardLost):
                logger.warning("what became of worker %s is noted later: %s", id, error)
                self._disclaim(id)
                return False
            logger.warning("what became of worker %s cannot be noted: %s", id, error)
        self._forget(id)
        return True

    def _bury(self, id: str, error: BaseException | None) -> None:
        """Note what has become of a worker, and have another in its place where there should be."""
        if error is None:
            if self._was_lost(id):
                self._replace(id, "it was taken for lost")
            return
        self.reason = in_words(error)
        logger.warning("worker %s has ended: %s", id, self.reason)
        if isinstance(error, TaskCancelled):
            self._store.leave(id, WorkerState.KILLED, self.reason, most=self._tries)
        elif isinstance(error, DaemonCrashed | StoreError):  # or the board was away for too long
            self._store.leave(id, WorkerState.LOST, self.reason, most=self._tries)
            self._replace(id, self.reason)

    def _claim(self, id: str) -> Mirai[None] | None:
        """Return a worker whose end nobody else deals with; ``_forget`` it then."""
        with self._guard:
            if id in self._claimed or id not in self._workers:
                return None
            self._claimed.add(id)
            return self._workers[id]

    def _forget(self, id: str) -> None:
        """It is not there any more: said last, so that nobody sees none where another comes."""
        with self._guard:
            self._workers.pop(id, None)
            self._claimed.discard(id)

    def _disclaim(self, id: str) -> None:
        """Its end is still to be dealt with."""
        with self._guard:
            self._claimed.discard(id)

    def _was_lost(self, id: str) -> bool:
        """Whether somebody has taken it for lost, so that it had to leave."""
        states = {each.id: each.state for each in self._store.workers()}
        return states.get(id) is WorkerState.LOST

    def _replace(self, id: str, why: str) -> None:
        with self._guard:
            if self._closed.is_set() or not self._restarts:
                return
            self._restarts -= 1
        logger.info("another worker takes the place of %s: %s", id, why)
        self._start()
