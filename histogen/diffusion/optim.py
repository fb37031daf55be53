"""AdamW as both diffusion trainers use it: clipped, and skipping a step whose loss is not finite."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from histogen.config import Settings
from histogen.training import processes


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
    bf16: bool = True
    """Compute in bfloat16 where torch's autocast finds it safe."""


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Return AdamW (betas 0.9 and 0.99, fused) over all parameters of ``model``."""
    return torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )


def apply_gradients(
    optimizer: torch.optim.Optimizer, model: nn.Module, loss: float, *, lr: float, clip: float
) -> float:
    """Do one update with the gradients in ``model`` and return their norm; none when loss or norm is not finite.

    With several processes the gradients are averaged first; ``loss`` must be the same on all.
    """
    processes.average_gradients(model.parameters())
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if bool(norm.isfinite()) and loss == loss and abs(loss) != float("inf"):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
