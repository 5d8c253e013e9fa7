"""Stores on servers of their own: S3 by moto (not AWS), and SFTP by OpenSSH."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from clusters import SEARCHED
from conftest import wait_until

from mirai import daemons, mirai
from mirai._aws import new_client
from mirai._errors import StoreError
from mirai.controllers import _refs, _s3_store
from mirai.controllers._fsspec_store import FsspecStore
from mirai.controllers._refs import Depot, Ref
from mirai.controllers._s3_store import S3Store
from mirai.controllers._store import Store, open_store

pytestmark = pytest.mark.servers

NAME = "ab" * 32
OTHER = "cd" * 32
LARGE = bytes(range(256)) * 80_000
"""So large that it is sent in several parts."""
BUCKET = "mirai-bucket"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run S3 on loopback; yield its URL."""
    for package in ("boto3", "moto.server"):
        pytest.importorskip(package)
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0"]
    with log.open("wb") as file, subprocess.Popen(command, stdout=file, stderr=file) as server:
        try:
            wait_until(lambda: b"Running on" in log.read_bytes() or server.poll() is not None, 50)
            found = re.search(r"Running on (http://127[.\d]+:\d+)", log.read_text())
            assert found, log.read_text()
            yield found[1]
        finally:
            server.kill()


@pytest.fixture
def s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """A store in an empty bucket, which boto3 finds by the environment."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    client = new_client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield S3Store(f"s3://{BUCKET}/team/runs")
    _refs._read.forget()
    _refs._written.forget()
    S3Store(f"s3://{BUCKET}").destroy()
    client.delete_bucket(Bucket=BUCKET)
    client.close()
    _s3_store._client(None, os.getpid()).close()
    _s3_store._client.cache_clear()


def keys() -> list[str]:
    """Return the keys of all that is in the bucket."""
    client = _s3_store._client(None, os.getpid())
    return [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET).get("Contents", ())]


def uploads() -> list[str]:
    """Return the keys of what was begun to be sent, and is not there."""
    client = _s3_store._client(None, os.getpid())
    left = client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", ())
    return [upload["Key"] for upload in left]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of Python's to its end."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=os.environ | {"PYTHONPATH": SEARCHED},
        capture_output=True,
        text=True,
        timeout=50,
    )


def comes_and_goes(store: Store) -> None:
    """See that a store, which is empty, does all that a store does."""
    run, other = store.below("run-1"), store.below("run-10")
    assert (run.exists(NAME), list(run.names())) == (False, [])
    with pytest.raises(StoreError, match=f"^{run} has no object {NAME}$"):
        run.read(NAME)
    run.write(NAME, b"1")
    run.write(NAME, b"1")
    run.write(OTHER, LARGE)
    other.write(NAME, memoryview(b"2"))
    assert (run.exists(NAME), run.read(NAME), run.read(OTHER)) == (True, b"1", LARGE)
    assert (sorted(run.names()), list(store.names())) == ([NAME, OTHER], [])
    run.delete(NAME)
    run.delete(NAME)
    assert list(run.names()) == [OTHER]
    run.destroy()
    assert (list(run.names()), other.read(NAME)) == ([], b"2")
    store.destroy()
    store.destroy()
    assert not other.exists(NAME)


# ── S3 ───────────────────────────────────────────────────────────────────────────────────


def test_objects_come_and_go(s3: S3Store) -> None:
    comes_and_goes(s3)
    comes_and_goes(S3Store(f"s3://{BUCKET}"))
    assert keys() == []


def test_more_objects_than_are_removed_at_once(
    s3: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_s3_store, "AT_ONCE", 10)
    names = [f"{n:064x}" for n in range(25)]
    for name in names:
        s3.write(name, b"")
    assert list(s3.names()) == names
    s3.destroy()
    assert keys() == []


def test_what_others_keep_in_a_bucket_stays(s3: S3Store) -> None:
    theirs = ["team/runs-2/" + NAME, "team/runs/notes"]
    client = _s3_store._client(None, os.getpid())
    for key in theirs:
        client.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    s3.below("run").write(NAME, b"1")
    s3.destroy()
    assert keys() == theirs
    for key in theirs:
        client.delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.usefixtures("s3")
def test_a_bucket_that_is_not_there() -> None:
    store = S3Store("s3://mirai-no-bucket/a")
    assert not store.exists(NAME)
    with pytest.raises(StoreError, match=rf"^{store}: writing {NAME}: .*NoSuchBucket"):
        store.write(NAME, b"1")
    with pytest.raises(StoreError, match=rf"^{store}: destroying: .*NoSuchBucket"):
        store.destroy()


READING = "import pickle, sys; print(len(pickle.loads(bytes.fromhex(sys.argv[1])).get()))"


@pytest.mark.usefixtures("s3")
def test_another_process_reads_it() -> None:
    store = open_store(f"s3://{BUCKET}/team/runs")
    assert isinstance(store, S3Store)
    pickled = pickle.dumps(Depot(store.below("run")).stow(LARGE))
    assert not any(secret in pickled for secret in (b"test-secret", b"127.0.0.1"))
    done = run(READING, pickled.hex())
    assert (done.stdout, done.stderr) == (f"{len(LARGE)}\n", "")


def test_an_endpoint_of_its_own(s3: S3Store, moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = Depot(s3).put("value")
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    there = S3Store(s3.url, endpoint=moto).below("x")
    assert not there.exists(ref.digest)
    there.write(ref.digest, b"1")
    assert f"team/runs/x/{ref.digest}" in keys()
    _s3_store._client(moto, os.getpid()).close()


def test_daemons_read_and_write(s3: S3Store) -> None:
    depot = Depot(s3.below("run"), 1_000)
    with daemons(2):
        ref = depot.stow(LARGE)
        assert isinstance(ref, Ref)
        sizes = [mirai(lambda data: len(data.get()), ref) for _ in range(4)]
        assert [size.result(50) for size in sizes] == [len(LARGE)] * 4
        back = mirai(lambda: depot.stow(LARGE[::-1])).result(50)
        assert isinstance(back, Ref)
        assert back.get() == LARGE[::-1]
    assert len(keys()) == 2
    depot.destroy()
    assert keys() == []


DYING = """
import os, signal, sys
from mirai.controllers import _s3_store
from mirai.controllers._refs import Depot
from mirai.controllers._store import open_store

def die(**_):
    os.kill(os.getpid(), signal.SIGKILL)

client = _s3_store._client(None, os.getpid())
client.meta.events.register(f"before-call.s3.{sys.argv[2]}", die)
ref = Depot(open_store(sys.argv[1]).below("run")).put(bytes(20_000_000))
if sys.argv[2] == "reference":
    die()
print(ref.digest)
"""


@pytest.mark.parametrize(
    ("moment", "objects", "begun"),
    [("UploadPart", 0, 1), ("CompleteMultipartUpload", 0, 1), ("reference", 1, 0)],
)
def test_a_process_that_dies_while_it_writes(
    s3: S3Store, moment: str, objects: int, begun: int
) -> None:
    done = run(DYING, s3.url, moment)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, ""), done.stderr
    run_of = s3.below("run")
    assert (len(list(run_of.names())), len(uploads())) == (objects, begun)
    ref = Depot(run_of).put(bytes(20_000_000))  # by another process, which is none the worse
    assert ref.get() == bytes(20_000_000)
    assert list(run_of.names()) == [ref.digest]
    run_of.destroy()
    assert (keys(), uploads()) == ([], [])


# ── SFTP ─────────────────────────────────────────────────────────────────────────────────


def place_and_key(sshd: Path) -> tuple[str, str]:
    """Return the place in a URL of an SSH server, and the file of the key to it."""
    words = dict(line.split(None, 1) for line in sshd.read_text().splitlines() if " " in line)
    return f"{words['User']}@{words['HostName']}:{words['Port']}", words["IdentityFile"]


@pytest.fixture
def sftp(sshd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FsspecStore]:
    """A store in a folder behind an SSH server, which is known."""
    pytest.importorskip("fsspec")
    pytest.importorskip("paramiko")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    shutil.copy(sshd.parent / "known_hosts", tmp_path / ".ssh")
    place, key = place_and_key(sshd)
    store = FsspecStore(f"sftp://{place}{tmp_path}/far/store", {"key_filename": key})
    yield store
    shutil.copy(sshd.parent / "known_hosts", tmp_path / ".ssh")
    close(store)


def files_of(store: FsspecStore) -> Any:
    """Return the file system of a store."""
    with store._place("testing") as (files, _):
        return files


def connection(store: FsspecStore) -> Any:
    """Return the connection that a store has."""
    return files_of(store).client


def close(store: FsspecStore) -> None:
    """Keep no connection for those that come later."""
    connection(store).close()
    files_of(store).clear_instance_cache()


def test_sftp(sftp: FsspecStore, tmp_path: Path) -> None:
    comes_and_goes(sftp)
    far = tmp_path / "far"
    assert list(far.iterdir()) == []
    ref = Depot(sftp.below("run")).put(LARGE)
    done = run(READING, pickle.dumps(ref).hex())
    assert (done.stdout, done.stderr) == (f"{len(LARGE)}\n", "")
    (far / "store" / "run" / f".{OTHER}-0123456789ab").touch()
    sftp.destroy()
    assert list(far.iterdir()) == []


def test_keys_are_what_each_process_has_of_its_own(
    sftp: FsspecStore, sshd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sftp.write(NAME, b"1")
    monkeypatch.setenv("FSSPEC_SFTP_KEY_FILENAME", place_and_key(sshd)[1])
    program = "import sys; from mirai.controllers._store import open_store\n"
    done = run(program + "print(list(open_store(sys.argv[1]).names()))", sftp.url)
    assert (done.stdout, done.stderr) == (f"['{NAME}']\n", "")


@pytest.mark.parametrize("known", ["", "another key"])
def test_a_host_that_is_not_known_is_refused(
    sftp: FsspecStore, sshd: Path, tmp_path: Path, known: str
) -> None:
    if known:
        place, other = place_and_key(sshd)[0].partition("@")[2], sshd.parent / "client_key.pub"
        known = f"[{place.replace(':', ']:')} {' '.join(other.read_text().split()[:2])}\n"
    (tmp_path / ".ssh" / "known_hosts").write_text(known)
    with pytest.raises(StoreError, match="is not known by this key to ssh"):
        sftp.exists(NAME)
    trusting = FsspecStore(sftp.url, {**sftp.options, "host_key_policy": "auto_add"})
    assert not trusting.exists(NAME)
    close(trusting)


def test_a_connection_that_is_lost_is_made_anew(sftp: FsspecStore) -> None:
    sftp.write(NAME, b"1")
    connection(sftp).close()
    with pytest.raises(StoreError, match=f"^{sftp}: looking for {NAME}: "):
        sftp.exists(NAME)
    assert sftp.exists(NAME)
