"""Objects to payloads and back.

Plain C pickle where it is surely right, cloudpickle otherwise; both with protocol 5, so that
large buffers travel beside the pickle instead of inside it.  Buffers are copied once, at the
call: what the caller does to its array afterwards does not reach the task.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache, partial, update_wrapper
from importlib import import_module
from operator import is_
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple, Protocol

import cloudpickle
import cloudpickle.cloudpickle as _cloudpickle

from dispatcher.messages import Blob, Buffer
from dispatcher.shared import Shared, contents
from mirai._constant import Constant
from mirai._errors import SerializationError

LARGE = 64 * 1024
"""From this size on, in bytes, a payload or a buffer travels as a frame of its own."""

SHARED = 256 * 1024
"""From this size on, in bytes, it lies in shared memory, where there is such."""

MAX_BLOBS = 10_000
"""How many buffers of one object travel as frames of their own."""

Packed = tuple[bytes, tuple[Blob, ...]]

SPAWNED = "__mp_main__"
"""What ``multiprocessing`` calls the main script in the processes that it spawns."""

if SPAWNED in sys.modules:  # daemons cannot import it
    cloudpickle.register_pickle_by_value(sys.modules[SPAWNED])

_SCALARS = frozenset({int, float, complex, bool, str, bytes, type(None), type(...)})
_PLAIN_ITEMS = 256  # containers up to this size are looked through


Share = Callable[[memoryview], Shared | None]
"""Copies bytes into memory that processes share; None where it cannot."""


class Reducer(Protocol):
    """Knows how to pickle some objects better than they do."""

    def reduce(self, instance: object) -> tuple[Any, ...] | None:
        """Return what ``__reduce__`` would; None for an object that it does not know."""

    def knows(self, instance: object) -> bool:
        """Return whether it pickles this one, whatever is inside."""


def pack(value: object, reducer: Reducer | None = None, *, share: Share | None = None) -> Packed:
    """Pickle ``value``; with ``share``, what is large is copied by that if possible.

    Raises SerializationError, which says what cannot be pickled.
    """
    try:
        if type(value) in _SCALARS and len(data := pickle.dumps(value, 5)) < LARGE:
            return data, ()
        if _is_plain(value, 3):
            return _parcel(pickle.dumps(value, 5), (), share)
        blobs: list[Blob] = []
        with io.BytesIO() as file:
            _pickler(file, reducer, _collector(blobs, share)).dump(value)
            return _parcel(file.getvalue(), tuple(blobs), share)
    except Exception as error:
        raise SerializationError(_explain(value, error, reducer)) from error


def pack_calls(
    calls: Iterable[tuple[tuple[Any, ...], dict[str, Any]]],
    reducer: Reducer | None = None,
    *,
    share: Share | None = None,
) -> list[Packed]:
    """Pickle the arguments and keywords of calls, like ``pack``, and sooner where they are few."""
    packed: list[Packed] = []
    dumps, is_plain = pickle.dumps, _SCALARS.issuperset
    for call in calls:
        args, kwargs = call
        if not kwargs and len(args) < _PLAIN_ITEMS and is_plain(map(type, args)):
            data = dumps(call, 5)
            if len(data) < LARGE:
                packed.append((data, ()))
                continue
        packed.append(pack(call, reducer, share=share))
    return packed


def pack_whole(value: object, reducer: Reducer | None = None) -> bytes:
    """Pickle ``value`` into one piece, for where nothing can travel beside it.

    Raises SerializationError, which says what cannot be pickled.
    """
    try:
        return pickle.dumps(value, 5) if _is_plain(value, 3) else dumps(value, reducer)
    except Exception as error:
        raise SerializationError(_explain(value, error, reducer)) from error


def dumps(value: object, reducer: Reducer | None = None) -> bytes:
    """Pickle ``value`` into one piece.  Raises whatever its pickling raises."""
    with io.BytesIO() as file:
        _pickler(file, reducer).dump(value)
        return file.getvalue()


def unpack(payload: bytes, blobs: tuple[Blob, ...], *, keep_classes: bool = False) -> Any:
    """Return the object that ``pack`` was given.  Raises whatever its unpickling raises.

    With ``keep_classes``, a class of ``__main__`` that comes back to where it is from is left
    as it is there, instead of being given the attributes that it had when it was sent.
    """
    if payload and not blobs and not (keep_classes and b"_class_setstate" in payload):
        return pickle.loads(payload)
    buffers = [contents(blob.data) for blob in blobs]
    data = payload or buffers.pop(0)
    if keep_classes and (not payload or b"_class_setstate" in payload):
        return _Keeper(io.BytesIO(data), buffers=buffers).load()
    return pickle.loads(data, buffers=buffers)


def size_of(packed: Packed) -> int:
    """Return how many bytes a pickle and its blobs are."""
    payload, blobs = packed
    return len(payload) + sum(len(blob.data) for blob in blobs)


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """cloudpickle, and functions with a cache that cannot be imported."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is _Cached and not _is_named(obj, cloudpickle.list_registry_pickle_by_value()):
            state = obj.__wrapped__
            return _make_cached, (obj.cache_parameters(),), state, None, None, _set_cached
        if type(obj).__name__ in _GENERATORS and _is_global_generator(obj):
            return _global_generator, _GENERATORS[type(obj).__name__]
        return super().reducer_override(obj)


class _ReducingPickler(_Pickler):
    """A pickler that asks a reducer first."""

    def __init__(
        self, file: io.BytesIO, reducer: Reducer, collect: Callable[..., bool] | None
    ) -> None:
        super().__init__(file, protocol=5, buffer_callback=collect)
        self._reduce = reducer.reduce

    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reduce(obj)
        return super().reducer_override(obj) if reduced is None else reduced


def _pickler(
    file: io.BytesIO, reducer: Reducer | None, collect: Callable[..., bool] | None = None
) -> _Pickler:
    if reducer is None:
        return _Pickler(file, protocol=5, buffer_callback=collect)
    return _ReducingPickler(file, reducer, collect)


_GENERATORS = {"Random": ("random", "_inst"), "RandomState": ("numpy.random.mtrand", "_rand")}
"""Where the generators are that a module's functions are methods of, by their class's name."""


def _is_global_generator(generator: object) -> bool:
    """Whether it is a module's own, and so that of each process."""
    module, name = _GENERATORS[type(generator).__name__]
    return getattr(sys.modules.get(module), name, None) is generator


def _global_generator(module: str, name: str) -> Any:
    return getattr(import_module(module), name)


_Cached = type(lru_cache(abs))


def _make_cached(parameters: dict[str, Any]) -> Any:
    """Return a cached function that does not know yet what it calls: it may call itself."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return call.target(*args, **kwargs)  # type: ignore[attr-defined]

    return lru_cache(**parameters)(call)


def _set_cached(cached: Any, fn: Callable[..., Any]) -> None:
    cached.__wrapped__.target = fn
    update_wrapper(cached, fn)


class _Keeper(pickle.Unpickler):
    """An unpickler that leaves classes alone that this process has already."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kept: list[type] = []

    def find_class(self, module: str, name: str) -> Any:
        found = super().find_class(module, name)
        if module == _cloudpickle.__name__:
            if name in ("_make_skeleton_class", "_make_skeleton_enum"):
                return partial(self._make, found)
            if name == "_class_setstate":
                return partial(self._set_state, found)
        return found

    def _make(self, make: Callable[..., type], *args: Any) -> type:
        known = set(_cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.values())
        kind = make(*args)
        if kind in known:
            self._kept.append(kind)
        return kind

    def _set_state(self, set_state: Callable[..., type], kind: type, state: Any) -> type:
        return kind if kind in self._kept else set_state(kind, state)


def _parcel(data: bytes, blobs: tuple[Blob, ...], share: Share | None) -> Packed:
    if len(data) < LARGE:
        return data, blobs
    return b"", (_blob(memoryview(data), share), *blobs)


def _blob(view: memoryview, share: Share | None) -> Blob:
    """Copy bytes to where they can travel from."""
    shared = share(view) if share is not None and len(view) >= SHARED else None
    return Blob(_copy(view) if shared is None else shared)


def _copy(view: memoryview) -> Buffer:
    """Return a copy that is sent as it is: where ZeroMQ is in use, one of its own frames."""
    frame = getattr(sys.modules.get("zmq"), "Frame", None)
    return bytearray(view) if frame is None else frame(view, copy=True)


def _collector(blobs: list[Blob], share: Share | None) -> Callable[[pickle.PickleBuffer], bool]:
    def in_band(buffer: pickle.PickleBuffer) -> bool:
        """Keep a large buffer beside the pickle; return True for one that may go into it."""
        with buffer.raw() as view:
            if view.nbytes < LARGE or len(blobs) == MAX_BLOBS:
                return True
            blobs.append(_blob(view, share))
        return False

    return in_band


def _is_plain(value: object, depth: int) -> bool:
    """Whether C pickle does the right thing: nothing in there comes from ``__main__``."""
    kind = type(value)
    if kind in _SCALARS:
        return True
    if depth == 0 or kind not in (tuple, list, dict, set, frozenset):
        return False
    if len(value) > _PLAIN_ITEMS:  # type: ignore[arg-type]
        return False
    if kind is dict:
        return all(
            _is_plain(key, depth - 1) and _is_plain(item, depth - 1)
            for key, item in value.items()  # type: ignore[attr-defined]
        )
    for item in value:  # type: ignore[attr-defined]
        if type(item) not in _SCALARS and not _is_plain(item, depth - 1):
            return False
    return True


# ── what cannot be pickled ───────────────────────────────────────────────────────────────


def _explain(value: object, error: Exception, reducer: Reducer | None) -> str:
    try:
        path, culprit = _locate(value, "", 5, reducer)
    except Exception:  # objects that cannot be pickled may not like to be looked at either
        path, culprit = "", value
    where = f" at {path}" if path else ""
    kind = type(culprit)
    return f"cannot pickle {kind.__module__}.{kind.__qualname__}{where}: {_text(error)}"


def _text(error: Exception) -> str:
    """Return what an error says, or its type where that is nothing."""
    name = type(error).__name__
    try:
        return str(error) or name
    except Exception:
        return name


def _locate(value: object, path: str, depth: int, reducer: Reducer | None) -> tuple[str, object]:
    """Return the innermost part that cannot be pickled, and the way to it."""
    if depth and not (reducer is not None and reducer.knows(value)):
        for step, part in _parts(value):
            if not _picklable(part, reducer):
                return _locate(part, path + step, depth - 1, reducer)
    return path, value


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict):
        for key, item in list(value.items())[:1_000]:
            yield f"[{key!r}]", item
    elif isinstance(value, (list, tuple, set, frozenset)):
        for index, item in enumerate(list(value)[:1_000]):
            yield f"[{index}]", item
    elif isinstance(value, FunctionType):
        for name, cell in zip(value.__code__.co_freevars, value.__closure__ or (), strict=False):
            yield f"<variable {name}>", _content(cell)
        for name in global_names(value.__code__):
            if name in value.__globals__:
                yield f"<global {name}>", value.__globals__[name]
    elif not isinstance(value, (type, ModuleType)):
        for name, item in list(getattr(value, "__dict__", {}).items()):
            yield f".{name}", item


def _picklable(value: object, reducer: Reducer | None) -> bool:
    try:
        dumps(value, reducer)
    except Exception:
        return False
    return True


_ABSENT = object()
"""Stands for a variable that has no value (yet)."""


# ── functions ────────────────────────────────────────────────────────────────────────────


def function_name(fn: object) -> str:
    """Return a name under which calls of the same code are known to cost alike."""
    inner = getattr(fn, "func", fn)  # a partial's function
    inner = inner.__wrapped__ if isinstance(inner, Constant) else inner
    inner = getattr(inner, "__func__", inner)  # a method's function
    module = getattr(inner, "__module__", None) or type(inner).__module__
    name = getattr(inner, "__qualname__", None) or type(inner).__qualname__
    code = getattr(inner, "__code__", None)
    text = f"{module}.{name}:{code.co_firstlineno}" if code is not None else f"{module}.{name}"
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


class FunctionPickles:
    """The pickles of functions that are used again and again.

    A function that is pickled by value is only taken from here if everything that its pickle
    depends on (code, defaults, closure, the globals that it names) is still the same objects,
    and all of them are of a kind that cannot change in place.  Otherwise it is pickled again.
    The function itself may be another: the same lambda in a loop is a new object every time.
    What a reducer may know is none of these kinds.
    """

    def __init__(
        self, size: int = 256, reducer: Reducer | None = None, *, share: Share | None = None
    ) -> None:
        self._size = size
        self._reducer = reducer
        self._share = share
        self._known: OrderedDict[int, _Known] = OrderedDict()

    def pack(self, fn: object) -> Packed:
        """Pickle ``fn``, or return its pickle.  Raises SerializationError."""
        return self.find(fn).packed

    def find(self, fn: object) -> Pickle:
        """Return the pickle of ``fn``, made now or before.  Raises SerializationError."""
        code = getattr(fn.__wrapped__ if isinstance(fn, Constant) else fn, "__code__", fn)
        known = self._known.get(id(code))  # it is in the fingerprint, and so still that one
        if known is not None and type(fn) is FunctionType and _has_face(fn, known.face):
            return known.pickle
        if type(fn) is partial or type(fn) is Constant:  # too many to keep
            return self._pickle(fn, changes=_fingerprint(_bound(fn)) is None)
        fingerprint = _fingerprint(fn)
        if fingerprint is None:
            return self._pickle(fn, changes=True)
        if known is not None and _all_same(known.fingerprint, fingerprint):
            return known.pickle
        fresh = _Known(self._pickle(fn), fingerprint, _face(fn))
        self._known[id(code)] = fresh
        if len(self._known) > self._size:
            self._known.popitem(last=False)
        return fresh.pickle

    def _pickle(self, fn: object, *, changes: bool = False) -> Pickle:
        label = function_name(fn)
        packed = pack(fn, self._reducer, share=self._share)
        return Pickle(packed, label, label.partition(":")[0], changes)


class Pickle(NamedTuple):
    """A function that has been pickled."""

    packed: Packed
    label: str
    """Under which calls of the same code are known to cost alike."""
    name: str
    """What people call it."""
    changes: bool
    """Whether it may change in place."""


class _Known(NamedTuple):
    """A function that is known, and what its pickle depends on."""

    pickle: Pickle
    fingerprint: list[object]
    face: _Face | None


_Face = tuple[list[object], list[object]]
"""What one look shows of a function: what it has of its own, and what it may find by its names."""


def _all_same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(is_, some, others))


def _look(fn: FunctionType) -> _Face:
    own = [
        fn.__code__,
        fn.__defaults__,
        fn.__name__,
        fn.__qualname__,
        fn.__module__,
        fn.__doc__,
        *fn.__annotations__,
        *fn.__annotations__.values(),
        *_cloudpickle._PICKLE_BY_VALUE_MODULES,  # which decides how what it finds is pickled
    ]
    names, space = global_names(fn.__code__), fn.__globals__
    return own, [space.get(name, _ABSENT) for name in names] if names else []


def _has_face(fn: FunctionType, face: _Face | None) -> bool:
    """Whether one look shows that its pickle is still the same."""
    if face is None or fn.__closure__ or fn.__kwdefaults__ or fn.__dict__:
        return False
    own, found = _look(fn)
    if not (_all_same(own, face[0]) and _all_same(found, face[1])):
        return False
    by_value = _cloudpickle._PICKLE_BY_VALUE_MODULES
    return all(_is_flat(part, by_value) for part in found)  # modules are loaded again


def _face(fn: object) -> _Face | None:
    """Return what one look shows, if that is all that the pickle of ``fn`` depends on.

    That is not so where other functions are pickled with it, or what is in cells, in containers
    and in attributes, or submodules.
    """
    if type(fn) is not FunctionType or fn.__closure__ or fn.__kwdefaults__ or fn.__dict__:
        return None
    by_value = cloudpickle.list_registry_pickle_by_value()
    own, found = _look(fn)
    if _is_importable(fn, by_value) or not all(_is_flat(part, by_value) for part in own + found):
        return None
    return own, found


def _is_flat(part: object, by_value: set[str]) -> bool:
    """Whether it is all of itself: what cannot change, or is pickled as its name."""
    kind = type(part)
    if kind in _SCALARS or kind is CodeType or part is _ABSENT:
        return True
    if kind is ModuleType:
        return not hasattr(part, "__path__")
    return _is_importable(part, by_value)


def _bound(call: partial[Any] | Constant) -> tuple[object, ...]:
    """Return what the pickle of a function with arguments depends on."""
    if isinstance(call, Constant):
        return call.__wrapped__, call.args, *call.kwargs.values()
    return call.func, call.args, *call.keywords.values(), *vars(call).values()


def _fingerprint(fn: object) -> list[object] | None:
    """Return all that the pickle of ``fn`` depends on; None if some may change in place."""
    by_value = cloudpickle.list_registry_pickle_by_value()
    found: list[object] = []
    todo: list[Any] = [fn]
    seen: dict[int, int] = {}  # functions by value, numbered: recursion refers back to them
    while todo:
        part = todo.pop()
        kind = type(part)
        if kind is FunctionType and not _is_importable(part, by_value):
            if id(part) in seen:
                found.append(seen[id(part)])
            else:
                seen[id(part)] = len(seen)
                found += part.__annotations__
                found += part.__annotations__.values()
                todo += _dependencies(part)
            continue
        if isinstance(part, Constant):  # whichever it is, it is what is bound in it
            found.append(kind)
            todo += _bound(part)
            continue
        found.append(part)
        if kind in _SCALARS or kind is CodeType or part is _ABSENT:
            continue
        if kind is tuple:
            todo += part
        elif kind is _Cached and not _is_named(part, by_value):
            todo.append(part.__wrapped__)  # what it remembers is no part of its pickle
        elif kind is ModuleType:
            if part.__name__ in by_value or not _is_importable_module(part):
                return None
        elif kind is not _Cached and not _is_importable(part, by_value):
            return None
    return found


def _dependencies(fn: FunctionType) -> list[object]:
    """Return what the pickle of a function by value holds; its code is looked at first."""
    parts: list[object] = [fn.__name__, fn.__qualname__, fn.__module__, fn.__doc__]
    for mapping in (fn.__kwdefaults__, fn.__dict__):
        if mapping:
            parts += mapping.keys()
            parts += mapping.values()
    names = global_names(fn.__code__)
    captured = [_content(cell) for cell in fn.__closure__ or ()]
    captured += (fn.__globals__.get(name, _ABSENT) for name in names)
    for value in captured:
        if type(value) is ModuleType and hasattr(value, "__path__"):
            parts += _submodules(value.__name__, names)
    return [*parts, *captured, fn.__defaults__, fn.__code__]


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return _ABSENT


def _submodules(package: str, names: tuple[str, ...]) -> list[ModuleType]:
    """Return the loaded submodules that a function with these names may mean: they go along."""
    found: list[ModuleType] = []
    for name in names:
        full = f"{package}.{name}"
        module = sys.modules.get(full)
        if module is not None:
            found.append(module)
            found += _submodules(full, names)
    return found


@lru_cache(maxsize=1024)
def global_names(code: CodeType) -> tuple[str, ...]:
    """Return the names that ``code`` and the functions inside it may look up globally."""
    names = dict.fromkeys(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names.update(dict.fromkeys(global_names(constant)))
    return tuple(names)


def _is_importable_module(module: Any) -> bool:
    name = module.__name__
    return name != "__main__" and sys.modules.get(name) is module


def _is_importable(part: Any, by_value: set[str]) -> bool:
    """Whether a function or a class is pickled as its name."""
    if not isinstance(part, (FunctionType, BuiltinFunctionType, type)):
        return False
    return _is_named(part, by_value)


def _is_named(part: Any, by_value: set[str]) -> bool:
    """Whether it is what its module has under its name."""
    name = part.__module__
    if not isinstance(name, str) or name == "__main__":
        return False
    if by_value and any(name == each or name.startswith(each + ".") for each in by_value):
        return False
    found: object = sys.modules.get(name)
    for step in part.__qualname__.split("."):
        found = getattr(found, step, None)
    return found is part
