"""What of boards needs no server: places, values, rows, tables, snapshots."""

from __future__ import annotations

import inspect
import json
import pickle
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from dispatcher.boards import Row, TaskState, Worker
from mirai import queues
from mirai._errors import BoardError, MiraiError, SerializationError, StoreError
from mirai.queues import Board, Large, TaskRow, Workers
from mirai.queues.boards import _snapshots
from mirai.queues.boards._places import PASSWORD, Place, read_place, with_password, without_secrets
from mirai.queues.boards._redis_scripts import whole
from mirai.queues.boards._rows import frame_of
from mirai.queues.boards._values import Values, in_words, pack_error, unpack_error

SECRET = "s3cret"

# ── places ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{SECRET}@host:6379/0", "redis://host:6379/0"),
        (f"rediss://user:{SECRET}@host?ssl_ca_certs=x", "rediss://host"),
        (f"redis://u:{SECRET}@b@host/1", "redis://host/1"),
        (f"redis://host?password={SECRET}", "redis://host"),
        (f"unix://:{SECRET}@/run/redis.sock?db=1", "unix:///run/redis.sock"),
        (f"redis://:{SECRET}?{SECRET}@host", "redis://…"),
        (f"redis://host?password=a@{SECRET}", "redis://…"),
        ("redis://host", "redis://host"),
        ("redis://[::1]:6379/2", "redis://[::1]:6379/2"),
        ("unix:///run/redis:1.sock", "unix:///run/redis:1.sock"),
        # The @ and the host were forgotten, or are not where they belong.
        (f"redis://:{SECRET}", "redis://…"),
        (f"rediss://user:{SECRET}/0", "rediss://…"),
        (f"redis://:{SECRET}:6379/0", "redis://…"),
        ("redis://:123456", "redis://…"),
        (f"redis://host:6379/{SECRET}", "redis://…"),
        (f"redis://host:6379#{SECRET}", "redis://…"),
        (f"redis://host:6379&password={SECRET}", "redis://…"),
        (f"redis://[{SECRET}", "redis://…"),
        (f"redis://:a@b:{SECRET}", "redis://…"),
        (f"unix://:{SECRET}/run/redis.sock", "unix://…"),
    ],
)
def test_no_place_shows_its_secrets(url: str, shown: str) -> None:
    place = Place(url, "b")
    assert without_secrets(url) == str(place) == shown
    assert SECRET not in repr(place) + repr([place]) + f"{place}"
    assert pickle.loads(pickle.dumps(place)) == place


@pytest.mark.parametrize("end", ["/1", "?1", "#1", "[1", "\u2100"])
@pytest.mark.parametrize("password", ["", "1"])
def test_no_error_shows_the_secret_of_a_url(
    end: str, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis")
    monkeypatch.setenv(PASSWORD, password)
    with pytest.raises(ValueError, match="is no URL of Redis") as raised:
        Board(f"redis://:{SECRET}{end}@localhost")
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{SECRET}",  # the host was forgotten
        f"rediss://user:{SECRET}/0",
        f"redis://host?password={SECRET}&x=1",  # there are options, but not this one
        f"unix:///run/s?password={SECRET}&x=1",
        f"rediss://host?password={SECRET}&ssl_cert_reqs=x",
    ],
)
def test_what_is_no_url_of_redis_is_said_at_once(url: str) -> None:
    pytest.importorskip("redis")
    with pytest.raises(ValueError, match=r"is no URL of Redis") as raised:
        Board(url)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://host/0", "redis://:a%2Fb%40@host/0"),
        ("redis://user@host", "redis://user:a%2Fb%40@host"),
        ("redis://:own@host", "redis://:own@host"),
        ("redis://host?password=own", "redis://host?password=own"),
        ("unix:///run/s?db=1", "unix://:a%2Fb%40@/run/s?db=1"),
    ],
)
def test_a_password_goes_where_none_is(
    url: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert with_password(url, "a/b@") == expected
    monkeypatch.setenv(PASSWORD, "a/b@")
    assert Place(url, "b").url == expected


@pytest.mark.parametrize(
    ("url", "name", "error"),
    [
        (3, "b", TypeError),
        ("redis://host", 3, TypeError),
        ("redis://host", "", ValueError),
        ("redis://host", "{b}", ValueError),
        (f"http://:{SECRET}@host", "b", ValueError),
        ("host", "b", ValueError),
        (f"redis:{SECRET}@host", "b", ValueError),
        (f"user:{SECRET}@redis://host", "b", ValueError),
        ("mirai:///nowhere/pool.json", "b", MiraiError),
    ],
)
def test_what_is_no_place(url: Any, name: Any, error: type[Exception]) -> None:
    with pytest.raises(error) as raised:
        Place(url, name)
    assert SECRET not in str(raised.value)


def test_a_file_for_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(f"redis://:{SECRET}@host", "b")
    place.write(tmp_path / "file", "duty:1")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o600
    assert read_place(str(tmp_path / "file")) == (place, "duty:1")
    monkeypatch.setenv("BOARD", (tmp_path / "file").read_text())
    assert read_place("env:BOARD") == (place, "duty:1")


@pytest.mark.parametrize("text", ["", "{}", "[]", "no", '{"board": 2}', '{"board": 1, "url": 3}'])
def test_a_file_of_something_else(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(text)
    (tmp_path / "file").chmod(0o600)
    with pytest.raises(MiraiError):
        read_place(str(tmp_path / "file"))
    (tmp_path / "file").chmod(0o644)
    with pytest.raises(MiraiError, match="chmod 600"):
        read_place(str(tmp_path / "file"))


def test_redis_py_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "mirai.queues.boards._redis_store", raising=False)
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(MiraiError, match=r"pip install 'mirai-zmq\[redis\]'"):
        Board("redis://host")


def test_everything_public_is_explained() -> None:
    for name in queues.__all__:
        thing = getattr(queues, name)
        assert thing.__doc__, name
        for member, value in vars(thing).items():
            if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                assert inspect.getdoc(value), f"{name}.{member}"


@pytest.mark.parametrize("wrong", [{"tries": 0}, {"threshold": -1}, {"threshold": "x"}])
def test_what_a_board_is_told_is_checked(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=f"{name} must be"):
        Board("redis://host", **wrong)


# ── values ───────────────────────────────────────────────────────────────────────────────


def values(kept: dict[str, bytes], threshold: int = 1_000) -> Values:
    """Return what packs onto a board that is a dict."""
    return Values(kept.get, kept.__setitem__, threshold)


def test_small_values_travel_with_their_task() -> None:
    kept: dict[str, bytes] = {}
    data = values(kept).pack({"x": 1, "f": lambda: 2})
    found = values(kept).unpack(data)
    assert (found["x"], found["f"](), kept) == (1, 2, {})
    assert values(kept).unpack(b"") == {}


def test_large_values_lie_beside_their_task_once() -> None:
    kept: dict[str, bytes] = {}
    board = values(kept)
    data = [board.pack({"x": b"x" * 5_000, "n": n}) for n in range(3)]
    assert len(kept) == 1
    assert all(len(each) < 1_000 for each in data)
    left = board.unpack(data[1])
    assert isinstance(left["x"], Large) and left["n"] == 1
    assert left["x"].size > 5_000 and str(left["x"]).endswith("bytes>")
    assert board.unpack(data[1], load=True) == {"x": b"x" * 5_000, "n": 1}
    assert board.pack(left) == data[1]
    assert board.load(3) == 3


def test_many_small_values_stay_together() -> None:
    kept: dict[str, bytes] = {}
    data = values(kept).pack({f"x{n}": bytes([n]) * 100 for n in range(100)})
    assert (len(data) > 1_000, kept) == (True, {})


def test_one_call_puts_a_value_once() -> None:
    puts: list[str] = []
    board = Values({}.get, lambda name, _: puts.append(name), 10)
    digests: set[str] = set()
    for _ in range(3):
        board.pack({"x": b"x" * 100}, digests)
    assert len(puts) == 1
    board.pack({"x": b"x" * 100})  # the board may have been reset meanwhile
    assert len(puts) == 2


def test_what_is_not_there_any_more() -> None:
    kept: dict[str, bytes] = {}
    data = values(kept).pack({"x": b"x" * 5_000})
    kept.clear()
    with pytest.raises(StoreError, match="does not have"):
        values(kept).unpack(data, load=True)
    with pytest.raises(SerializationError):
        values(kept).unpack(b"nonsense")


def test_errors_come_back_with_where_they_arose() -> None:
    with pytest.raises(KeyError) as raised:
        {}["missing"]
    assert in_words(raised.value) == "KeyError: 'missing'"
    error = unpack_error(pack_error(raised.value))
    assert type(error) is KeyError and "test_errors_come_back" in str(error.__cause__)
    assert in_words(ValueError("one\ntwo")) == "ValueError: one"
    assert in_words(ValueError()) == "ValueError"
    assert in_words(ValueError("\ud800")).isascii()


# ── rows ─────────────────────────────────────────────────────────────────────────────────


def row(key: str, xs: dict[str, Any], **more: Any) -> TaskRow:
    """Return a task as its readers see it."""
    board = values({})
    return TaskRow(Row(key, board.pack(xs), **more), Worker("w", "here", 7), board)


def finished(key: str, xs: dict[str, Any], ys: dict[str, Any]) -> TaskRow:
    return row(key, xs, state=TaskState.FINISHED, ys=values({}).pack(ys), worker="w")


def test_what_a_row_tells() -> None:
    done = finished("1", {"x": 1}, {"y": 2})
    assert (done.ok, done.xs, done.ys, done.error, done.pid) == (True, {"x": 1}, {"y": 2}, None, 7)
    failed = row("2", {}, state=TaskState.FAILED, ys=pack_error(ValueError("no")), condition="no")
    assert (failed.ok, failed.ys, repr(failed)) == (False, {}, "<TaskRow 2, failed: no>")
    assert isinstance(failed.error, ValueError)
    lost = row("3", {}, state=TaskState.LOST, condition="gone")
    assert isinstance(lost.error, BoardError) and str(lost.error) == "gone"
    assert row("4", {}).error is None


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_frames(kind: Any) -> None:
    pytest.importorskip("pyarrow" if kind == "arrow" else kind)
    rows = [
        finished("1", {"x": 1, "key": "a"}, {"x": 2.5}),
        row("2", {"x": 3, "z": [1]}, condition="\ud800"),
    ]
    frame = frame_of(rows, values({}), kind)
    names = list(frame.column_names if kind == "arrow" else frame.columns)
    assert names[:6] == ["key", "state", "x", "xs.key", "z", "ys.x"]
    assert names[6:] == [
        *("condition", "worker", "pid", "priority", "tries"),
        *("pushed", "started", "ended"),
    ]
    columns = frame.to_pydict() if kind == "arrow" else frame
    assert list(columns["x"]) == [1, 3]
    assert list(columns["state"]) == ["finished", "queued"]
    assert list(list(columns["z"])[1]) == [1]
    assert list(columns["condition"]) == ["", "\\ud800"]
    assert len(frame_of([], values({}), kind)) == 0


def test_one_that_cannot_be_read_spoils_no_frame() -> None:
    broken = Row("b", b"cnowhere\nto_be_found\n.", TaskState.FINISHED)
    rows = [finished("a", {"x": 1}, {"y": 2}), TaskRow(broken, Worker(""), values({}))]
    frame = frame_of(rows, values({}), "pandas")
    assert list(frame["key"]) == ["a", "b"] and frame["x"][0] == 1
    assert "xs cannot be read" in frame["condition"][1] and frame["condition"][0] == ""


def test_columns_of_any_name() -> None:
    rows = [
        finished("a", {"key": 1, "xs.key": 2}, {1: 3, "1": 4, None: 5}),  # type: ignore[dict-item]
    ]
    frame = frame_of(rows, values({}), "pandas")
    own = {name: frame[name][0] for name in frame.columns[2:7]}
    assert own == {"xs.key": 1, "xs.xs.key": 2, "1": 3, "ys.1": 4, "None": 5}


def test_workers_are_a_table() -> None:
    workers = Workers([Worker("w", "here", 7, started=1.0), Worker("v", reason="\ud800")])
    first, second, third = str(workers).splitlines()
    assert first.split() == [
        *("id", "state", "host", "pid"),
        *("started", "heard", "ended", "reason"),
    ]
    assert second.startswith("w   running  here  7    ") and third.endswith("\\ud800")
    pytest.importorskip("pandas")
    frame = workers.to_frame()
    assert list(frame["id"]) == ["w", "v"] and list(frame["state"]) == ["running"] * 2


# ── snapshots ────────────────────────────────────────────────────────────────────────────


def test_a_snapshot_holds_large_values(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    kept: dict[str, bytes] = {}
    xs = values(kept).pack({"x": b"x" * 5_000})
    kept["large:other"] = b"not of these tasks"
    rows = [Row("1", xs, TaskState.RUNNING, worker="w"), Row("2", values({}).pack({"x": 1}))]
    _snapshots.write(tmp_path / "board", rows, [Worker("w", pid=5)], kept.get)
    frame = Board.load_frame(tmp_path / "board")
    assert list(frame["x"]) == [b"x" * 5_000, 1]
    assert list(frame["pid"]) == [5, 0]
    assert b"not of these" not in (tmp_path / "board").read_bytes()


@pytest.mark.parametrize("data", [b"", b"no", b"\x80", json.dumps({}).encode()])
def test_what_is_no_snapshot(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match="no snapshot"):
        Board.load_frame(tmp_path / "file")
    with pytest.raises(FileNotFoundError):
        Board.load_frame(tmp_path / "nothing")


def test_scripts_have_what_they_share() -> None:
    assert whole("return 1").rstrip().endswith("return 1")
    assert whole("return 1").count("local function dismiss") == 1
