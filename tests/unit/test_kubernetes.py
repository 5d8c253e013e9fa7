"""What is asked of Kubernetes, and what it says: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirai.launchers import Handle, KubernetesLauncher, Order, Phase, State
from mirai.launchers.kubernetes import indexes, merged, state_of, state_without_pod

ORDER = Order(1, "mirai-X", "SECRET", "/d")
MANIFEST = """
{
 "apiVersion": "batch/v1",
 "kind": "Job",
 "metadata": {
  "name": "mirai-x",
  "labels": {"team": "t", "app.kubernetes.io/managed-by": "mirai", "mirai/launch": "mirai-x"}
 },
 "spec": {
  "completionMode": "Indexed",
  "completions": 3,
  "parallelism": 3,
  "backoffLimitPerIndex": 0,
  "ttlSecondsAfterFinished": 3600,
  "template": {
   "metadata": {
    "labels": {"team": "t", "app.kubernetes.io/managed-by": "mirai", "mirai/launch": "mirai-x"},
    "annotations": {"a": "b"}
   },
   "spec": {
    "restartPolicy": "Never",
    "activeDeadlineSeconds": 7200,
    "serviceAccountName": "s",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "containers": [
     {
      "name": "daemon",
      "image": "i:1",
      "command": ["py", "-P", "-m", "mirai", "daemon", "env:MIRAI_KEYS", "--wall-time", "7140s"],
      "env": [
       {"name": "A", "value": "b"},
       {
        "name": "MIRAI_INDEX",
        "valueFrom": {
         "fieldRef": {
          "fieldPath": "metadata.annotations['batch.kubernetes.io/job-completion-index']"
         }
        }
       },
       {"name": "MIRAI_JOB", "value": "mirai-x-$(MIRAI_INDEX)"},
       {
        "name": "MIRAI_KEYS",
        "valueFrom": {"secretKeyRef": {"name": "mirai-x", "key": "keys"}}
       }
      ],
      "resources": {
       "requests": {"cpu": "0.5", "memory": "2147483648", "nvidia.com/gpu": "1"},
       "limits": {"cpu": "0.5", "memory": "2147483648", "nvidia.com/gpu": "1"}
      },
      "volumeMounts": [{"name": "v", "mountPath": "/v"}]
     }
    ],
    "volumes": [{"name": "v", "emptyDir": {}}]
   }
  }
 }
}
"""
FULL = KubernetesLauncher(
    image="i:1",
    cpus=0.5,
    memory="2GiB",
    gpus=1,
    walltime="2h",
    service_account="s",
    node_selector={"disk": "ssd"},
    tolerations=[{"key": "gpu", "operator": "Exists"}],
    labels={"team": "t"},
    annotations={"a": "b"},
    image_pull_secrets=["registry"],
    env={"A": "b"},
    pod_overrides={
        "containers": [{"name": "daemon", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    },
    python="py",
)


def test_a_manifest_of_all_options() -> None:
    made = FULL.manifest(Order(3, "mirai-X", "SECRET", "/d"))
    assert made == json.loads(MANIFEST)
    assert "SECRET" not in json.dumps(made)


def test_a_manifest_of_few_options() -> None:
    pod = KubernetesLauncher(image="i").manifest(ORDER)["spec"]["template"]["spec"]
    assert {name: value for name, value in pod.items() if name != "containers"} == {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
    }
    [container] = pod["containers"]
    assert container["command"] == ["python3", "-P", "-m", "mirai", "daemon", "env:MIRAI_KEYS"]
    assert sorted(container) == ["command", "env", "image", "name"]


def test_the_secret() -> None:
    made = KubernetesLauncher(image="i").secret(ORDER)
    assert (made["metadata"]["name"], made["stringData"]) == ("mirai-x", {"keys": "SECRET"})


def pod(phase: str, state: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    going = {"deletionTimestamp": "now"} if more.pop("going", False) else {}
    statuses = [] if state is None else [{"state": state}]
    return {"metadata": going, "status": {"phase": phase, "containerStatuses": statuses, **more}}


def ended(code: int, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason}}


@pytest.mark.parametrize(
    ("pod", "state"),
    [
        (pod("Pending"), State(Phase.PENDING, "Pending")),
        (
            pod("Pending", {"waiting": {"reason": "ContainerCreating"}}),
            State(Phase.PENDING, "Pending (ContainerCreating)"),
        ),
        (
            pod("Pending", {"waiting": {"reason": "ErrImagePull", "message": "not found"}}),
            State(Phase.PENDING, "Pending (ErrImagePull; not found)"),
        ),
        (
            pod(
                "Pending",
                conditions=[
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes",
                    }
                ],
            ),
            State(Phase.PENDING, "Pending (Unschedulable; 0/3 nodes)"),
        ),
        (pod("Running", {"running": {}}), State(Phase.RUNNING, "Running")),
        (pod("Running", {"running": {}}, going=True), State(Phase.RUNNING, "Terminating")),
        (pod("Succeeded", ended(0, "Completed")), State(Phase.ENDED, "Succeeded", 0)),
        (pod("Failed", ended(3)), State(Phase.FAILED, "Failed (Error)", 3)),
        (pod("Failed", ended(143), going=True), State(Phase.CANCELLED, "Failed (Error)", 143)),
        (
            pod("Failed", ended(137, "OOMKilled"), going=True),
            State(Phase.MEMORY, "Failed (OOMKilled)", 137),
        ),
        (
            pod("Failed", reason="Evicted", message="The node was low on resource: memory."),
            State(Phase.PREEMPTED, "Failed (Evicted; The node was low on resource: memory.)"),
        ),
        (
            pod("Failed", ended(137), reason="DeadlineExceeded"),
            State(Phase.TIMEOUT, "Failed (DeadlineExceeded; Error)", 137),
        ),
        (
            pod(
                "Failed",
                ended(143),
                going=True,
                conditions=[{"type": "DisruptionTarget", "status": "True", "message": "taint"}],
            ),
            State(Phase.PREEMPTED, "Failed (Error; taint)", 143),
        ),
        (pod("Unknown", reason="NodeLost"), State(Phase.UNKNOWN, "Unknown (NodeLost)")),
    ],
)
def test_what_it_says_of_a_pod(pod: dict[str, Any], state: State) -> None:
    assert state_of(pod) == state


def job(**status: Any) -> dict[str, Any]:
    return {"mirai-x": {"status": status}}


@pytest.mark.parametrize(
    ("jobs", "state"),
    [
        ({}, State(Phase.CANCELLED, "its Job is gone")),
        (job(), State(Phase.PENDING, "its pod is not made yet")),
        (job(failedIndexes="0,3-6"), State(Phase.CANCELLED, "its pod is gone")),
        (job(failedIndexes="0-3"), State(Phase.PENDING, "its pod is not made yet")),
        (
            job(conditions=[{"type": "Suspended", "status": "True"}]),
            State(Phase.PENDING, "Suspended"),
        ),
        (
            job(conditions=[{"type": "Failed", "status": "True", "reason": "R", "message": "m"}]),
            State(Phase.FAILED, "Failed (R; m)"),
        ),
    ],
)
def test_where_there_is_no_pod(jobs: dict[str, Any], state: State) -> None:
    assert state_without_pod(Handle("mirai-x-5", "mirai-X"), jobs) == state


def test_indexes() -> None:
    assert indexes("") == set()
    assert indexes("1,3-5,9") == {1, 3, 4, 5, 9}


def test_what_is_merged() -> None:
    ours = {"a": {"b": 1, "c": [1]}, "l": [{"name": "x", "v": 1}, {"name": "y"}]}
    theirs = {"a": {"c": [2]}, "l": [{"name": "x", "w": 2}, {"name": "z"}], "n": 3}
    assert merged(ours, theirs) == {
        "a": {"b": 1, "c": [2]},
        "l": [{"name": "x", "v": 1, "w": 2}, {"name": "y"}, {"name": "z"}],
        "n": 3,
    }


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"image": ""}),
        (ValueError, {"cpus": 0}),
        (ValueError, {"memory": -1}),
        (ValueError, {"walltime": "long"}),
        (TypeError, {"env": {"A": 1}}),
        (TypeError, {"image_pull_secrets": "a"}),
        (TypeError, {"pod_overrides": []}),
    ],
)
def test_bad_options_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        KubernetesLauncher(**{"image": "i"} | options)
