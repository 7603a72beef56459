"""Compare a forecast in one data centre with observations in another.

Two directories stand for the data centres ``met`` and ``sat``. Each holds a zarr store that only
workers of its own site can read, like a disk that is mounted there and nowhere else. Everything
on the forecast is done where it lies; only the field that is left crosses to the other site.

Run it with ``python examples/two_sites.py``. The exit code is 0 if every check holds.
"""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
import xarray as xr
from dask.utils import format_bytes
from zarr.storage import LocalStore

from dask_worker_pools import LocalPoolCluster, measure_transfers, pool, propagate_pools

WORKERS = {"met": 2, "sat": 2}
HERE = "EXAMPLE_SITE"  # environment variable of the workers; the user's process has none


class SiteStore(LocalStore):
    """A zarr store in the directory of its site: elsewhere its files are not there.

    The user works at no site, and has a copy of the metadata but not of the data.
    """

    def _check(self, key):
        site, here = self.root.parent.name, os.environ.get(HERE)
        is_metadata = "/c/" not in key
        if here != site and not (here is None and is_metadata):
            raise FileNotFoundError(f"No such file at {here}: {site}/{self.root.name}/{key}")

    async def get(self, key, prototype=None, byte_range=None):
        self._check(key)
        return await super().get(key, prototype, byte_range)

    def get_sync(self, key, **options):
        self._check(key)
        return super().get_sync(key, **options)

    async def exists(self, key):
        self._check(key)
        return await super().exists(key)

    def list_dir(self, prefix):
        self._check(prefix)
        return super().list_dir(prefix)


def write_stores(forecast, observations):
    """Write the data of both sites."""
    rng = np.random.default_rng(0)
    dims = ("realization", "height", "latitude", "longitude")
    members = xr.DataArray(rng.random((6, 12, 240, 480), dtype="float32"), dims=dims)
    members = members.chunk(realization=2, height=4, latitude=120, longitude=240)
    members.to_dataset(name="forecast").to_zarr(forecast, consolidated=False)
    measured = xr.DataArray(rng.random((240, 480)), dims=dims[2:])
    measured = measured.chunk(latitude=120, longitude=240)
    measured.to_dataset(name="observations").to_zarr(observations, consolidated=False)


def tell_site(dask_worker):
    """Let the worker ``met-0`` know that it runs at the site ``met``."""
    os.environ[HERE] = dask_worker.name.rpartition("-")[0]


def main(forecast_path, observations_path):
    write_stores(forecast_path, observations_path)

    # What the user writes. Only metadata is read here.
    with pool("met"):
        forecast = xr.open_zarr(SiteStore(forecast_path), consolidated=False).forecast
    with pool("sat"):
        observations = xr.open_zarr(SiteStore(observations_path), consolidated=False).observations
    field = forecast.mean("realization").isel(height=10)
    difference = field - observations

    # Tasks are expected to fail below; the workers need not log it too.
    cluster = LocalPoolCluster(WORKERS, silence_logs=logging.CRITICAL)
    with cluster, cluster.get_client() as client:
        client.run(tell_site)

        print("Without propagate_pools():")
        try:
            difference.compute()
        except FileNotFoundError as error:
            print(f"  FileNotFoundError: {error}")
        else:
            raise RuntimeError("It was expected to fail, and did not.")

        print("With propagate_pools():")
        with propagate_pools(), measure_transfers(client) as moved:
            result = difference.compute()

    # The same in this process, from the files themselves.
    raw = xr.open_zarr(forecast_path, chunks=None, consolidated=False).forecast.load()
    measured = xr.open_zarr(observations_path, chunks=None, consolidated=False).observations.load()
    expected = raw.mean("realization").isel(height=10) - measured
    xr.testing.assert_allclose(result, expected, atol=1e-6)  # the forecast has 32-bit floats
    print("  the result equals that of one process that reads both files")

    sizes = {"forecast": forecast, "mean at one height": field, "observations": observations}
    for name, array in sizes.items():
        print(f"  {name:<23} {format_bytes(array.nbytes):>10}")
    print(f"  {'sent between the sites':<23} {format_bytes(moved.total_bytes):>10}")
    smaller = min(field.nbytes, observations.nbytes)
    if moved.total_bytes > 1.05 * smaller:
        raise RuntimeError(f"{moved.total_bytes} bytes were sent, but {smaller} would do.")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        main(Path(directory, "met", "forecast.zarr"), Path(directory, "sat", "observations.zarr"))
