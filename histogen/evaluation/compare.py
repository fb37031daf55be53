"""Sets of tiles against held-out real ones, all of one size: every figure of :mod:`.fidelity` for each."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.evaluation.consistency import embedding_consistency, source_ranks, summarise_ranks
from histogen.evaluation.fidelity import frechet_distance, kernel_distance, manifold_metrics
from histogen.evaluation.memorisation import CopyReport, CopyScores
from histogen.evaluation.settings import FidelitySettings
from histogen.evaluation.vectors import as_matrix, unit_rows
from histogen.seeds import numpy_rng

Embeddings = NDArray[np.floating]
HISTOGRAM_BINS = 40


def drawn_rows(count: int, size: int, *, seed: int, name: str) -> NDArray[np.int64]:
    """Return ``size`` of ``count`` rows at random, in order; all of them when there are no more."""
    if count <= size:
        return np.arange(count)
    return np.sort(numpy_rng(seed, "fidelity", name).choice(count, size, replace=False))


def distribution_figures(
    held_out: Embeddings, others: Embeddings, settings: FidelitySettings, *, seed: int, device: str
) -> dict[str, float]:
    """Return the distances and shares of ``others`` [M, D] against ``held_out`` [N, D]."""
    kernel = kernel_distance(
        held_out,
        others,
        subsets=settings.kernel_subsets,
        subset_size=min(settings.kernel_subset_size, max(2, min(len(held_out), len(others)) // 2)),
        seed=seed,
        device=device,
    )
    manifold = manifold_metrics(held_out, others, k=settings.k, device=device)
    return {
        "frechet": frechet_distance(held_out, others),
        "kernel": kernel.value,
        "kernel_std": kernel.std,
        "precision": manifold.precision,
        "recall": manifold.recall,
        "density": manifold.density,
        "coverage": manifold.coverage,
    }


def source_figures(
    synthetic: Embeddings, conditions: Embeddings, sources: NDArray[np.integer], real: Embeddings, *, device: str
) -> dict[str, Any]:
    """Return consistency and ranks of ``synthetic`` [M, D], made from ``conditions`` [M, D].

    ``sources`` [M] are rows of ``real`` [N, D], among which the true source is looked for.
    """
    cosines = embedding_consistency(synthetic, conditions, device=device)
    quantiles = np.quantile(cosines, [0.05, 0.5, 0.95])
    ranks = summarise_ranks(source_ranks(synthetic, sources, real, device=device), len(real))
    return {
        "consistency": {
            "mean": float(cosines.mean()),
            **dict(zip(("q05", "median", "q95"), quantiles.tolist(), strict=True)),
        },
        "ranks": {"top1": ranks.top1, "top5": ranks.top5, "median": ranks.median, "among": ranks.num_candidates},
    }


def copy_figures(report: CopyReport, synthetic: CopyScores, held_out: CopyScores) -> dict[str, Any]:
    """Return a copy report as JSON values, with histograms of both sets of ratios over one set of edges."""
    # a plain tile may be a thousand times as far: the last bin holds all beyond three times the usual ratio
    top = 3.0 * max(report.median_held_out, 1e-3)
    edges = np.linspace(0.0, top, HISTOGRAM_BINS + 1)
    shares = [
        np.histogram(np.clip(s.ratio.astype(np.float64), 0, top), edges)[0] / len(s.ratio)
        for s in (synthetic, held_out)
    ]
    return {
        "held_out": len(held_out.ratio),
        "quantile": report.quantile,
        "threshold": report.threshold,
        "flagged": len(report.flagged),
        "flagged_share": report.flagged_share,
        "closer": report.closer,
        "median_synthetic": report.median_synthetic,
        "median_held_out": report.median_held_out,
        "histogram": {"edges": edges.tolist(), "synthetic": shares[0].tolist(), "held_out": shares[1].tolist()},
    }


def nearest_other(embeddings: Embeddings, rows: NDArray[np.integer], *, device: str) -> NDArray[np.int64]:
    """Return for each of ``rows`` the row of ``embeddings`` [N, D] that is nearest by cosine and is not itself."""
    unit = unit_rows(as_matrix(embeddings, what="real", device=device))
    chosen = torch.as_tensor(rows.astype(np.int64), device=device)
    nearest = []
    for part in chosen.split(1024):
        similarity = unit[part] @ unit.T
        similarity[torch.arange(len(part), device=device), part] = -torch.inf
        nearest.append(similarity.argmax(dim=1).cpu())
    return torch.cat(nearest).numpy()
