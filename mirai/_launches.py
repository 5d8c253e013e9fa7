"""The launches of a pool: keys, the platform's answers, and what comes of jobs that fail.

One thread asks the platform about all jobs at once, seldom where there is nothing to be learned.
A launch has keys of its own, which die with it.  Where a daemon was lost that was a job, its task
waits for the platform to say why; and where none is left that could come, the dispatcher is told
so, and why, so that no task waits for ever.
"""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from dispatcher.keys import KeyPair
from dispatcher.log import Guarded
from dispatcher.messages import Admit, Crash, Despair, Dismiss, Expel, FromHost, PoolReport, Role
from mirai._connection import Connection
from mirai._errors import DispatcherLost, LaunchError, MiraiError
from mirai._fleet import Failure, Fleet
from mirai._inquest import Inquest
from mirai._launch_folder import new_folder, remove_folder, write_keys
from mirai._launched import Launched
from mirai._outlook import Outlook
from mirai.launchers import Handle, Launcher, Order, State

logger = Guarded("mirai")

FIRST = 0.5
"""Seconds until a platform is asked for the first time; then it is asked at its own pace."""
CALM = 6
"""How many times rarer it is asked when all have joined."""
SPACING = 0.1
"""Seconds between two looks, at least, however many want to know something."""
INQUEST = 5.0
"""Seconds that a platform has to say why a job has ended, besides the time until it is asked."""
MAX_REFUSALS = 5
"""How often in a row a platform may refuse to launch others in the place of those that ended."""
MAX_DENIALS = 3
"""How often in a row it may refuse what was ordered, while somebody waits for it."""
ANSWER = 10.0
"""Seconds that the dispatcher has to answer, and a launch that is under way when the pool ends."""


@dataclass(frozen=True, slots=True)
class Link:
    """The way to the dispatcher."""

    order: Callable[[FromHost], None]
    """Tell it something, without waiting."""
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
    folder: str
    is_revoked: bool = False
    """Whether they let nobody in any more."""


class Launches:
    """Those of one pool."""

    def __init__(
        self, launcher: Launcher, told: Launched, patience: float | None, outlook: Outlook
    ) -> None:
        """``told`` is for the daemons; ``patience`` is how long each may take to join, in seconds.

        By default that is the launcher's.  ``outlook`` is shared by all launches of the pool.
        """
        self.on_change: Callable[[], None] | None = None
        """Called when another number is there or may come, or others may be launched again."""
        self._launcher = launcher
        self._told = told
        self._outlook = outlook
        self._view = outlook.add(told.tags)
        self._launching = threading.RLock()  # held while the platform starts some
        self._change = threading.Condition()  # guards what follows, up to the blank line
        self._fleet = Fleet(launcher.patience if patience is None else patience)
        self._open: dict[str, _Open] = {}
        self._closed = False
        self._woken = False
        self._is_elastic = False  # how many are wanted is told by who knows what they are for,
        self._is_ordered = False  # and has been told since the last look
        self._starting = 0  # how many the platform is starting now
        self._outlined = 0, 0  # how many might come at the last look, and how many were missing
        self._is_calm = False  # nothing waited then,
        self._news_until = 0.0  # and nobody has told of anything new before that
        self._last_failure: Crash | None = None  # until something is launched again
        self._despairs = False  # the dispatcher was told that nobody will come
        self._asked_at = 0.0  # when the platform was asked last

        self._inquest = Inquest(self._find, self._log_of, self._wake, launcher.interval + INQUEST)
        self._link: Link | None = None
        self._refusals = 0  # how often in a row others, or any, could not be launched
        self._tries_at = 0.0  # before that nobody is launched again
        self._troubled = False  # whether the platform did not answer the last time
        self._thread = threading.Thread(target=self._run, name="mirai-launches", daemon=True)

    def open(self, link: Link) -> None:
        """Begin, now that the dispatcher listens."""
        self._link = link
        self._thread.start()

    # ── for any thread ───────────────────────────────────────────────────────────────────

    def launch(self, n: int) -> None:
        """Have ``n`` more.

        Raises LaunchError where the platform refuses, DispatcherLost, and TimeoutError where the
        dispatcher does not answer.
        """
        with self._launching:
            self._start(n)
            with self._change:
                self._fleet.wanted += n

    def scale(self, n: int) -> None:
        """Have ``n`` in all.  Those go first that have not joined, then idle ones.

        Raises like ``launch``.
        """
        assert self._link is not None
        with self._launching:
            report = self._link.report(ANSWER)
            with self._change:
                self._take_in(report)
                missing = n - len(self._fleet.staying())
                self._fleet.wanted = min(n, self._fleet.wanted)
            if waiting := self._dismiss(-missing, report):
                self._launcher.terminate(waiting)
            self._start(missing)
            with self._change:
                self._fleet.wanted = n
        self._wake()

    def want(self, n: int, *, anew: bool = False) -> None:
        """Have ``n`` in all before long, without waiting: fewer as ``scale`` has it.

        From now on, whoever wants them says so each time, also when some have ended, which
        ``on_change`` tells.  ``anew``: also after a failure.
        """
        with self._change:
            self._is_elastic = self._is_ordered = True
            if anew or n > self._fleet.wanted:
                self._fleet.failing = self._despairs = False
                self._outlook.brightens(self._view)
            self._fleet.wanted = n
        self._wake()

    def look(self) -> None:
        """Ask the platform before long, since there is new work and some may have ended."""
        with self._change:
            if self._is_calm:
                self._is_calm = False
                self._news_until = time.monotonic() + self._launcher.interval
                self._wake()

    def retire(self) -> None:
        """Have none any more, now or later.  Raises like ``launch``."""
        self.want(0)
        self.scale(0)
        with self._change:
            self._outlook.darkens(self._view)

    def end(self, ids: Collection[str]) -> int:
        """End those of these jobs that are ours; return how many those were.

        Raises LaunchError.
        """
        with self._change:
            handles = [handle for handle in self._fleet.living() if handle.id in ids]
        if handles:
            self._launcher.terminate(handles)
            self._wake()
        return len(handles)

    def counts(self) -> tuple[int, int]:
        """Return how many are there or may still come, and how many of those have joined.

        Those may come that are being launched just now.
        """
        with self._change:
            staying = len(self._fleet.staying())
            return staying + self._starting, staying - len(self._fleet.expected())

    def is_failing(self) -> bool:
        """Whether those launched last did not do well, so that no more are."""
        with self._change:
            return self._fleet.failing

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

    def knows(self, id: str) -> bool:
        """Whether this is one of its jobs, or was not long ago."""
        return self._find(id) is not None

    def inquire(self, crash: Crash, settle: Callable[[Crash], None]) -> None:
        """Ask the platform why a daemon's job has ended, and call ``settle`` with that."""
        self._inquest.ask(crash, settle)

    def hear_out(self) -> None:
        """Wait until it is known why jobs have ended whose tasks were lost, if any were."""
        self._inquest.wait(2 * (self._launcher.interval + INQUEST))

    def close(self) -> None:
        """End what is left, and every trace of it."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(ANSWER)
        self._inquest.close()
        if self._launching.acquire(timeout=ANSWER):
            self._launching.release()
        else:
            logger.warning("a launch is still under way; its jobs are ended once it has an answer")
        self._end_all()
        with self._change:
            launches, self._open = self._open, {}
        for name, launch in launches.items():
            self._forget(name, launch)

    def _end_all(self) -> None:
        """End all jobs, once; from now on no launch adds any."""
        with self._change:
            self._closed = True
            living = self._fleet.living()
            self._fleet.jobs.clear()
        if living:
            self._terminate(living)

    def _wake(self) -> None:
        with self._change:
            self._woken = True
            self._change.notify_all()

    def _order(self, order: FromHost) -> None:
        """Tell the dispatcher something, without waiting; not, if the pool has ended."""
        assert self._link is not None
        with contextlib.suppress(MiraiError):
            self._link.order(order)

    # ── one launch ───────────────────────────────────────────────────────────────────────

    def _start(self, n: int) -> None:
        if n < 1:
            return
        assert self._link is not None
        name = f"mirai-{secrets.token_hex(6)}"
        pairs = {role: KeyPair.new() for role in Role}
        daemon, client = pairs[Role.DAEMON].public, pairs[Role.CLIENT].public
        launch = _Open((daemon, client), new_folder(self._launcher, name))
        handles: Sequence[Handle] = ()
        with self._change:
            self._starting = n
        try:
            self._link.order(Admit((daemon,), (client,)))
            self._link.report(ANSWER)  # now they are let in
            handles = self._launcher.launch(self._order_of(n, name, pairs, launch.folder))
            _check(handles, n)
            with self._change:
                if self._closed:
                    raise DispatcherLost("the pool was shut down while daemons were launched")
                self._add(name, launch, handles)
        except BaseException:
            self._take_back(name, launch, handles)
            raise
        finally:
            with self._change:
                self._starting = 0
        logger.info("launched %s: %s", name, ", ".join(handle.id for handle in handles))
        with contextlib.suppress(MiraiError, TimeoutError):
            self._link.report(ANSWER)  # now the dispatcher knows that they will come
        self._wake()

    def _add(self, name: str, launch: _Open, handles: Sequence[Handle]) -> None:
        now = time.monotonic()
        self._fleet.add(handles, now)
        self._starting = 0
        self._open[name] = launch
        self._last_failure, self._despairs = None, False
        self._outlook.brightens(self._view)
        self._asked_at = max(self._asked_at, now - self._launcher.interval + FIRST)
        self._tell_expected()

    def _take_back(self, name: str, launch: _Open, handles: Sequence[Handle]) -> None:
        """Leave nothing of a launch that has failed, or was interrupted."""
        if handles:
            self._terminate(handles)
        with contextlib.suppress(Exception):
            self._launcher.recall(name)
        self._revoke(launch)
        remove_folder(launch.folder)

    def _tell_expected(self) -> None:
        """Tell the dispatcher who is still to come, if that has changed; under the lock."""
        expected = tuple(handle.id for handle in self._fleet.expected())
        self._outlook.expect(self._view, expected, self._order)

    def _order_of(self, n: int, name: str, pairs: Mapping[Role, KeyPair], folder: str) -> Order:
        assert self._link is not None
        first, *others = self._link.urls
        told = msgspec.to_builtins(self._told)
        connection = Connection(first, self._link.server, pairs, "", tuple(others), told)
        text = connection.text()
        file = write_keys(folder, text) if self._launcher.shares_files else ""
        return Order(n, name, text.rstrip("\n"), folder, file)

    def _revoke(self, launch: _Open) -> None:
        """Let nobody in any more by its keys."""
        if not launch.is_revoked:
            launch.is_revoked = True
            self._order(Expel(launch.keys))

    def _forget(self, name: str, launch: _Open) -> None:
        """Leave nothing of a launch behind, here or on its platform."""
        try:
            self._launcher.recall(name)
        except Exception as error:
            logger.warning("of the launch %s something may be left: %s", name, error)
        remove_folder(launch.folder)

    def _dismiss(self, excess: int, report: PoolReport) -> list[Handle]:
        """Have so many fewer; return those that have not joined, whose jobs are to be ended."""
        assert self._link is not None
        idle = {daemon.job for daemon in report.daemons if daemon.state == "idle"}
        with self._change:
            waiting, there = self._fleet.dismiss(excess, idle)
            if waiting or there:
                self._order(Dismiss(tuple(handle.id for handle in (*waiting, *there))))
        if not waiting:
            return []
        with contextlib.suppress(MiraiError, TimeoutError):
            report = self._link.report(ANSWER)  # some may have joined by then, and have a task
        joined = {daemon.job for daemon in report.daemons}
        return [handle for handle in waiting if handle.id not in joined]

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
                try:
                    self._turn()
                except Exception:  # a launcher may be anybody's; we come back
                    logger.exception("a look at the launched jobs has failed")
        finally:
            self._inquest.close()

    def _sleep(self) -> bool:
        """Wait until it is time to look, or somebody wants to know; return False at the end."""
        with self._change:
            self._change.wait_for(lambda: self._closed, SPACING)
            if not (self._woken or self._closed):
                self._change.wait(self._pause())
            self._woken = False
            return not self._closed

    def _pause(self) -> float | None:
        """Return how long to sleep at most, in seconds; None: for ever."""
        if not self._fleet.jobs and not self._fleet.wanted:
            return None
        if (self._refusals or self._is_ordered) and self._fleet.missing():
            self._is_ordered = self._is_elastic
            return self._backoff()
        calm = self._fleet.living() and not (self._fleet.expected() or self._inquest.waits())
        calm = calm and (self._is_calm or not self._is_elastic)
        interval = self._launcher.interval * (CALM if calm else 1)
        if not self._fleet.living():
            return interval
        return max(0.0, self._asked_at + interval - time.monotonic())

    def _backoff(self) -> float:
        """Return for how many seconds a platform that has refused is left alone."""
        return min(self._launcher.interval, FIRST * 2.0**self._refusals)

    def _turn(self) -> None:
        assert self._link is not None
        try:
            report = self._link.report(ANSWER)
        except TimeoutError:
            return  # it is busy, and we come back
        except MiraiError:
            self._end_all()  # the dispatcher is lost, and whoever is to join it comes in vain
            return
        with self._change:
            self._take_in(report)
        failures = self._ask()
        with self._change:
            late = self._fleet.late(time.monotonic())
        if late:
            self._terminate([failure.handle for failure in late])
        self._tell_of(failures + late)
        self._inquest.hold()
        self._close_finished()
        with self._change:
            self._tell_expected()
            is_wanted = self._is_ordered if self._is_elastic else self._has_work(report)
            is_early = time.monotonic() < self._tries_at
            missing = self._fleet.missing() if is_wanted and not is_early else 0
            excess = len(self._fleet.staying()) - self._fleet.wanted if self._is_elastic else 0
            self._is_ordered = self._is_ordered and is_early
            self._is_calm = not report.awaiting and time.monotonic() >= self._news_until
        if excess > 0 and (waiting := self._dismiss(excess, report)):
            self._terminate(waiting)
        if missing:
            self._replace(missing)
        self._give_up(report)
        self._tell_change()

    def _tell_change(self) -> None:
        with self._change:
            outline = len(self._fleet.staying()), self._fleet.missing()
            former, self._outlined = self._outlined, outline
        if outline != former and self.on_change is not None:
            self.on_change()

    def _has_work(self, report: PoolReport) -> bool:
        """Whether something waits that another daemon of ours could do."""
        ours = [daemon for daemon in report.daemons if daemon.job and daemon.state != "leaving"]
        if ours:  # what waits beside one with nothing to do is not for us
            return report.awaiting > 0 and all(daemon.state != "idle" for daemon in ours)
        carried = set(self._told.tags)
        return any(carried.issuperset(tags) for tags in report.wanted)

    def _take_in(self, report: PoolReport) -> None:
        """Know who is there, and who was; under the lock."""
        there = {daemon.job for daemon in report.daemons if daemon.job}
        self._fleet.there(there, set(report.arrived))

    def _ask(self) -> list[Failure]:
        """Ask the platform about all that may still come to something, if it is time to."""
        with self._change:
            living, now = self._fleet.living(), time.monotonic()
            if not living or now < self._asked_at + self._launcher.interval:
                return []
            self._asked_at = now
        try:
            told = self._launcher.poll(living)
            states = {handle: _checked(told[handle]) for handle in living if handle in told}
        except BaseException as error:  # a launcher may be anybody's, and this is no main thread
            if not self._troubled:
                logger.warning("the platform does not say how jobs stand: %s", error or repr(error))
            self._troubled = True
            return []
        self._troubled = False
        with self._change:
            return self._fleet.told(states, time.monotonic())

    def _log_of(self, handle: Handle) -> str:
        """Return the last that a job has printed; nothing, if that cannot be had."""
        try:
            return str(self._launcher.log(handle) or "")
        except Exception as error:
            logger.info("the log of job %s cannot be had: %s", handle.id, error)
            return ""

    def _find(self, id: str) -> tuple[Handle, State] | None:
        with self._change:
            job = self._fleet.jobs.get(id)
            return None if job is None else (job.handle, job.state)

    def _tell_of(self, failures: Sequence[Failure]) -> None:
        """Say how many jobs have failed, and why the last of them."""
        if not failures:
            return
        last = failures[-1]
        log = self._log_of(last.handle)
        text = last.why if len(failures) == 1 else f"{len(failures)} jobs; the last: {last.why}"
        logger.warning("%s", f"{text}; the last it printed:\n{log}" if log else text)
        with self._change:
            self._last_failure = Crash(f"no daemon is there: {last.why}", tail=log)

    def _give_up(self, report: PoolReport) -> None:
        """Where nobody is there and nobody will come, have all fail that waits for them."""
        with self._change:
            if not self._fleet.is_hopeless() or self._last_failure is None:
                self._despairs = False
                return
            hope = self._outlook.darkens(self._view)
            if report.connections and not hope:
                self._despairs = False
            elif not self._despairs:
                self._despairs = True
                self._order(Despair(self._last_failure, hope))

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
                self._refusals = 0
            except Exception as error:  # a launcher may be anybody's
                self._refusals += 1
                self._tries_at = time.monotonic() + self._backoff()
                reason = f"{self._trouble()}: {error}"
                logger.warning("%s", reason)
                if self._refusals >= (MAX_DENIALS if self._is_elastic else MAX_REFUSALS):
                    self._refusals = 0
                    with self._change:
                        self._fleet.failing, self._last_failure = True, Crash(reason)

    def _trouble(self) -> str:
        if self._is_elastic:
            return "daemons cannot be launched"
        return "daemons have ended, and no others can be launched"


def _check(handles: Sequence[Handle], n: int) -> None:
    """Raise LaunchError if these are not the handles of ``n`` jobs."""
    if not all(isinstance(handle, Handle) for handle in handles):
        raise LaunchError(f"the launcher returned no handles: {handles!r}")
    if len({handle.id for handle in handles}) != n or len(handles) != n:
        ids = ", ".join(handle.id for handle in handles)
        raise LaunchError(f"the launcher started {len(handles)} daemons instead of {n}: {ids}")


def _checked(state: object) -> State:
    """Return what a launcher tells of a job.  Raises TypeError if it is no State."""
    if not isinstance(state, State) or not isinstance(state.exit, (int, type(None))):
        raise TypeError(f"a launcher tells states, not {state!r}")
    return state
