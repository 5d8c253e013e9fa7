"""What a thread of the caller's own does: with Ctrl-C kept off, and beside its event loop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from types import FrameType

from dispatcher.messages import Outcome, Task
from mirai._evaluate import Evaluator
from mirai._future import running_loop


@contextmanager
def undisturbed() -> Iterator[None]:
    """Have Ctrl-C wait until the block has ended, since what is half saved would be lost."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    came: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda *at: came.append(at))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if came:
            handler(*came[0])


def evaluate_here(evaluator: Evaluator, task: Task) -> Outcome:
    """Evaluate in this thread, or, where an event loop runs in it, in another one.

    Raises what the evaluator lets through.
    """
    if running_loop() is None:
        return evaluator.evaluate(task)
    outcome: Future[Outcome] = Future()

    def evaluate() -> None:
        try:
            outcome.set_result(evaluator.evaluate(task))
        except BaseException as error:  # it is the caller's: Ctrl-C, or the end of a debugger
            outcome.set_exception(error)

    thread = threading.Thread(target=copy_context().run, args=(evaluate,), name="mirai-sync")
    thread.start()
    thread.join()
    return outcome.result()
