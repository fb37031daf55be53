"""Targets and weights against their definitions and against diffusers' own schedulers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from histogen.diffusion.loss import Objective, build_scheduler, by_noise_level, sample_timesteps
from histogen.diffusion.settings import ObjectiveSettings


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 6, 4, 3, 3, generator=generator).unbind()
    return latents, noise, torch.tensor([0, 1, 250, 500, 900, 999])


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_noise_and_target_equal_diffusers(kind: str) -> None:
    settings = ObjectiveSettings(kind=kind)
    latents, noise, timesteps = batch()
    scheduler = build_scheduler(settings)
    assert isinstance(scheduler, DDPMScheduler)
    objective = Objective(settings)
    noised = objective.add_noise(latents, noise, timesteps)
    torch.testing.assert_close(noised, scheduler.add_noise(latents, noise, timesteps), rtol=0, atol=1e-5)
    expected = noise if kind == "eps" else scheduler.get_velocity(latents, noise, timesteps)
    torch.testing.assert_close(objective.target(latents, noise, timesteps), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["eps", "v", "flow"])
def test_the_target_leads_back_to_the_data(kind: str) -> None:
    objective = Objective(ObjectiveSettings(kind=kind))
    latents, noise, timesteps = batch()
    timesteps = timesteps.clamp(max=900)
    noised, target = objective.add_noise(latents, noise, timesteps), objective.target(latents, noise, timesteps)
    a, s = (level[timesteps].float().view(-1, 1, 1, 1) for level in (objective.signal, objective.noise))
    data = {"eps": (noised - s * target) / a, "v": a * noised - s * target, "flow": noised - s * target}[kind]
    torch.testing.assert_close(data, latents, rtol=0, atol=2e-5)


def test_flow_is_a_straight_path_that_the_scheduler_shares() -> None:
    objective, scheduler = Objective(ObjectiveSettings(kind="flow")), build_scheduler(ObjectiveSettings(kind="flow"))
    timesteps = torch.tensor([0, 499, 999])
    sigmas = {float(t): float(s) for t, s in zip(scheduler.timesteps, scheduler.sigmas, strict=True)}
    for timestep in timesteps:
        time = float(objective.model_time(timestep))
        assert float(objective.noise[timestep]) == pytest.approx(sigmas[time], abs=1e-6)


def test_min_snr_weights_against_the_definition() -> None:
    timesteps = torch.tensor([0, 10, 100, 400, 999])
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    alpha_bar = np.cumprod(1 - betas)[timesteps.numpy()]
    snr = alpha_bar / (1 - alpha_bar)
    for kind, divisor in (("eps", snr), ("v", snr + 1)):
        weights = Objective(ObjectiveSettings(kind=kind, min_snr_gamma=5)).weight(timesteps).numpy()
        np.testing.assert_allclose(weights, np.minimum(snr, 5) / divisor, rtol=1e-5)
    assert Objective(ObjectiveSettings(kind="eps")).weight(timesteps).tolist() == [1.0] * 5


def test_timesteps_are_uniform_and_one_per_stratum() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack([sample_timesteps(20, generator=generator) for _ in range(500)])
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    for row in drawn[:50]:
        gaps = row.sort().values.diff()
        assert gaps.min() >= 49
        assert gaps.max() <= 51
    counts = np.bincount((drawn[:, 0] // 100).numpy(), minlength=10)
    assert counts.min() > 25  # 50 expected of each tenth


def test_errors_are_reported_by_noise_level() -> None:
    errors, timesteps = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([0, 249, 999])
    assert by_noise_level(errors, timesteps) == {"loss_t0": 2.0, "loss_t3": 10.0}
