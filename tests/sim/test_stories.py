"""Stories in a small world: what is told of a task agrees with what has happened to it."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from mirai import Mirai
from mirai._options import TaskOptions
from mirai.testing import World

STEPS = 120


def plot(world: World, client: int, mirai: Mirai[Any]) -> list[str]:
    """Ask for a story, and let nobody but the dispatcher move meanwhile."""
    told = world.clients[client].told
    world.clients[client].flush()
    world.recount(client, mirai)
    before = len(told)
    while world.clients[client].link.up:
        world.hear(client)
    while len(told) == before:
        world.clients[client].read()
    return [step.what for step in told[-1]]


def test_from_the_queue_to_the_answer() -> None:
    with World() as world:
        client = world.add_client()
        mirai = world.submit(client, abs, -1)
        assert plot(world, client, mirai) == ["waits for a daemon, as do 0 others"]
        daemon = world.add_daemon()
        world.hear(daemon)
        sent = f"sent to daemon {daemon} (process {daemon} on memory)"
        assert plot(world, client, mirai) == [sent, "runs there, for 0.000 s"]
        world.daemons[daemon].read()
        world.daemons[daemon].read()
        world.daemons[daemon].begin()
        world.step(2.0)
        assert plot(world, client, mirai) == [sent, "runs there, for 2.000 s"]
        world.settle()
        assert [event.what for event in mirai.story().events] == [
            "submitted",
            sent,
            "ended there, after 2.000 s",
            "returned",
        ]
        assert plot(world, client, mirai) == []


@pytest.mark.parametrize("seed", range(30))
def test_whatever_happens(seed: int) -> None:
    """Every question is answered, and only what is not answered has a place."""
    random = Random(seed)
    with World(grace=0.5, watch=lambda *_: world.core.check()) as world:
        client = world.add_client()
        mirais: list[Mirai[Any]] = [world.submit(client, abs, -1)]
        asked = 0
        for _ in range(STEPS):
            match random.randrange(12):
                case 0:
                    options = TaskOptions(retries=random.randrange(3))
                    mirais.append(world.submit_with(options, client, abs, -1))
                case 1 if len(world.daemons) < 8:
                    world.add_daemon(watermark=random.random() < 0.5)
                case 2 if world.daemons:
                    world.kill(random.choice([*world.daemons]))
                case 3:
                    world.cancel(random.choice(mirais))
                case 4:
                    world.step(random.random() * 0.02)
                case 5:
                    mirai = random.choice(mirais)
                    steps, asked = plot(world, client, mirai), asked + 1
                    place = ("waits for a daemon", "runs there", "has not begun there")
                    assert mirai.done() or (bool(steps) and steps[-1].startswith(place))
                case _ if moves := world.moves():
                    world.move(random.choice(moves))
        assert len(world.clients[client].told) == asked
