"""What a daemon says when it joins."""

from __future__ import annotations

import socket

from dispatcher import PYTHON, __version__
from dispatcher.messages import VERSION, Hello
from mirai._limits import Limits


def hello(pid: int, tags: tuple[str, ...], job: str, limits: Limits, width: int = 1) -> Hello:
    """Return it.

    ``job`` is what the daemon is for the platform that has launched it, if any; ``width`` is how
    many tasks it does at once.
    """
    # One that is no job of a platform ends the task that it has, whatever its wall time is.
    left = limits.wall_time if job else None
    return Hello(
        VERSION,
        socket.gethostname(),
        pid,
        tags,
        python=PYTHON,
        package=__version__,
        job=job,
        left=left or 0.0,
        width=width,
    )
