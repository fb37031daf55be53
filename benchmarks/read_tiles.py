"""Random reads of tiles: the fast lane beside zarr-python, on the same files in the same run.

    python benchmarks/read_tiles.py [--tiles 8192] [--folder DIR]

The store is written by the script: 224 px tiles, JPEG quality 90. One thread unless said; caches warm. The last line
is the ratio that counts.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterable, Sized
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import Clock, best, machine, row, write_store

from histogen.store.tile_set import TileSet

TILE_PX = 224
BATCH = 256
CONSUMER_RATE = 3000.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiles", type=int, default=8192)
    parser.add_argument("--folder", type=Path, default=None, help="where to write the store (default: temporary)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        store = write_store(Path(folder) / "bench.zarr", arguments.tiles, TILE_PX)
        note = store.ledger.note("tiles", 0)
        print(machine("imagecodecs", "zarr", "numpy", "torch"))
        print(f"{arguments.tiles:,} tiles of {TILE_PX} px, {note['bytes'] / note['count'] / 1000:.1f} kB each\n")
        tiles = TileSet.open_(store.path)
        order = np.random.default_rng(0).integers(0, len(tiles), 4096)
        ours = measure_ours(tiles, order)
        theirs = measure_zarr(store.path, tiles, order)
        measure_loader(tiles)
    print(
        f"\nratio, decoded tiles per CPU-second, ours : zarr-python   "
        f"one at a time {ours[0] / theirs[0]:.1f} x   batches of {BATCH} {ours[1] / theirs[1]:.1f} x"
    )


def measure_ours(tiles: TileSet, order: np.ndarray) -> tuple[float, float]:
    """Measure the fast lane: compressed, one at a time, in batches, with two threads."""
    indices = order.tolist()
    out = np.empty((BATCH, TILE_PX, TILE_PX, 3), np.uint8)
    batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]

    def raw() -> None:
        for index in indices:
            tiles.read_payload(index)

    def single() -> None:
        for index in indices:
            tiles[index]

    def batched(threads: int) -> None:
        for batch in batches:
            tiles.read_tiles(batch, threads=threads, out=out)

    raw()
    row("ours, compressed, one at a time", len(indices), best(raw))
    one = row("ours, decoded, one at a time", len(indices), best(single))
    many = row(f"ours, decoded, batches of {BATCH}", len(order), best(lambda: batched(1)))
    row(f"ours, decoded, batches of {BATCH}, 2 threads", len(order), best(lambda: batched(2)))
    return one, many


def measure_zarr(path: Path, tiles: TileSet, order: np.ndarray) -> tuple[float, float]:
    """Measure zarr-python on the same files, on fewer tiles (it is slow), and compare its pixels with ours."""
    import zarr

    array = zarr.open(path, mode="r")["tiles"]
    indices = order[:256].tolist()
    wanted = np.unique(order)[:BATCH]
    np.testing.assert_array_equal(array.oindex[wanted[:16]], tiles.read_tiles(wanted[:16]))

    def single() -> None:
        for index in indices:
            array[index]

    one = row("zarr-python, decoded, one at a time", len(indices), best(single))
    many = row(
        f"zarr-python, decoded, a batch of {len(wanted)} (oindex)", len(wanted), best(lambda: array.oindex[wanted], 2)
    )
    return one, many


def measure_loader(tiles: TileSet) -> None:
    """Measure how long a consumer of 3,000 images/s waits for a torch loader of two forked workers, in one epoch of
    20 s at that rate."""
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler

    dataset = tiles.as_torch_dataset()
    batches = BatchSampler(RandomSampler(dataset, True, int(20 * CONSUMER_RATE)), BATCH, drop_last=True)
    for name, pace in (("as fast as it can", 0.0), ("3,000 images/s taken", BATCH / CONSUMER_RATE)):
        loader = DataLoader(
            dataset, sampler=batches, batch_size=None, num_workers=2, multiprocessing_context="fork",
            persistent_workers=True, prefetch_factor=8,
        )  # fmt: skip
        iter(loader)  # the workers are started
        before = child_cpu()
        with Clock() as clock:
            count, waited = consume(loader, pace)
        cpu = clock.cpu + child_cpu() - before
        label = f"torch loader, 2 forked workers, {name}"
        waits_text = f"waits {100 * waited / clock.wall:.1f} %"
        print(f"{label:<58s} {count / cpu:>12,.0f} /CPU-s {count / clock.wall:>12,.0f} /s wall, {waits_text}")


def consume(loader: Iterable[Sized], pace: float) -> tuple[int, float]:
    """Take every batch, resting ``pace`` seconds after each; return images taken and seconds waited."""
    iterator, count, waited = iter(loader), 0, 0.0
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        waited += time.perf_counter() - start
        if batch is None:
            return count, waited
        count += len(batch)
        time.sleep(pace)
        batch = None  # giving its memory back is the consumer's time, not the loader's


def child_cpu() -> float:
    """Return the CPU seconds of the living children of this process (Linux)."""
    ticks = 0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
