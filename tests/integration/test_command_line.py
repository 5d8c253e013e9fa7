"""The commands, as a user types them."""

from __future__ import annotations

import os
import pty
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import MARK, ROOT, Command, Script, processes_marked, wait_until

from mirai import connect, mirai
from mirai._connection import Connection

Popen = subprocess.Popen


def listening(process: Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def ended(process: Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_the_whole(command: Command, script: Script, tmp_path: Path, mark: str) -> None:
    """A dispatcher, daemons from outside, two clients at once, a look at it, and the end."""
    url = "tcp://0.0.0.0:0"
    dispatcher = command("dispatcher", "--url", url, "-n", 1, "--advertise", "127.0.0.1")
    line = listening(dispatcher)
    said = re.fullmatch(
        r"listening at (tcp://127\.0\.0\.1:[1-9]\d*) with 1 local daemons; next: "
        r"`mirai daemon pool\.json -n 4` for more of them, `connect\(\"pool\.json\"\)` in Python\n",
        line,
    )
    assert said is not None, line
    path = tmp_path / "pool.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Connection.read(path).url == said[1]
    supervisor = command("daemon", "pool.json", "-n", 2, "--tags", "gpu")
    program = (
        "from mirai import connect, mirai_map\n"
        "with connect('pool.json') as pool:\n"
        "    pool.wait(3, timeout=20)\n"
        "    print(sum(mirai_map(lambda x: x * 2, range(5_000)).collect()))"
    )
    clients = [script(program) for _ in range(2)]
    assert [ended(client) for client in clients] == [(0, "24995000\n", "")] * 2
    code, out, err = ended(command("status", "pool.json"))
    assert (code, err) == (0, "")
    first, second, _, *daemons = out.splitlines()
    assert first == f"pool.json: 3 daemons at {said[1]}"
    assert second == "tasks: 0 awaiting, 0 executing, 10000 completed"
    assert len(daemons) == 3
    dispatcher.send_signal(signal.SIGTERM)
    assert ended(dispatcher) == (0, "", "")
    code, _, err = ended(supervisor)
    assert (code, err.splitlines()[-1]) == (0, "mirai daemon: the pool has stopped")
    assert not path.exists()
    assert not processes_marked(mark)


def test_no_secret_is_on_a_command_line_or_in_an_environment(
    command: Command, tmp_path: Path, mark: str
) -> None:
    listening(command("dispatcher", "-n", 1))
    command("daemon", "pool.json")
    connection = Connection.read(tmp_path / "pool.json")
    secrets = [pair.secret.encode() for pair in connection.keys.values()]
    with connect(tmp_path / "pool.json") as pool:
        pool.wait(2, timeout=20)
        pids = [int(entry.split()[0]) for entry in processes_marked(mark)]
        assert len(pids) == 4
        for pid in pids:
            for name in ("cmdline", "environ"):
                text = Path(f"/proc/{pid}/{name}").read_bytes()
                assert not any(secret in text for secret in secrets)


def test_ctrl_c_ends_a_dispatcher_at_once(command: Command, tmp_path: Path) -> None:
    dispatcher = command("dispatcher", "-n", 1)
    listening(dispatcher)
    with connect(tmp_path / "pool.json") as pool:
        pool.wait(1, timeout=20)
        dispatcher.send_signal(signal.SIGINT)
        assert ended(dispatcher) == (130, "", "")
    assert not (tmp_path / "pool.json").exists()


def test_files_for_one_role_each(command: Command, tmp_path: Path) -> None:
    listening(command("dispatcher", "--client-file", "c.json", "--daemon-file", "d.json"))
    command("daemon", "d.json")
    code, _, err = ended(command("daemon", "c.json"))
    assert (code, err) == (1, "mirai daemon: this connection file holds no key of a daemon\n")
    code, _, err = ended(command("status", "d.json"))
    assert (code, err) == (1, "mirai status: this connection file holds no key of a client\n")
    with connect(tmp_path / "c.json"):
        assert mirai(abs, -1).result(timeout=20) == 1


def test_an_address_in_use(command: Command, tmp_path: Path) -> None:
    listening(command("dispatcher"))
    url = Connection.read(tmp_path / "pool.json").url
    code, out, err = ended(command("dispatcher", "--url", url, "--connection-file", "other.json"))
    assert (code, out) == (1, "")
    assert err.startswith(f"mirai dispatcher: cannot listen at {url}: Address already in use")
    assert not (tmp_path / "other.json").exists()


def test_a_file_that_cannot_be_written(command: Command) -> None:
    code, out, err = ended(command("dispatcher", "--connection-file", "nowhere/pool.json"))
    assert (code, out) == (1, "")
    assert "nowhere/pool.json cannot be written: No such file" in err


def test_a_file_that_is_not_there(command: Command) -> None:
    for name in ("daemon", "status", "top"):
        code, out, err = ended(command(name, "pool.json"))
        expected = f"mirai {name}: pool.json cannot be read: No such file or directory\n"
        assert (code, out, err) == (1, "", expected)


class TestKeys:
    URL = "tcp://127.0.0.1:5555"

    def test_three_files_for_this_user_only(self, command: Command, tmp_path: Path) -> None:
        code, out, err = ended(command("keys", self.URL))
        assert (code, err) == (0, "")
        assert out.endswith("next: mirai dispatcher --keys server.json\n")
        paths = sorted(tmp_path.iterdir())
        assert [path.name for path in paths] == ["client.json", "daemon.json", "server.json"]
        assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}
        secret = Connection.read(paths[2]).server_secret
        assert secret
        assert not any(secret in path.read_text() for path in paths[:2])
        assert secret not in out

    def test_they_are_not_overwritten(self, command: Command, tmp_path: Path) -> None:
        (tmp_path / "keys").mkdir()
        (tmp_path / "keys" / "daemon.json").write_text("mine")
        code, out, err = ended(command("keys", self.URL, "--directory", "keys"))
        assert (code, out) == (1, "")
        assert err == "mirai keys: keys/daemon.json: there already; --force overwrites\n"
        assert os.listdir(tmp_path / "keys") == ["daemon.json"]
        assert ended(command("keys", self.URL, "--directory", "keys", "--force"))[0] == 0
        assert len(os.listdir(tmp_path / "keys")) == 3

    def test_a_dispatcher_needs_the_servers(self, command: Command) -> None:
        ended(command("keys", self.URL))
        code, _, err = ended(command("dispatcher", "--keys", "client.json"))
        assert (code, err.partition(" is not ")[0]) == (1, "mirai dispatcher: client.json")

    @pytest.mark.parametrize("url", ["tcp://head:0", "tcp://head:*", "head:5555"])
    def test_a_place_that_cannot_be_found_again(self, command: Command, url: str) -> None:
        code, _, err = ended(command("keys", url))
        assert code == 2
        assert "argument url: url must" in err


class TestTop:
    def test_once(self, command: Command, tmp_path: Path) -> None:
        pytest.importorskip("rich")
        listening(command("dispatcher", "-n", 1))
        with connect(tmp_path / "pool.json") as pool:
            go = tmp_path / "go"

            def work() -> None:
                while not go.exists():
                    time.sleep(0.001)

            running = mirai(work)
            wait_until(lambda: pool.status().executing == 1)
            code, out, err = ended(command("top", "pool.json", "--once"))
            assert (code, err) == (0, "")
            assert "1 executing" in out
            assert "busy" in out
            assert "test_once.<locals>.work (" in out
            go.touch()
            running.result(timeout=20)

    def test_names_are_not_obeyed(self, command: Command, tmp_path: Path) -> None:
        """Neither as rich's markup, nor by a terminal."""
        pytest.importorskip("rich")
        listening(command("dispatcher", "-n", 1))
        go = tmp_path / "go"

        def work() -> None:
            while not go.exists():
                time.sleep(0.001)

        work.__qualname__ = "[/x][bold]\x1b[2J\x9b\u202e"
        with connect(tmp_path / "pool.json") as pool:
            running = mirai(work)
            wait_until(lambda: pool.status().executing == 1)
            for arguments in (["top", "pool.json", "--once"], ["status", "pool.json"]):
                code, out, err = ended(command(*arguments))
                assert (code, err) == (0, "")
                assert "[/x][bold]?[2J?? (" in out
                assert "\x1b" not in out
            go.touch()
            running.result(timeout=20)

    def test_q_leaves_the_live_view(self, command: Command, tmp_path: Path, mark: str) -> None:
        pytest.importorskip("rich")
        listening(command("dispatcher", "-n", 1))
        mine, theirs = pty.openpty()
        top = subprocess.Popen(
            [sys.executable, "-m", "mirai", "top", "pool.json", "--every", "10ms"],
            stdin=theirs,
            stdout=theirs,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), MARK: mark, "TERM": "xterm"},
        )
        os.close(theirs)
        try:
            seen = b""
            while seen.count(b"awaiting") < 3:  # it draws again and again
                seen += os.read(mine, 65_536)
            os.write(mine, b"xq")
            wait_until(lambda: _drained(mine) and top.poll() is not None)
            assert top.stderr is not None
            assert (top.returncode, top.stderr.read()) == (0, b"")
        finally:
            top.kill()
            top.communicate()
            os.close(mine)

    def test_without_rich(self, command: Command, tmp_path: Path) -> None:
        listening(command("dispatcher"))
        (tmp_path / "rich").mkdir()
        (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('not here')")
        code, out, err = ended(command("top", "pool.json", "--once"))
        assert (code, out) == (1, "")
        assert err == "mirai top: the view is drawn by rich: pip install 'mirai-zmq[cli]'\n"


def _drained(fd: int) -> bool:
    """Read what a terminal holds, so that its program can go on."""
    import select

    while select.select([fd], [], [], 0)[0]:
        try:
            if not os.read(fd, 65_536):
                break
        except OSError:  # the other end is closed
            break
    return True


@pytest.mark.parametrize(
    ("name", "explained"),
    [
        (
            "dispatcher",
            [
                "--url URL",
                "--keys FILE",
                "only you can read it",
                'connect("pool.json")',
                "SIGTERM lets it drain",
                "while a task waits for a daemon that is not there",
                "A second SIGTERM, or Ctrl-C, ends it at once",
            ],
        ),
        (
            "daemon",
            [
                "--tags A,B",
                "--idle-time TIME",
                "--max-tasks N",
                "A daemon that crashes is replaced",
                "the tasks that these daemons run cannot submit tasks themselves",
                "exit status: 0 when",
                "90s, 5m, 2h, 1d",
            ],
        ),
        ("status", ["FILE is a connection file", "how many tasks wait, run, and have ended"]),
        ("top", ["FILE", "--every", "--once", "q or Ctrl-C"]),
        (
            "keys",
            [
                "server.json",
                "mirai daemon daemon.json -n 4",
                "--force",
                "client.json can run code on the daemons",
                "can run code in them, since results are pickles",
                "cannot submit tasks themselves",
            ],
        ),
    ],
)
def test_help_explains(command: Command, name: str, explained: list[str]) -> None:
    code, out, err = ended(command(name, "--help"))
    assert (code, err) == (0, "")
    assert out.startswith(f"usage: mirai {name} ")
    text = " ".join(out.split())  # however the lines are broken
    assert [words for words in explained if words not in text] == []


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["daemon", "f", "-n", "0"], "at least 1"),
        (["daemon", "f", "-n", "x"], "-n"),
        (["daemon", "f", "--idle-time", "5 parsecs"], "a time must be like"),
        (["daemon", "f", "--wall-time", "-1"], "a time must be positive"),
        (["daemon", "f", "--tags", "a,,b"], "a tag must be text"),
        (["dispatcher", "-n", "-1"], "not negative"),
        (["dispatcher", "--url", "5555"], "url must begin with"),
        (["dispatcher", "--time-to-live", "3d"], "name one with --journal"),
        (["top"], "FILE"),
        (["fly"], "invalid choice"),
    ],
)
def test_what_makes_no_sense(command: Command, arguments: list[str], complaint: str) -> None:
    code, out, err = ended(command(*arguments))
    assert (code, out) == (2, "")
    assert complaint in err.splitlines()[-1]
