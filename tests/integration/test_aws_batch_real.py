"""AWS's API by moto, whose jobs run as processes of this machine: see ``tests/infra``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT, wait_until
from orders import ENV, connected, launched, order_of, reaches, remote_pool, secrets_of

from mirai import mirai
from mirai._errors import LaunchError
from mirai.launchers import AWSBatchLauncher, Handle, Order, Phase, _aws_secret
from mirai.launchers._aws import service

pytestmark = pytest.mark.servers

INFRA = ROOT / "tests" / "infra"


@pytest.fixture(scope="module")
def moto(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start the API; yield the variables by which boto3 finds it."""
    for package in ("boto3", "moto.server"):
        pytest.importorskip(package)
    state = tmp_path_factory.mktemp("batch")
    done = subprocess.run(
        ["bash", INFRA / "start-batch.sh", state],
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    yield dict(re.findall(r"(AWS_\w+)=(\S+)", (state / "env.sh").read_text()))
    subprocess.run(["bash", INFRA / "stop-batch.sh", state], check=True, timeout=60)


@pytest.fixture
def batch(moto: dict[str, str], mark: str, monkeypatch: pytest.MonkeyPatch) -> AWSBatchLauncher:
    for name, value in moto.items():
        monkeypatch.setenv(name, value)
    return AWSBatchLauncher(
        queue="mirai-queue",
        definition="mirai-job",
        cpus=1,
        memory="128MiB",
        environment={**moto, **ENV, "MIRAI_TEST_MARK": mark},
        python=sys.executable,
    )


def has_keys(order: Order) -> bool:
    try:
        return _aws_secret.read(_aws_secret.name_of(order.name)) == order.keys
    except LaunchError as error:
        if "ResourceNotFoundException" not in str(error):
            raise
        return False


def jobs_of(handles: list[Handle]) -> str:
    """Return all that anybody may know of the jobs of a launch."""
    with service("batch") as asked:
        ids = sorted({part for handle in handles for part in (handle.id, handle.id.split(":")[0])})
        return json.dumps(asked.ask("describe_jobs", jobs=ids), default=str)


@pytest.mark.parametrize("count", [1, 3], ids=["job", "array"])
def test_daemons_as_jobs(batch: AWSBatchLauncher, tmp_path: Path, count: int) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, count)
        with launched(batch, order) as handles:
            pool.wait(count, 50)
            ids = [handle.id for handle in handles]
            assert mirai(os.getenv, "AWS_BATCH_JOB_ID").result(10) in ids
            assert {state.phase for state in batch.poll(handles).values()} == {Phase.RUNNING}
            assert not any(secret in jobs_of(handles) for secret in secrets_of(order))
            assert has_keys(order)
            if count > 1:
                batch.terminate(handles[:1])
                wait_until(lambda: connected(pool) == count - 1)
                assert has_keys(order)
        assert not has_keys(order)
        for handle in handles:
            state = reaches(batch, handle, lambda state: state.phase.is_over)
            assert state.phase is Phase.CANCELLED
        assert "mirai daemon" in batch.log(handles[0])


def test_a_launch_is_recalled_by_its_name(batch: AWSBatchLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 2)
        handles = batch.launch(order)
        batch.recall(order.name)
        assert not has_keys(order)
        for handle in handles:
            state = reaches(batch, handle, lambda state: state.phase.is_over)
            assert state.phase is Phase.CANCELLED
        batch.recall(order.name)  # once more does no harm


def test_a_job_that_fails(batch: AWSBatchLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = replace(order_of(pool, tmp_path), keys='{"mirai": 1}')
        with launched(batch, order) as [handle]:
            state = reaches(batch, handle, lambda state: state.phase.is_over, 40)
            assert (state.phase, state.exit) == (Phase.FAILED, 1)
            assert batch.log(handle)


def test_a_refusal_leaves_nothing(batch: AWSBatchLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path)
        with pytest.raises(LaunchError, match=r"batch \(submit_job\): .*no-such") as caught:
            replace(batch, definition="no-such").launch(order)
        assert not has_keys(order)
        assert not any(secret in str(caught.value) for secret in secrets_of(order))


def test_a_job_that_nobody_knows(batch: AWSBatchLauncher) -> None:
    handle = Handle("00000000-0000-0000-0000-000000000000", "mirai-x")
    assert batch.poll([handle])[handle].phase is Phase.UNKNOWN
    assert batch.log(handle) == ""


def test_an_api_that_does_not_answer(
    batch: AWSBatchLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    away = replace(batch, endpoint_url="http://127.0.0.1:1")
    with pytest.raises(LaunchError, match="Could not connect"):
        away.poll([Handle("x", "mirai-x")])
