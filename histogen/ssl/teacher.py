"""The teacher: the student's moving average, and the centre of its outputs: a moving mean, or Sinkhorn's."""

from __future__ import annotations

import torch
from torch import nn

from histogen.training.processes import all_logsumexp, all_sum


@torch.no_grad()
def copy_weights(student: nn.Module, teacher: nn.Module) -> None:
    """Give the teacher the student's weights, and no gradients."""
    teacher.load_state_dict(student.state_dict())
    teacher.requires_grad_(False)


@torch.no_grad()
def update_teacher(student: nn.Module, teacher: nn.Module, momentum: float) -> None:
    """Set teacher = momentum · teacher + (1 - momentum) · student, for every parameter."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)


class Centre(nn.Module):
    """The moving mean [K] of the teacher's raw outputs, over all processes."""

    value: torch.Tensor

    def __init__(self, num_prototypes: int, momentum: float = 0.9) -> None:
        super().__init__()
        self.momentum = momentum
        self.register_buffer("value", torch.zeros(num_prototypes))

    @torch.no_grad()
    def after(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the centre once the raw outputs of one step, [..., K], are taken in.

        Processes may have different numbers of them (masked patches); with none at all the centre stays.
        """
        rows = raw.detach().float().flatten(0, -2)
        total = all_sum(torch.cat([rows.sum(0), rows.new_full((1,), len(rows))]))
        moved = self.value.mul(self.momentum).add_(total[:-1] / total[-1], alpha=1.0 - self.momentum)
        return torch.where(total[-1] > 0, moved, self.value)

    @torch.no_grad()
    def update(self, raw: torch.Tensor) -> None:
        """Take in the raw outputs of one step, [..., K]; call it once per step, after their use."""
        self.value.copy_(self.after(raw))


@torch.no_grad()
def sinkhorn_centre(raw: torch.Tensor, temperature: float, *, iterations: int = 3) -> torch.Tensor:
    """Return the centre [K] with which ``raw`` [..., K] becomes Sinkhorn-Knopp's assignment (Cuturi 2013).

    SwAV (Caron et al. 2020) and DINOv2 (Oquab et al. 2023) scale exp(raw / temperature) alternately: the prototypes
    to equal sums over all tiles of all processes, the tiles to one. As the last scaling is the tiles', the result is
    softmax((raw - centre) / temperature): one number per prototype, which serves the disentanglement's targets as
    well. Computed in logarithms: no sum underflows at a low temperature. Without any rows it is 0.
    """
    scaled = raw.detach().float().flatten(0, -2) / temperature
    of_tiles = scaled.new_zeros(len(scaled), 1)
    of_prototypes = scaled.new_zeros(scaled.shape[1])
    for _ in range(iterations):
        of_prototypes = all_logsumexp(torch.logsumexp(scaled - of_tiles, dim=0))
        of_tiles = torch.logsumexp(scaled - of_prototypes, dim=1, keepdim=True)
    return (temperature * (of_prototypes - of_prototypes.mean())).nan_to_num()
