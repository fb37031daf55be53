"""A torch dataset over a tile set; the only file of this package that imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info


class Tiles(Protocol):
    """What the dataset reads: a tile set, or anything that reads like one."""

    tile_px: int

    def __len__(self) -> int:
        """Return the number of tiles."""

    def __getitem__(self, index: int) -> np.ndarray:
        """Return one tile, uint8 [H, W, 3]."""

    def read_tiles(self, indices: Sequence[int], *, out: np.ndarray) -> np.ndarray:
        """Read tiles into ``out``, uint8 [B, H, W, 3]."""


class TorchTiles(Dataset[torch.Tensor]):
    """Tiles as uint8 tensors [3, H, W]; a loader's workers may be forked or spawned.

    A sequence of indices gives a whole batch [B, 3, H, W] (channels last in memory), decoded by a worker straight into
    shared memory. That is the fast way to feed a GPU::

        batches = BatchSampler(RandomSampler(dataset), 256, drop_last=True)
        DataLoader(dataset, sampler=batches, batch_size=None, num_workers=8)
    """

    def __init__(self, tiles: Tiles) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int | Sequence[int]) -> torch.Tensor:
        """Return one tile, or a batch of tiles in the order of the indices."""
        if not isinstance(index, Sequence):
            return torch.from_numpy(self.tiles[int(index)]).permute(2, 0, 1)
        shape = (len(index), self.tiles.tile_px, self.tiles.tile_px, 3)
        batch = torch.empty(0, dtype=torch.uint8)
        if get_worker_info() is None:
            batch = batch.resize_(shape)
        else:  # made shared at once, as torch's own collate does: share_memory_() would copy the batch
            storage = torch.UntypedStorage._new_shared(math.prod(shape))
            batch = batch.set_(storage).view(shape)
        self.tiles.read_tiles(index, out=batch.numpy())
        return batch.permute(0, 3, 1, 2)
