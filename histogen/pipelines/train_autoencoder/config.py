"""The settings of ``histogen train-autoencoder``; torch is not needed to read and check them."""

from __future__ import annotations

from pydantic import Field

from histogen.diffusion.settings import (
    AutoencoderSettings,
    OptimSettings,
    ReconstructionSettings,
)
from histogen.pipelines.trainer_config import TrainerConfig


class AutoencoderOptim(OptimSettings):
    """As the base; the learning rate is LDM's order of magnitude for batches of this size."""

    batch: int = Field(default=16, ge=1)
    """Tiles per step."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's."""


class TrainAutoencoderConfig(TrainerConfig):
    """Settings of ``train-autoencoder``."""

    model: AutoencoderSettings = AutoencoderSettings()
    loss: ReconstructionSettings = ReconstructionSettings()
    optim: AutoencoderOptim = AutoencoderOptim()
    crop_px: int | None = Field(default=None, ge=8)
    """Train on random crops of this side; null takes whole tiles. The network is convolutional: it runs at any size."""
