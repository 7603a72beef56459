"""Join a table of orders in one region with a table of customers in another.

Two directories stand for the regions ``eu`` and ``us``. Each holds a parquet table that only
workers of its own region can read. The orders are filtered where they lie and the customers too;
only what is left of the smaller table crosses to the other region, where the rest is done.

Run it with ``python examples/federated_join.py``. The exit code is 0 if every check holds.
"""

import logging
import os
import tempfile
from pathlib import Path

import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.utils import format_bytes
from fsspec.implementations.local import LocalFileSystem

from dask_worker_pools import LocalPoolCluster, measure_transfers, pool, propagate_pools

TOWNS = [
    *(("Canada", town) for town in ("Drummondville", "Medicine Hat", "Yellowknife")),
    *(("Mexico", town) for town in ("Aguascalientes", "Tuxtla Gutiérrez", "Xalapa-Enríquez")),
    *(("United States", town) for town in ("Albuquerque", "Little Rock", "San Francisco")),
]
WORKERS = {"eu": 2, "us": 2}
HERE = "EXAMPLE_REGION"  # environment variable of the workers; the user's process has none


class RegionFileSystem(LocalFileSystem):
    """The disks of all regions: a table can be opened in its own region only.

    The user works in no region, and has a copy of each table's metadata but not of its data.
    """

    def _open(self, path, mode="rb", **options):
        table, here = Path(path).parent, os.environ.get(HERE)
        is_metadata = Path(path).name == "_metadata"
        if here != table.parent.name and not (here is None and is_metadata):
            raise FileNotFoundError(f"No such file in {here}: {table.parent.name}/{table.name}")
        return super()._open(path, mode, **options)


def write_tables(orders, customers):
    """Write the tables of both regions; each is also returned as a frame of pandas."""
    rng = np.random.default_rng(0)
    n_customers, n_orders = 100_000, 2_000_000
    bought = pd.DataFrame(
        {
            "customer": rng.integers(0, n_customers, n_orders),
            "total": rng.exponential(100, n_orders).round(2),
            "weight": rng.random(n_orders),
        }
    )
    towns = pd.DataFrame(TOWNS, columns=["country", "town"])
    known = towns.iloc[rng.integers(0, len(towns), n_customers)].reset_index(drop=True)
    known["customer"] = rng.permutation(n_customers)
    known["active"] = rng.random(n_customers) < 0.5
    known["credit"] = rng.random(n_customers)
    for table, path in [(bought, orders), (known, customers)]:
        frame = dd.from_pandas(table, npartitions=8, sort=False)
        frame.to_parquet(path, write_metadata_file=True, write_index=False)
    return bought, known


def revenue(orders, customers):
    """The query, in the same words for Dask and for pandas."""
    large = orders[orders.total > 100]
    active = customers[customers.active]
    joined = large.merge(active[["customer", "country", "town"]], on="customer")
    return joined.groupby(["country", "town"]).total.sum()


def tell_region(dask_worker):
    """Let the worker ``eu-0`` know that it runs in the region ``eu``."""
    os.environ[HERE] = dask_worker.name.rpartition("-")[0]


def main(orders_path, customers_path):
    bought, known = write_tables(orders_path, customers_path)

    # What the user writes. Only metadata is read here.
    everywhere = RegionFileSystem()
    with pool("eu"):
        orders = dd.read_parquet(orders_path, filesystem=everywhere)
    with pool("us"):
        customers = dd.read_parquet(customers_path, filesystem=everywhere)

    # Tasks are expected to fail below; the workers need not log it too.
    cluster = LocalPoolCluster(WORKERS, silence_logs=logging.CRITICAL)
    with cluster, cluster.get_client() as client:
        client.run(tell_region)

        print("Without propagate_pools():")
        try:
            revenue(orders, customers).compute()
        except FileNotFoundError as error:
            print(f"  FileNotFoundError: {error}")
        else:
            raise RuntimeError("It was expected to fail, and did not.")

        print("With propagate_pools():")
        with propagate_pools(), measure_transfers(client) as moved:
            result = revenue(orders, customers).compute()

    expected = revenue(bought, known)
    result, expected = result.sort_index(), expected.sort_index()
    # Dask has strings of another kind.
    pd.testing.assert_series_equal(result, expected, check_index_type=False)
    print("  the result equals that of pandas")

    large = bought.loc[bought.total > 100, ["customer", "total"]]
    active = known.loc[known.active, ["customer", "country", "town"]]
    sizes = {"orders": bought, "large orders": large, "customers": known, "active ones": active}
    for name, table in sizes.items():
        print(f"  {name:<24} {format_bytes(size(table)):>10}")
    print(f"  {'sent between the regions':<24} {format_bytes(moved.total_bytes):>10}")
    smaller = min(size(large), size(active))
    if moved.total_bytes > 1.2 * smaller:
        raise RuntimeError(f"{moved.total_bytes} bytes were sent, but {smaller} would do.")


def size(table):
    """Bytes of a frame with its index."""
    return int(table.memory_usage(deep=True).sum())


if __name__ == "__main__":
    # From the module, which workers import, too: file systems of fsspec cannot travel by value.
    from federated_join import main

    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory, "eu", "orders"), Path(directory, "us", "customers"))
