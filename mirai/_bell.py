"""A bell: how other threads wake one that waits for descriptors."""

from __future__ import annotations

import contextlib
import socket


class Bell:
    """Rung by any thread, and heard by the one that polls its descriptor."""

    def __init__(self) -> None:
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)

    def fileno(self) -> int:
        """Return what is readable once it was rung, until it is silenced."""
        return self._bell.fileno()

    def ring(self) -> None:
        """Wake who waits.  The only method for other threads than that one."""
        with contextlib.suppress(OSError):  # full: it will wake anyway; closed: nobody is there
            self._rope.send(b"\0")

    def silence(self) -> None:
        """Be ready to be rung again."""
        with contextlib.suppress(BlockingIOError):
            self._bell.recv(4_096)

    def close(self) -> None:
        """Give back what it has; whoever rings it now is not heard."""
        self._bell.close()
        self._rope.close()
