"""A daemon as a child of somebody else's worker: what runs there, for Dask, Ray and others."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from mirai._launched import STDIN
from mirai.launchers import _children
from mirai.launchers._base import Handle, Phase, State
from mirai.launchers._command import daemon_argv

GLANCE = 1.0
"""Seconds between two looks whether it is to end."""
TOLD = 4_096
"""How much of its output is told at the end, in bytes."""


T = TypeVar("T")


class Kept(Generic[T]):
    """What stands for daemons elsewhere, and lasts as long as we hold it: by handles' ids.

    It is for several threads.  The oldest goes when there are more than ``most``.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self.forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        """Keep nothing: in a forked process, all of it is the parent's."""
        self._guard = threading.Lock()
        self._things: dict[str, tuple[Handle, T]] = {}

    def add(self, handle: Handle, thing: T) -> None:
        """Keep what stands for a daemon."""
        with self._guard:
            self._things[handle.id] = handle, thing
            if len(self._things) > self._most:
                del self._things[next(iter(self._things))]

    def of(self, handles: Sequence[Handle]) -> dict[str, T]:
        """Return what stands for these, as far as it is known."""
        with self._guard:
            return {h.id: self._things[h.id][1] for h in handles if h.id in self._things}

    def all(self) -> list[T]:
        """Return what there is."""
        with self._guard:
            return [thing for _, thing in self._things.values()]

    def launch(self, name: str) -> list[Handle]:
        """Return the handles of a launch."""
        with self._guard:
            return [handle for handle, _ in self._things.values() if handle.launch == name]


@dataclass(frozen=True, slots=True)
class Charge:
    """What a worker is to do; a worker that logs its arguments logs no keys."""

    job: str
    keys: str = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class End:
    """How a daemon has ended on a worker."""

    exit: int
    said: str
    """The last of its output."""
    error: str = ""
    """Why it could not be started."""

    def state(self) -> State:
        """Return it as a launcher tells it."""
        if self.error:
            return State(Phase.FAILED, self.error)
        last = self.said.rpartition("\n")[2] if self.exit else ""
        detail = f"exit code {self.exit}" + (f": {last}" if last else "")
        return State(Phase.FAILED if self.exit else Phase.ENDED, detail, self.exit)


def serve(charge: Charge, is_over: Callable[[], bool], log: str = "") -> End:
    """Run a daemon by this worker's interpreter until it ends, or until it is to end.

    ``log`` is where its output goes; without that, it is kept until its end.  If this process ends
    first, so does the daemon: its standard input ends.  Nothing is raised, as a worker might log
    with what.
    """
    handle = Handle(charge.job, charge.job)
    with open(log, "x+b") if log else tempfile.TemporaryFile() as output:  # which leaves no file
        try:
            env = {**charge.env, "MIRAI_JOB": charge.job}
            child = _children.start(handle, daemon_argv(STDIN), env=env, log=output)
            try:
                child.feed(charge.keys)
                _watch(child, is_over)
            finally:
                _children.end_children([child])
        except Exception as error:
            return End(1, "", f"{type(error).__name__}: {error}")
        output.seek(max(0, output.seek(0, 2) - TOLD))
        said = output.read().decode(errors="replace").strip()
    return End(child.process.returncode, said)


def _watch(child: _children.Child, is_over: Callable[[], bool]) -> None:
    while True:
        try:
            child.process.wait(GLANCE)
            return
        except subprocess.TimeoutExpired:
            if is_over():
                return
