"""Launches whose number somebody tells: one look at a time, without a thread."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from dispatcher.messages import DaemonReport, Dismiss, FromHost, PoolReport
from mirai import LaunchError
from mirai import _launches as room
from mirai._launched import Launched
from mirai._launches import MAX_DENIALS, Launches, Link
from mirai._outlook import Outlook
from mirai.launchers import Handle, Launcher, Order, Phase, State


class Platform(Launcher):
    """One whose jobs stand as the test says."""

    interval = 0.0

    def __init__(self) -> None:
        self.calls = 0
        self.refuses = False
        self.states: dict[str, Phase] = {}
        self.ended: list[str] = []
        self.launching: list[tuple[int, int]] = []
        self.stage: Stage | None = None

    def launch(self, order: Order) -> Sequence[Handle]:
        assert self.stage is not None
        self.calls += 1
        self.launching.append(self.stage.launches.counts())
        if self.refuses:
            raise LaunchError("no")
        ids = [str(len(self.states) + index) for index in range(order.count)]
        self.states |= dict.fromkeys(ids, Phase.PENDING)
        return [Handle(id, order.name) for id in ids]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        return {handle: State(self.states[handle.id]) for handle in handles}

    def terminate(self, handles: Sequence[Handle]) -> None:
        self.ended += [handle.id for handle in handles]


class Stage:
    """Launches, and a dispatcher that knows what it is told by the test."""

    def __init__(self) -> None:
        self.platform = Platform()
        self.platform.stage = self
        self.launches = Launches(self.platform, Launched(), 100.0, Outlook())
        self.launches._link = Link(self.order, self.report, ("tcp://127.0.0.1:1",), "key")
        self.launches.on_change = self.changed
        self.daemons: dict[str, str] = {}
        """Job -> what its daemon does."""
        self.joins_late: tuple[str, ...] = ()
        """The jobs that join just before the dispatcher hears of a dismissal."""
        self.orders: list[FromHost] = []
        self.changes = 0

    def order(self, order: FromHost) -> None:
        if isinstance(order, Dismiss):
            self.daemons |= dict.fromkeys(self.joins_late, "busy")
        self.orders.append(order)

    def report(self, _: float) -> PoolReport:
        daemons = [
            DaemonReport(number, "here", number, state, 0, 0, 0.0, job=job)
            for number, (job, state) in enumerate(self.daemons.items())
        ]
        return PoolReport(0, 0, 0, 0, 0, 0, daemons=tuple(daemons))

    def changed(self) -> None:
        self.changes += 1

    def want(self, count: int, **more: Any) -> None:
        """Want so many, and look."""
        self.launches.want(count, **more)
        self.launches._turn()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return one whose platform is asked at each look."""
    monkeypatch.setattr(room, "FIRST", 0.0)
    made = Stage()
    yield made
    made.launches.close()


def test_those_count_that_are_being_launched(stage: Stage) -> None:
    """Else whoever wants them would take them back if demand fell meanwhile."""
    stage.want(3)
    assert stage.platform.launching == [(3, 0)]
    assert stage.launches.counts() == (3, 0)


def test_those_that_could_not_be_launched_do_not_count(stage: Stage) -> None:
    stage.platform.refuses = True
    stage.want(3)
    assert stage.launches.counts() == (0, 0)
    assert stage.changes == 1, "whoever wants them may want others"


def test_a_platform_that_has_refused_is_left_alone_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However often it is said that more are wanted."""
    monkeypatch.setattr(room, "FIRST", 1_000.0)
    monkeypatch.setattr(Platform, "interval", 1_000.0)
    stage.platform.refuses = True
    for count in range(1, 9):
        stage.want(count, anew=True)
    assert stage.platform.calls == 1
    pause = stage.launches._pause()
    assert pause is not None and pause > 0
    stage.launches._tries_at = 0.0  # it has gone by
    stage.launches._turn()
    assert stage.platform.calls == 2, "what was ordered meanwhile is not forgotten"


def test_it_is_told_that_no_more_can_be_launched(stage: Stage) -> None:
    stage.platform.refuses = True
    stage.want(2)
    before = stage.changes
    while stage.platform.calls < MAX_DENIALS:
        stage.launches._pause()
        stage.launches._turn()
    assert stage.changes == before + 1
    assert stage.launches.is_failing()


def test_one_that_joins_after_another_has_failed_has_others_wanted_again(stage: Stage) -> None:
    stage.want(2)
    stage.platform.states["0"] = Phase.FAILED
    stage.launches._turn()
    before = stage.changes
    stage.want(2)
    assert stage.platform.calls == 1, "others would hardly do better"
    stage.daemons["1"] = "busy"
    stage.launches._turn()
    assert stage.changes == before + 1
    stage.want(2)
    assert stage.platform.calls == 2


def test_one_that_joins_just_now_is_let_go_and_not_ended(stage: Stage) -> None:
    """It may have a task by then, which is not to be lost."""
    stage.want(2)
    stage.joins_late = ("1",)
    stage.want(0)
    assert stage.platform.ended == ["0"]
    assert Dismiss(("1", "0")) in stage.orders
    assert stage.launches.counts() == (0, 0)


def test_the_platform_is_asked_sooner_when_there_is_new_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may have ended since it was asked last, and the work would wait for another."""
    monkeypatch.setattr(Platform, "interval", 1_000.0)
    stage.want(1)
    stage.daemons["0"] = "idle"
    stage.launches._turn()
    calm = stage.launches._pause()
    assert calm is not None and calm > 1_000
    for _ in range(2):  # the work may come later than the news
        stage.launches.look()
        stage.launches._turn()
        pause = stage.launches._pause()
        assert pause is not None and pause <= 1_000
