"""What users see: the names, their docstrings, and their types."""

from __future__ import annotations

import importlib.util
import inspect
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import mirai
from mirai import queues

ROOT = Path(__file__).parent.parent

EXPECTED = {
    "AuthenticationError",
    "DaemonCrashed",
    "Daemons",
    "DispatcherLost",
    "FunctionChanged",
    "Job",
    "JobStatus",
    "JournalStatus",
    "LaunchError",
    "Memory",
    "Mirai",
    "MiraiDict",
    "MiraiError",
    "MiraiMap",
    "MiraiStream",
    "ProtocolError",
    "QueueFull",
    "RemoteError",
    "SerialConfig",
    "SerializationError",
    "Status",
    "Story",
    "TaskCancelled",
    "TaskTimeout",
    "connect",
    "daemons",
    "everywhere",
    "host_url",
    "job",
    "local_addresses",
    "mirai",
    "mirai_map",
    "on_daemon",
    "race",
    "register_serial",
    "status",
    "task_generator",
    "try_mirai",
    "use_profile",
}


def test_all_is_what_is_promised() -> None:
    assert sorted(mirai.__all__) == sorted(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_name_is_there_and_explained(name: str) -> None:
    thing = getattr(mirai, name)
    own = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    assert own, f"{name} has no docstring of its own"


def undocumented(kind: type) -> list[str]:
    """Return the public methods and properties of a class of ours without a docstring."""
    return [
        name
        for name, member in vars(kind).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, (property, classmethod)))
        and not inspect.getdoc(member)
    ]


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_methods_are_explained(name: str) -> None:
    thing = getattr(mirai, name)
    if inspect.isclass(thing):
        assert undocumented(thing) == []
    else:
        assert inspect.isroutine(thing) or undocumented(type(thing)) == []


@pytest.mark.parametrize("name", sorted(queues.__all__))
def test_what_queues_are_is_explained(name: str) -> None:
    thing = getattr(queues, name)
    assert vars(thing).get("__doc__"), f"{name} has no docstring of its own"
    assert undocumented(thing) == []


def test_undocumented_finds_them() -> None:
    class Bad:
        def method(self) -> None: ...

        @property
        def trait(self) -> int:
            return 1

        def _hidden(self) -> None: ...

    assert undocumented(Bad) == ["method", "trait"]


def test_nothing_else_is_public() -> None:
    public = {
        name
        for name, thing in vars(mirai).items()
        if not name.startswith("_") and not isinstance(thing, ModuleType)
    }
    assert public == EXPECTED


def test_star_import_works() -> None:
    names: dict[str, object] = {}
    exec("from mirai import *", names)
    assert names.keys() >= EXPECTED


def test_import_is_light() -> None:
    """Importing mirai imports no optional package and nothing of the daemon."""
    code = (
        "import sys, mirai;"
        "print(*{'trio', 'numpy', 'mirai._daemon', 'argparse'} & sys.modules.keys())"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert loaded.stdout.split() == []


# ── types ────────────────────────────────────────────────────────────────────────────────

TYPED = """
import asyncio
from concurrent.futures import Future, as_completed, wait
from typing import assert_type

from mirai import Daemons, Job, JobStatus, Mirai, MiraiMap, Status
from mirai import connect, daemons, job, mirai, status, try_mirai
from mirai.controllers import AsyncController, Controller, Results
from mirai.queues import Counts, Queue


def area(width: int, *, height: float = 1.0) -> float:
    return width * height


async def fetch(url: str) -> bytes:
    return url.encode()


class Model:
    def __init__(self, depth: int) -> None:
        self.depth = depth

    def predict(self, row: list[int]) -> str:
        return str(row)


assert_type(mirai(area, 3), Mirai[float])
assert_type(mirai(area, 3, height=2.0).result(), float)
assert_type(mirai(fetch, "a"), Mirai[bytes])
assert_type(mirai(Model, 3), Mirai[Model])
assert_type(mirai(Model(3).predict, [1]), Mirai[str])
assert_type(mirai(lambda: 1), Mirai[int])
assert_type(try_mirai(area, 3), Mirai[float] | None)
assert_type(mirai.options(name="a").try_(fetch, "a"), Mirai[bytes] | None)
assert_type(daemons(2), Daemons)
assert_type(job("air")(area, 3, height=2.0), Mirai[float])
assert_type(job("air")(fetch, "a"), Mirai[bytes])
assert_type(job("air").map(area, [3]), MiraiMap[float])
assert_type(job("air").options(retries=1), Job)
assert_type(job("air").saved(), Mirai[JobStatus])
assert_type(connect("pool.json"), Daemons)
assert_type(status(), Status)

controller = Controller(workers=2)
assert_type(controller.push(area, 3, height=2.0), Mirai[float])
assert_type(controller.options(name="a").push(fetch, "a"), Mirai[bytes])
assert_type(controller.map(area, [1, 2]), Results[float])
assert_type(controller.map(fetch, ["a"]).values(), list[bytes])
assert_type(controller.walk(area, [1, 2]), list[Mirai[float]])
for result in controller.stream(area, [1, 2], max_in_flight=2):
    assert_type(result.unwrap(), float)

jobs = Queue.open("job.queue")
assert_type(jobs.push(area, 3, height=2.0), int)
assert_type(jobs.options(retries=1).push(fetch, "a"), int)
assert_type(jobs.map(area, [1, 2]), range)
assert_type(jobs.join(workers=2), Counts)
with jobs.lease(ttl=60) as leased:
    assert_type(leased.key, int)

future: Future[float] = mirai(area, 3)


async def main() -> None:
    assert_type(await mirai(area, 3), float)
    assert_type(await mirai(fetch, "a"), bytes)
    assert_type(await asyncio.gather(mirai(area, 3), mirai(fetch, "a")), tuple[float, bytes])
    async with daemons(1) as pool:
        assert_type(pool, Daemons)
    async with controller as awaited:
        assert_type(awaited, AsyncController)
        assert_type(await awaited.map(fetch, ["a"]), Results[bytes])
        assert_type(await awaited.wait(), bool)


mirais = [mirai(area, n) for n in range(3)]
for each in as_completed(mirais):
    assert_type(each.result(), float)
wait(mirais)
"""

WRONG = {
    "the type of an argument": 'mirai(area, "3")',
    "a keyword that it does not have": "mirai(area, 3, depth=1)",
    "too few arguments": "mirai(area)",
    "an argument that is only tried": 'try_mirai(area, "3")',
    "an argument that is pushed": 'controller.push(area, "3")',
    "an argument that is queued": 'jobs.push(area, "3")',
    "a result taken for another": "text: str = mirai(area, 3).result()",
    "not a function": "mirai(3)",
    "an awaitable function's argument": "mirai(fetch, 3)",
}


def typecheck(source: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run mypy on a user's program; skip where there is none."""
    if importlib.util.find_spec("mypy") is None:
        pytest.skip("mypy is not installed")
    program = folder / "program.py"
    program.write_text(source, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", program.name],
        cwd=folder,
        env=os.environ | {"MYPYPATH": str(ROOT), "MYPY_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
    )


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_types_are_kept(tmp_path: Path) -> None:
    checked = typecheck(TYPED, tmp_path)
    complaints = [line for line in checked.stdout.splitlines() if line.startswith("program.py")]
    assert complaints == [], checked.stdout + checked.stderr
    assert checked.returncode in (0, 1), checked.stderr  # 2: mypy itself has failed


@pytest.mark.thorough
@pytest.mark.timeout(300)
def test_wrong_calls_are_errors(tmp_path: Path) -> None:
    lines = TYPED.splitlines()
    checked = typecheck("\n".join([*lines, *WRONG.values()]), tmp_path)
    first = len(lines) + 1
    expected = dict(zip(range(first, first + len(WRONG)), WRONG, strict=True))
    refused = {
        int(line.split(":")[1])
        for line in checked.stdout.splitlines()
        if line.startswith("program.py") and ": error:" in line
    }
    missed = {what for number, what in expected.items() if number not in refused}
    assert missed == set(), checked.stdout + checked.stderr


def test_ctrl_c_during_the_import_is_not_swallowed() -> None:
    """msgspec imports datetime in C, and would go on without it, to crash later."""
    program = """
import sys
class Interrupter:
    def find_spec(self, name, path=None, target=None):
        if name == "datetime":
            sys.meta_path.remove(self)
            raise KeyboardInterrupt
sys.modules.pop("datetime", None)
sys.meta_path.insert(0, Interrupter())
try: import mirai
except KeyboardInterrupt: print("interrupted")
"""
    command = [sys.executable, "-c", program]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert (done.stdout.strip(), done.returncode) == ("interrupted", 0)


def test_the_import_loads_no_more_than_is_needed() -> None:
    program = (
        "import sys, mirai; print([name for name in ('zmq', 'asyncio', 'mirai.launchers')"
        " if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert (done.stdout, done.stderr) == ("[]\n", "")
