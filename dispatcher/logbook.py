"""What the dispatcher logs: whatever its core was told, and commands.

Levels: *debug* each message, by the numbers of its tasks; *info* who joins and leaves, and what
becomes of the pool; *warning* what the pool cannot do.  What peers do that they must not is told
by the server, in moderation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from dispatcher.core import Dispatcher
from dispatcher.events import (
    Barren,
    Command,
    Denied,
    Drain,
    Event,
    Halt,
    Illegal,
    Joined,
    Keep,
    Kill,
    Lend,
    Lost,
    Retire,
    Send,
    Stillborn,
)
from dispatcher.log import Guarded
from dispatcher.messages import Leave, Run, Scale, Task
from dispatcher.story import cause
from dispatcher.words import numbers, said

logger = Guarded("dispatcher")


class Logbook:
    """The log of one dispatcher, from its start to its end."""

    def __init__(self, core: Dispatcher) -> None:
        """What is logged, and whether anything is, stays as the logger is set now."""
        self.is_on = logger.isEnabledFor(logging.WARNING)
        self._is_full = logger.isEnabledFor(logging.DEBUG)
        self._core = core
        self._names: dict[int, str] = {0: "somebody"}  # of peers that have joined
        self._dropped = 0  # how many answers had been dropped when it was last looked

    def write(self, events: Iterable[tuple[int, Event]], commands: Iterable[Command]) -> None:
        """Log what the core was told in one turn, and what it has commanded."""
        for peer, event in events:
            self._told(peer, event)
        for command in commands:
            self._commanded(command)
        if self._dropped != self._core.dropped:
            late, self._dropped = self._core.dropped - self._dropped, self._core.dropped
            logger.debug("%d answers were late, double or unasked, and are dropped", late)

    def _told(self, peer: int, event: Event) -> None:
        name = self._name(peer)
        match event:
            case Joined(role, hello):
                name = f"{role.value} {peer} (process {hello.pid} on {hello.host[:64]})"
                self._names[peer] = name
                if self._core.is_member(peer):
                    logger.info("%s has joined", name)
            case Lost(crash, started):
                logger.info("%s is gone: %s", name, cause(crash))
                if started:
                    logger.debug("%s had begun the task with key %d", name, started)
                self._names.pop(peer, None)
            case Stillborn(crash):
                logger.info("a daemon died before it could join: %s", cause(crash))
            case Barren(crash):
                logger.warning("no daemon is there, and none will be: %s", crash.reason)
            case Drain():
                logger.info("no more tasks are taken")
            case Retire(_, count):
                logger.info("%d daemons may leave", count)
            case Illegal() | Denied():
                pass  # the server has given notice
            case Leave() | Scale():
                logger.info("%s: %s", name, said(event))
            case _:
                if self._is_full:
                    logger.debug("%s: %s", name, said(event))

    def _commanded(self, command: Command) -> None:
        match command:
            case Send(peer, Run(tasks)):
                if self._is_full:
                    logger.debug("%s gets %s", self._name(peer), self._by_client(peer, tasks))
            case Send(peer, message):
                if self._is_full:
                    logger.debug("to %s: %s", self._name(peer), said(message))
            case Kill(peer, keys):
                logger.info("%s does not leave the task with key %d", self._name(peer), keys[0])
            case Keep(count):
                logger.info("%d daemons are kept", count)
            case Lend(peers):
                logger.debug("%d daemons wait for tasks of their tasks", len(peers))
            case Halt():
                logger.info("all tasks have ended")

    def _by_client(self, peer: int, tasks: Iterable[Task]) -> str:
        """Say which clients' tasks these are that a daemon is given, with their keys here."""
        clients: dict[int, tuple[list[int], list[int]]] = {}
        for task in tasks:
            client, id = self._core.origin(peer, task.id)
            ids, keys = clients.setdefault(client, ([], []))
            ids += range(id, id + task.count)
            keys += range(task.id, task.id + task.count)
        parts = [
            f"client {client}'s tasks {numbers(ids)} as {numbers(keys)}"
            for client, (ids, keys) in clients.items()
        ]
        return " and ".join(parts) or "functions"

    def _name(self, peer: int) -> str:
        return self._names.get(peer, f"peer {peer}")
