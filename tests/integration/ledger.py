"""Tasks that write down when they begin."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from conftest import wait_until


class Ledger:
    """A file in which tasks write that they begin, and that they are interrupted."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "ledger"
        self.path.touch()

    def task(self, name: str, *, waits: bool = False, size: int = 0) -> Callable[..., bytes]:
        """Return a task that returns so many bytes, or waits until it is interrupted."""

        def work(_: bytes = b"", path: str = str(self.path)) -> bytes:
            with open(path, "a") as file:
                file.write(name + "\n")
            try:
                while waits:
                    time.sleep(0.001)
            except KeyboardInterrupt:
                with open(path, "a") as file:
                    file.write(f"{name} interrupted\n")
                raise
            return bytes(size)

        # How long it takes is not known then, so that nothing waits behind it on its daemon.
        work.__qualname__ = name
        return work

    def runs(self, name: str) -> int:
        """Return how often a task has begun."""
        return self.path.read_text().splitlines().count(name)

    def wait_for(self, name: str) -> None:
        """Wait until a task has begun."""
        wait_until(lambda: self.runs(name))
