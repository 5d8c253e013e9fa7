"""The workers of one controller: a pool, and how many of each crew there are in it."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from mirai._errors import MiraiError
from mirai._limits import seconds
from mirai._profiles import options_of, start, url_for
from mirai._serial import Serial
from mirai.controllers._options import Recruits, Seconds
from mirai.controllers.scaling import Crew, Past, Policy, choose, share_out

if TYPE_CHECKING:
    from mirai._launches import Launches
    from mirai._outlook import Outlook
    from mirai._pool import Daemons
    from mirai._pool_options import PoolOptions
    from mirai._serialize import Reducer
    from mirai.controllers._engine import Settings
    from mirai.controllers._refs import Depot
    from mirai.launchers import Launcher

SIGKILL = getattr(signal, "SIGKILL", signal.SIGTERM)
"""What ends a process that does not answer; on Windows, either does."""


@dataclass(slots=True, eq=False)
class _Hired:
    """One crew at work."""

    recruits: Recruits
    policy: Policy
    launches: Launches | None
    """None: the dispatcher keeps them, as processes of this machine."""
    past: Past = field(default_factory=Past)
    wanted: int = 0
    has_news: bool = False
    """Whether there is new work, for which nobody was ordered yet."""

    def workers(self) -> int:
        """Return how many are there or on their way."""
        return self.wanted if self.launches is None else self.launches.counts()[0]

    def crew(self) -> Crew:
        """Return it as others see it: one that fails has just those who are there.

        A relay counts for as many as are behind it.
        """
        workers, most, each = self.workers(), self.policy.most, self.recruits.each
        if self.launches is not None and self.launches.is_failing() and not self.has_news:
            most = min(workers, most)
        return Crew(frozenset(self.recruits.tags), workers * each, most * each)


class Crews:
    """A pool, and those who work in it.  For any thread."""

    def __init__(self, settings: Settings, call: Callable[[], None]) -> None:
        """``call`` is called when something about the workers has changed."""
        self._settings = settings
        self._call = call
        self._guard = threading.RLock()  # guards what follows
        self._recruits = list(settings.recruits)
        self._hired: list[_Hired] = []
        self._pool: Daemons | None = None
        self._outlook: Outlook | None = None
        self._options: PoolOptions | None = None
        self.reducer: Reducer | None = None
        """What knows how to pickle some objects."""
        self.depot: Depot | None = None

    # ── their life ───────────────────────────────────────────────────────────────────────

    def start(self) -> None:
        """Start the pool, and those who are always to be there.  Raises like ``daemons``."""
        settings = self._settings
        with self._guard:
            local = next((each for each in self._recruits if each.launcher is None), None)
            options = options_of(
                0 if local is None else local.min_workers,
                self._url(),
                tags=() if local is None else local.tags,
                wall_time=None if local is None else local.wall_time,
                max_tasks=None if local is None else local.max_tasks,
                **settings.pool,
            )
            if settings.store is not None:
                self.depot = settings.store.depot(secrets.token_hex(8))
            self._options = options = self._measured(options)
            self.reducer = Serial(options.serial) or None
            self._pool = start(settings.name, options)
            try:
                self._hold_metrics()
                self._hire_all(local)
            except BaseException:
                self.end()
                raise

    def _hire_all(self, local: Recruits | None) -> None:
        from mirai._outlook import Outlook

        self._outlook = Outlook(() if local is None else (local.tags,))
        for recruits in self._recruits:
            self._hire(recruits, is_local=recruits is local)

    def _measured(self, options: PoolOptions) -> PoolOptions:
        """Return options by which each worker measures itself, if that is wanted."""
        metrics = self._settings.metrics
        if metrics is None or options.sync:  # where the host is all there is
            return options
        from mirai.controllers._sampler import Begin

        return replace(options, init=Begin(metrics, options.init))

    def _hold_metrics(self) -> None:
        if self._settings.metrics is not None:
            from mirai.controllers._sampler import hold  # it loads what few have a use for

            hold(self._settings.metrics)

    def _release_metrics(self) -> None:
        if self._settings.metrics is not None:
            from mirai.controllers._sampler import release

            release(self._settings.metrics)

    def _url(self) -> str | None:
        """Return where the pool is to listen; None: nowhere, all workers are the dispatcher's."""
        if self._settings.url is not None or self._settings.pool.get("sync"):
            return self._settings.url
        launchers = [each.launcher for each in self._recruits if each.launcher is not None]
        if len(self._recruits) - len(launchers) > 1:
            launchers = [*launchers, _local()]
        return url_for(launchers) if launchers else None

    def _hire(self, recruits: Recruits, *, is_local: bool) -> None:
        """Have one more crew in the pool."""
        launches = None
        if not is_local:
            launches = self._launches(recruits)
        wanted = recruits.min_workers if is_local else 0
        self._hired.append(_Hired(recruits, recruits.policy(), launches, wanted=wanted))

    def _launches(self, recruits: Recruits) -> Launches:
        assert self._options is not None and self._outlook is not None
        options = replace(
            self._options,
            count=0,
            launcher=recruits.launcher or _local(),
            patience=recruits.patience(),
            tags=recruits.tags,
            limits=recruits.limits(),
            each=recruits.each,
        )
        launches = self.pool.recruit(options, self._outlook)
        launches.on_change = self._call
        return launches

    def recruit(self, recruits: Recruits) -> None:
        """Have one more crew.  Raises MiraiError for one that cannot reach the pool."""
        with self._guard:
            if self._pool is not None:
                self._hire(recruits, is_local=False)
            self._recruits.append(recruits)
        self._call()

    def end(self) -> None:
        """End all processes, and what they have stored.  Idempotent."""
        with self._guard:
            pool, self._pool, self._hired = self._pool, None, []
            depot, self.depot = self.depot, None
        if pool is not None:
            pool.shutdown()
            self._release_metrics()
        if depot is not None and self._settings.store is not None:
            self._settings.store.end(depot)

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    @property
    def pool(self) -> Daemons:
        """The pool.  Raises MiraiError if there is none."""
        pool = self._pool
        if pool is None:
            name = self._settings.name
            raise MiraiError(f"the controller {name!r} has not started yet, or has ended")
        return pool

    @property
    def most(self) -> int:
        """How many workers there can be."""
        return sum(recruits.workers * recruits.each for recruits in self._recruits)

    def carry(self, tags: tuple[str, ...]) -> bool:
        """Whether a crew carries all these tags."""
        return not tags or any(set(tags).issubset(each.tags) for each in self._recruits)

    def check(self, tags: tuple[str, ...]) -> None:
        """Raise ValueError if no crew carries these tags."""
        if not self.carry(tags):
            told = ", ".join(map(repr, tags))
            raise ValueError(f"no worker of {self._settings.name!r} carries the tags {told}")

    def stow(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a call, with what is large in the store."""
        if (depot := self.depot) is None:
            return args, dict(kwargs)
        reducer = self.reducer
        stowed = {name: depot.stow(each, reducer) for name, each in kwargs.items()}
        return tuple(depot.stow(each, reducer) for each in args), stowed

    @staticmethod
    def fetch(value: Any) -> Any:
        """Return a value, read from the store if that is where it lies."""
        from mirai.controllers._refs import Depot

        return Depot.fetch(value)

    # ── their number ─────────────────────────────────────────────────────────────────────

    def follow(
        self, demand: Mapping[tuple[str, ...], int], now: float, *, anew: bool
    ) -> float | None:
        """Have as many workers as so many tasks want, by tags; return when to look again.

        ``anew``: there are new tasks, for which it is worth trying once more what has failed.
        """
        with self._guard:
            if self._pool is None or self._settings.pool.get("sync"):
                return None
            for hired in self._hired:
                hired.has_news = hired.has_news or anew
            crews = [hired.crew() for hired in self._hired]
            shares = share_out(demand, crews)
            again = [
                self._adjust(hired, share, now)
                for hired, share in zip(self._hired, shares, strict=True)
            ]
        return min([each for each in again if each is not None], default=None)

    def _adjust(self, hired: _Hired, tasks: int, now: float) -> float | None:
        workers, wanted = hired.workers(), math.ceil(tasks / hired.recruits.each)
        choice = choose(wanted, workers, now, hired.policy, hired.past)
        hired.past = choice.past
        if hired.has_news and tasks and hired.launches is not None:
            hired.launches.look()
        if not choice.gathers:  # else what was ordered stays so
            anew = hired.has_news and choice.count > workers
            hired.has_news = False
            self._want(hired, choice.count, anew=anew)
        return choice.again

    def _want(self, hired: _Hired, count: int, *, anew: bool = False) -> None:
        if hired.launches is not None:
            if count != hired.wanted or count != hired.workers() or anew:
                hired.launches.want(count, anew=anew)
        elif count != hired.wanted:
            with contextlib.suppress(MiraiError):  # its tasks hear of it
                self.pool.scale(count)
        hired.wanted = count

    def descale(self) -> None:
        """Forget how much there was to do."""
        with self._guard:
            for hired in self._hired:
                hired.past = Past()
        self._call()

    def shutdown(self, tags: tuple[str, ...]) -> None:
        """Let those go that carry these tags; ``follow`` brings others.

        Raises like ``Launches.scale``.
        """
        with self._guard:
            chosen = [each for each in self._hired if set(tags).issubset(each.recruits.tags)]
            for hired in chosen:
                self._want(hired, 0)
                hired.past = Past()
        # Not under the guard: a platform may be slow, and the other crews are to go on.
        _each(chosen, lambda launches: launches.scale(0))  # at once, before others are wanted
        self._call()

    def dismiss(self, tags: tuple[str, ...]) -> int:
        """Have these crews no more; return how many those were.

        Raises ValueError if there are none.
        """
        with self._guard:
            gone = [each for each in self._recruits if set(tags).issubset(each.tags)]
            staying = [each for each in self._recruits if each not in gone]
            if not gone:
                raise ValueError(f"no crew carries the tags {list(tags)}")
            if not staying:
                raise ValueError("that is every crew; terminate() ends all")
            self._recruits = staying
            leaving = [hired for hired in self._hired if hired.recruits in gone]
            self._hired = [hired for hired in self._hired if hired not in leaving]
            for hired in leaving:
                self._want(hired, 0)
                if hired.launches is None and self._outlook is not None:
                    self._outlook.forgo(hired.recruits.tags)
            pool = self._pool
        try:
            _each(leaving, lambda launches: launches.retire())
        finally:
            if pool is not None:
                reason = f"the crew with the tags {list(tags)} was dismissed"
                pool.forgo(reason, tuple(each.tags for each in staying))
        self._call()
        return len(gone)

    def restart_stuck(self, after: Seconds) -> int:
        """End the workers that are stuck for so long; return how many those were."""
        least = seconds("after", after) if after else 0.0
        daemons = self.pool.status().daemons
        stuck = [each for each in daemons if each.state == "stalled" and each.seconds >= least]
        jobs = {each.job for each in stuck if each.job}
        with self._guard:
            launches = [hired.launches for hired in self._hired if hired.launches is not None]
        ended = sum(each.end(jobs) for each in launches)
        for each in stuck:
            if not each.job and each.host == socket.gethostname():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(each.pid, SIGKILL)
                    ended += 1
        return ended


def _each(crews: Sequence[_Hired], act: Callable[[Launches], None]) -> None:
    """Do something with the launches of each crew, and then raise the first error."""
    with contextlib.ExitStack() as stack:
        for hired in crews:
            if hired.launches is not None:
                stack.callback(act, hired.launches)


def _local() -> Launcher:
    from mirai.launchers import LocalLauncher

    return LocalLauncher()
