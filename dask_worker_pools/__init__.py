"""Say once which pool of workers a dataset belongs to, and move the fewest bytes between pools."""

from dask_worker_pools import patches
from dask_worker_pools.annotations import pool
from dask_worker_pools.collection import get_pool, plan_pools, propagate_pools_in_collection
from dask_worker_pools.errors import (
    AmbiguousPool,
    CodeNotReceived,
    ConflictingPools,
    InvalidType,
    InvalidValue,
    LostKeys,
    NoSuchPool,
    NoSuchWorker,
    PeerToPeerInPool,
    PoolError,
    PoolsIgnored,
    UnknownPools,
    UnknownTask,
    WorkersOutsidePool,
)
from dask_worker_pools.explain import Explanation
from dask_worker_pools.expr.assign import assign_pool
from dask_worker_pools.expr.registry import install
from dask_worker_pools.localcluster import LocalPoolCluster
from dask_worker_pools.plan import Plan, Transfer
from dask_worker_pools.propagate import propagate_pools
from dask_worker_pools.sizes import DeclaredSizeError
from dask_worker_pools.transfers import measure_transfers
from dask_worker_pools.visualize import GraphvizNotFound, visualize_pools

__all__ = [
    "AmbiguousPool",
    "CodeNotReceived",
    "ConflictingPools",
    "DeclaredSizeError",
    "Explanation",
    "GraphvizNotFound",
    "InvalidType",
    "InvalidValue",
    "LocalPoolCluster",
    "LostKeys",
    "NoSuchPool",
    "NoSuchWorker",
    "PeerToPeerInPool",
    "Plan",
    "PoolError",
    "PoolsIgnored",
    "Transfer",
    "UnknownPools",
    "UnknownTask",
    "WorkersOutsidePool",
    "assign_pool",
    "get_pool",
    "measure_transfers",
    "plan_pools",
    "pool",
    "propagate_pools",
    "propagate_pools_in_collection",
    "visualize_pools",
]

install()
patches.install()
