"""The teacher: the student's moving average, and the centre of its outputs."""

from __future__ import annotations

import torch
from torch import nn

from histogen.training.processes import all_mean


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
    def update(self, raw: torch.Tensor) -> None:
        """Take in the raw outputs of one step, [..., K]; call it once per step, after their use."""
        mean = all_mean(raw.detach().float().flatten(0, -2).mean(0))
        self.value.mul_(self.momentum).add_(mean, alpha=1.0 - self.momentum)
