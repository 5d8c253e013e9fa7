"""Daemons as threads of this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mirai._ending import Ending
from mirai._errors import LaunchError, MiraiError
from mirai._launched import Launched, launched
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._resident import Kept

if TYPE_CHECKING:
    from mirai._connection import Connection
    from mirai._thread_daemon import ThreadDaemon

_WHY = {
    Ending.STOPPED: "the pool has stopped",
    Ending.LEFT: "a limit is reached",
    Ending.LOST: "the connection to the dispatcher was lost",
    Ending.UNREACHED: "the dispatcher cannot be reached",
    Ending.UNPROVED: "the dispatcher does not prove the key that we expect",
    Ending.REFUSED: "the dispatcher refuses us",
    Ending.REPLACED: "its task did not leave in time, and is left behind",
}


@dataclass(frozen=True)
class ThreadLauncher(Launcher):
    """Daemons as threads of this process: for tasks that wait, or work outside of the GIL.

    They start at once, and share what this process has.  What is different from processes:

    - Tasks in Python take turns, as all threads of an interpreter with a GIL do.
    - What a task changes in this process is there to stay: there is no cleanup.  ``random`` and
      ``numpy.random`` are not seeded for it; ``task_generator()`` is its own, as ever.
    - What it prints goes where this process prints, and is not kept for its mirai's ``log``; nor
      are its warnings for a controller's result.
    - It can bring this process down, and every other task with it.
    - It is stopped by a KeyboardInterrupt that is raised in its thread when that next runs Python
      code, anywhere in it.  A task that waits in C, as in ``time.sleep``, does not see that before
      it returns; a coroutine that awaits does.  After the pool's ``grace`` its daemon is given up:
      another takes its place when there is work, and the thread is left behind, with a warning,
      until its task returns.
    - A task that submits tasks uses the pools of this process.  If it waits for tasks of its own
      pool, they need another daemon than its own.

    ``init`` is called once in each thread, and the pool's limits hold for each.  ``env`` and
    ``cwd`` are of a process, and refused with a LaunchError.
    """

    patience: ClassVar[float] = 60.0
    interval: ClassVar[float] = 0.25

    def launch(self, order: Order) -> list[Handle]:
        """Start the threads."""
        connection, told = _read(order)
        handles = [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]
        try:
            for handle in handles:
                _daemons.add(handle, _started(connection, told, handle.id))
        except BaseException:
            self.terminate(handles)
            raise
        return handles

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the threads stand."""
        return states(handles, {id: _look(d) for id, d in _daemons.of(handles).items()})

    def terminate(self, handles: Sequence[Handle]) -> None:
        """End the threads, and wait until they have, but for tasks that do not leave."""
        daemons = list(_daemons.of(handles).values())
        for daemon in daemons:
            daemon.stop()
        for daemon in daemons:
            daemon.join()

    def is_near(self) -> bool:
        """Return True."""
        return True

    def recall(self, name: str) -> None:
        """End the threads of a launch."""
        self.terminate(_daemons.launch(name))

    def log(self, handle: Handle, size: int = 4_096) -> str:
        """Return the traceback of what a daemon has failed of, such as ``init``."""
        daemon = _daemons.of([handle]).get(handle.id)
        return "" if daemon is None else daemon.trace[-size:].strip()


def _read(order: Order) -> tuple[Connection, Launched]:
    """Return what an order says.  Raises LaunchError."""
    from mirai._connection import Connection

    try:
        connection = Connection.parse(order.keys, "the order")
        told = launched(connection) or Launched()
    except MiraiError as error:
        raise LaunchError(str(error)) from None
    if told.env or told.cwd is not None:
        raise LaunchError("threads have no env and no cwd of their own")
    return connection, told


def _started(connection: Connection, told: Launched, job: str) -> ThreadDaemon:
    from mirai._thread_daemon import ThreadDaemon  # it loads what other launchers do without

    try:
        daemon = ThreadDaemon(connection, told, job)
        daemon.start()
    except Exception as error:  # no more threads, descriptors, sockets; keys that are none
        raise LaunchError(f"{type(error).__name__}: {error}") from None
    return daemon


def _look(daemon: ThreadDaemon) -> State:
    if not daemon.is_over:
        return State(Phase.RUNNING)
    why = "" if daemon.ending is None else _WHY[daemon.ending]
    if daemon.trouble:
        return State(Phase.FAILED, f"{why}: {daemon.trouble}" if why else daemon.trouble)
    if daemon.ending in (Ending.STOPPED, Ending.LEFT):
        return State(Phase.ENDED, why)
    if daemon.is_told:
        return State(Phase.CANCELLED, "its task is left behind" if daemon.is_stuck else "")
    return State(Phase.FAILED, why)


_daemons: Kept[ThreadDaemon] = Kept()
