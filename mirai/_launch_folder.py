"""Where the files of launches lie: keys, scripts and logs, for us only."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
from pathlib import Path

from mirai._connection import write_secret
from mirai._errors import LaunchError
from mirai.launchers import Launcher

HOME = ".mirai"
"""Where in the user's home directory launches are kept whose platform shares our files."""
OWNER = "owner"
"""The file that says which process a folder belongs to: its host, and its number there."""
KEYS = "keys.json"


def new_folder(launcher: Launcher, name: str) -> str:
    """Make the folder of one launch, and return its path.  Raises LaunchError."""
    if not launcher.shares_files:
        return tempfile.mkdtemp(prefix=f"{name}-")
    chosen = getattr(launcher, "directory", None)
    home = Path(os.path.abspath(chosen)) if chosen else Path.home() / HOME
    folder = home / name
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(home)
        folder.mkdir(mode=0o700)
        (folder / OWNER).write_text(f"{socket.gethostname()} {os.getpid()}")
    except OSError as error:
        raise LaunchError(f"{folder} cannot be made: {error.strerror}") from None
    return str(folder)


def write_keys(folder: str, text: str) -> str:
    """Write the keys of a launch, readable by this user only; return where.  Raises MiraiError."""
    path = os.path.join(folder, KEYS)
    write_secret(path, text.encode())
    return path


def remove_folder(folder: str) -> None:
    """Leave nothing of it."""
    shutil.rmtree(folder, ignore_errors=True)


def _sweep(home: Path) -> None:
    """Remove what processes of this machine have left behind that had no time to."""
    for file in home.glob(f"mirai-*/{OWNER}"):
        with contextlib.suppress(OSError, ValueError):
            host, pid = file.read_text().split()
            if host == socket.gethostname() and not _lives(int(pid)):
                remove_folder(str(file.parent))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True
