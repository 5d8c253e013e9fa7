"""Jobs of a pretended scheduler: real processes of this machine, and files that tell of them.

The state lies in the directory that FAKE_SCHEDULER names; each job is a directory ``ID.TASK`` of
it.  The programs beside this file behave as those of the schedulers do, as far as mirai's
launchers use them, for schedulers that cannot be had here.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

STATE = Path(os.environ["FAKE_SCHEDULER"])
GRACE = 1.0
"""Seconds between SIGTERM and SIGKILL."""


class Job:
    """One job, or one of an array; ``task`` is 0 for one of none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.id, self.task = map(int, path.name.split("."))

    @property
    def options(self) -> dict[str, Any]:
        """What it was submitted with."""
        found: dict[str, Any] = json.loads((self.path / "options").read_text())
        return found

    def has(self, name: str) -> bool:
        """Whether a mark is set, such as ``deleted`` or ``limit``."""
        return (self.path / name).exists()

    def mark(self, name: str, text: str = "") -> None:
        """Set a mark, of which nobody sees a half."""
        new = self.path / f"{name}.new"
        new.write_text(text)
        new.rename(self.path / name)

    @property
    def exit(self) -> int | None:
        """Its exit code, or minus the signal; None before its end, or if it never ran."""
        return int((self.path / "exit").read_text()) if self.has("exit") else None

    @property
    def phase(self) -> str:
        """Return ``waits``, ``runs`` or ``over``."""
        if self.has("exit") or (self.has("deleted") and not self.has("runs")):
            return "over"
        return "runs" if self.has("runs") else "waits"

    def run(self) -> None:
        """Run it to its end."""
        if self.has("deleted"):
            return
        options = self.options
        with open(options["log"] or os.devnull, "a") as log:
            process = subprocess.Popen(
                ["/bin/sh", self.path / "script"],
                env=os.environ | options["environment"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.mark("runs")
        until = time.monotonic() + (options["seconds"] or float("inf"))
        signals, again = [signal.SIGTERM, signal.SIGKILL], 0.0
        while process.poll() is None:
            if time.monotonic() > until and not self.has("deleted"):
                self.mark("limit")
            if (self.has("limit") or self.has("deleted")) and time.monotonic() >= again:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signals[0])
                signals, again = signals[-1:], time.monotonic() + GRACE
            time.sleep(0.02)
        self.mark("exit", str(process.returncode))


def submit(
    script: str,
    tasks: Sequence[int],
    name: str,
    environment: Callable[[int, int], dict[str, str]],
    *,
    log: str = "",
    seconds: float = 0,
    held: bool = False,
) -> int:
    """Submit a job for each of ``tasks``; return their id.

    ``environment`` returns what each finds there, by its id and its task.
    """
    id = 1
    while True:
        try:
            (STATE / f"{id}").mkdir(parents=True)  # nobody else has this number
            break
        except FileExistsError:
            id += 1
    for task in tasks:
        new, path = STATE / f"new-{id}-{task}", STATE / f"{id}.{task}"
        new.mkdir()
        (new / "script").write_text(script)
        options = {
            "name": name,
            "environment": environment(id, task),
            "log": log.replace("%J", f"{id}").replace("%I", f"{task}").replace("%P", f"{task - 1}"),
            "seconds": seconds,
        }
        (new / "options").write_text(json.dumps(options))
        new.rename(path)
        if not held:
            subprocess.Popen(
                [sys.executable, __file__, path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
    return id


def jobs() -> list[Job]:
    """Return all jobs."""
    paths = [path for path in STATE.glob("*.*") if not path.name.startswith("new")]
    return sorted(map(Job, paths), key=lambda job: (job.id, job.task))


def directives(script: str, prefix: str) -> list[tuple[str, str]]:
    """Return the options in a script: pairs of a name and its value."""
    return list(_directives(script, prefix))


def _directives(script: str, prefix: str) -> Iterator[tuple[str, str]]:
    for line in script.splitlines():
        if line.startswith(prefix):
            words = shlex.split(line[len(prefix) :])
            yield words[0], " ".join(words[1:])


def spans(text: str) -> list[int]:
    """Return the numbers in ``"1-3"``."""
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))


def clock(text: str) -> float:
    """Return ``"1:02:03"`` in seconds."""
    total = 0
    for part in text.split(":"):
        total = total * 60 + int(part)
    return float(total)


def fail(text: str, status: int) -> None:
    """Say what is wrong, and end."""
    print(text, file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    Job(Path(sys.argv[1])).run()
