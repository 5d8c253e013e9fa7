"""Daemons on a real Dask and on a real Ray, each with a host of its own process."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from conftest import ROOT, Script

pytestmark = pytest.mark.servers

COMMON = """
import json, os, sys, time
sys.path.insert(0, {tests!r})
from conftest import wait_until
from orders import connected, order_of, reaches
from dataclasses import replace
from pathlib import Path
from mirai import daemons, mirai
from mirai.launchers import Phase

def check(launcher, directory, count):
    "``count`` is one more than there is room for."
    with daemons(0, url="tcp://127.0.0.1:0") as pool:
        order = order_of(pool, directory, count)
        handles = launcher.launch(order)
        pool.wait(count - 1, 60)
        ids = [handle.id for handle in handles]
        assert mirai(os.getenv, "MIRAI_JOB").result(20) in ids
        assert mirai(os.getenv, "MIRAI_TEST_ANSWER").result(20) == "42"
        def phases():
            return sorted(launcher.poll([h])[h].phase.value for h in handles)
        wait_until(lambda: phases() == ["pending"] + ["running"] * (count - 1), 30)

        first = next(h for h in handles if launcher.poll([h])[h].phase is Phase.RUNNING)
        launcher.terminate([first])  # and the one that has waited gets the place
        assert reaches(launcher, first, lambda state: state.phase.is_over).phase is Phase.CANCELLED
        wait_until(lambda: phases() == ["cancelled"] + ["running"] * (count - 1), 30)
        wait_until(lambda: connected(pool) == count - 1, 30)
        task = mirai(time.sleep, 600)
        wait_until(lambda: pool.status().executing == 1)
        launcher.recall(order.name)
        for handle in handles:
            state = reaches(launcher, handle, lambda state: state.phase.is_over)
            assert state.phase is Phase.CANCELLED, state
        task.cancel()
        wait_until(lambda: connected(pool) == 0, 30)

        order = replace(order_of(pool, directory), keys='{{"mirai": 1}}')
        [handle] = launcher.launch(order)
        state = reaches(launcher, handle, lambda state: state.phase.is_over, 60)
        assert (state.phase, state.exit) == (Phase.FAILED, 1), state
        assert launcher.log(handle), "it said nothing"

        order = order_of(pool, directory)  # and one that is told to leave by its pool
        [handle] = launcher.launch(order)
        pool.wait(1, 60)
        pool.shutdown()
        state = reaches(launcher, handle, lambda state: state.phase.is_over, 60)
        assert (state.phase, state.exit) == (Phase.ENDED, 0), state
"""
DASK = """
if __name__ == "__main__":
    from distributed import Client, LocalCluster
    from mirai.launchers import DaskLauncher
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None,
            local_directory={directory!r},
        ) as cluster,
        Client(cluster) as client,
    ):
        check(DaskLauncher(client, env={{"MIRAI_TEST_ANSWER": "42"}}), Path({directory!r}), 3)

        # a worker that is closed takes its daemon with it
        with daemons(0, url="tcp://127.0.0.1:0") as pool:
            launcher = DaskLauncher(client, workers=[cluster.workers[0].worker_address])
            [handle] = launcher.launch(order_of(pool, Path({directory!r})))
            pool.wait(1, 60)
            cluster.scale(0)
            wait_until(lambda: connected(pool) == 0, 60)
            launcher.terminate([handle])
    print("done")
"""
RAY = """
if __name__ == "__main__":
    import ray
    from mirai.launchers import RayLauncher
    from mirai._errors import LaunchError
    launcher = RayLauncher(env={{"MIRAI_TEST_ANSWER": "42"}})
    try:
        launcher.poll([])
    except LaunchError as error:
        assert "ray.init()" in str(error)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    try:
        check(launcher, Path({directory!r}), 3)
    finally:
        ray.shutdown()
    print("done")
"""


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("package", "program"), [("distributed", DASK), ("ray", RAY)])
def test_daemons_on_a_cluster(
    package: str, program: str, tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    tests = str(ROOT / "tests" / "integration")
    text = (COMMON + program).format(tests=tests, directory=str(tmp_path))
    host = script(text)
    said, errors = host.communicate(timeout=200)
    assert said.rpartition("\n")[0].endswith("done"), errors[-6_000:]
