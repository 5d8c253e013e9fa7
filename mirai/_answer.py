"""How a task ended: a value, or an error, that whoever asks first reads, in his own thread."""

from __future__ import annotations

from typing import Any, NoReturn, Protocol

from dispatcher.messages import Blob, Kind
from mirai._errors import RemoteError, SerializationError
from mirai._serialize import unpack


class Answer(Protocol):
    """How a task ended, not yet unpickled."""

    @property
    def is_error(self) -> bool:
        """Whether ``read`` raises."""

    def read(self) -> Any:
        """Return the value, or raise the error."""


class Value:
    """The answer of a mirai that is settled with an object of this process."""

    is_error = False

    def __init__(self, value: object) -> None:
        self.value = value

    def read(self) -> Any:
        return self.value


class Failure:
    """The answer of a mirai that fails for a reason found in this process."""

    is_error = True

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def read(self) -> Any:
        raise self.error


class Pickled:
    """The answer of a task, as the daemon sent it."""

    __slots__ = ("_blobs", "_payload", "is_error")

    def __init__(self, kind: Kind, payload: bytes, blobs: tuple[Blob, ...] = ()) -> None:
        self.is_error = kind is Kind.ERROR
        self._payload = payload
        self._blobs = blobs

    def read(self) -> Any:
        """Unpickle it: return the value, or raise the error."""
        if not self.is_error:
            return unpickled(self._payload, self._blobs)
        match unpickled(self._payload, self._blobs, "error"):
            case [str() as kind, str() as message, str() as trace, bytes() | None as pickled]:
                _raise(kind, message, trace, pickled)
        raise SerializationError("the task's error is none that a daemon of ours would tell")


def unpickled(payload: bytes, blobs: tuple[Blob, ...] = (), what: str = "result") -> Any:
    """Return what a daemon has pickled.  Raises SerializationError."""
    try:
        return unpack(payload, blobs, keep_classes=True)
    except (Exception, SystemExit) as error:
        raise SerializationError(
            f"the task's {what} cannot be unpickled here: {type(error).__name__}: {error}"
        ) from error


def error_of(type_name: str, message: str, traceback: str, pickled: bytes | None) -> Exception:
    """Return the exception that a daemon tells of, with where it arose as its cause."""
    try:
        _raise(type_name, message, traceback, pickled)
    except Exception as error:
        return error


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
