"""The pools that are compared: ours and its peers, all behind the same few functions.

Every contestant has so many worker processes on this machine, and its own defaults otherwise.  By
ours, a local pool's processes talk over socket pairs that only they have inherited; "mirai, CURVE"
is the same over TCP and ZeroMQ, encrypted.  One whose package is not installed is left out.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from mirai import daemons, mirai, mirai_map


def results(futures: Iterable[Any]) -> list[Any]:
    """Collect futures one after the other."""
    return [future.result() for future in futures]


def gets(handles: Iterable[Any]) -> list[Any]:
    """Collect what has a ``get`` method."""
    return [handle.get() for handle in handles]


@dataclass(frozen=True, slots=True)
class Pool:
    """What a benchmark does with a contestant whose workers are up."""

    submit: Callable[..., Any]
    """Sends the call of a function with arguments; returns a handle."""
    collect: Callable[[list[Any]], list[Any]] = results
    """Waits for handles in the best way it has; returns their values."""
    map: Callable[[Callable[[Any], Any], Sequence[Any]], list[Any]] | None = None
    """Calls a function on many elements in the best way it has."""
    eager: bool = True
    """Whether a call is on its way when ``submit`` returns, and not only when it is collected."""

    def call(self, fn: Callable[..., Any], *args: Any) -> Any:
        """Send one call, and wait for its value."""
        return self.collect([self.submit(fn, *args)])[0]


@contextmanager
def with_mirai(workers: int) -> Iterator[Pool]:
    with daemons(workers):
        yield Pool(mirai, map=lambda fn, xs: mirai_map(fn, xs).collect())


@contextmanager
def with_mirai_alone(workers: int) -> Iterator[Pool]:
    with daemons(workers, dispatcher=False):
        yield Pool(mirai, map=lambda fn, xs: mirai_map(fn, xs).collect())


@contextmanager
def with_mirai_encrypted(workers: int) -> Iterator[Pool]:
    with daemons(workers, url="tcp://127.0.0.1:0"):
        yield Pool(mirai, map=lambda fn, xs: mirai_map(fn, xs).collect())


def _of_executor(executor: Any) -> Pool:
    return Pool(executor.submit, map=lambda fn, xs: list(executor.map(fn, xs, chunksize=100)))


@contextmanager
def with_executor(workers: int) -> Iterator[Pool]:
    with ProcessPoolExecutor(workers) as executor:
        yield _of_executor(executor)


@contextmanager
def with_spawning_executor(workers: int) -> Iterator[Pool]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as executor:
        yield _of_executor(executor)


@contextmanager
def with_multiprocessing(workers: int) -> Iterator[Pool]:
    with multiprocessing.Pool(workers) as pool:
        yield Pool(lambda fn, *args: pool.apply_async(fn, args), gets, pool.map)


@contextmanager
def with_loky(workers: int) -> Iterator[Pool]:
    from loky import ProcessPoolExecutor as Loky

    with Loky(workers) as executor:
        yield _of_executor(executor)


@contextmanager
def with_joblib(workers: int) -> Iterator[Pool]:
    """It has no futures: what is submitted is kept, and collected as one ``Parallel``.

    A map is given to it at once, and the values are taken as they come.  It has two workers at
    least, since one alone it would not start: calls would be made here.
    """
    from joblib import Parallel, delayed
    from joblib.externals.loky import get_reusable_executor

    try:
        with Parallel(max(2, workers), return_as="generator") as parallel:
            yield Pool(
                lambda fn, *args: delayed(fn)(*args),
                lambda calls: list(parallel(calls)),
                lambda fn, xs: list(parallel(map(delayed(fn), xs))),
                eager=False,
            )
    finally:
        get_reusable_executor().shutdown()  # it would outlive its Parallel


@contextmanager
def with_mpire(workers: int) -> Iterator[Pool]:
    from mpire import WorkerPool

    with WorkerPool(workers) as pool:
        yield Pool(lambda fn, *args: pool.apply_async(fn, args), gets, pool.map)


@contextmanager
def with_dask(workers: int) -> Iterator[Pool]:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        Client(cluster) as client,
    ):

        def submit(fn: Callable[..., Any], *args: Any) -> Any:
            return client.submit(fn, *args, pure=False)

        yield Pool(submit, client.gather, lambda fn, xs: client.gather(client.map(fn, xs)))


@contextmanager
def with_ray(workers: int) -> Iterator[Pool]:
    import ray

    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remote = functools.cache(ray.remote)
    try:
        yield Pool(
            lambda fn, *args: remote(fn).remote(*args),
            ray.get,
            lambda fn, xs: ray.get([remote(fn).remote(x) for x in xs]),
        )
    finally:
        ray.shutdown()


@contextmanager
def with_parsl(workers: int) -> Iterator[Pool]:
    import parsl
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor

    programs = os.path.dirname(sys.executable)  # its own among them, which it looks for by name
    os.environ["PATH"] = f"{programs}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as directory:
        executor = HighThroughputExecutor(
            max_workers_per_node=workers, cores_per_worker=0.01, address="127.0.0.1"
        )
        config = Config(executors=[executor], run_dir=directory, initialize_logging=False)
        app = functools.cache(parsl.python_app)
        with parsl.load(config):
            yield Pool(lambda fn, *args: app(fn)(*args))


@contextmanager
def with_ipyparallel(workers: int) -> Iterator[Pool]:
    import ipyparallel

    with ipyparallel.Cluster(n=workers, log_level=40) as client:
        view = client.load_balanced_view()
        yield Pool(view.apply_async, gets, lambda fn, xs: view.map_sync(fn, xs, chunksize=100))


CONTESTANTS: dict[str, tuple[str, Callable[[int], AbstractContextManager[Pool]]]] = {
    "mirai": ("mirai", with_mirai),
    "mirai, CURVE": ("mirai", with_mirai_encrypted),
    "mirai, dispatcher=False": ("mirai", with_mirai_alone),
    "ProcessPoolExecutor": ("concurrent.futures", with_executor),
    "ProcessPoolExecutor, spawn": ("concurrent.futures", with_spawning_executor),
    "multiprocessing.Pool": ("multiprocessing", with_multiprocessing),
    "loky": ("loky", with_loky),
    "joblib": ("joblib", with_joblib),
    "mpire": ("mpire", with_mpire),
    "Dask": ("distributed", with_dask),
    "Ray": ("ray", with_ray),
    "Parsl": ("parsl", with_parsl),
    "ipyparallel": ("ipyparallel", with_ipyparallel),
}
"""Name -> the module that it needs, and its pool of so many workers."""

QUICK = [
    "mirai",
    "mirai, dispatcher=False",
    "ProcessPoolExecutor",
    "ProcessPoolExecutor, spawn",
    "multiprocessing.Pool",
]
"""Those that are always there."""

Start = Callable[[int], AbstractContextManager[Pool]]


def chosen(names: Sequence[str]) -> dict[str, Start]:
    """Return those of these contestants that are installed; say which are not."""
    found = {}
    for name in names:
        module, start = CONTESTANTS[name]
        if find_spec(module) is None:
            print(f"{name} is left out: {module} is not installed", file=sys.stderr)
        else:
            found[name] = start
    return found
