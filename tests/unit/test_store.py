"""Stores and references: all or nothing is read, and nothing is left."""

from __future__ import annotations

import importlib.util
import os
import pickle
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mirai import SerializationError
from mirai._errors import StoreError
from mirai.controllers import _refs
from mirai.controllers._fsspec_store import FsspecStore
from mirai.controllers._recent import Recent
from mirai.controllers._refs import Depot, Ref
from mirai.controllers._s3_store import S3Store
from mirai.controllers._store import FolderStore, Store, open_store

HAS_FSSPEC = importlib.util.find_spec("fsspec") is not None
LARGE = bytes(range(256)) * 8_192
NAME = "ab" * 32
OTHER = "cd" * 32

KINDS = ["folder", "fsspec-local", "fsspec-memory"]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """Nothing that was read or written before is known."""
    yield
    _refs._read.forget()
    _refs._written.forget()


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store, of each kind that needs no server."""
    if request.param == "folder":
        yield FolderStore(str(tmp_path / "store"))
    elif not HAS_FSSPEC:
        pytest.skip("fsspec is not installed")
    elif request.param == "fsspec-local":
        yield FsspecStore(f"file://{tmp_path}/store")
    else:
        memory = FsspecStore(f"memory://{tmp_path.name}/store")
        yield memory
        memory.destroy()


@pytest.fixture
def folder(tmp_path: Path) -> FolderStore:
    return FolderStore(str(tmp_path / "store"))


def files_of(folder: Path) -> list[str]:
    """Return what lies in a folder, at any depth."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def run(program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python's to its end."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )


# ── stores ───────────────────────────────────────────────────────────────────────────────


def test_objects_come_and_go(store: Store) -> None:
    assert not store.exists(NAME)
    assert list(store.names()) == []
    store.write(NAME, b"first")
    store.write(NAME, memoryview(b"first"))
    store.write(OTHER, bytearray(LARGE))
    assert (store.read(NAME), store.read(OTHER)) == (b"first", LARGE)
    assert sorted(store.names()) == [NAME, OTHER]
    store.delete(NAME)
    store.delete(NAME)
    assert (store.exists(NAME), store.exists(OTHER)) == (False, True)


def test_one_that_is_not_there_is_named_with_its_store(store: Store) -> None:
    with pytest.raises(StoreError) as caught:
        store.read(NAME)
    assert str(caught.value) == f"{store} has no object {NAME}"


def test_a_store_below_is_of_its_own_and_goes_with_the_one_above(store: Store) -> None:
    run, other = store.below("run-1"), store.below("run-2")
    run.write(NAME, b"1")
    other.write(NAME, b"2")
    assert list(store.names()) == []
    assert list(run.names()) == [NAME]
    run.destroy()
    assert not run.exists(NAME)
    assert other.read(NAME) == b"2"
    store.destroy()
    assert not other.exists(NAME)


def test_what_is_destroyed_or_was_never_there_is_empty(store: Store) -> None:
    store.destroy()
    store.write(NAME, b"1")
    store.destroy()
    store.destroy()
    assert list(store.names()) == []


def test_it_travels(store: Store) -> None:
    store.write(NAME, b"1")
    there: Store = pickle.loads(pickle.dumps(store))
    assert (there, hash(there), there.read(NAME)) == (store, hash(store), b"1")


@pytest.mark.parametrize("name", ["", "../x", "/etc/passwd", "a/b", "..", "AB" * 32, NAME + "\n"])
def test_no_other_names_get_through(store: Store, name: str) -> None:
    for method in (store.read, store.exists, store.delete):
        with pytest.raises(ValueError, match="named by digests"):
            method(name)
    with pytest.raises(ValueError, match="named by digests"):
        store.write(name, b"")


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../run", "run\n", "x" * 101, ".hidden"])
def test_no_way_leads_out_of_a_store(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="below another"):
        store.below(name)


def test_a_folder_is_for_this_user_only(folder: FolderStore) -> None:
    run = folder.below("run")
    run.write(NAME, b"1")
    for path in (Path(folder.path), Path(run.path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert stat.S_IMODE(os.stat(os.path.join(run.path, NAME)).st_mode) == 0o600


def test_what_others_keep_in_a_folder_stays(tmp_path: Path) -> None:
    pytest.importorskip("fsspec")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "me.jpg").touch()
    (tmp_path / "notes").touch()
    for store in (FolderStore(str(tmp_path)), FsspecStore(f"file://{tmp_path}")):
        store.below("run").write(NAME, b"1")
        store.write(OTHER, b"2")
        store.destroy()
        assert files_of(tmp_path) == ["notes", "photos", "photos/me.jpg"]


def test_a_folder_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=f"writing {NAME}: .*file"):
        FolderStore(str(tmp_path / "file" / "x")).write(NAME, b"1")


# ── which store is meant ─────────────────────────────────────────────────────────────────


def test_memory_is_the_default() -> None:
    assert open_store(None) is None
    assert open_store("memory") is None


def test_paths_are_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    here = FolderStore(str(tmp_path / "a b"))
    for where in (tmp_path / "a b", "a b", "./a b", "~/a b", (tmp_path / "a b").as_uri(), here):
        assert open_store(where) == here


def test_urls_are_what_they_name() -> None:
    assert open_store("s3://bucket/a/b/") == S3Store("s3://bucket/a/b")
    pytest.importorskip("fsspec")
    assert open_store("dir::file:///a") == FsspecStore("dir::file:///a")


@pytest.mark.parametrize("where", [3, b"/tmp", ["a"], object()])
def test_what_is_no_place(where: Any) -> None:
    with pytest.raises(TypeError, match="a path, a URL, or None"):
        open_store(where)


@pytest.mark.parametrize(
    "where",
    [
        *("", "s3:bucket", "s3:/bucket/a", "s3://", "s3:///a", "file://host/a", "file://"),
        *("memory://a", "nonsense://a", "sftp://host/a*"),
        *("sftp://me:secret@host/a", "simplecache::sftp://me:secret@host/a"),
    ],
)
def test_what_cannot_be_a_store(where: str) -> None:
    pytest.importorskip("fsspec")
    with pytest.raises(ValueError, match=r"^((?!me:secret).)*$"):
        open_store(where)


@pytest.mark.parametrize(
    ("package", "extra", "url"),
    [
        ("fsspec", "gcs", "gs://bucket/a"),
        ("fsspec", "azure", "abfs://bucket/a"),
        ("fsspec", "store", "ftp://host/a"),
        ("paramiko", "sftp", "sftp://host/a"),
    ],
)
def test_a_package_that_is_not_there(
    package: str, extra: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "fsspec.implementations.sftp", raising=False)
    with pytest.raises(StoreError, match=rf"pip install 'mirai-zmq\[{extra}\]'"):
        open_store(url)


def test_s3_wants_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StoreError, match=r"pip install 'mirai-zmq\[s3\]'"):
        S3Store("s3://bucket", endpoint="http://127.0.0.1:9").exists(NAME)


def test_options_are_not_shown() -> None:
    pytest.importorskip("fsspec")
    assert "hidden" not in repr(FsspecStore("file:///a", {"auto_mkdir": "hidden"}))


# ── references ───────────────────────────────────────────────────────────────────────────


class Point:
    def __init__(self, x: float) -> None:
        self.x = x


@pytest.mark.parametrize("value", [None, 3, "text", LARGE, [1, {"a": (2.5,)}], {Ref, Depot}])
def test_a_value_is_had_by_its_reference(store: Store, value: object) -> None:
    ref = Depot(store).put(value)
    there: Ref[object] = pickle.loads(pickle.dumps(ref))
    assert (there, hash(there)) == (ref, hash(ref))
    assert there.get() == value
    assert Depot.fetch(there) == value


def test_a_reference_is_short(folder: FolderStore) -> None:
    ref = Depot(folder).put(LARGE)
    assert repr(ref) == f"<Ref {ref.digest[:8]}: {ref.size:,} bytes in {folder}>"
    assert len(pickle.dumps(ref)) < 400


def test_equal_values_are_stored_once(folder: FolderStore) -> None:
    refs = {Depot(folder, 100).put(LARGE), Depot(folder).put(LARGE[:]), Depot(folder).put(b"other")}
    assert {ref.digest for ref in refs} == set(folder.names())
    assert len(refs) == 2


def test_only_large_values_are_stowed(folder: FolderStore) -> None:
    depot = Depot(folder, 1_000)
    small: list[object] = [3, "é" * 100, b"x" * 900, [1.5] * 50, Point(1.0), None, {"a": {1, 2}}]
    for value in small:
        assert depot.stow(value) is value
    assert list(folder.names()) == []
    large: list[object] = [10**3_000, "é" * 1_000, b"x" * 1_001, list(range(900)), {"a": "x" * 999}]
    for value in large:
        ref = depot.stow(value)
        assert isinstance(ref, Ref)
        assert ref.get() == value
    assert depot.stow(ref) is ref


def test_what_is_said_of_sizes_holds() -> None:
    """A value that is taken for small without pickling it is small."""
    numpy = pytest.importorskip("numpy")
    objects = numpy.array(["x" * 100_000], dtype=object)
    values: list[object] = [
        *(0, -1, 2**70_000, 1.5, 2j, True, None, "", "a" * 300, "\ud800" * 300, "𝄞" * 300),
        *(b"", b"x" * 300, bytearray(70_000), (), [[]], {1: {2: [3]}}, frozenset({4})),
        *([2**31] * 256, ["ab"] * 256, [b"x" * 1_000] * 3, {str(n): n for n in range(256)}),
        *(numpy.zeros(3), numpy.zeros((50, 50), "c16")[::2], numpy.array("2020", "M8[s]")),
        *(numpy.zeros((), "?"), numpy.arange(1_000, dtype=">i2").reshape(10, 100).T),
    ]
    for value in values:
        assert len(pickle.dumps(value, 5)) <= _refs._size_at_most(value) < float("inf"), value
    for value in (objects, Point(1.0), numpy.ma.zeros(3), [[[[1]]]], [0, Point(1.0)]):
        assert _refs._size_at_most(value) == float("inf")


def test_a_look_at_sizes_ends_with_the_limit() -> None:
    seen = []

    def numbers() -> Iterator[int]:
        for n in range(1_000):
            seen.append(n)
            yield n

    assert _refs._sum_at_most(numbers(), 1_000, 1) == float("inf")
    assert len(seen) < 40


def test_arrays_come_back_as_they_were(folder: FolderStore) -> None:
    numpy = pytest.importorskip("numpy")
    array = numpy.arange(300_000.0).reshape(600, 500)
    ref = Depot(folder).stow(array)
    assert isinstance(ref, Ref)
    first = ref.get()
    first[0, 0] = -1.0  # it can be written to, and nobody else sees it
    assert (ref.get() == array).all()
    assert Depot(folder).stow(array[:10]) is not None


def test_functions_of_main_and_reducers(folder: FolderStore) -> None:
    class Reducer:
        def reduce(self, instance: object) -> tuple[Any, ...] | None:
            return (Point, (42.0,)) if isinstance(instance, Iterator) else None

        def knows(self, instance: object) -> bool:
            return isinstance(instance, Iterator)

    factor = 3
    assert Depot(folder).put(lambda x: factor * x).get()(5) == 15
    point: Any = Depot(folder).put(iter(n for n in [1]), Reducer()).get()
    assert point.x == 42.0


def test_what_cannot_be_pickled_is_told(folder: FolderStore) -> None:
    with pytest.raises(SerializationError, match=r"cannot pickle _thread.lock at \['a'\]"):
        Depot(folder).stow({"a": __import__("threading").Lock()})
    assert list(folder.names()) == []


def test_a_reference_without_its_object(store: Store) -> None:
    ref = Depot(store).put(LARGE)
    store.destroy()
    with pytest.raises(StoreError, match=f"has no object {ref.digest}"):
        ref.get()


@pytest.mark.parametrize("damage", [b"", LARGE[:-1], LARGE + b"x", pickle.dumps(os.getpid)])
def test_what_is_damaged_is_not_unpickled(folder: FolderStore, damage: bytes) -> None:
    ref = Depot(folder).put(LARGE)
    (Path(folder.path) / ref.digest).write_bytes(damage)
    with pytest.raises(StoreError, match=f"{folder}: {ref.digest} is damaged: {len(damage):,} by"):
        ref.get()


def test_one_object_is_read_once(folder: FolderStore) -> None:
    ref = Depot(folder).put([LARGE])
    first = ref.get()
    folder.delete(ref.digest)
    first.append("changed by its task")
    assert ref.get() == [LARGE]


def test_a_depot_that_was_destroyed_begins_anew(folder: FolderStore) -> None:
    depot = Depot(folder)
    ref = depot.put(LARGE)
    depot.destroy()
    assert not os.path.exists(folder.path)
    assert depot.put(LARGE) == ref
    assert folder.exists(ref.digest)


def test_recent_keeps_to_its_limit() -> None:
    recent: Recent[str, int] = Recent(10)
    recent.put("a", 1, 4)
    recent.put("b", 2, 4)
    recent.put("huge", 3, 11)
    assert (recent.get("a"), recent.get("huge")) == (1, None)
    recent.put("c", 4, 4)  # b was not asked for the longest
    assert [recent.get(key) for key in "abc"] == [1, None, 4]
    recent.put("a", 5, 6)  # in the place of the one before
    assert [recent.get(key) for key in "abc"] == [5, None, 4]
    recent.put("d", 6, 1)
    assert [recent.get(key) for key in "acd"] == [None, 4, 6]


# ── several processes, and dead ones ─────────────────────────────────────────────────────

READING = "import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])).get())"


def test_another_process_reads_it(folder: FolderStore) -> None:
    ref = Depot(folder).put({"answer": 42})
    done = run(READING, pickle.dumps(ref).hex())
    assert (done.stdout, done.stderr) == ("{'answer': 42}\n", "")


FORKING = """
import os, signal, sys
from mirai.controllers import _refs
from mirai.controllers._store import FolderStore

depot = _refs.Depot(FolderStore(sys.argv[1]))
ref = depot.put(bytes(9))
with _refs._read._lock, _refs._written._lock:
    child = os.fork()
    if not child:
        signal.alarm(20)
        assert ref.get() == bytes(9) and depot.put(bytes(9)) == ref
        os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_fork_reads_and_writes_whatever_a_thread_was_at(folder: FolderStore) -> None:
    done = run(FORKING, folder.path)
    assert (done.returncode, done.stderr) == (0, "")


DYING = """
import os, signal, sys
from mirai.controllers._refs import Depot
from mirai.controllers._store import FolderStore

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

depot = Depot(FolderStore(sys.argv[1]).below("run"))
if sys.argv[2] in ("fsync", "replace"):
    setattr(os, sys.argv[2], die)
ref = depot.put(bytes(3_000_000))
if sys.argv[2] == "reference":
    die()
print(ref.digest)
"""


@pytest.mark.parametrize("moment", ["fsync", "replace", "reference"])
def test_a_process_that_dies_while_it_writes(folder: FolderStore, moment: str) -> None:
    run_of = folder.below("run")
    done = run(DYING, folder.path, moment)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    assert len(files_of(Path(folder.path))) == 2  # the run's folder, and what was left there
    whole = list(run_of.names())
    assert len(whole) == (1 if moment == "reference" else 0)
    ref = Depot(run_of).put(bytes(3_000_000))  # by another process, which is none the worse
    assert ref.get() == bytes(3_000_000)
    assert whole in ([], [ref.digest])
    run_of.destroy()
    assert files_of(Path(folder.path)) == []


def test_a_rename_that_never_came(tmp_path: Path) -> None:
    """What a crash leaves between the writing and the renaming goes with the rest."""
    pytest.importorskip("fsspec")
    store = FsspecStore(f"file://{tmp_path}/store")
    store.write(NAME, b"1")
    (tmp_path / "store" / f".{OTHER}-0123456789ab").touch()
    assert list(store.names()) == [NAME]
    store.destroy()
    assert files_of(tmp_path) == []


WRITING = """
import sys
from mirai.controllers._refs import Depot
from mirai.controllers._store import FolderStore

depot = Depot(FolderStore(sys.argv[1]).below("run"))
print("ready", flush=True)
for n in range(int(sys.stdin.readline())):
    ref = depot.put(n.to_bytes(2) * 10_000)
    assert ref.get() == n.to_bytes(2) * 10_000
"""


def test_processes_that_write_the_same_at_once(folder: FolderStore) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, folder.path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:  # all of them make the folders, and then each object
        assert writer.stdin is not None
        writer.stdin.write("30\n")
        writer.stdin.flush()
    for writer in writers:
        _, errors = writer.communicate(timeout=50)
        assert (writer.returncode, errors) == (0, "")
    assert len(os.listdir(folder.below("run").path)) == 30
