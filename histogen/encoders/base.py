"""What an encoder is to the rest of histogen: uint8 pixels in, one embedding per tile out, and a card."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from typing import Any, Literal

import torch
from torch import nn

from histogen.encoders.features import FeatureOf
from histogen.encoders.resize import centre, resize
from histogen.errors import EncoderError

MAX_COUNT = 100_000
"""A side in pixels, and the length of an embedding, are less."""
TOLERANCE = 0.15
"""Tiles may differ by so much from those that an encoder was made for without a word."""


@dataclass(frozen=True)
class EncoderCard:
    """What must be known of an encoder to use, name and cite its embeddings."""

    name: str
    """Unique per weights: the key of its embeddings in a tile store."""
    dim: int
    """Length D of one embedding."""
    image_px: int
    """Side of what the network sees."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    """Normalisation per channel, of pixels in 0–1."""
    weights_sha256: str
    source: str
    """Where the weights come from: a spec, a run, a file."""
    supervision: str
    """What labels, if any, made the weights."""
    resize_px: int | None = None
    """Side to which tiles are resized before the middle is cut out; None where nothing is cut off."""
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"
    """Of the resizing, antialiased as Pillow's."""
    feature: str = "pooled"
    """What of the network's output is the embedding."""
    architecture: str = ""
    """Model and arguments, where a card and not a folder says them."""
    licence: str = ""
    mpp: float | None = None
    """Microns per pixel of the tiles that it was made for; None where that is not known, or several."""
    tile_px: int | None = None
    """Their side."""

    def to_json(self) -> dict[str, Any]:
        """Return the card as JSON values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EncoderCard:
        """Return the card that :meth:`to_json` wrote.

        Raises:
            EncoderError: a value is missing, or not what it must be.
        """
        fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        wrong = [name for name, is_right in _RIGHT.items() if name not in fields or not is_right(fields[name])]
        wrong += [name for name, is_right in _ADDED.items() if name in fields and not is_right(fields[name])]
        wrong += [repr(name) for name in fields if name not in {*_RIGHT, *_ADDED}]
        if wrong:
            raise EncoderError(f"the card of an encoder cannot have such {', '.join(wrong)[:200]}; export it again")
        return cls(**fields)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 < value < MAX_COUNT


def _are_channels(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 3 and all(type(n) in (int, float) and isfinite(n) for n in value)


_RIGHT: Mapping[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "dim": _is_count,
    "image_px": _is_count,
    "mean": _are_channels,
    "std": lambda value: _are_channels(value) and min(value) > 0,
    "weights_sha256": _is_text,
    "source": _is_text,
    "supervision": _is_text,
}
_ADDED: Mapping[str, Callable[[Any], bool]] = {
    "resize_px": lambda value: value is None or _is_count(value),
    "interpolation": lambda value: value in ("bilinear", "bicubic"),
    "feature": _is_text,
    "architecture": _is_text,
    "licence": _is_text,
    "mpp": lambda value: value is None or (type(value) in (int, float) and 0 < value < MAX_COUNT),
    "tile_px": lambda value: value is None or _is_count(value),
}
"""Fields that cards of older encoders lack."""


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

    @property
    def network(self) -> nn.Module:
        """The network itself, with the names of weights that its library gives it."""
        return self.backbone.model if isinstance(self.backbone, FeatureOf) else self.backbone

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings, float32 [B, D], of square images [B, 3, H, W] of whole values in 0–255, uint8 or float.

        Images of another side are resized and cut as the card says, to the very bytes that Pillow gives.

        Raises:
            EncoderError: what the network gives is not one vector of the card's length per image.
        """
        pixels = images.to(self.mean.device, torch.float32)
        side = self.card.resize_px or self.card.image_px
        if tuple(pixels.shape[-2:]) != (side, side):
            pixels = resize(pixels, side, self.card.interpolation)
        if side != self.card.image_px:
            pixels = centre(pixels, self.card.image_px)
        embeddings = self.backbone((pixels - self.mean) / self.std).float()
        if embeddings.shape != (len(images), self.card.dim):
            raise EncoderError(
                f"encoder '{self.card.name}' gives {list(embeddings.shape)} for {len(images)} tiles, not one embedding "
                f"[{len(images)}, {self.card.dim}]; its card must say how tokens become an embedding"
            )
        return embeddings


def advice_on(card: EncoderCard, tile_px: int, mpp: float | None) -> str:
    """Return what differs between tiles and those that the encoder was made for, in one sentence; empty if nothing.

    Differences within ``TOLERANCE`` count as none: tiles of 224 px serve an encoder made for 256.
    """
    found = []
    if card.mpp and mpp and abs(mpp / card.mpp - 1) > TOLERANCE:
        found.append(f"{mpp:g} microns per pixel, not {card.mpp:g}")
    if card.tile_px and tile_px < card.tile_px * (1 - TOLERANCE):
        found.append(f"{tile_px} px wide, not {card.tile_px}")
    if not found:
        return ""
    again = f"--mpp {card.mpp:g} " if card.mpp else ""
    return (
        f"note: tiles are {' and '.join(found)}, as '{card.name}' was made for; its features may say less "
        f"(cut such tiles with `histogen tile … {again}--tile-px {card.tile_px or card.image_px}`)"
    )


def key_of(name: str, weights_sha256: str) -> str:
    """Return the card name: ``name`` made safe for a path, and the first 8 digits of the weights' digest."""
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-.') or 'encoder'}-{weights_sha256[:8]}"
