"""``SerialConfig`` on real daemons; and what is sent by value."""

from __future__ import annotations

import importlib.util
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cloudpickle
import pytest
from conftest import Script

from mirai import (
    SerialConfig,
    SerializationError,
    daemons,
    mirai,
    mirai_map,
    register_serial,
    try_mirai,
)
from mirai import _profiles as profiles

LARGE = 200_000


class Sealed:
    """Something that does not like to be pickled, and says who has sent it."""

    def __init__(self, text: str, sender: int = 0) -> None:
        self.text = text
        self.sender = sender
        self.lock = threading.Lock()


def write(sealed: Sealed) -> bytes:
    return f"{os.getpid()} {sealed.text}".encode()


def read(buffer: memoryview) -> Sealed:
    pid, _, text = bytes(buffer).decode().partition(" ")
    return Sealed(text, int(pid))


SEALED = SerialConfig(Sealed, write, read)


class Oops(Exception):
    def __init__(self, inside: Sealed) -> None:
        super().__init__("oops")
        self.inside = inside

    def __reduce__(self) -> Any:
        return Oops, (self.inside,)


def look(it: Sealed) -> tuple[str, int]:
    return it.text, it.sender


def fail(it: Sealed) -> None:
    raise Oops(it)


@pytest.fixture(params=[False, True], ids=["daemons", "sync"])
def sync(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def registry() -> Iterator[None]:
    """Forget afterwards what was registered."""
    before = dict(profiles._serial)
    yield
    profiles._serial.clear()
    profiles._serial.update(before)


class TestOnePool:
    @pytest.mark.parametrize("length", [3, LARGE])
    def test_arguments_results_and_errors(self, sync: bool, length: int) -> None:
        me, value = os.getpid(), Sealed("x" * length)
        with daemons(1, sync=sync, serial=[SEALED]):
            there = mirai(os.getpid).result()
            assert mirai(look, value).result() == ("x" * length, me)
            assert mirai(lambda: look(value)).result() == ("x" * length, me)
            found = mirai(lambda box: {"it": box[0]}, [value]).result()["it"]
            assert look(found) == ("x" * length, there)
            error = mirai(fail, value).exception()
            assert isinstance(error, Oops) and look(error.inside) == ("x" * length, there)

    def test_maps(self, sync: bool) -> None:
        with daemons(1, sync=sync, serial=SEALED, memory="1MB"):
            values = [Sealed(str(index)) for index in range(5)]
            expected = [(str(index), os.getpid()) for index in range(5)]
            assert mirai_map(look, values).collect() == expected
            assert [pair[1] for pair in mirai_map(look, values, max_in_flight=2)] == expected
            found = mirai_map(lambda n, it: (n, it.text), [1, 2], args=(Sealed("c"),)).collect()
            assert found == [(1, "c"), (2, "c")]
            future = try_mirai(look, values[0])
            assert future is not None and future.result() == expected[0]

    def test_two_pools_have_their_own(self, sync: bool) -> None:
        shout = SerialConfig(Sealed, lambda it: it.text.upper().encode(), lambda b: bytes(b))
        value = Sealed("a")
        with daemons(1, sync=sync, serial=SEALED), daemons(1, profile="b", serial=shout):
            for _ in range(2):
                assert mirai(look, value).result() == ("a", os.getpid())
                assert mirai.options(profile="b")(repr, value).result() == "b'A'"
            with daemons(1, profile="c"), pytest.raises(SerializationError):
                mirai.options(profile="c")(look, value)

    def test_no_buffer(self, sync: bool) -> None:
        with daemons(1, sync=sync, serial=SerialConfig(Sealed, lambda _: 3, read)):
            with pytest.raises(SerializationError, match=r"Sealed .*SerialConfig.*returned int"):
                mirai(look, Sealed("a"))
            error = mirai(lambda: Sealed("a")).exception()
            assert "returned int, which is no buffer" in str(error)

    def test_a_config_that_cannot_be_sent(self, sync: bool) -> None:
        lock = threading.Lock()
        with pytest.raises(SerializationError, match="SerialConfig"):
            daemons(1, sync=sync, serial=SerialConfig(Sealed, lambda _: lock, read))

    def test_no_config(self) -> None:
        with pytest.raises(TypeError):
            daemons(1, serial=3)  # type: ignore[arg-type]


@pytest.mark.usefixtures("registry")
class TestAllPools:
    @pytest.mark.thorough
    def test_made_afterwards(self) -> None:
        with daemons(1):
            register_serial(SEALED)
            with pytest.raises(SerializationError):
                mirai(look, Sealed("a"))
        with daemons(1):
            assert mirai(look, Sealed("a")).result() == ("a", os.getpid())
        assert mirai(look, Sealed("a")).result() == ("a", os.getpid())  # a daemon of its own

    def test_the_later_and_the_nearer_hold(self) -> None:
        other = SerialConfig(Sealed, write, lambda _: "other")
        nearer = SerialConfig(Sealed, write, lambda _: "nearer")
        register_serial(SEALED)
        register_serial(other)
        with daemons(1), daemons(1, profile="b", serial=nearer):
            assert mirai(str, Sealed("a")).result() == "other"
            assert mirai.options(profile="b")(str, Sealed("a")).result() == "nearer"

    def test_no_config(self) -> None:
        with pytest.raises(TypeError):
            register_serial([SEALED])  # type: ignore[arg-type]


PROGRAM = """
import threading
from mirai import SerialConfig, daemons, mirai

class Sealed:
    made = 0
    def __init__(self, text):
        self.text, self.lock = text, threading.Lock()
    def twice(self):
        return Sealed(self.text * 2)

config = SerialConfig(Sealed, lambda it: it.text.encode(), lambda b: Sealed(bytes(b).decode()))
with daemons(2, serial=config):
    found = [mirai(lambda it: it.twice(), Sealed(str(n))).result() for n in range(4)]
print(all(type(it) is Sealed for it in found), *(it.text for it in found))
"""


@pytest.mark.parametrize("as_file", [True, False])
def test_a_class_of_main(script: Script, as_file: bool) -> None:
    """It comes back as the class that it was."""
    out, err = script(PROGRAM, as_file=as_file).communicate()
    assert out == "True 00 11 22 33\n", err


# ── with the libraries that it is for ────────────────────────────────────────────────────


def test_an_arrow_table() -> None:
    pa = pytest.importorskip("pyarrow")

    def to_ipc(table: Any) -> Any:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return sink.getvalue()

    def from_ipc(buffer: memoryview) -> Any:
        return pa.ipc.open_stream(buffer).read_all()

    table = pa.table({"x": range(50_000), "y": [str(n) for n in range(50_000)]})
    with daemons(1, serial=SerialConfig(pa.Table, to_ipc, from_ipc)):
        assert mirai(lambda t: t.num_rows, table).result() == 50_000
        assert mirai(lambda t: t.slice(10, 2), table).result() == table.slice(10, 2)
        assert mirai(lambda: table.column_names).result() == ["x", "y"]


def test_a_torch_tensor() -> None:
    torch = pytest.importorskip("torch")

    def save(tensor: Any) -> Any:
        import io

        with io.BytesIO() as file:
            torch.save(tensor, file)
            return file.getvalue()

    def load(buffer: memoryview) -> Any:
        import io

        return torch.load(io.BytesIO(buffer), weights_only=True)

    tensor = torch.arange(100_000, dtype=torch.float32)
    with daemons(1, serial=SerialConfig(torch.Tensor, save, load)):
        assert torch.equal(mirai(lambda t: t * 2, tensor).result(), tensor * 2)


# ── by value ─────────────────────────────────────────────────────────────────────────────

LOCAL = """
from dataclasses import dataclass

OFFSET = 10

@dataclass
class Point:
    x: int

def helper(x):
    return x + OFFSET

def moved(point):
    return Point(helper(point.x))
"""


@pytest.fixture
def local(tmp_path: Path) -> Iterator[ModuleType]:
    """Return a module that this process has imported, and a daemon cannot."""
    path = tmp_path / "my_local_package.py"
    path.write_text(LOCAL)
    spec = importlib.util.spec_from_file_location("my_local_package", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[module.__name__]


def test_a_local_package_by_value(local: ModuleType) -> None:
    with daemons(1):
        error = mirai(local.moved, local.Point(1)).exception()
        assert isinstance(error, ModuleNotFoundError)
        cloudpickle.register_pickle_by_value(local)
        try:
            found = mirai(local.moved, local.Point(1)).result()
            assert found == local.Point(11) and type(found) is local.Point
            local.OFFSET = 20
            assert mirai_map(local.moved, [local.Point(2)]).collect() == [local.Point(22)]
        finally:
            cloudpickle.unregister_pickle_by_value(local)
