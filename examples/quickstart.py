"""Run the README's example on a cluster of five workers, and check where its tasks ran.

Run it with ``python examples/quickstart.py``. It writes ``pools.png`` in the current directory.
"""

import logging

import dask
import dask.array as da
from dask.utils import format_bytes
from distributed import SchedulerPlugin

from dask_worker_pools import (
    LocalPoolCluster,
    measure_transfers,
    plan_pools,
    pool,
    propagate_pools,
    visualize_pools,
)


class Watch(SchedulerPlugin):
    """Sees on the scheduler in which pool each task ran, and to which one it was restricted."""

    def __init__(self, scheduler):
        self.scheduler = scheduler
        self.ran, self.restricted = {}, {}

    def transition(self, key, start, finish, *args, worker=None, **kwargs):
        if (start, finish) == ("processing", "memory"):
            (self.ran[key],) = self.scheduler.workers[worker].resources
            self.restricted[key] = self.scheduler.tasks[key].resource_restrictions or {}

    def check(self):
        """Raise if a task could have run, or did run, outside a pool; then forget all tasks."""
        astray = [key for key, pool in self.ran.items() if [pool] != [*self.restricted[key]]]
        if astray or not self.ran:
            raise RuntimeError(f"{len(astray)} of {len(self.ran)} tasks were in no pool: {astray}")
        pools = list(self.ran.values())
        counts = ", ".join(f"{pools.count(pool)} in {pool}" for pool in sorted(set(pools)))
        print(f"  {len(pools)} tasks ran: {counts}, none outside its pool")
        self.ran.clear()


def readme():
    """The code of the README, as it stands there."""
    with pool("A"):
        a = da.random.random((10, 10))
    with pool("B"):
        b = da.random.random(10)
    run_in_a = (a - 1).sum()  # whole chain in A
    run_in_b = b - a.mean()  # in B: a.mean() is smaller than b
    with propagate_pools():
        dask.compute(run_in_a, run_in_b)
    visualize_pools(run_in_a, run_in_b, filename="pools.png")


def larger():
    """The same with arrays of many chunks."""
    with pool("A"):
        a = da.random.random((4096, 4096), chunks=1024)
    with pool("B"):
        b = da.random.random(2**22, chunks=2**19)
    return (a - 1).sum(), b - a.mean()


def main():
    cluster = LocalPoolCluster(
        {"A": 3, "B": 2},
        threads_per_worker=1,
        silence_logs=logging.CRITICAL,  # a busy machine is slow to end workers, and says so
    )
    with cluster, cluster.get_client() as client:
        watch = Watch(cluster.scheduler)
        cluster.scheduler.add_plugin(watch)

        print("The example of the README:")
        readme()
        watch.check()

        print("The same with 16 chunks of 8 MiB in A and 8 chunks of 4 MiB in B:")
        table = [("", "loads in the wrong pool", "sent between pools")]

        def run(title):
            wanted = larger()  # anew, for new keys: tasks that the scheduler knows keep their pools
            loads = plan_pools(*wanted).pinned
            with measure_transfers(client) as moved:
                dask.compute(*wanted)
            wrong = sum(watch.ran[key] != f"pool-{pool}" for key, pool in loads.items())
            table.append((title, f"{wrong} of {len(loads)}", format_bytes(moved.total_bytes)))

        run("plain Dask")
        watch.ran.clear()
        with propagate_pools():
            run("propagate_pools()")
        watch.check()

    for title, wrong, sent in table:
        print(f"  {title:<18} {wrong:>23} {sent:>20}")
    print("The first example's pools are drawn in pools.png.")


if __name__ == "__main__":
    main()
