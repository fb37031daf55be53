"""Whether a generator copies: how near synthetic tiles come to training tiles, against how near held-out real ones do.

An encoder's embedding cannot tell: a generative tile is *meant* to share its source's embedding. A copy shares its
layout. So tiles are described by their coarse pixels (:func:`layout_descriptor`), compared under the eight flips
and quarter turns, and the distance to the nearest training tile is divided by that tile's own distance to its
nearest neighbour in training: plain regions (fat, background) are near to everything, and must not count as copies.

A tile without contrast has no layout that could be copied; :func:`has_layout` says which must be left out.

The same ratio of held-out real tiles says what is usual. This is our reconstruction of the "calibrated
nearest-neighbour distance" idea; a ratio near 1 is a tile as new as a real one, near 0 a copy.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from histogen.errors import ConfigError
from histogen.evaluation.fidelity import squared_distances

SIDE = 16
ROWS_PER_CHUNK = 512
MIN_CONTRAST = 4.0
"""Grey levels (root mean square of the coarse pixels); a tile below it is plain, and what remains of it is noise."""

DUPLICATE = 0.05
"""Ratio below which two real tiles are the same picture; the closest different ones of tiles_crc5 lie at 0.83."""

Descriptors = NDArray[np.float32]


@dataclass(frozen=True)
class CopyScores:
    """For each tile: ``ratio`` [M] float32 to, and index [M] of, its nearest training tile."""

    ratio: NDArray[np.float32]
    nearest: NDArray[np.int64]


@dataclass(frozen=True)
class CopyReport:
    """Synthetic tiles against held-out real tiles, by the ratio of :class:`CopyScores`.

    threshold: the ``quantile`` of the held-out ratios; flagged: synthetic tiles below it [n], nearest first;
    flagged_share: their share, to be read against ``quantile``, which real tiles have by definition;
    closer: the probability that a synthetic tile is nearer to training than a held-out real tile is (0.5: no nearer).
    """

    threshold: float
    quantile: float
    flagged: NDArray[np.int64]
    flagged_share: float
    closer: float
    median_synthetic: float
    median_held_out: float


def layout_descriptor(tiles: NDArray[np.uint8]) -> Descriptors:
    """Return the coarse layout float32 [B, 3 * 16 * 16] of tiles uint8 [B, H, W, 3]: averaged, centred, unit norm.

    A plain tile (below :data:`MIN_CONTRAST`) is all zeros.
    """
    size = (SIDE, SIDE)
    small = np.stack([cv2.resize(tile, size, interpolation=cv2.INTER_AREA) for tile in tiles]).astype(np.float32)
    flat = small.reshape(len(tiles), SIDE * SIDE, 3)
    # A change of stain or brightness does not make a new layout.
    centred = (flat - flat.mean(axis=1, keepdims=True)).reshape(len(tiles), -1)
    norm = np.linalg.norm(centred, axis=1, keepdims=True)
    plain = norm < MIN_CONTRAST * np.sqrt(centred.shape[1])
    return np.where(plain, 0.0, centred / np.maximum(norm, 1e-6)).astype(np.float32)


def has_layout(descriptors: Descriptors) -> NDArray[np.bool_]:
    """Return which tiles [N] have enough contrast to be judged; the descriptors of others are zero."""
    return np.asarray(descriptors.any(axis=1))


def describe_all(batches: Iterable[NDArray[np.uint8]]) -> Descriptors:
    """Return the descriptors of all batches of tiles, one below the other."""
    return np.concatenate([layout_descriptor(batch) for batch in batches])


def symmetries(descriptors: Descriptors) -> list[Descriptors]:
    """Return ``descriptors`` as they would be of the tiles under each of the eight flips and quarter turns."""
    square = descriptors.reshape(-1, SIDE, SIDE, 3)
    turned = [np.rot90(square, turns, axes=(1, 2)) for turns in range(4)]
    both = turned + [view[:, :, ::-1] for view in turned]
    return [np.ascontiguousarray(view).reshape(len(descriptors), -1) for view in both]


def nearest_tiles(
    queries: Descriptors,
    training: Descriptors,
    *,
    exclude: NDArray[np.integer] | None = None,
    device: str = "cpu",
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return distance [M] to, and index [M] of, the training tile nearest to each query under any symmetry.

    ``exclude`` [M] names one training tile per query that does not count (itself).
    """
    if not len(queries) or not len(training):
        raise ConfigError(f"{len(queries)} tiles cannot be compared with {len(training)} training tiles")
    reference = torch.as_tensor(training, device=device)
    distances, indices = [], []
    for start in range(0, len(queries), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        views = [torch.as_tensor(view, device=device) for view in symmetries(queries[rows])]
        skipped = None if exclude is None else torch.as_tensor(exclude[rows].astype(np.int64), device=device)
        distance, index = _nearest_over_views(views, reference, skipped)
        distances.append(distance.sqrt().cpu())
        indices.append(index.cpu())
    return torch.cat(distances).numpy(), torch.cat(indices).numpy()


def copy_scores(
    queries: Descriptors,
    training: Descriptors,
    *,
    device: str = "cpu",
) -> CopyScores:
    """Return each query's distance to its nearest training tile, over that tile's own to its nearest other one.

    Both come from tiles with a layout only (:func:`has_layout`).
    """
    distance, nearest = nearest_tiles(queries, training, device=device)
    found, position = np.unique(nearest, return_inverse=True)
    usual = nearest_tiles(training[found], training, exclude=found, device=device)[0]
    # Training sets hold exact duplicates, whose distance is zero.
    floor = max(1e-3 * float(np.median(usual)), 1e-6)
    return CopyScores((distance / np.maximum(usual[position], floor)).astype(np.float32), nearest)


def without_duplicates(held_out: CopyScores) -> tuple[CopyScores, int]:
    """Return the scores of tiles that are not training tiles over again, and how many were.

    A held-out set with duplicates would set a threshold near zero, below which no copy is ever found.
    """
    own = held_out.ratio >= DUPLICATE
    return CopyScores(held_out.ratio[own], held_out.nearest[own]), int((~own).sum())


def report_copies(synthetic: CopyScores, held_out: CopyScores, *, quantile: float = 0.01) -> CopyReport:
    """Return what the scores of synthetic tiles say beside those of held-out real tiles."""
    threshold = float(np.quantile(held_out.ratio, quantile))
    order = np.argsort(synthetic.ratio, kind="stable")
    flagged = order[synthetic.ratio[order] < threshold]
    return CopyReport(
        threshold=threshold,
        quantile=quantile,
        flagged=flagged,
        flagged_share=len(flagged) / len(order),
        closer=area_under_curve(-synthetic.ratio, -held_out.ratio),
        median_synthetic=float(np.median(synthetic.ratio)),
        median_held_out=float(np.median(held_out.ratio)),
    )


def area_under_curve(positives: NDArray[np.floating], negatives: NDArray[np.floating]) -> float:
    """Return the probability that a positive scores higher than a negative (ties count half)."""
    ranks = rankdata(np.concatenate([positives, negatives]))
    n, m = len(positives), len(negatives)
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def _nearest_over_views(views: list[Tensor], reference: Tensor, skipped: Tensor | None) -> tuple[Tensor, Tensor]:
    best = torch.full((len(views[0]),), torch.inf, device=reference.device)
    index = torch.zeros(len(best), dtype=torch.int64, device=reference.device)
    rows = torch.arange(len(best), device=reference.device)
    for view in views:
        distance = squared_distances(view, reference)
        if skipped is not None:
            distance[rows, skipped] = torch.inf
        value, column = distance.min(dim=1)
        index = torch.where(value < best, column, index)
        best = torch.minimum(best, value)
    return best, index
