"""Views of a batch of tiles, made on the device: uint8 in, normalised float out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from histogen.ssl.augment_cpu import write_views
from histogen.ssl.colour import colour_
from histogen.ssl.draws import Draws, ViewSpec, draw_views
from histogen.ssl.resample import resample
from histogen.training.transfer import on_device


@dataclass(frozen=True)
class Normalisation:
    """Mean and standard deviation per channel of pixels in 0–1."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def apply(self, views: torch.Tensor, out: torch.Tensor) -> None:
        """Write the normalised ``views`` [..., 3, h, w] to ``out``."""
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            torch.mul(views[..., channel, :, :] - mean, 1.0 / std, out=out[..., channel, :, :])


def make_views(
    images: Sequence[torch.Tensor],
    specs: Sequence[ViewSpec],
    normalisation: Normalisation,
    *,
    seed: int,
    positions: np.ndarray,
    source_of_slot: np.ndarray | None = None,
    first_slot: int = 0,
) -> torch.Tensor:
    """Return the views of one size of a batch.

    Args:
        images: one or several uint8 batches [B, H, W, 3] that views are cut from (the real tile, its synthetic one).
        specs: one per view slot, V in all, of one ``px``.
        normalisation: of the result.
        seed: the step's seed.
        positions: int [B], positions of the tiles in the global batch.
        source_of_slot: int [B, V], which of ``images`` each slot is cut from; each must get the same number of slots
            for every tile. All from the first when not given.
        first_slot: number of the first slot; slots with other numbers are drawn independently.

    Returns:
        float32 [V, B, 3, px, px].
    """
    px, batch = specs[0].px, len(images[0])
    draws = draw_views(specs, images[0].shape[1], seed=seed, positions=positions, first_slot=first_slot)
    out = torch.empty(len(specs), batch, 3, px, px, device=images[0].device)
    for number, pixels in enumerate(images):
        slots = _slots_from(number, source_of_slot, batch, len(specs))
        if slots.shape[1]:
            if pixels.device.type == "cpu":
                write_views(pixels, draws.take(slots), slots, normalisation.mean, normalisation.std, out)
            else:
                write_views_at_once(pixels, draws.take(slots), slots, normalisation, out)
    return out


def write_views_at_once(
    pixels: torch.Tensor, draws: Draws, slots: np.ndarray, normalisation: Normalisation, out: torch.Tensor
) -> None:
    """Do what :func:`~histogen.ssl.augment_cpu.write_views` does in one batch, in float, for a GPU."""
    views = colour_(resample(pixels, draws, out.shape[-1]), draws)
    normalisation.apply(views, views)
    rows = on_device(np.ascontiguousarray(slots), out.device)
    out[rows, torch.arange(len(slots), device=out.device)[:, None]] = views


def _slots_from(number: int, source_of_slot: np.ndarray | None, batch: int, num_slots: int) -> np.ndarray:
    """Return int [B, V']: which slots of each tile are cut from source ``number``."""
    if source_of_slot is None:
        return np.tile(np.arange(num_slots if number == 0 else 0), (batch, 1))
    chosen = source_of_slot == number
    counts = chosen.sum(axis=1)
    if not (counts == counts[0]).all():
        raise ValueError(f"source {number} gets between {counts.min()} and {counts.max()} slots; it must be the same")
    return np.nonzero(chosen)[1].reshape(batch, int(counts[0]))
