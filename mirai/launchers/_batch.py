"""What the schedulers of clusters have in common: options, a job script, and one submission.

Each is asked by its own programs, and shares our files with its nodes: the keys of a launch lie
in a file that only its user can read, and the script names that file.
"""

from __future__ import annotations

import dataclasses
import os
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from mirai._errors import LaunchError
from mirai._limits import seconds
from mirai._pool_options import size_in_bytes
from mirai.launchers._base import Handle, Launcher, Order
from mirai.launchers._command import daemon_command, in_words, wall_time
from mirai.launchers._script import Script, directives
from mirai.launchers._submit import submit

SHOWN = Order(1, "mirai-NAME", "", "DIRECTORY", "DIRECTORY/keys.json")
"""What ``job_script`` shows in place of a launch."""

_PLAIN = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
_ONE_LINE = re.compile(r"[^\r\n\0]*")


@dataclass(frozen=True, kw_only=True)
class BatchLauncher(Launcher):
    """The options that every scheduler knows, in whatever words.

    ``cpus`` of each daemon; ``memory`` in bytes, or like ``"8GiB"``; ``walltime`` in seconds, or
    like ``"1h"``: shortly before it is over, a daemon takes no more tasks.  ``log_dir`` is where
    the jobs' output goes, and stays; by default it is removed with the pool.  ``prologue`` and
    ``epilogue`` are lines for the shell, before and after the daemon (``module load python``).
    ``directory`` is where keys, and logs without a ``log_dir``, are kept while the pool is there,
    on a file system that the nodes share; by default ``~/.mirai``.
    ``python`` is the interpreter on the nodes, by default this one at the same path.
    ``directives_extra`` are added to the script as they are, without their prefix
    (``"--mail-type=FAIL"``), and those that begin with one of ``directives_skip`` are left out.
    Of n daemons at once, ``max_array`` are one job array at most.

    Raises TypeError or ValueError.
    """

    cpus: int = 1
    memory: int | str | None = None
    walltime: float | str | None = None
    account: str | None = None
    log_dir: str | None = None
    directory: str | None = None
    prologue: Sequence[str] = ()
    epilogue: Sequence[str] = ()
    python: str | None = None
    directives_extra: Sequence[str] = ()
    directives_skip: Sequence[str] = ()
    max_array: int = 1_000

    prefix: ClassVar[str]
    """What a directive begins with, such as ``"#SBATCH"``."""
    job: ClassVar[str]
    """What the shell expands to the id of a job that is none of an array."""
    job_of_array: ClassVar[str]
    """The same for one of an array."""
    submission: ClassVar[tuple[str, ...]]
    """The program that reads a script and starts it."""
    id: ClassVar[re.Pattern[str]]
    """What that program says; the first group is the job's id."""
    special: ClassVar[str] = ""
    """Characters that mean something else to the scheduler where a path is wanted."""
    grace: ClassVar[int | None] = None
    """Seconds that a daemon's tasks have after a SIGTERM, where no SIGKILL is sure to follow."""
    shares_files: ClassVar[bool] = True
    patience: ClassVar[float] = 86_400.0

    def __post_init__(self) -> None:
        for name in ("cpus", "max_array"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an int, not {type(value).__name__}")
            if value < 1:
                raise ValueError(f"{name} must be positive: {value}")
        for field in dataclasses.fields(self):
            _check_text(field.name, getattr(self, field.name))
        self.job_script()  # or say now what cannot be said to the scheduler

    # ── what a scheduler adds ────────────────────────────────────────────────────────────

    @abstractmethod
    def directives(self, order: Order) -> list[str]:
        """Return what the script asks of the scheduler for this launch, without the prefix."""

    @abstractmethod
    def ids(self, id: str, count: int) -> list[str]:
        """Return the ids of the jobs of an array of so many, as ``job_of_array`` gives them."""

    def log_path(self, order: Order, id: str) -> str:
        """Return where the output of a job goes: what ``directives`` or ``opening`` asks for."""
        return os.path.join(self.log_directory(order), f"{order.name}.{id}.log")

    def opening(self, order: Order) -> list[str]:  # noqa: ARG002
        """Return what the script does first, where the scheduler has no directive for it."""
        return []

    def description(self, order: Order) -> str:
        """Return what the submitting program reads: the script, unless that lies in a file."""
        return self.script(order)

    # ── for all ──────────────────────────────────────────────────────────────────────────

    def memory_bytes(self) -> int | None:
        """Return the memory of each daemon."""
        return None if self.memory is None else size_in_bytes("memory", self.memory)

    def walltime_seconds(self) -> int | None:
        """Return the time of each daemon, in whole seconds."""
        if self.walltime is None:
            return None
        return max(1, round(seconds("walltime", self.walltime)))

    def log_directory(self, order: Order) -> str:
        """Return where the jobs' output goes.  Raises ValueError where it cannot go there."""
        path = order.directory if self.log_dir is None else os.path.abspath(self.log_dir)
        if found := sorted(set(path) & set(self.special)):
            raise ValueError(f"this scheduler takes no {' or '.join(found)} in a path: {path!r}")
        return path

    def job_script(self, n: int = 1) -> str:
        """Return the script by which ``n`` daemons would be launched, for people to read."""
        return self.description(dataclasses.replace(SHOWN, count=n))

    def script(self, order: Order) -> str:
        """Return the script of a launch."""
        return self.body(order, self.lines(order))

    def lines(self, order: Order) -> list[str]:
        """Return all that is asked of the scheduler, line by line."""
        wanted = [*self.directives(order), *self.directives_extra]
        return directives(self.prefix, wanted, self.directives_skip)

    def body(self, order: Order, lines: Sequence[str]) -> str:
        """Return a script that begins with these lines."""
        command = daemon_command(order.key_file, self.python)
        if (whole := self.walltime_seconds()) is not None:
            command += f" {in_words(wall_time(whole))}"
        return Script(
            lines,
            self.job if order.count == 1 else self.job_of_array,
            command,
            [*self.opening(order), *self.prologue],
            self.epilogue,
            self.grace,
        ).text()

    def launch(self, order: Order) -> list[Handle]:
        """Submit one job, or arrays of ``max_array`` jobs at most."""
        try:
            os.makedirs(self.log_directory(order), exist_ok=True)
        except OSError as error:
            where = self.log_directory(order)
            raise LaunchError(f"{where} cannot be made: {error.strerror}") from None
        handles: list[Handle] = []
        while (left := order.count - len(handles)) > 0:
            part = dataclasses.replace(order, count=min(left, self.max_array))
            try:
                handles += self.submit(part)
            except BaseException as error:
                self._take_back(order, error)
                raise
        return handles

    def _take_back(self, order: Order, error: BaseException) -> None:
        """All of them, or none; one whose id was not read is among them."""
        try:
            self.recall(order.name)
        except LaunchError as another:
            error.add_note(f"what had been started of it could not be ended: {another}")

    def submit(self, order: Order) -> list[Handle]:
        """Submit one job, or one array."""
        id = submit(self.submission, self.description(order), self.id)
        ids = [id] if order.count == 1 else self.ids(id, order.count)
        return [Handle(each, order.name, self.log_path(order, each)) for each in ids]


def from_shell(status: int) -> int:
    """Return an exit code, or minus the signal that a shell or scheduler has told by it."""
    return 128 - status if 128 < status < 192 else status


def clock(seconds: int) -> str:
    """Return a time as most schedulers write it: ``"26:03:04"``, in hours."""
    minutes, second = divmod(seconds, 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def mebibytes(size: int) -> int:
    """Return a size in bytes in these, rounded up."""
    return -(-size // 2**20)


def option(text: object, *, name: str = "", nested: bool = True) -> str:
    """Return what a scheduler's own parser of directives reads as one word.

    ``nested``: whether it knows one kind of quotes within the other.  Raises ValueError where the
    word cannot be written.
    """
    word = str(text)
    if _PLAIN.fullmatch(word):
        return word
    marks = [mark for mark in "'\"" if mark not in word]
    if len(marks) < (1 if nested else 2):
        raise ValueError(f"{name or 'an option'} cannot be told to this scheduler: {word!r}")
    return f"{marks[0]}{word}{marks[0]}"


def _check_text(name: str, value: object) -> None:
    """Raise where an option would be something else in a script than it is meant to be."""
    many = name.startswith(("prologue", "epilogue", "directives"))
    if many and (isinstance(value, str) or not isinstance(value, Sequence)):
        raise TypeError(f"{name} must be a list of lines, not {value!r}")
    if not many and value is not None and not isinstance(value, (str, int, float)):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    for text in value if many and isinstance(value, Sequence) else [value]:
        if many and not isinstance(text, str):
            raise TypeError(f"{name} must hold lines, not {text!r}")
        if isinstance(text, str) and not _ONE_LINE.fullmatch(text):
            raise ValueError(f"{name} must be one line: {text!r}")
