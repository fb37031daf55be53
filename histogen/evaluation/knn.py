"""k-nearest-neighbour classification of frozen embeddings, as DINO evaluates (Caron et al. 2021, arXiv 2104.14294).

Embeddings are L2-normalised; each of the k training embeddings nearest by cosine votes for its class with
weight exp(similarity / temperature). k = 20 and temperature 0.07 are DINO's own values.

Protocol ``uni`` is that of UNI's evaluation code (mahmoodlab/UNI, eval_knn): embeddings centred by the training mean
before they are normalised, and equal votes.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histogen.errors import ConfigError
from histogen.evaluation.vectors import as_labels, as_matrix, unit_rows

QUERIES_PER_CHUNK = 512

Protocol = Literal["dino", "uni"]


def knn_votes(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    queries: NDArray[np.floating],
    *,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    protocol: Protocol = "dino",
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Return the votes [M, num_classes] float32 for each query, each row divided by its sum; the class is the largest.

    Args:
        train: [N, D]; train_labels: [N] codes in [0, num_classes); queries: [M, D].
        protocol: ``dino``, or ``uni``, which has no temperature.

    Raises:
        ConfigError: k exceeds N, or the arrays do not fit together.
    """
    reference = as_matrix(train, what="training", device=device)
    labels = as_labels(train_labels, len(reference), what="training", num_classes=num_classes).to(device)
    if not 1 <= k <= len(reference):
        raise ConfigError(f"k = {k} neighbours cannot be taken from {len(reference)} training tiles; set a smaller k")
    asked = as_matrix(queries, what="query", device=device)
    if protocol == "uni":
        centre = reference.mean(dim=0)
        reference, asked, temperature = reference - centre, asked - centre, math.inf
    reference, asked = unit_rows(reference), unit_rows(asked)
    votes = [
        _votes(chunk @ reference.T, labels, num_classes, k, temperature) for chunk in asked.split(QUERIES_PER_CHUNK)
    ]
    return np.asarray(torch.cat(votes).cpu().numpy(), dtype=np.float32)


def nearest_rows(
    reference: NDArray[np.floating], queries: NDArray[np.floating], *, k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the cosines [M, k] and rows [M, k] of the k embeddings of ``reference`` [N, D] nearest to each query.

    Nearest first, of equally near ones the earlier row; fewer than k where there are fewer.

    Raises:
        ConfigError: an embedding is not finite, or there is none.
    """
    gallery = unit_rows(as_matrix(reference, what="reference"))
    asked = unit_rows(as_matrix(queries, what="query"))
    similarity = (asked @ gallery.T).numpy()
    least = np.partition(similarity, -min(k, len(gallery)), axis=1)[:, -min(k, len(gallery)), None]
    order = np.stack([_first(row, row >= low, k) for row, low in zip(similarity, least, strict=True)])
    return np.take_along_axis(similarity, order, axis=1), order


def _first(similarity: NDArray[np.float32], among: NDArray[np.bool_], k: int) -> NDArray[np.int64]:
    rows = np.flatnonzero(among)
    return rows[np.argsort(-similarity[rows], kind="stable")[:k]]


def _votes(similarity: Tensor, labels: Tensor, num_classes: int, k: int, temperature: float) -> Tensor:
    nearest, rows = similarity.topk(k, dim=1)
    # Subtracting the row's largest leaves the ranking as it is and keeps exp in range at low temperatures.
    weights = torch.exp((nearest - nearest[:, :1]) / temperature)
    votes = weights.new_zeros(len(similarity), num_classes)
    votes.scatter_add_(1, labels[rows], weights)
    return votes / votes.sum(dim=1, keepdim=True)
