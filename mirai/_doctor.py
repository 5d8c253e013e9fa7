"""What may keep machines from working together, found out and told, one line each."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dispatcher import __version__
from dispatcher.keys import require_curve
from dispatcher.messages import PoolReport, Role
from dispatcher.shared import AVAILABLE
from mirai import connect
from mirai._addresses import local_addresses, primary_address
from mirai._connection import Connection
from mirai._errors import MiraiError

PATIENCE = 5.0
"""Seconds that an address has to answer."""
SKEW = 2.0
"""By how many seconds clocks may differ before that is told as a trouble."""
PLATFORMS = {
    "sbatch": "Slurm",
    "qsub": "Grid Engine, PBS or Torque",
    "bsub": "LSF",
    "condor_submit": "HTCondor",
    "ssh": "ssh",
}
"""A program -> the platform that it is for."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line."""

    ok: bool
    text: str

    def __str__(self) -> str:
        return f"{'ok ' if self.ok else 'BAD'}  {self.text}"


def look_here() -> Iterator[Finding]:
    """Look at this machine, and at what is installed here."""
    yield Finding(True, f"mirai {__version__}, Python {platform.python_version()}")
    yield _curve()
    shared = "is" if AVAILABLE else "is not"
    yield Finding(True, f"large arrays: memory {shared} shared between the processes of a pool")
    primary = primary_address()
    alone = primary.startswith("127.")
    yield Finding(
        not alone,
        "this machine has no way out to others"
        if alone
        else f"others most likely reach this machine at {primary}: host_url()",
    )
    for name, address in local_addresses().items():
        if address != primary:
            yield Finding(True, f"it also has {address}: host_url({name!r})")
    found = [text for program, text in PLATFORMS.items() if shutil.which(program)]
    yield Finding(True, f"programs for launchers: {', '.join(found) or 'none'}")


def look_at(connection: Connection) -> Iterator[Finding]:
    """Look from this machine at a dispatcher, at each of its addresses."""
    reached = [url for url in connection.urls if url.startswith("ipc://") or _answers(url)]
    for url in connection.urls:
        text = "reached from here" if url in reached else "not reached from here"
        yield Finding(url in reached, f"{url} is {text}")
    if not reached:
        yield Finding(False, "no address of the dispatcher is reached: is a firewall between?")
    elif Role.CLIENT not in connection.keys:
        yield Finding(True, "the keys are for daemons only, so that no more can be found out")
    else:
        yield from _ask(connection, reached[0])


def _ask(connection: Connection, url: str) -> Iterator[Finding]:
    """Join as a client, and compare versions and clocks."""
    try:
        before = time.time()
        report = _report(connection, url)
        between = (before + time.time()) / 2
    except MiraiError as error:
        yield Finding(False, f"{type(error).__name__}: {error}")
        return
    yield Finding(True, f"keys were proved both ways, with CURVE; {report.connections} daemons")
    yield Finding(True, f"there is mirai {report.package}, Python {report.python}, too")
    skew = between - report.clock
    text = f"the clocks differ by {abs(skew):.1f} s"
    yield Finding(abs(skew) < SKEW, text if abs(skew) >= SKEW else "the clocks agree")


def _report(connection: Connection, url: str) -> PoolReport:
    """Return the dispatcher's report.  Raises MiraiError."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="mirai-doctor-") as directory:
        path = os.path.join(directory, "keys.json")
        connection.at(url).write(path)
        with connect(path, "doctor", timeout=PATIENCE) as pool:
            return pool.report(PATIENCE)


def _curve() -> Finding:
    import zmq

    try:
        require_curve()
    except OSError as error:
        return Finding(False, str(error))
    return Finding(True, f"pyzmq {zmq.__version__}, ZeroMQ {zmq.zmq_version()}, with CURVE")


def _answers(url: str) -> bool:
    """Whether somebody listens at a tcp:// URL."""
    host, _, port = url.removeprefix("tcp://").rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), PATIENCE):
            return True
    except OSError:
        return False


def remote_argv(python: str, options: Sequence[str], host: str) -> list[str]:
    """Return the command that looks at this machine from another one, with keys on its input."""
    ssh = ["ssh", "-T", *options, "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "--", host]
    return [*ssh, f"exec {python} -P -m mirai doctor -"]
