"""Samplers by name over diffusers' schedulers, and the denoising loop with guidance on an interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import diffusers
import torch
from diffusers import SchedulerMixin
from torch import Tensor

from histogen.errors import ConfigError


class Sampler(Protocol):
    """How a tile is sampled; histogen.diffusion.settings.SamplerSettings says what each means."""

    @property
    def name(self) -> str: ...
    @property
    def steps(self) -> int: ...
    @property
    def guidance(self) -> float: ...
    @property
    def interval(self) -> tuple[float, float]: ...


@dataclass(frozen=True)
class Recipe:
    """A diffusers scheduler, its options on a noise schedule, and its options on a flow model (None: cannot)."""

    scheduler: str
    noise: Mapping[str, Any] | None
    flow: Mapping[str, Any] | None


FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
# Steps spread evenly over timesteps leave one long last step, which shrinks the variance: against the exact answer for
# Gaussian data of standard deviation 0.2 (tests/diffusion/test_sampling.py), 20 steps err by 46 %, Karras' by 0.3 %.
KARRAS = {"use_karras_sigmas": True}
DPMPP_2M = Recipe(
    "DPMSolverMultistepScheduler",
    {"algorithm_type": "dpmsolver++", "solver_order": 2, **KARRAS},
    {"algorithm_type": "dpmsolver++", "solver_order": 2, **FLOW},
)
DDIM = Recipe("DDIMScheduler", {"timestep_spacing": "trailing", "set_alpha_to_one": True}, None)
UNIPC = Recipe("UniPCMultistepScheduler", KARRAS, FLOW)
HEUN = Recipe("HeunDiscreteScheduler", KARRAS, None)
FLOW_EULER = Recipe("FlowMatchEulerDiscreteScheduler", None, {})

SAMPLERS: Mapping[str, Recipe] = {
    "dpmpp_2m": DPMPP_2M,
    "ddim": DDIM,
    "unipc": UNIPC,
    "heun": HEUN,
    "flow_euler": FLOW_EULER,
}
"""Deterministic samplers: from the same starting noise the same image."""


def build_sampler(settings: Sampler, trained: SchedulerMixin) -> SchedulerMixin:
    """Return a fresh scheduler of ``settings.name`` on the noise that the model was ``trained`` with.

    Raises:
        ConfigError: the sampler cannot run on that kind of model.
    """
    is_flow = "FlowMatch" in type(trained).__name__
    able = {name: options for name in SAMPLERS if (options := _options(name, is_flow=is_flow)) is not None}
    if settings.name not in able:
        kind = "flow" if is_flow else "eps or v"
        raise ConfigError(f"sampler '{settings.name}' cannot run a model trained as {kind}; use {', '.join(able)}")
    shared = {"num_train_timesteps": trained.config["num_train_timesteps"]}
    if settings.name == "ddim" and shared["num_train_timesteps"] % settings.steps:
        # diffusers' DDIM steps back by a whole number of timesteps, and then ends somewhere else than at the data
        raise ConfigError(f"ddim with {settings.steps} steps: they must divide {shared['num_train_timesteps']}; use 50")
    if not is_flow:
        if trained.config["prediction_type"] not in ("epsilon", "v_prediction"):
            raise ConfigError(
                f"a model that predicts '{trained.config['prediction_type']}' cannot be sampled; train it again"
            )
        keys = ("beta_start", "beta_end", "beta_schedule", "prediction_type")
        shared |= {key: trained.config[key] for key in keys}
        if settings.name == "ddim":
            shared["clip_sample"] = False
    scheduler = getattr(diffusers, SAMPLERS[settings.name].scheduler)(**shared, **able[settings.name])
    scheduler.set_timesteps(settings.steps)
    return scheduler


def _options(name: str, *, is_flow: bool) -> Mapping[str, Any] | None:
    return SAMPLERS[name].flow if is_flow else SAMPLERS[name].noise


def guided_at(settings: Sampler, time: float) -> bool:
    """Whether guidance acts at ``time`` in [0, 1] (0 is data)."""
    return settings.guidance != 1 and settings.interval[0] <= time <= settings.interval[1]


Denoiser = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noised latents [B, C, h, w], time [B], conditioning [B, D]) -> the network's answer [B, C, h, w]."""


@torch.no_grad()
def sample_latents(
    denoiser: Denoiser,
    noise: Tensor,
    conditioning: Tensor,
    null: Tensor,
    *,
    settings: Sampler,
    trained: SchedulerMixin,
) -> Tensor:
    """Denoise standard normal ``noise`` [B, C, h, w] into latents of the same shape, float32.

    A guided step sends one doubled batch (conditional, null) through the network.
    """
    scheduler = build_sampler(settings, trained)
    latents = noise.float() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    horizon = float(scheduler.config["num_train_timesteps"])
    for timestep in scheduler.timesteps:
        scaled = scheduler.scale_model_input(latents, timestep) if hasattr(scheduler, "scale_model_input") else latents
        time = timestep.to(latents.device).expand(len(latents))
        if guided_at(settings, float(timestep) / horizon):
            both = denoiser(torch.cat([scaled, scaled]), torch.cat([time, time]), torch.cat([conditioning, null]))
            told, untold = both.float().chunk(2)
            answer = untold + settings.guidance * (told - untold)
        else:
            answer = denoiser(scaled, time, conditioning).float()
        latents = scheduler.step(answer, timestep, latents, return_dict=False)[0]
    return latents


def num_evaluations(settings: Sampler, trained: SchedulerMixin) -> int:
    """Return how often one image goes through the network (a guided step counts twice)."""
    scheduler = build_sampler(settings, trained)
    horizon = float(scheduler.config["num_train_timesteps"])
    return sum(1 + guided_at(settings, float(t) / horizon) for t in scheduler.timesteps)
