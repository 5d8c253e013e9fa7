"""The command that a launched daemon is: pure, without a secret in it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from mirai._launched import VARIABLE

MARGIN = 60.0
"""How long before the end of its time a daemon takes no more tasks, in seconds, at most: a tenth
of its time where that is less."""
ENVIRONMENT = f"{VARIABLE}MIRAI_KEYS"
"""Where the keys come by an environment variable, as from a platform's store of secrets."""


def daemon_argv(source: str, python: str | None = None) -> list[str]:
    """Return the command of one daemon, whose keys are at ``source``."""
    return [python or sys.executable, "-P", "-m", "mirai", "daemon", source]


def daemon_command(source: str, python: str | None = None) -> str:
    """Return the same as a line for a shell."""
    return shlex.join(daemon_argv(source, python))


def wall_time(whole: int) -> list[str]:
    """Return what tells a daemon how long it has, in a job of so many seconds.

    It takes no more tasks shortly before the job's end.
    """
    return ["--wall-time", f"{whole - min(MARGIN, whole / 10):.0f}s"]


def in_words(argv: Sequence[str]) -> str:
    """Return a command as one would type it, for errors."""
    return shlex.join(argv)
