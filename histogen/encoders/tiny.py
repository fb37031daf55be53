"""A baseline that has learned nothing: what colour alone tells."""

from __future__ import annotations

import torch
from torch import nn

from histogen.encoders.base import Encoder, EncoderCard

NUM_BINS = 16


class ColourHistogram(nn.Module):
    """Histogram of each channel in 16 equal bins: shares that sum to 1 per channel, [B, 48]."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the histograms of pixels in 0–1, [B, 3, H, W]."""
        bins = (pixels * NUM_BINS).long().clamp(0, NUM_BINS - 1).flatten(2)
        counts = torch.zeros(*bins.shape[:2], NUM_BINS, device=pixels.device)
        counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype))
        return (counts / bins.shape[2]).flatten(1)


def load_colour(rest: str) -> Encoder:  # noqa: ARG001 - it takes no arguments
    """Return the colour histogram of a tile, resized to 64 px, as an encoder."""
    card = EncoderCard(
        name="colour-histogram",
        dim=3 * NUM_BINS,
        image_px=64,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        weights_sha256="",
        source="colour",
        supervision="none (no weights)",
    )
    return Encoder(ColourHistogram(), card)
