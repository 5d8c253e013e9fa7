"""``mirai doctor``: whether this machine, and another one, can work together."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence

from dispatcher.messages import Role
from mirai import daemons, host_url
from mirai._arguments import parser
from mirai._connection import Connection
from mirai._doctor import Finding, look_at, look_here, remote_argv
from mirai._launched import read_source

DESCRIPTION = """\
Look for what may keep machines from working together: versions, CURVE, addresses, clocks.

  mirai doctor                 looks at this machine
  mirai doctor FILE            looks from here at the dispatcher of a connection file; `-` and
                               env:NAME as for `mirai daemon`
  mirai doctor --ssh HOST      has HOST look at this machine, at each of its addresses, by ssh"""

EPILOG = "exit status: 0 if all is well, 1 if something is not."


def main(argv: Sequence[str]) -> int:
    """Look, and tell."""
    command = parser("doctor", DESCRIPTION, EPILOG)
    command.add_argument("file", metavar="FILE", nargs="?", help="where a dispatcher is, and keys")
    command.add_argument("--ssh", metavar="HOST", help="another machine, to be logged in to")
    command.add_argument(
        "--ssh-option", metavar="ARG", action="append", default=[], help="one more for ssh itself"
    )
    command.add_argument(
        "--python", default="python3", help="how Python is called there (default: python3)"
    )
    chosen = command.parse_args(argv)
    bad = _tell(look_here())
    if chosen.file is not None:
        bad += _tell(look_at(read_source(chosen.file)))
    if chosen.ssh is not None:
        bad += _look_from(chosen.ssh, chosen.ssh_option, chosen.python)
    return min(bad, 1)


def _tell(findings: Iterator[Finding]) -> int:
    """Print them as they are found; return how many are bad."""
    bad = 0
    for finding in findings:
        bad += not finding.ok
        print(finding, flush=True)
    return bad


def _look_from(host: str, options: Sequence[str], python: str) -> int:
    """Have another machine look at a pool that is here for that; return 1 if all is not well."""
    with daemons(0, url=host_url("*"), profile="doctor") as pool:
        connection: Connection = pool.connection().only(Role.CLIENT)
        print(f"{host}, by ssh:", flush=True)
        argv = remote_argv(python, options, host)
        return int(subprocess.run(argv, input=connection.text().encode()).returncode != 0)
