"""Whether a synthetic tile is of the kind it was asked to be: its embedding against the one that conditioned it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.errors import ConfigError
from histogen.evaluation.vectors import as_matrix, unit_rows

ROWS_PER_CHUNK = 1024


def embedding_consistency(
    synthetic: NDArray[np.floating], conditions: NDArray[np.floating], *, device: str = "cpu"
) -> NDArray[np.float32]:
    """Return the cosine [M] of each synthetic tile's embedding [M, D] with its condition [M, D]."""
    if synthetic.shape != conditions.shape:
        raise ConfigError(f"embeddings {synthetic.shape} do not fit their conditions {conditions.shape}")
    a = unit_rows(as_matrix(synthetic, what="synthetic", device=device))
    b = unit_rows(as_matrix(conditions, what="condition", device=device))
    return np.asarray((a * b).sum(dim=1).cpu().numpy())


@dataclass(frozen=True)
class Ranks:
    """How often the true source is the nearest of all, or among the five nearest; its median rank (1 is best)."""

    top1: float
    top5: float
    median: float
    num_candidates: int


def source_ranks(
    synthetic: NDArray[np.floating],
    sources: NDArray[np.integer],
    candidates: NDArray[np.floating],
    *,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """Return the rank [M] of each tile's true source among ``candidates`` [N, D] by cosine; 1 is the nearest.

    ``sources`` [M] are rows of ``candidates``. Candidates that are exactly as near as the source do not push it back.
    """
    if sources.shape != (len(synthetic),) or sources.min() < 0 or sources.max() >= len(candidates):
        raise ConfigError(f"sources {sources.shape} are not rows of {len(candidates)} candidates")
    queries = unit_rows(as_matrix(synthetic, what="synthetic", device=device))
    gallery = unit_rows(as_matrix(candidates, what="candidate", device=device))
    rows = torch.as_tensor(sources.astype(np.int64), device=device)
    ranks = []
    for start in range(0, len(queries), ROWS_PER_CHUNK):
        part = slice(start, start + ROWS_PER_CHUNK)
        similarity = queries[part] @ gallery.T
        own = similarity.gather(1, rows[part, None])
        ranks.append(1 + (similarity > own).sum(dim=1))
    return np.asarray(torch.cat(ranks).cpu().numpy(), dtype=np.int64)


def summarise_ranks(ranks: NDArray[np.int64], num_candidates: int) -> Ranks:
    """Return the summary of ranks [M]."""
    return Ranks(float((ranks == 1).mean()), float((ranks <= 5).mean()), float(np.median(ranks)), num_candidates)
