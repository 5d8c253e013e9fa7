"""What ``mirai top`` shows, drawn by rich."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dispatcher.log import printable
from dispatcher.messages import DaemonReport
from mirai._pool import Daemons
from mirai._status import Status, running, waiting

COLOURS = {"idle": "dim", "busy": "green", "stalled": "red", "leaving": "yellow"}
PAPER = 200
"""How many columns there are where there is no terminal."""


@dataclass(frozen=True, slots=True)
class Look:
    """A pool at one moment of a clock that only goes forwards."""

    status: Status
    at: float


def show_once(pool: Daemons) -> None:
    """Print one picture, with each daemon's mean rate since it joined."""
    look = _look(pool)
    width = None if sys.stdout.isatty() else PAPER
    Console(width=width).print(picture(look, look))


def show(pool: Daemons, *, every: float) -> None:
    """Show the pool until q or Ctrl-C."""
    before = now = _look(pool)
    live = Live(picture(before, now), screen=True, auto_refresh=False)
    with contextlib.suppress(KeyboardInterrupt), _keyboard() as pressed, live:
        while not pressed(every):
            before, now = now, _look(pool)
            live.update(picture(before, now), refresh=True)


def picture(before: Look, now: Look) -> Group:
    """Draw a pool; rates are those between the two looks, or, if they are one, since ever."""
    status = now.status
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("id", "host", "pid", "state", "runs", "in hand", "done", "tasks/s", "since"):
        is_number = title in ("id", "pid", "in hand", "done", "tasks/s", "since")
        table.add_column(title, justify="right" if is_number else "left", no_wrap=True)
    for daemon in status.daemons:
        table.add_row(
            str(daemon.id),
            _plain(daemon.host),
            str(daemon.pid),
            _plain(daemon.state, COLOURS.get(daemon.state, "")),
            _plain(running(daemon)),
            str(daemon.tasks),
            f"{daemon.done:,}",
            f"{_rate(daemon, before, now):,.1f}",
            _age(daemon.since),
        )
    rate = sum(_rate(daemon, before, now) for daemon in status.daemons)
    head = Text.assemble(
        (printable(status.profile), "bold"),
        f"  {printable(status.url)}  {status.connections} daemons\n",
        f"{status.awaiting:,} awaiting   {status.executing:,} executing  "
        f" {status.completed:,} completed   {rate:,.1f} tasks/s\n",
        *((f"{printable(line)}\n", "yellow") for line in waiting(status)),
    )
    return Group(head, table)


def _plain(text: str, style: str = "") -> Text:
    """Return what stands for itself, whatever is in it: rich would read a str as markup."""
    return Text(printable(text), style)


def _look(pool: Daemons) -> Look:
    return Look(pool.status(), time.monotonic())


def _rate(daemon: DaemonReport, before: Look, now: Look) -> float:
    """Return how many tasks a second a daemon has answered between two looks."""
    former = {each.id: each.done for each in before.status.daemons}
    seconds = min(now.at - before.at, daemon.since)
    if before is now:
        return daemon.done / daemon.since if daemon.since else 0.0
    return (daemon.done - former.get(daemon.id, 0)) / seconds if seconds else 0.0


def _age(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def _never(seconds: float) -> bool:
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keyboard() -> Iterator[Callable[[float], bool]]:
    """Yield a function that waits so many seconds at most, and says whether q was pressed."""
    if os.name != "posix" or not sys.stdin.isatty():  # only Ctrl-C leaves
        yield _never
        return
    import termios
    import tty

    fd = sys.stdin.fileno()

    def pressed(seconds: float) -> bool:
        ready, _, _ = select.select([fd], [], [], seconds)
        return bool(ready) and os.read(fd, 1) in (b"q", b"Q", b"")

    former = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, former)
