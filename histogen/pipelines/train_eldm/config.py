"""The settings of ``histogen train-eldm``; torch is not needed to read and check them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from histogen.config import BulkConfig, Settings
from histogen.diffusion.settings import (
    DenoiserSettings,
    ObjectiveSettings,
    SamplerSettings,
)
from histogen.pipelines.trainer_config import TrainerConfig


class WatchSettings(Settings):
    """What is measured and drawn on the way."""

    heldout_every: int = Field(default=1000, ge=1)
    """Steps between held-out losses (with the averaged weights, on fixed noise)."""
    heldout_tiles: int = Field(default=256, ge=1)
    """Tiles of the held-out loss."""
    preview_every: int | None = Field(default=5000, ge=1)
    """Steps between pictures of fixed sources and fixed noise; null draws none."""
    preview_tiles: int = Field(default=8, ge=1)
    """Sources in a picture."""


class TrainEldmConfig(BulkConfig, TrainerConfig):
    """Settings of ``train-eldm``."""

    encoder: str
    """The conditioning encoder: a run of ``pretrain``, ``timm:NAME``, …"""
    autoencoder: str
    """A run of ``train-autoencoder``, a folder with a diffusers ``AutoencoderKL`` or ``VQModel``, a file in
    latent-diffusion's layout, or a name of the hub (``hf:stabilityai/sd-vae-ft-mse``)."""
    inputs: Literal["cached", "online"] = "cached"
    """``cached``: moments and embeddings from the stores, computed first where missing; ``online``: per step."""
    variants: int = Field(default=8, ge=1, le=8)
    """Dihedral variants cached per tile: 8 turns and flips, 4 turns, or 1 for the tile as it lies."""
    init: str | None = None
    """Weights to start from: a file in latent-diffusion's layout, here or on the hub (``hf:ORG/NAME/FILE``), whose
    shape takes the place of ``model``'s. Null starts from random weights, as the method asks: the published ones were
    trained with labels."""
    init_supervision: str = "unknown"
    """What labels, if any, made the weights of ``init``; recorded."""
    model: DenoiserSettings = DenoiserSettings()
    objective: ObjectiveSettings = ObjectiveSettings()
    watch: WatchSettings = WatchSettings()
    sampler: SamplerSettings = SamplerSettings()
    """How previews are sampled, and what ``synthesize`` takes unless told otherwise."""
    drop: float = Field(default=0.1, ge=0, le=1)
    """Probability of the null in place of the embedding; the group's published value."""
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)
    """Largest decay of the averaged weights; it warms up as (1 + step) / (10 + step)."""
