"""Crews of one controller: each has workers when there is work for it, whatever others do."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest
from conftest import wait_until

from mirai import LaunchError
from mirai.controllers import Controller, Retry
from mirai.controllers._engine import Engine
from mirai.controllers._task import Task
from mirai.launchers import Handle, Launcher, Order, Phase, State

pytestmark = pytest.mark.usefixtures("launch_home")


@dataclass(frozen=True)
class Queue(Launcher):
    """One whose jobs wait until they are ended, or are refused."""

    refuses: bool = False
    calls: list[int] = field(default_factory=list)
    """How many jobs each call was to launch."""
    ended: list[Handle] = field(default_factory=list)
    interval = 0.05

    def launch(self, order: Order) -> list[Handle]:
        self.calls.append(order.count)
        if self.refuses:
            raise LaunchError("no")
        return [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        waits, gone = State(Phase.PENDING), State(Phase.CANCELLED)
        return {handle: gone if handle in self.ended else waits for handle in handles}

    def terminate(self, handles: Sequence[Handle]) -> None:
        self.ended.extend(handles)


def test_a_task_of_one_crew_is_seen_beside_very_many_of_another() -> None:
    first, second = Queue(), Queue()
    with Controller(first, tags=("a",), dispatcher=False) as controller:
        controller.recruit(1, launcher=second, tags=("b",))
        for _ in range(5):
            controller.options(tags=("a",)).push(abs, 1)
        wait_until(lambda: first.calls == [1])
        controller.options(tags=("b",)).push(abs, 1)
        wait_until(lambda: second.calls == [1])
        controller.terminate()


def test_what_one_platform_refuses_is_anothers() -> None:
    first, second = Queue(refuses=True), Queue()
    with Controller(first, dispatcher=False) as controller:
        controller.recruit(1, launcher=second)
        controller.push(abs, 1)
        wait_until(lambda: second.calls == [1])
        controller.terminate()


def test_what_was_a_dismissed_crews_is_anothers() -> None:
    first, second = Queue(refuses=True), Queue()
    with Controller(first, tags=("a",), dispatcher=False) as controller:
        controller.recruit(1, launcher=second, tags=("b",))
        controller.push(abs, 1)
        wait_until(lambda: first.calls)
        controller.dismiss("a")
        wait_until(lambda: second.calls == [1])
        controller.terminate()


def test_those_that_are_shut_down_are_replaced_where_there_is_work() -> None:
    queue = Queue()
    with Controller(queue, dispatcher=False) as controller:
        controller.push(abs, 1)
        wait_until(lambda: queue.calls == [1])
        wait_until(controller.launched)
        [former] = controller.launched()
        controller.shutdown()
        wait_until(lambda: queue.calls == [1, 1])
        assert queue.ended == [former]
        controller.terminate()


def test_it_ends_while_a_task_is_about_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread starts no pool then, for which it would wait for the end, and the end for it."""
    with Controller(retry=Retry(errors=1), dispatcher=False) as controller:
        engine = controller._engine
        attempts, trying = engine._attempts, threading.Event()
        place_of = attempts._place_of

        def late(task: Task) -> Engine:
            if task.ends:
                trying.set()
                wait_until(lambda: not engine.is_started)
            return place_of(task)

        monkeypatch.setattr(attempts, "_place_of", late)
        task = controller.push(int, "x")
        assert trying.wait(15)
        controller.terminate()
        assert task.done()
        assert not engine.is_started
