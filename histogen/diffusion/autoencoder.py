"""Image to latent and back: diffusers' ``AutoencoderKL`` or ``VQModel``, its moments, its measured standardisation.

What the denoiser sees is ``(latent - mean) / std`` with the autoencoder's own measured statistics, read and written as
diffusers does: of an ``AutoencoderKL`` ``scaling_factor`` is 1 over the standard deviation of all latents, and
``latents_mean`` and ``latents_std / scaling_factor`` are those of each channel; a ``VQModel`` has only the factor. The
latent of a ``VQModel`` is the one before quantisation; decoding quantises it (LDM's way).

A network of 3 u² channels takes squares of u pixels as channels (``unshuffle``): :func:`encode` and :func:`decode`
rearrange them, so everything around them sees images [B, 3, H, W].
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from histogen.errors import ConfigError

Autoencoder: TypeAlias = AutoencoderKL | VQModel
NUM_DIHEDRAL = 8


def unshuffling(autoencoder: Autoencoder) -> int:
    """Return u, the side of the squares of pixels that are channels to the network; 1 where they are not."""
    return math.isqrt(int(autoencoder.config["in_channels"]) // 3)


def downsampling(autoencoder: Autoencoder) -> int:
    """Return image pixels per latent cell along one side."""
    return int(unshuffling(autoencoder) * 2 ** (len(autoencoder.config["block_out_channels"]) - 1))


def encode(autoencoder: Autoencoder, signal: Tensor) -> Any:
    """Return diffusers' answer for a signal [B, 3, H, W]: a posterior, or the latents of a VQ autoencoder."""
    return autoencoder.encode(pixel_unshuffle(signal, unshuffling(autoencoder)))


def decode(autoencoder: Autoencoder, latents: Tensor) -> Any:
    """Return diffusers' answer for raw latents [B, C, h, w]; its ``sample`` is a signal [B, 3, H, W]."""
    decoded = autoencoder.decode(latents)
    decoded.sample = pixel_shuffle(decoded.sample, unshuffling(autoencoder))
    return decoded


def latent_channels(autoencoder: Autoencoder) -> int:
    """Return C, the channels of the latent."""
    return int(autoencoder.config["latent_channels"])


def check_tile_px(autoencoder: Autoencoder, tile_px: int) -> None:
    """Raise ConfigError unless tiles of ``tile_px`` are whole latent cells: others would come back in another size."""
    cell = downsampling(autoencoder)
    if tile_px % cell:
        raise ConfigError(
            f"tiles of {tile_px} px are not whole latent cells of {cell} px; use tiles of a multiple of {cell} px, or "
            "an autoencoder with fewer channels entries"
        )


def to_signal(images: Tensor) -> Tensor:
    """Return uint8 images [B, H, W, 3] as float32 [B, 3, H, W] in [-1, 1]."""
    return images.permute(0, 3, 1, 2).float() / 127.5 - 1


def to_images(signal: Tensor) -> Tensor:
    """Return [B, 3, H, W] in [-1, 1] as uint8 images [B, H, W, 3]; what lies beyond is cut off."""
    return ((signal.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous()


def dihedral(images: Tensor, variant: int) -> Tensor:
    """Return square images [..., H, W] (last two axes) turned by ``variant % 4`` quarters, mirrored for 4 … 7."""
    turned = torch.rot90(images, variant % 4, dims=(-2, -1))
    return turned.flip(-1) if variant >= 4 else turned


@torch.no_grad()
def encode_moments(autoencoder: Autoencoder, signal: Tensor) -> Tensor:
    """Return what a latent is drawn from, float32: [B, 2C, h, w] (mean, log variance) for KL, [B, C, h, w] for VQ."""
    encoded = encode(autoencoder, signal)
    if isinstance(autoencoder, VQModel):
        return encoded.latents.float()
    posterior = encoded.latent_dist
    return torch.cat([posterior.mean, posterior.logvar], dim=1).float()


def draw_latents(autoencoder_channels: int, moments: Tensor, noise: Tensor | None) -> Tensor:
    """Return raw latents [B, C, h, w] of ``moments``: mean + std * ``noise``; the mean for None and for VQ."""
    if moments.shape[1] == autoencoder_channels or noise is None:
        return moments[:, :autoencoder_channels].float()
    mean, log_variance = moments.float().chunk(2, dim=1)
    return mean + torch.exp(0.5 * log_variance.clamp(-30, 20)) * noise


def latent_statistics(autoencoder: Autoencoder, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return (mean, std), each [1, C or 1, 1, 1], that standardise raw latents, on the device of ``like``."""
    config = autoencoder.config
    per_channel = config.get("latents_mean") is not None and config.get("latents_std") is not None
    means = config["latents_mean"] if per_channel else [float(config.get("shift_factor") or 0.0)]
    stds = config["latents_std"] if per_channel else [1.0]
    mean = torch.tensor(means, dtype=torch.float32)
    std = torch.tensor([value / float(config["scaling_factor"]) for value in stds], dtype=torch.float32)
    return mean.view(1, -1, 1, 1).to(like.device), std.view(1, -1, 1, 1).to(like.device)


def standardize(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Return raw latents [B, C, h, w] as the denoiser sees them."""
    mean, std = latent_statistics(autoencoder, latents)
    return (latents.float() - mean) / std


def unstandardize(autoencoder: Autoencoder, latents: Tensor) -> Tensor:
    """Return the inverse of :func:`standardize`."""
    mean, std = latent_statistics(autoencoder, latents)
    return latents.float() * std + mean


@torch.no_grad()
def decode_latents(autoencoder: Autoencoder, standardized: Tensor) -> Tensor:
    """Return uint8 images [B, H, W, 3] of standardised latents [B, C, h, w]."""
    return to_images(decode(autoencoder, unstandardize(autoencoder, standardized)).sample)


def record_statistics(autoencoder: Autoencoder, mean: Tensor, std: Tensor) -> None:
    """Write measured per-channel statistics [C] of raw latents into the autoencoder's config."""
    mean, std = mean.double(), std.double()
    power = (std**2 + mean**2).mean()
    if isinstance(autoencoder, VQModel):
        autoencoder.register_to_config(scaling_factor=1.0 / (float(power.sqrt()) or 1.0))
        return
    factor = 1.0 / (float((power - mean.mean() ** 2).sqrt()) or 1.0)
    autoencoder.register_to_config(
        scaling_factor=factor, latents_mean=mean.tolist(), latents_std=(std * factor).tolist()
    )
