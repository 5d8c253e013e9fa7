"""Asking a platform's own programs: what they refuse becomes an error with their own words."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from mirai._errors import LaunchError
from mirai.launchers._command import in_words

TIMEOUT = 30.0
"""Seconds that a program has to answer a question."""
SUBMISSION = 120.0
"""Seconds that it has to accept a job."""
UNSET = ("SBATCH_ARRAY_INX", "SBATCH_JOB_NAME", "SBATCH_WAIT", "SCANCEL_", "SQUEUE_")
"""What the names of variables begin with that would change what Slurm's programs are asked."""
MOST = 4_000
"""How much of what it says is told, in characters."""
AT_ONCE = 500
"""How many jobs a command line names at most."""


def ask(
    argv: Sequence[str],
    stdin: str = "",
    *,
    timeout: float = TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> str:
    """Run a program; return what it prints.  ``env`` is what its environment has besides ours.

    Raises LaunchError with what it says where it cannot be run, fails or does not answer.
    """
    done = run(argv, stdin, timeout=timeout, env=env)
    if done.returncode:
        raise LaunchError(f"{_said(argv, done)}")
    return done.stdout


def run(
    argv: Sequence[str],
    stdin: str = "",
    *,
    timeout: float = TIMEOUT,
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program, whatever its exit code.  Raises LaunchError where that cannot be done."""
    try:
        return subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
            env=_environment() | dict(env or {}),
            start_new_session=True,  # Ctrl-C is for us
        )
    except subprocess.TimeoutExpired:
        raise LaunchError(f"`{in_words(argv)}` has not answered within {timeout:g} s") from None
    except OSError as error:
        raise LaunchError(f"`{argv[0]}` cannot be run: {error.strerror}") from None


def submit(argv: Sequence[str], script: str, id: re.Pattern[str]) -> str:
    """Submit a job script by a program that reads it; return the job's id.

    ``id`` is searched in what the program prints; its first group is the id.  Raises LaunchError.
    """
    done = run(argv, script, timeout=SUBMISSION)
    if done.returncode:
        raise LaunchError(_said(argv, done))
    match = id.search(done.stdout)
    if match is None:
        raise LaunchError(f"{_said(argv, done)}: no job id is in there")
    return match[1]


def portions(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield ids in as few parts as command lines of bearable length need."""
    for first in range(0, len(ids), AT_ONCE):
        yield ids[first : first + AT_ONCE]


def end(argv: Sequence[str], ids: Sequence[str], fine: str = r"(?!)") -> None:
    """Have a program end jobs, by as few calls as command lines of bearable length need.

    ``fine`` is a regular expression for lines that it may say although it fails, such as of jobs
    that have ended already.  Raises LaunchError, after all jobs were named to it.
    """
    error = None
    for some in portions(ids):
        call = [*argv, *some]
        done = run(call)
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        if done.returncode and not (lines and all(re.search(fine, line) for line in lines)):
            error = LaunchError(_said(call, done))
    if error is not None:
        raise error


def _environment() -> dict[str, str]:
    return {name: each for name, each in os.environ.items() if not name.startswith(UNSET)}


def _said(argv: Sequence[str], done: subprocess.CompletedProcess[str]) -> str:
    text = "\n".join(part for part in (done.stderr.strip(), done.stdout.strip()) if part)
    how = f"exit code {done.returncode}" if done.returncode >= 0 else f"signal {-done.returncode}"
    return f"`{in_words(argv)}` ended with {how}, and said: {text[-MOST:] or 'nothing'}"
