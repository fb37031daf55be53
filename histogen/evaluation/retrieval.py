"""Retrieval: do the training tiles nearest to a test tile share its class? Mean average precision by cosine.

Every training tile is ranked for every test tile; the average precision of a test tile is the mean, over the training
tiles of its class, of the precision at their ranks. The mean over test tiles weighs every class equally.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.evaluation.vectors import as_labels, as_matrix, unit_rows

QUERIES_PER_CHUNK = 256


def average_precisions(
    gallery: NDArray[np.floating],
    gallery_labels: NDArray[np.integer],
    queries: NDArray[np.floating],
    query_labels: NDArray[np.integer],
    *,
    num_classes: int,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Return the average precision [M] of each query [M, D] in ``gallery`` [N, D]; 0 when its class is not there."""
    reference = unit_rows(as_matrix(gallery, what="gallery", device=device))
    asked = unit_rows(as_matrix(queries, what="query", device=device))
    classes = as_labels(gallery_labels, len(reference), what="gallery", num_classes=num_classes).to(device)
    wanted = as_labels(query_labels, len(asked), what="query", num_classes=num_classes).to(device)
    ranks = torch.arange(1, len(reference) + 1, device=device, dtype=torch.float64)
    values = []
    for start in range(0, len(asked), QUERIES_PER_CHUNK):
        part = slice(start, start + QUERIES_PER_CHUNK)
        order = (asked[part] @ reference.T).argsort(dim=1, descending=True, stable=True)
        relevant = (classes[order] == wanted[part, None]).double()
        precision = relevant.cumsum(dim=1) / ranks
        values.append((precision * relevant).sum(dim=1) / relevant.sum(dim=1).clamp(min=1))
    return np.asarray(torch.cat(values).cpu().numpy())
