"""Streams of random numbers: what they depend on, and what draws from them."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dispatcher.core import Dispatcher
from dispatcher.events import Joined, Role, Send
from dispatcher.messages import (
    VERSION,
    Done,
    Function,
    Hello,
    Kind,
    Outcome,
    Run,
    Submit,
    Task,
)
from mirai import MiraiError, SerializationError, task_generator
from mirai._answer import Pickled
from mirai._evaluate import Evaluator
from mirai._options import DEFAULTS
from mirai._outbox import Outbox
from mirai._pending import Pending
from mirai._serialize import pack
from mirai._streams import Streams, kept

ROOT = Path(__file__).parents[2]


def streams(seed: int | None, count: int) -> list[bytes]:
    made = Streams(seed)
    return [made.next() for _ in range(count)]


@given(st.integers(), st.integers())
def test_streams_are_the_seed_s_and_all_different(one: int, other: int) -> None:
    first, again = streams(one, 20), streams(one, 20)
    assert first == again
    assert len({*first}) == 20
    if one != other:
        assert not {*first} & {*streams(other, 20)}


def test_without_a_seed_there_are_none() -> None:
    assert streams(None, 3) == [b""] * 3


def test_a_seed_may_be_of_any_length() -> None:
    assert streams(10**5000, 1) != streams(10**5000 + 1, 1)


def sent(outbox: Outbox) -> list[bytes]:
    messages = list(outbox.take().messages(Pending()))
    return [task.stream for message in messages for task in getattr(message, "tasks", ())]


def test_tasks_are_numbered_in_the_order_of_submission() -> None:
    outbox = Outbox("p", seed=42)

    def submit(*calls: Any) -> None:
        outbox.add(outbox.parcel(abs, [((call,), {}) for call in calls], DEFAULTS), lambda _: None)

    submit(1)
    outbox.next_id()  # ids are used for other things too
    with pytest.raises(SerializationError):
        submit(threading.Lock())
    submit(2, 3)
    assert sent(outbox) == streams(42, 3)
    submit(4)
    assert sent(outbox) == streams(42, 4)[3:]


def test_the_dispatcher_passes_the_stream_on_and_keeps_it_for_another_run() -> None:
    core = Dispatcher()
    hello = Hello(VERSION)
    core.handle([(1, Joined(Role.CLIENT, hello)), (2, Joined(Role.DAEMON, hello))], 0.0)

    def given(*events: Any) -> Task:
        commands = core.handle(events, 0.0)
        (run,) = [
            command.message
            for command in commands
            if isinstance(command, Send) and isinstance(command.message, Run)
        ]
        return run.tasks[0]

    task = Task(7, 1, b"x", retries=1, stream=b"abc")
    first = given((1, Submit((task,), (Function(1, "f", b"f"),))))
    second = given((2, Done((Outcome(first.id, Kind.ERROR, again=True),))))
    assert (first.stream, second.stream) == (b"abc", b"abc")
    assert first.id != second.id


# ── the daemon's side ────────────────────────────────────────────────────────────────────


def evaluate(fn: Any, stream: bytes) -> Any:
    evaluator = Evaluator()
    evaluator.learn((Function(1, "fn", *pack(fn)),), ())
    outcome = evaluator.evaluate(Task(9, 1, *pack(((), {})), stream=stream))
    evaluator.close()
    return Pickled(outcome.kind, outcome.payload, outcome.blobs).read()


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(task_generator().random())


def test_a_task_draws_from_its_stream() -> None:
    one, other = streams(1, 2)
    assert evaluate(draw, one) == evaluate(draw, one)
    assert not {*evaluate(draw, one)} & {*evaluate(draw, other)}
    assert len({*evaluate(draw, one)}) == 3


def test_without_a_stream_nothing_is_seeded() -> None:
    random.seed(3)
    expected = random.random()
    random.seed(3)
    drawn = evaluate(draw, b"")
    assert drawn[0] == expected
    assert evaluate(draw, b"")[2] != drawn[2]


def test_an_odd_stream_of_a_foreign_client_seeds_too() -> None:
    assert evaluate(draw, b"\xff" * 7) == evaluate(draw, b"\xff" * 7)


def test_the_generator_is_the_same_one_during_a_task() -> None:
    def same() -> bool:
        return task_generator() is task_generator()

    async def same_in_coroutines() -> bool:
        return task_generator() is task_generator()

    assert evaluate(same, b"abc")
    assert evaluate(same_in_coroutines, b"abc")


def test_there_is_no_generator_outside_of_a_task() -> None:
    evaluate(draw, b"abc")
    with pytest.raises(MiraiError, match="inside of a task"):
        task_generator()


def test_a_task_inside_a_task_has_its_own_generator() -> None:
    def outer() -> tuple[float, float]:
        before = task_generator()
        inner = evaluate(lambda: float(task_generator().random()), b"inner")
        assert task_generator() is before
        return inner, float(before.random())

    inner, own = evaluate(outer, b"outer")
    assert inner == evaluate(lambda: float(task_generator().random()), b"inner")
    assert own == evaluate(lambda: float(task_generator().random()), b"outer")


def test_kept_restores_both_states() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = random.random(), np.random.random()
    random.seed(1)
    np.random.seed(1)
    with kept():
        random.seed(2)
        np.random.seed(2)
    assert (random.random(), np.random.random()) == expected


PROGRAM = """
import sys
from mirai._streams import _SeedOnImport, seed, seeded
hooks = lambda: sum(isinstance(finder, _SeedOnImport) for finder in sys.meta_path)
{before}
seed(b"abcdefgh")
print({hooks!r} == hooks())
import numpy.random
print(hooks(), type(numpy.random.__loader__).__name__, numpy.random.__spec__.loader.__class__ is
      numpy.random.__loader__.__class__)
print(numpy.random.random(), numpy.random.normal())
seeded()
print(hooks())
"""


def test_numpy_imported_in_the_middle_is_seeded() -> None:
    """A fresh process, since here it is imported already."""

    def run(before: str, hooks: int) -> list[str]:
        program = PROGRAM.format(before=before, hooks=hooks)
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.splitlines()

    late = run("", 1)
    assert late[0:2] == ["True", "0 SourceFileLoader True"]
    assert late[3] == "0"
    assert run("import numpy.random", 0) == late


def test_the_hook_is_removed_where_numpy_is_not_imported() -> None:
    program = """
import sys
from mirai._streams import seed, seeded
before = sys.meta_path[:]
seed(b"abc"), seed(b"def"), seeded()
print(sys.meta_path == before, "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["True", "False"]
