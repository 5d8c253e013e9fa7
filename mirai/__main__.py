"""The command line: ``python -m mirai``, or ``mirai`` once it is installed.

A command is a module with ``main(arguments) -> exit status``, imported only when it is used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from dispatcher import __version__
from mirai import MiraiError
from mirai._log import set_up

COMMANDS = {
    "dispatcher": ("mirai._dispatcher_command", "run a dispatcher that many can join"),
    "daemon": ("mirai._daemon_command", "join daemons of this machine to a dispatcher"),
    "board": ("mirai._board_command", "work on a shared table of tasks, or look at one"),
    "status": ("mirai._status_command", "print what a pool looks like"),
    "jobs": ("mirai._jobs_command", "print the durable jobs of a dispatcher"),
    "top": ("mirai._top_command", "watch a pool: daemons, what they run, queue, rates"),
    "queue": ("mirai._queue_command", "work on a queue's file, and look at it"),
    "keys": ("mirai._keys_command", "draw keys that outlast a dispatcher"),
    "doctor": ("mirai._doctor_command", "look for what keeps machines from working together"),
    "journal": ("mirai._journal_command", "look into what a dispatcher keeps on disk, and mend it"),
    "demo": ("mirai._demo", "count the words of Python's standard library on local daemons"),
}
"""Command -> its module, and what it does."""

INTERRUPTED = 130
"""The exit status after Ctrl-C, as shells have it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (by default, this process's) names; return the status."""
    chosen = _parser().parse_args(argv)
    set_up()
    module, _ = COMMANDS[chosen.command]
    try:
        status: int = import_module(module).main(chosen.arguments)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except MiraiError as error:
        print(f"mirai {chosen.command}: {error}", file=sys.stderr)
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, COMMANDS))
    commands = (f"  {name:<{width}}  {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="mirai",
        description="Awaitable futures, evaluated by persistent processes over ZeroMQ.",
        epilog="\n".join(["commands:", *commands]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mirai {__version__}")
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        help="what the command takes; mirai COMMAND --help explains",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
