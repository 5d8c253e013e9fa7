"""What is written of workers is read as it was, and summed up."""

from __future__ import annotations

import os
import pickle
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mirai import MiraiError
from mirai.controllers import (
    Controller,
    MetricsLog,
    Sample,
    Samples,
    _enclosed,
    _sampler,
    read_metrics,
)
from mirai.controllers._metrics import file_name
from mirai.controllers._sampler import Begin, hold, release

MIB = 2**20


def sample(time: float, worker: str = "a", task: str = "", **fields: Any) -> Sample:
    """Return a sample, of which only so much is said."""
    known = {"cpu": 0.0, "resident": MIB, "pid": 1} | fields
    return Sample(
        time, worker, "host", status="running", cpu_machine=1.0, virtual=0, task=task, **known
    )


def write(path: Path, *samples: Sample) -> Path:
    """Write a file of samples; return its path."""
    path.write_bytes(b"".join(msgspec.json.encode(each) + b"\n" for each in samples))
    return path


class TestTheLog:
    def test_it_can_be_sent_and_compared(self) -> None:
        log = MetricsLog("metrics", "1m", host=False)
        assert pickle.loads(pickle.dumps(log)) == log
        assert log.interval == 60.0

    def test_its_directory_does_not_depend_on_where_workers_are(self, tmp_path: Path) -> None:
        assert MetricsLog("metrics").directory == os.path.abspath("metrics")
        assert MetricsLog(tmp_path).directory == str(tmp_path)

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            (("",), ValueError),
            ((b"bytes",), TypeError),
            ((None,), TypeError),
            (("a", 0), ValueError),
            (("a", "soon"), ValueError),
            (("a", None), TypeError),
        ],
    )
    def test_nonsense_is_refused(self, arguments: tuple[Any, ...], error: type[Exception]) -> None:
        with pytest.raises(error):
            MetricsLog(*arguments)

    def test_a_controller_takes_nothing_else(self) -> None:
        with pytest.raises(TypeError, match="metrics must be a MetricsLog, not str"):
            Controller(metrics="metrics")  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("worker", "file"),
        [
            ("host/1234", "host-1234.jsonl"),
            ("../../etc/passwd", "etc-passwd.jsonl"),
            ("job_7.array-1", "job_7.array-1.jsonl"),
            ("a\0b\nc", "a-b-c.jsonl"),
            ("..", "worker.jsonl"),
            ("", "worker.jsonl"),
            ("é" * 9 + "x" * 999, "x" * 200 + ".jsonl"),
        ],
    )
    def test_names_are_safe_for_files(self, worker: str, file: str) -> None:
        assert file_name(worker) == file


class TestReading:
    SAMPLES = (sample(1.0), sample(2.5, task='a "task"\n', cpu=12.5), sample(3.0))

    def test_it_gives_what_was_written(self, tmp_path: Path) -> None:
        assert read_metrics(write(tmp_path / "a.jsonl", *self.SAMPLES)) == list(self.SAMPLES)

    def test_a_directory_is_all_its_files(self, tmp_path: Path) -> None:
        write(tmp_path / "b.jsonl", self.SAMPLES[1])
        write(tmp_path / "a.jsonl", self.SAMPLES[0])
        (tmp_path / "notes.txt").write_text("other things")
        assert read_metrics(tmp_path) == list(self.SAMPLES[:2])
        assert MetricsLog(tmp_path).read() == list(self.SAMPLES[:2])

    def test_a_torn_line_is_skipped_wherever_it_was_torn(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.jsonl", *self.SAMPLES[:2], sample(3.0, task="é"))
        whole = file.read_bytes()
        second = whole.index(b"\n", whole.index(b"\n") + 1) + 1
        for end in range(second, len(whole) - 2):
            file.write_bytes(whole[:end])
            assert read_metrics(file) == list(self.SAMPLES[:2])

    def test_what_follows_a_torn_line_is_read(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.jsonl", self.SAMPLES[0])
        file.write_bytes(file.read_bytes()[:40] + b"\n" + file.read_bytes())
        assert read_metrics(file) == [self.SAMPLES[0]]

    def test_a_file_of_other_things_is_refused(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.jsonl", self.SAMPLES[0])
        file.write_bytes(file.read_bytes() + b'{"name": "x"}\n')
        with pytest.raises(ValueError, match=r"a.jsonl, line 2 is no sample"):
            read_metrics(file)

    def test_what_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            read_metrics(tmp_path / "nowhere")
        assert read_metrics(tmp_path) == []


class TestFrames:
    SAMPLES = Samples([sample(1.0), sample(2.0, task="fit")])

    @pytest.mark.parametrize("kind", ["pandas", "polars"])
    def test_a_frame_has_one_row_a_sample(self, kind: Any) -> None:
        frame = self.SAMPLES.to_frame(kind)
        assert list(frame["task"]) == ["", "fit"]
        assert list(frame["resident"]) == [MIB, MIB]
        assert len(frame.columns) == 10

    def test_a_table_of_arrow(self) -> None:
        assert self.SAMPLES.to_frame("arrow")["time"].to_pylist() == [1.0, 2.0]

    @pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
    def test_no_samples_have_the_same_columns(self, kind: Any) -> None:
        assert len(Samples().to_frame(kind)) == 0
        assert "worker" in str(Samples().to_frame(kind))

    def test_another_kind_is_refused(self) -> None:
        with pytest.raises(ValueError, match="kind"):
            self.SAMPLES.to_frame("excel")  # type: ignore[arg-type]


class TestSummary:
    SAMPLES = Samples(
        [
            sample(0.0, "a"),  # a first one: it knows of no time before
            sample(1.0, "a", "fit", cpu=100.0, resident=3 * MIB),
            sample(4.0, "a", "fit", cpu=20.0, resident=5 * MIB),
            sample(8.0, "a", cpu=10.0, resident=7 * MIB),
            sample(2.0, "b"),
            sample(4.0, "b", "fit", cpu=50.0, resident=9 * MIB),
        ]
    )

    def test_workers(self) -> None:
        a, b = self.SAMPLES.summary().workers
        assert (a.name, a.samples, a.seconds) == ("a", 4, 8.0)
        assert (a.cpu_mean, a.cpu_max) == (pytest.approx(200 / 8), 100.0)
        assert (a.resident_mean, a.resident_max) == (4 * MIB, 7 * MIB)
        assert (b.name, b.seconds, b.cpu_mean) == ("b", 2.0, 50.0)

    def test_tasks_of_all_workers(self) -> None:
        (fit,) = self.SAMPLES.summary().tasks
        assert (fit.name, fit.samples, fit.seconds) == ("fit", 3, 6.0)
        assert fit.cpu_mean == pytest.approx((100 + 60 + 100) / 6)
        assert fit.resident_max == 9 * MIB

    def test_a_process_that_has_the_name_of_another_is_another(self) -> None:
        samples = Samples([sample(0.0, pid=1), sample(50.0, pid=2), sample(51.0, pid=2)])
        (worker,) = samples.summary().workers
        assert (worker.samples, worker.seconds) == (3, 1.0)

    def test_a_clock_that_was_put_back_takes_nothing_away(self) -> None:
        (worker,) = Samples([sample(9.0), sample(5.0), sample(6.0)]).summary().workers
        assert worker.seconds == 1.0

    def test_it_prints_as_tables(self) -> None:
        lines = str(self.SAMPLES.summary()).splitlines()
        assert " ".join(lines[0].split()) == "worker samples seconds cpu % max resident MiB max"
        assert " ".join(lines[1].split()) == "a 4 8.0 25 100 4.0 7.0"
        assert lines[4].startswith("task")
        assert " ".join(lines[5].split()) == "fit 3 6.0 43 100 5.7 9.0"

    def test_a_long_table_is_cut(self) -> None:
        many = Samples(sample(0.0, f"w{number}") for number in range(25))
        assert "... and 5 more" in str(many.summary())

    def test_nothing_has_a_summary_too(self) -> None:
        assert Samples().summary().workers == ()
        assert str(Samples().summary())


class TestPlot:
    def test_it_saves_what_it_returns(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        write(tmp_path / "a.jsonl", *TestSummary.SAMPLES, sample(5.0, "b", task="$100 _"))
        figure = MetricsLog(tmp_path).plot(tmp_path / "a.png")
        memory, cpu, tasks = figure.axes
        assert [line.get_label() for line in memory.lines] == ["a", "b"]
        assert list(cpu.lines[0].get_ydata()) == [0.0, 100.0, 20.0, 10.0]
        assert [text.get_text().strip() for text in tasks.texts] == ["fit", "fit", "$100 _"]
        assert (tmp_path / "a.png").read_bytes()[1:4] == b"PNG"

    def test_nothing_can_be_drawn(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        MetricsLog(tmp_path).plot(tmp_path / "a.svg")
        assert b"<svg" in (tmp_path / "a.svg").read_bytes()

    def test_it_leaves_pyplot_alone(self) -> None:
        pytest.importorskip("matplotlib")
        loaded = run("import sys, mirai.controllers._metrics_plot; print(*sys.modules)")
        assert "matplotlib.figure" in loaded.split()
        assert "matplotlib.pyplot" not in loaded.split()


class TestSampling:
    """Of this very process: it is its own worker."""

    @pytest.fixture(autouse=True)
    def fresh(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Nothing is sampled before, and nothing after."""
        samplers = _sampler._Samplers()
        monkeypatch.setattr(_sampler, "_samplers", samplers)
        yield
        for sampler in samplers._at_work.values():
            sampler.end()
        assert threads() == []

    def test_a_host_is_sampled_while_it_holds(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "new" / "metrics", 3_600)
        hold(log)
        hold(log)
        release(log)
        assert len(threads()) == 1
        release(log)
        assert threads() == []
        first, last = log.read()
        assert first.worker == last.worker == f"host/{first.host}/{os.getpid()}"
        assert first.resident > MIB
        assert first.time <= last.time
        release(log)  # which nobody holds any more

    def test_no_single_thread_takes_more_than_a_core_however_brief_the_time(
        self, tmp_path: Path
    ) -> None:
        log = MetricsLog(tmp_path, 3_600)
        hold(log)
        (sampler,) = _sampler._samplers._at_work.values()
        release(log)  # so that its own thread is gone
        taken = [sampler._sample() for _ in range(1_000)]
        assert 0 < max(each.cpu for each in taken) < 150

    def test_what_it_writes_is_for_this_user_only(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "metrics", 3_600)
        hold(log)
        release(log)
        (file,) = (tmp_path / "metrics").iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    def test_workers_that_are_threads_of_a_host_are_in_its_samples(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, 3_600)
        hold(log)
        Begin(log)()
        assert len(threads()) == 1
        release(log)
        assert threads() == []

    def test_without_its_host_a_process_is_sampled_for_its_workers(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, 3_600, host=False)
        hold(log)
        assert threads() == []
        Begin(log)()
        Begin(log)()
        assert len(threads()) == 1
        release(log)
        assert threads() == []

    def test_the_controllers_of_its_tasks_do_not_end_a_workers_samples(
        self, tmp_path: Path
    ) -> None:
        log = MetricsLog(tmp_path, 3_600)
        Begin(log)()
        hold(log)
        release(log)
        assert len(threads()) == 1

    def test_init_is_called_and_may_raise(self, tmp_path: Path) -> None:
        calls: list[int] = []
        Begin(MetricsLog(tmp_path, 3_600), lambda: calls.append(1))()
        assert calls == [1]
        with pytest.raises(ZeroDivisionError):
            Begin(MetricsLog(tmp_path, 3_600), lambda: 1 / 0)()

    def test_a_task_of_any_name_is_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(_enclosed.running, 0, "a\udc80\n")
        log = MetricsLog(tmp_path, 3_600)
        hold(log)
        release(log)
        assert {each.task for each in log.read()} == {"a\\udc80\n"}

    def test_a_directory_that_cannot_be_is_told_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "file").write_text("")
        log = MetricsLog(tmp_path / "file" / "metrics", 3_600)
        hold(log)
        release(log)
        assert len(caplog.records) == 1
        assert "metrics of this process could not be taken" in caplog.text

    def test_without_psutil_a_host_says_so_and_a_worker_works(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setitem(sys.modules, "psutil", None)
        calls: list[int] = []
        Begin(MetricsLog(tmp_path), lambda: calls.append(1))()
        assert calls == [1]
        assert "this worker is not measured" in caplog.text
        with pytest.raises(MiraiError, match=r"pip install 'mirai-zmq\[metrics\]'"):
            hold(MetricsLog(tmp_path))

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
    @pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
    def test_a_forked_child_has_no_samples(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path, 3_600)
        hold(log)
        (sampler,) = _sampler._samplers._at_work.values()
        held = sampler._over._cond  # type: ignore[attr-defined]
        held.acquire()  # as its thread may have it at that moment
        child = os.fork()
        if not child:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)  # it may hang
            sampler.end()
            release(log)
            os._exit(len(_sampler._samplers._at_work))
        held.release()
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(threads()) == 1
        release(log)
        assert {each.pid for each in log.read()} == {os.getpid()}


def threads() -> list[threading.Thread]:
    """Return those that take samples."""
    return [each for each in threading.enumerate() if each.name == "mirai-metrics"]


def run(program: str) -> str:
    """Return what a program prints."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_controllers_load_neither_psutil_nor_matplotlib() -> None:
    loaded = run("import sys, mirai.controllers; print(*sys.modules)").split()
    assert not {"psutil", "matplotlib", "mirai.controllers._sampler"} & set(loaded)
