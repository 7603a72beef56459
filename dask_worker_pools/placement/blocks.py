"""Blocks of tasks that share outputs, and an order in which neighbours stand together.

Both are found for all tasks at once, in a number of passes that grows with the logarithm of their
number only.

Sources: Y. Shiloach and U. Vishkin, "An O(log n) parallel connectivity algorithm", Journal of
Algorithms 3 (1982); for the doubling of paths, R. M. Karp, R. E. Miller and A. L. Rosenberg, "Rapid
identification of repeated patterns in strings, trees and arrays", STOC (1972).
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Flags", "Numbers", "blocks_of", "walk"]

Flags: TypeAlias = npt.NDArray[np.bool_]
Numbers: TypeAlias = npt.NDArray[np.signedinteger]


def blocks_of(tasks: int, one: Numbers, other: Numbers) -> Numbers:
    """Join each task of `one` with that of `other`: for each task the first one of its block.

    Examples
    --------
    >>> blocks_of(5, np.array([4, 3]), np.array([1, 4])).tolist()
    [0, 1, 2, 1, 1]
    """
    block = np.arange(tasks, dtype=np.int32)
    while True:
        one, other = block[one], block[other]
        apart = one != other
        if not apart.any():
            return block
        one, other = one[apart], other[apart]
        # Of two blocks that meet the later one joins the first one that it meets.
        np.minimum.at(block, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(further := block[block], block):
            block = further


def walk(source: Numbers, user: Numbers, kind: Numbers) -> Numbers:
    """Place of each task in a breadth-first walk from the ends: what is used together is close.

    Parameters
    ----------
    source, user : array of int, shape (edges,)
        The edges. Where an output has several users, it is reached from the one that comes last:
        that order must not be one of the tasks if places are to depend on the graph alone.
    kind : array of int, shape (tasks,)
        Tasks that are used by the same one are visited by kind, then by number.

    Returns
    -------
    array of int, shape (tasks,)

    Examples
    --------
    Task 4 uses 2 and 3, which use 1 and 0.

    >>> edges = np.array([1, 0, 2, 3]), np.array([2, 3, 4, 4])
    >>> walk(*edges, kind=np.zeros(5, int)).tolist()
    [4, 3, 1, 2, 0]
    """
    tasks = len(kind)
    # Above the ends stands one more, the first of all.
    place = np.zeros(tasks + 1, np.int32)
    place[np.argsort(kind, kind="stable")] = np.arange(1, tasks + 1, dtype=np.int32)
    del kind  # before more memory is taken
    above = np.full(tasks + 1, tasks, np.int32)
    above[source] = user
    # A place tells paths of some length apart, down to a task; two of them make one twice as long.
    while True:
        path = place[above].astype(np.int64)
        path *= tasks + 1
        path += place
        order = np.argsort(path)
        del path
        place[order] = np.arange(tasks + 1, dtype=np.int32)
        if (above == tasks).all():
            return place[:tasks] - 1
        above = above[above]
