"""AWS Batch: daemons as jobs, in arrays, asked by boto3.

The keys lie in AWS Secrets Manager, one secret a launch, which the role of the jobs must be
allowed to read (``secretsmanager:GetSecretValue`` of ``mirai/*``); neither the command nor the
environment of a job holds them, as anybody who may describe jobs sees these.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mirai._launched import AWS_SECRET
from mirai._limits import seconds
from mirai._pool_options import check_env, size_in_bytes
from mirai.launchers import _aws_secret
from mirai.launchers._aws import Service, service
from mirai.launchers._base import (
    Handle,
    Launcher,
    Order,
    Phase,
    State,
    check_positive,
    check_words,
    states,
)
from mirai.launchers._command import daemon_argv, wall_time

MAX_ARRAY = 10_000
"""How many jobs an array has at most; at least it has two."""
MAX_ASKED = 100
"""How many jobs one question is about at most."""
MIN_WALLTIME = 60
"""The shortest time that a job can be given, in seconds."""
LOGS = "/aws/batch/job"
"""Where the output of jobs goes, unless their definition says otherwise."""
REASON = "mirai: the pool has no more use for it"
"""Why a job is terminated: AWS Batch tells it to whoever asks."""

_PHASES = {
    "SUBMITTED": Phase.PENDING,
    "PENDING": Phase.PENDING,
    "RUNNABLE": Phase.PENDING,
    "STARTING": Phase.PENDING,
    "RUNNING": Phase.RUNNING,
    "SUCCEEDED": Phase.ENDED,
    "FAILED": Phase.FAILED,
}
_REASONS = (
    (REASON, Phase.CANCELLED),
    ("OutOfMemory", Phase.MEMORY),
    ("attempt duration exceeded timeout", Phase.TIMEOUT),
    ("Host EC2", Phase.PREEMPTED),  # "Host EC2 (instance i-…) terminated."
    ("Spot", Phase.PREEMPTED),  # "Your Spot Task was interrupted."
)
"""What a reason says -> how a job has ended that has failed; the first that fits."""
_ALIVE = ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING")


@dataclass(frozen=True, kw_only=True)
class AWSBatchLauncher(Launcher):
    """Daemons as jobs of AWS Batch, on containers that have Python, this package and boto3.

    ``queue`` and ``definition`` are a job queue and a job definition, by name or ARN; a definition
    for containers of ECS or Fargate, not for EKS.  What follows is taken from the definition where
    it is not given: ``cpus``, ``memory`` in bytes or like ``"2GiB"``, ``gpus``, and ``walltime``
    in seconds or like ``"1h"``: shortly before it is over, a daemon takes no more tasks.
    ``parameters`` are values for the definition's placeholders, ``environment`` is added to the
    containers', and ``tags`` are put on the jobs; ``share_identifier`` and
    ``scheduling_priority`` are for queues with a scheduling policy.

    ``python`` is the interpreter in the container.  ``region`` and ``endpoint_url`` say where AWS
    is (all that is asked of it), unless boto3 finds that elsewhere; credentials it always does.
    ``log_group`` is where the definition has the jobs' output go.

    Raises TypeError or ValueError.
    """

    queue: str = field(kw_only=False)
    definition: str = field(kw_only=False)
    cpus: float | None = None
    memory: int | str | None = None
    gpus: int | None = None
    walltime: float | str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    share_identifier: str | None = None
    scheduling_priority: int | None = None
    region: str | None = None
    endpoint_url: str | None = None
    log_group: str = LOGS
    python: str = "python3"

    patience: ClassVar[float] = 1_800.0
    interval: ClassVar[float] = 15.0

    def __post_init__(self) -> None:
        check_words(self, "queue", "definition", "python")
        check_positive(self, "cpus", "gpus")
        for each in (self.environment, self.parameters, self.tags):
            check_env(each)
        self._memory()
        if (whole := self.walltime_seconds()) is not None and whole < MIN_WALLTIME:
            raise ValueError(f"walltime must be {MIN_WALLTIME} seconds or more: {self.walltime}")

    # ── requests ─────────────────────────────────────────────────────────────────────────

    def walltime_seconds(self) -> int | None:
        """Return the time of each daemon, in whole seconds."""
        return None if self.walltime is None else round(seconds("walltime", self.walltime))

    def _memory(self) -> int | None:
        """Return the memory of each daemon, in MiB."""
        return None if self.memory is None else -(-size_in_bytes("memory", self.memory) // 2**20)

    def request(self, order: Order, region: str | None = None) -> dict[str, Any]:
        """Return what is asked of ``SubmitJob`` for a launch of an array at most: no secret.

        ``region`` is where the daemons find their secret.
        """
        whole = self.walltime_seconds()
        wanted = {
            "jobName": order.name,
            "jobQueue": self.queue,
            "jobDefinition": self.definition,
            "arrayProperties": {"size": order.count} if order.count > 1 else None,
            "containerOverrides": self._overrides(order, region),
            "retryStrategy": {"attempts": 1},  # the pool itself replaces what has ended
            "timeout": None if whole is None else {"attemptDurationSeconds": whole},
            "parameters": dict(self.parameters) or None,
            "tags": dict(self.tags) or None,
            "propagateTags": True if self.tags else None,
            "shareIdentifier": self.share_identifier,
            "schedulingPriorityOverride": self.scheduling_priority,
        }
        return {name: value for name, value in wanted.items() if value is not None}

    def _overrides(self, order: Order, region: str | None) -> dict[str, Any]:
        command = daemon_argv(f"{AWS_SECRET}{_aws_secret.name_of(order.name)}", self.python)
        if (whole := self.walltime_seconds()) is not None:
            command += wall_time(whole)
        found = {"AWS_DEFAULT_REGION": region, "AWS_ENDPOINT_URL": self.endpoint_url}
        variables = {name: value for name, value in found.items() if value}
        variables.update(self.environment)
        amounts = {"VCPU": self.cpus, "MEMORY": self._memory(), "GPU": self.gpus}
        return {
            "command": command,
            "environment": [{"name": name, "value": value} for name, value in variables.items()],
            "resourceRequirements": [
                {"type": type, "value": f"{amount:.10g}"}
                for type, amount in amounts.items()
                if amount is not None
            ],
        }

    def _batch(self) -> Any:
        return service("batch", self.region, self.endpoint_url)

    def _secrets(self) -> Any:
        return service(_aws_secret.SERVICE, self.region, self.endpoint_url)

    # ── launching ────────────────────────────────────────────────────────────────────────

    def launch(self, order: Order) -> list[Handle]:
        """Submit one job, or arrays of ``MAX_ARRAY`` jobs at most."""
        with self._secrets() as secrets:
            _aws_secret.write(secrets, order.name, order.keys)
        try:
            with self._batch() as batch:
                return [
                    Handle(id, order.name)
                    for size in sizes(order.count)
                    for id in self._submit(batch, dataclasses.replace(order, count=size))
                ]
        except BaseException:
            self.recall(order.name)  # all of them, or none
            raise

    def _submit(self, batch: Service, order: Order) -> list[str]:
        id = batch.ask("submit_job", **self.request(order, batch.region))["jobId"]
        return [id] if order.count == 1 else [f"{id}:{index}" for index in range(order.count)]

    # ── and after that ───────────────────────────────────────────────────────────────────

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask about a hundred jobs at a time."""
        with self._batch() as batch:
            jobs = _described(batch, [handle.id for handle in handles])
            return states(handles, {id: state_of(job) for id, job in jobs.items()})

    def terminate(self, handles: Sequence[Handle]) -> None:
        """Terminate them; remove the keys of a launch of which nothing is left."""
        with self._batch() as batch:
            _terminate(batch, [handle.id for handle in handles])
            for name in sorted({handle.launch for handle in handles}):
                if not any(_alive(batch, self._jobs(batch, name))):
                    self._remove_keys(name)

    def recall(self, name: str) -> None:
        """Terminate all jobs of this name, and remove their keys."""
        try:
            with self._batch() as batch:
                for id in self._jobs(batch, name):
                    batch.ask("terminate_job", jobId=id, reason=REASON)
        finally:
            self._remove_keys(name)

    def _remove_keys(self, name: str) -> None:
        with self._secrets() as secrets:
            _aws_secret.remove(secrets, name)

    def _jobs(self, batch: Service, name: str) -> list[str]:
        """Return the ids of the jobs and arrays of a launch that have not ended."""
        wanted = [{"name": "JOB_NAME", "values": [name]}]
        jobs = batch.pages("list_jobs", "jobSummaryList", jobQueue=self.queue, filters=wanted)
        return [job["jobId"] for job in jobs if job["status"] in _ALIVE]

    def log(self, handle: Handle, size: int = 4_096) -> str:
        """Return the last of what a job has printed, from CloudWatch."""
        with self._batch() as batch:
            job = _described(batch, [handle.id]).get(handle.id, {})
        stream = job.get("container", {}).get("logStreamName")
        if not stream:
            return ""
        with service("logs", self.region, self.endpoint_url) as logs:
            where = {"logGroupName": self.log_group, "logStreamName": stream}
            found = logs.ask("get_log_events", **where, startFromHead=False)["events"]
        text = "\n".join(event["message"] for event in found)
        return text.encode()[-size:].decode(errors="replace").strip()


def sizes(count: int) -> list[int]:
    """Return the sizes of the arrays that make so many jobs; one of size 1 is a job."""
    whole, rest = divmod(count, MAX_ARRAY)
    return [MAX_ARRAY] * whole + [rest] * bool(rest)


def state_of(job: Mapping[str, Any]) -> State:
    """Return what ``DescribeJobs`` says of a job."""
    container = job.get("container", {})
    said = (job.get("statusReason"), container.get("reason"))
    reason = "; ".join(dict.fromkeys(part for part in said if part))
    phase = _PHASES.get(job["status"], Phase.UNKNOWN)
    exit = container.get("exitCode") if phase.is_over else None
    if phase is Phase.FAILED:
        fits = (phase for text, phase in _REASONS if text in reason)
        is_ended = job.get("isTerminated") or job.get("isCancelled")
        phase = next(fits, Phase.CANCELLED if is_ended else Phase.FAILED)
    return State(phase, f"{job['status']} ({reason})" if reason else job["status"], exit)


def _described(batch: Service, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for first in range(0, len(ids), MAX_ASKED):
        for job in batch.ask("describe_jobs", jobs=ids[first : first + MAX_ASKED])["jobs"]:
            found[job["jobId"]] = job
    return found


def _terminate(batch: Service, ids: Sequence[str]) -> None:
    """Terminate jobs; an array all of which is meant, by its own id."""
    children: dict[str, set[str]] = {}
    for id in ids:
        children.setdefault(id.partition(":")[0], set()).add(id)
    arrays = _described(batch, [id for id, few in children.items() if few != {id}])
    for id, few in children.items():
        size = arrays.get(id, {}).get("arrayProperties", {}).get("size")
        for each in [id] if len(few) == size else sorted(few):
            batch.ask("terminate_job", jobId=each, reason=REASON)


def _alive(batch: Service, ids: Iterable[str]) -> Iterator[str]:
    """Yield those of these jobs, and of the children of these arrays, that are not to end."""
    for id, job in _described(batch, list(ids)).items():
        children = [id]
        if "size" in job.get("arrayProperties", {}) and not _is_to_end(job):
            children = [
                child["jobId"]
                for status in _ALIVE
                for child in batch.pages(
                    "list_jobs", "jobSummaryList", arrayJobId=id, jobStatus=status
                )
            ]
        for child, found in _described(batch, children).items():
            if found["status"] in _ALIVE and not _is_to_end(found):
                yield child


def _is_to_end(job: Mapping[str, Any]) -> bool:
    return bool(job.get("isTerminated")) or job.get("statusReason") == REASON
