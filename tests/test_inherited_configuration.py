"""Dask's configuration inside `propagate_pools`, copied, pickled, and inherited by processes."""

from __future__ import annotations

import copy
import inspect
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import dask.bag as db
import pytest
from distributed import Client, LocalCluster

import dask_worker_pools
from dask_worker_pools import LocalPoolCluster, plan_pools, pool, propagate_pools
from dask_worker_pools.propagate import CONFIG, Hook, current_pass

COPIES: list[Callable[[Any], Any]] = [
    copy.copy,
    copy.deepcopy,
    lambda config: pickle.loads(pickle.dumps(config)),
    lambda config: cloudpickle.loads(cloudpickle.dumps(config)),
]
IDS = ["copy", "deepcopy", "pickle", "cloudpickle"]


@pytest.mark.parametrize("copied", COPIES, ids=IDS)
def test_a_copy_of_the_configuration_works_as_well(copied: Callable[[Any], Any]) -> None:
    """A copy equals the original, can be hashed, and gives the same results in its place."""
    with propagate_pools(missing="wait"):
        config = copied(dask.config.config)
        for key in CONFIG:
            assert config[key] == dask.config.config[key] == config[key]
            assert hash(config[key]) == hash(dask.config.config[key])
            assert isinstance(config[key], Hook)
        with pool("A"):
            a = da.ones(4, chunks=2)
        with dask.config.set(config):
            assert dask.compute(a.sum(), (a + 1).sum(), scheduler="sync") == (4, 8)
            bag = db.from_sequence(range(5), npartitions=2)
            assert dask.compute(bag.count(), a.sum(), bag.sum(), scheduler="sync") == (5, 4, 10)


def test_configuration_is_written_down_without_hooks() -> None:
    """Clusters on other machines are configured as if `propagate_pools` were not on."""
    with propagate_pools():
        written = dask.config.deserialize(dask.config.serialize(dask.config.config))
    assert not CONFIG.keys() & written.keys()
    assert "distributed" in written


def test_what_is_inherited_keeps_to_what_was_asked_for() -> None:
    """A hook that was pickled has the options of where it comes from, if none are said here."""
    with propagate_pools(missing="wait", balance=0.5):
        sent = pickle.dumps(dask.config.config)
    hook = pickle.loads(sent)["array_optimize"]
    assert hook.current_pass(None).options.balance == 0.5
    again = pickle.loads(pickle.dumps(hook))
    assert again.current_pass(None).options.missing == "wait"
    with propagate_pools(missing="warn"):
        assert hook.current_pass(None).options.missing == "warn"


def test_blocks_begin_and_end_in_an_inherited_configuration() -> None:
    """Inside of a configuration that was inherited, blocks work as anywhere."""
    with propagate_pools():
        config = pickle.loads(pickle.dumps(dask.config.config))
    with dask.config.set(config):
        with propagate_pools(missing="wait"):
            assert current_pass(None).options.missing == "wait"
            assert current_pass(None).optimizations == {}
        assert isinstance(dask.config.get("array_optimize"), Hook)
    assert "array_optimize" not in dask.config.config


def test_processes_that_start_together_inherit_the_configuration(tmp_path: Path) -> None:
    """The configuration may be pickled for the first time by threads that start processes."""
    script = tmp_path / "start.py"
    script.write_text(
        "from dask_worker_pools import LocalPoolCluster, propagate_pools\n"
        "if __name__ == '__main__':\n"
        "    with propagate_pools(), LocalPoolCluster({'A': 1, 'B': 1}, dashboard_address=None):\n"
        "        pass\n"
    )
    subprocess.run([sys.executable, script], check=True, timeout=60)


def test_a_process_without_the_package_inherits_the_configuration() -> None:
    """Where the package is not installed, the configuration arrives and works."""
    with propagate_pools():
        sent = pickle.dumps(dask.config.config)
    code = (
        "import pickle, sys; sys.modules['dask_worker_pools'] = None\n"
        "config = pickle.load(sys.stdin.buffer)\n"
        "import dask, dask.array as da\n"
        "dask.config.config.update(config)\n"
        "a = da.ones(4, chunks=2)\n"
        "assert len({config['array_optimize'], config['bag_optimize']}) == 1\n"
        "print([float(x) for x in dask.compute(a.sum(), (a + 1).sum())])\n"
    )
    environment = {**os.environ, "PYTHONPATH": ""}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, input=sent, stdout=subprocess.PIPE, env=environment, check=True)
    assert run.stdout.decode().strip() == "[4.0, 8.0]"


def nested(x: int) -> list[Any]:
    """A task that computes something itself."""
    a = da.ones(4, chunks=2) + x
    bag = db.from_sequence(range(5), npartitions=2)
    hook = type(dask.config.get("array_optimize", None)).__name__
    return [hook, *map(float, dask.compute(a.sum(), bag.sum(), (a + 1).sum())), float(a.sum())]


def pinned(x: int) -> Any:
    """A task that computes something in a pool that no worker offers."""
    with pool("C"):
        c = da.ones(4, chunks=2) + x
    try:
        return float(c.sum().compute())
    except Exception as error:
        return type(error).__name__, str(error)[:8]


@pytest.mark.parametrize("cluster", [LocalCluster, LocalPoolCluster])
def test_tasks_compute_where_workers_inherit_the_configuration(cluster: Any) -> None:
    """Computations inside tasks work on workers that were started inside `propagate_pools`."""
    workers: dict[str, Any] = {"n_workers": 1}
    if cluster is LocalPoolCluster:
        workers = {"pools": {"A": 1}}
    with propagate_pools():
        with cluster(
            **workers, threads_per_worker=2, dashboard_address=None, host="127.0.0.1"
        ) as started:
            with Client(started) as client:
                own = client.submit(nested, 1, pure=False).result(timeout=60)
                missing = client.submit(pinned, 1, pure=False).result(timeout=60)
    assert own == ["Hook", 8.0, 10.0, 12.0, 8.0]
    assert missing == ("NoSuchPool", "pool 'C'")


def test_a_scheduler_in_this_process_uses_what_is_here() -> None:
    """With the scheduler in the user's process, no class changes, and no code is built or sent."""

    def classes() -> dict[str, int]:
        return {
            f"{name}.{attribute}": id(one)
            for name, module in list(sys.modules.items())
            if name.startswith("dask_worker_pools.")
            for attribute, one in vars(module).items()
            if isinstance(one, type)
        }

    dd, pd = pytest.importorskip("dask.dataframe"), pytest.importorskip("pandas")
    with LocalPoolCluster({"A": 1, "B": 1}, processes=False, dashboard_address=None) as cluster:
        with cluster.get_client() as client, propagate_pools():
            before = classes()
            connection: Any = client.scheduler_comm
            sent = connection.byte_count
            with pool("A"):
                a = da.ones(4, chunks=2)
                frame = dd.from_pandas(pd.DataFrame({"x": range(4)}), npartitions=2)
            plan = plan_pools(a)
            assert dask.compute(a.sum(), frame.x.sum()) == (4, 6)
            assert client.submit(plan_pools, a).result(timeout=60).pools == plan.pools
            assert connection.byte_count - sent < 60_000
    after = classes()
    assert {name: after[name] for name in before} == before
    for module in ("optimize", "plan", "fusion", "graph", "expr.planned"):
        found = sys.modules[f"dask_worker_pools.{module}"]
        for one in vars(found).values():
            if inspect.isclass(one) and one.__module__ == found.__name__:
                assert inspect.getsourcefile(one) == found.__file__
                assert f"class {one.__name__}" in inspect.getsource(one)
    assert Path(dask_worker_pools.__file__).exists()
