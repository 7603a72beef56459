"""Minimum cut by Dinic's maximum flow, in plain Python and exact integers.

A cut splits the nodes between a source and a sink and costs the capacity of the arcs that lead
from the source's side to the sink's. By the max-flow min-cut theorem the cheapest cut costs what
the largest flow carries, and the nodes which the source still reaches when no more can flow are
the *smallest* source side of any cheapest cut. That set is the same whatever order nodes and arcs
come in, so an answer read off it is deterministic.

Source: E. A. Dinic, "Algorithm for solution of a problem of maximum flow in networks with power
estimation", Soviet Mathematics Doklady 11 (1970).
"""

from __future__ import annotations

__all__ = ["Network"]


class Network:
    """A directed network between a source and a sink, both kept implicit.

    Parameters
    ----------
    nodes : int
        How many nodes to begin with, numbered from 0; :meth:`node` adds more.

    Examples
    --------
    One unit fits into node 0, but all of the three between 0 and 1 can leave: the cut is at the
    source, and its side is empty.

    >>> network = Network(2)
    >>> network.terminal(0, source=1)
    >>> network.arc(0, 1, 3)
    >>> network.terminal(1, sink=2)
    >>> network.source_side()
    []
    """

    def __init__(self, nodes: int) -> None:
        #: capacity from the source (positive) or to the sink (negative) that is not yet used
        self.excess = [0] * nodes
        #: arcs leaving each node, as positions in ``head`` and ``room``
        self.leaving: list[list[int]] = [[] for _ in range(nodes)]
        #: where each arc ends; arc ``i ^ 1`` is the reverse of arc ``i``
        self.head: list[int] = []
        #: what each arc can still carry
        self.room: list[int] = []
        #: arcs looked at so far: the measure of work
        self.work = 0

    def node(self) -> int:
        """Add a node and return its number."""
        self.excess.append(0)
        self.leaving.append([])
        return len(self.excess) - 1

    def arc(self, tail: int, head: int, capacity: int) -> None:
        """Charge `capacity` for `tail` on the source's side with `head` on the sink's."""
        self.leaving[tail].append(len(self.head))
        self.leaving[head].append(len(self.head) + 1)
        self.head += (head, tail)
        self.room += (capacity, 0)

    def terminal(self, node: int, *, source: int = 0, sink: int = 0) -> None:
        """Charge `source` if `node` is on the sink's side, `sink` if it is on the source's.

        What both have in common is paid either way, so only the difference is kept.
        """
        self.excess[node] += source - sink

    def source_side(self, budget: float = float("inf")) -> list[int] | None:
        """Nodes on the smallest source side of a cheapest cut.

        Parameters
        ----------
        budget : float
            How many arcs may be looked at before giving up.

        Returns
        -------
        list of int, or None if the budget ran out.
        """
        while True:
            level, sinks = self._levels()
            if not sinks:
                return [node for node, depth in enumerate(level) if depth >= 0]
            self._blocking_flow(level)
            if self.work > budget:
                return None

    def _levels(self) -> tuple[list[int], bool]:
        """Arcs between the source and each node (-1: out of reach), and whether a sink is near.

        The search stops at the first level with a way to the sink: longer ways wait their turn.
        """
        head, room, excess = self.head, self.room, self.excess
        level = [-1] * len(excess)
        front = [node for node, extra in enumerate(excess) if extra > 0]
        for node in front:
            level[node] = 0
        depth = 0
        found = False
        while front and not found:
            depth += 1
            after = []
            for node in front:
                self.work += len(self.leaving[node])
                for arc in self.leaving[node]:
                    if room[arc] and level[head[arc]] < 0:
                        level[head[arc]] = depth
                        after.append(head[arc])
                        found = found or excess[head[arc]] < 0
            front = after
        return level, found

    def _blocking_flow(self, level: list[int]) -> None:
        """Saturate every shortest way from the source to the sink, depth first."""
        head, room, excess = self.head, self.room, self.excess
        untried = list(map(len, self.leaving))  # how many arcs of each node are left to try
        for start, extra in enumerate(excess):
            if extra <= 0 or level[start] != 0:
                continue
            path: list[int] = []
            node = start
            while True:
                if excess[node] < 0:
                    amount = min(excess[start], -excess[node], *(room[arc] for arc in path))
                    excess[start] -= amount
                    excess[node] += amount
                    for arc in path:
                        room[arc] -= amount
                        room[arc ^ 1] += amount
                    if not excess[start]:
                        break
                    # Resume where the first arc that this filled begins.
                    full = next((i for i, arc in enumerate(path) if not room[arc]), len(path))
                    if full < len(path):
                        node = head[path[full] ^ 1]
                        del path[full:]
                        continue
                self.work += 1
                arcs, left, below = self.leaving[node], untried[node], level[node] + 1
                while left and not (room[arcs[left - 1]] and level[head[arcs[left - 1]]] == below):
                    left -= 1
                untried[node] = left
                if left:
                    path.append(arcs[left - 1])
                    node = head[arcs[left - 1]]
                elif path:
                    node = head[path.pop() ^ 1]
                    untried[node] -= 1
                else:
                    break
