"""What callers want sent, until it is sent: tasks, the functions that they need, cancels.

The caller's side adds, the channel's side takes; whoever owns both says how they are kept apart
(``Channel`` by its lock).  Only ``cancel`` needs no lock: it may come from a finalizer or a
signal handler, which may run in a thread that holds it.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, repeat
from time import time
from typing import Any

from dispatcher import wire
from dispatcher.messages import Cancel, Everywhere, Function, Message, Submit, Task
from mirai._budget import Load
from mirai._errors import MiraiError
from mirai._future import Mirai
from mirai._options import TaskOptions
from mirai._pending import Pending
from mirai._serialize import FunctionPickles, Packed, Reducer, function_name, pack
from mirai._story import Event
from mirai._streams import Streams

Call = tuple[tuple[Any, ...], dict[str, Any]]
"""The arguments and keywords of one call."""

MAX_STANDING = 1_000
"""How many calls for every daemon the dispatcher keeps for us."""
KNOWN_FUNCTIONS = 512
"""How many functions the dispatcher keeps for us; those used longest ago are forgotten."""


@dataclass(frozen=True, slots=True)
class Parcel:
    """Tasks of one function, pickled and not yet numbered."""

    function: Packed | None
    """None: the dispatcher knows it already by its ``number``."""
    label: str
    """The function's name for the dispatcher."""
    payloads: list[Packed]
    options: TaskOptions
    loads: Sequence[Load] = ()
    """What each of the tasks takes of the memory budget, if there is one."""
    fresh: bool = False
    """Whether each task gets a function of its own, since it may change when it is called."""
    number: int = 0
    """What the sender of the parcel calls the function, until ``forget``; 0: nothing."""


@dataclass(slots=True)
class Gathered:
    """What has gathered since the last time."""

    tasks: list[tuple[Mirai[Any], Task]] = field(default_factory=list)
    standing: list[tuple[list[Mirai[Any]], Task]] = field(default_factory=list)
    """Calls for every daemon, each with an id of its own, and the mirais of its answers."""
    functions: list[Function] = field(default_factory=list)
    forget: list[int] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)

    def mirais(self) -> Iterator[Mirai[Any]]:
        """Yield those that wait for what has gathered."""
        yield from (mirai for mirai, _ in self.tasks)
        for mirais, _ in self.standing:
            yield from mirais

    def messages(self, pending: Pending) -> Iterator[Message]:
        """Yield the messages to send, and enter the mirais that are sent into ``pending``.

        Tasks come before the cancels that may be about them; one that is cancelled already is
        not sent at all.
        """
        # In order but for a submit inside another one, from a signal handler or a finalizer.
        self.tasks.sort(key=lambda entry: entry[1].id)
        if self.standing:
            yield from self._standing(pending)
        yield from self._submits(self.tasks, pending)
        if self.forget:
            yield Submit((), (), tuple(self.forget))
        if ids := tuple(id for id in self.cancels if pending.remove(id)):
            yield Cancel(ids)

    def _standing(self, pending: Pending) -> Iterator[Message]:
        """Yield the calls for every daemon, and the tasks that were submitted before them."""
        for mirais, call in sorted(self.standing, key=lambda entry: entry[1].id):
            before = [entry for entry in self.tasks if entry[1].id < call.id]
            self.tasks = self.tasks[len(before) :]
            yield from self._submits(before, pending)
            for mirai in mirais:
                pending.add(mirai)
            yield Everywhere(tuple(mirai.id for mirai in mirais), call)

    def _submits(
        self, entries: list[tuple[Mirai[Any], Task]], pending: Pending
    ) -> Iterator[Message]:
        tasks = []
        for mirai, task in entries:
            if not mirai.done():
                pending.add(mirai)
                tasks.append(task)
        functions, self.functions = self.functions, []
        for batch, some in wire.work(tasks, functions):
            yield Submit(batch, some)


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
        self._share = share
        self._pickles = FunctionPickles(reducer=reducer, share=share)
        self._ids = count(1)
        self._numbers = count(1)
        self._known: OrderedDict[Packed, int] = OrderedDict()
        self._limit = known_functions
        self._box = Gathered()
        self._cancels: deque[int] = deque()
        self._forgets: deque[int] = deque()
        self._standing: set[tuple[int, int | bytes]] = set()  # calls for every daemon

    def __bool__(self) -> bool:
        """Whether there is anything to send.  A function never comes without a task."""
        box = self._box
        return bool(box.tasks or box.standing or self._cancels or self._forgets)

    def parcel(self, fn: Callable[..., Any], calls: Iterable[Call], options: TaskOptions) -> Parcel:
        """Pickle calls of ``fn``, given by their arguments and keywords.  Needs no lock.

        Raises SerializationError.
        """
        function, changes = self._pickles.find(fn)
        fresh = changes and bool(function[0]) and not function[1]
        payloads = [self.pack(call, options) for call in calls]
        return Parcel(function, function_name(fn), payloads, options, fresh=fresh)

    def pack(self, call: Call, options: TaskOptions) -> Packed:
        """Pickle the payload of one task.  Raises SerializationError."""
        whole = (*call, options.retry_on) if options.retry_on else call
        return pack(whole, self._reducer, share=self._share)

    def add(self, parcel: Parcel, hook: Callable[[Mirai[Any]], None]) -> list[Mirai[Any]]:
        """Add the tasks of a parcel; return their mirais, which call ``hook`` when cancelled."""
        options = parcel.options
        name = options.name or parcel.label.partition(":")[0]
        number = self._number(parcel)
        loads = parcel.loads or repeat(None)
        timeout = options.timeout or 0.0
        now = time()
        entries = []
        for payload, load in zip(parcel.payloads, loads, strict=False):
            mirai: Mirai[Any] = Mirai(next(self._ids), name, self._profile)
            mirai._cancel_hook = hook
            mirai._recount_hook = self._recount
            mirai._submitted = now
            if load is not None:
                mirai._load = load
            task = Task(
                mirai.id,
                number,
                *payload,
                options.priority,
                timeout,
                options.retries,
                options.tags,
                self._streams.next(),
            )
            entries.append((mirai, task))
        self._box.tasks += entries
        return [mirai for mirai, _ in entries]

    def add_standing(
        self, parcel: Parcel, answers: int, hook: Callable[[Mirai[Any]], None]
    ) -> list[Mirai[Any]]:
        """Add a call for every daemon; return the mirais of the first so many answers."""
        number = self._number(parcel)
        payload, blobs = parcel.payloads[0]
        self._stand((number, next(self._ids) if blobs else payload))
        call = Task(next(self._ids), number, *parcel.payloads[0])
        name = parcel.label.partition(":")[0]
        now = time()
        mirais: list[Mirai[Any]] = []
        for _ in range(answers):
            mirai: Mirai[Any] = Mirai(next(self._ids), name, self._profile)
            mirai._cancel_hook = hook
            mirai._recount_hook = self._recount
            mirai._submitted = now
            mirais.append(mirai)
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
        if others or len(box.tasks) != 1:
            return None
        mirai, task = box.tasks[0]
        if task.blobs or mirai._load is not None:
            return None
        box.tasks.clear()
        return mirai, task

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
