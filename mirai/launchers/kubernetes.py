"""Kubernetes: daemons as the pods of an indexed Job, asked by the official client.

The keys lie in a Secret of the launch, which belongs to the Job and goes with it.  Of Kubernetes,
1.29 or later is wanted: there the end of one pod need not be that of all (see ``manifest``).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mirai._errors import LaunchError
from mirai._limits import seconds
from mirai._pool_options import check_env, size_in_bytes
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, check_positive, check_words
from mirai.launchers._command import ENVIRONMENT, daemon_argv, wall_time

EXTRA = (
    "Kubernetes is asked by its official client, which is not installed:"
    " pip install 'mirai-zmq[kubernetes]'"
)
LAUNCH = "mirai/launch"
"""The label of all that belongs to a launch: its name."""
INDEX = "batch.kubernetes.io/job-completion-index"
"""The annotation of a pod that says which of its Job it is."""
KEPT = 3_600
"""Seconds that a Job is kept after its end, for people to look at."""
TIMEOUT = 60.0
"""Seconds that the API has to answer."""
AT_ONCE = 100
"""How many launches one question is about at most."""
PAGE = 500
"""How many objects an answer holds at most."""
WAITING = ("ContainerCreating", "PodInitializing")
"""Why a container waits where nothing is wrong."""

_REASONS = {
    "OOMKilled": Phase.MEMORY,
    "DeadlineExceeded": Phase.TIMEOUT,
    "Evicted": Phase.PREEMPTED,
    "Preempting": Phase.PREEMPTED,
    "NodeLost": Phase.PREEMPTED,
    "NodeShutdown": Phase.PREEMPTED,
    "Shutdown": Phase.PREEMPTED,
    "Terminated": Phase.PREEMPTED,  # by the shutdown of its node
}
"""Why a pod or its container has failed -> what that means."""


@dataclass(frozen=True, kw_only=True)
class KubernetesLauncher(Launcher):
    """Daemons as pods of Kubernetes, from an image that has Python and this package.

    ``cpus``, ``memory`` (in bytes, or like ``"2GiB"``) and ``gpus`` (of ``gpu_resource``) are
    both asked for and the limit; ``walltime`` is the time of each pod once it has a node, in
    seconds or like ``"1h"``: shortly before it is over, a daemon takes no more tasks.
    ``service_account``, ``node_selector``, ``tolerations``, ``labels``, ``annotations``,
    ``image_pull_secrets`` (names) and ``env`` are those of the pods, as Kubernetes has them.
    ``pod_overrides`` is put into the pod's spec: objects are merged, as are lists of what has a
    ``name`` (the container's is ``"daemon"``), and everything else takes the place of ours.

    ``python`` is the interpreter in the image.  ``kubeconfig`` and ``context`` say which cluster
    is asked, by default that of ``~/.kube/config``, or the one that this runs in.

    Whoever launches must be allowed to create, get, list and delete Jobs and pods, to get the
    pods' logs, and to create, patch and delete Secrets.  Raises TypeError or ValueError.
    """

    image: str = field(kw_only=False)
    namespace: str = "default"
    cpus: float | None = None
    memory: int | str | None = None
    gpus: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    walltime: float | str | None = None
    service_account: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    image_pull_secrets: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    pod_overrides: Mapping[str, Any] = field(default_factory=dict)
    python: str = "python3"
    kubeconfig: str | None = None
    context: str | None = None

    patience: ClassVar[float] = 1_800.0
    interval: ClassVar[float] = 5.0

    def __post_init__(self) -> None:
        check_words(self, "image", "namespace", "python")
        check_positive(self, "cpus", "gpus")
        for each in (self.node_selector, self.labels, self.annotations, self.env):
            check_env(each)
        for name in ("tolerations", "image_pull_secrets"):
            if isinstance(getattr(self, name), str):
                raise TypeError(f"{name} must be a list, not {getattr(self, name)!r}")
        if not isinstance(self.pod_overrides, Mapping):
            raise TypeError(f"pod_overrides must be a dict, not {self.pod_overrides!r}")
        self._amounts()
        self._walltime()

    # ── manifests ────────────────────────────────────────────────────────────────────────

    def manifest(self, order: Order) -> dict[str, Any]:
        """Return the Job of a launch: pure, and no secret is in there.

        ``backoffLimitPerIndex`` has each pod fail for itself, once: by ``backoffLimit`` alone the
        first that fails, or that is deleted, would end all the others too.  A pod that fails, is
        deleted or loses its node is not replaced: that is the pool's affair, so there is no
        ``podFailurePolicy`` that would overlook some of these.
        """
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": self._metadata(order),
            "spec": {
                "completionMode": "Indexed",
                "completions": order.count,
                "parallelism": order.count,
                "backoffLimitPerIndex": 0,
                "ttlSecondsAfterFinished": KEPT,
                "template": {
                    "metadata": {
                        "labels": {**self.labels, **_labels(order)},
                        "annotations": dict(self.annotations),
                    },
                    "spec": merged(self._pod(order), self.pod_overrides),
                },
            },
        }

    def secret(self, order: Order) -> dict[str, Any]:
        """Return the Secret of a launch, which holds its keys."""
        return {
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": self._metadata(order),
            "type": "Opaque",
            "immutable": True,
            "stringData": {"keys": order.keys},
        }

    def _metadata(self, order: Order) -> dict[str, Any]:
        return {"name": job_name(order.name), "labels": {**self.labels, **_labels(order)}}

    def _pod(self, order: Order) -> dict[str, Any]:
        optional = {
            "activeDeadlineSeconds": self._walltime(),
            "serviceAccountName": self.service_account,
            "automountServiceAccountToken": None if self.service_account else False,
            "nodeSelector": dict(self.node_selector) or None,
            "tolerations": [dict(each) for each in self.tolerations] or None,
            "imagePullSecrets": [{"name": name} for name in self.image_pull_secrets] or None,
        }
        return {
            "restartPolicy": "Never",
            **{name: value for name, value in optional.items() if value is not None},
            "containers": [self._container(order)],
        }

    def _container(self, order: Order) -> dict[str, Any]:
        command = daemon_argv(ENVIRONMENT, self.python)
        if (whole := self._walltime()) is not None:
            command += wall_time(whole)
        name = job_name(order.name)
        index = {"fieldRef": {"fieldPath": f"metadata.annotations['{INDEX}']"}}
        keys = {"secretKeyRef": {"name": name, "key": "keys"}}
        amounts = self._amounts()
        return {
            "name": "daemon",
            "image": self.image,
            "command": command,
            "env": [
                *({"name": each, "value": value} for each, value in self.env.items()),
                # JOB_COMPLETION_INDEX is added last, and only what stands before can be named.
                {"name": "MIRAI_INDEX", "valueFrom": index},
                {"name": "MIRAI_JOB", "value": f"{name}-$(MIRAI_INDEX)"},
                {"name": "MIRAI_KEYS", "valueFrom": keys},
            ],
            **({"resources": {"requests": amounts, "limits": amounts}} if amounts else {}),
        }

    def _amounts(self) -> dict[str, str]:
        memory = None if self.memory is None else size_in_bytes("memory", self.memory)
        wanted = {"cpu": self.cpus, "memory": memory, self.gpu_resource: self.gpus}
        return {name: f"{value:.15g}" for name, value in wanted.items() if value is not None}

    def _walltime(self) -> int | None:
        if self.walltime is None:
            return None
        return max(1, round(seconds("walltime", self.walltime)))

    # ── launching ────────────────────────────────────────────────────────────────────────

    def launch(self, order: Order) -> list[Handle]:
        """Create the Secret and the Job, and give the one to the other."""
        name = job_name(order.name)
        with self._cluster() as cluster:
            try:
                cluster.create_secret(self.secret(order), hide=order.keys)
                uid = cluster.create_job(self.manifest(order))
                cluster.give_secret(name, uid)
            except BaseException:
                cluster.delete_job(name)  # both of them, or none
                cluster.delete_secret(name)
                raise
        return [Handle(f"{name}-{index}", order.name) for index in range(order.count)]

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask for the pods of all launches; and for the Jobs, where pods are not there."""
        launches = sorted({handle.launch for handle in handles})
        with self._cluster() as cluster:
            known = {id_of(pod): state_of(pod) for pod in cluster.pods(launches)}
            missing = sorted({each.launch for each in handles if each.id not in known})
            jobs = {job["metadata"]["name"]: job for job in cluster.jobs(missing)}
        return {
            handle: known.get(handle.id) or state_without_pod(handle, jobs) for handle in handles
        }

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Delete a Job all of whose pods are meant, with its Secret; or else these pods."""
        launches = sorted({handle.launch for handle in handles})
        wanted = {handle.id for handle in handles}
        with self._cluster() as cluster:
            jobs = cluster.jobs(launches)
            whole = {job["metadata"]["name"] for job in jobs if set(_ids(job)) <= wanted}
            partly = {job["metadata"]["name"] for job in jobs} - whole
            for name in map(job_name, launches):
                if name not in partly:
                    cluster.delete_job(name)
                    cluster.delete_secret(name)
            for pod in cluster.pods([each for each in launches if job_name(each) in partly]):
                if id_of(pod) in wanted:
                    cluster.delete_pod(pod["metadata"]["name"])

    def recall(self, name: str) -> None:
        """Delete the Job and the Secret of a launch."""
        with self._cluster() as cluster:
            cluster.delete_job(job_name(name))
            cluster.delete_secret(job_name(name))

    def log(self, handle: Handle, size: int = 4_096) -> str:
        """Return the last of what a pod has printed; empty if it has not begun."""
        with self._cluster() as cluster:
            for pod in cluster.pods([handle.launch]):
                if id_of(pod) == handle.id:
                    text = cluster.log(pod["metadata"]["name"])
                    return text.encode()[-size:].decode(errors="replace").strip()
        return ""

    @contextmanager
    def _cluster(self) -> Iterator[_Cluster]:
        try:
            from kubernetes import client, config
        except ImportError:
            raise LaunchError(EXTRA) from None
        configuration = client.Configuration()
        try:
            if self.kubeconfig or self.context or _has_kubeconfig():
                path = self.kubeconfig or os.environ.get("KUBECONFIG")
                config.load_kube_config(path, self.context, client_configuration=configuration)
            else:
                config.load_incluster_config(client_configuration=configuration)
        except Exception as error:
            raise LaunchError(f"no cluster of Kubernetes is known here: {error}") from None
        with client.ApiClient(configuration) as api:
            yield _Cluster(client.BatchV1Api(api), client.CoreV1Api(api), self.namespace)


class _Cluster:
    """What is asked of the API; what it refuses is a LaunchError in its own words."""

    def __init__(self, batch: Any, core: Any, namespace: str) -> None:
        self._batch = batch
        self._core = core
        self._namespace = namespace

    def create_job(self, manifest: Mapping[str, Any]) -> str:
        """Return its uid."""
        made = self._ask(self._batch.create_namespaced_job, self._namespace, manifest)
        return str(made["metadata"]["uid"])

    def create_secret(self, manifest: Mapping[str, Any], hide: str) -> None:
        self._ask(self._core.create_namespaced_secret, self._namespace, manifest, hide=hide)

    def give_secret(self, name: str, uid: str) -> None:
        """Have it go with the Job of its name."""
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}
        patch = {"metadata": {"ownerReferences": [owner]}}
        self._ask(self._core.patch_namespaced_secret, name, self._namespace, patch)

    def jobs(self, launches: Sequence[str]) -> list[dict[str, Any]]:
        return list(self._list(self._batch.list_namespaced_job, launches))

    def pods(self, launches: Sequence[str]) -> list[dict[str, Any]]:
        return list(self._list(self._core.list_namespaced_pod, launches))

    def delete_job(self, name: str) -> None:
        self._delete(self._batch.delete_namespaced_job, name, propagation_policy="Background")

    def delete_secret(self, name: str) -> None:
        self._delete(self._core.delete_namespaced_secret, name)

    def delete_pod(self, name: str) -> None:
        self._delete(self._core.delete_namespaced_pod, name)

    def log(self, pod: str) -> str:
        ask = self._core.read_namespaced_pod_log
        try:
            text = self._raw(ask, pod, self._namespace, container="daemon", tail_lines=200)
        except _RefusedError as error:
            if error.status in (400, 404):  # it has not begun, or is gone
                return ""
            raise
        return text.decode(errors="replace")

    def _list(self, ask: Callable[..., Any], launches: Sequence[str]) -> Iterator[Any]:
        for first in range(0, len(launches), AT_ONCE):
            some = ",".join(job_name(name) for name in launches[first : first + AT_ONCE])
            wanted = {"label_selector": f"{LAUNCH} in ({some})", "limit": PAGE}
            more: dict[str, str] = {}
            while True:
                answer = self._ask(ask, self._namespace, **wanted, **more)
                yield from answer["items"]
                token = answer["metadata"].get("continue")
                if not token:
                    break
                more = {"_continue": token}

    def _delete(self, ask: Callable[..., Any], name: str, **options: Any) -> None:
        try:
            self._ask(ask, name, self._namespace, **options)
        except _RefusedError as error:
            if error.status != 404:
                raise

    def _ask(self, ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return json.loads(self._raw(ask, *args, **options))

    def _raw(self, ask: Callable[..., Any], *args: Any, hide: str = "", **options: Any) -> bytes:
        """Return what the API answers, as it is: its models would refuse what they do not know."""
        try:
            answer = ask(*args, **options, _preload_content=False, _request_timeout=TIMEOUT)
            return bytes(answer.data)
        except Exception as error:  # the client has its own, and those of what it uses
            said = _words(error)
            if hide:  # whoever validates shows a part of what is wrong
                is_answer = getattr(error, "body", None) or type(error).__name__ == "MaxRetryError"
                said = said.replace(hide, "…") if is_answer else type(error).__name__
            text = f"Kubernetes ({ask.__name__}): {said}"
            raise _RefusedError(text, getattr(error, "status", None)) from None


class _RefusedError(LaunchError):
    def __init__(self, text: str, status: int | None) -> None:
        super().__init__(text)
        self.status = status


def _has_kubeconfig() -> bool:
    return "KUBECONFIG" in os.environ or os.path.exists(os.path.expanduser("~/.kube/config"))


def _words(error: Exception) -> str:
    """Return what the API says itself, if it has answered."""
    body = getattr(error, "body", None)
    try:
        return str(json.loads(body)["message"]) if body else str(error)
    except (ValueError, KeyError, TypeError):
        return str(error)


# ── pure ─────────────────────────────────────────────────────────────────────────────────


def job_name(launch: str) -> str:
    """Return what the Job and the Secret of a launch are called."""
    return launch.lower()


def _labels(order: Order) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "mirai", LAUNCH: job_name(order.name)}


def _ids(job: Mapping[str, Any]) -> list[str]:
    return [f"{job['metadata']['name']}-{index}" for index in range(job["spec"]["completions"])]


def id_of(pod: Mapping[str, Any]) -> str:
    """Return the id of the handle that a pod is of."""
    about = pod["metadata"]
    return f"{about['labels'][LAUNCH]}-{about.get('annotations', {}).get(INDEX, '')}"


def state_of(pod: Mapping[str, Any]) -> State:
    """Return what the API says of a pod."""
    status = pod.get("status", {})
    phase = status.get("phase", "Unknown")
    containers: list[Mapping[str, Any]] = status.get("containerStatuses") or [{}]
    container = containers[0].get("state", {})
    is_going = "deletionTimestamp" in pod["metadata"]
    if phase == "Pending":
        return State(Phase.PENDING, _pending(status, container))
    if phase == "Running":
        return State(Phase.RUNNING, "Terminating" if is_going else phase)
    if phase not in ("Succeeded", "Failed"):
        return State(Phase.UNKNOWN, _told(phase, status.get("reason"), status.get("message")))
    end = container.get("terminated", {})
    if phase == "Succeeded":
        return State(Phase.ENDED, phase, end.get("exitCode"))
    lost = _condition(status, "DisruptionTarget", "True")
    reasons = [end.get("reason"), status.get("reason")]
    known = next((_REASONS[each] for each in reasons if each in _REASONS), None)
    if known is None:
        known = Phase.PREEMPTED if lost else Phase.CANCELLED if is_going else Phase.FAILED
    said = [status.get("reason"), status.get("message"), end.get("reason"), lost.get("message")]
    return State(known, _told(phase, *said), end.get("exitCode"))


def state_without_pod(handle: Handle, jobs: Mapping[str, Mapping[str, Any]]) -> State:
    """Return how a daemon stands whose pod is not there, given the Jobs by name."""
    job = jobs.get(job_name(handle.launch))
    if job is None:
        return State(Phase.CANCELLED, "its Job is gone")
    status = job.get("status", {})
    if int(handle.id.rpartition("-")[2]) in indexes(status.get("failedIndexes", "")):
        return State(Phase.CANCELLED, "its pod is gone")
    failed = _condition(status, "Failed", "True")
    if failed:
        return State(Phase.FAILED, _told("Failed", failed.get("reason"), failed.get("message")))
    suspended = _condition(status, "Suspended", "True")
    return State(Phase.PENDING, "Suspended" if suspended else "its pod is not made yet")


def indexes(text: str) -> set[int]:
    """Return the numbers in what a Job calls ``"1,3-5"``."""
    spans = [part.partition("-") for part in text.split(",") if part]
    return {n for first, _, last in spans for n in range(int(first), int(last or first) + 1)}


def _pending(status: Mapping[str, Any], container: Mapping[str, Any]) -> str:
    waiting = container.get("waiting", {})
    if waiting.get("reason") and waiting["reason"] not in WAITING:
        return _told("Pending", waiting["reason"], waiting.get("message"))
    unplaced = _condition(status, "PodScheduled", "False")
    if unplaced:
        return _told("Pending", unplaced.get("reason"), unplaced.get("message"))
    return _told("Pending", waiting.get("reason"))


def _condition(status: Mapping[str, Any], type: str, value: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = {}
    for each in status.get("conditions") or ():
        if each.get("type") == type and each.get("status") == value:
            found = each
    return found


def _told(phase: str, *said: str | None) -> str:
    reasons = "; ".join(dict.fromkeys(part for part in said if part))
    return f"{phase} ({reasons})" if reasons else phase


def merged(ours: Any, theirs: Any) -> Any:
    """Return ``ours`` with what ``theirs`` says in the place of it, as the class explains."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        both = {name: merged(ours[name], theirs[name]) for name in ours if name in theirs}
        return {**ours, **theirs, **both}
    if _are_named(ours) and _are_named(theirs):
        named = {each["name"]: each for each in ours}
        for each in theirs:
            named[each["name"]] = merged(named.get(each["name"], {}), each)
        return list(named.values())
    return theirs


def _are_named(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(each, Mapping) and "name" in each for each in value
    )
