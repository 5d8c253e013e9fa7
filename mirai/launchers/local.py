"""Daemons as processes of this machine, started by name rather than by the dispatcher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mirai._launched import STDIN
from mirai._pool_options import check_env
from mirai.launchers import _children
from mirai.launchers._base import Handle, Launcher, Order, State
from mirai.launchers._command import daemon_argv


@dataclass(frozen=True, kw_only=True)
class LocalLauncher(Launcher):
    """Daemons as processes of this machine: what other launchers do, without another machine.

    ``python`` is the interpreter, by default this one; ``env`` is what the daemons' environment
    has besides ours, and ``cwd`` the directory that they start in.

    They end with this process.  Raises TypeError or ValueError.
    """

    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None

    patience: ClassVar[float] = 60.0
    interval: ClassVar[float] = 0.5
    shares_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_env(self.env)

    def launch(self, order: Order) -> list[Handle]:
        """Start them."""
        try:
            return [self._start(handle, order) for handle in _children.handles(order)]
        except BaseException:
            _children.end_launch(order.name)
            raise

    def _start(self, handle: Handle, order: Order) -> Handle:
        env = {**self.env, "MIRAI_JOB": handle.id}
        argv = daemon_argv(STDIN, self.python)
        _children.start(handle, argv, env=env, cwd=self.cwd).feed(order.keys)
        return handle

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the processes stand."""
        return _children.poll(handles)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """End the processes, and wait until they have."""
        _children.end(handles)

    def is_near(self) -> bool:
        """Return True."""
        return True

    def recall(self, name: str) -> None:
        """End the processes of a launch."""
        _children.end_launch(name)
