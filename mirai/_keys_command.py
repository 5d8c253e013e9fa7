"""``mirai keys``: keys that outlast a dispatcher."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from dispatcher.messages import Role
from mirai._arguments import checked, parser
from mirai._connection import Connection
from mirai._pool_options import check_url

DESCRIPTION = """\
Draw keys for a dispatcher that will be restarted, and write three files that only you can read:

  server.json   for the dispatcher:  mirai dispatcher --keys server.json
  client.json   for clients:         connect("client.json") in Python, mirai status client.json
  daemon.json   for daemons:         mirai daemon daemon.json -n 4

The last two can be copied (scp) to other machines once, and stay valid when the dispatcher is
started again with its own. Whoever has client.json can run code on the daemons. Whoever has
daemon.json sees what the clients send, and can run code in them, since results are pickles. Treat
both as you treat a private ssh key.

Tasks of daemons that have joined with daemon.json cannot submit tasks themselves."""


def main(argv: Sequence[str]) -> int:
    """Write the files; refuse to overwrite any of them without --force."""
    command = parser("keys", DESCRIPTION)
    command.add_argument(
        "url",
        type=checked(_place),
        help="where clients and daemons will reach the dispatcher, as in tcp://head.example:5555",
    )
    command.add_argument(
        "--directory", type=Path, default=Path(), help="where to write the files (default: here)"
    )
    command.add_argument(
        "--force", action="store_true", help="overwrite files; the keys in them are lost"
    )
    chosen = command.parse_args(argv)
    names = ("server.json", "client.json", "daemon.json")
    paths = server, client, daemon = [chosen.directory / name for name in names]
    there = [str(path) for path in paths if os.path.lexists(path)]
    if there and not chosen.force:
        print(f"mirai keys: {', '.join(there)}: there already; --force overwrites", file=sys.stderr)
        return 1
    keys = Connection.new(chosen.url)
    keys.write(server)
    keys.only(Role.CLIENT).write(client)
    keys.only(Role.DAEMON).write(daemon)
    print(f"written: {', '.join(map(str, paths))}; next: mirai dispatcher --keys {server}")
    return 0


def _place(url: str) -> str:
    if not re.search(r":[1-9]\d*$", check_url(url)):
        raise ValueError(f"url must name the port, not {url!r}")
    return url
