"""Job scripts, read from golden files; options; and what schedulers say of jobs.

``MIRAI_GOLDEN=write`` writes the files anew: read what has changed before you keep it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mirai._errors import LaunchError
from mirai.launchers import (
    BatchLauncher,
    Handle,
    HTCondorLauncher,
    LSFLauncher,
    Order,
    PBSLauncher,
    Phase,
    SGELauncher,
    SlurmLauncher,
    State,
    TorqueLauncher,
    htcondor,
    lsf,
    pbs,
    sge,
    slurm,
    torque,
)
from mirai.launchers import _submit as submission
from mirai.launchers._batch import clock, from_shell, option

GOLDEN = Path(__file__).parent / "golden"
LAUNCHERS: list[type[BatchLauncher]] = [
    HTCondorLauncher,
    LSFLauncher,
    PBSLauncher,
    SGELauncher,
    SlurmLauncher,
    TorqueLauncher,
]
ALL: dict[str, Any] = {
    "cpus": 4,
    "memory": "8GiB",
    "walltime": "90m",
    "account": "our lab",
    "log_dir": "/shared/the logs",
    "prologue": ["module load python", "ulimit -c 0"],
    "epilogue": ['echo "it\'s over"'],
    "python": "/opt/py 3/bin/python",
    "max_array": 100,
}
OWN: dict[type[BatchLauncher], dict[str, Any]] = {
    HTCondorLauncher: {
        "gpus": 2,
        "requirements": '(Machine == "n1")',
        "directives_extra": ["priority = 5"],
        "directives_skip": ["universe"],
    },
    LSFLauncher: {
        "queue": "normal",
        "project": "p1",
        "app": "py",
        "gpus": "num=2:mode=shared",
        "resources": "select[type==X86_64]",
        "directives_extra": ["-B"],
        "directives_skip": ["-rn"],
    },
    PBSLauncher: {
        "queue": "workq",
        "project": "p1",
        "gpus": 2,
        "chunk": "host=n1",
        "directives_extra": ["-m n"],
        "directives_skip": ["-j"],
    },
    SGELauncher: {
        "queue": "all.q",
        "project": "p1",
        "parallel_environment": "threads",
        "gpus": 2,
        "memory_resource": "mem_free",
        "directives_extra": ["-m n"],
        "directives_skip": ["-r"],
    },
    SlurmLauncher: {
        "partition": "debug",
        "qos": "high",
        "constraint": "fast|big",
        "gpus": "a100:2",
        "directives_extra": ["--mail-type=FAIL"],
        "directives_skip": ["--ntasks"],
    },
    TorqueLauncher: {
        "queue": "batch",
        "gpus": 2,
        "constraint": "bigmem",
        "directives_extra": ["-m n"],
        "directives_skip": ["-j"],
    },
}
CASES: dict[str, tuple[int, bool]] = {"plain": (1, False), "array": (3, False), "all": (3, True)}


def name_of(launcher: type[BatchLauncher]) -> str:
    return launcher.__name__.removesuffix("Launcher").lower()


def rendered(launcher: type[BatchLauncher], case: str) -> str:
    count, everything = CASES[case]
    options = ALL | OWN[launcher] if everything else {"python": "python3"}
    return launcher(**options).job_script(count)


# ── the scripts ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_the_script_is_that_of_the_golden_file(launcher: type[BatchLauncher], case: str) -> None:
    path = GOLDEN / f"{name_of(launcher)}-{case}.sh"
    text = rendered(launcher, case)
    if os.environ.get("MIRAI_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_the_shell_can_read_the_script(launcher: type[BatchLauncher], case: str) -> None:
    text = "#!/bin/sh\n" + rendered(launcher, case).partition("#!/bin/sh\n")[2]
    subprocess.run(["/bin/sh", "-n"], input=text, text=True, check=True)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_a_script_tells_no_secret(launcher: type[BatchLauncher]) -> None:
    order = Order(3, "mirai-x", '{"secret": "SECRET"}', "/d", "/d/keys.json")
    assert "SECRET" not in launcher().script(order) + launcher().description(order) + repr(order)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_what_is_handed_out_is_what_the_jobs_are_called(launcher: type[BatchLauncher]) -> None:
    """The ids of an array, by the words of the scheduler when it takes one."""
    said, expected = {
        HTCondorLauncher: ("12.0 - 12.2\n", ["12.0", "12.1", "12.2"]),
        LSFLauncher: (
            "Job <12> is submitted to default queue <normal>.\n",
            ["12[1]", "12[2]", "12[3]"],
        ),
        PBSLauncher: ("12[].pbs01\n", ["12[1].pbs01", "12[2].pbs01", "12[3].pbs01"]),
        SGELauncher: ("12.1-3:1\n", ["12.1", "12.2", "12.3"]),
        SlurmLauncher: ("12;cluster\n", ["12_1", "12_2", "12_3"]),
        TorqueLauncher: ("12[].srv.example.org\n", [f"12[{n}].srv.example.org" for n in (1, 2, 3)]),
    }[launcher]
    match = launcher.id.search(f"a greeting of the site\n{said}")
    assert match is not None
    assert launcher().ids(match[1], 3) == expected
    assert len({launcher().log_path(Order(3, "m", "", "/d"), id) for id in expected}) == 3


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_nothing_is_asked_about_nothing(launcher: type[BatchLauncher], tmp_path: Path) -> None:
    assert launcher().poll([]) == {}
    launcher().terminate([])
    assert list(tmp_path.iterdir()) == []


# ── the options ──────────────────────────────────────────────────────────────────────────

WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"cpus": 0}, ValueError, "cpus must be positive"),
    ({"cpus": 1.5}, TypeError, "cpus must be an int"),
    ({"cpus": True}, TypeError, "cpus must be an int"),
    ({"max_array": 0}, ValueError, "max_array must be positive"),
    ({"memory": "lots"}, ValueError, "memory must be like"),
    ({"memory": 1.5}, TypeError, "memory must be a number of bytes"),
    ({"memory": -1}, ValueError, "memory must be positive"),
    ({"walltime": "soon"}, ValueError, "walltime must be like"),
    ({"walltime": 0}, ValueError, "walltime must be positive"),
    ({"account": "a\nrm -rf /"}, ValueError, "account must be one line"),
    ({"account": ["a"]}, TypeError, "account must be a str"),
    ({"python": "a\0b"}, ValueError, "python must be one line"),
    ({"log_dir": "/a\rb"}, ValueError, "log_dir must be one line"),
    ({"prologue": "module load x"}, TypeError, "prologue must be a list of lines"),
    ({"prologue": [1]}, TypeError, "prologue must hold lines"),
    ({"epilogue": ["a\nb"]}, ValueError, "epilogue must be one line"),
    ({"directives_extra": ["a\nb"]}, ValueError, "directives_extra must be one line"),
    ({"directives_skip": None}, TypeError, "directives_skip must be a list of lines"),
    ({"nosuch": 1}, TypeError, "nosuch"),
]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
@pytest.mark.parametrize(("options", "error", "words"), WRONG, ids=lambda part: str(part)[:40])
def test_an_option_that_is_wrong_is_refused(
    launcher: type[BatchLauncher], options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        launcher(**options)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_own_options_are_one_line_too(launcher: type[BatchLauncher]) -> None:
    for name in OWN[launcher]:
        if not name.startswith("directives"):
            with pytest.raises(ValueError, match=f"{name} must be one line"):
                launcher(**{name: "a\nb"})


@pytest.mark.parametrize(
    ("launcher", "path"),
    [
        (SlurmLauncher, "/logs/100%"),
        (SGELauncher, "/logs/$HOME"),
        (SGELauncher, "/logs/it's"),
        (SGELauncher, "/host:/logs"),
        (PBSLauncher, "/a,b"),
        (TorqueLauncher, "/host:/logs"),
        (LSFLauncher, "/logs/%J"),
        (HTCondorLauncher, "/logs\\"),
    ],
)
def test_a_path_that_would_mean_another_is_refused(
    launcher: type[BatchLauncher], path: str
) -> None:
    with pytest.raises(ValueError, match="in a path"):
        launcher(log_dir=path)


def test_a_word_of_a_directive() -> None:
    assert option("span") == "span"
    assert option(4) == "4"
    assert option("") == "''"
    assert option("our lab") == "'our lab'"
    assert option("it's") == '"it\'s"'
    assert option("select[a]; rm") == "'select[a]; rm'"
    with pytest.raises(ValueError, match="-q cannot be told to this scheduler"):
        option("a'b\"c", name="-q")
    with pytest.raises(ValueError, match="cannot be told"):
        option("it's", nested=False)


def test_times_and_exit_codes() -> None:
    assert clock(26 * 3600 + 184) == "26:03:04"
    assert clock(59) == "0:00:59"
    assert [from_shell(code) for code in (0, 1, 128, 130, 137, 255)] == [0, 1, 128, -2, -9, 255]


def test_memory_is_shared_out_over_slots_of_grid_engine() -> None:
    script = SGELauncher(memory="1000MiB", cpus=3).job_script()
    assert "#$ -l h_vmem=334M\n" in script


def test_an_argument_of_htcondor_means_just_what_it_says() -> None:
    order = Order(1, "mirai-x", "", "/tmp/a $(x) \"b\" 'c'", "/k")
    text = HTCondorLauncher(account="$(a)").description(order)
    assert """arguments = "'/tmp/a $(DOLLAR)(x) ""b"" ''c''/mirai-x.sh'"\n""" in text
    assert "accounting_group = $(DOLLAR)(a)\n" in text


# ── what they say ────────────────────────────────────────────────────────────────────────

PARSERS = [
    htcondor.parse_jobs,
    lsf.parse_jobs,
    pbs.parse_queue,
    sge.parse_queue,
    SGELauncher().parse_account,
    slurm.parse_jobs,
    slurm.parse_queue,
    torque.parse_queue,
]
GARBAGE = [
    "",
    "\n",
    "{",
    "[]",
    "{}",
    "null",
    '"text"',
    "[1, 2]",
    '{"Jobs": 3}',
    '{"Jobs": {"1.s": 3}}',
    '{"RECORDS": [1]}',
    '{"RECORDS": [{"JOBID": "1"}]}',
    '[{"ClusterId": 1}]',
    "<a>",
    "<a/>",
    "<Data><Job/></Data>",
    "<job_info><job_list/></job_info>",
    "|||",
    "\0\0",
    "squeue: error: Unable to contact slurm controller",
]


@pytest.mark.parametrize("parse", PARSERS, ids=lambda parse: f"{parse.__module__}.{parse.__name__}")
@pytest.mark.parametrize("text", GARBAGE)
def test_garbage_tells_nothing(parse: Any, text: str) -> None:
    assert parse(text) == {}


def phases(states: dict[str, State]) -> dict[str, Phase]:
    return {id: state.phase for id, state in states.items()}


def test_squeue() -> None:
    text = "7_1|RUNNING|None\n7_2|PENDING|Resources\n8|TIMEOUT|TimeLimit\n9|WEIRD|x\n"
    assert slurm.parse_queue(text) == {
        "7_1": State(Phase.RUNNING, "RUNNING"),
        "7_2": State(Phase.PENDING, "PENDING (Resources)"),
        "8": State(Phase.TIMEOUT, "TIMEOUT (TimeLimit)"),
        "9": State(Phase.UNKNOWN, "WEIRD (x)"),
    }


def test_scontrol() -> None:
    text = (
        "JobId=9 ArrayJobId=7 ArrayTaskId=1-2 JobName=m JobState=FAILED Reason=NonZeroExitCode"
        " ExitCode=7:0 RunTime=00:00:01\n"
        "JobId=10 JobName=m JobState=OUT_OF_MEMORY Reason=OutOfMemory ExitCode=0:9\n"
        "slurm_load_jobs error: Invalid job id specified\n"
    )
    failed = State(Phase.FAILED, "FAILED (NonZeroExitCode)", 7)
    assert slurm.parse_jobs(text) == {
        "9": failed,
        "7_1": failed,
        "7_2": failed,
        "10": State(Phase.MEMORY, "OUT_OF_MEMORY (OutOfMemory)", -9),
    }


def test_qstat_of_grid_engine() -> None:
    def job(id: int, state: str, tasks: str = "") -> str:
        more = f"<tasks>{tasks}</tasks>" if tasks else ""
        return (
            f'<job_list state="x"><JB_job_number>{id}</JB_job_number><JB_name>m</JB_name>'
            f"<state>{state}</state><slots>1</slots>{more}</job_list>"
        )

    text = (
        "<?xml version='1.0'?><job_info xmlns:xsd=\"http://example.org/qstat.xsd\"><queue_info>"
        f"{job(7, 'r', '1')}{job(8, 'dr')}</queue_info><job_info>"
        f"{job(7, 'qw', '2-4:2,7')}{job(9, 'Eqw')}{job(10, 'hqw')}</job_info></job_info>"
    )
    assert sge.parse_queue(text) == {
        "7.1": State(Phase.RUNNING, "r"),
        "8": State(Phase.RUNNING, "dr"),
        "7.2": State(Phase.PENDING, "qw"),
        "7.4": State(Phase.PENDING, "qw"),
        "7.7": State(Phase.PENDING, "qw"),
        "9": State(Phase.FAILED, "Eqw"),
        "10": State(Phase.PENDING, "hqw"),
    }
    said = "job_name: m\nerror reason          1:      11/21/2026 [0:1]: error: can't chdir to /x\n"
    assert sge.parse_error(said) == ": 11/21/2026 [0:1]: error: can't chdir to /x"
    assert sge.parse_error("nothing") == ""


def account(failed: str, status: str, wallclock: str, maxvmem: str, task: str) -> str:
    return (
        f"{'=' * 62}\nqname        all.q               \njobnumber    7                   \n"
        f"taskid       {task}\nfailed       {failed}\nexit_status  {status}\n"
        f"ru_wallclock {wallclock}\nmaxvmem      {maxvmem}\n"
    )


def test_qacct() -> None:
    limit, killed = (
        "37  : qmaster enforced h_rt, h_cpu, or h_vmem limit",
        "100 : assumedly after job",
    )
    nine = "137                  (Killed)"
    text = (
        account("0    ", "0", "9s", "1.000MB", "1")
        + account("0    ", "7", "9s", "1.000MB", "2")
        + account(limit, nine, "60s", "1.000MB", "3")
        + account(killed, nine, "3s", "1.000GB", "4")
        + account(killed, nine, "3s", "1.000MB", "5")
        + account("25  : rescheduling", "0", "3s", "1.000MB", "6")
        + account("26  : opening input/output file", "0", "0s", "0.000B", "7")
        + account(limit, nine, "3s", "1.000MB", "8")
    )
    told = SGELauncher(walltime=60, memory="1GiB").parse_account(text)
    assert phases(told) == {
        "7.1": Phase.ENDED,
        "7.2": Phase.FAILED,
        "7.3": Phase.TIMEOUT,
        "7.4": Phase.MEMORY,
        "7.5": Phase.CANCELLED,
        "7.6": Phase.PREEMPTED,
        "7.7": Phase.FAILED,
        "7.8": Phase.FAILED,
    }
    assert [told[f"7.{n}"].exit for n in (1, 2, 3)] == [0, 7, -9]
    assert told["7.7"].detail == (
        "failed 26 : opening input/output file, exit_status 0, ru_wallclock 0s, maxvmem 0.000B"
    )
    alone = SGELauncher().parse_account(account("0", "0", "1", "1", "undefined"))
    assert phases(alone) == {"7": Phase.ENDED}
    assert sge.amount("3.5KB") == 3584
    assert sge.amount("-") == 0


def test_qstat_of_pbs() -> None:
    text = """{
    "timestamp":1795292549, "pbs_version":"23.06.06", "pbs_server":"pbshost",
    "Jobs":{
        "0[].pbshost":{"job_state":"B", "comment":"Job Array Began"},
        "0[1].pbshost":{"job_state":"R", "comment":"Job run on (n1:ncpus=1)"},
        "0[2].pbshost":{"job_state":"Q"},
        "0[3].pbshost":{"job_state":"X", "substate":91, "Exit_status":0,
            "comment":"Job run and terminated by u@h"},
        "1.pbshost":{"job_state":"F", "substate":92, "Exit_status":0},
        "2.pbshost":{"job_state":"F", "substate":93, "Exit_status":7, "comment":"failed"},
        "3.pbshost":{"job_state":"F", "substate":93, "Exit_status":-29},
        "4.pbshost":{"job_state":"F", "substate":93, "Exit_status":-27},
        "5.pbshost":{"job_state":"F", "substate":93, "Exit_status":265},
        "6.pbshost":{"job_state":"F", "substate":91, "comment":"Can Never Run and terminated"},
        "7.pbshost":{"job_state":"F", "substate":93, "Exit_status":-11},
        "8.pbshost":{"job_state":"H", "comment":"held, after\tmany failed attempts"},
        "9.pbshost":{"job_state":"?"}
    }}"""
    told = pbs.parse_queue(text)
    assert phases(told) == {
        "0[].pbshost": Phase.RUNNING,
        "0[1].pbshost": Phase.RUNNING,
        "0[2].pbshost": Phase.PENDING,
        "0[3].pbshost": Phase.CANCELLED,
        "1.pbshost": Phase.ENDED,
        "2.pbshost": Phase.FAILED,
        "3.pbshost": Phase.TIMEOUT,
        "4.pbshost": Phase.MEMORY,
        "5.pbshost": Phase.FAILED,
        "6.pbshost": Phase.CANCELLED,
        "7.pbshost": Phase.PREEMPTED,
        "8.pbshost": Phase.PENDING,
        "9.pbshost": Phase.UNKNOWN,
    }
    assert [told[f"{n}.pbshost"].exit for n in (1, 2, 3, 5)] == [0, 7, None, -9]
    assert told["2.pbshost"].detail == "F: failed; exit status 7"


def test_qstat_of_torque() -> None:
    def job(id: str, state: str, more: str = "") -> str:
        return f"<Job><Job_Id>{id}</Job_Id><job_state>{state}</job_state>{more}</Job>"

    text = (
        "<Data>"
        + job("7[1].srv", "R")
        + job("7[2].srv", "Q", "<comment>Not enough nodes</comment>")
        + job("8.srv", "C", "<exit_status>0</exit_status>")
        + job("9.srv", "C", "<exit_status>-11</exit_status>")
        + job("10.srv", "C", "<exit_status>-10</exit_status>")
        + job("11.srv", "C", "<exit_status>271</exit_status>")
        + job("12.srv", "C", "<exit_status>1</exit_status>")
        + job("13.srv", "C")
        + job("14.srv", "C", "<exit_status>-3</exit_status>")
        + job("15.srv", "?")
        + "</Data>"
    )
    told = torque.parse_queue(text)
    assert list(phases(told).values()) == [
        Phase.RUNNING,
        Phase.PENDING,
        Phase.ENDED,
        Phase.TIMEOUT,
        Phase.MEMORY,
        Phase.CANCELLED,
        Phase.FAILED,
        Phase.CANCELLED,
        Phase.PREEMPTED,
        Phase.UNKNOWN,
    ]
    assert told["7[2].srv"].detail == "Q: Not enough nodes"
    assert told["11.srv"].exit == -15


def test_bjobs() -> None:
    def job(id: str, index: str, stat: str, code: str = "", why: str = "", waits: str = "") -> str:
        return (
            f'{{"JOBID":"{id}","JOBINDEX":"{index}","STAT":"{stat}","EXIT_CODE":"{code}",'
            f'"EXIT_REASON":"{why}","PEND_REASON":"{waits}"}}'
        )

    records = ",".join(
        [
            job("7", "1", "RUN"),
            job("7", "2", "PEND", waits="New job is waiting for scheduling;"),
            job("7[3]", "3", "DONE"),
            job("8", "0", "EXIT", "7"),
            job("9", "0", "EXIT", "140", "TERM_RUNLIMIT: job killed after reaching the limit"),
            job("10", "0", "EXIT", "137", "TERM_MEMLIMIT: job killed"),
            job("11", "0", "EXIT", "130", "TERM_OWNER: job killed by owner"),
            job("12", "0", "EXIT", "137", "TERM_PREEMPT: job killed after preemption"),
            job("13", "-", "UNKWN"),
            '{"JOBID":"99","ERROR":"Job <99> is not found"}',
        ]
    )
    told = lsf.parse_jobs(f'{{"COMMAND":"bjobs","JOBS":9,"RECORDS":[{records}]}}')
    assert phases(told) == {
        "7[1]": Phase.RUNNING,
        "7[2]": Phase.PENDING,
        "7[3]": Phase.ENDED,
        "8": Phase.FAILED,
        "9": Phase.TIMEOUT,
        "10": Phase.MEMORY,
        "11": Phase.CANCELLED,
        "12": Phase.PREEMPTED,
        "13": Phase.UNKNOWN,
    }
    assert str(told["7[2]"]) == "pending: PEND (New job is waiting for scheduling)"
    assert [told[id].exit for id in ("8", "9", "10", "7[1]")] == [7, -12, -9, None]


def test_condor() -> None:
    by_itself = 'The job attribute PeriodicRemove expression \\"x\\" evaluated to TRUE'
    text = f"""
[
{{ "ClusterId": 7, "ProcId": 0, "JobStatus": 2 }},
{{ "ClusterId": 7, "ProcId": 1, "JobStatus": 1 }},
{{ "ClusterId": 8, "ProcId": 0, "JobStatus": 5, "HoldReason": "out of memory",
   "HoldReasonCode": 34 }}
]
[
{{ "ClusterId": 9, "ProcId": 0, "JobStatus": 4, "ExitCode": 0, "ExitBySignal": false }},
{{ "ClusterId": 9, "ProcId": 1, "JobStatus": 4, "ExitCode": 3, "ExitBySignal": false }},
{{ "ClusterId": 9, "ProcId": 2, "JobStatus": 4, "ExitSignal": 9, "ExitBySignal": true }},
{{ "ClusterId": 10, "ProcId": 0, "JobStatus": 3, "RemoveReason": "via condor_rm (by user u)" }},
{{ "ClusterId": 10, "ProcId": 1, "JobStatus": 3, "LastJobStatus": 2,
   "RemoveReason": "{by_itself}" }},
{{ "ClusterId": 10, "ProcId": 2, "JobStatus": 3, "LastJobStatus": 1,
   "RemoveReason": "{by_itself}" }},
{{ "ClusterId": 10, "ProcId": 3, "JobStatus": 3, "LastJobStatus": 5, "HoldReasonCode": 46,
   "RemoveReason": "{by_itself}" }}
]
"""
    told = htcondor.parse_jobs(text)
    assert phases(told) == {
        "7.0": Phase.RUNNING,
        "7.1": Phase.PENDING,
        "8.0": Phase.MEMORY,
        "9.0": Phase.ENDED,
        "9.1": Phase.FAILED,
        "9.2": Phase.FAILED,
        "10.0": Phase.CANCELLED,
        "10.1": Phase.TIMEOUT,
        "10.2": Phase.PREEMPTED,
        "10.3": Phase.TIMEOUT,
    }
    assert [told[id].exit for id in ("9.0", "9.1", "9.2")] == [0, 3, -9]
    assert str(told["8.0"]) == "out of memory: held (out of memory)"


# ── the programs ─────────────────────────────────────────────────────────────────────────


def test_ending_jobs_that_are_over_is_no_error() -> None:
    end = submission.end
    end(["sh", "-c", "echo it is gone >&2; exit 1", "sh"], ["7", "8"], "is gone")
    end(["true"], ["7"])
    with pytest.raises(LaunchError, match="no permission"):
        end(["sh", "-c", "echo is gone; echo no permission; exit 1", "sh"], ["7"], "is gone")
    with pytest.raises(LaunchError, match="said: nothing"):
        end(["false"], ["7"], "is gone")


def test_many_jobs_are_ended_by_several_calls(tmp_path: Path) -> None:
    file = tmp_path / "calls"
    script = f'echo "$#" >>"{file}"; exit 1'
    with pytest.raises(LaunchError, match="said: nothing"):
        submission.end(["sh", "-c", script, "sh"], [str(n) for n in range(1_200)])
    assert file.read_text().split() == ["500", "500", "200"]


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=name_of)
def test_a_scheduler_that_is_not_installed(
    launcher: type[BatchLauncher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program = launcher.submission[0]
    with pytest.raises(LaunchError, match=f"`{program}` cannot be run: No such file") as caught:
        launcher().launch(Order(1, "mirai-x", "", str(tmp_path), "/k"))
    assert "could not be ended" in caught.value.__notes__[0]
    with pytest.raises(LaunchError, match="cannot be run"):
        launcher().poll([Handle("1", "mirai-x")])
    with pytest.raises(LaunchError, match="cannot be run"):
        launcher().terminate([Handle("1", "mirai-x")])


def test_a_walltime_of_weeks_is_told_in_plain_digits() -> None:
    assert " --wall-time 1209540s " in SlurmLauncher(walltime="14d").job_script()
