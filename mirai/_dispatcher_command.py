"""``mirai dispatcher``: a dispatcher that stands on its own."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import msgspec
import zmq

from dispatcher import descriptors
from dispatcher.journal import JournalError
from dispatcher.keys import KeyPair
from dispatcher.messages import Role
from dispatcher.server import Config, Server
from mirai._addresses import urls_of
from mirai._arguments import checked, count, parser
from mirai._connection import Connection, Stamp, remove
from mirai._errors import MiraiError
from mirai._limits import seconds
from mirai._pool import PoolKeys, dispatcher_config
from mirai._pool_options import PoolOptions, check_url
from mirai._profiles import DEFAULT

LOCAL = "tcp://127.0.0.1:0"
POOL_FILE = "pool.json"
INTERRUPTED = 130

DESCRIPTION = """\
Run a dispatcher that many clients and many daemons can join, from this machine and from others.
It runs until SIGTERM or Ctrl-C, in the foreground.

Once it listens it writes a connection file, with its address and fresh keys; whoever has that can
join, so only you can read it. Copy it (scp) to where daemons or clients shall run:

  mirai daemon pool.json -n 4           on any machine that can reach this one
  mirai.connect("pool.json")            in Python, in any number of programs at once
  mirai status pool.json                or top

SIGTERM lets it drain: it takes no new tasks, finishes those that it has, tells everyone to stop,
removes its files, and ends with status 0. It does not end while a task waits for a daemon that is
not there (none is, or none with its tags): one may come yet. A second SIGTERM, or Ctrl-C, ends it
at once. With a journal it finishes what daemons have in hand; what waits stays in the journal."""

EPILOG = """\
To start it again with the same keys, so that files given out before stay valid, and daemons of
other machines find it again, draw lasting ones with `mirai keys`, and use --keys."""


@dataclass(slots=True)
class _Files:
    """The connection files that were written, to be removed."""

    written: list[tuple[str, Stamp]] = field(default_factory=list)

    def write(self, path: str | None, connection: Connection) -> None:
        if path is not None:
            self.written.append((os.path.abspath(path), connection.write(path)))

    def remove(self) -> None:
        while self.written:
            remove(*self.written.pop())


def main(argv: Sequence[str]) -> int:
    """Serve until told to stop."""
    chosen = _parse(argv)
    keys = Connection.new("") if chosen.keys is None else _read_keys(chosen.keys)
    url = chosen.url or (_everywhere(keys.url) if chosen.keys else LOCAL)
    if chosen.connection_file is None and chosen.keys is None:
        chosen.connection_file = POOL_FILE
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # until it serves: nothing to drain
    config = msgspec.convert(_config(url, chosen, keys), Config)
    descriptors.raise_limit()
    try:
        server = Server(config, _on_drain)
    except JournalError as error:
        raise MiraiError(str(error)) from None
    except (OSError, zmq.ZMQError) as error:
        raise MiraiError(f"cannot listen at {url}: {error}") from None
    files = _Files()
    try:
        host = chosen.advertise or (_host(keys.url) if chosen.keys else None)
        url, *others = urls_of(server.url, host)
        there = replace(keys.at(url), others=tuple(others))
        files.write(chosen.connection_file, there.only(*Role))
        files.write(chosen.client_file, there.only(Role.CLIENT))
        files.write(chosen.daemon_file, there.only(Role.DAEMON))
        server.catch_signals()
        server.start_daemons()
        print(_next(there.url, chosen), flush=True)
        server.run()
    finally:
        files.remove()
    if server.failure:
        raise MiraiError(server.failure)
    return 0 if server.drained else INTERRUPTED


def _on_drain(left: int) -> None:
    text = f"no more tasks are taken, {left} are left; a second signal ends it at once"
    print(f"mirai dispatcher: {text}", file=sys.stderr, flush=True)


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    command = parser("dispatcher", DESCRIPTION, EPILOG)
    command.add_argument(
        "--url",
        type=checked(check_url),
        help="where to listen: tcp://0.0.0.0:5555 at all addresses of this machine, port 0 at any"
        f" free port (default: {LOCAL}, this machine only; with --keys, the port in there)",
    )
    command.add_argument("-n", type=count, default=0, help="how many local daemons (default: 0)")
    command.add_argument(
        "--connection-file",
        metavar="FILE",
        help=f"for clients and daemons (default: {POOL_FILE}; with --keys, none)",
    )
    command.add_argument("--client-file", metavar="FILE", help="the same for clients only")
    command.add_argument("--daemon-file", metavar="FILE", help="the same for daemons only")
    command.add_argument(
        "--keys", metavar="FILE", help="lasting keys: the server.json of `mirai keys`"
    )
    command.add_argument(
        "--advertise",
        metavar="HOST",
        help="how others call this machine (default: its primary address; with --keys, as there)",
    )
    command.add_argument(
        "--journal",
        metavar="FILE",
        help="keep tasks and results in this file, so that they outlast clients, daemons and this"
        " dispatcher; one that is there is gone on with",
    )
    command.add_argument(
        "--time-to-live",
        metavar="TIME",
        type=checked(lambda text: seconds("--time-to-live", text)),
        help="how long the journal keeps results that nobody has fetched, as in 30d (default: for"
        " ever)",
    )
    chosen = command.parse_args(argv)
    if chosen.time_to_live is not None and chosen.journal is None:
        command.error("--time-to-live is for what a journal keeps: name one with --journal")
    return chosen


def _read_keys(path: str) -> Connection:
    keys = Connection.read(path)
    if not keys.server_secret:
        raise MiraiError(f"{path} is not for a dispatcher: it has no key of one")
    for role in Role:
        keys.pair(role)
    return keys


def _config(url: str, chosen: argparse.Namespace, keys: Connection) -> dict[str, object]:
    pairs = {role.value: keys.pair(role) for role in Role}
    server = KeyPair(keys.server, keys.server_secret)
    journal = None if chosen.journal is None else os.path.abspath(chosen.journal)
    ends = chosen.time_to_live
    options = PoolOptions(chosen.n, url, journal=journal, time_to_live=ends)
    keys_of_pool = PoolKeys(server, pairs["client"], pairs)
    config = dispatcher_config(options, keys_of_pool, (), DEFAULT)
    return config | {"host_pid": 0, "standing": True}


def _everywhere(url: str) -> str:
    """Return where to listen to be reached at ``url``."""
    if not url.startswith("tcp://"):
        return url
    return f"tcp://0.0.0.0:{url.rpartition(':')[2]}"


def _host(url: str) -> str | None:
    return url.removeprefix("tcp://").rpartition(":")[0] if url.startswith("tcp://") else None


def _next(url: str, chosen: argparse.Namespace) -> str:
    """Say in one line what can be done now."""
    daemon_file = chosen.daemon_file or chosen.connection_file or "daemon.json"
    client_file = chosen.client_file or chosen.connection_file or "client.json"
    return (
        f"listening at {url} with {chosen.n} local daemons; next: `mirai daemon {daemon_file}"
        f' -n 4` for more of them, `connect("{client_file}")` in Python'
    )
