"""The host's link to one dispatcher: one thread that owns the socket and what is pending.

Callers leave tasks in an outbox and wake the thread only if it sleeps; it sends whatever has
gathered as one message.  A task that comes alone, soon after the last answer, its caller sends.
A channel ends once, with an error that says why, and that error settles whatever was not answered.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from typing import Any, Protocol, TypeVar

from dispatcher import PYTHON, __version__
from dispatcher.log import Guarded
from dispatcher.messages import (
    VERSION,
    Ask,
    Consult,
    Discard,
    Fetched,
    FromHost,
    Hello,
    Look,
    Message,
    Objected,
    Outcome,
    Printed,
    Recount,
    Redo,
    Refused,
    Reply,
    Report,
    Results,
    Scale,
    Seen,
    Span,
    Stop,
    Submit,
    Told,
    Welcome,
)
from dispatcher.messages import ProtocolError as WireError
from dispatcher.requests import Request
from dispatcher.words import said, spans
from mirai._answer import Failure, Value
from mirai._budget import Budget, Memory
from mirai._errors import (
    AuthenticationError,
    BoardError,
    DispatcherLost,
    MiraiError,
    NotRunning,
    ProtocolError,
    QueueFull,
    again,
)
from mirai._feed import Feed
from mirai._future import Mirai, check_may_wait, on_event_loop, settlers
from mirai._options import Call, Durable, TaskOptions
from mirai._outbox import Hook, Outbox, Parcel
from mirai._pending import Inquire, Pending
from mirai._printer import Printer, tag
from mirai._serialize import Reducer
from mirai._story import Event, events
from mirai._why import Watch

logger = Guarded("mirai")

MESSAGES_A_TURN = 64
PATIENCE = 2.0
"""How long a story may wait for the dispatcher, in seconds."""

LINGER = 1.0
"""How long callers may send tasks themselves after the last answer, in seconds."""

SENDS_WHOLE = sys.platform == "linux"
"""Whether the system sends what is not large as a whole or not at all: Ctrl-C tears nothing."""

WATCH = 0
"""The number under which the channel itself asks; those of callers' requests are larger."""

M = TypeVar("M", bound=Sequence[Mirai[Any]])

Explain = Callable[[], MiraiError | None]

Question = Ask | Recount | Look | Redo | Discard | Consult
"""What the dispatcher answers."""


@dataclass(slots=True)
class _Requests:
    """What callers want to know or to have, besides tasks."""

    asks: list[tuple[Mirai[Any], Question]] = field(default_factory=list)
    drains: list[Mirai[None]] = field(default_factory=list)
    orders: list[FromHost] = field(default_factory=list)
    scale: Scale | None = None
    cancel_since: int | None = None  # an id: cancel all that are younger

    def __bool__(self) -> bool:
        either = self.scale is not None or self.cancel_since is not None
        return bool(self.asks or self.drains or self.orders or either)


class Carrier(Protocol):
    """The way to a dispatcher: a ``LineLink``, a ``Link``, or an ``InProcess``.

    It is made in one thread, and then belongs to another; only ``ring`` is always for all.
    """

    @property
    def url(self) -> str: ...

    @property
    def ended(self) -> bool:
        """Whether it has ended; what had arrived before can still be received."""

    @property
    def reached(self) -> bool:
        """Whether somebody was there."""

    @property
    def proved(self) -> bool:
        """Whether both sides have proved their keys."""

    @property
    def denied(self) -> bool:
        """Whether it ended because the other side knows our key not, and has said so."""

    @property
    def shares(self) -> bool:
        """Whether memory can be shared with who is at the other end."""

    @property
    def for_all(self) -> bool:
        """Whether other threads may send too, and wait and receive in place of the owner."""

    def ring(self) -> None:
        """Make ``wait`` return."""

    def wait(self, timeout: float | None) -> None:
        """Wait until there is something to do, for at most ``timeout`` seconds (None: for ever)."""

    def send(self, message: Message) -> None:
        """Send without waiting."""

    def receive(self) -> Iterator[Message]:
        """Yield what has arrived.  Raises dispatcher.messages.ProtocolError."""

    def close(self) -> None:
        """Give back all that it has."""


class Channel:
    """Moves messages for the mirais of one profile."""

    def __init__(
        self,
        link: Carrier,
        *,
        profile: str,
        explain: Explain,
        seed: int | None = None,
        memory: int | None = None,
        reducer: Reducer | None = None,
        pid: int | None = None,
        inquire: Inquire | None = None,
    ) -> None:
        """Take over ``link``; ``explain`` is asked for the error when it has ended.

        ``seed`` is the pool's; ``memory`` is the budget, in bytes, for what is sent and not
        answered; ``reducer`` knows how to pickle some objects; ``pid`` is what the dispatcher is
        told, by default this process's; ``inquire`` is as ``Pending`` has it.
        """
        self._budget = None if memory is None else Budget(memory)
        self._pid = os.getpid() if pid is None else pid
        self._profile = profile
        self._logs = logger.isEnabledFor(logging.DEBUG)
        self._explain = explain
        self._lock = threading.RLock()  # guards what follows, up to the blank line
        self._outbox = Outbox(
            profile, seed=seed, reducer=reducer, share=link.shares, recount=self.recount
        )
        self._hook = self._cancel  # one for all mirais
        self._requests = _Requests()
        self._end: tuple[MiraiError, bool] | None = None  # why it ended; as a cancellation?
        # Whether a caller is in the middle of adding something: another one then is its signal
        # handler or a finalizer, whose task must leave later.  Ctrl-C may leave it set.
        self._adding = False
        self._direct: Mirai[Any] | None = None  # what a caller is about to send itself

        self._pending = Pending(inquire)
        self._asked: dict[int, Mirai[Any]] = {}
        self._drains: list[Mirai[None]] = []
        self._printer = Printer()
        self._watch = Watch()
        self._welcome = False
        self._nap = 0  # which sleep the thread is in, or is about to fall into; 0: it is awake
        self._rung = 0  # for which of them the bell was rung
        self._attentive = False  # whether it will look by itself how things stand
        self._heard = -LINGER  # when it has heard something last
        self._link = link
        self._thread = threading.Thread(target=self._run, name=f"mirai-{profile}", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # no more threads, say, or the interpreter is about to end
            link.close()
            raise

    # ── for callers, in any thread ───────────────────────────────────────────────────────

    def submit(
        self,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions,
    ) -> list[Mirai[Any]]:
        """Send one task for each call of ``fn``, given by its arguments and keywords.

        Blocks while the memory budget is used up, or raises QueueFull where that would block an
        event loop or this channel.  Raises SerializationError if something cannot be pickled,
        and why the channel has ended if it has.  Then nothing is sent, or cancelled again.
        """
        if self._budget is None:
            return self._send(self._outbox.parcel(fn, calls, options))
        return self._send_all(self.feed(fn, calls, options), self._budget)

    def submit_all(
        self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions
    ) -> Sequence[Mirai[Any]]:
        """Send one task for each call of ``fn`` like ``submit``; the mirais may be a ``Lot``."""
        if self._budget is not None:
            return self.submit(fn, calls, options)
        parcel = self._outbox.parcel(fn, calls, options)
        return self._add(self._outbox.add_lot, parcel)

    def try_submit(
        self, fn: Callable[..., Any], call: Call, options: TaskOptions
    ) -> Mirai[Any] | None:
        """Send one task; return None, at once, if the memory budget is used up."""
        if self._budget is None:
            return self._send(self._outbox.parcel(fn, [call], options))[0]
        if self._budget.is_full():
            self._check_open()
            return None
        with contextlib.closing(self.feed(fn, [call], options)) as feed:
            mirais = feed.send()
        return mirais[0] if mirais else None

    def feed(self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions) -> Feed:
        """Return what sends one task for each call of ``fn``, as far as there is room."""
        return Feed(self._outbox, self._send, self._forget, self._budget, fn, calls, options)

    def memory(self) -> Memory | None:
        """Return what the memory budget looks like, if there is one."""
        return None if self._budget is None else self._budget.memory()

    def pending(self) -> int:
        """Return how many tasks were sent and are not answered."""
        return len(self._pending)

    def everywhere(
        self, fn: Callable[..., Any], call: Call, answers: int, options: TaskOptions
    ) -> list[Mirai[Any]]:
        """Send a call for every daemon; return the mirais of the first so many answers.

        Raises like ``submit``.
        """
        parcel = self._outbox.parcel(fn, [call], options)
        return self._add(partial(self._outbox.add_standing, answers=answers), parcel)

    def ask(self, at_least: int = 0) -> Mirai[Any]:
        """Ask for the dispatcher's PoolReport, as soon as so many daemons are there."""
        return self._ask("status", lambda number: Ask(number, at_least))

    def keep(self, durable: Durable) -> None:
        """Have the dispatcher's journal keep all tasks from now on."""
        self._outbox.durable = durable

    def consult(self, question: Callable[[int], Look | Redo | Discard]) -> Mirai[Any]:
        """Return a mirai of the dispatcher's Seen, which tells of durable jobs.

        ``question`` makes the message of its number.  What was submitted before is on disk then.
        """
        return self._ask("jobs", question)

    def attach(self, there: Sequence[tuple[Span, str]]) -> list[Mirai[Any]]:
        """Return mirais of durable tasks that are there already: their serials and names."""
        with self._lock:
            self._check_open()
            mirais = self._outbox.attach(there, self._hook)
            self._wake()
        return mirais

    def recount(self, mirai: Mirai[Any]) -> tuple[Event, ...]:
        """Return what the dispatcher tells of a task that is not answered.

        Raises TimeoutError if it does not in time, and like every request.
        """
        told = self._ask("story", lambda number: Recount(number, mirai.id)).result(PATIENCE)
        assert isinstance(told, tuple)
        return told

    def ask_board(self, board: str, request: Request) -> Mirai[Any]:
        """Ask something of a board; the answer is one of ``dispatcher.requests``, or a BoardError.

        What cannot be encoded, or is too large, ends the channel.
        """
        return self._ask("board", lambda number: Consult(number, board, request))

    def scale(self, scale: Scale) -> None:
        """Tell the dispatcher how many local daemons to keep."""
        with self._lock:
            self._check_open()
            self._requests.scale = scale
            self._wake()

    def order(self, order: FromHost) -> None:
        """Tell the dispatcher what only its host may want, before whatever is asked later."""
        with self._lock:
            self._check_open()
            self._requests.orders.append(order)
            self._wake()

    def mark(self) -> int:
        """Return a number that is larger than every task's so far, for ``cancel_since``."""
        return self._outbox.next_id()

    def cancel_since(self, mark: int) -> None:
        """Cancel all that was submitted after ``mark()`` had returned this."""
        with self._lock:
            self._requests.cancel_since = mark
            self._wake()

    def drained(self) -> Mirai[None]:
        """Return a mirai that is settled once no task is pending."""
        return self._request("drained", lambda requests, it: requests.drains.append(it))

    def flush_printed(self) -> None:
        """Wait until what tasks have printed is written, that of all that have ended."""
        self._printer.flush()

    def close(self, error: MiraiError) -> None:
        """End the channel: settle what is pending as cancelled, with ``error``.  Idempotent."""
        self._finish(error, cancelled=True)
        if not self.is_current_thread():
            self._thread.join()

    def is_current_thread(self) -> bool:
        """Return whether this is called by the channel's own thread, in a done-callback."""
        return self._thread is threading.current_thread()

    def forsake(self, error: MiraiError) -> None:
        """Take no more, without touching thread, lock or socket: for a forked child."""
        self._lock = threading.RLock()
        self._budget = None
        self._end = (error, False)

    def _ask(self, name: str, question: Callable[[int], Question]) -> Mirai[Any]:
        return self._request(name, lambda requests, it: requests.asks.append((it, question(it.id))))

    def _request(self, name: str, put: Callable[[_Requests, Mirai[Any]], None]) -> Mirai[Any]:
        check_may_wait()
        request: Mirai[Any] = Mirai(self._outbox.next_id(), name, self._profile)
        with self._lock:
            self._check_open()
            put(self._requests, request)
            self._wake()
        return request

    def _send(self, parcel: Parcel) -> list[Mirai[Any]]:
        return self._add(self._outbox.add, parcel)

    def _add(self, add: Callable[[Parcel, Hook], M], parcel: Parcel) -> M:
        """Put a parcel into the outbox, and see that it is sent; return its mirais."""
        with self._lock:
            inside, self._adding = self._adding, True
            self._check_open()
            mirais = add(parcel, self._hook)
            if inside or not self._send_itself():
                self._wake()
            self._adding = inside
        return mirais

    def _send_itself(self) -> bool:
        """Send a task that comes alone in the caller's thread; return whether that was done.

        Only where nothing pends: many are better sent together.  The thread sleeps meanwhile, or
        waits for our lock.  Ctrl-C may come after any call: then nobody has the mirai, and if
        ``_direct`` tells that it may not have been sent, the thread forgets it.
        """
        nap = self._nap
        if not (nap and self._attentive) or self._rung == nap or self._pending:
            return False
        lone = self._outbox.take_lone()
        if lone is None:
            return False
        self._direct, task = lone
        self._pending.add(self._direct)
        message = Submit((task,))
        self._log("to", message)
        self._link.send(message)
        self._direct = None
        return True

    def _send_all(self, feed: Feed, budget: Budget) -> list[Mirai[Any]]:
        """Send whatever the feed brings, or nothing."""
        mirais: list[Mirai[Any]] = []
        try:
            with contextlib.closing(feed):
                mirais += feed.send()
                while feed.has_more():
                    self._check_may_block()
                    budget.wait()
                    mirais += feed.send()
        except BaseException:
            for mirai in mirais:
                mirai.cancel()
            raise
        return mirais

    def _check_may_block(self) -> None:
        self._check_open()
        if self.is_current_thread():
            raise QueueFull("the memory budget is used up, and a done-callback must not wait")
        if on_event_loop():
            raise QueueFull("the memory budget is used up, and an event loop must not wait")

    def _forget(self, number: int) -> None:
        self._outbox.forget(number)
        self._wake()

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
                logger.info("the channel of %r ends: %s", self._profile, error)

    # ── the thread ───────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        settlers.add(threading.get_ident())
        try:
            self._link.send(self._hello())
            self._loop()
        except WireError as error:
            self._finish(ProtocolError(f"the dispatcher sent nonsense: {error}"))
        except BaseException as error:  # a bug of ours; nobody may wait for ever because of it
            self._finish(MiraiError(f"the channel failed: {type(error).__name__}: {error}"))
            raise
        finally:
            self._settle_all()
            self._link.close()
            self._printer.close()
            settlers.discard(threading.get_ident())

    def _hello(self) -> Hello:
        host = socket.gethostname()
        return Hello(VERSION, host, self._pid, python=PYTHON, package=__version__)

    def _loop(self) -> None:
        naps = count(1)
        while self._end is None:
            patience = self._patience(time.monotonic())
            self._attentive = patience is not None and SENDS_WHOLE and self._link.for_all
            self._nap = next(naps)
            self._link.wait(0 if self._has_mail() else patience)
            self._nap = 0
            ended = self._link.ended  # before we read: what has arrived by now is all there is
            self._take_in(None if ended else MESSAGES_A_TURN)
            if ended:
                self._finish(self._why_ended())
            self._flush()
            if self._watch.is_due(time.monotonic()):
                self._look()

    def _patience(self, now: float) -> float | None:
        """Return for how long to sleep at most; None: for ever.

        Where it was just heard that a task has ended, callers may soon send another themselves:
        it must then be seen in time that it pends.
        """
        patience = self._watch.patience(bool(self._pending), now)
        left = self._heard + LINGER - now
        return left if patience is None and left > 0 else patience

    def _look(self) -> None:
        """Ask what our tasks wait for."""
        shall_ask, news = self._watch.look(self._link.url, time.monotonic())
        self._warn(news)
        if shall_ask:
            self._link.send(Ask(WATCH))

    def _warn(self, news: Iterable[str]) -> None:
        for reason in news:
            logger.warning("tasks of profile %r wait: %s", self._profile, reason)

    def _take_in(self, limit: int | None) -> None:
        """Take what has arrived; a frame of its own, so that nothing of it is kept meanwhile."""
        for message in islice(self._link.receive(), limit):
            self._take(message)
            self._heard = time.monotonic()

    def _has_mail(self) -> bool:
        return bool(self._outbox or self._requests or self._end)

    def _flush(self) -> None:
        """Send what has gathered."""
        if self._has_mail():
            with self._lock:
                self._adding = False
                if self._direct is not None:  # Ctrl-C has come while it was sent
                    self._pending.pop(self._direct.id)
                    self._direct = None
                gathered = self._outbox.take()
                requests, self._requests = self._requests, _Requests()
            self._asked |= {ask.id: ask for ask, _ in requests.asks}  # before anything can fail
            self._drains += requests.drains
            for message in gathered.messages(self._pending):
                self._log("to", message)
                self._link.send(message)
            self._send_requests(requests)
        self._answer_drains()

    def _send_requests(self, requests: _Requests) -> None:
        if requests.scale is not None:
            self._link.send(requests.scale)
        for order in requests.orders:
            self._link.send(order)
        for _, question in requests.asks:
            self._link.send(question)
        if requests.cancel_since is not None:
            for mirai in self._pending.since(requests.cancel_since):
                mirai.cancel()

    def _answer_drains(self) -> None:
        if self._drains and not self._pending and not self._outbox:
            drains, self._drains = self._drains, []
            for request in drains:
                request.settle(Value(None))

    def _log(self, way: str, message: Message) -> None:
        if self._logs:
            logger.debug("%s the dispatcher of %r: %s", way, self._profile, said(message))

    def _take(self, message: Message) -> None:
        self._log("from", message)
        match message:
            case Results(outcomes):
                self._pending.settle(outcomes)
                if self._outbox.durable is not None:
                    self._link.send(fetched(outcomes))
            case Printed(id, text):
                if (mirai := self._pending.get(id)) is not None:
                    self._printer.add(tag(mirai.name, id), text)
            case Report(number, pool) if number == WATCH:
                self._warn(self._watch.answered(pool, self.memory()))
            case Report(number, pool):
                self._answer(number, pool)
            case Told(number, story):
                self._answer(number, events(story, time.time()))
            case Reply(number, answer):
                self._answer(number, answer)
            case Objected(number, reason, not_running):
                self._refuse(number, (NotRunning if not_running else BoardError)(reason))
            case Seen(number):
                self._answer(number, message)
            case Welcome():
                self._welcome = True
            case Stop(reason=reason):
                why = f": {reason}" if reason else ""
                self._finish(DispatcherLost(f"the dispatcher has shut down{why}"))
            case Refused(reason):
                self._finish(ProtocolError(f"the dispatcher refused us: {reason}"))

    def _answer(self, number: int, value: object) -> None:
        """Settle what was asked."""
        if (request := self._asked.pop(number, None)) is not None:
            request.settle(Value(value))

    def _refuse(self, number: int, error: MiraiError) -> None:
        """Fail what was asked."""
        if (request := self._asked.pop(number, None)) is not None:
            request.settle(Failure(error))

    def _why_ended(self) -> MiraiError:
        error = self._explain()
        if error is not None:
            return error
        if not self._link.reached:
            return DispatcherLost(f"no dispatcher answers at {self._link.url}")
        if self._link.denied:
            return AuthenticationError(f"the dispatcher at {self._link.url} refuses this key")
        if not (self._welcome or self._link.proved):
            return AuthenticationError(
                f"the dispatcher at {self._link.url} did not prove its key in time: it hangs, is"
                " overloaded, or has other keys"
            )
        return DispatcherLost(f"the connection to the dispatcher at {self._link.url} was lost")

    def _settle_all(self) -> None:
        with self._lock:
            assert self._end is not None
            error, cancelled = self._end
            gathered, requests = self._outbox.take(), self._requests
        for mirai in gathered.mirais():
            self._pending.add(mirai)
        self._pending.lose(error, cancelled=cancelled)
        for request in (*self._asked.values(), *(ask for ask, _ in requests.asks)):
            request.settle(Failure(again(error)))
        for drain in (*self._drains, *requests.drains):
            drain.settle(Value(None))


def fetched(outcomes: Iterable[Outcome]) -> Fetched:
    """Return what tells a dispatcher that these have arrived."""
    ids = (id for each in outcomes for id in range(each.id, each.id + each.count))
    return Fetched(tuple(Span(first, last + 1 - first) for first, last in spans(ids)))
