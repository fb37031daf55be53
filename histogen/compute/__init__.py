"""Where bulk work runs: the Dask client and the one shard map."""
