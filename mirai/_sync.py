"""The synchronous mode: a channel that evaluates in the caller, for debugging.

Arguments, functions and results are pickled and unpickled as they are on their way to a daemon,
so that what works here works there; errors and retries look the same.  A timeout is noticed when
the task has ended.
"""

from __future__ import annotations

import threading
import time
from bdb import BdbQuit
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from msgspec import structs

from dispatcher.log import Guarded
from dispatcher.messages import (
    Attach,
    Discard,
    Enlist,
    Everywhere,
    Kind,
    Look,
    Message,
    Outcome,
    PoolReport,
    Redo,
    Scale,
    Span,
    Submit,
    Task,
)
from mirai._answer import Value
from mirai._budget import Budget, Memory
from mirai._errors import DispatcherLost, MiraiError, again
from mirai._evaluate import Evaluator
from mirai._feed import Feed
from mirai._future import Mirai
from mirai._here import evaluate_here
from mirai._options import Call, Durable, TaskOptions
from mirai._outbox import Outbox, Parcel
from mirai._pending import Pending
from mirai._serialize import Reducer, pack, unpack
from mirai._streams import kept

if TYPE_CHECKING:
    from dispatcher.vault import Vault
    from mirai._sync_vault import SyncVault

logger = Guarded("mirai")


class SyncChannel:
    """Like ``Channel``, with the caller's thread in the place of everything behind it."""

    def __init__(
        self,
        profile: str,
        *,
        seed: int | None = None,
        memory: int | None = None,
        reducer: Reducer | None = None,
        vault: Vault | None = None,
    ) -> None:
        """``memory`` is shown in the status: all is answered at once, so it is never used up.

        ``reducer`` knows how to pickle some objects; the ``vault`` keeps durable tasks.
        """
        self._profile = profile
        self._budget = None if memory is None else Budget(memory)
        self._outbox = Outbox(profile, seed=seed, reducer=reducer)
        self._pending = Pending()
        self._reducer = reducer
        self._lock = threading.RLock()  # each thread evaluates what it has put into the outbox
        self._evaluator = self._new_evaluator()
        self._vault: SyncVault | None = None
        if vault is not None:
            from mirai._sync_vault import SyncVault

            self._vault = SyncVault(vault, self._new_evaluator(), self._run, self._pending.settle)
        self._completed = 0
        self._end: MiraiError | None = None

    def _new_evaluator(self) -> Evaluator:
        return Evaluator((KeyboardInterrupt, BdbQuit), reducer=self._reducer, lasting=False)

    def submit(
        self,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions,
    ) -> list[Mirai[Any]]:
        """Evaluate each call of ``fn`` now; return mirais that are settled."""
        return self._send(self._outbox.parcel(fn, calls, options))

    def submit_all(
        self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions
    ) -> list[Mirai[Any]]:
        """Evaluate each call of ``fn`` now; return mirais that are settled."""
        return self.submit(fn, calls, options)

    def try_submit(
        self, fn: Callable[..., Any], call: Call, options: TaskOptions
    ) -> Mirai[Any] | None:
        """Evaluate a call now; return a mirai that is settled."""
        return self.submit(fn, [call], options)[0]

    def feed(self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions) -> Feed:
        """Return what evaluates calls of ``fn`` bit by bit."""
        return Feed(self._outbox, self._send, self._outbox.forget, None, fn, calls, options)

    def call(self, init: Callable[[], object]) -> None:
        """Call ``init`` as a daemon does before its first task.  Raises what it raises."""
        unpack(*pack(init, self._reducer))()

    def memory(self) -> Memory | None:
        """Return what the memory budget looks like, if there is one."""
        return None if self._budget is None else self._budget.memory()

    def pending(self) -> int:
        """Return how many tasks are not answered."""
        return len(self._pending)

    def _send(self, parcel: Parcel) -> list[Mirai[Any]]:
        with self._lock:
            self._check_open()
            mirais = self._outbox.add(parcel, lambda _: None)
            messages = list(self._outbox.take().messages(self._pending))
        self._obey(messages)
        return mirais

    def everywhere(
        self,
        fn: Callable[..., Any],
        call: Call,
        answers: int,  # noqa: ARG002  # the caller is the only daemon
        options: TaskOptions,
    ) -> list[Mirai[Any]]:
        """Evaluate it here; return one mirai."""
        parcel = self._outbox.parcel(fn, [call], options)
        with self._lock:
            self._check_open()
            mirais = self._outbox.add_standing(parcel, lambda _: None, 1)
            messages = list(self._outbox.take().messages(self._pending))
        self._obey(messages)
        return mirais

    def _check_open(self) -> None:
        if isinstance(self._end, DispatcherLost):
            raise again(self._end)
        if self._end is not None:
            raise DispatcherLost("the pool was shut down")

    def _obey(self, messages: Iterable[Message]) -> None:
        """Do what a dispatcher and its daemon would."""
        for message in messages:
            if isinstance(message, (Enlist, Attach)):
                self._obey_vault(message)
                continue
            if isinstance(message, Submit):
                if self._vault is not None:
                    self._vault.learn(message)
                self._evaluator.learn(message.functions, message.forget)
                tasks = message.tasks
            else:
                assert isinstance(message, Everywhere)
                tasks = (structs.replace(message.call, id=message.ids[0]),)
            for task in tasks:
                for each in task.each():
                    self._pending.settle([self._run(each, self._evaluator)])
                    with self._lock:
                        self._completed += 1

    # ── durable tasks ────────────────────────────────────────────────────────────────────

    def keep(self, durable: Durable) -> None:
        """Have the vault keep all tasks from now on."""
        self._outbox.durable = durable

    def attach(self, there: Sequence[tuple[Span, str]]) -> list[Mirai[Any]]:
        """Return mirais of durable tasks that are there already; what waits is evaluated."""
        with self._lock:
            self._check_open()
            mirais = self._outbox.attach(there, lambda _: None)
            messages = list(self._outbox.take().messages(self._pending))
        self._obey(messages)
        return mirais

    def consult(self, question: Callable[[int], Look | Redo | Discard]) -> Mirai[Any]:
        """Return a mirai of what there is of durable jobs."""
        self._check_open()
        assert self._vault is not None, "nothing is kept here"
        with self._losing():
            return self._settled(self._vault.consult(question(0)))

    def _obey_vault(self, message: Enlist | Attach) -> None:
        assert self._vault is not None, "nothing is kept here"
        if isinstance(message, Enlist):
            self._evaluator.learn(message.functions, ())  # other tasks may call them
        with self._losing():
            self._vault.obey(message)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Raise DispatcherLost where the journal fails, and take no more: keeper and it differ."""
        try:
            yield
        except OSError as error:  # that of a task is its outcome
            self._end = DispatcherLost(f"the dispatcher has shut down: {error}")
            raise self._end from None

    # ── evaluation ───────────────────────────────────────────────────────────────────────

    def _run(self, task: Task, evaluator: Evaluator) -> Outcome:
        begun = time.monotonic()
        outcome = self._evaluate(task, evaluator)
        for _ in range(task.retries):
            if not outcome.again:
                break
            outcome = self._evaluate(task, evaluator)
        if task.timeout and time.monotonic() - begun > task.timeout:
            return Outcome(task.id, Kind.TIMEOUT)
        return outcome

    def _evaluate(self, task: Task, evaluator: Evaluator) -> Outcome:
        """Evaluate, and leave the caller's own random numbers as they were."""
        if not task.stream:
            return evaluate_here(evaluator, task)
        with kept():
            return evaluate_here(evaluator, task)

    def ask(self, at_least: int = 0) -> Mirai[Any]:  # noqa: ARG002  # the caller is daemon enough
        """Return a mirai of a PoolReport without daemons."""
        completed = self._completed + (0 if self._vault is None else self._vault.completed)
        return self._settled(PoolReport(0, 0, 0, 0, completed, 0))

    def mark(self) -> int:
        """Return a number that means nothing: whatever was submitted has ended."""
        return 0

    def cancel_since(self, mark: int) -> None:
        """Do nothing: nothing is ever pending."""

    def drained(self) -> Mirai[None]:
        """Return a mirai that is settled: nothing is ever pending."""
        return self._settled(None)

    def scale(self, scale: Scale) -> None:
        """Do nothing: there are no daemons here."""

    def flush_printed(self) -> None:
        """Do nothing: tasks print here."""

    def close(self, error: MiraiError) -> None:
        """Take no more tasks.  Idempotent."""
        self._end = error
        self._evaluator.close()
        vault, self._vault = self._vault, None
        if vault is not None:
            try:
                vault.close()
            except OSError as failure:  # all is there still, with what lies beside the journal
                logger.error("the journal is not closed: %s", failure)

    def is_current_thread(self) -> bool:
        """Return False: it has no thread of its own."""
        return False

    def forsake(self, error: MiraiError) -> None:
        """Do nothing: nothing is pending in a forked child either."""

    def _settled(self, value: Any) -> Mirai[Any]:
        mirai: Mirai[Any] = Mirai(0, "", self._profile)
        mirai.settle(Value(value))
        return mirai
