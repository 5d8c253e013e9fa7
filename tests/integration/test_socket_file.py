"""Pools at a path that the user has chosen: nobody is replaced, and nobody can replace them."""

from __future__ import annotations

import os
import signal
import socket
import stat
from pathlib import Path

import pytest
from conftest import Script, wait_until

from dispatcher.keys import KeyPair
from dispatcher.processes import Plan
from dispatcher.server import Config, Server
from mirai import MiraiError, daemons, mirai

pytestmark = pytest.mark.skipif(os.name != "posix", reason="such files have owners on POSIX only")

NOBODY = 65_534
LISTEN = """
import sys
from mirai import daemons
with daemons(1, sys.stdin.readline().strip(), dispatcher=False) as pool:
    pool.wait(1)
    print(pool.url, flush=True)
    sys.stdin.read()
"""


def serves(url: str) -> bool:
    """Whether a pool can be had there, which is ended at once."""
    with daemons(1, url):
        return mirai(abs, -1).result(timeout=20) == 1


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """Return a directory that is all ours."""
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.mark.usefixtures("dispatchers")
class TestTheSocket:
    def test_of_another_pool_is_not_replaced(self, private: Path) -> None:
        url = f"ipc://{private}/socket"
        with daemons(1, url) as pool:
            assert pool.url == url
            for _ in range(2):
                with pytest.raises(MiraiError, match=r"the address is in use: '.*/socket'"):
                    daemons(1, url, profile="other")
            pool.launch()
            pool.wait(2, timeout=20)  # one that came later has found us
        assert serves(url)

    def test_of_a_dead_process_is_replaced(self, private: Path, script: Script) -> None:
        url = f"ipc://{private}/socket"
        process = script(LISTEN)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{url}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"{url}\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (private / "socket").is_socket()
        assert serves(url)
        assert not (private / "socket").exists()

    def test_with_a_full_queue_is_in_use(self, private: Path) -> None:
        with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
            busy.bind(str(private / "socket"))
            busy.listen(0)
            waiting.connect(str(private / "socket"))
            with pytest.raises(MiraiError, match="the address is in use"):
                daemons(1, f"ipc://{private}/socket")
        assert (private / "socket").is_socket()

    def test_that_is_none_is_not_removed(self, private: Path) -> None:
        file = private / "notes"
        file.write_text("precious")
        with pytest.raises(MiraiError, match="this is no socket, and is not replaced"):
            daemons(1, f"ipc://{file}")
        assert file.read_text() == "precious"

    def test_of_others_outlives_us(self, private: Path) -> None:
        """Somebody has not cared that we listen there."""
        path = private / "socket"
        with socket.socket(socket.AF_UNIX) as other:
            with daemons(1, f"ipc://{path}") as pool:
                pool.wait(1, timeout=20)
                path.unlink()
                other.bind(str(path))
            assert path.is_socket()

    def test_may_be_named_from_here(self, private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(private)
        with daemons(1, "ipc://socket", cwd="/") as pool:
            assert pool.url == f"ipc://{private}/socket"
            assert mirai(os.getcwd).result(timeout=20) == "/"
        assert list(private.iterdir()) == []

    def test_may_be_where_zeromq_wants_it(self) -> None:
        with daemons(1, "ipc://*") as pool:
            assert mirai(abs, -1).result(timeout=20) == 1
            path = Path(pool.url.removeprefix("ipc://"))
            assert path.is_socket()
        wait_until(lambda: not path.parent.exists())


def test_a_server_that_cannot_begin_leaves_no_socket(private: Path) -> None:
    pair = KeyPair.new()
    plan = Plan(0, [], "", {}, output=str(private))
    url = f"ipc://{private}/socket"
    with pytest.raises(IsADirectoryError):
        Server(Config(url, pair.public, pair.secret, KeyPair.new().public, plan))
    assert list(private.iterdir()) == []


class TestTheDirectory:
    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_is_not_one_that_others_can_write_in(self, private: Path, mode: int) -> None:
        private.chmod(mode)
        with pytest.raises(MiraiError, match="others can write in this directory"):
            daemons(1, f"ipc://{private}/socket")
        assert list(private.iterdir()) == []

    @pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
    def test_may_be_one_where_they_cannot_replace_what_is_ours(
        self, private: Path, mode: int
    ) -> None:
        private.chmod(mode)
        assert stat.S_IMODE(private.stat().st_mode) == mode
        assert serves(f"ipc://{private}/socket")

    def test_is_no_link(self, private: Path) -> None:
        (private / "there").mkdir(0o700)
        (private / "link").symlink_to("there")
        with pytest.raises(MiraiError, match=r"in a directory, and not in a link: '.*/link'"):
            daemons(1, f"ipc://{private}/link/socket")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give it to another user")
    @pytest.mark.parametrize("mode", [0o755, 0o1777])
    def test_is_not_another_users(self, private: Path, mode: int) -> None:
        private.chmod(mode)
        os.chown(private, NOBODY, NOBODY)
        with pytest.raises(MiraiError, match="another user's directory"):
            daemons(1, f"ipc://{private}/socket")

    def test_must_be_there(self, private: Path) -> None:
        with pytest.raises(MiraiError, match=r"No such file or directory: '.*/nowhere'"):
            daemons(1, f"ipc://{private}/nowhere/socket")
