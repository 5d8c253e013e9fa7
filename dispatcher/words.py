"""Messages in words, for logs: which tasks they are about, and never a payload or a key."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from dispatcher.messages import (
    Ask,
    Cancel,
    Consult,
    Done,
    Everywhere,
    Hello,
    Interrupt,
    Kind,
    Leave,
    Message,
    Objected,
    Outcome,
    Printed,
    Recall,
    Recount,
    Refused,
    Results,
    Returned,
    Run,
    Scale,
    Stop,
    Submit,
    Task,
)

RANGES = 20
"""How many runs of numbers are shown."""


def said(message: Message) -> str:
    """Return what a message says, in a few words."""
    match message:
        case Submit(tasks) | Run(tasks):
            what = _ids(tasks)
        case Done(outcomes) | Results(outcomes):
            what = _endings(outcomes)
        case Everywhere(ids) | Cancel(ids) | Recall(ids) | Interrupt(ids) | Returned(ids):
            what = numbers(ids)
        case Printed(id) | Recount(_, id):
            what = str(id)
        case Hello(_, host, pid):
            what = f"from process {pid} on {host}"
        case Refused(reason) | Objected(_, reason):
            what = reason
        case Consult(_, board, request):
            what = f"{board!r}: {type(request).__name__}"
        case Scale(count) | Ask(_, count):
            what = str(count)
        case Stop(True):
            what = "and be replaced"
        case Leave(True):
            what = "of idleness"
        case _:
            what = ""
    return f"{type(message).__name__} {what}".rstrip()


def numbers(ids: Iterable[int]) -> str:
    """Return numbers, where several follow one another as one range: ``1-3, 7``."""
    runs: list[str] = []
    for first, last in spans(ids):
        if len(runs) == RANGES:
            runs.append("...")
            break
        runs.append(str(first) if first == last else f"{first}-{last}")
    return ", ".join(runs)


def spans(ids: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Yield the first and the last of numbers that follow one another."""
    first = last = None
    for id in ids:
        if first is None or last is None:
            first = last = id
        elif id == last + 1:
            last = id
        else:
            yield first, last
            first = last = id
    if first is not None and last is not None:
        yield first, last


def _ids(tasks: Sequence[Task]) -> str:
    return numbers(each for task in tasks for each in range(task.id, task.id + task.count))


def _endings(outcomes: Sequence[Outcome]) -> str:
    """Return which tasks have ended, those with a value first."""
    parts = []
    for kind in Kind:
        if ids := [
            outcome.id + index
            for outcome in outcomes
            if outcome.kind == kind
            for index in range(outcome.count)
        ]:
            parts.append(numbers(ids) + ("" if kind is Kind.VALUE else f" {kind.name.lower()}"))
    return "; ".join(parts)
