"""Settings that both trainings of the latent diffusion model have; torch is not needed to check them."""

from __future__ import annotations

from pydantic import Field

from histogen.config import ChosenTiles, StageConfig
from histogen.diffusion.settings import OptimSettings
from histogen.pipelines.heldout import HeldoutSettings


class TrainerConfig(StageConfig, ChosenTiles):
    """Settings that both trainings have."""

    optim: OptimSettings = OptimSettings()
    heldout: HeldoutSettings = HeldoutSettings()
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept."""
    log_every: int = Field(default=20, ge=1)
