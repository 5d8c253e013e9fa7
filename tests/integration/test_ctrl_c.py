"""Ctrl-C: in a terminal, in every way of waiting, at every moment, and once more."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from conftest import ROOT, Script, launch, processes_marked, wait_until

from mirai import Daemons, daemons, everywhere, mirai, mirai_map, race, status, try_mirai

START = """
import warnings; warnings.simplefilter("error")
import asyncio, concurrent.futures, os, sys, threading, time
import mirai as everything
from mirai import mirai, daemons, mirai_map, race, status
def ready(*words): print(*words, flush=True)
"""
TRACE = "Traceback (most recent call last):"
DURING = "During handling of the above exception, another exception occurred:"
INTERRUPTED = [TRACE, "KeyboardInterrupt"]


def told(err: str) -> list[str]:
    """Return what was said on standard error, without where tracebacks lead through."""
    return [
        line.rstrip(": ") if "Interrupt" in line else line
        for line in err.splitlines()
        if line and not line.startswith(" ")
    ]


def sleeps(pid: int) -> bool:
    """Return whether the process's main thread sleeps in the system, or has ended."""
    try:
        stat = Path(f"/proc/{pid}/task/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "SZ"


def press(process: subprocess.Popen[str], times: int = 1) -> None:
    """Press Ctrl-C, and again when that was heeded, whenever the program has come to rest."""
    for _ in range(times):
        wait_until(lambda: sleeps(process.pid))
        process.send_signal(signal.SIGINT)


# ── a terminal ───────────────────────────────────────────────────────────────────────────


class Terminal:
    """A terminal whose foreground process group is a program's."""

    def __init__(self, source: str, mark: str, folder: Path) -> None:
        self.keyboard, screen = pty.openpty()
        take_it = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        argv = [sys.executable, "-c", take_it + START + source]
        self.process = launch(argv, folder, mark, stdin=screen)
        os.close(screen)

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def type_ctrl_c(self) -> None:
        wait_until(lambda: sleeps(self.process.pid))
        os.write(self.keyboard, b"\x03")

    def end(self) -> tuple[int, str, list[str]]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, told(err)


Open = Callable[[str], Terminal]


@pytest.fixture
def terminal(mark: str, tmp_path: Path) -> Iterator[Open]:
    opened: list[Terminal] = []

    def open_one(source: str) -> Terminal:
        opened.append(Terminal(source, mark, tmp_path))
        return opened[-1]

    yield open_one
    for each in opened:
        each.process.kill()
        each.process.communicate()
        os.close(each.keyboard)


WAITS = """
from pathlib import Path
go = Path("go")
def hold(x, go=go.absolute()):
    import os, time
    while not go.exists(): time.sleep(.001)
    return os.getpid()
pool = daemons(2)
pool.wait(2)
pids = sorted(each.pid for each in pool.status().daemons)
ways = {
    "result": lambda ms: ms[0].result(),
    "result with a timeout": lambda ms: ms[0].result(600),
    "exception": lambda ms: ms[0].exception(),
    "collect": lambda ms: ms.collect(),
    "as_completed of a map": lambda ms: next(ms.as_completed()),
    "race": lambda ms: race(ms).result(),
    "concurrent.futures.wait": concurrent.futures.wait,
    "concurrent.futures.as_completed": lambda ms: next(concurrent.futures.as_completed(ms)),
    "drain": lambda ms: pool._channel.drained().result(),
    "status": lambda ms: pool.wait(3),
    "elsewhere": lambda ms: time.sleep(600),
}
for name, way in ways.items():
    ms = mirai_map(hold, range(2))
    while status().executing < 2: pass
    try:
        ready(name)
        way(ms)
        print("no Ctrl-C", name)
    except KeyboardInterrupt:
        go.touch()
        assert sorted(ms.collect()) == pids, name
        go.unlink()
assert status().cumulative == 2
ready("end")
"""


def test_in_a_terminal_daemons_are_not_hit_and_tasks_go_on(terminal: Open) -> None:
    shown = terminal(WAITS)
    ways = []
    while (line := shown.line()) not in ("", "end"):
        ways.append(line)
        shown.type_ctrl_c()
    assert shown.end() == (0, "", [])
    assert len(ways) == 11


AWAITS = """
import trio
from pathlib import Path
def hold(x, here=Path.cwd()):
    import time
    (here / f"begun{x}").touch()
    try: time.sleep(600)
    except KeyboardInterrupt: (here / f"stopped{x}").touch(); raise
daemons(2).wait(2)
async def one(ms): await ms[0]
async def whole(ms): await ms
async def gathered(ms): await asyncio.gather(*ms)
async def wrapped(ms): await asyncio.gather(*map(asyncio.wrap_future, ms))
async def group(ms):
    async with asyncio.TaskGroup() as group:
        for m in ms: group.create_task(one([m]))
async def nursery(ms):
    async with trio.open_nursery() as nursery:
        for m in ms: nursery.start_soon(one, [m])
def on_asyncio(way, ms): asyncio.run(way(ms))
def on_trio(way, ms): trio.run(way, ms)
runs = [(on_asyncio, way, 2) for way in (whole, gathered, wrapped, group)]
runs += [(on_asyncio, one, 1), (on_trio, one, 1), (on_trio, whole, 2), (on_trio, nursery, 2)]
for run, way, n in runs:
    ms = mirai_map(hold, range(n))
    for x in range(n):
        while not Path(f"begun{x}").exists(): time.sleep(.001)
    def tell(): ready(run.__name__, way.__name__)
    async def main(ms): tell(); await way(ms)
    try:
        run(main, ms)
        print("no Ctrl-C")
    except BaseException as error:
        while isinstance(error, BaseExceptionGroup): error = error.exceptions[0]
        assert type(error) is KeyboardInterrupt, repr(error)
    assert all(m.cancelled() for m in ms), way
    for x in range(n):
        while not Path(f"stopped{x}").exists(): time.sleep(.001)
        Path(f"begun{x}").unlink(); Path(f"stopped{x}").unlink()
    assert mirai(abs, -1).result() == 1
assert status().cumulative == 2
ready("end")
"""


def test_in_a_terminal_what_is_awaited_is_cancelled(terminal: Open) -> None:
    shown = terminal(AWAITS)
    ways = []
    while (line := shown.line()) not in ("", "end"):
        ways.append(line)
        shown.type_ctrl_c()
    assert shown.end() == (0, "", [])
    assert len(ways) == 8


def test_a_terminal_that_is_closed_ends_the_pool(terminal: Open, mark: str) -> None:
    shown = terminal("daemons(1).wait(1)\nm = mirai(time.sleep, 600)\nready(1)\nm.result()")
    assert shown.line() == "1"
    wait_until(lambda: sleeps(shown.process.pid))
    os.close(shown.keyboard)
    shown.keyboard = os.open(os.devnull, os.O_RDONLY)
    assert shown.end() == (-signal.SIGHUP, "", [])
    wait_until(lambda: not processes_marked(mark))


# ── the end of the program ───────────────────────────────────────────────────────────────

POOL = "daemons(1).wait(1)\nms = [mirai(time.sleep, 600) for _ in range(3)]\n"
STUBBORN = """
def stubborn():
    import time
    while True:
        try: time.sleep(600)
        except KeyboardInterrupt: pass
daemons(1).wait(1)
ms = [mirai(stubborn)]
while not status().executing: pass
"""
ON_ASYNCIO = [TRACE, "asyncio.exceptions.CancelledError", DURING, *INTERRUPTED]
# What is being done, how often Ctrl-C is pressed, and what the user is told.
ENDS: dict[str, tuple[str, int, list[str]]] = {
    "twice in result": (POOL + "ready(); ms[0].result()", 2, INTERRUPTED),
    "three times, and the task does not leave": (
        STUBBORN + "ready(); ms[0].result()",
        3,
        INTERRUPTED,
    ),
    "twice, and a callback does not return": (
        POOL + "ms[0].add_done_callback(lambda _: time.sleep(600))\nready(); ms[1].result()",
        2,
        INTERRUPTED,
    ),
    "submitting": ("daemons(1).wait(1)\nready()\nwhile True: mirai(abs, -1)", 1, INTERRUPTED),
}
MORE_ENDS: dict[str, tuple[str, int, list[str]]] = {
    "collecting, and what waits": (POOL + "ready(); mirai_map(abs, [1]).collect()", 1, INTERRUPTED),
    "on asyncio": (
        POOL + "async def main(): ready(); await ms[0]\nasyncio.run(main())",
        1,
        ON_ASYNCIO,
    ),
    "in an asynchronous block": (
        "async def main():\n  async with daemons(1):\n    m = mirai(time.sleep, 600)\n"
        "    ready(); await m\nasyncio.run(main())",
        1,
        ON_ASYNCIO,
    ),
    "on trio": (
        POOL + "import trio\nasync def main(): ready(); await ms[0]\ntrio.run(main)",
        1,
        INTERRUPTED,
    ),
    "in an asynchronous block on trio": (
        "import trio\nasync def main():\n  async with daemons(1):\n    m = mirai(time.sleep, 600)\n"
        "    ready(); await m\ntrio.run(main)",
        1,
        INTERRUPTED,
    ),
    "while a thread waits": (  # Python itself waits for it, and says how that was cut short
        POOL + "def wait():\n  try: ms[0].result()\n  except everything.TaskCancelled: pass\n"
        "threading.Thread(target=wait).start()\nready(); ms[1].result()",
        2,
        [*INTERRUPTED, "Exception ignored in: <module 'threading'", *INTERRUPTED],
    ),
    "an ephemeral daemon": ("m = mirai(time.sleep, 600)\nready(); m.result()", 1, INTERRUPTED),
    "the task does not leave": (STUBBORN + "ready(); ms[0].result()", 1, INTERRUPTED),
    "the budget is used up": (
        "daemons(1, memory=100).wait(1)\nready()\n"
        "while True: mirai(lambda _: time.sleep(600), b'x' * 60)",
        1,
        INTERRUPTED,
    ),
}


def end_all(
    script: Script, mark: str, cases: dict[str, tuple[str, int, list[str]]], replace: str = ""
) -> None:
    """Start all programs, press Ctrl-C in each, and compare what they leave."""
    running = {}
    for name, (source, _, _) in cases.items():
        running[name] = script(START + source.replace("daemons(1", "daemons(1" + replace))
    ends: dict[str, tuple[int, list[str]]] = {}
    for name, (_, times, _) in cases.items():
        process = running[name]
        assert process.stdout is not None
        process.stdout.readline()
        press(process, times)
    for name, process in running.items():
        _, err = process.communicate(timeout=30)
        lines = [line.partition(" from '")[0] for line in told(err)]
        ends[name] = process.returncode, lines
    # Two that come at once may be taken for one: then there is less to be told.
    for name, (_, _, expected) in cases.items():
        assert ends[name] == (-signal.SIGINT, expected), name
    wait_until(lambda: not processes_marked(mark))


def test_the_program_ends_and_says_so_once(script: Script, mark: str) -> None:
    end_all(script, mark, ENDS)


@pytest.mark.thorough
@pytest.mark.timeout(120)
@pytest.mark.parametrize("replace", ["", ", dispatcher=False"], ids=["process", "thread"])
def test_more_programs_end_and_say_so_once(script: Script, mark: str, replace: str) -> None:
    end_all(script, mark, ENDS | MORE_ENDS, replace)


IMPORTING = """
import os, signal, sys
def strike(event, args):
    if event == "import" and args[0] == NAME and not struck:
        struck.append(1)
        os.kill(os.getpid(), signal.SIGINT)
struck = []
sys.addaudithook(strike)
from mirai import mirai, daemons
daemons(1)
print(mirai(abs, -1).result())
"""


@pytest.mark.thorough
@pytest.mark.timeout(120)
def test_while_mirai_is_imported(script: Script, mark: str) -> None:
    names = sorted(f"mirai.{path.stem}" for path in (ROOT / "mirai").glob("_*.py"))
    running = [script(IMPORTING.replace("NAME", repr(name))) for name in ["mirai", *names]]
    ends = []
    for process in running:
        out, err = process.communicate(timeout=60)
        ends.append((process.returncode, out, told(err)))
    done, interrupted = (0, "1\n", []), (-signal.SIGINT, "", INTERRUPTED)
    assert all(end in (done, interrupted) for end in ends), ends
    assert ends.count(interrupted) >= 20  # the rest is not imported by a host
    wait_until(lambda: not processes_marked(mark))


# ── at every moment ──────────────────────────────────────────────────────────────────────

OURS = (str(ROOT / "mirai"), str(ROOT / "dispatcher"))
LOCKS = (threading.__file__,)


class CtrlC:
    """Presses Ctrl-C at the n-th moment of a block at which Python would heed it.

    Such are the beginning of a function, and, with ``returns``, the return of a built-in one.
    """

    def __init__(self, moment: int, *, where: tuple[str, ...], returns: bool) -> None:
        self._left = moment
        self._where = where
        self._events = ("call", "c_return") if returns else ("call",)
        self.struck = ""

    def __enter__(self) -> CtrlC:
        sys.setprofile(self._look)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _look(self, frame: FrameType, event: str, _: object) -> None:
        if event not in self._events or not frame.f_code.co_filename.startswith(self._where):
            return
        if frame.f_code.co_name == "<genexpr>":
            return  # it may be one that is being closed: there Python itself drops the Ctrl-C
        self._left -= 1
        if not self._left:
            sys.setprofile(None)
            self.struck = f"{event} at {frame.f_code.co_qualname}:{frame.f_lineno}"
            signal.raise_signal(signal.SIGINT)


def at_every_moment(
    do: Callable[[], object],
    check: Callable[[], object],
    *,
    before: Callable[[], object] = lambda: None,
    where: tuple[str, ...] = OURS + LOCKS,
    returns: bool = True,
) -> int:
    """Do it again and again, with Ctrl-C at one moment after the other; return how many.

    ``check`` is called after each; nothing but a KeyboardInterrupt may come out.
    """
    moment = 0
    while True:
        before()
        moment += 1
        ctrl_c = CtrlC(moment, where=where, returns=returns)
        try:
            with ctrl_c:
                do()
        except KeyboardInterrupt:
            assert ctrl_c.struck
        if not ctrl_c.struck:
            return moment - 1
        try:
            check()
        except BaseException as error:
            error.add_note(f"after Ctrl-C at moment {moment}: {ctrl_c.struck}")
            raise


def works() -> None:
    """The pool works, and nothing is left of what was interrupted."""
    assert mirai(abs, -2).result(timeout=10) == 2


WORK: dict[str, Callable[[], object]] = {
    "submit": lambda: mirai(abs, -1),
    "result": lambda: mirai(abs, -1).result(),
    "status": lambda: status(),
}
MORE_WORK: dict[str, Callable[[], object]] = {
    "submit a closure": lambda: mirai(lambda: 1),
    "try": lambda: try_mirai(abs, -1),
    "map": lambda: mirai_map(abs, range(5)),
    "collect": lambda: mirai_map(abs, range(5)).collect(),
    "stop": lambda: mirai_map(abs, range(5)).collect(stop=True),
    "as_completed": lambda: list(mirai_map(abs, range(5)).as_completed()),
    "stream": lambda: list(mirai_map(abs, range(5), max_in_flight=2)),
    "race": lambda: race([mirai(abs, -1), mirai(abs, -2)]).result(),
    "everywhere": lambda: everywhere(abs, -1).collect(),
}


class TestAtEveryMoment:
    def test_of_work(self) -> None:
        with daemons(1):
            works()
            moments = {name: at_every_moment(do, works) for name, do in WORK.items()}
        assert all(count > 30 for count in moments.values()), moments

    @pytest.mark.thorough
    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # a finalizer's
    @pytest.mark.usefixtures("dispatchers")
    def test_of_more_work(self) -> None:
        with daemons(1):
            works()
            for name, do in (WORK | MORE_WORK).items():
                assert at_every_moment(do, works) > 30, name

    def test_of_a_cancellation(self) -> None:
        futures: list[Any] = []

        def check() -> None:
            futures[-1].cancel()  # where it came before anything was done
            works()

        with daemons(1):
            assert (
                at_every_moment(
                    lambda: futures[-1].cancel(),
                    check,
                    before=lambda: futures.append(mirai(time.sleep, 600)),
                )
                > 5
            )

    @pytest.mark.thorough
    def test_of_waiting_for_memory(self) -> None:
        """What the budget has lent is given back, wherever it was interrupted."""

        def check() -> None:
            works()
            wait_until(lambda: (memory := status().memory) is None or not memory.used)

        with daemons(1, memory=50):
            works()
            for do in (
                lambda: [mirai(len, b"x" * 40).result() for _ in range(2)],
                lambda: mirai_map(len, [b"x" * 40] * 3).collect(),
                lambda: try_mirai(len, b"x" * 40),
            ):
                assert at_every_moment(do, check) > 50

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("dispatcher", [True, False])
    def test_of_a_start(self, mark: str, dispatcher: bool) -> None:
        """Not between two calls of the standard library that start a process: that is Python's."""

        def gone() -> None:
            daemons(0)
            wait_until(lambda: not processes_marked(mark))

        def start() -> Daemons:
            return daemons(1, dispatcher=dispatcher)

        assert at_every_moment(start, gone, where=OURS, returns=False) > 20

    @pytest.mark.slow
    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("dispatcher", [True, False])
    def test_of_an_end(self, mark: str, dispatcher: bool) -> None:
        def gone() -> None:
            daemons(0)
            assert not processes_marked(mark)

        def begin() -> None:
            daemons(1, dispatcher=dispatcher)
            works()

        assert at_every_moment(lambda: daemons(0), gone, before=begin, where=OURS) > 10
