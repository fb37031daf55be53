"""DINO's loss (Caron et al. 2021) and Gen-SIS' disentanglement loss (arXiv 2412.01672, Algorithm 1).

Both are cross-entropies between a fixed target and the student, linear in the target: the targets that a student view
may see are summed first, then there is one product per view instead of one per pair.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch.nn import functional

MixSpace = Literal["logits", "probs"]


def teacher_probs(raw: torch.Tensor, centre: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return softmax((raw - centre) / temperature) in float32, detached: raw [..., K], centre [K]."""
    return functional.softmax((raw.detach().float() - centre) / temperature, dim=-1)


def cross_entropy(target: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return -sum_k target · log softmax(student / temperature), averaged over all but the last axis."""
    return -(target * functional.log_softmax(student.float() / temperature, dim=-1)).sum(-1).mean()


def dino_loss(student: torch.Tensor, targets: torch.Tensor, *, student_temp: float) -> torch.Tensor:
    """Return DINO's loss: the mean over all pairs of a teacher view and another student view.

    Args:
        student: raw outputs [V, B, K]; the first G views are the teacher's global views, in its order.
        targets: teacher probabilities [G, B, K].
        student_temp: temperature of the student.
    """
    num_global, num_views = len(targets), len(student)
    log_probs = functional.log_softmax(student.float() / student_temp, dim=-1)
    total = targets.sum(0)
    other = total - targets  # what the student's own global views see
    pairs = num_global * (num_views - 1)
    loss = -(other * log_probs[:num_global]).sum()
    if num_views > num_global:
        loss = loss - (total * log_probs[num_global:].sum(0)).sum()
    return loss / (pairs * student.shape[1])


def mixed_targets(
    source: torch.Tensor,
    partner: torch.Tensor,
    alpha: torch.Tensor,
    centre: torch.Tensor,
    *,
    temperature: float,
    mix_space: MixSpace = "logits",
) -> torch.Tensor:
    """Return the targets of interpolated tiles, float32 [..., B, K], detached.

    Args:
        source, partner: raw teacher outputs [..., B, K] of the two tiles each was made from.
        alpha: weight of the source, [B].
        centre: [K].
        temperature: of the teacher here.
        mix_space: ``logits`` mixes raw outputs, then centres and sharpens, as published; ``probs`` mixes the two
            sharpened distributions (ours).
    """
    weight = alpha.float().unsqueeze(-1)
    if mix_space == "logits":
        raw = weight * source.detach().float() + (1.0 - weight) * partner.detach().float()
        return teacher_probs(raw, centre, temperature)
    first, second = (teacher_probs(raw, centre, temperature) for raw in (source, partner))
    return weight * first + (1.0 - weight) * second


def disentanglement_loss(
    student: torch.Tensor, targets: torch.Tensor, *, student_temp: float, weight: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean cross-entropy between every target and every student view of the interpolated tiles.

    Args:
        student: raw outputs [V, B, K] of views of the interpolated tiles.
        targets: [G, B, K], from :func:`mixed_targets`.
        student_temp: temperature of the student.
        weight: float [B], of each tile in the mean: 0 where it has no interpolated tile, 1 / the share of those that
            have one in the *global* batch elsewhere, so that the mean over passes and processes is that over these
            tiles. 1 when not given.
    """
    target = targets.mean(0)
    per_tile = -(target * functional.log_softmax(student.float() / student_temp, dim=-1)).sum(-1).mean(0)
    return per_tile.mean() if weight is None else (per_tile * weight).mean()


def masked_patch_loss(
    student: torch.Tensor, targets: torch.Tensor, masks: torch.Tensor, *, student_temp: float
) -> torch.Tensor:
    """Return iBOT's loss of hidden patches (Zhou et al. 2022), weighted as DINOv2 does: the mean over the hidden
    patches of a view, then over all views, those without any included.

    Args:
        student: raw outputs [M, K] at the M hidden patches, of the student that did not see them.
        targets: teacher probabilities [M, K] at the same patches, which the teacher sees.
        masks: bool [N, h, w], M true in all, in the order of the rows.
        student_temp: temperature of the student.
    """
    per_patch = -(targets * functional.log_softmax(student.float() / student_temp, dim=-1)).sum(-1)
    weight = 1.0 / masks.sum((1, 2), keepdim=True).clamp(min=1)
    return (per_patch * weight.expand_as(masks)[masks]).sum() / len(masks)


def entropy(probs: torch.Tensor) -> torch.Tensor:
    """Return the mean entropy in nats of distributions [..., K]."""
    return -torch.xlogy(probs, probs).sum(-1).mean()
