"""Samplers against the exact answer for Gaussian data, guidance, and its interval."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histogen.diffusion.loss import Objective, build_scheduler
from histogen.diffusion.sampling import SAMPLERS, num_evaluations, sample_latents
from histogen.diffusion.settings import ObjectiveSettings, SamplerSettings
from histogen.errors import ConfigError

MEAN, STD = 0.7, 0.5


class GaussianDenoiser:
    """The perfect denoiser of data N(MEAN, STD^2): the posterior mean is known at every level."""

    def __init__(self, kind: str) -> None:
        self.kind, self.objective, self.calls = kind, Objective(ObjectiveSettings(kind=kind)), 0

    def levels(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.kind == "flow":
            noise = time.double() / 1000
            return 1 - noise, noise
        signal = np.interp(time.double().numpy(), np.arange(1000), self.objective.signal.numpy())
        return torch.from_numpy(signal), torch.from_numpy(np.sqrt(1 - signal**2))

    def __call__(self, latents: torch.Tensor, time: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        a, s = (level.view(-1, 1, 1, 1) for level in self.levels(time))
        x = latents.double()
        data = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)
        noise = (x - a * data) / s
        return {"eps": noise, "v": a * noise - s * data, "flow": noise - data}[self.kind].float()

    def exact(self, noise: torch.Tensor) -> torch.Tensor:
        """What the probability-flow equation makes of starting noise: linear, since everything is Gaussian."""
        if self.kind == "flow":
            return MEAN + STD * noise
        a, s = float(self.objective.signal[-1]), float(self.objective.noise[-1])
        return MEAN + STD * (noise - a * MEAN) / (a**2 * STD**2 + s**2) ** 0.5


def sample(kind: str, name: str, steps: int) -> tuple[float, int]:
    denoiser = GaussianDenoiser(kind)
    noise = torch.randn(64, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    null = torch.zeros(64, 2)
    settings = SamplerSettings(name=name, steps=steps, guidance=1)
    trained = build_scheduler(ObjectiveSettings(kind=kind))
    made = sample_latents(denoiser, noise, null, null, settings=settings, trained=trained)
    return float((made - denoiser.exact(noise)).square().mean().sqrt()) / STD, denoiser.calls


@pytest.mark.parametrize(
    ("kind", "name", "steps", "error"),
    [
        ("eps", "dpmpp_2m", 20, 0.04),
        ("v", "dpmpp_2m", 20, 0.04),
        ("v", "unipc", 20, 0.04),
        ("v", "heun", 20, 0.04),
        ("v", "ddim", 200, 0.04),
        ("flow", "flow_euler", 100, 0.04),
        ("flow", "dpmpp_2m", 20, 0.04),
        ("flow", "unipc", 20, 0.04),
    ],
)
def test_every_sampler_reaches_the_exact_answer(kind: str, name: str, steps: int, error: float) -> None:
    measured, calls = sample(kind, name, steps)
    assert measured < error
    assert calls == (2 * steps - 1 if name == "heun" else steps)


def test_ddim_is_of_first_order() -> None:
    coarse, fine = (sample("v", "ddim", steps)[0] for steps in (100, 500))
    assert 3 < coarse / fine < 6


def test_ddim_steps_that_do_not_divide_the_schedule_are_refused() -> None:
    with pytest.raises(ConfigError, match="must divide 1000"):
        sample("v", "ddim", 400)


@pytest.mark.parametrize(("kind", "name"), [("flow", "ddim"), ("flow", "heun"), ("v", "flow_euler")])
def test_a_sampler_that_does_not_fit_the_model_is_refused(kind: str, name: str) -> None:
    with pytest.raises(ConfigError, match="use dpmpp_2m"):
        sample(kind, name, 4)


class Told:
    """Answers with what it was told, and counts rows."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, latents: torch.Tensor, time: torch.Tensor, conditioning: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(latents))
        return conditioning[:, :1, None, None] * torch.ones_like(latents)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "flow_euler"])
def test_guidance_of_one_is_conditional_only(name: str) -> None:
    trained = build_scheduler(ObjectiveSettings(kind="eps"))
    noise = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    told, null = torch.full((3, 2), 0.3), torch.zeros(3, 2)
    answers, rows = [], []
    for guidance in (1.0, 2.0):
        denoiser = Told()
        settings = SamplerSettings(name=name, steps=5, guidance=guidance, interval=(0.0, 1.0))
        # at guidance 2 a doubled condition halved by the null's 0 must give the same answer as guidance 1
        given = told if guidance == 1 else told / 2
        answers.append(sample_latents(denoiser, noise, given, null, settings=settings, trained=trained))
        rows.append(set(denoiser.rows))
    assert rows == [{3}, {6}]
    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=1e-5)


def test_guidance_acts_on_its_interval_only() -> None:
    trained = build_scheduler(ObjectiveSettings(kind="v"))
    denoiser, zeros = Told(), torch.zeros(2, 2)
    settings = SamplerSettings(steps=20, interval=(0.05, 0.55))
    sample_latents(denoiser, torch.zeros(2, 1, 2, 2), zeros, zeros, settings=settings, trained=trained)
    guided = [rows == 4 for rows in denoiser.rows]
    assert any(guided)
    assert not guided[0]
    assert not guided[-1]
    assert num_evaluations(settings, trained) == 20 + sum(guided)
    everywhere = SamplerSettings(steps=20, interval=(0.0, 1.0))
    assert num_evaluations(everywhere, trained) == 40


def test_the_default_costs_a_third_of_ddim_with_full_guidance() -> None:
    trained = build_scheduler(ObjectiveSettings())
    published = SamplerSettings(name="ddim", steps=50, interval=(0.0, 1.0))
    assert num_evaluations(published, trained) == 100
    assert num_evaluations(SamplerSettings(), trained) * 3 <= 100
