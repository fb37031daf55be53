"""Intervals and paired tests for classification metrics, resampling whole slides where there are several.

Tiles of one slide resemble each other, so that resampling tiles pretends to more evidence than there is. With
``clusters`` the bootstrap draws slides (or groups) with replacement; without, it draws tiles.

Everything a metric needs of a test set is how often each combination (truth, prediction of a, prediction of b)
occurs. A draw is therefore a vector of counts over the combinations, and 1,000 draws are one matrix product.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histogen.errors import ConfigError
from histogen.evaluation.metrics import ClassCounts, Metric
from histogen.seeds import numpy_rng

MAX_COUNTS_AT_ONCE = 20_000_000
SIGNIFICANT = 0.05
"""p below which a difference is called better or worse."""
FEW_CLUSTERS = 10
"""Below this many clusters a percentile interval is too narrow; results say so."""

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A metric and its bootstrap percentile interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """Metric of a minus metric of b on the same tiles: bootstrap interval, two-sided permutation p."""

    delta: float
    low: float
    high: float
    p: float

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``no difference shown``; the interval and p must agree for the first two."""
        if self.p < SIGNIFICANT and self.low > 0:
            return "better"
        if self.p < SIGNIFICANT and self.high < 0:
            return "worse"
        return "no difference shown"


@dataclass(frozen=True)
class Resampling:
    """Of what, and how, intervals and tests are made: the same for every classifier of one set of tiles."""

    metric: Metric
    num_classes: int
    seed: int
    clusters: NDArray[np.integer] | None = None
    """Slide or group [N] of each tile; None resamples tiles."""
    draws: int = 1000
    level: float = 0.95


def bootstrap_interval(
    truth: NDArray[np.integer],
    predicted: NDArray[np.integer],
    how: Resampling,
) -> Interval:
    """Return the metric of ``predicted`` [N] with its percentile interval.

    A class that a draw misses does not count in that draw.
    """
    table = tabulate(truth, [predicted], how.clusters)

    def score(counts: Counts) -> NDArray[np.float64]:
        return np.asarray(how.metric(table.counts(counts, 0, how.num_classes)))

    values = np.concatenate([score(draw) for draw in table.resampled(how.draws, numpy_rng(how.seed, "bootstrap"))])
    return Interval(float(score(table.total)), *percentiles(values, how.level))


def paired_difference(
    truth: NDArray[np.integer],
    predicted_a: NDArray[np.integer],
    predicted_b: NDArray[np.integer],
    how: Resampling,
) -> Difference:
    """Return metric(a) - metric(b) on the same tiles.

    The interval is a paired percentile bootstrap. p is a two-sided permutation test: were both classifiers the
    same, exchanging their predictions on any tile (or whole slide, with ``clusters``) would change nothing. With n
    clusters p cannot fall below 2 / 2^n, as it should be.
    """
    table = tabulate(truth, [predicted_a, predicted_b], how.clusters)

    def delta(kept: Counts, swapped: Counts) -> NDArray[np.float64]:
        counts_a = _add(table.counts(kept, 0, how.num_classes), table.counts(swapped, 1, how.num_classes))
        counts_b = _add(table.counts(kept, 1, how.num_classes), table.counts(swapped, 0, how.num_classes))
        return np.asarray(how.metric(counts_a) - how.metric(counts_b))

    observed = float(delta(table.total, np.zeros_like(table.total)))
    draw_rng, swap_rng = numpy_rng(how.seed, "bootstrap"), numpy_rng(how.seed, "permutation")
    values = np.concatenate([delta(draw, np.zeros_like(draw)) for draw in table.resampled(how.draws, draw_rng)])
    null = np.concatenate([delta(table.total - swap, swap) for swap in table.swapped(how.draws, swap_rng)])
    return Difference(observed, *percentiles(values, how.level), permutation_p(observed, null))


def percentiles(values: NDArray[np.float64], level: float) -> tuple[float, float]:
    """Return the limits that hold the share ``level`` of drawn ``values`` [R], leaving out as much on each side."""
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def permutation_p(observed: float, null: NDArray[np.float64]) -> float:
    """Return the two-sided p of ``observed`` among the values [R] of permutations, itself counted as one."""
    # The tolerance keeps permutations that equal the observed difference from being lost to rounding.
    extreme = int((np.abs(null) >= abs(observed) - 1e-12).sum())
    return (1 + extreme) / (1 + len(null))


@dataclass(frozen=True)
class Table:
    """How often each combination occurs: ``cells`` [U, 1 + classifiers], ``total`` [U], ``by_cluster`` [G, U].

    A draw is counts [..., U] over the combinations.
    """

    cells: NDArray[np.int64]
    total: Counts
    by_cluster: Counts | None

    def counts(self, draw: Counts, which: int, num_classes: int) -> ClassCounts:
        """Return the counts per class [..., K] that classifier ``which`` has in a draw."""
        truth, predicted = self.cells[:, 0], self.cells[:, 1 + which]
        codes = np.arange(num_classes)
        is_truth = (truth[:, None] == codes).astype(np.float64)
        is_predicted = (predicted[:, None] == codes).astype(np.float64)
        return ClassCounts(draw @ (is_truth * is_predicted), draw @ is_truth, draw @ is_predicted)

    def resampled(self, draws: int, rng: np.random.Generator) -> Iterator[Counts]:
        """Yield counts [r, U] of bootstrap draws."""
        if self.by_cluster is None:
            size = int(self.total.sum())
            yield from self._chunks(draws, lambda r: rng.multinomial(size, self.total / size, size=r))
        else:
            by_cluster, num = self.by_cluster, len(self.by_cluster)
            share = np.full(num, 1 / num)
            yield from self._chunks(draws, lambda r: rng.multinomial(num, share, size=r) @ by_cluster)

    def swapped(self, draws: int, rng: np.random.Generator) -> Iterator[Counts]:
        """Yield counts [r, U] of the tiles whose two predictions are exchanged."""
        if self.by_cluster is None:
            whole = self.total.astype(np.int64)
            yield from self._chunks(draws, lambda r: rng.binomial(whole, 0.5, size=(r, len(whole))))
        else:
            by_cluster = self.by_cluster
            yield from self._chunks(draws, lambda r: rng.integers(0, 2, size=(r, len(by_cluster))) @ by_cluster)

    def _chunks(self, draws: int, make: Callable[[int], NDArray[np.generic]]) -> Iterator[Counts]:
        width = len(self.total) if self.by_cluster is None else sum(self.by_cluster.shape)
        step = max(1, MAX_COUNTS_AT_ONCE // width)
        for start in range(0, draws, step):
            yield make(min(step, draws - start)).astype(np.float64)


def tabulate(
    truth: NDArray[np.integer], predictions: Sequence[NDArray[np.integer]], clusters: NDArray[np.integer] | None
) -> Table:
    """Return the table of ``predictions`` (each [N]) of one or several classifiers on the same tiles.

    Raises:
        ConfigError: the numbers of tiles differ, or there are none.
    """
    if not len(truth) or any(column.shape != truth.shape for column in predictions):
        raise ConfigError(f"{len(truth)} true classes do not fit predictions of {[len(p) for p in predictions]} tiles")
    cells, cell_of = np.unique(np.stack([truth, *predictions], axis=1).astype(np.int64), axis=0, return_inverse=True)
    cell_of = cell_of.reshape(-1)
    total = np.bincount(cell_of, minlength=len(cells)).astype(np.float64)
    if clusters is None:
        return Table(cells, total, None)
    codes, cluster_of = np.unique(clusters, return_inverse=True)
    by_cluster = np.zeros((len(codes), len(cells)))
    np.add.at(by_cluster, (cluster_of.reshape(-1), cell_of), 1.0)
    return Table(cells, total, by_cluster)


def _add(a: ClassCounts, b: ClassCounts) -> ClassCounts:
    return ClassCounts(a.hits + b.hits, a.truths + b.truths, a.predictions + b.predictions)
