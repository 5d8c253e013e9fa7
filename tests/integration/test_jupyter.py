"""Cells of a real Jupyter kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import MARK, ROOT, processes_marked, wait_until
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

TIMEOUT = 30


class Notebook:
    """A kernel, and what its cells say."""

    def __init__(self, kernel: KernelManager, client: Any, folder: Path) -> None:
        self.kernel = kernel
        self.client = client
        self.folder = folder

    def begin(self, cell: str) -> str:
        """Send a cell, without waiting for it; return its number."""
        return str(self.client.execute(cell))

    def end(self, number: str) -> tuple[str, str]:
        """Wait until a cell has ended; return its error's name and what it has said."""
        said, error = [], ""
        while True:
            message = self.client.get_iopub_msg(timeout=TIMEOUT)
            if message["parent_header"].get("msg_id") != number:
                continue
            content = message["content"]
            match message["msg_type"]:
                case "stream":
                    said.append(content["text"])
                case "execute_result":
                    said.append(content["data"]["text/plain"])
                case "error":
                    error = content["ename"]
                    said += content["traceback"]
                case "status" if content["execution_state"] == "idle":
                    return error, "".join(said).strip()

    def run(self, cell: str) -> str:
        """Run a cell that must not fail; return what it says."""
        error, said = self.end(self.begin(cell))
        assert not error, said
        return said


@pytest.fixture(scope="module", autouse=True)
def loop() -> Iterator[None]:
    """Make the event loop that jupyter_client keeps, so that it is no leak of the first test."""
    made = ensure_event_loop()
    yield
    made.close()


@pytest.fixture
def notebook(tmp_path: Path, mark: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Notebook]:
    for variable in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        folder = tmp_path / variable.lower()
        folder.mkdir()
        monkeypatch.setenv(variable, str(folder))
    kernel = KernelManager(kernel_name="python3")
    kernel.start_kernel(env=os.environ | {"PYTHONPATH": str(ROOT), MARK: mark}, cwd=str(tmp_path))
    client = kernel.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=TIMEOUT)
        notebook = Notebook(kernel, client, tmp_path)
        notebook.run("from mirai import daemons, mirai, mirai_map; pool = daemons(2)")
        yield notebook
    finally:
        client.stop_channels()
        kernel.shutdown_kernel(now=True)
        kernel.cleanup_resources()


def test_a_function_is_defined_in_a_cell_and_redefined(notebook: Notebook) -> None:
    notebook.run("import os\nbase = 1\ndef f(x): return x + base, os.getpid()")
    notebook.run("futures = [mirai(f, x) for x in range(20)]")
    notebook.run("values, pids = zip(*[future.result() for future in futures])")
    assert notebook.run("sum(values), os.getpid() in pids") == "(210, False)"
    notebook.run("def f(x): return x * base")
    assert notebook.run("mirai(f, 20).result()") == "20"
    notebook.run("base = 3")
    assert notebook.run("mirai(f, 20).result()") == "60"
    assert notebook.run("mirai_map(f, range(4)).collect()") == "[0, 3, 6, 9]"
    assert notebook.run("mirai(lambda: f(5) + base).result()") == "18"


def test_await_at_the_top_of_a_cell(notebook: Notebook) -> None:
    assert notebook.run("await mirai(pow, 2, 10)") == "1024"
    assert notebook.run("await mirai_map(abs, [-1, 2])") == "[1, 2]"
    assert notebook.run("print([v async for _, v in mirai_map(abs, [-1, 2])])") == "[1, 2]"
    notebook.run("import asyncio")
    assert notebook.run("sum(await asyncio.gather(*[mirai(abs, -1)] * 50))") == "50"
    assert notebook.run("async def double(x): return 2 * x\nawait mirai(double, 4)") == "8"
    error, said = notebook.end(notebook.begin("await mirai(lambda: 1 / 0)"))
    assert error == "ZeroDivisionError"
    assert "<lambda>" in said


@pytest.mark.thorough
def test_a_class_of_a_cell_comes_back_as_that_class(notebook: Notebook) -> None:
    notebook.run("class Point:\n    def __init__(self, x): self.x = x")
    notebook.run("def make(x): return Point(x)")
    notebook.run("point = mirai(make, 3).result()")
    assert notebook.run("type(point) is Point, point.x") == "(True, 3)"
    notebook.run("class Point:\n    def __init__(self, x): self.x = 10 * x")
    notebook.run("newer = await mirai(make, 3)")
    assert (
        notebook.run("type(newer) is Point, newer.x, type(point) is Point") == "(True, 30, False)"
    )


HOLD = """
import pathlib, time
def hold(name):
    pathlib.Path(name).touch()
    time.sleep(600)
"""


def test_interrupting_a_cell_that_waits_for_a_result(notebook: Notebook) -> None:
    notebook.run(HOLD)
    cell = notebook.begin("task = mirai(hold, 'begun')\ntask.result()")
    wait_until((notebook.folder / "begun").exists)
    notebook.kernel.interrupt_kernel()
    assert notebook.end(cell)[0] == "KeyboardInterrupt"
    assert notebook.run("task.done()") == "False"  # only the waiting has ended
    assert notebook.run("mirai_map(abs, [-1, -2]).collect()") == "[1, 2]"
    assert notebook.run("task.cancel(), task.cancelled()") == "(True, True)"
    assert notebook.run("mirai_map(abs, range(-9, 0)).collect()[0]") == "9"


def test_interrupting_a_cell_that_awaits(notebook: Notebook) -> None:
    notebook.run(HOLD)
    cell = notebook.begin("task = mirai(hold, 'begun')\nawait task")
    wait_until((notebook.folder / "begun").exists)
    notebook.kernel.interrupt_kernel()
    notebook.client.kernel_info()  # ipykernel sees the interrupt in its loop's next turn
    assert notebook.end(cell)[0] == "CancelledError"
    assert notebook.run("task.cancelled()") == "True"
    assert notebook.run("await mirai_map(abs, range(-9, 0))").startswith("[9, 8")


def test_shutting_the_kernel_down_ends_the_pool(notebook: Notebook, mark: str) -> None:
    notebook.run(HOLD)
    notebook.run("task = mirai(hold, 'begun')")
    wait_until((notebook.folder / "begun").exists)
    assert len(processes_marked(mark)) >= 4  # the kernel, the dispatcher, two daemons
    notebook.kernel.shutdown_kernel()
    wait_until(lambda: not processes_marked(mark))
