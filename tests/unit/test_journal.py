"""A journal tells what it was told, however it was left."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dispatcher import journal_rows, wire
from dispatcher.journal import Highest, Journal, JournalError
from dispatcher.journal_rows import BegunRow, Stretch, recounted
from dispatcher.messages import Blob, Crash, Done, Function, Kind, Outcome, Run, Step, Task
from dispatcher.records import (
    Again,
    Begun,
    Ended,
    Enlisted,
    FunctionDropped,
    FunctionMade,
    JobDropped,
    JobMade,
    LetGo,
    Past,
    Record,
    Retired,
    Unbegun,
)

POSIX = os.name == "posix"
FUNCTION = FunctionMade(Function(1, "f", b"code", (Blob(b"big" * 9),)), b"digest", b"version")
CRASH = Crash("r", 1, "h", 2, 3, "t", "j")
BIG = b"0123456789" * 20_000


class Model:
    """What a journal should tell, task by task."""

    def __init__(self) -> None:
        self.jobs: dict[int, JobMade] = {}
        self.functions: dict[int, FunctionMade] = {}
        self.runs: dict[int, Enlisted] = {}
        self.begun: dict[int, int] = {}
        self.ended: dict[int, tuple[Kind, float]] = {}
        self.kept: dict[int, Outcome] = {}

    def apply(self, record: Record) -> None:
        match record:
            case JobMade():
                self.jobs[record.number] = record
            case JobDropped(number):
                del self.jobs[number]
                for first in [first for first, run in self.runs.items() if run.job == number]:
                    self.retire(first)
            case FunctionMade():
                self.functions[record.function.number] = record
            case FunctionDropped(number):
                del self.functions[number]
            case Enlisted():
                self.runs[record.task.id] = record
            case Begun(first, count):
                for serial in range(first, first + count):
                    self.begun[serial] = self.begun.get(serial, 0) + 1
            case Unbegun(first, count):
                for serial in range(first, first + count):
                    self.begun[serial] -= 1
                    if not self.begun[serial]:
                        del self.begun[serial]
            case Ended(outcome, at):
                for one in singles(outcome):
                    self.ended[one.id] = outcome.kind, at
                    self.kept[one.id] = one
            case Again(first, count):
                for serial in range(first, first + count):
                    self.forget(serial)
            case LetGo(first, count):
                for serial in range(first, first + count):
                    self.kept.pop(serial, None)
            case Retired(first):
                self.retire(first)

    def retire(self, first: int) -> None:
        for serial in serials(self.runs.pop(first).task):
            self.forget(serial)

    def forget(self, serial: int) -> None:
        for tasks in (self.begun, self.ended, self.kept):
            tasks.pop(serial, None)  # type: ignore[attr-defined]


def serials(task: Task) -> range:
    return range(task.id, task.id + task.count)


def singles(outcome: Outcome) -> Iterator[Outcome]:
    """The outcome of each task, without its time, of which a run knows only the sum."""
    payloads = (outcome.payload, *outcome.following)
    for serial, payload in enumerate(payloads, outcome.id):
        yield Outcome(
            serial,
            outcome.kind,
            payload,
            tuple(Blob(bytes(blob.data)) for blob in outcome.blobs),
            crash=outcome.crash,
            again=outcome.again,
            log=outcome.log,
            story=outcome.story,
        )


def told(journal: Journal) -> Model:
    """Return what a journal tells, and check the order in which it does."""
    model = Model()
    loaded = [*journal.load()]
    kinds = [kind for kind, _ in groupby(loaded, type)]
    assert kinds[:1] in ([JobMade], [FunctionMade], [Enlisted], [])
    run = range(0)
    for record in loaded:
        match record:
            case JobMade() | FunctionMade():
                assert not model.runs
                model.apply(record)
            case Enlisted(task=task):
                assert task.id >= run.stop
                run = serials(task)
                model.apply(record)
            case Begun(first, count):
                assert run.start <= first and first + count <= run.stop
                model.apply(record)
            case Past(first, count, kind, at):
                for serial in range(first, first + count):
                    model.ended[serial] = kind, at
            case LetGo(first, count):
                assert all(serial in model.ended for serial in range(first, first + count))
    for first, enlisted in model.runs.items():
        for outcome in journal.read(first, enlisted.task.count):
            model.kept.update({one.id: one for one in singles(outcome)})
    return model


def assert_tells(journal: Journal, expected: Model) -> None:
    assert vars(told(journal)) == vars(expected)


def saved(journal: Journal, *records: Record) -> Model:
    """Save records one by one; return what it should tell."""
    model = Model()
    for record in records:
        journal.save([record])
        model.apply(record)
    return model


def task(first: int, count: int = 1, function: int = 1) -> Task:
    following = tuple(b"argument %d" % serial for serial in range(first + 1, first + count))
    return Task(first, function, b"argument %d" % first, following=following)


def outcome(first: int, count: int = 1) -> Outcome:
    following = tuple(b"value %d" % serial for serial in range(first + 1, first + count))
    payload = b"value %d" % first
    return Outcome(first, Kind.VALUE, payload, seconds=0.5 * count, following=following)


def left(path: Path, folder: Path) -> Path:
    """Copy a journal's files as they are now, as if its process were killed."""
    folder.mkdir(exist_ok=True)
    for name in ("j", "j-wal", "j-mark"):
        (folder / name).unlink(missing_ok=True)
        if (path.parent / name).exists():
            shutil.copyfile(path.parent / name, folder / name)
            (folder / name).chmod(0o600)
    return folder / "j"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    return folder / "j"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    journal = Journal(path)
    yield journal
    journal.close()


# ── every record, in every order ─────────────────────────────────────────────────────────


KINDS: list[type[Record]] = [
    *(JobMade, FunctionMade, Enlisted, Begun, Begun, Unbegun, Ended, Ended, LetGo),
    *(Again, Retired, JobDropped, FunctionDropped),
]


def random_record(draw: random.Random, model: Model, highest: list[int]) -> Record | None:
    """Return a record that may follow, or None where the kind that was drawn may not."""
    kind = draw.choice(KINDS)
    if kind is JobMade or not model.jobs:
        highest[0] += 1
        return JobMade(highest[0], draw.choice(["a", "naïve \0 ☃", ""]), draw.random())
    if kind is FunctionMade or not model.functions:
        highest[1] += 1
        blobs = tuple(
            Blob(draw.randbytes(draw.choice([0, 3, 100]))) for _ in range(draw.choice([0, 2]))
        )
        function = Function(highest[1], "f", draw.randbytes(5), blobs, draw.random() < 0.5)
        return FunctionMade(function, draw.randbytes(16), draw.randbytes(draw.choice([0, 8])))
    if kind is FunctionDropped:
        return FunctionDropped(draw.choice([*model.functions]))
    if kind is JobDropped and draw.random() < 0.3:
        return JobDropped(draw.choice([*model.jobs]))
    if kind is Enlisted or not model.runs:
        return random_run(draw, model, highest)
    first, run = draw.choice([*model.runs.items()])
    if kind is Retired:
        return Retired(first)
    start = draw.randrange(run.task.count)
    count = draw.randint(1, run.task.count - start)
    return random_step(draw, model, kind, range(first + start, first + start + count))


def random_run(draw: random.Random, model: Model, highest: list[int]) -> Enlisted:
    first = highest[2] = highest[2] + draw.choice([1, 1, 50])
    function, job = draw.choice([*model.functions]), draw.choice([*model.jobs])
    if draw.random() < 0.5:
        run = task(first, draw.randint(1, 40), function)
    else:
        blobs = tuple(Blob(draw.randbytes(90)) for _ in range(draw.choice([1, 2])))
        run = Task(first, function, b"", blobs, 3, 2.5, 7, ("gpu",), b"seed", True)
    highest[2] += run.count - 1
    keys = draw.randbytes(16 * run.count) if draw.random() < 0.5 else b""
    return Enlisted(job, run, keys, draw.random() < 0.5, draw.random())


def random_step(
    draw: random.Random, model: Model, kind: type[Record], span: range
) -> Record | None:
    first, count = span.start, len(span)
    some_begun = all(serial in model.begun for serial in span)
    if kind is Begun or (kind is Unbegun and some_begun):
        return kind(first, count)  # type: ignore[call-arg]
    if kind is Ended and not any(serial in model.ended for serial in span):
        return Ended(random_outcome(draw, first, count), draw.random())
    if kind in (LetGo, Again) and all(serial in model.ended for serial in span):
        return kind(first, count)  # type: ignore[call-arg]
    return None


def random_outcome(draw: random.Random, first: int, count: int) -> Outcome:
    if count > 1:
        return outcome(first, count)
    crash = Crash("it died", -9, "host", 77, 2, "its last words", "job-1")
    story = (Step(1.5, "was given away"),)
    blobs = tuple(Blob(draw.randbytes(80)) for _ in range(draw.choice([0, 2])))
    return draw.choice(
        [
            Outcome(first, Kind.CRASHED, crash=crash, story=story),
            Outcome(first, Kind.ERROR, b"error", again=True, log="printed ☃"),
            Outcome(first, Kind.VALUE, b"x", blobs, 0.25),
            Outcome(first, Kind.CANCELLED),
        ]
    )


@settings(deadline=None)
@given(st.integers(0, 1 << 32))
def test_it_tells_what_it_was_told(seed: int) -> None:
    draw, model, highest = random.Random(seed), Model(), [0, 0, 0]
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal_rows, "PIECE", 32)
        path = Path(folder) / "j"
        journal = Journal(path, synchronous=False)
        for _ in range(draw.randint(1, 12)):
            records = []
            for _ in range(draw.randint(1, 12)):
                if record := random_record(draw, model, highest):
                    model.apply(record)
                    records.append(record)
            journal.save(records)
            assert_tells(journal, model)
        assert journal.highest() == Highest(*highest)
        if draw.random() < 0.5:
            killed = Journal(left(path, Path(folder) / "killed"))
            assert_tells(killed, model)
            killed.close()
        journal.close()
        again = Journal(path)
        assert_tells(again, model)
        assert again.highest() == Highest(*highest)
        for first in [*model.runs]:
            again.save([Retired(first)])
        assert again._db.execute(
            "SELECT count(*) FROM pieces WHERE owner != 'functions'"
        ).fetchone() == (0,)
        for table in ("runs", "begun", "outcomes"):
            assert again._db.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        again.close()


def test_what_follows_one_another_is_one_row(journal: Journal) -> None:
    journal.save(Enlisted(1, task(first)) for first in range(1, 101))
    journal.save(Begun(first, 1) for first in range(1, 51))
    journal.save([Begun(51, 50)])
    assert journal._db.execute("SELECT first, tasks, times FROM begun").fetchall() == [(1, 100, 1)]
    assert [record for record in journal.load() if isinstance(record, Begun)] == [
        Begun(first, 1) for first in range(1, 101)
    ]


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 9), st.sampled_from([1, -1, -99]))),
)
def test_counts_of_spans(changes: list[tuple[int, int, int]]) -> None:
    rows: list[BegunRow] = []
    counts = dict.fromkeys(range(1, 40), 0)
    for first, count, by in changes:
        rows = [*recounted(rows, Stretch(first, first + count), lambda times, by=by: times + by)]  # type: ignore[misc]
        for serial in range(first, first + count):
            counts[serial] = max(0, counts[serial] + by)
    found = dict.fromkeys(counts, 0)
    for row in rows:
        assert row.times > 0
        found.update(dict.fromkeys(range(row.first, row.end), row.times))
    assert found == counts
    assert all(one.end < two.first or one.times != two.times for one, two in zip(rows, rows[1:]))  # noqa: B905, RUF007


def test_a_large_blob_is_kept_in_pieces(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_rows, "PIECE", 1 << 16)
    blobs = Blob(memoryview(bytearray(BIG))), Blob(b""), Blob(b"small")
    model = saved(
        journal,
        JobMade(1, "a", 1.0),
        Enlisted(1, Task(1, 1, b"", blobs)),
        Ended(Outcome(1, Kind.VALUE, b"", blobs)),
    )
    assert journal._db.execute("SELECT count(*) FROM pieces").fetchone() == (12,)
    assert_tells(journal, model)
    [found] = journal.read(1, 1)
    assert [bytes(blob.data) for blob in found.blobs] == [BIG, b"", b"small"]
    journal.save([LetGo(1, 1)])
    assert journal._db.execute("SELECT count(*) FROM pieces").fetchone() == (6,)
    assert [*journal.read(1, 1)] == []
    assert Past(1, 1, Kind.VALUE) in journal.load()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has such memory")
def test_blobs_in_shared_memory_are_kept(journal: Journal) -> None:
    from dispatcher.shared import Shared

    shared = Shared.copy(memoryview(BIG))
    end = Ended(Outcome(1, Kind.VALUE, b"", (Blob(shared),)))
    journal.save([Enlisted(1, task(1)), end])
    [found] = journal.read(1, 1)
    assert bytes(found.blobs[0].data) == BIG


def test_outcomes_are_cut_to_what_was_asked_for(journal: Journal) -> None:
    journal.save([Enlisted(1, task(1, 10)), Ended(outcome(1, 4)), Ended(outcome(7, 4))])
    found = [*journal.read(3, 6)]
    assert [(part.id, part.count, part.seconds) for part in found] == [(3, 2, 1.0), (7, 2, 1.0)]
    journal.save([LetGo(2, 2), Again(8, 1)])
    assert [(part.id, part.count) for part in journal.read(1, 10)] == [
        (1, 1),
        (4, 1),
        (7, 1),
        (9, 2),
    ]


def test_outcomes_may_be_fetched_while_they_are_read(journal: Journal) -> None:
    journal.save([Enlisted(1, task(1, 9)), *(Ended(outcome(n, 3)) for n in (1, 4, 7))])
    for part in journal.read(1, 9):
        journal.save([LetGo(part.id, part.count)])
    assert [*journal.read(1, 9)] == []


RUN = Run((Task(1, 2, b"p", (), 3, 0.5, 1, ("t",), b"", False, (b"q",)),))
MADE = Run((), (Function(1, "f", b"c", (Blob(b"x"),), True),))
DONE = Done((Outcome(1, Kind.CRASHED, b"v", (), 0.0, CRASH, False, "", (Step(1.5, "w"),)),))


@pytest.mark.parametrize(
    ("message", "frame"),
    [
        (RUN, "94a352756e919b0102c401709003cb3fe00000000000000191a174c400c291c401719090"),
        (MADE, "94a352756e90919501a166c401639101c390"),
        (
            DONE,
            "92a4446f6e65919a0103c4017690cb000000000000000097a17201a1680203a174a16ac2a09192cb"
            "3ff8000000000000a17790",
        ),
    ],
)
def test_how_frames_look_on_disks(message: Run | Done, frame: str) -> None:
    """Whoever changes this so that the old frames mean something else must raise FORMAT."""
    assert journal_rows.packed(message).frame.hex() == frame
    blobs = [b"x"] if message is MADE else []
    assert wire.decode([bytes.fromhex(frame), *blobs], Run | Done) == message


# ── opening ──────────────────────────────────────────────────────────────────────────────


def test_a_new_journal_is_empty_and_nobody_elses(path: Path) -> None:
    journal = Journal(path)
    assert [*journal.load()] == []
    assert journal.highest() == Highest(0, 0, 0)
    if POSIX:
        journal.save([JobMade(1, "a", 1.0)])
        for file in path.parent.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    journal.close()
    assert [file.name for file in path.parent.iterdir()] == ["j"]


def test_closed_twice_it_closes_nothing_of_others(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    journal.close()
    with open(tmp_path / "other", "wb") as other:  # under a number that was the journal's
        journal.close()
        os.fstat(other.fileno())


def test_once_closed_the_file_alone_is_the_journal(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    model = saved(journal, JobMade(1, "a", 1.0), FUNCTION, Enlisted(1, task(1, 3)))
    journal.close()
    copy = tmp_path / "copy"
    shutil.copyfile(path, copy)
    copy.chmod(0o600)
    again = Journal(copy)
    assert_tells(again, model)
    again.close()


def test_what_is_saved_at_once_is_there_as_a_whole_or_not_at_all(journal: Journal) -> None:
    model = saved(journal, JobMade(1, "a", 1.0))
    with pytest.raises(ValueError, match="a number is used twice"):
        journal.save([JobMade(2, "b", 1.0), FUNCTION, JobMade(1, "twice", 1.0)])
    assert_tells(journal, model)
    assert journal.highest() == Highest(1, 0, 0)
    journal.save([JobMade(2, "b", 1.0)])
    model.apply(JobMade(2, "b", 1.0))
    assert_tells(journal, model)


@pytest.mark.parametrize(
    "records",
    [
        [Enlisted(1, task(9, 5))],
        [Ended(outcome(3, 2))],
        [Ended(outcome(5, 3)), Ended(outcome(7, 2))],
        [Ended(outcome(9, 5))],
        [Ended(outcome(21))],
        [Begun(10, 2)],
        [Retired(1), Ended(outcome(5))],
    ],
    ids=repr,
)
def test_what_does_not_follow_is_refused(journal: Journal, records: list[Record]) -> None:
    model = saved(journal, JobMade(1, "a", 1.0), Enlisted(1, task(1, 10)), Ended(outcome(1, 3)))
    with pytest.raises(ValueError, match=r"of the tasks from|was used before"):
        journal.save(records)
    assert_tells(journal, model)


def refused(path: Path) -> str:
    with pytest.raises(JournalError) as caught:
        Journal(path)
    return str(caught.value)


def test_a_second_one_is_refused(path: Path, journal: Journal) -> None:
    journal.save([JobMade(1, "a", 1.0)])
    assert f"{path} is in use by process {os.getpid()}" in refused(path)
    script = "import sys; from dispatcher.journal import Journal; Journal(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True)
    assert f"is in use by process {os.getpid()}: only one" in other.stderr
    journal.save([JobMade(2, "b", 1.0)])


def test_it_is_free_when_its_process_is_gone(path: Path) -> None:
    script = (
        "import os, sys; from dispatcher.journal import Journal;"
        "from dispatcher.records import JobMade;"
        "journal = Journal(sys.argv[1]); journal.save([JobMade(1, 'a', 1.0)]); os._exit(9)"
    )
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == 9
    journal = Journal(path)
    assert [*journal.load()] == [JobMade(1, "a", 1.0)]
    journal.close()


def test_a_directory_is_refused(path: Path) -> None:
    path.mkdir()
    assert f"{path} is a directory" in refused(path)


@pytest.mark.parametrize("data", [b"some text\n" * 50, b"x", b"SQLite format 3\0" + b"\0" * 200])
def test_another_file_is_refused_and_left_alone(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    assert f"{path} is not a journal" in refused(path)
    assert path.read_bytes() == data
    assert [*path.parent.iterdir()] == [path]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_what_is_no_file_is_refused_and_left_alone(path: Path) -> None:
    os.mkfifo(path)
    with pytest.raises(JournalError, match="is no file"):
        Journal(path)
    assert path.is_fifo()
    assert os.listdir(path.parent) == [path.name]


def test_a_journal_with_two_names_is_refused(path: Path, tmp_path: Path) -> None:
    Journal(path).close()
    other = tmp_path / "other.db"
    os.link(path, other)
    for name in (path, other):
        with pytest.raises(JournalError, match="another name"):
            Journal(name)


def test_another_database_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()
    assert f"{path} is not a journal" in refused(path)


def test_an_empty_file_becomes_a_journal(path: Path) -> None:
    path.touch(0o600)
    Journal(path).close()
    assert path.stat().st_size > 0


def test_a_newer_format_is_refused(path: Path) -> None:
    Journal(path).close()
    data = bytearray(path.read_bytes())
    data[60:64] = (99).to_bytes(4, "big")
    path.write_bytes(data)
    assert "has format 99, and this version of mirai reads 1" in refused(path)


def test_a_journal_that_is_gone_is_missed(path: Path, tmp_path: Path) -> None:
    journal = Journal(path)
    journal.save([JobMade(1, "a", 1.0)])
    copy = left(path, tmp_path / "copy")
    journal.close()
    copy.unlink()
    assert f"{copy} is gone" in refused(copy)
    for name in ("j-wal", "j-mark"):
        (copy.parent / name).unlink()
    Journal(copy).close()


@pytest.mark.skipif(not POSIX, reason="others cannot be told apart")
@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal", "-mark"])
def test_what_others_have_laid_beside_it_is_refused(path: Path, suffix: str) -> None:
    """SQLite would take another's log for what was saved last."""
    Journal(path).close()
    beside = path.with_name(path.name + suffix)
    beside.touch()
    beside.chmod(0o620)
    assert "others may write it" in refused(path)
    beside.unlink()
    beside.symlink_to(path.with_name("elsewhere"))
    assert "others may write it" in refused(path)
    assert not path.with_name("elsewhere").exists()


@pytest.mark.skipif(not POSIX, reason="others cannot be told apart")
def test_where_everybody_may_put_files_there_is_none(path: Path) -> None:
    path.parent.chmod(0o1777)
    assert "every user may put files" in refused(path)
    assert [*path.parent.iterdir()] == []


@pytest.mark.skipif(not POSIX, reason="others cannot be told apart")
def test_one_that_others_may_write_is_refused(path: Path) -> None:
    Journal(path).close()
    path.chmod(0o620)
    assert "others may write it" in refused(path)


@pytest.mark.skipif(not POSIX or os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written_is_refused(path: Path) -> None:
    path.parent.chmod(0o500)
    try:
        assert "Permission denied" in refused(path)
    finally:
        path.parent.chmod(0o700)


def test_a_directory_that_is_not_there_is_refused(path: Path) -> None:
    assert "no such directory" in refused(path.parent / "not" / "there")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody knows")
def test_a_network_file_system_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dispatcher.journal_file.kind_of", lambda _: "nfs4")
    assert "on a network file system (nfs4)" in refused(path)
    assert [*path.parent.iterdir()] == []


# ── room ─────────────────────────────────────────────────────────────────────────────────


def test_room_is_given_back(journal: Journal) -> None:
    journal.save([Enlisted(1, Task(1, 1, b"", (Blob(BIG * 100),)))])
    full = journal.size()
    assert full > len(BIG) * 100
    journal.save([Retired(1)])
    for _ in range(10):
        journal.tidy()
    (pages,) = journal._db.execute("PRAGMA page_count").fetchone()
    assert pages * 4096 < full / 4
