"""What tasks wait for, told from what is known; and when it is told."""

from __future__ import annotations

import io
import math
from typing import Any

import pytest

from dispatcher.messages import Crash, DaemonReport, PoolReport
from mirai import Memory, Status
from mirai._why import LOOK, Cause, Watch, reasons, unreachable

CRASH = Crash("the daemon died", 3, "here", 4, tail="Traceback\nImportError: no torch")
FULL = Memory(10_000_000, 20_000_000, 5_000_000, 2)
URL = "tcp://there:5555"


def report(
    *states: str,
    awaiting: int = 0,
    cumulative: int | None = None,
    completed: int = 0,
    wanted: tuple[tuple[str, ...], ...] = (),
    kept: int = 0,
    failure: Crash | None = None,
) -> PoolReport:
    """Return the report of a pool with daemons in these states."""
    daemons = [DaemonReport(i, "here", i, state, 0, 0, 1.0) for i, state in enumerate(states)]
    joined = len(states) if cumulative is None else cumulative
    return PoolReport(
        len(states), joined, awaiting, 0, completed, 0, tuple(daemons), wanted, kept, failure
    )


# ── the reasons ──────────────────────────────────────────────────────────────────────────

NOTHING = [
    report(),
    report("idle"),
    report("idle", "stalled", "busy", awaiting=9),
    report("stalled"),  # nothing else waits for it
    report("leaving", "stalled"),
    report(kept=2, failure=CRASH),
    report("busy", "busy", awaiting=100, kept=3, failure=CRASH),
]

GONE = "and none is kept here: daemons have to join from elsewhere"
FAILED = """the last one to fail ended with exit code 3 and printed:
Traceback
ImportError: no torch"""
HELD = "in a call that keeps the interpreter's lock, or stopped"

REASONS: list[tuple[PoolReport, dict[Cause, str]]] = [
    (report(wanted=((),)), {Cause.DAEMONS: f"no daemon has joined yet, {GONE}"}),
    (report(wanted=((),), cumulative=1), {Cause.DAEMONS: f"no daemon is left, {GONE}"}),
    (
        report(wanted=((),), kept=1),
        {Cause.DAEMONS: "no daemon has joined yet; 1 local one is to come"},
    ),
    (
        report(wanted=((),), kept=2, failure=CRASH),
        {Cause.DAEMONS: f"no daemon has joined yet; 2 local ones are to come; {FAILED}"},
    ),
    (
        report(wanted=((),), kept=2, cumulative=2, failure=Crash("the daemon died", -9)),
        {
            Cause.DAEMONS: "no daemon is left; 2 local ones are to come;"
            " the last one to fail ended with SIGKILL and printed nothing"
        },
    ),
    (
        report("leaving", "leaving", wanted=((),), kept=2),
        {Cause.DAEMONS: "all 2 daemons are leaving; 2 local ones are to come"},
    ),
    (
        report("leaving", wanted=((),)),
        {Cause.DAEMONS: f"the only daemon is leaving, {GONE}"},
    ),
    (
        report("idle", wanted=((),), kept=2, failure=CRASH),
        {
            Cause.DAEMONS: "1 of 2 daemons have joined, and a call is for every one;"
            f" 1 local one is to come; {FAILED}"
        },
    ),
    (
        report("busy", "idle", wanted=(("gpu",),)),
        {Cause.TAGS: 'no daemon carries the tag "gpu", which tasks want'},
    ),
    (
        report("idle", wanted=(("big", "gpu"), ("tpu",)), kept=1),
        {
            Cause.TAGS: 'no daemon carries the tags "big" and "gpu" or the tag "tpu",'
            " which tasks want"
        },
    ),
    (
        report(wanted=((), ("gpu",)), kept=1),
        {
            Cause.DAEMONS: "no daemon has joined yet; 1 local one is to come",
            Cause.TAGS: 'no daemon carries the tag "gpu", which tasks want',
        },
    ),
    (report("stalled", awaiting=1), {Cause.STALLED: f"the only daemon is stalled: {HELD}"}),
    (
        report("stalled", "leaving", "stalled", awaiting=1),
        {Cause.STALLED: f"all 2 daemons are stalled: {HELD}"},
    ),
]


@pytest.mark.parametrize("known", NOTHING, ids=lambda _: "")
def test_there_is_nothing_to_say(known: PoolReport) -> None:
    assert reasons(known) == {}


@pytest.mark.parametrize(("known", "said"), REASONS, ids=lambda _: "")
def test_the_reasons_are_said(known: PoolReport, said: dict[Cause, str]) -> None:
    assert reasons(known) == said


USED_UP = (
    "the memory budget of 5,000,000 bytes is used up by tasks that are not answered, and 2 more"
    " wait to be submitted"
)


@pytest.mark.parametrize(
    ("known", "memory", "expected"),
    [
        (report("idle", "busy"), FULL, {Cause.MEMORY}),
        (report("idle", wanted=(("gpu",),)), FULL, {Cause.TAGS, Cause.MEMORY}),
        (report("busy", wanted=(("gpu",),)), FULL, {Cause.TAGS, Cause.MEMORY}),
        (report("stalled", awaiting=1), FULL, {Cause.STALLED, Cause.MEMORY}),
        (report("busy", "busy", awaiting=9), FULL, set()),  # it is their turn soon
        (report("idle"), Memory(1, 1, 1, 0), set()),  # nobody wants more
    ],
)
def test_a_budget_that_is_used_up(known: PoolReport, memory: Memory, expected: set[Cause]) -> None:
    said = reasons(known, memory)
    assert said.keys() == expected
    assert said.get(Cause.MEMORY, USED_UP) == USED_UP


def test_every_cause_has_a_test() -> None:
    said = {cause for _, found in REASONS for cause in found}
    assert said | {Cause.MEMORY, Cause.UNREACHABLE} == set(Cause)


# ── what is shown ────────────────────────────────────────────────────────────────────────


def test_a_status_says_why() -> None:
    known = report(wanted=((),), kept=1, failure=CRASH)
    status = Status.of("default", URL, known)
    assert status.why == tuple(reasons(known).values())
    assert str(status).splitlines()[2:] == [
        "waiting: no daemon has joined yet; 1 local one is to come; the last one to fail ended"
        " with exit code 3 and printed:",
        "    Traceback",
        "    ImportError: no torch",
    ]


def test_a_status_does_not_pass_on_what_does_something_to_a_terminal() -> None:
    wicked = report(wanted=(("\x1b[2J",),), failure=Crash("", 1, tail="\x1b]0;\x07\r"))
    assert "\x1b" not in (shown := str(Status.of("default", URL, wicked)))
    assert "\r" not in shown


def test_the_live_view_shows_it() -> None:
    rich = pytest.importorskip("rich.console")
    from mirai._top import Look, picture

    known = report("stalled", awaiting=1, wanted=(("[red]",),))
    look = Look(Status.of("default", URL, known), 1.0)
    console = rich.Console(width=200, file=io.StringIO())
    console.print(picture(look, look))
    shown = console.file.getvalue()
    assert 'waiting: no daemon carries the tag "[red]", which tasks want' in shown
    assert "waiting: the only daemon is stalled" in shown


def test_a_status_without_an_answer() -> None:
    status = Status.unanswered("default", URL, 5.0, 3, None)
    assert (status.awaiting, status.connections, status.daemons) == (3, 0, ())
    [why] = status.why
    assert why.startswith(f"the dispatcher at {URL} has not answered for 5 s")
    assert "waiting: the dispatcher" in str(status)


# ── when it is told ──────────────────────────────────────────────────────────────────────


class Channel:
    """What the channel does with a watch: it looks when that is due, and hears at once."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.now = 100.0
        self.asked = 0

    def look(self, answer: PoolReport | None, memory: Memory | None = None) -> list[str]:
        """Wait until it is time; return what is told, if this is the answer (None: none comes)."""
        patience = self.watch.patience(True, self.now)
        assert patience == LOOK
        assert not self.watch.is_due(self.now + 0.9 * LOOK)
        self.now += LOOK
        assert self.watch.patience(True, self.now) == 0.0
        assert self.watch.is_due(self.now)
        shall_ask, news = self.watch.look(URL, self.now)
        self.asked += shall_ask
        return news if answer is None else news + self.watch.answered(answer, memory)


BARE: Any = report(wanted=((),))
TAGS: Any = report("busy", wanted=(("gpu",),))


def test_it_is_told_at_the_second_look_and_once() -> None:
    channel = Channel()
    told = [channel.look(BARE) for _ in range(9)]
    assert told == [[], [*reasons(BARE).values()], *[[]] * 7]
    assert channel.asked == 9


def test_what_is_gone_at_the_next_look_is_not_told() -> None:
    channel = Channel()
    assert [channel.look(each) for each in [BARE, report("idle")] * 5] == [[]] * 10


def test_what_comes_back_is_told_again() -> None:
    channel = Channel()
    told = [channel.look(each) for each in [TAGS, TAGS, report("idle"), TAGS, TAGS]]
    assert [len(each) for each in told] == [0, 1, 0, 0, 1]


def test_each_cause_is_told_by_itself() -> None:
    channel = Channel()
    both = report(wanted=((), ("gpu",)))
    channel.look(BARE)
    assert channel.look(both) == [reasons(both)[Cause.DAEMONS]]
    assert channel.look(both) == [reasons(both)[Cause.TAGS]]


def test_while_daemons_come_and_go_nobody_waits_for_them() -> None:
    """As with ``max_tasks=1``: at any look the only daemon may just be starting."""
    channel = Channel()
    looks = [report(wanted=((),), kept=1, cumulative=count) for count in range(1, 20)]
    assert [channel.look(each) for each in looks] == [[]] * 19


def test_while_tasks_end_there_is_room_now_and_then() -> None:
    channel = Channel()
    looks = [report("idle", completed=count) for count in range(5)]
    assert [channel.look(each, FULL) for each in looks] == [[]] * 5
    assert channel.look(looks[-1], FULL) == [USED_UP]


def test_other_tasks_that_end_do_not_hide_the_missing_tag() -> None:
    channel = Channel()
    looks = [report("busy", completed=count, wanted=(("gpu",),)) for count in range(3)]
    assert [len(channel.look(each)) for each in looks] == [0, 1, 0]


def test_a_dispatcher_that_does_not_answer_is_asked_once_and_told_of_once() -> None:
    channel = Channel()
    told = [channel.look(None) for _ in range(6)]
    assert [len(each) for each in told] == [0, 0, 1, 0, 0, 0]
    assert channel.asked == 1
    assert told[2][0].startswith(f"the dispatcher at {URL} has not answered")
    channel.watch.answered(report("idle"), None)
    assert [len(channel.look(None)) for _ in range(3)] == [0, 0, 1]


def test_silence_in_between_does_not_make_it_tell_twice() -> None:
    channel = Channel()
    answers = [BARE, BARE, None, None, None]
    assert [len(channel.look(each)) for each in answers] == [0, 1, 0, 0, 1]
    channel.watch.answered(BARE, None)
    assert [channel.look(BARE) for _ in range(3)] == [[]] * 3


def test_what_waits_after_a_while_without_tasks_is_told_again() -> None:
    channel = Channel()
    assert [len(channel.look(TAGS)) for _ in range(3)] == [0, 1, 0]
    channel.watch.patience(False, channel.now)
    assert [len(channel.look(TAGS)) for _ in range(3)] == [0, 1, 0]


def test_other_tags_are_news() -> None:
    channel = Channel()
    other: Any = report("busy", wanted=(("fpga",),))
    told = [channel.look(each) for each in [TAGS, TAGS, other, other, TAGS]]
    assert [len(each) for each in told] == [0, 1, 1, 0, 1]


def test_it_says_for_how_long_there_has_been_no_answer() -> None:
    channel = Channel()
    told = [text for _ in range(4) for text in channel.look(None)]
    assert told == [*unreachable(URL, 2 * LOOK).values()]


def test_while_nothing_is_pending_it_sleeps() -> None:
    watch = Watch()
    assert watch.patience(False, 100.0) is None
    assert watch.patience(True, 200.0) == LOOK
    assert watch.patience(True, 201.0) == LOOK - 1.0
    assert watch.patience(False, 202.0) is None
    assert not watch.is_due(math.nextafter(math.inf, 0.0))
    assert watch.patience(True, 300.0) == LOOK


def test_what_waited_before_is_no_sign_for_what_waits_now() -> None:
    channel = Channel()
    channel.look(BARE)
    channel.watch.patience(False, channel.now)
    assert channel.look(BARE) == []
    assert channel.look(BARE) != []
