"""``mirai journal``, as people see it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_journal import FUNCTION, outcome, task

from dispatcher.journal import Journal
from dispatcher.messages import Kind, Outcome
from dispatcher.records import Begun, Ended, Enlisted, JobMade, LetGo, Retired
from mirai.__main__ import main


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "j"


def fill(path: Path) -> Journal:
    journal = Journal(path)
    journal.save([JobMade(1, "air", 1e9), JobMade(2, "empty", 1e9), FUNCTION])
    journal.save([Enlisted(1, task(1, 10)), Begun(1, 6), Ended(outcome(1, 4)), LetGo(2, 1)])
    journal.save([Ended(Outcome(10, Kind.CANCELLED))])
    return journal


def run(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> tuple[int, list[str]]:
    """Run a command; return its status and what it printed."""
    status = main(["journal", *map(str, argv)])
    printed = capsys.readouterr()
    return status, (printed.out + printed.err).splitlines()


def test_show(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path).close()
    status, [whole, air, empty] = run(capsys, "show", path)
    assert status == 0
    assert whole.startswith(f"{path}: format 1, 3 transactions, 0.")
    assert whole.endswith("MB, jobs: 2, functions: 1")
    assert air.startswith("job 1 'air', made 2001-09-")
    assert air.endswith(": 2 begun, 1 cancelled, 3 value, 1 value (fetched), 3 waiting")
    assert empty.endswith(": no tasks")


def test_check_while_a_dispatcher_has_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = fill(path)
    status, lines = run(capsys, "check", path)
    assert status == 0
    assert lines[1] == f"in use by process {os.getpid()}"
    assert lines[-1] == "nothing is wrong"
    journal.save([Retired(1)])
    journal.close()
    assert os.listdir(path.parent) == ["j"]


def test_check_and_repair(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path).close()
    path.write_bytes(path.read_bytes().replace(b"value 3", b"value 4"))
    status, lines = run(capsys, "check", path)
    assert status == 1
    assert lines == [
        "wrong: the data of row 3 of outcomes is not what was written",
        f"{path} is damaged; `mirai journal repair {path}` saves what can be saved",
    ]
    status, lines = run(capsys, "repair", path)
    assert status == 1
    assert lines[:2] == [
        "the results of tasks 3 to 4 of job air are lost",
        f"the damaged journal is kept as {path}.damaged-1",
    ]
    assert run(capsys, "check", path)[0] == 0
    assert run(capsys, "repair", path)[0] == 0
    assert sorted(os.listdir(path.parent)) == ["j", "j.damaged-1", "j.damaged-2"]


def test_compact(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    journal = fill(path)
    journal.save(Enlisted(1, task(first)) for first in range(1_000, 9_000))
    journal.save(Retired(first) for first in range(1_000, 9_000))
    journal.close()
    before = path.stat().st_size
    status, [line] = run(capsys, "compact", path)
    assert status == 0
    assert line.startswith(f"{path}: ") and line.endswith("MB now")
    assert path.stat().st_size < before / 4
    assert run(capsys, "check", path)[0] == 0


@pytest.mark.parametrize("action", ["check", "show", "repair", "compact"])
def test_where_there_is_none(path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, action, path)
    assert status == 1
    assert lines == [f"mirai journal: there is no journal {path}"]
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("action", ["check", "show", "repair", "compact"])
def test_an_empty_file(path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    path.touch(0o600)
    status, lines = run(capsys, action, path)
    assert status == 1
    assert lines == [f"mirai journal: there is no journal in {path}: the file is empty"]
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("action", ["check", "show", "repair", "compact"])
def test_another_file(path: Path, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    path.write_text("text")
    status, lines = run(capsys, action, path)
    assert status == 1
    [line] = lines
    assert line.startswith(
        f"mirai journal: {path} is not a journal, or its first bytes are damaged"
    )
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("action", ["repair", "compact"])
def test_what_a_dispatcher_has_is_not_changed(
    path: Path, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = fill(path)
    status, [line] = run(capsys, action, path)
    assert status == 1
    assert f"in use by process {os.getpid()}" in line
    journal.close()


def test_tasks_are_listed(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(path).close()
    _, lines = run(capsys, "show", path, "--tasks")
    assert [line for line in lines if line.startswith("  ")] == [
        "  1  f  value",
        "  2  f  value (fetched)",
        "  3 to 4  f  value",
        "  5 to 6  f  begun",
        "  7 to 9  f  waiting",
        "  10  f  cancelled",
    ]
