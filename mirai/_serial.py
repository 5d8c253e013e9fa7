"""Serial configs: how instances of some classes are pickled, where pickle does not do it well."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType
from typing import Any

import cloudpickle

from mirai._errors import SerializationError
from mirai._serialize import unpack

_BUILT_IN = (
    *(int, float, complex, bool, str, bytes, bytearray, tuple, list, dict, set, frozenset),
    *(type(None), type(...), type(NotImplemented), object, pickle.PickleBuffer),
    *(FunctionType, BuiltinFunctionType),
)
"""Classes whose instances the pickler handles by itself, or everybody's base."""

Reduced = tuple[Callable[..., Any], tuple[bytes, pickle.PickleBuffer]]


@dataclass(frozen=True, slots=True)
class SerialConfig:
    """Instances of ``cls``, and of its subclasses, are pickled as ``loads(dumps(instance))``.

    ``dumps`` takes an instance and returns anything that has the buffer protocol (bytes, an Arrow
    buffer, an array); a large one is not copied into the pickle.  ``loads`` takes a memoryview
    of that, and returns the instance.  They hold for a pool, ``daemons(4, serial=config)``, or
    for all, ``register_serial(config)``; and for arguments and results alike, wherever in them
    the instances are.  The class and both functions are sent to the daemons, as they are when
    the pool is made.

    Raises TypeError for what is no class, or for one of those that pickle handles by itself:
    numbers, strings, containers, functions and classes (but a subclass of dict, say, will do).
    """

    cls: type
    dumps: Callable[[Any], Any]
    loads: Callable[[memoryview], Any]

    def __post_init__(self) -> None:
        if not isinstance(self.cls, type):
            raise TypeError(f"cls must be a class, not {self.cls!r}")
        if self.cls in _BUILT_IN or issubclass(self.cls, type):
            raise TypeError(f"{self.cls.__qualname__} is pickled by pickle itself")
        for name in ("dumps", "loads"):
            if not callable(getattr(self, name)):
                raise TypeError(f"{name} must be callable, not {getattr(self, name)!r}")


class Serial:
    """The serial configs of one pool, by class; of several for a class the last one holds."""

    def __init__(self, configs: Iterable[SerialConfig] = ()) -> None:
        """Raises SerializationError for functions that cannot be sent."""
        self._configs = {config.cls: config for config in configs}
        self._loads = {config.cls: _pickled(config) for config in self._configs.values()}

    def __bool__(self) -> bool:
        return bool(self._configs)

    def reduce(self, instance: object) -> Reduced | None:
        """Return how to pickle an instance; None if no config is for it."""
        config = self._find(instance)
        if config is None:
            return None
        return _restore, (self._loads[config.cls], _dumped(config, instance))

    def knows(self, instance: object) -> bool:
        """Return whether a config is for it."""
        return self._find(instance) is not None

    def _find(self, instance: object) -> SerialConfig | None:
        """Return the config of the nearest class of an instance that has one."""
        for kind in type(instance).__mro__:
            config = self._configs.get(kind)
            if config is not None:
                return config
        return None

    def encode(self) -> str:
        """Return it in characters, for a daemon that is about to start."""
        configs = tuple(self._configs.values())
        return base64.b64encode(cloudpickle.dumps(configs)).decode() if configs else ""

    @classmethod
    def decode(cls, text: str) -> Serial:
        """Return what was encoded."""
        return cls(pickle.loads(base64.b64decode(text)) if text else ())


def serial_configs(configs: object) -> tuple[SerialConfig, ...]:
    """Return one config, or an iterable of them, as a tuple.  Raises TypeError."""
    if isinstance(configs, SerialConfig):
        return (configs,)
    if not isinstance(configs, Iterable):
        raise TypeError(f"serial must be a SerialConfig, or several, not {configs!r}")
    found = tuple(configs)
    for each in found:
        if not isinstance(each, SerialConfig):
            raise TypeError(f"serial must hold SerialConfigs, not {each!r}")
    return found


def _dumped(config: SerialConfig, instance: object) -> pickle.PickleBuffer:
    data = config.dumps(instance)
    try:
        return pickle.PickleBuffer(data)
    except TypeError:
        kind = type(data).__qualname__
        raise TypeError(f"dumps of {config} returned {kind}, which is no buffer") from None


def _pickled(config: SerialConfig) -> bytes:
    """Pickle ``loads``, once for all instances that are to be restored by it."""
    try:
        cloudpickle.dumps(config)  # the daemons get all of it
        loads: bytes = cloudpickle.dumps(config.loads, 5)
    except Exception as error:
        raise SerializationError(f"cannot pickle {config}: {error}") from error
    return loads


def _restore(loads: bytes, data: Any) -> Any:
    return _loader(loads)(memoryview(data))


@lru_cache(maxsize=256)
def _loader(loads: bytes) -> Callable[[memoryview], Any]:
    loader: Callable[[memoryview], Any] = unpack(loads, (), keep_classes=True)
    return loader
