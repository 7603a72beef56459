"""A cluster on this machine whose workers are in pools: for notebooks, examples and tests."""

from __future__ import annotations

import html
import logging
import re
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Literal, NoReturn

from distributed import LocalCluster
from distributed.system import MEMORY_LIMIT

from dask_worker_pools.amounts import amount, size_in_bytes
from dask_worker_pools.annotations import PREFIX, check_pool_name, pool_of_resource
from dask_worker_pools.errors import InvalidType, InvalidValue
from dask_worker_pools.travel import Travels


class LocalPoolCluster(LocalCluster, metaclass=Travels):
    """A scheduler and workers on this machine, each worker in a pool.

    The worker ``A-0`` is the first of pool ``A``; it is what
    ``dask worker ADDRESS --name A-0 --resources "pool-A=1"`` starts. Everything binds to
    127.0.0.1 unless `host` says otherwise.

    Parameters
    ----------
    pools : mapping of str to int
        Workers per pool, for example ``{"A": 3, "B": 2}``.
    threads_per_worker : int
        Threads of each worker.
    processes : bool
        Whether each worker is a process. If not, all run in this process, as threads, and still
        send each other data over TCP. With processes, a script has to start the cluster under
        ``if __name__ == "__main__":``, as with every use of `multiprocessing`.
    memory_limit : str, float, int or None
        Memory of each worker: bytes, a string such as ``"1GiB"``, or a fraction of this machine's.
        ``"auto"`` shares the machine's memory evenly between the workers in `pools`; workers that
        `scale` adds later get as much each. None or 0: no limit. It holds only if `processes`.
    resources : mapping of str to mapping of str to float, optional
        Counted resources that each worker of a pool offers beside the pool, for example
        ``{"A": {"GPU": 1}}``.
    host : str, optional
        Where scheduler, workers and dashboard listen. Default: 127.0.0.1.
    scheduler_port : int
        Port of the scheduler; 0 takes any that is free.
    dashboard_address : str, int or None
        Port of the dashboard, such as ``":8787"``, on `host`; or host and port. ``":0"`` takes
        any port that is free. None: no dashboard. The dashboard needs bokeh.
    worker_dashboard_address : str, int or None
        The same for the dashboards of the workers.
    silence_logs : int or None
        Level below which logs are not shown; None changes nothing.
    name : str, optional
        Name of the cluster.
    asynchronous : bool
        Whether it is used with ``await`` and ``async with``.
    **kwargs : Any
        Other arguments of `distributed.LocalCluster`: ``security``, ``protocol``,
        ``local_directory`` and so on.

    Raises
    ------
    InvalidType, InvalidValue
        Something is wrong with `pools`, `resources`, `threads_per_worker` or `memory_limit`.
        Nothing was started.

    Examples
    --------
    >>> with LocalPoolCluster({"A": 3, "B": 2}, processes=False) as cluster:
    ...     with cluster.get_client() as client:
    ...         client.submit(sum, [1, 2], resources={"pool-A": 0}).result()
    3
    """

    def __init__(
        self,
        pools: Mapping[str, int],
        *,
        threads_per_worker: int = 1,
        processes: bool = True,
        memory_limit: str | float | None = "auto",
        resources: Mapping[str, Mapping[str, float]] | None = None,
        host: str | None = None,
        scheduler_port: int = 0,
        dashboard_address: str | int | None = ":0",
        worker_dashboard_address: str | int | None = None,
        silence_logs: int | None = logging.WARNING,
        name: str | None = None,
        asynchronous: bool = False,
        **kwargs: Any,
    ) -> None:
        wanted = _check_pools(pools)
        self._resources = _check_resources({} if resources is None else resources, wanted)
        threads_per_worker = _check_count("threads_per_worker", threads_per_worker, at_least=1)
        if isinstance(memory_limit, str) and memory_limit == "auto":
            memory_limit = MEMORY_LIMIT // sum(wanted.values())
        _check_memory(memory_limit)
        if "n_workers" in kwargs:
            problem = 'The number of workers is said pool by pool, for example {"A": 3, "B": 2}.'
            raise InvalidType("n_workers", kwargs["n_workers"], problem)
        # Without a dashboard there still are HTTP routes (/health, /metrics): given no address,
        # those of the scheduler take port 8787 and warn if they cannot have it.
        scheduler = {"dashboard_address": _on_host(host, dashboard_address)}
        if not processes and not kwargs.get("security"):
            # LocalCluster would hand objects over within the process: nothing would be moved,
            # and the dashboard's link would name another host than the one it listens on.
            kwargs.setdefault("protocol", "tcp")
        super().__init__(
            name=name,
            n_workers=0,
            threads_per_worker=threads_per_worker,
            processes=processes,
            memory_limit=memory_limit,
            host=host,
            scheduler_port=scheduler_port,
            dashboard_address=dashboard_address,
            worker_dashboard_address=worker_dashboard_address,
            silence_logs=silence_logs,
            asynchronous=asynchronous,
            scheduler_kwargs=scheduler | kwargs.pop("scheduler_kwargs", {}),
            **kwargs,
        )
        # What it is told here is also what decides whether a worker has a dashboard.
        self.new_spec["options"]["dashboard_address"] = _on_host(host, worker_dashboard_address)
        self._plan(wanted)
        if not self.called_from_running_loop:
            self._start_workers()

    def _start_workers(self) -> None:
        try:
            self.sync(self._correct_state)
        except BaseException:
            self.close()
            raise

    @property
    def pools(self) -> dict[str, int]:
        """Workers per pool, as asked for last."""
        counts: dict[str, int] = {}
        for worker in self.worker_spec:
            pool = _pool_of(worker)
            counts[pool] = counts.get(pool, 0) + 1
        return counts

    def scale(self, pools: Mapping[str, int] | Literal[0]) -> Any:  # type: ignore[override]
        """Change the number of workers in some pools.

        It returns at once; to wait for new workers, see `distributed.Client.wait_for_workers`.

        Parameters
        ----------
        pools : mapping of str to int
            Workers that each pool shall have. Pools not named stay as they are, new ones may be
            named, and 0 ends all workers of a pool. ``scale(0)`` ends all workers.

        Raises
        ------
        InvalidType
            `pools` is a number, which does not say in which pool to start or end workers.

        Examples
        --------
        >>> with LocalPoolCluster({"A": 1, "B": 1}, processes=False) as cluster:
        ...     _ = cluster.scale({"A": 2})
        ...     cluster.pools
        {'A': 2, 'B': 1}
        """
        if pools == 0 and pools is not False:
            # SpecCluster says this to end the workers when it closes.
            self.worker_spec.clear()
        else:
            self._plan(_check_pools(pools, at_least=0))
        # The plan has the number of workers wanted: all that is left to do is to act on it.
        return super().scale(len(self.worker_spec))

    scale_up = scale  # type: ignore[assignment]  # the name that older code uses

    #: Notebooks offer buttons that scale by a number, unless this is False.
    _supports_scaling = False

    def _repr_html_(self, cluster_status: Any = None) -> str:
        # Dask writes names as they are. Those of workers begin with the pool's.
        workers = list(self.scheduler_info["workers"].values())
        names = {str(self.name), *(str(worker["name"]) for worker in workers)}
        return _escaped(super()._repr_html_(cluster_status), names)

    def adapt(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: adaptive scaling counts workers, whatever their pool.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError(
            "LocalPoolCluster does not adapt: Dask's adaptive scaling counts workers without "
            "regard to pools, and would close the last worker of a pool that has tasks waiting. "
            'Scale by pool instead, for example cluster.scale({"A": 4}).'
        )

    def _plan(self, pools: Mapping[str, int]) -> None:
        """Bring `worker_spec` to these numbers of workers; ends those with the highest numbers."""
        for pool, count in pools.items():
            names = [f"{pool}-{i}" for i in range(count)]
            for surplus in {w for w in self.worker_spec if _pool_of(w) == pool}.difference(names):
                del self.worker_spec[surplus]
            for name in names:
                self.worker_spec.setdefault(name, self._spec_in(pool))

    def _spec_in(self, pool: str) -> dict[str, Any]:
        offered = {PREFIX + pool: 1, **self._resources.get(pool, {})}
        return {**self.new_spec, "options": {**self.new_spec["options"], "resources": offered}}


def _escaped(shown: str, names: Iterable[str]) -> str:
    """HTML with some names in it, which are written there as they are."""
    odd = sorted((name for name in names if html.escape(name) != name), key=len, reverse=True)
    if not odd:
        return shown
    return re.sub("|".join(map(re.escape, odd)), lambda found: html.escape(found[0]), shown)


def _pool_of(worker: str) -> str:
    return worker.rpartition("-")[0]


def _on_host(host: str | None, address: str | int | None) -> str:
    """Address of a dashboard, or of the HTTP routes alone, that stays on `host`."""
    said = str(0 if address is None else address)
    port = said.removeprefix(":")
    bare_host = (host or "127.0.0.1").rpartition("://")[2]
    return f"{bare_host}:{port}" if port.isdecimal() else said


def _check_pools(pools: object, at_least: int = 1) -> dict[str, int]:
    if not isinstance(pools, Mapping):
        raise InvalidType(
            "pools",
            pools,
            "The number of workers is said pool by pool, for example "
            f'{{"A": 3, "B": 2}}, but got {pools!r} of type {type(pools).__name__}.',
        )
    if not pools:
        problem = 'There are no workers without a pool: name one, for example {"A": 3}.'
        raise InvalidValue("pools", pools, problem)
    return {_check_name(p): _check_count(f"pool {p!r}", n, at_least) for p, n in pools.items()}


def _check_name(pool: object) -> str:
    if pool is None:
        problem = "Each worker of a LocalPoolCluster is in a pool, but a pool is None."
        raise InvalidType("pools", pool, problem)
    return check_pool_name(pool)


def _check_count(what: str, count: object, at_least: int) -> int:
    if not isinstance(count, Integral) or isinstance(count, bool):
        raise InvalidType(
            what,
            count,
            f"{what} takes a whole number, but got {count!r} of type {type(count).__name__}.",
        )
    if count < at_least:
        problem = f"{what} takes a number of at least {at_least}, but got {count}."
        raise InvalidValue(what, count, problem)
    return int(count)


def _check_memory(limit: object) -> None:
    if limit is not None and size_in_bytes(limit) is None:
        raise InvalidValue(
            "memory_limit",
            limit,
            f"memory_limit={limit!r} is no size: say a number of bytes, a fraction of this "
            "machine's memory, a string such as '1 GiB', 'auto', or None for no limit.",
        )


def _check_resources(resources: object, pools: Mapping[str, int]) -> dict[str, dict[str, float]]:
    if not isinstance(resources, Mapping):
        raise InvalidType(
            "resources",
            resources,
            f'resources are said pool by pool, for example {{"A": {{"GPU": 1}}}}, '
            f"but got {resources!r} of type {type(resources).__name__}.",
        )
    if unknown := sorted(set(resources) - set(pools), key=str):
        problem = f"resources name {unknown}, but the pools are {sorted(pools)}."
        raise InvalidValue("resources", unknown, problem)
    return {pool: _check_offered(pool, offered) for pool, offered in resources.items()}


def _check_offered(pool: str, offered: object) -> dict[str, float]:
    if not isinstance(offered, Mapping):
        raise InvalidType(
            "resources",
            offered,
            f'resources of pool {pool!r} are named and counted, for example {{"GPU": 1}}, '
            f"but got {offered!r} of type {type(offered).__name__}.",
        )
    counts = {}
    for name, count in offered.items():
        if not isinstance(name, str) or pool_of_resource(name) is not None:
            raise InvalidValue(
                "resources",
                name,
                f"{name!r} cannot be a resource of pool {pool!r}: a string is needed that does "
                f"not start with {PREFIX!r}. Pools are the keys of the first argument.",
            )
        counts[name] = amount(count)
        if not counts[name]:
            raise InvalidValue(
                "resources",
                count,
                f"Workers of pool {pool!r} need a positive amount of {name!r}, but got {count!r}.",
            )
    return {name: count for name, count in counts.items() if count}
