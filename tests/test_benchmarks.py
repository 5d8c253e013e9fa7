"""The benchmarks run, in small, and count right.  How fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
BENCHMARKS = ROOT / "benchmarks"
PEER = "ProcessPoolExecutor"


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that the benchmarks share."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _table

    return _table


def measure(name: str, folder: Path, *arguments: str) -> Any:
    """Run a benchmark; return what it writes as JSON."""
    file = folder / "out.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / name), "--json", str(file), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "median" in done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def test_noop(tmp_path: Path) -> None:
    out = measure("noop.py", tmp_path, "--tasks", "20", "--repeats", "2", "--only", "mirai", PEER)
    rows = [(row["what"], row["who"], len(row["seconds"])) for row in out["rows"]]
    assert rows == [("20 tasks", "mirai", 2), ("20 tasks", PEER, 2)]


def test_latency(tmp_path: Path) -> None:
    out = measure("latency.py", tmp_path, "--tasks", "100", "--repeats", "1")
    ours = {row["what"]: len(row["seconds"]) for row in out["rows"] if row["who"] == "mirai"}
    assert ours == {"round trip": 100, "start to first result": 1, "end": 1}
    assert all((row["p99"] is not None) == (row["what"] == "round trip") for row in out["rows"])


def test_payload(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    out = measure("payload.py", tmp_path, "--megabytes", "1", "--repeats", "1")
    assert [row["what"] for row in out["rows"]] == ["1 MB"] * 3
    assert [row["who"] for row in out["rows"]] == ["mirai", PEER, "Pool"]


def test_awaiting(tmp_path: Path) -> None:
    out = measure("awaiting.py", tmp_path, "--tasks", "50", "--repeats", "1")
    rows = [(row["what"], len(row["seconds"])) for row in out["rows"] if row["who"] == "mirai"]
    loops = [loop for loop in ("asyncio", "uvloop", "trio") if find_spec(loop)]
    things = ("send", "arrive", "longest turn", "its work")
    assert rows == [(f"{loop}: {what}", 1) for loop in loops for what in things]
    assert {row["who"] for row in out["rows"]} == {"mirai", PEER}


def test_mapping(tmp_path: Path) -> None:
    out = measure("mapping.py", tmp_path, "--elements", "200", "--repeats", "2")
    ours = [(row["what"], len(row["seconds"])) for row in out["rows"] if row["who"] == "mirai_map"]
    assert ours == [("send", 2), ("all", 2)]
    assert len(out["rows"]) == 7


def test_table(helper: Any) -> None:
    rows = [
        helper.Row("a", "ours", [1.0, 3.0, 2.0]),
        helper.Row("a", "theirs", [0.5]),
        helper.Row("b", "ours", [0.001] * 98 + [0.003] * 2),
    ]
    assert helper.ratios(rows) == [1.0, 0.25, 1.0]
    assert [line.split() for line in helper.table(rows).splitlines()] == [
        ["median", "p99", "ratio", "runs"],
        ["a", "ours", "2.00", "s", "1.00", "3"],
        ["a", "theirs", "500.00", "ms", "0.25", "1"],
        ["b", "ours", "1.00", "ms", "3.00", "ms", "1.00", "100"],
    ]


def test_durations(helper: Any) -> None:
    assert [helper.duration(s) for s in (12.345, 0.5, 0.0021, 0.000_25)] == [
        "12.35 s",
        "500.00 ms",
        "2.10 ms",
        "250 µs",
    ]
