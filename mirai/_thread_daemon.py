"""A daemon that is a thread of this process, beside one that has its connection.

It does what ``mirai._daemon.Daemon`` does with a process of its own, but for what only a process
can: nothing is undone after a task, what it prints is not kept, and a task that does not leave
cannot be killed.
"""

from __future__ import annotations

import os
import threading
import time
import traceback
from contextlib import suppress
from functools import partial

from dispatcher import wire
from dispatcher.log import Guarded
from dispatcher.messages import (
    Done,
    Interrupt,
    Kind,
    Leave,
    Message,
    Outcome,
    Ping,
    Pong,
    Recall,
    Refused,
    Returned,
    Role,
    Run,
    Stop,
    Task,
    ToDaemon,
    Welcome,
)
from mirai._connection import Connection
from mirai._ending import Ending, why_lost
from mirai._evaluate import Evaluator
from mirai._hand import Hand
from mirai._hello import hello
from mirai._launched import Launched
from mirai._limits import Limits, Stay
from mirai._link import Link
from mirai._plan import read_init
from mirai._serial import Serial
from mirai._strike import Strike

logger = Guarded("mirai")

FAREWELL = 1.0
"""How long a task may take to leave when its daemon must end, in seconds."""
INIT = -1
"""What stands for ``init`` where tasks have their ids."""


class ThreadDaemon:
    """One of them.  It joins when ``init``, if there is one, has been called."""

    def __init__(self, connection: Connection, told: Launched, job: str) -> None:
        """Connect, without waiting for it.  Raises MiraiError, TypeError or OSError."""
        self._job = job
        self._tags = told.tags
        self._init = told.options.get("init")
        self._limits = Limits(**told.options.get("limits", {}))
        self._link = Link(connection.url, connection.pair(Role.DAEMON), connection.server, ToDaemon)
        self._hand = Hand(self._link.ring if self._limits.idle_time is not None else None)
        self._strike = Strike()
        self._evaluator = Evaluator(
            reducer=Serial.decode(told.options.get("serial", "")) or None,
            seeds=False,  # other threads draw from the same states
            is_stopped=lambda: self._strike.is_sent,
        )
        self._stay = Stay(self._limits, time.monotonic())
        self._pid = os.getpid()
        self._tasks = 0  # how many have been evaluated
        self._ready = False  # ``init`` was called
        self._greeted = False
        self._welcome = False
        self._leaving = False  # wants to leave
        self._left = False  # has said so
        self._sending = threading.Lock()  # guards the outbox
        self._outbox: list[Outcome] = []
        self._worker = threading.Thread(target=self._work, name=job, daemon=True)
        self._io = threading.Thread(target=self._serve, name=f"{job}-io", daemon=True)
        self.is_told = False
        """Whether its end was asked for here."""
        self.ending: Ending | None = None
        """Why it has ended; None: it was told to here, or has failed."""
        self.trouble = ""
        """What it has failed of."""
        self.trace = ""
        """The traceback of that."""

    # ── for any thread ───────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Begin.  Raises RuntimeError where the system has no more threads."""
        try:
            self._io.start()
        except RuntimeError:
            self._link.close()
            raise

    def stop(self) -> None:
        """Have it end, and interrupt its task."""
        self.is_told = True
        self._link.ring()

    def join(self) -> None:
        """Wait until it has ended; a task that does not leave is left behind."""
        if threading.current_thread() not in (self._io, self._worker):
            self._io.join()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return not self._io.is_alive()

    @property
    def is_stuck(self) -> bool:
        """Whether it has ended but for a task that has not left."""
        return self.is_over and self._worker.is_alive()

    # ── the thread that evaluates ────────────────────────────────────────────────────────

    def _work(self) -> None:
        try:
            self._begin()
            while (task := self._hand.take()) is not None:
                self._do(task)
                del task  # it may be large, and the next one may be a long time coming
        except BaseException as error:
            self._fail(error)
        finally:
            self._evaluator.close()
            self._link.ring()

    def _begin(self) -> None:
        """Call ``init``, which an end of this daemon interrupts."""
        if self._init is not None:
            self._strike.call(INIT, read_init(self._init))
        self._ready = True
        self._link.ring()

    def _do(self, task: Task) -> None:
        outcome = self._evaluate(task)
        if os.getpid() != self._pid:
            os._exit(0)  # the task has forked, and this is the child: it is no daemon
        self._tasks += 1
        if self._limits.reached(self._tasks):
            self._hand.close()
            self._leaving = True
        self._answer(outcome)

    def _evaluate(self, task: Task) -> Outcome:
        try:
            return self._strike.call(task.id, partial(self._evaluator.evaluate, task))
        except KeyboardInterrupt:
            return Outcome(task.id, Kind.CANCELLED)

    def _answer(self, *outcomes: Outcome) -> None:
        with self._sending:
            self._outbox += outcomes
            is_first = len(self._outbox) == len(outcomes)
        if is_first:
            self._link.ring()

    def _fail(self, error: BaseException) -> None:
        """Note what nobody has foreseen; the first such thing counts."""
        if not self.trouble:
            self.trouble = f"{type(error).__name__}: {error}"
            self.trace = traceback.format_exc()

    # ── the thread that has the connection ───────────────────────────────────────────────

    def _serve(self) -> None:
        try:
            self._worker.start()
            while self._turn():
                pass
        except BaseException as error:
            self._fail(error)
        finally:  # whatever has happened: a daemon that nobody hears must not live
            self._leave()

    def _turn(self) -> bool:
        """Wait, and do what there is to do; return False when it is time to leave."""
        self._link.wait(self._patience())
        if self._ready and not self._greeted:
            self._greeted = True
            # Not this process's: what else submits tasks here is not taken for a task of ours.
            number = threading.get_native_id()
            self._link.send(hello(number, self._tags, self._job, self._limits))
        for message in self._link.receive():
            if not self._obey(message):
                return False
        self._send_outcomes()
        self._look_at_limits()
        if self._link.ended:
            self.ending = why_lost(self._link)
        elif self._leaving and not self._welcome:
            self.ending = Ending.LEFT  # it need not wait to be let go
        return self.ending is None and not (self.is_told or self.trouble)

    def _patience(self) -> float | None:
        """Return how long to wait at most: until a limit is reached."""
        counts = self._greeted and not self._left
        deadline = self._stay.deadline() if counts else None
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _obey(self, message: Message) -> bool:
        match message:
            case Run(tasks, functions, forget):
                self._evaluator.learn(functions, forget)
                self._hand.add(tasks)
            case Recall(ids):
                self._link.send(Returned(tuple(self._hand.withdraw(ids))))
            case Interrupt(ids):
                dropped = self._hand.withdraw(ids)
                self._answer(*(Outcome(id, Kind.CANCELLED) for id in dropped))
                if (current := self._hand.current) in ids:
                    self._interrupt(current)
            case Ping():
                self._link.send(Pong())
            case Welcome(number):
                self._welcome = True
                logger.info("daemon %d, the thread %s, has joined", number, self._job)
            case Stop(replace):
                ending = Ending.LEFT if self._left else Ending.STOPPED
                self.ending = Ending.REPLACED if replace else ending
                return False
            case Refused(reason):
                self.trouble, self.ending = reason, Ending.REFUSED
                return False
        return True

    def _interrupt(self, id: int) -> None:
        self._strike.at(id)
        self._evaluator.wake()

    def _send_outcomes(self) -> None:
        with self._sending:
            outcomes, self._outbox = self._outbox, []
        for batch in wire.batches([*wire.runs(outcomes)]):
            self._link.send(Done(batch))

    def _look_at_limits(self) -> None:
        now = time.monotonic()
        due = self._stay.look(now, idle=self._hand.is_empty())
        if (due or self._leaving) and self._greeted and not self._left:
            self._left = self._leaving = True
            self._hand.close()
            self._link.send(Leave(idle=self._stay.is_idle(now)))

    def _leave(self) -> None:
        """End: with the other thread, if its task leaves, and without it, if not."""
        self._hand.stop()
        self._interrupt(self._hand.current or INIT)
        self._link.close()
        with suppress(RuntimeError):  # it could not be started
            self._worker.join(FAREWELL)
        if self._worker.is_alive():
            logger.warning("a task does not leave: the thread %s is left behind with it", self._job)
        else:  # whoever asks later how it has ended shall not keep its tasks and functions
            self._hand, self._evaluator = Hand(), Evaluator()
