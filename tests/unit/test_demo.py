"""The demo's parts, and the command line as a user runs it."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from dispatcher import __version__
from mirai import __main__ as command_line
from mirai import _demo

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_words_are_letters_in_lower_case() -> None:
    tally = _demo.tally_text("The the\nTHE x9 an_été 12\n")
    assert (tally.files, tally.lines) == (1, 2)
    assert tally.words == Counter({"the": 3, "an": 1, "été": 1})


def test_tallies_add_up(tmp_path: Path) -> None:
    for name, text in (("a.py", "one two\n"), ("b.py", "two\n\ntwo")):
        (tmp_path / name).write_text(text)
    (tmp_path / "c.py").write_bytes(b"caf\xe9 one\n")  # not UTF-8
    total = _demo.tally_files(sorted(tmp_path.iterdir()))
    assert (total.files, total.lines) == (3, 5)
    assert total.words == Counter(one=2, two=3, caf=1)


def test_sources_are_python_files_of_nobody_else(tmp_path: Path) -> None:
    for name in ("a.py", "sub/b.py", "sub/c.txt", "site-packages/d.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.py").mkdir()
    assert _demo.sources(tmp_path) == [tmp_path / "a.py", tmp_path / "sub/b.py"]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([3, 3, 4], [[3, 3, 4]]),
        ([3, 3, 5], [[3, 3], [5]]),
        ([20, 1, 20], [[20], [1], [20]]),
    ],
)
def test_batches_hold_ten_bytes_or_one_file(sizes: list[int], expected: list[list[int]]) -> None:
    files = [(Path(str(size)), size) for size in sizes]
    batches = _demo.batches(files, limit=10)
    assert [[int(path.name) for path in batch] for batch in batches] == expected


def test_progress_is_one_line_on_a_terminal() -> None:
    screen = Terminal()
    progress = _demo.Progress(2, screen)
    progress.show(1)
    progress.show(2)
    progress.end()
    assert screen.getvalue() == "\r1 of 2 files\r2 of 2 files\r\x1b[K"


def test_progress_is_four_lines_elsewhere() -> None:
    log = io.StringIO()
    progress = _demo.Progress(100, log)
    for files in range(1, 101):
        progress.show(files)
    progress.end()
    assert [line.split()[0] for line in log.getvalue().splitlines()] == ["25", "50", "75", "100"]


def test_report_shows_the_most_frequent() -> None:
    tally = _demo.Tally(1_000, 2, Counter(a=1, bb=3, c=2))
    report = _demo.report(tally, top=2).splitlines()
    assert [line.split() for line in report] == [
        ["bb", "3"],
        ["c", "2"],
        [],
        ["1,000", "files,", "2", "lines,", "6", "words"],
    ]


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["demo", "-n", "0"], ["demo", "-n", "x"]])
def test_wrong_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main(arguments)
    assert left.value.code == 2
    assert "usage: mirai" in capsys.readouterr().err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command_line.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"mirai {__version__}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["--help"])
    text = capsys.readouterr().out
    for name, (_, what) in command_line.COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(what)}$", text, re.MULTILINE)


def test_a_folder_without_sources_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command_line.main(["demo", str(tmp_path)]) == 1
    assert "no Python files" in capsys.readouterr().err


def test_demo_counts_a_folder(tmp_path: Path) -> None:
    for number in range(4):
        text = "word " * 60_000 * (number + 1)
        (tmp_path / f"{number}.py").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "mirai", "demo", str(tmp_path), "-n", "2", "--compare"],
        cwd=tmp_path,
        env=ENVIRONMENT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"4 files below {tmp_path}, in 4 tasks"
    assert lines[1].split() == ["word", "600,000"]
    assert lines[3] == "4 files, 4 lines, 600,000 words"
    assert "in this process alone" in done.stdout
    tasks = [int(line.split()[1]) for line in lines[lines.index("  process   tasks") + 1 :]]
    assert sum(tasks) == 4
    assert done.stderr.splitlines()[-1] == "4 of 4 files"


INTERRUPTIBLE = """
import signal, sys
from mirai.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
sys.exit(main(["demo", "-n", "2"]))
"""


@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT")
def test_ctrl_c_ends_the_demo() -> None:
    """Its dispatcher ends too: that holds the standard error, which is read to its end here."""
    demo = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE],
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert demo.stderr is not None
    first = demo.stderr.readline()  # a quarter is done
    demo.send_signal(signal.SIGINT)
    _, errors = demo.communicate()
    assert "files" in first
    assert demo.returncode == 130
    assert errors.splitlines()[-1] == "interrupted"
