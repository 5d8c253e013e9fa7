"""The launches of a pool: keys, the platform's answers, and what comes of jobs that fail.

One thread asks the platform about all jobs at once, seldom where there is nothing to be learned.
A launch has keys of its own, which die with it.  Where a daemon was lost that was a job, its task
waits for the platform to say why; and where none is left that could come, the dispatcher is told
so, and why, so that no task waits for ever.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import structs

from dispatcher.events import Role
from dispatcher.keys import KeyPair
from dispatcher.log import Guarded
from dispatcher.messages import Admit, Crash, Despair, Dismiss, Expect, Expel, FromHost, PoolReport
from mirai import _future
from mirai._comeback import exit_told
from mirai._connection import Connection, write_secret
from mirai._errors import LaunchError, MiraiError
from mirai._fleet import Failure, Fleet
from mirai._launched import Launched
from mirai.launchers import Handle, Launcher, Order, Phase, State

logger = Guarded("mirai")

FIRST = 0.5
"""Seconds until a platform is asked for the first time; the pause is doubled each time."""
CALM = 6
"""How many times rarer it is asked when all have joined."""
INQUEST = 5.0
"""Seconds that a platform has to say why a job has ended, before its tasks fail without that."""
ANSWER = 10.0
"""Seconds that the dispatcher has to answer."""
HOME = ".mirai"
"""Where in the user's home directory launches are kept whose platform shares our files."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way to the dispatcher."""

    order: Callable[[FromHost], None]
    report: Callable[[float], PoolReport]
    """Return what the pool looks like, within so many seconds."""
    urls: tuple[str, ...]
    server: str
    """Its public key."""


@dataclass(slots=True)
class _Open:
    """A launch whose files are there."""

    keys: tuple[str, ...]
    """Its public keys."""
    directory: str
    is_revoked: bool = False
    """Whether they let nobody in any more."""


@dataclass(frozen=True, slots=True)
class _Inquiry:
    crash: Crash
    settle: Callable[[Crash], None]
    since: float


class Launches:
    """Those of one pool."""

    def __init__(self, launcher: Launcher, told: Launched, patience: float | None) -> None:
        """``told`` is for the daemons; ``patience`` is how long each may take to join, in seconds.

        By default that is the launcher's.
        """
        self._launcher = launcher
        self._told = told
        self._launching = threading.RLock()  # held while the platform starts some
        self._change = threading.Condition()  # guards what follows, up to the blank line
        self._fleet = Fleet(launcher.patience if patience is None else patience)
        self._open: dict[str, _Open] = {}
        self._inquiries: deque[_Inquiry] = deque()
        self._closed = False
        self._woken = False
        self._deaf = False  # nobody hears inquiries any more

        self._link: Link | None = None
        self._pause = FIRST
        self._troubled = False  # whether the platform did not answer the last time
        self._told_expected: tuple[str, ...] = ()  # the dispatcher, of those still to come
        self._last_failure: Crash | None = None  # until something is launched again
        self._despairs = False  # the dispatcher was told that nobody will come
        self._thread = threading.Thread(target=self._run, name="mirai-launches", daemon=True)

    def open(self, link: Link) -> None:
        """Begin, now that the dispatcher listens."""
        self._link = link
        self._thread.start()

    # ── for any thread ───────────────────────────────────────────────────────────────────

    def launch(self, n: int) -> None:
        """Have ``n`` more.  Raises LaunchError where the platform refuses, DispatcherLost."""
        with self._launching:
            self._fleet.wanted += n
            try:
                self._start(n)
            except BaseException:
                self._fleet.wanted -= n
                raise

    def scale(self, n: int) -> None:
        """Have ``n`` in all.  Those go first that have not joined, then idle ones."""
        assert self._link is not None
        with self._launching:
            report = self._link.report(ANSWER)
            self._take_in(report)
            states = [daemon.state for daemon in report.daemons if daemon.job]
            leaving = states.count("leaving")
            with self._change:
                self._fleet.wanted = n
                surplus = len(states) - leaving + len(self._fleet.expected()) - n
                gone = self._fleet.dismiss(surplus, time.monotonic())
            if gone:
                self._launcher.terminate(gone)
            if surplus > len(gone):
                self._order(Dismiss(leaving + surplus - len(gone)))
            elif surplus < 0:
                self._start(-surplus)
            self._wake()

    def jobs(self) -> dict[Handle, State]:
        """Return what is known of the jobs that are not over."""
        with self._change:
            jobs = self._fleet.jobs.values()
            return {job.handle: job.state for job in jobs if not job.is_over}

    def reasons(self) -> list[str]:
        """Say of the jobs that have not joined how they stand, those alike in one sentence."""
        with self._change:
            expected = [self._fleet.jobs[handle.id].state for handle in self._fleet.expected()]
        alike = dict.fromkeys(map(str, expected))
        counts = [(sum(str(each) == text for each in expected), text) for text in alike]
        return [f"{count} launched and not joined: {text}" for count, text in counts]

    def inquire(self, crash: Crash, settle: Callable[[Crash], None]) -> None:
        """Ask the platform why a daemon's job has ended, and call ``settle`` with that."""
        with self._change:
            if not (self._closed or self._deaf):
                self._inquiries.append(_Inquiry(crash, settle, time.monotonic()))
                self._woken = True
                self._change.notify_all()
                return
        settle(crash)

    def close(self) -> None:
        """End what is left, and every trace of it."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(ANSWER)
        with self._launching:
            self._settle_rest()
            living = self._fleet.living()
            if living:
                self._terminate(living)
            while self._open:
                self._forget(*self._open.popitem())

    def _wake(self) -> None:
        with self._change:
            self._woken = True
            self._pause = FIRST
            self._change.notify_all()

    def _order(self, order: FromHost) -> None:
        assert self._link is not None
        self._link.order(order)

    # ── one launch ───────────────────────────────────────────────────────────────────────

    def _start(self, n: int) -> None:
        if n < 1:
            return
        assert self._link is not None
        name = f"mirai-{secrets.token_hex(6)}"
        pairs = {role: KeyPair.new() for role in Role}
        daemon, client = pairs[Role.DAEMON].public, pairs[Role.CLIENT].public
        launch = _Open((daemon, client), self._new_directory(name))
        try:
            self._order(Admit((daemon,), (client,)))
            self._link.report(ANSWER)  # now they are let in
            order = self._order_of(n, name, pairs, launch.directory)
            handles = self._launcher.launch(order)
            with self._change:
                self._fleet.add(handles, time.monotonic())
                self._open[name] = launch
                self._last_failure, self._despairs = None, False
            self._tell_expected()
            self._link.report(ANSWER)  # now there is hope
        except BaseException:
            with contextlib.suppress(Exception):
                self._launcher.recall(name)
            self._revoke(launch)
            shutil.rmtree(launch.directory, ignore_errors=True)
            raise
        logger.info("launched %s: %s", name, ", ".join(handle.id for handle in handles))
        self._wake()

    def _tell_expected(self) -> None:
        """Tell the dispatcher who is still to come, if that has changed."""
        with self._change:
            expected = tuple(handle.id for handle in self._fleet.expected())
            if expected == self._told_expected:
                return
            self._told_expected = expected
        with contextlib.suppress(MiraiError):
            self._order(Expect(expected))

    def _order_of(self, n: int, name: str, pairs: Mapping[Role, KeyPair], directory: str) -> Order:
        assert self._link is not None
        first, *others = self._link.urls
        told = msgspec.to_builtins(self._told)
        connection = Connection(first, self._link.server, pairs, "", tuple(others), told)
        text, file = connection.text(), ""
        if self._launcher.shares_files:
            file = os.path.join(directory, "keys.json")
            write_secret(file, text.encode())
        return Order(n, name, text.rstrip("\n"), directory, file)

    def _new_directory(self, name: str) -> str:
        if not self._launcher.shares_files:
            return tempfile.mkdtemp(prefix=f"{name}-")
        chosen = getattr(self._launcher, "directory", None)
        home = Path(chosen) if chosen else Path.home() / HOME
        directory = home / name
        try:
            home.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
        except OSError as error:
            raise LaunchError(f"{directory} cannot be made: {error.strerror}") from None
        return os.path.abspath(directory)

    def _revoke(self, launch: _Open) -> None:
        """Let nobody in any more by its keys."""
        if not launch.is_revoked:
            launch.is_revoked = True
            with contextlib.suppress(MiraiError):  # the pool has ended, and its keys with it
                self._order(Expel(launch.keys))

    def _forget(self, name: str, launch: _Open) -> None:
        """Leave nothing of a launch behind, here or on its platform."""
        try:
            self._launcher.recall(name)
        except Exception as error:
            logger.warning("of the launch %s something may be left: %s", name, error)
        shutil.rmtree(launch.directory, ignore_errors=True)

    def _terminate(self, handles: Sequence[Handle]) -> None:
        try:
            self._launcher.terminate(handles)
        except Exception as error:
            ids = ", ".join(handle.id for handle in handles)
            logger.warning("the jobs %s could not be ended, and may still be there: %s", ids, error)

    # ── the thread ───────────────────────────────────────────────────────────────────────

    def _run(self) -> None:
        try:
            while self._sleep():
                self._turn()
        except BaseException as error:  # a bug of ours; nobody may wait for ever because of it
            logger.warning("jobs are not looked after any more: %r", error)
            raise
        finally:
            with self._change:
                self._deaf = True
            self._settle_rest()

    def _sleep(self) -> bool:
        """Wait until it is time to ask, or somebody wants to know; return False at the end."""
        with self._change:
            if not (self._woken or self._closed):
                self._change.wait(self._next_pause())
            self._woken = False
            return not self._closed

    def _next_pause(self) -> float | None:
        if not self._fleet.jobs and not self._fleet.wanted:
            return None
        calm = self._fleet.living() and not self._fleet.expected()
        longest = self._launcher.interval * (CALM if calm else 1)
        pause = min(self._pause, longest)
        self._pause = min(2 * self._pause, longest)
        return pause

    def _turn(self) -> None:
        assert self._link is not None
        try:
            report = self._link.report(ANSWER)
        except (MiraiError, TimeoutError):
            return  # it is lost, and the pool ends; or it is busy, and we come back
        self._take_in(report)
        failures = self._ask()
        with self._change:
            late = self._fleet.late(time.monotonic())
        if late:
            self._terminate([failure.handle for failure in late])
        self._tell_of(failures + late)
        self._tell_expected()
        self._hold_inquest()
        self._close_finished()
        if report.awaiting and (missing := self._fleet.missing()):
            self._replace(missing)
        if not report.connections:
            self._give_up()

    def _take_in(self, report: PoolReport) -> None:
        """Know who is there, and who was."""
        with self._change:
            joined = set(self._told_expected).difference(report.coming)
            self._fleet.there({daemon.job for daemon in report.daemons if daemon.job}, joined)

    def _ask(self) -> list[Failure]:
        """Ask the platform about all that may still come to something."""
        with self._change:
            living = self._fleet.living()
        if not living:
            return []
        try:
            states = self._launcher.poll(living)
        except Exception as error:  # a launcher may be anybody's
            if not self._troubled:
                logger.warning("the platform does not say how jobs stand: %s", error)
            self._troubled = True
            return []
        self._troubled = False
        with self._change:
            return self._fleet.told(states, time.monotonic())

    def _tell_of(self, failures: Sequence[Failure]) -> None:
        """Say which jobs have failed."""
        for failure in failures:
            log = self._launcher.log(failure.handle)
            self._last_failure = Crash(f"no daemon is there: {failure.why}", tail=log)
            text = f"{failure.why}; the last it printed:\n{log}" if log else failure.why
            logger.warning("%s", text)

    def _give_up(self) -> None:
        """Where nobody is there and nobody will come, have all fail that waits for them."""
        with self._change:
            hopeless = self._fleet.failing and not self._fleet.living()
        if hopeless and self._last_failure is not None and not self._despairs:
            self._despairs = True
            with contextlib.suppress(MiraiError):
                self._order(Despair(self._last_failure))

    def _close_finished(self) -> None:
        with self._change:
            for name in self._fleet.ended() & self._open.keys():
                self._revoke(self._open[name])
            names = self._fleet.finished(time.monotonic())
            over = [(name, self._open.pop(name)) for name in names if name in self._open]
        for name, launch in over:
            self._forget(name, launch)

    def _replace(self, missing: int) -> None:
        """Launch others in the place of those that have ended, since there is work."""
        with self._launching:
            if self._closed:
                return
            try:
                self._start(missing)
            except Exception as error:
                self._fleet.failing = True
                self._last_failure = Crash(f"daemons have ended, and others cannot start: {error}")
                logger.warning("daemons have ended, and no others can be launched: %s", error)

    # ── why daemons were lost ────────────────────────────────────────────────────────────

    def _hold_inquest(self) -> None:
        """Tell those who ask what the platform has said by now; the others wait a little."""
        now = time.monotonic()
        with self._change:
            asked, self._inquiries = list(self._inquiries), deque()
        for inquiry in asked:
            if (told := self._told_by_supervisor(inquiry.crash)) is not None:
                self._answer(inquiry, told)
                continue
            state = self._state_of(inquiry.crash.job)
            known = state is None or state.phase.is_over
            if known or now - inquiry.since > INQUEST or self._closed:
                self._answer(inquiry, self._explained(inquiry.crash, state))
            else:
                with self._change:
                    self._inquiries.append(inquiry)
                    self._pause = FIRST / 2

    def _state_of(self, id: str) -> State | None:
        with self._change:
            job = self._fleet.jobs.get(id)
            return None if job is None else job.state

    def _told_by_supervisor(self, crash: Crash) -> Crash | None:
        """Return how a daemon ended whose job goes on, if its supervisor has said so by now."""
        with self._change:
            job = self._fleet.jobs.get(crash.job)
        log = "" if job is None else self._launcher.log(job.handle)
        exit = exit_told(log, crash.pid)
        if exit is None:
            return None
        return structs.replace(crash, reason="the daemon died", exit=exit, tail=log)

    def _explained(self, crash: Crash, state: State | None) -> Crash:
        """Return what is known of a job's end."""
        with self._change:
            job = self._fleet.jobs.get(crash.job)
        if job is None or state is None:
            return crash
        if state.phase.is_over:
            reason = f"its job {crash.job} has ended, {state}"
        elif state.phase is Phase.UNKNOWN:
            reason = f"{crash.reason}, and of its job {crash.job} nothing is known"
        else:
            reason = f"{crash.reason}, while its job {crash.job} goes on"
        log = crash.tail or self._launcher.log(job.handle)
        return structs.replace(crash, reason=reason, exit=state.exit, tail=log)

    def _settle_rest(self) -> None:
        with self._change:
            asked, self._inquiries = list(self._inquiries), deque()
        for inquiry in asked:
            state = self._state_of(inquiry.crash.job)
            self._answer(inquiry, self._explained(inquiry.crash, state))

    def _answer(self, inquiry: _Inquiry, crash: Crash) -> None:
        """Settle it; done-callbacks of a task run in here, and must not wait for others."""
        _future.settlers.add(threading.get_ident())
        try:
            inquiry.settle(crash)
        finally:
            _future.settlers.discard(threading.get_ident())
