"""New autoencoders from a few settings."""

from __future__ import annotations

from typing import Any

from diffusers import AutoencoderKL, VQModel

from histogen.diffusion.autoencoder import Autoencoder
from histogen.diffusion.settings import AutoencoderSettings
from histogen.errors import ConfigError


def build_autoencoder(settings: AutoencoderSettings, *, tile_px: int) -> Autoencoder:
    """Return a randomly initialised autoencoder for images [B, 3, tile_px, tile_px] in [-1, 1]."""
    levels, square = len(settings.channels), settings.unshuffle
    if tile_px % square:
        raise ConfigError(f"tiles of {tile_px} px are not whole squares of unshuffle {square} px; use a divisor")
    if tile_px // square % 2 ** (levels - 1):
        raise ConfigError(
            f"tiles of {tile_px} px{f' in squares of {square} px' if square > 1 else ''} cannot be halved "
            f"{levels - 1} times; use fewer channels entries"
        )
    shared: dict[str, Any] = {
        "in_channels": 3 * square**2,
        "out_channels": 3 * square**2,
        "block_out_channels": settings.channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": settings.layers_per_block,
        "latent_channels": settings.latent_channels,
        "norm_num_groups": settings.norm_groups,
        "mid_block_add_attention": settings.attention,
        "sample_size": tile_px // square,
        "scaling_factor": 1.0,
    }
    if settings.kind == "vq":
        return VQModel(num_vq_embeddings=settings.num_codes, vq_embed_dim=settings.latent_channels, **shared)
    return AutoencoderKL(**shared)
