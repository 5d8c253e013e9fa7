"""Serial configs: whose instances they are for, and what becomes of those."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import pytest

from mirai import SerialConfig, SerializationError
from mirai._serial import Serial, serial_configs
from mirai._serialize import LARGE, FunctionPickles, dumps, pack, unpack


class Sealed:
    """Something that does not like to be pickled."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.lock = threading.Lock()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.text == other.text  # type: ignore[attr-defined]

    __hash__ = None  # type: ignore[assignment]


class Small(Sealed):
    pass


class Names(dict[str, int]):
    pass


def write(sealed: Sealed) -> bytes:
    return sealed.text.encode()


def read(buffer: memoryview) -> Sealed:
    return Sealed(bytes(buffer).decode())


SEALED = SerialConfig(Sealed, write, read)
REDUCER = Serial([SEALED])


def roundtrip(value: Any, reducer: Serial = REDUCER) -> Any:
    return unpack(*pack(value, reducer))


class Holder:
    def __init__(self, inside: object) -> None:
        self.inside = inside


class Oops(Exception):
    def __init__(self, inside: object) -> None:
        super().__init__("oops")
        self.inside = inside

    def __reduce__(self) -> Any:
        return Oops, (self.inside,)


class TestInstances:
    def test_without_it_they_cannot_be_pickled(self) -> None:
        with pytest.raises(SerializationError):
            pack(Sealed("a"))

    @pytest.mark.parametrize("length", [0, 1, LARGE - 1_000, LARGE, 3 * LARGE])
    def test_small_ones_go_into_the_pickle_and_large_ones_beside_it(self, length: int) -> None:
        value = Sealed("x" * length)
        payload, blobs = pack(value, REDUCER)
        assert len(blobs) == (length >= LARGE)
        assert len(payload) < LARGE
        assert unpack(payload, blobs) == value

    def test_anywhere(self) -> None:
        one = Sealed("one")
        value = [{"k": (one, 1)}, Holder(one), lambda: one]
        found, holder, function = roundtrip(value)
        assert found == {"k": (one, 1)}
        assert found["k"][0] is holder.inside is function()

    def test_attributes_of_exceptions(self) -> None:
        assert pickle.loads(dumps(Oops(Sealed("in")), REDUCER)).inside == Sealed("in")

    def test_subclasses_and_the_nearest_class(self) -> None:
        assert roundtrip(Small("a")) == Sealed("a")
        small = SerialConfig(Small, lambda _: b"small", lambda _: Small("own"))
        assert roundtrip(Small("a"), Serial([SEALED, small])) == Small("own")
        assert roundtrip(Sealed("a"), Serial([small, SEALED])) == Sealed("a")

    def test_a_subclass_of_a_container(self) -> None:
        config = SerialConfig(Names, lambda _: b"", lambda _: "names")
        assert roundtrip([Names(a=1), {"b": 2}], Serial([config])) == ["names", {"b": 2}]

    def test_the_last_one_for_a_class_holds(self) -> None:
        other = SerialConfig(Sealed, write, lambda _: "other")
        assert roundtrip(Sealed("a"), Serial([SEALED, other])) == "other"

    def test_two_at_once(self) -> None:
        other = Serial([SerialConfig(Sealed, write, lambda _: "other")])
        value = Sealed("a")
        assert [roundtrip(value), roundtrip(value, other)] == [value, "other"]
        assert [roundtrip(value), roundtrip(value, other)] == [value, "other"]

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
    @pytest.mark.parametrize("size", [10, LARGE])
    def test_any_buffer_will_do_and_a_memoryview_comes(
        self, make: Callable[[bytes], Any], size: int
    ) -> None:
        config = SerialConfig(Sealed, lambda _: make(b"x" * size), lambda data: data)
        found = roundtrip(Sealed("a"), Serial([config]))
        assert type(found) is memoryview
        assert found == b"x" * size

    def test_it_survives_the_way_to_a_daemon(self) -> None:
        again = Serial.decode(REDUCER.encode())
        assert roundtrip(Sealed("a"), again) == Sealed("a")
        assert not Serial.decode(Serial().encode())


class TestErrors:
    @pytest.mark.parametrize(
        "kind",
        [
            *(int, str, bytes, list, dict, tuple, set, float, bool, frozenset, complex),
            *(type(None), bytearray, object, type, FunctionType, type(len), type(SEALED.__class__)),
        ],
    )
    def test_what_pickle_does_by_itself(self, kind: type) -> None:
        with pytest.raises(TypeError):
            SerialConfig(kind, write, read)

    def test_metaclasses(self) -> None:
        with pytest.raises(TypeError):
            SerialConfig(type("Meta", (type,), {}), write, read)

    @pytest.mark.parametrize("parts", [("a", write, read), (Sealed, 1, read), (Sealed, write, 1)])
    def test_what_makes_no_sense(self, parts: tuple[Any, Any, Any]) -> None:
        with pytest.raises(TypeError):
            SerialConfig(*parts)

    def test_no_buffer(self) -> None:
        config = SerialConfig(Sealed, lambda _: 3, read)
        with pytest.raises(SerializationError) as caught:
            pack(([{"key": Sealed("a")}],), Serial([config]))
        text = str(caught.value)
        assert "Sealed at [0][0]['key']" in text
        assert "SerialConfig(cls=" in text and "returned int, which is no buffer" in text

    def test_dumps_fails(self) -> None:
        config = SerialConfig(Sealed, lambda _: 1 / 0, read)  # type: ignore[arg-type]
        with pytest.raises(SerializationError, match=r"Sealed at \[1\]: division by zero"):
            pack([1, Sealed("a")], Serial([config]))

    def test_the_config_itself_cannot_be_sent(self) -> None:
        lock = threading.Lock()
        with pytest.raises(SerializationError, match=r"SerialConfig\(cls=.*Sealed"):
            Serial([SerialConfig(Sealed, write, lambda _: lock)])
        with pytest.raises(SerializationError, match=r"SerialConfig\(cls=.*Sealed"):
            Serial([SerialConfig(Sealed, lambda _: lock, read)])

    def test_one_or_many(self) -> None:
        assert serial_configs(SEALED) == serial_configs(iter([SEALED])) == (SEALED,)
        assert serial_configs(()) == ()
        for wrong in (1, [1], [SEALED, None]):
            with pytest.raises(TypeError):
                serial_configs(wrong)


class TestFunctions:
    def test_a_captured_instance_is_pickled_each_time(self) -> None:
        """It may have changed in place; and the cache must not hide that."""
        pickles, value = FunctionPickles(reducer=REDUCER), Sealed("before")

        def tell() -> str:
            return value.text

        assert unpack(*pickles.pack(tell))() == "before"
        value.text = "after"
        assert unpack(*pickles.pack(tell))() == "after"
        by_default = FunctionPickles(reducer=REDUCER).pack(lambda it=value: it.text)
        assert unpack(*by_default)() == "after"

    def test_an_instance_that_can_be_called(self) -> None:
        class Adder(Sealed):
            def __call__(self, x: int) -> int:
                return int(self.text) + x

        config = SerialConfig(Adder, write, lambda data: Adder(bytes(data).decode()))
        pickles, adder = FunctionPickles(reducer=Serial([config])), Adder("1")
        assert unpack(*pickles.pack(adder))(1) == 2
        adder.text = "2"
        assert unpack(*pickles.pack(adder))(1) == 3

    def test_plain_functions_are_still_pickled_once(self) -> None:
        pickles = FunctionPickles(reducer=REDUCER)
        assert pickles.pack(lambda: 1)[0]

        def work() -> int:
            return 1

        assert pickles.pack(work)[0] is pickles.pack(work)[0]
