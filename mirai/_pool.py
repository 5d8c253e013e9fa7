"""``Daemons``: one pool, from its start to its end."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

from dispatcher.keys import KeyPair
from dispatcher.log import Guarded
from dispatcher.messages import (
    Crash,
    Despair,
    Discard,
    Look,
    PoolReport,
    Redo,
    Role,
    Scale,
    Seen,
    Slot,
    Span,
    ToClient,
)
from dispatcher.requests import Request
from mirai._addresses import urls_of
from mirai._answer import Failure, Value
from mirai._channel import Carrier, Channel
from mirai._errors import DispatcherLost, MiraiError, TaskCancelled
from mirai._feed import Feed
from mirai._future import Mirai
from mirai._line_link import LineLink
from mirai._options import DEFAULTS, Call, Durable, TaskOptions
from mirai._outlook import Outlook
from mirai._plan import Slots, launched_of, plan_of
from mirai._pool_options import PoolOptions, check_count
from mirai._process import DispatcherProcess
from mirai._serial import Serial
from mirai._status import Status
from mirai._sync import SyncChannel

if TYPE_CHECKING:
    from dispatcher.vault import Vault
    from mirai._connection import Connection, Stamp
    from mirai._job import Job, JobStatus, JournalStatus
    from mirai._launches import Launches
    from mirai.launchers import Handle, State

logger = Guarded("mirai")

T = TypeVar("T")

ANSWER = 5.0
"""Seconds after which ``status`` does without the dispatcher's answer."""

GLANCE = 0.5
"""Seconds that the dispatcher has to say how many daemons are there when there are too few."""

_NOTHING: Mapping[str, Any] = MappingProxyType({})


class PoolKeys(NamedTuple):
    """The keys of a pool that we draw for it; those of local daemons only the dispatcher knows."""

    server: KeyPair
    client: KeyPair
    guests: Mapping[str, KeyPair]
    """Role -> the keys of those who come by a connection file."""


class Daemons:
    """A pool: a dispatcher, its daemons, and the channel to them.

    As a context manager, also an asynchronous one: leaving the block normally waits for its
    tasks, leaving it by an exception cancels them; after either, the pool is gone, unless it
    stands on its own and was joined by ``connect``: then only this client is.
    """

    def __init__(
        self,
        profile: str,
        options: PoolOptions | None,
        on_end: Callable[[Daemons], None],
    ) -> None:
        """Make a pool that ``start`` brings to life; use ``daemons()`` instead."""
        self.profile = profile
        self.url = ""
        self._options = options
        self._scaling = threading.RLock()  # guards what follows, up to the blank line
        self._count = 0 if options is None else options.count  # 0: it is not known here
        self._slots = None if options is None else Slots(options)

        self._on_end = on_end
        self._ending = threading.RLock()
        self._owner = os.getpid()
        self._waits: dict[int, Mirai[Any]] = {}  # until so many daemons are there
        self._keys: PoolKeys | None = None
        self._files: list[tuple[str, Stamp]] = []  # connection files, to be removed
        self._process: DispatcherProcess | None = None
        self._launches: list[Launches] = []  # one for each launcher
        self._channel: Channel | SyncChannel | None = None
        self._has_journal = False

    def start(self) -> None:
        """Start the dispatcher, which starts the daemons; return as soon as it listens."""
        assert self._options is not None
        serial = Serial(self._options.serial)
        if self._options.sync:
            self.url = "sync"
            self._channel = SyncChannel(
                self.profile,
                seed=self._options.seed,
                memory=self._options.memory,
                reducer=serial or None,
                vault=_vault(self._options),
            )
            if self._options.journal is not None:
                self._keep_all()
            if self._options.init is not None:
                self._channel.call(self._options.init)
            return
        if not self._options.has_lines:
            is_open = self._options.url.startswith("tcp://")
            guests = {role: KeyPair.new() for role in ("client", "daemon") if is_open}
            self._keys = PoolKeys(KeyPair.new(), KeyPair.new(), guests)
        assert self._slots is not None
        slots = self._slots.up_to(self._options.count)
        config = dispatcher_config(self._options, self._keys, slots, self.profile)
        seed, memory = self._options.seed, self._options.memory
        self.attach(self._connect(config), seed=seed, memory=memory, serial=serial)
        if self._options.journal is not None:
            self._keep_all()
        if self._options.launcher is not None:
            self.recruit(self._options, Outlook()).launch(self._options.launched)

    def recruit(self, options: PoolOptions, outlook: Outlook) -> Launches:
        """Have a launcher, besides those that there are; for mirai's own use.

        Raises SerializationError, and MiraiError for a pool that has no address.
        """
        from mirai._launches import Launches, Link  # they load what few pools have a use for

        channel = self._open()
        if self._keys is None or not isinstance(channel, Channel):
            raise MiraiError("only the pool that has an address, a url, can have a launcher")
        assert options.launcher is not None
        told = launched_of(options, self.profile)
        launches = Launches(options.launcher, told, options.patience, outlook)
        self._launches.append(launches)
        launches.open(Link(channel.order, self.report, urls_of(self.url), self._keys.server.public))
        return launches

    def _inquire(self, crash: Crash, settle: Callable[[Crash], None]) -> None:
        """Ask the platform why a daemon's job has ended, and call ``settle`` with that."""
        launches = next((each for each in self._launches if each.knows(crash.job)), None)
        if launches is None:
            settle(crash)
        else:
            launches.inquire(crash, settle)

    def attach(
        self,
        link: Carrier,
        *,
        seed: int | None = None,
        memory: int | None = None,
        serial: Serial | None = None,
        pid: int | None = None,
    ) -> None:
        """Use this connection to a dispatcher, which is told this ``pid``, or our own.

        The rest is as ``daemons()`` explains it.
        """
        self.url = link.url
        logger.info("the pool %r is at %s", self.profile, self.url)
        self._channel = Channel(
            link,
            profile=self.profile,
            explain=self._explain_loss,
            seed=seed,
            memory=memory,
            reducer=serial or None,
            pid=pid,
            inquire=self._inquire,
        )

    def join(
        self,
        connection: Connection,
        pair: KeyPair,
        timeout: float,
        *,
        seed: int | None = None,
        memory: int | None = None,
        serial: Serial | None = None,
    ) -> None:
        """Connect to a dispatcher that stands on its own; use ``connect()`` instead."""
        from mirai._link import Link  # it loads ZeroMQ

        link = Link(connection.url, pair, connection.server, ToClient)
        self.attach(link, seed=seed, memory=memory, serial=serial)
        try:
            if self._open().consult(lambda number: Look(number, "")).result(timeout).path:
                self._keep_all()
        except TimeoutError:
            raise DispatcherLost(
                f"the dispatcher at {self.url} has not answered within {timeout} s"
            ) from None

    def __repr__(self) -> str:
        return f"<Daemons {self.profile!r} at {self.url or 'nowhere'}>"

    # ── durable jobs ─────────────────────────────────────────────────────────────────────

    def job(self, name: str) -> Job:
        """Return a durable job of this pool by its name; it begins with its first task.

        Raises TypeError or ValueError for what is no name, and MiraiError if the pool keeps no
        journal.
        """
        from mirai._job import Job

        job = Job(self, name)
        self._check_journal()
        return job

    def jobs(self) -> list[JobStatus]:
        """Return how the pool's durable jobs stand, also those of others.

        What is submitted without one is in the job with the name of its profile, until its
        results have arrived.  Raises MiraiError if the pool keeps no journal.
        """
        from mirai._job import JobStatus

        seen = self.consult(Look).result(ANSWER)
        return [JobStatus.of(report) for report in seen.jobs]

    def journal(self) -> JournalStatus:
        """Return where the pool's journal is, and how large.  Raises MiraiError without one."""
        from mirai._job import JournalStatus

        seen = self.consult(lambda number: Look(number, "")).result(ANSWER)
        return JournalStatus(seen.path, seen.size)

    def consult(self, question: Callable[[int], Look | Redo | Discard]) -> Mirai[Seen]:
        """Ask about durable jobs; for mirai's own use.  Raises MiraiError."""
        channel = self._open()
        self._check_journal()
        return channel.consult(question)

    def _check_journal(self) -> None:
        if not self._has_journal:
            raise MiraiError(
                "this pool keeps no journal, and so no jobs: that begins with"
                ' daemons(n, journal="job.db") or `mirai dispatcher --journal job.db`'
            )

    def claim(self, there: Sequence[tuple[Span, str]]) -> list[Mirai[Any]]:
        """Return the futures of durable tasks that are there; for mirai's own use."""
        return self._open().attach(there)

    def _keep_all(self) -> None:
        """Have all tasks kept by the journal."""
        self._has_journal = True
        self._open().keep(Durable(self.profile))

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NOTHING,
        options: TaskOptions = DEFAULTS,
    ) -> Mirai[Any]:
        """Send one task; see ``mirai``."""
        self._check_tags(options)
        return self._open().submit(fn, [(args, dict(kwargs))], options)[0]

    def submit_all(
        self,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions = DEFAULTS,
    ) -> Sequence[Mirai[Any]]:
        """Send one task for each call, given by its arguments and keywords: all, or none."""
        self._check_tags(options)
        return self._open().submit_all(fn, calls, options)

    def try_submit(
        self,
        fn: Callable[..., Any],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = _NOTHING,
        options: TaskOptions = DEFAULTS,
    ) -> Mirai[Any] | None:
        """Send one task, or return None if the memory budget is used up; see ``try_mirai``."""
        self._check_tags(options)
        return self._open().try_submit(fn, (args, dict(kwargs)), options)

    def feed(
        self,
        fn: Callable[..., Any],
        calls: Iterable[Call],
        options: TaskOptions = DEFAULTS,
    ) -> Feed:
        """Return what sends one task for each call bit by bit; see ``MiraiStream``."""
        self._check_tags(options)
        return self._open().feed(fn, calls, options)

    def _check_tags(self, task: TaskOptions) -> None:
        """Refuse what no daemon could ever have, where only our own can join."""
        if not task.tags or self._options is None or self._options.sync or self._slots is None:
            return
        if self._options.url == "ipc" and not self._slots.carry(task.tags):
            tags = ", ".join(map(repr, task.tags))
            raise ValueError(f"no daemon of this pool carries the tags {tags}")

    def everywhere(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> list[Mirai[Any]]:
        """Evaluate a call on every daemon; see ``everywhere``."""
        channel = self._open()
        staying = [each for each in channel.ask().result().daemons if each.state != "leaving"]
        answers = max(self._count, len(staying))
        return channel.everywhere(fn, (args, dict(kwargs)), answers, DEFAULTS)

    def mark(self) -> int:
        """Return what ``cancel_since`` takes, to cancel what is submitted from now on."""
        return self._open().mark()

    def cancel_since(self, mark: int) -> None:
        """Cancel what was submitted after ``mark()`` had returned this."""
        self._open().cancel_since(mark)

    def flush_printed(self) -> None:
        """Wait until what the tasks that have ended have printed is written."""
        self._open().flush_printed()

    # ── daemons ──────────────────────────────────────────────────────────────────────────

    def status(self) -> Status:
        """Return what the pool looks like now.  Raises DispatcherLost if it is gone.

        Where the dispatcher does not answer within some seconds, the Status says that, counts
        what is not answered as ``awaiting``, and knows nothing else.
        """
        channel = self._open()
        try:
            report = channel.ask().result(ANSWER)
        except TimeoutError:
            return Status.unanswered(
                self.profile, self.url, ANSWER, channel.pending(), channel.memory()
            )
        status = Status.of(self.profile, self.url, report, channel.memory())
        if self._launches and status.why:
            reasons = [reason for launches in self._launches for reason in launches.reasons()]
            status = dataclasses.replace(status, why=(*status.why, *reasons))
        return status

    def scale(self, n: int) -> None:
        """Keep ``n`` daemons from now on: those of the pool's launcher, or local ones.

        Fewer: idle ones leave first, running tasks are finished, and what has not started goes
        to the others.  Of launched ones, those go first that have not joined.  Raises TypeError,
        ValueError, DispatcherLost, LaunchError where the platform refuses, or what a function
        given as ``env`` or ``tags`` raises.

        A client that has joined by ``connect``, or a task, changes the number only: what the
        daemons are given, such as ``env`` and ``tags``, is its owner's.  Where the dispatcher was
        started without local daemons, it is not for them to start any, and nothing happens.
        """
        channel = self._open()
        if (launches := self._own_launches()) is not None:
            launches.scale(check_count(n))
            return
        with self._scaling:
            slots = None if self._slots is None else self._slots.up_to(check_count(n))
            channel.scale(Scale(check_count(n), slots))
            if self._options is not None:
                self._count = n

    def launch(self, n: int = 1) -> None:
        """Keep ``n`` more daemons; see ``scale``.

        Raises LaunchError where the platform refuses, and MiraiError for a pool that was joined by
        ``connect``: how many that keeps is not known here, and may be changed by others.
        """
        if self._options is None:
            raise MiraiError("launch() is for a pool of one's own; scale(n) says how many to keep")
        if (launches := self._own_launches()) is not None:
            self._open()
            launches.launch(check_count(n))
            return
        with self._scaling:
            self.scale(self._count + check_count(n))

    def forgo(self, reason: str, hope: tuple[tuple[str, ...], ...]) -> None:
        """Fail what waits and nobody could do, neither who stays nor others with such tags.

        For mirai's own use.
        """
        channel = self._open()
        assert isinstance(channel, Channel), "daemons are there to be forgone"
        self.report(ANSWER)  # now it is known who leaves
        channel.order(Despair(Crash(reason), hope))

    def launched(self) -> dict[Handle, State]:
        """Return how the platform's jobs stand that were launched and are not over, as last heard.

        It is empty where the pool has no launcher.
        """
        jobs: dict[Handle, State] = {}
        for launches in self._launches:
            jobs |= launches.jobs()
        return jobs

    def _own_launches(self) -> Launches | None:
        """Return those whose number ``scale`` changes; None for that of local daemons."""
        options = self._options
        return self._launches[0] if options is not None and options.launcher is not None else None

    def wait(self, n: int, timeout: float | None = None) -> None:
        """Wait until at least ``n`` daemons have joined.

        Raises TimeoutError if they have not within ``timeout`` seconds, and DispatcherLost.
        """
        ask = self._waits.get(check_count(n))  # whoever asks again and again waits for one answer
        if ask is None or ask.done():
            ask = self._waits[n] = self._open().ask(n)
        try:
            ask.result(timeout)
        except TimeoutError:
            raise TimeoutError(self._too_few(n, timeout)) from None

    def _too_few(self, n: int, timeout: float | None) -> str:
        try:
            there = self._open().ask().result(GLANCE).connections
        except TimeoutError:
            return f"the dispatcher has not said within {timeout} s that {n} daemons have joined"
        return f"{there} of {n} daemons have joined within {timeout} s"

    def connection_file(
        self,
        path: str | os.PathLike[str],
        *,
        role: Literal["client", "daemon"] | None = None,
        advertise: str | None = None,
    ) -> None:
        """Write a file with which others can join this pool, which must listen on tcp.

        Whoever has it can ``connect(path)`` or ``mirai daemon path``; with a ``role``, only the
        one of them.  It is readable by this user only, and removed when the pool ends.  Where
        the pool listens at all addresses, others are told this machine's primary one;
        ``advertise`` is the host name or address to tell them instead.

        Raises MiraiError.
        """
        if role not in (None, "client", "daemon"):
            raise ValueError(f'role must be "client" or "daemon", not {role!r}')
        connection = self.connection(advertise)
        if role is not None:
            connection = connection.only(Role(role))
        stamp = connection.write(path)
        self._files.append((os.path.abspath(path), stamp))

    def connection(self, advertise: str | None = None) -> Connection:
        """Return what a connection file says; for mirai's own use.  Raises MiraiError."""
        from mirai._connection import Connection

        if self._keys is None or not self._keys.guests:
            raise MiraiError(
                'only the pool that daemons(n, url="tcp://address:port") has started here'
                " can have a connection file"
            )
        self._open()
        first, *others = urls_of(self.url, advertise)
        pairs = {Role(name): pair for name, pair in self._keys.guests.items()}
        return Connection(first, self._keys.server.public, pairs, "", tuple(others))

    def report(self, timeout: float) -> PoolReport:
        """Return the dispatcher's report; for mirai's own use.  Raises TimeoutError, MiraiError."""
        report = self._open().ask().result(timeout)
        assert isinstance(report, PoolReport)
        return report

    def ask_board(self, board: str, request: Request) -> Mirai[Any]:
        """Ask something of a board that the dispatcher holds; for mirai's own use.

        Raises MiraiError where there is no dispatcher.
        """
        channel = self._open()
        if not isinstance(channel, Channel):
            raise MiraiError("a pool with sync=True has no dispatcher to hold a board")
        return channel.ask_board(board, request)

    # ── the end ──────────────────────────────────────────────────────────────────────────

    def shutdown(self) -> None:
        """End the pool at once: cancel what is pending, end every process.  Idempotent.

        Of a pool that stands on its own, only this client's tasks are cancelled.

        It returns when all is gone, except in a done-callback while another thread shuts down,
        since that thread waits for the callback, or where there is no dispatcher process, since
        the callback's thread is the one that ends the daemons.
        """
        if os.getpid() != self._owner:
            return  # a forked child: the pool is its parent's
        inside = self._channel is not None and self._channel.is_current_thread()
        if not self._ending.acquire(blocking=not inside):
            return
        try:
            self._remove_files()  # who reads them from now on comes too late
            if self._channel is not None:
                error = TaskCancelled("the pool was shut down before the task had ended")
                self._channel.close(error)
            if self._process is not None:
                self._process.end()
            for launches in self._launches:
                launches.close()
            self._on_end(self)
        finally:
            self._ending.release()

    def _remove_files(self) -> None:
        if self._files:
            from mirai._connection import remove

            while self._files:
                remove(*self._files.pop())

    def forsake(self, error: MiraiError) -> None:
        """Give up the pool in a forked child, whose parent goes on with it."""
        if self._channel is not None:
            self._channel.forsake(error)
        if self._process is not None:
            self._process.release()

    def __enter__(self) -> Daemons:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and (drained := self._drained()) is not None:
                drained.result()
                self._hear_out()
        finally:
            self.shutdown()

    async def __aenter__(self) -> Daemons:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if kind is None and (drained := self._drained()) is not None:
                await drained
                await beside(self._hear_out)
        finally:
            await shielded(beside(self.shutdown))

    def _hear_out(self) -> None:
        """Wait until it is known why jobs have ended whose tasks were lost, if any were."""
        for launches in self._launches:
            launches.hear_out()

    def _connect(self, config: dict[str, Any]) -> Carrier:
        """Start a dispatcher, in a process of its own or in this one."""
        assert self._options is not None
        if not self._options.dispatcher:
            from mirai._inproc import InProcess  # it loads what most hosts have no use for

            return InProcess(config)
        self._process = DispatcherProcess(config)
        url, hatch = self._process.listening_url(), self._process.hatch
        if self._process.line is not None:
            return LineLink(self._process.line, url, ToClient, hatch)
        from mirai._link import Link  # it loads ZeroMQ

        assert self._keys is not None
        return Link(url, self._keys.client, self._keys.server.public, ToClient, hatch)

    def _open(self) -> Channel | SyncChannel:
        if self._channel is None:
            raise DispatcherLost("the pool was shut down")
        return self._channel

    def _drained(self) -> Mirai[None] | None:
        """Return what is settled when no task is pending; None if the pool has ended already."""
        try:
            return self._open().drained()
        except MiraiError:
            return None

    def _explain_loss(self) -> MiraiError | None:
        """Say how the dispatcher ended; None if it has not."""
        if self._process is None:
            return None
        ending = self._process.how_it_ended(timeout=1.0)
        if ending is None:
            return None
        return DispatcherLost(f"the dispatcher (process {self._process.pid}) ended with {ending}")


def _vault(options: PoolOptions) -> Vault | None:
    """Return where the tasks of a pool without a dispatcher are kept.  Raises MiraiError."""
    if options.journal is None:
        return None
    from dispatcher.vault import Vault

    try:
        return Vault(options.journal, options.time_to_live)
    except OSError as error:
        raise MiraiError(str(error)) from None


def beside(do: Callable[[], T]) -> Mirai[T]:
    """Do something that blocks in a thread of its own, so that an event loop can go on.

    The mirai's value is what it returns, or what it raises.
    """
    ended: Mirai[T] = Mirai(0, do.__name__)

    def run() -> None:
        try:
            ended.settle(Value(do()))
        except BaseException as error:
            ended.settle(Failure(error))

    threading.Thread(target=run, name=f"mirai-{do.__name__}").start()
    return ended


async def shielded(mirai: Mirai[None]) -> None:
    """Wait for ``mirai``, even in a scope of trio or anyio that is cancelled."""
    if "anyio" in sys.modules:
        from anyio import CancelScope

        with CancelScope(shield=True):
            await mirai
        return
    if "trio" in sys.modules:
        from mirai import _trio

        if _trio.is_running():
            await _trio.shielded(mirai)
            return
    await mirai


def dispatcher_config(
    options: PoolOptions, keys: PoolKeys | None, slots: tuple[Slot, ...], profile: str
) -> dict[str, Any]:
    """Return a ``dispatcher.server.Config``, in what JSON knows.

    Without ``keys``, it draws its own, and only what is on a line can talk to it from outside.
    """
    return {
        "url": options.url,
        "public": "" if keys is None else keys.server.public,
        "secret": "" if keys is None else keys.server.secret,
        "client": "" if keys is None else keys.client.public,
        "guests": {} if keys is None else {pair.public: role for role, pair in keys.guests.items()},
        "host_pid": os.getpid(),
        "grace": options.grace,
        "plan": plan_of(options, slots, profile),
        "journal": options.journal or "",
        "time_to_live": options.time_to_live,
    }
