"""Which tile is whose partner, and with what alpha; every choice follows from the seed, and is stored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from histogen.diffusion.settings import AlphaSettings, Pairing
from histogen.errors import ConfigError
from histogen.seeds import derive_seeds, numpy_rng


def draw_alphas(settings: AlphaSettings, seed: int, tile_ids: Sequence[str], copy: int) -> NDArray[np.float32]:
    """Return the alpha of each synthetic tile, float32 [N]: of the run's seed, the source's id and the copy."""
    if settings.law == "fixed":
        return np.full(len(tile_ids), settings.value, np.float32)
    shares = derive_seeds(seed, ("alpha",), tile_ids, (copy,)) / 2**63
    return (settings.low + (settings.high - settings.low) * shares).astype(np.float32)


def choose_partners(
    pairing: Pairing, num_tiles: int, *, seed: int, embeddings: NDArray[np.float32] | None = None, nearest: int = 16
) -> NDArray[np.int64]:
    """Return the partner of each of ``num_tiles`` tiles, int64 [N], never the tile itself.

    ``matching``: a random perfect matching, so that the partner's partner is the tile itself; of an odd number, three
    tiles form a ring in which each is the next one's partner. ``arbitrary``: any other tile, independently.
    ``neighbours``: one of the ``nearest`` others by the cosine of ``embeddings`` [N, D].

    Raises:
        ConfigError: there are fewer than two tiles.
    """
    if num_tiles < 2:
        raise ConfigError(f"{num_tiles} tile has no partner to interpolate with; give more tiles")
    rng = numpy_rng(seed, "partners", pairing)
    if pairing == "matching":
        return _matching(rng.permutation(num_tiles))
    if pairing == "arbitrary":
        others = rng.integers(0, num_tiles - 1, num_tiles)
        return others + (others >= np.arange(num_tiles))
    if embeddings is None:
        raise ConfigError("neighbours need embeddings")
    choices = rng.random(num_tiles)
    near = nearest_others(embeddings, min(nearest, num_tiles - 1))
    return near[np.arange(num_tiles), (choices * near.shape[1]).astype(np.int64)]


def _matching(order: NDArray[np.int64]) -> NDArray[np.int64]:
    partner = np.empty(len(order), dtype=np.int64)
    paired = len(order) if len(order) % 2 == 0 else len(order) - 3
    first, second = order[0:paired:2], order[1:paired:2]
    partner[first], partner[second] = second, first
    ring = order[paired:]
    partner[ring] = np.roll(ring, -1)
    return partner


def nearest_others(embeddings: NDArray[np.float32], count: int, *, chunk: int = 1024) -> NDArray[np.int64]:
    """Return the ``count`` nearest other rows of each row by cosine, int64 [N, count], nearest first."""
    unit = normalize(torch.from_numpy(np.ascontiguousarray(embeddings)), dim=-1)
    found: list[torch.Tensor] = []
    for start in range(0, len(unit), chunk):
        similarity = unit[start : start + chunk] @ unit.T
        rows = torch.arange(len(similarity))
        similarity[rows, rows + start] = -torch.inf
        found.append(similarity.topk(count, dim=1).indices)
    return torch.cat(found).numpy()


def tile_seeds(seed: int, kind: str, tile_ids: Sequence[str], copy: int) -> NDArray[np.int64]:
    """Return the seed of each synthetic tile, int64 [N]: of the run's seed, the kind, the source's id and the copy."""
    return derive_seeds(seed, ("tile", kind), tile_ids, (copy,))
