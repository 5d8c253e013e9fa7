"""The world in memory itself: time stands still, nothing happens by itself, lines keep order."""

from __future__ import annotations

import pytest

from dispatcher.messages import ProtocolError as WireError
from dispatcher.messages import Recall, Returned, Stop, Welcome
from mirai import DaemonCrashed, DispatcherLost, ProtocolError, TaskCancelled
from mirai.testing import KILLED, Clock, Move, Pipe, World


def test_a_clock_goes_only_forwards_and_only_when_stepped() -> None:
    clock = Clock()
    clock.step(1.5)
    clock.step(0)
    assert clock.now == 1.5
    with pytest.raises(ValueError, match="backwards"):
        clock.step(-1)
    assert clock.now == 1.5


def test_a_pipe_keeps_order_and_may_lose_only_its_last_messages() -> None:
    pipe = Pipe(Recall | Returned)
    sent = [Recall((1,)), Returned((2,)), Recall((3,))]
    for message in sent:
        pipe.send(message)
    pipe.close(2)
    pipe.send(Recall((4,)))
    assert pipe.in_flight() == sent[:2]
    assert [pipe.receive() for _ in range(len(pipe))] == sent[:2]
    assert not pipe


def test_a_pipe_refuses_what_is_not_expected_at_its_end() -> None:
    pipe = Pipe(Recall | Returned)
    pipe.send(Stop())
    pipe.send_frames([b"nonsense"])
    for _ in range(2):
        with pytest.raises(WireError):
            pipe.receive()


def test_nothing_happens_by_itself() -> None:
    with World() as world:
        client, daemon = world.add_client(), world.add_daemon()
        future = world.submit(client, pow, 2, 10)
        assert world.moves() == [
            Move("flush", client),
            Move("hear", client),
            Move("hear", daemon),
        ]
        world.step(1_000)
        assert not future.done()
        world.settle()
        assert future.result() == 1024
        assert world.moves() == []


def test_a_running_task_dies_with_its_daemon_and_the_next_one_does_not() -> None:
    with World() as world:
        client, daemon = world.add_client(), world.add_daemon()
        world.submit(client, pow, 2, 0)
        world.settle()
        running, waiting = (world.submit(client, pow, 2, power) for power in (1, 2))
        for verb, peer in [("flush", client), ("hear", client), ("read", daemon)]:
            world.move(Move(verb, peer))
        world.move(Move("begin", daemon))
        world.kill(daemon)
        world.settle()
        error = running.exception()
        assert isinstance(error, DaemonCrashed)
        assert (error.signal, error.pid) == ("SIGKILL", daemon)
        assert KILLED == -9
        assert not waiting.done()
        world.add_daemon()
        world.settle()
        assert waiting.result() == 4


def test_a_task_that_does_not_leave_within_the_grace_time_takes_its_daemon_along() -> None:
    with World(grace=2.0) as world:
        client, daemon = world.add_client(), world.add_daemon()
        future = world.submit(client, pow, 2, 10)
        for verb, peer in [
            *[("flush", client), ("hear", client), ("hear", client), ("hear", daemon)],
            *[("read", daemon), ("read", daemon), ("begin", daemon)],
        ]:
            world.move(Move(verb, peer))
        assert world.cancel(future)
        world.move(Move("flush", client))
        world.move(Move("hear", client))
        world.step(1.0)
        assert world.daemons[daemon].alive
        world.step(1.0)
        assert not world.daemons[daemon].alive
        assert isinstance(future.exception(), TaskCancelled)


def test_a_client_that_breaks_the_protocol_is_told_and_one_that_leaves_is_settled() -> None:
    with World() as world:
        rude, hasty = world.add_client(), world.add_client()
        futures = [world.submit(client, pow, 2, 10) for client in (rude, hasty)]
        world.settle()
        world.clients[rude].link.up.send_frames([b"nonsense"])
        world.leave(hasty)
        world.settle()
        assert isinstance(futures[0].exception(), ProtocolError)
        assert isinstance(futures[1].exception(), DispatcherLost)
        with pytest.raises(DispatcherLost):
            world.submit(hasty, pow, 2, 10)
        assert world.core.report(world.clock.now).awaiting == 0


def test_who_does_not_say_hello_first_is_refused() -> None:
    with World() as world:
        daemon = world.add_daemon()
        up = world.daemons[daemon].link.up
        up.receive()
        up.send(Returned((1,)))
        world.hear(daemon)
        assert not world.daemons[daemon].alive
        assert world.core.report(0.0).cumulative == 0


def test_the_watch_sees_what_goes_in_and_what_comes_out() -> None:
    seen: list[tuple[int, int]] = []
    with World(watch=lambda events, commands: seen.append((len(events), len(commands)))) as world:
        daemon = world.add_daemon()
        world.hear(daemon)
        assert seen == [(1, 1)]
        assert world.daemons[daemon].link.down.in_flight() == [Welcome(daemon)]


def test_the_payload_of_a_cancelled_task_is_not_kept() -> None:
    with World() as world:
        client = world.add_client()
        futures = [world.submit(client, len, bytes(1_000_000)) for _ in range(10)]
        world.settle()
        for future in futures:
            world.cancel(future)
        world.settle()
        assert not world.core._queue._levels
