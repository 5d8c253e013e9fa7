"""When a task runs again, and where.  Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mirai.controllers._status import Status


@dataclass(frozen=True, slots=True)
class Retry:
    """How often a task may run again, after each kind of bad end.

    ``crashes``: after its worker has died, so that it is not known how far it came; ``errors``:
    after an exception of the classes in ``on``; ``timeouts``: after its time was over.  Each
    attempt has the whole time.  ``backoff``: seconds before the second attempt, and twice as long
    before each that follows.  An exception that cannot be pickled is a RemoteError here.

    By default nothing runs twice.  Raises TypeError or ValueError.
    """

    crashes: int = 0
    errors: int = 0
    on: tuple[type[BaseException], ...] | type[BaseException] = (Exception,)
    timeouts: int = 0
    backoff: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crashes", "errors", "timeouts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < 0:
                raise ValueError(f"{name} must not be negative: {value}")
        kinds = self.on if isinstance(self.on, tuple) else (self.on,)
        for kind in kinds:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise TypeError(f"on must hold classes of exceptions, not {kind!r}")
        object.__setattr__(self, "on", kinds)
        if not isinstance(self.backoff, (int, float)) or isinstance(self.backoff, bool):
            raise TypeError(f"backoff must be a number of seconds, not {self.backoff!r}")
        if not 0 <= self.backoff <= 1e9:
            raise ValueError(
                f"backoff must be a number of seconds, and not negative: {self.backoff}"
            )

    def __bool__(self) -> bool:
        """Whether anything may run again."""
        return bool(self.crashes or self.errors or self.timeouts)

    def pause(self, ends: Sequence[Status], error: BaseException | None) -> float | None:
        """Return after how many seconds it runs again; None: not at all.

        ``ends`` is how its attempts have ended, and ``error`` what the last one has raised.
        """
        allowed = {
            Status.CRASH: self.crashes,
            Status.TIMEOUT: self.timeouts,
            Status.ERROR: self.errors if isinstance(error, self.on) else 0,
        }
        last = ends[-1]
        if ends.count(last) > allowed.get(last, 0):
            return None
        return float(self.backoff * 2 ** min(len(ends) - 1, 60))


def rung(crashes: int, most: Sequence[int]) -> int | None:
    """Return which of a chain of controllers has a task that has crashed so often in a row.

    ``most`` is how many crashes each of them stands before the next one has its turn; None: all
    have had theirs.
    """
    for index, limit in enumerate(most):
        if crashes < limit:
            return index
        crashes -= limit
    return None
