"""Three hosts on one machine: network namespaces, and a switch between them in one of its own.

Nothing gets out of them.  It takes Linux, iproute2 and root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import subprocess
from collections.abc import Iterator

NAMES = ("a", "b", "c")
CLONE_NEWNET = 0x40000000


class Unavailable(Exception):
    """There can be no such hosts here; it says why."""


class Hosts:
    """Hosts a, b and c, from ``up`` to ``down``."""

    def __init__(self) -> None:
        self._prefix = f"mirai-{os.getpid()}"
        self._switch = f"{self._prefix}-switch"
        self.address = {name: f"10.77.0.{number}" for number, name in enumerate(NAMES, 1)}

    def up(self) -> None:
        """Connect all of them.  Raises Unavailable."""
        if not hasattr(os, "geteuid") or os.geteuid() != 0:
            raise Unavailable("only root may have network namespaces")
        if shutil.which("ip") is None:
            raise Unavailable("there is no ip (of iproute2)")
        try:
            self._up()
        except subprocess.CalledProcessError as error:
            self.down()
            raise Unavailable(f"{' '.join(error.cmd)}: {error.stderr.strip()}") from None

    def _up(self) -> None:
        _ip("netns", "add", self._switch)
        self._on_switch("link", "add", "bridge", "type", "bridge")
        self._on_switch("link", "set", "bridge", "up")
        for name, address in self.address.items():
            host, port = self._host(name), _port(name)
            _ip("netns", "add", host)
            self._on_switch("link", "add", port, "type", "veth", "peer", "eth0", "netns", host)
            self._on_switch("link", "set", port, "master", "bridge", "up")
            _ip("-n", host, "address", "add", f"{address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", host, "link", "set", device, "up")

    def down(self) -> None:
        """Remove those that are there."""
        for name in (*map(self._host, NAMES), self._switch):
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)

    def cut(self, name: str) -> None:
        """Let whatever this host sends, and whatever is sent to it, vanish; nobody is told."""
        self._on_switch("link", "set", _port(name), "nomaster")

    def heal(self, name: str) -> None:
        """Undo ``cut``."""
        self._on_switch("link", "set", _port(name), "master", "bridge")

    def run_on(self, name: str) -> list[str]:
        """Return how a command line begins that runs the rest of it on this host."""
        return ["ip", "netns", "exec", self._host(name)]

    @contextlib.contextmanager
    def on(self, name: str) -> Iterator[None]:
        """Have what is connected meanwhile in this thread, and by threads it starts, be there."""
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self._host(name)}") as it:
            _enter(it.fileno())
            try:
                yield
            finally:
                _enter(here.fileno())

    def _host(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _on_switch(self, *arguments: str) -> None:
        _ip("-n", self._switch, *arguments)


def _port(name: str) -> str:
    """Return the switch's device that leads to a host."""
    return f"port-{name}"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
