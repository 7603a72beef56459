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

from dask_worker_pools.placement.blocks import Flags, Numbers, blocks_of
from dask_worker_pools.placement.problem import Pools

__all__ = ["Group", "loose_groups", "near_pools", "share"]


@dataclass(frozen=True, slots=True)
class Group:
    """Free tasks that are linked to each other, and to no task whose pool is fixed."""

    tasks: list[int]
    mask: int  #: bits of the pools that all of them may be in, at least one


@dataclass(frozen=True, slots=True)
class FreeBlocks:
    """Free tasks by what is linked to each other through free tasks."""

    block: Numbers  #: first task of the block of each task
    free: Flags
    held: set[int]  #: blocks with an edge to a task that holds them

    @classmethod
    def of(
        cls,
        inputs: Sequence[int],
        counts: Sequence[int],
        fixed: Collection[int],
        holding: Collection[int],
    ) -> FreeBlocks:
        """Find the blocks between `fixed` tasks; those of them that are `holding` hold blocks."""
        source = np.array(inputs, np.int32)
        user = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
        free, holds = np.ones(len(counts), bool), np.zeros(len(counts), bool)
        free[[*fixed]] = False
        holds[[*holding]] = True
        inner = free[source] & free[user]
        block = blocks_of(len(counts), source[inner], user[inner])
        held = (source[free[source] & holds[user]], user[free[user] & holds[source]])
        return cls(block, free, {*block[np.concatenate(held)].tolist()})

    def tasks_in(self, blocks: Collection[int]) -> list[int]:
        """The free tasks of some blocks."""
        found: list[int] = np.flatnonzero(self.free & np.isin(self.block, [*blocks])).tolist()
        return found


def near_pools(
    inputs: Sequence[int],
    counts: Sequence[int],
    pinned: Collection[int],
    fixed: Collection[int],
    restricted: Collection[int],
) -> list[int]:
    """Free tasks that will have a pool: those linked to a pinned task, or to a restricted one.

    Parameters
    ----------
    inputs, counts
        As for `place_numbered`.
    pinned, fixed : collection of int
        Tasks that have a pool, and other tasks that are not to be placed.
    restricted : collection of int
        Free tasks that are restricted to some pools.

    Examples
    --------
    >>> near_pools([0, 1], [0, 1, 1, 0], pinned=[0], fixed=[], restricted=[])
    [1, 2]
    """
    blocks = FreeBlocks.of(inputs, counts, {*pinned, *fixed}, pinned)
    return blocks.tasks_in(blocks.held.union(blocks.block[[*restricted]].tolist()))


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
    somewhere = [task for task, label in fixed.items() if label <= pools.blocked]
    blocks = FreeBlocks.of(inputs, counts, fixed, somewhere)
    allowed: dict[int, int] = {}
    for task, mask in masks.items():
        block = int(blocks.block[task])
        allowed[block] = allowed.get(block, pools.open) & mask
    loose = {block: mask for block, mask in allowed.items() if mask and block not in blocks.held}
    tasks: defaultdict[int, list[int]] = defaultdict(list)
    for task in blocks.tasks_in(loose):
        tasks[int(blocks.block[task])].append(task)
    return [Group(tasks[block], mask) for block, mask in loose.items()]


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
