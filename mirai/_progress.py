"""A progress bar, by rich or by tqdm."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class _Rich:
    def __init__(self, rich: Any, total: int) -> None:
        self._progress = rich.Progress()
        self._progress.start()
        self._task = self._progress.add_task("mirai", total=total)

    def advance(self) -> None:
        self._progress.advance(self._task)

    def close(self) -> None:
        self._progress.stop()


class _Tqdm:
    def __init__(self, tqdm: Any, total: int) -> None:
        self._bar = tqdm.tqdm(total=total, desc="mirai")

    def advance(self) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


def bar(total: int) -> _Rich | _Tqdm:
    """Return a bar for ``total`` steps.  Raises ImportError if neither library is installed."""
    for name, kind in (("rich.progress", _Rich), ("tqdm", _Tqdm)):
        try:
            library = import_module(name)
        except ImportError:
            continue
        return kind(library, total)
    raise ImportError("a progress bar needs rich or tqdm: pip install 'mirai-zmq[progress]'")
