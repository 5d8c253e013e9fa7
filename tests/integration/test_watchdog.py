"""A test that hangs says where every process of its pool hangs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

HANGS = """
import os, signal
import pytest
from conftest import wait_until
from mirai import daemons, mirai

def an_endless_task(path):
    open(path, "w").close()
    while True:
        pass

@pytest.fixture(scope=SCOPE)
def pool():
    pool = daemons(1)
    yield
    pool.shutdown()

def test_hangs(pool, tmp_path):
    endless = mirai(an_endless_task, str(tmp_path / "begun"))
    wait_until((tmp_path / "begun").exists)
    os.kill(os.getpid(), signal.SIGALRM)  # as pytest-timeout does when the time is up
    endless.result()
"""


@pytest.mark.thorough
@pytest.mark.parametrize("scope", ["function", "module"])
def test_all_stacks_are_shown_at_a_timeout(tmp_path: Path, scope: str) -> None:
    (tmp_path / "test_hangs.py").write_text(HANGS.replace("SCOPE", repr(scope)))
    for name in ("conftest.py", "clusters.py"):
        (tmp_path / name).write_text(Path(__file__).with_name(name).read_text())
    (tmp_path / "pytest.ini").write_text("[pytest]\ntimeout = 60\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stdout
    report = done.stdout
    assert "Timeout" in report
    assert "an_endless_task" in report.partition("Captured processes")[2]
    assert "dispatcher" in report
