"""Durable jobs for a shell: a ``Keeper`` that decides, and the ``Journal`` that it writes to.

What comes out of here is saved already: one transaction for all that one turn has brought.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress

from msgspec import structs

from dispatcher.events import Command, Event, Send
from dispatcher.journal import Journal, JournalError
from dispatcher.keeper import Keeper, Recite
from dispatcher.messages import Crash, Kind, Outcome, Results, Seen
from dispatcher.wire import batches

GATHER = 0.003
"""How long to let things gather after a transaction, at most, in seconds: less than what daemons
have in hand."""
SHARE = 3.0
"""How many times as long as the last transaction took."""
LOOK = 60.0
"""How often to look for results that have been kept for too long, in seconds."""


class Vault:
    """All durable jobs of one dispatcher, and where they are kept."""

    def __init__(self, path: str, time_to_live: float | None, *, synchronous: bool = True) -> None:
        """Go on where the last one stopped.  Raises JournalError.

        Without ``synchronous``, what is saved survives a kill, but not a power failure.
        """
        self._journal = Journal(path, synchronous=synchronous)
        self._keeper = Keeper(time_to_live)
        loaded = self._journal.load()
        try:
            self._keeper.load(loaded, self._journal.highest(), time.time())
            self._save()
        except BaseException:
            loaded.close()
            with suppress(OSError):  # it is said already what is wrong
                self._journal.close()
            raise
        self._looked = self._saved = time.monotonic()
        self._took = 0.0  # how long the last transaction took

    def gather(self) -> None:
        """Wait a moment where several tasks run, so that one transaction is for what all bring.

        A disk takes as long for one record as for hundreds.
        """
        left = self._saved + min(GATHER, SHARE * self._took) - time.monotonic()
        if left > 0.0 and self._keeper.running() > 1:
            time.sleep(left)

    def take(self, events: Iterable[tuple[int, Event]]) -> list[tuple[int, Event]]:
        """Take in what peers have said; return what the core is to hear.

        Raises JournalError if what is needed cannot be read.
        """
        keeper, now = self._keeper, time.time()
        if time.monotonic() - self._looked > LOOK:
            self._looked = time.monotonic()
            keeper.expire(now)  # before anybody is promised any of it
            self._journal.tidy()
        keeper.take(events, now)
        for wanted in keeper.wanted():
            keeper.restore(self._journal.task(wanted.run), wanted.span)
        return keeper.events()

    def give(self, commands: Iterable[Command]) -> list[Command]:
        """Take in what the core has said; save; return what is to be done.

        Raises JournalError if it cannot be saved: then nothing may be done of it.
        """
        given = self._keeper.give(commands, time.time())
        self._save()
        for index, command in enumerate(given):
            if isinstance(command, Send) and isinstance(command.message, Seen):
                seen = structs.replace(
                    command.message, path=self._journal.path, size=self._journal.size()
                )
                given[index] = Send(command.peer, seen)
        for recital in self._keeper.recitals():
            outcomes = [*self._recited(recital)]
            given += (Send(recital.peer, Results(batch)) for batch in batches(outcomes))
        return given

    def _recited(self, recital: Recite) -> Iterator[Outcome]:
        """Yield what the journal knows, by the numbers of whoever is told."""
        span, shift = recital.span, recital.id - recital.span.first
        following = span.first
        try:
            for outcome in self._journal.read(span.first, span.count):
                following = outcome.id + outcome.count
                yield structs.replace(outcome, id=outcome.id + shift)
        except JournalError:
            for serial in range(following, span.first + span.count):
                yield structs.replace(self._read_one(serial), id=serial + shift)

    def _read_one(self, serial: int) -> Outcome:
        """Return how a task ended, also if that is damaged."""
        try:
            for outcome in self._journal.read(serial, 1):
                return outcome
        except JournalError as error:
            return Outcome(serial, Kind.CRASHED, crash=Crash(str(error)))
        return Outcome(serial, Kind.CANCELLED)  # it was fetched meanwhile

    def _save(self) -> None:
        records = self._keeper.records()
        if records:
            begun = time.monotonic()
            self._journal.save(records)
            self._saved = time.monotonic()
            self._took = self._saved - begun

    def close(self) -> None:
        """Close the journal.  Idempotent."""
        self._journal.close()
