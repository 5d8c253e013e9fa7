"""What a dispatcher is told about the local daemons that it keeps."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Collection
from dataclasses import asdict
from typing import Any

from dispatcher.messages import Blob, Slot
from dispatcher.processes import open_output
from mirai._errors import MiraiError
from mirai._launched import Launched
from mirai._log import level
from mirai._pool_options import PoolOptions, check_env, check_tags
from mirai._process import boot_argv, search_path
from mirai._serial import Serial
from mirai._serialize import pack, unpack

_ELSEWHERE = """\
try:
    from mirai._daemon import main
except ImportError as error:
    import sys
    sys.exit(f"mirai cannot be imported by {sys.executable}, where it must be installed: {error}")
main()
"""
"""What another interpreter runs, which has a search path of its own."""


class Slots:
    """What is given to each of the daemons by its number, so far as they have been wanted."""

    def __init__(self, options: PoolOptions) -> None:
        self._env = options.env
        self._tags = options.tags
        self._slots: list[Slot] = []

    def up_to(self, count: int) -> tuple[Slot, ...]:
        """Return at least so many; none at all where no daemon is given anything.

        Raises what the user's functions raise, and TypeError or ValueError for what they return.
        """
        if self._env is None and not self._tags:
            return ()
        for i in range(len(self._slots), count):
            env = self._env(i) if callable(self._env) else self._env
            tags = self._tags(i) if callable(self._tags) else self._tags
            self._slots.append(Slot(check_env(env or {}), check_tags(tags)))
        return tuple(self._slots)

    def carry(self, tags: Collection[str]) -> bool:
        """Whether one of the daemons wanted so far carries all these tags, or any would."""
        if not callable(self._tags) and set(self._tags).issuperset(tags):
            return True
        return any(set(slot.tags).issuperset(tags) for slot in self._slots)


def plan_of(options: PoolOptions, slots: tuple[Slot, ...], profile: str) -> dict[str, Any]:
    """Return a ``dispatcher.processes.Plan``, in what JSON knows.

    Raises SerializationError, OSError if the file for the output cannot be opened, and MiraiError
    where this interpreter does not know its own path.
    """
    if options.python is None:
        argv, lead = boot_argv("mirai._daemon"), search_path()
    else:
        argv, lead = [options.python, "-P", "-c", _ELSEWHERE], ""
    path = None if options.output in ("inherit", "stream") else options.output
    if path is not None:
        open_output(path).close()
    return {
        "count": options.count,
        "argv": argv,
        "lead": lead,
        "options": _daemon_options(options, profile),
        "slots": [(slot.env, slot.tags) for slot in slots],
        "cwd": options.cwd,
        "output": path,
        "streams": _own_streams() if options.output == "inherit" else None,
        "log": level(),
        "lines": options.has_lines,
    }


def launched_of(options: PoolOptions, profile: str) -> Launched:
    """Return what daemons are told that a launcher starts.  Raises SerializationError."""
    assert options.launcher is not None and not callable(options.env)
    shares = options.launcher.shares_files
    return Launched(
        options=_daemon_options(options, profile),
        tags=check_tags(options.tags),
        path=tuple(search_path().rstrip("\n").split("\0")) if shares else (),
        cwd=options.cwd or (os.getcwd() if shares else None),
        env=check_env(options.env or {}),
        log=level(),
        each=options.each,
        grace=options.grace,
    )


def _daemon_options(options: PoolOptions, profile: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "limits": asdict(options.limits),
        "profile": profile,
        "cleanup": options.cleanup,
    }
    if options.output == "stream":
        found["stream"] = True
    if options.serial:
        found["serial"] = Serial(options.serial).encode()
    if options.init is not None:
        payload, blobs = pack(options.init, Serial(options.serial) or None)
        parts = [payload, *(blob.data for blob in blobs)]
        found["init"] = [base64.b64encode(part).decode() for part in parts]
    return found


def read_init(parts: list[str]) -> Callable[[], object]:
    """Return the function ``init``, on a daemon.  Raises whatever its unpickling raises."""
    payload, *blobs = map(base64.b64decode, parts)
    fn: Callable[[], object] = unpack(payload, tuple(map(Blob, blobs)))
    return fn


def _own_streams() -> tuple[int, int]:
    """Return the descriptors to which this process prints, whatever ``sys.stdout`` is now."""
    if os.name != "posix":
        raise MiraiError('output="inherit" needs a system where descriptors can be passed on')
    for stream in (1, 2):
        os.fstat(stream)
    return 1, 2
