"""What tasks print can be read in their host."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Script, wait_until

from mirai import DaemonCrashed, daemons, mirai, mirai_map


def say(text: str) -> None:
    print(text)


class TestLog:
    @pytest.fixture(autouse=True)
    def pool(self) -> Iterator[None]:
        with daemons(1):
            yield

    def test_each_mirai_has_its_own(self) -> None:
        quiet, loud = mirai(abs, -1), mirai_map(say, range(3))
        loud.collect()
        assert [future.log for future in loud] == ["0\n", "1\n", "2\n"]
        assert (quiet.result(), quiet.log) == (1, "")

    def test_whatever_writes_text(self) -> None:
        def write() -> None:
            print("printed")
            sys.stderr.write("error\n")
            logging.getLogger("here").warning("logged")
            warnings.warn("warned", stacklevel=1)
            thread = threading.Thread(target=say, args=("in a thread",))
            thread.start()
            thread.join()

        future = mirai(write)
        future.result(timeout=30)
        for text in ("printed\n", "error\n", "logged\n", "UserWarning: warned", "in a thread\n"):
            assert text in future.log

    def test_a_task_that_fails(self) -> None:
        def fail() -> None:
            print("before", end="")
            raise LookupError

        future = mirai(fail)
        assert isinstance(future.exception(timeout=30), LookupError)
        assert future.log == "before"

    def test_it_is_there_only_when_the_task_is_done(self, tmp_path: Path) -> None:
        def wait(path: Path) -> None:
            print("begun")
            path.with_name("begun").touch()
            while not path.exists():
                time.sleep(0.001)

        future = mirai(wait, tmp_path / "go")
        wait_until((tmp_path / "begun").exists)
        assert future.log == ""
        (tmp_path / "go").touch()
        future.result(timeout=30)
        assert future.log == "begun\n"

    def test_it_is_bounded(self) -> None:
        future = mirai(lambda: [print(number) for number in range(10_000)])
        future.result(timeout=30)
        first, second, *_, last = future.log.splitlines()
        assert "beginning" in first
        assert (int(second) > 1_000, last) == (True, "9999")
        assert len(future.log) <= 8_192

    def test_text_that_is_no_text(self) -> None:
        future = mirai(lambda: sys.stderr.write("\udcff"))
        assert (future.result(timeout=30), future.log) == (1, "\\udcff")

    def test_a_thread_that_was_left_behind(self) -> None:
        def leave() -> None:
            def go_on() -> None:
                while True:
                    print("still here")

            threading.Thread(target=go_on, daemon=True).start()

        mirai(leave).result(timeout=30)
        own = [mirai(say, "own") for _ in range(100)]
        for future in own:
            future.result(timeout=30)
            assert future.log == "own\n"

    def test_the_streams_are_still_streams(self) -> None:
        def look() -> tuple[object, ...]:
            sys.stdout.buffer.write(b"bytes\n")
            out = (sys.stdout.fileno(), sys.stdout.isatty(), sys.stdout is sys.__stdout__)
            sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
            return (*out, sys.stdout.name, os.write(1, b"raw\n"), sys.stderr.fileno())

        assert mirai(look).result(timeout=30) == (1, False, True, "<stdout>", 4, 2)

    def test_a_task_that_puts_another_stream_in_its_place(self) -> None:
        def replace() -> None:
            sys.stdout = sys.stderr = io.StringIO()

        def close() -> None:
            with sys.stdout:
                print("closing")
            sys.stderr.close()

        mirai(replace).result(timeout=30)
        for task, text in [(say, "one\n"), (close, "closing\n"), (say, "one\n")]:
            future = mirai(task, "one") if task is say else mirai(task)
            future.result(timeout=30)
            assert future.log == text

    def test_a_process_that_dies(self) -> None:
        def die() -> None:
            print("last words")
            os._exit(3)

        future = mirai(die)
        error = future.exception(timeout=30)
        assert isinstance(error, DaemonCrashed)
        assert ("last words" in error.output, future.log) == (True, "")


class Screen(io.StringIO):
    """A sys.stdout to look at while it is written to; pytest puts its own there for fixtures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        monkeypatch.setattr(sys, "stdout", self)

    def has(self, text: str) -> bool:
        return text in self.getvalue()


class TestStream:
    def test_it_appears_while_the_task_runs(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        screen = Screen(monkeypatch)

        def speak(path: Path) -> None:
            print("hello")
            while not path.exists():
                time.sleep(0.001)
            print("good", end="")
            print("bye", end="")

        with daemons(2, output="stream"):
            one = mirai.options(name="one")(speak, tmp_path / "go")
            two = mirai.options(name="two")(speak, tmp_path / "go")
            wait_until(lambda: screen.has(f"[one {one.id}] hello\n"))
            wait_until(lambda: screen.has(f"[two {two.id}] hello\n"))
            assert not one.done()
            (tmp_path / "go").touch()
        assert screen.has(f"[one {one.id}] goodbye\n")
        assert screen.has(f"[two {two.id}] goodbye\n")
        assert one.log == "hello\ngoodbye"

    def test_all_is_shown_before_the_pool_is_gone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Screen(monkeypatch)

        with daemons(2, output="stream"):
            tasks = mirai.options(name="n").map(say, range(200))
        lines = [f"[n {task.id}] {number}" for number, task in enumerate(tasks)]
        assert sorted(screen.getvalue().splitlines()) == sorted(lines)

    def test_too_much_is_shown_in_part(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Screen(monkeypatch)

        def shout() -> int:
            for number in range(100_000):
                print(number)
            return 1

        with daemons(1, output="stream"):
            task = mirai.options(name="n")(shout)
            assert task.result(timeout=60) == 1
        lines = screen.getvalue().splitlines()
        assert lines[0] == f"[n {task.id}] 0"
        assert lines[-1] == f"[n {task.id}] 99999"

    def test_what_nested_tasks_print(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Screen(monkeypatch)

        def outer(number: int) -> None:
            mirai.options(name="inner")(say, f"text {number}").result()

        with daemons(2, output="stream"):
            tasks = [mirai.options(name="outer")(outer, number) for number in range(1)]
            for number in range(1, 6):
                tasks[-1].result(timeout=30)
                tasks.append(mirai.options(name="outer")(outer, number))
        lines = screen.getvalue().splitlines()
        for number, task in enumerate(tasks):
            (line,) = [line for line in lines if line.endswith(f" text {number}")]
            assert line.startswith(f"[outer {task.id}] [inner ")
            assert task.log.endswith(f" text {number}\n")

    def test_without_it_nothing_is_shown(self, monkeypatch: pytest.MonkeyPatch) -> None:
        screen = Screen(monkeypatch)

        with daemons(1):
            mirai(say, "text").result(timeout=30)
        assert screen.getvalue() == ""

    def test_what_a_program_shows(self, script: Script) -> None:
        program = script(
            "from mirai import daemons, mirai\n"
            "def fit(): print('epoch 1')\n"
            "with daemons(1, output='stream'): mirai(fit)\n"
        )
        assert program.communicate(timeout=60) == ("[fit 1] epoch 1\n", "")


def test_a_terminal_that_blocks_does_not_block_results(script: Script) -> None:
    program = script(
        "import sys\n"
        "from mirai import daemons, mirai_map\n"
        "def shout(n): print('x' * 5000); return n\n"
        "with daemons(1, output='stream'):\n"
        "    mirai_map(shout, range(500)).collect()\n"
        "    sys.stderr.write('done'); sys.stderr.flush()\n"
    )
    assert program.stderr is not None
    assert program.stderr.read(4) == "done"  # while nobody reads its output
    assert program.stdout is not None
    assert program.stdout.readline().startswith("[shout 1] xxx")
