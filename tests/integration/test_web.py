"""A web application on uvicorn whose requests wait for tasks."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from conftest import Script, processes_marked, wait_until

APP = """
import asyncio, os, time
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from mirai import TaskCancelled, daemons, mirai, mirai_map

HERE = Path(__file__).parent


@asynccontextmanager
async def lifespan(app):
    async with daemons(2):
        yield


app = FastAPI(lifespan=lifespan)


def square(x):
    time.sleep(x % 7 / 1_000)
    return x * x


def hold(name):
    # Runs until the test says so; tells when it has begun, and when it is stopped.
    (HERE / f"{name} begun").touch()
    try:
        while not (HERE / f"{name} go").exists():
            time.sleep(0.001)
    except KeyboardInterrupt:
        (HERE / f"{name} stopped").touch()
        raise
    return name


async def while_connected(request, task):
    # Await a task, and cancel it when the client goes away.
    async def watch():
        while (await request.receive())["type"] != "http.disconnect":
            pass  # the body
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await task
    finally:
        watcher.cancel()


@app.get("/pid")
async def pid():
    return os.getpid()


@app.get("/square/{x}")
async def squared(x: int):
    return await mirai(square, x)


@app.get("/hold/{name}")
async def held(name: str, request: Request):
    try:
        return await while_connected(request, mirai(hold, name))
    except TaskCancelled:
        return Response(status_code=499)


@app.get("/stream")
async def stream():
    async def lines():
        names = (f"line{i}" for i in range(1_000))
        async for _, name in mirai_map(hold, names, max_in_flight=2):
            yield name + "\\n"

    return StreamingResponse(lines())


if __name__ == "__main__":
    uvicorn.run(app, port=0, access_log=False, timeout_graceful_shutdown=GRACE)
"""


class Server:
    """A server in a process of its own, which has begun to listen."""

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.process = process
        self.folder = folder
        assert process.stderr is not None
        said = ""
        while (found := re.search(r"running on (http://\S+)", said)) is None:
            line = process.stderr.readline()
            assert line, f"the server has ended: {said}"
            said += line
        self.url = found[1]

    def go(self, name: str) -> None:
        """Let a task of ``hold`` end."""
        (self.folder / f"{name} go").touch()

    async def has(self, name: str, what: str) -> None:
        """Wait until a task of ``hold`` has begun, or is stopped."""
        await asyncio.to_thread(wait_until, (self.folder / f"{name} {what}").exists)


Serve = Callable[..., Server]


@pytest.fixture
def serve(script: Script, tmp_path: Path) -> Serve:
    return lambda grace="None": Server(script(APP.replace("GRACE", grace)), tmp_path)


def with_client(server: Server, use: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
    """Run ``use`` on a client of the server."""

    async def main() -> None:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=server.url, timeout=30, limits=limits) as client:
            await use(client)

    asyncio.run(main())


async def json(client: httpx.AsyncClient, path: str) -> object:
    return (await client.get(path)).raise_for_status().json()


def test_many_requests_at_once_each_get_their_own_answer(serve: Serve) -> None:
    async def use(client: httpx.AsyncClient) -> None:
        answers = await asyncio.gather(*[json(client, f"/square/{x}") for x in range(200)])
        assert answers == [x * x for x in range(200)]

    with_client(serve(), use)


def test_a_slow_task_does_not_delay_the_fast_ones(serve: Serve) -> None:
    server = serve()

    async def use(client: httpx.AsyncClient) -> None:
        fast = [asyncio.create_task(json(client, f"/square/{x}")) for x in range(50)]
        slow = asyncio.create_task(json(client, "/hold/slow"))
        fast += [asyncio.create_task(json(client, f"/square/{x}")) for x in range(50, 100)]
        assert await asyncio.gather(*fast) == [x * x for x in range(100)]
        await server.has("slow", "begun")
        assert not slow.done()
        server.go("slow")
        assert await slow == "slow"

    with_client(server, use)


def test_the_server_answers_while_every_daemon_is_busy(serve: Serve) -> None:
    server = serve()

    async def use(client: httpx.AsyncClient) -> None:
        names = ["a", "b"]
        held = [asyncio.create_task(json(client, f"/hold/{name}")) for name in names]
        for name in names:
            await server.has(name, "begun")
        assert await json(client, "/pid") == server.process.pid
        for name in names:
            server.go(name)
        assert await asyncio.gather(*held) == names

    with_client(server, use)


async def cancelled(task: asyncio.Task[object]) -> None:
    """Cancel a request, which closes its connection."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_client_that_goes_away_stops_its_task(serve: Serve) -> None:
    server = serve()

    async def use(client: httpx.AsyncClient) -> None:
        names = ["stays", "leaves", "waits"]
        requests = {}
        for name in names:
            requests[name] = asyncio.create_task(json(client, f"/hold/{name}"))
            if name != "waits":  # there are two daemons only
                await server.has(name, "begun")
        await cancelled(requests["leaves"])
        await server.has("leaves", "stopped")
        await server.has("waits", "begun")
        for name in ("stays", "waits"):
            server.go(name)
            assert await requests[name] == name

    with_client(server, use)


def test_a_client_that_leaves_a_stream_stops_its_tasks(serve: Serve) -> None:
    server = serve()

    async def use(client: httpx.AsyncClient) -> None:
        server.go("line0")
        async with client.stream("GET", "/stream") as response:
            lines = response.aiter_lines()  # letting go of it closes the connection
            assert await anext(lines) == "line0"
            for name in ("line1", "line2"):
                await server.has(name, "begun")
        for name in ("line1", "line2"):
            await server.has(name, "stopped")
        assert await json(client, "/square/3") == 9

    with_client(server, use)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_ends_leaves_nothing_behind(
    serve: Serve, mark: str, number: signal.Signals
) -> None:
    server = serve(grace="0")

    async def use(client: httpx.AsyncClient) -> None:
        held = asyncio.create_task(json(client, "/hold/held"))
        await server.has("held", "begun")
        assert len(processes_marked(mark)) >= 4  # the server, the dispatcher, two daemons
        os.killpg(server.process.pid, number)  # as the terminal does
        with pytest.raises(httpx.HTTPError):
            await held

    with_client(server, use)
    server.process.wait(timeout=30)
    wait_until(lambda: not processes_marked(mark))
    assert (server.folder / "held stopped").exists() or number == signal.SIGKILL


def test_a_server_that_ends_finishes_what_it_has_begun(serve: Serve, mark: str) -> None:
    server = serve()

    async def use(client: httpx.AsyncClient) -> None:
        held = asyncio.create_task(json(client, "/hold/held"))
        await server.has("held", "begun")
        os.killpg(server.process.pid, signal.SIGINT)
        server.go("held")
        assert await held == "held"

    with_client(server, use)
    assert server.process.wait(timeout=30) == 0
    wait_until(lambda: not processes_marked(mark))
