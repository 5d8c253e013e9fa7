"""What is asked of an HTTP service: pure."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mirai.launchers import HTTPLauncher, Order
from mirai.launchers.http import _at, _secrets, _without

KEYS = '{"url": "tcp://h:1", "keys": {"daemon": {"secret": "0123456789abcdef"}}}'
ORDER = Order(2, "mirai-x", KEYS, "/d")
COMMAND = "python3 -P -m mirai daemon env:MIRAI_KEYS"


def test_what_is_sent_by_default() -> None:
    url, headers, body = HTTPLauncher(url="https://h/jobs?n={name}").request(ORDER, 1)
    assert (url, headers) == ("https://h/jobs?n=mirai-x", {"Content-Type": "application/json"})
    assert json.loads(body) == {
        "name": "mirai-x-1",
        "command": COMMAND,
        "env": {"MIRAI_JOB": "mirai-x-1", "MIRAI_KEYS": KEYS},
    }


def test_functions_are_called_at_each_request() -> None:
    tokens = iter(["{name}", "two"])
    launcher = HTTPLauncher(
        url="https://h",
        headers={"Authorization": lambda: f"Bearer {next(tokens)}", "X-Job": "{job}"},
        body={"a": [lambda: "b", "{count}", 3, None, "{other} {}"]},
    )
    _, headers, body = launcher.request(ORDER)
    assert headers["Authorization"] == "Bearer {name}"
    assert headers["X-Job"] == "mirai-x-0"
    assert json.loads(body) == {"a": ["b", "2", 3, None, "{other} {}"]}
    assert launcher.request(ORDER)[1]["Authorization"] == "Bearer two"


@pytest.mark.parametrize("body", ["run {command}", b"run {command}"])
def test_a_body_of_text(body: Any) -> None:
    _, headers, data = HTTPLauncher(url="https://h", body=body).request(ORDER)
    assert (headers, data) == ({}, f"run {COMMAND}".encode())


def test_no_secret_is_told() -> None:
    secrets = _secrets(KEYS, {"Authorization": "Bearer t0ken-t0ken", "Content-Type": "a/json-text"})
    said = json.dumps(
        {"got": KEYS, "by": "t0ken-t0ken", "as": "0123456789abcdef", "x": "a/json-text"}
    )
    told = _without(said, secrets)
    assert json.loads(told) == {"got": "…", "by": "…", "as": "…", "x": "a/json-text"}
    launcher = HTTPLauncher(url="https://h", headers={"Authorization": "t0ken"})
    assert "t0ken" not in repr(launcher)


@pytest.mark.parametrize(
    ("path", "found"),
    [("id", 7), ("job.id", "x"), ("jobs.1.id", "b"), ("jobs.2.id", None), ("id.x", None)],
)
def test_paths(path: str, found: Any) -> None:
    answer = {"id": 7, "job": {"id": "x"}, "jobs": [{"id": "a"}, {"id": "b"}]}
    assert _at(answer, path) == found


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"url": "http://example.org"}),
        (ValueError, {"url": "ftp://example.org"}),
        (ValueError, {"url": "https://h/{keys}"}),
        (ValueError, {"url": "https://h/{id}"}),
        (ValueError, {"status_url": "http://example.org/{id}"}),
        (TypeError, {"terminate_url": 3}),
        (TypeError, {"headers": ["a"]}),
        (TypeError, {"phases": {"up": "running"}}),
        (ValueError, {"timeout": 0}),
    ],
)
def test_bad_options_are_refused(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error):
        HTTPLauncher(**{"url": "https://h"} | options)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://localhost/", "http://[::1]:1/"])
def test_this_machine_needs_no_https(url: str) -> None:
    HTTPLauncher(url=url)
    HTTPLauncher(url="http://example.org", allow_http=True)
