"""What can be said about local daemons without starting one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from dispatcher.processes import (
    LULL,
    MAX_FAILURES,
    POSIX,
    SPARE,
    Replacement,
    StandIns,
    Watermark,
)
from dispatcher.shared import AVAILABLE

# ── whether to start another ─────────────────────────────────────────────────────────────


def test_a_daemon_that_had_joined_is_always_replaced() -> None:
    policy = Replacement()
    assert all(policy.ended(joined=True) for _ in range(100))


def test_after_so_many_failures_in_a_row_no_other_is_started() -> None:
    policy = Replacement()
    answers = [policy.ended(joined=False) for _ in range(MAX_FAILURES + 2)]
    assert answers == [True] * (MAX_FAILURES - 1) + [False] * 3


def test_one_that_joins_clears_the_failures_before_it() -> None:
    policy = Replacement()
    for _ in range(MAX_FAILURES - 1):
        assert policy.ended(joined=False)
    policy.joined()
    for _ in range(MAX_FAILURES - 1):
        assert policy.ended(joined=False)
    assert not policy.ended(joined=False)


def test_one_that_ends_after_it_joined_clears_them_too() -> None:
    policy = Replacement()
    for _ in range(MAX_FAILURES - 1):
        policy.ended(joined=False)
    policy.ended(joined=True)
    assert policy.ended(joined=False)


def test_a_hopeless_pool_recovers_when_one_joins_after_all() -> None:
    policy = Replacement()
    for _ in range(MAX_FAILURES):
        policy.ended(joined=False)
    policy.joined()
    assert policy.ended(joined=False)


# ── the watermark ────────────────────────────────────────────────────────────────────────

needs_posix = pytest.mark.skipif(not POSIX, reason="there is no watermark on this platform")


@pytest.fixture
def fd() -> Iterator[int]:
    fd = Watermark.create()
    yield fd
    os.close(fd)


@needs_posix
def test_a_watermark_begins_at_nothing(fd: int) -> None:
    mark = Watermark(fd)
    assert mark.get() == 0
    mark.close()


@needs_posix
@pytest.mark.parametrize("key", [0, 1, 255, 2**32, 2**64 - 1])
def test_what_one_side_sets_the_other_sees(fd: int, key: int) -> None:
    daemon, dispatcher = Watermark(fd), Watermark(fd)
    daemon.set(key)
    assert dispatcher.get() == key
    daemon.close()
    assert dispatcher.get() == key
    dispatcher.close()


@needs_posix
def test_a_watermark_outlives_its_descriptor() -> None:
    fd = Watermark.create()
    mark = Watermark(fd)
    os.close(fd)
    mark.set(7)
    assert mark.get() == 7
    mark.close()


@needs_posix
def test_two_watermarks_are_two() -> None:
    fds = [Watermark.create(), Watermark.create()]
    one, other = (Watermark(fd) for fd in fds)
    one.set(1)
    assert (one.get(), other.get()) == (1, 0)
    for mark, fd in zip((one, other), fds, strict=True):
        mark.close()
        os.close(fd)


@needs_posix
def test_without_memfd_there_is_a_nameless_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS, which has no memfd."""
    monkeypatch.delattr(os, "memfd_create", raising=False)
    fd = Watermark.create()
    assert os.fstat(fd).st_nlink == 0
    assert os.fstat(fd).st_size == 8
    daemon, dispatcher = Watermark(fd), Watermark(fd)
    daemon.set(9)
    assert dispatcher.get() == 9
    daemon.close()
    dispatcher.close()
    os.close(fd)


class TestStandIns:
    def test_they_come_at_once(self) -> None:
        stand_ins = StandIns()
        stand_ins.need([0, 1, 1], now=0.0)
        assert (stand_ins.kinds, stand_ins.deadline()) == ({0: 1, 1: 2}, None)

    def test_they_stay_for_a_while(self) -> None:
        stand_ins = StandIns()
        stand_ins.need([0, 0, 1], now=0.0)
        stand_ins.need([0], now=10.0)
        assert (stand_ins.kinds, stand_ins.deadline()) == ({0: 2, 1: 1}, 10.0 + LULL)
        assert not stand_ins.dismiss(now=10.0 + LULL / 2)
        assert stand_ins.dismiss(now=10.0 + LULL)
        assert (stand_ins.kinds, stand_ins.deadline()) == ({0: 1}, None)
        assert not stand_ins.dismiss(now=100.0)

    def test_needed_again_they_stay(self) -> None:
        stand_ins = StandIns()
        stand_ins.need([0, 0], now=0.0)
        stand_ins.need([], now=1.0)
        stand_ins.need([0, 0], now=2.0)
        assert (stand_ins.kinds, stand_ins.deadline()) == ({0: 2}, None)

    def test_those_of_one_kind_are_not_those_of_another(self) -> None:
        stand_ins = StandIns()
        stand_ins.need([0], now=0.0)
        stand_ins.need([1], now=1.0)
        assert stand_ins.kinds == {0: 1, 1: 1}

    def test_there_is_a_limit(self) -> None:
        stand_ins = StandIns()
        stand_ins.need([0] * 10 * SPARE, now=0.0)
        assert stand_ins.kinds.total() == SPARE
        stand_ins.need([1] * SPARE, now=0.0)
        assert stand_ins.kinds == {1: SPARE}


@pytest.mark.skipif(not AVAILABLE, reason="memory cannot be sealed here")
@pytest.mark.parametrize("size", [0, 7, 9, 1 << 20])
def test_a_watermark_cannot_be_cut_under_the_feet_of_its_reader(size: int) -> None:
    """A task can find its descriptor; the dispatcher would be killed by SIGBUS."""
    fd = Watermark.create()
    mark = Watermark(fd)
    with pytest.raises(PermissionError):
        os.ftruncate(fd, size)
    mark.set(7)
    assert (mark.get(), os.fstat(fd).st_size) == (7, 8)
    mark.close()
    os.close(fd)
