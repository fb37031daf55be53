"""A torch dataset over a tile set; the only file of this package that imports torch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from histogen.store.tile_set import TileSet


class TorchTiles(Dataset[torch.Tensor]):
    """Tiles as uint8 tensors [3, H, W]; a loader's workers may be forked or spawned."""

    def __init__(self, tiles: TileSet) -> None:
        self.tiles = tiles

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.from_numpy(self.tiles[index]).permute(2, 0, 1)

    def __getitems__(self, indices: Sequence[int]) -> list[torch.Tensor]:
        """Return a batch at once, so that a loader's worker decodes it in one call."""
        return list(torch.from_numpy(self.tiles.read_tiles(indices)).permute(0, 3, 1, 2))
