"""A host that forks: its children have no pool, may have one of their own, and disturb nobody."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from conftest import ROOT, Script, end, launch, processes_marked, wait_until

# Python 3.12 warns of a fork where there are threads, with reason; here nothing else runs.
START = """
import warnings
warnings.simplefilter("error"); warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
import asyncio, concurrent.futures, multiprocessing, os, sys, threading, time
from mirai import *
def double(x): return 2 * x
def ready(*words): print(*words, flush=True)
"""
POOL = """
pool = daemons(2)
pool.wait(2)
pids = sorted(each.pid for each in status().daemons)
"""
UNDISTURBED = """
assert sorted(each.pid for each in status().daemons) == pids
assert mirai(double, 4).result() == 8
ready("undisturbed")
"""
OLD = """
def work(x): time.sleep(x); return x
ms = mirai_map(work, [600, 600])
first, ended, stream = race(ms), ms.as_completed(), iter(mirai_map(abs, [1] * 99, max_in_flight=2))
called = []
ms[0].add_done_callback(called.append)
waits = threading.Thread(target=concurrent.futures.wait, args=(ms,), daemon=True)
waits.start()
while not ms[0]._waiters: pass  # it has made the futures' conditions
fresh = [mirai(abs, -1) for _ in range(200)]  # some are on their way, wherever that is
async def awaited(): await ms[0]
async def wrapped(): await asyncio.wrap_future(ms[0])
async def left():
    async with pool: pass
def in_trio():
    import trio
    trio.run(awaited)
def block():
    with pool: pass
attempts = [
    lambda: [m.result(20) for m in fresh if not m.done() or m.exception()],
    lambda: first.result(20),
    lambda: next(ended),
    lambda: [next(stream) for _ in range(99)],
    lambda: ms[0].result(),
    lambda: repr(ms[0].exception()),
    lambda: ms[1].cancel(),
    lambda: repr(ms[1]),
    lambda: len(concurrent.futures.wait(ms, 20).done),
    lambda: ms.collect(),
    lambda: ms.cancel(),
    lambda: asyncio.run(awaited()),
    lambda: asyncio.run(wrapped()),
    in_trio,
    lambda: ms[0].add_done_callback(lambda m: print("called")),
    lambda: called,
    pool.status,
    lambda: pool.submit(abs, (1,)),
    lambda: pool.scale(3),
    lambda: pool.wait(1),
    pool.shutdown,
    block,
    lambda: asyncio.run(left()),
    status,
]
if (child := os.fork()) == 0:
    for number, attempt in enumerate(attempts):
        try: print(number, attempt())
        except Exception as error: print(number, type(error).__name__, error)
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert [m.result() for m in fresh] == [1] * 200
assert not ms[0].done() and not first.done() and next(stream) == (0, 1)
stream.close(); ms.cancel()
"""
LOST = "DispatcherLost this process was forked; its mirais belong to its parent"


def finish(process: subprocess.Popen[str], mark: str) -> tuple[int, list[str], str]:
    out, err = process.communicate(timeout=60)
    wait_until(lambda: not processes_marked(mark))
    return process.returncode, out.splitlines(), err


def test_what_the_child_has_inherited_says_that_it_is_lost(script: Script, mark: str) -> None:
    process = script(START + POOL.replace("2", "3") + OLD + UNDISTURBED)
    code, out, err = finish(process, mark)
    assert (code, err, out[-1:]) == (0, "", ["undisturbed"])
    lines = [line.partition(" ")[2] for line in out[:-1]]
    assert lines[0] in ("[]", LOST)  # whether all had been answered before the fork
    assert lines[1:3] == [LOST, LOST]  # race, as_completed
    assert lines[3:5] == [LOST, LOST]  # a stream, result
    assert lines[5].startswith("DispatcherLost(")
    assert lines[6:9] == ["False", "<Mirai 4 __main__.work: failed>", "2"]  # cancel, repr, wait
    assert lines[9].startswith(LOST)  # collect
    assert lines[10:14] == ["0", LOST, LOST, LOST]  # cancel, asyncio, wrap_future, trio
    assert out[14:17] == ["called", "14 None", "15 []"]  # the child's callback, the parent's
    assert [line.partition(" ")[2] for line in out[17:21]] == [LOST] * 4
    assert out[21:24] == ["20 None", "21 None", "22 None"]
    assert out[24].startswith("23 MiraiError no daemons are set")


# How a child ends, its exit code, and what is to be told on standard error.
CHILDREN = {
    "sys.exit(5)": (5, []),
    "os._exit(5)": (5, []),
    "raise ValueError('oops')": (1, ["Traceback (most recent call last):", "ValueError: oops"]),
    "daemons(1); assert mirai(double, 1).result() == 2; sys.exit(5)": (5, []),
    "daemons(1, dispatcher=False); assert mirai(double, 1).result() == 2; sys.exit(5)": (5, []),
    "daemons(1); m = mirai(time.sleep, 600); os._exit(5)": (5, []),
    "assert mirai(double, 1).result() == 2; sys.exit(5)": (5, []),
    "daemons(0); os.kill(os.getpid(), 15)": (-15, []),
    "with daemons(1): assert mirai(double, 1).result() == 2\n    sys.exit(5)": (5, []),
}
FORKS = """
codes = []
for child in CHILDREN:
    if (pid := os.fork()) == 0:
        exec(child)
        os._exit(0)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
print(codes)
"""


@pytest.mark.thorough
@pytest.mark.parametrize("pool", [POOL, POOL.replace("(2)", "(2, dispatcher=False)", 1)])
def test_however_a_child_ends_its_parent_goes_on(script: Script, mark: str, pool: str) -> None:
    children = [child.replace("\n    ", "\n") for child in CHILDREN]
    process = script(START + pool + f"CHILDREN = {children!r}" + FORKS + UNDISTURBED)
    code, out, err = finish(process, mark)
    assert (code, out) == (0, [str([code for code, _ in CHILDREN.values()]), "undisturbed"])
    told = [line for line in err.splitlines() if not line.startswith(" ")]
    assert told == [line for _, lines in CHILDREN.values() for line in lines]


# ── the standard library's ───────────────────────────────────────────────────────────────

LIBRARY = """
def use(x):
    # In a child: the parent's pool is not there, and one of its own may be.
    try: status()
    except MiraiError: pass
    else: raise AssertionError("a child has its parent's pool")
    with daemons(1): return mirai(sum, [x, x]).result()
def tell(queue, x): queue.put(use(x))
def main(method):
    import warnings
    warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
    context = multiprocessing.get_context(method)
    queue = context.SimpleQueue()
    if BEFORE:
        early = context.Pool(1)
        assert early.map(use, [1]) == [2]
    pool = daemons(2)
    pool.wait(2)
    pids = sorted(each.pid for each in status().daemons)
    held = mirai(time.sleep, 600)
    process = context.Process(target=tell, args=(queue, 2))
    process.start()
    assert queue.get() == 4
    process.join()
    assert process.exitcode == 0
    with context.Pool(2) as workers: assert workers.map(use, [3, 4]) == [6, 8]
    with concurrent.futures.ProcessPoolExecutor(2, context) as workers:
        assert list(workers.map(use, [5, 6])) == [10, 12]
    if BEFORE:
        assert early.map(use, [7]) == [14]
        early.close(); early.join()
    assert not held.done()
    assert sorted(each.pid for each in status().daemons) == pids
    assert mirai(double, 4).result() == 8
    ready("undisturbed")
"""


@pytest.mark.thorough
@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(script: Script, mark: str, method: str, before: bool) -> None:
    library = LIBRARY.replace("BEFORE", str(before))
    process = script(START + library + f'if __name__ == "__main__": main("{method}")')
    assert finish(process, mark) == (0, ["undisturbed"], "")


# ── web servers ──────────────────────────────────────────────────────────────────────────

GUNICORN = """
import os
from mirai import daemons, mirai
pool = daemons(1)  # of the master, where the application is loaded before the workers are forked
assert mirai(abs, -1).result() == 1
def app(environ, start_response):
    answer = f"{os.getpid()} {mirai(pow, 2, 5).result()}".encode()
    start_response("200 OK", [("Content-Length", str(len(answer)))])
    return [answer]
"""
CONFIG = """
from mirai import daemons
bind, workers, preload_app, graceful_timeout = "127.0.0.1:0", 2, True, 5
control_socket_disable = True
def post_fork(server, worker): daemons(1)
"""
UVICORN = """
import os
from contextlib import asynccontextmanager
from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from mirai import daemons, mirai

@asynccontextmanager
async def lifespan(app):
    async with daemons(1): yield

app = FastAPI(lifespan=lifespan)

@app.get("/", response_class=PlainTextResponse)
async def index(): return f"{os.getpid()} {await mirai(pow, 2, 5)}"
"""

Serve = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def serve(tmp_path: Path, mark: str) -> Iterator[Serve]:
    running: list[subprocess.Popen[str]] = []

    def start(source: str, *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "web.py").write_text(source)
        argv = [sys.executable, "-m", *arguments]
        path = f"{ROOT}{os.pathsep}{tmp_path}"
        running.append(launch(argv, tmp_path, mark, stdout=None, path=path))
        return running[-1]

    yield start
    end(running)


@pytest.mark.thorough
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("server", ["gunicorn", "uvicorn"])
def test_a_web_server_whose_workers_have_pools(
    serve: Serve, mark: str, tmp_path: Path, server: str, number: signal.Signals
) -> None:
    """Ctrl-C comes from the terminal, to all of its processes; SIGTERM to the first only."""
    if server == "gunicorn":
        (tmp_path / "settings.py").write_text(CONFIG)
        process = serve(GUNICORN, "gunicorn", "-c", "settings.py", "web:app")
        listens, started = r"Listening at: (http://\S+)", "Booting worker"
    else:
        process = serve(UVICORN, "uvicorn", "--workers", "2", "--port", "0", "web:app")
        listens, started = r"running on (http://\S+)", "startup complete"
    assert process.stderr is not None
    said = ""
    while said.count(started) < 2 or not re.search(listens, said):
        line = process.stderr.readline()
        assert line, said
        said += line
    found = re.search(listens, said)
    assert found is not None
    workers = set()
    while len(workers) < 2:  # each connection goes to one or the other
        pid, answer = httpx.get(found[1], timeout=30).text.split()
        assert answer == "32"
        workers.add(pid)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, err = process.communicate(timeout=40)
    assert process.returncode in (0, -number)  # that is the server's own choice
    assert "Traceback" not in err
    wait_until(lambda: not processes_marked(mark))


SPAWNS = """
import multiprocessing
from mirai import daemons, mirai

class Pair(tuple):
    pass

def double(x):
    return 2 * x

def twice(pair):
    return Pair(double(x) for x in pair)

def child(queue):
    with daemons(1):
        back = mirai(twice, Pair((1, 2))).result()
        queue.put((type(back) is Pair, tuple(back)))

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    process.join()
    print(process.exitcode, queue.empty() or queue.get())
"""


def test_a_spawned_child_sends_functions_of_the_main_script(script: Script) -> None:
    """They are of a module that no daemon can import."""
    out, err = script(SPAWNS).communicate(timeout=50)
    assert (out, err) == ("0 (True, (2, 4))\n", "")
