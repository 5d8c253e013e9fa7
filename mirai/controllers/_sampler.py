"""What samples its own process for a ``MetricsLog``, on workers and on the host."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from dispatcher.log import Guarded
from mirai._errors import MiraiError
from mirai.controllers import _enclosed
from mirai.controllers._metrics import Sample, file_name

if TYPE_CHECKING:
    from mirai.controllers._metrics import MetricsLog

logger = Guarded("mirai")

EXTRA = "metrics are taken by psutil, which is not installed: pip install 'mirai-zmq[metrics]'"


class Sampler:
    """Samples this process in a thread of its own, from now on until ``end``, or until it ends."""

    def __init__(self, metrics: MetricsLog, *, is_host: bool) -> None:
        """Raises MiraiError where there is no psutil."""
        try:
            import psutil
        except ImportError:
            raise MiraiError(EXTRA) from None
        self._metrics = metrics
        self._process = psutil.Process()
        self._cpu_machine = psutil.cpu_percent
        self._errors = OSError, psutil.Error
        host, self._pid, worker = _enclosed.here(os.getpid())
        self._host = _encodable(host)
        self._worker = _encodable(f"host/{worker}" if is_host else worker)
        self._path = os.path.join(metrics.directory, file_name(self._worker))
        self._has_warned = False
        self._before: tuple[float, float] | None = None  # when it was looked at last, and its CPU
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mirai-metrics", daemon=True)
        self._thread.start()
        atexit.register(self.end)

    def end(self) -> None:
        """Take a last sample, and no more.  Idempotent; in a forked child it does nothing."""
        if self._pid != os.getpid():
            return  # the thread is not here, and what it has held may never be let go
        atexit.unregister(self.end)
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        interval = float(self._metrics.interval)
        is_last = False
        while True:
            try:
                self._append(self._sample())
            except self._errors as error:
                self._warn(error)
            if is_last:
                return
            is_last = self._over.wait(interval)

    def _sample(self) -> Sample:
        process = self._process
        with process.oneshot():
            memory = process.memory_info()
            return Sample(
                time=time.time(),
                worker=self._worker,
                host=self._host,
                pid=self._pid,
                status=process.status(),
                cpu=self._cpu(),
                cpu_machine=self._cpu_machine(),
                resident=memory.rss,
                virtual=memory.vms,
                task=_encodable(", ".join(tuple(_enclosed.running.values()))),
            )

    def _cpu(self) -> float:
        """Return what percent of one core was taken since the last call.

        The last sample may come a moment after the one before, and psutil knows only hundredths of
        a second, of which one would be many cores then.
        """
        now, cpu = time.monotonic(), time.process_time()
        since, known = self._before or (now, cpu)
        self._before = now, cpu
        return 100 * (cpu - known) / (now - since) if now > since else 0.0

    def _append(self, sample: Sample) -> None:
        """Write a line, by one call: so a line is whole, whoever else may write to the file."""
        os.makedirs(self._metrics.directory, mode=0o700, exist_ok=True)
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, msgspec.json.encode(sample) + b"\n")
        finally:
            os.close(file)

    def _warn(self, error: Exception) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning("metrics of this process could not be taken: %s", error)


def _encodable(name: str) -> str:
    """Return a name that UTF-8 can hold: others choose names, and a thread must live."""
    return name.encode("utf-8", "backslashreplace").decode()


class _Samplers:
    """The samplers of this process: one for each directory, as long as somebody wants it."""

    def __init__(self) -> None:
        self._guard = threading.RLock()
        self._wanted: Counter[str] = Counter()
        self._at_work: dict[str, Sampler] = {}

    def hold(self, metrics: MetricsLog) -> None:
        """A controller begins.  Raises MiraiError where its process cannot be sampled."""
        with self._guard:
            self._wanted[_key(metrics)] += 1
            if metrics.host:
                self._start(metrics, is_host=True)

    def release(self, metrics: MetricsLog) -> None:
        """A controller ends that has begun."""
        key = _key(metrics)
        with self._guard:
            self._wanted[key] = max(0, self._wanted[key] - 1)  # a forked child has held nothing
            sampler = None if self._wanted[key] else self._at_work.pop(key, None)
        if sampler is not None:
            sampler.end()

    def join_in(self, metrics: MetricsLog) -> None:
        """A worker begins: a process, or a thread of one whose controller has begun.

        Raises MiraiError where it cannot be sampled.
        """
        key = _key(metrics)
        with self._guard:
            if not self._wanted[key]:
                self._wanted[key] = 1  # until the process ends, whatever controllers its tasks have
            self._start(metrics, is_host=False)

    def _start(self, metrics: MetricsLog, *, is_host: bool) -> None:
        key = _key(metrics)
        if key not in self._at_work:
            self._at_work[key] = Sampler(metrics, is_host=is_host)


def _key(metrics: MetricsLog) -> str:
    return os.fspath(metrics.directory)


_samplers = _Samplers()


def _forget_all() -> None:
    """In a forked child: the samplers are the parent's."""
    global _samplers
    _samplers = _Samplers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)


def hold(metrics: MetricsLog) -> None:
    """Sample this process, the host, until ``release``, if that is wanted.  Raises MiraiError."""
    _samplers.hold(metrics)


def release(metrics: MetricsLog) -> None:
    """A controller that has called ``hold`` has ended."""
    _samplers.release(metrics)


@dataclass(frozen=True, slots=True)
class Begin:
    """What a worker calls before its first task: it is sampled from then on."""

    metrics: MetricsLog
    init: Callable[[], object] | None = None
    """What its user has it call."""

    def __call__(self) -> None:
        """Have it sampled, if that can be, and call ``init``.  Raises what that raises."""
        try:
            _samplers.join_in(self.metrics)
        except Exception as error:  # a worker that is not measured is better than none
            logger.warning("this worker is not measured: %s", error)
        if self.init is not None:
            self.init()
