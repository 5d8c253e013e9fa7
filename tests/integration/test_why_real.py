"""Real pools in which tasks wait for what is not there: the status says why, and so does a log."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from conftest import Command, processes_marked, wait_until, zombies

from mirai import DispatcherLost, _pool, _why, connect, daemons, everywhere, mirai, status

Log = pytest.LogCaptureFixture


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have channels look often, and be impatient."""
    monkeypatch.setattr(_why, "LOOK", 0.1)
    monkeypatch.setattr(_pool, "ANSWER", 0.1)


def told(log: Log, text: str) -> int:
    """Return how many warnings there were that contain this."""
    records = [record for record in log.records if record.name == "mirai"]  # and no refusals
    assert all(record.levelno == logging.WARNING for record in records)
    return sum(text in record.getMessage() for record in records)


def says(text: str) -> bool:
    return any(text in why for why in status().why)


def test_the_last_words_of_a_daemon_that_could_not_join(
    dispatchers: int, tmp_path: Path, caplog: Log
) -> None:
    """The first one fails, and the second one takes its time."""
    failed = tmp_path / "failed"

    def init() -> None:
        if failed.exists():
            time.sleep(600)
        failed.touch()
        raise ImportError("no module named torch")

    pool = daemons(1, init=init)
    assert (pool._process is not None) == bool(dispatchers)
    task = mirai(abs, -1)
    wait_until(lambda: says("ended with exit code 1 and printed:\n"))
    [why] = status().why
    assert why.startswith("no daemon has joined yet; 1 local one is to come; ")
    assert why.endswith("ImportError: no module named torch")
    assert "waiting: no daemon has joined yet" in str(status())
    wait_until(lambda: told(caplog, "no daemon has joined yet"))
    assert not task.done()
    assert told(caplog, f"tasks of profile {pool.profile!r} wait")


def test_a_daemon_that_is_not_wanted_any_more_has_not_failed(tmp_path: Path, mark: str) -> None:
    def init() -> None:
        (tmp_path / str(os.getpid())).touch()
        time.sleep(600)

    with daemons(2, init=init, dispatcher=False) as pool:
        wait_until(lambda: len(list(tmp_path.iterdir())) == 2)
        pool.scale(0)
        wait_until(lambda: not (processes_marked(mark) or zombies()))
        task = mirai(abs, -1)
        assert pool.status().why == (
            "no daemon has joined yet, and none is kept here: daemons have to join from elsewhere",
        )
        task.cancel()


def test_tags_that_nobody_carries_and_a_budget_that_is_used_up(caplog: Log) -> None:
    with daemons(1, url="tcp://127.0.0.1:0", memory="10kB", tags=["cpu"]) as pool:
        pool.wait(1)
        large = mirai.options(tags=["gpu"])(len, bytes(20_000))
        wait_until(lambda: told(caplog, 'the tag "gpu", which tasks want'))
        assert says('no daemon carries the tag "gpu"')
        others: list[int] = []
        thread = threading.Thread(target=lambda: others.append(mirai(abs, -1).result()))
        thread.start()
        wait_until(lambda: told(caplog, "the memory budget of 10,000 bytes is used up"))
        assert says("1 more wait to be submitted")
        large.cancel()
        thread.join()
        assert others == [1]
        assert pool.status().why == ()
    assert told(caplog, "") == 2  # each once


def test_a_call_for_a_daemon_that_does_not_come(tmp_path: Path) -> None:
    first = tmp_path / "first"

    def init() -> None:
        try:
            first.touch(exist_ok=False)
        except FileExistsError:
            time.sleep(600)

    with daemons(2, init=init) as pool:
        pool.wait(1)
        one, other = everywhere(abs, -1)
        assert one.result() == 1
        assert says("1 of 2 daemons have joined, and a call is for every one")
        other.cancel()
        wait_until(lambda: not pool.status().why)


def test_nobody_is_warned_of_tasks_that_only_take_their_time(caplog: Log) -> None:
    with daemons(1) as pool:
        pool.wait(1)
        tasks = [mirai(time.sleep, 0.01) for _ in range(50)]
        assert pool.status().why == ()
        for task in tasks:
            task.result()
    assert not told(caplog, "")


@pytest.fixture
def standing(command: Command, tmp_path: Path) -> subprocess.Popen[str]:
    """A dispatcher without daemons that listens."""
    process = command("dispatcher", "--connection-file", tmp_path / "pool.json")
    assert process.stdout is not None
    assert "listening" in process.stdout.readline()
    return process


def test_a_dispatcher_that_does_not_answer(
    standing: subprocess.Popen[str], command: Command, tmp_path: Path, caplog: Log
) -> None:
    path = tmp_path / "pool.json"
    url = json.loads(path.read_text())["url"]
    with connect(path) as pool:
        task = mirai(abs, -1)
        wait_until(lambda: says("none is kept here: daemons have to join from elsewhere"))
        os.kill(standing.pid, signal.SIGSTOP)
        silent = f"the dispatcher at {url} has not answered for 0.1 s"
        wait_until(lambda: says(silent))
        look = status()
        assert (look.awaiting, look.connections) == (1, 0)
        wait_until(lambda: told(caplog, f"the dispatcher at {url} has not answered for"))
        with pytest.raises(TimeoutError, match=r"has not said within 0\.01 s that 3 daemons"):
            pool.wait(3, timeout=0.01)
        os.kill(standing.pid, signal.SIGCONT)
        wait_until(lambda: not says(silent))
        command("daemon", path)
        assert task.result(30) == 1
        wait_until(lambda: status().why == ())


def test_handlers_that_fail_when_it_ends_leave_no_future_unresolved() -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise RuntimeError(record.getMessage())

    loggers, handler = [logging.getLogger(name) for name in ("mirai", "dispatcher")], Broken()
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    try:
        with daemons(1, "tcp://127.0.0.1:0", dispatcher=False) as pool:
            host, _, port = pool.url.removeprefix("tcp://").rpartition(":")
            socket.create_connection((host, int(port))).close()  # it is refused, and that is told
            wait_until(lambda: status().refusals.strangers)
            assert mirai(abs, -1).result(20) == 1
        with daemons(1) as pool:
            task = mirai(time.sleep, 600)
            assert pool._process is not None
            os.kill(pool._process.pid, signal.SIGKILL)
            assert isinstance(task.exception(20), DispatcherLost)
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
            logger.setLevel(logging.NOTSET)


def test_a_handler_that_fails_ends_nothing() -> None:
    called = threading.Event()

    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            called.set()
            raise RuntimeError(record.getMessage())

    logger, handler = logging.getLogger("mirai"), Broken()
    logger.addHandler(handler)
    try:
        with daemons(url="tcp://127.0.0.1:0") as pool:
            task = mirai(abs, -1)
            assert called.wait(20)
            pool.scale(1)
            assert task.result(20) == 1
    finally:
        logger.removeHandler(handler)
