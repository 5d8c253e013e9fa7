"""The benchmarks run, in small, and count right.  How fast anything is, is not tested."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

BENCHMARKS = ROOT / "benchmarks"
PEER = "ProcessPoolExecutor"
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def judge(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the function that judges a soak."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import soak

    return soak.judge


@pytest.fixture
def helper(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module that the benchmarks share."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _table

    return _table


@pytest.fixture
def surrogate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of the model that searches use."""
    pytest.importorskip("numpy")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import _surrogate

    return _surrogate


@pytest.fixture
def searching(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the benchmark of searches."""
    pytest.importorskip("numpy")
    pytest.importorskip("pandas")
    monkeypatch.syspath_prepend(BENCHMARKS)
    import search

    return search


@pytest.fixture
def scaling_out(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the benchmark that simulates many workers."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    import scaleout

    return scaleout


def measure(name: str, folder: Path, *arguments: str) -> Any:
    """Run a benchmark; return what it writes as JSON."""
    file = folder / "out.json"
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), "--json", str(file), *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    assert "median" in done.stdout
    return json.loads(file.read_text(encoding="utf-8"))


def shape(out: Any) -> list[tuple[str, str, int]]:
    """Return what was measured of whom, and how often."""
    return [(row["what"], row["who"], len(row["values"])) for row in out["rows"]]


WHO = ("mirai", PEER)
BOTH = ("--only", *WHO)


def test_noop(tmp_path: Path) -> None:
    some = "--in-flight", "5", "20"
    out = measure("noop", tmp_path, "--tasks", "20", "--repeats", "2", *some, *BOTH)
    wanted = [f"20 tasks, {depth} at a time" for depth in (5, 20)]
    assert shape(out) == [(what, who, 2) for what in wanted for who in WHO]


def test_latency(tmp_path: Path) -> None:
    out = measure("latency", tmp_path, "--tasks", "100", "--repeats", "1", *BOTH)
    things = [("round trip", 100), ("start to first result", 1), ("end", 1)]
    assert shape(out) == [(what, who, n) for what, n in things for who in WHO]
    assert all((row["p99"] is not None) == (row["what"] == "round trip") for row in out["rows"])


@pytest.mark.thorough
def test_boards(tmp_path: Path) -> None:
    some = "--tasks", "20", "--many", "50"
    out = measure("boards", tmp_path, "--repeats", "1", *some)
    found = {(row["what"], row["who"]) for row in out["rows"]}
    assert {("pop one", who) for who in ("line", "thread", "tcp")} <= found
    assert ("end one, of 2 at once", "tcp") in found
    assert ("push many, each", "line") in found


WAYS = ("own points", "batches", "random")


@pytest.mark.thorough
def test_search(tmp_path: Path) -> None:
    """All points are evaluated, and what is found is the least of them at each time."""
    pytest.importorskip("numpy")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "search.png"
    small = "--budget", "14", "--workers", "2", "--seconds", "0.001", "--plot", str(picture)
    out = measure("search", tmp_path, "--repeats", "1", *small)
    things = ("least error", "wall time", "points", "idle workers")
    assert shape(out) == [(what, who, 1) for what in things for who in WAYS]
    found = {(row["what"], row["who"]): row["median"] for row in out["rows"]}
    assert found["points", "batches"] == 14
    assert {found["points", who] for who in WAYS} <= {14, 15}
    for who in WAYS:
        [line] = out["lines"][who]
        times, errors = zip(*line, strict=True)
        assert len(line) == 14 and list(times) == sorted(times)
        assert list(errors) == sorted(errors, reverse=True)
        assert found["least error", who] == errors[-1]
    assert picture.read_bytes().startswith(PNG)


@pytest.mark.thorough
@pytest.mark.parametrize("who", WAYS)
def test_what_a_search_leaves(searching: Any, who: str) -> None:
    """Each point is finished by one worker, taken once, and no two are the same."""
    options = searching.arguments().parse_args(["--workers", "2", "--seconds", "0.001"])
    options.budget = 14
    with searching.fresh_board(options) as board:
        searching.SEARCHES[who](options, searching.first_points(options), board)
        frame, workers = board.frame(), {worker.id for worker in board.workers()}
        found = searching.Found.of(board.rows(), 14, 2).line[-1][1]
    assert set(frame.state) == {"finished"} and len(frame) in (14, 15)
    assert set(frame.tries) == {1} and set(frame.worker) <= workers and len(workers) == 2
    assert not frame.duplicated(list(searching.RANGES)).any()
    assert found == frame.sort_values("ended").error[:14].min()


def test_what_is_proposed(surrogate: Any) -> None:
    """Where much is known, what is proposed is the best; and nobody goes where somebody is."""
    import numpy as np

    draw = np.random.default_rng(1)
    points = draw.random((40, 2))
    values = ((points - 0.3) ** 2).sum(axis=1)
    nobody = points[:0]
    proposed = [surrogate.propose(draw, points, values, nobody) for _ in range(20)]
    assert np.median(np.abs(np.array(proposed) - 0.3)) < 0.05
    process = surrogate.Process.fit(points, (values - values.mean()) / values.std(), 0.8)
    asked = draw.random((5, 2))
    expected, deviation = process.predict(asked)
    wanted = (((asked - 0.3) ** 2).sum(axis=1) - values.mean()) / values.std()
    assert np.abs(expected - wanted).max() < 0.1
    assert (deviation < process.predict(np.array([[9.0, 9.0]]))[1]).all()


@pytest.mark.thorough
def test_scaleout(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    if not Path("/proc/self/schedstat").exists():
        pytest.skip("needs /proc")
    picture = tmp_path / "scaleout.png"
    small = "--tasks", "40", "--clients", "2", "--lengths", "0.1", "1", "--plot", str(picture)
    out = measure("scaleout", tmp_path, "--repeats", "1", *small)
    measured = ["a task, of the server", "from task to task", "all together"]
    simulated = ["simulated: tasks of 100.00 ms", "simulated: tasks of 1.00 s"]
    assert shape(out) == [(what, "dispatcher", 1) for what in measured + simulated]
    assert all(row["median"] > 0 for row in out["rows"])
    assert picture.read_bytes().startswith(PNG)


def test_what_scaleout_simulates(scaling_out: Any) -> None:
    """It agrees with what is known of queues, and shards are worth what they have of the boards."""
    work, service = 1.0, 0.01
    alone = scaling_out.efficiency(1, work, service, 0.01, 1)
    assert alone == pytest.approx(work / (work + service + 0.01))
    busy = scaling_out.efficiency(200, work, service, 0.0, 1)
    assert busy == pytest.approx(100 / 200, rel=0.03)  # the server does 100 tasks a second
    curve = scaling_out.Curve.simulated(work, service, 0.0, 1)
    one = scaling_out.fed(curve, [1.0])
    assert 80 < one < 112
    assert scaling_out.fed(curve, [0.25] * 4) == pytest.approx(4 * one, abs=4)
    assert one < scaling_out.fed(curve, [0.75, 0.25]) < 2 * one
    assert scaling_out.fed(scaling_out.Curve.simulated(0.001, service, 0.0, 1), [1.0]) == 0
    shares = scaling_out.shares_of(4, 1_000, 1)
    assert len(shares) == 4 and sum(shares) == pytest.approx(1)
    assert scaling_out.shares_of(16, 1, 1) == [1.0]  # a board lies on one shard


def test_payload(tmp_path: Path) -> None:
    pytest.importorskip("numpy")
    out = measure("payload", tmp_path, "--megabytes", "1", "--repeats", "1", *BOTH)
    things = [("1 MB there and back", 20), ("1 MB as argument of 100", 1)]
    assert shape(out) == [(what, who, n) for what, n in things for who in WHO]


def test_awaiting(tmp_path: Path) -> None:
    out = measure("awaiting", tmp_path, "--tasks", "50", "--repeats", "1")
    rows = [(row["what"], len(row["values"])) for row in out["rows"] if row["who"] == "mirai"]
    loops = [loop for loop in ("asyncio", "uvloop", "trio") if find_spec(loop)]
    things = ("send", "arrive", "longest turn", "its work")
    assert rows == [(f"{loop}: {what}", 1) for loop in loops for what in things]
    assert {row["who"] for row in out["rows"]} == {"mirai", PEER}


def test_mapping(tmp_path: Path) -> None:
    out = measure("mapping", tmp_path, "--elements", "200", "--repeats", "2", *BOTH)
    who = ["mirai", "mirai, 1,000 in flight", PEER]
    assert shape(out) == [("200 elements", each, 2) for each in who]


@pytest.mark.thorough
def test_stopping(tmp_path: Path) -> None:
    small = "--repeats", "2", "--waiting", "50", "--storm", "5"
    out = measure("stopping", tmp_path, *small, *BOTH)
    both = [(what, who, 2) for what in ("kill to error", "cancel of 50 waiting") for who in WHO]
    assert shape(out) == [("cancel to next", "mirai", 2), *both, ("storm, each", "mirai", 1)]


def test_journal(tmp_path: Path) -> None:
    out = measure("journal", tmp_path, "--repeats", "1", "--tasks", "50", "--computed", "9")
    ours, all_three = "mirai, journal", (PEER, "mirai", "mirai, journal")
    assert shape(out) == [
        ("50 again", ours, 1),
        ("bytes of a task", ours, 1),
        *[("50 no-ops", who, 1) for who in all_three],
        ("50 no-ops of a job", ours, 1),
        *[("9 of 1 ms", who, 1) for who in all_three],
        ("9 of 1 ms of a job", ours, 1),
    ]


@pytest.mark.thorough
def test_tree(tmp_path: Path) -> None:
    out = measure("tree", tmp_path, "--repeats", "1", "--tasks", "2", "--each", "2")
    wanted = [f"{what}, 6 daemons" for what in ("host", "dispatcher", "memory")]
    shapes = "flat", "1 relay", "3 relays"
    real = [(what, who, 1) for what in wanted for who in shapes]
    simulated = [("its core, 3,000 daemons", who, 1) for who in ("flat", "3 relays")]
    assert shape(out) == real[:6] + simulated + real[6:]


def test_scale(tmp_path: Path) -> None:
    out = measure("scale", tmp_path, "--repeats", "1", "--tasks", "1000")
    assert [row["what"] for row in out["rows"]] == ["tasks"] * 2 + ["daemons"] * 2 + ["clients"] * 2
    assert all(row["median"] > 0 for row in out["rows"])


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="needs /proc")
def test_crowd(tmp_path: Path) -> None:
    small = "--tasks", "1000", "--daemons", "20", "--clients", "4"
    out = measure("crowd", tmp_path, "--repeats", "1", *small)
    what = ["tasks"] * 2 + ["daemons"] * 3 + ["clients"] * 2 + ["all"] * 2
    assert [row["what"] for row in out["rows"]] == what
    assert all(row["median"] > 0 for row in out["rows"])


def test_scaling(tmp_path: Path) -> None:
    """The longer workers may idle, the fewer are launched, and the more is paid."""
    out = measure("scaling", tmp_path, "--repeats", "1")
    rows = {(row["what"], row["who"]): row["median"] for row in out["rows"]}
    ours = [f"mirai, idle_time={seconds}" for seconds in (0, 30, 300)]
    order = ["as many as tasks", *ours, "all the time"]
    assert set(out["lines"]) == {who for _, who in rows} == set(order)
    jobs, paid = ([rows[what, who] for who in order] for what in ("jobs", "paid"))
    assert jobs == sorted(jobs, reverse=True)
    assert paid[1:] == sorted(paid[1:])


@pytest.mark.thorough
def test_importing(tmp_path: Path) -> None:
    out = measure("importing", tmp_path, "--repeats", "1")
    who = [row["who"] for row in out["rows"]]
    assert who[:3] == ["nothing", "mirai", "mirai, a daemon"] and "concurrent.futures" in who
    assert all(row["median"] > 0 for row in out["rows"])


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_memory(tmp_path: Path) -> None:
    out = measure("memory", tmp_path, "--repeats", "1", "--tasks", "1000", *BOTH)
    who = ["mirai", "mirai, its dispatcher", PEER]
    wanted = [(what, each, 1) for what in ("a waiting task", "left of it") for each in who]
    assert shape(out) == wanted
    assert {row["unit"] for row in out["rows"]} == {"B"}


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_idle(tmp_path: Path) -> None:
    out = measure("idle", tmp_path, "--repeats", "1", "--seconds", "0.1", "--only", "mirai")
    assert shape(out) == [("wake-ups", "mirai", 1), ("CPU time a second", "mirai", 1)]


@pytest.mark.thorough
def test_balance(tmp_path: Path) -> None:
    out = measure("balance", tmp_path, "--repeats", "1", *BOTH)
    things = ("exponential", "one long one", "no long one")
    assert shape(out) == [(what, who, 1) for what in things for who in WHO]
    assert all(row["median"] >= 0.99 for row in out["rows"] if row["unit"] == "× perfect")


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_all_of_them(tmp_path: Path) -> None:
    """They run together, and are drawn if that can be done here."""
    names = ["flight", "latency"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(tmp_path / "out"), *names],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stderr
    pictures = {"throughput.png", "latency.png"} if find_spec("matplotlib") else set()
    made = {file.name for file in (tmp_path / "out").iterdir()}
    assert made == {f"{name}.json" for name in names} | pictures


def test_a_wrong_name(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--out", str(tmp_path), "speed"],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 2
    assert "no such benchmark: speed" in done.stderr


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_soak(tmp_path: Path) -> None:
    out = measure("soak", tmp_path, "0.01", "--slower", "1000")
    things = ("bytes", "descriptors", "threads")
    whose = ("host", "dispatcher", "daemon 1", "daemon 2")
    what = ["round of mirai", *(f"{thing} of {who}" for who in whose for thing in things)]
    wanted = [(each, when) for each in what for when in ("first third", "last third")]
    assert [row[:2] for row in shape(out)] == wanted


@pytest.mark.thorough
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
def test_a_soak_that_is_interrupted(tmp_path: Path) -> None:
    """It stops its work, and judges."""
    command = [sys.executable, "-m", "benchmarks", "--soak", "60", "--out", str(tmp_path)]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("round 1: ")
        os.killpg(process.pid, signal.SIGINT)
        assert "rounds · Python" in process.stdout.read()
    assert process.returncode == 0


STEADY = [30.0] * 2 + [10.0, 10.5, 9.5] * 4


@pytest.mark.parametrize(
    ("what", "values", "wrong"),
    [
        ("round", STEADY, []),
        ("round", [5.0] * 10 + STEADY, []),
        ("round", [1.0] * 10 + [2.5] * 5, ["a round takes 2.50 times as long as it did"]),
        ("round", [1.0] * 10 + [2.5], []),
        ("round", [1.0] * 5 + [2.5] * 4, []),
        ("bytes", [1e6 * i for i in range(15)], ["host holds 8,000,000 bytes more than it did"]),
        ("bytes", [1e5 * i for i in range(15)], []),
        ("bytes", [5e7] * 3 + [9e7] * 12, []),
        ("descriptors", [9.0] * 10 + [11.0] * 5, []),
        ("descriptors", [9.0] * 10 + [12.0] * 5, ["host holds 3 descriptors more than it did"]),
        ("threads", [3.0] * 10 + [4.0] * 5, ["host holds 1 threads more than it did"]),
        ("threads", [3.0] * 10 + [2.0] * 5, []),
    ],
)
def test_what_a_soak_judges(judge: Any, what: str, values: list[float], wrong: list[str]) -> None:
    """It finds what grows: more than is allowed for, after the warm-up, and for long."""
    assert judge({(what, "host"): values, ("threads", "daemon 1"): [3.0] * 15}) == wrong


def test_table(helper: Any) -> None:
    rows = [
        helper.Row("a", "ours", [1.0, 3.0, 2.0]),
        helper.Row("a", "theirs", [0.5]),
        helper.Row("b", "ours", [0.001] * 98 + [0.003] * 2),
        helper.Row("c", "ours", [2_500.0], "B"),
        helper.Row("d", "ours", [3.0], "/s"),
    ]
    assert helper.ratios(rows) == [1.0, 0.25, 1.0, 1.0, 1.0]
    wanted = """
        median min max p99 ratio runs
        a ours 2.00 s 1.00 s 3.00 s 1.00 3
        a theirs 500.00 ms 500.00 ms 500.00 ms 0.25 1
        b ours 1.00 ms 1.00 ms 3.00 ms 3.00 ms 1.00 100
        c ours 2.50 kB 2.50 kB 2.50 kB 1.00 1
        d ours 3.00 /s 3.00 /s 3.00 /s 1.00 1
    """
    lines = helper.table(rows).splitlines()
    assert [line.split() for line in lines] == [line.split() for line in wanted.split("\n")[1:-1]]


def test_durations(helper: Any) -> None:
    assert [helper.duration(s) for s in (12.345, 0.5, 0.0021, 0.000_25)] == [
        "12.35 s",
        "500.00 ms",
        "2.10 ms",
        "250 µs",
    ]
