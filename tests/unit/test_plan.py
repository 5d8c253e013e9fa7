"""What a dispatcher is told about its daemons, without one."""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dispatcher.messages import Slot
from dispatcher.processes import Plan
from mirai import SerialConfig, SerializationError
from mirai._limits import Limits
from mirai._plan import Slots, launched_of, plan_of, read_init
from mirai._pool_options import PoolOptions
from mirai.launchers import LocalLauncher


def plan(options: PoolOptions) -> Plan:
    """Return the plan as it arrives at a dispatcher."""
    slots = Slots(options).up_to(options.count)
    sent = json.loads(json.dumps(plan_of(options, slots, "somewhere")))
    early, later = Plan(**sent), msgspec.convert(sent, Plan)
    assert early.count == later.count
    return later


def test_of_nothing_but_a_number() -> None:
    made = plan(PoolOptions(3))
    assert (made.count, made.slots, made.cwd, made.output, made.streams) == (
        3,
        [],
        None,
        None,
        None,
    )
    limits = {"idle_time": None, "wall_time": None, "max_tasks": None}
    assert made.options == {"limits": limits, "profile": "somewhere", "cleanup": True}
    assert made.lead
    assert made.tags(5) == ()


def test_limits_and_a_stream() -> None:
    made = plan(PoolOptions(1, limits=Limits(max_tasks=3), output="stream"))
    assert made.options["limits"]["max_tasks"] == 3
    assert made.options["stream"] is True
    assert made.output is None


def test_a_file(tmp_path: Path) -> None:
    assert plan(PoolOptions(1, output=str(tmp_path / "log"))).output == str(tmp_path / "log")
    assert (tmp_path / "log").exists()


@pytest.mark.parametrize("size", [10, 1_000_000])
def test_an_init(size: int) -> None:
    array = bytearray(size)
    made = plan(PoolOptions(1, init=lambda: len(array)))
    assert read_init(made.options["init"])() == size


class Sealed:
    def __init__(self, text: str) -> None:
        self.text, self.lock = text, threading.Lock()


def write(sealed: Sealed) -> bytes:
    return sealed.text.encode()


def read(buffer: memoryview) -> Sealed:
    return Sealed(bytes(buffer).decode())


def test_an_init_that_only_a_config_can_pickle() -> None:
    sealed = Sealed("inside")
    config = SerialConfig(Sealed, write, read)
    made = plan(PoolOptions(1, init=lambda: sealed.text, serial=(config,)))
    assert read_init(made.options["init"])() == "inside"


def test_an_init_that_cannot_be_pickled() -> None:
    lock = threading.Lock()
    with pytest.raises(SerializationError, match="variable lock"):
        plan(PoolOptions(1, init=lambda: lock))


def test_another_interpreter_has_its_own_search_path() -> None:
    made = plan(PoolOptions(1, python=sys.executable))
    assert made.argv[0] == sys.executable
    assert made.lead == ""


def test_what_relays_are_told() -> None:
    options = PoolOptions(0, launcher=LocalLauncher(), launched=2, each=3, grace=1.5)
    told = launched_of(options, "default")
    assert (told.each, told.grace) == (3, 1.5)


@pytest.mark.parametrize(
    ("each", "error"), [(0, ValueError), (1_001, ValueError), (True, TypeError), ("2", TypeError)]
)
def test_how_many_daemons_a_relay_may_have(each: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="each must be"):
        PoolOptions(0, launcher=LocalLauncher(), launched=2, each=each)


def test_relays_are_launched() -> None:
    with pytest.raises(ValueError, match="each is for daemons that a launcher starts"):
        PoolOptions(2, each=2)


class TestSlots:
    def test_none_where_there_is_nothing_to_tell(self) -> None:
        assert Slots(PoolOptions(2)).up_to(2) == ()
        assert plan(PoolOptions(2)).slots == []

    def test_constants(self) -> None:
        options = PoolOptions(2, env={"A": "1"}, tags=("b", "a"))
        assert Slots(options).up_to(2) == (Slot({"A": "1"}, ("a", "b")),) * 2
        made = plan(options)
        assert made.slots == [({"A": "1"}, ("a", "b"))] * 2
        assert made.kinds() == {0: 2}
        assert made.tags(0) == ("a", "b")

    def test_functions_are_called_once_for_each_number(self) -> None:
        asked: list[int] = []

        def tags(i: int) -> tuple[str, ...]:
            asked.append(i)
            return (f"t{i}",)

        slots = Slots(PoolOptions(1, tags=tags))
        assert slots.up_to(1) == (Slot({}, ("t0",)),)
        assert slots.up_to(3) == slots.up_to(2)  # also those that a smaller pool still has
        assert asked == [0, 1, 2]

    @pytest.mark.parametrize(
        ("options", "error"),
        [
            ({"env": lambda _: None}, None),
            ({"env": lambda _: "A=1"}, TypeError),
            ({"env": lambda _: {"A\0": "1"}}, ValueError),
            ({"tags": lambda _: "gpu"}, TypeError),
            ({"tags": lambda _: ("",)}, ValueError),
            ({"tags": lambda _: ("\udc80",)}, ValueError),
        ],
    )
    def test_what_functions_return(
        self, options: dict[str, Any], error: type[Exception] | None
    ) -> None:
        slots = Slots(PoolOptions(1, **options))
        if error is None:
            assert slots.up_to(1) == (Slot(),)
        else:
            with pytest.raises(error):
                slots.up_to(1)
