"""How a process begins that is a daemon, or a relay: what it is told, and what ends it."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from typing import Any

from dispatcher.hatch import Hatch
from dispatcher.keys import KeyPair
from dispatcher.line import Line
from dispatcher.log import Guarded, show
from dispatcher.messages import ToDaemon
from dispatcher.processes import Watermark
from mirai._channel import Carrier
from mirai._line_link import LineLink

logger = Guarded("mirai")

SWITCH_INTERVAL = 0.0002
"""How long one thread may keep the other from running, in seconds."""


def begin() -> dict[str, Any] | None:
    """Return what this process must know, which arrives on standard input as one line of JSON.

    From now on it ends with whoever has started it; None if that one has died meanwhile.
    """
    if hasattr(os, "getppid"):
        _die_with_parent(os.getppid())
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return None
    config: dict[str, Any] = json.loads(line)
    if config.get("lifeline"):
        _die_with_pipe(os.dup(0))
    _close_standard_input()
    import faulthandler

    faulthandler.enable(all_threads=False)
    sys.setswitchinterval(SWITCH_INTERVAL)
    _log_to(*config.get("log", (-1, "")))
    return config


def watermark_of(config: dict[str, Any]) -> Watermark | None:
    """Return the memory in which it says how far it is, if it has been given any."""
    if config["watermark"] < 0:
        return None
    watermark = Watermark(config["watermark"])
    os.close(config["watermark"])
    return watermark


def connect(config: dict[str, Any]) -> Carrier:
    """Return the connection to the dispatcher: over our line, if we have been given one."""
    hatch = Hatch(config["hatch"]) if config.get("hatch", -1) >= 0 else None
    if config.get("line", -1) >= 0:
        return LineLink(Line(config["line"]), config["url"], ToDaemon, hatch)
    from mirai._link import Link  # it loads ZeroMQ

    pair = KeyPair(config["public"], config["secret"])
    return Link(config["url"], pair, config["server"], ToDaemon, hatch)


def _die_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when the dispatcher dies (Linux only)."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)  # it died before we could ask


def _die_with_pipe(fd: int) -> None:
    """End this process when the other end of a pipe is closed."""

    def wait() -> None:
        os.read(fd, 1)
        os._exit(1)

    threading.Thread(target=wait, name="mirai-lifeline", daemon=True).start()


def _close_standard_input() -> None:
    """Tasks read nothing from it, and must not see the pipe that brought the keys."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _log_to(fd: int, level: str) -> None:
    """Log to this descriptor, or not at all, whatever tasks set up for themselves."""
    logger.logger.disabled = fd < 0
    if fd >= 0:
        os.set_inheritable(fd, False)
        show("mirai", "daemon", level, fd)
