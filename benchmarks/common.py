"""What the benchmarks share: tiles of a fixed look, a store of them, clocks, and one line per figure."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.store.tile_store import TileStore


def textured_tiles(num_tiles: int, tile_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return tiles of pink and violet noise at several scales; about 11 kB each as JPEG (224 px, q90, 4:2:0)."""
    rng = np.random.default_rng(seed)
    out = np.empty((num_tiles, tile_px, tile_px, 3), np.uint8)
    stain = np.array([[0.2, 0.75, 0.25], [0.65, 0.7, 0.3]])
    for tile in out:
        layers = np.zeros((2, tile_px, tile_px), np.float32)
        for sigma, strength in ((1.2, 0.10), (3.0, 0.30), (12.0, 0.50)):
            for layer in layers:
                noise = cv2.GaussianBlur(rng.random((tile_px, tile_px), dtype=np.float32), (0, 0), sigma)
                layer += strength * (noise - noise.mean()) / (noise.std() + 1e-6)
        density = np.clip(0.25 + 0.25 * layers, 0, None).transpose(1, 2, 0) @ stain
        tile[:] = (255 * np.exp(-density)).round()
    return out


def write_store(path: Path, num_tiles: int, tile_px: int, *, distinct: int = 256) -> TileStore:
    """Write a store of ``num_tiles`` tiles, of which ``distinct`` differ, all of their own length in bytes."""
    payloads = [encode_jpeg(tile, JpegSettings(90, "420")) for tile in textured_tiles(distinct, tile_px)]
    store = TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=tile_px, mpp=0.5, num_tiles=num_tiles, provenance={}
    )
    for shard in store.missing_shards():
        store.commit(
            "tiles", shard, store.write_tiles(shard, [payloads[i % distinct] for i in store.shard_range(shard)])
        )
    return store


class Clock:
    """Wall and CPU seconds (of all threads of this process) of a block."""

    def __enter__(self) -> Clock:
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu


def best(work: Callable[[], None], repeats: int = 3) -> Clock:
    """Return the clock of the run with the least CPU time; the others were disturbed."""
    clocks = []
    for _ in range(repeats):
        with Clock() as clock:
            work()
        clocks.append(clock)
    return min(clocks, key=lambda c: c.cpu)


def row(name: str, count: int, clock: Clock) -> float:
    """Print a rate and return it, per CPU-second."""
    rate = count / clock.cpu
    print(f"{name:<58s} {rate:>12,.0f} /CPU-s {count / clock.wall:>12,.0f} /s wall", flush=True)
    return rate


def machine(*packages: str) -> str:
    """Describe the machine and the versions that matter."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{model}, Python {platform.python_version()}, {versions}"
