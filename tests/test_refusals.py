"""Whatever cannot be used is refused with a `PoolError` that says what, and what to say instead."""

from __future__ import annotations

import pickle
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Hashable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed

import dask_worker_pools
from dask_worker_pools import (
    DeclaredSizeError,
    InvalidType,
    InvalidValue,
    LocalPoolCluster,
    PoolError,
    assign_pool,
    get_pool,
    measure_transfers,
    plan_pools,
    pool,
    propagate_pools,
    propagate_pools_in_collection,
    visualize_pools,
)
from dask_worker_pools.localcluster import _escaped
from dask_worker_pools.placement import PlacementError, place

HUGE = 10**400


def x() -> Any:
    """What follows from an array in A and one in B."""
    with pool("A"):
        a = da.ones(4, chunks=2, name="ones-in-a")
    with pool("B"):
        b = da.ones(4, chunks=2, name="ones-in-b")
    return a + b


def cost(returned: Any) -> Callable[[str, str], Any]:
    """A function of links that always returns the same."""
    return lambda source, target: returned


def local(*pools: Any, **options: Any) -> Callable[[], Any]:
    """Start a cluster."""
    return lambda: LocalPoolCluster(*pools, **options)


def drawn(**options: Any) -> Callable[[], Any]:
    """Draw, without writing a file."""
    return lambda: visualize_pools(x(), filename=None, format="dot", **options)


#: What is done, the error, and what it is about.
ROWS: dict[str, tuple[Callable[[], Any], type[PoolError], str]] = {
    **{
        f"nbytes={str(n)[:9]!r} ({type(n).__name__})": (
            lambda n=n: pool("A", nbytes=n),  # type: ignore[misc]
            InvalidValue,
            "nbytes",
        )
        for n in (
            float("inf"),
            float("nan"),
            HUGE,
            -1,
            True,
            "1e400",
            "",
            "lots",
            "-2 GiB",
            [1],
            np.array([1, 2]),
            np.float32("nan"),
            np.int64(-3),
            np.bool_(True),
            np.timedelta64(3),
        )
    },
    **{
        f"pool{names!r}": (lambda names=names: pool(*names), error, "pool")  # type: ignore[misc]
        for names, error in {
            (): InvalidType,
            (3,): InvalidType,
            (b"A",): InvalidType,
            ("A", 3): InvalidType,
            ("",): InvalidValue,
            ("a b",): InvalidValue,
            ("pool-A",): InvalidValue,
            ("A", None): InvalidValue,
            (None, None): InvalidValue,
        }.items()
    },
    **{
        f"balance={b!r}": (lambda b=b: propagate_pools(balance=b), InvalidValue, "balance")  # type: ignore[misc]
        for b in (-1, "1%", float("nan"), float("inf"), None, True, np.array([1.0, 2.0]))
    },
    "balance=10**400": (lambda: propagate_pools(balance=HUGE), InvalidValue, "balance"),
    **{
        f"plan_pools(capacity={c!r})": (
            lambda c=c: plan_pools(x(), capacity=c),  # type: ignore[misc]
            error,
            "capacity",
        )
        for c, error in [
            (-1, InvalidType),
            (5, InvalidType),
            ("A", InvalidType),
            ([("A", 1)], InvalidType),
            ({3: 1}, InvalidType),
            ({"A": -1}, InvalidValue),
            ({"A": None}, InvalidValue),
            ({"A": float("inf")}, InvalidValue),
            ({"A": "8"}, InvalidValue),
            ({"A": True}, InvalidValue),
        ]
    },
    **{
        f"link_cost returns {value!r}": (
            lambda value=value: plan_pools(x(), link_cost=cost(value)),  # type: ignore[misc]
            InvalidValue,
            "link_cost",
        )
        for value in (None, "1", -1, float("nan"), float("inf"), True, [1.0])
    },
    "link_cost returns 10**400": (
        lambda: plan_pools(x(), link_cost=cost(HUGE)),
        InvalidValue,
        "link_cost",
    ),
    "link_cost returns None, here": (
        lambda: computed(link_cost=cost(None)),
        InvalidValue,
        "link_cost",
    ),
    "link_cost=3": (lambda: propagate_pools(link_cost=3), InvalidType, "link_cost"),  # type: ignore[arg-type]
    "link_cost of a name": (
        lambda: propagate_pools(link_cost={"AB": 1}),  # type: ignore[dict-item]
        InvalidType,
        "link_cost",
    ),
    "link_cost of None": (
        lambda: propagate_pools(link_cost={("A", "B"): None}),  # type: ignore[dict-item]
        InvalidValue,
        "link_cost",
    ),
    "missing='x'": (lambda: propagate_pools(missing="x"), InvalidValue, "missing"),  # type: ignore[arg-type]
    "measure_transfers(None)": (lambda: measure_transfers(None), InvalidType, "client"),  # type: ignore[arg-type]
    "measure_transfers(address)": (
        lambda: measure_transfers("tcp://127.0.0.1:8786"),  # type: ignore[arg-type]
        InvalidType,
        "client",
    ),
    "get_pool(3)": (lambda: get_pool(3), InvalidType, "collection"),
    "get_pool(lambda)": (lambda: get_pool(lambda: 3), InvalidType, "collection"),
    "plan_pools()": (plan_pools, InvalidType, "collections"),
    "plan_pools(3)": (lambda: plan_pools(3), InvalidType, "collection"),
    "written(3)": (lambda: propagate_pools_in_collection(3), InvalidType, "collection"),
    "assign_pool(array)": (lambda: assign_pool(da.ones(2), "A"), InvalidType, "collection"),
    "assign_pool(frame, '')": (
        lambda: assign_pool(dd.from_pandas(pd.DataFrame({"x": [1]}), npartitions=1), ""),
        InvalidValue,
        "pool",
    ),
    "no function": (lambda: with_config(array_optimize=3), InvalidType, "array_optimize"),
    "no pools": (local({}), InvalidValue, "pools"),
    "a number of workers": (local(3), InvalidType, "pools"),
    "half a worker": (local({"A": 1.5}), InvalidType, "pool 'A'"),
    "a worker that is True": (local({"A": True}), InvalidType, "pool 'A'"),
    "workers below none": (local({"A": -1}), InvalidValue, "pool 'A'"),
    "a pool None": (local({None: 1}), InvalidType, "pools"),
    "a pool 3": (local({3: 1}), InvalidType, "pool"),
    "a pool with a space": (local({"a b": 1}), InvalidValue, "pool"),
    "n_workers": (local({"A": 1}, n_workers=2), InvalidType, "n_workers"),
    "no threads": (local({"A": 1}, threads_per_worker=0), InvalidValue, "threads_per_worker"),
    "threads 'a'": (local({"A": 1}, threads_per_worker="a"), InvalidType, "threads_per_worker"),
    "memory": (local({"A": 1}, memory_limit="lots"), InvalidValue, "memory_limit"),
    "negative memory": (local({"A": 1}, memory_limit=-1), InvalidValue, "memory_limit"),
    "resources of none": (local({"A": 1}, resources={"B": {}}), InvalidValue, "resources"),
    "resources 3": (local({"A": 1}, resources=3), InvalidType, "resources"),
    "resources 0": (local({"A": 1}, resources=0), InvalidType, "resources"),
    "GPUs": (local({"A": 1}, resources={"A": "GPU"}), InvalidType, "resources"),
    "infinite GPUs": (
        local({"A": 1}, resources={"A": {"GPU": float("inf")}}),
        InvalidValue,
        "resources",
    ),
    "a level": (drawn(level="chunk"), InvalidValue, "level"),
    "a misspelt option": (drawn(blance=0), InvalidType, "attribute"),
    "an option of another": (drawn(missing="warn"), InvalidType, "attribute"),
    "a balance": (drawn(balance=-1), InvalidValue, "balance"),
    "a capacity": (drawn(capacity=5), InvalidType, "capacity"),
    "a format": (
        lambda: visualize_pools(x(), filename=None, format="bmp"),
        InvalidValue,
        "format",
    ),
    "a file": (lambda: visualize_pools(x(), filename=3), InvalidType, "filename"),  # type: ignore[arg-type]
    "a plan and an option": (
        lambda: visualize_pools(plan_pools(x()), filename=None, format="dot", balance=0),
        InvalidType,
        "balance",
    ),
}


def computed(**options: Any) -> Any:
    """Computed in this process."""
    with propagate_pools(**options):
        return x().compute(scheduler="sync")


def with_config(**options: Any) -> Any:
    """Turned on under a configuration."""
    with dask.config.set(**options), propagate_pools():
        pass


@pytest.mark.parametrize("case", ROWS)
def test_refused(case: str) -> None:
    """It is a `PoolError`, and a ValueError or a TypeError, with fields that can be pickled."""
    action, kind, argument = ROWS[case]
    with pytest.raises(PoolError) as caught:
        action()
    error = caught.value
    assert type(error) is kind
    assert isinstance(error, ValueError if kind is InvalidValue else TypeError)
    assert isinstance(error, InvalidValue | InvalidType)
    assert error.argument == argument
    assert str(error) == error.problem
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), again.argument, str(again)) == (kind, argument, str(error))
    assert "array_optimize" not in dask.config.config


def test_unknown_keywords_are_named() -> None:
    """The error names the keyword, the options that there are, and the attributes."""
    with pytest.raises(InvalidType, match="'blance' is neither an option .*balance.*rankdir"):
        drawn(blance=0)()


@pytest.mark.parametrize("value", [np.int64(5), np.float32(5), np.uint8(5), np.array(5), 5, "5 B"])
def test_sizes_of_any_type(value: Any) -> None:
    """Sizes may be numbers of NumPy's and arrays of no axes."""
    with pool("A", nbytes=value):
        one = delayed(list)([1])
    with pool("B"), dask.annotate(nbytes=value):
        other = delayed(list)([2])
    with pool("B"):
        both = delayed(sum)([one, other], dask_key_name="both")
    plan = plan_pools(both)
    assert plan.total_bytes == 5
    assert plan.sizes[other.key] == 5


@pytest.mark.parametrize("value", [-1, "lots", float("nan"), HUGE, True])
def test_declared_by_annotation(value: Any) -> None:
    """A size that is annotated by hand, and is none, is a `PoolError` too."""
    with pool("A"), dask.annotate(nbytes=value):
        one = delayed(list)([1])
    with pool("B"):
        both = delayed(sum)(one)
    with pytest.raises(DeclaredSizeError) as caught:
        plan_pools(both)
    assert isinstance(caught.value, PoolError)
    assert pickle.loads(pickle.dumps(caught.value)).layer == caught.value.layer


def test_placements_are_refused_alike() -> None:
    """What cannot be placed is a `PoolError`, whole after pickling."""
    with pytest.raises(PlacementError) as caught:
        place({"x": []}, {"x": "A"}, {"x": 1}, allowed={"x": ["B"]})
    assert isinstance(caught.value, PoolError)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_all_errors_are_pool_errors() -> None:
    """Every exception that this package exports is a `PoolError`, or a warning."""
    exported = [getattr(dask_worker_pools, name) for name in dask_worker_pools.__all__]
    errors = [one for one in exported if isinstance(one, type) and issubclass(one, BaseException)]
    assert len(errors) > 10
    assert all(issubclass(one, PoolError | Warning) for one in errors)


# --- Names that look like markup


class Tags(HTMLParser):
    """The tags of some HTML."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: set[Hashable] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        """Note a tag."""
        self.found.add(tag)


NAMES = ["<script>", "<b>&amp;</b>", "A&B", "</details>", '"quoted"', "'<i>'"]


def test_clusters_in_notebooks() -> None:
    """Pools with names of any kind are written letter for letter in a cluster's HTML."""
    with LocalPoolCluster(
        {**dict.fromkeys(NAMES, 1), "plain": 1},
        name="<u>mine</u>",
        processes=False,
        dashboard_address=None,
    ) as cluster:
        with cluster.get_client() as client:
            client.wait_for_workers(len(NAMES) + 1)
            shown = cluster._repr_html_()
            of_client = client._repr_html_()
    for text in (shown, of_client):
        assert not {"script", "b", "i", "u"} & Tags(text).found
        assert "&lt;script&gt;-0" in text
        assert "plain-0" in text
    assert "&lt;u&gt;mine&lt;/u&gt;" in shown


def test_escaped_once() -> None:
    """A name is escaped once, also where another name is a part of it."""
    assert _escaped("<a>-0 <b><a>-0 plain", {"<a>-0", "<b><a>-0"}) == (
        "&lt;a&gt;-0 &lt;b&gt;&lt;a&gt;-0 plain"
    )


@pytest.mark.parametrize("name", NAMES)
def test_plans_and_drawings(name: str, tmp_path: Path) -> None:
    """Plans and drawings write the names of pools letter for letter too."""
    with pool(name):
        a = da.ones(4, chunks=2, name=f"ones-in-{name}")
    plan = plan_pools((a + 1).sum())
    assert not {"script", "b", "i"} & (Tags(plan._repr_html_()).found - {"b"})
    assert name in "".join(
        ElementTree.fromstring(plan._repr_html_().replace("<br>", "")).itertext()
    )
    for level in ("layer", "task"):
        visualize_pools(plan, filename=tmp_path / "pools.svg", level=level)
        drawing = ElementTree.parse(tmp_path / "pools.svg")
        texts = "".join(drawing.getroot().itertext()).replace("\xa0", " ")
        assert name in texts
