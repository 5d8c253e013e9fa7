"""The tests' own servers."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from clusters import PATIENCE, variables

pytestmark = pytest.mark.servers


@pytest.mark.timeout(PATIENCE + 60)
@pytest.mark.parametrize("host", ["node1", "node2", "node3"])
def test_ssh_reaches_each_host(sshd: Path, host: str) -> None:
    argv = ["ssh", "-F", str(sshd), host, "echo it is $((6 * 7))"]
    assert subprocess.run(argv, capture_output=True, text=True).stdout == "it is 42\n"


def test_variables_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "env.sh"
    file.write_text("export A=1 B='two words'\nexport C=a\\ b\n")
    assert variables(file) == {"A": "1", "B": "two words", "C": "a b"}
