"""Terms that spread features over the sphere, against collapse; beyond Gen-SIS and off by default."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

MIN_DISTANCE = 1e-4
"""Nearer neighbours are duplicates: they count with this distance, and have no direction to be pushed in."""


def koleo(features: torch.Tensor) -> torch.Tensor:
    """Return KoLeo (Sablayrolles et al. 2019, as in DINOv2): minus the mean log distance to the nearest neighbour.

    ``features`` [N, D] are brought to unit length. Finite for duplicates; 0 for a single one.
    """
    unit = functional.normalize(features.float(), dim=-1)
    if len(unit) < 2:
        return unit.sum() * 0.0
    with torch.no_grad():
        nearest = (unit @ unit.T).fill_diagonal_(-2.0).argmax(1)
    distance = functional.pairwise_distance(unit, unit[nearest], eps=1e-8)
    return -distance.clamp(min=MIN_DISTANCE).log().mean()


def uniformity(features: torch.Tensor, *, sharpness: float = 2.0) -> torch.Tensor:
    """Return the log of the mean Gaussian potential of all pairs (Wang & Isola 2020, t = 2): a kernel density.

    Midnight, OpenMidnight and nanopath use such a term in the place of KoLeo. ``features`` [N, D] are brought to unit
    length; 0 is all alike, the least value is about -2 t. 0 for a single one.
    """
    unit = functional.normalize(features.float(), dim=-1)
    number = len(unit)
    if number < 2:
        return unit.sum() * 0.0
    squared = (2.0 - 2.0 * (unit @ unit.T)).clamp(min=0.0)
    pairs = torch.triu_indices(number, number, offset=1, device=unit.device)
    potentials = -sharpness * squared[pairs[0], pairs[1]]
    return torch.logsumexp(potentials, dim=0) - math.log(pairs.shape[1])
