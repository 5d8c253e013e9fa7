"""A service on loopback that starts what it is asked for, as processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_until
from orders import connected, launched, order_of, reaches, remote_pool, secrets_of

from mirai import mirai
from mirai._errors import LaunchError
from mirai.launchers import HTTPLauncher, Phase

pytestmark = pytest.mark.servers

TOKEN = "Bearer t0ken-t0ken"


class Service(ThreadingHTTPServer):
    """``POST /jobs`` starts jobs, ``GET`` and ``DELETE /jobs/ID`` are about them."""

    daemon_threads = False
    room = 10
    """How many jobs it starts at most."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.jobs: dict[str, list[subprocess.Popen[bytes]]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def start(self, wanted: Any) -> str:
        id = f"job/{len(self.jobs)}"
        self.jobs[id] = [
            subprocess.Popen(
                f"exec {wanted['command']}", shell=True, env=os.environ | wanted["env"]
            )
            for _ in range(int(wanted.get("count", 1)))
        ]
        return id

    def end(self, id: str) -> None:
        for process in self.jobs[id]:
            process.terminate()
            process.wait()


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do(self) -> None:
        data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.asked.append(f"{self.command} {self.path}")
        code, answer = self.answer(data.decode())
        self.send_response(code)
        if code == 307:
            self.send_header("Location", "/elsewhere")
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    do_GET = do_POST = do_DELETE = do  # noqa: N815

    def answer(self, body: str) -> tuple[int, Any]:
        if self.headers["Authorization"] != TOKEN:
            return 403, {"error": f"who is {self.headers['Authorization']}?"}
        if self.path == "/moved":
            return 307, {}
        if self.command == "POST":
            if len(self.server.jobs) >= self.server.room:
                return 429, {"error": "no room", "of": body}
            return 201, {"job": {"id": self.server.start(json.loads(body))}}
        id = self.path.removeprefix("/jobs/").replace("%2F", "/")
        if id not in self.server.jobs:
            return 404, {}
        if self.command == "DELETE":
            self.server.end(id)
        codes = [process.poll() for process in self.server.jobs[id]]
        return 200, {"state": "Up" if None in codes else "Error" if any(codes) else "DONE"}

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
        for id in server.jobs:
            server.end(id)


def launcher_of(service: Service, **options: Any) -> HTTPLauncher:
    ours: dict[str, Any] = {
        "url": f"{service.url}/jobs",
        "headers": {"Authorization": lambda: TOKEN},
        "id": "job.id",
        "status_url": f"{service.url}/jobs/{{id}}",
        "status": "state",
        "phases": {"up": Phase.RUNNING},
        "terminate_url": f"{service.url}/jobs/{{id}}",
        "python": sys.executable,
    }
    return HTTPLauncher(**ours | options)


def test_daemons_by_requests(service: Service, tmp_path: Path) -> None:
    launcher = launcher_of(service)
    with remote_pool() as pool:
        with launched(launcher, order_of(pool, tmp_path, 2)) as handles:
            pool.wait(2, 30)
            assert mirai(os.getenv, "MIRAI_JOB").result(10) in [handle.id for handle in handles]
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
            launcher.terminate(handles[:1])
            wait_until(lambda: connected(pool) == 1)
        wait_until(lambda: connected(pool) == 0)
        for handle in handles:
            reaches(launcher, handle, lambda state: state.phase.is_over)


def test_one_request_for_all(service: Service, tmp_path: Path) -> None:
    body = {"command": "{command}", "count": "{count}", "env": {"MIRAI_KEYS": "{keys}"}}
    launcher = launcher_of(service, body=body)
    with remote_pool() as pool:
        with launched(launcher, order_of(pool, tmp_path, 2)) as handles:
            pool.wait(2, 30)
            launcher.terminate(handles[:1])  # which would be both
            assert {state.phase for state in launcher.poll(handles).values()} == {Phase.RUNNING}
        assert service.asked.count("POST /jobs") == 1
        assert service.asked.count("DELETE /jobs/job%2F0") == 1
        wait_until(lambda: connected(pool) == 0)


def test_a_refusal_is_told_without_the_keys_and_undone(service: Service, tmp_path: Path) -> None:
    service.room = 1
    launcher = launcher_of(service)
    with remote_pool() as pool:
        order = order_of(pool, tmp_path, 2)
        with pytest.raises(LaunchError, match=r"POST http.*/jobs: 429 .*no room") as caught:
            launcher.launch(order)
        assert not any(secret in str(caught.value) for secret in secrets_of(order))
        wait_until(lambda: connected(pool) == 0)
        assert "DELETE /jobs/job%2F0" in service.asked


def test_a_wrong_token_is_not_told(service: Service, tmp_path: Path) -> None:
    launcher = launcher_of(service, headers={"Authorization": "Bearer wr0ng-t0ken"})
    with (
        remote_pool() as pool,
        pytest.raises(LaunchError, match=r"403 Forbidden.*who is") as caught,
    ):
        launcher.launch(order_of(pool, tmp_path))
    assert "wr0ng" not in str(caught.value)


def test_keys_do_not_follow_a_redirection(service: Service, tmp_path: Path) -> None:
    launcher = launcher_of(service, url=f"{service.url}/moved")
    with remote_pool() as pool, pytest.raises(LaunchError, match="307"):
        launcher.launch(order_of(pool, tmp_path))
    assert service.asked == ["POST /moved"]


def test_an_answer_without_an_id(service: Service, tmp_path: Path) -> None:
    launcher = launcher_of(service, id="nowhere")
    with remote_pool() as pool, pytest.raises(LaunchError, match="no 'nowhere' in the answer"):
        launcher.launch(order_of(pool, tmp_path))


def test_what_the_service_has_forgotten(service: Service, tmp_path: Path) -> None:
    launcher = launcher_of(service)
    with remote_pool() as pool, launched(launcher, order_of(pool, tmp_path)) as [handle]:
        service.end("job/0")
        del service.jobs["job/0"]
        assert launcher.poll([handle])[handle].phase is Phase.UNKNOWN


def test_nobody_answers(tmp_path: Path) -> None:
    launcher = HTTPLauncher(url="http://127.0.0.1:1/")
    with remote_pool() as pool, pytest.raises(LaunchError, match="refused"):
        launcher.launch(order_of(pool, tmp_path))
