"""The README's examples are programs, and print what they say that they print.

An example says it in comments: ``# prints: 7``.  One that needs a package which the tests do not
is marked in the README by a comment before it: ``<!-- needs: fastapi -->``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")

EXAMPLE = re.compile(
    r"^### (?P<title>.+?)$(?:(?!^#).)*?(?:^<!-- needs: (?P<needs>[\w ]+) -->\n)?"
    r"^```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)

# An example that only defines an app is called once, as a server would call it.
CALL_APP = """
import asyncio

async def get(path):
    sent = []
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET",
        "scheme": "http", "path": path, "query_string": b"", "headers": [],
    }

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        sent.append(message)

    async with app.router.lifespan_context(app):
        await app(scope, receive, send)
    return sent[0]["status"], sent[1]["body"].decode()

print(*asyncio.run(get("/primes/1000")))
"""


class Example(NamedTuple):
    title: str
    needs: tuple[str, ...]
    code: str


def examples(text: str) -> list[Example]:
    """Return the Python examples below their headings."""
    return [
        Example(found["title"], tuple((found["needs"] or "").split()), found["code"])
        for found in EXAMPLE.finditer(text)
    ]


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, in a folder that is not ours."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
    )


def test_every_example_is_found() -> None:
    assert len(examples(README)) == README.count("```python\n") >= 6


@pytest.mark.parametrize("example", examples(README), ids=lambda example: example.title)
def test_example_prints_what_it_says(example: Example, tmp_path: Path) -> None:
    if "slurm" in example.needs:
        pytest.skip("it is run on a real Slurm, by test_slurm")
    missing = [name for name in example.needs if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, which is not installed")
    promised = PRINTS.findall(example.code)
    code = example.code
    if "fastapi" in example.needs:
        code, promised = code + CALL_APP, ["200 168"]
    assert promised, "the example promises nothing"
    done = run(code, tmp_path)
    assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, promised, "")


def test_the_examples_are_checked(tmp_path: Path) -> None:
    """A wrong promise, and a program that fails, would be noticed."""
    text = "### One\n\nWords.\n\n```python\nprint(1)  # prints: 2\n```\n"
    [example] = examples(text)
    assert run(example.code, tmp_path).stdout.splitlines() != PRINTS.findall(example.code)
    assert run("raise SystemExit(3)", tmp_path).returncode == 3
    assert examples("<!-- needs: a b -->\n" + text)[0].needs == ()
    assert examples(text.replace("```python", "<!-- needs: a b -->\n```python"))[0].needs == (
        "a",
        "b",
    )
