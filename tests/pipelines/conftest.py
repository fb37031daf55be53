"""A small world for the pipelines' tests: two stores of drawn tiles, and configs of tiny networks."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_store import TileStore

TINY_AUTOENCODER: dict[str, Any] = {
    "model": {"channels": [8, 16], "layers_per_block": 1, "latent_channels": 3, "norm_groups": 4, "attention": False},
    "optim": {"steps": 8, "batch": 8, "lr": 0.002, "warmup": 2},
    "heldout": {"fraction": 0.1},
    "checkpoint_every": 2,
    "log_every": 2,
}
TINY_ELDM: dict[str, Any] = {
    "encoder": "colour",
    "variants": 2,
    "model": {
        "channels": [16, 32], "layers_per_block": 1, "head_width": 16, "norm_groups": 8, "cross_attention_dim": 8,
    },
    "optim": {"steps": 8, "batch": 8, "lr": 0.002, "warmup": 2},
    "watch": {"heldout_every": 4, "heldout_tiles": 8, "preview_every": 4, "preview_tiles": 2},
    "sampler": {"steps": 3},
    "ema_decay": 0.9,
    "heldout": {"fraction": 0.1},
    "checkpoint_every": 2,
    "log_every": 2,
}  # fmt: skip


@pytest.fixture(scope="session")
def drawn_tiles() -> np.ndarray:
    """60 tiles uint8 [60, 16, 16, 3] with colour and structure of their own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:16, :16] / 16.0
    tiles = []
    for _ in range(60):
        base, wave = rng.uniform(60, 200, 3), np.sin(rng.uniform(4, 14) * (x + rng.uniform(0, 2) * y))
        tiles.append(base + 40 * wave[..., None] * rng.uniform(-1, 1, 3) + rng.normal(0, 4, (16, 16, 3)))
    return np.clip(np.stack(tiles), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def make_sources(drawn_tiles: np.ndarray) -> Callable[[Path], Path]:
    """Write two stores, of 40 and 20 tiles, the sixth of the second absent; 16 tiles to a shard."""

    def make(folder: Path) -> Path:
        for name, start, stop in (("A", 0, 40), ("B", 40, 60)):
            count = stop - start
            store = TileStore.create(
                folder / f"{name}.zarr", kind="slide", store_id=name, tile_px=16, mpp=0.5, num_tiles=count,
                provenance={},
            )  # fmt: skip
            payloads: list[bytes | None] = [encode_jpeg(tile) for tile in drawn_tiles[start:stop]]
            if name == "B":
                payloads[5] = None
            for shard in range(store.num_shards):
                rows = store.shard_range(shard)
                store.commit("tiles", shard, store.write_tiles(shard, payloads[rows.start : rows.stop]))
        return folder

    return make


def files_digest(folder: Path, *, leave_out: tuple[str, ...] = ()) -> dict[str, str]:
    """SHA-256 of every file under ``folder``."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in leave_out
    }


@pytest.fixture(scope="session")
def digest_of() -> Callable[..., dict[str, str]]:
    """:func:`files_digest`."""
    return files_digest


@pytest.fixture(scope="session")
def kill_when() -> Callable[..., None]:
    """Run Python source in a child process and SIGKILL it as soon as a file exists; it must not have finished."""

    def run(source: str, awaited: Callable[[], bool], *, seconds: float = 120) -> None:
        child = subprocess.Popen(  # noqa: S603
            [sys.executable, "-W", "ignore", "-c", source], env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + seconds
        while not awaited():
            if child.poll() is not None:
                raise AssertionError(f"the child ended by itself: {child.communicate()[1].decode()[-2000:]}")
            assert time.monotonic() < deadline, "the child did not get that far"
            time.sleep(0.002)
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert child.returncode == -signal.SIGKILL

    return run
