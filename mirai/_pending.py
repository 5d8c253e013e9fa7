"""The mirais that have been sent and not answered, by task id.

One thread owns an instance.  A mirai leaves it exactly once: with its outcome, because it was
cancelled, or because the connection is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import time
from typing import Any, NoReturn

from dispatcher.messages import Blob, Crash, Kind, Outcome
from mirai._errors import (
    DaemonCrashed,
    DispatcherLost,
    MiraiError,
    RemoteError,
    SerializationError,
    TaskCancelled,
    TaskTimeout,
    again,
)
from mirai._future import Failure, Mirai
from mirai._serialize import unpack
from mirai._story import events

_DECLINED = "the dispatcher is shutting down, and takes no more tasks"


class Pending:
    """Task id -> mirai."""

    def __init__(self) -> None:
        self._mirais: dict[int, Mirai[Any]] = {}

    def __len__(self) -> int:
        return len(self._mirais)

    def add(self, mirai: Mirai[Any]) -> None:
        """Wait for this mirai's outcome."""
        self._mirais[mirai.id] = mirai

    def get(self, id: int) -> Mirai[Any] | None:
        """Return a mirai that is waited for; None if it is not."""
        return self._mirais.get(id)

    def remove(self, id: int) -> bool:
        """Wait for it no longer; return whether it was waited for."""
        return self._mirais.pop(id, None) is not None

    def since(self, id: int) -> list[Mirai[Any]]:
        """Return the mirais that are younger than this id."""
        return [mirai for number, mirai in self._mirais.items() if number > id]

    def settle(self, outcomes: Iterable[Outcome]) -> None:
        """Settle the mirais of these outcomes.  Unknown ids are late answers, and dropped."""
        now = time()
        for outcome in outcomes:
            for id, payload in enumerate(outcome.following, outcome.id + 1):
                if (mirai := self._mirais.pop(id, None)) is not None:
                    mirai.settle(Pickled(outcome.kind, payload), now)
            mirai = self._mirais.pop(outcome.id, None)
            if mirai is None:
                continue
            if outcome.log:
                mirai._log = outcome.log
            if outcome.story:
                mirai._told = events(outcome.story, now)
            if outcome.kind is Kind.VALUE or outcome.kind is Kind.ERROR:
                mirai.settle(Pickled(outcome.kind, outcome.payload, outcome.blobs), now)
            elif outcome.kind is Kind.CANCELLED:
                mirai.settle(
                    Failure(TaskCancelled(f"task {mirai.id} ({mirai.name}) was cancelled")),
                    cancelled=True,
                )
            elif outcome.kind is Kind.TIMEOUT:
                late = TaskTimeout(f"task {mirai.id} ({mirai.name}) did not end in time")
                mirai.settle(_with_story(late, mirai))
            elif outcome.kind is Kind.DECLINED:
                mirai.settle(Failure(DispatcherLost(f"{mirai!r}: {_DECLINED}")))
            else:
                crash = _crashed(outcome.crash or Crash("the daemon died"))
                mirai.settle(_with_story(crash, mirai))

    def lose(self, error: MiraiError, *, cancelled: bool = False) -> None:
        """Settle all of them with ``error``."""
        mirais, self._mirais = self._mirais, {}
        for mirai in mirais.values():
            mirai.settle(Failure(again(error)), cancelled=cancelled)


class Pickled:
    """The answer of a task, as the daemon sent it."""

    __slots__ = ("_blobs", "_payload", "is_error")

    def __init__(self, kind: Kind, payload: bytes, blobs: tuple[Blob, ...] = ()) -> None:
        self.is_error = kind is Kind.ERROR
        self._payload = payload
        self._blobs = blobs

    def read(self) -> Any:
        """Unpickle it: return the value, or raise the error."""
        try:
            answer = unpack(self._payload, self._blobs, keep_classes=True)
        except (Exception, SystemExit) as error:
            what = "error" if self.is_error else "result"
            raise SerializationError(
                f"the task's {what} cannot be unpickled here: {type(error).__name__}: {error}"
            ) from error
        if not self.is_error:
            return answer
        match answer:
            case [str(), str(), str(), bytes() | None]:
                _raise(*answer)
        raise SerializationError("the task's error is none that a daemon of ours would tell")


def _raise(type_name: str, message: str, traceback: str, pickled: bytes | None) -> NoReturn:
    """Raise the task's own exception, with where it arose as its cause."""
    told = RemoteError(type_name, message, traceback)
    if pickled is None:
        raise told
    try:
        error = unpack(pickled, (), keep_classes=True)
    except Exception:
        raise told from None  # its class cannot be found here
    if not isinstance(error, Exception):
        raise told
    raise error from told


def _with_story(error: MiraiError, mirai: Mirai[Any]) -> Failure:
    """Return the answer of a mirai that fails with this, which tells how it came to that."""
    error.add_note(str(mirai.story_with(mirai._told)))
    return Failure(error)


def _crashed(crash: Crash) -> DaemonCrashed:
    return DaemonCrashed(
        crash.reason,
        exit_status=crash.exit,
        host=crash.host,
        pid=crash.pid,
        attempt=crash.attempt,
        output=crash.tail,
    )
