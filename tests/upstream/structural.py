"""Tests of other projects that cannot hold with pools, and why: none is about a value."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Structural:
    """Tests that ask how an expression is made, not what it computes."""

    reason: str  #: why they must fail
    message: str  #: regular expression found in what a failing test says
    tests: tuple[str, ...]  #: patterns of ``file::test`` as in a shell: ``test_core.py::test_x*``

    def explains(self, test: str, message: str) -> bool:
        """Whether a failure is one of these."""
        named = any(fnmatchcase(test, f"*/{pattern}") for pattern in self.tests)
        return named and re.search(self.message, message) is not None


STRUCTURAL = (
    Structural(
        "The name of the collection is that of its marker, and depends on pool and sources",
        r"frameinpool",
        (
            "test_categorical.py::test_get_categories_simplify_adds_projection",
            "test_collection.py::test_columns_traverse_filters",
            "test_collection.py::test_dont_fuse_from_pandas_ops",
            "test_collection.py::test_explode_simplify",
            "test_collection.py::test_filter_pushdown",
            "test_collection.py::test_find_operations",
            "test_collection.py::test_meta_divisions_name",
            "test_collection.py::test_repartition_no_op",
            "test_collection.py::test_substitute",
            "test_collection.py::test_substitute_parameters",
            "test_collection.py::test_walk",
            "test_delayed.py::test_from_delayed[[]foo]",
            "test_from_pandas.py::test_from_pandas_chunksize*",
            "test_from_pandas.py::test_from_pandas_npartitions*",
            "test_io.py::test_from_map*",
            "test_map_partitions_overlap.py::test_token_given",
            "test_parquet.py::test_pyarrow_filesystem_filters",
            "test_predicate_pushdown.py::test_rewrite_filters",
            "test_repartition.py::test_repartition_combine_similar*",
        ),
    ),
    Structural(
        "A prefix starts the name of the source, which is some steps further down",
        r"startswith",
        ("test_delayed.py::test_from_delayed*", "test_io.py::test_from_map*"),
    ),
    Structural(
        "The root is a marker, so that what was expected there is one step below",
        r"isinstance\(|assert 1 == 2|has no attribute '(right|left|seed|fragments|_filtered)'"
        r"|'columns' is not in list",
        (
            "dask_geopandas/tests/test_core.py::test_from_dask_dataframe_with_dask_geoseries",
            "test_collection.py::test_filter_pushdown_reducer_in_predicate",
            "test_collection.py::test_partitions",
            "test_collection.py::test_predicate_pushdown_ndim_change",
            "test_collection.py::test_select_dtypes_projection",
            "test_collection.py::test_tree_repr*",
            "test_datasets.py::test_optimization",
            "test_indexing.py::test_reverse_indexing",
            "test_io.py::test_from_map*",
            "test_merge.py::test_merge_avoid_overeager_filter_pushdown",
            "test_merge.py::test_merge_combine_similar_intermediate_projections",
            "test_merge.py::test_merge_filter_renaming_columns",
            "test_merge.py::test_merge_or_two_branches_no_pushdown",
            "test_merge.py::test_merged_partitions_filtered",
            "test_parquet.py::test_aggregate_rg_stats_to_file",
            "test_parquet.py::test_parquet_len*",
            "test_parquet.py::test_predicate_pushdown*",
            "test_shuffle.py::test_sort_values_avoid_overeager_filter_pushdown*",
        ),
    ),
    Structural(
        "The root is a marker, and the test looks into the frame of the frame of the root",
        r"\{'x'\} == \{'x', 'z'\}",
        ("test_collection.py::test_column_projection_map_partitions*",),
    ),
    Structural(
        "The lowered marker is not blockwise, so that nothing fuses past it",
        r"(all|any)\(<generator",
        (
            "test_io.py::test_io_fusion_blockwise",
            "test_shuffle.py::test_set_index_pre_sorted",
            "test_shuffle.py::test_set_index_without_sort",
        ),
    ),
    Structural(
        "The marker is seen in what is printed",
        r"[Ff]rame[Ii]n[Pp]ool",
        (
            "test_collection.py::test_assign_squash_together",
            "test_collection.py::test_isin_repr",
            "test_collection.py::test_scalar_repr",
            "test_collection.py::test_to_datetime_repr",
            "test_concat.py::test_concat_str",
            "test_format.py::test_*",
            "test_fusion.py::test_name",
        ),
    ),
    Structural(
        "The marker is one more expression",
        r"assert 2 == 1|assert 14 == 13|assert \d+ < \(500 \+ \d+\)",
        (
            "test_collection.py::test_assign_projection_mix",
            "test_collection.py::test_depth",
            "test_collection.py::test_serialization",
        ),
    ),
    Structural(
        "The partitions have the name of the marker, too: aliases, which do not run",
        r"assert [36]0 == \(10 \+ [12]0\)|assert 23 == \(21 \+ 1\)|assert 40 == \(10 \+ 20\)"
        r"|assert \(30 - 10\) == 10|assert 2 == 1|assert 2 == \(1 \+ 0\)|assert 3 == \(1 \+ 1\)"
        r"|KeysView\(|assert 8 == 4",
        (
            "test_base.py::test_persist_dataframe",
            "test_base.py::test_persist_series",
            "test_delayed.py::test_from_delayed_fusion",
            "test_fusion.py::test_optimize_fusion_many",
            "test_fusion.py::test_optimize_fusion_repeat",
            "test_fusion.py::test_simple",
            "test_fusion.py::test_with_non_fusable_on_top",
            "test_io.py::test_io_culling*",
            "test_io.py::test_io_fusion[[]*",
        ),
    ),
    Structural(
        "Among the tasks that are asked whether they make data are those aliases, which do not",
        r"all\(<generator",
        (
            "test_from_pandas.py::test_from_pandas[[]*",
            "test_io.py::test_from_map*",
            "test_io.py::test_parquet_complex_filters",
            "test_parquet.py::test_pyarrow_filesystem",
        ),
    ),
    Structural(
        "The marker of what was persisted has a task of its own for each partition",
        r"assert \d+ == \(2 \* \d+\)|assert 6 == [45]",
        (
            "test_base.py::test_persist_dataframe",
            "test_base.py::test_persist_scalar",
            "test_base.py::test_persist_series",
            "test_collection.py::test_persist",
            "test_datasets.py::test_persist",
        ),
    ),
    Structural(
        "The graph takes along the code that places it, which the scheduler does not have",
        r"assert \d+ <= 10000",
        ("test_distributed.py::test_pickle_size*",),
    ),
    Structural(
        "Inside propagate_pools() shuffles are made of tasks, where the test counts those on disk "
        "or has fewer tasks",
        r"assert 0 == \d|assert 40 <= 30|list index out of range",
        (
            "test_distributed.py::test_merge_combine_similar_squash_merges*",
            "test_merge.py::test_merge_combine_similar[[]2-3]",
            "test_partitioning_knowledge.py::test_avoid_shuffle_on_top_of_lowered_shuffle",
            "test_partitioning_knowledge.py::test_groupby_avoid_shuffle",
            "test_partitioning_knowledge.py::test_merge_avoid_shuffle",
            "test_partitioning_knowledge.py::test_merge_shuffle_if_different_order",
            "test_partitioning_knowledge.py::test_shuffle_after_only_blockwise_merge",
        ),
    ),
    Structural(
        "The test puts an expression together by hand; markers float up in collections",
        r"assert \(None == \['c'\]",
        ("test_parquet.py::test_parquet_len_filter*",),
    ),
    Structural(
        "The graph is sent as expressions; Dask cannot pickle those with such a file system either",
        r"TypeError: self.info cannot be converted",
        ("test_parquet.py::test_pyarrow_filesystem_serialize",),
    ),
    Structural(
        "The test shuffles peer to peer, by name, or because its cluster puts back the "
        "configuration that propagate_pools sets; that method cannot keep to a pool and is refused",
        r"PeerToPeerInPool",
        (
            "test_delayed.py::test_p2p_as_delayed",
            "test_distributed.py::test_index_merge_p2p_shuffle[[][56]]",
            "test_distributed.py::test_merge_broadcast[[]left-*]",
            "test_distributed.py::test_merge_index_precedence[[]p2p-*]",
            "test_distributed.py::test_merge_indicator",
            "test_distributed.py::test_merge_p2p_shuffle",
            "test_distributed.py::test_merge_p2p_shuffle_projection_error",
            "test_distributed.py::test_merge_p2p_shuffle_reused_dataframe_with_*_parameters",
            "test_distributed.py::test_p2p_and_merge_shuffle",
            "test_distributed.py::test_p2p_shuffle[[]*]",
            "test_distributed.py::test_self_merge_p2p_shuffle",
            "test_distributed.py::test_shuffle_nulls_introduced[[]p2p]",
            "test_distributed.py::test_shuffle_partition_reduction",
        ),
    ),
    Structural(
        "The tasks are made when they are needed, and a wrong argument is found out only then",
        r"DID NOT RAISE.* ValueError",
        ("test_reductions.py::test_split_every_lt2*",),
    ),
    Structural(
        "Inside propagate_pools() all kinds of collections are optimised together; "
        "Dask has nothing to warn of",
        r"DID NOT WARN",
        (
            "test_base.py::test_compute_array_dataframe",
            "test_base.py::test_compute_delayed_dataframe",
        ),
    ),
    Structural(
        "The pool is one of the annotations, and the test expects no other than its own",
        r"pool-A|worker_pool",
        ("test_highgraph.py::test_single_annotation*", "test_highgraph.py::test_multiple_*"),
    ),
    Structural(
        "The expression below a marker that rose is a new one; the function in it, whose calls are "
        "counted, is tried on an empty frame once more",
        r"assert 20 == 16",
        ("test_graph_manipulation.py::test_checkpoint_collections",),
    ),
    Structural(
        "A partition that was not optimised when it became a delayed object is when it is computed",
        r"assert 1 == 3",
        ("test_bag.py::test_to_delayed_optimize_graph",),
    ),
    Structural(
        "The test calls Dask's own fusion of layers, without the pass; that fuses no layers of "
        "which one has a pool and the other another or none",
        r"assert ([2-5] == [1-3]|10 == 5)$|assert [2-5] == [1-3]\n|unhashable type: 'dict'",
        (
            "test_array_core.py::test_map_blocks_optimize_blockwise*",
            "test_atop.py::test_blockwise_diamond_fusion",
            "test_atop.py::test_blockwise_non_blockwise_output",
            "test_atop.py::test_dont_merge_before_reductions",
            "test_atop.py::test_optimize_blockwise*",
            "test_optimization.py::test_array_creation_blockwise_fusion",
            "test_optimization.py::test_fuse_roots*",
        ),
    ),
    Structural(
        "A task that is given on carries its pool in a partial of its function",
        r"functools\.partial\(<class 'tuple'>\) == tuple",
        ("test_delayed.py::test_to_task_dask",),
    ),
    Structural(
        "A fused task keeps the name that others know, where Dask gives it another and an alias",
        r"assert (1 == 2|4 == 8|10 == \(10 \+ 1\))",
        (
            "test_base.py::test_compute_no_opt",
            "test_base.py::test_optimize_None",
            "test_delayed.py::test_delayed_fusion",
        ),
    ),
)
