"""Memory without a name: filled once, sealed, mapped by each reader for itself."""

from __future__ import annotations

import fcntl
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from dispatcher.shared import AVAILABLE, Shared, adopt, contents

pytestmark = pytest.mark.skipif(not AVAILABLE, reason="memory cannot be shared here")

DATA = bytes(range(256)) * 1_000


def shared(data: bytes = DATA) -> Shared:
    made = Shared.copy(memoryview(data))
    assert made is not None
    return made


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    """Let half of those that the process may have be taken, and more be free."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)  # the next one that is taken has this number, or a larger one
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * free, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_holds_what_was_copied() -> None:
    memory = shared()
    assert len(memory) == len(DATA)
    assert bytes(memory.map()) == DATA
    assert contents(memory)[:] == DATA
    assert contents(DATA) is DATA


def test_each_reader_may_write_and_none_sees_it() -> None:
    memory = shared()
    one, other = memory.map(), memory.map()
    one[:3] = b"abc"
    assert one[:3] == b"abc"
    assert other[:3] == memory.map()[:3] == DATA[:3]


def test_a_mapping_outlives_its_descriptor() -> None:
    mapping = shared().map()
    assert mapping[:] == DATA


def test_is_gone_with_its_holders() -> None:
    before = descriptors()
    memory = shared()
    mapping = memory.map()
    assert descriptors() > before
    del memory, mapping
    assert descriptors() == before


def test_cannot_be_changed_or_cut() -> None:
    memory = shared()
    for change in (
        lambda: os.pwrite(memory.fd, b"x", 0),
        lambda: os.ftruncate(memory.fd, 1),
        lambda: os.ftruncate(memory.fd, 10**6),
    ):
        with pytest.raises(PermissionError):
            change()


def test_what_was_handed_over_is_adopted() -> None:
    memory = shared()
    adopted = adopt(os.dup(memory.fd), len(DATA))
    assert isinstance(adopted, Shared)
    assert bytes(contents(adopted)) == DATA


@pytest.mark.parametrize("size", [0, len(DATA) - 1, len(DATA) + 1, -1])
def test_another_size_is_refused(size: int) -> None:
    memory = shared()
    before = descriptors()
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(os.dup(memory.fd), size)
    assert descriptors() == before


def test_nothing_at_all_is_refused() -> None:
    """It could not be mapped."""
    memory = shared(b"")
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(os.dup(memory.fd), 0)


def test_memory_that_may_change_is_refused() -> None:
    fd = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, DATA)
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(fd, len(DATA))


def test_memory_that_is_not_there_is_refused() -> None:
    """Its reader would have to find a terabyte, or be killed by SIGBUS."""
    for size, written in ((1 << 40, b""), (1 << 20, DATA)):
        fd = os.memfd_create("sparse", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.write(fd, written)
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        with pytest.raises(ValueError, match="no sealed memory"):
            adopt(fd, size)


@pytest.mark.parametrize("missing", ["SHRINK", "WRITE", "GROW", "SEAL"])
def test_memory_that_lacks_a_seal_is_refused(missing: str) -> None:
    fd = os.memfd_create("open", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, DATA)
    names = {"SHRINK", "WRITE", "GROW", "SEAL"} - {missing}
    seals = sum(getattr(fcntl, f"F_SEAL_{name}") for name in names)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(fd, len(DATA))


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(DATA)
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(os.open(path, os.O_RDONLY), len(DATA))


def test_a_pipe_is_refused() -> None:
    out, into = os.pipe()
    os.close(into)
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(out, 0)


def test_what_cannot_be_read_is_refused() -> None:
    memory = shared()
    blind = os.open(f"/proc/self/fd/{memory.fd}", os.O_PATH)
    with pytest.raises(ValueError, match="no sealed memory"):
        adopt(blind, len(DATA))


@pytest.mark.usefixtures("few_descriptors")
def test_is_not_made_where_descriptors_are_short() -> None:
    before = descriptors()
    assert Shared.copy(memoryview(DATA)) is None
    assert descriptors() == before


def test_is_read_out_where_descriptors_are_short(request: pytest.FixtureRequest) -> None:
    memory = shared()
    request.getfixturevalue("few_descriptors")
    before = descriptors()
    adopted = adopt(os.dup(memory.fd), len(DATA))
    assert type(adopted) is bytearray
    assert adopted == DATA
    assert descriptors() == before


def test_is_read_out_where_it_cannot_be_mapped() -> None:
    memory = shared()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))  # a mapping has one of its own
    try:
        mapping = memory.map()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert type(mapping) is bytearray
    assert mapping == DATA


def test_is_not_made_where_there_is_no_room() -> None:
    """A bound on the size of files bounds this memory too, and stands here for a lack of it."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = descriptors()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert Shared.copy(memoryview(DATA)) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert descriptors() == before
