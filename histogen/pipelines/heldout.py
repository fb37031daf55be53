"""What the stages around the latent diffusion model share: real tiles only, some of them held out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from histogen.config import Settings
from histogen.errors import ConfigError, StoreError
from histogen.seeds import derive_seed
from histogen.store.layout import SYNTHETIC
from histogen.store.tile_set import TileSet
from histogen.training.sampler import permute


class HeldoutSettings(Settings):
    """Tiles kept out of training, on which it is judged."""

    fraction: float = Field(default=0.02, gt=0, lt=1)
    """Share of all tiles."""
    most: int = Field(default=512, ge=1)
    """Never more than this many."""


def open_real(paths: Sequence[Path], *, where: Mapping[str, Any]) -> TileSet:
    """Open the tiles that a model learns from, or that synthetic ones are made from.

    Raises:
        StoreError: a store cannot be opened, or its tiles are synthetic themselves.
    """
    tiles = TileSet.open_(list(paths), where=where)
    for store in tiles.stores:
        if store.kind in SYNTHETIC:
            raise StoreError(f"'{store.path}' holds {store.kind} tiles; give the real tiles that they were made from")
    return tiles


def split_heldout(num_tiles: int, settings: HeldoutSettings, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (training, held-out) tile indices, both sorted int64; a fixed random choice of the run's seed."""
    count = min(settings.most, max(1, round(settings.fraction * num_tiles)))
    if count >= num_tiles:
        raise ConfigError(f"{count} of {num_tiles} tiles cannot be held out; give more tiles or lower heldout.fraction")
    order = permute(np.arange(num_tiles), num_tiles, seed=derive_seed(seed, "heldout"))
    return np.sort(order[count:]), np.sort(order[:count])
