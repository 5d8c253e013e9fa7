"""Boards on Redis, or on Valkey."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from dispatcher.boards import End, Row, Tally, TaskState, Worker, WorkerState
from dispatcher.log import Guarded
from mirai._errors import BoardError, MiraiError, NotRunning, StoreError
from mirai.queues.boards import _redis_scripts as scripts
from mirai.queues.boards._places import NO_URL, PASSWORD

logger = Guarded("mirai")

T = TypeVar("T")

PATIENCE = 30.0
"""Seconds for which a server that does not answer is called again."""
LOOK = 2.0
"""Seconds after which who waits for a task looks by itself: the ring may have been for somebody who
has died."""
SILENCE = 20.0
"""Seconds without an answer after which a connection is given up."""
BRIEF = 2.0
"""The same for a heartbeat: another must come before the worker is taken for lost."""
CONNECT = 5.0
"""Seconds after which somebody who does not accept a connection is given up."""
DELAY = 0.5
"""Seconds between two calls to a server that does not answer, at most."""
SLICE = 2_000
"""Tasks that are withdrawn at once: a server does nothing else meanwhile."""
FIRST = ("", 0)
"""Among nodes of a cluster, the one whose URL was given."""
UNREACHABLE = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
)
IN_BETWEEN = (
    redis.exceptions.ClusterDownError,
    redis.exceptions.TryAgainError,
    redis.exceptions.AskError,
)
"""A cluster is about to have another node take over."""
REFUSED = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
)


class _Meta(msgspec.Struct, array_like=True):
    """What the scripts know of a task; see there."""

    state: TaskState
    condition: str
    worker: str
    priority: int
    tries: int
    pushed: float
    started: float
    ended: float


_decode_meta = msgspec.msgpack.Decoder(_Meta).decode
_decode_worker = msgspec.msgpack.Decoder(Worker).decode
_decode_line = msgspec.msgpack.Decoder(tuple[float, str, str]).decode


class RedisStore:
    """A board on a Redis server: see ``dispatcher.boards.Store``.

    Where the server goes and comes back within ``patience`` seconds, nobody notices; whatever it
    has not kept over that is gone.  A call that it has answered by a lost connection is made again,
    and does no harm: the scripts know what was done already, and only ``withdraw``, ``leave`` and
    ``find_lost`` may return less than they have done.

    The server may be any node of a cluster.  All of a board lies in one slot, so on one node: that
    one is asked, once another has said which it is.  The others are learnt while one answers, for
    when one dies.
    """

    def __init__(
        self, url: str, name: str, *, shown: str = "Redis", patience: float = PATIENCE
    ) -> None:
        """``url``: ``redis://``, ``rediss://`` or ``unix://``, as redis-py knows them.

        ``shown``: what errors and logs say of it.  Raises ValueError.
        """
        self._where = shown
        self._patience = patience
        self._prefix = f"mirai:{{{name}}}:"
        options: dict[str, Any] = {} if url.startswith("unix") else {"socket_keepalive": True}
        try:
            first: Any = redis.Redis.from_url(
                url,
                retry=Retry(NoBackoff(), 0),  # only here it is known what may be called again
                socket_timeout=SILENCE,
                socket_connect_timeout=CONNECT,
                **options,
            )
            pool = first.connection_pool
            pool.connection_class(**pool.connection_kwargs)  # which knows what options there are
        except (ValueError, TypeError, redis.exceptions.RedisError):  # which may show a secret
            raise ValueError(f"{self._where} {NO_URL}") from None
        self._nodes = {FIRST: first}
        self._for_beats: dict[tuple[str, int], Any] = {}  # with connections that wait less long
        self._at = FIRST
        self._ring = [FIRST]  # those that are asked in turn where one does not answer
        self._turn = 0
        self._is_informed = False  # whether the ring is what the cluster says
        self._scripts: dict[str, Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<RedisStore {self._where}>"

    @property
    def _client(self) -> Any:
        return self._nodes[self._at]

    def check(self) -> None:
        """See whether the server is there and takes our password.

        Raises StoreError at once if not, and is closed then.
        """
        try:
            self._client.ping()
        except BaseException as error:
            self.close()
            if isinstance(error, redis.exceptions.RedisError):
                raise self._error(error) from None
            raise

    # ── tasks ────────────────────────────────────────────────────────────────────────────

    def push(self, rows: Sequence[Row]) -> None:
        """See ``Store``, also for what follows."""
        told = [part for row in rows for part in (row.key, row.xs, row.worker, row.priority)]
        if told:
            self._check(self._run(scripts.PUSH, *told), "")

    def create(self, worker: str, rows: Sequence[Row]) -> None:
        told = [part for row in rows for part in (row.key, row.xs, row.priority)]
        self._check(self._run(scripts.CREATE, worker, *told), worker)

    def pop(self, worker: str, timeout: float = 0.0) -> Row | None:
        until = time.monotonic() + timeout
        while True:
            answer = self._run(scripts.POP, worker, secrets.token_hex(8))
            self._check(answer, worker)
            if answer[0] == 1:
                _, key, xs, meta = answer
                return _row(key, xs, b"", meta)
            left = until - time.monotonic()
            if left <= 0:
                return None
            self._listen(worker, min(left, LOOK))

    def _listen(self, worker: str, timeout: float) -> None:
        """Wait until there may be a task."""
        bells = [f"{self._prefix}bell:{worker}", f"{self._prefix}bell"]
        self._call(lambda _: self._client.blpop(bells, timeout=max(timeout, 0.01)))

    def end(self, worker: str, ends: Sequence[End]) -> list[bool]:
        told = [part for each in ends for part in (each.key, each.state, each.ys, each.condition)]
        return [answer == 1 for answer in self._run(scripts.END, worker, *told)]

    def withdraw(self, keys: Sequence[str] | None, condition: str) -> int:
        if keys is None:
            return self._withdraw_all(condition)
        return sum(
            int(self._run(scripts.WITHDRAW, condition, *keys[start : start + SLICE]))
            for start in range(0, len(keys), SLICE)
        )

    def _withdraw_all(self, condition: str) -> int:
        """Withdraw what is queued now, and not what is pushed meanwhile."""
        count, found, last = 0, SLICE, ""
        while found == SLICE:
            found, last = self._run(scripts.WITHDRAW_ALL, condition, last, SLICE)
            count += found
        return count

    def rows(self, keys: Sequence[str]) -> list[Row | None]:
        if not keys:
            return []

        def read(_: bool) -> Any:
            with self._client.pipeline(transaction=True) as pipe:
                for part in ("xs", "ys", "meta"):
                    pipe.hmget(self._prefix + part, keys)
                return pipe.execute()

        columns = self._call(read)
        return [
            None if meta is None else _row(key, xs, ys or b"", meta)
            for key, xs, ys, meta in zip(keys, *columns, strict=True)
        ]

    def keys(self, states: Sequence[TaskState]) -> list[str]:
        def read(_: bool) -> Any:
            with self._client.pipeline(transaction=True) as pipe:
                for state in states:
                    pipe.zrange(f"{self._prefix}in:{state}", 0, -1, withscores=True)
                return pipe.execute()

        found = [pair for pairs in self._call(read) for pair in pairs] if states else []
        found.sort(key=lambda pair: pair[1])
        return [key.decode() for key, _ in found]

    def ended(self, start: int, count: int) -> tuple[list[str], int]:
        position, *keys = self._run(scripts.ENDED, start, count)
        return [key.decode() for key in keys], int(position)

    # ── counts ───────────────────────────────────────────────────────────────────────────

    def tally(self) -> Tally:
        return Tally(*self._run(scripts.TALLY))

    def wait(self, changes: int, timeout: float) -> Tally:
        until = time.monotonic() + timeout
        tally = self.tally()
        if tally.changes != changes or timeout <= 0:
            return tally

        def listen(_: bool) -> Tally:
            with self._client.pubsub(ignore_subscribe_messages=False) as news:
                news.subscribe(f"{self._prefix}news")
                while True:
                    tally = self.tally()
                    left = until - time.monotonic()
                    if tally.changes != changes or left <= 0:
                        return tally
                    news.get_message(timeout=min(left, SILENCE / 2))

        return self._call(listen)

    # ── workers ──────────────────────────────────────────────────────────────────────────

    def enter(self, worker: Worker) -> None:
        told = (worker.id, worker.host, worker.pid, worker.patience)
        if self._run(scripts.ENTER, *told) != 1:
            raise BoardError(f"there is or was a worker {worker.id!r} already")

    def beat(self, worker: str) -> bool:
        return bool(self._run(scripts.BEAT, worker, brief=True))

    def leave(self, worker: str, state: WorkerState, reason: str = "", *, most: int = 0) -> bool:
        return bool(self._run(scripts.LEAVE, worker, state, reason, most))

    def ask_to_leave(self, workers: Sequence[str] | None) -> None:
        self._run(scripts.ASK_TO_LEAVE, *(["all"] if workers is None else ["some", *workers]))

    def find_lost(self, *, most: int = 0) -> list[str]:
        return [worker.decode() for worker in self._run(scripts.FIND_LOST, most)]

    def workers(self) -> list[Worker]:
        return [_decode_worker(raw) for raw in self._run(scripts.WORKERS)]

    # ── the rest ─────────────────────────────────────────────────────────────────────────

    def log(self, worker: str, lines: Sequence[str]) -> None:
        self._run(scripts.LOG, worker, *lines)

    def logged(self, worker: str | None, last: int) -> list[tuple[float, str, str]]:
        count = last if worker is None else scripts.LOGGED
        key = f"{self._prefix}log"
        raw = self._call(lambda _: self._client.lrange(key, -count, -1)) if last > 0 else []
        lines = [_decode_line(line) for line in raw]
        return [line for line in lines if worker in (None, line[1])][-last:]

    def put(self, name: str, data: bytes) -> None:
        self._call(lambda _: self._client.hset(f"{self._prefix}objects", name, data))

    def get(self, name: str) -> bytes | None:
        data: bytes | None = self._call(lambda _: self._client.hget(f"{self._prefix}objects", name))
        return data

    def reset(self) -> None:
        self._run(scripts.RESET)

    def close(self) -> None:
        for client in (*self._nodes.values(), *self._for_beats.values()):
            client.close()
            client.connection_pool.disconnect()

    # ── calling ──────────────────────────────────────────────────────────────────────────

    def _run(self, script: str, *told: object, brief: bool = False) -> Any:
        """Run a script; it is told whether it may have run already."""
        runner = self._scripts.get(script)
        if runner is None:
            runner = self._client.register_script(scripts.whole(script))
            self._scripts[script] = runner

        def run(again: bool) -> Any:
            client = self._client_for_beats() if brief else self._client
            return runner([self._prefix], [int(again), *told], client=client)

        return self._call(run)

    def _call(self, do: Callable[[bool], T]) -> T:
        """Ask the server; ``do`` is told whether it was asked before.  Raises StoreError."""
        until = time.monotonic() + self._patience
        again = moved = False
        while True:
            asked = self._at
            try:
                answer = do(again)
                self._learn()
                return answer
            except REFUSED as error:  # which redis-py takes for a kind of lost connection
                raise self._error(error) from None
            except redis.exceptions.MovedError as error:
                if time.monotonic() >= until:
                    raise self._error(error) from None
                self._move(error.host, error.port)
                if not moved:  # else nodes may not agree yet
                    moved = True
                    continue
            except (*UNREACHABLE, *IN_BETWEEN) as error:
                if time.monotonic() >= until:
                    raise self._error(error) from None
                logger.info("%s does not answer, and is called again: %s", self._where, error)
                self._ask_another(asked)
                again = True
            except redis.exceptions.RedisError as error:
                if not _is_busy(error) or time.monotonic() >= until:
                    raise self._error(error) from None
                logger.info("%s is busy, and is called again: %s", self._where, error)
            time.sleep(random.uniform(0.1, 1.0) * DELAY)  # not all who have lost it at once

    def _move(self, host: str, port: int) -> None:
        """Ask that node of the cluster from now on."""
        with self._lock:
            self._is_informed = False  # who has not heard of this may not have heard of others
            self._ask((host, port))
        logger.info("%s: the board is on the node %s:%d", self._where, host, port)

    def _ask(self, node: tuple[str, int]) -> None:
        """Ask this node from now on; called with the lock held."""
        if node not in self._nodes:
            self._nodes[node] = self._client_of(node)
        if node not in self._ring:
            self._ring.append(node)
        self._at = node

    def _client_of(self, node: tuple[str, int]) -> Any:
        """Return a connection to a node, which is made like that to the first."""
        host, port = node
        how = self._nodes[FIRST].connection_pool.connection_kwargs
        if not host:  # it is that of who has said so
            host = how.get("host", "localhost")
        return _like(self._nodes[FIRST], host=host, port=port)

    def _client_for_beats(self) -> Any:
        with self._lock:
            node = self._at
            if node not in self._for_beats:
                self._for_beats[node] = _like(self._nodes[node], socket_timeout=BRIEF)
            return self._for_beats[node]

    def _ask_another(self, asked: tuple[str, int]) -> None:
        """Ask the next node where the board is now, unless somebody else has found out."""
        with self._lock:
            if self._at == asked:
                self._turn += 1
                self._ask(self._ring[self._turn % len(self._ring)])

    def _learn(self) -> None:
        """Ask for the nodes of the cluster, once in a while; there may be none, or no answer."""
        if self._is_informed:
            return
        self._is_informed = True
        try:
            slots = self._client.execute_command("CLUSTER SLOTS")
        except UNREACHABLE:  # the next call asks again
            self._is_informed = False
        except redis.exceptions.RedisError:  # it is no cluster, or we may not ask
            pass
        else:
            nodes = [
                ((host or b"").decode(), port) for slot in slots for host, port, *_ in slot[2:]
            ]
            with self._lock:
                self._ring = list(dict.fromkeys([FIRST, *nodes]))

    def _error(self, error: Exception) -> MiraiError:
        known = self._nodes[FIRST].connection_pool.connection_kwargs
        if isinstance(error, redis.exceptions.AuthenticationError) and not known.get("password"):
            return StoreError(
                f"{self._where} wants a password: give it in the URL, or as {PASSWORD}"
            )
        return StoreError(f"{self._where}: {error}")

    def _check(self, answer: list[Any], worker: str) -> None:
        """Raise what a script refuses."""
        if answer[0] == -1:
            raise NotRunning(f"worker {worker!r} is to leave, or is not running any more")
        if answer[0] == 0 and len(answer) > 1:
            raise BoardError(f"there is a task {answer[1].decode()!r} already")


def _like(client: Any, **options: object) -> Any:
    """Return a connection that is made like another, but for these options."""
    pool = client.connection_pool
    kind, how = pool.connection_class, {**pool.connection_kwargs, **options}
    if "port" in options and how.pop("path", None) is not None:
        kind = redis.Connection
    return redis.Redis(connection_pool=redis.ConnectionPool(connection_class=kind, **how))


def _is_busy(error: Exception) -> bool:
    """Whether a server has refused a call, since it has been at a script for some seconds."""
    return str(error).startswith("BUSY ") or ": BUSY " in str(error)  # one of several calls


def _row(key: bytes | str, xs: bytes, ys: bytes, meta: bytes) -> Row:
    known = _decode_meta(meta)
    return Row(
        key.decode() if isinstance(key, bytes) else key,
        xs,
        known.state,
        ys,
        known.condition,
        known.worker,
        known.priority,
        known.tries,
        known.pushed,
        known.started,
        known.ended,
    )
