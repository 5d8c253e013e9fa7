"""What launchers run: pure."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mirai._errors import LaunchError
from mirai.launchers import CommandLauncher, Handle, LocalLauncher, Order, SSHLauncher
from mirai.launchers.ssh import through

ORDER = Order(3, "mirai-x", "SECRET", "/d", "/d/the keys.json")
HANDLE = Handle("mirai-x-1", "mirai-x")
COMMAND = "env MIRAI_JOB=mirai-x-1 py -P -m mirai daemon '/d/the keys.json'"


@pytest.mark.parametrize(
    ("template", "rendered"),
    [
        ("run {command}", f"run {COMMAND}"),
        ("qsub {keys_file} {name}", "qsub '/d/the keys.json' mirai-x"),
        (["run", "{command}", "{name}:{index}"], ["run", COMMAND, "mirai-x:1"]),
        (
            ["awk", "{print $1} {indexes}", "{keys_file}"],
            ["awk", "{print $1} {indexes}", "/d/the keys.json"],
        ),
    ],
)
def test_a_template_is_filled(template: Any, rendered: Any) -> None:
    assert CommandLauncher(template=template, python="py").rendered(ORDER, HANDLE) == rendered


def test_with_stdin_no_file_is_named() -> None:
    launcher = CommandLauncher(template=["{command}"], stdin=True, python="py")
    assert launcher.rendered(ORDER, HANDLE) == ["env MIRAI_JOB=mirai-x-1 py -P -m mirai daemon -"]


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"template": []}),
        (ValueError, {"template": ""}),
        (TypeError, {"template": [1]}),
        (ValueError, {"template": "x", "stdin": True, "detached": True}),
        (ValueError, {"template": "x", "cancel": "y"}),
        (ValueError, {"template": "x", "timeout": 0}),
        (TypeError, {"template": "x", "env": {"A": 1}}),
    ],
)
def test_bad_commands_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        CommandLauncher(**options)


def test_a_command_without_a_file_of_keys(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="needs a file of keys"):
        CommandLauncher(template="true").launch(Order(1, "mirai-x", "{}", str(tmp_path)))


def test_bad_local_options_are_refused() -> None:
    with pytest.raises(TypeError):
        LocalLauncher(env={"A": 1})  # type: ignore[dict-item]


# ── ssh ──────────────────────────────────────────────────────────────────────────────────

ARGV = """\
ssh -T -o ProxyJump=gate -F conf -p 2222 -o BatchMode=yes -o ConnectTimeout=8
-o ExitOnForwardFailure=yes -o ServerAliveInterval=15 -o ServerAliveCountMax=4
-o ControlPath=none -R 127.0.0.1:1:h:2 -- me@node1"""
SCRIPT = """\
{
. env/bin/activate
} </dev/null
cd '/a b' || exit 1
export A='it'"'"'s'
export MIRAI_JOB=mirai-x-1
command -v py >/dev/null || { echo 'mirai: there is no py here' >&2; exit 127; }
echo 'mirai: logged in'
exec py -P -m mirai daemon - >&2"""
NODES = SSHLauncher(
    hosts=["me@node1:2222"],
    options=("-o", "ProxyJump=gate"),
    config_file="conf",
    timeout=7.5,
    python="py",
    cwd="/a b",
    env={"A": "it's"},
    prologue=[". env/bin/activate"],
)


def test_the_command_of_ssh() -> None:
    argv = NODES.ssh_argv("me@node1:2222", "mirai-x-1", "127.0.0.1:1:h:2")
    assert argv[:-1] == ARGV.split()
    assert argv[-1] == NODES.remote_command("mirai-x-1")


def test_a_shell_there_reads_the_script_as_it_is() -> None:
    line = NODES.remote_command("mirai-x-1").replace("exec /bin/sh -c", "printf %s", 1)
    read = subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, check=True)
    assert read.stdout == SCRIPT


@pytest.mark.parametrize(
    ("host", "end"),
    [
        ("node", ["--", "node"]),
        ("node:22", ["--", "node"]),
        ("me@[::1]:22", ["--", "me@::1"]),
        ("[fe80::1]", ["--", "fe80::1"]),
    ],
)
def test_hosts(host: str, end: list[str]) -> None:
    assert SSHLauncher(hosts=host).ssh_argv(host, "j")[-3:-1] == end


@pytest.mark.parametrize("hosts", [[], "", "-oProxyCommand=x", "a b", "node:", "node:x", [""]])
def test_bad_hosts_are_refused(hosts: Any) -> None:
    with pytest.raises(ValueError, match="host"):
        SSHLauncher(hosts=hosts)


def test_bad_options_of_ssh_are_refused() -> None:
    with pytest.raises(TypeError):
        SSHLauncher(hosts=[1])  # type: ignore[list-item]
    with pytest.raises(TypeError):
        SSHLauncher(hosts="a", options="-v")
    with pytest.raises(ValueError, match="no shell can set"):
        SSHLauncher(hosts="a", env={"a b": "c"})


def test_a_tunnel_takes_the_place_of_all_urls() -> None:
    data = '{"url": "tcp://10.0.0.1:5", "others": ["tcp://10.0.0.2:5"], "k": 1}'
    forward, keys = through(data, 77)
    assert forward == "127.0.0.1:77:10.0.0.1:5"
    here = "tcp://127.0.0.1:77"
    assert json.loads(keys) == {"url": here, "k": 1}
    with pytest.raises(LaunchError, match="not to ipc"):
        through('{"url": "ipc:///tmp/x"}', 77)
