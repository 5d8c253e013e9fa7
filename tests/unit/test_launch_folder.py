"""The folders of launches: for us only, and none is left for long by a process that was killed."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mirai import LaunchError
from mirai._launch_folder import KEYS, new_folder, remove_folder, write_keys
from mirai.launchers import LocalLauncher, SlurmLauncher, SSHLauncher


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path / ".mirai"


def test_it_is_at_home_where_the_platform_shares_our_files(home: Path) -> None:
    folder = Path(new_folder(LocalLauncher(), "mirai-1"))
    assert folder == home / "mirai-1"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    file = Path(write_keys(str(folder), "secret\n"))
    assert file == folder / KEYS
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    remove_folder(str(folder))
    assert not folder.exists()


def test_it_may_be_elsewhere(tmp_path: Path) -> None:
    launcher = SlurmLauncher(directory=str(tmp_path / "shared"))
    assert new_folder(launcher, "mirai-1") == str(tmp_path / "shared" / "mirai-1")


def test_it_is_a_temporary_one_where_files_are_not_shared(home: Path) -> None:
    folder = new_folder(SSHLauncher("node1"), "mirai-1")
    assert not home.exists()
    assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    remove_folder(folder)


def test_where_none_can_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LaunchError, match="cannot be made"):
        new_folder(SlurmLauncher(directory=str(tmp_path / "file")), "mirai-1")


def test_what_a_dead_process_has_left_is_removed_and_no_other(home: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    owners = {
        "mirai-dead": f"{here} {dead.pid}",
        "mirai-alive": f"{here} {os.getppid()}",
        "mirai-elsewhere": f"another-{here} {dead.pid}",
        "mirai-nonsense": "what",
    }
    for name, owner in owners.items():
        (home / name).mkdir(parents=True)
        (home / name / "owner").write_text(owner)
    new_folder(LocalLauncher(), "mirai-1")
    assert {path.name for path in home.iterdir()} == {*owners, "mirai-1"} - {"mirai-dead"}
