"""Intervals and paired tests for a value per tile (an average precision), averaged over classes of equal weight."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.bootstrap import Difference, Interval, percentiles, permutation_p
from histogen.seeds import numpy_rng

Values = NDArray[np.float64]


def mean_interval(
    values: Values,
    labels: NDArray[np.integer],
    *,
    clusters: NDArray[np.integer] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int,
) -> Interval:
    """Return the class-balanced mean of ``values`` [M] with its bootstrap interval; see :mod:`.bootstrap`."""
    sums, counts = _by_cluster(values, labels, clusters)
    drawn = _balanced(_weights(len(sums), draws, seed), sums, counts)
    return Interval(float(_balanced(np.ones((1, len(sums))), sums, counts)[0]), *percentiles(drawn, level))


def mean_difference(
    a: Values,
    b: Values,
    labels: NDArray[np.integer],
    *,
    clusters: NDArray[np.integer] | None = None,
    draws: int = 1000,
    level: float = 0.95,
    seed: int,
) -> Difference:
    """Return mean(a) - mean(b): paired bootstrap interval, and a p from exchanging a and b on whole clusters."""
    sums, counts = _by_cluster(a - b, labels, clusters)
    observed = float(_balanced(np.ones((1, len(sums))), sums, counts)[0])
    drawn = _balanced(_weights(len(sums), draws, seed), sums, counts)
    signs = numpy_rng(seed, "permutation").choice([-1.0, 1.0], size=(draws, len(sums)))
    total = counts.sum(axis=0)
    null = ((signs @ sums)[:, total > 0] / total[total > 0]).mean(axis=1)
    return Difference(observed, *percentiles(drawn, level), permutation_p(observed, null))


def _by_cluster(
    values: Values, labels: NDArray[np.integer], clusters: NDArray[np.integer] | None
) -> tuple[Values, Values]:
    """Return sums and counts [G, K] of the values by cluster and class."""
    _, group = np.unique(np.arange(len(values)) if clusters is None else clusters, return_inverse=True)
    _, code = np.unique(labels, return_inverse=True)
    shape = (int(group.max()) + 1, int(code.max()) + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (group.reshape(-1), code.reshape(-1)), values)
    np.add.at(counts, (group.reshape(-1), code.reshape(-1)), 1.0)
    return sums, counts


def _weights(num: int, draws: int, seed: int) -> Values:
    return numpy_rng(seed, "bootstrap").multinomial(num, np.full(num, 1 / num), size=draws).astype(np.float64)


def _balanced(weights: Values, sums: Values, counts: Values) -> Values:
    """Return the mean over the classes that a draw holds, of the mean value of each class [R]."""
    totals, sizes = weights @ sums, weights @ counts
    means = np.divide(totals, sizes, out=np.zeros_like(totals), where=sizes > 0)
    return np.asarray(means.sum(axis=1) / (sizes > 0).sum(axis=1))
