"""Kinds of tasks, and the small problem that they make of a large graph.

A kind is a class of interchangeable tasks. Up to a few thousand tasks kinds are so fine that
nothing is lost by them, and where hardly two tasks are alike, each is a kind of its own. What the
cuts see, the :class:`Kernel`, are the free kinds that are linked to a pool.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import cast

from dask_worker_pools.placement.classes import State, classify, equitable
from dask_worker_pools.placement.nets import Net, Problem
from dask_worker_pools.placement.problem import Pools

__all__ = ["FREE", "Kernel", "Kinds", "canonical", "crossing_late", "linked_kinds", "unlink"]

#: up to this many tasks every task is a kind of its own
TINY = 64

#: up to this many, two pools are solved exactly
SMALL = 4000

#: above this many free kinds they are put in an order of their own
LARGE = 4000

#: how many steps away kinds may differ to be told apart, where there are fewer
MANY = 64

#: how finely sizes are told apart where they only say which of equal choices is taken
PARTS = 1000

#: label of the kinds that are to be placed
FREE = -1


@dataclass(frozen=True, slots=True)
class Kinds:
    """Kinds of interchangeable tasks: what the cuts see of a graph."""

    of: Sequence[int]  #: kind of each task
    consumers: list[set[int]]  #: kinds that use the outputs of a kind; `~label` if they are fixed
    weight: list[int]  #: size of all outputs of a kind together, in units of 1 / `unit`
    unit: int  #: makes all sizes whole
    label: list[int]  #: label of a fixed kind, else FREE
    mask: list[int]  #: bits of the pools that a kind is restricted to, else 0
    stable: bool  #: whether the tasks of a kind have exactly the same relatives, kind by kind

    def whole(self, size: float) -> int:
        """Return a size in the unit of `weight`."""
        return _whole(size, self.unit)

    @classmethod
    def of_graph(
        cls,
        inputs: Sequence[int],
        counts: Sequence[int],
        sizes: Sequence[float],
        fixed: Mapping[int, int],
        masks: Mapping[int, int],
    ) -> Kinds:
        """Group the tasks of a graph; those of a small one only if nothing is lost by that."""
        if len(counts) <= SMALL:
            tasks = range(len(counts))
            of = equitable(inputs, counts, sizes, fixed, masks) if len(tasks) > TINY else None
            return cls.grouped(of or tasks, inputs, counts, sizes, fixed, masks)
        classes, seen, stable = classify(inputs, counts, sizes, fixed, masks)
        number: dict[State, int] = {c: kind for kind, c in enumerate(dict.fromkeys(classes))}
        shown = number | {state: ~label for state, label in seen.items()}
        of = [*map(number.__getitem__, classes)]
        consumers = [{shown[c] for c in cast("frozenset[State]", kind.members)} for kind in number]
        label = [FREE if kind.seen is kind else seen[kind.seen] for kind in number]
        mask = [0] * len(number)
        for task, bits in masks.items():
            mask[of[task]] = bits
        return cls(of, consumers, *_weights(of, sizes, len(number)), label, mask, stable)

    @classmethod
    def grouped(
        cls,
        of: Sequence[int],
        inputs: Sequence[int],
        counts: Sequence[int],
        sizes: Sequence[float],
        fixed: Mapping[int, int],
        masks: Mapping[int, int],
    ) -> Kinds:
        """Kinds of tasks with exactly the same relatives, numbered as their first tasks are."""
        number = {kind: place for place, kind in enumerate(dict.fromkeys(of))}
        of = [*map(number.__getitem__, of)]
        label, mask = [FREE] * len(number), [0] * len(number)
        for task, fixed_to in fixed.items():
            label[of[task]] = fixed_to
        for task, bits in masks.items():
            mask[of[task]] = bits
        consumers: list[set[int]] = [set() for _ in number]
        following = iter(inputs)
        for kind, count in zip(of, counts, strict=True):
            user = kind if label[kind] == FREE else ~label[kind]
            for source in islice(following, count):
                consumers[of[source]].add(user)
        return cls(of, consumers, *_weights(of, sizes, len(number)), label, mask, True)


def _weights(of: Sequence[int], sizes: Sequence[float], kinds: int) -> tuple[list[int], int]:
    """Size of all outputs of each kind, and the unit that makes sizes whole.

    Sums of whole numbers do not depend on the order.
    """
    unit = max((float(size).as_integer_ratio()[1] for size in set(sizes)), default=1)
    weights = [0] * kinds
    for (kind, size), count in Counter(zip(of, sizes)).items():
        weights[kind] += count * _whole(size, unit)
    return weights, unit


def _whole(size: float, unit: int) -> int:
    """Return a size in units of 1 / `unit`, however small it is."""
    numerator, denominator = float(size).as_integer_ratio()
    return numerator * (unit // denominator)


def crossing_late(kinds: Kinds, pools: Pools) -> Kinds:
    """Add to each weight the little that makes outputs cross late, where it costs no more.

    Of ``load -> scale -> gather``, all of one size and only the last elsewhere, the output of
    `scale` crosses: what can be done at home is done there. Where an output is cut in pieces, the
    pieces cross, which may then go to different pools. The addition is the size, in parts of the
    largest, and the number of outputs, times the length of the way that is still before them. Its
    unit is so small that all additions together are less than the least difference in traffic.
    """
    height = [0] * len(kinds.label)
    for kind in reversed(range(len(height))):
        users = [height[user] for user in kinds.consumers[kind] if user >= 0]
        height[kind] = 1 + max(users, default=0)
    outputs = Counter(kinds.of)
    part = max(1, max(kinds.weight, default=0) // PARTS)
    extra = [
        (kinds.weight[kind] // part + outputs[kind]) * height[kind] for kind in range(len(height))
    ]
    finer = 1 + sum(extra) * max((sum(row) for row in pools.cost), default=0)
    weight = [old * finer + more for old, more in zip(kinds.weight, extra, strict=True)]
    return replace(kinds, weight=weight, unit=kinds.unit * finer)


def canonical(kinds: Kinds) -> list[int]:
    """Return a number for each kind that depends on its place in the graph alone."""
    users = [[user for user in mine if user >= 0] for mine in kinds.consumers]
    producers: list[list[int]] = [[] for _ in users]
    for kind, mine in enumerate(users):
        for user in mine:
            producers[user].append(kind)
    # Labels themselves, and not ~label: in CPython -1 and -2 have the same hash.
    fixed = [sorted(~user for user in mine if user < 0) for mine in kinds.consumers]
    number = [
        hash((label, mask, weight, *near))
        for label, mask, weight, near in zip(
            kinds.label, kinds.mask, kinds.weight, fixed, strict=True
        )
    ]
    # Many kinds are so different that their neighbours tell all of them apart.
    told = 0
    for _ in range(2 if len(number) > LARGE else MANY):
        before, told = told, len(set(number))
        if told in (before, len(number)):
            break
        number = [
            hash(
                (
                    number[kind],
                    *sorted(number[user] for user in users[kind]),
                    -1,
                    *sorted(number[producer] for producer in producers[kind]),
                )
            )
            for kind in range(len(number))
        ]
    return number


def canonical_order(kinds: Kinds) -> list[int]:
    """Kinds with producers before consumers, in an order that depends on the graph alone."""
    depth = [0] * len(kinds.label)
    for kind, users in enumerate(kinds.consumers):
        for user in users:
            if user >= 0:
                depth[user] = max(depth[user], depth[kind] + 1)
    number = canonical(kinds)
    return sorted(range(len(depth)), key=lambda kind: (depth[kind], number[kind]))


def linked_kinds(kinds: Kinds, pools: Pools) -> bytearray:
    """Which free kinds are connected to a pool, by a path of any direction through free kinds.

    Kinds that are restricted to some pools are: they will be in one of them.
    """
    linked = bytearray(len(kinds.label))
    neighbours: list[list[int]] = [[] for _ in kinds.label]
    for kind, users in enumerate(kinds.consumers):
        label = kinds.label[kind]
        linked[kind] |= label == FREE and kinds.mask[kind] > 0
        for user in users:
            if user < 0:
                linked[kind] |= label == FREE and ~user < pools.blocked
            elif label == FREE:
                neighbours[kind].append(user)
                neighbours[user].append(kind)
            else:
                linked[user] |= label < pools.blocked
    reached = [kind for kind, near in enumerate(linked) if near]
    for kind in reached:
        for other in neighbours[kind]:
            if not linked[other]:
                linked[other] = True
                reached.append(other)
    return linked


@dataclass(frozen=True, slots=True)
class Kernel:
    """The free kinds that have something to be near to, and the cuts' problem on them."""

    kinds: Kinds
    nodes: list[int]  #: kinds behind the nodes of the problem
    options: list[tuple[int, ...]]
    nets: list[Net]
    pools: Pools

    @classmethod
    def of_kinds(cls, kinds: Kinds, linked: bytearray, pools: Pools) -> Kernel:
        """Keep what is linked, and the outputs that touch it."""
        ready = pools.open
        nodes = [kind for kind, near in enumerate(linked) if near and ready]
        order: Sequence[int] = range(len(kinds.label))
        if len(pools.names) > 2 or len(nodes) > LARGE:
            # What the cuts find then may depend on the order, and so the order on nothing else.
            order = canonical_order(kinds)
            wanted = set(nodes)
            nodes = [kind for kind in order if kind in wanted]
        node = {kind: index for index, kind in enumerate(nodes)}
        grouped: dict[tuple[int, tuple[int, ...], frozenset[int]], int] = defaultdict(int)
        for kind in order:
            users, label = kinds.consumers[kind], kinds.label[kind]
            if label == pools.nowhere or (label == FREE and kind not in node):
                continue
            hub = node.get(kind, ~label)
            consumers = tuple(sorted(node[user] for user in users if user in node))
            present = frozenset(~user for user in users if user < 0) - {pools.nowhere, ~hub}
            if consumers or (present and hub >= 0):
                grouped[hub, consumers, present] += kinds.weight[kind]
        nets = [Net(weight, *where) for where, weight in grouped.items()]
        options_of = {mask: pools.options(mask or ready) for mask in set(kinds.mask)}
        options = [options_of[kinds.mask[kind]] for kind in nodes]
        return cls(kinds, nodes, options, nets, pools)

    def problem(self, work: float) -> Problem:
        """Return the question of the least traffic, as the cuts put it."""
        return Problem(self.options, self.nets, self.pools.cost, work=work)

    def by_kind(self, solution: Sequence[int]) -> list[int]:
        """Label of each kind: its own if it is fixed, that of its node, or nowhere."""
        labels = [self.pools.nowhere if label == FREE else label for label in self.kinds.label]
        for kind, label in zip(self.nodes, solution, strict=True):
            labels[kind] = label
        return labels


def unlink(
    placed: list[int],
    inputs: Sequence[int],
    counts: Sequence[int],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
    pools: Pools,
) -> None:
    """Take back the pools of tasks that only others of their kind have a link to."""
    if _all_linked(inputs, counts, fixed, masks, pools):
        return
    everyone = range(len(counts))
    tasks = Kinds.grouped(everyone, inputs, counts, [0] * len(counts), fixed, masks)
    for task, near in enumerate(linked_kinds(tasks, pools)):
        if not near and tasks.label[task] == FREE:
            placed[task] = pools.nowhere


def _all_linked(
    inputs: Sequence[int],
    counts: Sequence[int],
    fixed: Mapping[int, int],
    restricted: Collection[int],
    pools: Pools,
) -> bool:
    """Whether a sweep forward and one backward, the usual case, reach every free task."""
    free = bytearray(b"\1") * len(counts)
    linked = bytearray(len(counts))
    for task in restricted:
        linked[task] = True
    for task, label in fixed.items():
        free[task] = False
        linked[task] = label < pools.blocked
    following = iter(inputs)
    for task, count in enumerate(counts):
        for source in islice(following, count):
            if linked[source] and free[task]:
                linked[task] = True
    following = reversed(inputs)
    for task in reversed(range(len(counts))):
        for source in islice(following, counts[task]):
            if linked[task] and free[source]:
                linked[source] = True
    return linked.count(1) == free.count(1) + sum(label < pools.blocked for label in fixed.values())
