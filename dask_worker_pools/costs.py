"""What shipping costs in a plan, and would cost if some tasks were elsewhere.

The cost of an output follows from where it is made and where it is needed, times its size: outputs
that agree in both places are summed before anything is multiplied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from dask.typing import Key

from dask_worker_pools.placement import traffic

if TYPE_CHECKING:
    from dask_worker_pools.plan import Plan


class Mark(Enum):
    """What stands for a pool where there is none to name."""

    BLOCKED = "may run in any pool"
    MOVED = "runs in the pool that is tried"


Place: TypeAlias = str | Mark | None
#: Bytes of all outputs by where they are made, and where they are needed.
Shipping: TypeAlias = Mapping[tuple[Place, frozenset[Place]], float]


def shipping(plan: Plan, outputs: Iterable[Key], moved: Collection[Key] = ()) -> Shipping:
    """Sum outputs by place; `moved` are the tasks whose pool is to be tried."""
    marks = dict.fromkeys(plan.blocked, Mark.BLOCKED) | dict.fromkeys(moved, Mark.MOVED)

    def place(key: Key) -> Place:
        return marks[key] if key in marks else plan.place_of(key)

    sums: defaultdict[tuple[Place, frozenset[Place]], float] = defaultdict(float)
    for key in outputs:
        if users := plan.consumers.get(key):
            sums[place(key), frozenset(map(place, users))] += plan.size_of(key)
    return sums


def cost(plan: Plan, shipping: Shipping, there: str | None = None) -> float:
    """Size × link cost of all that crosses, with what is moved in pool `there`."""
    graph: dict[tuple[int, Place], list[tuple[int, Place]]] = {}
    pools: dict[tuple[int, Place], str | None] = {}
    sizes: dict[tuple[int, Place], float] = {}
    blocked = []
    for i, ((source, users), size) in enumerate(shipping.items()):
        output = 2 * i, source
        sizes[output] = size
        graph |= {(2 * i + 1, user): [output] for user in users}
        for task in (output, *((2 * i + 1, user) for user in users)):
            place = task[1]
            if place is Mark.BLOCKED:
                blocked.append(task)
            else:
                pools[task] = there if isinstance(place, Mark) else place
    return traffic(
        graph, pools, sizes, blocked=blocked, link_cost=plan.link_cost, capacity=plan.workers
    )
