"""The settings of everything in this room, each with the origin of its default; neither torch nor diffusers is needed.

They can be read and checked before anything heavy is imported.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from histogen.config import Precision, Settings

Pairing = Literal["matching", "arbitrary", "neighbours"]
Injection = Literal["token", "k_tokens", "time_add", "adaln"]
SamplerName = Literal["dpmpp_2m", "ddim", "unipc", "heun", "flow_euler"]


class AutoencoderSettings(Settings):
    """Shape of the autoencoder. The defaults are LDM's KL-f8 (83.7 M parameters)."""

    kind: Literal["kl", "vq"] = "kl"
    """``kl``: a Gaussian posterior; ``vq``: a codebook."""
    unshuffle: int = Field(default=1, ge=1)
    """Squares of so many pixels become channels before the network and pixels after it: the network then works on
    1 / unshuffle² of the places. 1 is LDM's; more is ours, for processors: the finest resolutions cost most there."""
    channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each resolution, finest first; n of them reduce by a further factor of 2 ** (n - 1)."""
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


class ReconstructionSettings(Settings):
    """Weights of the terms; images are in [-1, 1], every term is a mean over elements."""

    gradient_weight: float = Field(default=1.0, ge=0)
    """Of the L1 between horizontal and vertical differences at scales 1, 2 and 4."""
    kl_weight: float = Field(default=1e-4, ge=0)
    """Of the KL from the standard normal, in nats per latent element (kl only)."""
    commitment_weight: float = Field(default=1.0, ge=0)
    """Of the codebook and commitment losses of van den Oord et al. 2017 (vq only)."""


class DenoiserSettings(Settings):
    """Shape of the U-Net. The defaults are a small f8 shape (98 M parameters) of our own choosing."""

    channels: tuple[int, ...] = (128, 256, 512)
    """Channels of each resolution, finest first."""
    layers_per_block: int = Field(default=2, ge=1)
    """Residual blocks per resolution."""
    attention: tuple[bool, ...] | None = None
    """Attention at each resolution; by default everywhere except the finest (LDM's choice)."""
    head_width: int | None = Field(default=64, ge=1)
    """Channels of an attention head; null is one head per layer (LDM's), which flash kernels cannot run beyond 256."""
    norm_groups: int = Field(default=32, ge=1)
    """Groups of the group normalisation."""
    injection: Injection = "adaln"
    """How the embedding enters; see ``histogen.diffusion.conditioning.INJECTIONS``."""
    cross_attention_dim: int = Field(default=512, ge=1)
    """Width of the cross-attention tokens (``token`` and ``k_tokens`` only)."""

    @model_validator(mode="after")
    def _fits(self) -> DenoiserSettings:
        if self.attention is not None and len(self.attention) != len(self.channels):
            raise ValueError(f"attention names {len(self.attention)} resolutions, channels {len(self.channels)}")
        if any(width % self.norm_groups for width in self.channels):
            raise ValueError(f"channels {self.channels} are not multiples of norm_groups {self.norm_groups}")
        if self.head_width is not None and any(
            width % self.head_width for width, used in zip(self.channels, self.uses_attention, strict=True) if used
        ):
            raise ValueError(f"channels {self.channels} with attention are not multiples of {self.head_width}")
        return self

    @property
    def uses_attention(self) -> tuple[bool, ...]:
        """Attention at each resolution, finest first."""
        return self.attention or tuple(level > 0 or len(self.channels) == 1 for level in range(len(self.channels)))


class ObjectiveSettings(Settings):
    """The target of the denoiser and how its errors are weighted."""

    kind: Literal["eps", "v", "flow"] = "v"
    """``eps``: the noise (LDM); ``v``: Salimans & Ho 2022; ``flow``: noise minus data on a straight path (SiT)."""
    min_snr_gamma: float | None = Field(default=None, gt=0)
    """Clip of the signal-to-noise weight (Hang et al. 2023, arXiv 2303.09556; theirs is 5); null is none. Not for flow.
    None by default: of v it takes weight off the highest noise, where a tile's kind is decided, and tiles followed
    their sources less (benchmarks/RESULTS.md)."""
    beta_start: float = Field(default=0.0015, gt=0, lt=1)
    """First beta; LDM's value."""
    beta_end: float = Field(default=0.0195, gt=0, lt=1)
    """Last beta; LDM's value, on its square-root-linear schedule."""

    @model_validator(mode="after")
    def _ordered(self) -> ObjectiveSettings:
        if self.beta_start > self.beta_end:
            raise ValueError(f"beta_start {self.beta_start} exceeds beta_end {self.beta_end}")
        return self


class SamplerSettings(Settings):
    """How a tile is sampled."""

    name: SamplerName = "dpmpp_2m"
    """The solver; DPM-Solver++ 2M is the habit of the successor model PixCell."""
    steps: int = Field(default=20, ge=1, le=1000)
    """Steps of the solver; Heun evaluates the network twice in each but the last."""
    guidance: float = Field(default=2.0, ge=0)
    """Classifier-free guidance scale: null + guidance * (conditional - null); 1 is none and skips the null pass."""
    interval: tuple[float, float] = (0.05, 0.55)
    """Part of the time axis (0 is data, 1 is noise) on which guidance acts; elsewhere the null pass is skipped.
    Kynkäänniemi et al. 2024 (arXiv 2404.07724) found the middle best; this range is our translation of theirs."""

    @model_validator(mode="after")
    def _ordered(self) -> SamplerSettings:
        low, high = self.interval
        if not 0 <= low <= high <= 1:
            raise ValueError("interval must be two numbers with 0 <= low <= high <= 1")
        return self


class AlphaSettings(Settings):
    """The law of alpha, the weight of the source. The paper does not give it; uniform(0.3, 0.7) is ours."""

    law: Literal["uniform", "fixed"] = "uniform"
    low: float = Field(default=0.3, ge=0, le=1)
    """Smallest alpha of ``uniform``."""
    high: float = Field(default=0.7, ge=0, le=1)
    """Largest alpha of ``uniform``."""
    value: float = Field(default=0.5, ge=0, le=1)
    """The alpha of ``fixed``."""

    @model_validator(mode="after")
    def _ordered(self) -> AlphaSettings:
        if self.low > self.high:
            raise ValueError(f"alpha's low {self.low} exceeds its high {self.high}")
        return self


class OptimSettings(Settings):
    """Length and pace of a training."""

    steps: int = Field(default=100_000, ge=1)
    """Optimiser steps."""
    batch: int = Field(default=64, ge=1)
    """Tiles per step, over all processes."""
    accumulate: int = Field(default=1, ge=1)
    """Passes a step's tiles are split into, to save memory."""
    lr: float = Field(default=1e-4, gt=0)
    """Peak learning rate; the group's published value."""
    final_lr: float = Field(default=1e-5, ge=0)
    """Learning rate at the end of the cosine."""
    warmup: int = Field(default=1000, ge=0)
    """Steps of linear warm-up, at most a fifth of all; the group's published value."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the whole gradient."""
    precision: Precision = "auto"
    """Arithmetic of the networks; auto is bfloat16 where the hardware multiplies it, else float32. float16 (GPUs only)
    is trained with loss scaling."""
