"""What needs a package that is not installed says which, and how it is installed."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mirai._errors import LaunchError
from mirai.launchers import (
    AWSBatchLauncher,
    DaskLauncher,
    Handle,
    KubernetesLauncher,
    Launcher,
    Order,
    RayLauncher,
    _aws_secret,
)
from mirai.launchers._resident import Charge, Kept

ORDER = Order(1, "mirai-x", "SECRET", "/d")


class Pending:
    """What a client of Dask gives for a task, as far as it is asked."""

    status = "pending"


CLIENT = SimpleNamespace(submit=lambda *_, **__: Pending())


@pytest.mark.parametrize(
    ("package", "extra", "launcher"),
    [
        ("boto3", "aws", AWSBatchLauncher("q", "d")),
        ("kubernetes", "kubernetes", KubernetesLauncher("i")),
        ("distributed", "dask", DaskLauncher(CLIENT)),
        ("ray", "ray", RayLauncher()),
    ],
)
def test_a_package_that_is_not_there(
    package: str, extra: str, launcher: Launcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(LaunchError, match=rf"pip install 'mirai-zmq\[{extra}\]'"):
        launcher.poll(launcher.launch(ORDER))


def test_secrets_of_aws_need_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(LaunchError, match=r"mirai-zmq\[aws\]"):
        _aws_secret.read("x")


@pytest.mark.parametrize("client", [None, 3, SimpleNamespace(submit=print, _asynchronous=True)])
def test_bad_clients_of_dask_are_refused(client: Any) -> None:
    with pytest.raises(TypeError, match="client must"):
        DaskLauncher(client)


def test_what_is_logged_of_a_charge_is_no_secret() -> None:
    assert repr(Charge("j", "SECRET", {"A": "SECRET"})) == "Charge(job='j')"
    assert "SECRET" not in repr(ORDER)


def test_the_oldest_is_forgotten() -> None:
    kept: Kept[int] = Kept(2)
    handles = [Handle(f"mirai-x-{index}", "mirai-x") for index in range(3)]
    for index, handle in enumerate(handles):
        kept.add(handle, index)
    assert kept.of(handles) == {"mirai-x-1": 1, "mirai-x-2": 2}
    assert kept.launch("mirai-x") == handles[1:]
    assert kept.launch("mirai-y") == []
