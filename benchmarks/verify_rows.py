"""What it costs that rows are verified: embeddings and latents read with and without checksums, in turn, in one run.

    python benchmarks/verify_rows.py [--tiles 16384] [--folder DIR]

Each figure is of a process that reads for the first time (nothing is verified yet) and of later reads; caches warm.
Beside them: decoding the same number of tiles of 224 px, which is what each of these rows was made from.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import machine, write_store

from histogen.store import row_array
from histogen.store.layout import write_metadata
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

REPEATS = 7
BATCH = 64
ROWS = {"embeddings/e": ((384,), "float32"), "latents/a": ((8, 8, 28, 28), "float16")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=16384)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the store (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = write_store(Path(folder) / "bench.zarr", arguments.tiles, 224)
        for path, (shape, dtype) in ROWS.items():
            write_rows(store, path, shape, dtype)
        print(machine("google-crc32c", "numpy"))
        decoding = time_of(lambda: TileSet.open_(store.path).read_tiles(range(2048))) * arguments.tiles / 2048
        print(f"{arguments.tiles:,} tiles; decoding them: {decoding:.2f} s\n")
        order = np.random.default_rng(0).permutation(arguments.tiles)
        for path in ROWS:
            compare(store, path, "all, in order", lambda rows: rows.read(), decoding)
            compare(store, path, f"all, in random batches of {BATCH}", lambda rows: read_batches(rows, order), decoding)


def write_rows(store: TileStore, path: str, shape: tuple[int, ...], dtype: str) -> None:
    """Write random rows twice: with checksums, and as it was done before there were any."""
    rng = np.random.default_rng(1)
    store.create_rows(path, (store.num_tiles, *shape), dtype)
    store.create_rows(f"{path}-bare", (store.num_tiles, *shape), dtype)
    bare = replace(store.rows(f"{path}-bare").layout, checksum=False)
    write_metadata(store.path / f"{path}-bare", bare.metadata())
    for shard in range(store.num_shards):
        values = rng.integers(0, 255, (len(store.shard_range(shard)), *shape), np.uint8).astype(dtype)
        for name in (path, f"{path}-bare"):
            store.write_rows(name, shard, values)


def read_batches(rows: row_array.RowArray, order: np.ndarray) -> None:
    """Read as a training does."""
    for start in range(0, len(order), BATCH):
        rows.read(order[start : start + BATCH])


def compare(
    store: TileStore, path: str, how: str, read: Callable[[row_array.RowArray], object], decoding: float
) -> None:
    """Print the time of a first and of a later read with checksums, and of one without, measured in turn."""
    first, later, bare = [], [], []
    for _ in range(REPEATS):
        row_array._VERIFIED.clear()
        first.append(time_of(lambda: read(store.rows(path))))
        later.append(time_of(lambda: read(store.rows(path))))
        bare.append(time_of(lambda: read(store.rows(f"{path}-bare"))))
    a, b, c = (float(np.median(times)) for times in (first, later, bare))
    print(
        f"{path:13} {how:31} without {c:6.3f} s   first {a:6.3f} s   later {b:6.3f} s   "
        f"first costs {a - c:6.3f} s, {100 * (a - c) / decoding:.2f} % of decoding the tiles"
    )


def time_of(call: Callable[[], object]) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
