"""What a relay makes of what it hears from either side.  Pure: no socket, no clock, no pickle.

From above it is given tasks as a daemon is; to the dispatcher below, it is the client that submits
them.  Both number tasks as they like, and so each has two numbers.  Payloads are passed on as they
are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from dispatcher.messages import (
    Cancel,
    Everywhere,
    Function,
    Interrupt,
    Kind,
    Message,
    Outcome,
    Ping,
    Pong,
    Printed,
    Recall,
    Results,
    Returned,
    Run,
    Submit,
    Task,
)


@dataclass(slots=True)
class _Call:
    """A task that each daemon below has to do once, and what they have answered so far."""

    ids: range
    """Its numbers below."""
    missing: int
    answer: Outcome | None = None

    def add(self, outcome: Outcome) -> None:
        """Take in an answer: what has gone wrong goes before what has not."""
        self.missing -= 1
        good = self.answer is not None and self.answer.kind is Kind.VALUE
        if self.answer is None or (good and outcome.kind is not Kind.VALUE):
            self.answer = outcome


class Relayed:
    """The tasks that a relay has, under both their numbers, and what it has to tell."""

    def __init__(self, width: int) -> None:
        """``width`` is how many daemons there are below."""
        self.upwards: list[Message] = []
        """For the dispatcher above; whoever sends it empties this."""
        self.outcomes: list[Outcome] = []
        """For the dispatcher above too, which are answers and may wait for others."""
        self.downwards: list[Message] = []
        """For the dispatcher below."""
        self._width = width
        self._last = 0  # the last number given to a task below
        self._below: dict[int, int] = {}  # the number below of each task, by that above
        self._above: dict[int, int] = {}  # and the other way round
        self._calls: dict[int, _Call] = {}  # for every daemon, by the number above

    def __len__(self) -> int:
        """Return how many tasks there are that are not answered."""
        return len(self._below)

    # ── from above ───────────────────────────────────────────────────────────────────────

    def hear_from_above(self, message: Message) -> None:
        """Take in what the dispatcher wants of a daemon; other messages are not for us."""
        match message:
            case Run(tasks, functions, forget):
                self._pass_down(tasks, functions, forget)
            case Recall(ids):
                self.downwards.append(Recall(tuple(self._numbers_below(ids))))
            case Interrupt(ids):
                self._stop([id for id in ids if id in self._below])
            case Ping():
                self.upwards.append(Pong())

    def _pass_down(
        self, tasks: Sequence[Task], functions: tuple[Function, ...], forget: tuple[int, ...]
    ) -> None:
        """Submit tasks in their order; among them are those that each daemon has to do."""
        plain: list[Task] = []
        for task in tasks:
            ids = self._enter(task, self._width if task.keep else task.count)
            if not task.keep:
                plain.append(structs.replace(task, id=ids[0], retries=0))
                continue
            self._submit(plain, functions)
            self.downwards.append(Everywhere(tuple(ids), task))
            plain, functions = [], ()
            self._calls[task.id] = _Call(ids, self._width)
        self._submit(plain, functions, forget)

    def _submit(
        self, tasks: Sequence[Task], functions: tuple[Function, ...], forget: tuple[int, ...] = ()
    ) -> None:
        if tasks or functions or forget:
            self.downwards.append(Submit(tuple(tasks), functions, forget))

    def _enter(self, task: Task, count: int) -> range:
        """Give a task so many numbers below; return them."""
        ids = range(self._last + 1, self._last + 1 + count)
        self._last += count
        for offset, id in enumerate(ids):
            key = task.id if task.keep else task.id + offset
            self._above[id] = key
            self._below.setdefault(key, id)
        return ids

    def _numbers_below(self, keys: Iterable[int]) -> list[int]:
        """Return the numbers below of those of these tasks that only one daemon has to do."""
        return [self._below[key] for key in keys if key in self._below and key not in self._calls]

    def _stop(self, keys: list[int]) -> None:
        """Cancel tasks below, and say so above: what the daemons say of them is dropped."""
        ids: list[int] = []
        for key in keys:
            call = self._calls.get(key)
            ids += [self._below[key]] if call is None else call.ids
            self._forget(key)
        self.downwards.append(Cancel(tuple(ids)))
        self.outcomes += [Outcome(key, Kind.CANCELLED) for key in keys]

    def _forget(self, key: int) -> None:
        id = self._below.pop(key)
        call = self._calls.pop(key, None)
        for each in (id,) if call is None else call.ids:
            self._above.pop(each, None)

    # ── from below ───────────────────────────────────────────────────────────────────────

    def hear_from_below(self, message: Message) -> None:
        """Take in what the dispatcher tells its client; other messages are not for us."""
        match message:
            case Results(outcomes):
                for outcome in outcomes:
                    self._pass_up(outcome)
            case Returned(ids):
                keys = [self._above[id] for id in ids if id in self._above]
                for key in keys:
                    self._forget(key)
                self.upwards.append(Returned(tuple(keys)))
            case Printed(id, text):
                if id in self._above:
                    self.upwards.append(Printed(self._above[id], text))

    def _pass_up(self, outcome: Outcome) -> None:
        """Answer a task, or a run of them: those have numbers above that follow one another."""
        ids = range(outcome.id, outcome.id + outcome.count)
        known = [id for id in ids if id in self._above]
        if not known:
            return  # it was stopped meanwhile
        key = self._above[known[0]]
        if (call := self._calls.get(key)) is not None:
            del self._above[outcome.id]
            call.add(outcome)
            if not call.missing and call.answer is not None:
                self._forget(key)
                self.outcomes.append(structs.replace(call.answer, id=key, story=()))
            return
        if known[0] != ids[0]:
            outcome = outcome.part(key, known[0] - ids[0], ids[-1] + 1 - known[0])
        for id in known:
            del self._below[self._above.pop(id)]
        self.outcomes.append(structs.replace(outcome, id=key, story=()))
