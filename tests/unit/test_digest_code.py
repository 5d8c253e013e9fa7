"""By what a durable job knows calls again."""

from __future__ import annotations

import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mirai._digest import bound_to, digest_of, keys_for, version_of

PARTS = """
LIMIT = 3

class Model:
    def fit(self, x):
        return x + 1

def helper(x):
    return x + 1

def unused(x):
    return x
"""

WORK = """
from tidy import parts
from tidy.parts import Model as Other, helper as other  # by names of its own

def by_module(x):
    return parts.helper(x)

def by_constant(x):
    return min(x, parts.LIMIT)

def by_name(x):
    return other(x)

def by_class(x):
    return Other().fit(x)

def by_class_of_module(x):
    return parts.Model().fit(x)

def alone(x):
    return x
"""


class Registry:
    """What functions are registered with, and which they use."""

    def __init__(self) -> None:
        self.handlers: list[Callable[[int], object]] = []


class Package:
    """A package that its author edits."""

    def __init__(self, home: Path) -> None:
        self._home = home / "tidy"
        self._home.mkdir()
        (self._home / "__init__.py").touch()

    def load(self, parts: str = PARTS, work: str = WORK) -> ModuleType:
        """Return its module ``work`` as another process would import it."""
        (self._home / "parts.py").write_text(parts)
        (self._home / "work.py").write_text(work)
        for name in [name for name in sys.modules if name.partition(".")[0] == "tidy"]:
            del sys.modules[name]
        importlib.invalidate_caches()
        return importlib.import_module("tidy.work")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield Package(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "tidy"]:
        del sys.modules[name]


USERS = ["by_module", "by_constant", "by_name", "by_class", "by_class_of_module", "alone"]


def identity(fn: Callable[..., Any]) -> bytes:
    """Return all that tells calls of a function from those of others."""
    return version_of(fn) + bound_to(fn)


class TestVersions:
    @pytest.mark.parametrize("name", USERS)
    def test_are_the_same_again(self, package: Package, name: str) -> None:
        before = version_of(getattr(package.load(), name))
        moved = "# a comment\n\n" + PARTS.replace("    def fit", '    """Text."""\n\n    def fit')
        assert version_of(getattr(package.load(moved, "\n\n" + WORK), name)) == before

    @pytest.mark.parametrize(
        ("name", "old", "new"),
        [
            ("by_module", "def helper(x):\n    return x + 1", "def helper(x):\n    return x + 2"),
            ("by_name", "def helper(x):\n    return x + 1", "def helper(x):\n    return x + 2"),
            ("by_constant", "LIMIT = 3", "LIMIT = 4"),
            ("by_class", "        return x + 1", "        return x + 2"),
            ("by_class_of_module", "        return x + 1", "        return x + 2"),
        ],
    )
    def test_change_with_what_is_used(
        self, package: Package, name: str, old: str, new: str
    ) -> None:
        before = package.load()
        versions = version_of(getattr(before, name)), version_of(before.alone)
        after = package.load(PARTS.replace(old, new))
        assert version_of(getattr(after, name)) != versions[0]
        assert version_of(after.alone) == versions[1]

    def test_do_not_change_with_what_is_not_used(self, package: Package) -> None:
        before = version_of(package.load().by_module)
        parts = PARTS.replace("def unused(x):\n    return x", "def unused(x):\n    return -x")
        assert version_of(package.load(parts).by_module) == before

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (lambda x: x + 1, lambda x: x + 2),
            (lambda x: x.real, lambda x: x.imag),
            (partial(pow, 2), partial(pow, 3)),
            (lambda x, y=1: x + y, lambda x, y=2: x + y),
        ],
    )
    def test_tell_apart(self, one: Callable[..., Any], other: Callable[..., Any]) -> None:
        assert identity(one) != identity(other)

    def test_of_what_refers_to_itself_end(self) -> None:
        def down(x: int) -> int:
            return down(x - 1) if x else 0

        assert version_of(down) == version_of(down)

    def test_of_long_chains_are_no_deeper(self) -> None:
        def version(last: str) -> bytes:
            space: dict[str, Any] = {"__name__": "__main__"}
            chain = [f"def f{number}(x): return f{number + 1}(x)\n" for number in range(1000)]
            exec("".join(chain) + f"def f1000(x): return {last}", space)
            return version_of(space["f0"])

        assert version("x") == version("x") != version("-x")

    def test_of_what_is_registered_where_it_looks_end(self) -> None:
        """As handlers are, with an object that each of them uses."""

        def registry(change: int) -> Registry:
            home = Registry()
            for number in range(12):
                home.handlers.append(lambda x, n=number: (home, x + n))
            home.handlers.append(lambda x: (home, x, change))
            return home

        one, other = registry(1), registry(2)
        assert identity(one.handlers[0]) == identity(registry(1).handlers[0])
        assert identity(one.handlers[0]) != identity(other.handlers[0])

    @pytest.mark.parametrize("use", ["helper(x)", "parts.helper(x)", "Model().fit(x)", "twice(x)"])
    def test_change_with_what_is_beside_a_script(self, package: Package, use: str) -> None:
        script = f"""
from functools import partial
from tidy import parts
from tidy.parts import Model, helper

twice = partial(helper)

def work(x):
    return {use}
"""

        def version() -> bytes:
            space: dict[str, Any] = {"__name__": "__main__"}
            exec(script, space)
            return version_of(space["work"])

        package.load()
        before = version()
        package.load("# moved\n" + PARTS)
        assert version() == before
        package.load(PARTS.replace("x + 1", "x + 2"))
        assert version() != before

    @pytest.mark.parametrize(
        "source",
        [
            """
class Kind:
    @functools.cached_property
    def p(self): return 1
""",
            """
class Kind:
    @property
    def p(self): return 0
    @p.setter
    def p(self, value): self.q = 1
""",
            """
class Kind:
    @property
    def p(self): return 0
    @p.deleter
    def p(self): self.q = 1
""",
            """
@functools.singledispatch
def Kind(x): return 0
@Kind.register
def _(x: int): return 1
""",
            """
class Kind:
    @functools.singledispatchmethod
    def p(self, x): return 0
@Kind.p.register
def _(self, x: int): return 1
""",
            """
class Meta(type):
    def make(kind): return 1
class Kind(metaclass=Meta): pass
""",
        ],
        ids=["cached", "setter", "deleter", "dispatch", "dispatch of a method", "metaclass"],
    )
    def test_change_with_what_is_behind_a_name(self, source: str) -> None:
        def version(source: str) -> bytes:
            space: dict[str, Any] = {"__name__": "__main__", "functools": functools}
            exec(source + "def work(x): return Kind", space)
            return version_of(space["work"])

        assert version(source) == version(source)
        assert version(source) != version(source.replace("1", "2"))

    def test_change_with_the_version_of_what_is_installed(self, tmp_path: Path) -> None:
        home = tmp_path / "site-packages"
        (home / "known").mkdir(parents=True)
        about = home / "of_another_name-1.dist-info"
        about.mkdir()
        (about / "top_level.txt").write_text("known\n")

        def versions(version: str, result: str) -> list[str]:
            meta = f"Metadata-Version: 2.1\nName: of-another-name\nVersion: {version}\n"
            (about / "METADATA").write_text(meta)
            (home / "known" / "__init__.py").write_text(f"def helper(x): return {result}\n")
            source = """
import known
from known import helper
from mirai._digest import version_of
def by_name(x): return helper(x)
def by_module(x): return known.helper(x)
print(*map(bytes.hex, map(version_of, (by_name, by_module, helper))))
"""
            done = subprocess.run(
                [sys.executable, "-Bc", source],
                env={"PYTHONPATH": ":".join([str(home), *sys.path])},
                capture_output=True,
                text=True,
                check=True,
            )
            return done.stdout.split()

        before = versions("1.0", "1")
        assert versions("1.0", "2") == before  # what is installed is not read
        after = versions("1.1", "1")
        assert all(one != other for one, other in zip(before, after, strict=True))


class TestKeys:
    def test_tell_equal_calls_apart_by_their_order(self) -> None:
        first, second = keys_for(b"v"), keys_for(b"v")
        keys = [first(((1,), {})), first(((1,), {})), first(((2,), {}))]
        assert len({*keys}) == 3
        assert [second(((2,), {})), second(((1,), {})), second(((1,), {}))] == [
            keys[2],
            keys[0],
            keys[1],
        ]

    def test_are_of_a_version(self) -> None:
        assert keys_for(b"v")(((1,), {})) != keys_for(b"w")(((1,), {}))


class TestDigests:
    @pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), ([1], (1,)), ("a", b"a")])
    def test_tell_types_apart(self, one: object, other: object) -> None:
        assert digest_of(one) != digest_of(other)

    def test_do_not_depend_on_what_is_one_object(self) -> None:
        one = ["".join("ab"), 1]
        assert digest_of([one, one]) == digest_of([["ab", 1], ["ab", 1]])

    def test_are_the_same_in_another_process(self) -> None:
        """Whose sets have another order."""
        text = "[{'a', 'b', 'c', 'd'}, frozenset({'x', 'y', ('z', 1)}), {'k': {1, 'one'}}]"
        source = f"from mirai._digest import digest_of; print(digest_of({text}).hex())"
        found = {
            subprocess.run(
                [sys.executable, "-c", source],
                env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for seed in "123"
        }
        assert len(found) == 1
        assert found == {digest_of(eval(text)).hex() + "\n"}

    def test_of_what_contains_itself_end(self) -> None:
        loop: list[Any] = []
        loop.append(loop)
        assert len(digest_of(loop)) == 16
