"""Cheapest labels for the nodes of a hypergraph, by minimum cuts.

Everything here is one move, `_cut`: given labels, which nodes should take label α instead of the
one they have? An auxiliary node per net and label makes the question a minimum cut (the source's
side takes α)::

        label q is needed while one of its              α is needed once one of the
        consumers stays                                 consumers takes it

        source --w·c(p,q)--> [ y ] --∞--> v1            v1 --∞--> [ z ] --w·c(p,α)--> hub
                               ^ `----∞--> v2            v2 --∞----^             (or the sink)
                hub --w·c(α,q) - w·c(p,q)

With two labels one cut is exact: all nodes start with one label, the cut says which take the other
(Greig, Porteous, Seheult 1989). With more, α is each label in turn until no cut gains (Boykov,
Veksler, Zabih 2001); the problem is the multiway cut of Dahlhaus et al. (1994), NP-hard from three
labels on. Where link costs differ, c(p,q) > c(α,q) cannot be an arc of a cut. The hub's way to α is
then overpriced to c(p,q): the present labels keep their true cost and none is made too cheap, so
a gain is still a gain. Swaps between two labels, which need no such correction, fill the gap.

Weights and costs are integers: equal is equal, whatever the order of addition. A cut gives the
smallest set that gains, which does not depend on the order of nodes or nets either.

Sources: D. M. Greig, B. T. Porteous, A. H. Seheult, "Exact maximum a posteriori estimation for
binary images", J. R. Statist. Soc. B 51 (1989); Y. Boykov, O. Veksler, R. Zabih, "Fast approximate
energy minimization via graph cuts", IEEE PAMI 23 (2001); E. Dahlhaus et al., "The complexity of
multiterminal cuts", SIAM Journal on Computing 23 (1994).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle, permutations, product

from dask_worker_pools.placement.contraction import contracted, is_contractible
from dask_worker_pools.placement.maxflow import Network
from dask_worker_pools.placement.nets import Net, Problem

__all__ = ["solve"]

#: problems with more nodes are contracted first: where one cut answers, and where many are needed
MANY, SOME = 400, 40
#: pieces with more nodes × labels are placed greedily, then cut in windows
LARGE = 16_000
#: part of the work that is left which a single cut may take
CUT_SHARE = 0.7
#: nodes in a window
WINDOW = 600
#: arcs that could be looked at in the time that it takes to choose one
WINDOW_WORK = 10_000
#: pieces up to this many nodes × labels × labels are tried from the start of every label
MANY_STARTS = 10_000
#: pieces up to this many are searched for what no single cut finds
FORCED = 64


def solve(problem: Problem, start: Sequence[int] | None = None) -> list[int]:
    """Label every node at the least cost that is found.

    Exact where two labels are in question; never worse than greedy labels and single moves, nor
    than `start`, from which the search begins if it is given.

    Examples
    --------
    Label 0 holds 5 units that node 0 needs, label 1 holds 3. What node 0 makes (1 unit) is used at
    label 1.

    >>> nets = [
    ...     Net(5, ~0, (0,), frozenset()),
    ...     Net(3, ~1, (0,), frozenset()),
    ...     Net(1, 0, (), frozenset([1])),
    ... ]
    >>> solve(Problem([(0, 1)], nets, [[0, 1], [1, 0]]))
    [0]
    """
    many = MANY if len(set().union(*problem.options)) <= 2 else SOME
    if start is None and len(problem.options) > many and is_contractible(problem):
        smaller, where = contracted(problem)
        found = _solve(smaller, [options[0] for options in smaller.options], fresh=True)
        return [found[node] if node >= 0 else ~node for node in where]
    labels = [options[0] for options in problem.options] if start is None else list(start)
    return _solve(problem, labels, fresh=start is None)


def _solve(problem: Problem, labels: list[int], *, fresh: bool) -> list[int]:
    """Label each piece in the way that suits it, in place."""
    for piece in _pieces(problem):
        used = _useful(problem, piece)
        large = len(piece) * len(used) > LARGE
        if len(used) == 1:
            _start_from(problem, labels, piece, min(used), used)
        elif len(used) == 2 and not large:
            before = [labels[node] for node in piece]
            _start_from(problem, labels, piece, max(used), used)
            _cut(problem, labels, piece, min(used))
            if problem.gave_up and fresh:
                _search(problem, labels, piece, used)
            elif problem.gave_up:
                _restore(labels, piece, before)
        elif fresh:
            _search(problem, labels, piece, used)
        elif not large:
            _descend(problem, labels, piece, used)
    return labels


def _restore(labels: list[int], nodes: Iterable[int], before: Iterable[int]) -> None:
    """Take labels back."""
    for node, label in zip(nodes, before, strict=True):
        labels[node] = label


def _pieces(problem: Problem) -> Iterator[list[int]]:
    """Yield sets of nodes that no net connects, each in topological order."""
    seen = [False] * len(problem.options)
    for start in range(len(seen)):
        if seen[start]:
            continue
        seen[start] = True
        piece = [start]
        nets: set[int] = set()
        for node in piece:
            for number in problem.touching[node]:
                if number in nets:
                    continue
                nets.add(number)
                net = problem.nets[number]
                for other in (*net.consumers, net.hub):
                    if other >= 0 and not seen[other]:
                        seen[other] = True
                        piece.append(other)
        yield sorted(piece)


def _search(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Label a piece, in place, from several starts if it is small."""
    size = len(piece) * len(used)
    _greedy(problem, labels, piece, used)
    if size > LARGE or problem.gave_up:
        _moves(problem, labels, piece, used)
        _windows(problem, labels, piece, used)
        return
    _descend(problem, labels, piece, used)
    if problem.gave_up:
        _moves(problem, labels, piece, used)
        _windows(problem, labels, piece, used)
    best, price = [labels[node] for node in piece], problem.price(labels, piece)
    for label in sorted(used) if size * len(used) <= MANY_STARTS else ():
        _start_from(problem, labels, piece, label, used)
        _descend(problem, labels, piece, used)
        if problem.price(labels, piece) < price:
            best, price = [labels[node] for node in piece], problem.price(labels, piece)
    _restore(labels, piece, best)
    if size <= FORCED:
        _force(problem, labels, piece, used)


def _useful(problem: Problem, piece: list[int]) -> set[int]:
    """Labels worth considering: where all links cost the same, those with something to be near."""
    options = set().union(*(problem.options[node] for node in piece))
    links = {problem.cost[p][q] for p, q in permutations(options, 2)}
    nets = [problem.nets[number] for number in problem.nets_of(piece)]
    near = {~net.hub for net in nets if net.hub < 0}.union(*(net.present for net in nets))
    restricted = any(len(problem.options[node]) < len(options) for node in piece)
    if restricted or problem.burden or len(links) > 1 or not near or not near <= options:
        return options
    return near


def _start_from(
    problem: Problem, labels: list[int], piece: list[int], label: int, used: set[int]
) -> None:
    """Give every node `label`, or else its first label in use."""
    for node in piece:
        options = problem.options[node]
        labels[node] = label if label in options else min(used.intersection(options))


def _descend(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Cut until neither taking a label nor swapping two of them gains."""
    order = sorted(used)
    symmetric = len({problem.cost[p][q] for p, q in permutations(order, 2)}) <= 1
    gaining = True
    while gaining:
        gaining = False
        idle = 0  # labels in a row that did not gain
        for alpha in cycle(order):
            # Where costs are the same a cut takes all that its label can gain.
            idle = int(symmetric) if _cut(problem, labels, piece, alpha) else idle + 1
            if idle == len(order):
                break
        if symmetric:
            return
        for alpha, beta in permutations(order, 2):
            gaining |= _swap(problem, labels, piece, alpha, beta)


def _force(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Force single nodes elsewhere and let the others follow, as long as that gains."""
    price = problem.price(labels, piece)
    gaining = True
    while gaining:
        gaining = False
        for node, label in product(piece, sorted(used)):
            if label == labels[node] or label not in problem.options[node]:
                continue
            before = [labels[other] for other in piece]
            labels[node] = label
            _descend(problem, labels, [other for other in piece if other != node], used)
            _descend(problem, labels, piece, used)
            if problem.price(labels, piece) < price:
                price = problem.price(labels, piece)
                gaining = True
            else:
                _restore(labels, piece, before)


def _swap(problem: Problem, labels: list[int], piece: list[int], alpha: int, beta: int) -> bool:
    """Deal labels α and β out anew among the nodes that have one of them."""
    both = {alpha, beta}
    nodes = [n for n in piece if labels[n] in both and both.issubset(problem.options[n])]
    before = {node: labels[node] for node in nodes}
    price = problem.price(labels, nodes)
    for node in nodes:
        labels[node] = beta
    _cut(problem, labels, nodes, alpha)
    if problem.price(labels, nodes) < price:
        return True
    _restore(labels, before, before.values())
    return False


def _cut(problem: Problem, labels: list[int], nodes: Iterable[int], alpha: int) -> bool:
    """Give label `alpha` to those of `nodes` for which that gains most; say whether it gained."""
    movers = [n for n in nodes if labels[n] != alpha and alpha in problem.options[n]]
    if not movers:
        return False
    place = {node: index for index, node in enumerate(movers)}
    if problem.work <= 0:
        problem.gave_up = True
        return False
    network = Network(len(movers))
    touched = problem.nets_of(movers)
    forever = 1 + sum(problem.nets[number].weight for number in touched) * (
        len(problem.cost) * max(map(max, problem.cost))
    )
    for number in touched:
        _add_net(network, problem.nets[number], labels, place, alpha, problem.cost, forever)
    if problem.burden:
        for index, node in enumerate(movers):
            burden = problem.burden[node]
            network.terminal(index, source=burden[labels[node]], sink=burden[alpha])
    # What is left when a cut turns out to be too large is for windows.
    side = network.source_side(CUT_SHARE * problem.work)
    problem.gave_up |= side is None
    drawn = sum(len(problem.nets[number].consumers) for number in touched)
    problem.work -= network.work + len(network.head) + drawn
    moved = [movers[index] for index in side or () if index < len(movers)]
    if not moved:
        return False
    before = problem.price(labels, moved)
    old = [labels[node] for node in moved]
    for node in moved:
        labels[node] = alpha
    if problem.price(labels, moved) < before:
        return True
    _restore(labels, moved, old)
    return False


def _add_net(
    network: Network,
    net: Net,
    labels: Sequence[int],
    place: dict[int, int],
    alpha: int,
    cost: Sequence[Sequence[int]],
    forever: int,
) -> None:
    """Draw one net into the network of a cut, as in the module's picture."""
    hub = place.get(net.hub)
    own = labels[net.hub] if net.hub >= 0 else ~net.hub
    present = set(net.present)
    staying: dict[int, list[int]] = defaultdict(list)
    for node in net.consumers:
        if node in place:
            staying[labels[node]].append(place[node])
        else:
            present.add(labels[node])
    if hub is not None:
        for label in present:
            stays, goes = net.weight * cost[own][label], net.weight * cost[alpha][label]
            network.terminal(hub, source=stays, sink=goes)

    for label, nodes in staying.items():
        stays, goes = net.weight * cost[own][label], net.weight * cost[alpha][label]
        if label in present or not (stays or (hub is not None and goes)):
            continue
        needed = nodes[0] if len(nodes) == 1 else network.node()
        network.terminal(needed, source=stays)
        if hub is not None and goes > stays:
            network.arc(hub, needed, goes - stays)
        if len(nodes) > 1:
            for node in nodes:
                network.arc(needed, node, forever)

    ship = net.weight * cost[own][alpha]
    takers = [node for nodes in staying.values() for node in nodes]
    if alpha in present or not ship or not takers:
        return
    taken = takers[0] if len(takers) == 1 else network.node()
    if len(takers) > 1:
        for node in takers:
            network.arc(node, taken, forever)
    if hub is None:
        network.terminal(taken, sink=ship)
    else:
        network.arc(taken, hub, ship)


def _greedy(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Label each node where its inputs are cheapest to bring, and the rest by their consumers."""
    placed: set[int] = set()
    cost = problem.cost
    for node in piece:
        votes: dict[int, int] = defaultdict(int)
        for net in problem.nets_around(node):
            if net.hub < 0:
                votes[~net.hub] += net.weight
            elif net.hub in placed:
                votes[labels[net.hub]] += net.weight
        if votes:
            bring = [(sum(w * cost[p][q] for p, w in votes.items()), q) for q in used]
            labels[node] = min(pair for pair in bring if pair[1] in problem.options[node])[1]
            placed.add(node)
    for node in reversed(piece):
        if node in placed:
            continue
        needed: set[int] = set()
        for net in problem.nets_around(node):
            if net.hub == node:
                needed.update(net.present, (labels[v] for v in net.consumers if v in placed))
        ship = [(sum(cost[p][q] for q in needed), p) for p in used]
        labels[node] = min(pair for pair in ship if pair[1] in problem.options[node])[1]
        placed.add(node)


def _moves(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Move single nodes while that gains, a few rounds at most."""
    counts: dict[int, dict[int, int]] = {}
    for number in problem.nets_of(piece):
        net = problem.nets[number]
        counts[number] = defaultdict(int, dict.fromkeys(net.present, 1))
        for node in net.consumers:
            counts[number][labels[node]] += 1
    nodes: Iterable[int] = piece
    for _ in range(8):
        moved: list[int] = []
        for node in nodes:
            own = labels[node]
            best = min(
                sorted(used.intersection(problem.options[node])),
                key=lambda q: (_price_alone(problem, labels, counts, node, q), q != own),
            )
            if best == own:
                continue
            for number in problem.touching[node]:
                if problem.nets[number].hub != node:
                    counts[number][own] -= 1
                    counts[number][best] += 1
            labels[node] = best
            moved.append(node)
        nodes = sorted(
            {
                v
                for n in problem.nets_of(moved)
                for v in (*problem.nets[n].consumers, problem.nets[n].hub)
                if v >= 0
            }
        )
        if not nodes:
            return


def _price_alone(
    problem: Problem,
    labels: Sequence[int],
    counts: dict[int, dict[int, int]],
    node: int,
    label: int,
) -> int:
    """Cost of the nets of `node` if it had `label`, as far as that depends on it."""
    total = problem.burden[node][label] if problem.burden else 0
    for number in problem.touching[node]:
        net = problem.nets[number]
        if net.hub == node:
            row = problem.cost[label]
            total += net.weight * sum(row[q] for q, many in counts[number].items() if many)
        elif counts[number][label] == (labels[node] == label):
            own = labels[net.hub] if net.hub >= 0 else ~net.hub
            total += net.weight * problem.cost[own][label]
    return total


def _windows(problem: Problem, labels: list[int], piece: list[int], used: set[int]) -> None:
    """Cut anew in windows around the places where labels meet, while the work allows."""
    member = set(piece)
    gaining = True
    while gaining:
        gaining = False
        covered: set[int] = set()
        for seed in piece:
            if problem.work <= 0:
                return
            if seed in covered or len(_labels_near(problem, labels, [seed])) < 2:
                continue
            window = _window(problem, seed, member)
            problem.work -= WINDOW_WORK
            covered.update(window)
            near = sorted(used.intersection(_labels_near(problem, labels, window)))
            if len(near) == 2:
                gaining |= _swap(problem, labels, window, *near)
                continue
            for alpha in near:
                gaining |= _cut(problem, labels, window, alpha)


def _labels_near(problem: Problem, labels: Sequence[int], nodes: Iterable[int]) -> set[int]:
    """Labels on the nets of `nodes`."""
    near: set[int] = set()
    for number in problem.nets_of(nodes):
        net = problem.nets[number]
        near.update(net.present, (labels[node] for node in net.consumers))
        near.add(labels[net.hub] if net.hub >= 0 else ~net.hub)
    return near


def _window(problem: Problem, seed: int, member: set[int]) -> list[int]:
    """Return the nodes of `member` nearest to `seed`."""
    window = {seed: None}
    queue = [seed]
    nets: set[int] = set()
    for node in queue:
        for number in problem.touching[node]:
            if number in nets:
                continue
            nets.add(number)
            net = problem.nets[number]
            for other in (net.hub, *net.consumers):
                if len(window) == WINDOW:
                    return list(window)
                if other in member and other not in window:
                    window[other] = None
                    queue.append(other)
    return list(window)
