"""Golden plays: what is said to the dispatcher, and what it commands.

A play is a text in ``plays/``.  A line tells the dispatcher one thing; the indented lines with an
arrow below it are all that it does then.  Lines with ``#`` are for the reader.  The core itself
performs the plays: whatever it does otherwise than written is a failure.

When a play is to change, write what is said and let the core fill in the rest, then read the
difference before committing it:

    python tests/sim/test_plays.py
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from dispatcher.core import Dispatcher
from dispatcher.events import (
    Barren,
    Command,
    Event,
    Joined,
    Kill,
    Lost,
    Role,
    Send,
)
from dispatcher.messages import (
    VERSION,
    Cancel,
    Crash,
    Done,
    Function,
    Hello,
    Interrupt,
    Kind,
    Outcome,
    Ping,
    Pong,
    Recall,
    Refused,
    Results,
    Returned,
    Run,
    Submit,
    Task,
    Welcome,
)

PLAYS = sorted((Path(__file__).parent / "plays").glob("*.txt"))
FUNCTION = "f"  # what tasks call where the play does not say
ANSWERS = {"answers": Kind.VALUE, "fails": Kind.ERROR, "drops": Kind.CANCELLED}
ENDS = {Kind.VALUE: "value", Kind.ERROR: "error", Kind.CANCELLED: "cancelled"}


@dataclass
class Stage:
    """The core, and the names that the play gives to tasks and functions.

    A play's names are unique.  Its clients number tasks and functions in the order of the play,
    and so does the dispatcher, whose keys are thus the same numbers as long as every Submit is
    legal.
    """

    core: Dispatcher = field(default_factory=Dispatcher)
    now: float = 0.0
    tasks: list[str] = field(default_factory=list)
    functions: list[str] = field(default_factory=list)
    known: set[tuple[int, str]] = field(default_factory=set)  # clients' functions
    roles: dict[int, str] = field(default_factory=dict)

    def perform(self, line: str) -> list[str]:
        """Tell the core what the line says; return what it does."""
        for pattern, act in ACTS:
            if found := re.fullmatch(pattern, line):
                for role, peer in re.findall(r"(client|daemon) (\d+)", line):
                    self.roles.setdefault(int(peer), role)
                events = act(self, *found.groups())
                commands = self.core.handle(events, self.now)
                self.core.check()
                return [self.told(command) for command in commands]
        raise ValueError(f"no such line in a play: {line!r}")

    # ── lines to events ──────────────────────────────────────────────────────────────────

    def join(self, role: str, peer: str, version: str | None) -> list[tuple[int, Event]]:
        hello = Hello(int(version or VERSION), "host", int(peer))
        return [(int(peer), Joined(Role(role), hello))]

    def submit(self, peer: str, names: str, function: str | None) -> list[tuple[int, Event]]:
        function = function or FUNCTION
        if function not in self.functions:
            self.functions.append(function)
        number = self.functions.index(function) + 1
        new = (int(peer), function) not in self.known
        self.known.add((int(peer), function))
        self.tasks += [name for name in names.split() if name not in self.tasks]
        tasks = tuple(Task(key, number, name.encode()) for name, key in self.keyed(names))
        return [(int(peer), Submit(tasks, (Function(number, function, b"code"),) * new))]

    def cancel(self, peer: str, names: str) -> list[tuple[int, Event]]:
        return [(int(peer), Cancel(self.keys(names)))]

    def answer(
        self, peer: str, verb: str, names: str, milliseconds: str | None
    ) -> list[tuple[int, Event]]:
        seconds = float(milliseconds or 0) / 1_000
        outcomes = [Outcome(key, ANSWERS[verb], seconds=seconds) for key in self.keys(names)]
        return [(int(peer), Done(tuple(outcomes)))]

    def hand_back(self, peer: str, names: str) -> list[tuple[int, Event]]:
        return [(int(peer), Returned(self.keys(names)))]

    def die(self, peer: str, begun: str) -> list[tuple[int, Event]]:
        started = {"nothing": 0, "who knows what": None}
        key = started[begun] if begun in started else self.keys(begun)[0]
        return [(int(peer), Lost(Crash("it was killed", -9), key))]

    def say_so(self, peer: str) -> list[tuple[int, Event]]:
        return [(int(peer), Pong())]

    def leave(self, peer: str) -> list[tuple[int, Event]]:
        return [(int(peer), Lost(Crash("its connection was lost")))]

    def despair(self) -> list[tuple[int, Event]]:
        return [(0, Barren(Crash("5 daemons in a row died")))]

    def pass_time(self, amount: str, unit: str) -> list[tuple[int, Event]]:
        self.now += float(amount) / (1_000 if unit == "ms" else 1)
        return []

    def keys(self, names: str) -> tuple[int, ...]:
        return tuple(key for _, key in self.keyed(names))

    def keyed(self, names: str) -> Iterator[tuple[str, int]]:
        """Return each name with its number; ``?`` is a task that nobody has heard of."""
        for name in names.split():
            yield name, 999 if name == "?" else self.tasks.index(name) + 1

    # ── commands to lines ────────────────────────────────────────────────────────────────

    def told(self, command: Command) -> str:
        match command:
            case Send(peer, message):
                return f"{self.title(peer)}: {self.said(message)}"
            case Kill(peer, keys):
                return f"kill daemon {peer} if it is still busy with {self.names(keys)}"
            case _:
                return f"listen no more to {self.title(command.peer)}"

    def title(self, peer: int) -> str:
        return f"{self.roles[peer]} {peer}"

    def said(self, message: object) -> str:
        match message:
            case Welcome():
                return "welcome"
            case Refused(reason):
                return f"refused, {reason}"
            case Run(tasks, functions, _):
                new = [f"; {self.functions[each.number - 1]} is new" for each in functions]
                return f"run {self.names([task.id for task in tasks])}" + "".join(new)
            case Recall(keys):
                return f"hand back {self.names(keys)}"
            case Interrupt(keys):
                return f"stop {self.names(keys)}"
            case Ping():
                return "say that you are there"
            case Results(outcomes):
                return ", ".join(self.ended(outcome) for outcome in outcomes)
        raise ValueError(f"no words for {message}")

    def ended(self, outcome: Outcome) -> str:
        [name] = self.names([outcome.id]).split()
        how = f"crashed, {outcome.crash.reason}" if outcome.crash else ENDS[outcome.kind]
        return f"{name} → {how}"

    def names(self, keys: Iterator[int] | list[int] | tuple[int, ...]) -> str:
        return " ".join(self.tasks[key - 1] for key in keys)


Act = Callable[..., list[tuple[int, Event]]]

ACTS: list[tuple[str, Act]] = [
    (r"(client|daemon) (\d+) joins(?: and speaks version (\d+))?", Stage.join),
    (r"(?:client|daemon) (\d+) submits ([\w? ]+?)(?: of function (\w+))?", Stage.submit),
    (r"(?:client|daemon) (\d+) cancels ([\w? ]+)", Stage.cancel),
    (
        r"(?:client|daemon) (\d+) (answers|fails|drops) ([\w? ]+?)(?: after ([\d.]+) ms each)?",
        Stage.answer,
    ),
    (r"daemon (\d+) hands back ([\w? ]*)", Stage.hand_back),
    (r"daemon (\d+) dies and had begun ([\w ]+)", Stage.die),
    (r"daemon (\d+) says that it is there", Stage.say_so),
    (r"client (\d+) leaves", Stage.leave),
    (r"no daemon can be started any more", Stage.despair),
    (r"([\d.]+) (ms|s) (?:pass|passes)", Stage.pass_time),
]


def perform(text: str) -> str:
    """Return the play as the core performs it: what is said as written, what it does anew."""
    stage = Stage()
    lines = []
    for line in text.splitlines():
        if line.startswith("  →"):
            continue
        lines.append(line)
        if line and not line.startswith("#"):
            lines += [f"  → {told}" for told in stage.perform(line)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_play(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert perform(text) == text


@pytest.mark.parametrize("path", PLAYS, ids=lambda path: path.stem)
def test_a_play_without_one_of_its_lines_fails(path: Path) -> None:
    """Each arrow counts: take one away, or put another in its place, and the play fails."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    arrows = [index for index, line in enumerate(lines) if line.startswith("  →")]
    assert arrows
    for index in arrows:
        for other in ([], ["  → client 1: something else\n"]):
            changed = "".join([*lines[:index], *other, *lines[index + 1 :]])
            assert perform(changed) != changed


def test_there_are_plays() -> None:
    assert len(PLAYS) >= 8


def test_a_line_that_says_nothing_known_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such line"):
        perform("client 1 sings\n")


if __name__ == "__main__":
    for play in PLAYS:
        play.write_text(perform(play.read_text(encoding="utf-8")), encoding="utf-8")
