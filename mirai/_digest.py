"""By what a durable job knows calls again: digests of functions' code and of arguments.

Pickles alone would not do: that of an importable function is its name, whatever its code is; and
those of equal arguments differ with what is one object in them, and with the order of sets, which
is another in each process.
"""

from __future__ import annotations

import io
import os
import pickle
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache, cached_property, partial, singledispatchmethod
from hashlib import blake2b
from types import (
    BuiltinFunctionType,
    CellType,
    CodeType,
    FunctionType,
    MappingProxyType,
    MethodType,
    ModuleType,
)
from typing import Any, ClassVar

import cloudpickle

from dispatcher.messages import KEY_BYTES
from mirai._constant import Constant
from mirai._options import Call, Key
from mirai._serialize import Reducer, global_names, pack_whole

SETS = (pickle.EMPTY_SET, pickle.FROZENSET)
"""What is in every pickle that has a set in it (and in some others)."""
PLAIN = frozenset({int, float, complex, bool, str, bytes, type(None), type(...), range})
"""Kinds whose ``repr`` says all."""


def version_of(fn: object) -> bytes:
    """Return a digest of a function's code, and of what that calls and reads.

    It is the same in each process, and does not change with comments, docstrings, or where in its
    file the function stands; it does with the version of Python.  Nor does it change with what is
    bound to the function, see ``bound_to``.  What is installed is known by its name and version.
    """
    core, bound = _parted(fn)
    kinds = {type(each) for each in bound} - {tuple, list}  # of methods' objects
    return _Walk(core).digest((core, *kinds))


def bound_to(fn: object) -> bytes:
    """Return a digest of what a function is called with besides a call's arguments.

    That is what a partial, a method or a closure brings along.  Empty if there is nothing.
    """
    core, bound = _parted(fn)
    if isinstance(core, FunctionType):
        bound += (each for each in map(_content, core.__closure__ or ()) if not _is_code(each))
    return _Walk(core).digest(tuple(bound)) if bound else b""


def keys_for(version: bytes, bound: bytes = b"") -> Key:
    """Return what makes the keys of calls of one function, one after the other.

    Calls with the same arguments are told apart by how many there were before.
    """
    seen: Counter[bytes] = Counter()

    def key(call: Call, reducer: Reducer | None = None) -> bytes:
        args, kwargs = call
        whole = (args, sorted(kwargs.items()))
        try:
            same = digest_of(whole)
        except Exception:  # only cloudpickle, or a config of the pool's, knows how to pickle it
            same = blake2b(pack_whole(whole, reducer), digest_size=KEY_BYTES).digest()
        seen[same] += 1
        text = version + bound + same + str(seen[same]).encode()
        return blake2b(text, digest_size=KEY_BYTES).digest()

    return key


def digest_of(value: object) -> bytes:
    """Return a digest of a value: the same for what is equal and of the same types.

    Of dicts, the order counts.  Raises what pickling raises.
    """
    return blake2b(_canonical(value, None), digest_size=KEY_BYTES).digest()


def _canonical(value: object, walk: _Walk | None) -> bytes:
    """Return a pickle of a value, which was found on a ``walk`` or is none's."""
    if type(value) in PLAIN:
        return pickle.dumps(value, 5)
    with io.BytesIO() as file:
        pickler: _Pickler | _InOrder = _Pickler(file, 5)
        pickler.walk, mark = walk, walk.mark() if walk else (0, 0)
        try:
            pickler.fast = True  # the same object twice is like two equal ones
            pickler.dump(value)
            data = file.getvalue()
        except (RecursionError, ValueError):  # it contains itself
            return bytes(cloudpickle.dumps(value, 5))
    if not any(mark in data for mark in SETS):
        return data
    with io.BytesIO() as file:
        pickler = _InOrder(file, 5)
        pickler.fast = True
        pickler.walk = walk
        if walk:
            walk.back_to(mark)
        pickler.dump(value)
        return file.getvalue()


def _reduce(obj: Any, walk: _Walk | None) -> Any:
    """Name what is no data by what it does."""
    is_own = isinstance(obj, type) and obj.__module__ == "__main__"
    if is_own or isinstance(obj, (FunctionType, MethodType, partial)):
        # on the same walk: what holds functions that use it again would have no end
        return bytes, (version_of(obj) + bound_to(obj) if walk is None else walk.begun(obj),)
    if isinstance(obj, ModuleType):
        return str, (obj.__name__,)
    return NotImplemented


class _Pickler(pickle.Pickler):
    walk: _Walk | None = None

    def reducer_override(self, obj: Any) -> Any:
        return _reduce(obj, self.walk)


class _InOrder(pickle._Pickler):
    """A slow pickler, which puts the elements of sets in order."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)
    walk: _Walk | None = None

    def reducer_override(self, obj: Any) -> Any:
        return _reduce(obj, self.walk)

    def _save_set(self, obj: Iterable[object]) -> None:
        self.save((type(obj).__name__, sorted(map(digest_of, obj))))  # type: ignore[attr-defined]

    dispatch[set] = dispatch[frozenset] = _save_set


def _parted(fn: object) -> tuple[object, list[object]]:
    """Return a function without what is bound to it, and that."""
    bound: list[object] = []
    while True:
        if isinstance(fn, Constant):
            bound += (fn.args, sorted(fn.kwargs.items()))
            fn = fn.__wrapped__
        elif isinstance(fn, partial):
            bound += (fn.args, sorted(fn.keywords.items()))
            fn = fn.func
        elif isinstance(fn, MethodType) and not isinstance(fn.__self__, type):
            bound.append(fn.__self__)
            fn = fn.__func__
        else:
            return fn, bound


def _hashed(parts: Iterable[str]) -> bytes:
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.digest()


def _is_code(thing: object) -> bool:
    kinds = (FunctionType, BuiltinFunctionType, ModuleType, type, partial)
    return isinstance(thing, kinds) or hasattr(thing, "__wrapped__")


class _Walk:
    """Goes through a function and what it depends on, and names all of it."""

    def __init__(self, root: object) -> None:
        self._root = root  # what it closes over is bound to it, and no code
        self._seen: dict[int, int] = {}  # what is on its way, numbered: recursion refers back
        self._kept: list[object] = []  # so that no number is that of another
        self._later: list[object] = []  # code: one in the other, it would be too deep for Python

    def digest(self, thing: object) -> bytes:
        """Return a digest of all that tells it apart."""
        return _hashed(self._whole(thing))

    def begun(self, thing: object) -> bytes:
        """Return a digest of a thing in data that is on the way; what is in code comes later."""
        return _hashed(self.parts(thing))

    def mark(self) -> tuple[int, int]:
        """Return where the walk is, for ``back_to``."""
        return len(self._seen), len(self._later)

    def back_to(self, mark: tuple[int, int]) -> None:
        """Go the way from there on once more."""
        while len(self._seen) > mark[0]:
            self._seen.popitem()
        del self._later[mark[1] :]

    def _whole(self, thing: object) -> Iterable[str]:
        yield from self.parts(thing)
        for code in self._later:  # which grows meanwhile
            yield "then"
            yield from self._inside(code)

    def parts(self, thing: object) -> Iterable[str]:
        """Yield what tells it apart from others, in words; what is in code comes later."""
        if type(thing) in PLAIN:
            yield repr(thing)
        elif id(thing) in self._seen:
            yield f"again {self._seen[id(thing)]}"
        else:
            self._seen[id(thing)] = len(self._seen)
            self._kept.append(thing)
            yield type(thing).__qualname__
            if isinstance(thing, (FunctionType, type)):
                self._later.append(thing)
            else:
                yield from self._inside(thing)

    def _inside(self, thing: Any) -> Iterable[str]:
        if isinstance(thing, Constant):
            yield from self._all(thing.__wrapped__, thing.args, thing.kwargs)
        elif isinstance(thing, partial):
            yield from self._all(thing.func, thing.args, thing.keywords)
        elif isinstance(thing, MethodType):
            yield from self._all(thing.__func__, thing.__self__)
        elif isinstance(thing, (FunctionType, type)) and _is_installed(_home(thing)):
            yield f"{thing.__qualname__} {_named_with_version(_home(thing))}"
        elif isinstance(thing, FunctionType):
            yield from self._function(thing)
        elif isinstance(thing, CodeType):
            yield from self._code(thing)
        elif isinstance(thing, (BuiltinFunctionType, ModuleType)):
            home = thing.__name__ if isinstance(thing, ModuleType) else _home(thing)
            yield f"{thing.__name__} {_named_with_version(home)}"
        elif isinstance(thing, type):
            yield f"{thing.__module__} {thing.__qualname__}"
            yield from self._class(thing)
        elif isinstance(thing, (tuple, list)):
            yield from self._all(*thing)
        elif thing is os.environ or thing is sys.modules:
            yield "of this process"  # known by its kind, as a module is by its name
        elif isinstance(thing, Mapping):
            yield from self._all(*(part for item in thing.items() for part in item))
        elif hasattr(thing, "__wrapped__"):  # what a decorator has made, a cache say
            yield from self.parts(thing.__wrapped__)
        else:
            yield f"{self._data(thing)} {_named_with_version(_home(thing))}"  # a function in C, say
            yield from self.parts(type(thing))

    def _all(self, *things: object) -> Iterable[str]:
        for thing in things:
            yield from self.parts(thing)
        yield "end"

    def _data(self, thing: object) -> str:
        try:
            return blake2b(_canonical(thing, self), digest_size=KEY_BYTES).hexdigest()
        except Exception:  # it cannot be pickled, so what is in it cannot be known
            return "something"

    def _function(self, fn: FunctionType) -> Iterable[str]:
        yield fn.__qualname__
        yield from self._all(fn.__code__, fn.__defaults__, fn.__kwdefaults__)
        for content in map(_content, fn.__closure__ or ()):
            if fn is not self._root or _is_code(content):
                yield from self.parts(content)
        registry = getattr(fn, "registry", None)
        if isinstance(registry, MappingProxyType):  # of functools.singledispatch
            yield from self._all(*sorted(registry.items(), key=lambda item: _name(item[0])))
        yield from self._named(global_names(fn.__code__), fn.__globals__, {id(fn.__globals__)})

    def _named(
        self, names: Iterable[str], there: Mapping[str, Any], been: set[int]
    ) -> Iterable[str]:
        """Yield what is behind names, and behind those of modules that are not installed."""
        for name in names:
            if name not in there:
                continue
            found = there[name]
            yield name
            yield from self._global(found)
            is_ours = isinstance(found, ModuleType) and not _is_installed(found.__name__)
            if is_ours and id(vars(found)) not in been:
                been.add(id(vars(found)))
                yield from self._named(names, vars(found), been)

    def _global(self, found: Any) -> Iterable[str]:
        """Yield what is behind a name."""
        owner = getattr(found, "__self__", found)  # of a method: from random import gauss
        if _draws(owner):
            yield getattr(found, "__name__", "")
            yield from self.parts(type(owner))
        else:
            yield from self.parts(found)

    def _code(self, code: CodeType) -> Iterable[str]:
        yield code.co_code.hex()
        yield code.co_exceptiontable.hex()  # where what is tried ends
        yield " ".join((*code.co_names, "/", *code.co_varnames, "/", *code.co_freevars))
        yield f"{code.co_argcount} {code.co_posonlyargcount} {code.co_kwonlyargcount}"
        yield str(code.co_flags)
        yield from self._all(*code.co_consts[_has_docstring(code) :])

    def _class(self, kind: type) -> Iterable[str]:
        yield from self._all(type(kind), *kind.__bases__)
        for name, member in sorted(vars(kind).items()):
            if not (_is_made(name, member) or isinstance(member, _DESCRIPTORS)):
                yield name
                for inner in _behind(member):
                    yield from self._global(inner)


_OWN = ("mirai", "dispatcher")  # what runs a function is no code of it
_OPTIMIZED = 0x1  # flags of code: it is a function's,
_HAS_DOCSTRING = 0x4000000  # and its first constant is a docstring (from Python 3.14 on)
_OF_CLASSES = {
    "__module__",
    "__doc__",
    "__dict__",
    "__weakref__",
    "__firstlineno__",
    "__static_attributes__",  # in no order
    "__annotations_cache__",
    "__slotnames__",  # by pickling an instance
    "__signature__",  # by pydantic, from the fields
    "_abc_impl",  # caches
    "_value2member_map_",  # of a Flag: with the composites that have been used
}
_DESCRIPTORS = (type(CodeType.co_name), type(FunctionType.__code__), type(object.__str__))


def _has_docstring(code: CodeType) -> bool:
    """Whether a function's first constant is its docstring."""
    if sys.version_info >= (3, 14):
        return bool(code.co_flags & _HAS_DOCSTRING)
    is_named = not code.co_name.startswith("<")  # in others it may be any string
    return is_named and bool(code.co_flags & _OPTIMIZED) and isinstance(code.co_consts[0], str)


def _is_made(name: str, member: object) -> bool:
    """Whether what a class has under a name is made by tools, and may come or change later."""
    if name == "__annotations__":
        return not member  # Python itself adds an empty dict when it is asked for them
    is_of_tools = name.startswith("__pydantic_") and name != "__pydantic_fields__"  # the defaults
    return is_of_tools or name in _OF_CLASSES


def _draws(thing: object) -> bool:
    """Whether it draws random numbers, so that its state changes with each."""
    homes = {str(kind.__module__) for kind in type(thing).__mro__}
    return "random" in homes or any(home.startswith("numpy.random.") for home in homes)


def _content(cell: CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _behind(member: Any) -> tuple[object, ...]:
    """Return what a member of a class is made of: the functions of a property, say."""
    if hasattr(member, "fget"):
        return tuple(getattr(member, name, None) for name in ("fget", "fset", "fdel"))
    if isinstance(member, cached_property):
        return (member.func,)
    if isinstance(member, singledispatchmethod):
        return member.func, member.dispatcher
    return (getattr(member, "__func__", member),)


def _home(thing: Any) -> str | None:
    """Return the name of the module that says it has something."""
    home = getattr(thing, "__module__", None)
    return home if home is None or isinstance(home, str) else "builtins"  # a type of Cython's


def _name(kind: type) -> str:
    return f"{kind.__module__} {kind.__qualname__}"


@cache
def _homes() -> tuple[str, ...]:
    """Return where Python and what is installed are."""
    names, paths = ("stdlib", "platstdlib", "purelib", "platlib"), sysconfig.get_paths()
    return tuple(os.path.realpath(paths[name]) + os.sep for name in names)


@cache
def _is_installed(module: str | None) -> bool:
    """Whether it is Python's own or installed, and so changes with its version only.

    All that is in a script or a notebook is not, nor is what is installed as a link to its source.
    """
    name = module or "__main__"
    top = name.partition(".")[0]
    if top in _OWN or name == "__main__":
        return top in _OWN
    for found in map(sys.modules.get, (name, top)):
        files = [getattr(found, "__file__", None), *getattr(found, "__path__", ())]
        places = [os.path.realpath(file) for file in files if isinstance(file, str)]
        if places:
            return any(map(_is_home, places))
    return top in sys.stdlib_module_names  # what is in Python itself has no file


def _is_home(place: str) -> bool:
    is_site = not {"site-packages", "dist-packages"}.isdisjoint(place.split(os.sep))
    return is_site or place.startswith(_homes())


def _named_with_version(module: str | None) -> str:
    """Return a module's name, and the version of what is installed."""
    if not module or not _is_installed(module):
        return module or ""
    top = module.partition(".")[0]
    stated = vars(sys.modules[top]).get("__version__") if top in sys.modules else None
    return f"{module} {stated if isinstance(stated, str) else _installed_version(top)}"


@cache
def _installed_version(top: str) -> str:
    """Return the version of what a package was installed with; of Python's own, nothing."""
    if top in sys.stdlib_module_names or top in _OWN:
        return ""
    from importlib import metadata  # not sooner: it takes long, and most need it not

    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:  # slower: its distribution has another name
        names = {name for name in metadata.packages_distributions().get(top, ()) if name}
        return " ".join(f"{name} {metadata.version(name)}" for name in sorted(names))
