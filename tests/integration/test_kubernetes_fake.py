"""The official client of Kubernetes against a fake API server, whose pods are processes here.

What only a cluster can show is not tested: scheduling, rights, eviction, images.
"""

from __future__ import annotations

import json
import os
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
from mirai.launchers import Handle, KubernetesLauncher, Phase

pytestmark = pytest.mark.servers

pytest.importorskip("kubernetes")


@pytest.fixture(scope="module")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Start the API; yield a file that names it."""
    state = tmp_path_factory.mktemp("kubernetes")
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "infra" / "fake_kubernetes.py", state],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    path = state / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "fake",
                "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "me"}}],
                "clusters": [
                    {"name": "fake", "cluster": {"server": f"http://127.0.0.1:{port}"}},
                ],
                "users": [{"name": "me", "user": {}}],
            }
        )
    )
    yield path
    server.communicate("")


@pytest.fixture
def cluster(kubeconfig: Path, mark: str) -> KubernetesLauncher:
    return KubernetesLauncher(
        image="mirai:test",
        python=sys.executable,
        kubeconfig=str(kubeconfig),
        env={**ENV, "MIRAI_TEST_MARK": mark},
        walltime="10m",
        cpus=1,
        memory="1GiB",
    )


@pytest.mark.parametrize("count", [1, 3])
def test_daemons_as_pods(cluster: KubernetesLauncher, tmp_path: Path, count: int) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, count)
        with launched(cluster, order) as handles:
            pool.wait(count, 40)
            ids = [handle.id for handle in handles]
            assert mirai(os.getenv, "MIRAI_JOB").result(10) in ids
            assert not mirai(os.getenv, "MIRAI_KEYS").result(10)
            assert {state.phase for state in cluster.poll(handles).values()} == {Phase.RUNNING}
            assert "mirai daemon" in cluster.log(handles[0])
            if count > 1:
                cluster.terminate(handles[:1])
                state = reaches(cluster, handles[0], lambda state: state.phase.is_over)
                assert state.phase is Phase.CANCELLED
                wait_until(lambda: connected(pool) == count - 1)
                assert cluster.poll(handles)[handles[1]].phase is Phase.RUNNING
        for handle in handles:
            state = reaches(cluster, handle, lambda state: state.phase.is_over)
            assert state.phase is Phase.CANCELLED
        wait_until(lambda: connected(pool) == 0)
        with cluster._cluster() as asked:  # and nothing of it is left there
            assert asked.jobs([order.name]) == []
            with pytest.raises(LaunchError, match="not found"):
                asked.give_secret(order.name, "x")


def test_a_launch_is_recalled_by_its_name(cluster: KubernetesLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 2)
        handles = cluster.launch(order)
        cluster.recall(order.name)
        for handle in handles:
            reaches(cluster, handle, lambda state: state.phase.is_over)
        cluster.recall(order.name)  # once more does no harm
        cluster.terminate(handles)


def test_a_pod_that_fails(cluster: KubernetesLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = replace(order_of(pool, tmp_path), keys='{"mirai": 1}')
        with launched(cluster, order) as [handle]:
            state = reaches(cluster, handle, lambda state: state.phase.is_over)
            assert (state.phase, state.exit) == (Phase.FAILED, 1)
            assert cluster.log(handle)


def test_a_pod_whose_time_is_over(cluster: KubernetesLauncher, tmp_path: Path) -> None:
    slow = {"containers": [{"name": "daemon", "command": ["sleep", "600"]}]}
    launcher = replace(cluster, walltime="1s", pod_overrides=slow)
    with remote_pool() as pool, launched(launcher, order_of(pool, tmp_path)) as [handle]:
        state = reaches(cluster, handle, lambda state: state.phase.is_over)
        assert state.phase is Phase.TIMEOUT


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image": "missing:1"}, "ImagePullBackOff"),
        ({"node_selector": {"disk": "ssd"}}, "Unschedulable"),
    ],
)
def test_a_pod_that_waits(
    cluster: KubernetesLauncher, tmp_path: Path, options: dict[str, object], said: str
) -> None:
    launcher = replace(cluster, **options)  # type: ignore[arg-type]
    with remote_pool() as pool, launched(launcher, order_of(pool, tmp_path)) as [handle]:
        state = reaches(launcher, handle, lambda state: said in state.detail)
        assert state.phase is Phase.PENDING
        assert launcher.log(handle) == ""


def test_a_refusal_leaves_nothing(cluster: KubernetesLauncher, tmp_path: Path) -> None:
    with remote_pool() as pool:
        order = order_of(pool, tmp_path)
        launcher = replace(cluster, pod_overrides={"contaners": []})
        with pytest.raises(LaunchError, match=r"(?s)create_namespaced_job.*(contaners|unknown)"):
            launcher.launch(order)
        with launched(cluster, order):  # the name is free again
            pass
        with pytest.raises(LaunchError, match='namespaces "no-such" not found') as caught:
            replace(cluster, namespace="no-such").launch(order)
        assert not any(secret in str(caught.value) for secret in secrets_of(order))


def test_an_api_that_does_not_answer(tmp_path: Path, cluster: KubernetesLauncher) -> None:
    handle = Handle("mirai-x-0", "mirai-x")
    with pytest.raises(LaunchError, match="no cluster of Kubernetes is known here"):
        replace(cluster, kubeconfig=str(tmp_path / "none")).poll([handle])
    assert cluster.poll([handle])[handle].phase is Phase.CANCELLED
