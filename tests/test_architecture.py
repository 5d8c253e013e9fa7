"""The arrows of the architecture, read from the sources.

Each check is a function from one source text to what is wrong with it, and ``BAD`` holds for each
of them a source that it must refuse.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("dispatcher", "mirai")
DEPENDENCIES = {"anyio", "cloudpickle", "msgspec", "zmq"}
OPTIONAL = {
    "boto3": "mirai/_aws.py",
    "fsspec": "mirai/controllers/_fsspec_store.py",
    "paramiko": "mirai/controllers/_known_hosts.py",
    "kubernetes": "mirai/launchers/kubernetes.py",
    "matplotlib": "mirai/controllers/_metrics_plot.py",
    "psutil": "mirai/controllers/_sampler.py",
    "distributed": "mirai/launchers/dask.py",
    "ray": "mirai/launchers/ray.py",
    "trio": "mirai/_trio.py",
    "numpy": "mirai/_streams.py",
    "redis": "mirai/queues/boards/_redis_store.py",
    "rich": "mirai/_top.py",
}
"""Optional dependency -> the only file that may import it."""

DOOR = {
    "PYTHON",
    "__version__",
    "boards",
    "core",
    "descriptors",
    "ends",
    "events",
    "filesystems",
    "hatch",
    "journal",
    "journal_check",
    "journal_repair",
    "keys",
    "line",
    "log",
    "messages",
    "processes",
    "records",
    "requests",
    "security",
    "server",
    "shared",
    "sockets",
    "story",
    "vault",
    "wire",
    "words",
}
"""What the client may use of the dispatcher."""
OF_TASKS = (
    "mirai._channel",
    "mirai._future",
    "mirai._map",
    "mirai._mirai",
    "mirai._outbox",
    "mirai._pending",
    "mirai._pool.",
    "mirai._profiles",
    "mirai._serialize",
)
"""What no launcher has any business with."""
PICKLERS = {"pickle", "cloudpickle", "marshal", "shelve", "dill"}
IMPURE = {"socket", "zmq", "time", "threading", "os", "pickle"}

TOP_LEVEL = {"pyproject.toml", "mirai", "dispatcher", "tests", "benchmarks", "README.md", "LICENSE"}
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:home|root|work|Users)/[\w.-]+|[.]pyenv")

# ── reading ──────────────────────────────────────────────────────────────────────────────


def imported(source: str) -> Iterator[str]:
    """Yield the dotted name of everything that a source imports, anywhere in it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports are not used here"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def roots(source: str) -> set[str]:
    """Return the packages that a source imports from."""
    return {name.partition(".")[0] for name in imported(source)}


# ── the rules ────────────────────────────────────────────────────────────────────────────


def uses_the_client(source: str) -> set[str]:
    """The dispatcher does not know the client."""
    return roots(source) & {"mirai"}


def uses_the_inside_of_the_dispatcher(source: str) -> set[str]:
    """The client uses only the dispatcher's open rooms."""
    used = {name for name in imported(source) if name.partition(".")[0] == "dispatcher"}
    return {name for name in used if ([*name.split("."), ""])[1] not in DOOR}


def does_io(source: str) -> set[str]:
    """The deciding parts have no socket, no clock, no thread, and open no payload."""
    return roots(source) & IMPURE


def unpickles(source: str) -> set[str]:
    """The dispatcher never looks inside a payload."""
    return roots(source) & PICKLERS


def has_sockets(source: str) -> set[str]:
    """These rooms know nothing of ZeroMQ."""
    return roots(source) & {"zmq"}


def uses_optional_packages(source: str) -> set[str]:
    """Whatever need not be installed is imported in a file of its own."""
    return roots(source) - set(sys.stdlib_module_names) - {*PACKAGES, *DEPENDENCIES}


def calls(source: str) -> Iterator[ast.Call]:
    """Yield all calls in a file."""
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))


def prints(source: str) -> set[str]:
    """A library does not write to its user's terminal."""
    return {
        f"print in line {node.lineno}"
        for node in calls(source)
        if isinstance(node.func, ast.Name) and node.func.id == "print"
    }


def may_wait_for_a_peer(source: str) -> set[str]:
    """What goes to a peer is sent at once or not at all: one that reads nothing holds up nobody."""
    return {
        f"line {node.lineno} may block"
        for node in calls(source)
        if isinstance(node.func, ast.Attribute)
        and node.func.attr in ("send", "send_multipart")
        and ast.unparse(node.func.value) in ("self._router", "self._socket")
        and not any("NOBLOCK" in ast.unparse(part) for part in node.args)
    }


def knows_tasks(source: str) -> set[str]:
    """A launcher knows a place and keys, and no task."""
    return {name for name in imported(source) if name.startswith(OF_TASKS)}


def names_a_machine(text: str) -> set[str]:
    """No path of the machine that something was written on."""
    return set(MACHINE_PATH.findall(text))


Rule = Callable[[str], set[str]]

RULES: list[tuple[Rule, str, tuple[str, ...]]] = [
    (uses_the_client, "dispatcher/*", ()),
    (uses_the_inside_of_the_dispatcher, "mirai/*", ("mirai/_dispatcher_command.py",)),
    (does_io, "dispatcher/checks.py", ()),
    (does_io, "dispatcher/core.py", ()),
    (does_io, "dispatcher/credit.py", ()),
    (does_io, "dispatcher/events.py", ()),
    (does_io, "dispatcher/peers.py", ()),
    (does_io, "dispatcher/queue.py", ()),
    (does_io, "dispatcher/jobs.py", ()),
    (does_io, "dispatcher/journal_rows.py", ()),
    (does_io, "dispatcher/records.py", ()),
    (does_io, "dispatcher/messages.py", ()),
    (does_io, "dispatcher/boards.py", ()),
    (does_io, "dispatcher/requests.py", ()),
    (does_io, "dispatcher/table.py", ()),
    (does_io, "dispatcher/tables.py", ()),
    (does_io, "dispatcher/keeper.py", ()),
    (does_io, "dispatcher/kept.py", ()),
    (does_io, "dispatcher/register.py", ()),
    (does_io, "mirai/_fleet.py", ()),
    (does_io, "mirai/controllers/_book.py", ()),
    (does_io, "mirai/controllers/_retry.py", ()),
    (does_io, "mirai/controllers/scaling.py", ()),
    (does_io, "mirai/_why.py", ()),
    (does_io, "mirai/launchers/_script.py", ()),
    (knows_tasks, "mirai/launchers/*", ()),
    (does_io, "dispatcher/story.py", ()),
    (does_io, "dispatcher/words.py", ()),
    (unpickles, "dispatcher/*", ()),
    (has_sockets, "mirai/_evaluate.py", ()),
    (has_sockets, "mirai/_pending.py", ()),
    (has_sockets, "mirai/_serialize.py", ()),
    (has_sockets, "mirai/_line_link.py", ()),
    (has_sockets, "dispatcher/line*.py", ()),
    (uses_optional_packages, "*", tuple(OPTIONAL.values())),
    (may_wait_for_a_peer, "dispatcher/router.py", ()),
    (may_wait_for_a_peer, "mirai/_link.py", ()),
    (prints, "*", ("*/__main__.py", "mirai/_demo.py", "mirai/_*_command.py")),
]
"""Rule, the files that it is for, and the files that it is not for."""

BAD = [
    (uses_the_client, "def f():\n    from mirai._errors import MiraiError\n"),
    (uses_the_client, "import mirai\n"),
    (uses_the_inside_of_the_dispatcher, "from dispatcher.nursery import Nursery\n"),
    (uses_the_inside_of_the_dispatcher, "from dispatcher import queue\n"),
    (uses_the_inside_of_the_dispatcher, "import dispatcher\n"),
    (does_io, "import time\n"),
    (does_io, "if True:\n    from os.path import join\n"),
    (unpickles, "from pickle import loads\n"),
    (has_sockets, "import zmq.utils.monitor\n"),
    (uses_optional_packages, "try:\n    import numpy as np\nexcept ImportError:\n    pass\n"),
    (may_wait_for_a_peer, "self._router.send_multipart([route, *frames], copy=False)\n"),
    (may_wait_for_a_peer, "self._socket.send(data)\n"),
    (prints, "def f():\n    print('here')\n"),
    (knows_tasks, "from mirai._future import Mirai\n"),
    (names_a_machine, "see " + "/home/" + "someone/notes\n"),
    (names_a_machine, "cd /" + "work/main\n"),
]
GOOD = [
    (uses_the_inside_of_the_dispatcher, "from dispatcher import __version__, wire\n"),
    (uses_the_inside_of_the_dispatcher, "import dispatcher.messages\n"),
    (uses_optional_packages, "import asyncio\nimport zmq\nfrom mirai import daemons\n"),
    (may_wait_for_a_peer, "self._router.send_multipart(frames, zmq.NOBLOCK, copy=False)\n"),
    (prints, "report.print()\n"),
    (knows_tasks, "from mirai._pool_options import check_env\n"),
    (names_a_machine, "github.com/home/x, ./work/x and https://example.org/work\n"),
]

# ── the tests ────────────────────────────────────────────────────────────────────────────


def sources(pattern: str, but: tuple[str, ...] = ()) -> list[str]:
    """Return the Python files of the packages whose path fits."""
    paths = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    names = (path.relative_to(ROOT).as_posix() for path in paths)
    return sorted(
        name
        for name in names
        if fnmatch(name, pattern) and not any(fnmatch(name, other) for other in but)
    )


def tracked() -> list[str]:
    """Return the files that git knows; skip the test where there is no git."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    listed = subprocess.run(
        ["git", "-c", "safe.directory=*", "ls-files", "-z"], cwd=ROOT, capture_output=True
    )
    if listed.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [name for name in listed.stdout.decode().split("\0") if name]


@pytest.mark.parametrize(
    ("rule", "pattern", "but"), RULES, ids=lambda part: getattr(part, "__name__", part)
)
def test_rule(rule: Rule, pattern: str, but: tuple[str, ...]) -> None:
    files = sources(pattern, but)
    assert files, f"no file is called {pattern}"
    wrong = {name: rule((ROOT / name).read_text(encoding="utf-8")) for name in files}
    assert {name: what for name, what in wrong.items() if what} == {}


def test_optional_packages_are_imported_where_they_belong() -> None:
    for package, name in OPTIONAL.items():
        assert uses_optional_packages((ROOT / name).read_text(encoding="utf-8")) == {package}


@pytest.mark.parametrize(("rule", "source"), BAD)
def test_rule_refuses(rule: Rule, source: str) -> None:
    assert rule(source)


@pytest.mark.parametrize(("rule", "source"), GOOD)
def test_rule_allows(rule: Rule, source: str) -> None:
    assert rule(source) == set()


def test_every_rule_is_seen_to_refuse() -> None:
    assert {rule for rule, _, _ in RULES} <= {rule for rule, _ in BAD}


def strangers(names: list[str]) -> set[str]:
    """Return what lies at the top of the repository and does not belong there."""
    tops = {name.partition("/")[0] for name in names}
    return {top for top in tops if top not in TOP_LEVEL and not top.startswith(".")}


def test_nothing_else_lies_at_the_top() -> None:
    assert strangers(["setup.py", "mirai/__init__.py", ".gitignore"]) == {"setup.py"}
    assert strangers(tracked()) == set()


def test_no_file_names_a_machine() -> None:
    wrong = {}
    for name in tracked():
        if (ROOT / name).is_file():
            text = (ROOT / name).read_text(encoding="utf-8", errors="replace")
            wrong[name] = names_a_machine(text)
    assert {name: what for name, what in wrong.items() if what} == {}
