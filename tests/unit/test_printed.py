"""What tasks print: kept at their daemon, sent on, and written by their host."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import threading
import types
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_core import CLIENT, D1, D2, Pool, done, sent

from dispatcher.events import Lost
from dispatcher.messages import Cancel, Crash, Done, Kind, Outcome, Printed, Refused, Results
from mirai._future import Mirai
from mirai._pending import Pending
from mirai._printed import CUT, LATE, LOG_BYTES, SPOOL, Printout, Recorder, Spool, Tail, shorten
from mirai._printer import LIMIT, Printer, tag, tagged


class TestShorten:
    def test_what_is_short_stays(self) -> None:
        text = "a line\nand another"
        assert shorten(text) == text
        assert shorten("x" * LOG_BYTES) == "x" * LOG_BYTES

    def test_whole_lines_are_kept_after_a_mark(self) -> None:
        text = shorten("".join(f"line {n}\n" for n in range(10_000)))
        mark, *lines = text.splitlines(keepends=True)
        assert mark == CUT
        numbers = [int(line.removeprefix("line ")) for line in lines]
        assert numbers[-1] == 9_999
        assert all(after == before + 1 for before, after in pairwise(numbers))
        assert LOG_BYTES - 20 < len(text) <= LOG_BYTES

    def test_one_long_line_is_kept_in_part(self) -> None:
        assert shorten("x" * 10_000 + "\n") == CUT + "x" * (LOG_BYTES - len(CUT) - 1) + "\n"

    @given(st.text(alphabet=st.characters() | st.just("\udcff") | st.just("\n"), max_size=50))
    def test_it_is_always_within_bounds_and_can_be_sent(self, text: str) -> None:
        for whole in (text, text * 1_000):
            assert len(shorten(whole).encode()) <= LOG_BYTES

    @given(st.lists(st.text(max_size=5_000), max_size=20))
    def test_in_pieces_it_is_the_same(self, pieces: list[str]) -> None:
        tail = Tail()
        for piece in pieces:
            tail.add(piece)
        assert tail.take() == shorten("".join(pieces))


class TestPrintout:
    def test_each_task_has_its_own(self) -> None:
        current = 0
        printout = Printout(lambda: current)
        printout.add("nobody's")
        assert not printout.tails
        for current in (1, 2):  # read by the function above
            printout.add(f"of {current}\n")
            assert printout.take(current) == f"of {current}\n"
            assert not printout.tails
        assert printout.take(2) == ""

    def test_what_comes_late_is_nobodys(self) -> None:
        current = 1
        printout = Printout(lambda: current)
        printout.add("late")
        current = 2
        printout.add("own")
        assert printout.take(2) == "own"
        assert not printout.tails

    def test_a_thread_is_of_the_task_in_which_it_first_printed(self) -> None:
        current = 1
        printout = Printout(lambda: current)
        printed, go_on = threading.Event(), threading.Event()

        def print_twice() -> None:
            printout.add("in one")
            printed.set()
            go_on.wait()
            printout.add("in two")

        thread = threading.Thread(target=print_twice)
        thread.start()
        printed.wait()
        assert printout.take(1) == "in one"
        current = 2
        go_on.set()
        thread.join()
        assert printout.take(2) == ""

    def test_our_own_threads_speak_for_the_task_that_runs(self) -> None:
        current = 1
        printout = Printout(lambda: current)
        screen = types.SimpleNamespace(write=printout.add, flush=lambda: None)
        printer = Printer()
        with contextlib.redirect_stdout(screen):  # type: ignore[type-var]
            for current in (1, 2):  # read by the function above
                printer.add("[inner]", "text\n")
                printer.flush()
                assert printout.take(current) == "[inner] text\n"
            printer.close()

    def test_many_threads(self) -> None:
        printout = Printout(lambda: 1)
        threads = [
            threading.Thread(target=lambda: [printout.add("line\n") for _ in range(100)])
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert printout.take(1) == "line\n" * 800


class TestFeed:
    @pytest.fixture
    def bells(self) -> list[int]:
        return []

    @pytest.fixture
    def spool(self, bells: list[int]) -> Spool:
        return Spool(lambda: bells.append(1))

    def test_it_rings_once_for_what_gathers(self, spool: Spool, bells: list[int]) -> None:
        spool.add(1, "a")
        spool.add(1, "\n")
        assert (len(bells), spool.waits) == (1, True)
        assert spool.take() == [(1, "a\n")]
        assert not spool.waits
        assert spool.take() == []
        spool.add(1, "b\n")
        assert len(bells) == 2

    def test_an_unfinished_line_waits_for_its_end(self, spool: Spool) -> None:
        spool.add(1, "a\nb")
        assert spool.take() == [(1, "a\n")]
        assert spool.take() == []
        spool.add(1, "c\nd")
        assert spool.take() == [(1, "bc\n")]
        assert spool.take({1}) == [(1, "d\n")]
        assert spool.take({1}) == []

    def test_an_endless_line_does_not_wait(self, spool: Spool) -> None:
        spool.add(1, "x" * 10_000)
        assert spool.take() == [(1, "x" * 10_000 + "\n")]

    def test_tasks_are_kept_apart_and_in_order(self, spool: Spool) -> None:
        for id, text in [(1, "a"), (2, "b\n"), (1, "c\n")]:
            spool.add(id, text)
        assert spool.take() == [(1, "ac\n"), (2, "b\n")]

    def test_the_middle_is_dropped(self, spool: Spool) -> None:
        lines = [f"line {n}\n" for n in range(50_000)]
        for line in lines:
            spool.add(1, line)
        ((_, text),) = spool.take()
        head, mark, tail = text.partition("\n[... ")
        number, mark, tail = tail.partition(" characters are not shown]\n")
        assert mark
        whole = "".join(lines)
        assert whole.startswith(head) and whole.endswith(tail)
        assert tail == "".join(lines[-LATE:])
        assert len(head) + int(number.replace(",", "")) + len(tail) == len(whole)
        spool.add(1, "again\n")
        assert spool.take() == [(1, "again\n")]

    def test_one_huge_text(self, spool: Spool) -> None:
        spool.add(1, "x" * 10_000_000 + "\n")
        ((_, text),) = spool.take()
        assert "characters are not shown" in text
        assert len(text) < SPOOL + 2_000

    def test_what_cannot_be_encoded_is_written_in_words(self, spool: Spool) -> None:
        spool.add(1, "a\udcff\n")
        assert spool.take() == [(1, "a\\udcff\n")]


class TestRecorder:
    @pytest.fixture
    def noted(self) -> list[str]:
        return []

    @pytest.fixture
    def recorder(self, noted: list[str]) -> Recorder:
        stream = io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace")
        return Recorder(stream, noted.append)

    def test_it_notes_and_passes_on(self, recorder: Recorder, noted: list[str]) -> None:
        print("a", 1, file=recorder)
        recorder.writelines(["b\n", "c\n"])
        assert "".join(noted) == "a 1\nb\nc\n"
        assert recorder.buffer.getvalue() == b"a 1\nb\nc\n"  # type: ignore[attr-defined]

    def test_it_cannot_be_closed(self, recorder: Recorder, noted: list[str]) -> None:
        with recorder:
            print("a", file=recorder)
        recorder.close()
        print("b", file=recorder)
        assert "".join(noted) == "a\nb\n"
        assert recorder.buffer.getvalue() == b"a\nb\n"  # type: ignore[attr-defined]

    def test_logging(
        self, recorder: Recorder, noted: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys, "stderr", recorder)
        logger = logging.Logger("mirai-test")
        logger.addHandler(logging.StreamHandler())
        logger.warning("logged")
        assert "".join(noted) == "logged\n"

    def test_it_is_a_text_stream_like_the_other(self, recorder: Recorder) -> None:
        assert (recorder.encoding, recorder.errors) == ("utf-8", "backslashreplace")
        assert (recorder.line_buffering, recorder.isatty(), recorder.mode) == (True, False, "w")
        recorder.reconfigure(errors="strict")
        assert recorder.errors == "strict"
        with pytest.raises(io.UnsupportedOperation):
            recorder.fileno()
        with pytest.raises(TypeError):
            recorder.write(b"bytes")  # type: ignore[arg-type]


# ── on the way ───────────────────────────────────────────────────────────────────────────


class TestCore:
    def test_it_is_passed_on_with_the_clients_own_id(self) -> None:
        pool = Pool([D1], clients=[CLIENT, 2])
        pool.submit(5, client=2)
        commands = pool.step((D1, Printed(1, "text\n")))
        assert sent(commands, 2, Printed) == [Printed(5, "text\n")]
        assert sent(commands, CLIENT, Printed) == []

    def test_it_comes_before_the_result(self) -> None:
        pool = Pool([D1])
        pool.submit(5)
        commands = pool.step((D1, Printed(1, "text\n")), (D1, done(1)))
        kinds = [type(command.message) for command in commands]  # type: ignore[union-attr]
        assert kinds.index(Printed) < kinds.index(Results)

    def test_what_nobody_waits_for_is_dropped(self) -> None:
        pool = Pool([D1, D2])
        pool.submit(5)
        for daemon, key in [(D1, 99), (D2, 1)]:
            assert pool.step((daemon, Printed(key, "text\n"))) == []
        pool.step((CLIENT, Cancel((5,))))
        assert pool.step((D1, Printed(1, "text\n"))) == []

    def test_a_lost_daemon_prints_no_more_and_a_client_never(self) -> None:
        pool = Pool([D1])
        pool.submit(5, retries=1)
        pool.step((D1, Lost(Crash("it died"), 1)))
        for peer in (D1, CLIENT):
            commands = pool.step((peer, Printed(1, "text\n")))
            assert len(sent(commands, peer, Refused)) == 1
            assert sent(commands, CLIENT, Printed) == []

    def test_an_outcome_keeps_its_log(self) -> None:
        pool = Pool([D1])
        pool.submit(5)
        commands = pool.step((D1, Done((Outcome(1, Kind.VALUE, b"v", log="text"),))))
        ((outcome,),) = [results.outcomes for results in sent(commands, CLIENT, Results)]
        assert (outcome.id, outcome.log) == (5, "text")


def test_a_mirai_has_its_log_once_it_is_done() -> None:
    pending = Pending()
    mirais = [Mirai[None](id) for id in (1, 2, 3)]
    for mirai in mirais:
        pending.add(mirai)
        assert mirai.log == ""
    assert pending.get(1) is mirais[0]
    outcomes = [
        Outcome(id, kind, log=f"of {id}") for id, kind in ((1, Kind.VALUE), (2, Kind.ERROR))
    ]
    pending.settle(outcomes)
    assert [mirai.log for mirai in mirais] == ["of 1", "of 2", ""]
    assert pending.get(1) is None


# ── the host ─────────────────────────────────────────────────────────────────────────────


def test_each_line_has_its_tag() -> None:
    assert tagged("[fit 1]", "a\n\nb\n") == "[fit 1] a\n[fit 1] \n[fit 1] b\n"
    assert tagged("[fit 1]", "a") == "[fit 1] a\n"


def test_a_tag_has_a_short_name() -> None:
    names = ["__main__.fit", "m.test.<locals>.<lambda>", "version 1.2", "fit"]
    assert [tag(name, 7) for name in names] == [
        "[fit 7]",
        "[<lambda> 7]",
        "[version 1.2 7]",
        "[fit 7]",
    ]


class Terminal(io.StringIO):
    """A terminal that blocks until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        self.released.wait()
        return super().write(text)


class TestPrinter:
    def test_without_text_there_is_no_thread(self) -> None:
        before = threading.enumerate()
        printer = Printer()
        assert threading.enumerate() == before
        printer.close()

    def test_all_is_written_before_it_is_closed(self, capsys: pytest.CaptureFixture[str]) -> None:
        printer = Printer()
        for number in range(100):
            printer.add(f"[f {number}]", "text\n")
        printer.close()
        expected = "".join(f"[f {number}] text\n" for number in range(100))
        assert capsys.readouterr().out == expected
        assert not [t for t in threading.enumerate() if t.name == "mirai-print"]

    def test_a_flush_waits_until_all_is_written(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        printer = Printer()
        printer.flush()
        for number in range(3):
            printer.add("[f]", f"{number}\n")
            terminal.reached.wait()
            terminal.released.set()
            printer.flush()
            assert terminal.getvalue().endswith(f"[f] {number}\n")
        printer.close()

    def test_a_terminal_that_blocks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = Terminal()
        monkeypatch.setattr(sys, "stdout", terminal)
        printer = Printer()
        printer.add("[f]", "first\n")
        terminal.reached.wait()
        for _ in range(20):
            printer.add("[f]", "x" * (LIMIT // 10) + "\n")
        terminal.released.set()
        printer.close()
        text = terminal.getvalue()
        assert text.startswith("[f] first\n")
        assert "more lines are not shown" in text
        assert len(text) < 2 * LIMIT

    def test_a_terminal_that_fails(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for broken in (None, io.StringIO()):
            if broken is not None:
                broken.close()
            printer = Printer()
            with monkeypatch.context() as patch:
                patch.setattr(sys, "stdout", broken)
                printer.add("[f]", "text\n")
                printer.close()
        assert capsys.readouterr().err == ""

    def test_a_terminal_that_knows_few_characters(self, monkeypatch: pytest.MonkeyPatch) -> None:
        terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
        monkeypatch.setattr(sys, "stdout", terminal)
        printer = Printer()
        printer.add("[f]", "é\n")
        printer.close()
        assert terminal.buffer.getvalue() == b"[f] \\xe9\n"  # type: ignore[attr-defined]
