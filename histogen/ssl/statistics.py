"""Mean and standard deviation of the pixels of a tile set."""

from __future__ import annotations

import numpy as np

from histogen.ssl.augment import Normalisation
from histogen.store.tile_set import TileSet
from histogen.training.sampler import permute

NUM_MEASURED = 1024


def measure(tiles: TileSet, *, num_tiles: int = NUM_MEASURED) -> Normalisation:
    """Return the statistics of at most ``num_tiles`` tiles, evenly drawn, always the same ones."""
    number = min(num_tiles, len(tiles))
    total, squares, pixels = np.zeros(3), np.zeros(3), 0
    for index in permute(np.arange(number), len(tiles), seed=0):
        values = tiles[int(index)].reshape(-1, 3).astype(np.float64) / 255.0
        total += values.sum(0)
        squares += (values**2).sum(0)
        pixels += len(values)
    mean = total / pixels
    std = np.sqrt(np.maximum(squares / pixels - mean**2, 1e-6))
    red, green, blue = (round(float(v), 4) for v in mean)
    std_red, std_green, std_blue = (round(float(v), 4) for v in std)
    return Normalisation((red, green, blue), (std_red, std_green, std_blue))
