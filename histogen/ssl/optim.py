"""DINO's optimisation: AdamW with decay on matrices only, clipping per tensor, a frozen last layer at first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

LAST_LAYER = "last_layer"


def build_adamw(student: nn.Module) -> torch.optim.AdamW:
    """Return AdamW over the student: group 0 is decayed (2-D and up, not biases), group 1 is not.

    As in DINO, the position embedding and the CLS token are decayed: they have three axes.
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in student.named_parameters():
        if parameter.requires_grad:
            (free if name.endswith(".bias") or parameter.ndim <= 1 else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": free, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


def set_rates(optimizer: torch.optim.Optimizer, *, lr: float, weight_decay: float) -> None:
    """Set this step's learning rate, and the weight decay of the decayed group."""
    for number, group in enumerate(optimizer.param_groups):
        group["lr"] = lr
        if number == 0:
            group["weight_decay"] = weight_decay


@torch.no_grad()
def clip_per_tensor(parameters: Iterable[nn.Parameter], limit: float) -> None:
    """Scale each gradient whose own norm exceeds ``limit`` down to it; not the norm of all together."""
    grads = [p.grad for p in parameters if p.grad is not None]
    if not grads:
        return
    norms = torch.stack(torch._foreach_norm(grads))
    torch._foreach_mul_(grads, (limit / (norms + 1e-6)).clamp(max=1.0).unbind())


def freeze_last_layer(student: nn.Module) -> None:
    """Drop the gradients of the student's last layer: the optimizer then leaves it alone, decay included."""
    for name, parameter in student.named_parameters():
        if LAST_LAYER in name:
            parameter.grad = None
