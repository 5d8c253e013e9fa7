"""Copies in shared memory of what is passed again."""

from __future__ import annotations

import array
import gc
from typing import Any

import pytest

from dispatcher.shared import AVAILABLE, Shared, contents
from mirai._copies import WORTHWHILE, Copies
from mirai._options import DEFAULTS
from mirai._outbox import Outbox

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="there is no such memory here")


def large(value: int = 1, size: int = WORTHWHILE) -> Any:
    return array.array("B", [value]) * size


def share(copies: Copies, thing: Any) -> Shared:
    with memoryview(thing) as view:
        shared = copies.share(view)
    assert shared is not None
    return shared


def test_from_the_second_time_on_the_copy_is_the_same() -> None:
    copies, thing = Copies(), large()
    first, second = share(copies, thing), share(copies, thing)
    assert first is not second  # most things are passed once, and nothing is kept of them
    assert second is share(copies, thing) is share(copies, thing)
    assert bytes(contents(second)) == thing.tobytes()


def test_of_what_is_passed_once_nothing_is_kept() -> None:
    copies, thing = Copies(), large()
    share(copies, thing)
    assert copies.kept() == 0
    share(copies, thing)
    assert copies.kept() == len(thing)


def test_what_has_changed_is_copied_anew() -> None:
    copies, thing = Copies(), large()
    before = [share(copies, thing) for _ in range(3)][-1]
    thing[-1] = 7
    after = share(copies, thing)
    assert contents(after)[-1] == 7
    assert contents(before)[-1] == 1
    assert share(copies, thing) is after
    assert copies.kept() == len(thing)


def test_what_has_grown_is_copied_anew() -> None:
    copies, thing = Copies(), large()
    share(copies, thing), share(copies, thing)
    thing.append(5)
    assert bytes(contents(share(copies, thing))) == thing.tobytes()


def test_a_copy_goes_with_what_it_is_of() -> None:
    copies, thing = Copies(), large()
    share(copies, thing), share(copies, thing)
    del thing
    gc.collect()
    assert copies.kept() == 0


def test_the_budget_is_kept_and_what_was_used_last_stays() -> None:
    copies = Copies(budget=2 * WORTHWHILE)
    things = [large(value) for value in range(3)]
    for thing in (*things, things[0], things[0]):
        share(copies, thing), share(copies, thing)
    assert copies.kept() == 2 * WORTHWHILE
    assert share(copies, things[0]) is share(copies, things[0])
    assert share(copies, large(9, 3 * WORTHWHILE)).size == 3 * WORTHWHILE
    assert copies.kept() == 2 * WORTHWHILE


@pytest.mark.parametrize("thing", [bytes(WORTHWHILE), bytearray(WORTHWHILE), large(1, 1_000)])
def test_what_cannot_be_watched_or_is_small_is_copied_each_time(thing: Any) -> None:
    copies = Copies()
    assert len({share(copies, thing) for _ in range(3)}) == 3
    assert copies.kept() == 0


def test_tasks_that_are_given_the_same_array_share_one_copy() -> None:
    numpy = pytest.importorskip("numpy")
    outbox, thing = Outbox("default", share=True), numpy.ones(WORTHWHILE)
    parcel = outbox.parcel(len, [((thing, i), {}) for i in range(50)], DEFAULTS)
    assert len({id(blobs[0].data) for _, blobs in parcel.payloads}) == 2
