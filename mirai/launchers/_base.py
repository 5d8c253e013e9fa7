"""What every launcher is: it starts daemons somewhere else, and knows a place and keys, no task.

A launcher is a frozen dataclass of options, with no state of its own: any of its methods may be
called in any thread, several at once, as ``asyncio.to_thread`` does.  They take as long as the
platform takes to answer, and raise LaunchError with the platform's own words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from importlib.metadata import entry_points
from typing import Any, ClassVar

ENTRY_POINTS = "mirai.launchers"
"""The group of entry points by which a package adds launchers of its own: name -> class."""


class Phase(Enum):
    """Where a job stands."""

    PENDING = "pending"
    """It waits for a place."""
    RUNNING = "running"
    ENDED = "ended"
    """By itself, without an error."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    """By its owner, or by somebody who may."""
    TIMEOUT = "timeout"
    """Its time was over."""
    MEMORY = "out of memory"
    PREEMPTED = "preempted"
    """Its place was given to another job, or was lost."""
    UNKNOWN = "unknown"
    """The platform does not say: it has forgotten the job, or does not know it yet."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more comes of it."""
        return self not in (Phase.PENDING, Phase.RUNNING, Phase.UNKNOWN)


@dataclass(frozen=True, slots=True)
class State:
    """What a platform says of a job."""

    phase: Phase
    detail: str = ""
    """In its own words, such as ``"PENDING (Resources)"``."""
    exit: int | None = None
    """The exit code, or minus the number of a signal; None where it is not known."""

    def __str__(self) -> str:
        return f"{self.phase.value}: {self.detail}" if self.detail else self.phase.value


@dataclass(frozen=True, slots=True)
class Order:
    """What to launch: so many daemons, which dial in and prove the launch's keys."""

    count: int
    name: str
    """Unlike that of any other launch; letters, digits and hyphens, not longer than 40."""
    keys: str = field(repr=False)
    """A secret: what ``mirai daemon`` reads, one line of JSON.  It is for a file that only its
    user can read, for standard input or for the platform's store of secrets: never for an
    argument, a script or a log."""
    directory: str
    """Of this launch alone, on this machine; removed with it.  Where the platform shares our
    files, keys, scripts and logs are kept there."""
    key_file: str = ""
    """Where ``keys`` lie, readable by us only; empty where the launcher has no use for files."""


@dataclass(frozen=True, slots=True)
class Handle:
    """One daemon that was launched."""

    id: str
    """The platform's name for its job, which the daemon knows too, as ``MIRAI_JOB``."""
    launch: str
    """The name of its launch."""
    log: str = ""
    """Where its output goes, if that is a file here."""


class Launcher(ABC):
    """Starts daemons on a platform, tells how their jobs stand, and ends them."""

    patience: ClassVar[float] = 600.0
    """Seconds that a daemon has to join once it was launched, unless the pool says otherwise."""
    interval: ClassVar[float] = 10.0
    """Seconds between two questions to the platform, at least."""
    shares_files: ClassVar[bool] = False
    """Whether its daemons see our files at the same paths: then keys can be handed over in one,
    and modules are found where we have them."""

    @abstractmethod
    def launch(self, order: Order) -> Sequence[Handle]:
        """Start ``order.count`` daemons; return a handle of each.

        Raises LaunchError if the platform refuses: then none of them will come.
        """

    @abstractmethod
    def poll(self, handles: Sequence[Handle]) -> Mapping[Handle, State]:
        """Return how these jobs stand, by as few questions as the platform allows.

        Raises LaunchError if the platform does not answer.
        """

    @abstractmethod
    def terminate(self, handles: Sequence[Handle]) -> None:
        """End these jobs, those too that wait or have ended already.  Raises LaunchError."""

    def is_near(self) -> bool:
        """Return whether its daemons reach this machine at its loopback address."""
        return False

    def recall(self, name: str) -> None:  # noqa: B027
        """End whatever was started of a launch whose handles were never returned."""

    def log(self, handle: Handle, size: int = 4_096) -> str:
        """Return the last of what a job has printed, ``size`` bytes at most; empty if unknown."""
        return tail_of(handle.log, size)


def check_words(launcher: Launcher, *names: str) -> None:
    """Raise ValueError unless these options are strings that are not empty."""
    for name in names:
        if not getattr(launcher, name) or not isinstance(getattr(launcher, name), str):
            raise ValueError(f"{name} must be a str, and not be empty")


def check_positive(launcher: Launcher, *names: str) -> None:
    """Raise ValueError unless these options are positive, or None."""
    for name in names:
        value = getattr(launcher, name)
        if value is not None and not value > 0:
            raise ValueError(f"{name} must be positive: {value}")


def tail_of(path: str, size: int) -> str:
    """Return the last lines of a file, ``size`` bytes at most; empty if there is none."""
    if not path:
        return ""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, 2)
            file.seek(max(0, end - size))
            return file.read(size).decode(errors="replace").strip()
    except OSError:
        return ""


def launcher_class(name: str) -> type[Launcher]:
    """Return a launcher that a package has added under this name, by an entry point.

    Raises LookupError.
    """
    found = {entry.name: entry for entry in entry_points(group=ENTRY_POINTS)}
    if name not in found:
        known = ", ".join(sorted(found)) or "none is installed"
        raise LookupError(f"no package has added a launcher {name!r}: {known}")
    loaded: Any = found[name].load()
    if not (isinstance(loaded, type) and issubclass(loaded, Launcher)):
        raise LookupError(f"the entry point {name!r} is no Launcher, but {loaded!r}")
    return loaded


def states(handles: Iterable[Handle], known: Mapping[str, State]) -> dict[Handle, State]:
    """Return the state of each handle, given those that the platform has told, by job id."""
    return {handle: known.get(handle.id, State(Phase.UNKNOWN)) for handle in handles}
