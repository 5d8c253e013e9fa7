"""The command that a launched daemon is: pure, without a secret in it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

STDIN = "-"
"""Where the keys come by standard input, whose end is also the daemon's."""
ENVIRONMENT = "env:MIRAI_KEYS"
"""Where the keys come by an environment variable, as from a platform's store of secrets."""


def daemon_argv(source: str, python: str | None = None) -> list[str]:
    """Return the command of one daemon, whose keys are at ``source``."""
    return [python or sys.executable, "-P", "-m", "mirai", "daemon", source]


def daemon_command(source: str, python: str | None = None) -> str:
    """Return the same as a line for a shell."""
    return shlex.join(daemon_argv(source, python))


def in_words(argv: Sequence[str]) -> str:
    """Return a command as one would type it, for errors."""
    return shlex.join(argv)
