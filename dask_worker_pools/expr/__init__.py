"""Pools for collections that are made of expressions, such as those of dask.dataframe."""
