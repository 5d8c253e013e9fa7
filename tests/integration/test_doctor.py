"""``mirai doctor``: what keeps machines from working together is told."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest
from clusters import PATIENCE
from conftest import ROOT, Command

from dispatcher import __version__
from dispatcher.messages import PoolReport
from mirai import Daemons, daemons, host_url
from mirai._connection import Connection
from mirai._doctor import look_at


def told(process: object) -> tuple[int, list[str]]:
    """Return the exit status, and what was printed."""
    out, err = process.communicate(timeout=60)  # type: ignore[attr-defined]
    assert err == ""
    return process.returncode, out.splitlines()  # type: ignore[attr-defined]


def test_it_looks_at_this_machine(command: Command) -> None:
    _, lines = told(command("doctor"))
    version = "{}.{}.{}".format(*sys.version_info)
    assert lines[0] == f"ok   mirai {__version__}, Python {version}"
    assert lines[1].endswith("with CURVE")
    assert all(line.startswith(("ok   ", "BAD  ")) for line in lines)


def test_it_looks_at_a_dispatcher_from_here(command: Command, tmp_path: Path) -> None:
    with daemons(1, url="tcp://127.0.0.1:0") as pool:
        pool.connection_file(tmp_path / "pool.json")
        _, lines = told(command("doctor", "pool.json"))
        assert f"ok   {pool.url} is reached from here" in lines
        assert lines[-1] == "ok   the clocks agree"
        python = "{}.{}".format(*sys.version_info)
        assert f"ok   there is mirai {__version__}, Python {python}, too" in lines


def test_an_address_that_cannot_be_reached_is_told(tmp_path: Path, command: Command) -> None:
    with daemons(0, url="tcp://127.0.0.1:0") as pool, socket.create_server(("127.0.0.1", 0)) as it:
        port = it.getsockname()[1]
        it.close()
        pool.connection().at(f"tcp://127.0.0.1:{port}").write(tmp_path / "gone.json")
        code, lines = told(command("doctor", "gone.json"))
        assert code == 1
        assert f"BAD  tcp://127.0.0.1:{port} is not reached from here" in lines
        assert lines[-1].startswith("BAD  no address of the dispatcher is reached")
        pool.shutdown()


def test_keys_that_are_refused_are_told(tmp_path: Path, command: Command) -> None:
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        others = Connection.new(pool.url)
        Connection(pool.url, pool.connection().server, others.keys).write(tmp_path / "wrong.json")
        code, lines = told(command("doctor", "wrong.json"))
        assert code == 1
        assert lines[-1].startswith("BAD  AuthenticationError: ")
        pool.shutdown()


def test_clocks_that_differ_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        ask = Daemons.report

        def late(it: Daemons, timeout: float) -> PoolReport:
            import msgspec

            report = ask(it, timeout)
            return msgspec.structs.replace(report, clock=report.clock - 90.0)

        monkeypatch.setattr(Daemons, "report", late)
        *_, last = look_at(pool.connection())
        assert str(last) == "BAD  the clocks differ by 90.0 s"
        pool.shutdown()


@pytest.mark.servers
@pytest.mark.timeout(PATIENCE + 60)
def test_another_machine_looks_at_this_one(
    command: Command, sshd: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host_url("*") == "tcp://0.0.0.0:0"
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    python = f"env PYTHONPATH={ROOT} {sys.executable}"
    option = f"--ssh-option=-F{sshd}"
    _, lines = told(command("doctor", "--ssh", "node1", option, "--python", python))
    here = lines.index("node1, by ssh:")
    assert lines[here + 1].startswith("ok   mirai ")
    assert lines[-1] == "ok   the clocks agree"
    assert sum("is reached from here" in line for line in lines[here:]) >= 1
