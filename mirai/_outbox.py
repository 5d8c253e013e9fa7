"""What callers want sent, until it is sent: tasks, the functions that they need, cancels.

The caller's side adds, the channel's side takes; whoever owns both says how they are kept apart
(``Channel`` by its lock).  Only ``cancel`` needs no lock: it may come from a finalizer or a
signal handler, which may run in a thread that holds it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice, repeat
from time import time
from typing import Any

from msgspec import Struct

from dispatcher import wire
from dispatcher.messages import (
    Attach,
    Blob,
    Cancel,
    Enlist,
    Everywhere,
    Function,
    Message,
    Span,
    Submit,
    Task,
)
from mirai._budget import Load
from mirai._copies import Copies
from mirai._errors import MiraiError
from mirai._future import Mirai
from mirai._lot import Lot
from mirai._options import Call, Durable, TaskOptions
from mirai._pending import Pending
from mirai._serialize import FunctionPickles, Packed, Reducer, pack, pack_calls
from mirai._story import Event
from mirai._streams import Streams

Hook = Callable[[Mirai[Any]], None]
"""What a mirai calls when it is cancelled."""

MAX_STANDING = 1_000
"""How many calls for every daemon the dispatcher keeps for us."""
KNOWN_FUNCTIONS = 512
"""How many functions the dispatcher keeps for us; those used longest ago are forgotten."""


class Parcel(Struct, frozen=True):
    """Tasks of one function, pickled and not yet numbered."""

    function: Packed | None
    """None: the dispatcher knows it already by its ``number``."""
    label: str
    """The function's name for the dispatcher."""
    name: str
    """The function's name for people."""
    payloads: list[Packed]
    options: TaskOptions
    keys: Sequence[bytes] = ()
    """By what durable tasks are known again, if they are."""
    loads: Sequence[Load] = ()
    """What each of the tasks takes of the memory budget, if there is one."""
    fresh: bool = False
    """Whether each task gets a function of its own, since it may change when it is called."""
    number: int = 0
    """What the sender of the parcel calls the function, until ``forget``; 0: nothing."""


Entry = tuple[Mirai[Any], int, bytes, tuple[Blob, ...], TaskOptions, bytes]
"""A task to send: its mirai, its function's number, its payload and blobs, its options and its
stream."""

LotEntry = tuple[Lot[Any], int, list[bytes], TaskOptions]
"""The tasks of a map to send: their lot, their function's number, their payloads and options."""


@dataclass(frozen=True, slots=True)
class Enlistment:
    """Durable tasks to send."""

    durable: Durable
    entries: list[Entry]
    keys: Sequence[bytes]

    def messages(self, pending: Pending) -> Iterator[Message]:
        """Yield the messages to send of those that are still wanted."""
        keys = self.keys or repeat(b"")
        wanted = [(e, k) for e, k in zip(self.entries, keys, strict=False) if not e[0].done()]
        for entry, _ in wanted:
            pending.add(entry[0])
        start = 0
        for tasks in wire.batches([*_tasks([entry for entry, _ in wanted])]):
            end = start + sum(task.count for task in tasks)
            some = b"".join(key for _, key in wanted[start:end])
            durable = self.durable
            yield Enlist(durable.job, tasks, (), some, durable.version, durable.stays)
            start = end


@dataclass(slots=True)
class Gathered:
    """What has gathered since the last time."""

    tasks: list[Entry | LotEntry] = field(default_factory=list)
    enlisted: list[Enlistment] = field(default_factory=list)
    attached: list[tuple[list[Mirai[Any]], Attach]] = field(default_factory=list)
    standing: list[tuple[list[Mirai[Any]], Task]] = field(default_factory=list)
    """Calls for every daemon, each with an id of its own, and the mirais of its answers."""
    functions: list[Function] = field(default_factory=list)
    forget: list[int] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)

    def mirais(self) -> Iterator[Mirai[Any]]:
        """Yield those that wait for what has gathered."""
        for entry in self.tasks:
            if isinstance(entry[0], Lot):
                yield from entry[0]
            else:
                yield entry[0]
        for enlistment in self.enlisted:
            yield from (entry[0] for entry in enlistment.entries)
        for mirais, _ in (*self.standing, *self.attached):
            yield from mirais

    def messages(self, pending: Pending) -> Iterator[Message]:
        """Yield the messages to send, and enter the mirais that are sent into ``pending``.

        Tasks come before the cancels that may be about them; one that is cancelled already is
        not sent at all.
        """
        # In order but for a submit inside another one, from a signal handler or a finalizer.
        self.tasks.sort(key=lambda entry: entry[0].id)
        if self.standing:
            yield from self._standing(pending)
        yield from self._submits(self.tasks, pending)
        for enlistment in self.enlisted:
            yield from enlistment.messages(pending)
        for mirais, attach in self.attached:
            for mirai in mirais:
                pending.add(mirai)
            yield attach
        if self.forget:
            yield Submit((), (), tuple(self.forget))
        if ids := tuple(id for id in self.cancels if pending.pop(id) is not None):
            yield Cancel(ids)

    def _standing(self, pending: Pending) -> Iterator[Message]:
        """Yield the calls for every daemon, and the tasks that were submitted before them."""
        for mirais, call in sorted(self.standing, key=lambda entry: entry[1].id):
            before = [entry for entry in self.tasks if entry[0].id < call.id]
            self.tasks = self.tasks[len(before) :]
            yield from self._submits(before, pending)
            for mirai in mirais:
                pending.add(mirai)
            yield Everywhere(tuple(mirai.id for mirai in mirais), call)

    def _submits(self, entries: list[Entry | LotEntry], pending: Pending) -> Iterator[Message]:
        tasks: list[Task] = []
        singles: list[Entry] = []
        for entry in entries:
            if len(entry) == 6:
                singles.append(entry)
                continue
            lot, number, payloads, options = entry
            if not lot.is_sealed():  # some may be cancelled already
                singles += (
                    (mirai, number, payload, (), options, b"")
                    for mirai, payload in zip(lot, payloads, strict=True)
                )
                continue
            pending.add_lot(lot)
            tasks += _single_tasks(singles, pending)
            tasks += _lot_tasks(lot, number, payloads, options)
            singles = []
        tasks += _single_tasks(singles, pending)
        functions, self.functions = self.functions, []
        for batch, some in wire.work(tasks, functions):
            yield Submit(batch, some)


def _single_tasks(entries: list[Entry], pending: Pending) -> Iterator[Task]:
    """Yield the tasks of these entries that are still wanted, in runs where they are alike."""
    wanted = [entry for entry in entries if not entry[0].done()]
    for entry in wanted:
        pending.add(entry[0])
    return _tasks(wanted)


def _lot_tasks(
    lot: Lot[Any], number: int, payloads: list[bytes], options: TaskOptions
) -> Iterator[Task]:
    """Yield the tasks of a lot, in runs."""
    start = 0
    while start < len(payloads):
        size = 0
        end = start
        for payload in islice(payloads, start, start + wire.BATCH_TASKS):
            size += len(payload)
            if size > wire.RUN_BYTES and end > start:
                break
            end += 1
        following = tuple(payloads[start + 1 : end])
        yield _task(lot.id + start, number, payloads[start], (), options, b"", following)
        start = end


def _task(
    id: int,
    number: int,
    payload: bytes,
    blobs: tuple[Blob, ...],
    options: TaskOptions,
    stream: bytes,
    following: tuple[bytes, ...],
) -> Task:
    return Task(  # by position, which is faster
        id,
        number,
        payload,
        blobs,
        options.priority,
        options.timeout or 0.0,
        options.retries,
        options.tags,
        stream,
        False,
        following,
    )


def _tasks(entries: list[Entry]) -> Iterator[Task]:
    """Yield the tasks of these entries, in runs where they are alike."""
    index = 0
    while index < len(entries):
        mirai, number, payload, blobs, options, stream = entries[index]
        index += 1
        following: list[bytes] = []
        if not (blobs or stream):
            following = _following(entries, index)
            index += len(following)
        yield _task(mirai.id, number, payload, blobs, options, stream, tuple(following))


def _following(entries: list[Entry], index: int) -> list[bytes]:
    """Return the payloads of the tasks from this one on that can go in one run with the last."""
    before, number, payload, _, options, _ = entries[index - 1]
    id, size = before.id, len(payload)
    payloads: list[bytes] = []
    for mirai, its_number, payload, blobs, its_options, stream in islice(
        entries, index, index - 1 + wire.BATCH_TASKS
    ):
        id += 1
        size += len(payload)
        if its_number != number or mirai.id != id or size > wire.RUN_BYTES:
            break
        if blobs or stream:
            break
        if its_options is not options and its_options != options:
            break
        payloads.append(payload)
    return payloads


class Outbox:
    """Numbers the tasks and the functions of one connection, and keeps them until taken."""

    def __init__(
        self,
        profile: str,
        known_functions: int = KNOWN_FUNCTIONS,
        *,
        seed: int | None = None,
        reducer: Reducer | None = None,
        share: bool = False,
        recount: Callable[[Mirai[Any]], tuple[Event, ...]] | None = None,
    ) -> None:
        """With a ``seed``, each task has a stream of random numbers.

        ``reducer`` knows how to pickle some objects that are arguments or captured; ``share``:
        the large ones may lie in shared memory.  ``recount`` tells where a task is that is
        not answered; see ``Mirai.story``.
        """
        self._profile = profile
        self._recount = recount
        self._streams = Streams(seed)
        self._reducer = reducer
        self._share = Copies().share if share else None
        self._pickles = FunctionPickles(reducer=reducer, share=self._share)
        self._ids = count(1)
        self._numbers = count(1)
        self._known: OrderedDict[Packed, int] = OrderedDict()
        self._limit = known_functions
        self._box = Gathered()
        self._cancels: deque[int] = deque()
        self._forgets: deque[int] = deque()
        self._standing: set[tuple[int, int | bytes]] = set()  # calls for every daemon
        self.durable: Durable | None = None
        """What tasks are that do not say otherwise."""

    def __bool__(self) -> bool:
        """Whether there is anything to send.  A function never comes without a task."""
        box = self._box
        has_tasks = box.tasks or box.enlisted or box.standing or box.attached
        return bool(has_tasks or self._cancels or self._forgets)

    def parcel(self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions) -> Parcel:
        """Pickle calls of ``fn``, given by their arguments and keywords.  Needs no lock.

        Raises SerializationError.
        """
        function, label, name, changes = self._pickles.find(fn)
        fresh = changes and bool(function[0]) and not function[1]
        keys: Sequence[bytes] = ()
        key = None if options.durable is None else options.durable.key
        if key is not None:
            calls = [*calls]
        payloads = self._packed(calls, options)  # first: it says what cannot be pickled, and where
        if key is not None:
            keys = [key(call, self._reducer) for call in calls]
        return Parcel(function, label, options.name or name, payloads, options, keys, (), fresh)

    def key(self, call: Call, options: TaskOptions) -> bytes | None:
        """Return by what a call is known again, if it is."""
        key = None if options.durable is None else options.durable.key
        return None if key is None else key(call, self._reducer)

    def pack(self, call: Call, options: TaskOptions) -> Packed:
        """Pickle the payload of one task.  Raises SerializationError."""
        return self._packed([call], options)[0]

    def _packed(self, calls: Iterable[Call], options: TaskOptions) -> list[Packed]:
        if not options.retry_on:
            return pack_calls(calls, self._reducer, share=self._share)
        whole = ((*call, options.retry_on) for call in calls)
        return [pack(each, self._reducer, share=self._share) for each in whole]

    def add(self, parcel: Parcel, hook: Hook) -> list[Mirai[Any]]:
        """Add the tasks of a parcel; return their mirais, which call ``hook`` when cancelled."""
        name, options = parcel.name, parcel.options
        number = self._number(parcel)
        loads = parcel.loads or repeat(None)
        now = time()
        entries: list[Entry] = []
        for (payload, blobs), load in zip(parcel.payloads, loads, strict=False):
            mirai = self._mirai(next(self._ids), name, now, hook)
            if load is not None:
                mirai._load = load
            stream = options.stream or self._streams.next()
            entries.append((mirai, number, payload, blobs, options, stream))
        durable = options.durable or self.durable
        if durable is None:
            self._box.tasks += entries
        else:
            self._box.enlisted.append(Enlistment(durable, entries, parcel.keys))
        return [entry[0] for entry in entries]

    def add_lot(self, parcel: Parcel, hook: Hook) -> Sequence[Mirai[Any]]:
        """Add the tasks of a map like ``add``; where they can make a lot, return that."""
        payloads = [payload for payload, blobs in parcel.payloads if not blobs]
        durable = parcel.options.durable or self.durable
        few = len(payloads) < max(2, len(parcel.payloads))
        if few or durable is not None or self._streams.are_drawn():
            return self.add(parcel, hook)
        number = self._number(parcel)
        now = time()
        make = partial(self._mirai, name=parcel.name, now=now, hook=hook)
        ids = self._some_ids(len(payloads))
        lot: Lot[Any] = Lot(ids[0], len(ids), make)
        self._box.tasks.append((lot, number, payloads, parcel.options))
        return lot

    def _some_ids(self, count: int) -> list[int]:
        """Return ids that follow one another."""
        ids = [*islice(self._ids, count)]
        while ids[-1] - ids[0] >= len(ids):  # a finalizer, say, has taken some meanwhile
            ids = [*islice(self._ids, count)]
        return ids

    def attach(self, spans: Sequence[tuple[Span, str]], hook: Hook) -> list[Mirai[Any]]:
        """Ask for durable tasks, given by their serials and names; return their mirais."""
        names = [name for span, name in spans for _ in span.numbers]
        if not names:
            return []
        ids, now = self._some_ids(len(names)), time()
        mirais = [self._mirai(id, name, now, hook) for id, name in zip(ids, names, strict=True)]
        self._box.attached.append((mirais, Attach(ids[0], tuple(span for span, _ in spans))))
        return mirais

    def _mirai(self, id: int, name: str, now: float, hook: Hook) -> Mirai[Any]:
        mirai: Mirai[Any] = Mirai(id, name, self._profile)
        mirai._cancel_hook = hook
        mirai._recount_hook = self._recount
        mirai._submitted = now
        return mirai

    def add_standing(self, parcel: Parcel, hook: Hook, answers: int) -> list[Mirai[Any]]:
        """Add a call for every daemon; return the mirais of the first so many answers."""
        number = self._number(parcel)
        payload, blobs = parcel.payloads[0]
        self._stand((number, next(self._ids) if blobs else payload))
        call = Task(next(self._ids), number, *parcel.payloads[0])
        now = time()
        mirais = [self._mirai(next(self._ids), parcel.name, now, hook) for _ in range(answers)]
        self._box.standing.append((mirais, call))
        return mirais

    def _stand(self, call: tuple[int, int | bytes]) -> None:
        """Note a call for every daemon.  Raises MiraiError if there are too many.

        The dispatcher takes two for the same only if they bring no large buffers along.
        """
        self._standing.add(call)
        if len(self._standing) > MAX_STANDING:
            self._standing.remove(call)
            raise MiraiError(
                f"everywhere() is for at most {MAX_STANDING:,} different calls: each is made on"
                " every daemon that joins later"
            )

    def cancel(self, mirai: Mirai[Any]) -> None:
        """Tell the dispatcher that nobody wants this task any more."""
        self._cancels.append(mirai.id)

    def take(self) -> Gathered:
        """Return what has gathered, and begin anew."""
        gathered, self._box = self._box, Gathered()
        gathered.cancels = [self._cancels.popleft() for _ in range(len(self._cancels))]
        gathered.forget += [self._forgets.popleft() for _ in range(len(self._forgets))]
        return gathered

    def take_lone(self) -> tuple[Mirai[Any], Task] | None:
        """Return the only task that has gathered, where nothing else has; None otherwise.

        What brings large buffers along or counts for a memory budget is left where it is.
        """
        box = self._box
        others = box.standing or box.functions or box.forget or self._cancels or self._forgets
        if others or box.enlisted or box.attached or len(box.tasks) != 1:
            return None
        entry = box.tasks[0]
        if len(entry) != 6 or entry[3] or entry[0]._load is not None:
            return None
        box.tasks.clear()
        mirai, number, payload, blobs, options, stream = entry
        return mirai, _task(mirai.id, number, payload, blobs, options, stream, ())

    def next_id(self) -> int:
        """Return a number that no task has."""
        return next(self._ids)

    def next_number(self) -> int:
        """Return a number for a function, which its sender keeps until ``forget``."""
        return next(self._numbers)

    def forget(self, number: int) -> None:
        """Tell the dispatcher that no more tasks come for this function.  Needs no lock."""
        self._forgets.append(number)

    def _number(self, parcel: Parcel) -> int:
        """Return the function's number; put it into the box if it is new.

        One that brings large buffers along is not kept, but sent with each parcel, unless the
        sender has a number for it.
        """
        function, label = parcel.function, parcel.label
        if function is None:
            return parcel.number
        if parcel.number:
            self._box.functions.append(Function(parcel.number, label, *function, parcel.fresh))
            return parcel.number
        known = self._known.get(function) if not function[1] else None
        if known is not None:
            self._known.move_to_end(function)
            return known
        number = next(self._numbers)
        # First the box: a number must not be known that Ctrl-C keeps from being sent.
        self._box.functions.append(Function(number, label, *function, parcel.fresh))
        if function[1]:
            self._box.forget.append(number)
            return number
        self._known[function] = number
        if len(self._known) > self._limit:
            self._box.forget.append(self._known.popitem(last=False)[1])
        return number
