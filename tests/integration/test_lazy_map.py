"""Maps over inputs that do not fit into memory."""

from __future__ import annotations

import pytest
from conftest import Script

PROGRAM = """
import asyncio, resource, sys
from pathlib import Path
from mirai import daemons, mirai_map

ELEMENT = 1_000  # bytes

def elements(count):
    for i in range(count):
        yield b"%d " % i + bytes(ELEMENT)

def stream(count):
    return mirai_map(lambda data: (int(data.split()[0]), data), elements(count), max_in_flight=500)

def check(pair):
    index, (number, data) = pair
    assert number == index
    assert len(data) > ELEMENT
    return index

def in_order(count):
    return sum(map(check, stream(count)))

def as_completed(count):
    return sum(map(check, stream(count).as_completed()))

async def total(pairs):
    result = 0
    async for pair in pairs:
        result += check(pair)
    return result

def in_order_async(count):
    return asyncio.run(total(stream(count)))

def as_completed_async(count):
    return asyncio.run(total(stream(count).as_completed()))

def peaks(pids):
    # The most memory that each process has ever had, in MB.
    lines = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in pids]
    return [int(line.split()[1]) / 1_000 for of in lines for line in of if "VmHWM" in line]

way, few, many = globals()[sys.argv[1]], 5_000, int(sys.argv[2])
with daemons(2) as pool:
    pool.wait(2)
    pids = ["self", pool._process.pid, *(daemon.pid for daemon in pool.status().daemons)]
    way(few)
    before = peaks(pids)
    assert way(many) == many * (many - 1) // 2
    print(*[after - first for first, after in zip(before, peaks(pids), strict=True)])
"""

WAYS = ["in_order", "as_completed", "in_order_async", "as_completed_async"]
MUCH = 30
"""Megabytes: far less than all the elements at once, and far more than the noise."""


def check(script: Script, way: str, count: int) -> None:
    """Map over so many elements; no process may grow on the way."""
    process = script("import sys; sys.argv[1:] = " + repr([way, str(count)]) + PROGRAM)
    out, err = process.communicate(timeout=900)
    assert err == ""
    grown = [float(word) for word in out.split()]
    assert len(grown) == 4
    assert max(grown) < MUCH, f"host, dispatcher, daemons have grown by {grown} MB"


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["in_order", "as_completed_async"])
def test_a_hundred_thousand_elements(script: Script, way: str) -> None:
    check(script, way, 100_000)


@pytest.mark.slow
@pytest.mark.timeout(1_000)
@pytest.mark.parametrize("way", WAYS)
def test_a_million_elements(script: Script, way: str) -> None:
    check(script, way, 1_000_000)
