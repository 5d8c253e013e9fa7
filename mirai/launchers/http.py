"""HTTP: daemons by requests to whatever service starts programs, of one's own or of others."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from ipaddress import ip_address
from typing import IO, Any, ClassVar
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from mirai._errors import LaunchError
from mirai._limits import seconds
from mirai.launchers._base import Handle, Launcher, Order, Phase, State, states
from mirai.launchers._command import ENVIRONMENT, daemon_command
from mirai.launchers._resident import Kept
from mirai.launchers._submit import MOST

Value = str | Callable[[], str]
"""What is sent, or a function that returns it, which is called at each request."""

BODY: Mapping[str, Any] = {
    "name": "{job}",
    "command": "{command}",
    "env": {"MIRAI_JOB": "{job}", "MIRAI_KEYS": "{keys}"},
}
"""What is sent, unless something else is asked for."""
PHASES: Mapping[str, Phase] = {
    **dict.fromkeys(("pending", "queued", "created", "submitted", "starting"), Phase.PENDING),
    **dict.fromkeys(("running", "active", "started"), Phase.RUNNING),
    **dict.fromkeys(("ended", "succeeded", "completed", "finished", "done"), Phase.ENDED),
    **dict.fromkeys(("failed", "error", "crashed"), Phase.FAILED),
    **dict.fromkeys(("cancelled", "canceled", "terminated", "stopped"), Phase.CANCELLED),
    **dict.fromkeys(("timeout", "timed_out"), Phase.TIMEOUT),
    "out_of_memory": Phase.MEMORY,
    "preempted": Phase.PREEMPTED,
}
"""What services commonly call a state -> what it means; small letters."""
MOST_READ = 1_000_000
"""How much of an answer is read, in bytes."""
SHORTEST = 6
"""Shorter values than that are no secrets, and may be words of an answer."""

_PLACE = re.compile(r"\{(\w+)\}")
_IN_URL = ("name", "index", "count", "job", "id")
_GONE = (404, 410)


@dataclass(frozen=True, kw_only=True)
class HTTPLauncher(Launcher):
    """Daemons by a request to ``url`` for each.

    In the URLs, the headers and the body, ``{name}`` stands for the name of the launch, ``{index}``
    for the number of the daemon, from 0, and ``{job}`` for both (``NAME-0``), which the daemon
    is to find in ``MIRAI_JOB``.  In headers and body ``{command}`` is what the service is to run,
    as a line for a shell, with ``python`` as the interpreter, and ``{keys}`` is what it
    is to put into the environment of that, as ``MIRAI_KEYS``.  A body that says ``{count}``
    is sent once for a launch: then the service starts so many.

    ``body`` is sent as JSON; a str or bytes as it is, with the places filled.  A value in
    ``headers`` or in ``body``, or all of it, may be a function of nothing: it is called at each
    request, for a token that expires, say.

    The answer is JSON; ``id`` says where in it the service's name of the job is (``"job.id"``).
    With ``status_url``, in which that is ``{id}``, the job's state is asked by GET: ``status`` says
    where in the answer it is, and ``phases`` what the service's words mean, besides ``PHASES``.
    With ``terminate_url`` it is ended by ``terminate_method``; without, a daemon ends with its
    pool.  What was started by one request is ended only as a whole.

    The request holds keys: https is wanted, but on this machine or where ``allow_http`` is true.
    Redirections are not followed.  ``timeout`` is how long the service has to answer, in seconds
    or like ``"1m"``.

    A launcher holds nothing: what the service calls a job is kept in this module's memory, by the
    id of its handle, and is not known in other processes.  Raises TypeError or ValueError.
    """

    url: str = field(kw_only=False)
    method: str = "POST"
    headers: Mapping[str, Value] = field(default_factory=dict, repr=False)
    body: Any = field(default_factory=lambda: BODY, repr=False)
    id: str = "id"
    status_url: str | None = None
    status: str = "status"
    phases: Mapping[str, Phase] = field(default_factory=dict)
    terminate_url: str | None = None
    terminate_method: str = "DELETE"
    python: str = "python3"
    timeout: float | str = 30.0
    allow_http: bool = False

    patience: ClassVar[float] = 1_800.0
    interval: ClassVar[float] = 15.0

    def __post_init__(self) -> None:
        for name in ("url", "status_url", "terminate_url"):
            url = getattr(self, name)
            if url is not None:
                _check_url(name, url, self.allow_http)
        if "{id}" in self.url:
            raise ValueError("url: the id is known only afterwards")
        if not isinstance(self.headers, Mapping):
            raise TypeError(f"headers must be a dict, not {type(self.headers).__name__}")
        for word, phase in self.phases.items():
            if not isinstance(word, str) or not isinstance(phase, Phase):
                raise TypeError(f"phases must be of Phase, not {phase!r}")
        seconds("timeout", self.timeout)

    # ── requests ─────────────────────────────────────────────────────────────────────────

    def request(self, order: Order, index: int = 0) -> tuple[str, dict[str, str], bytes]:
        """Return the URL, the headers and the body that ask for a daemon, keys and all."""
        words = {
            **_words(order.name, index),
            "count": str(order.count),
            "command": daemon_command(ENVIRONMENT, self.python),
            "keys": order.keys,
        }
        body = _filled(self.body, words)
        headers = {"Content-Type": "application/json"} if not isinstance(body, (str, bytes)) else {}
        headers |= {name: _filled(value, words) for name, value in self.headers.items()}
        if isinstance(body, str):
            data = body.encode()
        else:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return _fill_url(self.url, words), headers, data

    def _is_for_all(self) -> bool:
        """Whether one request starts all daemons of a launch."""
        return any("{count}" in text for text in _texts(self.body))

    # ── launching ────────────────────────────────────────────────────────────────────────

    def launch(self, order: Order) -> list[Handle]:
        """Ask for them.  Raises LaunchError with the service's own words if it refuses."""
        jobs = [Handle(f"{order.name}-{index}", order.name) for index in range(order.count)]
        groups = [jobs] if self._is_for_all() else [[handle] for handle in jobs]
        try:
            for index, handles in enumerate(groups):
                self._start(order, index, handles)
        except BaseException:
            self.recall(order.name)  # all of them, or none
            raise
        return jobs

    def _start(self, order: Order, index: int, handles: Sequence[Handle]) -> None:
        url, headers, data = self.request(order, index)
        secrets = _secrets(order.keys, headers)
        answer = self._send(self.method, url, headers, data, secrets)
        wants = any("{id}" in (each or "") for each in (self.status_url, self.terminate_url))
        found = _at(answer, self.id)
        if wants and not isinstance(found, (str, int)):
            said = _without(json.dumps(answer), secrets)[:MOST]
            raise LaunchError(f"there is no {self.id!r} in the answer of {_place(url)}: {said}")
        job = _Job(str(found), index, tuple(handles))
        for handle in handles:
            _jobs.add(handle, job)

    # ── and after that ───────────────────────────────────────────────────────────────────

    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Ask how each request's jobs stand, if there is a URL for that."""
        if self.status_url is None:
            return states(handles, {})
        known: dict[str, State] = {}
        for job in _jobs_of(handles):
            state = self._state(job, self.status_url)
            known |= {handle.id: state for handle in job.handles}
        return states(handles, known)

    def _state(self, job: _Job, url: str) -> State:
        try:
            answer = self._ask("GET", url, job)
        except _RefusedError as error:
            if error.status in _GONE:
                return State(Phase.UNKNOWN, "the service does not know it")
            raise
        word = str(_at(answer, self.status))
        phases = {**PHASES, **{name.lower(): phase for name, phase in self.phases.items()}}
        return State(phases.get(word.lower(), Phase.UNKNOWN), word)

    def terminate(self, handles: Sequence[Handle]) -> None:
        """End those whose request's jobs are all among them, if there is a URL for that."""
        wanted = set(handles)
        for job in _jobs_of(handles):
            if self.terminate_url is not None and wanted.issuperset(job.handles):
                self._end(job, self.terminate_url)

    def recall(self, name: str) -> None:
        """End all that was started of a launch, if there is a URL for that."""
        self.terminate(_jobs.launch(name))

    def _end(self, job: _Job, url: str) -> None:
        try:
            self._ask(self.terminate_method, url, job)
        except _RefusedError as error:
            if error.status not in _GONE:
                raise

    def _ask(self, method: str, url: str, job: _Job) -> Any:
        words = {**_words(job.handles[0].launch, job.index), "count": str(len(job.handles))}
        headers = {name: _filled(value, words) for name, value in self.headers.items()}
        url = _fill_url(url, {**words, "id": job.id})
        return self._send(method, url, headers, None, _secrets("{}", headers))

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        data: bytes | None,
        secrets: Sequence[str],
    ) -> Any:
        """Return the JSON of the answer, or None.  Raises LaunchError without a secret in it."""
        request = Request(url, data, dict(headers), method=method)
        try:
            with _OPENER.open(request, timeout=seconds("timeout", self.timeout)) as answer:
                text = answer.read(MOST_READ)
        except HTTPError as error:
            with error:
                said = _without(_text_of(error), secrets)[:MOST] or "nothing"
            words = f"{method} {_place(url)}: {error.code} {error.reason}, and said: {said}"
            raise _RefusedError(words, error.code) from None
        except (OSError, HTTPException, ValueError) as error:
            said = _without(str(error), secrets)
            raise LaunchError(f"{method} {_place(url)}: {said}") from None
        try:
            return json.loads(text)
        except ValueError:
            return None


class _RefusedError(LaunchError):
    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


class _Stay(HTTPRedirectHandler):
    """Keys and tokens are for the service that they were meant for."""

    def redirect_request(self, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002
        return None


_OPENER = build_opener(_Stay)


# ── what was started ─────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class _Job:
    """What one request has started."""

    id: str
    """The service's name of it."""
    index: int
    handles: tuple[Handle, ...]


_jobs: Kept[_Job] = Kept()


def _jobs_of(handles: Sequence[Handle]) -> list[_Job]:
    return list(dict.fromkeys(_jobs.of(handles).values()))


# ── pure ─────────────────────────────────────────────────────────────────────────────────


def _words(name: str, index: int) -> dict[str, str]:
    return {"name": name, "index": str(index), "job": f"{name}-{index}"}


def _filled(value: Any, words: Mapping[str, str]) -> Any:
    """Return a value with its places filled; what a function returns is taken as it is."""
    if callable(value):
        return value()
    if isinstance(value, str):
        return _PLACE.sub(lambda match: words.get(match[1], match[0]), value)
    if isinstance(value, bytes):
        return _filled(value.decode(), words).encode()
    if isinstance(value, Mapping):
        return {name: _filled(each, words) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(each, words) for each in value]
    return value


def _fill_url(url: str, words: Mapping[str, str]) -> str:
    return _PLACE.sub(lambda match: quote(words[match[1]], safe=""), url)


def _texts(value: Any) -> Iterator[str]:
    """Yield all text in a body."""
    if isinstance(value, bytes):
        yield value.decode()
    elif isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each)


def _at(answer: Any, path: str) -> Any:
    """Return what is at a path like ``"jobs.0.id"`` in an answer, or None."""
    for part in path.split("."):
        if isinstance(answer, Mapping):
            answer = answer.get(part)
        elif isinstance(answer, list) and part.isdigit() and int(part) < len(answer):
            answer = answer[int(part)]
        else:
            return None
    return answer


def _secrets(keys: str, headers: Mapping[str, str]) -> list[str]:
    """Return what must not be told: the keys, as a whole or one, and what headers hold."""
    try:
        parts = list(_texts(json.loads(keys)))
    except ValueError:
        parts = []
    held = [value for name, value in headers.items() if name.lower() != "content-type"]
    held += [word for value in held for word in value.split()]  # "Bearer …"
    found = [keys, *parts, *held]
    found += [json.dumps(each)[1:-1] for each in found]
    return sorted({each for each in found if len(each) >= SHORTEST}, key=len, reverse=True)


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "…")
    return text


def _text_of(answer: IO[bytes]) -> str:
    try:
        return answer.read(MOST_READ).decode(errors="replace").strip()
    except (OSError, HTTPException):
        return ""


def _place(url: str) -> str:
    """Return a URL without what may be secret in it: a password, or a token of the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _check_url(name: str, url: object, allow_http: bool) -> None:
    if not isinstance(url, str):
        raise TypeError(f"{name} must be a str, not {type(url).__name__}")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{name} must begin with https://, not {url!r}")
    if parts.scheme == "http" and not (allow_http or _is_here(parts.hostname)):
        raise ValueError(
            f"{name}: keys would be sent for all to read; use https, or say allow_http=True"
        )
    for place in _PLACE.findall(url):
        if place not in _IN_URL:
            raise ValueError(f"{name} is no place for {{{place}}}: URLs are logged")


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
