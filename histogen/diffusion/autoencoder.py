"""Image to latent and back: diffusers' ``AutoencoderKL`` or ``VQModel``, its moments, its measured standardisation.

What the denoiser sees is ``(latent - mean) / std`` with the autoencoder's own measured statistics: per channel in
``latents_mean`` and ``latents_std`` of an ``AutoencoderKL``; one factor in ``scaling_factor`` of a ``VQModel``, having
no other field. The latent of a ``VQModel`` is the one before quantisation; decoding quantises it (LDM's way).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from diffusers import AutoencoderKL, VQModel
from pydantic import Field, model_validator
from torch import Tensor

from histogen.config import Settings
from histogen.diffusion.hub import readable_name
from histogen.diffusion.weights import weights_digest
from histogen.errors import ConfigError

Autoencoder: TypeAlias = AutoencoderKL | VQModel
NUM_DIHEDRAL = 8


class AutoencoderSettings(Settings):
    """Shape of the autoencoder. The defaults are LDM's KL-f8 (83.7 M parameters)."""

    kind: Literal["kl", "vq"] = "kl"
    """``kl``: a Gaussian posterior; ``vq``: a codebook."""
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each resolution, finest first; n of them reduce by a factor of 2 ** (n - 1)."""
    layers_per_block: int = Field(default=2, ge=1)
    """Residual blocks per resolution in the encoder; the decoder has one more."""
    latent_channels: int = Field(default=4, ge=1)
    """Channels of the latent."""
    norm_groups: int = Field(default=32, ge=1)
    """Groups of the group normalisation."""
    attention: bool = True
    """Self-attention at the coarsest resolution."""
    num_codes: int = Field(default=8192, ge=2)
    """Size of the codebook (vq only)."""

    @model_validator(mode="after")
    def _fits(self) -> AutoencoderSettings:
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels {self.channels} are not multiples of norm_groups {self.norm_groups}")
        return self


def build_autoencoder(settings: AutoencoderSettings, *, tile_px: int) -> Autoencoder:
    """Return a randomly initialised autoencoder for images [B, 3, tile_px, tile_px] in [-1, 1]."""
    levels = len(settings.channels)
    if tile_px % 2 ** (levels - 1):
        raise ConfigError(f"tiles of {tile_px} px cannot be halved {levels - 1} times; use fewer channels entries")
    shared: dict[str, Any] = {
        "block_out_channels": settings.channels,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "layers_per_block": settings.layers_per_block,
        "latent_channels": settings.latent_channels,
        "norm_num_groups": settings.norm_groups,
        "mid_block_add_attention": settings.attention,
        "sample_size": tile_px,
        "scaling_factor": 1.0,
    }
    if settings.kind == "vq":
        return VQModel(num_vq_embeddings=settings.num_codes, vq_embed_dim=settings.latent_channels, **shared)
    return AutoencoderKL(**shared)


def load_autoencoder(folder: Path, device: torch.device | str = "cpu") -> Autoencoder:
    """Open a diffusers autoencoder, frozen and in evaluation mode.

    ``folder`` is a run of train-autoencoder, a diffusers folder, or a file of weights in latent-diffusion's layout.

    Raises:
        ConfigError: there is no ``AutoencoderKL`` or ``VQModel`` there.
    """
    if folder.is_file():
        from histogen.diffusion.published import load_ldm_autoencoder

        return load_ldm_autoencoder(folder).eval().requires_grad_(False).to(device)
    inner = folder / "autoencoder"
    folder = inner if (inner / "config.json").exists() else folder
    if not (folder / "config.json").exists():
        raise ConfigError(f"'{folder}' holds no autoencoder (no config.json); train one with train-autoencoder")
    name = AutoencoderKL.load_config(folder).get("_class_name")
    classes = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    if name not in classes:
        raise ConfigError(f"'{folder}' holds a {name}; AutoencoderKL and VQModel can be used")
    return classes[name].from_pretrained(folder).eval().requires_grad_(False).to(device)


def run_folder(folder: Path) -> Path:
    """Return the run that ``folder`` belongs to: itself, or its parent when it is the exported autoencoder in it."""
    exported = folder.name == "autoencoder" and not (folder / "autoencoder").is_dir()
    return folder.resolve().parent if exported else folder.resolve()


def autoencoder_name(autoencoder: Autoencoder, folder: Path) -> str:
    """Return the name under which its latents are stored: the run's folder name and a digest of the weights."""
    return f"{readable_name(run_folder(folder))}-{weights_digest(autoencoder.state_dict())[:8]}"


def downsampling(autoencoder: Autoencoder) -> int:
    """Return image pixels per latent cell along one side."""
    return 2 ** (len(autoencoder.config["block_out_channels"]) - 1)


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
    encoded = autoencoder.encode(signal)
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
    if config.get("latents_mean") is not None and config.get("latents_std") is not None:
        mean, std = (torch.tensor(config[key], dtype=torch.float32) for key in ("latents_mean", "latents_std"))
    else:
        mean = torch.tensor([float(config.get("shift_factor") or 0.0)])
        std = torch.tensor([1.0 / float(config["scaling_factor"])])
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
    return to_images(autoencoder.decode(unstandardize(autoencoder, standardized)).sample)


def record_statistics(autoencoder: Autoencoder, mean: Tensor, std: Tensor) -> None:
    """Write measured per-channel statistics [C] of raw latents into the autoencoder's config."""
    if isinstance(autoencoder, VQModel):
        scale = float((std.double() ** 2 + mean.double() ** 2).mean().sqrt())
        autoencoder.register_to_config(scaling_factor=1.0 / scale)
        return
    autoencoder.register_to_config(latents_mean=[float(v) for v in mean], latents_std=[float(v) for v in std])
