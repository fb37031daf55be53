"""A tiny E-LDM of random weights, and tiles with structure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histogen.diffusion.autoencoder import record_statistics
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.denoiser import build_denoiser
from histogen.diffusion.loss import build_scheduler
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.settings import AutoencoderSettings, DenoiserSettings, ObjectiveSettings

DENOISER = DenoiserSettings(channels=(16, 32), layers_per_block=1, head_width=16, norm_groups=8, cross_attention_dim=8)
AUTOENCODER = AutoencoderSettings(
    channels=(8, 16), layers_per_block=1, latent_channels=3, norm_groups=4, attention=False
)


@pytest.fixture(scope="session")
def tiny_pipeline() -> EldmPipeline:
    """Tiles of 16 px from embeddings [6]."""
    torch.manual_seed(0)
    autoencoder = build_autoencoder(AUTOENCODER, tile_px=16).eval()
    record_statistics(autoencoder, torch.tensor([0.5, -1.0, 0.2]), torch.tensor([2.0, 0.5, 1.0]))
    unet = build_denoiser(DENOISER, latent_channels=3, latent_px=8, embedding_dim=6).eval()
    conditioner = Conditioner(6, DENOISER.injection)
    conditioner.fit(torch.randn(50, 6) + 1)
    scheduler = build_scheduler(ObjectiveSettings())
    pipeline = EldmPipeline(unet, autoencoder, scheduler, conditioner, encoder_name="e", supervision="none")
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """12 structured uint8 tiles [12, 16, 16, 3]."""
    y, x = np.mgrid[:16, :16]
    waves = [np.sin(x * (k + 1) / 3.0 + k) * np.cos(y * (k % 4 + 1) / 4.0) for k in range(12)]
    return np.stack([np.stack([127 + 90 * w, 120 + 60 * w.T, 140 - 80 * w], -1) for w in waves]).astype(np.uint8)
