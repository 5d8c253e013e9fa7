"""Durable tasks in the synchronous mode: what a dispatcher with a journal does, and its daemon."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from dispatcher.events import Event, Joined, Moved, Role, Send, Turn
from dispatcher.messages import (
    VERSION,
    Attach,
    Cancel,
    Crash,
    Discard,
    Enlist,
    Hello,
    Kind,
    Look,
    Outcome,
    Redo,
    Results,
    Seen,
    Submit,
    Task,
)
from dispatcher.vault import Vault
from mirai._channel import fetched
from mirai._evaluate import Evaluator
from mirai._here import undisturbed

US = 1
"""The number of the only client."""

INTERRUPTED = "it was interrupted where it was evaluated"


class SyncVault:
    """A vault, and the caller's thread, which evaluates what the vault keeps.

    Where the vault raises OSError, it and its journal differ: nothing more may be asked of it.
    """

    def __init__(
        self,
        vault: Vault,
        evaluator: Evaluator,
        run: Callable[[Task, Evaluator], Outcome],
        settle: Callable[[Sequence[Outcome]], None],
    ) -> None:
        """``run`` evaluates a task, and ``settle`` tells the client how tasks have ended."""
        self._vault = vault
        self._evaluator = evaluator  # its functions have the vault's numbers
        self._run = run
        self._settle = settle
        self._lock = threading.RLock()
        self._due: deque[tuple[int, Task]] = deque()  # what is to be done, and of which job
        self.completed = 0
        """How many tasks were evaluated to their ends."""
        self._hear(vault.take([(US, Joined(Role.CLIENT, Hello(VERSION)))]))

    def learn(self, submit: Submit) -> None:
        """Know the functions of a client's other tasks: those that are kept may need them, too."""
        self._vault.take([(US, submit)])

    def obey(self, message: Enlist | Attach) -> None:
        """Evaluate what is new; where it is of a job, also what has waited in the journal."""
        due: deque[tuple[int, Task]] = deque()
        try:
            with undisturbed(), self._lock:
                waited, self._due = self._due, deque()
                self._hear(self._vault.take([(US, message)]))
                if isinstance(message, Enlist) and not message.stays:
                    due, self._due = self._due, waited
                else:
                    due, self._due = waited + self._due, deque()
                self._tell()
            while due:
                self._evaluate_first(due)
        finally:
            with self._lock:
                self._due += due  # Ctrl-C has come

    def consult(self, question: Look | Redo | Discard) -> Seen:
        """Return what there is of jobs."""
        with undisturbed(), self._lock:
            self._hear(self._vault.take([(US, question)]))
            sent = [each.message for each in self._vault.give([]) if isinstance(each, Send)]
        return next(message for message in sent if isinstance(message, Seen))

    def close(self) -> None:
        """Close the journal.  Raises OSError if that fails: then all is there still, beside it."""
        self._evaluator.close()
        self._vault.close()

    # ── one task after the other ─────────────────────────────────────────────────────────

    def _evaluate_first(self, due: deque[tuple[int, Task]]) -> None:
        """Evaluate the first of these; when it is answered, it is none of them any more."""
        peer, task = at_hand = due[0]
        try:
            with undisturbed():
                self._tell(Moved(peer, task.id, 1, Turn.BEGUN))
            outcome = self._run(task, self._evaluator)
            with undisturbed(), self._lock:
                due.popleft()
                self._tell(Send(peer, Results((outcome,))))
                self.completed += 1
        except OSError:  # the vault's, of which nothing more may be asked: a task's is its outcome
            raise
        except BaseException:
            if due and due[0] is at_hand:
                self._break_off(due)
            raise

    def _break_off(self, due: deque[tuple[int, Task]]) -> None:
        """The first of these was interrupted, which is as if its daemon had died."""
        peer, task = due.popleft()
        with undisturbed():
            if task.retries:
                due.appendleft((peer, structs.replace(task, retries=task.retries - 1)))
                self._tell(Moved(peer, task.id, 1, Turn.AGAIN))
            else:
                crash = Outcome(task.id, Kind.CRASHED, crash=Crash(INTERRUPTED))
                self._tell(Send(peer, Results((crash,))))

    def _hear(self, events: Iterable[tuple[int, Event]]) -> None:
        """Know what there is to do for jobs, whose numbers are negative."""
        for peer, event in events:
            if isinstance(event, Submit) and peer < 0:
                self._evaluator.learn(event.functions, ())  # what another job needs is not told
                self._due += ((peer, each) for task in event.tasks for each in task.each())
            elif isinstance(event, Cancel) and peer < 0:
                self._due = deque(each for each in self._due if each[1].id not in event.ids)

    def _tell(self, *happened: Moved | Send) -> None:
        """Have it saved what has happened; settle what that settles."""
        with self._lock:
            for command in self._vault.give(happened):
                if isinstance(command, Send) and isinstance(command.message, Results):
                    outcomes = command.message.outcomes
                    self._settle(outcomes)
                    self._vault.take([(US, fetched(outcomes))])
            self._vault.give([])
