"""DINO's projection head (Caron et al. 2021): an MLP, a unit-length bottleneck, and K unit-length prototypes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class Prototypes(nn.Module):
    """Cosines between unit vectors and K prototypes; with ``norm_last_layer`` false each has a learned length."""

    def __init__(self, dim: int, num_prototypes: int, *, norm_last_layer: bool) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(nn.Linear(dim, num_prototypes, bias=False).weight.detach())
        self.weight_g = nn.Parameter(torch.ones(num_prototypes, 1), requires_grad=not norm_last_layer)
        self.norm_last_layer = norm_last_layer  # asked of the teacher too, none of whose parameters has a gradient

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, K] of unit vectors [B, dim]."""
        weight = functional.normalize(self.weight_v, dim=1)
        if not self.norm_last_layer:
            weight = weight * self.weight_g
        return functional.linear(x, weight)


class DinoHead(nn.Module):
    """Linear–GELU–…–Linear to ``bottleneck``, L2-normalised, then ``last_layer`` to K prototypes.

    The MLP starts from a truncated normal (0.02), biases from 0; the prototypes keep PyTorch's start, as DINO's do.
    """

    def __init__(
        self,
        dim: int,
        num_prototypes: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        layers: int = 3,
        norm_last_layer: bool = True,
    ) -> None:
        super().__init__()
        sizes = [dim, *[hidden] * (layers - 1), bottleneck]
        modules: list[nn.Module] = []
        for number, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            linear = nn.Linear(before, after)
            nn.init.trunc_normal_(linear.weight, std=0.02)
            nn.init.zeros_(linear.bias)
            modules += [linear] if number == layers - 1 else [linear, nn.GELU()]
        self.mlp = nn.Sequential(*modules)
        self.last_layer = Prototypes(bottleneck, num_prototypes, norm_last_layer=norm_last_layer)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return raw outputs [B, K] of features [B, D]."""
        return self.last_layer(functional.normalize(self.mlp(x), dim=-1))
