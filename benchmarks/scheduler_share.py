"""What Dask costs: CPU of the scheduler, client and nannies beside that of the workers.

    python benchmarks/scheduler_share.py [--units 60] [--workers 2]

A unit encodes and writes one shard of 1,024 tiles of 224 px, as tiling does (about 0.4 CPU-seconds). Starting the
processes is measured by a run of one unit per worker, and taken off: it is paid once.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
from dataclasses import dataclass
from pathlib import Path

from common import machine, textured_tiles

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.store.jpeg import encode_jpeg
from histogen.store.shard_file import write_shard

TILE_PX, SHARD = 224, 1024


@dataclass(frozen=True)
class EncodeUnit:
    """One shard to encode and write."""

    folder: Path
    number: int
    num_items: int = SHARD

    @property
    def key(self) -> str:
        """Name in messages."""
        return f"shard {self.number}"


def encode_shard(unit: EncodeUnit) -> dict[str, float]:
    """Encode and write one shard; return the CPU seconds it took."""
    before = os.times()
    tiles = textured_tiles(32, TILE_PX, seed=unit.number)
    payloads = [encode_jpeg(tiles[k % 32]) for k in range(SHARD)]
    write_shard(unit.folder / f"{unit.number}", payloads, SHARD)
    after = os.times()
    return {"cpu": after.user + after.system - before.user - before.system}


def measure(folder: Path, workers: int, units: int) -> tuple[float, float, float]:
    """Return CPU seconds of this process (scheduler, client, nannies), of units, and the wall seconds of the map."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    shards = [EncodeUnit(folder, number) for number in range(units)]
    report = run_units(encode_shard, shards, compute=Compute(workers), description="encode")
    after = resource.getrusage(resource.RUSAGE_SELF)
    here = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return here, sum(result["cpu"] for _, result in report.results), report.seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=60)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print(machine("distributed", "imagecodecs"))
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.workers, arguments.workers)  # imports
        start, _, _ = measure(Path(folder), arguments.workers, arguments.workers)
        here, there, wall = measure(Path(folder), arguments.workers, arguments.units)
        _, _, wall_alone = measure(Path(folder), 0, arguments.units // 2)
    each, share = there / arguments.units, 100 * (here - start) / there
    print(f"{arguments.units} units of {each:.2f} CPU-s on {arguments.workers} workers, {wall:.1f} s wall:")
    print(f"scheduler, client and nannies {here - start:.2f} CPU-s, {share:.2f} % of the workers' {there:.1f}")
    print(f"(starting them: {start:.2f} CPU-s, once)")
    one = arguments.units // 2 / wall_alone
    print(
        f"units per second of wall: {arguments.units / wall:.2f} with the cluster and its start, {one:.2f} in process"
    )


if __name__ == "__main__":
    main()
