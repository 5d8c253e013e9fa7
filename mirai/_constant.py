"""A function with arguments that stay the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


class Constant:
    """A function with arguments that are the same for all elements, and sent once."""

    def __init__(
        self, fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        self.__wrapped__ = fn
        self.args = args
        self.kwargs = dict(kwargs)

    def __call__(self, /, *element: Any, **columns: Any) -> Any:
        return self.__wrapped__(*element, *self.args, **columns, **self.kwargs)
