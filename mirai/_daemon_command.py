"""``mirai daemon``: daemons of this machine for a dispatcher anywhere."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

from dispatcher import descriptors
from dispatcher.messages import Role
from mirai._arguments import behind, duration, parser, some, tags
from mirai._connection import Connection
from mirai._errors import MiraiError
from mirai._launched import STDIN, launched, read_source
from mirai._limits import Limits
from mirai._supervisor import Supervisor

DESCRIPTION = """\
Keep daemons joined to a dispatcher, which may be on another machine: they connect to it, and
nothing needs to connect to them. A daemon that crashes is replaced. When the connection is lost,
they come back, at longer and longer intervals, until the dispatcher is there again.

FILE is a connection file of `mirai dispatcher`, or the daemon.json of `mirai keys`; or `-` for what
such a file says, in one line on standard input, whose end is then also the daemons'; or env:NAME
for a variable of the environment that says it. A file must be
yours and readable by you only (chmod 600). With a file for daemons only, such as daemon.json, the
tasks that these daemons run cannot submit tasks themselves; with one for clients too, they can.

It ends when the dispatcher shuts down, when it refuses the keys, or when every daemon has reached
a limit. SIGTERM and Ctrl-C let running tasks finish and hand back the others; a second one ends
the daemons at once."""

EPILOG = """\
exit status: 0 when it was told to leave or has reached its limits, 1 when daemons do not start,
3 when the dispatcher refuses them, 128 + the signal's number after a second signal.

times are in seconds, or like 90s, 5m, 2h, 1d"""


def main(argv: Sequence[str]) -> int:
    """Keep daemons until they need not come back."""
    command = parser("daemon", DESCRIPTION, EPILOG)
    command.add_argument("file", metavar="FILE", help="where the dispatcher is, and the keys")
    command.add_argument("-n", type=some, default=1, help="how many daemons (default: 1)")
    command.add_argument(
        "--each",
        type=behind,
        metavar="K",
        help="each is a relay: one daemon to the dispatcher, that keeps K and does K tasks at once",
    )
    command.add_argument(
        "--tags", type=tags, default=(), metavar="A,B", help="for tasks that ask for these"
    )
    command.add_argument(
        "--idle-time", type=duration, metavar="TIME", help="leave after so long without a task"
    )
    command.add_argument(
        "--wall-time", type=duration, metavar="TIME", help="leave after so long, in all"
    )
    command.add_argument(
        "--max-tasks", type=some, metavar="N", help="each daemon leaves after so many tasks"
    )
    chosen = command.parse_args(argv)
    found = read_source(chosen.file)
    found.pair(Role.DAEMON)  # or say now that there is none
    told = launched(found)

    def find() -> Connection:
        """Look again: a dispatcher that was started anew has written new keys."""
        nonlocal found
        if told is not None or not os.path.exists(chosen.file):
            return found
        try:
            there = Connection.read(chosen.file)
            there.pair(Role.DAEMON)
            found = there
        except MiraiError:
            pass  # it was removed meanwhile, say; the keys may be good nevertheless
        return found

    def say(text: str) -> None:
        with contextlib.suppress(OSError):  # whoever was to read it is gone
            print(f"mirai daemon: {text}", file=sys.stderr, flush=True)

    descriptors.raise_limit()
    limits = Limits(chosen.idle_time, chosen.wall_time, chosen.max_tasks)
    if told is not None:
        limits = limits.within(Limits(**told.options.get("limits", {})))
    each = chosen.each or (told.each if told else 1)
    who = f"{chosen.n}" if each == 1 else f"{chosen.n} relays of {each} daemons"
    say(f"{who} for {found.url}; Ctrl-C lets them finish and leave")
    return Supervisor(
        find,
        chosen.n,
        say=say,
        limits=limits,
        tags=chosen.tags or (told.tags if told else ()),
        launched=told,
        lifeline=chosen.file == STDIN,
        each=each,
    ).run()
