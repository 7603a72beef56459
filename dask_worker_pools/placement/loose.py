"""Tasks that are restricted to several pools, and with all that they are linked to near to none.

Such a group costs nothing in whatever pool all of it may be in. So load alone decides.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import fsum

import numpy as np

from dask_worker_pools.placement.blocks import Numbers, blocks_of
from dask_worker_pools.placement.problem import Pools

__all__ = ["Group", "loose_groups", "share"]


@dataclass(frozen=True, slots=True)
class Group:
    """Free tasks that are linked to each other, and to no task whose pool is fixed."""

    tasks: list[int]
    mask: int  #: bits of the pools that all of them may be in, at least one


def loose_groups(
    inputs: Sequence[int],
    counts: Sequence[int],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
    pools: Pools,
) -> list[Group]:
    """Groups of free tasks that may all be in one pool, whichever, at no cost.

    Where no pool is allowed for all of a group, and where blocked tasks are near, which may be in
    any pool, some outputs cross: those are left to the cuts.
    """
    source = np.array(inputs, np.int32)
    user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    free, somewhere = np.ones(len(counts), bool), np.zeros(len(counts), bool)
    for task, label in fixed.items():
        free[task], somewhere[task] = False, label <= pools.blocked
    inner = free[source] & free[user]
    block = blocks_of(len(counts), source[inner], user[inner])
    held = _blocks(block, source[free[source] & somewhere[user]]) | _blocks(
        block, user[free[user] & somewhere[source]]
    )
    allowed: dict[int, int] = {}
    for task, mask in masks.items():
        first = int(block[task])
        allowed[first] = allowed.get(first, pools.open) & mask
    loose = {first: mask for first, mask in allowed.items() if mask and first not in held}
    tasks: defaultdict[int, list[int]] = defaultdict(list)
    for task in np.flatnonzero(free & np.isin(block, list(loose))).tolist():
        tasks[int(block[task])].append(task)
    return [Group(tasks[first], mask) for first, mask in loose.items()]


def _blocks(block: Numbers, tasks: Numbers) -> set[int]:
    return {*np.unique(block[tasks]).tolist()}


def share(
    groups: Collection[Group],
    placed: list[int],
    sizes: Sequence[float],
    outside: Collection[int],
    pools: Pools,
) -> None:
    """Send each group to the least loaded of its pools, the largest first."""
    for group in groups:
        for task in group.tasks:
            placed[task] = pools.nowhere
    load = [Fraction(0)] * len(pools.names)
    for (pool, size), count in (_made(placed, sizes) - _made(placed, sizes, outside)).items():
        if pool < pools.blocked:
            load[pool] += Fraction(size) * count
    by_size = [
        (sorted((sizes[task] for task in group.tasks), reverse=True), group) for group in groups
    ]
    for made, group in sorted(by_size, key=lambda one: (-fsum(one[0]), one[0], one[1].mask)):
        total = sum(map(Fraction, made))
        after = {p: (load[p] + total) / pools.capacity[p] for p in pools.options(group.mask)}
        pool = min(after, key=lambda p: (after[p], p))
        load[pool] += total
        for task in group.tasks:
            placed[task] = pool


def _made(
    placed: Sequence[int], sizes: Sequence[float], tasks: Collection[int] | None = None
) -> Counter[tuple[int, float]]:
    """How many outputs of each size each label has."""
    if tasks is None:
        return Counter(zip(placed, sizes))
    return Counter((placed[task], sizes[task]) for task in tasks)
