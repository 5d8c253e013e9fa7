"""Why a daemon was lost that was a job of a platform: found out before its task fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from msgspec import structs

from dispatcher.messages import Crash
from dispatcher.story import ending
from mirai import _future
from mirai._comeback import exit_told
from mirai.launchers import Handle, Phase, State

Find = Callable[[str], "tuple[Handle, State] | None"]
"""Job id -> its handle, and how it stands as last heard; None if it is not known."""


@dataclass(frozen=True, slots=True)
class _Inquiry:
    crash: Crash
    settle: Callable[[Crash], None]
    since: float


class Inquest:
    """The crashes whose reason is still asked for.

    Whoever holds it answers each of them exactly once, whatever happens.
    """

    def __init__(
        self, find: Find, log_of: Callable[[Handle], str], wake: Callable[[], None], patience: float
    ) -> None:
        """``log_of`` returns what a job has printed, and raises nothing.

        ``wake`` is called when there is something to ask; after ``patience`` seconds an answer is
        given without the platform's.
        """
        self._find = find
        self._log_of = log_of
        self._wake = wake
        self._patience = patience
        self._change = threading.Condition()  # guards what follows
        self._asked: list[_Inquiry] = []
        self._open = 0  # how many are not answered, also those that are being looked at
        self._closed = False

    def ask(self, crash: Crash, settle: Callable[[Crash], None]) -> None:
        """Have ``settle`` called with what is known of a crash, sooner or later."""
        with self._change:
            closed = self._closed
            if not closed:
                self._open += 1
                self._asked.append(_Inquiry(crash, settle, time.monotonic()))
        if closed:
            settle(crash)
        else:
            self._wake()

    def waits(self) -> bool:
        """Whether there is any that is not answered."""
        return self._open > 0

    def wait(self, timeout: float) -> None:
        """Wait until all are answered, for ``timeout`` seconds at most."""
        with self._change:
            self._change.wait_for(lambda: not self._open, timeout)

    def hold(self) -> None:
        """Answer those of whose jobs enough is known, and those that have waited for long."""
        self._go_through(lambda inquiry: time.monotonic() - inquiry.since > self._patience)

    def close(self) -> None:
        """Answer the rest with what is known, and all later ones at once."""
        with self._change:
            self._closed = True
        self._go_through(lambda _: True)

    def _go_through(self, is_due: Callable[[_Inquiry], bool]) -> None:
        with self._change:
            asked, self._asked = self._asked, []
        for inquiry in asked:
            answer = self._answer(inquiry.crash, at_once=is_due(inquiry))
            if answer is None:
                with self._change:
                    self._asked.append(inquiry)
            else:
                self._settle(inquiry, answer)

    def _settle(self, inquiry: _Inquiry, crash: Crash) -> None:
        """Answer one; done-callbacks of its task run in here, and must not wait for others."""
        _future.settlers.add(threading.get_ident())
        try:
            inquiry.settle(crash)
        finally:
            _future.settlers.discard(threading.get_ident())
            with self._change:
                self._open -= 1
                self._change.notify_all()

    def _answer(self, crash: Crash, *, at_once: bool) -> Crash | None:
        """Return what is known; None if more may be known a little later."""
        found = self._find(crash.job)
        if found is None:
            return crash
        handle, state = found
        if state.phase.is_over:
            return explained(crash, state, self._log_of(handle))
        log = self._log_of(handle)
        if (exit := exit_told(log, crash.pid)) is not None:
            return structs.replace(crash, reason="the daemon died", exit=exit, tail=log)
        return explained(crash, state, log) if at_once else None


def explained(crash: Crash, state: State, log: str) -> Crash:
    """Return a crash with what the platform says of the daemon's job."""
    if state.phase.is_over:
        detail = state.detail
        if state.exit is not None:  # the error tells that besides
            detail = detail.removeprefix(ending(state.exit)).removeprefix(": ")
        reason = f"its job {crash.job} has ended, {State(state.phase, detail)}"
    elif state.phase is Phase.UNKNOWN:
        reason = f"{crash.reason}, and of its job {crash.job} nothing is known"
    else:
        reason = f"{crash.reason}, while its job {crash.job} goes on"
    return structs.replace(crash, reason=reason, exit=state.exit, tail=crash.tail or log)
