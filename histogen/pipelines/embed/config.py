"""The settings of ``histogen embed``; torch is not needed to read and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from histogen.config import BulkConfig, Precision, StorePath


class EmbedConfig(BulkConfig):
    """What ``histogen embed`` understands; the embeddings go into the stores, so ``out`` has no meaning here."""

    out: Path = Path()
    """Not used: each store takes its own embeddings."""
    tiles: list[StorePath]
    """Tile stores, folders of them, or manifests."""
    encoder: str
    """A run of ``histogen pretrain``, a published encoder (``uni2``, ``uni2@FILE``, a card of your own: ``card.yaml``;
    `histogen encoders` lists them), ``timm:NAME``, ``transformers:FOLDER``, or a DINO ``.pth``."""
    batch: int = Field(default=64, ge=1)
    """Tiles per forward pass. Every pass has exactly this many (the last one padded): bytes depend on nothing else."""
    precision: Precision = "auto"
    """Arithmetic of the network; auto is bfloat16 where the hardware multiplies it, else float32, and differs in the
    third digit. Embeddings that are begun are finished as they were."""
    dtype: Literal["float32", "float16"] = "float32"
    """How embeddings are stored."""
