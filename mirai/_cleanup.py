"""A daemon after a task is as it was before: what tasks change besides their results.

What can be looked at cheaply is compared with a snapshot after each task.  What cannot (the
states of random generators, signal handlers, timers, environment variables in the C library) is
only changed through a few functions, so these are wrapped once, and note that they were called.
The working directory is both: to look at it takes longer than many a task does.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from functools import wraps
from types import ModuleType
from typing import Any

from mirai._streams import NUMPY, freshen

RARITY = 20
"""Garbage is collected at most once in so many times as long as the last collection took."""


_HAS_MASK = hasattr(signal, "pthread_sigmask")


class Cleanup:
    """Undoes what a task has changed in this process, which is a daemon's."""

    def __init__(self) -> None:
        """Take the process as it is for how it should be."""
        self._touched = False  # something may have changed the environment
        self._moved = False  # the working directory may be another
        self._signals: dict[int, Any] = {}  # signals that were handled otherwise before, and how
        self._timers: set[int] = set()  # those that were set
        self._masked = False  # signals may be blocked
        self._watches_numpy = False
        self.stale = False
        """Whether the random states were set by somebody, so that they are not ours."""
        for module in (os, sys.modules[os.name]):  # the latter's name is in their pickles
            for name in ("putenv", "unsetenv"):
                _wrap(module, name, self._touch)
            for name in ("chdir", "fchdir"):
                _wrap(module, name, self._move)
        for name in ("seed", "setstate"):
            for owner in (random, random._inst):
                _wrap(owner, name, self._spoil)
        _wrap(signal, "signal", self._note_signal)
        _wrap(signal, "setitimer", self._note_timer)
        _wrap(signal, "alarm", self._note_alarm)
        _wrap(signal, "pthread_sigmask", self._note_mask)
        self.keep()
        self.stale = False

    def keep(self) -> None:
        """Let everything stay as it is now, but for ``stale``."""
        self._environ = os.environ
        self._variables = dict(os.environ)
        self._touched = False
        self._directory = _directory()
        self._moved = False
        self._filters: Any = warnings.filters
        self._filter_list = list(self._filters)
        self._signals.clear()
        self._timers.clear()
        self._mask = _signal_mask()
        self._masked = False  # which has just been noted
        self._streams = sys.stdout, sys.stderr
        self._look_for_numpy()

    def restore(self, *, brief: bool = False) -> None:
        """Make everything as it was, but the random states: see ``freshen``.

        After what was ``brief``, the working directory is only looked at if it was noted that it
        may be another: what C code does unseen takes its time.
        """
        if self._touched or os.environ is not self._environ:
            self._restore_environment()
        if self._moved or not brief:
            self._moved = False
            if _directory() != self._directory:
                self._restore_directory()
        if warnings.filters != self._filter_list or warnings.filters is not self._filters:
            self._restore_filters()
        if self._timers:  # first: they must not strike when nobody handles them any more
            self._stop_timers()
        if self._signals:
            self._restore_signals()
        if self._masked:
            _set_signal_mask(self._mask)
            self._masked = False  # which has just been noted
        out, err = self._streams
        if sys.stdout is not out or sys.stderr is not err:
            sys.stdout, sys.stderr = out, err
        if not self._watches_numpy and NUMPY in sys.modules:
            self._look_for_numpy()

    def freshen(self) -> None:
        """Draw numbers that depend on nothing from now on."""
        freshen()
        self.stale = False

    def _touch(self, *_: Any) -> None:
        self._touched = True

    def _move(self, *_: Any, **__: Any) -> None:
        self._moved = True

    def _spoil(self, *_: Any, **__: Any) -> None:
        self.stale = True

    def _note_signal(self, signalnum: int, *_: Any, **__: Any) -> None:
        with contextlib.suppress(ValueError, TypeError):  # no such signal
            self._signals.setdefault(signalnum, signal.getsignal(signalnum))

    def _note_timer(self, which: int, *_: Any, **__: Any) -> None:
        self._timers.add(which)

    def _note_alarm(self, *_: Any) -> None:
        self._timers.add(signal.ITIMER_REAL)

    def _note_mask(self, *_: Any, **__: Any) -> None:
        self._masked = True

    def _restore_environment(self) -> None:
        os.environ = self._environ  # noqa: B003  # a task may have put another in its place
        for name in os.environ.keys() - self._variables.keys():
            del os.environ[name]
        for name, value in self._variables.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        self._touched = False

    def _restore_directory(self) -> None:
        with contextlib.suppress(OSError):  # somebody has removed it
            os.chdir(self._directory)

    def _restore_filters(self) -> None:
        self._filters[:] = self._filter_list
        warnings.filters = self._filters
        with warnings.catch_warnings():  # makes the module forget what it knew of the filters
            pass

    def _restore_signals(self) -> None:
        for number, handler in self._signals.copy().items():
            if handler is not None and signal.getsignal(number) is not handler:
                with contextlib.suppress(OSError, ValueError):
                    signal.signal(number, handler)
        self._signals.clear()

    def _stop_timers(self) -> None:
        for which in self._timers.copy():
            with contextlib.suppress(OSError, ValueError, TypeError):  # no such timer
                signal.setitimer(which, 0)
        self._timers.clear()

    def _look_for_numpy(self) -> None:
        """Watch numpy's global state once it is imported; who knows what it has seen by then."""
        numpy = sys.modules.get(NUMPY)
        if not self._watches_numpy and numpy is not None and hasattr(numpy, "set_state"):
            for name in ("seed", "set_state"):
                _wrap(numpy, name, self._spoil)
            self._watches_numpy = self.stale = True


def _wrap(owner: object, name: str, note: Callable[..., None]) -> None:
    """Have a function of a module, or a method, say when, and with what, it is called."""
    original = getattr(owner, name, None)
    if original is None:
        return

    @wraps(original)
    def noting(*args: Any, **kwargs: Any) -> Any:
        note(*args, **kwargs)  # first: it may change something and fail
        return original(*args, **kwargs)

    noting.__qualname__ = name  # so that it is pickled as the module's
    if isinstance(owner, ModuleType):
        noting.__module__ = owner.__name__
    setattr(owner, name, noting)


def _signal_mask() -> set[Any]:
    """Return the signals that this thread blocks."""
    return signal.pthread_sigmask(signal.SIG_BLOCK, ()) if _HAS_MASK else set()


def _set_signal_mask(mask: set[Any]) -> None:
    if _HAS_MASK:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _directory() -> bytes:
    """Return the working directory; empty where it has been removed."""
    try:
        return os.getcwdb()
    except OSError:
        return b""


class Garbage:
    """Decides when to collect garbage: when there is time, and not too often."""

    def __init__(self, collect: Callable[[], object], clock: Callable[[], float]) -> None:
        self._collect = collect
        self._clock = clock
        self._rest_until = 0.0

    @classmethod
    def of_this_process(cls) -> Garbage:
        """Return one for the garbage of this process."""
        import gc

        return cls(gc.collect, time.monotonic)

    def collect(self) -> None:
        """Collect, unless that was done a moment ago."""
        begun = self._clock()
        if begun >= self._rest_until:
            self._collect()
            ended = self._clock()
            self._rest_until = ended + RARITY * (ended - begun)
