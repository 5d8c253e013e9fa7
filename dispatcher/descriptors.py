"""How many descriptors a process may have: each peer, and each daemon, takes some.

Shells give few (1,024, say), for the sake of old programs, and let whoever needs more take them.
"""

from __future__ import annotations

import contextlib

try:
    import resource
except ImportError:  # Windows has no such limit
    resource = None  # type: ignore[assignment]

UNLIMITED = 10_240
"""What is taken where there is no highest number: as much as any system gives."""

_given: tuple[int, int] | None = None
"""The limits that this process was started with, once they are raised."""


def raise_limit() -> None:
    """Let this process have as many as it may."""
    global _given
    if resource is None:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = UNLIMITED if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= most:
        return
    with contextlib.suppress(OSError, ValueError):  # the system knows better
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        _given = _given or (soft, hard)


def give_back(pid: int) -> None:
    """Let a process that we have started have as many as were given to us: others count on it."""
    if _given is not None and hasattr(resource, "prlimit"):
        with contextlib.suppress(OSError):  # it is dead already
            resource.prlimit(pid, resource.RLIMIT_NOFILE, _given)
