"""What an encoder is to the rest of histogen: uint8 pixels in, one embedding per tile out, and a card."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from histogen.errors import EncoderError


@dataclass(frozen=True)
class EncoderCard:
    """What must be known of an encoder to use, name and cite its embeddings."""

    name: str
    """Unique per weights: the key of its embeddings in a tile store."""
    dim: int
    """Length D of one embedding."""
    image_px: int
    """Side to which tiles are resized before the network sees them."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation per channel, of pixels in 0–1."""
    weights_sha256: str
    source: str
    """Where the weights come from: a spec, a run, a file."""
    supervision: str
    """What labels, if any, made the weights."""

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EncoderCard:
        """Return the card that :meth:`to_json` wrote."""
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**fields)


class Encoder(nn.Module):
    """A frozen network with its card; it resizes and normalises by itself."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, backbone: nn.Module, card: EncoderCard) -> None:
        super().__init__()
        self.backbone = backbone.eval().requires_grad_(False)
        self.card = card
        self.register_buffer("mean", torch.tensor(card.mean).view(1, 3, 1, 1) * 255.0, persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, 3, 1, 1) * 255.0, persistent=False)

    def train(self, mode: bool = True) -> Encoder:  # noqa: ARG002 - an encoder stays frozen
        """Stay in evaluation mode whatever is asked."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings, float32 [B, D], of images uint8 or float [B, 3, H, W] in 0–255.

        Raises:
            EncoderError: what the network gives is not one vector of the card's length per image.
        """
        pixels = images.to(self.mean.device, torch.float32)
        size = (self.card.image_px, self.card.image_px)
        if tuple(pixels.shape[-2:]) != size:
            pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True, align_corners=False)
            pixels = pixels.clamp(0.0, 255.0)
        embeddings = self.backbone((pixels - self.mean) / self.std).float()
        if embeddings.shape != (len(images), self.card.dim):
            raise EncoderError(
                f"encoder '{self.card.name}' gives {list(embeddings.shape)} for {len(images)} tiles, not one embedding "
                f"[{len(images)}, {self.card.dim}]; its card must say how tokens become an embedding"
            )
        return embeddings


def key_of(name: str, weights_sha256: str) -> str:
    """Return the card name: ``name`` made safe for a path, and the first 8 digits of the weights' digest."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-.') or 'encoder'}-{weights_sha256[:8]}"
