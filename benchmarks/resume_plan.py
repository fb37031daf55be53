"""How long it takes to know what is left to do: 1,000 stores, 3 million tiles, most shards done.

    python benchmarks/resume_plan.py [--stores 1000] [--tiles-per-store 3000]

Metadata and ledgers are written as a real run leaves them (shards are empty); then a new process's plan is timed: find
the stores, open each, list what is missing. Then a finished cohort is opened as one TileSet.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import Clock, machine

from histogen.store.find import find_stores
from histogen.store.layout import chunk_path
from histogen.store.shard_file import pack_shard
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=1000)
    parser.add_argument("--tiles-per-store", type=int, default=3000)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the stores (default: temporary)")
    arguments = parser.parse_args()
    print(machine("numpy"))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        left = write_cohort(Path(folder), arguments.stores, arguments.tiles_per_store)
        with Clock() as clock:
            stores = [TileStore.open_(path) for path in find_stores(folder)]
            missing = {store.store_id: store.missing_shards() for store in stores}
        assert sum(map(len, missing.values())) == left
        num_tiles = sum(store.num_tiles for store in stores)
        print(f"plan of {len(stores):,} stores, {num_tiles:,} tiles: {clock.wall:.2f} s wall, {clock.cpu:.2f} CPU-s")
        for store in stores:
            for shard in missing[store.store_id]:
                finish(store, shard)
        with Clock() as clock:
            tiles = TileSet.open_(folder)
        print(f"open {len(tiles):,} tiles as one set: {clock.wall:.2f} s wall, {clock.cpu:.2f} CPU-s")
        order = np.random.default_rng(0).integers(0, len(tiles), 100_000)
        with Clock() as clock:
            tiles.store_of(order), tiles.tile_index_of(order)
        print(f"find 100,000 tiles in it: {clock.wall * 1000:.0f} ms")


def write_cohort(folder: Path, num_stores: int, tiles_per_store: int) -> int:
    """Write the stores; every tenth lacks its last shard. Return how many shards are missing."""
    left = 0
    for number in range(num_stores):
        store = TileStore.create(
            folder / f"slide-{number:05d}.zarr", kind="slide", store_id=f"slide-{number:05d}", tile_px=224, mpp=0.5,
            num_tiles=tiles_per_store, provenance={"slide": f"slide-{number:05d}.svs"},
        )  # fmt: skip
        for shard in store.missing_shards():
            if number % 10 == 0 and shard == store.num_shards - 1:
                left += 1
            else:
                finish(store, shard)
    return left


def finish(store: TileStore, shard: int) -> None:
    """Note a shard, whose file is there and empty."""
    file = chunk_path(store.path / "tiles", shard, 4)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    store.commit("tiles", shard, note_of(store, shard))


def note_of(store: TileStore, shard: int) -> dict[str, object]:
    """Return a note as :meth:`TileStore.write_tiles` would."""
    count = len(store.shard_range(shard))
    return {"count": count, "bytes": len(pack_shard([], count)), "sha256": "0" * 64}


if __name__ == "__main__":
    main()
