"""Launchers that other packages add, by an entry point."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mirai.launchers import LocalLauncher, launcher_class

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Have a package that adds a launcher: its name, and the object that it is."""

    def add(name: str, place: str) -> None:
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[mirai.launchers]\n{name} = {place}\n")

    monkeypatch.syspath_prepend(tmp_path)
    return add


def test_one_that_a_package_has_added(install: Install) -> None:
    install("yard", "mirai.launchers.local:LocalLauncher")
    assert launcher_class("yard") is LocalLauncher


def test_one_that_none_has_added(install: Install) -> None:
    install("yard", "mirai.launchers.local:LocalLauncher")
    with pytest.raises(LookupError, match="no package has added a launcher 'shipyard': yard"):
        launcher_class("shipyard")


def test_what_is_no_launcher(install: Install) -> None:
    install("yard", "os.path:join")
    with pytest.raises(LookupError, match="the entry point 'yard' is no Launcher"):
        launcher_class("yard")
