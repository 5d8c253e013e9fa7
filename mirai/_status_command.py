"""``mirai status``: one look at a dispatcher that stands on its own."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mirai import connect
from mirai._arguments import parser

DESCRIPTION = """\
Print what a pool looks like now: its daemons, what each runs and for how long, and how many tasks
wait, run, and have ended.

FILE is a connection file of `mirai dispatcher`, or the client.json of `mirai keys`."""


def main(argv: Sequence[str]) -> int:
    """Print the Status."""
    command = parser("status", DESCRIPTION)
    command.add_argument("file", metavar="FILE", help="where the dispatcher is, and the keys")
    chosen = command.parse_args(argv)
    with connect(chosen.file, os.path.basename(chosen.file)) as pool:
        print(pool.status())
    return 0
