"""Queries of dask.dataframe, by name: what the tests ask of every source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

#: A wide table and a narrow one, of the same rows.
WIDE = pd.DataFrame({f"w{i}": np.arange(4000.0) for i in range(20)})
NARROW = pd.DataFrame({"x": np.arange(4000.0)})
#: What `source` can make.
SOURCES = ["pandas", "parquet", "map"]

Query = Callable[[Any, Any], Any]

#: Orders, with what most queries need: numbers, text, dates, and something missing.
ORDERS = pd.DataFrame(
    {
        "customer": [i * 7 % 20 for i in range(200)],
        "total": [float(i) for i in range(200)],
        "count": [i % 3 for i in range(200)],
        "item": [f"item {i % 5}" for i in range(200)],
        "day": pd.date_range("2025-01-01", periods=200, freq="h"),
    },
    index=pd.RangeIndex(200, name="order"),
)
CUSTOMERS = pd.DataFrame({"customer": range(20), "country": ["de", "fr"] * 10, "rest": 1.0})

#: Each takes orders and customers, of dask.dataframe or of pandas as far as pandas can.
QUERIES: dict[str, Query] = {
    "itself": lambda o, c: o,
    "column": lambda o, c: o.total,
    "columns": lambda o, c: o[["customer", "total"]],
    "arithmetic": lambda o, c: (o.total + 1) * o["count"],
    "filter": lambda o, c: o[o.total > 100],
    "filter column": lambda o, c: o[o.total > 100].total,
    "two filters": lambda o, c: o[(o.total > 50) & (o["count"] == 1)],
    "isin": lambda o, c: o[o.customer.isin([1, 2])],
    "assign": lambda o, c: o.assign(tax=o.total * 0.2)[["tax", "customer"]],
    "drop": lambda o, c: o.drop(columns=["item"]),
    "rename": lambda o, c: o.rename(columns={"total": "sum"})["sum"],
    "astype": lambda o, c: o.astype({"count": "float64"})[["count"]],
    "fillna": lambda o, c: o.total.fillna(0),
    "dropna": lambda o, c: o.dropna(subset=["total"])[["customer"]],
    "where": lambda o, c: o.total.where(o.total > 3, 0),
    "clip": lambda o, c: o.total.clip(1, 5),
    "sum": lambda o, c: o.total.sum(),
    "sums": lambda o, c: o[["total", "count"]].sum(),
    "mean": lambda o, c: o.total.mean(),
    "var": lambda o, c: o.total.var(),
    "min of filter": lambda o, c: o[o.total > 10].total.min(),
    "count": lambda o, c: o.total.count(),
    "nunique": lambda o, c: o.item.nunique(),
    "value_counts": lambda o, c: o.item.value_counts(),
    "unique": lambda o, c: o.item.unique(),
    "drop_duplicates": lambda o, c: o[["item"]].drop_duplicates(),
    "nlargest": lambda o, c: o.total.nlargest(3),
    "describe": lambda o, c: o[["total"]].describe(),
    "groupby sum": lambda o, c: o.groupby("customer").total.sum(),
    "groupby agg": lambda o, c: o.groupby("customer").agg({"total": "mean", "count": "max"}),
    "groupby filtered": lambda o, c: o[o.total > 10].groupby("item").total.mean(),
    "groupby split_out": lambda o, c: o.groupby("customer").total.sum(split_out=2),
    "groupby apply": lambda o, c: o.groupby("item").total.apply(len, meta=("total", "int64")),
    "cumsum": lambda o, c: o.total.cumsum(),
    "shift": lambda o, c: o.total.shift(1),
    "rolling": lambda o, c: o.total.rolling(3).mean(),
    "map_partitions": lambda o, c: o.map_partitions(len),
    "reset_index": lambda o, c: o.reset_index()[["order", "total"]],
    "set_index sorted": lambda o, c: o.set_index("total", sorted=True),
    "set_index": lambda o, c: o.set_index("customer", divisions=(0, 10, 19)).total,
    "sort_values": lambda o, c: o.sort_values("total", npartitions=2)[["total"]],
    "repartition": lambda o, c: o.repartition(npartitions=2).total.sum(),
    "partitions": lambda o, c: o.partitions[1][["total"]],
    "head": lambda o, c: o.head(3, compute=False),
    "tail": lambda o, c: o.tail(3, compute=False),
    "loc": lambda o, c: o.loc[3:7][["total"]],
    "string": lambda o, c: o.item.str.upper(),
    "dates": lambda o, c: o.day.dt.hour,
    "merge": lambda o, c: o.merge(c, on="customer"),
    "merge filtered": lambda o, c: (
        o[o.total > 100].merge(c, on="customer").groupby("country").total.sum()
    ),
    "filter merged": lambda o, c: (lambda m: m[m.total > 100])(o.merge(c, on="customer"))[
        ["country"]
    ],
    "merge left": lambda o, c: o.merge(c, on="customer", how="left")[["total", "country"]],
    "merge self": lambda o, c: o.merge(o[["customer"]].drop_duplicates(), on="customer"),
    "size": lambda o, c: o.size,
    "shuffle": lambda o, c: o.shuffle("customer").total,
    "astype category": lambda o, c: o.item.astype("category"),
    "quantile": lambda o, c: o.total.quantile(0.5),
    "corr": lambda o, c: o[["total", "count"]].corr(),
}


def write_tables(directory: Path) -> Path:
    """Orders and customers as parquet files."""
    for name, table, parts in (("orders", ORDERS.reset_index(), 4), ("customers", CUSTOMERS, 2)):
        (directory / name).mkdir()
        rows = len(table) // parts
        for i in range(parts):
            part = table.iloc[i * rows : (i + 1) * rows]
            part.to_parquet(directory / name / f"{i}.parquet", index=False)
    return directory


def source(kind: str, tables: Path) -> tuple[Any, Any]:
    """Orders and customers from one kind of source."""
    if kind == "pandas":
        return dd.from_pandas(ORDERS, npartitions=4), dd.from_pandas(CUSTOMERS, npartitions=2)
    if kind == "parquet":
        return (
            dd.read_parquet(tables / "orders", index="order", calculate_divisions=True),
            dd.read_parquet(tables / "customers"),
        )
    return (
        dd.from_map(some_orders, range(4), meta=ORDERS.iloc[:0], divisions=(0, 50, 100, 150, 199)),
        dd.from_map(some_customers, range(2), meta=CUSTOMERS.iloc[:0]),
    )


def some_orders(i: int) -> pd.DataFrame:
    """One of four parts."""
    return ORDERS.iloc[50 * i : 50 * i + 50]


def some_customers(i: int) -> pd.DataFrame:
    """One of two parts; the index of another gives none."""
    return CUSTOMERS.iloc[10 * i : 10 * i + 10]


def grown(frame: Any) -> Any:
    """The frame with more columns."""
    return frame.assign(**{f"x{i}": frame.x + i for i in range(8)})
