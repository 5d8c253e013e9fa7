"""``mirai top``: a live view of a dispatcher that stands on its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mirai import connect
from mirai._arguments import duration, parser
from mirai._errors import MiraiError

DESCRIPTION = """\
Show a pool, and go on showing it: its daemons, what each runs and for how long, the queue, and
tasks a second. q or Ctrl-C leaves.

FILE is a connection file of `mirai dispatcher`, or the client.json of `mirai keys`.
Needs rich: pip install 'mirai-zmq[cli]'."""


def main(argv: Sequence[str]) -> int:
    """Show the pool until the user leaves."""
    command = parser("top", DESCRIPTION)
    command.add_argument("file", metavar="FILE", help="where the dispatcher is, and the keys")
    command.add_argument(
        "--every", type=duration, default=1.0, metavar="TIME", help="how often to look (1s)"
    )
    command.add_argument(
        "--once", action="store_true", help="print one picture, with the rates so far, and leave"
    )
    chosen = command.parse_args(argv)
    try:
        from mirai import _top
    except ImportError:
        raise MiraiError("the view is drawn by rich: pip install 'mirai-zmq[cli]'") from None
    with connect(chosen.file, os.path.basename(chosen.file)) as pool:
        if chosen.once or not sys.stdout.isatty():
            _top.show_once(pool)
        else:
            _top.show(pool, every=chosen.every)
    return 0
