"""A daemon: its I/O thread owns the connection, and its main thread evaluates.

The I/O thread answers the dispatcher at any time, also in the middle of a long task: it takes
what arrives, hands back what has not started, interrupts what has, and sends what has ended.
The main thread evaluates, since it is the one that signals interrupt.  Where tasks come one by
one, and are short, it does without the other: it sends what has ended, and listens for the next
one (``Ear``); whatever else arrives it leaves to the I/O thread.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from _signal import getsignal  # type: ignore[import-not-found]  # signal's makes enums, slowly
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

from msgspec import structs

from dispatcher import wire
from dispatcher.keys import KeyPair
from dispatcher.log import Guarded, rename
from dispatcher.messages import (
    Done,
    Interrupt,
    Kind,
    Leave,
    Message,
    Outcome,
    Ping,
    Pong,
    Printed,
    Recall,
    Refused,
    Returned,
    Run,
    Stop,
    Task,
    Welcome,
)
from dispatcher.messages import ProtocolError as WireError
from dispatcher.processes import JOINED, Watermark
from dispatcher.words import said
from mirai._beginning import begin, connect, watermark_of
from mirai._channel import Carrier
from mirai._cleanup import Cleanup, Garbage
from mirai._ear import Ear
from mirai._ending import Ending, why_lost
from mirai._evaluate import Evaluator
from mirai._hand import Hand
from mirai._hello import hello
from mirai._limits import NO_LIMITS, Limits, Stay
from mirai._plan import read_init
from mirai._printed import Printout, Spool, record
from mirai._profiles import DEFAULT, Home, cancel_inner, flush_inner, inner_mark, mark_daemon
from mirai._serial import Serial

logger = Guarded("mirai")

FAREWELL = 1.0
"""How long the main thread may take to leave a task when the daemon must stop, in seconds."""
INSIST = 0.2
"""How soon a task is interrupted again that has not noticed, in seconds."""
SPOOL_INTERVAL = 0.02
"""How often what tasks print is sent, in seconds."""
COMPANY = 0.001
"""How long results wait for others to be sent with, while more are to follow, in seconds."""
QUIET = 0.02
"""How long a daemon waits for its next task before it collects garbage, in seconds."""


class Daemon:
    """One daemon process."""

    def __init__(
        self,
        link: Carrier,
        watermark: Watermark | None = None,
        limits: Limits = NO_LIMITS,
        *,
        tags: tuple[str, ...] = (),
        cleanup: bool = True,
        stream: bool = False,
        serial: Serial | None = None,
        supervised: bool = False,
        job: str = "",
    ) -> None:
        """Take over ``link``.  ``stream``: the host wants to see at once what tasks print.

        ``supervised``: whoever has started it must know why it ends.  ``job`` is what it is for
        the platform that has launched it.
        """
        self._job = job
        self._link = link
        self._limits = limits
        self._tags = tags
        self._welcome = False
        self._stay = Stay(limits, time.monotonic())
        self._tasks = 0  # how many have been evaluated
        self._leaving = False  # wants to leave
        self._told = False  # has said so
        # The I/O thread must hear of the moment from which idle time counts.
        self._hand = Hand(self._link.ring if limits.idle_time is not None else None)
        self._spool = Spool(self._link.ring) if stream else None
        self._next_spool = 0.0  # not before
        self._printout = Printout(lambda: self._hand.current, self._spool)
        self._evaluator = Evaluator(
            cleanup=Cleanup() if cleanup else None,
            reducer=serial or None,
            share=self._link.shares,
            is_stopped=lambda: self._struck,
        )
        self._garbage = Garbage.of_this_process() if cleanup else None
        self._watermark = watermark
        self._supervised = supervised
        self._outbox: list[Outcome] = []
        self._sending = threading.Lock()  # held by who takes from the outbox, until it is sent
        self._ear = Ear()
        self._mail: deque[Message | WireError] = deque()  # for the I/O thread, from the main thread
        self._sends_itself = link.for_all and not stream
        self._listens_itself = self._sends_itself and limits.idle_time is None
        self._asleep = False
        self._gathers_since = 0.0  # when the first of the results came that are to be sent
        self._target = 0  # the task that an interrupt is meant for
        self._armed = 0  # the task that an interrupt can stop
        self._struck = False  # one has stopped the task
        self._insists_at = math.inf  # when to look whether it has
        self._handler = self._on_interrupt
        self._forked = False
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._note_fork)
        self._logs = logger.isEnabledFor(logging.DEBUG)
        self._ending: Ending | None = None  # why it ends; None: of a failure

    # ── the main thread ──────────────────────────────────────────────────────────────────

    def run(self, init: Callable[[], object] | None = None) -> None:
        """Evaluate until told to stop, or until the dispatcher is gone; call ``init`` first."""
        record(self._printout.add)
        if init is not None:
            init()
        signal.signal(signal.SIGINT, self._handler)
        signal.signal(signal.SIGTERM, self._on_terminate)
        thread = threading.Thread(target=self._serve, name="mirai-daemon", daemon=True)
        thread.start()
        self._evaluator.keep()  # these handlers too
        evaluate = self._evaluate_aloud if self._logs else self._evaluate
        while (task := self._next()) is not None:
            outcome = evaluate(task)
            if self._forked:
                os._exit(0)  # the task has forked, and this is the child: it is no daemon
            self._tasks += 1
            if self._limits.reached(self._tasks) or self._evaluator.is_spoiled:
                self._hand.close()
                self._want_to_leave()
            self._answer(outcome)
            del task, outcome  # they may be large, and the next one may be a long time coming
            self._evaluator.clean_up(hurry=self._hand.has_waiting())
        self._evaluator.close()
        if code := self._last_word():
            sys.exit(code)

    def _note_fork(self) -> None:
        self._forked = True

    def _next(self) -> Task | None:
        """Start the next task; while there is none, collect garbage once all is answered."""
        if self._ear.lent:
            self._listen()
        if self._garbage is None or not self._tasks:
            return self._hand.take()
        try:
            return self._hand.take(QUIET)
        except TimeoutError:
            if not self._outbox:
                self._garbage.collect()
            return self._hand.take()

    def _evaluate(self, task: Task) -> Outcome:
        """Evaluate one task.  An interrupt strikes only while the task is ``armed``."""
        if self._watermark is not None:
            self._watermark.set(task.id)
        if getsignal(signal.SIGINT) is not self._handler:
            signal.signal(signal.SIGINT, self._handler)  # a task has changed it
        mark = inner_mark()
        try:
            self._armed = task.id
            if self._target == task.id:  # the signal came before it was armed
                self._strike()
            outcome = self._evaluator.evaluate(task, keep=task.keep)
            self._armed = 0
        except KeyboardInterrupt:
            outcome = Outcome(task.id, Kind.CANCELLED)
        if self._struck:
            self._struck = False
            cancel_inner(mark)  # nobody will ask for them
        if self._spool is not None:
            flush_inner()  # it is printed in this task's name
        if self._printout.tails:
            outcome = structs.replace(outcome, log=self._printout.take(task.id))
        return outcome

    def _evaluate_aloud(self, task: Task) -> Outcome:
        """Evaluate one task, and log that."""
        logger.debug("task %d begins", task.id)
        outcome = self._evaluate(task)
        logger.debug("task %d: %s, %.6f s", task.id, outcome.kind.name.lower(), outcome.seconds)
        return outcome

    def _on_interrupt(self, _number: int, _frame: FrameType | None) -> None:
        """Stop the task that the interrupt is meant for; if it has ended already, do nothing."""
        if self._armed and self._target == self._armed:
            self._strike()

    def _strike(self) -> None:
        self._armed = 0  # first, so that it strikes once
        self._struck = True
        raise KeyboardInterrupt

    def _on_terminate(self, _number: int, _frame: FrameType | None) -> None:
        """Leave when the running task has ended."""
        self._want_to_leave()

    def _want_to_leave(self) -> None:
        self._leaving = True
        self._link.ring()

    def _answer(self, outcome: Outcome) -> None:
        """Send it at once where no more are to follow; else a little later, with others."""
        self._outbox.append(outcome)
        if len(self._outbox) == 1:
            self._gathers_since = time.monotonic()
        if not self._hand.has_waiting():
            self._send_or_ring()
        elif self._sends_itself and self._results_due() <= time.monotonic():
            self._send_outcomes()
        elif len(self._outbox) == 1:
            self._ring()  # it sees that they do not wait for long, should the next task be long

    def _send_or_ring(self) -> None:
        if self._ear.lent or (self._asleep and self._sends_itself):
            self._send_outcomes()
        else:
            self._ring()

    def _ring(self) -> None:
        if self._asleep:
            self._asleep = False
            self._link.ring()

    def _listen(self) -> None:
        """Listen in place of the I/O thread, if that is for us: the next task may come soon."""
        if self._ear.borrow():
            keep = False
            try:
                self._link.wait(QUIET)
                keep = self._hear()
            finally:
                self._ear.give_back(keep=keep)

    def _hear(self) -> bool:
        """Take what has come; return whether that was one task, and nothing for others."""
        try:
            for message in self._link.receive():
                self._mail.append(message)
        except WireError as error:
            self._mail.append(error)
        match self._mail:
            case [Run((task,)) as run] if task.count == 1:
                self._mail.clear()
                return self._obey(run)
        return False

    # ── the I/O thread ───────────────────────────────────────────────────────────────────

    def _serve(self) -> None:
        try:
            self._link.send(hello(os.getpid(), self._tags, self._job, self._limits))
            while self._turn():
                pass
        except BaseException:
            traceback.print_exc()
            self._ending = None
        finally:  # whatever has happened: a daemon that nobody hears must not live
            self._leave()

    def _turn(self) -> bool:
        """Wait, and do what there is to do; return False when it is time to leave."""
        lent = self._ear.lent
        if lent and self._ear.nap():
            self._look_at_limits()
            return True
        self._asleep = True
        self._link.wait(0 if lent or self._has_news() else self._pause())
        self._asleep = False
        lone = False
        for message in self._messages():
            lone = self._is_lone(message)
            if not self._obey(message):
                return False
        if self._results_due() <= time.monotonic():
            self._send_outcomes()
        if self._insists_at <= time.monotonic():
            self._insist()
        self._look_at_limits()
        if lone and not (self._leaving or self._hand.is_empty()):
            self._ear.lend()
            self._send_outcomes()  # what ended before that was seen
        if self._link.ended:
            self._ending = why_lost(self._link)
        elif self._leaving and not self._welcome:
            self._ending = Ending.LEFT  # it need not wait to be let go
        else:
            return True
        return False

    def _has_news(self) -> bool:
        """Whether the main thread has left us something, and may have rung before we slept."""
        return bool(self._mail) or (self._leaving and not self._told)

    def _messages(self) -> Iterator[Message]:
        """Yield what has arrived: what the main thread has heard first."""
        while self._mail:
            heard = self._mail.popleft()
            if isinstance(heard, WireError):
                raise heard
            yield heard
        yield from self._link.receive()

    def _is_lone(self, message: Message) -> bool:
        """Whether the main thread gets one task by this message, and has no other."""
        match message:
            case Run((task,)) if task.count == 1:
                return self._listens_itself and self._hand.is_empty()
        return False

    def _send_outcomes(self) -> None:
        with self._sending:
            self._flush()

    def _pause(self) -> float | None:
        """Return how long to wait at most: until results are to be sent, or anything else."""
        if self._outbox:
            return max(0.0, self._results_due() - time.monotonic())
        return self._patience()

    def _results_due(self) -> float:
        """Return when to send results: now if there is nothing more to do, or a little later."""
        if not (self._outbox and self._hand.has_waiting()):
            return 0.0
        return self._gathers_since + COMPANY

    def _patience(self) -> float | None:
        """Return how long to wait at most: until a limit is reached, or text is to be sent."""
        deadline = None
        if not self._told:
            deadline = self._stay.deadline()
        if self._spool is not None and self._spool.waits:
            deadline = min(self._next_spool, deadline or math.inf)
        if self._insists_at < math.inf:
            deadline = min(self._insists_at, deadline or math.inf)
        return None if deadline is None else max(0.0, deadline - time.monotonic())

    def _look_at_limits(self) -> None:
        now = time.monotonic()
        due = self._stay.look(now, idle=self._hand.is_empty())
        if (due or self._leaving) and not self._told:
            self._told = True
            self._hand.close()
            self._link.send(Leave(idle=self._stay.is_idle(now)))

    def _obey(self, message: Message) -> bool:
        if self._logs:
            logger.debug("from the dispatcher: %s", said(message))
        match message:
            case Run(tasks, functions, forget):
                self._evaluator.learn(functions, forget)
                self._hand.add(tasks)
            case Recall(ids):
                self._link.send(Returned(tuple(self._hand.withdraw(ids))))
            case Interrupt(ids):
                dropped = self._hand.withdraw(ids)
                self._outbox.extend(Outcome(id, Kind.CANCELLED) for id in dropped)
                if (current := self._hand.current) in ids:
                    self._interrupt(current)
            case Ping():
                self._link.send(Pong())
            case Welcome(number):
                self._welcome = True
                rename("mirai", f"daemon {number}")
                logger.info("it has joined")
                if self._watermark is not None:
                    self._watermark.set(JOINED)
            case Stop(replace):
                ending = Ending.LEFT if self._told else Ending.STOPPED
                self._ending = Ending.REPLACED if replace else ending
                return False
            case Refused(reason):
                sys.stderr.write(f"the dispatcher refused this daemon: {reason}\n")
                self._ending = Ending.REFUSED
                return False
        return True

    def _interrupt(self, id: int) -> None:
        """Send the signal.  Its handler looks again whether it is still this task that runs."""
        self._target = id
        self._insists_at = time.monotonic() + INSIST
        self._signal()

    def _insist(self) -> None:
        """Send the signal again if it was in vain: a call that then began to wait misses it.

        Not where the task has a handler of its own, which has heard.
        """
        waits = self._armed and self._armed == self._target
        if waits and getsignal(signal.SIGINT) is self._handler:
            self._insists_at = time.monotonic() + INSIST
            self._signal()
        else:
            self._insists_at = math.inf

    def _signal(self) -> None:
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, signal.SIGINT)
        else:
            signal.raise_signal(signal.SIGINT)

    def _flush(self) -> None:
        outcomes = self._outbox[:]  # the main thread may append meanwhile
        del self._outbox[: len(outcomes)]
        if self._spool is not None and (outcomes or self._spool.waits):
            self._send_printed(self._spool, outcomes)
        for batch in wire.batches([*wire.runs(outcomes)]):
            done = Done(batch)
            if self._logs:
                logger.debug("to the dispatcher: %s", said(done))
            self._link.send(done)

    def _send_printed(self, spool: Spool, outcomes: Sequence[Outcome]) -> None:
        """Send what tasks print: before their outcomes, and otherwise not too often."""
        now = time.monotonic()
        if outcomes or now >= self._next_spool:
            self._next_spool = now + SPOOL_INTERVAL
            for id, text in spool.take({outcome.id for outcome in outcomes}):
                self._link.send(Printed(id, text))

    def _leave(self) -> None:
        """End the process: politely if the main thread can be stopped, at once if not."""
        ending = "of a failure" if self._ending is None else self._ending.name.lower()
        logger.info("it leaves: %s", ending)
        self._hand.stop()
        if current := self._hand.current:
            self._interrupt(current)
        self._link.close()
        threading.Event().wait(FAREWELL)
        os._exit(self._last_word())

    def _last_word(self) -> int:
        """Say why it ends, if a supervisor must know; return the exit code.

        Only when no more tasks begin, since they write their keys to the same place.
        """
        if self._ending is None:
            return 1
        if self._supervised and self._watermark is not None:
            self._watermark.set(self._ending.mark)
        return self._ending


def main() -> None:
    """Be a local daemon: what it must know arrives on standard input, as one line of JSON."""
    config = begin()
    if config is None:
        return
    options = config["options"]
    serial = Serial.decode(options.get("serial", ""))
    mark_daemon(_home(config, serial))
    daemon = Daemon(
        connect(config),
        watermark_of(config),
        Limits(**options["limits"]),
        tags=tuple(config["tags"]),
        cleanup=options.get("cleanup", True),
        stream=options.get("stream", False),
        serial=serial,
        supervised=config.get("lifeline", False),
        job=config.get("job", ""),
    )
    daemon.run(read_init(options["init"]) if "init" in options else None)


def _home(config: dict[str, Any], serial: Serial) -> Home | None:
    """Return how tasks can submit tasks; None where the daemon has no key for that."""
    if config["inner"] is None:
        return None
    inner = KeyPair(**config["inner"])
    profile = config["options"].get("profile", DEFAULT)
    return Home(profile, config["url"], config["server"], inner, serial, os.getpid())
