"""What really moved between pools: read from the workers' own logs of their transfers."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter, deque
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from distributed import Client, SchedulerPlugin, WorkerPlugin

from dask_worker_pools.annotations import pool_of_resource
from dask_worker_pools.errors import InvalidType
from dask_worker_pools.travel import Travels, travels


@dataclass(frozen=True)
class MeasuredTransfer(metaclass=Travels):
    """One message with data from one worker to another."""

    keys: tuple[Hashable, ...]  #: the tasks whose results it held
    source: str  #: address of the worker that sent it
    target: str  #: address of the worker that asked for it
    source_pool: str | None  #: None: the worker offers no pool
    target_pool: str | None
    nbytes: int  #: sum of the sizes of the results in memory, as Dask measures them
    seconds: float  #: from the request until all had arrived


class Transfers(metaclass=Travels):
    """What moved while a block of `measure_transfers` ran; filled when the block ends."""

    def __init__(self) -> None:
        self._transfers: list[MeasuredTransfer] | None = None

    def __repr__(self) -> str:
        return f"<Transfers {'…' if self._transfers is None else self.bytes_by_link}>"

    @property
    def transfers(self) -> list[MeasuredTransfer]:
        """Every transfer from worker to worker, also within a pool."""
        if self._transfers is None:
            raise RuntimeError("What moved is known once the measured block has ended.")
        return self._transfers

    @property
    def bytes_by_link(self) -> dict[tuple[str | None, str | None], int]:
        """Bytes by (pool that sent them, pool that got them), also within a pool.

        A worker that offers several pools counts as in the one that it shares with the worker at
        the other end; failing that, as in the first by name. A worker without a pool is in None.
        """
        total: Counter[tuple[str | None, str | None]] = Counter()
        for transfer in self.transfers:
            total[transfer.source_pool, transfer.target_pool] += transfer.nbytes
        return dict(total)

    @property
    def total_bytes(self) -> int:
        """Bytes that went from one pool to another, or to or from a worker without a pool."""
        return sum(t.nbytes for t in self.transfers if t.source_pool != t.target_pool)


@travels
def measure_transfers(client: Client) -> _Measurement:
    """Measure the bytes that move between workers while a block runs.

    The workers' own logs are read, both what each received and what each sent, so that a worker
    that leaves or joins during the block does not spoil the measure. The logs of Dask keep only
    the last entries; during the block, every entry is kept. Workers need not have this package.

    What counts is what ended within the block: wait there for what was started there.

    Parameters
    ----------
    client : distributed.Client
        Client of the cluster. If it is asynchronous, use ``async with``.

    Returns
    -------
    context manager
        Gives a `Transfers`, which is filled when the block ends, also by an exception.

    Raises
    ------
    InvalidType
        `client` is no client, or is used with ``with`` and asynchronous, or the other way round.

    Warns
    -----
    RuntimeWarning
        Two or more workers left during the block: what they sent each other is not known.

    Notes
    -----
    Not in the logs, and so not here: what goes to and from clients and the scheduler, and what
    the P2P method of rechunking and shuffling moves.

    Examples
    --------
    >>> from dask_worker_pools.localcluster import LocalPoolCluster
    >>> with LocalPoolCluster({"A": 1, "B": 1}, processes=False) as cluster:
    ...     with cluster.get_client() as client, measure_transfers(client) as moved:
    ...         text = client.submit("x".__mul__, 1000, resources={"pool-A": 0})
    ...         client.submit(len, text, resources={"pool-B": 0}).result()
    1000
    >>> list(moved.bytes_by_link)
    [('A', 'B')]
    >>> 1000 < moved.total_bytes < 1100
    True
    """
    if not isinstance(client, Client):
        raise InvalidType(
            "client",
            client,
            "measure_transfers needs the client of the cluster that is measured, for example "
            f"cluster.get_client(), but got {client!r} of type {type(client).__name__}.",
        )
    return _Measurement(client)


class _Measurement:
    """The block that `measure_transfers` opens."""

    def __init__(self, client: Client) -> None:
        self._client = client
        # Distinct, so that blocks may be nested and clients may measure at the same time.
        self._token = f"measure-transfers-{uuid4().hex}"
        self._moved = Transfers()

    def __enter__(self) -> Transfers:
        if self._client.asynchronous:
            problem = "The client is asynchronous: use 'async with measure_transfers(…)'."
            raise InvalidType("client", self._client, problem)
        self._client.sync(self._start)
        return self._moved

    def __exit__(self, kind: object, *rest: object) -> None:
        with _yielding_to(kind):
            _warn_of_unknown(self._client.sync(self._stop))

    async def __aenter__(self) -> Transfers:
        if not self._client.asynchronous:
            problem = "The client is not asynchronous: use 'with measure_transfers(…)'."
            raise InvalidType("client", self._client, problem)
        await self._start()
        return self._moved

    async def __aexit__(self, kind: object, *rest: object) -> None:
        with _yielding_to(kind):
            _warn_of_unknown(await self._stop())

    async def _start(self) -> None:
        try:
            await self._client.register_plugin(_roster(), name=self._token)
            await self._client.register_plugin(_log_keeper(self._token), name=self._token)
        except BaseException:
            await self._clean_up()
            raise

    async def _stop(self) -> list[str]:
        """Fill in what moved; return the addresses of the workers whose logs are gone."""
        try:
            logs = await self._client.run(_log_reader(self._token), on_error="return")
            workers = await self._client.run_on_scheduler(_roster_reader(self._token))
        finally:
            await self._clean_up()
        logs = _readable(logs)
        self._moved._transfers = _combine(logs, workers)
        return sorted(set(workers) - set(logs))

    async def _clean_up(self) -> None:
        # A worker that is about to die makes the unregistering fail. Nothing is lost by that: the
        # logs were read, and what was read is no longer kept.
        with contextlib.suppress(OSError, ValueError):
            await self._client.unregister_worker_plugin(self._token)
        with contextlib.suppress(OSError, ValueError):
            await self._client.unregister_scheduler_plugin(self._token)


@contextlib.contextmanager
def _yielding_to(kind: object) -> Iterator[None]:
    """Let the exception that ends the block, of type `kind`, win over one raised here."""
    try:
        yield
    except Exception:
        if kind is None:
            raise


# --- On the cluster. Each function gives an object that is defined inside it: such objects travel
# --- by value, so no process of the cluster needs this module. They may use nothing else of it.


def _log_keeper(token: str) -> WorkerPlugin:
    """Plugin that keeps, on each worker, every entry of the logs of transfers from now on."""

    class Log(deque[Any]):
        """A worker's log, with lists that get all the entries that it gets but never drop any."""

        kept: dict[str, list[Any]]

        def append(self, entry: Any) -> None:
            super().append(entry)
            for entries in self.kept.values():
                entries.append(entry)

    class LogKeeper(WorkerPlugin):
        def setup(self, worker: Any) -> None:
            for name in ("transfer_incoming_log", "transfer_outgoing_log"):
                log = getattr(worker, name)
                if not hasattr(log, "kept"):
                    log = Log(log, maxlen=log.maxlen)
                    log.kept = {}
                    setattr(worker, name, log)
                log.kept[token] = []

        def teardown(self, worker: Any) -> None:
            for name in ("transfer_incoming_log", "transfer_outgoing_log"):
                log = getattr(worker, name)
                log.kept.pop(token, None)
                if not log.kept:
                    setattr(worker, name, deque(log, maxlen=log.maxlen))

    return LogKeeper()


#: Entries of a worker's logs: (address of the other worker, keys, bytes, seconds).
_Entries = list[tuple[str, tuple[Hashable, ...], int, float]]


def _log_reader(token: str) -> Any:
    """Function that gives what a worker received and sent, and stops keeping it."""

    def read(dask_worker: Any) -> tuple[Any, Any]:
        def entries(log: Any) -> Any:
            # A worker that has just joined may have no list yet; then it has moved nothing.
            kept = getattr(log, "kept", {}).pop(token, [])
            return [(e["who"], tuple(e["keys"]), e["total"], e["duration"]) for e in kept]

        return entries(dask_worker.transfer_incoming_log), entries(
            dask_worker.transfer_outgoing_log
        )

    return read


def _roster() -> SchedulerPlugin:
    """Plugin that remembers what each worker offers, also when it is gone."""

    class Roster(SchedulerPlugin):
        async def start(self, scheduler: Any) -> None:
            self.offered = {a: list(ws.resources) for a, ws in scheduler.workers.items()}

        def add_worker(self, scheduler: Any, worker: str) -> None:
            self.offered[worker] = list(scheduler.workers[worker].resources)

    return Roster()


def _roster_reader(token: str) -> Any:
    """Function that gives what the roster knows: for each worker's address, its resources."""

    def read(dask_scheduler: Any) -> Any:
        return dask_scheduler.plugins[token].offered

    return read


# --- On the client.


def _readable(logs: Mapping[str, Any]) -> dict[str, tuple[_Entries, _Entries]]:
    """Logs of the workers that answered; a worker that died meanwhile has none."""
    for answer in logs.values():
        if isinstance(answer, Exception) and not isinstance(answer, OSError):
            raise answer
    return {address: log for address, log in logs.items() if not isinstance(log, Exception)}


def _combine(
    logs: Mapping[str, tuple[_Entries, _Entries]], workers: Mapping[str, list[str]]
) -> list[MeasuredTransfer]:
    """Transfers between `workers`, from what was received and what was sent.

    Most transfers are in two logs, and count once. In one only are

    1. those to a worker that left, and those that replicate data: only their sender logged them;
    2. those from a worker that left: only their receiver logged them;
    3. those whose end the receiver has logged already and the sender not yet.
    """
    received = [
        ((source, target, keys), nbytes, seconds)
        for target, (incoming, _) in logs.items()
        for source, keys, nbytes, seconds in incoming
    ]
    sent = [
        ((source, target, keys), nbytes, seconds)
        for source, (_, outgoing) in logs.items()
        for target, keys, nbytes, seconds in outgoing
        if target in workers  # and not a client or the scheduler
    ]
    known = Counter(_identity(link) for link, _, _ in received)
    only_sent = []
    for entry in sent:
        identity = _identity(entry[0])
        if known[identity]:
            known[identity] -= 1
        else:
            only_sent.append(entry)
    pools = {address: _pools_in(offered) for address, offered in workers.items()}
    return [_transfer(*entry, pools) for entry in [*received, *only_sent]]


def _warn_of_unknown(gone: list[str]) -> None:
    if len(gone) > 1:
        warnings.warn(
            f"{len(gone)} workers left while transfers were measured: {', '.join(gone)}. What "
            "they sent each other is not known; what they exchanged with others is counted.",
            RuntimeWarning,
            stacklevel=3,  # the user's block
        )


_Link = tuple[str, str, tuple[Hashable, ...]]


def _identity(link: _Link) -> Hashable:
    source, target, keys = link
    return source, target, frozenset(keys)  # each end lists the keys in its own order


def _transfer(
    link: _Link, nbytes: int, seconds: float, pools: Mapping[str, list[str]]
) -> MeasuredTransfer:
    source, target, keys = link
    ours, theirs = pools.get(source, []), pools.get(target, [])
    shared = [pool for pool in ours if pool in theirs]
    source_pool, target_pool = (next(iter(shared or p), None) for p in (ours, theirs))
    return MeasuredTransfer(keys, source, target, source_pool, target_pool, nbytes, seconds)


def _pools_in(offered: list[str]) -> list[str]:
    return sorted({pool for r in offered if (pool := pool_of_resource(r))})
