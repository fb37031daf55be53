"""Whether embeddings can tell a denoiser anything, asked before it is trained."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.diffusion.conditioning import MIN_NORM, tells_apart
from histogen.errors import EncoderError
from histogen.store.tile_set import TileSet

AT_ONCE = 100_000
"""Embeddings that are looked at together, to save memory."""


def check_embeddings(tiles: TileSet, name: str, trained: NDArray[np.int64]) -> None:
    """Refuse embeddings by encoder ``name`` that would train an E-LDM that is unconditional in effect.

    ``trained``: int64 [N], the tiles of ``tiles`` that are trained on; they must differ.

    Raises:
        EncoderError: some are not finite or zero, or all are the same up to the rounding of how they are stored.
    """
    embeddings = tiles.embeddings(name)
    for what, broken in (("not finite", _not_finite(embeddings)), ("zero", _zero(embeddings))):
        if len(broken):
            raise EncoderError(
                f"the embeddings by '{name}' are {what} for {len(broken):,} of {len(tiles):,} tiles (the first: "
                f"{tiles.ids(broken[:1])[0]}), and tell an E-LDM nothing; check the encoder's weights and embed again "
                "with --overwrite, or give another --encoder"
            )
    stored = max(np.finfo(store.rows(f"embeddings/{name}").layout.dtype).eps for store in tiles.stores)
    if not _differ(embeddings[trained], float(stored)):
        raise EncoderError(
            f"the embeddings by '{name}' are the same for all of {len(trained):,} tiles that are trained on, and tell "
            "an E-LDM nothing; check the encoder's weights, or give another --encoder"
        )


def _not_finite(embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.flatnonzero(~np.isfinite(embeddings).all(axis=1))


def _zero(embeddings: NDArray[np.float32]) -> NDArray[np.int64]:
    return np.flatnonzero(np.linalg.norm(embeddings, axis=1) <= MIN_NORM)


def _differ(embeddings: NDArray[np.float32], rounding: float) -> bool:
    """Whether the directions of embeddings [N, D] differ: within some part of them, or from part to part."""
    firsts = []
    for start in range(0, len(embeddings), AT_ONCE):
        part = torch.from_numpy(embeddings[start : start + AT_ONCE]).double()
        unit = torch.nn.functional.normalize(part, dim=-1)
        if tells_apart(unit, rounding):
            return True
        firsts.append(unit[0])
    return tells_apart(torch.stack(firsts), rounding)
