"""What the commands' parsers have in common."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from mirai._limits import seconds
from mirai._pool_options import check_count, check_each, check_tags

T = TypeVar("T")


def parser(command: str, description: str, epilog: str = "") -> argparse.ArgumentParser:
    """Return the parser of ``mirai command``; its texts stand as they are written."""
    return argparse.ArgumentParser(
        prog=f"mirai {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def checked(convert: Callable[[str], T]) -> Callable[[str], T]:
    """Return a type for argparse, which says what is wrong in the words of ``convert``."""

    def check(text: str) -> T:
        try:
            return convert(text)
        except (TypeError, ValueError) as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return check


@checked
def count(text: str) -> int:
    """A number of daemons, or none."""
    return check_count(int(text))


@checked
def some(text: str) -> int:
    """A number that is not zero."""
    number = check_count(int(text))
    if not number:
        raise ValueError("it must be at least 1")
    return number


@checked
def behind(text: str) -> int:
    """A number of daemons behind one relay."""
    return check_each(int(text))


@checked
def duration(text: str) -> float:
    """A time, as in ``5m``; a plain number is seconds."""
    try:
        number = float(text)
    except ValueError:
        return seconds("a time", text)
    return seconds("a time", number)


@checked
def tags(text: str) -> tuple[str, ...]:
    """Words with commas between them."""
    return check_tags(tuple(tag.strip() for tag in text.split(",")))
