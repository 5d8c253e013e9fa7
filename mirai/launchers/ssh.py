"""SSH: daemons on machines that one can log in to, by OpenSSH's ``ssh``.

Each is a program of the remote machine whose standard input is the connection: keys come by it,
and when it ends, so does the daemon.  Whatever becomes of ``ssh``, nothing is left behind there.
"""

from __future__ import annotations

import json
import math
import random
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from shlex import join, quote
from typing import ClassVar

from mirai._errors import LaunchError
from mirai._launched import STDIN
from mirai._limits import seconds
from mirai._pool_options import check_env
from mirai.launchers import _children
from mirai.launchers._base import Handle, Launcher, Order, State, tail_of
from mirai.launchers._children import Child
from mirai.launchers._command import daemon_command

GREETING = "mirai: logged in"
"""What the remote side says, in a line of its own, once it is about to become a daemon."""
AT_ONCE = 8
"""How many logins to a host are under way at once: its sshd drops some when there are ten."""
TRIES = 8
"""How many ports are tried for a tunnel."""
PORTS = (10_000, 32_767)
"""Where a port for a tunnel is drawn from: below those that Linux gives to connections."""
SLACK = 5.0
"""Seconds that ``ssh`` has to say why a host does not answer, after it has given up."""

_HOST = re.compile(r"(?P<name>[^\s:\-][^\s:]*|(?:[^\s@]+@)?\[[0-9a-fA-F:]+\])(?::(?P<port>\d+))?")
_TAKEN = re.compile("remote port forwarding failed|cannot listen to port", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class SSHLauncher(Launcher):
    """Daemons on hosts that ``ssh`` can log in to without asking for a password.

    ``hosts`` are like ``"node1"``, ``"me@node1"`` or ``"me@node1:2222"``, or whatever
    ``~/.ssh/config`` knows; n daemons are dealt out to them in turn.  With ``tunnel`` they reach
    the dispatcher through the connection, where the hosts cannot reach this machine.

    ``options`` are further arguments of ``ssh`` (``("-o", "ProxyJump=gate")``), and go before
    ours; ``ssh`` is the program, and ``config_file`` what it reads in place of ``~/.ssh/config``.
    ``timeout`` is how long a host has to let us in, in seconds or like ``"30s"``.

    On the host, ``python`` is the interpreter, ``cwd`` the directory and ``env`` what its
    environment has besides; ``prologue`` are lines for the shell before all that
    (``". env/bin/activate"``).

    Raises TypeError or ValueError.
    """

    hosts: Sequence[str] | str = field(kw_only=False)
    tunnel: bool = False
    options: Sequence[str] = ()
    ssh: str = "ssh"
    config_file: str | None = None
    timeout: float | str = 10.0
    python: str = "python3"
    cwd: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    prologue: Sequence[str] = ()

    patience: ClassVar[float] = 120.0
    interval: ClassVar[float] = 0.5

    def __post_init__(self) -> None:
        if not self.host_list():
            raise ValueError("hosts must name at least one host")
        for host in self.host_list():
            if not isinstance(host, str):
                raise TypeError(f"hosts must be strings, not {host!r}")
            if not _HOST.fullmatch(host):
                raise ValueError(f'a host is like "node", "user@node" or "node:22", not {host!r}')
        for name in ("options", "prologue"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a list, not {getattr(self, name)!r}")
        seconds("timeout", self.timeout)
        for name in check_env(self.env):
            if not name.isidentifier():
                raise ValueError(f"env: no shell can set {name!r}")

    def host_list(self) -> list[str]:
        """Return the hosts."""
        return [self.hosts] if isinstance(self.hosts, str) else list(self.hosts)

    # ── commands ─────────────────────────────────────────────────────────────────────────

    def remote_command(self, job: str) -> str:
        """Return what the host is to run: a line for whatever shell its user has."""
        lines = []
        if self.prologue:  # which must not eat the keys
            lines += ["{", *self.prologue, "} </dev/null"]
        if self.cwd is not None:
            lines += [f"cd {quote(self.cwd)} || exit 1"]
        exports = {**self.env, "MIRAI_JOB": job}
        lines += [f"export {name}={quote(value)}" for name, value in exports.items()]
        missing = f"mirai: there is no {self.python} here"
        python = quote(self.python)
        lines += [f"command -v {python} >/dev/null || {{ echo {quote(missing)} >&2; exit 127; }}"]
        lines += [f"echo {quote(GREETING)}", f"exec {daemon_command(STDIN, self.python)} >&2"]
        return join(["exec", "/bin/sh", "-c", "\n".join(lines)])

    def ssh_argv(self, host: str, job: str, forward: str = "") -> list[str]:
        """Return the command that logs in to ``host``, with a tunnel as ``-R`` has it, if any."""
        match = _HOST.fullmatch(host)
        assert match is not None
        wait = math.ceil(seconds("timeout", self.timeout))
        argv = [self.ssh, "-T", *self.options]
        argv += ["-F", self.config_file] if self.config_file else []
        argv += ["-p", match["port"]] if match["port"] else []
        for option in (
            "BatchMode=yes",
            f"ConnectTimeout={wait}",
            "ExitOnForwardFailure=yes",
            "ServerAliveInterval=15",
            "ServerAliveCountMax=4",
            "ControlPath=none",  # a shared connection would outlive this one, and its tunnel
        ):
            argv += ["-o", option]
        argv += ["-R", forward] if forward else []
        return [*argv, "--", _bare(match["name"]), self.remote_command(job)]

    # ── launching ────────────────────────────────────────────────────────────────────────

    def launch(self, order: Order) -> list[Handle]:
        """Log in for each daemon, and wait until the hosts have let us in.

        Raises LaunchError, with ``ssh``'s own words, if one does not.
        """
        handles, hosts = _children.handles(order), self.host_list()
        dealt = list(zip(handles, cycle(hosts)))
        size = AT_ONCE * len(hosts)
        try:
            for first in range(0, len(dealt), size):
                self._log_in(dealt[first : first + size], order.keys)
        except BaseException:
            _children.end_launch(order.name)
            raise
        return handles

    def _log_in(self, wave: Sequence[tuple[Handle, str]], keys: str) -> None:
        """Log in for all of these at once; where a tunnel wants another port, again."""
        for _ in range(TRIES if self.tunnel else 1):
            logins = [self._start(handle, host, keys) for handle, host in wave]
            _greet_all(logins, seconds("timeout", self.timeout) + SLACK)
            wave = [(login.child.handle, login.host) for login in logins if not login.is_in]
            if not wave:
                return
        raise LaunchError(f"{wave[0][1]} has no port for a tunnel: {_log_of(wave[0][0])}")

    def _start(self, handle: Handle, host: str, keys: str) -> _Login:
        forward = ""
        if self.tunnel:
            forward, keys = through(keys, random.randint(*PORTS))
        argv = self.ssh_argv(host, handle.id, forward)
        return _Login(host, keys, _children.start(handle, argv, reads=True))

    # ── and after that ───────────────────────────────────────────────────────────────────

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how the connections stand; exit code 255 is ``ssh``'s own."""
        return _children.poll(handles)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """End the connections, and with them what runs on the hosts."""
        _children.end(handles)

    def is_near(self) -> bool:
        """Return whether there is a tunnel."""
        return self.tunnel

    def recall(self, name: str) -> None:
        """End the connections of a launch."""
        _children.end_launch(name)


@dataclass(slots=True, eq=False)
class _Login:
    """A connection that was begun."""

    host: str
    keys: str
    child: Child
    is_in: bool = False

    def greet(self) -> None:
        """Wait until the host has let us in, or has not; give it the keys only then."""
        while line := self.child.read_line():  # whatever its shell may say at first
            if line.decode(errors="replace").strip() == GREETING:
                self.is_in = True
                self.child.feed(self.keys)
                break
        self.child.close_output()  # the rest comes by standard error, to the log

    def check(self) -> None:
        """Raise LaunchError if it has failed, and not for want of a port."""
        if self.is_in:
            return
        _children.end_children([self.child])
        said = _log_of(self.child.handle)
        if not _TAKEN.search(said):
            code = self.child.process.returncode
            how = f" (ssh ended with exit code {code})" if code > 0 else " in time"
            raise LaunchError(f"{self.host} has not let us in{how}: {said or 'it said nothing'}")


def _greet_all(logins: Sequence[_Login], timeout: float) -> None:
    """Wait until all are in, or for want of a port are not.  Raises LaunchError."""

    def give_up() -> None:
        for login in logins:
            if not login.is_in:
                login.child.kill()  # so that nothing more is to be read

    timer = threading.Timer(timeout, give_up)
    timer.start()
    try:
        for login in logins:
            login.greet()
    finally:
        timer.cancel()
        timer.join()
    for login in logins:
        login.check()


def through(keys: str, port: int) -> tuple[str, str]:
    """Return what a tunnel from the host's ``port`` is for ``-R``, and keys that name its end.

    Raises LaunchError if the dispatcher cannot be reached by TCP.
    """
    data = json.loads(keys)
    scheme, _, address = data["url"].partition("://")
    if scheme != "tcp":
        raise LaunchError(f"a tunnel leads to a tcp:// URL, not to {data['url']}")
    data["url"] = f"tcp://127.0.0.1:{port}"
    data.pop("others", None)
    return f"127.0.0.1:{port}:{address}", json.dumps(data)


def _log_of(handle: Handle) -> str:
    return tail_of(handle.log, 2_000)


def _bare(name: str) -> str:
    """Return the name of a host as ``ssh`` wants it: an IPv6 address without its brackets."""
    return name.replace("[", "").replace("]", "")
