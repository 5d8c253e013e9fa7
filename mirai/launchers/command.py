"""Daemons by a command of one's own, for what no other launcher knows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from shlex import quote
from typing import ClassVar

from mirai._errors import LaunchError
from mirai._launched import STDIN
from mirai._limits import seconds
from mirai._pool_options import check_env
from mirai.launchers import _children
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._command import daemon_command
from mirai.launchers._submit import ask

_PLACE = re.compile(r"\{(command|name|index|keys_file)\}")


@dataclass(frozen=True, kw_only=True)
class CommandLauncher(Launcher):
    """Daemons by a command of one's own, which is run once for each.

    ``template`` is the command: a list of arguments, or a line for the shell.  In there,
    ``{command}`` stands for what is to be run wherever it leads, as a line for a shell there;
    ``{name}`` for the name of the launch and ``{index}`` for the number of the daemon, from 0;
    ``{keys_file}`` for the file that holds the keys, which ``{command}`` reads where it runs.
    With ``stdin`` that file is not needed: the keys come by standard input, which stays open, and
    whose end is also the daemon's (``["ssh", "node1", "{command}"]``).

    The command is expected to run as long as the daemon, whose state is that of its process.
    With ``detached`` it only passes it on, and ends: it has failed if its exit code is not 0
    or if it takes longer than ``timeout``, in seconds or like ``"2m"``.  Then ``cancel``, a
    command with the same placeholders but for ``{command}`` and ``{keys_file}``, ends a daemon;
    without it, a daemon ends when its pool does.

    ``python`` is the interpreter wherever it leads; ``env`` is what the command's environment has
    besides ours.  Raises TypeError or ValueError.

    A process can be waited for only by the one who holds it, and a launcher holds nothing: the
    processes are kept in this module's memory until they have ended, and a launcher in another
    process (which may be equal to this one) knows nothing of them.
    """

    template: Sequence[str] | str = field(kw_only=False)
    stdin: bool = False
    detached: bool = False
    cancel: Sequence[str] | str | None = None
    timeout: float | str = 120.0
    python: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)

    patience: ClassVar[float] = 3_600.0
    interval: ClassVar[float] = 1.0
    shares_files: ClassVar[bool] = True

    def __post_init__(self) -> None:
        for name in ("template", "cancel"):
            _check(name, getattr(self, name))
        if self.template is None or not self.template:
            raise ValueError("template must be a command")
        if self.stdin and self.detached:
            raise ValueError("stdin is for a command that stays, detached for one that does not")
        if self.cancel is not None and not self.detached:
            raise ValueError("cancel is for what is detached: other commands are ended themselves")
        seconds("timeout", self.timeout)
        check_env(self.env)

    def rendered(self, order: Order, handle: Handle) -> list[str] | str:
        """Return the command of one daemon."""
        source = STDIN if self.stdin else order.key_file
        command = f"env MIRAI_JOB={handle.id} {daemon_command(source, self.python)}"
        values = {"command": command, "keys_file": order.key_file} | _words(handle)
        return _fill(self.template, values)

    def launch(self, order: Order) -> list[Handle]:
        """Run the command for each daemon.  Raises LaunchError if it cannot be run or fails."""
        if not (self.stdin or order.key_file):
            raise LaunchError("the command needs a file of keys, and there is none")
        started: list[Handle] = []
        try:
            for handle in _children.handles(order):
                started.append(handle)
                self._start(handle, self.rendered(order, handle), order.keys)
        except BaseException:
            self.terminate(started)
            raise
        return started

    def _start(self, handle: Handle, argv: list[str] | str, keys: str) -> None:
        if self.detached:
            self._run(argv)
            return
        child = _children.start(handle, argv, env=self.env, lifeline=self.stdin)
        if self.stdin:
            child.feed(keys)

    def _run(self, argv: list[str] | str) -> None:
        whole = ["/bin/sh", "-c", argv] if isinstance(argv, str) else argv
        ask(whole, timeout=seconds("timeout", self.timeout), env=self.env)

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the processes stand; of those that are detached nothing is known."""
        if self.detached:
            unknown = State(Phase.UNKNOWN, "it was passed on by a command, which has succeeded")
            return states(handles, {handle.id: unknown for handle in handles})
        return _children.poll(handles)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """End the processes, or run ``cancel`` for each.  Raises LaunchError."""
        if not self.detached:
            _children.end(handles)
        elif self.cancel is not None:
            for handle in handles:
                self._run(_fill(self.cancel, _words(handle)))

    def recall(self, name: str) -> None:
        """End the processes of a launch; what was detached was ended when the launch failed."""
        if not self.detached:
            _children.end_launch(name)


def _words(handle: Handle) -> dict[str, str]:
    return {"name": handle.launch, "index": handle.id.rpartition("-")[2]}


def _fill(template: Sequence[str] | str, values: Mapping[str, str]) -> list[str] | str:
    """Put values in their places; in a line for a shell they are words, but for the command."""
    if isinstance(template, str):
        words = {name: quote(value) for name, value in values.items()} | {
            "command": values.get("command", "{command}")
        }
        return _PLACE.sub(lambda match: words.get(match[1], match[0]), template)
    return [_PLACE.sub(lambda match: values.get(match[1], match[0]), part) for part in template]


def _check(name: str, value: object) -> None:
    if value is None or isinstance(value, str):
        return
    if not isinstance(value, Sequence) or not all(isinstance(part, str) for part in value):
        raise TypeError(f"{name} must be a str or a list of them, not {value!r}")
