"""What Slurm's programs answer, where more than one of them is asked: stand-ins on PATH."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mirai.launchers import Handle, Phase, SlurmLauncher

Say = Callable[[str, str], None]


@pytest.fixture
def say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Say:
    """Have a program answer with a text, whatever it is asked."""

    def put(program: str, text: str) -> None:
        path = tmp_path / program
        path.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\n")
        path.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return put


def test_an_array_that_was_cancelled_before_it_began_is_told_as_one(say: Say) -> None:
    say("squeue", "103|CANCELLED|None")
    say("scontrol", "JobId=103 ArrayJobId=103 ArrayTaskId=4294967294 JobState=CANCELLED")
    handles = [Handle(f"103_{index}", "mirai-x") for index in (1, 2)]
    phases = {state.phase for state in SlurmLauncher().poll(handles).values()}
    assert phases == {Phase.CANCELLED}


def test_what_is_told_of_one_of_an_array_is_not_taken_for_the_others(say: Say) -> None:
    say("squeue", "103_1|RUNNING|None")
    say("scontrol", "")
    one, two = handles = [Handle(f"103_{index}", "mirai-x") for index in (1, 2)]
    states = SlurmLauncher().poll(handles)
    assert (states[one].phase, states[two].phase) == (Phase.RUNNING, Phase.UNKNOWN)
