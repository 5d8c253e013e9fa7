"""What is asked of AWS Batch, and what it says: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirai.launchers import AWSBatchLauncher, Order, Phase, State
from mirai.launchers.aws_batch import REASON, sizes, state_of

ORDER = Order(1, "mirai-x", "SECRET", "/d")
PLAIN = AWSBatchLauncher(queue="q", definition="d")


def test_a_job_of_few_options() -> None:
    assert PLAIN.request(ORDER) == {
        "jobName": "mirai-x",
        "jobQueue": "q",
        "jobDefinition": "d",
        "containerOverrides": {
            "command": ["python3", "-P", "-m", "mirai", "daemon", "aws-secret:mirai/mirai-x"],
            "environment": [],
            "resourceRequirements": [],
        },
        "retryStrategy": {"attempts": 1},
    }


def test_an_array_of_all_options() -> None:
    launcher = AWSBatchLauncher(
        queue="q",
        definition="d:3",
        cpus=0.25,
        memory="2GiB",
        gpus=1,
        walltime="2h",
        environment={"A": "b"},
        parameters={"p": "1"},
        tags={"team": "x"},
        share_identifier="s",
        scheduling_priority=7,
        endpoint_url="http://localhost:1",
        python="py",
    )
    asked = launcher.request(Order(3, "mirai-x", "SECRET", "/d"), "eu-west-1")
    secret = "aws-secret:mirai/mirai-x"
    assert asked == {
        "jobName": "mirai-x",
        "jobQueue": "q",
        "jobDefinition": "d:3",
        "arrayProperties": {"size": 3},
        "containerOverrides": {
            "command": ["py", "-P", "-m", "mirai", "daemon", secret, "--wall-time", "7140s"],
            "environment": [
                {"name": "AWS_DEFAULT_REGION", "value": "eu-west-1"},
                {"name": "AWS_ENDPOINT_URL", "value": "http://localhost:1"},
                {"name": "A", "value": "b"},
            ],
            "resourceRequirements": [
                {"type": "VCPU", "value": "0.25"},
                {"type": "MEMORY", "value": "2048"},
                {"type": "GPU", "value": "1"},
            ],
        },
        "retryStrategy": {"attempts": 1},
        "timeout": {"attemptDurationSeconds": 7200},
        "parameters": {"p": "1"},
        "tags": {"team": "x"},
        "propagateTags": True,
        "shareIdentifier": "s",
        "schedulingPriorityOverride": 7,
    }
    assert "SECRET" not in json.dumps(asked)


@pytest.mark.parametrize(
    ("count", "arrays"),
    [
        (1, [1]),
        (2, [2]),
        (9_999, [9_999]),
        (10_000, [10_000]),
        (10_001, [10_000, 1]),
        (20_000, [10_000, 10_000]),
        (20_002, [10_000, 10_000, 2]),
    ],
)
def test_arrays_have_the_size_they_may(count: int, arrays: list[int]) -> None:
    assert sizes(count) == arrays


@pytest.mark.parametrize(
    ("job", "state"),
    [
        ({"status": "SUBMITTED"}, State(Phase.PENDING, "SUBMITTED")),
        (
            {"status": "RUNNABLE", "statusReason": "MISCONFIGURATION:X"},
            State(Phase.PENDING, "RUNNABLE (MISCONFIGURATION:X)"),
        ),
        ({"status": "STARTING"}, State(Phase.PENDING, "STARTING")),
        ({"status": "RUNNING", "container": {"exitCode": 0}}, State(Phase.RUNNING, "RUNNING")),
        (
            {"status": "SUCCEEDED", "container": {"exitCode": 0}},
            State(Phase.ENDED, "SUCCEEDED", 0),
        ),
        (
            {
                "status": "FAILED",
                "statusReason": "Essential container in task exited",
                "container": {
                    "exitCode": 137,
                    "reason": "OutOfMemoryError: Container killed due to memory usage",
                },
            },
            State(
                Phase.MEMORY,
                "FAILED (Essential container in task exited;"
                " OutOfMemoryError: Container killed due to memory usage)",
                137,
            ),
        ),
        (
            {"status": "FAILED", "statusReason": "Host EC2 (instance i-1) terminated."},
            State(Phase.PREEMPTED, "FAILED (Host EC2 (instance i-1) terminated.)"),
        ),
        (
            {"status": "FAILED", "statusReason": "Your Spot Task was interrupted."},
            State(Phase.PREEMPTED, "FAILED (Your Spot Task was interrupted.)"),
        ),
        (
            {"status": "FAILED", "statusReason": "Job attempt duration exceeded timeout"},
            State(Phase.TIMEOUT, "FAILED (Job attempt duration exceeded timeout)"),
        ),
        (
            {"status": "FAILED", "statusReason": REASON},
            State(Phase.CANCELLED, f"FAILED ({REASON})"),
        ),
        (
            {"status": "FAILED", "statusReason": "mine", "isTerminated": True},
            State(Phase.CANCELLED, "FAILED (mine)"),
        ),
        (
            {"status": "FAILED", "container": {"exitCode": 3}},
            State(Phase.FAILED, "FAILED", 3),
        ),
        ({"status": "NEW"}, State(Phase.UNKNOWN, "NEW")),
    ],
)
def test_what_it_says(job: dict[str, Any], state: State) -> None:
    assert state_of(job) == state


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"queue": ""}),
        (ValueError, {"cpus": 0}),
        (ValueError, {"gpus": -1}),
        (ValueError, {"memory": "much"}),
        (ValueError, {"walltime": 59}),
        (TypeError, {"environment": {"A": 1}}),
        (TypeError, {"tags": ["a"]}),
    ],
)
def test_bad_options_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        AWSBatchLauncher(**{"queue": "q", "definition": "d"} | options)
