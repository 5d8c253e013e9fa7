"""Orders for launchers, of a pool whose daemons come from elsewhere."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import ROOT, wait_until

from mirai import Daemons, daemons
from mirai.launchers import Handle, Launcher, Order

_numbers = itertools.count(1)


def order_of(pool: Daemons, directory: Path, count: int = 1) -> Order:
    """Return an order of so many daemons for a pool."""
    name = f"mirai-{os.getpid()}-{next(_numbers)}"
    place = directory / name
    place.mkdir(mode=0o700)
    path = place / "keys.json"
    pool.connection_file(str(path))
    keys = json.dumps(json.loads(path.read_text()))
    return Order(count, name, keys, str(place), str(path))


def secrets_of(order: Order) -> list[str]:
    """Return what nobody but the daemons may see of an order."""
    pairs = json.loads(order.keys)["keys"].values()
    return [pair["secret"] for pair in pairs]


@contextmanager
def remote_pool() -> Iterator[Daemons]:
    """Have a pool without daemons that listens on this machine."""
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        yield pool
        pool.shutdown()


def connected(pool: Daemons) -> int:
    """Return how many daemons have joined."""
    return len(pool.status().daemons)


@contextmanager
def launched(launcher: Launcher, order: Order) -> Iterator[list[Handle]]:
    """Launch an order; end what came of it."""
    handles = list(launcher.launch(order))
    try:
        yield handles
    finally:
        launcher.terminate(handles)


def reaches(
    launcher: Launcher, handle: Handle, wanted: Callable[[Any], object], timeout: float = 30.0
) -> Any:
    """Wait until a job's state is as wanted; return it."""
    seen: list[Any] = []

    def as_wanted() -> object:
        seen[:] = [launcher.poll([handle])[handle]]
        return wanted(seen[0])

    try:
        wait_until(as_wanted, timeout)
    except AssertionError:
        raise AssertionError(f"{seen[0]}\n{launcher.log(handle)}") from None
    return seen[0]


ENV = {"PYTHONPATH": str(ROOT)}
"""What daemons need that do not inherit our environment."""
