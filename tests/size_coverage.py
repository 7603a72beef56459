"""Share of outputs and bytes that are told, over the expressions of the tests, run task by task.

Run as ``python tests/size_coverage.py [names of expressions, default all]``.
"""

import sys
import warnings
from collections import Counter, defaultdict
from math import isnan
from pathlib import Path
from tempfile import TemporaryDirectory

from size_expressions import EXPRESSIONS, XARRAY_EXPRESSIONS, opened
from size_truth import run_all, true_nbytes
from test_sizes_truth import graph_of

from dask_worker_pools.sizes import layer_sizes


def main(names: list[str], store: Path) -> None:
    """Print the shares of each expression, and of all."""
    warnings.simplefilter("ignore")
    keys: Counter[str] = Counter()  # of outputs
    bytes_: defaultdict[str, float] = defaultdict(float)
    for name in names or [*EXPRESSIONS, *XARRAY_EXPRESSIONS]:
        lazy = XARRAY_EXPRESSIONS.get(name)
        graph = graph_of(lazy(opened(store)) if lazy else EXPRESSIONS[name]())
        layers = layer_sizes(graph)
        told = dict(item for sizes in layers.values() for item in sizes.items())
        true = {key: true_nbytes(value) for key, value in run_all(graph).items()}
        true = {key: size for key, size in true.items() if not isnan(size)}
        known, total = sum(true[key] for key in told.keys() & true.keys()), sum(true.values())
        keys.update(told=len(told.keys() & true.keys()), all=len(true))
        bytes_["told"] += known
        bytes_["all"] += total
        missing = [layer[:40] for layer, sizes in layers.items() if sizes.known < sizes.count]
        share = f"{known / total if total else 1:6.1%} of bytes"
        print(f"{name:20s} {len(told):4d} of {len(true):4d} outputs, {share}", *missing)
    shares = [count["told"] / count["all"] for count in (keys, bytes_)]
    print("{:.1%} of outputs, {:.1%} of bytes".format(*shares))


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        main(sys.argv[1:], Path(folder) / "data.zarr")
