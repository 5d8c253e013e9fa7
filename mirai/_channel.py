"""The host's link to one dispatcher: one thread that owns the socket and what is pending.

Callers leave tasks in an outbox and wake the thread only if it sleeps; it sends whatever has
gathered as one message.  A channel ends once, with an error that says why, and that error
settles whatever was not answered.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any

from dispatcher.messages import (
    VERSION,
    Ask,
    Hello,
    Message,
    Refused,
    Report,
    Results,
    Scale,
    Stop,
    ToClient,
    Welcome,
)
from dispatcher.messages import ProtocolError as WireError
from dispatcher.security import KeyPair
from mirai._errors import (
    AuthenticationError,
    DispatcherLost,
    MiraiError,
    ProtocolError,
    again,
)
from mirai._future import Failure, Mirai, Value
from mirai._link import Link
from mirai._options import TaskOptions
from mirai._outbox import Call, Outbox
from mirai._pending import Pending

MESSAGES_A_TURN = 64

Explain = Callable[[], MiraiError | None]


@dataclass(slots=True)
class _Requests:
    """What callers want to know or to have, besides tasks."""

    asks: list[tuple[Mirai[Any], int]] = field(default_factory=list)
    drains: list[Mirai[None]] = field(default_factory=list)
    scale: int | None = None

    def __bool__(self) -> bool:
        return bool(self.asks or self.drains or self.scale is not None)


class Channel:
    """Moves messages for the mirais of one profile."""

    def __init__(
        self, url: str, pair: KeyPair, server: str, *, profile: str, explain: Explain
    ) -> None:
        """Connect, without waiting for it.

        ``server`` is the dispatcher's public key; ``explain`` is asked for the error when the
        connection is lost.
        """
        self._url = url
        self._profile = profile
        self._explain = explain
        self._lock = threading.RLock()  # guards what follows, up to the blank line
        self._outbox = Outbox(profile)
        self._requests = _Requests()
        self._end: tuple[MiraiError, bool] | None = None  # why it ended; as a cancellation?

        self._pending = Pending()
        self._asked: dict[int, Mirai[Any]] = {}
        self._drains: list[Mirai[None]] = []
        self._welcome = False
        self._nap = 0  # which sleep the thread is in, or is about to fall into; 0: it is awake
        self._rung = 0  # for which of them the bell was rung
        self._link = Link(url, pair, server, ToClient)
        self._thread = threading.Thread(target=self._run, name=f"mirai-{profile}", daemon=True)
        self._thread.start()

    # ── for callers, in any thread ───────────────────────────────────────────────────────

    def submit(
        self,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions,
    ) -> list[Mirai[Any]]:
        """Send one task for each call of ``fn``, given by its arguments and keywords.

        Raises SerializationError if something cannot be pickled, and why the channel has ended
        if it has; then nothing is sent.
        """
        parcel = self._outbox.parcel(fn, calls, options)
        with self._lock:
            self._check_open()
            mirais = self._outbox.add(parcel, self._cancel)
            self._wake()
        return mirais

    def ask(self, at_least: int = 0) -> Mirai[Any]:
        """Ask for the dispatcher's PoolReport, as soon as so many daemons are there."""
        return self._request("status", lambda requests, it: requests.asks.append((it, at_least)))

    def scale(self, count: int) -> None:
        """Tell the dispatcher how many local daemons to keep."""
        with self._lock:
            self._check_open()
            self._requests.scale = count
            self._wake()

    def drained(self) -> Mirai[None]:
        """Return a mirai that is settled once no task is pending."""
        return self._request("drained", lambda requests, it: requests.drains.append(it))

    def close(self, error: MiraiError) -> None:
        """End the channel: settle what is pending as cancelled, with ``error``.  Idempotent."""
        self._finish(error, cancelled=True)
        if not self.is_current_thread():
            self._thread.join()

    def is_current_thread(self) -> bool:
        """Return whether this is called by the channel's own thread, in a done-callback."""
        return self._thread is threading.current_thread()

    def forsake(self, error: MiraiError) -> None:
        """Fail everything without touching thread, lock or socket: for a forked child."""
        self._lock = threading.RLock()
        self._end = (error, False)
        for mirai, _ in self._outbox.take().tasks:
            self._pending.add(mirai)
        self._pending.forsake(error)

    def _request(self, name: str, put: Callable[[_Requests, Mirai[Any]], None]) -> Mirai[Any]:
        if self.is_current_thread():
            raise RuntimeError("a done-callback must not wait for the thread that it runs in")
        request: Mirai[Any] = Mirai(self._outbox.next_id(), name, self._profile)
        with self._lock:
            self._check_open()
            put(self._requests, request)
            self._wake()
        return request

    def _cancel(self, mirai: Mirai[Any]) -> None:
        self._outbox.cancel(mirai)
        self._wake()

    def _check_open(self) -> None:
        if self._end is not None:
            error, cancelled = self._end
            raise DispatcherLost("the pool was shut down") if cancelled else again(error)

    def _wake(self) -> None:
        """Wake the thread if it sleeps.  It looks for mail after it has said that it will."""
        nap = self._nap
        if nap and self._rung != nap:
            self._link.ring()
            self._rung = nap  # not before: Ctrl-C in between must not cost us the bell

    def _finish(self, error: MiraiError, *, cancelled: bool = False) -> None:
        with self._lock:
            if self._end is None:
                self._end = (error, cancelled)
                self._wake()

    # ── the thread ───────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            self._link.send(Hello(VERSION, socket.gethostname(), os.getpid()))
            self._loop()
        except WireError as error:
            self._finish(ProtocolError(f"the dispatcher sent nonsense: {error}"))
        except BaseException as error:  # a bug of ours; nobody may wait for ever because of it
            self._finish(MiraiError(f"the channel failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._settle_all()
            self._link.close()

    def _loop(self) -> None:
        naps = count(1)
        while self._end is None:
            self._nap = next(naps)
            self._link.wait(0 if self._has_mail() else None)
            self._nap = 0
            ended = self._link.ended  # before we read: what has arrived by now is all there is
            for message in islice(self._link.receive(), None if ended else MESSAGES_A_TURN):
                self._take(message)
            if ended:
                self._finish(self._why_ended())
            self._flush()

    def _has_mail(self) -> bool:
        return bool(self._outbox or self._requests or self._end)

    def _flush(self) -> None:
        """Send what has gathered."""
        if self._has_mail():
            with self._lock:
                gathered = self._outbox.take()
                requests, self._requests = self._requests, _Requests()
            for message in gathered.messages(self._pending):
                self._link.send(message)
            self._send_requests(requests)
        self._answer_drains()

    def _send_requests(self, requests: _Requests) -> None:
        if requests.scale is not None:
            self._link.send(Scale(requests.scale))
        for ask, at_least in requests.asks:
            self._asked[ask.id] = ask
            self._link.send(Ask(ask.id, at_least))
        self._drains += requests.drains

    def _answer_drains(self) -> None:
        if self._drains and not self._pending and not self._outbox:
            drains, self._drains = self._drains, []
            for request in drains:
                request.settle(Value(None))

    def _take(self, message: Message) -> None:
        match message:
            case Results(outcomes):
                self._pending.settle(outcomes)
            case Report(number, pool):
                if (request := self._asked.pop(number, None)) is not None:
                    request.settle(Value(pool))
            case Welcome():
                self._welcome = True
            case Stop():
                self._finish(DispatcherLost("the dispatcher has shut down"))
            case Refused(reason):
                self._finish(ProtocolError(f"the dispatcher refused us: {reason}"))

    def _why_ended(self) -> MiraiError:
        error = self._explain()
        if error is not None:
            return error
        if not self._link.reached:
            return DispatcherLost(f"no dispatcher answers at {self._url}")
        if self._link.refused or not (self._welcome or self._link.proved):
            return AuthenticationError(
                f"the dispatcher at {self._url} does not accept this key, or is not the owner"
                " of the key that was expected"
            )
        return DispatcherLost(f"the connection to the dispatcher at {self._url} was lost")

    def _settle_all(self) -> None:
        with self._lock:
            assert self._end is not None
            error, cancelled = self._end
            gathered, requests = self._outbox.take(), self._requests
        for mirai, _ in gathered.tasks:
            self._pending.add(mirai)
        self._pending.lose(error, cancelled=cancelled)
        for request in (*self._asked.values(), *(ask for ask, _ in requests.asks)):
            request.settle(Failure(again(error)))
        for drain in (*self._drains, *requests.drains):
            drain.settle(Value(None))
