"""A call in one line, as people would write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

WIDTH = 200
"""How many characters the line has at most."""
_ITEMS = 6
_PLAIN = (int, float, complex, bool, type(None))


def describe(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    """Return a call in one line; of what is large, or could take long to tell, only the kind."""
    parts = [_told(each, 2) for each in args[: _ITEMS + 1]]
    if len(args) > _ITEMS:
        parts[_ITEMS:] = ["..."]
    parts += [f"{name}={_told(each, 2)}" for name, each in kwargs.items()]
    text = f"{name_of(fn)}({', '.join(parts)})"
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 4]}...)"


def name_of(fn: Callable[..., Any]) -> str:
    """Return what people call a function."""
    inner = fn.func if isinstance(fn, partial) else fn
    try:
        name = str(getattr(inner, "__qualname__", None) or type(inner).__qualname__)
    except Exception:  # it is anybody's
        name = type(inner).__qualname__
    return name.rpartition("<locals>.")[2]


def _told(value: Any, depth: int) -> str:
    kind = type(value)
    if kind in _PLAIN:
        text = repr(value) if kind is not int or abs(value) < 10**40 else "<int>"
    elif kind in (str, bytes):
        text = repr(value) if len(value) <= 40 else f"{value[:36]!r}..."
    elif isinstance(value, PurePath):
        text = repr(str(value))
    elif kind in (list, tuple, set, frozenset, dict):
        text = _container(value, depth)
    elif isinstance(value, (type, FunctionType, BuiltinFunctionType, MethodType)):
        text = name_of(value)
    else:
        text = f"<{kind.__name__}{_shape(value)}>"
    return text


def _shape(value: Any) -> str:
    try:
        shape = getattr(value, "shape", None)
    except Exception:  # of a file that is closed, say: that must not decide what can be sent
        return ""
    return f" {shape}" if type(shape) is tuple else ""


def _container(value: Any, depth: int) -> str:
    if not value:
        return repr(value)
    if depth == 0 or len(value) > 10_000:
        return f"<{type(value).__name__} of {len(value)}>"
    parts = []
    for index, each in enumerate(value):
        if index == _ITEMS:
            parts.append("...")
            break
        part = _told(each, depth - 1)
        parts.append(f"{part}: {_told(value[each], depth - 1)}" if type(value) is dict else part)
    inside = ", ".join(parts)
    kind = type(value)
    if kind is list:
        return f"[{inside}]"
    if kind is tuple:
        return f"({inside},)" if len(value) == 1 else f"({inside})"
    return f"{{{inside}}}" if kind is not frozenset else f"frozenset({{{inside}}})"
