"""The sizes of outputs: order of trust, traps, and what is never done."""

import pickle
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
from dask._expr import HLGExpr
from dask._task_spec import Alias, DataNode, List, Task, TaskRef
from dask.blockwise import Blockwise
from dask.delayed import delayed
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from dask.sizeof import sizeof
from hypothesis import given, settings
from hypothesis import strategies as st

from dask_worker_pools.sizes import DeclaredSizeError, layer_sizes, output_sizes
from dask_worker_pools.travel import ByValue


def zeros(shape: Any = (8, 6), chunks: Any = (4, 3)) -> da.Array:
    """An array of zeros, of four bytes each."""
    return da.zeros(shape, chunks=chunks, dtype="f4")


def single(layer: dict[Any, Any], **annotations: Any) -> HighLevelGraph:
    """A graph of one written-out layer."""
    layers = {"one": MaterializedLayer(layer, annotations=annotations or None)}
    return HighLevelGraph(layers, {"one": set()})


class Touchy:
    """An array elsewhere, which may not be read."""

    shape, dtype, ndim = (1000, 1000), np.dtype("f8"), 2

    def __getitem__(self, index: Any) -> Any:
        raise AssertionError("read")

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("read")

    def __sizeof__(self) -> int:
        return 64


# -- Declared ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declared", "size"), [("2 GiB", 2 * 2**30), (5, 5.0), (0, 0.0), (np.int64(7), 7.0), (2.5, 2.5)]
)
def test_declared_size_wins(declared: Any, size: float) -> None:
    """What the user declares is taken for every output of the layer."""
    with dask.annotate(nbytes=declared):
        x = zeros()
    estimates = output_sizes(x.dask)
    assert set(estimates.nbytes) == {(x.name, i, j) for i in range(2) for j in range(2)}
    assert set(estimates.nbytes.values()) == {size}
    assert estimates.sources == {x.name: "declared"}
    assert not x.dask.layers[x.name].is_materialized()
    sizes = layer_sizes(x.dask)[x.name]
    assert (sizes.count, sizes.total, sizes.uniform) == (4, 4 * size, size)


def test_declared_size_of_written_layer() -> None:
    """A declared size holds for every task of a layer that is written out."""
    graph = single({"a": Task("a", print), ("b", 1): Task(("b", 1), print)}, nbytes="1 kB")
    assert output_sizes(graph).nbytes == {"a": 1000.0, ("b", 1): 1000.0}


def test_declared_by_key() -> None:
    """A function says the sizes of some keys; the others keep their own."""
    with dask.annotate(nbytes=lambda key: "1 MB" if key[1] == 0 else None):
        x = zeros()
    estimates = output_sizes(x.dask)
    assert estimates.nbytes[x.name, 0, 1] == 1e6
    assert estimates.nbytes[x.name, 1, 1] == 48.0
    assert estimates.sources[x.name] == "declared+chunks"
    assert not x.dask.layers[x.name].is_materialized()


def test_declared_by_function_that_fails() -> None:
    """A function that raises, or answers with a marker, does not declare."""

    def raises(key: Any) -> Any:
        raise KeyError(key)

    for declared in (raises, lambda key: object(), lambda key: None):
        with dask.annotate(nbytes=declared):
            x = zeros()
        assert output_sizes(x.dask).sources == {x.name: "chunks"}


def test_declared_on_delayed_inputs() -> None:
    """Sizes declared on delayed functions survive their becoming inputs of another one."""
    with dask.annotate(nbytes="1 MB"):
        parts = [delayed(print, pure=False)(i) for i in range(3)]
    total = delayed(sum)(parts)
    known = output_sizes(total.__dask_graph__()).nbytes
    assert known == {part.key: 1e6 for part in parts}


def test_repeated_task() -> None:
    """Of two layers that hold the same task, the one that declares its size is believed."""
    data = {"a": DataNode("a", np.ones(10))}
    told = MaterializedLayer(data, annotations={"nbytes": 7})
    for layers in (
        {"x": told, "y": MaterializedLayer(data)},
        {"y": MaterializedLayer(data), "x": told},
    ):
        graph = HighLevelGraph(layers, {"x": set(), "y": set()})
        assert output_sizes(graph).nbytes == {"a": 7.0}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "many", "-3 GB", [1], True, 1j])
def test_bad_declaration_is_named(value: Any) -> None:
    """A declaration that is no number of bytes raises an error that names layer and value."""
    with dask.annotate(nbytes=value):
        x = zeros()
    with pytest.raises(DeclaredSizeError, match="Give a number of bytes") as info:
        output_sizes(x.dask)
    assert (info.value.layer, info.value.value) == (x.name, info.value.value)
    copy = pickle.loads(pickle.dumps(info.value))
    assert isinstance(copy, ValueError)
    assert (copy.layer, str(copy)) == (x.name, str(info.value))


# -- Chunks and derived --------------------------------------------------------------------------


def test_only_wanted_keys() -> None:
    """Of the wanted layers the wanted keys are told, and nothing else."""
    x = zeros()
    y = x + 1
    wanted: dict[str, list[Any]] = {y.name: [(y.name, 0, 0)], "absent": ["absent"]}
    estimates = output_sizes(y.dask, wanted)
    assert estimates.nbytes == {(y.name, 0, 0): 48.0}
    assert estimates.sources == {y.name: "chunks"}


def test_wanted_keys_of_uneven_layer() -> None:
    """Few and many wanted keys give the same sizes; keys of no task none."""
    x = zeros((9, 6), ((2, 4, 3), (6,)))
    keys: list[Any] = [(x.name, i, 0) for i in range(3)]
    sizes = [48.0, 96.0, 72.0]
    assert output_sizes(x.dask, {x.name: keys}).nbytes == dict(zip(keys, sizes, strict=True))
    many = zeros((900, 6), ((2, 4, 3) * 100, (6,)))
    few: list[Any] = [(many.name, 1, 0), (many.name, 300, 0), (many.name, 0), "other", 3]
    assert output_sizes(many.dask, {many.name: few}).nbytes == {(many.name, 1, 0): 96.0}


def test_reduction_is_not_overstated() -> None:
    """The first step of a reduction is told by what it gives, not by the chunks annotated."""
    x = zeros((100, 100), 50)
    chunk_layer = next(iter(x.mean().dask.dependencies[x.mean().name]))
    sizes = layer_sizes(x.mean().dask)[chunk_layer]
    assert sizes.source == "derived"
    mean = {"n": np.zeros((1, 1), "f4"), "total": np.zeros((1, 1), "f4")}
    assert sizes.uniform == sizeof(mean)


def test_unknown_is_absent() -> None:
    """What depends on values, or has elements of no fixed size, is absent and not 0."""
    x = zeros()
    picked = x[x > 0]
    strings = da.from_array(np.array(["a", None], dtype=object), chunks=1)
    for array in (picked, strings):
        estimates = output_sizes(array.dask)
        assert not any(array.name in key for key in estimates.nbytes if isinstance(key, tuple))
        assert estimates.sources[array.name] == "unknown"


def test_zero_size_is_known() -> None:
    """An empty block has 0 bytes, and is present."""
    x = zeros()[4:4]
    assert set(output_sizes(x.dask, {x.name: [(x.name, 0, 0)]}).nbytes.values()) == {0.0}


@pytest.mark.parametrize("dtype", ["f4", "f8", "c16", "m8[s]", "?"])
def test_single_number(dtype: str) -> None:
    """What has no axes is an object of NumPy's, which is more than its one element."""
    largest = zeros().astype(dtype).max()
    size = output_sizes(largest.dask).nbytes[largest.name,]
    assert size == sizeof(largest.compute()) > np.dtype(dtype).itemsize


def test_count_that_is_repeated() -> None:
    """The count of a mean is one number, stored once; combined counts are an array."""
    x = zeros((400, 1000), (100, 1000))
    mean = x.mean(axis=0, split_every=2)
    sizes = layer_sizes(mean.dask)
    first = next(iter(mean.dask.dependencies[mean.name]))
    while (before := next(iter(mean.dask.dependencies[first]))) != x.name:
        first, combined = before, first
    held = sizeof({"n": np.empty(0), "total": np.empty(0)})
    assert sizes[first].uniform == held + 4 + 4000
    assert sizes[combined].uniform == held + 4000 + 4000


def test_finalize() -> None:
    """The task that puts a result together has the bytes of its inputs; unknown if one is."""
    x = zeros() + 1
    assert _finalize_size(x) == 8 * 6 * 4
    assert _finalize_size(x[x > 0]) is None


def _finalize_size(x: da.Array) -> float | None:
    graph = HLGExpr.from_collection(x).finalize_compute().hlg
    (key,) = (name for name in graph.layers if name.startswith("finalize-"))
    return output_sizes(graph).nbytes.get(key)


def test_overlap_stays_symbolic() -> None:
    """The layer that cuts overlaps is told without being written out."""
    x = zeros((40, 30), (10, 15)).map_overlap(lambda block: block, depth=2)
    layer_sizes(x.dask)
    layers = x.dask.layers
    assert not any(layer.is_materialized() for layer in layers.values())


def test_alias() -> None:
    """An alias has the size of its target, over any number of steps."""
    graph = single({"a": DataNode("a", np.ones(100)), "b": Alias("b", "a"), "c": Alias("c", "b")})
    assert output_sizes(graph).nbytes == {"a": 800.0, "b": 800.0, "c": 800.0}


def test_long_chain() -> None:
    """A chain of tasks may be longer than Python's stack is deep."""
    keys = [f"k{i}" for i in range(5000)]
    layer = {b: Alias(b, a) for a, b in pairwise(keys)}
    graph = single({**dict(reversed(layer.items())), keys[0]: DataNode(keys[0], b"x" * 10)})
    assert set(output_sizes(graph).nbytes.values()) == {43.0}


# -- Embedded ------------------------------------------------------------------------------------


def test_handles_are_not_read() -> None:
    """Data elsewhere counts as its handle, is not read, and its blocks are known from chunks."""
    x = da.from_array(Touchy(), chunks=500) + 1
    estimates = output_sizes(x.dask)
    (original,) = (name for name in x.dask.layers if name.startswith("original-"))
    assert estimates.nbytes[original] < 200
    assert estimates.nbytes[x.name, 0, 0] == 500 * 500 * 8


def test_xarray_objects_are_not_loaded() -> None:
    """A lazy xarray variable inside a graph counts as a handle; one in memory as its data."""
    xr = pytest.importorskip("xarray")
    from xarray.backends import BackendArray
    from xarray.core.indexing import LazilyIndexedArray

    class Backend(BackendArray):
        shape, dtype = (1000, 1000), np.dtype("f8")

        def __getitem__(self, key: Any) -> Any:
            raise AssertionError("read")

    lazy = xr.Variable(("x", "y"), LazilyIndexedArray(Backend()))
    loaded = xr.DataArray(np.ones((100, 100)))
    graph = single({"lazy": DataNode("lazy", lazy), "loaded": DataNode("loaded", loaded)})
    sizes = output_sizes(graph).nbytes
    assert sizes["lazy"] < 500
    assert sizes["loaded"] == pytest.approx(80_000, rel=0.1)


def test_objects_that_do_not_say() -> None:
    """An object that does not say how much it holds is unknown, also inside a list."""

    class Holder:
        def __init__(self) -> None:
            self.data = np.ones(10**6)

    graph = single({"a": DataNode("a", Holder()), "b": DataNode("b", [1, Holder()])})
    assert output_sizes(graph).nbytes == {}


def test_object_whose_size_fails() -> None:
    """An error in an object's own measure makes its size unknown."""

    class Broken(Touchy):
        def __sizeof__(self) -> int:
            raise RuntimeError

    assert output_sizes(single({"a": DataNode("a", Broken())})).nbytes == {}


# -- Never ---------------------------------------------------------------------------------------


def test_nothing_is_computed() -> None:
    """No function of the graph is called."""
    called = []

    def record(x: Any) -> Any:
        called.append(x)
        return x

    meta: Any = np.empty((0, 0), "f4")
    x = zeros().map_blocks(record, dtype="f4", meta=meta)
    x = x.rechunk((3, 3)).map_blocks(record, dtype="f4", meta=meta).sum(axis=0)
    y = delayed(record)(x.to_delayed().tolist())
    output_sizes(x.dask)
    output_sizes(y.__dask_graph__())
    assert called == []


def test_blockwise_layers_stay_symbolic() -> None:
    """No Blockwise layer is written out, whatever it is made of."""
    x = zeros((40, 30), (10, 15))
    y = (x.T @ x).std(axis=0) + da.where(x > 0, x, 0).mean(axis=0)[x[0] > 0].sum()
    output_sizes(y.dask)
    layers = [layer for layer in y.dask.layers.values() if isinstance(layer, Blockwise)]
    assert len(layers) > 8
    assert not any(layer.is_materialized() for layer in layers)


def test_cycles_and_missing_keys() -> None:
    """Layers and tasks that wait for each other or for absent keys are unknown."""
    tasks = {
        "a": Task("a", np.add, TaskRef("b"), 1),
        "b": Task("b", np.add, TaskRef("a"), 1),
        "c": Task("c", np.add, TaskRef("absent"), 1),
        "d": Task("d", np.add, TaskRef("d"), 1),
        "e": DataNode("e", 1.0),
    }
    graph = HighLevelGraph({"one": MaterializedLayer(tasks)}, {"one": {"one", "nowhere"}})
    assert set(output_sizes(graph).nbytes) == {"e"}


def test_layer_that_cannot_be_written() -> None:
    """A Blockwise layer whose parts do not fit together is unknown, and left to Dask to report."""
    task = Task("z", np.add, TaskRef("_0"), TaskRef("_1"))
    blocks = {"x": (2,), "y": (3,)}
    layer = Blockwise("z", "i", task, [("x", "i"), ("y", "i")], numblocks=blocks)
    assert output_sizes(HighLevelGraph({"z": layer}, {"z": set()})).sources == {"z": "unknown"}


def test_rechunk_peer_to_peer() -> None:
    """The blocks that a rechunk peer to peer ends with are known; its layer stays symbolic."""
    rechunk = pytest.importorskip("distributed.shuffle._rechunk")
    x = rechunk.rechunk_p2p(zeros((8, 6), (4, 6)), chunks=((8,), (2, 4)))
    sizes = layer_sizes(x.dask)[x.name]
    assert dict(sizes.items()) == {(x.name, 0, 0): 64.0, (x.name, 0, 1): 128.0}
    assert not x.dask.layers[x.name].is_materialized()


def test_empty_graph() -> None:
    """A graph without layers has no sizes."""
    assert output_sizes(HighLevelGraph({}, {})).nbytes == {}


anything = st.recursive(
    st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.just(TaskRef("k0"))
    | st.just("k1") | st.just(np.ones((2, 3))) | st.just(slice(0, 2)) | st.just(Ellipsis),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner, inner)
    | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=6,
)  # fmt: skip
functions = st.sampled_from(
    [np.sum, np.concatenate, np.add, da.chunk.getitem, da.core.concatenate3, da.core._concatenate2,
     da.reductions.mean_chunk, da.reductions.moment_combine, da.reductions.arg_agg, np.full_like,
     partial(np.sum, axis=0, keepdims=True), dask.utils.apply, da.core._enforce_dtype, print]
)  # fmt: skip


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        anything
        | st.builds(lambda f, args: Task("?", f, *args), functions, st.lists(anything, max_size=3))
        | st.builds(lambda f, args: (f, *args), functions, st.lists(anything, max_size=3)),
        min_size=1,
        max_size=5,
    )
)
def test_no_graph_raises(tasks: list[Any]) -> None:
    """Whatever the tasks are made of, sizes are told or absent, and finite."""
    sizes = output_sizes(single({f"k{i}": task for i, task in enumerate(tasks)})).nbytes
    assert all(size >= 0 for size in sizes.values())
    assert all(np.isfinite(size) for size in sizes.values())


def test_functions_travel(tmp_path: Path) -> None:
    """The functions work in a process that has Dask and not this package."""
    x = zeros((40, 30), (10, 15)).rechunk((7, 30)).std(axis=0)
    sent = ByValue(output_sizes), ByValue(layer_sizes), x.dask
    (tmp_path / "call").write_bytes(cloudpickle.dumps(sent))
    code = (
        "import pickle, sys; sys.modules['dask_worker_pools'] = None;"
        "f, g, graph = pickle.load(open('call', 'rb'));"
        "assert sum(g(graph)[n].known for n in graph.layers) == len(f(graph).nbytes);"
        "print(len(f(graph).nbytes))"
        "\ntry: import dask_worker_pools"
        "\nexcept ImportError: print('absent')"
    )
    command = [sys.executable, "-P", "-c", code]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(len(output_sizes(x.dask).nbytes)), "absent"]


def test_estimates_travel() -> None:
    """What is told can be pickled."""
    x = zeros().sum(axis=0)
    estimates = output_sizes(x.dask)
    assert pickle.loads(pickle.dumps(estimates)) == estimates


def test_lists_of_tasks() -> None:
    """A finalizing list of keys, in old and new graphs, is not taken for data."""
    x = zeros()
    for task in (
        (da.core.finalize, [[(x.name, 0, 0), (x.name, 0, 1)]]),
        Task(
            "finalize-f",
            da.core.finalize,
            List(List(TaskRef((x.name, 0, 0)), TaskRef((x.name, 0, 1)))),
        ),
    ):
        layers = {**x.dask.layers, "finalize-f": MaterializedLayer({"finalize-f": task})}
        graph = HighLevelGraph(layers, {**x.dask.dependencies, "finalize-f": {x.name}})
        assert output_sizes(graph).nbytes["finalize-f"] == 96.0
