"""``mirai demo``: count the words of Python's own sources on local daemons."""

from __future__ import annotations

import argparse
import os
import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from mirai import Status, daemons, mirai

BATCH_BYTES = 512 * 1024
"""About how much one task reads: large enough to be worth a message, small enough to balance."""
WORD = re.compile(r"[^\W\d_]{2,}")


@dataclass(slots=True)
class Tally:
    """What was counted."""

    files: int = 0
    lines: int = 0
    words: Counter[str] = field(default_factory=Counter)

    def add(self, other: Tally) -> None:
        """Take the other's counts into this one."""
        self.files += other.files
        self.lines += other.lines
        self.words.update(other.words)


def tally_text(text: str) -> Tally:
    """Count one file's text; a word is two letters or more, in lower case."""
    return Tally(1, len(text.splitlines()), Counter(WORD.findall(text.lower())))


def tally_files(paths: Sequence[Path]) -> Tally:
    """Count these files: the task that the daemons run."""
    total = Tally()
    for path in paths:
        total.add(tally_text(path.read_text(encoding="utf-8", errors="replace")))
    return total


def sources(folder: Path) -> list[Path]:
    """Return the Python files below ``folder``, without those of installed packages."""
    return sorted(
        path
        for path in folder.rglob("*.py")
        if "site-packages" not in path.parts and path.is_file()
    )


def batches(sizes: Iterable[tuple[Path, int]], limit: int) -> Iterator[list[Path]]:
    """Split files, given with their sizes, into runs of ``limit`` bytes or one file."""
    batch: list[Path] = []
    room = limit
    for path, size in sizes:
        if batch and size > room:
            yield batch
            batch, room = [], limit
        batch.append(path)
        room -= size
    if batch:
        yield batch


class Progress:
    """How many files are done: one changing line on a terminal, a few lines elsewhere."""

    def __init__(self, total: int, stream: TextIO) -> None:
        self._total = total
        self._stream = stream
        self._live = stream.isatty()
        self._quarter = 0

    def show(self, files: int) -> None:
        """Say that ``files`` are done."""
        quarter = 4 * files // self._total
        if not self._live and quarter == self._quarter:
            return
        self._quarter = quarter
        text = f"{files:,} of {self._total:,} files"
        self._stream.write(f"\r{text}" if self._live else f"{text}\n")
        self._stream.flush()

    def end(self) -> None:
        """Leave the line free for what comes next."""
        if self._live:
            self._stream.write("\r\x1b[K")


def count_on_daemons(work: Sequence[Sequence[Path]]) -> Tally:
    """Count everything on the daemons that are set, one task a batch."""
    total = Tally()
    progress = Progress(sum(map(len, work)), sys.stderr)
    tallies: list[Future[Tally]] = [mirai(tally_files, batch) for batch in work]
    try:
        for future in as_completed(tallies):
            total.add(future.result())
            progress.show(total.files)
    finally:
        progress.end()
    return total


def report(total: Tally, top: int) -> str:
    """Return the most frequent words and the totals, as a table."""
    common = total.words.most_common(top)
    width = max((len(word) for word, _ in common), default=0)
    lines = [f"  {word:<{width}}  {count:>9,}" for word, count in common]
    sums = f"{total.files:,} files, {total.lines:,} lines, {total.words.total():,} words"
    return "\n".join([*lines, "", sums])


def spread(status: Status) -> str:
    """Return how many tasks each daemon has done, as a table with bars (in ASCII: any console)."""
    most = max((daemon.done for daemon in status.daemons), default=0) or 1
    lines = [f"{'process':>9}  {'tasks':>6}"]
    for daemon in status.daemons:
        bar = "#" * round(30 * daemon.done / most)
        lines.append(f"{daemon.pid:>9}  {daemon.done:>6}  {bar}")
    return "\n".join(lines)


def main(argv: Sequence[str]) -> int:
    """Run the demo with these arguments; return the exit status."""
    options = _options(argv)
    files = sources(options.folder)
    if not files:
        print(f"there are no Python files below {options.folder}", file=sys.stderr)
        return 1
    work = list(batches(((path, path.stat().st_size) for path in files), BATCH_BYTES))
    print(f"{len(files):,} files below {options.folder}, in {len(work)} tasks", flush=True)
    clock = time.perf_counter
    begun = clock()
    with daemons(options.n) as pool:
        started = clock()
        total = count_on_daemons(work)
        counted = clock()
        status = pool.status()
    print(report(total, options.top))
    print(f"\n{started - begun:7.2f} s to start the dispatcher")
    print(f"{counted - started:7.2f} s to count, on {options.n} daemons")
    if options.compare:
        begun = clock()
        tally_files(files)
        print(f"{clock() - begun:7.2f} s to count, in this process alone")
    print(f"\nhow the work was spread:\n{spread(status)}")
    return 0


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="mirai demo", description="Count the words of Python sources on local daemons."
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=Path(sysconfig.get_path("stdlib")),
        help="where to look for .py files (default: Python's standard library)",
    )
    parser.add_argument(
        "-n", type=_positive, default=os.cpu_count() or 1, help="daemons (default: one a core)"
    )
    parser.add_argument(
        "--top", type=_positive, default=10, help="how many words to show (default: 10)"
    )
    parser.add_argument(
        "--compare", action="store_true", help="count once more in this process, without daemons"
    )
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{number} is not positive")
    return number
