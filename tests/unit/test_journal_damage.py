"""Whatever happens to a journal, it never tells anything else than what it was told."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from test_journal import BIG, FUNCTION, Model, assert_tells, left, outcome, task, told

from dispatcher.journal import Journal, JournalError
from dispatcher.journal_check import check
from dispatcher.journal_repair import repair
from dispatcher.messages import Blob, Crash, Kind, Outcome, Task
from dispatcher.records import (
    Begun,
    Ended,
    Enlisted,
    JobMade,
    LetGo,
    Record,
    Retired,
)

POSIX = os.name == "posix"
RUNS = 40
"""Enough of them that tables have pages above their leaves."""


def history() -> Iterator[list[Record]]:
    """Yield what is saved at once, again and again."""
    random_bytes = random.Random(0).randbytes
    yield [JobMade(1, "a", 1.0), JobMade(2, "b", 2.0), FUNCTION]
    for first in range(1, RUNS * 20, 20):
        yield [Enlisted(1 + first % 3 // 2, task(first, 20), random_bytes(320))]
        yield [Begun(first, 15), Ended(outcome(first, 10))]
        yield [LetGo(first, 3), Ended(Outcome(first + 12, Kind.ERROR, random_bytes(900)))]
    yield [Retired(1), Retired(41)]
    blob = Blob(random_bytes(30_000))
    yield [Enlisted(2, Task(9_000, 1, b"", (blob,))), Begun(9_000, 1), Begun(9_000, 1)]
    yield [Ended(Outcome(9_000, Kind.VALUE, b"", (blob,)))]


class Left:
    """The files of a journal, and what it should tell."""

    def __init__(self, files: dict[str, bytes], model: Model) -> None:
        self.files = files
        self.model = model

    def write(self, folder: Path, **changed: bytes | None) -> Path:
        """Put the files into a folder, but those that are ``changed``; return the journal."""
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, data in {**self.files, **changed}.items():
            if data is not None:
                (folder / name).write_bytes(data)
                (folder / name).chmod(0o600)
        return folder / "j"


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def models(work: Path) -> tuple[Left, Left, list[Model]]:
    """A journal as its killed process left it, one that was closed, and all its past states."""
    folder = work / "made"
    folder.mkdir()
    journal = Journal(folder / "j", synchronous=False)
    past = [Model()]
    saved: list[Record] = []
    for records in history():
        journal.save(records)
        saved += records
        model = Model()
        for record in saved:
            model.apply(record)
        past.append(model)
        if len(past) == RUNS:  # some of it is in the file, and some in SQLite's log
            journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    killed = Left(files(left(folder / "j", work / "copy").parent), past[-1])
    journal.close()
    return killed, Left(files(folder), past[-1]), past


@pytest.fixture(params=["killed", "closed"])
def damaged(request: pytest.FixtureRequest, models: tuple[Left, Left, list[Model]]) -> Left:
    return models[0] if request.param == "killed" else models[1]


def is_told(path: Path, model: Model) -> bool:
    """Whether a journal tells exactly this; if not, it must say that it is damaged."""
    try:
        journal = Journal(path)
    except JournalError as error:
        said = str(error)
    else:
        said = not_told(journal, model)
        with suppress(JournalError):
            journal.close()
    assert not said or str(path) in said
    return not said


def not_told(journal: Journal, model: Model) -> str:
    """Return why a journal cannot tell this; empty if it does."""
    try:
        assert_tells(journal, model)
    except JournalError as error:
        return str(error)
    return ""


def changed(left: Left, draw: random.Random) -> dict[str, bytes]:
    """Return one of the files, in which a byte or some in a row are others."""
    name = draw.choice([name for name, data in left.files.items() for _ in range(len(data))])
    data = bytearray(left.files[name])
    place, count = draw.randrange(len(data)), draw.choice([1, 1, 1, 16, 512, 4096])
    for at in range(place, min(place + count, len(data))):
        data[at] ^= draw.randrange(1, 256)
    return {name: bytes(data)}


def test_a_killed_one_tells_all(models: tuple[Left, Left, list[Model]], tmp_path: Path) -> None:
    for which in models[:2]:
        assert [*check(str(which.write(tmp_path / "check")))] == []
        assert is_told(which.write(tmp_path / "open"), which.model)


@pytest.mark.parametrize("seed", range(40))
def test_what_has_changed_on_the_disk_is_found(damaged: Left, seed: int, tmp_path: Path) -> None:
    draw = random.Random(seed)
    change = changed(damaged, draw)
    if not is_told(damaged.write(tmp_path / "open", **change), damaged.model):
        try:
            wrong = [*check(str(damaged.write(tmp_path / "check", **change)))]
        except JournalError as error:
            wrong = [str(error)]
        assert wrong


def flipped(data: bytes, place: int) -> bytes:
    """Return the same with another bit at this place."""
    return data[:place] + bytes([data[place] ^ 1 << place % 8]) + data[place + 1 :]


@pytest.mark.parametrize("name", ["j", "j-mark"])
def test_every_byte_of_what_is_small_or_first(
    models: tuple[Left, Left, list[Model]], name: str, tmp_path: Path
) -> None:
    killed = models[0]
    for place in range(min(120, len(killed.files[name]))):
        data = flipped(killed.files[name], place)
        is_told(killed.write(tmp_path / "open", **{name: data}), killed.model)


def test_a_torn_log_is_missed(models: tuple[Left, Left, list[Model]], tmp_path: Path) -> None:
    killed, _, _ = models
    log = killed.files["j-wal"]
    draw = random.Random(1)
    for end in [0, 1, 31, 32, 33, len(log) - 1, *(draw.randrange(len(log)) for _ in range(60))]:
        path = killed.write(tmp_path / "open", **{"j-wal": log[:end]})
        with pytest.raises(JournalError, match="transactions are missing that were acknowledged"):
            Journal(path)
        assert any("transactions are missing" in line for line in check(str(path)))
        assert path.with_name("j-wal").read_bytes() == log[:end]  # it may be of use to somebody
    path = killed.write(tmp_path / "open", **{"j-wal": None})
    with pytest.raises(JournalError, match="transactions are missing that were acknowledged"):
        Journal(path)


def test_after_a_power_failure_it_tells_a_state_that_was(
    models: tuple[Left, Left, list[Model]], tmp_path: Path
) -> None:
    """The mark is not on the disk, or an older one; nor is what was not acknowledged."""
    killed, _, past = models
    log = killed.files["j-wal"]
    draw = random.Random(2)
    for end in [0, len(log), *(draw.randrange(len(log)) for _ in range(60))]:
        mark = draw.choice([None, b"", b"\0" * 40])
        path = killed.write(tmp_path / "open", **{"j-wal": log[:end], "j-mark": mark})
        journal = Journal(path)
        assert vars(told(journal)) == vars(past[journal._writer.meta.commits])
        journal.close()


@pytest.mark.parametrize("keep", [0, 50, 100, 5_000, 20_000])
def test_a_file_that_was_cut_is_found(damaged: Left, keep: int, tmp_path: Path) -> None:
    path = damaged.write(tmp_path / "open", j=damaged.files["j"][:keep])
    if keep == 0 and "j-mark" not in damaged.files:
        assert is_told(path, Model())  # nothing is left that could tell
    else:
        assert not is_told(path, damaged.model)


def test_rows_that_are_gone_are_missed(
    models: tuple[Left, Left, list[Model]], tmp_path: Path
) -> None:
    _, closed, _ = models
    for sql in [
        "DELETE FROM outcomes WHERE first = 61",
        "DELETE FROM begun WHERE first = (SELECT max(first) FROM begun)",
        "DELETE FROM runs WHERE first = 9000",
        "DELETE FROM jobs WHERE number = 2",
        "DELETE FROM pieces WHERE owner = 'outcomes'",
        "DELETE FROM meta",
        "UPDATE outcomes SET kind = 0 WHERE first = 73",
        "UPDATE pieces SET number = 1 WHERE number = 9000 AND owner = 'runs'",
    ]:
        path = closed.write(tmp_path / "open")
        with sqlite3.connect(path) as db:
            db.execute(sql)
        db.close()
        assert not is_told(path, closed.model), sql


# ── repair ───────────────────────────────────────────────────────────────────────────────


def ever(saved: list[list[Record]]) -> Model:
    """Return what has become of all tasks that there ever were."""
    model = Model()
    for records in saved:
        for record in records:
            if not isinstance(record, Retired | LetGo):
                model.apply(record)
    return model


def assert_saved(found: Model, model: Model) -> None:
    """Nothing is another than it was; what is not as it was is lost in an open way."""
    for serial, end in found.ended.items():
        if end[0] is not Kind.CRASHED:
            assert end == model.ended[serial]
            assert found.kept.get(serial, model.kept[serial]) == model.kept[serial]
    for run in found.runs.values():
        for serial in range(run.task.id, run.task.id + run.task.count):
            if serial in {**model.begun, **model.ended} and serial not in found.ended:
                assert serial in found.begun, f"task {serial} would run once more"


@pytest.mark.parametrize("seed", range(40))
def test_repair_saves_what_can_be_saved(damaged: Left, seed: int, tmp_path: Path) -> None:
    path = damaged.write(tmp_path / "open", **changed(damaged, random.Random(seed)))
    before = files(path.parent)
    try:
        *lost, kept = repair(str(path))
    except JournalError as error:
        assert re.search("is not a journal|has format", str(error))  # noqa: PT017
        return
    assert files(path.parent)["j.damaged-1"] == before["j"]
    assert "j.damaged-1" in kept
    assert [*check(str(path))] == []
    journal = Journal(path)
    found = told(journal)
    journal.close()
    assert_saved(found, ever([*history()]))
    if not lost:
        assert vars(found) == vars(damaged.model)


def test_no_bit_of_the_first_bytes_keeps_repair_from_the_rest(
    damaged: Left, tmp_path: Path
) -> None:
    """They say what the file is, and how it is to be read."""
    for at in range(0, 100, 2):
        path = damaged.write(tmp_path / "w", j=flipped(damaged.files["j"], at))
        repair(str(path))
        journal = Journal(path)
        assert_tells(journal, damaged.model)
        journal.close()
        assert sorted(os.listdir(path.parent)) in (
            ["j", "j.damaged-1"],
            ["j", "j.damaged-1", "j.damaged-1-wal"],
        )


@pytest.mark.skipif(not POSIX or os.geteuid() != 0, reason="only root can give a file away")
def test_one_of_another_is_not_repaired_whatever_it_begins_with(
    models: tuple[Left, Left, list[Model]], tmp_path: Path
) -> None:
    path = models[1].write(tmp_path / "w", j=flipped(models[1].files["j"], 3))
    os.chown(path, 12_345, -1)
    with pytest.raises(JournalError, match=re.escape(f"{path}, of a journal, is another's")):
        repair(str(path))
    assert os.listdir(path.parent) == ["j"]


def test_repair_of_what_is_well_changes_nothing(
    models: tuple[Left, Left, list[Model]], tmp_path: Path
) -> None:
    for which in models[:2]:
        path = which.write(tmp_path / "open")
        old = Journal(which.write(tmp_path / "other"))
        old.close()
        [_] = repair(str(path))
        journal = Journal(path)
        assert_tells(journal, which.model)
        assert journal.highest() == old.highest()
        journal.close()


def test_repair_says_what_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "j"
    journal = Journal(path)
    journal.save([JobMade(1, "air", 1.0), FUNCTION, Enlisted(1, task(1, 5)), Enlisted(1, task(9))])
    journal.save([Begun(1, 4), Ended(outcome(1, 2))])
    journal.close()
    data = path.read_bytes().replace(b"value 2", b"value 3").replace(b"argument 9", b"argument 8")
    path.write_bytes(data)
    assert repair(str(path)) == [
        "the results of tasks 1 to 2 of job air are lost",
        "the arguments of task 9 of job air are lost",
        f"the damaged journal is kept as {path}.damaged-1",
    ]
    journal = Journal(path)
    found = told(journal)
    result = Crash("its result was lost when the journal was repaired")
    assert found.kept[2] == Outcome(2, Kind.CRASHED, crash=result)
    arguments = Crash("its arguments were lost when the journal was repaired")
    assert found.kept[9] == Outcome(9, Kind.CRASHED, crash=arguments)
    assert found.begun == dict.fromkeys(range(1, 5), 1)
    journal.close()


def test_after_a_repair_of_a_torn_log_nothing_runs_twice(
    models: tuple[Left, Left, list[Model]], tmp_path: Path
) -> None:
    killed, _, _ = models
    path = killed.write(tmp_path / "open", **{"j-wal": killed.files["j-wal"][:20_000]})
    said = repair(str(path))
    assert "transactions that were acknowledged are lost" in said[0]
    assert any("those that have not ended count as begun" in line for line in said)
    journal = Journal(path)
    assert_saved(told(journal), ever([*history()]))
    journal.close()
    (tmp_path / "open" / "j-mark").write_bytes(killed.files["j-mark"])
    Journal(path).close()  # the power failed before the mark was really gone


def test_one_that_is_in_use_is_not_repaired(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    with pytest.raises(JournalError, match=f"in use by process {os.getpid()}"):
        repair(str(tmp_path / "j"))
    journal.close()


# ── kills ────────────────────────────────────────────────────────────────────────────────

SAVER = """
import sys
from dispatcher.journal import Journal
from dispatcher.messages import Blob, Kind, Outcome, Task
from dispatcher.records import Begun, Ended, Enlisted, LetGo, JobMade

journal = Journal(sys.argv[1])
journal._db.execute("PRAGMA wal_autocheckpoint = 20")  # kills shall fall into these, too
for n in range(1, 10**9):
    task = Task(n, 1, b"%d" % n, (Blob(b"%d" % n * 2_000),))
    journal.save([Enlisted(1, task), Begun(n, 1), Ended(Outcome(n, Kind.VALUE, b"%d" % n))])
    print(n, flush=True)
"""


@pytest.mark.skipif(not POSIX, reason="there is no SIGKILL")
def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "j"
    draw = random.Random(3)
    for _ in range(12):
        path.unlink(missing_ok=True)
        for file in tmp_path.iterdir():
            file.unlink()
        saver = subprocess.Popen(
            [sys.executable, "-c", SAVER, path], stdout=subprocess.PIPE, text=True
        )
        assert saver.stdout is not None
        for _ in range(draw.randrange(1, 60)):
            acknowledged = int(saver.stdout.readline())
        saver.send_signal(signal.SIGKILL)
        acknowledged = max([acknowledged, *map(int, whole_lines(saver.stdout.read()))])
        saver.stdout.close()
        saver.wait()
        journal = Journal(path)
        found = told(journal)
        assert len(found.runs) in (acknowledged, acknowledged + 1)
        for n, run in found.runs.items():
            assert bytes(run.task.blobs[0].data) == b"%d" % n * 2_000
            assert found.kept[n].payload == b"%d" % n
            assert found.begun[n] == 1
        assert sorted(found.runs) == [*range(1, len(found.runs) + 1)]
        journal.close()


def whole_lines(text: str) -> list[str]:
    return text.split("\n")[:-1]


# ── no room ──────────────────────────────────────────────────────────────────────────────


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(folder)]
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root can make a small disk")
    if subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(journal: Journal) -> Model:
    """Save until there is no room; return what was acknowledged."""
    model = Model()
    for n in range(1, 1_000):
        record = Enlisted(1, Task(n, 1, os.urandom(30_000)))
        try:
            journal.save([record])
        except JournalError as error:
            full = str(error)
            break
        model.apply(record)
    assert "full" in full or "could not be" in full
    assert len(model.runs) > 3
    return model


def test_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as disk:
        journal = Journal(disk / "j")
        model = fill(journal)
        assert_tells(journal, model)
        with pytest.raises(JournalError, match=r"could not be|disk is full"):
            journal.save([Enlisted(1, Task(5_000, 1, BIG * 5))])
        copy = left(disk / "j", tmp_path / "copy")
        killed = Journal(copy)
        assert_tells(killed, model)
        killed.close()
        with suppress(JournalError):
            journal.close()
        if (disk / "j-wal").exists():
            copy = left(disk / "j", tmp_path / "copy")
            assert is_told(copy, model)
        else:
            again = Journal(disk / "j")
            assert_tells(again, model)
            again.close()


def test_a_journal_on_a_full_disk_goes_on_when_there_is_room(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal._db.execute("PRAGMA max_page_count = 100")
    model = fill(journal)
    assert_tells(journal, model)
    journal.save([Retired(1)])
    model.apply(Retired(1))
    journal._db.execute("PRAGMA max_page_count = 1000")
    more = Enlisted(1, Task(2_000, 1, BIG))
    journal.save([more])
    model.apply(more)
    assert_tells(journal, model)
    journal.close()
    assert is_told(tmp_path / "j", model)


LIMITED = """
import os, resource, sys
from dispatcher.journal import Journal, JournalError
from dispatcher.messages import Task
from dispatcher.records import Enlisted

journal = Journal(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    for n in range(1, 1_000):
        journal.save([Enlisted(1, Task(n, 1, os.urandom(30_000)))])
        print(n, flush=True)
except JournalError as error:
    print(error, file=sys.stderr)
os._exit(9)
"""


@pytest.mark.skipif(not POSIX, reason="files have no limit")
def test_a_limit_on_files(tmp_path: Path) -> None:
    path = tmp_path / "j"
    found = subprocess.run([sys.executable, "-c", LIMITED, path], capture_output=True, text=True)
    assert found.returncode == 9
    assert f"the journal {path} could not be" in found.stderr
    journal = Journal(path)
    assert sorted(told(journal).runs) == [*map(int, found.stdout.split())]
    journal.close()
