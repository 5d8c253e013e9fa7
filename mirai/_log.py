"""``MIRAI_LOG``: what this process, and the processes of its pools, write to standard error."""

from __future__ import annotations

import os
import warnings

from dispatcher.log import LEVELS, show

VARIABLE = "MIRAI_LOG"


def level() -> str:
    """Return the level that is asked for; empty if none is."""
    word = os.environ.get(VARIABLE, "").strip().lower()
    return word if word in LEVELS else ""


def set_up() -> None:
    """Do in this process what ``MIRAI_LOG`` asks for.  Warns if that is nothing known."""
    word = os.environ.get(VARIABLE, "")
    if word.strip() and not level():
        words = ", ".join(LEVELS)
        text = f"{VARIABLE} must be one of {words}, not {word!r}: nothing is logged"
        warnings.warn(text, RuntimeWarning, stacklevel=2)
    show("mirai", "host", level())
    show("dispatcher", "dispatcher", level())
