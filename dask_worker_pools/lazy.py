"""Values that are worked out when they are first asked for, and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic, Self, TypeVar, overload

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V", covariant=True)


class once(property, Generic[T]):
    """A property that is computed when it is first asked for, and kept.

    As ``functools.cached_property``, which in Python 3.11 holds a lock: where the scheduler is in
    the user's process, their threads would wait for each other.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        super().__init__(compute)

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...

    @overload
    def __get__(self, instance: Any, owner: type | None = None, /) -> T: ...

    def __get__(self, instance: Any, owner: type | None = None, /) -> Self | T:
        if instance is None or self.fget is None:
            return self
        kept: dict[str, T] = instance.__dict__
        name = self.fget.__name__
        if name not in kept:
            kept[name] = self.fget(instance)
        return kept[name]


class Later(Mapping[K, V]):
    """A mapping that is made when it is first looked into.

    Parameters
    ----------
    make : callable
        Makes the mapping.

    Examples
    --------
    >>> squares = Later(lambda: {n: n * n for n in range(4)})
    >>> squares[3], len(squares), squares == {0: 0, 1: 1, 2: 4, 3: 9}
    (9, 4, True)
    """

    def __init__(self, make: Callable[[], Mapping[K, V]]) -> None:
        self._make = make

    @once
    def now(self) -> Mapping[K, V]:
        """The mapping itself."""
        return self._make()

    def __getitem__(self, key: K) -> V:
        return self.now[key]

    def __iter__(self) -> Iterator[K]:
        return iter(self.now)

    def __len__(self) -> int:
        return len(self.now)

    def __contains__(self, key: object) -> bool:
        return key in self.now

    def __repr__(self) -> str:
        return repr(self.now)

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(self.now),)
