"""The root of all errors of this package, and the two for what it cannot use."""

from __future__ import annotations

import pickle
from typing import Any

from dask_worker_pools.travel import Travels


class PoolError(Exception, metaclass=Travels):
    """What this package raises when pools cannot be honoured.

    Raised in the scheduler process as well as in the user's, so every subclass can be pickled:
    it is built again from its fields.
    """

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(getattr(self, name) for name in self.fields)

    #: names of the constructor's parameters, which are also attributes
    fields: tuple[str, ...] = ()


class _Refused(PoolError):
    """An argument, an option or a setting that cannot be used.

    Attributes
    ----------
    argument : str
        What it was said for.
    value : object
        What was said.
    problem : str
        What is wrong with it, and what to say instead.
    """

    fields = ("argument", "value", "problem")

    def __init__(self, argument: str, value: object, problem: str) -> None:
        self.argument = argument
        self.value = value
        self.problem = problem
        super().__init__(problem)

    def __reduce__(self) -> tuple[Any, ...]:
        try:
            pickle.dumps(self.value)
        except Exception:  # a lambda, an open file: how it is written has to do
            return type(self), (self.argument, repr(self.value), self.problem)
        return super().__reduce__()


class InvalidValue(_Refused, ValueError):
    """An argument, an option or a setting has a value that it cannot have."""


class InvalidType(_Refused, TypeError):
    """An argument, an option or a setting is of a type that it cannot have."""
