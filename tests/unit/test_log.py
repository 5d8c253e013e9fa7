"""Logging: lines that say which process they are from, and that nobody has to read."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from select import select
from typing import get_args

import pytest

from dispatcher import messages
from dispatcher.log import LEVELS, LINE, Lines, descriptor, rename, show
from dispatcher.messages import (
    Blob,
    Cancel,
    Consult,
    Done,
    Everywhere,
    Function,
    Hello,
    Kind,
    Objected,
    Outcome,
    Printed,
    Refused,
    Reply,
    Results,
    Run,
    Stop,
    Submit,
    Task,
)
from dispatcher.requests import Object, Put
from dispatcher.words import RANGES, numbers, said
from mirai._log import VARIABLE, level, set_up

NAME = "dispatcher"
COUNT = 1_000
ROOT = Path(__file__).parents[2]


class Pipe:
    """A standard error that may be read, or not."""

    def __init__(self) -> None:
        self.out, self.fd = os.pipe()

    def read_line(self) -> str:
        data = b""
        while not data.endswith(b"\n"):
            data += os.read(self.out, 1)
        return data.decode()

    def close(self) -> None:
        """Read what is left until nobody writes any more."""
        os.set_blocking(self.out, False)
        for handler in logging.getLogger(NAME).handlers:
            thread = getattr(handler, "_thread", None)
            while thread is not None and thread.is_alive():
                try:
                    os.read(self.out, 65_536)
                except BlockingIOError:
                    thread.join(0.001)
        for fd in (self.out, self.fd):
            os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.close()
    show(NAME, "", "")


def log(text: str, *arguments: object, level: int = logging.INFO) -> None:
    logging.getLogger(NAME).log(level, text, *arguments)


# ── lines ────────────────────────────────────────────────────────────────────────────────


def test_a_line_says_when_and_who(pipe: Pipe) -> None:
    show(NAME, "daemon 3", "info", pipe.fd)
    log("%d tasks", 5)
    line = pipe.read_line()
    assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}} daemon 3 {os.getpid()} INFO: 5 tasks\n", line)


@pytest.mark.parametrize("word", LEVELS)
def test_what_is_below_the_level_is_left_out(pipe: Pipe, word: str) -> None:
    show(NAME, "host", word, pipe.fd)
    for each in LEVELS.values():
        log("said at %d", each, level=each)
    shown = [each for each in LEVELS.values() if each >= LEVELS[word]]
    for each in shown:
        assert pipe.read_line().endswith(f"said at {each}\n")


def test_whoever_shows_it_twice_shows_it_once(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)
    show(NAME, "host", "error", pipe.fd)
    log("not shown")
    log("one", level=logging.ERROR)
    log("two", level=logging.ERROR)
    assert [pipe.read_line()[-4:] for _ in range(2)] == ["one\n", "two\n"]


def test_it_is_quiet_again(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    show(NAME, "host", "info", pipe.fd)
    log("shown")
    assert pipe.read_line().endswith("shown\n")
    assert caplog.messages == []  # and only there
    show(NAME, "host", "")
    log("not shown", level=logging.WARNING)
    assert caplog.messages == ["not shown"]  # as any logger's
    os.set_blocking(pipe.out, False)
    with pytest.raises(BlockingIOError):
        os.read(pipe.out, 1)


def test_another_name(pipe: Pipe) -> None:
    show(NAME, "daemon", "info", pipe.fd)
    rename(NAME, "daemon 4")
    log("here")
    assert f"daemon 4 {os.getpid()} INFO" in pipe.read_line()


def test_what_others_say_is_one_line(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)
    log("refused: %s", "a\n00:00:00 host 1 INFO: all is well\x1b[2J")
    line = pipe.read_line()
    assert line.endswith("refused: a?00:00:00 host 1 INFO: all is well?[2J\n")


def test_a_line_is_bounded(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)
    log("é" * 10 * LINE)
    line = os.read(pipe.out, 65_536)
    assert (len(line), line[-1:]) == (LINE + 1, b"\n")


def test_what_cannot_be_encoded(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)
    log("\udcff")
    assert pipe.read_line().endswith("?\n")


def test_nobody_reads(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever logs goes on; who reads at last is told how much is missing."""
    monkeypatch.setattr("dispatcher.log.ROOM", 50)
    show(NAME, "host", "info", pipe.fd)
    for number in range(COUNT):
        log("%d %s", number, "x" * LINE)
    expected = shown = 0
    while expected < COUNT:
        line = pipe.read_line()
        if missing := re.search(r": (\d+) lines are not shown", line):
            expected += int(missing[1])
        else:
            assert f"INFO: {expected} xxx" in line
            expected, shown = expected + 1, shown + 1
        if not select([pipe.out], [], [], 0)[0] and expected < COUNT:
            log("%d %s", COUNT, "xxx")  # this tells how many were dropped at last
    assert 0 < shown < COUNT


def test_many_threads(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)

    def speak(voice: int) -> None:
        for number in range(200):
            log("%d %d", voice, number)

    threads = [threading.Thread(target=speak, args=(voice,)) for voice in range(4)]
    for thread in threads:
        thread.start()
    lines = [pipe.read_line().split("INFO: ")[1] for _ in range(800)]
    for thread in threads:
        thread.join()
    assert sorted(lines) == sorted(f"{v} {n}\n" for v in range(4) for n in range(200))


def test_no_thread_is_left(pipe: Pipe) -> None:
    show(NAME, "host", "info", pipe.fd)
    log("here")
    pipe.read_line()
    for thread in threading.enumerate():
        if thread.name == "mirai-log":
            thread.join(10)
    assert "mirai-log" not in [thread.name for thread in threading.enumerate()]


def test_a_closed_descriptor() -> None:
    pipe = Pipe()
    show(NAME, "host", "info", pipe.fd)
    pipe.close()
    try:
        log("nobody hears it")
        (lines,) = [each for each in logging.getLogger(NAME).handlers if isinstance(each, Lines)]
        lines.flush()
    finally:
        show(NAME, "", "")


def test_the_last_line_before_the_end_is_written() -> None:
    program = (
        "import logging\n"
        "from dispatcher.log import show\n"
        "show('mirai', 'host', 'info')\n"
        "for n in range(100): logging.getLogger('mirai').info('line %d', n)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert [line.split("INFO: ")[1] for line in done.stderr.splitlines()] == [
        f"line {n}" for n in range(100)
    ]


def test_a_forked_child_logs_what_is_its_own() -> None:
    """Also where the thread that writes for its parent was in the middle of that."""
    program = (
        "import logging, os\n"
        "from dispatcher.log import show\n"
        "show('mirai', 'host', 'info')\n"
        "logger = logging.getLogger('mirai')\n"
        "for n in range(2_000): logger.info('parent %d %s', n, 'x' * 200)\n"
        "child = os.fork()\n"
        "logger.info('parent 2000' if child else 'child')\n"
        "if child:\n"
        "    print('forked', flush=True)\n"
        "    os.wait()\n"
    )
    argv = [sys.executable, "-W", "ignore", "-c", program]
    out = subprocess.PIPE
    with subprocess.Popen(argv, stdout=out, stderr=out, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"  # while nobody reads its log
        _, log = process.communicate(timeout=30)
    texts = [line.split("INFO: ")[1].split(" x")[0] for line in log.splitlines()]
    assert sorted(texts) == sorted(["child", *(f"parent {n}" for n in range(2_001))])


def test_only_what_the_host_must_know_is_shown_unless_asked_for() -> None:
    program = """
import logging, mirai
logging.getLogger("dispatcher").error("of others")
logging.getLogger("mirai").info("of no consequence")
logging.getLogger("mirai").warning("of yours")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.stderr, done.stdout, done.returncode) == ("of yours\n", "", 0)


def test_a_descriptor_for_a_child() -> None:
    fd = descriptor()
    assert fd > 2 and os.path.sameopenfile(fd, 2) and not os.get_inheritable(fd)
    os.close(fd)


# ── MIRAI_LOG ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("word", "expected"),
    [("debug", "debug"), (" WARNING ", "warning"), ("", ""), (" ", ""), ("loud", "")],
)
def test_the_level(monkeypatch: pytest.MonkeyPatch, word: str, expected: str) -> None:
    monkeypatch.setenv(VARIABLE, word)
    assert level() == expected
    monkeypatch.delenv(VARIABLE)
    assert level() == ""


def test_a_wrong_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "verbose")
    with pytest.warns(RuntimeWarning, match="one of debug, info, warning, error, not 'verbose'"):
        set_up()
    assert not any(isinstance(each, Lines) for each in logging.getLogger(NAME).handlers)


# ── words ────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        ((), ""),
        ((7,), "7"),
        ((1, 2, 3, 7, 9, 10), "1-3, 7, 9-10"),
        ((3, 2, 1), "3, 2, 1"),
        ((0, 1), "0-1"),
        (range(0, 100, 2), ", ".join(map(str, range(0, 2 * RANGES, 2))) + ", ..."),
    ],
)
def test_numbers(ids: tuple[int, ...], text: str) -> None:
    assert numbers(ids) == text


SECRET = b"SECRET"
SECRET_TASK = Task(3, 1, SECRET, (Blob(SECRET),), stream=SECRET)
SECRET_FUNCTION = Function(1, "SECRET", SECRET, (Blob(SECRET),))
SECRET_OUTCOMES = (
    Outcome(3, Kind.VALUE, SECRET, (Blob(SECRET),), log="SECRET"),
    Outcome(4, Kind.ERROR, SECRET),
)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (Submit((SECRET_TASK,), (SECRET_FUNCTION,)), "Submit 3"),
        (Run((SECRET_TASK,), (SECRET_FUNCTION,)), "Run 3"),
        (Everywhere((4, 5), SECRET_TASK), "Everywhere 4-5"),
        (Done(SECRET_OUTCOMES), "Done 3; 4 error"),
        (Results(SECRET_OUTCOMES), "Results 3; 4 error"),
        (Printed(3, "SECRET"), "Printed 3"),
        (Cancel((1, 2)), "Cancel 1-2"),
        (Refused("no"), "Refused no"),
        (Hello(1, "box", 4), "Hello from process 4 on box"),
        (Consult(1, "b\n", Put("SECRET", Blob(SECRET))), "Consult 'b\\n': Put"),
        (Reply(1, Object(Blob(SECRET))), "Reply"),
        (Objected(1, "no"), "Objected no"),
        (Stop(), "Stop"),
        (Stop(True), "Stop and be replaced"),
    ],
)
def test_what_a_message_says(message: messages.Message, text: str) -> None:
    assert said(message) == text


def test_there_are_words_for_every_message() -> None:
    lists = dict.fromkeys(("tasks", "outcomes", "ids"), ())
    for kind in get_args(messages.Message):
        message = kind(**{name: lists.get(name, 0) for name in kind.__struct_fields__})
        assert said(message).startswith(kind.__name__)
