"""The program ends without having torn its pool down: quietly, at once, and with all it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import MARK, ROOT, Script, processes_marked, wait_until

START = """
import warnings; warnings.simplefilter("error")
import asyncio, atexit, os, signal, sys, threading, time
from mirai import *
daemons(1).wait(1)
ms = [mirai(time.sleep, 600) for _ in range(3)]
def ready(): print("ready", flush=True)
"""
TRACE = "Traceback (most recent call last):"
CALLBACKS = """
def fail(kind):
    def call(m): raise kind("from a callback")
    return call
for m, kind in zip(ms, (ValueError, SystemExit, KeyboardInterrupt)): m.add_done_callback(fail(kind))
"""
FAILED = "exception calling callback for <Mirai {} time.sleep: cancelled>"
# A program, its exit code, and what is to be told on standard error.
ENDS: dict[str, tuple[str, int, list[str]]] = {
    "callbacks that raise": (
        CALLBACKS,
        0,
        [
            *(FAILED.format(2), TRACE, "ValueError: from a callback"),
            *(FAILED.format(3), TRACE, "SystemExit: from a callback"),
            *(FAILED.format(4), TRACE, "KeyboardInterrupt: from a callback"),
        ],
    ),
    "a thread waits, and Python for it": (
        "m = mirai(abs, -7); ms[0].cancel(); ms[1].cancel(); ms[2].cancel()\n"
        "threading.Thread(target=lambda: ms.append(m.result()) or os.write(1, b'7')).start()",
        0,
        [],
    ),
    "a thread waits, and nobody for it": (
        "threading.Thread(target=ms[0].result, daemon=True, name='T').start()",
        0,
        [
            "Exception in thread T:",
            TRACE,
            "mirai._errors.TaskCancelled: the pool was shut down before the task had ended",
        ],
    ),
    "an exit out of asyncio": (
        "async def main():\n"
        "  waits = asyncio.create_task(asyncio.wait_for(ms[0], None))\n"
        "  await asyncio.sleep(0)\n  sys.exit(3)\nasyncio.run(main())",
        3,
        [],
    ),
}
MORE_ENDS: dict[str, tuple[str, int, list[str]]] = {
    "an exit": ("sys.exit(3)", 3, []),
    "an exit with words": ("sys.exit('so long')", 1, ["so long"]),
    "an exception": ("raise ValueError('oops')", 1, [TRACE, "ValueError: oops"]),
    "no farewell": ("os._exit(3)", 3, []),
    "an exception in a thread": (
        "def fail(): raise ValueError('oops')\nthreading.Thread(target=fail, name='T').start()",
        0,
        ["Exception in thread T:", TRACE, "ValueError: oops"],
    ),
    "an exit of a thread": ("threading.Thread(target=sys.exit, args=(4,)).start()", 0, []),
    "no farewell, from a thread": (
        "threading.Thread(target=os._exit, args=(4,)).start(); ms[0].result()",
        4,
        [],
    ),
    "a pool that a thread has made": (
        "thread = threading.Thread(target=lambda: daemons(1, profile='b').wait(1))\n"
        "thread.start(); thread.join(); mirai.options(profile='b')(time.sleep, 600)",
        0,
        [],
    ),
    "ephemeral daemons": ("daemons(0); ms[:] = [mirai(time.sleep, 600) for _ in 'ab']", 0, []),
    "no more threads can be started": (  # as at the exit of Python 3.12
        "daemons(0); m = mirai(time.sleep, 600); threading.stack_size(1 << 46)",
        0,
        [],
    ),
    "tasks that print": (
        "daemons(1, output='stream')\n"
        "def talk():\n  while True: print('x' * 70)\n"
        "m = mirai(talk)\nos.dup2(os.open(os.devnull, os.O_WRONLY), 1)\n"
        "while not status().executing: pass",
        0,
        [],
    ),
    "an asyncio that is cancelled": (
        "async def main():\n"
        "  waits = asyncio.create_task(asyncio.wait_for(ms[0], None))\n"
        "  asyncio.get_running_loop().call_soon(asyncio.current_task().cancel)\n"
        "  await waits\n"
        "try: asyncio.run(main())\nexcept asyncio.CancelledError: sys.exit(5)",
        5,
        [],
    ),
    "SIGTERM": ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(60)", -signal.SIGTERM, []),
    "SIGHUP": ("os.kill(os.getpid(), signal.SIGHUP); time.sleep(60)", -signal.SIGHUP, []),
    "SIGTERM as an exit": (
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))\n"
        "threading.Timer(0, os.kill, (os.getpid(), signal.SIGTERM)).start(); ms[0].result()",
        9,
        [],
    ),
}


def told(err: str) -> list[str]:
    """Return what was said on standard error, without where tracebacks lead through."""
    return [line for line in err.splitlines() if line and not line.startswith(" ")]


def end_all(
    script: Script, mark: str, cases: dict[str, tuple[str, int, list[str]]], replace: str = ""
) -> None:
    running = {
        name: script((START + source).replace("daemons(1", "daemons(1" + replace))
        for name, (source, _, _) in cases.items()
    }
    ends = {}
    for name, process in running.items():
        _, err = process.communicate(timeout=60)
        ends[name] = process.returncode, told(err)
    for name, (_, code, expected) in cases.items():
        assert ends[name] == (code, expected), name
    wait_until(lambda: not processes_marked(mark))


def test_nothing_is_left_and_nothing_more_is_said(script: Script, mark: str) -> None:
    end_all(script, mark, ENDS)


@pytest.mark.thorough
@pytest.mark.timeout(120)
@pytest.mark.parametrize("replace", ["", ", dispatcher=False"], ids=["process", "thread"])
def test_in_more_ways(script: Script, mark: str, replace: str) -> None:
    end_all(script, mark, ENDS | MORE_ENDS, replace)


AT_EXIT = """
import atexit, time
def attempt(what):
    try: print(what())
    except Exception as error: print(type(error).__name__, error)
def late():
    # After mirai's own handler, which was registered later.
    print("late")
    attempt(lambda: ms[0].cancelled())
    attempt(lambda: ms[0].result())
    attempt(lambda: pool.status())
    attempt(lambda: mirai(abs, -1))
    attempt(lambda: daemons(1))
    attempt(lambda: daemons(0).url)
atexit.register(late)
from mirai import *
def early():
    print("early")
    attempt(lambda: mirai(abs, -1).result())
    attempt(lambda: mirai_map(abs, [-2]).collect())
    attempt(lambda: status().connections)
atexit.register(early)
pool = daemons(1)
m = mirai(abs, -3)
ms = [mirai(time.sleep, 600) for _ in range(3)]
m.result()
for spare in ms[1:]: spare.cancel()
pool.scale(2)
pool.wait(2)
"""


def test_handlers_of_the_exit(script: Script, mark: str) -> None:
    """Before mirai's own all works, and after it there is a clear error."""
    out, err = script(AT_EXIT).communicate(timeout=40)
    wait_until(lambda: not processes_marked(mark))
    late = "MiraiError this process is exiting: it is too late for daemons"
    cancelled = "TaskCancelled the pool was shut down before the task had ended"
    lost = "DispatcherLost the pool was shut down"
    said = ["early", "1", "[2]", "2", "late", "True", cancelled, lost, late, late, ""]
    assert (out.split("\n")[:-1], err) == (said, "")


def run(*arguments: str, folder: Path, mark: str, stdin: str = "") -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), MARK: mark},
        timeout=40,
    )
    wait_until(lambda: not processes_marked(mark))
    return ended.returncode, ended.stdout, ended.stderr


PROGRAM = """
import warnings; warnings.simplefilter("error")
import time
from mirai import *
def double(x): return 2 * x
daemons(1)
ms = [mirai(time.sleep, 600) for _ in range(3)]
ms[0].cancel(); ms[1].cancel(); ms[2].cancel()
print(mirai(double, 4).result())
m = mirai(time.sleep, 600)
"""


@pytest.mark.thorough
class TestHowItIsStarted:
    @pytest.mark.parametrize("way", ["-c", "-", "-m", "a folder", "interactively"])
    def test_by_python(self, way: str, tmp_path: Path, mark: str) -> None:
        (tmp_path / "program.py").write_text(PROGRAM)
        (tmp_path / "__main__.py").write_text(PROGRAM)
        ways = {
            "-c": (["-c", PROGRAM], ""),
            "-": (["-"], PROGRAM),
            "-m": (["-m", "program"], ""),
            "a folder": (["."], ""),
            "interactively": (["-q", "-i", "-c", PROGRAM], "raise SystemExit\n"),
        }
        arguments, stdin = ways[way]
        code, out, err = run(*arguments, folder=tmp_path, mark=mark, stdin=stdin)
        assert (code, out, err.replace(">>> ", "")) == (0, "8\n", "")

    @pytest.mark.parametrize("ending", ["assert double(4) == 8", "raise KeyboardInterrupt"])
    def test_by_pytest(self, ending: str, tmp_path: Path, mark: str) -> None:
        program = PROGRAM.replace("import *", "import daemons, mirai").replace("\n", "\n    ")
        (tmp_path / "test_it.py").write_text(f"def test():{program}{ending}\n")
        options = ["-p", "no:cacheprovider", "-q", "-W", "error"]
        code, out, err = run("-m", "pytest", *options, "test_it.py", folder=tmp_path, mark=mark)
        passed = ending.startswith("assert")
        assert (code, err) == (0 if passed else 2, "")
        assert ("1 passed" if passed else "KeyboardInterrupt") in out

    def test_whose_parent_dies(self, script: Script, mark: str, tmp_path: Path) -> None:
        """It goes on, and its pool too, until it ends itself."""
        (tmp_path / "program.py").write_text(
            START
            + "for m in ms: m.cancel()\nready()\nwhile os.getppid() == int(sys.argv[1]): pass\n"
            "print(mirai(abs, -1).result(), status().cumulative, flush=True)"
        )
        parent = script(
            "import os, subprocess, sys, time\n"
            "subprocess.Popen([sys.executable, 'program.py', str(os.getpid())], stdin=-3)\n"
            "time.sleep(600)"
        )
        assert parent.stdout is not None and parent.stderr is not None
        assert parent.stdout.readline() == "ready\n"
        parent.kill()
        assert parent.stdout.read() == "1 1\n"  # until the program has ended
        assert parent.stderr.read() == ""
        wait_until(lambda: not processes_marked(mark))

    @pytest.mark.parametrize("closed", [False, True])
    def test_as_a_background_service(
        self, closed: bool, script: Script, mark: str, tmp_path: Path
    ) -> None:
        """Forked twice, in a session of its own, and perhaps without standard streams."""
        close = "for fd in range(3): os.close(fd)" if closed else ""
        process = script(f"""
import os, sys
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
{close}
from mirai import *
daemons(1)
answer = mirai(abs, -1).result()
with open("answer.new", "w") as file: print(answer, file=file)
os.rename("answer.new", "answer")
""")
        out, err = process.communicate(timeout=30)
        assert (out, err) == ("", "")
        wait_until((tmp_path / "answer").exists)
        assert (tmp_path / "answer").read_text() == "1\n"
        wait_until(lambda: not processes_marked(mark))


def test_where_no_thread_can_be_started_nothing_is_left(script: Script, mark: str) -> None:
    """As at the exit of Python 3.12: then ``daemons`` says so, and has ended what it began."""
    process = script("""
import warnings; warnings.simplefilter("error")
import os, threading
from mirai import *
from pathlib import Path
def children(): return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
with daemons(1) as pool: pool.wait(1)
threading.stack_size(1 << 46)
before = len(os.listdir("/proc/self/fd"))
for dispatcher in (True, False):
    try: daemons(1, dispatcher=dispatcher)
    except RuntimeError as error: print(error)
    print(len(os.listdir("/proc/self/fd")) - before, children())
""")
    out, err = process.communicate(timeout=30)
    assert (out, err) == ("can't start new thread\n0 []\n" * 2, "")
    wait_until(lambda: not processes_marked(mark))
