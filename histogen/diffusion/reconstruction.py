"""What an autoencoder is trained on, without a network trained on labels: L1, L1 of gradients at several scales, KL.

Gradients at several scales stand in for the perceptual loss of LDM, which needs a label-trained VGG (our choice).
"""

from __future__ import annotations

import numpy as np
import torch
from diffusers import VQModel
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import avg_pool2d

from histogen.diffusion.autoencoder import Autoencoder, decode, encode
from histogen.diffusion.settings import ReconstructionSettings


def reconstruct(autoencoder: Autoencoder, signal: Tensor, *, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Return the reconstruction [B, 3, H, W] and the latent's own loss (KL in nats per element, or commitment).

    ``noise`` [B, C, h, w] is standard normal; only a KL autoencoder uses it.
    """
    if isinstance(autoencoder, VQModel):
        decoded = decode(autoencoder, encode(autoencoder, signal).latents)
        return decoded.sample, decoded.commit_loss.mean()
    posterior = encode(autoencoder, signal).latent_dist
    mean, log_variance = posterior.mean.float(), posterior.logvar.float()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return decode(autoencoder, mean + torch.exp(0.5 * log_variance) * noise).sample, kl


def reconstruction_loss(
    signal: Tensor, reconstruction: Tensor, latent_loss: Tensor, settings: ReconstructionSettings, *, is_vq: bool
) -> dict[str, Tensor]:
    """Return the terms and their weighted sum ``loss``, each a scalar."""
    answer = reconstruction.float()
    pixel = (answer - signal).abs().mean()
    gradient = gradient_loss(signal, answer)
    weight = settings.commitment_weight if is_vq else settings.kl_weight
    loss = pixel + settings.gradient_weight * gradient + weight * latent_loss
    return {"loss": loss, "pixel": pixel, "gradient": gradient, "commitment" if is_vq else "kl": latent_loss}


def gradient_loss(first: Tensor, second: Tensor, *, scales: tuple[int, ...] = (1, 2, 4)) -> Tensor:
    """Return the mean L1 distance of horizontal and vertical differences of [B, C, H, W], averaged over ``scales``."""
    total = first.new_zeros(())
    for scale in scales:
        error = avg_pool2d(first - second, scale) if scale > 1 else first - second
        total = total + error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return total / len(scales)


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB, the mean over images uint8 [N, H, W, 3]."""
    errors = ((first.astype(np.float64) - second) ** 2).mean(axis=(1, 2, 3))
    return float((10 * np.log10(255.0**2 / np.maximum(errors, 1e-10))).mean())


def ssim(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    """Return scikit-image's structural similarity, the mean over images uint8 [N, H, W, 3]."""
    from skimage.metrics import structural_similarity

    pairs = zip(first, second, strict=True)
    return float(np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs]))
