"""What the denoiser is asked for: eps, v or flow targets, noise levels drawn in strata, min-SNR weights."""

from __future__ import annotations

import torch
from diffusers import DDPMScheduler, FlowMatchEulerDiscreteScheduler, SchedulerMixin
from torch import Tensor

from histogen.diffusion.settings import ObjectiveSettings

NUM_TIMESTEPS = 1000


def build_scheduler(settings: ObjectiveSettings) -> SchedulerMixin:
    """Return the diffusers scheduler that defines the noise of training; saved in the pipeline for sampling."""
    if settings.kind == "flow":
        return FlowMatchEulerDiscreteScheduler(num_train_timesteps=NUM_TIMESTEPS)
    return DDPMScheduler(
        num_train_timesteps=NUM_TIMESTEPS,
        beta_start=settings.beta_start,
        beta_end=settings.beta_end,
        beta_schedule="scaled_linear",
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[settings.kind],
        clip_sample=False,
    )


class Objective:
    """Noises latents and scores the denoiser's answer; the schedule is float64 inside.

    With ``signal`` a and ``noise`` s of a level, the noised latent is ``a x + s n``; a and s are the square roots of
    alpha-bar and its complement for eps and v, and ``1 - t`` and ``t`` for flow.
    """

    def __init__(self, settings: ObjectiveSettings, device: torch.device | str = "cpu") -> None:
        self.settings = settings
        steps = torch.arange(NUM_TIMESTEPS, dtype=torch.float64)
        if settings.kind == "flow":
            noise = (steps + 1) / NUM_TIMESTEPS
            self.signal, self.noise = (1 - noise).to(device), noise.to(device)
            return
        root = torch.linspace(settings.beta_start**0.5, settings.beta_end**0.5, NUM_TIMESTEPS, dtype=torch.float64)
        alpha_bar = torch.cumprod(1 - root**2, dim=0)
        self.signal, self.noise = alpha_bar.sqrt().to(device), (1 - alpha_bar).sqrt().to(device)

    def model_time(self, timesteps: Tensor) -> Tensor:
        """Return what the U-Net is given as time: diffusers' flow schedulers count from 1, the others from 0."""
        return timesteps + 1 if self.settings.kind == "flow" else timesteps

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return the noised latents [B, C, h, w] at integer ``timesteps`` [B] in [0, 1000)."""
        a, s = self._levels(timesteps, latents)
        return a * latents + s * noise

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return what the denoiser should answer, [B, C, h, w]."""
        if self.settings.kind == "eps":
            return noise
        if self.settings.kind == "flow":
            return noise - latents
        a, s = self._levels(timesteps, latents)
        return a * noise - s * latents

    def weight(self, timesteps: Tensor) -> Tensor:
        """Return the loss weight float32 [B]: min(SNR, gamma) over SNR for eps, over SNR + 1 for v; 1 for flow."""
        gamma = self.settings.min_snr_gamma
        if gamma is None or self.settings.kind == "flow":
            return torch.ones(len(timesteps), device=timesteps.device)
        snr = (self.signal[timesteps] / self.noise[timesteps]) ** 2
        clipped = snr.clamp(max=gamma)
        return (clipped / (snr if self.settings.kind == "eps" else snr + 1)).float()

    def _levels(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        shape = (-1,) + (1,) * (like.ndim - 1)
        return self.signal[timesteps].to(like.dtype).view(shape), self.noise[timesteps].to(like.dtype).view(shape)


def sample_timesteps(batch: int, *, generator: torch.Generator) -> Tensor:
    """Return int64 [batch] timesteps, uniform in [0, 1000), one in each of ``batch`` equal strata.

    Each is exactly uniform on its own; together they cover the noise levels evenly, which lowers the variance of the
    gradient (Kingma et al. 2021, VDM, appendix I.1).
    """
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    places = (offset + torch.arange(batch, dtype=torch.float64) / batch) % 1.0
    return (places * NUM_TIMESTEPS).long().clamp_(max=NUM_TIMESTEPS - 1)


def per_sample_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared error of each sample, float32 [B]."""
    return (prediction.float() - target.float()).square().flatten(1).mean(1)


def by_noise_level(errors: Tensor, timesteps: Tensor, *, num_bins: int = 4) -> dict[str, float]:
    """Return the mean error in each of ``num_bins`` equal ranges of timesteps that has any; keys ``loss_t0`` …"""
    errors, timesteps = errors.cpu(), timesteps.cpu()  # two transfers, where asking the device would be two a range
    bins = timesteps * num_bins // NUM_TIMESTEPS
    return {f"loss_t{b}": float(errors[bins == b].mean()) for b in range(num_bins) if bool((bins == b).any())}
