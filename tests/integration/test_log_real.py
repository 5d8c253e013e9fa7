"""``MIRAI_LOG``: every process of a pool says on the user's standard error what it does."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Command, Script, processes_marked, wait_until

LINE = re.compile(
    r"\d\d:\d\d:\d\d\.\d{3} (?P<who>host|dispatcher|daemon(?: \d+)?) (?P<pid>\d+)"
    r" (?P<level>DEBUG|INFO|WARNING): (?P<text>.+)"
)

TROUBLE = """
import os, sys
from mirai import daemons, everywhere, mirai, mirai_map, status
SECRET = "a payload"
def keys():
    from mirai._profiles import _home
    return _home.server, _home.pair.public, _home.pair.secret
with daemons(2, **OPTIONS) as pool:
    pool.wait(2)
    assert mirai(len, SECRET).result() == len(SECRET)
    mirai(int, "x").exception()
    everywhere(abs, 1).collect()  # now both have heard that they are welcome
    mirai(os._exit, 3).exception()
    mirai.options(timeout=0.01)(__import__("time").sleep, 60).exception()
    mirai(print, "from a task").result()
    print(*mirai(keys).result())
"""


def lines(text: str) -> list[re.Match[str]]:
    """Return the lines of a log; all of it must be such."""
    found = [(line, LINE.fullmatch(line)) for line in text.splitlines()]
    assert [line for line, match in found if match is None] == []
    return [match for _, match in found if match is not None]


@pytest.mark.parametrize(
    "options",
    [{}, {"dispatcher": False}, {"output": "stream"}, {"output": "inherit"}, {"output": "FILE"}],
    ids=str,
)
def test_all_processes_log(
    script: Script, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, object]
) -> None:
    monkeypatch.setenv("MIRAI_LOG", "debug")
    if options.get("output") == "FILE":
        options = {"output": str(tmp_path / "output")}
    out, log = script(f"OPTIONS = {options!r}\n{TROUBLE}").communicate(timeout=60)
    found = lines(log)
    who = {match["who"] for match in found}
    assert {"host", "dispatcher", "daemon 2", "daemon 3"} <= who
    pids = {match["pid"] for match in found}
    assert len(pids) >= (4 if options.get("dispatcher", True) else 3)
    for text in ("has joined", "died with exit code 3", "Submit 2", "task 1 begins", "it leaves"):
        assert text in log, text
    printed = (tmp_path / "output").read_text() if (tmp_path / "output").exists() else ""
    *tasks, keys = out.splitlines()
    for word in (*keys.split(), "a payload", "from a task"):
        assert word not in log
    assert not LINE.search(out + printed)
    assert len(keys.split()) == 3 and "begins" not in out + printed
    assert ("from a task" in str(tasks)) == (options.get("output") in ("stream", "inherit"))


def test_where_nothing_is_wrong_there_are_no_warnings(
    script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where tasks crash and fail: that is theirs to say, and not the log's."""
    monkeypatch.setenv("MIRAI_LOG", "warning")
    out, log = script(f"OPTIONS = {{}}\n{TROUBLE}").communicate(timeout=60)
    assert (len(out.split()), log) == (3, "")


@pytest.mark.thorough
def test_nobody_reads(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe that is full holds up nothing: neither tasks, nor the end."""
    monkeypatch.setenv("MIRAI_LOG", "debug")
    program = script(
        "from mirai import daemons, mirai, mirai_map\n"
        "with daemons(2) as pool:\n"
        "    mirai_map(abs, range(2_000)).collect()\n"
        "    for n in range(20): mirai(abs, n).result()\n"
        "print('done', flush=True)\n"
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "done\n"
    assert program.wait(30) == 0


def test_a_wrong_word(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIRAI_LOG", "loud")
    source = "from mirai import daemons, mirai\nwith daemons(1): print(mirai(abs, -1).result())\n"
    out, err = script(source).communicate(timeout=60)
    assert (out, err.count("MIRAI_LOG must be one of debug, info")) == ("1\n", 1)


@pytest.mark.parametrize("word", ["", "debug"])
def test_logging_of_a_task_is_its_own(
    script: Script, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    """Whatever a task sets up gets none of the lines of its daemon."""
    monkeypatch.setenv("MIRAI_LOG", word)
    program = script(
        "import logging\n"
        "from mirai import daemons, mirai\n"
        "def task():\n"
        "    logging.basicConfig(level=logging.DEBUG, force=True)\n"
        "    logging.info('of the task')\n"
        "    return mirai(abs, -1).result()\n"
        "with daemons(2):\n"
        "    for _ in range(3): m = mirai(task); m.result(); print(repr(m.log))\n"
    )
    out, log = program.communicate(timeout=60)
    assert out == "'INFO:root:of the task\\n'\n" * 3
    assert "of the task" not in log and bool(lines(log)) == bool(word)


def test_a_pool_that_stands_on_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MIRAI_LOG", "debug")
    dispatcher = command("dispatcher", "-n", "1")
    wait_until((tmp_path / "pool.json").exists)
    assert dispatcher.stderr is not None
    early = ""
    while "daemon" not in {match["who"].split()[0] for match in lines(early)}:
        early += dispatcher.stderr.readline()
    supervisor = command("daemon", "pool.json", "--max-tasks", "1")
    assert supervisor.stderr is not None
    while "it has joined" not in (line := supervisor.stderr.readline()):
        assert line
    assert LINE.fullmatch(line.strip())
    supervisor.terminate()
    assert supervisor.wait(30) == 0
    dispatcher.terminate()
    _, log = dispatcher.communicate(timeout=30)
    found = lines(early + log)
    assert {"dispatcher", "daemon"} <= {match["who"].split()[0] for match in found}


CLOSED = """
kept = open("ledger", "w")  # it has the number of standard error, or of standard input
from mirai import daemons, mirai
with daemons(1):
    kept.write(f"{mirai(abs, -7).result(30)}\\n")
kept.close()
"""


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 2>&-"])
def test_a_closed_standard_error_is_not_what_has_its_number_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mark: str, closed: str
) -> None:
    monkeypatch.setenv("MIRAI_LOG", "debug")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "program.py").write_text(CLOSED)
    command = f"exec {shlex.quote(sys.executable)} program.py {closed}"
    subprocess.run(["sh", "-c", command], cwd=tmp_path, check=True, timeout=50)
    assert (tmp_path / "ledger").read_text() == "7\n"
    assert not processes_marked(mark)
