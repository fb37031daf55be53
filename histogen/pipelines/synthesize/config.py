"""The settings of ``histogen synthesize``; torch is not needed to read and check them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from histogen.config import BulkConfig, ChosenTiles, Precision, Settings
from histogen.diffusion.settings import (
    AlphaSettings,
    Pairing,
    SamplerSettings,
)

PICTURES = (".jpg", ".jpeg", ".png")


class ConsistencySettings(Settings):
    """Whether each tile is embedded again and compared with the embedding it was made from."""

    measure: bool = False
    """Record the cosine in the column ``consistency``."""
    least: float | None = Field(default=None, ge=-1, le=1)
    """Leave out tiles below this cosine (they become absent tiles; the column keeps their cosine)."""
    encoder: str | None = None
    """Where the encoder that conditions the E-LDM lies now; null takes it from where the train-eldm run found it."""

    @property
    def is_measured(self) -> bool:
        """Whether the cosine is needed."""
        return self.measure or self.least is not None


class SynthesizeJpeg(Settings):
    """How tiles are encoded."""

    level: int = Field(default=90, ge=1, le=100)
    """libjpeg's quality."""
    subsampling: Literal["420", "444"] = "420"
    """Chroma subsampling."""


class SynthesizeConfig(BulkConfig, ChosenTiles):
    """Settings of ``synthesize``."""

    eldm: Path
    """A run of ``train-eldm``."""
    kind: Literal["generative", "interpolated"] = "generative"
    """``generative``: from one tile's embedding; ``interpolated``: from slerp(source, partner, alpha)."""
    per_source: int = Field(default=1, ge=1)
    """Synthetic tiles per source tile."""
    pairing: Pairing = "matching"
    """How partners are chosen; see ``histogen.diffusion.pairing.choose_partners``."""
    nearest: int = Field(default=16, ge=1)
    """Neighbours among which ``neighbours`` chooses."""
    alpha: AlphaSettings = AlphaSettings()
    sampler: SamplerSettings | None = None
    """Null takes what the train-eldm run recommends."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Tiles per pass through the denoiser; fixed, the last padded. Null is 16, on a GPU 128. What it stands for is
    recorded: part of what a tile's bytes depend on."""
    decode_batch: int | None = Field(default=None, ge=1)
    """Tiles per pass through the decoder; as ``micro_batch``, but 32 on a GPU."""
    precision: Precision = "auto"
    """Arithmetic of the networks; auto is bfloat16 where the hardware multiplies it, else float32. What it stands for
    is recorded: part of what a tile's bytes depend on."""
    consistency: ConsistencySettings = ConsistencySettings()
    jpeg: SynthesizeJpeg = SynthesizeJpeg()
    recreate: str | None = None
    """STORE:INDEX of a synthetic tile to make again from its row; ``out`` is then the picture (.jpg or .png)."""

    @model_validator(mode="after")
    def _out_fits(self) -> SynthesizeConfig:
        suffix = self.out.suffix.lower()
        if self.recreate is None and suffix == ".zarr":
            raise ValueError(f"out '{self.out}' cannot be one store: there is one per source store; name a folder")
        if self.recreate is not None and suffix not in PICTURES:
            raise ValueError(
                f"recreate makes a picture, and out '{self.out}' is no picture; let it end in {' or '.join(PICTURES)}"
            )
        return self
