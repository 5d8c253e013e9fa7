"""What lies in a queue's file, and the steps that change it: each is one transaction.

It knows bytes and rows; what is pickled in them is not its concern.  Time is an argument.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple
from zlib import crc32

from mirai._errors import StoreError
from mirai.queues.files import _row
from mirai.queues.files._file import File, damaged
from mirai.queues.files._options import QueueOptions
from mirai.queues.files._result import Counts, State
from mirai.queues.files._row import Row, Who

_COLUMNS = ", ".join(Row._fields)
_SELECT = f"SELECT {_COLUMNS} FROM tasks"
_INSERT = "INSERT INTO tasks VALUES ({})".format(", ".join("?" * len(Row._fields)))
_CHANGING = Row._fields[Row._fields.index("state") :]
_UPDATE = "UPDATE tasks SET {} WHERE id = ?".format(", ".join(f"{name} = ?" for name in _CHANGING))
_FIRST = len(Row._fields) - len(_CHANGING)
MOST = 900_000_000
"""How many bytes of one call, or one answer, SQLite keeps."""


class Definition(NamedTuple):
    """A function as it lies in the file."""

    digest: bytes
    name: str
    path: str
    """Where its caller imports from: entries of ``sys.path``, with NULs between them."""
    fresh: bool
    """Whether each task gets a new one, since it may change when it is called."""
    payload: bytes


class Answer(NamedTuple):
    """What a task has returned or raised."""

    ok: bool
    payload: bytes
    seconds: float = 0.0
    log: str = ""
    again: bool = False
    """Whether its caller has allowed it to run again after this error."""


class Table:
    """The tasks of a queue.  All methods raise StoreError."""

    def __init__(
        self, path: str | os.PathLike[str], *, create: bool = True, look: bool = True
    ) -> None:
        """Open the file, or make it; ``look`` whether it is whole."""
        self._file = File(path, create=create, look=look)
        self.path = self._file.path

    def close(self) -> None:
        """Close the file here.  Idempotent."""
        self._file.close()

    def remove(self, now: float) -> None:
        """Remove the file from the disk.  Raises StoreError while somebody runs a task of it."""
        with self._file.write() as db:
            running = list(self._rows(db, "WHERE state = 'running'"))
            if count := sum(not row.is_abandoned(now) for row in running):
                raise StoreError(f"{self.path} is in use: {count:,} tasks are running")
            self._file.unlink()
        self._file.clear()

    def check(self) -> None:
        """Look through all of it.  Raises StoreError if it is damaged."""
        self._file.check()
        with self._file.read() as db:
            for (number,) in db.execute("SELECT id FROM functions").fetchall():
                self._definition(db, number)
            for row in self._rows(db, "ORDER BY id"):
                self._call(db, row.id)
                self._answer(db, row)

    # ── tasks come ───────────────────────────────────────────────────────────────────────

    def push(
        self, function: Definition, calls: Sequence[bytes], options: QueueOptions, now: float
    ) -> range:
        """Add a task for each call, all or none; return their ids, in this order."""
        for call in calls:
            check_size(call, "the arguments of a call")
        check_size(function.payload, "a function")
        with self._file.write() as db:
            number = self._number(db, function)
            first = self._next_id(db)
            name = options.name or function.name
            fresh = Row(0, number, name, options.priority, options.retries, now)
            ids = range(first, first + len(calls))
            db.executemany(_INSERT, (fresh._replace(id=id).summed() for id in ids))
            sums = ((id, call, crc32(call)) for id, call in zip(ids, calls, strict=True))
            db.executemany("INSERT INTO calls VALUES (?, ?, ?)", sums)
        return ids

    def _next_id(self, db: sqlite3.Connection) -> int:
        """Return an id that is larger than those that there ever were."""
        found = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'tasks'").fetchone()
        return 1 if found is None else int(found[0]) + 1

    def _number(self, db: sqlite3.Connection, function: Definition) -> int:
        """Return the number of a function; one that is the same is kept once."""
        known = db.execute("SELECT id FROM functions WHERE digest = ?", (function.digest,))
        if (row := known.fetchone()) is not None:
            return int(row[0])
        number = db.execute(
            "INSERT INTO functions (digest, name, path, fresh, payload, sum)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (*function, _sum_of(function)),
        ).lastrowid
        assert number is not None
        return number

    # ── tasks are worked on ──────────────────────────────────────────────────────────────

    def claim(self, who: Who, now: float, ttl: float) -> tuple[Row, bytes] | None:
        """Lease the next task for ``ttl`` seconds; return it and its call, None if none waits."""
        with self._file.write() as db:
            return self._claim(db, who, now, ttl)

    def turn(
        self, row: Row, who: Who, answer: Answer, now: float, ttl: float, *, more: bool = True
    ) -> tuple[bool, tuple[Row, bytes] | None]:
        """Answer a task, and lease the next one if there are to be ``more``, in one step.

        Returns whether the answer was kept: it is not where the lease was lost to somebody else.
        """
        with self._file.write() as db:
            kept = self._settle(db, row, who, answer)
            return kept, self._claim(db, who, now, ttl) if more else None

    def settle(self, row: Row, who: Who, answer: Answer) -> bool:
        """Answer a task; return whether the answer was kept."""
        with self._file.write() as db:
            return self._settle(db, row, who, answer)

    def put_back(self, row: Row, who: Who) -> bool:
        """Let a task wait again that has not begun; return whether it was still leased."""
        with self._file.write() as db:
            if held := self._held(db, row, who):
                self._save(db, _row.put_back(held))
            return held is not None

    def renew(self, workers: Iterable[str], now: float, ttl: float) -> int:
        """Have the leases of these workers, by their ids, end later; return how many they have."""
        with self._file.write() as db:
            held = [row for worker in workers for row in self._leases(db, worker) if row.deadline]
            for row in held:
                self._save(db, row._replace(deadline=now + ttl))
        return len(held)

    def bury(
        self,
        worker: str,
        begun: int | None,
        reason: str,
        exit: int | None = None,
        output: str = "",
    ) -> list[Row]:
        """A worker has surely ended: end its leases, and return those of tasks that may have begun.

        ``begun`` is the task that it was at, 0 if at none; None if that is not known.  A task that
        it has not begun waits again.
        """
        with self._file.write() as db:
            rows = self._leases(db, worker)
            lost = [row for row in rows if begun is None or row.id == begun]
            for row in rows:
                ended = _row.lapsed(row, reason, exit, output)
                self._save(db, ended if row in lost else _row.put_back(row))
        return lost

    def _claim(
        self, db: sqlite3.Connection, who: Who, now: float, ttl: float
    ) -> tuple[Row, bytes] | None:
        row = next(
            self._rows(db, "WHERE state = 'waiting' ORDER BY priority DESC, id LIMIT 1"), None
        )
        if row is None:
            return None
        call = self._call(db, row.id)
        return self._save(db, _row.leased(row, who, now, ttl)), call

    def _settle(self, db: sqlite3.Connection, row: Row, who: Who, answer: Answer) -> bool:
        held = self._held(db, row, who)
        if held is None:
            for other in self._rows(db, "WHERE id = ?", row.id):
                self._save(db, _row.unheard(other))
            return False
        if answer.again and held.may_run_again():
            self._save(db, _row.waiting(held))
            return True
        self._save(db, _row.ended(held, ok=answer.ok))
        kept = (int(answer.ok), answer.seconds, answer.log, answer.payload)
        values = (row.id, *kept, _sum_of(kept))
        db.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?, ?)", values)
        return True

    def _held(self, db: sqlite3.Connection, row: Row, who: Who) -> Row | None:
        """Return a task as it is now; None if it is not this worker's any more."""
        now = next(self._rows(db, "WHERE id = ?", row.id), None)
        return now if now is not None and now.is_of(who, row.attempt) else None

    def _leases(self, db: sqlite3.Connection, worker: str) -> list[Row]:
        return list(self._rows(db, "WHERE state = 'running' AND worker = ?", worker))

    # ── tasks run again ──────────────────────────────────────────────────────────────────

    def requeue(self, now: float, *, allowed: bool = False) -> int:
        """Let abandoned tasks wait again; return how many.

        ``allowed``: only those whose caller has allowed that when he pushed them.
        """
        with self._file.write() as db:
            lost = [row for row in self._abandoned(db, now) if not allowed or row.may_run_again()]
            for row in lost:
                self._save(db, _row.waiting(row))
        return len(lost)

    def retry(self) -> int:
        """Let failed tasks wait again; return how many."""
        with self._file.write() as db:
            failed = list(self._rows(db, "WHERE state = 'failed'"))
            for row in failed:
                self._save(db, _row.waiting(row))
                db.execute("DELETE FROM answers WHERE id = ?", (row.id,))
        return len(failed)

    def is_over(self) -> bool:
        """Whether no task waits, and none that runs will wait again without its caller's doing."""
        with self._file.read() as db:
            if next(self._rows(db, "WHERE state = 'waiting' LIMIT 1"), None):
                return False
            running = self._rows(db, "WHERE state = 'running'")
            return not any(row.may_run_again() for row in running)

    # ── looking ──────────────────────────────────────────────────────────────────────────

    def counts(self, now: float) -> Counts:
        """Return how many tasks there are in each state."""
        seen = "CASE WHEN state = 'running' AND deadline <= ? THEN 'abandoned' ELSE state END"
        with self._file.read() as db:
            found = db.execute(f"SELECT {seen}, count(*) FROM tasks GROUP BY 1", (now,)).fetchall()
        counts = {str(state): count for state, count in found}
        if strange := counts.keys() - {state.value for state in State}:
            raise damaged(self.path, f"no task is {', '.join(map(repr, sorted(strange)))}")
        return Counts(**counts)

    def waiting(self) -> int:
        """Return how many wait."""
        with self._file.read() as db:
            (count,) = db.execute("SELECT count(*) FROM tasks WHERE state = 'waiting'").fetchone()
        return int(count)

    def peek(self) -> Row | None:
        """Return the task that is next."""
        with self._file.read() as db:
            where = "WHERE state = 'waiting' ORDER BY priority DESC, id LIMIT 1"
            return next(self._rows(db, where), None)

    def abandoned(self, now: float) -> list[Row]:
        """Return the tasks whose leases have ended."""
        with self._file.read() as db:
            return list(self._abandoned(db, now))

    def task(self, id: int) -> tuple[Row, Answer | None] | None:
        """Return a task and its answer; None if there is no such task."""
        with self._file.read() as db:
            row = next(self._rows(db, "WHERE id = ?", id), None)
            return None if row is None else (row, self._answer(db, row))

    def ids(self) -> list[int]:
        """Return the ids of all tasks, in the order of pushing."""
        with self._file.read() as db:
            return [id for (id,) in db.execute("SELECT id FROM tasks ORDER BY id")]

    def tasks(self, ids: Sequence[int]) -> list[tuple[Row, Answer | None]]:
        """Return those with ids from the first to the last of these, and their answers."""
        if not ids:
            return []
        with self._file.read() as db:
            rows = self._rows(db, "WHERE id BETWEEN ? AND ? ORDER BY id", ids[0], ids[-1])
            return [(row, self._answer(db, row)) for row in rows]

    def function(self, number: int) -> Definition:
        """Return a function."""
        with self._file.read() as db:
            return self._definition(db, number)

    def paths(self) -> list[str]:
        """Return from where the callers of tasks import."""
        with self._file.read() as db:
            found = db.execute("SELECT DISTINCT path FROM functions ORDER BY id").fetchall()
        return list(dict.fromkeys(entry for (path,) in found for entry in path.split("\0")))

    def _abandoned(self, db: sqlite3.Connection, now: float) -> list[Row]:
        rows = self._rows(db, "WHERE state = 'running' ORDER BY id")
        return [row for row in rows if row.is_abandoned(now)]

    # ── rows ─────────────────────────────────────────────────────────────────────────────

    def _rows(self, db: sqlite3.Connection, where: str, *values: object) -> Iterator[Row]:
        for found in db.execute(f"{_SELECT} {where}", values).fetchall():
            row = Row(*found)
            if not row.is_whole():
                raise damaged(self.path, f"the row of task {row.id} is not what was written")
            yield row

    def _save(self, db: sqlite3.Connection, row: Row) -> Row:
        row = row.summed()
        db.execute(_UPDATE, (*row[_FIRST:], row.id))
        return row

    def _definition(self, db: sqlite3.Connection, number: int) -> Definition:
        query = "SELECT digest, name, path, fresh, payload, sum FROM functions WHERE id = ?"
        found = db.execute(query, (number,)).fetchone()
        if found is None or _sum_of(Definition(*found[:-1])) != found[-1]:
            raise damaged(self.path, f"function {number} is not what was written")
        return Definition(*found[:-1])._replace(fresh=bool(found[3]))

    def _call(self, db: sqlite3.Connection, id: int) -> bytes:
        found = db.execute("SELECT payload, sum FROM calls WHERE id = ?", (id,)).fetchone()
        if found is None or crc32(found[0]) != found[1]:
            raise damaged(self.path, f"the arguments of task {id} are not what was written")
        return bytes(found[0])

    def _answer(self, db: sqlite3.Connection, row: Row) -> Answer | None:
        """Return the answer of a task that has one."""
        if row.state not in (State.DONE, State.FAILED):
            return None
        query = "SELECT ok, seconds, log, payload, sum FROM answers WHERE id = ?"
        found = db.execute(query, (row.id,)).fetchone()
        if found is None or _sum_of(found[:-1]) != found[-1]:
            raise damaged(self.path, f"the answer of task {row.id} is not what was written")
        ok, seconds, log, payload, _ = found
        return Answer(bool(ok), payload, seconds, log)


def digest_of(payload: bytes, path: str) -> bytes:
    """Return the digest by which a function is known."""
    return blake2b(payload, digest_size=32, key=crc32(path.encode()).to_bytes(4, "big")).digest()


def check_size(payload: bytes, what: str) -> None:
    """Raise StoreError for what is more than SQLite keeps."""
    if len(payload) > MOST:
        raise StoreError(
            f"{what}, {len(payload):,} bytes, does not fit into a queue: keep it in a file of its"
            " own, and pass on the file's name"
        )


def _sum_of(values: Sequence[object]) -> int:
    """Return a checksum; the last of the values are the bytes of a payload."""
    *others, payload = values
    assert isinstance(payload, bytes)
    others = [int(each) if isinstance(each, bool) else each for each in others]
    return crc32(payload, crc32(repr(others).encode()))
