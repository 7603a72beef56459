"""Classes of interchangeable tasks, by colour refinement.

A million tasks of array code are a few dozen kinds of task, each many times over: same size, made
from the same kinds of inputs, used by the same kinds of consumers. One cut through a graph with a
node per kind costs next to nothing, and it prices every placement that treats a kind alike exactly:
the outputs of a kind have the same set of kinds as consumers, so they travel together.

Two sweeps find the kinds. The forward one gives each task a *colour*: its base and the multiset of
its inputs' colours. The backward one gives it a *class*: its colour and the set of its consumers'
classes. Neither builds a set per task. A set under construction is a `State` of a machine; adding
a member is one look-up in its table, and equal sets are one object::

    inputs' colours:  {} ---red---> {red} ---blue--> {red, blue}
                       `---blue--> {blue} ---red---------^

Fixed tasks (pinned or blocked) do not depend on their inputs, and their inputs see nothing of them
but the label they are fixed to.

Sources: B. Weisfeiler and A. Leman, "The reduction of a graph to canonical form" (1968); R. Paige
and R. E. Tarjan, "Three partition refinement algorithms", SIAM Journal on Computing 16 (1987). Task
graphs have no cycles, so one round of both sweeps nearly always reaches a stable partition, and
:func:`is_stable` proves it by looking at the classes alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from itertools import accumulate, islice, pairwise
from math import frexp
from typing import cast

__all__ = ["State", "classify", "equitable", "is_stable"]

#: sets wider than this are gathered whole: building them member by member would cost their square
WIDE = 32
#: at most so many rounds of both sweeps
ROUNDS = 4
#: with fewer tasks per class than this, finer classes save nothing
FEWEST_PER_CLASS = 4


class State(dict["State", "State"]):
    """A set of states over a base; as a mapping, where adding one more member leads.

    Parameters
    ----------
    base : State, optional
        The empty set that this one grew from; by default a new one.
    members : frozenset
        What was added to it.
    seen : State, optional
        What a task in this state looks like to its inputs; by default this very state.

    Examples
    --------
    >>> empty, red, blue = State(), State(), State()
    >>> empty[red][blue] is empty[blue][red] is empty[red][blue][red]
    True
    """

    __slots__ = ("base", "family", "members", "seen")
    __hash__ = object.__hash__  # type: ignore[assignment]

    def __init__(
        self,
        base: State | None = None,
        members: frozenset[object] = frozenset(),
        seen: State | None = None,
    ) -> None:
        super().__init__()
        self.base: State = self if base is None else base
        self.members = members
        self.seen: State = self if seen is None else seen
        #: every set over this base, by its members
        self.family: dict[frozenset[object], State] = (
            {members: self} if base is None else base.family
        )

    def __eq__(self, other: object) -> bool:
        return self is other

    def __missing__(self, added: State) -> State:
        if len(self.members) >= WIDE and added not in self.members:
            return cast(State, Gathering(self, added))
        state = self[added] = self.grown(self.members | {added})
        return state

    def fresh(self) -> State:
        """Return an empty colour for what is now a class, fixed if this base is."""
        return Multiset() if self.seen is self else Fixed(seen=self.seen)

    def grown(self, members: frozenset[object]) -> State:
        """Return the set over the same base with these `members`."""
        state = self.family.get(members)
        if state is None:
            seen = None if self.base.seen is self.base else self.base.seen
            state = self.family[members] = type(self)(self.base, members, seen)
        return state


class Multiset(State):
    """A state that counts: its members are pairs of a state and how many times it was added."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __missing__(self, added: State) -> State:
        counts = Counter(dict(cast("frozenset[tuple[State, int]]", self.members)))
        counts[added] += 1
        state = self[added] = self.grown(frozenset(counts.items()))
        return state


class Fixed(State):
    """A state that nothing changes: the colour of a task that does not depend on its inputs."""

    __slots__ = ()
    __hash__ = object.__hash__

    def __missing__(self, added: State) -> State:
        self[added] = self
        return self

    def grown(self, members: frozenset[object]) -> State:
        """Return this state."""
        return self


class Gathering:
    """A wide set in the making, of one task only; it becomes a `State` when first looked at."""

    __slots__ = ("members", "start")

    def __init__(self, start: State, added: State) -> None:
        self.start = start
        self.members: set[object] = {*start.members, added}

    def __getitem__(self, added: State) -> Gathering:
        self.members.add(added)
        return self

    def finished(self) -> State:
        """Return the state with these members."""
        return self.start.grown(frozenset(self.members))

    @property
    def seen(self) -> State:
        """What the task looks like to its inputs."""
        return self.finished().seen


def classify(
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
) -> tuple[list[State], dict[State, int], bool]:
    """Class of each task.

    Parameters
    ----------
    inputs : sequence of int
        The inputs of task 0, then those of task 1, and so on; each comes before its consumers.
    counts : sequence of int
        How many inputs each task has.
    sizes : sequence of float
        Size of each task's output. Those of one class agree within a factor of √2.
    fixed : mapping of int to int
        Label of each task that is fixed.
    masks : mapping of int to int
        Bits of the allowed labels, for tasks that may not take just any.

    Returns
    -------
    classes : list of State
        Tasks of one class have the same state. Its `members` are the consumers, as they are `seen`.
    labels : dict of State to int
        The label behind what is seen of a fixed task.
    stable : bool
        Whether all tasks of a class have inputs of the same classes.

    Examples
    --------
    Task 2 adds 0 and 1, task 5 adds 3 and 4. The sources are alike, and so are the sums.

    >>> (a, b, c, d, e, f), _, stable = classify([0, 1, 3, 4], [0, 0, 2, 0, 0, 2], [8] * 6, {}, {})
    >>> a is b is d is e, c is f, a.members == {c}, stable
    (True, True, True, True)
    """
    labels = {State(): label for label in set(fixed.values())}
    colours = _bases(sizes, fixed, masks, {label: seen for seen, label in labels.items()})
    before = 0
    for _ in range(ROUNDS):
        colours = _forward(inputs, counts, colours)
        classes = _backward(inputs, counts, colours)
        kinds = set(classes)
        stable = is_stable(kinds)
        if stable or len(kinds) < 4 * before or len(kinds) * FEWEST_PER_CLASS > len(classes):
            break
        before = len(kinds)
        finer = {kind: kind.base.fresh() for kind in kinds}
        colours = [finer[state] for state in classes]
    return classes, labels, stable


def equitable(
    inputs: Sequence[int],
    counts: Sequence[int],
    sizes: Sequence[float],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
) -> list[int] | None:
    """Class of each task, so fine that cuts come out as they would task by task.

    Tasks of one class have the same size, equally many inputs of each class and equally many
    consumers of each. A cheapest cut solves a linear programme, in which a task belongs to a pool
    by a number between 0 and 1. Give all tasks of a class the mean of theirs: that costs no more,
    and each of its levels is a cut that treats a class as one. So does the smallest cheapest cut.

    Source: M. Grohe, K. Kersting, M. Mladenov, E. Selman, "Dimension reduction via colour
    refinement", ESA (2014).

    Parameters
    ----------
    inputs, counts, sizes, fixed, masks
        As for :func:`classify`.

    Returns
    -------
    list of int, or None
        None if a few rounds do not get there, or if hardly two tasks are alike.

    Examples
    --------
    Task 2 adds 0 and 1, task 5 adds 3 and 4. The sources differ in size.

    >>> equitable([0, 1, 3, 4] * 4, [0, 0, 2, 0, 0, 2] * 4, [8, 9, 8] * 8, {}, {}) is None
    False
    """
    ends = [0, *accumulate(counts)]
    own = [inputs[start:end] for start, end in pairwise(ends)]
    users: list[list[int]] = [[] for _ in counts]
    for task, mine in enumerate(own):
        for source in mine:
            users[source].append(task)
    classes = _interned((size, fixed.get(task), masks.get(task)) for task, size in enumerate(sizes))
    before = 0
    for _ in range(ROUNDS):
        colours = _with_inputs(classes, own, fixed)
        classes = _with_users(colours, users, fixed)
        many = len(set(classes))
        if many * FEWEST_PER_CLASS > len(classes):
            break
        if many == before:
            return classes
        before = many
    return None


def _interned(things: Iterable[Hashable]) -> list[int]:
    """Give equal things the same number."""
    number: dict[Hashable, int] = {}
    return [number.setdefault(thing, len(number)) for thing in things]


def _with_inputs(
    classes: Sequence[int], inputs: Sequence[Sequence[int]], fixed: Mapping[int, int]
) -> list[int]:
    """Tell classes apart by those of the inputs, except where they do not matter."""
    number: dict[Hashable, int] = {}
    finer: list[int] = []
    for task, mine in enumerate(inputs):
        near = () if task in fixed else sorted(map(finer.__getitem__, mine))
        finer.append(number.setdefault((classes[task], *near), len(number)))
    return finer


def _with_users(
    classes: Sequence[int], users: Sequence[Sequence[int]], fixed: Mapping[int, int]
) -> list[int]:
    """Tell classes apart by those of the consumers, or by the label to which these are fixed."""
    number: dict[Hashable, int] = {}
    finer = [0] * len(classes)
    seen = [~fixed.get(task, 0) for task in range(len(classes))]
    for task in reversed(range(len(classes))):
        near = sorted(map(seen.__getitem__, users[task]))
        finer[task] = number.setdefault((classes[task], *near), len(number))
        if task not in fixed:
            seen[task] = finer[task]
    return finer


def is_stable(kinds: Collection[State]) -> bool:
    """Whether tasks of one class always have inputs of the same classes.

    They have inputs of the same colours. So it is enough that for no class of consumers two classes
    of its inputs share a colour.
    """
    links = [(kind.base, consumer) for kind in kinds for consumer in kind.members]
    free = [link for link in links if link[1] in kinds]
    return len(set(free)) == len(free)


def _bases(
    sizes: Sequence[float],
    fixed: Mapping[int, int],
    masks: Mapping[int, int],
    seen: Mapping[int, State],
) -> list[State]:
    """Colours before anything is known of the graph: by size, label and allowed labels."""
    bucket = {size: _bucket(size) for size in set(sizes)}
    plain = {number: Multiset() for number in set(bucket.values())}
    by_size = {size: plain[number] for size, number in bucket.items()}
    colours: list[State] = [by_size[size] for size in sizes]
    allowed: dict[tuple[int, int], State] = defaultdict(Multiset)
    for task, mask in masks.items():
        colours[task] = allowed[bucket[sizes[task]], mask]
    held = {label: {number: Fixed(seen=state) for number in plain} for label, state in seen.items()}
    for task, label in fixed.items():
        colours[task] = held[label][bucket[sizes[task]]]
    return colours


def _bucket(size: float) -> int:
    """⌊2·log₂ size⌋, without the rounding errors of a logarithm; -∞ becomes a number of its own."""
    if not size:
        return -10_000
    fraction, exponent = frexp(size)
    return 2 * exponent + (fraction * fraction >= 0.5)


def _forward(inputs: Sequence[int], counts: Sequence[int], bases: Sequence[State]) -> list[State]:
    """Colour of each task: its base and the multiset of its inputs' colours."""
    colours: list[State] = []
    colour_of = colours.__getitem__
    following = iter(inputs)
    for state, count in zip(bases, counts):
        if count == 1:  # the usual case, without a loop
            state = state[colour_of(next(following))]
        elif count > WIDE:
            state = state.grown(
                frozenset(Counter(map(colour_of, islice(following, count))).items())
            )
        elif count:
            for colour in map(colour_of, islice(following, count)):
                state = state[colour]
        colours.append(state)
    return colours


def _backward(
    inputs: Sequence[int], counts: Sequence[int], colours: Sequence[State]
) -> list[State]:
    """Class of each task: its colour and the set of its consumers' classes."""
    roots = {c: State(seen=c.seen if type(c) is Fixed else None) for c in set(colours)}
    classes = [roots[colour] for colour in colours]
    task = len(classes)
    following = reversed(inputs)
    for count in reversed(counts):
        task -= 1
        if count == 1:
            source = next(following)
            classes[source] = classes[source][classes[task].seen]
        elif count:
            seen = classes[task].seen
            for source in islice(following, count):
                classes[source] = classes[source][seen]
    found = cast("list[State | Gathering]", classes)
    return [c.finished() if isinstance(c, Gathering) else c for c in found]
