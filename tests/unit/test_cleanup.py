"""Cleanup undoes what was changed, and nothing else; garbage waits for its time."""

from __future__ import annotations

import io
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dispatcher.messages import Function, Task
from mirai._cleanup import RARITY, Cleanup, Garbage
from mirai._evaluate import Evaluator
from mirai._serialize import pack

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cleanup(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cleanup]:
    """One for this process, whose functions are as they were after the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", os.environ)
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    functions = [
        (os, "putenv"),
        (os, "unsetenv"),
        (random, "seed"),
        (random, "setstate"),
        (random._inst, "seed"),
        (random._inst, "setstate"),
        (np.random, "seed"),
        (np.random, "set_state"),
        (signal, "signal"),
        (signal, "setitimer"),
        (signal, "alarm"),
        (signal, "pthread_sigmask"),
    ]
    for module, name in functions:
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setenv("MIRAI_KEPT", "kept")
    before = signal.getsignal(signal.SIGUSR1)
    with warnings.catch_warnings():
        yield Cleanup()
    signal.signal(signal.SIGUSR1, before)
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR2})


def change_environment() -> None:
    os.environ["MIRAI_NEW"] = "new"
    os.environ["MIRAI_KEPT"] = "changed"


def look_at_environment() -> object:
    program = "import os; print(*(os.environ.get(n) for n in ('MIRAI_NEW', 'MIRAI_KEPT')))"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return os.environ.get("MIRAI_NEW"), os.environ.get("MIRAI_KEPT"), child.stdout


def replace_environment() -> None:
    os.environ = {"MIRAI_KEPT": "other"}  # type: ignore[assignment]  # noqa: B003


def handle_signal() -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)


def look_at_warnings() -> object:
    raised = 0
    try:
        warnings.warn("here", UserWarning, stacklevel=1)
    except UserWarning:
        raised = 1
    return list(warnings.filters), id(warnings.filters), raised


CHANGES: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
    "variables": (change_environment, look_at_environment),
    "a variable less": (lambda: os.environ.pop("MIRAI_KEPT"), look_at_environment),
    "no variables": (lambda: os.environ.clear(), lambda: "PATH" in os.environ),
    "another environ": (replace_environment, lambda: (id(os.environ), os.environ["MIRAI_KEPT"])),
    "directory": (lambda: os.chdir(".."), os.getcwd),
    "filters": (lambda: warnings.simplefilter("ignore"), look_at_warnings),
    "order of filters": (lambda: warnings.filters.reverse(), look_at_warnings),  # type: ignore[attr-defined]
    "another list": (
        lambda: setattr(warnings, "filters", [("ignore", None, Warning, None, 0)]),
        look_at_warnings,
    ),
    "output": (lambda: setattr(sys, "stdout", io.StringIO()), lambda: id(sys.stdout)),
    "error output": (lambda: setattr(sys, "stderr", None), lambda: id(sys.stderr)),
    "timer": (
        lambda: signal.setitimer(signal.ITIMER_VIRTUAL, 1_000),
        lambda: signal.getitimer(signal.ITIMER_VIRTUAL)[0] > 0,
    ),
    "mask": (
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2}),
        lambda: signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, ()),
    ),
    "signal": (handle_signal, lambda: signal.getsignal(signal.SIGUSR1)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_it_is_undone(cleanup: Cleanup, name: str) -> None:
    change, look = CHANGES[name]
    before = look()
    for _ in range(2):
        change()
        assert look() != before
        cleanup.restore()
        assert look() == before


@pytest.mark.parametrize("name", [name for name in CHANGES if name != "no variables"])
def test_it_stays_if_it_is_to_be_kept(cleanup: Cleanup, name: str) -> None:
    change, look = CHANGES[name]
    change()
    after = look()
    cleanup.keep()
    cleanup.restore()
    assert look() == after


def test_a_directory_that_is_gone_does_no_harm(cleanup: Cleanup, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    os.chdir(home)
    cleanup.keep()
    home.rmdir()
    cleanup.restore()
    os.chdir(tmp_path)
    cleanup.restore()
    assert os.getcwd() == str(tmp_path)


def run(evaluator: Evaluator, fn: Callable[[], object], **more: Any) -> None:
    evaluator.learn((Function(1, "fn", *pack(fn)),), (1,))
    evaluator.learn((Function(1, "fn", *pack(fn)),), ())
    evaluator.evaluate(Task(9, 1, *pack(((), {})), stream=more.pop("stream", b"")), **more)
    evaluator.clean_up()


@pytest.mark.parametrize(
    "seed",
    [
        lambda: random.seed(1),
        lambda: np.random.seed(1),
        lambda: random.setstate(random.Random(1).getstate()),
        lambda: random._inst.seed(1),
        lambda: np.random.set_state(np.random.RandomState(1).get_state()),
    ],
)
def test_numbers_after_a_seed_are_new(cleanup: Cleanup, seed: Callable[[], object]) -> None:
    drawn: list[tuple[float, float]] = []
    draw = lambda: (random.random(), np.random.random())  # noqa: E731
    evaluator = Evaluator(cleanup=cleanup)
    for _ in range(3):
        run(evaluator, seed)
        run(evaluator, abs)  # type: ignore[arg-type]
        drawn.append(draw())
    assert len({number for pair in drawn for number in pair}) == 6


def test_numbers_that_nobody_has_seeded_go_on(cleanup: Cleanup) -> None:
    evaluator = Evaluator(cleanup=cleanup)
    run(evaluator, lambda: random.seed(1), keep=True)
    run(evaluator, lambda: random.random())
    random_next = random.Random(1)
    random_next.random()
    assert random.random() == random_next.random()


def test_a_task_with_a_stream_leaves_none_of_it(cleanup: Cleanup) -> None:
    evaluator = Evaluator(cleanup=cleanup)
    first = []
    for _ in range(2):
        run(evaluator, abs, stream=b"abc")  # type: ignore[arg-type]
        assert cleanup.stale
        run(evaluator, abs)  # type: ignore[arg-type]
        assert not cleanup.stale
        first.append((random.random(), np.random.random()))
    assert first[0] != first[1]


def test_what_a_module_does_when_it_is_imported_stays(
    cleanup: Cleanup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import os; os.environ['MIRAI_NEW'] = 'imported'; f = lambda: os.environ.clear()"
    (tmp_path / "mirai_test_module.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mirai_test_module", raising=False)
    evaluator = Evaluator(cleanup=cleanup)
    evaluator.learn((Function(1, "f", b"cmirai_test_module\nf\n."),), ())
    evaluator.evaluate(Task(9, 1, *pack(((), {}))))
    assert "MIRAI_NEW" not in os.environ
    evaluator.clean_up()
    assert (os.environ["MIRAI_NEW"], os.environ["MIRAI_KEPT"]) == ("imported", "kept")


def test_without_cleanup_all_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAI_KEPT", "kept")
    run(Evaluator(), lambda: os.environ.update(MIRAI_KEPT="changed"))
    assert os.environ["MIRAI_KEPT"] == "changed"


def test_wrapped_functions_look_like_before(cleanup: Cleanup) -> None:
    assert pickle.loads(pickle.dumps(random.seed)) is random.seed
    assert pickle.loads(pickle.dumps(signal.signal)) is signal.signal
    assert re.match("Initialize", random.seed.__doc__ or "")
    with pytest.raises(TypeError):
        signal.signal("x", signal.SIG_IGN)  # type: ignore[arg-type]
    cleanup.restore()


# ── garbage ──────────────────────────────────────────────────────────────────────────────


def test_collections_are_rare() -> None:
    now, collected = [100.0], []

    def collect() -> None:
        collected.append(now[0])
        now[0] += 0.5

    garbage = Garbage(collect, lambda: now[0])
    garbage.collect()
    assert collected == [100.0]
    now[0] = 100.5 + 0.5 * RARITY - 0.01
    garbage.collect()
    assert len(collected) == 1
    now[0] += 0.02
    garbage.collect()
    assert len(collected) == 2
