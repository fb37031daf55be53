"""AdamW as both diffusion trainers use it: clipped, and skipping a step whose loss is not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from histogen.config import Precision
from histogen.diffusion.settings import OptimSettings
from histogen.training import processes


def build_optimizer(model: nn.Module, settings: OptimSettings) -> torch.optim.AdamW:
    """Return AdamW (betas 0.9 and 0.99, fused) over all parameters of ``model``."""
    return torch.optim.AdamW(
        model.parameters(), lr=settings.lr, betas=(0.9, 0.99), weight_decay=settings.weight_decay, fused=True
    )


def build_scaler(device: torch.device, precision: Precision) -> torch.amp.GradScaler:
    """Return what scales the loss in float16, whose small gradients would be lost; it does nothing otherwise."""
    return torch.amp.GradScaler(device.type, enabled=precision == "float16")


def apply_gradients(
    optimizer: torch.optim.Optimizer,
    model: nn.Module,
    loss: float,
    *,
    scaler: torch.amp.GradScaler,
    lr: float,
    clip: float,
) -> float:
    """Do one update with the gradients in ``model`` and return their norm; none when loss or norm is not finite.

    ``scaler`` has scaled them (one that is not enabled has not). With several processes the gradients are averaged
    first; ``loss`` must be the same on all.
    """
    processes.average_gradients(model.parameters())
    scaler.unscale_(optimizer)
    norm: Tensor = nn.utils.clip_grad_norm_(model.parameters(), clip)
    if bool(norm.isfinite()) and loss == loss and abs(loss) != float("inf"):
        for group in optimizer.param_groups:
            group["lr"] = lr
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return float(norm)
