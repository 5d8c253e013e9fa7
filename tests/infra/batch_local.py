"""moto's AWS Batch with one change: a job runs as a process of this host, not in a Docker container.

usage: batch_local.py PORT STATE_DIR    (start-batch.sh runs it; needs moto[batch,server])
The API, its states and its errors are moto's. Of a container there is only the command, the environment, AWS_BATCH_*
and the exit code; image, memory and vcpus are ignored. Where plain moto differs from AWS, three things are
put right: container.exitCode is given, terminating an array job ends its children, and an array job is FAILED when
all its children ended and one failed.
"""

# ruff: noqa
import os, signal, subprocess, sys, time
from datetime import datetime, timedelta

from moto.batch import models
from moto.batch.models import Job, JobStatus
from moto.core.utils import unix_time_millis

PORT, STATE = int(sys.argv[1]), sys.argv[2]
running = {}


def starttime(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rpartition(") ")[2].split()[19]


def end(p, grace=5.0):
    for sig, wait in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        try:
            os.killpg(p.pid, sig)
        except ProcessLookupError:
            return
        try:
            p.wait(wait)
        except subprocess.TimeoutExpired:
            continue
        return


def run(self):
    try:
        for state in (
            JobStatus.SUBMITTED,
            JobStatus.PENDING,
            JobStatus.RUNNABLE,
            JobStatus.STARTING,
        ):
            if state == JobStatus.PENDING and self.depends_on and not self._wait_for_dependencies():
                return
            self.advance()
            while self.status == state and not self.stop:
                time.sleep(0.05)
            if self.stop:
                return self._mark_stopped(success=False)
        self.job_started_at = datetime.now()
        self.log_stream_name = self._stream_name
        self._start_attempt()
        command = self._add_parameters_to_command(self._get_container_property("command", ["true"]))
        env = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "MOTO_"))}
        env |= {e["name"]: e["value"] for e in self._get_container_property("environment", [])}
        env |= {
            "AWS_BATCH_JOB_ID": self.job_id,
            "AWS_BATCH_JOB_ATTEMPT": "1",
            "AWS_BATCH_JQ_NAME": self.job_queue.name,
        }
        if "index" in self.array_properties:
            env["AWS_BATCH_JOB_ARRAY_INDEX"] = str(self.array_properties["index"])
        log = os.path.join(STATE, "jobs", self.job_id.replace(":", "-") + ".log")
        with open(log, "wb") as out:
            p = subprocess.Popen(
                command,
                env=env,
                cwd=os.path.join(STATE, "jobs"),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        pidfile = os.path.join(STATE, "pids", "job-" + self.job_id.replace(":", "-") + ".pid")
        with open(pidfile, "w") as f:
            f.write(f"{p.pid} {starttime(p.pid)}\n")
        running[p.pid] = p
        limit = self._get_attempt_duration()
        limit = limit and self.job_started_at + timedelta(seconds=limit)
        while p.poll() is None:
            if self.stop or (limit and datetime.now() > limit):
                self.stop = True
                end(p)
            time.sleep(0.05)
        running.pop(p.pid, None)
        os.unlink(pidfile)
        self.exit_code = p.returncode if p.returncode >= 0 else 128 - p.returncode
        with open(log, errors="replace") as f:
            now = int(unix_time_millis())
            lines = [{"timestamp": now, "message": line.rstrip("\n")} for line in f if line.strip()]
        self._log_backend.ensure_log_group(self._log_group)
        self._log_backend.ensure_log_stream(self._log_group, self.log_stream_name)
        if lines:
            self._log_backend.put_log_events(self._log_group, self.log_stream_name, lines)
        self._mark_stopped(success=not self.stop and self.exit_code == 0)
    except Exception as e:
        print(f"{self.name}: {e!r}", file=sys.stderr, flush=True)
        self.job_stopped_reason = self.job_stopped_reason or str(e)
        self._mark_stopped(success=False)


def terminate(self, reason, plain=Job.terminate):
    plain(self, reason)
    for child in self._child_jobs or []:
        plain(child, reason)


def describe(self, plain=Job.describe):
    d = plain(self)
    kids = [c.status for c in self._child_jobs or []]
    if (
        kids
        and all(s in (JobStatus.SUCCEEDED, JobStatus.FAILED) for s in kids)
        and JobStatus.FAILED in kids
    ):
        self._mark_stopped(success=False)
        d["status"] = JobStatus.FAILED
    if self.exit_code is not None and "container" in d:
        d["container"]["exitCode"] = self.exit_code
    return d


Job.run, Job.terminate, Job.describe = run, terminate, describe


def bye(*_):
    for p in list(running.values()):
        end(p, 2.0)
    os._exit(0)


signal.signal(signal.SIGTERM, bye)
signal.signal(signal.SIGINT, bye)
os.makedirs(os.path.join(STATE, "jobs"), exist_ok=True)
from moto.server import main  # noqa: E402

main(["-H", "127.0.0.1", "-p", str(PORT)])
