"""``MetricsLog``: what workers take of their machines, and when, and for which task."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import msgspec

from mirai._errors import MiraiError
from mirai._limits import seconds
from mirai.controllers._frames import SHOWN, Frame, as_frame, as_text

SUFFIX = ".jsonl"
LONGEST = 200
"""How many characters of a worker's name are in that of its file."""
MIB = 2**20
COLUMNS = (
    "samples",
    "seconds",
    "cpu %",
    "max",
    "resident MiB",
    "max",
)
"""What the table of a summary shows of each worker and each task."""
DRAWING = "metrics are drawn by matplotlib: pip install 'mirai-zmq[metrics]'"


@dataclass(frozen=True, slots=True)
class Sample:
    """What a process was like at one moment."""

    time: float
    """In seconds since the epoch, by its machine's clock."""
    worker: str
    """What results call it; ``host/`` and that, where it is the controller's own process."""
    host: str
    pid: int
    status: str
    """As psutil has it: of its main thread, such as ``"running"`` or ``"disk-sleep"``."""
    cpu: float
    """Percent of one core since its last sample; of its first one, 0."""
    cpu_machine: float
    """Percent of all cores, by whomever, since its last sample; of its first one, 0."""
    resident: int
    """Bytes that it has in memory."""
    virtual: int
    """Bytes of its address space."""
    task: str
    """The name of the task that it is evaluating; empty if there is none."""


class Samples(list[Sample]):
    """A list of samples: it becomes a data frame."""

    def to_frame(self, kind: Frame = "pandas") -> Any:
        """Return a DataFrame of pandas or of polars, or a Table of Arrow: one row a sample.

        Raises ImportError if the package is not installed, and ValueError for another ``kind``.
        """
        names = [field.name for field in fields(Sample)]
        return as_frame({name: [getattr(each, name) for each in self] for name in names}, kind)

    def summary(self) -> MetricsSummary:
        """Return what each worker, and each task, has taken."""
        spans = list(_spans(self))
        return MetricsSummary(
            _usages(spans, lambda sample: sample.worker),
            _usages(spans, lambda sample: sample.task),
        )


@dataclass(frozen=True, slots=True)
class Usage:
    """What a worker has taken, or any of them for a task.

    What was taken between two samples counts for the task that was running at the second one.
    """

    name: str
    samples: int
    seconds: float
    """For how long it was observed."""
    cpu_mean: float
    """Percent of one core."""
    cpu_max: float
    resident_mean: float
    """Bytes."""
    resident_max: int


@dataclass(frozen=True, slots=True)
class MetricsSummary:
    """What workers have taken, each of them, and for each task.  It prints as two tables."""

    workers: tuple[Usage, ...]
    """Every process that was sampled, the controller's own one too."""
    tasks: tuple[Usage, ...]
    """Every task that was running when a sample was taken: brief ones may be missing."""

    def __str__(self) -> str:
        return f"{_table('worker', self.workers)}\n\n{_table('task', self.tasks)}"


@dataclass(frozen=True, slots=True)
class MetricsLog:
    """Has each worker of a controller measure itself: what it takes of its machine, and when.

        metrics = MetricsLog("metrics")
        with Controller(workers=4, metrics=metrics) as controller:
            controller.map(fit, data)
        print(metrics.summary())
        metrics.plot("metrics.png")

    Every ``interval`` seconds (a number, or like ``"1m"``), when it starts and when it ends in
    peace, a process appends one line to a file of its own in ``directory``: a ``Sample``, in JSON.
    The ``host``'s process, which is the controller's, does so too, as long as it has workers.
    ``directory`` is made if need be, for this user only.

    Each worker writes where it runs: what ``summary``, ``plot`` and ``read_metrics`` see is what
    lies on this machine, or in a file system that they share.  A worker that cannot write there,
    or has no psutil, works all the same.  One that is a thread is in its process's samples.

    Raises TypeError or ValueError for what makes no sense.
    """

    directory: str | os.PathLike[str]
    interval: float | str = 5.0
    host: bool = True

    def __post_init__(self) -> None:
        directory = os.fspath(self.directory)
        if not isinstance(directory, str):
            raise TypeError(f"directory must be a path in a str, not {directory!r}")
        if not directory:
            raise ValueError("directory must not be empty")
        object.__setattr__(self, "directory", os.path.abspath(directory))
        object.__setattr__(self, "interval", seconds("interval", self.interval))

    def read(self) -> Samples:
        """Return all samples that lie there.  Raises like ``read_metrics``."""
        return read_metrics(self.directory)

    def summary(self) -> MetricsSummary:
        """Return what each worker, and each task, has taken.  Raises like ``read_metrics``."""
        return self.read().summary()

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """Draw memory and CPU of each worker over time, and its tasks; return matplotlib's Figure.

        With ``path``, save it there too, in the format that the name says: ``"metrics.png"``.
        Raises like ``read_metrics``, and MiraiError where matplotlib is not installed.
        """
        try:
            from mirai.controllers._metrics_plot import draw
        except ImportError:
            raise MiraiError(DRAWING) from None
        figure = draw(self.read())
        if path is not None:
            figure.savefig(path)
        return figure


def read_metrics(path: str | os.PathLike[str]) -> Samples:
    """Return the samples of a file, or of all files of a directory, in the order of their names.

    A line that was cut off, by a crash or a full disk, is skipped.  Raises OSError for what cannot
    be read, and ValueError for a file that holds something else.
    """
    where = Path(path)
    files = sorted(where.glob(f"*{SUFFIX}")) if where.is_dir() else [where]
    return Samples(sample for file in files for sample in _read(file))


def file_name(worker: str) -> str:
    """Return what the file of a worker is called.

    Two workers may share one: each line says whose it is.
    """
    safe = re.sub(r"[^A-Za-z0-9_.-]+", "-", worker).strip("-.")
    return f"{safe[:LONGEST] or 'worker'}{SUFFIX}"


_decoder = msgspec.json.Decoder(Sample)


def _read(file: Path) -> Iterable[Sample]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _decoder.decode(line)
            except msgspec.ValidationError as error:
                raise ValueError(f"{file}, line {number} is no sample: {error}") from None
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue


def _spans(samples: Iterable[Sample]) -> Iterable[tuple[Sample, float]]:
    """Yield each sample with the seconds since the one before of the same process."""
    before: dict[tuple[str, int], float] = {}
    for sample in samples:
        process = sample.worker, sample.pid
        yield sample, max(0.0, sample.time - before.get(process, sample.time))
        before[process] = sample.time


def _usages(
    spans: Iterable[tuple[Sample, float]], key: Callable[[Sample], str]
) -> tuple[Usage, ...]:
    """Return the usage by whatever ``key`` returns, unless that is empty."""
    groups: dict[str, list[tuple[Sample, float]]] = {}
    for sample, span in spans:
        if name := key(sample):
            groups.setdefault(name, []).append((sample, span))
    return tuple(_usage(name, group) for name, group in groups.items())


def _usage(name: str, spans: list[tuple[Sample, float]]) -> Usage:
    covered = sum(span for _, span in spans)
    # Each tells of the time before it: so the first one of a process, which knows none, says 0.
    busy = sum(sample.cpu * span for sample, span in spans)
    resident = [sample.resident for sample, _ in spans]
    return Usage(
        name,
        len(spans),
        covered,
        busy / covered if covered else 0.0,
        max(sample.cpu for sample, _ in spans),
        sum(resident) / len(resident),
        max(resident),
    )


def _table(what: str, usages: tuple[Usage, ...]) -> str:
    return as_text((what, *COLUMNS), [_cells(each) for each in usages[:SHOWN]], len(usages))


def _cells(usage: Usage) -> tuple[str, ...]:
    return (
        usage.name,
        str(usage.samples),
        f"{usage.seconds:.1f}",
        f"{usage.cpu_mean:.0f}",
        f"{usage.cpu_max:.0f}",
        f"{usage.resident_mean / MIB:,.1f}",
        f"{usage.resident_max / MIB:,.1f}",
    )
