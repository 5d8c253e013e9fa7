"""A small API server of Kubernetes on loopback, whose pods are processes of this machine.

usage: fake_kubernetes.py STATE_DIR     (prints its port; ends its pods when standard input ends)

It knows indexed Jobs, pods and Secrets of one namespace, and validates what it is given by the
models of the official client: a field that these do not know is refused.  Of a pod there is only
the command, the environment, its time and the exit code.  An image that begins with "missing" can't
be pulled, and a node selector fits no node.  There is no scheduling, no RBAC and no eviction, and
a pod that is deleted has the grace of two seconds.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from kubernetes import client

STATE = sys.argv[1]
GRACE = 2.0
INDEX = "batch.kubernetes.io/job-completion-index"
guard = threading.RLock()
jobs: dict[str, dict[str, Any]] = {}
pods: dict[str, dict[str, Any]] = {}
secrets: dict[str, dict[str, Any]] = {}
processes: dict[str, subprocess.Popen[bytes]] = {}
api = client.ApiClient()


class RefusedError(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": code,
        }


def validate(body: dict[str, Any], model: str) -> None:
    """Raise RefusedError for what the official client's model does not know, or wants."""
    try:
        made = api._ApiClient__deserialize(body, model)  # type: ignore[attr-defined]
    except (ValueError, TypeError, AttributeError) as error:
        raise RefusedError(422, "Invalid", str(error)) from None
    if api.sanitize_for_serialization(made) != without_nothing(body):
        raise RefusedError(400, "BadRequest", f"strict decoding error of {model}: unknown field")


def without_nothing(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without_nothing(v) for k, v in value.items() if v is not None}
    return [without_nothing(each) for each in value] if isinstance(value, list) else value


def made(kept: dict[str, dict[str, Any]], kind: str, body: dict[str, Any]) -> dict[str, Any]:
    name = body["metadata"]["name"]
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        raise RefusedError(422, "Invalid", f"metadata.name: Invalid value: {name!r}")
    if name in kept:
        raise RefusedError(409, "AlreadyExists", f'{kind} "{name}" already exists')
    body["metadata"] |= {"uid": str(uuid.uuid4()), "namespace": "default"}
    kept[name] = body
    return body


def create_job(body: dict[str, Any]) -> dict[str, Any]:
    validate(body, "V1Job")
    spec = body["spec"]
    assert spec["completionMode"] == "Indexed"
    assert spec["backoffLimitPerIndex"] == 0, "the end of one would be that of all"
    made(jobs, "jobs.batch", body)["status"] = {}
    for index in range(spec["completions"]):
        create_pod(body, index)
    return body


def create_pod(job: dict[str, Any], index: int) -> None:
    template = job["spec"]["template"]
    name = f"{job['metadata']['name']}-{index}-{uuid.uuid4().hex[:5]}"
    annotations = template["metadata"].get("annotations", {}) | {INDEX: str(index)}
    pod = {
        "metadata": {
            "name": name,
            "labels": dict(template["metadata"].get("labels", {})),
            "annotations": annotations,
            "ownerReferences": [{"uid": job["metadata"]["uid"]}],
        },
        "spec": template["spec"],
        "status": {"phase": "Pending"},
    }
    pods[name] = pod
    start(pod)


def start(pod: dict[str, Any]) -> None:
    """Start a pod that waits, where nothing is missing any more."""
    spec, name = pod["spec"], pod["metadata"]["name"]
    container = spec["containers"][0]
    if spec.get("nodeSelector"):
        unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
        unplaced["message"] = "0/1 nodes are available: 1 node(s) didn't match node selector."
        pod["status"]["conditions"] = [unplaced]
        return
    if container["image"].startswith("missing"):
        waits(pod, "ImagePullBackOff", f'Back-off pulling image "{container["image"]}"')
        return
    try:
        env = environment(container, pod)
    except KeyError as error:
        waits(pod, "CreateContainerConfigError", f"secret {error} not found")
        return
    mine = {k: v for k, v in os.environ.items() if k != "KUBECONFIG"}
    with open(os.path.join(STATE, f"{name}.log"), "wb") as log:
        process = subprocess.Popen(
            container["command"],
            env=mine | env,
            cwd=STATE,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    processes[name] = process
    pod["status"] = {"phase": "Running", "containerStatuses": [{"state": {"running": {}}}]}
    if limit := spec.get("activeDeadlineSeconds"):
        pod["deadline"] = time.monotonic() + limit


def waits(pod: dict[str, Any], reason: str, message: str) -> None:
    waiting = {"reason": reason, "message": message}
    pod["status"]["containerStatuses"] = [{"state": {"waiting": waiting}}]


def environment(container: dict[str, Any], pod: dict[str, Any]) -> dict[str, str]:
    """Do as a kubelet does: only what stands before can be named by $(NAME)."""
    added = {"name": "JOB_COMPLETION_INDEX", "value": pod["metadata"]["annotations"][INDEX]}
    env: dict[str, str] = {}
    for each in [*container.get("env", []), added]:
        origin = each.get("valueFrom", {})
        if "secretKeyRef" in origin:
            wanted = origin["secretKeyRef"]
            value = secrets[wanted["name"]]["stringData"][wanted["key"]]
        elif "fieldRef" in origin:
            path = re.fullmatch(r"metadata\.annotations\['(.*)'\]", origin["fieldRef"]["fieldPath"])
            assert path is not None
            value = pod["metadata"]["annotations"][path[1]]
        else:
            value = re.sub(r"\$\((\w+)\)", lambda match: env.get(match[1], match[0]), each["value"])
        env[each["name"]] = value
    return env


def tick() -> None:
    """Bring the pods up to date."""
    for name, pod in [*pods.items()]:
        process = processes.get(name)
        if process is None:
            if "deletionTimestamp" in pod["metadata"]:
                gone(name)
            else:
                start(pod)
            continue
        code = process.poll()
        if code is None:
            if time.monotonic() > pod.get("deadline", float("inf")):
                del pod["deadline"]
                pod["late"] = True
                stop(process)
        elif pod["status"]["phase"] == "Running":
            end = {"exitCode": 128 - code if code < 0 else code}
            end["reason"] = "Error" if code else "Completed"
            phase = "Failed" if code or "late" in pod else "Succeeded"
            pod["status"] = {
                "phase": phase,
                "containerStatuses": [{"state": {"terminated": end}}],
                **({"reason": "DeadlineExceeded"} if "late" in pod else {}),
            }
        if code is not None and "deletionTimestamp" in pod["metadata"]:
            gone(name)


def gone(name: str) -> None:
    """Forget a pod that was deleted; its Job counts it as failed."""
    pod = pods.pop(name)
    processes.pop(name, None)
    for job in jobs.values():
        if job["metadata"]["uid"] == pod["metadata"]["ownerReferences"][0]["uid"]:
            failed = [i for i in job["status"].get("failedIndexes", "").split(",") if i]
            failed.append(pod["metadata"]["annotations"][INDEX])
            job["status"]["failedIndexes"] = ",".join(sorted(failed, key=int))


def stop(process: subprocess.Popen[bytes]) -> None:
    def end() -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(process.pid, number)
                process.wait(GRACE)
                return
            except ProcessLookupError:
                return
            except subprocess.TimeoutExpired:
                continue

    threading.Thread(target=end).start()


def delete_pod(name: str) -> dict[str, Any]:
    pod = found(pods, "pods", name)
    pod["metadata"]["deletionTimestamp"] = "now"
    if name in processes:
        stop(processes[name])
    return pod


def delete_job(name: str) -> dict[str, Any]:
    job = found(jobs, "jobs.batch", name)
    uid = job["metadata"]["uid"]
    del jobs[name]
    for pod in pods.values():
        if pod["metadata"]["ownerReferences"][0]["uid"] == uid:
            delete_pod(pod["metadata"]["name"])
    for secret in [*secrets.values()]:
        owners = secret["metadata"].get("ownerReferences", [])
        if any(owner["uid"] == uid for owner in owners):
            del secrets[secret["metadata"]["name"]]
    return job


def delete_secret(name: str) -> dict[str, Any]:
    found(secrets, "secrets", name)
    return secrets.pop(name)


def create_secret(body: dict[str, Any]) -> dict[str, Any]:
    validate(body, "V1Secret")
    return made(secrets, "secrets", body)


def found(kept: dict[str, dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    if name not in kept:
        raise RefusedError(404, "NotFound", f'{kind} "{name}" not found')
    return kept[name]


def chosen(kept: dict[str, dict[str, Any]], query: dict[str, list[str]]) -> dict[str, Any]:
    """Return a page of those with a label, "key in (a,b)"."""
    match = re.fullmatch(r"(\S+) in \((.*)\)", query.get("labelSelector", [""])[0])
    items = [
        each
        for each in kept.values()
        if match is None or each["metadata"].get("labels", {}).get(match[1]) in match[2].split(",")
    ]
    first = int(query.get("continue", ["0"])[0])
    last = first + int(query.get("limit", ["1000"])[0])
    more = {"continue": str(last)} if last < len(items) else {}
    return {"kind": "List", "metadata": more, "items": items[first:last]}


KINDS = {
    "jobs": (jobs, create_job, delete_job, "jobs.batch"),
    "pods": (pods, None, delete_pod, "pods"),
    "secrets": (secrets, create_secret, delete_secret, "secrets"),
}
PATH = re.compile(
    r"/(?:api/v1|apis/batch/v1)/namespaces/(?P<space>[^/]+)/(?P<kind>jobs|pods|secrets)"
    r"(?:/(?P<name>[^/]+)(?P<log>/log)?)?"
)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(length) or "null")
        try:
            with guard:
                tick()
                answer = self.answer(body)
            self.reply(200, answer)
        except RefusedError as error:
            self.reply(error.code, error.status)
        except Exception as error:
            self.reply(500, {"message": repr(error)})

    do_GET = do_POST = do_DELETE = do_PATCH = do  # noqa: N815

    def answer(self, body: Any) -> Any:
        url = urlsplit(self.path)
        match = PATH.fullmatch(url.path)
        if match is None:
            raise RefusedError(404, "NotFound", "the server could not find the resource")
        if match["space"] != "default":
            raise RefusedError(404, "NotFound", f'namespaces "{match["space"]}" not found')
        kept, create, delete, kind = KINDS[match["kind"]]
        query, name = parse_qs(url.query), match["name"]
        if name is None:
            return create(body) if self.command == "POST" and create else chosen(kept, query)
        if self.command == "DELETE":
            if kind == "jobs.batch" and "Background" not in (query.get("propagationPolicy") or []):
                raise RefusedError(400, "BadRequest", "pods would be left behind")
            return delete(name)
        if self.command == "PATCH":
            validate(body, "V1Secret")
            found(kept, kind, name)["metadata"] |= body["metadata"]
        if match["log"]:
            return self.log_of(found(kept, kind, name))
        return found(kept, kind, name)

    def log_of(self, pod: dict[str, Any]) -> bytes:
        name = pod["metadata"]["name"]
        if name not in processes:
            raise RefusedError(400, "BadRequest", f'container in pod "{name}" is waiting to start')
        with open(os.path.join(STATE, f"{name}.log"), "rb") as log:
            return log.read()

    def reply(self, code: int, answer: Any) -> None:
        data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
server.daemon_threads = True
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_address[1], flush=True)
sys.stdin.read()
for process in processes.values():
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
