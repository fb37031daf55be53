"""Stochastic depth whose masks belong to the tile, not to the process that computes it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from timm.layers import DropPath
from torch import nn

from histogen.seeds import derive_seed, uniforms
from histogen.training.transfer import on_device


class SampledDropPath(DropPath):
    """timm's DropPath with the mask of each sample given from outside; without one it draws as timm does."""

    keep: torch.Tensor | None = None
    """float32 [N]: 0 for a sample whose path is dropped, 1 / (1 - drop_prob) for one that is kept."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` [N, …], whole samples of it dropped while training."""
        if self.keep is None or self.drop_prob == 0.0 or not self.training:
            return torch.as_tensor(super().forward(x))
        return x * self.keep.to(x.device, x.dtype).view(-1, *[1] * (x.ndim - 1))


def sample_drop_paths(backbone: nn.Module) -> list[SampledDropPath]:
    """Put a :class:`SampledDropPath` in the place of every DropPath of ``backbone``, and return them in order."""
    found: list[SampledDropPath] = []
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, DropPath):
                setattr(module, name, SampledDropPath(child.drop_prob, child.scale_by_keep))
                found.append(getattr(module, name))
    return found


def give_masks(
    paths: Sequence[SampledDropPath],
    views: Sequence[tuple[int, int]],
    positions: np.ndarray,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Give every path the masks of ``views`` (crop, view of it) of the tiles at ``positions`` [B] of the global batch.

    A mask depends on (seed, view, position, path) alone: neither on the process nor on the number of passes.
    """
    drawn = [uniforms(derive_seed(seed, "drop path", *view), positions, len(paths)) for view in views]
    numbers = np.concatenate(drawn)  # [N, paths]
    kept = [(column >= path.drop_prob) / (1.0 - path.drop_prob) for path, column in zip(paths, numbers.T, strict=True)]
    for path, keep in zip(paths, on_device(np.array(kept, dtype=np.float32), device), strict=True):
        path.keep = keep
