"""The U-Net of the E-LDM: diffusers' ``UNet2DConditionModel`` from a few settings."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from histogen.diffusion.settings import DenoiserSettings

MOST_PLAIN_TOKENS = 512
"""Up to so many tokens, training on the CPU attends by plain matrix products; see :func:`attend_fast`."""


def build_denoiser(
    settings: DenoiserSettings,
    *,
    latent_channels: int,
    latent_px: int,
    embedding_dim: int,
    num_heads: int | None = None,
) -> UNet2DConditionModel:
    """Return a randomly initialised U-Net on latents [B, latent_channels, latent_px, latent_px].

    ``num_heads``, when given, is the number of attention heads everywhere, whatever their width.
    """
    uses = settings.uses_attention
    return UNet2DConditionModel(
        sample_size=latent_px,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=settings.channels,
        layers_per_block=settings.layers_per_block,
        norm_num_groups=settings.norm_groups,
        down_block_types=tuple("CrossAttnDownBlock2D" if use else "DownBlock2D" for use in uses),
        up_block_types=tuple("CrossAttnUpBlock2D" if use else "UpBlock2D" for use in reversed(uses)),
        attention_head_dim=num_heads or _num_heads(settings),
        **_injection_arguments(settings, embedding_dim),
    )


def attend_fast(unet: UNet2DConditionModel, device: torch.device) -> None:
    """Let ``unet`` attend in the way that trains faster on ``device``; the answers are equal up to rounding.

    The fused attention of torch's CPU backend is slow backwards on few tokens: 54 against 15 ms at 144 tokens of 32
    rows and 4 heads, which is a fifth of a whole training step of the U-Net around it; at 1,024 they are equal.
    """
    attends = ["CrossAttn" in kind for kind in unet.config["down_block_types"]]
    finest = attends.index(True) if any(attends) else len(attends) - 1
    tokens = (unet.config["sample_size"] // 2**finest) ** 2
    if device.type == "cpu" and tokens <= MOST_PLAIN_TOKENS:
        unet.set_attn_processor(AttnProcessor())


def _num_heads(settings: DenoiserSettings) -> tuple[int, ...]:
    # diffusers' ``attention_head_dim`` means the number of heads in this class (a known naming trap)
    return tuple(1 if settings.head_width is None else max(1, c // settings.head_width) for c in settings.channels)


def _injection_arguments(settings: DenoiserSettings, embedding_dim: int) -> dict[str, Any]:
    if settings.injection in ("token", "k_tokens"):
        kind = "text_proj" if settings.injection == "token" else "image_proj"
        return {
            "cross_attention_dim": settings.cross_attention_dim,
            "encoder_hid_dim": embedding_dim,
            "encoder_hid_dim_type": kind,
        }
    return {
        # diffusers' blocks cannot do without cross-attention: it sees one constant zero of width 1 and adds a bias
        "cross_attention_dim": 1,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": embedding_dim,
        "resnet_time_scale_shift": "scale_shift" if settings.injection == "adaln" else "default",
    }
